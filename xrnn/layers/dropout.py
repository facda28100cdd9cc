"""Dropout between layers: masks that depend on a seed, the layer and the position alone."""

from __future__ import annotations

from functools import partial
from numbers import Integral, Real

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.stack import Mask
from xrnn.typing import Array, Size


def check_dropout(kind: str, dropout: float, num_layers: int) -> None:
    """Raise ValueError unless `dropout` is in [0, 1), and 0 if there is only one layer."""
    if not isinstance(dropout, Real) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise ValueError(f"{kind}: dropout is {dropout!r:.80}; it must be in [0, 1)")
    if dropout and num_layers == 1:
        raise ValueError(
            f"{kind}: dropout is {dropout} and num_layers is 1; it acts between layers: give "
            "num_layers ≥ 2, or dropout=0"
        )


def dropout_masks(kind: str, p: float, seed: Size | None, dtype: str) -> Mask | None:
    """The function that makes the mask for the outputs of a layer; None without dropout.

    Raises
    ------
    ValueError
        If the seed is not an integer, or there is dropout and no seed.
    """
    if not p and seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise ValueError(
            f"{kind}: seed is {seed!r:.80}; a layer with dropout needs an integer, another one at "
            "every training step: forward(xs, seed=step)"
        )
    if not p:
        return None
    return partial(_mask, p, int(seed), dtype)


def _mask(p: float, seed: int, dtype: str, k: int, ys: Array) -> Array:
    """0 or 1/(1 − p) for each output of layer k; depends only on (seed, k, position)."""
    T, B, n = ys.shape
    backend = backend_of(ys)
    scaled = (host.counter_bits(seed, k, T * B * n) >= int(p * 2**64)) / (1 - p)
    where = array_api_compat.device(ys)
    mask = backend.from_host(scaled.astype(dtype).reshape(T, B, n), where)
    return backend.xp.astype(mask, ys.dtype)
