"""What the fuzzer's judge looks at: errors, warnings, results, and objects before and after."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from opcode import opmap
from pathlib import Path
from typing import Any

import numpy as np

import xrnn
from fuzzing.command import CommandError
from xrnn.backends import backend_of, host
from xrnn.cells import BY_NAME, Cell
from xrnn.engine.tape import Tape
from xrnn.layers.part import PartTape
from xrnn.layers.sequential import SequentialTape
from xrnn.typing import dtype_name

#: where the library lies, its backends once more
HOMES = (Path(xrnn.__file__).parent, Path(xrnn.__file__).resolve().parent.parent / "backends")

#: numbers above this may overflow when they are squared
LARGE = 1e12

#: what Python says of arguments that do not fit a signature or an operator
BINDING = re.compile(
    r"unexpected keyword argument|missing \d+ required|positional(-only)? argument|multiple values"
    r"|unsupported operand type|takes no keyword arguments|expected \d+ arguments?, got"
)

#: more letters than these repeat what was given
LONGEST = 1000

#: what a message says of what must be, or is to be done
GUIDANCE = re.compile(
    r"\b(must|cannot|needs?|ha(s|ve)|holds?|there are|"
    r"assign|call|cast|choose|cut|give|make|move|run|take|use)\b"
)

#: the names that messages of layers and cells begin with
OWNERS = (
    *(*BY_NAME, "leaky", "zoneout", "linear", "embedding", "dropout", "layer_norm", "merge"),
    *(
        "attention_pooling",
        "last",
        "mean",
        "max",
        "sequential",
        "residual",
        "tied_linear",
        "attention",
        "seq2seq",
    ),
)

#: errors whose meaning Python's protocols give, by the method that may raise them
PROTOCOL = {"__setattr__": AttributeError, "__getitem__": KeyError}


# Errors -------------------------------------------------------------------------------------


def check_error(error: BaseException, entry: Any, values: Mapping[str, Any]) -> str:
    """What is unclear about an error of a call with these arguments; "" if nothing is."""
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, CommandError):
        return _check_command(str(error))
    if isinstance(error, OSError) and error.filename is not None:
        return ""
    last = error.__traceback__
    assert last is not None
    while last.tb_next is not None:
        last = last.tb_next
    place = Path(last.tb_frame.f_code.co_filename)
    if not any(home in place.parents for home in HOMES):
        if isinstance(error, TypeError) and BINDING.search(str(error)):
            return ""
        return f"raised in {place.name}: {words}"
    if last.tb_frame.f_code.co_code[last.tb_lasti] not in (
        opmap["RAISE_VARARGS"],
        opmap["RERAISE"],
    ):
        return f"not raised by a check ({place.name}:{last.tb_lineno}): {words}"
    allowed = (TypeError, ValueError, ImportError, OSError)
    protocol = PROTOCOL.get(entry.call.rpartition(".")[2])
    if not isinstance(error, allowed) and not (protocol and isinstance(error, protocol)):
        return f"of the wrong type: {words}"
    if isinstance(error, OSError):
        return ""
    if len(str(error)) > LONGEST:
        return f"too long: {words[:LONGEST]}"
    if not GUIDANCE.search(str(error)):
        return f"does not say what to do: {words}"
    names = {name.lstrip("_") for name in entry.arguments} | set(entry.words.split())
    if "device" in names:
        names.add("backend")
    # What a mapping holds is named by its keys.
    for value in values.values():
        names |= set(map(str, value)) if isinstance(value, Mapping) else set()
    # The gradient of a state is named by its parts.
    names |= {"dh", "dc"} if "dstate" in names else set()
    owned = re.match(rf"({'|'.join(OWNERS)})(\(.+?\))?: .", str(error))
    if not owned and not any(_holds(str(error), name) for name in names):
        return f"names no argument: {words}"
    return ""


def _holds(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _check_command(text: str) -> str:
    lines = text.strip().splitlines()
    if not lines or not re.match(r"xrnn( \w+)?: error: .{10}", lines[-1]):
        return f"no sentence on standard error: {text!r}"
    if len(lines) > 1 and not lines[0].startswith("usage: xrnn"):
        return f"more than a sentence on standard error: {text!r}"
    return ""


# Warnings -----------------------------------------------------------------------------------


@dataclass
class Seen:
    """The warnings of a call."""

    found: list[Any] = field(default_factory=list)

    def problem(self, given: Any) -> str:
        """The first warning that should not have been, or "".

        Numbers that are not finite, or large, may warn of what becomes of them.
        """
        for warning in self.found:
            if not issubclass(warning.category, RuntimeWarning) or _is_moderate(given):
                return f"{warning.category.__name__}: {warning.message}"
        return ""


@contextmanager
def check_warnings() -> Iterator[Seen]:
    """Record the warnings of a call."""
    seen = Seen()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield seen
    seen.found += found


# Pictures of objects ------------------------------------------------------------------------


def picture(value: Any) -> Any:
    """A copy of what can be seen of an object: nested tuples of arrays, names and numbers."""
    if isinstance(value, np.ndarray):
        return np.array(value, copy=True)
    if isinstance(value, str | bytes | int | float | complex | type | None):
        return value
    if isinstance(value, Mapping):
        names = sorted(value, key=repr)
        return ("mapping", *((repr(name), picture(value[name])) for name in names))
    if isinstance(value, Cell):
        return ("cell", value.identity)
    if isinstance(value, Tape):
        if any(run.few for run in value.runs):
            return ("tape", repr(value))
        return ("tape", picture([one[3:6] for one in value.passes]), picture(value.masks))
    if isinstance(value, SequentialTape):
        return ("list", picture(value.tapes), picture(value.state))
    if isinstance(value, PartTape):
        return ("tape", *map(picture, value))
    if isinstance(value, list | tuple):
        return ("list", *map(picture, value))
    if isinstance(value, xrnn.optim.Optimizer | xrnn.optim.Average | xrnn.optim.Plateau):
        return (type(value).__name__, picture(vars(value)))
    if isinstance(value, xrnn.online.Online):
        gradient = value.gradient(np.ones_like(value.state[0]))
        return ("online", picture(value.state), picture(gradient))
    if hasattr(value, "weights") and hasattr(value, "config"):
        return (type(value).__name__, picture(value.config()), picture(value.weights))
    try:
        return np.array(host.to_host(value), copy=True) if backend_of(value) else None
    except TypeError:
        return type(value).__name__


def arrays(seen: Any, *, of_tapes: bool = True) -> Iterator[np.ndarray]:
    """All arrays of a picture; with or without what tapes keep, in whatever precision."""
    if isinstance(seen, np.ndarray):
        yield seen
    elif isinstance(seen, tuple) and (of_tapes or seen[:1] != ("tape",)):
        for part in seen:
            yield from arrays(part, of_tapes=of_tapes)


def numbers(seen: Any) -> Iterator[float]:
    """All single numbers of a picture."""
    if isinstance(seen, float):
        yield seen
    elif isinstance(seen, tuple):
        for part in seen:
            yield from numbers(part)


def is_alike(a: Any, b: Any, *, tolerance: bool = False) -> bool:
    """Whether two pictures agree, to the last bit or within rounding."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or (not tolerance and a.dtype != b.dtype):
            return False
        if a.dtype.kind not in "fc" and dtype_name(a.dtype) != "bfloat16":
            return bool(np.all(a == b))
        if not tolerance:
            return bool(np.array_equal(a, b, equal_nan=True))
        bound = 1e-2 if a.dtype.itemsize == 2 else 1e-4
        return bool(np.allclose(a, b, rtol=bound, atol=bound, equal_nan=True))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(
            is_alike(x, y, tolerance=tolerance) for x, y in zip(a, b, strict=True)
        )
    return type(a) is type(b) and (a == b or (a != a and b != b))


# Results ------------------------------------------------------------------------------------


def _is_moderate(given: Any) -> bool:
    """Whether all numbers are finite and their squares are too."""
    for a in arrays(given):
        if a.dtype.kind in "fc" and not (
            np.isfinite(a).all() and (abs(a.astype("c16")) < LARGE).all()
        ):
            return False
        if a.dtype.kind in "OVUS":
            return False
    return all(abs(number) < LARGE for number in numbers(given))


def check_result(result: Any, given: Any, *, has_dtype: bool = False) -> str:
    """What is wrong with a result, whatever the call was; "" if nothing is.

    `has_dtype` says that the result has a dtype of its own, as from an argument of the call.
    """
    if not _is_moderate(given):
        return ""
    known = set() if has_dtype else {a.dtype.name for a in arrays(given) if a.dtype.kind in "fc"}
    for a in arrays(result, of_tapes=False):
        if a.dtype.kind not in "fc":
            continue
        if not np.isfinite(a).all():
            return "finite arguments, and a result that is not finite"
        if known and a.dtype.name not in known:
            return f"a result of {a.dtype}, where the arguments are of {', '.join(sorted(known))}"
    return ""


def check_memory(result: Any, given: Any) -> str:
    """Which memory is shared: by two arrays of a result, or by one and what was given; or ""."""
    found, known = list(_memory(result)), list(_memory(given))
    for n, a in enumerate(found):
        if any(np.may_share_memory(a, b) for b in found[:n]):
            return "two arrays of the result share memory"
        if any(np.may_share_memory(a, b) for b in known):
            return "an array of the result shares memory with what was given"
    return ""


def _memory(value: Any) -> Iterator[np.ndarray]:
    """The arrays of NumPy that an object holds, not those of tapes."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Mapping):
        yield from _memory(list(value.values()))
    elif isinstance(value, list | tuple) and not hasattr(value, "owner"):
        for part in value:
            yield from _memory(part)
    elif isinstance(value, xrnn.online.Online):
        yield from _memory([*value.state])
