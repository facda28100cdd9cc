"""Masks for padded batches: which steps belong to a sequence, and how values are selected."""

from __future__ import annotations

import array_api_compat

from xrnn.typing import Array, Namespace, State


def valid_mask(T: int, lengths: Array, *, xp: Namespace) -> Array:
    """(T, B, 1): whether step t lies before the end of sequence b."""
    steps = xp.arange(T, dtype=lengths.dtype, device=array_api_compat.device(lengths))
    return (steps[:, None] < lengths[None, :])[:, :, None]


def apply_mask(mask: Array, a: Array, *, xp: Namespace) -> Array:
    """a where the mask is True, elsewhere 0 (even where a is NaN)."""
    # CuPy's `where` returns float32 for bfloat16, so the dtype is restored.
    return xp.astype(xp.where(mask, a, xp.zeros_like(a)), a.dtype, copy=False)


def select_state(mask: Array, new: State, old: State, *, xp: Namespace) -> State:
    """The new state where mask (B, 1) is True, else the old one."""
    return tuple(xp.where(mask, n, o) for n, o in zip(new, old, strict=True))
