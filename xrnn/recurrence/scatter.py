"""Integers as indices, and adding rows into an array at places that may occur several times."""

from __future__ import annotations

import array_api_compat

from xrnn.recurrence.precision import widen
from xrnn.typing import Array, Namespace


def indices(a: Array, *, xp: Namespace) -> Array:
    """Integers of any width, signed or not, in the default integer dtype of the library.

    Libraries index by few integer dtypes only, and in a narrow one larger numbers wrap round:
    compared with a uint8 array, 261 becomes 5.

    >>> import numpy as np
    >>> indices(np.array([5, 7], "uint8"), xp=np).dtype
    dtype('int64')
    """
    return xp.astype(a, xp.asarray(0).dtype, copy=False)


def scatter_add(rows: Array, places: Array, size: int, *, xp: Namespace) -> Array:
    """out[places[n]] += rows[n], for every n.

    The Array API standard has no such function.  Where libraries have one, repeated places are
    lost, or summed in a different order at every call.  Here a stable sort brings the rows of one
    place next to each other, and they are summed by pairs, fours, eights …, so that every call
    gives the same bits.

    Parameters
    ----------
    rows : array (N, n)
        Those of half precision are summed in float32.
    places : integers (N,)
        0…size−1, of any width, signed or not.
    size : int
        May be larger than the dtype of the places can hold.

    Returns
    -------
    array (size, n)

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.array([[1.0], [2.0], [4.0]])
    >>> scatter_add(rows, np.array([2, 0, 2]), 3, xp=np).tolist()
    [[2.0], [0.0], [5.0]]
    """
    device = array_api_compat.device(rows)
    N = rows.shape[0]
    if N == 0:
        return xp.zeros((size, rows.shape[1]), dtype=rows.dtype, device=device)
    dtype, places = rows.dtype, indices(places, xp=xp)
    order = xp.argsort(places)
    sums, places = widen(xp.take(rows, order, axis=0), xp=xp), xp.take(places, order)
    ahead = 1
    while ahead < N:
        same = places[ahead:] == places[:-ahead]
        if not bool(xp.any(same)):
            break
        more = xp.where(same[:, None], sums[ahead:, :], xp.zeros_like(sums[ahead:, :]))
        sums = xp.concat([sums[:-ahead, :] + more, sums[-ahead:, :]])
        ahead *= 2
    # The first row of a place now holds the sum of them all.
    everywhere = xp.arange(size, dtype=places.dtype, device=device)
    first = xp.searchsorted(places, everywhere)
    first = xp.where(first < N, first, xp.zeros_like(first))
    found = xp.take(places, first) == everywhere
    out = xp.take(sums, first, axis=0)
    return xp.astype(xp.where(found[:, None], out, xp.zeros_like(out)), dtype, copy=False)
