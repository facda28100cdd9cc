"""What is measured on validation data besides the loss."""

from __future__ import annotations

from xrnn.backends import backend_of
from xrnn.typing import Array


def accuracy(y: Array, targets: Array, mask: Array | None = None) -> float:
    """The fraction of positions whose largest output is that of the right class.

    Parameters
    ----------
    y : array (…, V)
        The outputs for V classes, such as logits.
    targets : integers (…)
        The right class of each position.
    mask : bools (…), optional
        The positions that count.  Default: all.

    Returns
    -------
    float
        Between 0 and 1; 0 if no position counts.

    Examples
    --------
    >>> import numpy as np
    >>> accuracy(np.array([[0.1, 2.0], [3.0, 1.0]]), np.array([1, 1]))
    0.5
    """
    xp = backend_of(y, "y").xp
    right = xp.argmax(y, axis=-1) == xp.astype(targets, xp.argmax(y, axis=-1).dtype)
    if mask is None:
        return float(xp.mean(xp.astype(right, xp.float64))) if 0 not in right.shape else 0.0
    counted = int(xp.sum(xp.astype(mask, xp.int64)))
    return int(xp.sum(xp.astype(right & mask, xp.int64))) / counted if counted else 0.0
