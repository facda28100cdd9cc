"""The signature of a cell: numbers that say what it computes, for files.

The name of a function says little about it, and its byte code is another one with every version of
Python.  So a file of a cell of one's own holds results of a small computation.
"""

from __future__ import annotations

from math import prod
from typing import Any

from xrnn.backends import host
from xrnn.cells.base import Cell
from xrnn.recurrence.loop import Loop
from xrnn.typing import Array

#: T, B, I, H
SIZES = (3, 2, 2, 4)


def signature(cell: Cell[Any]) -> str | None:
    """Results of a cell, forward and backward, on fixed numbers of float64.

    Returns
    -------
    str or None
        Weighted sums of the outputs and states, and of all gradients, each with six digits (so
        that rounding errors do not show).  None if the cell cannot run with NumPy.
    """
    xp = host.xp
    T, B, I, H = SIZES
    with xp.errstate(all="ignore"):
        try:
            weights = {name: _waves(shape, 1) for name, shape in cell.shapes(I, H).items()}
            xs, state = _waves((T, B, I), 2), tuple(_waves((B, n), 3) for n in cell.widths(H))
            loop: Any = Loop(cell)
            how = {"lengths": None, "reverse": False, "xp": xp}
            ys, last, kept = loop.forward(weights, xs, state, keep=True, **how)
            dxs, dfirst, dweights = loop.backward(weights, kept, _waves(ys.shape, 4), state, xp=xp)
            total = cell.total(state, kept.steps[-1], weights, xp=xp)
            forward, backward = [ys, *last], [dxs, *dfirst, *total, *map(dweights.get, weights)]
            return ", ".join(f"{_sum(arrays):.6g}" for arrays in (forward, backward))
        except Exception:  # whatever a user's functions may raise with these sizes
            return None


def _waves(shape: tuple[int, ...], frequency: int) -> Array:
    """An array of that shape with values in −1…1 that do not repeat."""
    return host.xp.cos(frequency * host.xp.arange(1.0, 1 + prod(shape))).reshape(shape)


def _sum(arrays: list[Array]) -> float:
    """A sum in which every value has another factor."""
    values = host.xp.concatenate([a.ravel() for a in arrays])
    return float((values * _waves(values.shape, 5)).sum())
