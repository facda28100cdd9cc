"""`xrnn.recurrence.cross_entropy` in NumPy: in a core's cache, in place, on several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from xrnn.backends.cpu.threads import threads
from xrnn.recurrence.cross_entropy import blocks, count

#: values in a block: they, and the logits that they come from, stay in the cache of a core
BLOCK = 2**17

#: from so many values on, starting threads takes less time than they save
PARALLEL = 2**20


def cross_entropy(logits: Any, targets: Any, counted: Any, *, xp: Any) -> tuple[Any, np.ndarray]:
    """Equal to `xrnn.recurrence.cross_entropy.cross_entropy`."""
    shape, V = logits.shape[:-1], logits.shape[-1]
    dtype = np.result_type(logits.dtype, np.float32)
    n = count(counted, shape, dtype, xp=xp)
    dlogits, losses = np.empty(logits.shape, logits.dtype), np.empty(shape, dtype)

    def run(at: tuple[Any, ...]) -> None:
        y, d, loss = logits[at].reshape(-1, V), dlogits[at].reshape(-1, V), losses[at].reshape(-1)
        wide = d if d.dtype == dtype else np.empty(d.shape, dtype)
        with np.errstate(all="ignore"):  # a thread has its own
            if targets.ndim == logits.ndim:
                loss[:] = _distribution(y, targets[at].reshape(y.shape), n, wide)
            else:
                loss[:] = _classes(y, targets[at].reshape(-1), n, wide)
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
    return losses.sum() / n, dlogits


def _subtract_largest(y: Any, d: np.ndarray) -> None:
    """d = y less the largest value of each row, which of −inf alone counts as 0."""
    largest = y.max(axis=-1, keepdims=True).astype(d.dtype)
    largest[largest == -np.inf] = 0
    np.subtract(y, largest, out=d)


def _total(exp: np.ndarray) -> np.ndarray:
    """The sum of each row, 1 where it is 0: so that 0 divided by it is 0."""
    total: np.ndarray = exp.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    return total


def _classes(y: Any, classes: Any, n: Any, d: np.ndarray) -> np.ndarray:
    """The loss of each row of y (R, V); its gradient over n goes to d."""
    target = np.arange(len(y)), classes
    _subtract_largest(y, d)
    shifted = d[target]
    total = _total(np.exp(d, out=d))
    d *= 1 / (total * n)
    d[target] -= 1 / n  # (2)
    loss: np.ndarray = np.log(total[:, 0]) - shifted  # (1)
    return loss


def _distribution(y: Any, q: Any, n: Any, d: np.ndarray) -> np.ndarray:
    """The same for distributions q (R, V)."""
    q = q.astype(d.dtype, copy=False)
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
