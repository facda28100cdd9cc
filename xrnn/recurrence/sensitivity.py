"""One step, differentiated for every unit of the new state at once.

`Cell.step_backward` takes one gradient of the new state.  Here one call computes many of them, each
as if it were a sequence of its own.  `Full` and `Diagonal` carry such derivatives on from step to
step: equations (1) and (2) of `xrnn.learn.online`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple, TypeAlias

import array_api_compat

from xrnn.cells.base import Cell
from xrnn.recurrence.masks import apply_mask
from xrnn.typing import Array, Contribution, Namespace, State, Weights


class Rows(NamedTuple):
    """What `step_backward` returns for K gradients at once; K is the first axis."""

    da: Array
    """(K, B, G·H)"""
    dprev: State
    """(K, B, n) for each state"""
    dweights: dict[str, Contribution]
    """Contributions of arrays (K, B, n)"""


def rows_backward(
    cell: Cell[Any], dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> Rows:
    """`cell.step_backward` for K gradients of the same step, (K, B, n) for each state."""
    K, B, _ = dstate[0].shape

    def fold(a: Array) -> Array:
        return xp.reshape(a, (K, B, prod(a.shape[1:])))

    flat = tuple(xp.reshape(d, (K * B, d.shape[2])) for d in dstate)
    many = tuple(xp.concat([a] * K) for a in saved)
    da, dprev, dweights = cell.step_backward(flat, many, weights, xp=xp)
    folded = {
        name: tuple((fold(rows), fold(operand)) for rows, operand in part)
        if isinstance(part, tuple)
        else fold(part)
        for name, part in dweights.items()
    }
    return Rows(fold(da), tuple(fold(d) for d in dprev), folded)


def units(like: State, *, xp: Namespace) -> State:
    """The unit gradients of the whole state: for each state (N, B, n), N values in all states.

    Row k is 1 for value k of all states side by side, and 0 elsewhere; the parts (B, n) of the
    state `like` give the sizes, dtype and device.
    """
    B, N = like[0].shape[0], sum(part.shape[1] for part in like)
    eye = xp.eye(N, dtype=like[0].dtype, device=array_api_compat.device(like[0]))
    blocks, at = [], 0
    for n in [part.shape[1] for part in like]:
        blocks.append(xp.broadcast_to(eye[:, None, at : at + n], (N, B, n)))
        at += n
    return tuple(blocks)


#: the sensitivities P of the state, for each weight; their axes are those of `Full` or `Diagonal`
Sensitivity: TypeAlias = Mapping[str, Array]


class Full:
    """P (B, N, …): the derivative of each of the N values of the state by every parameter."""

    def __init__(self, cell: Cell[Any], weights: Weights, zeros: State, *, xp: Namespace) -> None:
        self.cell, self.shapes = cell, {k: w.shape for k, w in weights.items()}
        self.unit = units(zeros, xp=xp)

    def start(self, zeros: State, *, xp: Namespace) -> Sensitivity:
        """That of a state that does not depend on the weights; `zeros` are its parts (B, n)."""
        B, N = zeros[0].shape[0], self.unit[0].shape[0]
        shapes = self.shapes.items()
        return {name: _zeros((B, N, prod(shape)), zeros[0], xp=xp) for name, shape in shapes}

    def advance(
        self, P: Sensitivity, saved: Any, x: Array, weights: Weights, *, xp: Namespace
    ) -> Sensitivity:
        """That after a step with inputs x."""
        rows = rows_backward(self.cell, self.unit, saved, weights, xp=xp)
        J = xp.permute_dims(xp.concat(rows.dprev, axis=-1), (1, 0, 2))
        D = {name: xp.permute_dims(_direct(name, rows, x, xp=xp), (1, 0, 2)) for name in P}
        return {name: J @ P[name] + D[name] for name in P}  # (1)

    def gradient(self, P: Sensitivity, dh: Array, *, xp: Namespace) -> dict[str, Array]:
        """The gradients of the weights from that of h."""
        found = {}
        for name, part in P.items():
            h = part[:, : dh.shape[1], :]
            summed = xp.sum(dh[:, None, :] @ h, axis=0)  # (2)
            found[name] = xp.reshape(summed, self.shapes[name])
        return found

    def only(self, streams: Array, P: Sensitivity, *, xp: Namespace) -> Sensitivity:
        """P for the streams of a mask (B,); exactly 0 for others."""
        mask = streams[:, None, None]
        return {name: apply_mask(mask, part, xp=xp) for name, part in P.items()}


class Diagonal:
    """P (S, B, n, H, m): the derivative of unit k by row k of every block of rows alone.

    It is computed by `rows_backward` for all units at once, with only the diagonals of the
    blocks of U, as if no unit acted on another.  The methods are those of `Full`; all states
    have H values.
    """

    def __init__(self, cell: Cell[Any], weights: Weights, zeros: State, *, xp: Namespace) -> None:
        self.cell, self.shapes = cell, {k: w.shape for k, w in weights.items()}
        zero = zeros[0]
        (B, H), S = zero.shape, len(cell.states)
        device = array_api_compat.device(zero)
        eye = xp.eye(S, dtype=zero.dtype, device=device)
        self.ones = tuple(xp.broadcast_to(eye[:, s, None, None], (S, B, H)) for s in range(S))
        unit = xp.eye(H, dtype=zero.dtype, device=device)
        self.diagonals = xp.concat([unit] * len(cell.gates))

    def start(self, zeros: State, *, xp: Namespace) -> Sensitivity:
        (B, H), S = zeros[0].shape, len(self.cell.states)
        shapes = {k: (S, B, s[0] // H, H, prod(s[1:])) for k, s in self.shapes.items()}
        return {name: _zeros(shape, zeros[0], xp=xp) for name, shape in shapes.items()}

    def advance(
        self, P: Sensitivity, saved: Any, x: Array, weights: Weights, *, xp: Namespace
    ) -> Sensitivity:
        if "U" in weights:
            weights = {**weights, "U": weights["U"] * self.diagonals}
        rows = rows_backward(self.cell, self.ones, saved, weights, xp=xp)
        found = {}
        for name, part in P.items():
            new = xp.reshape(_direct(name, rows, x, xp=xp), part.shape)
            for s, J in enumerate(rows.dprev):
                new = new + J[:, :, None, :, None] * part[s, ...][None, ...]  # (1)
            found[name] = new
        return found

    def gradient(self, P: Sensitivity, dh: Array, *, xp: Namespace) -> dict[str, Array]:
        found = {}
        for name, part in P.items():
            summed = xp.sum(dh[:, None, :, None] * part[0, ...], axis=0)  # (2)
            found[name] = xp.reshape(summed, self.shapes[name])
        return found

    def only(self, streams: Array, P: Sensitivity, *, xp: Namespace) -> Sensitivity:
        mask = streams[None, :, None, None, None]
        return {name: apply_mask(mask, part, xp=xp) for name, part in P.items()}


def _direct(name: str, rows: Rows, x: Array, *, xp: Namespace) -> Array:
    """D (K, B, …) of (1), flat: the derivative by one weight at this step alone."""
    K, B, _ = rows.da.shape
    if name == "b" and name not in rows.dweights:
        return rows.da
    part = ((rows.da, x[None, ...]),) if name == "W" else rows.dweights[name]
    if isinstance(part, tuple):
        outer = [left[..., None] * right[..., None, :] for left, right in part]
        part = xp.concat(outer, axis=2)
    return xp.reshape(part, (K, B, prod(part.shape[2:])))


def _zeros(shape: tuple[int, ...], like: Array, *, xp: Namespace) -> Array:
    return xp.zeros(shape, dtype=like.dtype, device=array_api_compat.device(like))
