"""The native loops: sequence kernels in C, where the extension was built.

This module allocates memory and prepares the arguments of the extension; the computations are in
``native/*.h``.  Without the extension (`ABSENT` says why) the kernels written in NumPy are used.
"""

from __future__ import annotations

import hashlib
import importlib
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xrnn.backends import environment
from xrnn.backends.base import Kernel
from xrnn.backends.cpu.loops import DTYPES
from xrnn.backends.cpu.residuals import NOISE, WALKABLE, Prepared, Residuals, Sums, plain
from xrnn.backends.cpu.threads import threads
from xrnn.cells import BY_NAME
from xrnn.cells.base import Cell
from xrnn.typing import Array, Contribution, Gradients, Namespace, State, Weights

_native: Any = None
if not environment.switch("XRNN_NATIVE", True):
    ABSENT = "the native loops are off (XRNN_NATIVE)"
else:
    try:
        # As a module: where it is not there, the message then is no riddle about circular imports.
        _native = importlib.import_module("xrnn.backends.cpu._native")
        ABSENT = ""
    except ImportError as error:
        ABSENT = f"the native loops are not built ({error})"
if _native is not None and (_isa := environment.choice("XRNN_ISA", _native.isas())):
    _native.isa(_isa)

threads()  # so that a wrong XRNN_NUM_THREADS is refused now, and not by the first large pass


#: the options that decide which weights a cell has; the others are numbers
STRUCTURE = frozenset(
    {"coupled", "peephole", "proj_size", "layer_norm=products", "layer_norm=gates"}
)


class Code(NamedTuple):
    """A cell as the extension knows it.

    - number: its place in the table of the extension
    - gates: how many blocks of rows W, U and b have
    - kept: how many arrays (B, H) of each step are kept for backward
    - two: whether there is a second state c
    - extras: the weights besides W, U and b, in the order in which the extension takes them
    - sums: how many values of H are summed for each sequence, see ``rows`` of the extension
    - options: the names of the options that the cell has or takes, with spaces between them
    """

    number: int
    gates: int
    kept: int
    two: bool
    extras: tuple[str, ...]
    sums: int
    options: str


#: cell without options → what the extension knows of it
CODES: dict[Cell[Any], Code] = {}
#: name of a cell, and which options it has in its equations → the loop of such cells
WITH_OPTIONS: dict[tuple[str, frozenset[str]], Code] = {}
for _number, (_name, *_about) in enumerate(() if _native is None else _native.cells()):
    _code = Code(_number, *_about)
    if _code.options:
        WITH_OPTIONS[_name, STRUCTURE.intersection(_code.options.split())] = _code
    elif _name in BY_NAME:
        CODES[BY_NAME[_name]] = _code

#: the number of multiplications up to which one thread is used: starting more costs more time
SMALL = 1 << 21


@cache
def source() -> str:
    """The identity of the compiled code, and the instruction set that is chosen here."""
    return f"{_native.isa()} {hashlib.sha256(Path(_native.__file__).read_bytes()).hexdigest()}"


class Native:
    """One cell run by the extension: a `xrnn.typing.Sequence` and a `xrnn.typing.Stepping`.

    Parameters
    ----------
    code : Code
        The cell.
    numbers : array, optional
        The options of a cell that takes some, as `xrnn.backends.cpu.options` gives them.
    """

    def __init__(self, code: Code, numbers: Array | None = None) -> None:
        #: the first arguments of every call: the cell, the rounding of products, and options
        self.head: tuple[Any, ...] = (code.number, 0, *(() if numbers is None else (numbers,)))
        self.gates, self.kept, self.two, self.extras = code.gates, code.kept, code.two, code.extras
        self.names, self.sums = ("W", "U", "b", *self.extras), code.sums
        #: the weights that backward takes
        self.used = ("W", "U", *(("b",) if "layer_norm" in code.options else ()), *self.extras)
        self.drawn = () if numbers is None else NOISE

    def rounded(self) -> Native:
        """The same loop with products of bfloat16."""
        loop = copy(self)
        loop.head = (self.head[0], 1, *self.head[2:])
        return loop

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
        storage: int = 0,
    ) -> tuple[Array, State, Residuals | None]:
        """As `xrnn.typing.Sequence.forward`; no size may be 0.

        Each h is rounded to numbers that `storage` can hold, see ``widen`` of the extension.
        """
        call, found = self._forward(weights, xs, state, lengths, reverse, keep, noise, storage)
        _native.forward(*call)
        return found

    def forward_both(
        self,
        passes: list[tuple[Weights, State, bool]],
        xs: Array,
        *,
        lengths: Array | None,
        keep: bool,
        xp: Namespace,
        storage: int = 0,
    ) -> list[tuple[Array, State, Residuals | None]]:
        """As `xrnn.typing.BothDirections.forward_both`: large passes at once, on half of the
        threads each, unless they need the caches of all (see ``native/pairs.h``)."""
        xs = plain(xs)
        (first, one), (second, other) = [
            self._forward(weights, xs, state, lengths, reverse, keep, storage=storage)
            for weights, state, reverse in passes
        ]
        _native.forward_both(len(first), *first, *second)
        return [one, other]

    def _forward(
        self,
        weights: Weights,
        xs: Array,
        state: State,
        lengths: Array | None,
        reverse: bool,
        keep: bool,
        noise: Weights | None = None,
        storage: int = 0,
    ) -> tuple[tuple[Any, ...], tuple[Array, State, Residuals | None]]:
        """The arguments of a call of the extension, and what is complete after it."""
        h0, c0 = state if self.two else (*state, None)
        seen = xs.flags.num & h0.flags.num & (WALKABLE if c0 is None else c0.flags.num)
        if seen & WALKABLE != WALKABLE:
            xs, h0, c0 = plain(xs), plain(h0), None if c0 is None else plain(c0)
        (T, B, I), H, dtype = xs.shape, state[-1].shape[-1], xs.dtype
        ys, h = np.empty((T, B, h0.shape[-1]), dtype), np.empty(h0.shape, dtype)
        drawn = tuple([plain(noise[k]) if noise and k in noise else None for k in self.drawn])
        gates, cs, c = None, None, None if c0 is None else np.empty(c0.shape, dtype)
        if keep and self.kept:
            gates = np.empty((T, B, self.kept * H), dtype)
            cs = np.empty((T, B, H), dtype) if self.two else None
        n = threads() if T * B * self.gates * H * (I + H) > SMALL else 1
        # fmt: off
        call = (
            *self.head, T, B, I, H, xs, *self._arguments(weights), lengths, reverse,
            h0, c0, ys, h, c, gates, cs, *drawn, storage, n,
        )
        # fmt: on
        last, residuals = (h, c) if self.two else (h,), None
        if keep:
            first = (h0, c0) if self.two else (h0,)
            residuals = Residuals(xs, first, lengths, reverse, storage, ys, cs, drawn, gates)
        return call, (ys, last, residuals)

    def backward(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
        omit_dxs: bool = False,
        onto: Sums | None = None,
    ) -> Gradients:
        """As `xrnn.typing.Sequence.backward`; with `omit_dxs` dxs is None.  `onto` are the
        gradients of the weights of the steps that come later, to which those of these are added.

        The gradients overwrite the gates in memory, so a second backward pass first runs forward
        again.
        """
        given = (weights, residuals, dys, dstate)
        call, found = self._backward(*given, omit_dxs=omit_dxs, onto=onto)
        _native.backward(*call)
        return found[:3]

    def backward_both(
        self,
        passes: list[tuple[Weights, Residuals, Array | None, State]],
        *,
        xp: Namespace,
        omit_dxs: bool = False,
    ) -> list[Gradients]:
        """As `xrnn.typing.BothDirections.backward_both`, and `backward`."""
        (first, one), (second, other) = [self._backward(*p, omit_dxs=omit_dxs) for p in passes]
        _native.backward_both(len(first), *first, *second)
        return [one[:3], other[:3]]

    def _backward(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        omit_dxs: bool = False,
        onto: Sums | None = None,
    ) -> tuple[tuple[Any, ...], tuple[Array, State, dict[str, Array], Array]]:
        """The arguments of a call of the extension; and what is complete after it, the gradients,
        the last ones those of what was kept of each step: of the pre-activations."""
        saved, gates = residuals, residuals.take_gates()
        if self.kept and gates is None:
            how: Any = {"lengths": saved.lengths, "reverse": saved.reverse, "keep": True, "xp": np}
            how |= {"storage": saved.storage, "noise": saved.given()}
            again = self.forward(weights, saved.xs, saved.first, **how)[2]
            assert again is not None
            saved, gates = again, again.take_gates()
        (T, B, I), H = saved.xs.shape, saved.first[-1].shape[-1]
        das = np.empty((T, B, H), saved.xs.dtype) if gates is None else gates
        dhs = (np.empty_like(saved.ys),) if "P" in self.extras else ()
        # Copies, because the extension overwrites them with the gradient of the first state.
        carried = tuple([np.array(d, order="C") for d in dstate])
        dh, dc = carried if self.two else (*carried, None)
        h0, c0 = saved.first if self.two else (*saved.first, None)
        dxs = None if omit_dxs else np.empty_like(saved.xs)
        dweights = onto
        if dweights is None:
            dweights = Sums()
            for name, w in weights.items():
                dweights[name] = np.empty_like(w)
            if self.sums:
                dweights.rows = (np.zeros((B, self.sums * H), saved.xs.dtype),)
        n = threads() if T * B * self.gates * H * (I + H) > SMALL else 1
        dys = None if dys is None else plain(dys)
        # fmt: off
        call = (
            *self.head, T, B, I, H, *map(weights.get, self.used), gates, saved.cs, saved.ys,
            h0, c0, dys, *saved.noise, saved.lengths, saved.reverse, dh, dc, das, *dhs, dxs,
            *map(dweights.get, self.names), *dweights.rows, onto is not None, saved.xs, n,
        )
        # fmt: on
        return call, (dxs, carried, dweights, das)

    @property
    def is_regular(self) -> bool:
        """Whether the gradients of the pre-activations, which the backward pass keeps, are all that
        those of the weights are made of, with x and the h before: the cell keeps an array for each
        gate, or one more for a bias v beside the product of U of the last gate."""
        if self.extras == ("v",):
            return self.kept == self.gates + 1
        return not self.extras and self.kept in (0, self.gates)

    def contributions(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> tuple[Array, State, dict[str, Contribution]]:
        """As `xrnn.recurrence.loop.Loop.contributions`, of a cell that `is_regular`."""
        call, (dxs, dfirst, _, das) = self._backward(weights, residuals, dys, dstate)
        _native.backward(*call)
        (T, _, _), H, xs = residuals.xs.shape, residuals.first[-1].shape[-1], residuals.xs
        h0, h_prev = residuals.first[0], np.empty_like(residuals.ys)
        if residuals.reverse:
            h_prev[: T - 1], h_prev[-1] = residuals.ys[1:], h0
        else:
            h_prev[1:], h_prev[0] = residuals.ys[: T - 1], h0
        if residuals.lengths is not None:
            inside = np.arange(T)[:, None] < residuals.lengths
            xs = np.where(inside[:, :, None], xs, 0)
            if residuals.reverse:  # a sequence starts at its own end
                some = np.flatnonzero(residuals.lengths)
                h_prev[residuals.lengths[some] - 1, some] = h0[some]
        dropped = residuals.noise[0] if residuals.noise else None
        if dropped is not None:
            h_prev = h_prev * dropped
        da = das[:, :, : self.gates * H]
        found: dict[str, Contribution] = {"W": ((da, xs),), "b": da, "U": ((da, h_prev),)}
        if self.extras:
            first, dm = das[:, :, : (self.gates - 1) * H], das[:, :, self.gates * H :]
            found |= {"U": ((first, h_prev), (dm, h_prev)), "v": dm}
        return dxs, dfirst, {name: found[name] for name in weights}

    def step(self, weights: Weights, x: Array, state: State) -> State:
        """As `xrnn.typing.Stepping.step`."""
        h, c = state if self.two else (*state, None)
        seen = x.flags.num & h.flags.num & (WALKABLE if c is None else c.flags.num)
        if seen & WALKABLE != WALKABLE:
            x, h, c = plain(x), plain(h), None if c is None else plain(c)
        (B, I), shape, dtype = x.shape[-2:], state[-1].shape, x.dtype
        new_h = np.empty(h.shape, dtype)
        new_c = np.empty(shape, dtype) if self.two else None
        arguments = weights.arguments  # type: ignore[attr-defined]
        _native.step(*self.head, B, I, shape[-1], x, *arguments, h, c, new_h, new_c)
        return (new_h, new_c) if self.two else (new_h,)

    def prepare(self, weights: Weights, *, fixed: bool) -> Prepared:
        """As `xrnn.typing.Stepping.prepare`."""
        made, given = fixed and not isinstance(weights, dict), self._given(weights)
        prepared = Prepared({} if made else weights)
        rows, I = given[0].shape
        kept = 2 if made else int(fixed)
        prepared.arguments = (_native.pack(*self.head, I, rows // self.gates, kept, *given),)
        return prepared

    def _arguments(self, weights: Weights) -> tuple[Any, ...]:
        """The weights as the extension takes them, one by one or as a pack."""
        return weights.arguments if type(weights) is Prepared else self._given(weights)

    def _given(self, weights: Weights) -> tuple[Any, ...]:
        """The weights one by one, with None for those that the cell has not."""
        return tuple(map(weights.get, self.names))


def notes() -> list[str]:
    """A line for `xrnn info`: the instruction set and the threads, or why there is no extension."""
    if _native is None:
        return [ABSENT, "denormal numbers, which are slow, are not avoided by NumPy alone"]
    return [f"native loops: {_native.isa()}, {threads()} threads"]


def kernels(cell: Cell[Any]) -> tuple[Kernel, ...]:
    """The cell's native loop, if there is one and the extension was built."""
    return kernels_of(Native(CODES[cell])) if cell in CODES else ()


def kernels_of(loop: Native) -> tuple[Kernel, Kernel]:
    """A loop that rounds no operand of a product, and the same with products of bfloat16, as
    entries of the backend's table."""
    words = f"native loop, {_native.isa()}"
    how: Any = {"source": source, "omits_dxs": True, "adds": True}
    exact = Kernel(
        loop,
        DTYPES,
        path=lambda T, B, I, H: words,
        both=loop,
        stepping=loop,
        contributions=loop.contributions if loop.is_regular else None,
        **how,
    )
    rounded = loop.rounded()
    return exact, Kernel(
        rounded,
        frozenset({np.dtype("float32")}),
        precision="bf16",
        path=lambda T, B, I, H: f"{words}, products of bfloat16",
        both=rounded,
        stepping=rounded,
        **how,
    )
