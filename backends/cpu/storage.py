"""The native loops for arrays of 16 bits: float16 and bfloat16, computed with in float32.

As in `xrnn.recurrence.storage`, h is rounded after every step, here by the extension, and c is
carried in float32.  Arrays are converted by the extension: NumPy takes many times longer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from xrnn import cells
from xrnn.backends.base import Kernel
from xrnn.backends.cpu import extension, options
from xrnn.backends.cpu.extension import Native
from xrnn.backends.cpu.residuals import Prepared, Residuals, Sums, plain
from xrnn.cells.base import Cell
from xrnn.typing import Array, Gradients, Namespace, State, Weights, dtype_name

#: dtype → its number in the extension
KINDS = {"float16": 1, "bfloat16": 2}

#: cells whose native loop keeps the outputs alone, by which the derivative would be wrong where
#: they are rounded to 1; the loop with options keeps more
OUTPUTS_ALONE: tuple[Cell[Any], ...] = (cells.Elman, cells.ElmanReLU)


class PreparedStored(dict[str, Array]):
    """The weights of one cell; those that never change also in float32, packed."""

    wide: Prepared | None = None


class StoredNative:
    """A native loop for arrays of 16 bits: a `xrnn.typing.Sequence` and a `xrnn.typing.Stepping`.

    States, and their gradients, may be given in float32: then those that are returned are too, and
    so are the gradients of weights.

    Parameters
    ----------
    loop : Native
        The loop that computes in float32.
    """

    def __init__(self, loop: Native) -> None:
        self.loop = loop

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
    ) -> tuple[Array, State, Residuals | None]:
        """As `xrnn.typing.Sequence.forward`; no size may be 0."""
        found = self.loop.forward(
            *(self._wide(weights), self.widened(xs), tuple(map(self.widened, state))),
            lengths=lengths,
            reverse=reverse,
            keep=keep,
            xp=xp,
            noise=noise and {name: self.widened(a) for name, a in noise.items()},
            storage=KINDS[dtype_name(xs.dtype)],
        )
        return self._outputs(found, xs.dtype, state[0].dtype)

    def forward_both(
        self,
        passes: list[tuple[Weights, State, bool]],
        xs: Array,
        *,
        lengths: Array | None,
        keep: bool,
        xp: Namespace,
    ) -> list[tuple[Array, State, Residuals | None]]:
        """As `xrnn.typing.BothDirections.forward_both`."""
        found = self.loop.forward_both(
            [(self._wide(w), tuple(map(self.widened, state)), way) for w, state, way in passes],
            self.widened(xs),
            lengths=lengths,
            keep=keep,
            xp=xp,
            storage=KINDS[dtype_name(xs.dtype)],
        )
        kind = passes[0][1][0].dtype
        return [self._outputs(one, xs.dtype, kind) for one in found]

    def _outputs(
        self, found: tuple[Array, State, Residuals | None], dtype: Any, kind: Any
    ) -> tuple[Array, State, Residuals | None]:
        """Results of the loop: outputs of this dtype, and a state of this kind."""
        ys, last, residuals = found
        return self.narrowed(ys, dtype), tuple([self.narrowed(s, kind) for s in last]), residuals

    def backward(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
        onto: Sums | None = None,
    ) -> Gradients:
        """As `xrnn.typing.Sequence.backward`, and `Native.backward`."""
        given = self._given(weights, residuals, dys, dstate)
        found = self.loop.backward(*given, xp=xp, onto=onto)
        return self._gradients(found, weights["W"].dtype, dstate[0].dtype)

    def backward_both(
        self, passes: list[tuple[Weights, Residuals, Array | None, State]], *, xp: Namespace
    ) -> list[Gradients]:
        """As `xrnn.typing.BothDirections.backward_both`."""
        found = self.loop.backward_both([self._given(*given) for given in passes], xp=xp)
        return [
            self._gradients(one, weights["W"].dtype, dstate[0].dtype)
            for one, (weights, _, _, dstate) in zip(found, passes, strict=True)
        ]

    def _given(
        self, weights: Weights, residuals: Residuals, dys: Array | None, dstate: State
    ) -> tuple[Weights, Residuals, Array | None, State]:
        """The arguments of `backward` for the loop."""
        wide = None if dys is None else self.widened(dys)
        return self._wide(weights), residuals, wide, tuple(map(self.widened, dstate))

    def _gradients(self, found: Gradients, dtype: Any, kind: Any) -> Gradients:
        """Gradients of the loop: that of the inputs in this dtype, and the others in float32 if
        states are of that kind."""
        dxs, dfirst, dweights = found
        if kind == np.float32:
            return self.narrowed(dxs, dtype), dfirst, dweights
        named = {name: self.narrowed(d, dtype) for name, d in dweights.items()}
        return self.narrowed(dxs, dtype), tuple([self.narrowed(d, dtype) for d in dfirst]), named

    def step(self, weights: Weights, x: Array, state: State) -> State:
        """As `xrnn.typing.Stepping.step`."""
        wide = self._wide(weights)
        if type(wide) is not Prepared:
            wide = self.loop.prepare(wide, fixed=False)
        new = self.loop.step(wide, self.widened(x), tuple(map(self.widened, state)))
        return tuple([self.narrowed(s, x.dtype) for s in new])

    def prepare(self, weights: Weights, *, fixed: bool) -> PreparedStored:
        """As `xrnn.typing.Stepping.prepare`.

        Weights that may change are converted at each pass, which so sees their changes.
        """
        prepared = PreparedStored(weights)
        if fixed:
            prepared.wide = self.loop.prepare(self._wide(weights), fixed=True)
        return prepared

    def _wide(self, weights: Weights) -> Weights:
        """The weights in float32."""
        if type(weights) is PreparedStored and weights.wide is not None:
            return weights.wide
        return {name: self.widened(w) for name, w in weights.items()}

    def widened(self, array: Array) -> Array:
        """The array in float32."""
        array = plain(array)
        if array.dtype == np.float32:
            return array
        out = np.empty(array.shape, np.float32)
        extension._native.widen(
            KINDS[dtype_name(array.dtype)], out.size, array.view(np.uint16), out
        )
        return out

    def narrowed(self, array: Array, dtype: Any) -> Array:
        """The array of float32 in a dtype, of 16 bits each number rounded to the nearest."""
        if dtype == np.float32:
            return array
        out = np.empty(array.shape, dtype)
        extension._native.narrow(KINDS[dtype_name(dtype)], out.size, array, out.view(np.uint16))
        return out


def kernels(cell: Cell[Any]) -> tuple[Kernel, ...]:
    """The kernel of a cell for arrays of 16 bits, if there is a native loop."""
    native = extension.kernels(cell)[:1]
    if native and cell in OUTPUTS_ALONE:
        loop = options.loop_of(options.USUAL[cell])
        assert loop is not None
        native = (replace(native[0], sequence=loop),)
    return tuple(map(stored, native))


def stored(kernel: Kernel) -> Kernel:
    """The kernel for arrays of 16 bits that a native loop for float32 serves."""
    assert isinstance(kernel.sequence, Native)
    loop = StoredNative(kernel.sequence)
    how: Any = {"path": kernel.path, "both": loop, "stepping": loop, "adds": True}
    return Kernel(loop, frozenset(KINDS), kernel.source, **how)
