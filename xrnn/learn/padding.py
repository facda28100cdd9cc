"""Sequences of unequal length side by side in one array, with 0 past their ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.base import check_flags
from xrnn.engine.checks import check_library
from xrnn.typing import Array, Namespace


def pad(sequences: Sequence[Any], batch_first: bool = False) -> tuple[Array, Array]:
    """Sequences of unequal length as one array, and their lengths.

    Parameters
    ----------
    sequences : list of B arrays (T_n, …)
        Of vectors (T_n, I), of tokens (T_n,), or with any other axes; all of one array library.
        Lists of numbers are taken as arrays of NumPy.  T_n may be 0; an empty list has the dtype of
        the first other one.
    batch_first : bool
        Whether the result is (B, T, …) instead of (T, B, …).

    Returns
    -------
    xs : array (T, B, …), or (B, T, …)
        The sequences, 0 past their ends; T is the length of the longest.
    lengths : integers (B,)
        Their lengths, as layers take them; NumPy.

    Raises
    ------
    TypeError
        If this is no list of arrays, they are of several libraries, or hold no numbers.
    ValueError
        If there is none, one is a single number, or they differ in the axes behind T_n.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> xs, lengths = xrnn.pad([np.ones((4, 3), "float32"), np.ones((7, 3), "float32")])
    >>> xs.shape, lengths.tolist()
    ((7, 2, 3), [4, 7])
    >>> ys, state = xrnn.GRU(3, 5)(xs, lengths=lengths)
    >>> xrnn.pad([[5, 2], [7, 1, 1]], batch_first=True)[0].tolist()
    [[5, 2, 0], [7, 1, 1]]
    """
    check_flags("pad", batch_first=batch_first)
    if not isinstance(sequences, list | tuple):
        raise TypeError(
            f"pad: sequences is a {type(sequences).__name__}; it must be a list of arrays "
            "(T_n, …), as list(sequences) is"
        )
    if not sequences:
        raise ValueError("pad: sequences holds none; give at least one")
    arrays = [_array(f"sequences[{n}]", one) for n, one in enumerate(sequences)]
    arrays = like_others(sequences, arrays)
    for n, one in enumerate(arrays):
        check_library(f"pad: sequences[{n}]", one, "sequences[0]", arrays[0])
        if one.ndim == 0 or one.shape[1:] != arrays[0].shape[1:]:
            rest = "".join(f", {size}" for size in arrays[0].shape[1:]) or ","
            raise ValueError(
                f"pad: sequences[{n}] has shape {tuple(one.shape)}; it must be (T_n{rest})"
                f"{', as sequences[0] is' if n else ''}"
            )
    xp = backend_of(arrays[0]).xp
    return side_by_side(arrays, batch_first, xp=xp), host.xp.asarray(
        [one.shape[0] for one in arrays]
    )


def side_by_side(arrays: Sequence[Array], batch_first: bool, *, xp: Namespace) -> Array:
    """Arrays (T_n, …) as one, (T, B, …) or (B, T, …), with 0 past their ends."""
    first, dtype = arrays[0], xp.result_type(*arrays)
    device, rest = array_api_compat.device(first), first.shape[1:]
    # All steps one after the other, and behind them the 0 of all steps past the ends.
    steps = xp.concat([*arrays, xp.zeros((1, *rest), dtype=dtype, device=device)])
    lengths = host.xp.asarray([one.shape[0] for one in arrays])
    t, ends = host.xp.arange(int(lengths.max())), host.xp.cumsum(lengths)
    places = t[:, None] + (ends - lengths)
    places[t[:, None] >= lengths] = ends[-1]
    places = places.T if batch_first else places
    found = xp.take(steps, xp.asarray(places.reshape(-1), device=device), axis=0)
    return xp.reshape(found, (*places.shape, *rest))


def like_others(given: Sequence[Any], arrays: list[Array]) -> list[Array]:
    """The arrays that were given; in the place of an empty list, which does not tell what it is a
    list of, no steps of the first other one."""
    empty = [isinstance(one, list | tuple) and not one for one in given]
    others = (a for a, none in zip(arrays, empty, strict=True) if not none and a.ndim)
    if (like := next(others, None)) is None:
        return arrays
    return [like[:0, ...] if none else a for a, none in zip(arrays, empty, strict=True)]


def _array(name: str, given: Any) -> Array:
    """A sequence as an array."""
    if array_api_compat.is_array_api_obj(given):
        backend = backend_of(given, f"pad: {name}")
        if backend.xp is host.xp and given.dtype.kind in "OSUMm":
            raise TypeError(
                f"pad: {name} is an array of {given.dtype}; it must be one of numbers (T_n, …): "
                "give a list of arrays instead of an array of objects"
            )
        return given
    try:
        found = host.xp.asarray(given)
        if found.dtype.kind in "biufc":
            return found
    except (TypeError, ValueError):  # raised for what is no array, such as [[0], [1, 2]]
        pass
    raise TypeError(f"pad: {name} is {given!r:.60}; it must be an array (T_n, …)")
