"""A fast path proves itself before it is trusted.

At its first use on a machine an entry of a backend's tables is compared with the cell it
stands for, forward and backward, on a small random input.  If it agrees, it serves; if it
disagrees or fails to build, one warning names it and the cell's own code serves: slower,
never wrong.  A proof (never a failure) is remembered under the device, driver, library,
version and source it holds for, in ``$XDG_CACHE_HOME/xrnn`` (default ``~/.cache/xrnn``).
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xrnn.backends import Backend, Sequences, Steps
from xrnn.backends.cpu import generator
from xrnn.cells.base import Cell
from xrnn.loop import Loop
from xrnn.typing import Array

#: dtype → how far a fast path may lie from its cell, relative to the largest value
TOLERANCE = {"float16": 2e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-10}

T, B, I, H = 5, 3, 4, 16


def sequence_of(backend: Backend, cell: Cell, xs: Array) -> Any:
    """Who runs this cell on xs: the backend's loop, the loop over its step, or the cell's own.

    This is the one line that chooses.  A table is asked for this very cell and dtype, and
    its answer is taken only if it has proved itself here; an empty input has nothing to
    hurry for.
    """
    if 0 not in xs.shape:
        for entry in (backend.sequences_of(cell, xs.dtype), backend.steps_of(cell, xs.dtype)):
            if entry is not None and proved(backend, cell, xs.dtype, entry):
                return _sequence(entry)
    return _sequence(cell)


@cache
def _sequence(pair: Any) -> Any:
    return pair if isinstance(pair, Sequences) else Loop(pair)


@cache
def proved(backend: Backend, cell: Cell, dtype: Any, entry: Steps | Sequences) -> bool:
    """Whether entry equals cell on this machine: remembered, or found out now."""
    key = _key(backend, cell, dtype, entry)
    if key in _remembered():
        return True
    problem = _prove(backend, cell, dtype, entry)
    if problem is None:
        _remember(key)
        return True
    warnings.warn(
        f"{backend.name}: the fast {cell.name} for {_name(dtype)} is not used here, "
        f"the cell's own code serves: {problem}",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def _prove(backend: Backend, cell: Cell, dtype: Any, entry: Steps | Sequences) -> str | None:
    """None if entry equals cell, else in words why not."""
    try:
        error = difference(backend, cell, dtype, entry)
    except Exception as problem:  # whatever a kernel may fail with, the cell can serve
        return f"it failed with {type(problem).__name__}: {problem}"
    bound = TOLERANCE[_name(dtype)]
    return None if error <= bound else f"it differs by {error:.1e}, allowed {bound:.0e}"


def difference(backend: Backend, cell: Cell, dtype: Any, entry: Steps | Sequences) -> float:
    """The largest relative difference between entry and cell, over all results.

    Forward and backward, both directions, with and without lengths (0 among them).
    """
    xp, rng = backend.xp, generator(0)

    def array(*shape: int) -> Array:
        return xp.astype(backend.from_host(rng.normal(size=shape)), dtype)

    weights = {name: array(*shape) for name, shape in cell.shapes(I, H).items()}
    xs, dys = array(T, B, I), array(T, B, H)
    state, dstate = (tuple(array(B, H) for _ in cell.states) for _ in range(2))
    worst = 0.0
    for reverse in (False, True):
        for lengths in (None, [T, 0, 2]):
            n = None if lengths is None else xp.asarray(lengths, dtype=xp.int64)
            results = []
            for sequence in (_sequence(cell), _sequence(entry)):
                ys, last, saved = sequence.forward(
                    weights, xs, state, lengths=n, reverse=reverse, keep=True, xp=xp
                )
                dxs, dfirst, dw = sequence.backward(weights, saved, dys, dstate, xp=xp)
                results.append([ys, *last, dxs, *dfirst, *(dw[k] for k in sorted(weights))])
            for a, b in zip(*results, strict=True):
                worst = max(worst, _relative(backend.to_host(a), backend.to_host(b)))
    return worst


def _relative(a: Array, b: Array) -> float:
    """max |a − b| / max |a|, infinite where shapes or finiteness differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    gap, scale = float(abs(a - b).max()), float(abs(a).max())
    return gap / max(scale, 1e-30) if gap == gap else float("inf")


def _name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def _key(backend: Backend, cell: Cell, dtype: Any, entry: Steps | Sequences) -> str:
    try:
        own = version("xrnn-array")
    except PackageNotFoundError:
        own = "?"
    source = hashlib.sha256(entry.source.encode()).hexdigest()[:16]
    door = type(entry).__name__.lower()
    parts = (backend.name, backend.describe(), own, door, cell.name, _name(dtype), source)
    return " | ".join(parts)


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "xrnn" / "proofs.json"


def _remembered() -> list[str]:
    try:
        proofs = json.loads(_file().read_text())
    except (OSError, ValueError):
        return []
    return proofs if isinstance(proofs, list) else []


def _remember(key: str) -> None:
    """Add one proof to the file; a machine where that cannot be written proves anew."""
    file = _file()
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps([*_remembered(), key], indent=1))
        part.replace(file)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
