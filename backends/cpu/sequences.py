"""Whole sequences in NumPy: the buffers of a pass, and the code that the loops of all cells share.

The time of a small step is that of its NumPy calls, about a quarter of a microsecond each; the
time of a large step is that of its matrix products.  So everything that does not depend on the
state is computed for a block of steps at once, small enough for the cache of a core: W x_t + b in
the forward pass, and the factors of the gradients in the backward pass.  The loops over single
steps contain only products and a few calls, without lookups of names or allocations.

Gates are stored one after the other, each (B, H), so that every call reads contiguous memory; only
the arguments and results of matrix products are rows (B, n·H).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from xrnn.backends import host
from xrnn.recurrence.masks import apply_mask, valid_mask
from xrnn.typing import Array, Gradients, Namespace, State, Weights

#: the number of values of one gate in a block: its dozen arrays fit into the cache of a core
BLOCK = 16384

#: the smallest number of rows in the matrix product of a block
ROWS = 256

#: for a loop in which σ(a) is 1 / (1 + e^-a): e^-a may be infinite, σ is 0 then.  Where a is large
#: and negative, ½ + ½ tanh(½ a) would cancel.
ignore_overflow = np.errstate(over="ignore")


@dataclass
class Residuals:
    """The arguments of a pass, and what it keeps for backward, in the order of time.

    - hs, cs (T+1, B, H): the states.  Slot 0 holds the given state and slot t+1 the one after
      step t; in reverse slot T holds the given state and slot t the one after step t
    - kept: the other values that the cell keeps.  Backward overwrites them with gradients, so
      `take` returns them only once; a later backward pass first runs forward again
    """

    xs: Array
    first: State
    lengths: Array | None
    reverse: bool
    mask: Array | None
    hs: Array
    cs: Array
    kept: list[tuple[Array, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.T, self.B, _ = self.xs.shape
        self.H = self.hs.shape[-1]
        #: the shape of a state in the loop; without the axis of a batch of one, to save time
        self.shape = (self.H,) if self.B == 1 else (self.B, self.H)
        steps = min(self.T, max(BLOCK // (self.B * self.H), ROWS // self.B, 1))
        parts = [slice(t, min(t + steps, self.T)) for t in range(0, self.T, steps)]
        self.longest, self.parts = steps, parts[::-1] if self.reverse else parts

    def take(self) -> tuple[Array, ...] | None:
        """What the cell kept; None if it was taken before, in this or another thread."""
        if self.kept == [()]:
            return ()
        try:
            return self.kept.pop()
        except IndexError:
            return None

    def empty(self, *shape: int) -> Array:
        """A new array with the dtype of the inputs, not initialised."""
        return np.empty(shape, self.xs.dtype)

    def full(self, values: Array) -> Array:
        """Values (n, H) or (H,) repeated for each sequence: contiguous (n, B, H) or (B, H)."""
        if self.B == 1:
            return np.ascontiguousarray(values)
        shape = (*values.shape[:-1], self.B, self.H)
        return np.broadcast_to(values[..., None, :], shape).copy()

    def before(self, states: Array) -> Array:
        """(T, B, H): the state before each step."""
        return states[1:] if self.reverse else states[:-1]

    def after(self, states: Array) -> Array:
        """(T, B, H): the state after each step."""
        return states[:-1] if self.reverse else states[1:]

    def around(self, states: Array, part: slice) -> tuple[Array, Array]:
        """`before` and `after` of a block, in the order of its steps."""
        return self.along(self.before(states)[part]), self.along(self.after(states)[part])

    def along(self, a: Array) -> Array:
        """(steps, …, B, n) in the order in which the steps run, without the axis B if B is 1."""
        if self.B == 1:
            a = a.reshape(*a.shape[:-2], a.shape[-1])
        return a[::-1] if self.reverse else a

    def from_last(self, a: Array) -> Array:
        """As `along`, from the last step to the first."""
        return self.along(a)[::-1]

    def ended(self, part: slice, backward: bool = False) -> Iterable[Array | None]:
        """For each step of a block which sequences have ended, (B, 1); None if none has."""
        if self.mask is None:
            return repeat(None)
        ended = self.along(~self.mask[part])
        return [out if out.any() else None for out in (ended[::-1] if backward else ended)]

    def product(self, n: int) -> tuple[Array, Array]:
        """A new array of rows (B, n·H), and a view of it by gate (n, B, H)."""
        p = self.empty(1, self.B, n * self.H)
        return self.along(p)[0], self.along(by_row(p, n))[0]


def by_gate(a: Array, n: int) -> Array:
    """View (steps, B, n·H) as (steps, n, B, H): the gates of a step lie one after the other."""
    steps, B, width = a.shape
    return a.reshape(steps, n, B, width // n)


def by_row(a: Array, n: int) -> Array:
    """View (steps, B, n·H) as (steps, n, B, H): the gates lie side by side in each row."""
    steps, B, width = a.shape
    return a.reshape(steps, B, n, width // n).swapaxes(1, 2)


class NumpyLoop:
    """One cell over whole sequences in NumPy, in the form of a `xrnn.typing.Sequence`.

    Subclasses define what a cell keeps (`memory`), how it runs a block of steps forward and
    backward (`steps`, `steps_backward`), and how the gradients of its weights are computed
    (`gradients`).  A loop has no state of its own, so threads may share it.
    """

    @host.ignore_underflow
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
        """As `xrnn.typing.Sequence.forward`; no size may be 0."""
        run = _open(xs, state, lengths, reverse)
        kept = self.memory(run, run.T if keep else run.longest)
        pre = run.empty(run.longest, run.B, len(weights["b"]))
        for part in run.parts:
            n = part.stop - part.start
            _input_projection(run.xs[part], weights, pre[:n])
            now = tuple(a[part] if keep else a[:n] for a in kept)
            self.steps(run, weights, part, pre[:n], now)
        run.kept.append(kept)
        ys = run.after(run.hs)
        if run.mask is not None:
            # Past the end `hs` holds the last state, but outputs must be 0 there.
            ys = apply_mask(run.mask, ys, xp=np)
        # Copies, because a view would keep the memory of all steps alive.
        end = 0 if reverse else -1
        last = tuple(a[end].copy() for a in (run.hs, run.cs)[: len(state)])
        return ys, last, run if keep else None

    @host.ignore_underflow
    def backward(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> Gradients:
        """As `xrnn.typing.Sequence.backward`.

        Gradients overwrite what was kept, so a second backward pass first runs forward again.
        """
        saved = run = residuals
        kept = saved.take()
        if kept is None:
            _, _, again = self.forward(
                weights,
                saved.xs,
                saved.first,
                lengths=saved.lengths,
                reverse=saved.reverse,
                keep=True,
                xp=xp,
            )
            assert again is not None
            run, kept = again, again.kept.pop()
        if dys is not None and run.mask is not None:
            dys = apply_mask(run.mask, dys, xp=np)
        kept = (*kept, *self.room(run))
        carried = tuple(d.reshape(run.shape).copy() for d in dstate)
        for part in reversed(run.parts):
            dy: Iterable[Array | None] = repeat(None) if dys is None else run.from_last(dys[part])
            now = tuple(a[part] for a in kept)
            carried = self.steps_backward(run, weights, part, now, dy, carried)
        dxs, dweights = self.gradients(run, weights, kept)
        if run.mask is not None:
            # They are 0 in the padding anyway unless a weight is infinite or NaN.
            dxs = apply_mask(run.mask, dxs, xp=np)
        dfirst = tuple(d.reshape(run.B, run.H) for d in carried)
        return dxs, dfirst, dweights

    def memory(self, run: Residuals, steps: int) -> tuple[Array, ...]:
        """New buffers (steps, B, …) for the values that the cell keeps besides its states."""
        raise NotImplementedError

    def room(self, run: Residuals) -> tuple[Array, ...]:
        """New buffers (T, B, …) that only backward needs."""
        return ()

    def steps(
        self, run: Residuals, weights: Weights, part: slice, pre: Array, kept: tuple[Array, ...]
    ) -> None:
        """Run a block of steps: from W x + b (`pre`, which may be written to) compute the states
        and fill `kept`."""
        raise NotImplementedError

    def steps_backward(
        self,
        run: Residuals,
        weights: Weights,
        part: slice,
        kept: tuple[Array, ...],
        dys: Iterable[Array | None],
        carried: State,
    ) -> State:
        """The same block, backward: overwrite `kept` with gradients, and return the gradients of
        the state before the block.  `carried`, those of the state after it, may be written to."""
        raise NotImplementedError

    def gradients(
        self, run: Residuals, weights: Weights, kept: tuple[Array, ...]
    ) -> tuple[Array, dict[str, Array]]:
        """dxs and the gradients of the weights, from what `steps_backward` wrote to `kept`.  Here
        its first array must hold the gradients of W x + U h + b."""
        das, *_ = kept
        dxs, dweights = input_gradients(run, weights, das)
        return dxs, dweights | {"U": product_gradients(das, run.before(run.hs))}


def _open(xs: Array, state: State, lengths: Array | None, reverse: bool) -> Residuals:
    """The residuals at the start: the given states in their slots, the padding of xs zero."""
    mask = None
    if lengths is not None:
        mask = valid_mask(len(xs), lengths, xp=np)
        # Values in the padding, even NaN, must not get into the sums over all steps.
        xs = apply_mask(mask, xs, xp=np)
    xs = np.ascontiguousarray(xs)
    shape = (len(xs) + 1, *state[0].shape)
    states = [np.empty(shape, xs.dtype) for _ in state]
    for slots, given in zip(states, state, strict=True):
        slots[-1 if reverse else 0] = given
    hs, cs, *_ = (*states, None)
    return Residuals(xs, state, lengths, reverse, mask, hs, cs)


def _input_projection(xs: Array, weights: Weights, out: Array) -> None:
    """out = W x_t + b, for a block of steps."""
    rows = out.reshape(-1, out.shape[-1])
    np.matmul(xs.reshape(-1, xs.shape[-1]), weights["W"].T, out=rows)
    np.add(rows, weights["b"], rows)


def product_gradients(das: Array, operand: Array) -> Array:
    """Σ da operandᵀ over sequences and steps: the gradient of the weight between them."""
    flat = das.reshape(-1, das.shape[-1])
    return flat.T @ operand.reshape(len(flat), -1)


def input_gradients(run: Residuals, weights: Weights, das: Array) -> tuple[Array, dict[str, Array]]:
    """The gradients of xs, W and b from those of the pre-activations, das (T, B, G·H)."""
    flat = das.reshape(-1, das.shape[-1])
    dxs = (flat @ weights["W"]).reshape(run.xs.shape)
    return dxs, {"W": product_gradients(das, run.xs), "b": flat.sum(axis=0)}
