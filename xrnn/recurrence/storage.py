"""Cells whose numbers are stored in 16 bits and computed with in float32.

Weights, inputs and states are widened; results are rounded to the dtype of the inputs.  h is
rounded after every step, because it is an output; the other states are carried from step to step in
float32, and rounded where a pass ends.  So a sequence in two parts gives the same outputs as in
one, but for the rounding of the other states between the parts.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from xrnn.cells.base import Cell
from xrnn.recurrence.loop import Loop
from xrnn.recurrence.precision import cast, widen
from xrnn.typing import Array, Gradients, Namespace, State, Step, Weights


def _rounded_step(
    step: Step, dtype: Any, ax: Array, state: Any, weights: Weights, *, xp: Namespace
) -> tuple[State, Any]:
    (h, *rest), saved = step(ax, state, weights, xp=xp)
    return (cast(cast(h, dtype, xp=xp), h.dtype, xp=xp), *rest), saved


@lru_cache
def rounding(cell: Cell[Any], dtype: Any) -> Cell[Any]:
    """The cell that rounds h to the dtype at every step.

    >>> import numpy as np
    >>> from xrnn.cells import Elman
    >>> weights = {"U": np.zeros((1, 1), "float32")}
    >>> zero, ax = np.zeros((1, 1), "float32"), np.full((1, 1), 0.3, "float32")
    >>> (h,), _ = rounding(Elman, np.dtype("float16")).step(ax, (zero,), weights, xp=np)
    >>> h.dtype == np.float32, h == h.astype("float16"), h == np.tanh(ax)
    (True, array([[ True]]), array([[False]]))
    """
    return replace(cell, step=partial(_rounded_step, cell.step, dtype))


class Stored:
    """The loop over one cell for arrays of 16 bits, in the form of a `xrnn.typing.Sequence`.

    Parameters
    ----------
    cell : Cell
        One time step, forward and backward.
    """

    def __init__(self, cell: Cell[Any]) -> None:
        self.cell = cell

    def forward(
        self,
        weights: Weights,
        xs: Array,
        state: State,
        *,
        lengths: Array | None,
        reverse: bool,
        keep: bool,
        xp: Namespace,
        noise: Weights | None = None,
    ) -> tuple[Array, State, Any]:
        """As `xrnn.recurrence.loop.Loop.forward`."""
        loop, dtype = Loop(rounding(self.cell, xs.dtype)), xs.dtype
        wide, xs, state = widened(weights, xp=xp), widen(xs, xp=xp), _widened(state, xp=xp)
        how: Any = {"lengths": lengths, "reverse": reverse, "keep": keep, "xp": xp}
        how["noise"] = None if noise is None else widened(noise, xp=xp)
        ys, last, residuals = loop.forward(wide, xs, state, **how)
        return cast(ys, dtype, xp=xp), _cast(last, dtype, xp=xp), residuals

    def backward(
        self,
        weights: Weights,
        residuals: Any,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> Gradients:
        """As `xrnn.typing.Sequence.backward`."""
        dtype, wide = weights["W"].dtype, widened(weights, xp=xp)
        given = None if dys is None else widen(dys, xp=xp), _widened(dstate, xp=xp)
        found = Loop(self.cell).backward(wide, residuals, *given, xp=xp)
        return narrowed(found, dtype, xp=xp)


def widened(weights: Weights, *, xp: Namespace) -> dict[str, Array]:
    """The weights in the dtype that they are computed with in."""
    return {name: widen(w, xp=xp) for name, w in weights.items()}


def narrowed(gradients: Gradients, dtype: Any, *, xp: Namespace) -> Gradients:
    """The gradients in a dtype."""
    dxs, dfirst, dweights = gradients
    named = {name: cast(d, dtype, xp=xp) for name, d in dweights.items()}
    return cast(dxs, dtype, xp=xp), _cast(dfirst, dtype, xp=xp), named


def _widened(state: State, *, xp: Namespace) -> State:
    return tuple(widen(s, xp=xp) for s in state)


def _cast(state: State, dtype: Any, *, xp: Namespace) -> State:
    return tuple(cast(s, dtype, xp=xp) for s in state)
