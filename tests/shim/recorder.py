"""A device that computes nothing and remembers what it was asked to run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import array_api_compat.numpy
import numpy as np
from optioned import SMOOTH

from shim.graphs import InGraphs
from xrnn.backends import Kernel, Sizes
from xrnn.backends.cuda import loop, tables
from xrnn.backends.cuda.cluster import SIZES, Room
from xrnn.backends.cuda.geometry import SHARED
from xrnn.backends.cuda.plan import Call, Product
from xrnn.cells.base import Cell

#: size of a cluster → how many of them a Hopper with 132 multiprocessors may hold at once
HELD = {1: 132, 2: 66, 4: 33, 8: 15, 16: 7}
ROOM = Room(SHARED, tuple(HELD[size] for size in SIZES))


class Recorder(InGraphs):
    """The interface of `xrnn.backends.cuda.plan.Runtime` on NumPy arrays.

    Parameters
    ----------
    capability : int
        The compute capability that it says it has; from 90 on it holds clusters, see `HELD`.
    """

    xp: Any = array_api_compat.numpy
    language = "Python"

    def __init__(self, capability: int = 80) -> None:
        super().__init__()
        self._capability = capability
        #: (source, instance, grid, block, shared, cluster) of each launch
        self.launches: list[tuple[str, str, tuple[int, ...], tuple[int, ...], int, int]] = []
        #: launches and products together
        self.work = 0

    @property
    def instances(self) -> set[tuple[str, str]]:
        """The sources and instances launched."""
        return {launch[:2] for launch in self.launches}

    def pointer(self, array: np.ndarray) -> int:
        return int(array.ctypes.data)

    def capability(self) -> int:
        return self._capability

    def room(self) -> Room:
        return ROOM if self._capability >= 90 else Room()

    def report(self, instance: str) -> int:
        return 0

    def launch(
        self,
        source: str,
        instance: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared: int = 0,
        cluster: int = 0,
    ) -> None:
        self.launches.append((source, instance, grid, block, shared, cluster))
        self.work += 1

    def gemm(self, product: Product) -> None:
        self.work += 1

    def repeat(self, calls: Sequence[Call], steps: int) -> None:
        loop.repeat(self, calls, steps)


def dtypes() -> frozenset[Any]:
    """What kernels store; bfloat16 where ml_dtypes gives NumPy its name."""
    names = ["float16", "float32", "float64"]
    try:
        import ml_dtypes
    except ImportError:
        return frozenset(map(np.dtype, names))
    return frozenset([*map(np.dtype, names), np.dtype(ml_dtypes.bfloat16)])


def record(recorder: Recorder, sizes: Iterable[Sizes]) -> None:
    """Run every entry of the tables, forward and backward, in all its dtypes; of cells with options
    one of each form, as they have the same kernels.

    For those of the sizes (T, B, I, H) that it serves, on the small ones that it is verified on.
    """
    sizes = tuple(sizes)
    for cell in [*tables.FUSED, *SMOOTH]:
        for entry in tables.kernels_of(recorder, dtypes(), cell):
            small = {entry.trial(*size) for size in sizes if entry.serves(*size)}
            kinds = [d for d in entry.dtypes if "32" in str(d) or entry.precision == "ieee"]
            for dtype, size in product(kinds, sorted(small)):
                _run(cell, entry, dtype, size)


def _run(cell: Cell, kernel: Kernel, dtype: Any, size: Sizes) -> None:
    (T, B, I, H), form = size, kernel.sequence
    xp = Recorder.xp

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    weights = {name: zeros(*shape) for name, shape in cell.shapes(I, H).items()}
    state = tuple(zeros(B, H) for _ in cell.states)
    for reverse in (False, True):
        for lengths in (None, np.zeros(B, np.int64)):
            given: dict[str, Any] = {"lengths": lengths, "reverse": reverse, "xp": xp}
            # Buffers that no kernel has filled hold anything at all.
            with np.errstate(all="ignore"):
                form.forward(weights, zeros(T, B, I), state, keep=False, **given)
                _, _, residuals = form.forward(weights, zeros(T, B, I), state, keep=True, **given)
                form.backward(weights, residuals, zeros(T, B, H), state, xp=xp)
