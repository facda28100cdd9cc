"""NumPy, on the CPU, and what the rest of the library needs from the host."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np

from xrnn import cells
from xrnn.backends import Backend, Sequences, dtype_name
from xrnn.backends.cpu import extension, loops
from xrnn.cells.base import Cell
from xrnn.scan import SOURCE, Scan, scan

#: where a scan is the faster way: up to so many values in a step (B·H), from so many steps on
SCAN_UP_TO, SCAN_FROM = 128, 128

#: where all gates at once are the faster way: beyond, memory is moved once more than it need be
WHOLE_UP_TO = 4096

#: values of one state in a block: the dozen arrays of a block stay in the cache of a core
BLOCK = 65536


def to_host(array: Any) -> np.ndarray:
    """The values of an array of any library as a NumPy array (a view where it can be)."""
    if isinstance(array, np.ndarray):
        return array
    if array_api_compat.is_torch_array(array):
        # torch hands out neither what it records gradients of nor what lies on a device.
        array = array.detach().cpu()
        if dtype_name(array.dtype) == "bfloat16":
            return to_host(array.float()).astype(named_dtype("bfloat16"))
    try:
        return np.asarray(np.from_dlpack(array))
    except (AttributeError, BufferError, TypeError, RuntimeError):
        return np.asarray(array)


def fixed(array: np.ndarray) -> np.ndarray:
    """An equal array over bytes, which NumPy lets nobody make writable."""
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


def named_dtype(name: str) -> np.dtype:
    """NumPy's dtype of that name, of which ml_dtypes brings bfloat16.

    Raises
    ------
    ImportError
        If the name is bfloat16 and ml_dtypes is not installed.
    """
    if name == "bfloat16":
        try:
            importlib.import_module("ml_dtypes")
        except ModuleNotFoundError as error:
            raise ImportError("bfloat16 needs ml_dtypes: pip install ml_dtypes") from error
    return np.dtype(name)


def generator(rng: int | list[int] | np.random.Generator) -> np.random.Generator:
    """NumPy's generator for a seed (or several numbers that are one), or the one given."""
    return np.random.default_rng(rng)


def counter_bits(seed: int, stream: int, n: int) -> np.ndarray:
    """n random uint64 that depend on (seed, stream) and their position alone.

    NumPy promises the bits of Philox, unlike its distributions, to stay the same.
    """
    return np.random.Philox(key=[seed % 2**64, stream % 2**64]).random_raw(n)


def scatter_add(rows: Any, places: Any, size: int, *, xp: Any) -> np.ndarray:
    """`xrnn.scatter.scatter_add`, in one pass over the sorted rows."""
    out = np.zeros((size, rows.shape[1]), rows.dtype)
    order = np.argsort(places, stable=True)
    ordered = places[order]
    if len(ordered):
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        out[ordered[starts]] = np.add.reduceat(rows[order], starts, axis=0)
    return out


def step_by_step(f: Any, u: Any, first: Any) -> np.ndarray:
    """s_t = f_t ⊙ s_{t-1} + u_t in place, a step after the other."""
    s: np.ndarray = np.empty_like(u)
    for f_t, u_t, s_t in zip(f, u, s, strict=True):
        np.multiply(f_t, first, out=s_t)
        np.add(s_t, u_t, out=s_t)
        first = s_t
    return s


def scanned(T: int, values: int) -> bool:
    """Whether T steps of so many values go by a scan."""
    return values <= SCAN_UP_TO and T >= SCAN_FROM


def solve(f: Any, u: Any, first: Any, *, xp: Any) -> Any:
    """The same, where many steps are tiny by a scan.

    A step costs half a microsecond however little it computes; a scan moves three times the
    memory.  ``benchmarks/scan.py`` measures where they cross.
    """
    if scanned(len(f), first.size):
        return scan(f, u, first, xp=xp)
    return step_by_step(f, u, first)


def _linear(cell: Cell) -> tuple[Sequences, ...]:
    form = Scan(cell, solve, BLOCK)
    source = SOURCE + Path(__file__).read_text()
    return (
        Sequences(
            form.forward,
            form.backward,
            loops.DTYPES,
            source,
            serves=lambda T, B, I, H: B * H <= WHOLE_UP_TO,
            # The recurrence goes by a scan or step by step.
            trial=lambda T, B, I, H: (SCAN_FROM, 1, 2, 3) if scanned(T, B * H) else (5, 3, 4, 16),
            path=lambda T, B, I, H: (
                "all gates at once, then a scan" if scanned(T, B * H) else "all gates at once"
            ),
        ),
    )


def _describe() -> str:
    return f"numpy {np.__version__}, {platform.machine()}, {platform.system()}"


#: cell → its loop that needs no compiler
LOOPS: dict[Cell, tuple[Sequences, ...]] = {
    **{cell: (loop,) for cell, loop in loops.LOOPS.items()},
    cells.InputGatedLSTM: _linear(cells.InputGatedLSTM),
    cells.MinGRU: _linear(cells.MinGRU),
}

BACKEND = Backend(
    name="cpu",
    xp=np,
    to_host=to_host,
    sequences={cell: (*extension.entry(cell), *LOOPS[cell]) for cell in LOOPS},
    direct=extension.direct,
    notes=extension.notes,
    describe=_describe,
    scatter_add=scatter_add,
    computes=lambda dtype: dtype_name(dtype) != "bfloat16",
    fixed=fixed,
    # A mask or a second meaning of * would be dropped without a word.
    refused=(np.ma.MaskedArray, np.matrix),
)
