"""Connectionist temporal classification in plain array code, forward and backward in log space.

An alignment names one symbol at each step, a class or the blank; without repetitions, and then
without blanks, it spells the target.  The probability of a target, Z, is the sum of those of its
alignments, and L = −ln Z.

Each target has a row of positions: a start, its symbols with a blank before, between and after
them, and an end.  An alignment is a path along the row.  At each step it stays, goes one position
on, or two if it thereby leaves out a blank between different symbols.

a_t(l) = ln Σ_paths P of the steps up to t − 1 that may be at l at step t    (1)   `_before`
b_t(l) = the same for the steps from t + 1 on: (1) from the end, backward    (2)
ln Z = a_T(end)                                                              (3)
∂L/∂y_t = P_t − Σ_l e^(a_t(l) + ln P_t(symbol l) + b_t(l) − ln Z) 1_symbol l  (4)

Source: Graves et al., "Connectionist temporal classification: labelling unsegmented sequence data
with recurrent neural networks" (2006), section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import array_api_compat

from xrnn.recurrence.cross_entropy import softmax_parts
from xrnn.recurrence.masks import apply_mask, valid_mask
from xrnn.recurrence.precision import widen
from xrnn.typing import Array, Namespace


def ctc(
    logits: Array,
    targets: Array,
    lengths: Array,
    sizes: Array,
    blank: int,
    *,
    scatter_add: Callable[..., Array],
    xp: Namespace,
) -> tuple[Array, Array]:
    """The loss of each sequence, and its gradient with respect to the logits.

    Parameters
    ----------
    logits : array (T, B, V)
        Values past the end of a sequence may be anything.
    targets : integers (B, S)
        Classes in 0…V−1, none of them the blank, in the default integer dtype; also past the end
        of a target.
    lengths, sizes : integers (B,)
        The steps of each sequence and the symbols of its target.
    scatter_add : callable
        `xrnn.recurrence.scatter.scatter_add` or its equal.

    Returns
    -------
    losses : array (B,)
        inf where no alignment is possible.
    gradients : array (T, B, V)
        Those of each loss, 0 where it is inf.  Both in the `accumulation_dtype` of the logits.

    Examples
    --------
    >>> import numpy as np
    >>> from xrnn.recurrence.scatter import scatter_add
    >>> given = np.zeros((2, 1, 2)), np.array([[1]]), np.array([2]), np.array([1])
    >>> with np.errstate(divide="ignore"):  # the logarithm of 0
    ...     losses, _ = ctc(*given, 0, scatter_add=scatter_add, xp=np)
    >>> round(float(np.exp(-losses[0])), 6)  # "1 1", "- 1", "1 -" out of four
    0.75
    """
    T, B, V = logits.shape
    valid = valid_mask(T, lengths, xp=xp)
    log_p = _log_softmax(widen(apply_mask(valid, logits, xp=xp), xp=xp), xp=xp)
    row = _row(targets, sizes, blank, xp=xp)
    emissions = _emissions(log_p, row, valid, xp=xp)
    before, after, less = _both_ways(emissions, row, xp=xp)
    at_end = xp.where(row.end, before[T, ...], xp.full_like(before[T, ...], -inf))
    log_z = xp.max(at_end, axis=-1) + less  # (3)
    # The shares of the positions of one step sum to 1.
    _, exp, total = softmax_parts((before + emissions + after)[:T, ...], xp=xp)
    share = apply_mask(valid & row.inside, exp / total, xp=xp)
    del before, emissions, after, exp
    rows = xp.reshape(xp.permute_dims(share, (1, 2, 0)), (B * share.shape[2], T))
    first = xp.arange(B, dtype=row.places.dtype, device=array_api_compat.device(row.places)) * V
    places = xp.reshape(first[:, None] + row.places, (-1,))
    expected = xp.reshape(scatter_add(rows, places, B * V, xp=xp), (B, V, T))
    gradient = xp.exp(log_p) - xp.permute_dims(expected, (2, 0, 1))  # (4)
    del log_p, expected
    possible = valid & (log_z != -inf)[:, None]
    return -log_z, apply_mask(possible, gradient, xp=xp)


def _log_softmax(y: Array, *, xp: Namespace) -> Array:
    shifted, _, total = softmax_parts(y, xp=xp)
    return shifted - xp.log(total)


class Row(NamedTuple):
    """The positions of all targets, each array (B, L) with L = 2 S + 3."""

    #: the class that is named at a position, 0 at a start or end and past an end
    places: Array
    #: whether a position names a class or the blank
    inside: Array
    #: whether a path may come from two positions before
    skip: Array
    start: Array
    end: Array


def _row(targets: Array, sizes: Array, blank: int, *, xp: Namespace) -> Row:
    B, S = targets.shape
    how = {"dtype": targets.dtype, "device": array_api_compat.device(targets)}
    column, last = (
        xp.arange(2 * S + 3, **how)[None, :],
        2 * xp.astype(sizes[:, None], targets.dtype),
    )
    # A start, then pairs of a blank and a symbol; the last pair has no symbol.
    symbols = xp.concat([targets, xp.full((B, 1), -1, **how)], axis=1)
    pairs = xp.reshape(
        xp.stack([xp.full((B, S + 1), blank, **how), symbols], axis=2), (B, 2 * S + 2)
    )
    symbols = xp.concat([xp.full((B, 1), -2, **how), pairs], axis=1)
    inside, end = (column > 0) & (column < last + 2), column == last + 2
    symbols = xp.where(end, xp.full_like(symbols, -1), symbols)
    other = symbols[:, 2:] != symbols[:, :-2]
    never = xp.zeros((B, 2), dtype=other.dtype, device=how["device"])
    skip = xp.concat([never, other], axis=1)  # never from a blank, which the next one equals
    start = xp.broadcast_to(column == 0, skip.shape)
    places = xp.where(inside, symbols, xp.zeros_like(symbols))
    return Row(places, inside, skip, start, end)


def _emissions(log_p: Array, row: Row, valid: Array, *, xp: Namespace) -> Array:
    """ln P (T + 1, B, L) of the symbol of each position at each step.

    Past its end a sequence stays at the end of its row.  There is one step more, in which the
    longest arrive there too.
    """
    T, B, V = log_p.shape
    device = array_api_compat.device(log_p)
    first = xp.arange(T * B, dtype=row.places.dtype, device=device) * V
    flat = xp.reshape(xp.reshape(first, (T, B, 1)) + row.places, (-1,))
    found = xp.reshape(xp.take(xp.reshape(log_p, (-1,)), flat), (T, *row.places.shape))
    never = xp.full((1, *row.places.shape), -inf, dtype=found.dtype, device=device)
    found = xp.concat([xp.where(valid & row.inside, found, never), never])
    over = ~xp.concat([valid, xp.zeros((1, B, 1), dtype=valid.dtype, device=device)])
    return xp.where(over & row.end, xp.zeros_like(found), found)


def _both_ways(log_p: Array, row: Row, *, xp: Namespace) -> tuple[Array, Array, Array]:
    """(1) and (2), each (T + 1, B, L), less numbers of each step; and the sum (B,) of those of (1).

    The way back is the way forward through the flipped row and steps; they run together.
    """
    B = log_p.shape[1]
    skip = xp.concat([row.skip[:, 2:], row.skip[:, :2]], axis=1)  # never into the first two
    log_p = xp.concat([log_p, xp.flip(log_p, axis=(0, 2))], axis=1)
    found, less = _before(
        log_p,
        xp.concat([row.skip, xp.flip(skip, axis=1)]),
        xp.concat([row.start, xp.flip(row.end, axis=1)]),
        xp=xp,
    )
    return found[:, :B, :], xp.flip(found[:, B:, :], axis=(0, 2)), less[:B]


def _before(log_p: Array, skip: Array, start: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """(1): ln of the sum over all paths that may be at a position at a step, but for its P.

    At each step the largest of a row is subtracted, so that all keep their digits in sequences of
    any length; the second result is the sum of what was subtracted.
    """
    least = xp.full_like(log_p[0, ...], -inf)
    zero = xp.zeros_like(least[:1, :1])
    a = xp.where(start, zero, least)
    barred = xp.where(skip, zero, least)
    found, less = [], []
    for t in range(log_p.shape[0]):
        by_one = xp.concat([least[:, :1], a[:, :-1]], axis=1)
        by_two = xp.concat([least[:, :2], a[:, :-2]], axis=1) + barred
        largest = xp.maximum(xp.maximum(a, by_one), by_two)
        largest = xp.where(largest != -inf, largest, zero)
        total = xp.exp(a - largest) + xp.exp(by_one - largest) + xp.exp(by_two - largest)
        before = largest + xp.log(total)
        top = xp.max(before, axis=-1, keepdims=True)
        top = xp.where(top != -inf, top, zero)
        found.append(before - top)
        less.append(top[:, 0])
        a = found[-1] + log_p[t, ...]
    return xp.stack(found), xp.sum(xp.stack(less), axis=0)
