"""`predict`: the outputs of a model for sequences of unequal length, in their order."""

from __future__ import annotations

from typing import Any

from xrnn.backends import host
from xrnn.cells.base import check_positive
from xrnn.training.batches import Dataset
from xrnn.training.model import Model


def predict(model: Any, x: Any, *, batch_size: int = 256) -> Any:
    """The outputs of a model for sequences of any lengths.

    Parameters
    ----------
    model : Sequential, Layer, or another part
        As for `xrnn.fit`.
    x : array (N, T, …) or list of N arrays (T_n, …)
        The sequences; a pair of such for a model of two inputs, such as an `xrnn.Seq2Seq`.
    batch_size : int
        How many are computed at once.

    Returns
    -------
    numpy.ndarray (N, O), or list of N numpy.ndarray (T_n, O)
        One output for each sequence, or for each of its steps; in the order of x.

    Raises
    ------
    TypeError, ValueError
        If the arguments have the wrong form.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> model = xrnn.Sequential(xrnn.GRU(2, 4), xrnn.Last(), xrnn.Linear(4, 3))
    >>> xrnn.predict(model, [np.ones((5, 2)), np.ones((9, 2))]).shape
    (2, 3)
    """
    check_positive("predict", batch_size=batch_size)
    bound = Model(model)
    data = Dataset(x, pair=bound.pair)
    outputs: list[Any] = [None] * len(data)
    per_step = False
    for places in data.in_order(batch_size):
        batch = data.batch(places, bound.placement, bound.batch_first, "whole")
        y = bound.placement.backend.to_host(bound(batch)[0])
        per_step = y.ndim > 2
        for row, n in enumerate(places):
            if per_step:
                one = y[row] if bound.batch_first else y[:, row]
                outputs[n] = one[: data.lengths[-1][n]].copy()
            else:
                outputs[n] = y[row]
    return outputs if per_step else host.xp.stack(outputs)
