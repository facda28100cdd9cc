"""Adding rows to the places they belong to, of which some occur again and again."""

from __future__ import annotations

import array_api_compat

from xrnn.typing import Array, Namespace


def scatter_add(rows: Array, places: Array, size: int, *, xp: Namespace) -> Array:
    """out[places[n]] += rows[n], for every n.

    The standard has no such function, and where libraries have one, repeated places are lost
    or summed in another order every time.  Here rows of one place are brought together by a
    stable sort, then summed by pairs, fours, eights …: the same bits every time.

    Parameters
    ----------
    rows : array (N, n)
    places : integers (N,)
        0…size−1.
    size : int

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
    order = xp.argsort(places)
    sums, places = xp.take(rows, order, axis=0), xp.take(places, order)
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
    return xp.where(found[:, None], out, xp.zeros_like(out))
