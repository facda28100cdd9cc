"""What the JSON values in a file must be, checked before anything is made of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

#: integers in files are below this
LIMIT = 2**63

#: what a value must be, in words, and whether it is
Kind = tuple[str, Callable[[Any], bool]]

COUNT: Kind = ("an integer ≥ 0 that fits in 64 bits", lambda v: type(v) is int and 0 <= v < LIMIT)
NUMBER: Kind = (
    "a finite number",
    lambda v: type(v) in (int, float) and abs(v) <= sys.float_info.max,
)
STRING: Kind = ("a string", lambda v: isinstance(v, str))
OBJECT: Kind = ("an object", lambda v: isinstance(v, dict))
ANYTHING: Kind = ("anything", lambda v: True)


def or_null(kind: Kind) -> Kind:
    """The same kind of values, or null."""
    words, fits = kind
    return f"{words}, or null", lambda v: v is None or fits(v)


class ContentsError(ValueError):
    """A file that does not hold what it must; the message begins with its path."""


def check_values(path: str, where: str, found: Any, kinds: Mapping[str, Kind]) -> None:
    """Raise ContentsError unless `found` is an object of exactly these keys and kinds of values."""
    if not isinstance(found, dict):
        raise refusal(path, f"{where.rstrip('.')} is {found!r:.80}; it must be an object")
    if missing := [name for name in kinds if name not in found]:
        raise refusal(path, f"{where}{missing[0]} is missing")
    if unknown := [name for name in found if name not in kinds]:
        raise refusal(
            path,
            f"{where}{unknown[0]} is unknown to this version; it may be that of a newer xrnn",
        )
    for name, (words, fits) in kinds.items():
        if not fits(found[name]):
            raise refusal(path, f"{where}{name} is {found[name]!r:.80}; it must be {words}")


def refusal(path: str, problem: str) -> ContentsError:
    """The error for a file with a problem."""
    return ContentsError(f"{path} is not as xrnn wrote it: {problem}; use another file")
