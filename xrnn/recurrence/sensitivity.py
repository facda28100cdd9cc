"""One step, differentiated for every unit of the new state at once.

`Cell.step_backward` answers for one gradient of the new state; here it is asked for many in
one call, as if each were a sequence of its own.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import array_api_compat

from xrnn.cells.base import Cell
from xrnn.typing import Array, Contribution, Namespace, State, Weights


class Rows(NamedTuple):
    """What `step_backward` gives for K gradients at once; K stands in front."""

    da: Array
    """(K, B, G·H)"""
    dprev: State
    """(K, B, H) for each state"""
    dweights: dict[str, Contribution]
    """Contributions of arrays (K, B, n)"""


def rows_backward(
    cell: Cell[Any], dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> Rows:
    """`cell.step_backward` for K gradients (K, B, H) of the same step."""
    K, B, H = dstate[0].shape

    def fold(a: Array) -> Array:
        return xp.reshape(a, (K, B, prod(a.shape[1:])))

    flat = tuple(xp.reshape(d, (K * B, H)) for d in dstate)
    many = tuple(xp.concat([a] * K) for a in saved)
    da, dprev, dweights = cell.step_backward(flat, many, weights, xp=xp)
    folded = {
        name: tuple((fold(rows), fold(operand)) for rows, operand in part)
        if isinstance(part, tuple)
        else fold(part)
        for name, part in dweights.items()
    }
    return Rows(fold(da), tuple(fold(d) for d in dprev), folded)


def units(cell: Cell[Any], like: Array, *, xp: Namespace) -> State:
    """The unit gradients of the whole state: for each state (S·H, B, H), S states.

    Row s·H + k is 1 for unit k of state s and 0 elsewhere; `like` (B, H) gives the kind.
    """
    B, H = like.shape
    S, device = len(cell.states), array_api_compat.device(like)
    eye = xp.eye(S * H, dtype=like.dtype, device=device)
    blocks = (eye[:, None, s * H : (s + 1) * H] for s in range(S))
    return tuple(xp.broadcast_to(block, (S * H, B, H)) for block in blocks)
