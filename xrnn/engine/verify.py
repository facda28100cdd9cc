"""Verification: a kernel is compared with its cell before it is used.

At its first use on a machine a kernel is compared with the cell that it replaces, forward and
backward, on a small random input.  If the results agree, the kernel is used.  If they differ, or
the kernel fails to build, a warning names it and the cell's own code is used, which is slower.
A failure that tells of the moment and not of the kernel, such as no memory, is no verdict: nothing
is remembered then, and the next call verifies again.

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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import cycle
from math import inf
from pathlib import Path
from types import CodeType, FunctionType, NoneType
from typing import Any

from xrnn._version import __version__
from xrnn.backends import Backend, Kernel, Sizes, host
from xrnn.cells.base import Cell
from xrnn.cells.options import Options
from xrnn.engine import atomic
from xrnn.engine.trial import Trial, draws, tolerance
from xrnn.recurrence.bfloat16 import RoundedLoop
from xrnn.recurrence.loop import Loop
from xrnn.typing import Array, dtype_name

#: the types of values whose text (repr) describes them completely, see `code_of`
CONSTANT = (bool, int, float, complex, str, bytes, NoneType)


class NotNow(RuntimeError):
    """A kernel could not be verified at this moment; its cause, if any, is the failure."""


def verified(backend: Backend, cell: Cell[Any], dtype: Any, kernel: Kernel, sizes: Sizes) -> bool:
    """Whether a kernel agrees with its cell on this device, from the cache or computed now.

    Raises
    ------
    NotNow
        If that cannot be known at this moment.
    """
    return _verdict(backend, cell, dtype, kernel, sizes, backend.describe())


@cache
def _verdict(
    backend: Backend, cell: Cell[Any], dtype: Any, kernel: Kernel, sizes: Sizes, device: str
) -> bool:
    """The same, remembered in this process for each device, as `Backend.describe` tells them
    apart.  What is raised is not remembered."""
    key = _key(backend, cell, dtype, kernel, sizes)
    if key is not None and key in _remembered():
        return True
    if reason := backend.occupied():
        raise _not_now(backend, cell, dtype, reason)
    problem = _compare(backend, cell, dtype, kernel, sizes)
    if problem is None:
        if key is not None:
            _remember(key)
        return True
    warnings.warn(
        f"{backend.name}: the kernel of {cell.name} for {dtype_name(dtype)} is not used here, "
        f"the cell's own code serves: {problem}",
        RuntimeWarning,
        stacklevel=3,
    )
    return False


def _not_now(backend: Backend, cell: Cell[Any], dtype: Any, reason: str) -> NotNow:
    return NotNow(
        f"{backend.name}: the kernel of {cell.name} for {dtype_name(dtype)} cannot be verified at "
        f"this moment: {reason}"
    )


@host.ignore_underflow
def _compare(
    backend: Backend, cell: Cell[Any], dtype: Any, kernel: Kernel, sizes: Sizes
) -> str | None:
    """None if the kernel agrees with its cell, otherwise a text that says how it differs.

    Raises
    ------
    NotNow
        If the failure is a passing one, see `Backend.passing`.
    """
    bound, error = kernel.tolerance or tolerance(cell, dtype, kernel.precision, sizes), inf
    try:
        for draw in range(draws(cell, kernel.precision)):
            with kernel.strict():
                error = min(error, difference(backend, cell, dtype, kernel, sizes, draw))
            if error <= bound:
                return None
    except Exception as problem:  # whatever the failure, the cell's own code can be used
        reason = f"{type(problem).__name__}: {problem}"
        if backend.passing(problem):
            raise _not_now(backend, cell, dtype, reason) from problem
        return f"it failed with {reason}"
    return f"it differs by {error:.1e}, allowed {bound:.1e}"


def difference(
    backend: Backend, cell: Cell[Any], dtype: Any, kernel: Kernel, sizes: Sizes, draw: int = 0
) -> float:
    """The largest relative difference between a kernel and its cell, over all results for these
    arguments (`Trial`).

    It is computed forward and backward, with and without lengths (0 among them), with and without
    a tape, in each direction and in both at once, in one piece and in stretches; and for single
    sequences, single steps and prepared weights, where the kernel has them.
    """
    trial = Trial(backend, cell, dtype, sizes, draw)
    if kernel.precision == "int8":
        return _difference_of_inference(trial.with_integers(), cell, kernel)
    worst, ways, loop = 0.0, (False, True), _own(cell, kernel.precision)
    for lengths in (None, trial.lengths):
        own = [trial.results(loop, lengths, reverse, wide=True) for reverse in ways]
        found = [trial.results(kernel.sequence, lengths, reverse) for reverse in ways]
        if kernel.both is not None:
            found += trial.results_of_both(kernel.both, lengths)
        if kernel.adds:
            found += [trial.results_in_stretches(kernel.sequence, lengths, way) for way in ways]
        for expected, results in zip(cycle(own), found, strict=False):
            if any(dtype_name(a.dtype) != dtype_name(dtype) for a in results):
                return float("inf")
            worst = max(worst, _largest(expected, results))
        if kernel.contributions is not None:
            for reverse in ways:
                expected, results = (
                    trial.of_each(one, lengths, reverse) for one in (_of_each(loop), kernel)
                )
                worst = max(worst, _largest(expected, results))
    if kernel.stepping is not None:
        plain = trial.one_step(kernel)
        worst = max(worst, *(_largest(plain, found) for found in trial.stepped(kernel)))
    return worst


def _difference_of_inference(trial: Trial, cell: Cell[Any], kernel: Kernel) -> float:
    """The same for a kernel that has no backward pass."""
    worst, loop = 0.0, Loop(cell)
    for lengths in (None, trial.lengths):
        ways = [trial.inference(loop, lengths, reverse) for reverse in (False, True)]
        found = [trial.inference(kernel.sequence, lengths, reverse) for reverse in (False, True)]
        if kernel.both is not None:
            found += trial.inference_of_both(kernel.both, lengths)
        worst = max(worst, *map(_largest, cycle(ways), found))
    plain = trial.one_step(_of_each(loop))
    return max(worst, *(_largest(plain, found) for found in trial.stepped(kernel)))


def _own(cell: Cell[Any], precision: str) -> Loop:
    """The cell's own code in the precision of a kernel."""
    return RoundedLoop(cell) if precision == "bf16" else Loop(cell)


def _of_each(loop: Loop) -> Kernel:
    """The cell's own code, for `Trial.of_each`."""
    return Kernel(loop, frozenset(), contributions=loop.contributions)


def _largest(expected: list[Array], found: list[Array]) -> float:
    # Numbers of float16 below the least normal one have fewer digits.
    least = 2.0**-14 if dtype_name(found[0].dtype) == "float16" else 1e-30
    pairs = zip(expected, found, strict=True)
    return max(relative(a.astype("float64"), b.astype("float64"), least) for a, b in pairs)


def relative(a: Array, b: Array, least: float = 1e-30) -> float:
    """max |a − b| / max |a|, where the latter counts as at least `least`; infinity if the shapes
    differ or the difference is NaN."""
    if a.shape != b.shape:
        return float("inf")
    gap, scale = float(abs(a - b).max()), float(abs(a).max())
    return gap / max(scale, least) if gap == gap else float("inf")


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
    completely.  The functions of a class are followed if it belongs to the same package.
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
        words = []
        for value in _parts(used):
            if isinstance(value, FunctionType | type):
                words.append(f"{value.__name__}@{getattr(value, '__module__', '')}")
                waiting += _functions(value, function.__module__)
            elif isinstance(value, CONSTANT):
                words.append(repr(value))
            else:
                return None
        own = f"{function.__name__}@{function.__module__}"
        seen[function] = f"{own} {_text(function.__code__)} {words}"
    return "\n".join(sorted(seen.values()))


def _parts(values: Iterable[Any]) -> Iterator[Any]:
    """The values; instead of a collection or the options of a cell what they hold, and instead of
    a function that is cached the function itself."""
    for value in map(inspect.unwrap, values):
        if isinstance(value, Mapping):
            yield from _parts((*value, *value.values()))
        elif isinstance(value, tuple):
            yield type(value)
            yield from _parts(value)
        elif isinstance(value, Options):
            yield type(value)
            yield repr(value)
        else:
            yield value


def _functions(value: FunctionType | type, module: str) -> list[FunctionType]:
    """A function itself; of a class those of its body, if it is of the package of `module`.  The
    text of a named tuple's functions is another one in every process, and options are values."""
    if isinstance(value, FunctionType):
        return [value]
    package = module.partition(".")[0]
    other = value.__module__.partition(".")[0] != package
    if other or issubclass(value, tuple | Options):
        return []
    body = [getattr(part, "fget", part) for part in vars(value).values()]
    return [part for part in body if isinstance(part, FunctionType)]


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
