"""Softmax over the entries that count, and its gradient.

α_t = e^(s_t) / Σ e^(s_t')          (1)   the sum is over the entries that count; 0 for the others
ds_t = α_t (dα_t − Σ α_t' dα_t')    (2)

The largest s is subtracted first, which changes no quotient.
"""

from __future__ import annotations

from math import inf

from xrnn.typing import Array, Namespace


def masked_softmax(scores: Array, valid: Array, *, axis: int, xp: Namespace) -> Array:
    """The softmax (1) of scores along an axis; all 0 where no entry counts.

    Parameters
    ----------
    scores : array
        Anything at the entries that do not count.
    valid : booleans, broadcast against the scores
        Which entries count.

    Examples
    --------
    >>> import numpy as np
    >>> masked_softmax(np.zeros(3), np.array([True, True, False]), axis=0, xp=np).tolist()
    [0.5, 0.5, 0.0]
    """
    if scores.shape[axis] == 0:
        return scores
    scores = xp.where(valid, scores, xp.full_like(scores, -inf))
    largest = xp.max(scores, axis=axis, keepdims=True)
    zero = xp.zeros_like(largest)
    powers = xp.exp(scores - xp.where(largest == -inf, zero, largest))
    total = xp.sum(powers, axis=axis, keepdims=True)
    return powers / xp.where(total == 0, xp.ones_like(total), total)


def softmax_backward(dalpha: Array, alpha: Array, *, axis: int, xp: Namespace) -> Array:
    """The gradient (2) of the scores."""
    return alpha * (dalpha - xp.sum(alpha * dalpha, axis=axis, keepdims=True))
