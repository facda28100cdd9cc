"""The checks of an index, and of the numbers of sequences in a batch."""

from __future__ import annotations

from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.checks import check_integer
from xrnn.typing import Array


def check_index(kind: str, name: str, value: Any, n: int) -> None:
    """Raise ValueError unless the value is an integer in 0…n−1."""
    check_integer(kind, name, value)
    if not 0 <= value < n:
        raise ValueError(f"{kind}: {name} is {value}; it must be an integer in 0…{n - 1}")


def accept_rows(kind: str, rows: Any, B: int | None) -> Array:
    """The numbers of some of B sequences, an int64 array (n,) of NumPy.

    Parameters
    ----------
    rows : integers, or bools (B,)
        Which sequences: one number, several in any order, or a mask.
    B : int or None
        None if nothing tells it: then only the form of `rows` is checked.

    Raises
    ------
    ValueError
        If they are something else, or out of range.
    """
    given = rows
    if array_api_compat.is_array_api_obj(rows):
        given = backend_of(rows, "rows").to_host(rows)
    try:
        given = host.xp.asarray(given)
    except (TypeError, ValueError):  # raised for what is no array, such as [[0], [1, 2]]
        given = host.xp.asarray(None)
    if given.dtype == bool and given.ndim == 1 and B in (None, given.size):
        return host.xp.flatnonzero(given)
    if given.size == 0 and given.ndim == 1:
        return given.astype("int64")
    limit = 2**31 if B is None else B
    # A negative number is larger than any other as one without a sign.
    if given.ndim < 2 and given.dtype.kind in "iu" and given.astype("uint64").max() < limit:
        return given.reshape(-1).astype("int64")
    last, mask = ("", "") if B is None else (f" = 0…{B - 1}", f" = ({B},)")
    raise ValueError(
        f"{kind}: rows are {rows!r:.80}; they must be numbers of streams in "
        f"0…B−1{last}, or bools (B,){mask}"
    )
