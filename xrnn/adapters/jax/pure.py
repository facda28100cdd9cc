"""A layer as a pure function of its weights: all checks, and the cells one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from xrnn.adapters.jax.arguments import (
    accept_weights,
    axes_of,
    cell_weights,
    first_states,
    initial_states,
    of_jax,
)
from xrnn.adapters.jax.draws import Draws
from xrnn.adapters.jax.recurrence import run
from xrnn.adapters.jax.steps import Plan, plan
from xrnn.engine.timeline import is_hold
from xrnn.layers.layer import Layer
from xrnn.typing import Array, GivenState, Masked, S, State, Weights


def apply(
    layer: Layer[S],
    weights: Mapping[str, Array],
    xs: Array,
    state: GivenState | None = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    masked: Masked = "zero",
    resets: Any = None,
    key: Any = None,
) -> tuple[Array, S]:
    """Run a layer with given weights, as a pure function that JAX can transform.

    Under `jax.grad` the gradients are those of the cell's own backward pass, exactly 0 in the
    padding.  Under `jax.jit` the loop over time is compiled once, whatever T is.

    Parameters
    ----------
    layer : Layer
        Its cell and options are used; its own weights, dtype and device are not.
    weights : mapping of str to array
        All weights by their names in `Layer.weights`, such as ``dict(layer.weights)``; of one
        dtype: float32, float64, float16 or bfloat16.  Everything is computed in it.
    xs : array (T, B, I), or (B, T, I) with ``batch_first``, or (T, I) for one sequence
        The inputs, in the dtype of the weights.
    state : tuple of array (L·D, B, H) or None, optional
        As for `Layer.forward`.
    lengths : integers (B,), optional
        The number of valid steps of each sequence, 0…T, in any order; () for one sequence without
        an axis B.  They may be traced by JAX; then values outside count as 0, or T.
    mask, masked, resets
        As for `xrnn.unroll`; (B, T) with ``batch_first``.  They may be traced, but for `masked`.
    key : key of jax.random, optional
        For training: with it the layer draws what `Layer.forward` draws with a seed (dropout, and
        what cells draw), though not the same numbers.  Give another one at every step.  Without a
        key nothing is drawn, as in inference.

    Returns
    -------
    ys : array (T, B, D·H), or (B, T, D·H)
        The outputs of the last layer, as `Layer.forward` gives them.
    state : named tuple of array (L·D, B, H)
        The state where each sequence ended.

    Raises
    ------
    TypeError, ValueError
        As `Layer.forward`; if weights are missing, unknown or do not fit; or if the layer rounds in
        its products (``precision="bf16"``, or frozen with weights of 8 or 16 bits).

    Notes
    -----
    NumPy arrays become arrays of JAX, as everywhere in JAX.  Second derivatives are those of the
    backward pass; forward-mode derivatives (`jax.jvp`, `jax.jacfwd`) are refused by JAX.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, xrnn
    >>> layer = xrnn.GRU(3, 5, device="jax")
    >>> def loss(weights, xs, lengths):
    ...     ys, state = apply(layer, weights, xs, lengths=lengths)
    ...     return jnp.mean(state.h**2)
    >>> xs, lengths = jnp.ones((7, 2, 3), "float32"), jnp.asarray([7, 4])
    >>> dweights = jax.jit(jax.grad(loss))(dict(layer.weights), xs, lengths)
    >>> dweights["U_l0"].shape
    (15, 5)
    """
    if not isinstance(layer, Layer):
        raise TypeError(
            f"layer is a {type(layer).__name__}; it must be a recurrent layer, such as xrnn.LSTM; "
            "write the other parts of a model in JAX"
        )
    kind, hold = layer.cell.name, is_hold(layer.cell.name, masked)
    if layer.precision == "bf16":
        raise ValueError(
            f"{kind}: precision is 'bf16'; it must be 'ieee' here, where products are computed in "
            "the dtype of the weights: set layer.precision = 'ieee'"
        )
    if layer.weights.form:
        raise ValueError(
            f"{kind}: the layer is frozen with weights of {layer.weights.form}, in whose products "
            "numbers are rounded; here they are not: give the layer as it was before"
        )
    weights, placement = accept_weights(layer, weights)
    axes = axes_of(layer, placement)
    xs, unbatched = axes.inputs("xs", of_jax(xs), 3)
    T, B, _ = xs.shape
    how: Any = {"batch_first": layer.batch_first, "unbatched": unbatched}
    steps = plan(kind, (T, B), lengths, mask, resets, **how)
    initial = initial_states(layer, weights, B, placement)
    firsts = first_states(axes, state, initial, B, unbatched)
    draws = None if key is None else Draws(layer, key, placement.dtype)
    ys, lasts = _layers(layer, weights, xs, firsts, initial, steps, draws, hold)
    last = axes.to_user_state(axes.joined(lasts), unbatched)
    return axes.to_user(ys, unbatched), last


def _layers(
    layer: Layer[Any],
    weights: Weights,
    xs: Array,
    firsts: list[State],
    initial: list[State],
    steps: Plan,
    draws: Draws | None,
    hold: bool,
) -> tuple[Array, list[State]]:
    """The outputs of the last layer, and the last state of each cell."""
    lasts: list[State] = []
    for k in range(layer.num_layers):
        outs = []
        for d, suffix in enumerate(layer.suffixes(k)):
            reverse, n = layer.reverse or d == 1, len(lasts)
            own = cell_weights(layer, weights, suffix)
            noise: dict[str, Array] = {}
            if draws is not None:
                own, noise = draws.of_cell(own, k, d, xs.shape)
            way = steps.direction(reverse)
            rest = None if way.anew is None else initial[n]
            ys, last = run(layer.cell, reverse, own, xs, firsts[n], rest, way, noise)
            outs.append(steps.held(ys, reverse) if hold and k + 1 == layer.num_layers else ys)
            lasts.append(last)
        xs = jnp.concatenate(outs, axis=-1)
        if draws is not None and k + 1 < layer.num_layers:
            xs = draws.between(xs, k)
    return xs, lasts
