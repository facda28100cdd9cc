"""Losses of single values, between outputs y and targets t.

Squared        L = (y − t)²,  ∂L/∂y = 2 (y − t)                                            (1)
Huber          L = c (|y − t| − c/2),  c = min(|y − t|, δ),  ∂L/∂y = min(max(y − t, −δ), δ)  (2)
quantile       L = max(τ (t − y), (τ − 1) (t − y)),  ∂L/∂y = −τ below t, 1 − τ above it      (3)
binary         L = p t ζ(−y) + (1 − t) ζ(y),  ∂L/∂y = (1 − t) σ(y) − p t σ(−y)             (4)

σ is the logistic function and ζ(y) = ln(1 + eʸ) = max(y, 0) + ln(1 + e^−|y|), whose slope it is.

Sources: (2) Huber, "Robust estimation of a location parameter" (1964); (3) Koenker & Bassett,
"Regression quantiles" (1978); (4) is the negative logarithm of the likelihood of t under the
probability σ(y), with the weight p of positive targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.numbers import FINITE, POSITIVE_FINITE, Bound, accept_number
from xrnn.learn.losses.arguments import (
    Numbers,
    Reduction,
    accept_numbers,
    check_reduction,
    check_targets,
    check_values,
    counted_positions,
    nothing,
)
from xrnn.recurrence.cross_entropy import blocks, count
from xrnn.recurrence.masks import apply_mask
from xrnn.recurrence.precision import accumulation_dtype, widen
from xrnn.typing import Array, Namespace

#: what a quantile must be
INSIDE: Bound = ("in (0, 1)", lambda x: 0 < x < 1)

#: ``pair(y, t) -> (loss, slope)`` of each value, both in the dtype of y
Pair = Callable[[Array, Array], tuple[Array, Array]]


def squared_error(
    ys: Array,
    targets: Array,
    mask: Array | None = None,
    *,
    lengths: Numbers | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Mean squared error, and its gradient with respect to ys.

    Parameters
    ----------
    ys, targets : array (…, O)
        The outputs, and the values that they should have.
    mask : booleans (…), optional
        The positions that count; the values at the others are not read.  Default: all count.
    lengths : integers (B,), optional
        The number of steps of each sequence, for positions (T, B, …): those past the end of
        their sequence do not count.
    batch_first : bool
        Whether the positions are (B, T, …); it matters for `lengths` alone.
    reduction : {"mean", "sum", "none"}
        "mean" is over the values of the positions that count.  "none" gives the loss of each
        value, and the gradient of their sum.

    Returns
    -------
    loss : array (), or (…, O) for "none"
        0 if no position counts.  float32 for outputs of half precision; inf where a square is too
        large for the dtype of the loss.
    dys : array (…, O)
        In the dtype of ys.  Exactly 0 where a position does not count.

    Raises
    ------
    TypeError
        If ys are not floating point or targets not real, or they are of different libraries.
    ValueError
        If the shapes differ, the mask does not have the shape (…) or is not boolean, or the
        lengths or the reduction are none.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dys = squared_error(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]]))
    >>> float(loss), dys.tolist()
    (2.5, [[1.0, 2.0]])
    """

    def pair(y: Array, t: Array) -> tuple[Array, Array]:
        gap = y - t
        return gap * gap, 2 * gap  # (1)

    positions = _positions("ys", ys, targets, mask, lengths, batch_first, reduction)
    return _reduced(pair, ys, targets, positions, reduction)


def huber(
    ys: Array,
    targets: Array,
    mask: Array | None = None,
    *,
    delta: float = 1.0,
    lengths: Numbers | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Huber's loss, and its gradient with respect to ys: squares that grow linearly from δ on.

    Parameters
    ----------
    ys, targets, mask, lengths, batch_first, reduction
        As for `squared_error`.
    delta : float
        δ > 0: up to this distance the loss is half the square.

    Returns
    -------
    loss : array (), or (…, O) for "none"
        0 if no position counts.  float32 for outputs of half precision.
    dys : array (…, O)
        In the dtype of ys, each at most δ before the mean is taken.  Exactly 0 where a position
        does not count.

    Raises
    ------
    TypeError, ValueError
        As of `squared_error`, and if `delta` is not a finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dys = huber(np.array([0.5, 3.0]), np.zeros(2), reduction="none")
    >>> loss.tolist(), dys.tolist()
    ([0.125, 2.5], [0.5, 1.0])
    """
    positions = _positions("ys", ys, targets, mask, lengths, batch_first, reduction)
    delta, xp = accept_number("delta", delta, *POSITIVE_FINITE), backend_of(ys).xp

    def pair(y: Array, t: Array) -> tuple[Array, Array]:
        gap = y - t
        slope = xp.clip(gap, -delta, delta)
        return xp.abs(slope) * (xp.abs(gap) - xp.abs(slope) / 2), slope  # (2)

    return _reduced(pair, ys, targets, positions, reduction)


def quantile(
    ys: Array,
    targets: Array,
    mask: Array | None = None,
    *,
    level: float | Numbers = 0.5,
    lengths: Numbers | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """The quantile (pinball) loss, and its gradient with respect to ys.

    It is least where ys are the quantiles τ of the distribution of the targets.

    Parameters
    ----------
    ys, targets, mask, lengths, batch_first, reduction
        As for `squared_error`.  For several quantiles of one target repeat it along the last axis.
    level : float or numbers (O,)
        τ in (0, 1), one for all outputs or one for each, as a sequence or an array of any
        library.  At 0.5 the loss is half the absolute error.

    Returns
    -------
    loss : array (), or (…, O) for "none"
        0 if no position counts.  float32 for outputs of half precision.
    dys : array (…, O)
        In the dtype of ys; 0 where an output equals its target.  Exactly 0 where a position does
        not count.

    Raises
    ------
    TypeError, ValueError
        As of `squared_error`, and if `level` is not a number in (0, 1), or O of them.

    Examples
    --------
    >>> import numpy as np
    >>> ys, targets = np.zeros((1, 3)), np.ones((1, 3))
    >>> loss, dys = quantile(ys, targets, level=(0.1, 0.5, 0.9), reduction="sum")
    >>> float(loss), dys.tolist()
    (1.5, [[-0.1, -0.5, -0.9]])
    """
    positions = _positions("ys", ys, targets, mask, lengths, batch_first, reduction)
    xp = backend_of(ys).xp
    tau = _of_outputs("level", level, INSIDE, ys, xp=xp)

    def pair(y: Array, t: Array) -> tuple[Array, Array]:
        gap = t - y
        below = gap > 0
        slope = xp.where(below, -tau, xp.where(gap < 0, 1 - tau, gap))
        return xp.where(below, tau * gap, (tau - 1) * gap), slope  # (3)

    return _reduced(pair, ys, targets, positions, reduction)


def binary_cross_entropy(
    logits: Array,
    targets: Array,
    mask: Array | None = None,
    *,
    pos_weight: float | Numbers = 1.0,
    lengths: Numbers | None = None,
    batch_first: bool = False,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Binary cross-entropy in nats of O independent labels, and its gradient.

    Parameters
    ----------
    logits : array (…, O)
        Values before the logistic function, floating point; large ones (±1e4) do not overflow.
    targets : array (…, O)
        Booleans, or the probability that each label is true, in [0, 1] (not checked).
    mask, lengths, batch_first, reduction
        As for `squared_error`.
    pos_weight : float or numbers (O,)
        p ≥ 0, the weight of true labels, for all outputs or for each, as a sequence or an array
        of any library.  It does not change what "mean" divides by.

    Returns
    -------
    loss : array (), or (…, O) for "none"
        0 if no position counts.  float32 for logits of half precision.  NaN or inf if a logit at
        a position that counts is not finite.
    dlogits : array (…, O)
        In the dtype of the logits.  Exactly 0 where a position does not count.

    Raises
    ------
    TypeError, ValueError
        As of `squared_error`, and if `pos_weight` is not a finite number ≥ 0, or O of them.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = binary_cross_entropy(np.zeros((1, 2)), np.array([[True, False]]))
    >>> round(float(loss), 6), dlogits.tolist()  # ln 2
    (0.693147, [[-0.25, 0.25]])
    """
    positions = _positions("logits", logits, targets, mask, lengths, batch_first, reduction)
    xp = backend_of(logits).xp
    p = _of_outputs("pos_weight", pos_weight, FINITE, logits, xp=xp)

    def pair(y: Array, t: Array) -> tuple[Array, Array]:
        small = xp.exp(-xp.abs(y))
        rest, zero = xp.log1p(small), xp.zeros_like(y)
        high, low = 1 / (1 + small), small / (1 + small)
        positive = y > 0
        up, down = xp.where(positive, high, low), xp.where(positive, low, high)  # σ(y), σ(−y)
        yes, no = p * t, 1 - t
        above, below = xp.where(positive, y, zero), xp.where(positive, zero, -y)
        loss = yes * (below + rest) + no * (above + rest)
        return loss, no * up - yes * down  # (4)

    return _reduced(pair, logits, targets, positions, reduction)


def _positions(
    name: str,
    ys: Array,
    targets: Array,
    mask: Array | None,
    lengths: Any,
    batch_first: bool,
    reduction: str,
) -> Array | None:
    """The positions (…) of ys (…, O) that count, after the checks that all these losses share."""
    xp = backend_of(ys, name).xp
    check_values(name, ys, "(…, O)", xp=xp)
    check_targets(targets, name, ys, xp=xp)
    check_reduction(reduction)
    shape = tuple(ys.shape)
    if tuple(targets.shape) != shape:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; it must be that of {name}, {shape}"
        )
    return counted_positions(mask, lengths, batch_first, shape[:-1], ys)


def _of_outputs(name: str, value: Any, bound: Bound, ys: Array, *, xp: Namespace) -> Array:
    """A number for all outputs, an array (), or one for each, (O,)."""
    if getattr(value, "ndim", 0) or isinstance(value, list | tuple):
        return accept_numbers(name, value, "(O,)", ys.shape[-1], *bound, ys, xp=xp)
    dtype = accumulation_dtype(ys.dtype, xp=xp)
    number = accept_number(name, value, *bound)
    return xp.asarray(number, dtype=dtype, device=array_api_compat.device(ys))


def _reduced(
    pair: Pair, ys: Array, targets: Array, counted: Array | None, reduction: str
) -> tuple[Array, Array]:
    """The loss over all values, and its gradient, a block of positions after the other."""
    xp, shape = backend_of(ys).xp, tuple(ys.shape)
    if 0 in shape:
        return nothing(ys, shape, reduction, xp=xp)
    dtype = accumulation_dtype(ys.dtype, xp=xp)
    n = count(counted, shape[:-1], dtype, xp=xp) * shape[-1] if reduction == "mean" else 1.0
    losses, gradients = [], []
    with host.xp.errstate(all="ignore"):
        for at in blocks(shape):
            y, t = widen(ys[at], xp=xp), xp.astype(targets[at], dtype, copy=False)
            loss, slope = pair(y, t)
            if counted is not None:
                inside = counted[at][..., None]
                loss, slope = (apply_mask(inside, a, xp=xp) for a in (loss, slope))
            losses.append(
                xp.reshape(loss, (-1, shape[-1])) if reduction == "none" else xp.sum(loss)
            )
            dys = xp.astype(slope / n, ys.dtype, copy=False)
            gradients.append(xp.reshape(dys, (-1, shape[-1])))
        dys = xp.reshape(xp.concat(gradients), shape)
        if reduction == "none":
            return xp.reshape(xp.concat(losses), shape), dys
        return xp.sum(xp.stack(losses)) / n, dys
