"""What a layer is given as a pure function: the checks of weights and states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from xrnn.backends import get, host
from xrnn.engine.axes import Axes
from xrnn.engine.checks import REAL_DTYPES, Placement, accept_dtype, unknown_name
from xrnn.engine.states import state_parts
from xrnn.layers.layer import Layer
from xrnn.typing import Array, S, State, Weights


def accept_weights(layer: Layer[Any], weights: Any) -> tuple[dict[str, Array], Placement]:
    """The weights after all checks, and what other arrays must be."""
    kind, specs = layer.cell.name, layer.weights.specs
    if not isinstance(weights, Mapping):
        raise TypeError(f"{kind}: weights is a {type(weights).__name__}; it must be a mapping")
    for name in weights:
        if name not in specs:
            raise ValueError(unknown_name(kind, name, specs))
    for name, (shape, letters) in specs.items():
        if name not in weights:
            raise ValueError(
                f"{kind}: weight {name} is missing; it must have shape {letters} = {shape}"
            )
    given = {name: of_jax(weights[name]) for name in specs}
    reference = next(iter(given))
    placement = Placement.of(kind, reference, given[reference])
    if placement.backend is not get("jax"):
        raise TypeError(
            f"{kind}: {reference} is an array of {placement.backend.name}; it must be one of jax"
        )
    accept_dtype(f"{kind}: {reference}", placement.dtype, REAL_DTYPES)
    return {
        name: placement.accept_shaped(name, given[name], *specs[name]) for name in specs
    }, placement


def of_jax(a: Any) -> Any:
    """The array; one of NumPy becomes one of JAX."""
    return jnp.asarray(a) if isinstance(a, host.xp.ndarray) else a


def axes_of(layer: Layer[S], placement: Placement) -> Axes[S]:
    """The axes of the user's arrays."""
    parts = layer.parts()
    widths = [layer.widths(k) for k, _ in parts]
    how: Any = {"directions": layer.directions, "batch_first": layer.batch_first}
    suffixes = [suffix for _, suffix in parts]
    return Axes(layer.cell, placement, layer.input_size, widths, suffixes, **how)


def cell_weights(layer: Layer[Any], weights: Weights, suffix: str) -> dict[str, Array]:
    """All weights of one cell; biases that the layer has not are zeros."""
    cell, W = layer.cell, weights[f"W{suffix}"]
    shapes = cell.shapes(W.shape[1], W.shape[0] // len(cell.gates))
    return {
        name: weights[f"{name}{suffix}"]
        if f"{name}{suffix}" in weights
        else jnp.zeros(shape, W.dtype)
        for name, shape in shapes.items()
    }


def initial_states(
    layer: Layer[Any], weights: Weights, B: int, placement: Placement
) -> list[State]:
    """The initial state of each cell, learned or zeros, with parts (B, n)."""
    found = []
    for k, suffix in layer.parts():
        state = []
        for name, n in zip(layer.cell.states, layer.widths(k), strict=True):
            part = weights[f"{name}0{suffix}"] if layer.learn_state else placement.zeros((n,))
            state.append(jnp.broadcast_to(part, (B, n)))
        found.append(tuple(state))
    return found


def first_states(
    axes: Axes[Any], state: Any, initial: list[State], B: int, unbatched: bool
) -> list[State]:
    """The state that each cell starts from: its parts that are not given are the initial ones."""
    parts = state_parts(axes.cell, "state", state)
    parts = tuple(jax.tree.map(of_jax, part) for part in parts)
    given = axes.split(axes.state("state", parts, B, unbatched, axes.placement))
    absent = [part is None for part in parts]
    return [
        tuple(mine if missing else part for mine, part, missing in zip(*pair, absent, strict=True))
        for pair in zip(initial, given, strict=True)
    ]
