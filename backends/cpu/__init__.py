"""NumPy, on the CPU.

The native loops count denormal numbers as 0, because processors need up to a hundred times longer
for them: operands and results below 1.18e-38 (float32) or 2.2e-308 (float64).  NumPy itself does
not; kernels written in NumPy are slow on such numbers, as there is no cheap way to avoid them.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import numpy as np

from xrnn import cells
from xrnn.backends import host
from xrnn.backends.base import Backend, Kernel
from xrnn.backends.cpu import cross_entropy, extension, loops, options, quantised, scan, storage
from xrnn.cells.base import Cell
from xrnn.recurrence.precision import HALF, accumulation_dtype
from xrnn.typing import dtype_name

LIBRARY, INSTALL = "numpy", "pip install numpy"


#: the number of bytes up to which an array is its own fingerprint
SMALL = 4096


def dense(array: np.ndarray) -> np.ndarray:
    """An equal array: C-contiguous, aligned, in native byte order, of no subclass."""
    array = np.asarray(array)
    native = array.dtype if array.dtype.byteorder in "=|" else array.dtype.newbyteorder("=")
    plain = np.require(array, native, ["C", "A"])
    # An equal dtype that spells the byte order out is another description of the same bytes.
    return plain if plain.dtype is native else plain.view(native)


def read_only(array: np.ndarray) -> np.ndarray:
    """A view of the array that cannot be made writable; the array becomes read-only too."""
    owner = array if array.base is None else array.base
    for memory in (array, owner):
        if isinstance(memory, np.ndarray):
            memory.flags.writeable = False
    return array.view()


def fingerprint(array: np.ndarray) -> Any:
    """A value that is another one after a change in place (but for one chance in 2⁶⁴)."""
    if array.nbytes <= SMALL:
        return array.tobytes()
    values = array.reshape(-1).view(np.uint8)
    whole = values.size // 8 * 8
    total = np.add.reduce(values[:whole].view(np.uint64))
    return int(total), values[whole:].tobytes()


def scatter_add(rows: Any, places: Any, size: int, *, xp: Any) -> np.ndarray:
    """`xrnn.recurrence.scatter.scatter_add`, in one pass over the sorted rows."""
    out = np.zeros((size, rows.shape[1]), rows.dtype)
    order = np.argsort(places, stable=True)
    ordered = places[order]
    if len(ordered):
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        out[ordered[starts]] = np.add.reduceat(
            rows[order], starts, axis=0, dtype=accumulation_dtype(rows.dtype, xp=np)
        )
    return out


def _describe() -> str:
    return f"numpy {np.__version__}, {platform.machine()}, {platform.system()}"


#: cell → the kernel that needs no compiler
NUMPY: dict[Cell[Any], Kernel] = {
    **loops.KERNELS,
    cells.InputGatedLSTM: scan.kernel(cells.InputGatedLSTM),
    cells.MinGRU: scan.kernel(cells.MinGRU),
}


def _kernels(cell: Cell[Any]) -> tuple[Kernel, ...]:
    """The native loop of a cell, also for arrays of 16 bits and for weights of 8, then the one in
    NumPy."""
    plain = extension.kernels(cell)
    native = (*plain, *storage.kernels(cell), *map(quantised.quantised, plain[:1]))
    return (*native, *filter(None, [NUMPY.get(cell)]))


@cache
def _variants(cell: Cell[Any]) -> tuple[Kernel, ...]:
    """The native loops of a cell with options or zoneout."""
    native = options.kernels(cell)
    return (*native, *map(storage.stored, native[:1]), *map(quantised.quantised, native[:1]))


BACKEND = Backend(
    name="cpu",
    xp=np,
    to_host=host.to_host,
    kernels={cell: _kernels(cell) for cell in {**extension.CODES, **NUMPY}},
    variants=_variants,
    notes=extension.notes,
    describe=_describe,
    scatter_add=scatter_add,
    cross_entropy=cross_entropy.cross_entropy,
    computes=lambda dtype: dtype_name(dtype) not in HALF,
    dense=dense,
    read_only=read_only,
    fingerprint=fingerprint,
    # Their masks, and their own meaning of *, would be lost silently.
    refused=(np.ma.MaskedArray, np.matrix),
)
