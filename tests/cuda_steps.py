"""The kernels of one time step, driven through time exactly as their contracts say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from shim.runtime import ShimRuntime

from xrnn import cells, unroll, unroll_backward
from xrnn.backends.cuda.plan import Product
from xrnn.cells import Cell
from xrnn.typing import Array

#: storage dtype → NumPy's, its name in the kernels, what is summed in, largest error allowed
#: relative to the largest value
KINDS: dict[str, tuple[Any, str, str, float]] = {
    "float32": (np.float32, "float", "float32", 2e-6),
    "float64": (np.float64, "double", "float64", 1e-14),
    "float16": (np.float16, "__half", "float32", 5e-3),
    "bfloat16": (ml_dtypes.bfloat16, "__nv_bfloat16", "float32", 4e-2),
}
T, B = 5, 5
#: units by vector width: three vectors, or a number that no vector divides
UNITS = {4: 12, 1: 5}
LENGTHS = np.asarray([5, 0, 3, 1, 4], np.int32)
#: threads in a block: the last block of every launch has some without work
BLOCK = 8


class Arena:
    """Arrays at aligned addresses between guards that no kernel may touch, NaN at first."""

    GUARD = 256

    def __init__(self) -> None:
        self._guards: list[Array] = []

    def __call__(self, values: Any, kind: str) -> Array:
        """A new array: of that shape, if `values` is one, or a rounded copy of an array."""
        dtype = np.dtype(KINDS[kind][0])
        shape = values if isinstance(values, tuple) else values.shape
        size = int(np.prod(shape)) * dtype.itemsize
        raw = np.full(size + 3 * self.GUARD, 0xA5, np.uint8)
        start = 2 * self.GUARD - raw.ctypes.data % self.GUARD
        self._guards += [raw[:start], raw[start + size :]]
        new = raw[start : start + size].view(dtype).reshape(shape)
        new[...] = np.nan if isinstance(values, tuple) else values
        return new

    def check(self) -> None:
        """No kernel wrote outside of its arrays."""
        assert all((guard == 0xA5).all() for guard in self._guards)


@dataclass
class Case:
    """One pass: rounded inputs as float64, and how they are run."""

    steps: type[Steps]
    kind: str
    vector: int
    lengths: Array | None = None
    reverse: bool = False
    schedule: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        cell, kind, H = self.steps.cell, self.kind, UNITS[self.vector]
        acc, n = KINDS[kind][2], len(cell.gates)
        rng = np.random.default_rng(7)
        self.xs = rounded(self.steps.draw(rng, (T, B, n * H)) * self.scale, kind)
        shapes = cell.shapes(n * H, H)
        self.weights = {
            k: rounded(rng.normal(size=s) * self.steps.gain / (H**0.5 if k == "U" else 1), kind)
            for k, s in shapes.items()
        }
        self.weights["W"] = np.eye(n * H)  # so that xs is W x, and dxs the gradient of it
        self.first = [rounded(rng.normal(size=(B, H)), k) for k in (kind, acc)][: self.states]
        self.dys: Array | None = rounded(rng.normal(size=(T, B, H)), kind)
        self.dlast = [rounded(rng.normal(size=(B, H)), acc) for _ in range(self.states)]
        if self.lengths is not None:
            # What stands past the end is nobody's: it may be NaN.
            past = np.arange(T)[:, None] >= self.lengths
            self.xs[past] = self.dys[past] = np.nan

    @property
    def states(self) -> int:
        return len(self.steps.cell.states)

    def wanted(self) -> dict[str, Array]:
        """By the cell itself."""
        cell, state = self.steps.cell, tuple(self.first)
        ys, last, tape = unroll(cell, self.weights, self.xs, state, self.lengths, self.reverse)
        dxs, dfirst, dweights = unroll_backward(tape, self.dys, tuple(self.dlast))
        del dweights["W"]
        named = {f"last {k}": v for k, v in zip(cell.states, last, strict=True)}
        named |= {f"d {k}": v for k, v in zip(cell.states, dfirst, strict=True)}
        return {"ys": ys, "dxs": dxs} | named | {f"d {k}": v for k, v in dweights.items()}


def rounded(values: Array, kind: str) -> Array:
    """The values that this dtype has, as float64."""
    return values.astype(KINDS[kind][0]).astype(np.float64)


class Steps:
    """The kernels of one cell over the buffers of one pass.

    hs, cs (T+1, B, H) hold the state after step t in slot t+1, in reverse in slot t.
    """

    cell: ClassVar[Cell]
    source: ClassVar[str]
    #: the buffer of gates: blocks of H columns, and where each of the cell's gates stands
    width: ClassVar[int]
    columns: ClassVar[tuple[int, ...]]
    #: blocks of H rows of U in one product
    product_rows: ClassVar[int]
    kernels: ClassVar[tuple[str, ...]]
    #: the template's parameters after the vector width
    variant: ClassVar[str] = ""
    #: how large the weights are drawn
    gain: ClassVar[float] = 1.0

    @staticmethod
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Values of W x."""
        return rng.normal(size=shape)

    def __init__(self, case: Case) -> None:
        self.case, self.new, self.H = case, Arena(), UNITS[case.vector]
        self.kind, (_, self.name, self.acc, _) = case.kind, KINDS[case.kind]
        self.runtime = ShimRuntime(every_instance(), schedule=case.schedule)
        H, self.before, self.after = self.H, int(case.reverse), int(not case.reverse)
        self.order = range(T - 1, -1, -1) if case.reverse else range(T)
        self.w = {k: self.new(v, self.kind) for k, v in case.weights.items()}
        self.lengths = 0 if case.lengths is None else self.runtime.pointer(case.lengths)
        self.gates = self.new((T, B, self.width * H), self.kind)
        for gate, column in enumerate(self.columns):
            self.block(self.gates, column)[...] = self.block(case.xs, gate)
        start = self.order[0] + self.before
        self.hs, self.cs = self.new((T + 1, B, H), self.kind), self.new((T + 1, B, H), self.acc)
        self.hs[start] = case.first[0]
        if case.states == 2:
            self.cs[start] = case.first[1]
        self.product = self.new((B, self.product_rows * H), self.acc)
        self.dys: Any
        self.dh: Array
        self.dc: Any

    def block(self, array: Array, k: int) -> Array:
        """The k-th H columns."""
        return array[..., k * self.H : (k + 1) * self.H]

    def launch(self, kernel: str, *args: Any) -> None:
        """Arrays by their addresses, None as null, numbers as they are."""
        vector = self.case.vector
        threads = -(-B * self.H // vector)
        pointer = self.runtime.pointer
        boxed = [pointer(a) if isinstance(a, np.ndarray) else 0 if a is None else a for a in args]
        self.runtime.launch(
            self.source,
            f"{kernel}<{self.name}, {vector}{self.variant}>",
            (threads // BLOCK + 1,),
            (BLOCK,),
            (np.int32(B), np.int32(self.H), *boxed),
        )

    def times(self, a: Array, lda: int, b: Array, out: Array, *, tb: bool, beta: float) -> None:
        """out = a bᵀ + beta·out, or a b: B rows of a, at its first value, row length lda."""
        m, n = out.shape
        k = b.shape[1] if tb else b.shape[0]
        at = [self.runtime.pointer(array) for array in (a, b, out)]
        kinds = (self.kind, self.acc, False)
        self.runtime.gemm(
            Product(False, tb, m, n, k, at[0], lda, at[1], b.shape[1], beta, at[2], n, *kinds)
        )

    def run(self, save: bool = True) -> None:
        """Forward through all steps."""
        for t in self.order:
            self.forward(t, np.int32(t), np.int32(save))

    def back(self) -> dict[str, Array]:
        """All gradients, from the buffers that forward left; they take the place of the gates."""
        dys, H = self.case.dys, self.H
        self.dys = [None] * T if dys is None else self.new(dys, self.kind)
        self.dh, *more = (self.new(d, self.acc) for d in self.case.dlast)
        self.dc = more[0] if more else None
        for t in reversed(self.order):
            self.backward(t, np.int32(t))
        self.new.check()
        das = self.gates.astype(np.float64)
        dxs = np.concatenate([self.block(das, k) for k in self.columns], -1)
        found = {"dxs": dxs, "d b": dxs.sum((0, 1)), "d h": self.dh, "d c": self.dc}
        prev = self.hs[self.before : self.before + T].astype(np.float64)
        found["d U"] = np.einsum("tbg,tbh->gh", self.recurrent(das), prev)
        assert found["d U"].shape == (len(self.cell.gates) * H, H)
        return found | self.more(das)

    def states(self) -> dict[str, Array]:
        """What forward gave."""
        end = self.order[-1] + self.after
        ys = self.hs[self.after : self.after + T].copy()
        if self.case.lengths is not None:
            ys[np.arange(T)[:, None] >= self.case.lengths] = 0
        return {"ys": ys, "last h": self.hs[end], "last c": self.cs[end]}

    def kept(self) -> list[Array]:
        """What forward leaves for backward, besides the first state: (T, B, …) each."""
        return [self.gates, self.hs[self.after : self.after + T]]

    def forward(self, t: int, now: Any, save: Any) -> None:
        """Step t; `now` is the same number as kernels take it."""
        raise NotImplementedError

    def backward(self, t: int, now: Any) -> None:
        """Step t back: its gradients in place of the gates."""
        raise NotImplementedError

    def recurrent(self, das: Array) -> Array:
        """The gradients of U h_prev, in the order of the rows of U."""
        return das

    def more(self, das: Array) -> dict[str, Array]:
        """Gradients of further weights, and those that have another operand than h_prev."""
        return {}


class LSTMSteps(Steps):
    """Of both cells with a c."""

    cell, source, width, columns = cells.LSTM, "lstm.cu", 4, (0, 1, 2, 3)
    product_rows = 4
    kernels = ("lstm_forward", "lstm_backward")

    def kept(self) -> list[Array]:
        return [*super().kept(), self.cs[self.after : self.after + T]]

    def peepholes(self) -> list[Array]:
        """The weights that only the peephole kernels take."""
        return []

    def forward(self, t: int, now: Any, save: Any) -> None:
        h, c, i, j = self.hs, self.cs, t + self.before, t + self.after
        self.times(h[i], self.H, self.w["U"], self.product, tb=True, beta=0)
        weights = (self.w["b"], *self.peepholes())
        args = (c[i], c[j], h[i], h[j], self.lengths, now, save)
        self.launch(self.kernels[0], self.gates[t], *weights, self.product, *args)

    def backward(self, t: int, now: Any) -> None:
        c, i, j = self.cs, t + self.before, t + self.after
        args = (c[i], c[j], self.dys[t], self.dh, self.dc, self.lengths, now)
        self.launch(self.kernels[1], self.gates[t], *self.peepholes(), *args)
        self.times(self.gates[t], 4 * self.H, self.w["U"], self.dh, tb=False, beta=1)


class PeepholeSteps(LSTMSteps):
    """p stands after the bias, and after the gates on the way back."""

    cell, source = cells.PeepholeLSTM, "peephole.cu"
    kernels = ("peephole_forward", "peephole_backward")

    def peepholes(self) -> list[Array]:
        return [self.w["p"]]

    def more(self, das: Array) -> dict[str, Array]:
        prev, new = (self.cs[k : k + T].astype(np.float64) for k in (self.before, self.after))
        seen = (self.block(das, k) * c for k, c in ((0, prev), (1, prev), (3, new)))
        return {"d p": np.concatenate([s.sum((0, 1)) for s in seen])}


class TanhSteps(Steps):
    """x in, h out: nothing else is written forward."""

    cell, source, width, columns = cells.Elman, "rnn.cu", 1, (0,)
    product_rows, variant = 1, ", 0"
    kernels = ("rnn_forward", "rnn_backward")

    def forward(self, t: int, now: Any, save: Any) -> None:
        h, i, j = self.hs, t + self.before, t + self.after
        self.times(h[i], self.H, self.w["U"], self.product, tb=True, beta=0)
        args = (self.w["b"], self.product, h[i], h[j], self.lengths, now)
        self.launch("rnn_forward", self.gates[t], *args)

    def kept(self) -> list[Array]:
        return super().kept()[1:]

    def back(self) -> dict[str, Array]:
        # x is not kept: the gradients have a buffer of their own.
        self.gates = self.new(self.gates.shape, self.kind)
        return super().back()

    def backward(self, t: int, now: Any) -> None:
        args = (self.hs[t + self.after], self.dys[t], self.dh, self.lengths, now)
        self.launch("rnn_backward", self.gates[t], *args)
        self.times(self.gates[t], self.H, self.w["U"], self.dh, tb=False, beta=1)


class ReLUSteps(TanhSteps):
    """The other curve, by the other template."""

    cell, variant, gain = cells.ElmanReLU, ", 1", 0.1

    @staticmethod
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        # Not too near to the kink, where rounding would decide which side is taken.
        a = rng.normal(size=shape)
        return a + np.sign(a) / 2


class GRUSteps(Steps):
    """Columns n, r, z, m: the last three are the recurrent part of the gradient."""

    cell, source, width, columns = cells.GRU, "gru.cu", 4, (1, 2, 0)
    product_rows = 3
    kernels = ("gru_forward", "gru_backward")

    def forward(self, t: int, now: Any, save: Any) -> None:
        h, i, j = self.hs, t + self.before, t + self.after
        self.times(h[i], self.H, self.w["U"], self.product, tb=True, beta=0)
        args = (self.product, h[i], h[j], self.lengths, now, save)
        self.launch("gru_forward", self.gates[t], self.w["b"], self.w["v"], *args)

    def backward(self, t: int, now: Any) -> None:
        args = (self.hs[t + self.before], self.dys[t], self.dh, self.lengths, now)
        self.launch("gru_backward", self.gates[t], *args)
        recurrent = self.gates[t, :, self.H :]
        self.times(recurrent, 4 * self.H, self.w["U"], self.dh, tb=False, beta=1)

    def recurrent(self, das: Array) -> Array:
        return das[..., self.H :]

    def more(self, das: Array) -> dict[str, Array]:
        return {"d v": self.block(das, 3).sum((0, 1))}


class GRUBeforeSteps(Steps):
    """Two products and two kernels a step, each way."""

    cell, source, width, columns = cells.GRUBefore, "gru_before.cu", 3, (0, 1, 2)
    product_rows = 2
    kernels = (
        "gru_before_forward_gates",
        "gru_before_forward",
        "gru_before_backward",
        "gru_before_backward_reset",
    )

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.q = self.new((T, B, self.H), self.kind)
        self.narrow = self.new((B, self.H), self.acc)  # U_n q, or dq
        self.U_rz, self.U_n = self.w["U"][: 2 * self.H], self.w["U"][2 * self.H :]

    def forward(self, t: int, now: Any, save: Any) -> None:
        h, i, j, b = self.hs, t + self.before, t + self.after, self.w["b"]
        end = (self.lengths, now, save)
        self.times(h[i], self.H, self.U_rz, self.product, tb=True, beta=0)
        self.launch(self.kernels[0], self.gates[t], b, self.product, h[i], self.q[t], *end)
        self.times(self.q[t], self.H, self.U_n, self.narrow, tb=True, beta=0)
        self.launch(self.kernels[1], self.gates[t], b, self.narrow, h[i], h[j], *end)

    def kept(self) -> list[Array]:
        return [*super().kept(), self.q]

    def backward(self, t: int, now: Any) -> None:
        a, h, end = self.gates[t], self.hs[t + self.before], (self.lengths, now)
        self.launch(self.kernels[2], a, h, self.dys[t], self.dh, *end)
        self.times(a[:, 2 * self.H :], 3 * self.H, self.U_n, self.narrow, tb=False, beta=0)
        if self.case.lengths is not None:
            self.narrow[t >= self.case.lengths] = np.nan  # not read there
        self.launch(self.kernels[3], a, h, self.narrow, self.dh, *end)
        self.times(a, 3 * self.H, self.U_rz, self.dh, tb=False, beta=1)

    def more(self, das: Array) -> dict[str, Array]:
        prev = self.hs[self.before : self.before + T].astype(np.float64)
        operands = (prev, prev, self.q.astype(np.float64))
        parts = [np.einsum("tbg,tbh->gh", self.block(das, k), v) for k, v in enumerate(operands)]
        return {"d U": np.concatenate(parts)}


EVERY = (LSTMSteps, PeepholeSteps, GRUSteps, GRUBeforeSteps, TanhSteps, ReLUSteps)


def every_instance() -> Iterator[tuple[str, str]]:
    """What these tests launch: what belongs to one source and one dtype is built together."""
    for steps in EVERY:
        for kernel in steps.kernels:
            for _, name, _, _ in KINDS.values():
                for vector in UNITS:
                    yield steps.source, f"{kernel}<{name}, {vector}{steps.variant}>"
