"""`xrnn.recurrence.cross_entropy` in NumPy: in a core's cache, in place, on several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from xrnn.backends.cpu.threads import threads
from xrnn.recurrence.cross_entropy import blocks, divisor, smoothed

#: values in a block: they, and the logits that they come from, stay in the cache of a core
BLOCK = 2**17

#: from so many values on, starting threads takes less time than they save
PARALLEL = 2**20


def cross_entropy(
    logits: Any,
    targets: Any,
    counted: Any,
    *,
    xp: Any,
    weights: Any = None,
    smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Any, np.ndarray]:
    """Equal to `xrnn.recurrence.cross_entropy.cross_entropy`."""
    shape, V = logits.shape[:-1], logits.shape[-1]
    dtype = np.result_type(logits.dtype, np.float32)
    n = divisor(targets, counted, weights, reduction, shape, dtype, xp=xp)
    dlogits, losses = np.empty(logits.shape, logits.dtype), np.empty(shape, dtype)

    def run(at: tuple[Any, ...]) -> None:
        y, d, loss = logits[at].reshape(-1, V), dlogits[at].reshape(-1, V), losses[at].reshape(-1)
        wide = d if d.dtype == dtype else np.empty(d.shape, dtype)
        with np.errstate(all="ignore"):  # a thread has its own
            if targets.ndim == logits.ndim:
                q = targets[at].reshape(y.shape).astype(dtype, copy=False)
                loss[:] = _distribution(y, smoothed(q, weights, smoothing, xp=xp), n, wide)
            else:
                loss[:] = _classes(y, targets[at].reshape(-1), weights, smoothing, n, wide)
            if counted is not None:
                outside = ~counted[at].reshape(-1)
                wide[outside], loss[outside] = 0, 0
            if wide is not d:
                d[:] = wide

    cuts = list(blocks(logits.shape, BLOCK))
    workers = min(threads(), len(cuts)) if logits.size >= PARALLEL else 1
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, cuts))
    else:
        for at in cuts:
            run(at)
    return (losses if reduction == "none" else losses.sum() / n), dlogits


def _subtract_largest(y: Any, d: np.ndarray) -> None:
    """d = y less the largest value of each row, which of −inf alone counts as 0."""
    if y.dtype != d.dtype:  # NumPy compares float16 ten times more slowly than float32
        d[:] = y
        y = d
    largest = y.max(axis=-1, keepdims=True)
    largest[largest == -np.inf] = 0
    np.subtract(y, largest, out=d)


def _total(exp: np.ndarray) -> np.ndarray:
    """The sum of each row, 1 where it is 0: so that 0 divided by it is 0."""
    total: np.ndarray = exp.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    return total


def _classes(
    y: Any, classes: Any, weights: Any, smoothing: float, n: Any, d: np.ndarray
) -> np.ndarray:
    """The loss of each row of y (R, V); its gradient over n goes to d.

    The q of (3) is a part that all rows share, and the rest at the target alone.
    """
    target = np.arange(len(y)), classes
    _subtract_largest(y, d)
    shifted = d[target]
    own = (1 - smoothing) * (1.0 if weights is None else weights[classes])
    shared: Any = smoothing / d.shape[1] * (np.ones(1, d.dtype) if weights is None else weights)
    spread = _spread(d, shared) if smoothing else None
    total = _total(np.exp(d, out=d))
    log = np.log(total[:, 0])
    if spread is None:
        d *= _column(own) / (total * n)
    else:
        sum_shared = shared.sum() * (d.shape[1] // len(shared))
        d *= _column(own + sum_shared) / (total * n)
        d -= shared / n
    d[target] -= own / n  # (2)
    loss: np.ndarray = log - shifted  # (1)
    if weights is not None or smoothing:
        loss = np.where(own == 0, 0, own * loss)  # 0 log 0 is 0
    return loss if spread is None else loss + (sum_shared * log - spread)


def _column(a: Any) -> Any:
    """A number as it is, and an array (R,) as one of (R, 1)."""
    return a[:, None] if np.ndim(a) else a


def _spread(d: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Σ_v shared_v d_v of each row of d (R, V), where 0 · −inf is 0."""
    if len(shared) == 1:
        return np.asarray(d.sum(axis=-1) * shared)
    found = d @ shared
    if np.isnan(found).any():
        found = np.where(shared == 0, 0, d) @ shared
    return np.asarray(found)


def _distribution(y: Any, q: Any, n: Any, d: np.ndarray) -> np.ndarray:
    """The same for the q (R, V) of (3)."""
    _subtract_largest(y, d)
    exp = np.exp(d)
    total = _total(exp)
    d -= np.log(total)
    np.multiply(q, d, out=d)
    loss: np.ndarray = -d.sum(axis=-1)  # (1)
    if np.isnan(loss).any():  # perhaps of 0 log 0
        d[q == 0] = 0
        loss = -d.sum(axis=-1)
    exp *= q.sum(axis=-1, keepdims=True) / total
    exp -= q
    np.divide(exp, n, out=d)  # (2)
    return loss
