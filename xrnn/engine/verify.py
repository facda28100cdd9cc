"""Verification: a kernel is compared with its cell before it is used.

At its first use on a machine a kernel is compared with the cell that it replaces, forward and
backward, on a small random input.  If the results agree, the kernel is used.  If they differ, or
the kernel fails to build, a warning names it and the cell's own code is used, which is slower.

A success (never a failure) is remembered in ``$XDG_CACHE_HOME/xrnn`` (default ``~/.cache/xrnn``).
Its key names everything that it depends on: device, driver, library, the code of the kernel and the
code of the cell.  If the cache cannot be read or written, the kernel is verified in every process.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, NoneType
from typing import Any

from xrnn._version import __version__
from xrnn.backends import Backend, Kernel, Sizes, host
from xrnn.cells.base import Cell
from xrnn.engine import atomic
from xrnn.recurrence.loop import Loop
from xrnn.typing import Array, BothDirections, Gradients, Sequence, dtype_name

#: dtype → the largest accepted difference of a kernel from its cell, relative to the largest value
TOLERANCE = {"float16": 2e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-10}

#: the types of values whose text (repr) describes them completely, see `code_of`
CONSTANT = (bool, int, float, complex, str, bytes, NoneType)


@cache
def verified(backend: Backend, cell: Cell[Any], dtype: Any, kernel: Kernel, sizes: Sizes) -> bool:
    """Whether a kernel agrees with its cell on this machine, from the cache or computed now."""
    key = _key(backend, cell, dtype, kernel, sizes)
    if key is not None and key in _remembered():
        return True
    problem = _compare(backend, cell, dtype, kernel, sizes)
    if problem is None:
        if key is not None:
            _remember(key)
        return True
    warnings.warn(
        f"{backend.name}: the kernel of {cell.name} for {dtype_name(dtype)} is not used here, "
        f"the cell's own code serves: {problem}",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


@host.ignore_underflow
def _compare(
    backend: Backend, cell: Cell[Any], dtype: Any, kernel: Kernel, sizes: Sizes
) -> str | None:
    """None if the kernel agrees with its cell, otherwise a text that says how it differs."""
    try:
        error = difference(backend, cell, dtype, kernel, sizes)
    except Exception as problem:  # whatever the failure, the cell's own code can be used
        return f"it failed with {type(problem).__name__}: {problem}"
    bound = kernel.tolerance or TOLERANCE[dtype_name(dtype)]
    return None if error <= bound else f"it differs by {error:.1e}, allowed {bound:.0e}"


def difference(
    backend: Backend, cell: Cell[Any], dtype: Any, kernel: Kernel, sizes: Sizes
) -> float:
    """The largest relative difference between a kernel and its cell, over all results.

    It is computed forward and backward, with and without lengths (0 among them), with and without
    a tape, in each direction and in both at once; and for single steps and prepared weights,
    where the kernel has them.
    """
    trial = _Trial(backend, cell, dtype, sizes)
    T, B = sizes[:2]
    worst, ways = 0.0, (False, True)
    for lengths in (None, [(T, 0, min(2, T))[b % 3] for b in range(B)]):
        own = [trial.results(Loop(cell), lengths, reverse, wide=True) for reverse in ways]
        found = [trial.results(kernel.sequence, lengths, reverse) for reverse in ways]
        if kernel.both is not None:
            found += trial.results_of_both(kernel.both, lengths)
        for expected, results in zip([*own, *own], found, strict=False):
            if any(dtype_name(a.dtype) != dtype_name(dtype) for a in results):
                return float("inf")
            worst = max(worst, _largest(expected, results))
    if kernel.stepping is not None:
        plain = trial.one_step(kernel)
        worst = max(worst, *(_largest(plain, found) for found in trial.stepped(kernel)))
    return worst


def _largest(expected: list[Array], found: list[Array]) -> float:
    pairs = zip(expected, found, strict=True)
    return max(relative(a.astype("float64"), b.astype("float64")) for a, b in pairs)


class _Trial:
    """Random arguments for one cell, and the results of a sequence kernel on them."""

    def __init__(self, backend: Backend, cell: Cell[Any], dtype: Any, sizes: Sizes) -> None:
        self.backend, self.xp, self.dtype = backend, backend.xp, dtype
        T, B, I, H = sizes
        rng = host.generator(0)

        def array(*shape: int) -> Array:
            return self.xp.astype(backend.from_host(rng.normal(size=shape)), dtype)

        # Small weights: with large ones a recurrence is chaotic, and rounding errors grow.
        self.weights = {
            name: self.xp.astype(0.3 * self.xp.astype(array(*shape), self.xp.float32), dtype)
            for name, shape in cell.shapes(I, H).items()
        }
        self.xs, self.dys = array(T, B, I), array(T, B, H)
        self.state, self.dstate = (tuple(array(B, H) for _ in cell.states) for _ in range(2))

    def results(
        self, sequence: Sequence, lengths: list[int] | None, reverse: bool, wide: bool = False
    ) -> list[Array]:
        """All results of forward and backward passes, as NumPy arrays.

        With `wide` they are computed in float32 if the library does not compute in the dtype.
        """
        kind = self.dtype
        if wide and not self.backend.computes(kind):
            kind = self.xp.float32
        weights, xs, dys, first, dlast = self._as(kind)
        how: Any = {"lengths": self._lengths(lengths), "reverse": reverse, "xp": self.xp}
        ys, last, residuals = sequence.forward(weights, xs, first, keep=True, **how)
        gradients = [
            sequence.backward(weights, residuals, d, dlast, xp=self.xp) for d in (dys, None)
        ]
        inference = sequence.forward(weights, xs, first, keep=False, **how)
        return self._on_host((ys, last), inference, gradients)

    def results_of_both(self, both: BothDirections, lengths: list[int] | None) -> list[list[Array]]:
        """The same for each direction, by a kernel that runs the two at once."""
        weights, xs, dys, first, dlast = self._as(self.dtype)
        passes = [(weights, first, reverse) for reverse in (False, True)]
        how: Any = {"lengths": self._lengths(lengths), "xp": self.xp}
        kept = both.forward_both(passes, xs, keep=True, **how)
        gradients = [
            both.backward_both([(weights, r, d, dlast) for _, _, r in kept], xp=self.xp)
            for d in (dys, None)
        ]
        inference = both.forward_both(passes, xs, keep=False, **how)
        return [
            self._on_host(kept[n][:2], inference[n], [found[n] for found in gradients])
            for n in range(2)
        ]

    def _as(self, kind: Any) -> tuple[Any, ...]:
        """Weights, inputs, their gradient, states and their gradient in a dtype."""
        cast = self.xp.astype
        weights = {name: cast(a, kind) for name, a in self.weights.items()}
        first, dlast = (tuple(cast(a, kind) for a in s) for s in (self.state, self.dstate))
        return weights, cast(self.xs, kind), cast(self.dys, kind), first, dlast

    def _lengths(self, lengths: list[int] | None) -> Array | None:
        return None if lengths is None else self.xp.asarray(lengths, dtype=self.xp.int64)

    def _on_host(self, kept: Any, inference: Any, gradients: list[Gradients]) -> list[Array]:
        found = [kept[0], *kept[1], inference[0], *inference[1]]
        for dxs, dfirst, dweights in gradients:
            found += [dxs, *dfirst, *(dweights[k] for k in sorted(self.weights))]
        return [self.backend.to_host(a) for a in found]

    def one_step(self, kernel: Kernel, weights: Any = None) -> list[Array]:
        """The state after a sequence of one step."""
        _, last, _ = kernel.sequence.forward(
            self.weights if weights is None else weights,
            self.xs[:1, ...],
            self.state,
            lengths=None,
            reverse=False,
            keep=False,
            xp=self.xp,
        )
        return [self.backend.to_host(a) for a in last]

    def stepped(self, kernel: Kernel) -> list[list[Array]]:
        """The state after one step, by `Stepping.step` and by sequences with prepared weights."""
        assert kernel.stepping is not None
        both = [kernel.stepping.prepare(self.weights, fixed=fixed) for fixed in (False, True)]
        states = [kernel.stepping.step(w, self.xs[0, ...], self.state) for w in both]
        steps = [[self.backend.to_host(a) for a in state] for state in states]
        return [*steps, *(self.one_step(kernel, w) for w in both)]


def relative(a: Array, b: Array) -> float:
    """max |a − b| / max |a|; infinity if the shapes differ or the difference is NaN."""
    if a.shape != b.shape:
        return float("inf")
    gap, scale = float(abs(a - b).max()), float(abs(a).max())
    return gap / max(scale, 1e-30) if gap == gap else float("inf")


def _key(backend: Backend, cell: Cell[Any], dtype: Any, kernel: Kernel, sizes: Sizes) -> str | None:
    """The key of a verification in the cache; None if its code cannot be identified."""
    functions = [cell.step, cell.step_backward, cell.total]
    if cell.linear is not None:
        # A scan is made of these; so the code of the cell is a part of that kernel.
        functions += [cell.linear.gates, cell.linear.recurrence, cell.linear.finish]
    source, own = kernel.source(), code_of(*functions)
    if not source or own is None:
        return None
    parts = (
        *(backend.name, backend.describe(), __version__, cell.name, dtype_name(dtype)),
        *(kernel.precision, str(sizes), _hash(source), _hash(own)),
    )
    return " | ".join(parts)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_of(*functions: Any) -> str | None:
    """The byte code of functions and of all Python functions that they call, as text.

    An edited equation changes it, and it exists without source files too.  None if a function is
    not written in Python, or refers to a value (such as a module) whose text does not describe it
    completely.
    """
    seen: dict[FunctionType, str] = {}
    waiting = list(functions)
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType):
            return None
        if function in seen:
            continue
        names = [n for n in _names(function.__code__) if n in function.__globals__]
        used = [function.__globals__[name] for name in names]
        used += inspect.getclosurevars(function).nonlocals.values()
        used += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        waiting += [value for value in used if isinstance(value, FunctionType)]
        words = []
        for value in used:
            if isinstance(value, FunctionType | type):
                words.append(f"{value.__name__}@{getattr(value, '__module__', '')}")
            elif isinstance(value, CONSTANT):
                words.append(repr(value))
            else:
                return None
        own = f"{function.__name__}@{function.__module__}"
        seen[function] = f"{own} {_text(function.__code__)} {words}"
    return "\n".join(sorted(seen.values()))


def _names(code: CodeType) -> list[str]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return sorted({*code.co_names, *(name for c in inner for name in _names(c))})


def _text(code: CodeType) -> str:
    constants = [_text(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _file() -> Path | None:
    """The file of the cache; None if there is no place for it."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The XDG specification says that a relative path is to be ignored.
        base = Path(folder) if os.path.isabs(folder) else Path.home() / ".cache"
    except RuntimeError:  # a user without a home directory
        return None
    return base / "xrnn" / "verified.json" if base.is_absolute() else None


def _remembered() -> list[str]:
    """The keys in the file; none if it cannot be read."""
    file = _file()
    with suppress(OSError):
        return [] if file is None else _keys(file)
    return []


def _keys(file: Path) -> list[str]:
    """The keys in a file, none if there is no file or no list in it; an OSError is raised."""
    try:
        keys = json.loads(atomic.read(file))
    except (FileNotFoundError, ValueError, RecursionError):
        return []
    return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []


def _remember(key: str) -> None:
    """Add one key to the file, if it can be written."""
    file = _file()
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic.turn(file.parent):  # so that no other process loses the key that it adds
            atomic.replace(file, json.dumps([*_keys(file), key], indent=1).encode())
