"""A cell is one file and one row: in a copy of the tree that has both, the suite passes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from copies import CHECKOUT, ROOT, copy_tree, differences, run

from xrnn.certify.laws import LAWS

pytestmark = CHECKOUT

#: what is added, and where
CELL, TABLE = "xrnn/cells/coupled.py", "tests/rows.py"
ROW = '    Row(cells.BY_NAME["coupled"]),\n)\n'

#: every test of the new cell on the CPU; and what looks at all cells at once: the structure of the
#: code, the page of derivations, the tests of oracles and what the command line prints
SELECTION = (
    "(coupled and not array_api_strict and not readonly and not torch)"
    " or test_house or test_derivations or test_every_cell"
    " or (test_cli and (Refusals or refuses or info))"
)

#: a user's program
PROGRAM = """
import copy, pickle, sys
import numpy as np
import xrnn
from xrnn.cells import BY_NAME, CoupledLSTM

assert xrnn.__file__.startswith(sys.argv[1]), xrnn.__file__
layer = xrnn.Layer(CoupledLSTM, 3, 4, num_layers=2, bidirectional=True)
xs = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
ys, state, tape = layer.forward(xs, lengths=[5, 2])
dxs, dstate, dweights = layer.backward(tape, ys, state)
assert state.c.shape == (4, 2, 4) and dweights["U_l1_reverse"].shape == (12, 4)

xrnn.save("layer.safetensors", layer)
loaded = xrnn.load(
    "layer.safetensors", xrnn.Layer(CoupledLSTM, 3, 4, num_layers=2, bidirectional=True)
)
for other in (loaded, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
    assert other.cell is CoupledLSTM is BY_NAME["coupled"]
    assert np.array_equal(other(xs, lengths=[5, 2])[0], ys)
assert type(pickle.loads(pickle.dumps(state))) is type(state)
assert xrnn.certify(dtype="float64", cells=[CoupledLSTM]).passed
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the new cell: two files are written, and no other."""
    tree = copy_tree(tmp_path_factory.mktemp("ceremony") / "tree")
    shutil.copy(ROOT / "tests" / "ceremony" / "coupled.py", tree / CELL)
    rows = (tree / TABLE).read_text("utf-8")
    assert rows.endswith("\n)\n")
    (tree / TABLE).write_text(rows.removesuffix(")\n") + ROW, "utf-8")
    return tree


def looking_at_all_cells() -> list[str]:
    """The test files that go through the table of cells or through all cells."""
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    own = Path(__file__).name
    pattern = re.compile(r"from rows import|\bBY_NAME\b")
    named = [p.name for p in tests if p.name != own and pattern.search(p.read_text("utf-8"))]
    return [f"tests/{name}" for name in named]


def test_the_suite_passes_with_two_files_touched(tree: Path) -> None:
    files = looking_at_all_cells()
    assert {"tests/test_house.py", "tests/test_laws.py", "tests/test_derivations.py"} <= {*files}
    said = run(tree, "-m", "pytest", "-q", "-rp", "-p", "no:cacheprovider", "-k", SELECTION, *files)
    assert differences(tree) == {CELL, TABLE}
    passed = [
        {*re.split(r"\W+", line)} for line in re.findall(r"^PASSED (.+)$", said, re.MULTILINE)
    ]
    for law in LAWS:
        for dtype in ("float32", "float64"):
            assert any({"test_law", law, "cpu", dtype, "coupled"} <= words for words in passed), law


def test_users_and_the_command_line_know_it(tree: Path, tmp_path: Path) -> None:
    run(tree, "-c", PROGRAM, f"{tree}", cwd=tmp_path)
    said = run(tree, "-m", "xrnn", "info", cwd=tmp_path)
    assert re.search(r"^ *coupled +as written$", said, re.MULTILINE)
    assert differences(tree) == {CELL, TABLE}
