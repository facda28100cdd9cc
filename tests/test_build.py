"""How the native loops are built: with what the compiler and its assembler know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from copies import CHECKOUT, ROOT

from xrnn.backends.cpu import extension

#: a module that compiles only with OLD_ASSEMBLER
SOURCE = """
#include <Python.h>
#ifndef OLD_ASSEMBLER
#error "unknown instructions"
#endif
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "old_native", NULL, 0, NULL};
PyMODINIT_FUNC PyInit_old_native(void) { return PyModule_Create(&module); }
"""

PROGRAM = """
import sys
from setuptools import Extension, setup
sys.path.insert(0, sys.argv[1])
from build import BuildExt
words = ["build_ext", "--inplace"]
module = Extension("old_native", ["old.c"])
setup(name="old", ext_modules=[module], cmdclass={"build_ext": BuildExt}, script_args=words)
"""


@CHECKOUT
def test_an_assembler_without_the_newest_instructions(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="older ones do not read the project")
    if extension.ABSENT:
        pytest.skip(f"there may be no compiler here: {extension.ABSENT}")
    (tmp_path / "old.c").write_text(SOURCE, encoding="utf-8")
    folder = ROOT / "backends" / "cpu" / "native"
    words = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "once more, without" in done.stdout + done.stderr
    assert [p for p in tmp_path.iterdir() if p.suffix in {".so", ".pyd"}], done.stderr
