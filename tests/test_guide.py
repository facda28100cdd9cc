"""The pages of the guide: their blocks of code run, and the lines of their tables are true."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import blocks, sections, tables

import xrnn
from xrnn import cells
from xrnn.backends import get
from xrnn.backends.cpu import extension
from xrnn.cells.activations import ACTIVATIONS, activate
from xrnn.cells.options import activations_of

GUIDE = Path(inspect.getfile(xrnn)).parent / "guide"
PAGES = sorted(GUIDE.glob("*.md"))

#: what the code in tables is evaluated with
XS = np.zeros((7, 2, 3), "float32")
WORDS: dict[str, Any] = {"xrnn": xrnn, "cells": cells, "xs": XS}

#: the options of a layer that change neither the equations nor which steps are run
OTHERS = {"cell", "self", "S", "input_size", "num_layers", "batch_first", "dtype", "device", "rng"}
OTHERS |= {"init", "forget_bias", "precision"}


def _sections() -> Iterator[Any]:
    """Every section of every page; those with blocks for CuPy need a device."""
    for page in PAGES:
        for heading, text in sections(page.read_text("utf-8")).items():
            needs = [pytest.mark.gpu] if "import cupy" in "".join(blocks(text)) else []
            yield pytest.param(page, heading, id=f"{page.stem}, {heading}", marks=needs)


@pytest.mark.parametrize(("page", "heading"), list(_sections()))
def test_the_blocks_run(page: Path, heading: str) -> None:
    """Those of a section one after the other, as they may use each other's names."""
    names: dict[str, Any] = {}
    code = blocks(sections(page.read_text("utf-8"))[heading])
    if "import cupy" in "".join(code):
        try:
            get("cuda")
        except ImportError as error:
            pytest.skip(str(error))
    for module in sorted(set(re.findall(r"^import (\w+)", "\n".join(code), re.MULTILINE))):
        pytest.importorskip(module, reason=f"a block imports {module}")
    for block in code:
        exec(compile(block, f"{page.name}, {heading}", "exec"), names)


def test_the_index_has_every_page() -> None:
    """The page that a forge shows with the folder."""
    index = GUIDE / "README.md"
    pages = {page.name for page in PAGES if page != index}
    assert set(re.findall(r"\]\(([^)]+)\)", index.read_text("utf-8"))) == pages


# The page of cells --------------------------------------------------------------------------


@cache
def page() -> str:
    return (GUIDE / "cells.md").read_text("utf-8")


def rows(heading: str) -> list[dict[str, str]]:
    """The rows of the table of a section, by the names of its columns; code without its marks."""
    ((header, found),) = tables(sections(page())[heading])
    return [dict(zip(header, map(_plain, row), strict=True)) for row in found]


def _plain(cell: str) -> str:
    return cell[1:-1] if re.fullmatch(r"`[^`]+`", cell) else cell


def numbers(text: str) -> list[int]:
    """The numbers in ``(1)-(3), (5)``."""
    assert re.fullmatch(r"\(\d\)(-\(\d\))?(, \(\d\)(-\(\d\))?)*", text), text
    found: list[int] = []
    for one in text.split(", "):
        ends = [int(n) for n in re.findall(r"\d", one)]
        found += range(ends[0], ends[-1] + 1)
    return found


def check_numbers(file: str, given: str) -> None:
    """The equations stand in the docstring of the file, and are named by lines of its code."""
    module = importlib.import_module(f"xrnn.{file.removesuffix('.py').replace('/', '.')}")
    written = re.findall(r"# .*", inspect.getsource(module))
    for n in numbers(given):
        assert re.search(rf"  \({n}\)", module.__doc__ or ""), f"{file}: ({n})"
        assert any(f"({n})" in comment for comment in written), f"{file}: no line of ({n})"


def runs(cell: Any) -> str:
    """What runs a cell, in the words of the page."""
    (path,) = xrnn.Layer(cell, 3, 5).path(XS.shape).values()
    return "native loop" if path.startswith("native loop") else path.removeprefix("the cell ")


native = pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT or "built")

#: section → its layer, and the function that makes such cells
FAMILIES: dict[str, tuple[Any, Any]] = {
    "Options of the LSTM": (xrnn.LSTM, cells.lstm_with),
    "Options of the GRU": (xrnn.GRU, cells.gru_with),
    "Options of the simple network": (xrnn.RNN, cells.rnn_with),
}
OPTIONS = [(heading, row) for heading in FAMILIES for row in rows(heading)]
each_option = pytest.mark.parametrize(
    ("heading", "row"), OPTIONS, ids=[f"{h.split()[-1]}, {r['option']}" for h, r in OPTIONS]
)


def made(heading: str, row: dict[str, str]) -> Any:
    """The cell with the option of a row."""
    return eval(f"make({row['option']})", {"make": FAMILIES[heading][1]})


@pytest.mark.parametrize("row", rows("The cells"), ids=lambda row: row["cell"])
def test_a_line_of_the_cells(row: dict[str, str]) -> None:
    cell, layer = (eval(row[name], dict(WORDS)) for name in ("cell", "layer"))
    assert layer.cell is cell
    assert layer(XS)[0].shape == (7, 2, 5)
    module = cell.step.__module__.removeprefix("xrnn.").replace(".", "/")
    assert row["file"] == f"{module}.py"
    check_numbers(row["file"], row["equations"])


def test_every_cell_with_a_native_loop_has_its_line() -> None:
    """Of other cells a line is welcome, and not asked for: a cell is one file and one row."""
    for title in ("The cells", "What runs fast"):
        named = [eval(row["cell"], dict(WORDS)) for row in rows(title)]
        assert set(extension.CODES) <= set(named)


@each_option
def test_a_line_of_the_options(heading: str, row: dict[str, str]) -> None:
    layer = eval(f"make(3, 5, {row['option']})", {"make": FAMILIES[heading][0]})
    assert layer.cell is made(heading, row)
    assert layer.cell not in (cells.LSTM, cells.GRU, cells.Elman)
    assert layer(XS)[0].shape[:2] == (7, 2)
    (file,) = re.findall(r"in `(cells/\w+\.py)`", sections(page())[heading])
    check_numbers(file, row["equations"])


@native
@each_option
def test_what_runs_an_option(heading: str, row: dict[str, str]) -> None:
    assert runs(made(heading, row)) == row["runs"]


@pytest.mark.parametrize("heading", FAMILIES)
def test_every_option_has_its_line(heading: str) -> None:
    layer, make = FAMILIES[heading]
    named = {row["option"].split("=")[0] for row in rows(heading)}
    assert named == set(inspect.signature(make).parameters)
    mine = set(inspect.signature(layer.__init__).parameters)
    assert mine - set(inspect.signature(xrnn.Layer.__init__).parameters) - {"nonlinearity"} == named


@pytest.mark.parametrize("heading", FAMILIES)
def test_the_equations_are_those_of_the_file(heading: str) -> None:
    text = sections(page())[heading]
    (file,) = re.findall(r"in `(cells/\w+)\.py`", text)
    document = importlib.import_module(f"xrnn.{file.replace('/', '.')}").__doc__ or ""
    (block,) = blocks(text, "text")
    assert block in document


def test_the_options_for_every_cell() -> None:
    named = [row["option"] for row in rows("Options for every cell")]
    for option in named:
        name, value = option.split("=")
        layer: Any = xrnn.Layer(cells.MGU, 3, 5, 2, **{name: eval(value)})
        assert getattr(layer, name) == eval(value)
    timed = {row["option"] for row in rows("Options of time")}
    every = set(inspect.signature(xrnn.Layer.__init__).parameters) - OTHERS
    assert every == {option.split("=")[0] for option in named} | (timed & every)


def test_the_options_of_time() -> None:
    named = {row["option"]: row["given to"] for row in rows("Options of time")}
    for option, places in named.items():
        for place in places.replace("`", "").split(", "):
            assert option in inspect.signature(eval(place, dict(WORDS))).parameters, option
    every = set(inspect.signature(xrnn.unroll).parameters)
    assert every - set(named) == {"cell", "weights", "xs", "precision", "seed", "t"}


@pytest.mark.parametrize("row", rows("Activation functions"), ids=lambda row: row["name"])
def test_a_line_of_the_activation_functions(row: dict[str, str]) -> None:
    known = ACTIVATIONS[row["name"]]
    for name in ("alpha", "beta"):
        value = getattr(known, name)
        assert row[name] == ("—" if value is None else str(value))
    (usual,) = activations_of("rnn", [row["name"]], ("tanh",))
    code = compile(row["function of a"], "cells.md", "eval")
    for spec in (usual, (row["name"], 0.3, 0.7)):
        for a in (-3.0, -0.4, 0.2, 0.9, 4.0):
            words = {**vars(math), "a": a, "alpha": spec[1], "beta": spec[2]}
            assert activate(spec, np.array([a]), xp=np)[0] == pytest.approx(eval(code, words))


def test_every_activation_function_has_its_line() -> None:
    assert [row["name"] for row in rows("Activation functions")] == list(ACTIVATIONS)


@pytest.mark.parametrize("row", rows("What goes together"), ids=lambda row: row["refused"])
def test_what_is_refused(row: dict[str, str]) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(row["message"])):
        eval(row["refused"], dict(WORDS))


@pytest.mark.parametrize("row", rows("What runs fast"), ids=lambda row: row["cell"])
class TestWhatRuns:
    @native
    def test_on_the_cpu(self, row: dict[str, str]) -> None:
        assert runs(eval(row["cell"], dict(WORDS))) == row["CPU"]

    def test_on_cuda(self, row: dict[str, str]) -> None:
        from xrnn.backends.cuda import tables as kernels

        fused = kernels.fused_of(eval(row["cell"], dict(WORDS))) is not None
        assert row["CUDA"] == ("fused" if fused else "as written")
