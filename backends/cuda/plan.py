"""One pass on the device: its buffers, their addresses, and the launches that use them.

Nothing here imports CuPy: arrays come from the namespace of a `Runtime`, and sizes and addresses
are plain integers.  So the tests can run this code on the host, with a simulated runtime.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import array_api_compat

from xrnn.backends import host
from xrnn.backends.cuda.cluster import Room
from xrnn.typing import Array, State, Weights, dtype_name

#: threads in a block of an elementwise kernel
BLOCK = 128

#: dtype → its name in the kernels, its bytes, and the dtype of computations and sums
TYPES = {
    "float16": ("__half", 2, "float32"),
    "bfloat16": ("__nv_bfloat16", 2, "float32"),
    "float32": ("float", 4, "float32"),
    "float64": ("double", 8, "float64"),
}


@dataclass(frozen=True, slots=True)
class Moving:
    """A value that changes by the same amount from each step of a loop to the next.

    - first: in the first step; an address, or a number as kernels take it (`Plan.int32`)
    - change: from step to step
    """

    first: Any
    change: int

    def __add__(self, offset: int) -> Moving:
        return Moving(self.first + offset, self.change)

    def at(self, step: int) -> Any:
        """The value in a step, which are counted from 0 in the order that they are run in."""
        return self.first + step * self.change


#: of an array, or of its part that belongs to a step
Address = int | Moving


class Launch(NamedTuple):
    """One kernel: its arguments are addresses, numbers as kernels take them, and `Moving`."""

    source: str
    instance: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: Sequence[Any]


class Product(NamedTuple):
    """C (m, n) = op(A) op(B) + beta C: addresses, row strides and dtypes.

    In the description of a step A, B and C may be `Moving`.
    """

    ta: bool
    tb: bool
    m: int
    n: int
    k: int
    A: Any
    lda: int
    B: Any
    ldb: int
    beta: float
    C: Any
    ldc: int
    kind: str  # of A and B
    out: str  # of C
    tf32: bool


#: what a step consists of
Call = Launch | Product


class Launcher(Protocol):
    """What starts work on a device."""

    def launch(
        self,
        source: str,
        instance: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared: int = 0,
        cluster: int = 0,
    ) -> None: ...

    def gemm(self, product: Product) -> None: ...


class Runtime(Launcher, Protocol):
    """The operations on the device that a plan uses; `CupyRuntime` in `runtime.py` has them."""

    xp: Any

    @property
    def language(self) -> str:
        """What `repeat` is written in: C or Python."""

    def pointer(self, array: Array) -> int: ...

    def capability(self) -> int: ...

    def room(self) -> Room: ...

    def report(self, instance: str) -> int: ...

    def repeat(self, calls: Sequence[Call], steps: int) -> None: ...

    def no_graphs(self) -> str:
        """Why steps cannot run in CUDA graphs; empty if they can."""

    def workspace(self, plan: Plan, *shape: Hashable) -> Any:
        """The `xrnn.backends.cuda.workspace.Workspace` of a pass whose steps are to run in a graph
        that depends on `shape` besides the sizes of the plan."""


@dataclass
class Residuals:
    """The arguments of a forward pass, and the buffers that it filled, in the order of time.

    - gates (T, B, n·H): first W x, then (if kept) the gates, and in the backward pass their
      gradients, each in the same memory; a run whose gates hold gradients is `spent`
    - hs, cs (T+1, B, H): the states.  Slot 0 holds the first state and slot t+1 that after
      step t; in reverse slot T holds the first state and slot t that after step t
    """

    weights: Weights
    xs: Array
    first: State
    lengths: Array | None
    reverse: bool
    mask: Array | None = None
    gates: Array = None
    hs: Array = None
    cs: Array = None
    more: dict[str, Array] = field(default_factory=dict)
    spent: bool = False

    @property
    def order(self) -> range:
        """The steps in the order they are run."""
        T = self.xs.shape[0]
        return range(T - 1, -1, -1) if self.reverse else range(T)

    @property
    def ends(self) -> tuple[int, int]:
        """The slots of the first and of the last state."""
        T = self.xs.shape[0]
        return (T, 0) if self.reverse else (0, T)

    @property
    def before(self) -> int:
        """The state before step t is in slot t + before."""
        return 1 if self.reverse else 0


class Plan:
    """The sizes and addresses of a run on its device."""

    def __init__(self, runtime: Runtime, run: Residuals, tf32: bool) -> None:
        self.runtime, self.run, self.tf32 = runtime, run, tf32
        self.xp = runtime.xp
        self.T, self.B, self.I = run.xs.shape
        self.H = run.first[0].shape[1]
        self.dtype, self.device = run.xs.dtype, array_api_compat.device(run.xs)
        self.kind = dtype_name(self.dtype)
        self.type, self.bytes, self.acc = TYPES[self.kind]
        self.acc_bytes = TYPES[self.acc][1]
        self.vector = 4 if self.H % 4 == 0 else 1
        self.alive: list[Array] = []
        self.weights = {name: self.at(self.dense(w)) for name, w in run.weights.items()}
        self.xs = self.at(run.xs)
        self.lengths = self.at(self.as_int32(run.lengths))

    def at(self, array: Array | None) -> int:
        """The address of an array, which the plan keeps alive; 0 for None."""
        if array is None:
            return 0
        self.alive.append(array)
        return self.runtime.pointer(array)

    def dense(self, array: Array) -> Array:
        """The array if it is contiguous and aligned for vector loads, otherwise such a copy."""
        aligned = self.runtime.pointer(array) % (4 * self.bytes) == 0
        return array if array.flags.c_contiguous and aligned else array.copy()

    def as_int32(self, lengths: Array | None) -> Array | None:
        return None if lengths is None else self.xp.astype(lengths, self.xp.int32)

    def int32(self, n: int) -> Any:
        """n as a 32-bit integer argument of a kernel."""
        return self.xp.int32(n)

    def number(self, x: float) -> Any:
        """x as an argument of a kernel, in the dtype of the computation: its bits, as a step's
        arguments are integers."""
        return host.xp.asarray(x, self.acc).view(f"int{8 * self.acc_bytes}")[()]

    def empty(self, *shape: int, acc: bool = False) -> Array:
        """A new array in the storage dtype, or with `acc` in that of the computation."""
        dtype = getattr(self.xp, self.acc) if acc else self.dtype
        return self.xp.empty(shape, dtype=dtype, device=self.device)

    def upcast(self, array: Array) -> Array:
        """A dense copy in the dtype of the computation."""
        return self.dense(self.xp.astype(array, getattr(self.xp, self.acc), copy=True))

    def kernel(
        self, source: str, name: str, *args: Any, variant: str = "", most: int = 4
    ) -> Launch:
        """An elementwise kernel on one step (B, H), whose threads have at most so many units."""
        vector = min(self.vector, most)
        blocks = -(-self.B * self.H // (vector * BLOCK))
        return Launch(
            source,
            f"{name}<{self.type}, {vector}{variant}>",
            (blocks,),
            (BLOCK,),
            (self.int32(self.B), self.int32(self.H), *args),
        )

    def product(
        self,
        shape: tuple[int, int, int],
        A: tuple[Address, int],
        B: tuple[Address, int],
        C: tuple[Address, int],
        *,
        ta: bool = False,
        tb: bool = False,
        beta: float = 0.0,
        acc: bool = False,
    ) -> Product:
        """C = op(A) op(B) + beta C for shape (m, n, k); each an address and a row stride."""
        out = self.acc if acc else self.kind
        return Product(ta, tb, *shape, *A, *B, beta, *C, self.kind, out, self.tf32)

    def times(
        self,
        shape: tuple[int, int, int],
        A: tuple[int, int],
        B: tuple[int, int],
        C: tuple[int, int],
        *,
        ta: bool = False,
        tb: bool = False,
    ) -> None:
        """Compute C = op(A) op(B) now, as in `product`."""
        self.runtime.gemm(self.product(shape, A, B, C, ta=ta, tb=tb))

    def repeat(self, calls: Sequence[Call], steps: int) -> None:
        """Make the calls of one step as many times as there are steps."""
        self.runtime.repeat(calls, steps)

    def column_sums(self, x: int, ldx: int, cols: int, y: int = 0, ldy: int = 0) -> Array:
        """Σ over the T·B rows of x (⊙ y), (cols,) in the storage dtype, in a fixed order."""
        rows = self.T * self.B
        parts = min(64, -(-rows // 32))
        some, total = self.empty(parts, cols, acc=True), self.empty(1, cols, acc=True)
        self._sum(self.type, rows, cols, (x, ldx), (y, ldy), some, parts)
        acc = TYPES[self.acc][0]
        self._sum(acc, parts, cols, (self.at(some), cols), (0, 0), total, 1)
        return self.xp.astype(total[0, :], self.dtype)

    def _sum(
        self,
        kind: str,
        rows: int,
        cols: int,
        x: tuple[int, int],
        y: tuple[int, int],
        out: Array,
        parts: int,
    ) -> None:
        long = self.xp.int64
        self.runtime.launch(
            "sums.cu",
            f"column_sums<{kind}>",
            (-(-cols // 32), parts),
            (32, 8),
            (long(rows), self.int32(cols), x[0], long(x[1]), y[0], long(y[1]), self.at(out)),
            shared=32 * 8 * self.acc_bytes,
        )
