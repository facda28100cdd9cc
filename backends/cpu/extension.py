"""The native loops: what stands behind the wide door where the extension was built.

Memory, and what the extension is told, is decided here; ``native/*.h`` compute.  Without the
extension (`ABSENT` says why) the loops that are written in NumPy serve.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from xrnn import cells
from xrnn.backends import Fixed, Sequences
from xrnn.backends.cpu.loops import DTYPES
from xrnn.backends.cpu.threads import introduce, threads
from xrnn.cells.base import Cell
from xrnn.typing import Array, Namespace, State, Weights

_native: Any = None
if os.environ.get("XRNN_NATIVE") == "0":
    ABSENT = "the native loops are off (XRNN_NATIVE=0)"
else:
    try:
        _native, ABSENT = importlib.import_module("xrnn.backends.cpu._native"), ""
    except ImportError as error:
        ABSENT = f"the native loops are not built ({error})"

introduce()

#: cell → its number in the extension, and the blocks of H that it keeps of a step
CODES: dict[Cell, tuple[int, int]] = {
    cells.BY_NAME[name]: (code, saved)
    for code, (name, _, saved) in enumerate(_native.cells() if _native else ())
}

#: what a proof is a proof of: the compiled code, and the part of it that runs here
SOURCE = ""
if _native is not None:
    _file = Path(_native.__file__).stat()
    SOURCE = f"{_native.isa()} {_file.st_size} {_file.st_mtime_ns}"


@dataclass
class Run:
    """What backward needs of forward; `gates` are None where none are kept, or once it has run."""

    xs: Array
    first: State
    lengths: Array | None
    reverse: bool
    ys: Array
    gates: Array | None
    cs: Array | None


class Native:
    """One cell's whole loop by the extension, in the form of `xrnn.loop.Loop`."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.code, self.kept = CODES[cell]

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
    ) -> tuple[Array, State, Run | None]:
        """As `xrnn.loop.Loop.forward`, for at least one value."""
        (T, B, I), H = xs.shape, state[0].shape[1]
        first = tuple(map(_plain, state))
        run = Run(
            _plain(xs),
            first,
            lengths,
            reverse,
            np.empty((T, B, H), xs.dtype),
            None,
            None,
        )
        if keep and self.kept:
            run.gates = np.empty((T, B, self.kept * H), xs.dtype)
            if len(state) == 2:
                run.cs = np.empty((T, B, H), xs.dtype)
        last = tuple(map(np.empty_like, first))
        _native.forward(
            *(self.code, T, B, I, H, run.xs),
            *_dense(weights, "W", "U", "b", "v"),
            *(lengths, reverse, first[0], _second(first)),
            *(run.ys, last[0], _second(last), run.gates, run.cs, threads()),
        )
        return run.ys, last, run if keep else None

    def backward(
        self,
        weights: Weights,
        saved: Run,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> tuple[Array, State, dict[str, Array]]:
        """As `xrnn.loop.Loop.backward`.  Gradients take the place of the gates they are of, so
        a second pass back first goes forward again."""
        if self.kept and saved.gates is None:
            how = {"lengths": saved.lengths, "reverse": saved.reverse, "keep": True, "xp": xp}
            again = self.forward(weights, saved.xs, saved.first, **how)[2]
            assert again is not None
            saved = again
        (T, B, I), H = saved.xs.shape, saved.first[0].shape[1]
        # Given away: nobody can use the gates again once their gradients stand there.
        gates, saved.gates = saved.gates, None
        das = np.empty((T, B, H), saved.xs.dtype) if gates is None else gates
        # A copy each: the extension writes the gradient of the first state over that of the last.
        carried = tuple(np.array(d, order="C") for d in dstate)
        dxs = np.empty_like(saved.xs)
        dweights = {k: np.empty(w.shape, w.dtype) for k, w in weights.items()}
        _native.backward(
            *(self.code, T, B, I, H, *_dense(weights, "W", "U"), gates, saved.cs, saved.ys),
            *(saved.first[0], _second(saved.first)),
            *(None if dys is None else _plain(dys), saved.lengths, saved.reverse),
            *(carried[0], _second(carried), das, dxs),
            *(dweights.get(name) for name in ("W", "U", "b", "v")),
            *(saved.xs, threads()),
        )
        return dxs, carried, dweights


def _second(state: State) -> Array | None:
    return state[1] if len(state) == 2 else None


def _plain(array: Array) -> Array:
    """The same values as an array that C can walk: contiguous and aligned."""
    array = np.ascontiguousarray(array)
    return array if array.flags.aligned else array.copy()


def _dense(weights: Weights, *names: str) -> list[Array | None]:
    """Weights as the extension takes them; None for one that the cell does not have."""
    return [_plain(weights[n]) if n in weights else None for n in names]


def notes() -> list[str]:
    """For `xrnn info`: what runs, or why it does not."""
    if _native is None:
        return [ABSENT]
    return [f"native loops: {_native.isa()}, {threads()} threads"]


#: multiplications below which more threads are never worth their start
SMALL = 1 << 21


class Direct:
    """A layer run with the least delay: nothing is looked at twice, least of all in Python.

    Parameters
    ----------
    cell : Cell
    dtype : numpy.dtype
        Of everything.
    sizes : (int, int, int)
        Layers, inputs and hidden units; one direction.
    bias : bool
        Whether the cells have biases.
    """

    def __init__(self, cell: Cell, dtype: Any, sizes: tuple[int, int, int], bias: bool) -> None:
        self.L, I, self.H = sizes
        self.code, state = CODES[cell][0], cell.state(cell.states)
        self.inputs = (I, *(self.H,) * (self.L - 1))
        self.key = (self.code, *sizes, bias)
        self.cost = len(cell.gates) * self.H * sum(n + self.H for n in self.inputs)
        names, own = ("W", "U", "b", "v"), cell.shapes(I, self.H, bias)
        self.names = [tuple(f"{n}_l{k}" if n in own else "" for n in names) for k in range(self.L)]
        zeros = {n: np.zeros(s, dtype) for n, s in cell.shapes(I, self.H).items() if n not in own}
        #: what stands for the weights that the layer does not have
        self.absent = [zeros.get(n) for n in names]
        self.two, self.make = len(cell.states) == 2, getattr(type(state), "_make")  # noqa: B009

    def step(self, weights: Weights, x: Array, state: State) -> tuple[Array, State] | None:
        """One time step; None if what is given is out of the ordinary."""
        if type(x) is not np.ndarray or not isinstance(state, tuple):
            return None  # a subclass may mean more than its numbers
        try:
            h, c = state if self.two else (*state, None)
            shape, dtype, B = h.shape, x.dtype, len(x)
            if x.ndim != 2 or shape != (self.L, B, self.H) or (self.two and c.shape != shape):
                return None
            new_h = np.empty(shape, dtype)
            new_c = np.empty(shape, dtype) if self.two else None
            get, packs = weights.get, self._packs(weights) if type(weights) is Fixed else None
            for k, names in enumerate(self.names):
                h_k, c_k, new_h_k, new_c_k = self._of(k, h, c, new_h, new_c)
                W, U, b, v = packs[k] if packs else map(get, names, self.absent)
                sizes = (B, self.inputs[k], self.H)
                _native.step(self.code, *sizes, x, W, U, b, v, h_k, c_k, new_h_k, new_c_k)
                x = new_h_k
        except (AttributeError, BufferError, TypeError, ValueError):
            return None
        # A copy: what is done to y must not reach the state.
        return new_h[-1].copy(), self.make((new_h, new_c) if self.two else (new_h,))

    def run(self, weights: Weights, xs: Array, state: State | None) -> tuple[Array, State] | None:
        """Inference over sequences (T, B, I); None if what is given is out of the ordinary."""
        if type(xs) is not np.ndarray or not (state is None or isinstance(state, tuple)):
            return None
        try:
            T, B, _ = xs.shape
            xs = np.ascontiguousarray(xs)
            shape, dtype, H = (self.L, B, self.H), xs.dtype, self.H
            if state is None:
                h = np.zeros(shape, dtype)
                c = h if self.two else None
            else:
                h, c = state if self.two else (*state, None)
                if h.shape != shape or (self.two and c.shape != shape):
                    return None
            n = threads() if T * B * self.cost > SMALL else 1
            last_h = np.empty(shape, dtype)
            last_c = np.empty(shape, dtype) if self.two else None
            get, packs = weights.get, self._packs(weights) if type(weights) is Fixed else None
            for k, names in enumerate(self.names):
                h_k, c_k, last_h_k, last_c_k = self._of(k, h, c, last_h, last_c)
                W, U, b, v = packs[k] if packs else map(get, names, self.absent)
                sizes, ys = (T, B, self.inputs[k], H), np.empty((T, B, H), dtype)
                outputs = (ys, last_h_k, last_c_k, None, None, n)
                _native.forward(self.code, *sizes, xs, W, U, b, v, None, False, h_k, c_k, *outputs)
                xs = ys
        except (AttributeError, BufferError, TypeError, ValueError):
            return None
        return xs, self.make((last_h, last_c) if self.two else (last_h,))

    def _packs(self, weights: Fixed) -> list[tuple[Any, ...]]:
        """For each layer what stands for W, U, b and v: one pack of them, made at the first use."""
        packs: list[tuple[Any, ...]] | None = weights.made.get(self.key)
        if packs is None:
            sizes = [(self.code, I, self.H) for I in self.inputs]
            packs = [
                (_native.pack(*size, *map(weights.get, names, self.absent)), None, None, None)
                for size, names in zip(sizes, self.names, strict=True)
            ]
            weights.made[self.key] = packs
        return packs

    def _of(self, k: int, *states: Array | None) -> Any:
        """Layer k's part of each."""
        if self.L == 1:
            return states
        return [None if a is None else a[k] for a in states]


def direct(cell: Cell, dtype: Any, sizes: tuple[int, int, int], bias: bool) -> Direct | None:
    """What runs a layer of this cell, if the extension does and its step agrees with its loop."""
    if _native is None or cell not in CODES or dtype not in DTYPES or not _agrees(cell, dtype):
        return None
    return Direct(cell, dtype, sizes, bias)


@cache
def _agrees(cell: Cell, dtype: Any) -> bool:
    """Whether a step is bit for bit the loop over one step, and packed weights change no bit."""
    rng, (I, H), B = np.random.default_rng(0), (4, 16), 2
    one = Direct(cell, dtype, (1, I, H), True)
    weights = {
        f"{name}_l0": (rng.normal(size=shape) / H).astype(dtype)
        for name, shape in cell.shapes(I, H).items()
    }
    xs = rng.normal(size=(1, B, I)).astype(dtype)
    state = tuple(rng.normal(size=(1, B, H)).astype(dtype) for _ in cell.states)
    run = one.run(weights, xs, state)
    for other in (weights, Fixed(weights)):
        for found in (one.step(other, xs[0], state), one.run(other, xs, state)):
            if run is None or found is None:
                return False
            if not all(np.array_equal(a, b) for a, b in zip(found[1], run[1], strict=True)):
                return False
    return True


def entry(cell: Cell) -> tuple[Sequences, ...]:
    """The cell's native loop, if there is one and the extension was built."""
    if _native is None or cell not in CODES:
        return ()
    loop = Native(cell)
    words = f"native loop, {_native.isa()}"
    return (Sequences(loop.forward, loop.backward, DTYPES, SOURCE, path=lambda T, B, I, H: words),)
