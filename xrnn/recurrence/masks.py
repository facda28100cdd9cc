"""Which steps of a padded batch count, and what follows for values and states."""

from __future__ import annotations

import array_api_compat

from xrnn.typing import Array, Namespace, State


def valid_mask(T: int, lengths: Array, *, xp: Namespace) -> Array:
    """(T, B, 1): whether step t lies before the end of sequence b."""
    steps = xp.arange(T, dtype=lengths.dtype, device=array_api_compat.device(lengths))
    return (steps[:, None] < lengths[None, :])[:, :, None]


def apply_mask(mask: Array, a: Array, *, xp: Namespace) -> Array:
    """a where the mask holds, elsewhere 0 (whatever stood there, NaN included)."""
    # CuPy's `where` makes float32 of bfloat16.
    return xp.astype(xp.where(mask, a, xp.zeros_like(a)), a.dtype, copy=False)


def select_state(mask: Array, new: State, old: State, *, xp: Namespace) -> State:
    """The new state where mask (B, 1) holds, else the old one."""
    return tuple(xp.where(mask, n, o) for n, o in zip(new, old, strict=True))
