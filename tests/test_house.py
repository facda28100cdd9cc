"""The structure of the code: folders and their imports, sizes of files, and documentation."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from rows import ROWS

from xrnn import cells

ROOT = Path(__file__).parent.parent
CHECKOUT = pytest.mark.skipif(
    not (ROOT / "xrnn" / "cells").is_dir(), reason="the sources do not lie beside the tests"
)

#: the folders of xrnn: a module imports only from its own folder and from those above it here
FLOORS = (
    "typing _version __pyinstaller",
    "cells",
    "recurrence",
    "backends",
    "engine",
    "layers",
    "learn",
    "convert",
    "analysis training",
    "adapters",
    "certify",
    "charlm",
    "_cli",
    "__main__",
)
FLOOR_OF = {name: n for n, row in enumerate(FLOORS) for name in row.split()}


def sources() -> list[Path]:
    folders = [ROOT / "xrnn", ROOT / "backends"]
    return sorted(p for folder in folders for p in folder.rglob("*.py") if not _through_link(p))


def _through_link(path: Path) -> bool:
    return "backends" in path.relative_to(ROOT).parts[1:]


def module_of(path: Path) -> str:
    """The folder that a file belongs to: ``cells``, ``backends``, ``engine`` …"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "backends" if parts[0] == "backends" else parts[1]


def imported(path: Path) -> set[str]:
    """The folders of xrnn that a file imports from."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "xrnn":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xrnn."):
            rooms.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("xrnn.")}
    return rooms


@CHECKOUT
def test_imports_go_downwards_only() -> None:
    upwards = []
    for path in sources():
        room = module_of(path)
        if room == "__init__":
            continue
        for other in imported(path) - {room}:
            if FLOOR_OF[other] >= FLOOR_OF[room]:
                upwards.append(f"{path.relative_to(ROOT)} imports {other}")
    assert upwards == []
    assert len(sources()) > 25


@CHECKOUT
def test_every_folder_with_code_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(ROOT) for p in sources() if p.name == "__init__.py"}
    packages = {".".join(folder.parts) for folder in folders}
    assert listed == {p if p.startswith("xrnn") else f"xrnn.{p}" for p in packages}


@CHECKOUT
def test_no_file_is_over_400_lines_and_no_function_over_a_screen() -> None:
    long = []
    for path in [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        text = path.read_text("utf-8")
        if text.count("\n") > 400:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
                lines = (node.end_lineno or 0) - first.lineno + 1
                if lines > 50:
                    long.append(f"{path.name}: {node.name} has {lines} lines")
    assert long == []


def test_every_cell_has_its_row() -> None:
    assert {row.cell for row in ROWS} == set(cells.BY_NAME.values())


@CHECKOUT
def test_every_cell_in_a_file_is_public() -> None:
    files = [
        p for p in (ROOT / "xrnn" / "cells").glob("*.py") if "\ndef step(" in p.read_text("utf-8")
    ]
    homes = {cell.step.__module__.rpartition(".")[2] for cell in cells.BY_NAME.values()}  # type: ignore[attr-defined]
    assert {p.stem for p in files} == homes
    public = {name for name in cells.__all__ if isinstance(getattr(cells, name), cells.Cell)}
    assert {getattr(cells, name) for name in public} == set(cells.BY_NAME.values())


def test_importing_xrnn_imports_nothing_optional() -> None:
    optional = (
        "cupy",
        "torch",
        "jax",
        "tqdm",
        "matplotlib",
        "onnx",
        "onnxruntime",
        "h5py",
        "mpi4py",
        "backends",
    )
    code = f"import sys, xrnn; print([m for m in {optional} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "[]"


def test_public_names_are_documented() -> None:
    import xrnn

    for name in xrnn.__all__:
        assert (getattr(xrnn, name).__doc__ or "").strip(), name
