"""Connectionist temporal classification, see `xrnn.recurrence.ctc`."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.base import check_flags
from xrnn.engine.checks import accept_lengths, check_library
from xrnn.learn.losses.arguments import Numbers, Reduction, check_reduction, check_values, nothing
from xrnn.recurrence import ctc as plain
from xrnn.recurrence.masks import valid_mask
from xrnn.recurrence.scatter import indices
from xrnn.typing import Array, Namespace, is_integer


def ctc(
    logits: Array,
    targets: Array,
    lengths: Numbers | None = None,
    target_lengths: Numbers | None = None,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    batch_first: bool = False,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """The CTC loss in nats, and its gradient: sequences of symbols without their times.

    −ln of the probability that the network spells the target, summed over all alignments: those
    that name one class or the blank at each step and, without repetitions and then without
    blanks, are the target.

    Parameters
    ----------
    logits : array (T, B, V) or (T, V)
        Values before the softmax over the classes, one of which is the blank, for each step.
        Logarithms of probabilities, which PyTorch's ``ctc_loss`` takes, give the same loss.
    targets : integers (B, S) or (S,)
        The symbols of each sequence, classes in 0…V−1 other than the blank.
    lengths : integers (B,), optional
        The steps of each sequence; the logits past its end are not read.  Default: T.
    target_lengths : integers (B,), optional
        The symbols of each target, 0 too; what stands past its end is not read.  Default: S.
    blank : int
        The class that is the blank.
    zero_infinity : bool
        Whether the loss of a target that no alignment spells is 0 and not inf.  Such are targets
        with more symbols, and blanks that must stand between equal ones, than there are steps.
    batch_first : bool
        Whether the logits are (B, T, V).
    reduction : {"mean", "sum", "none"}
        "mean" divides the loss of each sequence by the length of its target, or 1 if that is
        empty, and takes the mean over the sequences, as PyTorch does.

    Returns
    -------
    loss : array (), or (B,) for "none"
        float32 for logits of half precision.  0 if there is no sequence.  NaN if a logit within
        a sequence is NaN or +inf.
    dlogits : array like the logits
        In their dtype.  Exactly 0 past the end of a sequence, and in a sequence whose target no
        alignment spells, where PyTorch has NaN unless `zero_infinity` is given.

    Raises
    ------
    TypeError
        If the logits are not floating point or the targets not integers, they are of different
        libraries, or an option is not of its type.
    ValueError
        If a shape or length does not fit, or a target holds the blank or what is no class.

    Notes
    -----
    It is computed in log space, in steps of (B, 2 S + 3) numbers; the memory needed beside a few
    arrays like the logits is that of about a dozen arrays (T, B, 2 S + 3).

    References
    ----------
    Graves et al., "Connectionist temporal classification: labelling unsegmented sequence data
    with recurrent neural networks" (2006).

    Examples
    --------
    >>> import numpy as np
    >>> logits, targets = np.zeros((2, 1, 3)), np.array([[1]])
    >>> loss, dlogits = ctc(logits, targets)
    >>> round(float(np.exp(-loss)), 6)  # "1 1", "- 1" and "1 -" out of nine
    0.333333
    >>> dlogits[:, 0, 1].round(3).tolist()
    [-0.333, -0.333]
    """
    backend = backend_of(logits, "logits")
    xp = backend.xp
    check_values("logits", logits, "(T, B, V) or (T, V)", xp=xp)
    check_reduction(reduction)
    check_flags("loss", zero_infinity=zero_infinity, batch_first=batch_first)
    alone = logits.ndim == 2
    y, symbols, counts, sizes = _batched(
        logits, targets, lengths, target_lengths, batch_first, xp=xp
    )
    blank = _check_blank(blank, y.shape[2])
    symbols = _checked(symbols, sizes, blank, y.shape[2], xp=xp)
    if 0 in y.shape[1:]:
        return nothing(logits, y.shape[1:2], reduction, xp=xp)
    with host.xp.errstate(all="ignore"):
        losses, d = plain.ctc(
            y, symbols, counts, sizes, blank, scatter_add=backend.scatter_add, xp=xp
        )
        if zero_infinity:
            losses = xp.where(losses == float("inf"), xp.zeros_like(losses), losses)
        if reduction == "mean":
            share = 1 / (xp.astype(xp.clip(sizes, min=1), losses.dtype) * losses.shape[0])
            losses, d = losses * share, d * share[:, None]
        if alone:
            d = d[:, 0, :]
        elif batch_first:
            d = xp.permute_dims(d, (1, 0, 2))
        d = xp.astype(d, logits.dtype, copy=False)
        if reduction == "none":
            return (losses[0] if alone else losses), d
        return xp.sum(losses), d


def _batched(
    logits: Array, targets: Array, lengths: Any, sizes: Any, batch_first: bool, *, xp: Namespace
) -> tuple[Array, Array, Array, Array]:
    """Logits (T, B, V), targets (B, S), and both lengths (B,), after the checks of shapes."""
    check_library("targets", targets, "logits", logits)
    if not is_integer(targets.dtype):
        raise TypeError(f"targets are {targets.dtype}; they must be integers")
    if logits.ndim not in (2, 3) or logits.shape[-1] == 0:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}; it must be (T, B, V) or (T, V), with V ≥ 1"
        )
    if logits.ndim == 2:
        for name, value in (("lengths", lengths), ("target_lengths", sizes)):
            if value is not None:
                raise ValueError(f"{name} are of a batch; cut the one sequence instead")
        batch_first, logits = False, logits[:, None, :]
        targets = targets[None, ...]
    if batch_first:
        logits = xp.permute_dims(logits, (1, 0, 2))
    T, B, _ = logits.shape
    if targets.ndim != 2 or targets.shape[0] != B:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; it must be (B, S) with B = {B}, as logits "
            "say, or (S,) for logits (T, V)"
        )
    S, device = targets.shape[1], array_api_compat.device(logits)
    counts = host.xp.full(B, T) if lengths is None else accept_lengths(lengths, T, B)
    sizes = host.xp.full(B, S) if sizes is None else _target_lengths(sizes, S, B)
    return logits, targets, xp.asarray(counts, device=device), xp.asarray(sizes, device=device)


def _target_lengths(sizes: Any, S: int, B: int) -> Array:
    """As `accept_lengths`, with names of its own in the message."""
    try:
        return accept_lengths(sizes, S, B)
    except ValueError as error:
        words = str(error).replace("lengths", "target_lengths").replace("0…T", "0…S")
        raise ValueError(words) from None


def _check_blank(blank: Any, V: int) -> int:
    if not isinstance(blank, Integral) or isinstance(blank, bool):
        raise TypeError(f"blank is {blank!r:.80}; it must be an integer")
    number = int(blank)
    if not 0 <= number < V:
        raise ValueError(f"blank is {number}; it must lie in 0…V−1 = 0…{V - 1}")
    return number


def _checked(targets: Array, sizes: Array, blank: int, V: int, *, xp: Namespace) -> Array:
    """The symbols as indices, none of them the blank; past the end of a target some class."""
    found = indices(targets, xp=xp)
    inside = valid_mask(found.shape[1], sizes, xp=xp)[:, :, 0].T
    known = (found >= 0) & (found < V) & (found != blank)
    if bool(xp.any(inside & ~known)):
        raise ValueError(
            f"targets hold a number that is no symbol; within target_lengths they must lie in "
            f"0…V−1 = 0…{V - 1} and not be the blank, {blank}"
        )
    other = xp.full_like(found, 0 if blank else V - 1)
    return xp.where(inside, found, other)
