"""Losses: each function returns the loss and its gradient.

L = −Σ_v target_v log P_v,  P = softmax(y)           (1)   see `xrnn.recurrence.cross_entropy`
∂L/∂y = P Σ_v target_v − target                      (2)   P − target where Σ target = 1
L = (y − target)²,  ∂L/∂y = 2 (y − target)           (3)
∂P_i/∂y_j = P_i (δ_ij − P_j)                         (4)

Each loss is the mean over the positions where the mask is True.  Losses of half precision
(float16, bfloat16) are computed in float32 and are float32; gradients have the dtype of what they
are the gradients of.  Nothing here signals a floating-point warning: values too small for the
dtype become 0, and what has diverged gives the values that are documented.

Sources: derivations "Tanh RNN", (1) eqs 4-5, (2) eq. 7, (4) eq. 6; "Input-gated LSTM", lines
106-116, and "LSTM", section 3.2, for (4) too (corrected: see the errata in
``xrnn/guide/derivations.md``).
"""

from __future__ import annotations

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.checks import check_library
from xrnn.recurrence.cross_entropy import blocks, count
from xrnn.recurrence.precision import accumulation_dtype, wide_sum, widen
from xrnn.recurrence.scatter import indices
from xrnn.typing import Array, Namespace, dtype_name, is_floating, is_integer


def softmax_cross_entropy(
    logits: Array, targets: Array, mask: Array | None = None
) -> tuple[Array, Array]:
    """Softmax cross-entropy in nats, and its gradient with respect to the logits.

    Parameters
    ----------
    logits : array (…, V)
        Values before the softmax, floating point; large ones (±1e4) do not overflow.  A logit
        of −inf masks its class.
    targets : integers (…) or array (…, V)
        The correct class of each position, of any integer dtype, or a distribution over the
        classes.
    mask : booleans (…), optional
        The positions that count; the values at the others are not read.  Default: all count.

    Returns
    -------
    loss : array ()
        Mean over the positions that count; 0 if none does.  float32 for logits of half precision.
        inf if a masked class is a target, so also where all classes are masked.  NaN if a logit
        at a position that counts is NaN or +inf.
    dlogits : array (…, V)
        In the dtype of the logits.  Exactly 0 where mask is False, and for masked classes that
        are no target: the probability of a masked class is 0.

    Raises
    ------
    TypeError
        If logits are not floating point or targets not real, or they are of different libraries.
    ValueError
        If a shape does not fit, the mask is not boolean, or a class at a position that counts
        is outside 0…V−1.

    Notes
    -----
    The memory that is allocated, the result included, is at most 2.5 times that of the logits
    where these have a million values or more, in at least 16 positions.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = softmax_cross_entropy(np.zeros((3, 4)), np.array([0, 1, 2]))
    >>> round(float(loss), 6)  # ln 4
    1.386294
    """
    backend = backend_of(logits, "logits")
    xp = backend.xp
    _check_values("logits", logits, "(…, V)", xp=xp)
    _check_targets(targets, "logits", logits, xp=xp)
    shape, V = tuple(logits.shape[:-1]), logits.shape[-1]
    if V == 0:
        raise ValueError(f"logits has shape {(*shape, V)}; it must be (…, V) with V ≥ 1 classes")
    whole = is_integer(targets.dtype)
    expected = shape if whole else (*shape, V)
    if tuple(targets.shape) != expected:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; it must be "
            f"{'(…)' if whole else '(…, V)'} = {expected}, as logits has {(*shape, V)} and "
            f"targets are {targets.dtype}"
        )
    counted = _counted(mask, shape, logits)
    if whole:
        targets = _classes(targets, counted, V, xp=xp)
    if 0 in shape:
        return _nothing(logits, xp=xp)
    with host.xp.errstate(all="ignore"):
        return backend.cross_entropy(logits, targets, counted, xp=xp)


def softmax_jacobian(p: Array) -> Array:
    """∂P_i/∂y_j of P = softmax(y), from P: diag(P) − P Pᵀ.

    `softmax_cross_entropy` does not need it; it serves to check derivations.

    Parameters
    ----------
    p : array (…, V)
        Probabilities.

    Returns
    -------
    array (…, V, V)
        ∂P_i/∂y_j at [..., i, j].

    Raises
    ------
    TypeError
        If p is not an array of floating point.
    ValueError
        If p has no axis of classes.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_jacobian(np.array([0.25, 0.75])).tolist()
    [[0.1875, -0.1875], [-0.1875, 0.1875]]
    """
    xp = backend_of(p, "p").xp
    _check_values("p", p, "(…, V)", xp=xp)
    eye = xp.eye(p.shape[-1], dtype=p.dtype, device=array_api_compat.device(p))
    with host.xp.errstate(under="ignore"):
        return eye * p[..., None, :] - p[..., :, None] * p[..., None, :]  # (4)


def squared_error(ys: Array, targets: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """Mean squared error, and its gradient with respect to ys.

    Parameters
    ----------
    ys, targets : array (…, O)
        The outputs, and the values that they should have.
    mask : booleans (…), optional
        The positions that count; the values at the others are not read.  Default: all count.

    Returns
    -------
    loss : array ()
        Mean over the values of the positions that count; 0 if none does.  float32 for outputs of
        half precision; inf where a square is too large for the dtype of the loss.
    dys : array (…, O)
        In the dtype of ys.  Exactly 0 where mask is False.

    Raises
    ------
    TypeError
        If ys are not floating point or targets not real, or they are of different libraries.
    ValueError
        If the shapes differ, or the mask does not have the shape (…) or is not boolean.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dys = squared_error(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]]))
    >>> float(loss), dys.tolist()
    (2.5, [[1.0, 2.0]])
    """
    xp = backend_of(ys, "ys").xp
    _check_values("ys", ys, "(…, O)", xp=xp)
    _check_targets(targets, "ys", ys, xp=xp)
    shape = tuple(ys.shape)
    if tuple(targets.shape) != shape:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; it must be that of ys, {shape}"
        )
    counted = _counted(mask, shape[:-1], ys)
    if 0 in shape:
        return _nothing(ys, xp=xp)
    dtype = accumulation_dtype(ys.dtype, xp=xp)
    n = count(counted, shape[:-1], dtype, xp=xp) * shape[-1]
    losses, gradients = [], []
    with host.xp.errstate(all="ignore"):
        for at in blocks(shape):
            gap = widen(ys[at], xp=xp) - xp.astype(targets[at], dtype, copy=False)
            if counted is not None:
                gap = xp.where(counted[at][..., None], gap, xp.zeros_like(gap))
            losses.append(xp.sum(gap * gap))
            dys = xp.astype(2 * gap / n, ys.dtype, copy=False)
            gradients.append(xp.reshape(dys, (-1, shape[-1])))
        return xp.sum(xp.stack(losses)) / n, xp.reshape(xp.concat(gradients), shape)  # (3)


def _nothing(like: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """The loss where there is no position, and its gradient."""
    return wide_sum(like, xp=xp), xp.zeros_like(like)


def _check_values(name: str, a: Array, letters: str, *, xp: Namespace) -> None:
    if a.ndim < 1:
        raise ValueError(f"{name} has shape {tuple(a.shape)}; it must be {letters}")
    if not is_floating(a.dtype, xp=xp):
        raise TypeError(f"{name} is {a.dtype}; it must be real floating point")


def _check_targets(targets: Array, other: str, like: Array, *, xp: Namespace) -> None:
    check_library("targets", targets, other, like)
    dtype = targets.dtype
    if not (is_integer(dtype) or dtype_name(dtype) == "bool" or is_floating(dtype, xp=xp)):
        raise TypeError(f"targets are {dtype}; they must be real numbers, as {other} are")


def _counted(mask: Array | None, shape: tuple[int, ...], like: Array) -> Array | None:
    if mask is None:
        return None
    check_library("mask", mask, "the rest", like)
    if tuple(mask.shape) != shape or dtype_name(mask.dtype) != "bool":
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; "
            f"it must be booleans (…) = {shape}"
        )
    return mask


def _classes(targets: Array, counted: Array | None, V: int, *, xp: Namespace) -> Array:
    """Classes as indices, 0 at the positions that do not count."""
    classes = indices(targets, xp=xp)
    if counted is not None:
        classes = xp.where(counted, classes, xp.zeros_like(classes))
    if 0 not in classes.shape:
        low, high = int(xp.min(classes)), int(xp.max(classes))
        if low < 0 or high >= V:
            raise ValueError(
                f"targets go from {low} to {high}; they must lie in 0…V−1 = 0…{V - 1}"
                f"{'' if counted is None else ' where mask is True'}"
            )
    return classes
