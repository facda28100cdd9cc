"""A device that computes nothing and remembers what it was asked to run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import array_api_compat.numpy
import numpy as np

from xrnn.backends import dtype_name
from xrnn.backends.cuda import tables


class Recorder:
    """The interface of `xrnn.backends.cuda.plan.Runtime` on NumPy arrays.

    Parameters
    ----------
    capability : int
        The compute capability that it says it has.
    resident : int
        How many clusters of any kernel it says it holds at once.
    """

    xp: Any = array_api_compat.numpy

    def __init__(self, capability: int = 80, resident: int = 0) -> None:
        self._capability, self._resident = capability, resident
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

    def resident(self, *kernel: Any) -> int:
        return self._resident

    def launch(
        self,
        source: str,
        instance: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared: int = 0,
        cluster: int = 1,
    ) -> None:
        self.launches.append((source, instance, grid, block, shared, cluster))
        self.work += 1

    def gemm(self, *given: Any) -> None:
        self.work += 1


def dtypes() -> frozenset[Any]:
    """What kernels store; bfloat16 where ml_dtypes gives NumPy its name."""
    names = ["float16", "float32", "float64"]
    try:
        import ml_dtypes
    except ImportError:
        return frozenset(map(np.dtype, names))
    return frozenset([*map(np.dtype, names), np.dtype(ml_dtypes.bfloat16)])


def record(recorder: Recorder, sizes: Iterable[tuple[int, int, int, int]] = ()) -> None:
    """Run every entry of the wide door, forward and back, in all its dtypes.

    Sizes (T, B, I, H) are those that the entry proves itself on, and those given.
    """
    for cell, entry in tables.sequences(recorder, dtypes()).items():
        for form in (entry, entry.tf32):
            if form is None:
                continue
            for dtype in form.dtypes:
                if form is entry.tf32 and dtype_name(dtype) != "float32":
                    continue
                for size in (*form.trials, *sizes):
                    _run(cell, form, dtype, size)


def _run(cell: Any, form: Any, dtype: Any, size: tuple[int, int, int, int]) -> None:
    T, B, I, H = size
    xp = Recorder.xp

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    weights = {name: zeros(*shape) for name, shape in cell.shapes(I, H).items()}
    state = tuple(zeros(B, H) for _ in cell.states)
    for reverse in (False, True):
        for lengths in (None, np.zeros(B, np.int64)):
            given = {"lengths": lengths, "reverse": reverse, "xp": xp}
            # Buffers that no kernel has filled hold anything at all.
            with np.errstate(all="ignore"):
                form.forward(weights, zeros(T, B, I), state, keep=False, **given)
                _, _, saved = form.forward(weights, zeros(T, B, I), state, keep=True, **given)
                form.backward(weights, saved, zeros(T, B, H), state, xp=xp)
