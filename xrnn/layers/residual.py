"""A residual connection around parts."""

from __future__ import annotations

from xrnn.layers.sequential import Sequential
from xrnn.typing import Array


class Residual(Sequential):
    """Adds the input to the outputs of its parts: y = x + f(x).

    Parameters, attributes and exceptions are those of `Sequential`.

    References
    ----------
    He et al. (2016), arXiv:1512.03385, eq. 1.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> block = xrnn.Residual(xrnn.LayerNorm(8), xrnn.LSTM(8, 8))
    >>> block(np.ones((7, 4, 8), "float32")).shape
    (7, 4, 8)
    """

    kind = "residual"

    @property
    def _reads_padding(self) -> bool:
        return True

    def _output(self, x: Array, y: Array) -> Array:
        if tuple(x.shape) != tuple(y.shape):
            raise ValueError(
                f"residual: the parts make {tuple(y.shape)} of x {tuple(x.shape)}; both are added "
                "up and must have the same shape"
            )
        return x + y

    def _input_gradient(self, dx: Array | None, dy: Array | None) -> Array | None:
        return None if dx is None or dy is None else dx + dy
