"""Softmax cross-entropy in plain array code, a block of positions after the other.

P = softmax(y),  L = −Σ_v target_v log P_v           (1)
∂L/∂y = P Σ_v target_v − target                      (2)   P − target where Σ target = 1

The largest y is subtracted first, which changes no quotient.  A class whose y is −inf is masked:
its P is 0, and 0 log 0 = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, prod
from typing import Any

import array_api_compat

from xrnn.recurrence.precision import accumulation_dtype, wide_sum, widen
from xrnn.typing import Array, Namespace

#: a block holds at least so many values, and at least this part of all: so a call has few blocks,
#: and what a block needs besides its result is a small part of the logits
BLOCK, PART = 2**18, 1 / 16


def cross_entropy(
    logits: Array, targets: Array, counted: Array | None, *, xp: Namespace, block: int | None = None
) -> tuple[Array, Array]:
    """The mean loss over the positions that count, and its gradient.

    Parameters
    ----------
    logits : array (…, V)
        Values at positions that do not count may be anything.
    targets : integers (…) or array (…, V)
        Classes in 0…V−1, of a signed dtype that holds V, at the positions that do not count
        too; or a distribution.
    counted : booleans (…) or None
        None: all positions count.
    block : int, optional
        How many values are computed at once.  Default: see `blocks`.

    Returns
    -------
    loss : array ()
        In the `accumulation_dtype` of the logits, in which everything is computed.
    dlogits : array (…, V)
        In the dtype of the logits.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = cross_entropy(np.zeros((1, 4)), np.array([2]), None, xp=np)
    >>> dlogits.tolist()
    [[0.25, 0.25, -0.75, 0.25]]
    """
    shape, V = tuple(logits.shape[:-1]), logits.shape[-1]
    n = count(counted, shape, accumulation_dtype(logits.dtype, xp=xp), xp=xp)
    losses, gradients = [], []
    for at in blocks((*shape, V), block):
        y = xp.reshape(logits[at], (-1, V))
        scale = 1 / n
        if counted is not None:
            inside = xp.reshape(counted[at], (-1, 1))
            y, scale = _where(inside, y, xp=xp), _where(inside, scale, xp=xp)
        if targets.ndim == logits.ndim:
            q = xp.reshape(targets[at], (-1, V))
            q = q if counted is None else _where(inside, q, xp=xp)
            loss, d = _distribution(widen(y, xp=xp), q, scale, xp=xp)
        else:
            loss, d = _classes(widen(y, xp=xp), xp.reshape(targets[at], (-1,)), scale, xp=xp)
        # The loss of a position that does not count is that of equal logits.
        losses.append(loss if counted is None else _where(inside[:, 0], loss, xp=xp))
        gradients.append(xp.astype(d, logits.dtype, copy=False))
        del y, loss, d
    loss = xp.sum(xp.concat(losses)) / n
    return loss, xp.reshape(xp.concat(gradients), (*shape, V))


def blocks(shape: tuple[int, ...], values: int | None = None) -> Iterator[tuple[Any, ...]]:
    """Indices that cut an array (…, V), in C order, into blocks of whole rows.

    Each block has at most so many values, but at least one row.  The indices take no copy of an
    array of any strides, unlike reshaping it to two axes.  They cut arrays (…) too.

    >>> list(blocks((1, 5, 4), 12))
    [(0, slice(0, 3, None), Ellipsis), (0, slice(3, 5, None), Ellipsis)]
    >>> list(blocks((2, 5, 4), 40))
    [(slice(0, 2, None), Ellipsis)]
    """
    if values is None:
        values = max(BLOCK, int(PART * prod(shape)))
    first, *rest = shape
    if not rest:
        yield (...,)
    elif prod(rest) > values and len(rest) > 1:
        for index in range(first):
            yield from ((index, *at) for at in blocks(tuple(rest), values))
    else:
        step = max(1, values // max(1, prod(rest)))
        yield from ((slice(t, min(t + step, first)), ...) for t in range(0, first, step))


def count(counted: Array | None, shape: tuple[int, ...], dtype: Any, *, xp: Namespace) -> Any:
    """How many positions count, at least 1 so that one can divide by it: a float or array ()."""
    if counted is None:
        return float(max(1, prod(shape)))
    # Summed as integers: 16-bit numbers end at 65504, and float32 counts up to 2²⁴ only.
    n = xp.astype(xp.sum(xp.astype(counted, xp.int32)), dtype)
    return xp.where(n > 0, n, xp.ones_like(n))


def _softmax(y: Array, *, xp: Namespace) -> tuple[Array, Array, Array]:
    """y less the largest, e to that, and its sum (R, 1); of a row of −inf alone −inf, 0 and 1."""
    largest = xp.max(y, axis=-1, keepdims=True)
    largest = _where(largest != -inf, largest, xp=xp)
    shifted = y - largest
    exp = xp.exp(shifted)
    total = xp.sum(exp, axis=-1, keepdims=True)
    return shifted, exp, xp.where(total == 0, xp.ones_like(total), total)


def _classes(y: Array, classes: Array, scale: Any, *, xp: Namespace) -> tuple[Array, Array]:
    """The loss of each row of y (R, V), and `scale` times its gradient."""
    R, V = y.shape
    device = array_api_compat.device(y)
    shifted, exp, total = _softmax(y, xp=xp)
    flat = xp.arange(R, dtype=classes.dtype, device=device) * V + classes
    loss = xp.log(total[:, 0]) - xp.take(xp.reshape(shifted, (-1,)), flat)  # (1)
    del shifted
    target = classes[:, None] == xp.arange(V, dtype=classes.dtype, device=device)
    return loss, exp * (scale / total) - xp.astype(target, y.dtype) * scale  # (2)


def _distribution(y: Array, q: Array, scale: Any, *, xp: Namespace) -> tuple[Array, Array]:
    """The same for distributions q (R, V)."""
    shifted, exp, total = _softmax(y, xp=xp)
    q = xp.astype(q, y.dtype, copy=False)
    loss = -xp.sum(_where(q != 0, q * (shifted - xp.log(total)), xp=xp), axis=-1)  # (1)
    del shifted
    return loss, (exp / total * wide_sum(q, axis=-1, xp=xp)[:, None] - q) * scale  # (2)


def _where(condition: Array, a: Any, *, xp: Namespace) -> Array:
    """a where the condition holds, else 0."""
    return xp.where(condition, a, xp.zeros_like(a[:1, ...] if a.ndim else a))
