"""Dropout between layers: masks that depend on a seed, the layer and the position alone."""

from __future__ import annotations

from functools import partial
from math import prod
from numbers import Integral, Real

from xrnn.backends import host
from xrnn.engine.checks import Placement
from xrnn.engine.stack import Drop
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


def dropout_masks(p: float, seed: Size | None, dtype: str, placement: Placement) -> Drop | None:
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
            f"{placement.kind}: seed is {seed!r:.80}; a layer with dropout needs an integer, "
            "another one at every training step: forward(xs, seed=step)"
        )
    if not p:
        return None
    return partial(_mask, p, int(seed), dtype, placement)


def _mask(
    p: float, seed: int, dtype: str, placement: Placement, k: int, shape: tuple[int, ...]
) -> Array:
    """0 or 1/(1 − p) for each output of layer k; depends only on (seed, k, position)."""
    scaled = (host.counter_bits(seed, k, prod(shape)) >= int(p * 2**64)) / (1 - p)
    mask = placement.from_host(scaled.astype(dtype).reshape(shape))
    return placement.backend.xp.astype(mask, placement.dtype)
