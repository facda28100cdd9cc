"""A backend is one folder: a copy of the tree gets it, and its arrays are served by it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from copies import CHECKOUT, ROOT, copy_tree, differences, run

pytestmark = CHECKOUT
pytest.importorskip("array_api_strict", reason="the backend's library is array-api-strict")

FOLDER = "backends/mine/__init__.py"

#: a user's program
PROGRAM = """
import sys
import array_api_strict as strict
import numpy as np
import xrnn
from xrnn.backends import backend_of, get, mine

assert xrnn.__file__.startswith(sys.argv[1]), xrnn.__file__
backend = get("mine")
assert backend is mine.BACKEND is get("array_api_strict") is backend_of(strict.zeros(3))

layer = xrnn.LSTM(3, 4, device="mine")
assert layer.path((5, 2, 3)) == {"_l0": "my kernel"}
verified = len(mine.CALLS)
assert {*mine.CALLS} == {"forward", "backward"}, "it is compared with the cell before it serves"
xs = strict.ones((5, 2, 3), dtype=strict.float32)
ys, state, tape = layer.forward(xs)
layer.backward(tape, ys)
assert mine.CALLS[verified:] == ["forward", "backward"]
assert type(ys) is type(state.h) is type(xs)

for other in (xrnn.GRU(3, 4, device="mine"), xrnn.LSTM(3, 4, device="mine", dtype="float64")):
    assert other.path((5, 2, 3)) == {"_l0": "the cell as written"}
assert xrnn.LSTM(3, 4)(np.ones((5, 2, 3), "float32"))[0].shape == (5, 2, 4)
assert get("cpu").name == "cpu"
"""

#: what its author may get wrong, and the error that must say so
FAULTS = {
    "a name that is not there": ("BACKEND = undefined", "NameError: name 'undefined'"),
    "a module that is not there": ("import no_such_module", "ModuleNotFoundError: No module named"),
    "a misspelt import": ("from xrnn.backends import Bakend", "ImportError: cannot import name"),
    "no Python": ("BACKEND = (", "SyntaxError: '(' was never closed"),
    "no backend": ("", "AttributeError: module 'xrnn.backends.mine' has no attribute 'BACKEND'"),
}

#: the folder is written anew within the same second
FRESH = {"PYTHONDONTWRITEBYTECODE": "1"}

#: prints the error of each backend that is asked for
ASKING = """
import sys
from xrnn.backends import get
for name in sys.argv[1:]:
    try:
        print(name, get(name).name)
    except Exception as error:
        print(name, f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the tree with the new folder."""
    tree = copy_tree(tmp_path / "tree")
    (tree / FOLDER).parent.mkdir()
    shutil.copy(ROOT / "tests" / "ceremony" / "mine.py", tree / FOLDER)
    return tree


def test_a_folder_serves_its_library(tree: Path, tmp_path: Path) -> None:
    run(tree, "-c", PROGRAM, f"{tree}", cwd=tmp_path)
    said = run(tree, "-m", "xrnn", "info", cwd=tmp_path)
    assert "mine: " in said
    assert "float32: my kernel" in said
    assert differences(tree) == {FOLDER}


def test_a_fault_in_the_folder_is_said_as_it_is(tree: Path) -> None:
    first = 'LIBRARY, INSTALL = "array_api_strict", "pip install array-api-strict"\n'
    for what, (line, error) in FAULTS.items():
        (tree / FOLDER).write_text(f"{first}{line}\n", "utf-8")
        mine, cpu = run(tree, "-c", ASKING, "mine", "cpu", env=FRESH).splitlines()
        assert mine.startswith(f"mine {error}"), what
        assert cpu == "cpu cpu", what


def test_a_library_that_is_absent_is_no_obstacle_to_others(tree: Path) -> None:
    lines = 'import no_such_library\nLIBRARY, INSTALL = "no_such_library", "pip install no"\n'
    (tree / FOLDER).write_text(lines, "utf-8")
    run(tree, "-c", "import numpy, xrnn; xrnn.LSTM(3, 4)(numpy.ones((5, 2, 3), 'float32'))")
    mine, strict = run(tree, "-c", ASKING, "mine", "array_api_strict").splitlines()
    assert mine == "mine ModuleNotFoundError: No module named 'no_such_library'"
    assert strict == "array_api_strict array_api_strict"
