"""What the functions of a cell may return: errors that say what was returned and what must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.cells import Elman, PeepholeLSTM

XS = np.ones((4, 3, 3), "float32")


def stepping(change: Callable[[Any, Any], Any]) -> Any:
    """A cell whose step returns ``change(state, saved)``."""
    return replace(Elman, name="mine", step=lambda *a, **k: change(*Elman.step(*a, **k)))


def backward(change: Callable[[Any, Any, Any], Any], cell: Any = Elman) -> Any:
    """A cell whose step_backward returns ``change(da, dstate, dweights)``."""

    def step_backward(*a: Any, **k: Any) -> Any:
        return change(*cell.step_backward(*a, **k))

    return replace(cell, name="mine", step_backward=step_backward)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (
            stepping(lambda s, saved: (s[0], saved)),
            r"step returned \(an array \(2, 5\), .*\(h,\), s",
        ),
        (stepping(lambda s, saved: s), r"step returned \(an array \(2, 5\)\); it must return the"),
        (stepping(lambda s, saved: None), "step returned None; it must"),
        (
            stepping(lambda s, saved: ((s[0][:, :2],), saved)),
            r"\(an array \(2, 2\)\).*\(2, 5\) here",
        ),
        (
            backward(lambda a, s, w: (a, s[0], w)),
            r"step_backward returned \(an array \(2, 5\), an arr",
        ),
        (backward(lambda a, s, w: (a[:, :4], s, w)), r"da is \(B, G·H\) = \(2, 5\)"),
        (backward(lambda a, s, w: (a, s)), "it must return da, the gradients of the old state and"),
        (
            backward(lambda a, s, w: (a, s, {"U": a.T @ a})),
            r"returned an array \(5, 5\) for the weight U; it must be pairs",
        ),
        (
            backward(lambda a, s, w: (a, s, {"U": w["U"][0]})),
            r"give \{'U': \(\(rows, operand\),\)\}",
        ),
        (
            backward(lambda a, s, w: (a, s, {**w, "p": w["p"].sum(axis=0)}), PeepholeLSTM),
            r"an array \(15,\) for the weight p; it must be an array \(B, n\) = \(2, 15\)",
        ),
    ],
)
def test_what_is_wrong_is_said(cell: Any, words: str) -> None:
    layer = xrnn.Layer(cell, 3, 5)
    for _ in range(2):
        with pytest.raises(TypeError, match=f"mine: .*{words}"):
            layer(XS)


def test_a_cell_is_looked_at_once() -> None:
    calls = []

    def step(ax: Any, *a: Any, **k: Any) -> Any:
        calls.append(ax.shape)
        return Elman.step(ax, *a, **k)

    cell = replace(Elman, name="mine", step=step)
    xrnn.Layer(cell, 3, 5)(XS)
    assert calls == [(2, 5)] + [(3, 5)] * 4
    xrnn.Layer(cell, 3, 6)(XS)
    assert len(calls) == 9
