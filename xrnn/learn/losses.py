"""Losses: each function returns the loss and its gradient.

P = softmax(y),  L = −Σ_v target_v log P_v           (1)
∂L/∂y = P Σ_v target_v − target                      (2)   P − target where Σ target = 1
L = (y − target)²,  ∂L/∂y = 2 (y − target)           (3)
∂P_i/∂y_j = P_i (δ_ij − P_j)                         (4)

Each loss is the mean over the positions where the mask is True.

Sources: derivations "Tanh RNN", (1) eqs 4-5, (2) eq. 7, (4) eq. 6; "Input-gated LSTM", lines
106-116, and "LSTM", section 3.2, for (4) too (corrected: see the errata in
``xrnn/guide/derivations.md``).
"""

from __future__ import annotations

import array_api_compat

from xrnn.backends import backend_of
from xrnn.engine.checks import check_library
from xrnn.typing import Array, Namespace, is_floating


def softmax_cross_entropy(
    logits: Array, targets: Array, mask: Array | None = None
) -> tuple[Array, Array]:
    """Softmax cross-entropy in nats, and its gradient with respect to the logits.

    Parameters
    ----------
    logits : array (…, V)
        Values before the softmax, floating point; large ones (±1e4) do not overflow.
    targets : integers (…) or array (…, V)
        The correct class of each position, or a distribution over the classes.
    mask : booleans (…), optional
        The positions that count; the values at the others are not read.  Default: all count.

    Returns
    -------
    loss : array ()
        Mean over the positions that count; 0 if none does.
    dlogits : array (…, V)
        Exactly 0 where mask is False.

    Raises
    ------
    TypeError
        If logits or targets are not arrays, or they are of different libraries.
    ValueError
        If a shape does not fit, the mask is not boolean, or a class at a position that counts
        is outside 0…V−1.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = softmax_cross_entropy(np.zeros((3, 4)), np.array([0, 1, 2]))
    >>> round(float(loss), 6)  # ln 4
    1.386294
    """
    xp = backend_of(logits, "logits").xp
    check_library("targets", targets, "logits", logits)
    _check_values("logits", logits, "(…, V)", xp=xp)
    V = logits.shape[-1]
    whole = xp.isdtype(targets.dtype, "integral")
    expected = tuple(logits.shape[:-1]) if whole else tuple(logits.shape)
    if tuple(targets.shape) != expected:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; it must be "
            f"{'(…)' if whole else '(…, V)'} = {expected}, as logits has {tuple(logits.shape)}"
        )
    counted = _counted(mask, tuple(logits.shape[:-1]), logits, xp=xp)[..., None]
    if whole:
        targets = _one_hot(targets, counted[..., 0], V, logits, xp=xp)
    zero = xp.zeros_like(logits)
    logits = xp.where(counted, logits, zero)
    targets = xp.where(counted, xp.astype(targets, logits.dtype), zero)
    n = xp.sum(xp.astype(counted, logits.dtype))
    n = xp.where(n > 0, n, xp.ones_like(n))
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    exp = xp.exp(shifted)
    total = xp.sum(exp, axis=-1, keepdims=True)
    loss = -xp.sum(targets * (shifted - xp.log(total))) / n  # (1)
    dlogits = (exp / total * xp.sum(targets, axis=-1, keepdims=True) - targets) / n  # (2)
    return loss, dlogits


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
        If p is not an array.
    ValueError
        If p has no axis of classes.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_jacobian(np.array([0.25, 0.75])).tolist()
    [[0.1875, -0.1875], [-0.1875, 0.1875]]
    """
    xp = backend_of(p, "p").xp
    if p.ndim < 1:
        raise ValueError(f"p has shape {tuple(p.shape)}; it must be (…, V)")
    eye = xp.eye(p.shape[-1], dtype=p.dtype, device=array_api_compat.device(p))
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
        Mean over the values of the positions that count; 0 if none does.
    dys : array (…, O)
        Exactly 0 where mask is False.

    Raises
    ------
    TypeError
        If ys or targets are not arrays, or they are of different libraries.
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
    check_library("targets", targets, "ys", ys)
    _check_values("ys", ys, "(…, O)", xp=xp)
    if tuple(targets.shape) != tuple(ys.shape):
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; it must be that of ys, {tuple(ys.shape)}"
        )
    counted = _counted(mask, tuple(ys.shape[:-1]), ys, xp=xp)[..., None]
    gap = xp.where(counted, ys - xp.astype(targets, ys.dtype), xp.zeros_like(ys))
    n = xp.sum(xp.astype(counted, ys.dtype)) * ys.shape[-1]
    n = xp.where(n > 0, n, xp.ones_like(n))
    return xp.sum(gap * gap) / n, 2 * gap / n  # (3)


def _check_values(name: str, a: Array, letters: str, *, xp: Namespace) -> None:
    if a.ndim < 1:
        raise ValueError(f"{name} has shape {tuple(a.shape)}; it must be {letters}")
    if not is_floating(a.dtype, xp=xp):
        raise TypeError(f"{name} is {a.dtype}; it must be real floating point")


def _counted(mask: Array | None, shape: tuple[int, ...], like: Array, *, xp: Namespace) -> Array:
    if mask is None:
        return xp.ones(shape, dtype=xp.bool, device=array_api_compat.device(like))
    check_library("mask", mask, "the rest", like)
    if tuple(mask.shape) != shape or not xp.isdtype(mask.dtype, "bool"):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; "
            f"it must be booleans (…) = {shape}"
        )
    return mask


def _one_hot(classes: Array, counted: Array, V: int, like: Array, *, xp: Namespace) -> Array:
    classes = xp.where(counted, classes, xp.zeros_like(classes))
    if 0 not in classes.shape:
        low, high = int(xp.min(classes)), int(xp.max(classes))
        if low < 0 or high >= V:
            raise ValueError(
                f"targets go from {low} to {high}; they must lie in 0…V−1 = 0…{V - 1} "
                "where mask is True"
            )
    all_classes = xp.arange(V, dtype=classes.dtype, device=array_api_compat.device(like))
    return xp.astype(classes[..., None] == all_classes, like.dtype)
