"""The table of the page for users of Keras: the code of xrnn in it runs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import sections, tables

import xrnn

PAGE = Path(inspect.getfile(xrnn)).parent / "guide" / "coming-from-keras.md"

((_, ROWS),) = tables(sections(PAGE.read_text("utf-8"))["The words"])
CODE = [code for _, mine, _ in ROWS for code in re.findall(r"`([^`…]+)`", mine)]


def words(folder: Path) -> dict[str, Any]:
    """The names in the code."""
    layer, xs = xrnn.LSTM(3, 5), np.zeros((7, 2, 3), "float32")
    model = xrnn.Sequential(xrnn.GRU(3, 4), xrnn.Last(), xrnn.Linear(4, 2))
    found: dict[str, Any] = {"xrnn": xrnn, "layer": layer, "xs": xs, "model": model}
    found |= {"I": 3, "H": 5, "O": 2, "V": 7, "state": layer.initial_state(2), "lengths": [7, 3]}
    found |= {"mask": np.ones((7, 2), bool), "x": np.zeros((4, 7, 3)), "path": folder / "model"}
    found |= {"loss": xrnn.losses.softmax_cross_entropy, "data": (found["x"], [0, 1, 0, 1])}
    xrnn.save(found["path"], layer)
    return found


def test_there_is_code_in_every_row() -> None:
    assert len(CODE) > 25
    assert all("`" in mine for _, mine, _ in ROWS)


@pytest.mark.parametrize("code", CODE)
def test_the_code_of_a_row_runs(code: str, tmp_path: Path) -> None:
    exec(code, words(tmp_path))
