"""Lengths, masks and resets of a batch, whose values may be unknown while JAX traces.

A mask leaves steps out, and a reset at step t cuts a sequence between t − 1 and t, as for
`xrnn.Layer`.  Values that are known are checked as it checks them; of others, shape and dtype are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xrnn.adapters.jax.recurrence import Steps
from xrnn.engine.checks import accept_lengths, looks_transposed
from xrnn.engine.timeline import accept_steps
from xrnn.recurrence.masks import apply_mask
from xrnn.typing import Array, is_integer


class Plan(NamedTuple):
    """The steps of a batch, booleans (T, B) and integers; None: all, and nowhere."""

    inside: Array | None
    """Which steps lie before the end of their sequence"""
    valid: Array | None
    """Which of these are not left out"""
    cuts: Array | None
    """(T, B): how many cuts there are from the start to before each step"""

    def direction(self, reverse: bool) -> Steps:
        """What is run in one direction."""
        if self.valid is None:
            return Steps(None)
        valid = self.valid[:, :, None]
        if self.cuts is None:
            return Steps(valid)
        # The number of cuts at the valid step that is run before; at the start that of the edge.
        begin, end = jnp.zeros_like(self.cuts[:1]), self.cuts[-1:]
        if reverse:
            known = jnp.where(self.valid, self.cuts, end)
            before = jax.lax.cummin(jnp.concatenate([known[1:], end]), reverse=True)
            # In reverse the state of the first valid step is the last one, whatever is in front.
            ended = ~jnp.any(self.valid, axis=0) & (end[0] > 0)
        else:
            known = jnp.where(self.valid, self.cuts, begin)
            before = jax.lax.cummax(jnp.concatenate([begin, known[:-1]]))
            ended = jnp.max(known, axis=0) < end[0]
        anew = self.valid & (self.cuts != before)
        return Steps(valid, anew[:, :, None], ended[:, None])

    def held(self, ys: Array, reverse: bool) -> Array:
        """The outputs, at steps that are left out those of the valid step before, in the order in
        which steps are run; 0 if there is none since the last cut."""
        if self.valid is None or self.inside is None:
            return ys
        T = ys.shape[0]
        steps = jnp.arange(T)[:, None]
        if reverse:
            source = jax.lax.cummin(jnp.where(self.valid, steps, T), reverse=True)
        else:
            source = jax.lax.cummax(jnp.where(self.valid, steps, -1))
        there = jnp.clip(source, 0, T - 1)
        known = self.inside & (source == there)
        if self.cuts is not None:
            known = known & (jnp.take_along_axis(self.cuts, there, axis=0) == self.cuts)
        moved = jnp.take_along_axis(ys, there[:, :, None], axis=0)
        return apply_mask(known[:, :, None], moved, xp=jnp)


def plan(
    kind: str,
    sizes: tuple[int, int],
    lengths: Any,
    mask: Any,
    resets: Any,
    *,
    batch_first: bool,
    unbatched: bool,
) -> Plan:
    """The steps of a batch of `sizes` (T, B), after all checks that can be made.

    Raises
    ------
    ValueError
        If lengths, mask or resets do not fit.
    """
    T, B = sizes
    how: Any = {"batch_first": batch_first, "unbatched": unbatched}
    inside = jnp.ones((T, B), bool)
    if lengths is not None:
        inside = jnp.arange(T)[:, None] < _lengths(lengths, T, B, unbatched)[None, :]
    valid, cuts = inside, None
    if mask is not None:
        valid = inside & _booleans(kind, "mask", mask, T, B, **how)
    if resets is not None:
        cuts = jnp.cumsum(inside & _booleans(kind, "resets", resets, T, B, **how), axis=0)
    if T * B == 0 or (lengths is None and mask is None and resets is None):
        return Plan(None, None, None)
    return Plan(inside, valid, cuts)


def _lengths(lengths: Any, T: int, B: int, unbatched: bool) -> Array:
    """The lengths (B,); one number for a sequence without an axis B."""
    shape, letters = ((), "()") if unbatched else ((B,), f"(B,) = ({B},)")
    if not isinstance(lengths, jax.core.Tracer):
        given = [lengths] if unbatched else lengths
        return jnp.asarray(accept_lengths(given, T, B))
    if lengths.shape != shape or not is_integer(lengths.dtype):
        raise ValueError(
            f"lengths has shape {lengths.shape} and dtype {lengths.dtype}; it must be {letters} "
            "integers"
        )
    return jnp.reshape(lengths, (B,))


def _booleans(
    kind: str, name: str, given: Any, T: int, B: int, *, batch_first: bool, unbatched: bool
) -> Array:
    """Booleans (T, B) for each step."""
    if not isinstance(given, jax.core.Tracer):
        how: Any = {"batch_first": batch_first, "unbatched": unbatched}
        return jnp.asarray(accept_steps(kind, name, given, T, B, **how))
    shape, letters = ((B, T), "(B, T)") if batch_first else ((T, B), "(T, B)")
    if unbatched:
        shape, letters = (T,), "(T,)"  # type: ignore[assignment]
    if given.shape != shape or given.dtype != bool:
        raise ValueError(
            f"{kind}: {name} has shape {given.shape} and dtype {given.dtype}; it must be "
            f"{letters} = {shape} booleans{looks_transposed(name, given.shape, shape)}"
        )
    return given[:, None] if unbatched else given.T if batch_first else given
