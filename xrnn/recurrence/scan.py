"""Whole sequences of a linear cell: the gates of all steps at once, then one linear recurrence.

s_t = f_t ⊙ s_{t-1} + u_t                                         (1)   forward
C_{t-1} = f_t ⊙ (C_t + e_t)                                       (2)   backward: the gradient of
          s_t is C_t through the later steps, plus e_t through step t itself
(f, u)_2 ∘ (f, u)_1 = (f_2 ⊙ f_1, f_2 ⊙ u_1 + u_2)                (3)   two steps combined

(2) is (1) again, in the other direction of time.  (3) is associative, so T steps take log₂ T
rounds (Blelloch, 1990).  Nothing is divided by f, so f = 0 is allowed.  Gates lie in 0…1, so their
products cannot overflow; they can become 0, exactly where the step-by-step loop gives 0 too.

Sources: Martin & Cundy (2018), arXiv:1709.04057; derivation "Input-gated LSTM", line 16.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

from xrnn.cells.base import Cell
from xrnn.cells.linear import LinearRecurrence
from xrnn.recurrence.masks import apply_mask, valid_mask
from xrnn.recurrence.precision import wide_sum
from xrnn.recurrence.projection import input_projection, input_projection_backward
from xrnn.typing import Array, Gradients, Namespace, State, Weights

#: ``solve(f, u, first, *, xp)``: s_t for all t from f, u (T, B, H) and s before them (B, H)
Solve = Callable[..., Array]


def scan(f: Array, u: Array, first: Array, *, xp: Namespace) -> Array:
    """s_t = f_t ⊙ s_{t-1} + u_t for all t, by the associative scan.

    Parameters
    ----------
    f, u : array (T, …), T ≥ 1
        |f| ≤ 1, as gates are: products of many larger ones would overflow.
    first : array (…)
        The state before step 0.

    Returns
    -------
    array (T, …)

    Examples
    --------
    >>> import numpy as np
    >>> scan(np.array([0.5, 0.0, 1.0]), np.array([1.0, 3.0, 2.0]), np.array(8.0), xp=np)
    array([5., 3., 5.])
    """
    return _prefixes(f, xp.concat([(f[0, ...] * first + u[0, ...])[None, ...], u[1:, ...]]), xp=xp)


def _prefixes(f: Array, s: Array, *, xp: Namespace) -> Array:
    """All states, where s_0 is already one: pairs first (3), then the steps between them."""
    T, n = s.shape[0], s.shape[0] // 2
    if n == 0:
        return s
    f1, u1, f0, u0 = f[1::2, ...], s[1::2, ...], f[: 2 * n : 2, ...], s[: 2 * n : 2, ...]
    odd = _prefixes(f1 * f0, f1 * u0 + u1, xp=xp)
    between = f[2::2, ...] * odd[: T - n - 1, ...] + s[2::2, ...]
    even = xp.concat([s[:1, ...], between])
    pairs = xp.reshape(xp.stack([even[:n, ...], odd], axis=1), (2 * n, *s.shape[1:]))
    return xp.concat([pairs, even[n:, ...]])


class Residuals(NamedTuple):
    """What backward needs of forward: its inputs, and of each block of time what
    `LinearRecurrence.finish` saved."""

    xs: Array
    blocks: list[tuple[slice, tuple[Array, ...]]]
    reverse: bool
    mask: Array | None


class Scan:
    """A linear cell over whole sequences, as a `xrnn.typing.Sequence`.

    It computes blocks of many steps, one after the other.  Within a block everything but the
    recurrence is done for all steps at once; each block starts from the last state of the block
    before, as each step of `Loop` starts from the state before.

    Parameters
    ----------
    cell : Cell
        With `Cell.linear`.
    solve : callable
        ``solve(f, u, first, *, xp)``: `scan`, or whatever solves (1) faster.
    block : int, optional
        How many values (steps · B · H) make a block; choose what fits a cache.  Default: all.
    """

    def __init__(self, cell: Cell[Any], solve: Solve, block: int | None = None) -> None:
        assert cell.linear is not None
        self.cell, self.solve, self.block = cell, solve, block
        self.linear: LinearRecurrence = cell.linear

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
    ) -> tuple[Array, State, Residuals | None]:
        """As `xrnn.typing.Sequence.forward`, for at least one step."""
        mask = None
        if lengths is not None:
            mask = valid_mask(xs.shape[0], lengths, xp=xp)
            xs = apply_mask(mask, xs, xp=xp)
        axs = input_projection(xs, weights, xp=xp)
        if mask is not None:
            axs = apply_mask(mask, axs, xp=xp)  # 0 · ∞ is NaN, if a weight is infinite
        ys, kept = [], []
        for part in self._parts(xs.shape[0], state[0], reverse):
            inner = None if mask is None else mask[part, ...]
            y, state, values = self._forward(axs[part, ...], state, inner, reverse, xp=xp)
            ys.append(y)
            kept.append((part, values))
        out = _joined(ys, reverse, xp=xp)
        # A copy: a view would keep the memory of all steps, and may be an output.
        state = tuple(xp.asarray(s, copy=True) for s in state)
        return out, state, Residuals(xs, kept, reverse, mask) if keep else None

    def backward(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> Gradients:
        """As `xrnn.typing.Sequence.backward`."""
        xs, blocks, reverse, mask = residuals
        das: list[Array] = []
        sums: dict[str, Array] = {}
        for part, values in reversed(blocks):
            inner = None if mask is None else mask[part, ...]
            dy = None if dys is None else dys[part, ...]
            da, dstate, parts = self._backward(weights, values, dy, dstate, inner, reverse, xp=xp)
            das.append(da)
            for name, d in parts.items():
                summed = wide_sum(d, axis=(0, 1), xp=xp)
                sums[name] = sums[name] + summed if name in sums else summed
        all_das = _joined(das, not reverse, xp=xp)
        rows = xp.reshape(all_das, (-1, all_das.shape[-1]))
        dxs, dweights = input_projection_backward(rows, xs, weights, xp=xp)
        if mask is not None:
            dxs = apply_mask(mask, dxs, xp=xp)
        dsums = {name: xp.astype(d, xs.dtype, copy=False) for name, d in sums.items()}
        return dxs, dstate, dweights | dsums

    def _parts(self, T: int, like: Array, reverse: bool) -> list[slice]:
        """The blocks of time, in the order they are run."""
        steps = T
        if self.block is not None:
            steps = min(T, max(1, self.block // max(1, prod(like.shape))))
        parts = [slice(t, min(t + steps, T)) for t in range(0, T, steps)]
        return parts[::-1] if reverse else parts

    def _forward(
        self, axs: Array, state: State, mask: Array | None, reverse: bool, *, xp: Namespace
    ) -> tuple[Array, State, tuple[Array, ...]]:
        """One block: its outputs, the state after it, what backward needs."""
        gates = self.linear.gates(axs, xp=xp)
        f, u = self.linear.recurrence(gates)
        if mask is not None:
            # Past its end a sequence keeps its state: s = 1 ⊙ s + 0.
            f, u = xp.where(mask, f, xp.ones_like(f)), xp.where(mask, u, xp.zeros_like(u))
        s = self._solve(f, u, state[-1], reverse, xp=xp)
        s_prev = _shifted(s, state[-1], reverse, xp=xp)
        new, values = self.linear.finish(gates, s_prev, s, xp=xp)
        # The other states have no recurrence of their own: they come from the sequence's last step.
        ends, idle = _ends(s, mask, reverse, xp=xp)
        zero = xp.zeros_like(s)
        last = tuple(
            xp.where(idle, given, xp.sum(xp.where(ends, a, zero), axis=0))
            for a, given in zip(new[:-1], state[:-1], strict=True)
        )
        ys = new[0] if mask is None else xp.where(mask, new[0], zero)
        return ys, (*last, s[0 if reverse else -1, ...]), values

    def _backward(
        self,
        weights: Weights,
        values: tuple[Array, ...],
        dys: Array | None,
        dstate: State,
        mask: Array | None,
        reverse: bool,
        *,
        xp: Namespace,
    ) -> tuple[Array, State, dict[str, Array]]:
        """The same block, backward: das, the gradient of the state before it, contributions."""
        f, _ = self.linear.recurrence(values[: len(self.cell.gates)])
        zero = xp.zeros_like(f)
        ends, idle = _ends(f, mask, reverse, xp=xp)
        dnew = [*(xp.where(ends, d, zero) for d in dstate[:-1]), zero]
        dprev = [xp.where(idle, d, zero[0, ...]) for d in dstate[:-1]]
        if dys is not None:
            dnew[0] = dnew[0] + (dys if mask is None else xp.where(mask, dys, zero))
        if mask is not None:
            f = xp.where(mask, f, xp.ones_like(f))
        e = self.cell.total(tuple(dnew), values, weights, xp=xp)[-1]
        C = self._solve(f, f * e, dstate[-1], not reverse, xp=xp)  # (2)
        dnew[-1] = dnew[-1] + _shifted(C, dstate[-1], not reverse, xp=xp)
        das, _, parts = self.cell.step_backward(tuple(dnew), values, weights, xp=xp)
        if mask is not None:
            das = apply_mask(mask, das, xp=xp)
            parts = {name: apply_mask(mask, d, xp=xp) for name, d in parts.items()}
        return das, (*dprev, C[-1 if reverse else 0, ...]), parts

    def _solve(self, f: Array, u: Array, first: Array, reverse: bool, *, xp: Namespace) -> Array:
        if reverse:
            f, u = xp.flip(f, axis=0), xp.flip(u, axis=0)
        s = self.solve(f, u, first, xp=xp)
        return xp.flip(s, axis=0) if reverse else s


def _joined(parts: list[Array], reverse: bool, *, xp: Namespace) -> Array:
    return xp.concat(parts[::-1] if reverse else parts) if len(parts) > 1 else parts[0]


def _shifted(s: Array, first: Array, reverse: bool, *, xp: Namespace) -> Array:
    """For each step the state before it."""
    before = first[None, ...]
    return xp.concat([s[1:, ...], before] if reverse else [before, s[:-1, ...]])


def _ends(like: Array, mask: Array | None, reverse: bool, *, xp: Namespace) -> tuple[Array, Array]:
    """Masks: the last step (T, B, 1) of each sequence; the sequences (B, 1) without any step."""
    if mask is None:
        mask = xp.ones_like(like[..., :1], dtype=xp.bool)
    out = xp.zeros_like(mask[:1, ...])
    after = xp.concat([out, mask[:-1, ...]] if reverse else [mask[1:, ...], out])
    return mask & ~after, ~xp.any(mask, axis=0)
