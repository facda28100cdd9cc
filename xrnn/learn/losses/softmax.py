"""Softmax cross-entropy.

L = −Σ_v q_v log P_v,  P = softmax(y)                (1)   see `xrnn.recurrence.cross_entropy`
∂L/∂y = P Σ_v q_v − q                                (2)   P − q where Σ q = 1
q_v = weight_v ((1 − ε) target_v + ε/V)              (3)
∂P_i/∂y_j = P_i (δ_ij − P_j)                         (4)

Sources: derivations "Tanh RNN", (1) eqs 4-5, (2) eq. 7, (4) eq. 6; "Input-gated LSTM", lines
106-116, and "LSTM", section 3.2, for (4) too (corrected: see the errata in
``xrnn/guide/derivations.md``).  Smoothed labels, (3): Szegedy et al., "Rethinking the inception
architecture for computer vision" (2016), arXiv:1512.00567, section 7.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.numbers import FINITE, accept_number
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
from xrnn.recurrence.scatter import indices
from xrnn.typing import Array, Namespace, is_integer


def softmax_cross_entropy(
    logits: Array,
    targets: Array,
    mask: Array | None = None,
    *,
    lengths: Numbers | None = None,
    batch_first: bool = False,
    class_weights: Numbers | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
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
    lengths : integers (B,), optional
        The number of steps of each sequence, for positions (T, B, …): those past the end of
        their sequence do not count.
    batch_first : bool
        Whether the positions are (B, T, …); it matters for `lengths` alone.
    class_weights : numbers (V,), optional
        A weight ≥ 0 for each class, as a sequence or an array of any library.
    label_smoothing : float
        ε in [0, 1]: the part of each target that is spread evenly over all classes.
    ignore_index : int, optional
        Positions whose target is this number do not count; for targets that are classes.
        Default: none.
    reduction : {"mean", "sum", "none"}
        "mean" divides the sum by the number of positions that count; where classes have
        weights and targets are classes, by the sum of the weights of these targets, as PyTorch
        does.  "none" gives the loss of each position, and the gradient of their sum.

    Returns
    -------
    loss : array (), or (…) for "none"
        0 if no position counts.  float32 for logits of half precision.  inf if a masked class is
        a target, so also where all classes are masked, and where labels are smoothed over one
        whose weight is not 0.  NaN if a logit at a position that counts is NaN or +inf.
    dlogits : array (…, V)
        In the dtype of the logits.  Exactly 0 where a position does not count, and for masked
        classes that are no target: the probability of a masked class is 0.

    Raises
    ------
    TypeError
        If logits are not floating point or targets not real, they are of different libraries, or
        an option is not of its type.
    ValueError
        If a shape does not fit, the mask is not boolean, a class at a position that counts is
        outside 0…V−1, or an option is outside of its range.

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
    >>> loss, dlogits = softmax_cross_entropy(
    ...     np.zeros((3, 4)), np.array([0, 1, -100]), ignore_index=-100, reduction="none"
    ... )
    >>> [round(float(x), 6) for x in loss], dlogits[2].tolist()
    ([1.386294, 1.386294, 0.0], [0.0, 0.0, 0.0, 0.0])
    """
    backend = backend_of(logits, "logits")
    xp = backend.xp
    check_values("logits", logits, "(…, V)", xp=xp)
    check_targets(targets, "logits", logits, xp=xp)
    check_reduction(reduction)
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
    counted = counted_positions(mask, lengths, batch_first, shape, logits)
    options = _options(class_weights, label_smoothing, V, logits, xp=xp)
    ignored = _check_ignore_index(ignore_index, whole)
    if whole:
        targets, counted = _classes(targets, counted, ignored, V, xp=xp)
    if 0 in shape:
        return nothing(logits, shape, reduction, xp=xp)
    with host.xp.errstate(all="ignore"):
        return backend.cross_entropy(
            logits, targets, counted, xp=xp, reduction=reduction, **options
        )


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
    check_values("p", p, "(…, V)", xp=xp)
    eye = xp.eye(p.shape[-1], dtype=p.dtype, device=array_api_compat.device(p))
    with host.xp.errstate(under="ignore"):
        return eye * p[..., None, :] - p[..., :, None] * p[..., None, :]  # (4)


def _options(
    class_weights: Numbers | None, label_smoothing: float, V: int, logits: Array, *, xp: Namespace
) -> dict[str, Any]:
    """The options of `Backend.cross_entropy` for q, (3)."""
    smoothing = accept_number(
        "label_smoothing", label_smoothing, "in [0, 1]", lambda x: 0 <= x <= 1
    )
    if class_weights is None:
        return {"smoothing": smoothing}
    weights = accept_numbers("class_weights", class_weights, "(V,)", V, *FINITE, logits, xp=xp)
    return {"smoothing": smoothing, "weights": weights}


def _check_ignore_index(ignore_index: Any, whole: bool) -> int | None:
    """The number of targets that do not count, checked."""
    if ignore_index is None:
        return None
    if not isinstance(ignore_index, Integral) or isinstance(ignore_index, bool):
        raise TypeError(f"ignore_index is {ignore_index!r:.80}; it must be an integer or None")
    if not whole:
        raise ValueError(
            f"ignore_index is {ignore_index}, and targets are distributions; give a mask instead"
        )
    return int(ignore_index)


def _classes(
    targets: Array, counted: Array | None, ignored: int | None, V: int, *, xp: Namespace
) -> tuple[Array, Array | None]:
    """Classes as indices, 0 at the positions that do not count; and those that do."""
    classes = indices(targets, xp=xp)
    if ignored is not None and abs(ignored) <= xp.iinfo(classes.dtype).max:
        given = classes != ignored
        counted = given if counted is None else counted & given
    if counted is not None:
        classes = xp.where(counted, classes, xp.zeros_like(classes))
    if 0 not in classes.shape:
        low, high = int(xp.min(classes)), int(xp.max(classes))
        if low < 0 or high >= V:
            raise ValueError(
                f"targets go from {low} to {high}; they must lie in 0…V−1 = 0…{V - 1}"
                f"{'' if counted is None else ' where they count'}"
            )
    return classes, counted
