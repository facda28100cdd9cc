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

from xrnn.backends import Backend, Sequences, Sizes, Steps, dtype_name
from xrnn.backends.cpu import generator
from xrnn.cells.base import Cell
from xrnn.loop import Loop
from xrnn.typing import Array

#: dtype → how far a fast path may lie from its cell, relative to the largest value
TOLERANCE = {"float16": 2e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-10}

#: the sizes that a step proves itself on; a loop names its own
TRIAL: Sizes = (5, 3, 4, 16)


def sequence_of(
    backend: Backend, cell: Cell, sizes: Sizes, dtype: Any, precision: str = "ieee"
) -> Any:
    """Who runs this cell at sizes (T, B, I, H): a loop of the backend's, one over its step, or
    the cell's own.

    This is the one line that chooses.  A table is asked for this very cell and dtype, and
    its answer is taken only if it has proved itself here; an empty input has nothing to
    hurry for.
    """
    if 0 not in sizes:
        for entry in backend.entries(cell, sizes, dtype, precision):
            if proved(backend, cell, dtype, entry, trial_of(entry, sizes)):
                return _sequence(entry)
    if not backend.computes(dtype):
        raise TypeError(
            f"{cell.name}: backend {backend.name} computes in {dtype_name(dtype)} by fused "
            "kernels alone, and none serves here; use float32 or float16"
        )
    return _sequence(cell)


def trial_of(entry: Steps | Sequences, sizes: Sizes) -> Sizes:
    """Small sizes that go the same way through an entry as those in hand."""
    return entry.trial(*sizes) if isinstance(entry, Sequences) else TRIAL


def direct(
    backend: Backend, cell: Cell, dtype: Any, sizes: tuple[int, int, int], bias: bool
) -> Any:
    """What the backend runs layers with, for (L, I, H), if the loop behind it is trusted."""
    found, (_, I, H) = backend.direct(cell, dtype, sizes, bias), sizes
    if found is None:
        return None
    entry = backend.entries(cell, (1, 1, I, H), dtype)[0]
    return found if proved(backend, cell, dtype, entry, trial_of(entry, (1, 1, I, H))) else None


def path(backend: Backend, cell: Cell, sizes: Sizes, dtype: Any, precision: str) -> str:
    """What `sequence_of` chooses, in words."""
    chosen = sequence_of(backend, cell, sizes, dtype, precision)
    if isinstance(chosen, Sequences):
        return chosen.path(*sizes)
    return "the cell as written" if chosen.pair is cell else "a fused step in the cell's loop"


@cache
def _sequence(pair: Any) -> Any:
    return pair if isinstance(pair, Sequences) else Loop(pair)


@cache
def proved(
    backend: Backend, cell: Cell, dtype: Any, entry: Steps | Sequences, sizes: Sizes = TRIAL
) -> bool:
    """Whether entry equals cell on this machine: remembered, or found out now."""
    key = _key(backend, cell, dtype, entry, sizes)
    if key in _remembered():
        return True
    problem = _prove(backend, cell, dtype, entry, sizes)
    if problem is None:
        _remember(key)
        return True
    warnings.warn(
        f"{backend.name}: the fast {cell.name} for {dtype_name(dtype)} is not used here, "
        f"the cell's own code serves: {problem}",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def _prove(
    backend: Backend, cell: Cell, dtype: Any, entry: Steps | Sequences, sizes: Sizes
) -> str | None:
    """None if entry equals cell, else in words why not."""
    try:
        error = difference(backend, cell, dtype, entry, sizes)
    except Exception as problem:  # whatever a kernel may fail with, the cell can serve
        return f"it failed with {type(problem).__name__}: {problem}"
    bound = getattr(entry, "tolerance", None) or TOLERANCE[dtype_name(dtype)]
    return None if error <= bound else f"it differs by {error:.1e}, allowed {bound:.0e}"


def difference(
    backend: Backend,
    cell: Cell,
    dtype: Any,
    entry: Steps | Sequences,
    sizes: Sizes = TRIAL,
) -> float:
    """The largest relative difference between entry and cell, over all results.

    Forward and backward, both directions, with and without lengths (0 among them).
    """
    xp, rng, (T, B, I, H) = backend.xp, generator(0), sizes

    # Where the library does not compute in a dtype, the cell says in float32 what is right.
    own_dtype = dtype if backend.computes(dtype) else xp.float32

    def array(*shape: int) -> Array:
        return xp.astype(backend.from_host(rng.normal(size=shape)), dtype)

    # Small weights: with large ones a recurrence is chaos, and every rounding error grows.
    weights = {
        name: xp.astype(0.3 * xp.astype(array(*shape), xp.float32), dtype)
        for name, shape in cell.shapes(I, H).items()
    }
    xs, dys = array(T, B, I), array(T, B, H)
    state, dstate = (tuple(array(B, H) for _ in cell.states) for _ in range(2))

    def results(sequence: Any, kind: Any, n: Array | None, reverse: bool) -> list[Array]:
        w = {name: xp.astype(a, kind) for name, a in weights.items()}
        x, dy = xp.astype(xs, kind), xp.astype(dys, kind)
        first, dlast = (tuple(xp.astype(a, kind) for a in arrays) for arrays in (state, dstate))
        ys, last, saved = sequence.forward(
            w, x, first, lengths=n, reverse=reverse, keep=True, xp=xp
        )
        dxs, dfirst, dw = sequence.backward(w, saved, dy, dlast, xp=xp)
        found = [ys, *last, dxs, *dfirst, *(dw[k] for k in sorted(weights))]
        return [backend.to_host(a) for a in found]

    worst = 0.0
    for reverse in (False, True):
        for lengths in (None, [(T, 0, min(2, T))[b % 3] for b in range(B)]):
            n = None if lengths is None else xp.asarray(lengths, dtype=xp.int64)
            own = results(_sequence(cell), own_dtype, n, reverse)
            fast = results(_sequence(entry), dtype, n, reverse)
            if any(dtype_name(a.dtype) != dtype_name(dtype) for a in fast):
                return float("inf")
            for a, b in zip(own, fast, strict=True):
                worst = max(worst, _relative(a.astype("float64"), b.astype("float64")))
    return worst


def _relative(a: Array, b: Array) -> float:
    """max |a − b| / max |a|, infinite where shapes or finiteness differ."""
    if a.shape != b.shape:
        return float("inf")
    gap, scale = float(abs(a - b).max()), float(abs(a).max())
    return gap / max(scale, 1e-30) if gap == gap else float("inf")


def _key(backend: Backend, cell: Cell, dtype: Any, entry: Steps | Sequences, sizes: Sizes) -> str:
    try:
        own = version("xrnn-array")
    except PackageNotFoundError:
        own = "?"
    source = hashlib.sha256(entry.source.encode()).hexdigest()[:16]
    door = type(entry).__name__.lower()
    if isinstance(entry, Sequences):
        door = f"{door} {entry.precision} {sizes}"
    parts = (backend.name, backend.describe(), own, door, cell.name, dtype_name(dtype), source)
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
