"""Softmax cross-entropy in plain array code, a block of positions after the other.

P = softmax(y),  L = −Σ_v q_v log P_v                (1)
∂L/∂y = P Σ_v q_v − q                                (2)   P − q where Σ q = 1
q_v = weight_v ((1 − ε) target_v + ε/V)              (3)   the target, where weights are 1 and ε = 0

ε smooths the labels.  The largest y is subtracted first, which changes no quotient.  A class whose
y is −inf is masked: its P is 0, and 0 log 0 = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, prod
from typing import Any

import array_api_compat

from xrnn.recurrence.precision import accumulation_dtype, widen
from xrnn.typing import Array, Namespace

#: a block holds at least so many values, and at least this part of all: so a call has few blocks,
#: and what a block needs besides its result is a small part of the logits
BLOCK, PART = 2**18, 1 / 16


def cross_entropy(
    logits: Array,
    targets: Array,
    counted: Array | None,
    *,
    xp: Namespace,
    weights: Array | None = None,
    smoothing: float = 0.0,
    reduction: str = "mean",
    block: int | None = None,
) -> tuple[Array, Array]:
    """The loss over the positions that count, and its gradient.

    Parameters
    ----------
    logits : array (…, V)
        Values at positions that do not count may be anything.
    targets : integers (…) or array (…, V)
        Classes in 0…V−1, of a signed dtype that holds V, at the positions that do not count
        too; or a distribution.
    counted : booleans (…) or None
        None: all positions count.
    weights : array (V,) or None
        Weights of the classes, ≥ 0, in the `accumulation_dtype` of the logits.
    smoothing : float
        ε in [0, 1].
    reduction : {"mean", "sum", "none"}
        "mean" divides the sum by `divisor`; "none" gives the loss of each position, and the
        gradient of their sum.
    block : int, optional
        How many values are computed at once.  Default: see `blocks`.

    Returns
    -------
    loss : array (), or (…) for "none"
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
    dtype = accumulation_dtype(logits.dtype, xp=xp)
    n = divisor(targets, counted, weights, reduction, shape, dtype, xp=xp)
    losses, gradients = [], []
    for at in blocks((*shape, V), block):
        y = xp.reshape(logits[at], (-1, V))
        scale = 1 / n
        if counted is not None:
            inside = xp.reshape(counted[at], (-1, 1))
            y, scale = _where(inside, y, xp=xp), xp.astype(inside, dtype) / n
        if targets.ndim == logits.ndim:
            q = xp.reshape(targets[at], (-1, V))
            q = q if counted is None else _where(inside, q, xp=xp)
            q = smoothed(xp.astype(q, dtype, copy=False), weights, smoothing, xp=xp)
            loss, d = _distribution(widen(y, xp=xp), q, scale, xp=xp)
        elif weights is not None or smoothing:
            q = xp.astype(_is_target(xp.reshape(targets[at], (-1,)), V, xp=xp), dtype)
            q = smoothed(q, weights, smoothing, xp=xp)
            loss, d = _distribution(widen(y, xp=xp), q, scale, xp=xp)
        else:
            loss, d = _classes(widen(y, xp=xp), xp.reshape(targets[at], (-1,)), scale, xp=xp)
        # The loss of a position that does not count is that of equal logits.
        losses.append(loss if counted is None else _where(inside[:, 0], loss, xp=xp))
        gradients.append(xp.astype(d, logits.dtype, copy=False))
        del y, loss, d
    each, dlogits = xp.concat(losses), xp.reshape(xp.concat(gradients), (*shape, V))
    return (xp.reshape(each, shape) if reduction == "none" else xp.sum(each) / n), dlogits


def divisor(
    targets: Array,
    counted: Array | None,
    weights: Array | None,
    reduction: str,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    xp: Namespace,
) -> Any:
    """What the sum of the losses is divided by, a float or array (): 1 but for "mean".

    For "mean" it is the number of positions (…) = `shape` that count or, where classes have
    weights and the targets are classes, the sum of the weights of these targets; 1 if that is 0.
    """
    if reduction != "mean":
        return 1.0
    if weights is None or targets.ndim > len(shape):
        return count(counted, shape, dtype, xp=xp)
    each = xp.take(weights, xp.reshape(targets, (-1,)))
    if counted is not None:
        each = _where(xp.reshape(counted, (-1,)), each, xp=xp)
    n = xp.sum(each)
    return xp.where(n > 0, n, xp.ones_like(n))


def smoothed(q: Array, weights: Array | None, smoothing: float, *, xp: Namespace) -> Array:
    """The q of (3) for targets (R, V) of the dtype in which losses are computed.

    >>> import numpy as np
    >>> smoothed(np.array([[0.0, 1.0]]), np.array([1.0, 2.0]), 0.5, xp=np).tolist()
    [[0.25, 1.5]]
    """
    if smoothing:
        q = (1 - smoothing) * q + smoothing / q.shape[-1]
    return q if weights is None else weights * q  # (3)


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


def softmax_parts(y: Array, *, xp: Namespace) -> tuple[Array, Array, Array]:
    """y (…, V) less the largest of its row, e to that, and its sum (…, 1).

    Of a row of −inf alone −inf, 0 and 1.

    >>> import numpy as np
    >>> _, exp, total = softmax_parts(np.array([[0.0, 0.0]]), xp=np)
    >>> (exp / total).tolist()
    [[0.5, 0.5]]
    """
    largest = xp.max(y, axis=-1, keepdims=True)
    largest = _where(largest != -inf, largest, xp=xp)
    shifted = y - largest
    exp = xp.exp(shifted)
    total = xp.sum(exp, axis=-1, keepdims=True)
    return shifted, exp, xp.where(total == 0, xp.ones_like(total), total)


def _classes(y: Array, classes: Array, scale: Any, *, xp: Namespace) -> tuple[Array, Array]:
    """The loss of each row of y (R, V), and `scale` times its gradient."""
    R, V = y.shape
    shifted, exp, total = softmax_parts(y, xp=xp)
    rows = xp.arange(R, dtype=classes.dtype, device=array_api_compat.device(y))
    loss = xp.log(total[:, 0]) - xp.take(xp.reshape(shifted, (-1,)), rows * V + classes)  # (1)
    del shifted
    target = xp.astype(_is_target(classes, V, xp=xp), y.dtype)
    return loss, exp * (scale / total) - target * scale  # (2)


def _is_target(classes: Array, V: int, *, xp: Namespace) -> Array:
    """(R, V): whether v is the class of the row."""
    device = array_api_compat.device(classes)
    return classes[:, None] == xp.arange(V, dtype=classes.dtype, device=device)


def _distribution(y: Array, q: Array, scale: Any, *, xp: Namespace) -> tuple[Array, Array]:
    """The same for q (R, V) of the dtype of y."""
    shifted, exp, total = softmax_parts(y, xp=xp)
    loss = -xp.sum(_where(q != 0, q * (shifted - xp.log(total)), xp=xp), axis=-1)  # (1)
    del shifted
    return loss, (exp / total * xp.sum(q, axis=-1, keepdims=True) - q) * scale  # (2)


def _where(condition: Array, a: Any, *, xp: Namespace) -> Array:
    """a where the condition holds, else 0."""
    zero = xp.zeros((), dtype=a.dtype, device=array_api_compat.device(a))
    return xp.where(condition, a, zero)
