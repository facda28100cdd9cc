"""The frozen vectors hold, on any machine: no other library is needed to read them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.flat import Arrays, assert_agree, spoiled
from oracles.subject import results_of
from rows import ROWS
from safetensors import safe_open

import xrnn

PATH = Path(xrnn.__file__).parent / "certify" / "vectors.safetensors"

BOUNDS = {"float64": 1e-12, "float32": 1e-5}

CASES = ("deep", "plain")

#: the cells with an oracle; vectors come from there
CELLS = [row.cell.name for row in ROWS if row.oracles]


@cache
def frozen() -> Arrays:
    with safe_open(PATH, framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@cache
def about() -> dict[str, str]:
    with safe_open(PATH, framework="numpy") as file:
        return dict(file.metadata())


def split(cell: str, case: str) -> tuple[Arrays, Arrays]:
    """What goes in, and what must come out."""
    prefix = f"{cell}/{case}/"
    arrays = {k.removeprefix(prefix): a for k, a in frozen().items() if k.startswith(prefix)}
    into = ("xs", "dys", "lengths", "state", "dstate", "weights")
    given = {k: a for k, a in arrays.items() if k.partition(".")[0] in into}
    return given, {k: a for k, a in arrays.items() if k not in given}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cell", CELLS)
def test_cell_is_as_frozen(cell: str, case: str, dtype: Any) -> None:
    given, want = split(cell, case)
    cast = {k: a if k == "lengths" else a.astype(dtype) for k, a in given.items()}
    I, H = given["xs"].shape[2], given["state.h"].shape[2]
    options = json.loads(about()["cases"])[case]
    layer = xrnn.Layer(xrnn.cells.BY_NAME[cell], I, H, dtype=dtype, **options)
    got = results_of(layer, spoiled(cast))
    assert {str(a.dtype) for a in got.values()} == {dtype}
    assert_agree(got, want, BOUNDS[dtype])


def test_every_cell_with_an_oracle_has_its_vectors() -> None:
    held = {tuple(key.split("/")[:2]) for key in frozen()}
    assert held == {(cell, case) for cell in CELLS for case in CASES}


def test_file_says_where_it_comes_from() -> None:
    assert about().keys() == {"origin", "cases"}
    assert "torch" in about()["origin"]
    assert "onnxruntime" in about()["origin"]
    assert sorted(json.loads(about()["cases"])) == list(CASES)


@pytest.mark.parametrize("cell", CELLS)
def test_vectors_can_catch_a_fault(cell: str) -> None:
    """Every case asks for everything, and no answer is a column of zeros or ones."""
    for case in CASES:
        given, want = split(cell, case)
        assert {"xs", "dys", "state.h", "dstate.h", "weights.W_l0"} <= given.keys()
        assert ("lengths" in given) == (case == "deep")
        weights = {k for k in given if k.startswith("weights.")}
        assert {f"d{k}" for k in weights} == {k for k in want if k.startswith("dweights.")}
        constant = {k for k, a in (given | want).items() if np.ptp(a) == 0}
        # The state h that an input-gated cell is given enters nowhere.
        assert constant == ({"dfirst.h"} if (cell, case) == ("input-gated", "plain") else set())
    lengths = split(cell, "deep")[0]["lengths"]
    T = len(split(cell, "deep")[0]["xs"])
    assert {0, T} < set(lengths.tolist())
    assert sorted(lengths) != lengths.tolist()


def test_freeze_writes_what_is_there() -> None:
    pytest.importorskip("torch", reason="the frozen oracle is PyTorch")
    from oracles import freeze

    assert json.loads(about()["cases"]) == freeze.CASES
    assert_agree(freeze.vectors(), frozen(), 1e-12)
