"""The loop over time, forward and backward, for any cell: the reference for every kernel.

It uses a cell and an array namespace (`xp`, the functions of an array library), and does not
depend on backends.  What does not depend on the state is computed for all steps at once: W x_t + b
before the loop, and after the loop every weight gradient as one matrix product over all sequences
and steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import array_api_compat

from xrnn.cells.base import Cell
from xrnn.recurrence.masks import apply_mask, select_state, valid_mask
from xrnn.recurrence.precision import rounded_sum
from xrnn.recurrence.projection import input_projection, input_projection_backward
from xrnn.typing import Array, Contribution, Gradients, Namespace, State, Weights


class Residuals(NamedTuple):
    """What the backward pass needs of the forward pass: the inputs, what the cell saved at each
    step, the order of the steps, and which steps are valid."""

    xs: Array
    steps: list[Any]
    order: range
    mask: Array | None


@dataclass
class Trace:
    """A record of what a pass computes at each step; filled in by a pass that is given one."""

    #: forward: the state after each step; backward: the gradients of these states
    states: dict[int, State] = field(default_factory=dict)
    #: backward: at each step the gradients (B, G·H) of the pre-activations
    das: list[Array] = field(default_factory=list)


class Loop:
    """The loop over one cell, in the form of a `xrnn.typing.Sequence`.

    Parameters
    ----------
    cell : Cell
        One time step, forward and backward.
    """

    def __init__(self, cell: Cell[Any]) -> None:
        self.cell = cell

    def operand(self, a: Array, *, xp: Namespace) -> Array:
        """What the products for all steps, with W and for dW, multiply in the place of an array."""
        return a

    def _input_weights(self, weights: Weights, *, xp: Namespace) -> dict[str, Array]:
        return {**weights, "W": self.operand(weights["W"], xp=xp)}

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
        trace: Trace | None = None,
    ) -> tuple[Array, State, Residuals | None]:
        """As `xrnn.typing.Sequence.forward`.

        `noise` holds what the cell draws (`Cell.noise`): arrays (T, B, n), or (B, n) for what is
        drawn once; None in inference.
        """
        T = xs.shape[0]
        order = range(T - 1, -1, -1) if reverse else range(T)
        mask = None
        if lengths is not None:
            mask = valid_mask(T, lengths, xp=xp)
            # Values in the padding, even NaN, must not get into the sums over all steps.
            xs = apply_mask(mask, xs, xp=xp)
        given = self.operand(xs, xp=xp), self._input_weights(weights, xp=xp)
        axs = input_projection(*given, bias=not self.cell.bias_in_step, xp=xp)
        if mask is not None:
            axs = apply_mask(mask, axs, xp=xp)  # 0 · ∞ is NaN, if a weight is infinite
        ys, steps = [state[0]] * T, [None] * T
        for t in order:
            before = state if mask is None else _masked(mask[t, ...], state, xp=xp)
            now = weights if noise is None else {**weights, **_at(t, noise)}
            new, saved = self.cell.step(axs[t, ...], before, now, xp=xp)
            if mask is None:
                ys[t], state = new[0], new
            else:
                # Outside its valid steps a sequence keeps its state.  So in reverse it keeps the
                # given state until it starts at its own end.
                ys[t] = apply_mask(mask[t, ...], new[0], xp=xp)
                state = select_state(mask[t, ...], new, state, xp=xp)
            if keep:
                steps[t] = saved
            if trace is not None:
                trace.states[t] = state
        rows = xp.concat(ys) if T else state[0][:0, :]
        out = xp.reshape(rows, (T, *state[0].shape))
        # A copy, because the cell may have kept these same arrays for backward, or have returned
        # what it was given.
        state = tuple(xp.asarray(s, copy=True) for s in state)
        return out, state, Residuals(xs, steps, order, mask) if keep else None

    def backward(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
        trace: Trace | None = None,
    ) -> Gradients:
        """As `xrnn.typing.Sequence.backward`."""
        xs, steps, _, mask = residuals
        if not steps:
            dstate = tuple(xp.asarray(d, copy=True) for d in dstate)
            return xp.zeros_like(xs), dstate, {k: xp.zeros_like(w) for k, w in weights.items()}
        daxs, dstate, parts = self._over_time(weights, residuals, dys, dstate, trace, xp=xp)
        valid = None if mask is None else xp.reshape(mask, (-1, 1))
        das = _joined(daxs, valid, xp=xp)  # (T·B, G·H)
        # dxs last: allocated first, this large array would be given the recently freed memory that
        # is still in the CPU's cache.
        gradients = {name: _summed(part, daxs, das, valid, xp=xp) for name, part in parts.items()}
        left, right = self.operand(das, xp=xp), self.operand(xs, xp=xp)
        W = self._input_weights(weights, xp=xp)
        dxs, dweights = input_projection_backward(left, right, W, bias=False, xp=xp)
        if not self.cell.bias_in_step:
            dweights["b"] = rounded_sum(das, axis=0, xp=xp)
        if mask is not None:
            dxs = apply_mask(mask, dxs, xp=xp)
        return dxs, dstate, dweights | gradients

    def contributions(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> tuple[Array, State, dict[str, Contribution]]:
        """As `backward`, but instead of the gradients of the weights what every step of every
        sequence adds to them: contributions of arrays (T, B, n)."""
        xs, steps, _, mask = residuals
        T, B, _ = xs.shape
        if not steps:
            shapes = {name: (0, B, prod(w.shape)) for name, w in weights.items()}
            like: Any = {"dtype": xs.dtype, "device": array_api_compat.device(xs)}
            nothing = {name: xp.zeros(shape, **like) for name, shape in shapes.items()}
            return xp.zeros_like(xs), tuple(xp.asarray(d, copy=True) for d in dstate), nothing
        daxs, dstate, parts = self._over_time(weights, residuals, dys, dstate, None, xp=xp)
        valid = None if mask is None else xp.reshape(mask, (-1, 1))

        def whole(rows: Sequence[Array]) -> Array:
            joined = _joined(rows, valid, xp=xp)
            return xp.reshape(joined, (T, B, joined.shape[-1]))

        das, found = whole(daxs), {}
        for name, part in parts.items():
            if isinstance(part[0], tuple):
                pairs = [zip(*block, strict=True) for block in zip(*part, strict=True)]
                found[name] = tuple((whole(rows), whole(operands)) for rows, operands in pairs)
            else:
                found[name] = whole(part)
        bias = {} if self.cell.bias_in_step else {"b": das}
        left, W = self.operand(das, xp=xp), self._input_weights(weights, xp=xp)["W"]
        dxs = xp.reshape(xp.reshape(left, (T * B, das.shape[-1])) @ W, xs.shape)
        if mask is not None:
            dxs = apply_mask(mask, dxs, xp=xp)
        return dxs, dstate, {"W": ((left, self.operand(xs, xp=xp)),), **bias, **found}

    def _over_time(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        trace: Trace | None,
        *,
        xp: Namespace,
    ) -> tuple[list[Array], State, dict[str, list[Contribution]]]:
        """The loop of the backward pass: the gradients (B, G·H) of the pre-activations of each
        step, those of the first state, and what each step adds to those of the weights."""
        _, steps, order, mask = residuals
        if mask is not None and dys is not None:
            dys = apply_mask(mask, dys, xp=xp)
        daxs: list[Array] = [None] * len(steps)
        parts: dict[str, list[Contribution]] = {}
        for t in reversed(order):
            dh, *drest = dstate
            dnew = (dh if dys is None else dh + dys[t, ...], *drest)
            if mask is not None:
                dnew = _masked(mask[t, ...], dnew, xp=xp)
            if trace is not None:
                trace.states[t] = dnew
            daxs[t], dprev, dweights = self.cell.step_backward(dnew, steps[t], weights, xp=xp)
            dstate = dprev if mask is None else select_state(mask[t, ...], dprev, dstate, xp=xp)
            for name, part in dweights.items():
                parts.setdefault(name, [None] * len(steps))[t] = part
        check_names(self.cell, weights, parts)
        if trace is not None:
            trace.das = daxs
        return daxs, tuple(xp.asarray(d, copy=True) for d in dstate), parts


def _at(t: int, noise: Weights) -> Weights:
    """What belongs to step t."""
    return {name: a[t, ...] if a.ndim == 3 else a for name, a in noise.items()}


def _masked(mask: Array, state: State, *, xp: Namespace) -> State:
    """The state, or its gradients, where mask (B, 1) is True, and 0 elsewhere."""
    return tuple(apply_mask(mask, s, xp=xp) for s in state)


def _joined(rows: Sequence[Array], valid: Array | None, *, xp: Namespace) -> Array:
    """The rows (B, n) of all steps as one array (T·B, n), 0 where valid (T·B, 1) is False.

    They are 0 there anyway unless a weight is infinite or NaN.
    """
    joined = xp.concat(rows)
    return joined if valid is None else apply_mask(valid, joined, xp=xp)


def _summed(
    parts: list[Contribution],
    daxs: list[Array],
    das: Array,
    valid: Array | None,
    *,
    xp: Namespace,
) -> Array:
    """The gradient of one weight: the sum of the contributions of all valid steps."""
    if not isinstance(parts[0], tuple):
        return rounded_sum(_joined(parts, valid, xp=xp), axis=0, xp=xp)
    blocks = []
    for block in zip(*parts, strict=True):
        rows, operands = zip(*block, strict=True)
        # In most cells the gradient of U uses the same rows as that of W: they are concatenated.
        left = das if rows[0] is daxs[0] else _joined(rows, valid, xp=xp)
        blocks.append(left.T @ _joined(operands, valid, xp=xp))
    return xp.concat(blocks) if len(blocks) > 1 else blocks[0]


def check_names(cell: Cell[Any], weights: Weights, parts: dict[str, Any]) -> None:
    """Raise ValueError unless the backward step gave the gradient of each weight it must give."""
    outside = ("W",) if cell.bias_in_step else ("W", "b")
    needed = [name for name in weights if name not in outside]
    if any(name not in parts for name in needed) or any(name not in weights for name in parts):
        raise ValueError(
            f"{cell.name}: step_backward gives gradients of the weights ({', '.join(parts)}); it "
            f"must give one for each that step itself uses, ({', '.join(needed)})"
        )
