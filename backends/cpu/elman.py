"""Elman's network over whole sequences in NumPy; equations as in `xrnn.cells.elman`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from xrnn.backends.cpu.sequences import NumpyLoop, Residuals
from xrnn.typing import Array, State, Weights


class ElmanLoop(NumpyLoop):
    """With tanh.  Nothing is kept but the states, so a backward pass uses nothing up."""

    def memory(self, run: Residuals, steps: int) -> tuple[Array, ...]:
        return ()

    def room(self, run: Residuals) -> tuple[Array, ...]:
        return (run.empty(run.T, run.B, run.H),)

    def steps(
        self, run: Residuals, weights: Weights, part: slice, pre: Array, kept: tuple[Array, ...]
    ) -> None:
        U, (p, _) = weights["U"].T, run.product(1)
        activation, more = self.activation(run)
        h_before, h_after = run.around(run.hs, part)
        outside = run.ended(part)
        dot, add = np.dot, np.add
        for a, h_prev, h, out in zip(run.along(pre), h_before, h_after, outside, strict=False):
            dot(h_prev, U, p)
            add(p, a, h)
            activation(h, *more, out=h)  # (1), (2)
            if out is not None:
                np.copyto(h, h_prev, where=out)

    def steps_backward(
        self,
        run: Residuals,
        weights: Weights,
        part: slice,
        kept: tuple[Array, ...],
        dys: Iterable[Array | None],
        carried: State,
    ) -> State:
        (das,), (dh,), U = kept, carried, weights["U"]
        self.slope(run.after(run.hs)[part], das)
        dh_prev = run.empty(*run.shape)
        outside = run.ended(part, backward=True)
        add, dot, multiply = np.add, np.dot, np.multiply
        for da, dy, out in zip(run.from_last(das), dys, outside, strict=False):
            if dy is not None:
                add(dh, dy, dh)
            multiply(dh, da, da)
            if out is not None:
                np.copyto(da, 0, where=out)
            dot(da, U, dh_prev)
            if out is not None:
                np.copyto(dh_prev, dh, where=out)
            dh, dh_prev = dh_prev, dh
        return (dh,)

    def activation(self, run: Residuals) -> tuple[Any, tuple[Array, ...]]:
        """A function and what it takes besides a."""
        return np.tanh, ()

    def slope(self, h: Array, out: Array) -> None:
        """out = dh/da, as in `xrnn.cells.activations`."""
        np.multiply(h, h, out)
        np.subtract(1, out, out)


class ElmanReLULoop(ElmanLoop):
    """With ReLU."""

    def activation(self, run: Residuals) -> tuple[Any, tuple[Array, ...]]:
        return np.maximum, (np.zeros(run.shape, run.xs.dtype),)

    def slope(self, h: Array, out: Array) -> None:
        np.copyto(out, h > 0)
