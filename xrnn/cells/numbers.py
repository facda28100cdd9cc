"""The check of single numbers."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

from xrnn.typing import dtype_name


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
