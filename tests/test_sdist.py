"""The source distribution: it builds, and its tests run, without the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from copies import CHECKOUT, ROOT, copy_tree

PROGRAM = "import sys, setuptools; sys.argv[0] = 'setup.py'; setuptools.setup()"


@CHECKOUT
def test_it_holds_every_file_of_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="older ones do not read the project")
    tree, written = copy_tree(tmp_path / "tree"), tmp_path / "dist"
    words = ["-W", "ignore", "-c", PROGRAM, "-q", "sdist", "-d", str(written)]
    subprocess.run([sys.executable, *words], cwd=tree, check=True, capture_output=True)
    with tarfile.open(next(written.iterdir())) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    folders = (".github", "backends", "benchmarks", "tests", "xrnn")
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*.*") if p.is_file()]
    kinds = {".py", ".md", ".c", ".h", ".cu", ".cuh", ".safetensors", ".toml", ".cff"}
    expected = {p.relative_to(ROOT).as_posix() for p in paths if p.suffix in kinds}
    assert "backends/cpu/native/build.py" in expected
    assert {name for name in expected if not name.startswith("xrnn/backends/")} <= found
