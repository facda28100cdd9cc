"""Arrays on the host in another dtype, without losing more than digits."""

from __future__ import annotations

from typing import Any

from xrnn.backends import host
from xrnn.recurrence.precision import HALF
from xrnn.typing import Array, dtype_name


def rounded(what: str, array: Array, dtype: str) -> Array:
    """A NumPy array in the dtype of that name; itself if it has it already.

    `what` says in messages which array it is.

    Raises
    ------
    TypeError
        If complex numbers would lose their imaginary part.
    ValueError
        If a finite number is too large for the dtype.

    Examples
    --------
    >>> import numpy as np
    >>> rounded("b_l0", np.array([1e5]), "float16")
    Traceback (most recent call last):
    ValueError: b_l0 holds 100000.0, which is too large for float16
    """
    if dtype_name(array.dtype) == dtype:
        return array
    if dtype_name(array.dtype).startswith("complex") and not dtype.startswith("complex"):
        raise TypeError(
            f"{what} is {array.dtype}; {dtype} cannot hold complex numbers: give another dtype"
        )
    xp = host.xp
    with xp.errstate(over="ignore", under="ignore"):
        found = array.astype(host.named_dtype(dtype))
    lost = xp.isfinite(array) & ~xp.isfinite(found)
    if lost.any():
        raise ValueError(f"{what} holds {array[lost][0]}, which is too large for {dtype}")
    return found


def wide(array: Array, dtype: str = "float32") -> Array:
    """A NumPy array in a dtype in which sums may be computed that are rounded to `dtype`: one that
    holds the numbers of both, and has not 16 bits.

    Raises
    ------
    TypeError
        If it does not hold floating-point numbers.
    """
    names = [dtype_name(array.dtype), dtype]
    if names[0] not in HALF and not host.xp.isdtype(
        array.dtype, ("real floating", "complex floating")
    ):
        raise TypeError(f"an array is {array.dtype}; it must be of floating-point numbers")
    common = host.xp.result_type(*("float32" if name in HALF else name for name in names))
    return array.astype(common, copy=False)


def check_floating(name: str, value: Any, array: Array, dtype: str) -> None:
    """Raise TypeError unless the NumPy array of a value holds numbers for a part of that dtype.

    `name` says in messages what the value is.
    """
    kinds = ("real floating", "complex floating")[: 1 + dtype.startswith("complex")]
    if dtype_name(array.dtype) != "bfloat16" and not host.xp.isdtype(array.dtype, kinds):
        given = (
            f"has dtype {array.dtype} and shape {array.shape}"
            if array.shape
            else f"is {value!r:.60} ({array.dtype})"
        )
        raise TypeError(
            f"{name} {given}; it must be an array of floating-point numbers, which {dtype} can hold"
        )
