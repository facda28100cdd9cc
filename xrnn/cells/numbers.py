"""The check of single numbers, and what many of them must be."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from numbers import Real
from typing import Any

from xrnn.typing import dtype_name

#: what a number must be, in words, and whether it is that; NaN never is
Bound = tuple[str, Callable[[float], bool]]
POSITIVE: Bound = ("> 0", lambda x: x > 0)
POSITIVE_FINITE: Bound = ("> 0 and finite", lambda x: 0 < x < inf)
FINITE: Bound = ("≥ 0 and finite", lambda x: 0 <= x < inf)
FRACTION: Bound = ("in [0, 1)", lambda x: 0 <= x < 1)


def accept_number(name: str, value: Any, must: str, fits: Callable[[float], bool]) -> float:
    """A real number, given as such or as an array () of any library, as a float.

    `must` are the words for what it must be, and `fits` says whether it is.

    Raises
    ------
    TypeError
        If it is not a real number.
    ValueError
        If it does not fit.
    """
    refusal = f"{name} is {value!r:.80}; it must be {must}"
    if getattr(value, "ndim", None) == 0 and hasattr(value, "dtype"):
        is_real = dtype_name(value.dtype).startswith(("float", "bfloat", "int", "uint"))
    else:
        is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not is_real:
        raise TypeError(refusal)
    try:
        number = float(value)
    except OverflowError:
        number = float("inf") if value > 0 else -float("inf")
    if not fits(number):
        raise ValueError(refusal)
    return number
