"""The runtime of `backends/cuda` on NumPy arrays: kernels as fibers, products by NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from shim.build import KERNELS, Instance, library
from xrnn.backends.cuda import loop
from xrnn.backends.cuda.cluster import gave_up
from xrnn.backends.cuda.plan import Call, Product

FAILURES = {
    1: "the grid is not a multiple of the cluster",
    2: "more than 227 KB of shared memory",
    3: "deadlock",
    4: "a block has more than 1024 threads, or none",
    5: "written past the end of the shared memory",
    6: "used the shared memory of a block that has ended",
    7: "used an address of the cluster in a cluster of one block",
    99: "wrong number of arguments",
}


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_ulonglong),
        ("cluster", ctypes.c_int),
        ("schedule", ctypes.c_int),
    )


class LikeCupy:
    """NumPy with two habits of CuPy: `where` makes float32 of bfloat16, `concat` is in C order."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def where(mask: Any, a: Any, b: Any) -> Any:
        found = np.where(mask, a, b)
        return found.astype(np.float32) if found.dtype == ml_dtypes.bfloat16 else found

    @staticmethod
    def concat(arrays: Any, axis: int = 0) -> Any:
        return np.ascontiguousarray(np.concatenate(arrays, axis))


class ShimRuntime:
    """Launches kernels on the host.

    Parameters
    ----------
    groups : iterables of (str, str)
        (source, instance) of what will be launched: those of a group are compiled together,
        when the first of them is launched.  One compilation of many kernels takes little longer
        than that of one.  Others are compiled alone.
    kernels : Path, optional
        The folder of the sources.
    schedule : int
        Who runs when: 0 forward, 1 backward, 2…99 at random, from 100 on one block (even) or
        warp (odd) at a time while the others starve.  May be changed between launches.
    """

    xp: Any = LikeCupy()
    language = "Python"

    def __init__(
        self, *groups: Iterable[Instance], kernels: Path = KERNELS, schedule: int = 0
    ) -> None:
        self.schedule = schedule
        self._kernels = kernels
        self._group_of: dict[Instance, frozenset[Instance]] = {}
        for group in map(frozenset, groups):
            self._group_of |= dict.fromkeys(group, group)
        self._entries: dict[Instance, Any] = {}
        self._report = (ctypes.c_int * 4)()

    def report(self, instance: str) -> int:
        """Where a kernel says that it gave up."""
        return ctypes.addressof(self._report)

    def pointer(self, array: Any) -> int:
        """The address of the array's first value."""
        return int(array.ctypes.data)

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
        """Run a kernel to its end; RuntimeError if it fails, with the schedule it failed under."""
        boxes = [_boxed(arg) for arg in args]
        pointers = (ctypes.c_void_p * len(boxes))(*(address for address, _, _ in boxes))
        sizes = (ctypes.c_int * len(boxes))(*(size for _, size, _ in boxes))
        how = _Launch(_three(grid), _three(block), shared, max(1, cluster), self.schedule)
        code = self._entry((source, instance))(ctypes.byref(how), pointers, sizes, len(boxes))
        if code:
            what = FAILURES.get(code, f"argument {code - 100} has the wrong size or kind")
            raise RuntimeError(f"{source}: {instance}: {what} (schedule {self.schedule})")
        if self._report[0]:
            said = gave_up(instance, list(self._report))
            self._report[0] = 0
            raise RuntimeError(f"{said} (schedule {self.schedule})")

    def use(self, instance: Instance, entry: Any) -> None:
        """Launch another entry in the place of an instance."""
        self._entries[instance] = entry

    def gemm(self, product: Product) -> None:
        """A product; float16 and bfloat16 are summed in float32."""
        p = product
        acc = np.float64 if p.kind == "float64" else np.float32
        a = matrix(p.A, *((p.k, p.m) if p.ta else (p.m, p.k)), p.lda, p.kind).astype(acc)
        b = matrix(p.B, *((p.n, p.k) if p.tb else (p.k, p.n)), p.ldb, p.kind).astype(acc)
        if p.tf32 and p.kind == "float32":
            a, b = rounded_to_tf32(a), rounded_to_tf32(b)
        c = matrix(p.C, p.m, p.n, p.ldc, p.out)
        # As on the device, a sum that is too large becomes ∞ in silence.
        with np.errstate(all="ignore"):
            total = (a.T if p.ta else a) @ (b.T if p.tb else b)
            if p.beta:
                total = total + acc(p.beta) * c.astype(acc)
            c[...] = total.astype(c.dtype)

    def repeat(self, calls: Sequence[Call], steps: int) -> None:
        """Make the calls of one step as many times as there are steps."""
        loop.repeat(self, calls, steps)

    def _entry(self, instance: Instance) -> Any:
        if instance not in self._entries:
            together = self._group_of.get(instance, [instance])
            self._entries = library(together, self._kernels) | self._entries
        return self._entries[instance]


def matrix(address: int, rows: int, columns: int, stride: int, kind: str) -> Any:
    """The memory at `address` as an array (rows, columns) that can be written."""
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    count = (rows - 1) * stride + columns if rows and columns else 0
    if not count:
        return np.zeros((rows, columns), dtype)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    values: Any = np.frombuffer(memory, dtype)  # type: ignore[call-overload]
    strides = (stride * dtype.itemsize, dtype.itemsize)
    return np.lib.stride_tricks.as_strided(values, (rows, columns), strides, writeable=True)


def rounded_to_tf32(a: Any) -> Any:
    """float32 values with the 10 bits of mantissa that tf32 has; ties away from zero."""
    bits = a.view(np.uint32)
    finite = (bits & 0x7F800000) != 0x7F800000
    return np.where(finite, (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000), bits).view(
        np.float32
    )


def _three(size: tuple[int, ...]) -> Any:
    return (ctypes.c_uint * 3)(*size, *(1,) * (3 - len(size)))


def _boxed(arg: Any) -> tuple[int, int, Any]:
    """Address of the value, its bytes (0 for a pointer), and the owner of that memory."""
    if isinstance(arg, int):
        pointer = ctypes.c_void_p(arg)
        return ctypes.addressof(pointer), 0, pointer
    if isinstance(arg, ctypes.Structure):
        return ctypes.addressof(arg), ctypes.sizeof(arg), arg
    value = np.ascontiguousarray(arg)  # a scalar with a dtype, or a struct by value
    return value.ctypes.data, value.nbytes, value
