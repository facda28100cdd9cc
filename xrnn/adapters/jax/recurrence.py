"""One cell over whole sequences as one loop of JAX, with the cell's own backward pass.

`run` is a pure function.  Forward, `jax.lax.scan` runs `Cell.step` from step to step; backward it
runs `Cell.step_backward` over the steps in the other order.  So the code that JAX compiles does not
grow with T, and what does not depend on the state is one product for all steps, as in
`xrnn.recurrence.loop`, whose results these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xrnn.cells.base import Cell
from xrnn.recurrence.loop import check_names
from xrnn.recurrence.masks import apply_mask, select_state
from xrnn.recurrence.precision import rounded_sum
from xrnn.recurrence.projection import input_projection
from xrnn.typing import Array, Contribution, State, Weights


class Steps(NamedTuple):
    """Which steps are run, and where sequences start anew, in one direction."""

    valid: Array | None
    """(T, B, 1): a step that is not valid changes no state, and its output is 0; None: all are"""
    anew: Array | None = None
    """(T, B, 1): valid steps that start from the initial state; None: none do"""
    ended: Array | None = None
    """(B, 1): sequences whose last state is the initial one; None: there are none"""


class Kept(NamedTuple):
    """What the backward pass needs of the forward pass."""

    weights: Weights
    xs: Array
    saved: Any
    """What the cell saved, each array with an axis T in front"""
    steps: Steps
    initial: State | None


@jax.tree_util.register_static
@dataclass(frozen=True)
class Known:
    """In the place of an array that the loop need not collect again: where it is already."""

    place: int


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(
    cell: Cell[Any],
    reverse: bool,
    weights: Weights,
    xs: Array,
    first: State,
    initial: State | None,
    steps: Steps,
    noise: Weights,
) -> tuple[Array, State]:
    """Run sequences; the gradients of `weights`, `xs`, `first` and `initial` are the cell's own.

    Parameters
    ----------
    cell : Cell
        The cell.
    reverse : bool
        Whether the steps are run from the last to the first.
    weights : mapping of str to array
        All weights of the cell, biases included.
    xs : array (T, B, I)
        Anything at steps that are not valid.
    first : tuple of array (B, n)
        The state before the sequences.
    initial : tuple of array (B, n) or None
        The state from which steps start anew; None if none do.
    steps : Steps
        Which steps are run.
    noise : mapping of str to array
        What the cell draws (`Cell.noise`): (T, B, n), or (B, n) for what is drawn once; empty in
        inference.

    Returns
    -------
    ys : array (T, B, n)
        The outputs, exactly 0 at steps that are not valid.
    last : tuple of array (B, n)
        The state after the sequences.
    """
    ys, last, _ = _forward(cell, reverse, weights, xs, first, initial, steps, noise, keep=False)
    return ys, last


def _forward(
    cell: Cell[Any],
    reverse: bool,
    weights: Weights,
    xs: Array,
    first: State,
    initial: State | None,
    steps: Steps,
    noise: Weights,
    *,
    keep: bool,
) -> tuple[Array, State, Kept | None]:
    valid, anew, ended = steps
    # Values in the padding, even NaN, must not get into the sums over all steps.
    xs = _where(valid, xs)
    # The bias is added within the loop: XLA would keep a second array of this size.
    axs = input_projection(xs, weights, bias=False, xp=jnp)
    each = {name: a for name, a in noise.items() if a.ndim == 3}
    once = {**weights, **{name: a for name, a in noise.items() if name not in each}}

    def step(state: State, now: Any) -> tuple[State, Any]:
        ax, valid, anew, drawn = now
        if anew is not None:
            state = select_state(anew, initial or (), state, xp=jnp)
        before = state if valid is None else _masked(valid, state)
        ax = ax if cell.bias_in_step else ax + weights["b"]
        new, saved = cell.step(ax, before, {**once, **drawn}, xp=jnp)
        y, new = new[0], tuple(new)
        if valid is not None:
            y, new = apply_mask(valid, y, xp=jnp), select_state(valid, new, state, xp=jnp)
        return new, (y, saved if keep else None)

    last, (ys, saved) = jax.lax.scan(step, tuple(first), (axs, valid, anew, each), reverse=reverse)
    if ended is not None:
        last = select_state(ended, initial or (), last, xp=jnp)
    return ys, last, Kept(weights, xs, saved, steps, initial) if keep else None


def _run_and_keep(cell: Cell[Any], reverse: bool, *given: Any) -> tuple[Any, Kept | None]:
    ys, last, kept = _forward(cell, reverse, *given, keep=True)
    return (ys, last), kept


def _backward(
    cell: Cell[Any], reverse: bool, kept: Kept, gradients: tuple[Array, State]
) -> tuple[Any, ...]:
    """The gradients of all arguments of `run` but the first two, from those of its results."""
    weights, xs, saved, (valid, anew, ended), initial = kept
    dys, dlast = gradients
    dys = _where(valid, dys)
    dinitial: State = ()
    if initial is not None:
        dinitial = tuple(map(jnp.zeros_like, initial))
    if ended is not None:
        dinitial, dlast = _masked(ended, dlast), _masked(~ended, dlast)

    def step(carried: tuple[State, State], now: Any) -> tuple[tuple[State, State], Any]:
        ((dh, *drest), dinitial), (dy, saved, valid, anew) = carried, now
        dnew = (dh + dy, *drest)
        given = dnew if valid is None else _masked(valid, dnew)
        dax, dprev, parts = cell.step_backward(given, saved, weights, xp=jnp)
        dprev = tuple(dprev)
        if valid is not None:
            dprev = select_state(valid, dprev, dnew, xp=jnp)
        if anew is not None:
            more = zip(dinitial, _masked(anew, dprev), strict=True)
            dinitial, dprev = tuple(a + b for a, b in more), _masked(~anew, dprev)
        return (dprev, dinitial), (dax, _without_known(parts, dax, saved))

    begun, inputs = (tuple(dlast), dinitial), (dys, saved, valid, anew)
    (dfirst, dinitial), (das, parts) = jax.lax.scan(step, begun, inputs, reverse=not reverse)
    check_names(cell, weights, parts)
    known = [das, *jax.tree.leaves(saved)]
    dweights = {name: _summed(part, known, valid) for name, part in parts.items()}
    das = _where(valid, das)
    dweights["W"] = _product(das, xs)
    if not cell.bias_in_step:
        dweights["b"] = rounded_sum(das, axis=(0, 1), xp=jnp)
    dxs = _where(valid, das @ weights["W"])
    return dweights, dxs, dfirst, dinitial if initial is not None else None, None, None


run.defvjp(_run_and_keep, _backward)


def _masked(mask: Array, state: State) -> State:
    """The state, or its gradients, where mask (B, 1) is True, and 0 elsewhere."""
    return tuple(apply_mask(mask, s, xp=jnp) for s in state)


def _without_known(parts: Mapping[str, Contribution], dax: Array, saved: Any) -> dict[str, Any]:
    """The contributions to the gradients of the weights, with `Known` for what is there already."""
    places = {id(a): place for place, a in enumerate([dax, *jax.tree.leaves(saved)])}

    def replaced(array: Array) -> Any:
        return Known(places[id(array)]) if id(array) in places else array

    return {name: jax.tree.map(replaced, part) for name, part in parts.items()}


def _where(valid: Array | None, a: Array) -> Array:
    """An array (T, B, n), 0 at steps that are not valid.

    Gradients are 0 there anyway unless a weight is infinite or NaN.
    """
    return a if valid is None else apply_mask(valid, a, xp=jnp)


def _product(left: Array, right: Array) -> Array:
    """Σ left_tb right_tbᵀ over all steps and sequences: (m, n) from (T, B, m) and (T, B, n).

    XLA takes half of the time of a product of matrices (T·B, m) and (T·B, n) on the CPU.
    """
    return jnp.einsum("tbm,tbn->mn", left, right)


def _summed(part: Any, known: list[Array], valid: Array | None) -> Array:
    """The gradient of one weight: the sum of its contributions at all steps."""

    def steps(a: Any) -> Array:
        return _where(valid, known[a.place] if isinstance(a, Known) else a)

    if not isinstance(part, tuple):
        return rounded_sum(steps(part), axis=(0, 1), xp=jnp)
    return jnp.concatenate([_product(steps(left), steps(right)) for left, right in part])
