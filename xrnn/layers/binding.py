"""How a layer is bound to its weights: once, and again when one has been assigned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xrnn.engine.bound import Bound
from xrnn.engine.cell_pass import BoundCell
from xrnn.typing import Array, S

if TYPE_CHECKING:
    from xrnn.layers.layer import Layer


def bind(layer: Layer[S], old: Bound[S] | None) -> Bound[S]:
    """The layer with its present weights.

    Of an `old` binding to the same parameters the choice of kernels is kept: only the values
    of the weights are other ones.
    """
    parameters = layer.weights
    same = old is not None and old.parameters is parameters
    stack = []
    for k in range(layer.num_layers):
        suffixes, before = layer.suffixes(k), old.stack[k] if same and old else None
        if before is not None:
            pairs = zip(before, suffixes, strict=True)
            cells = [cell.rebound(_values(layer, suffix, cell)) for cell, suffix in pairs]
        else:
            ways = (layer.reverse, True)
            pairs_of = zip(suffixes, ways, strict=False)
            cells = [_cell(layer, suffix, reverse) for suffix, reverse in pairs_of]
        stack.append(tuple(cells))
    return Bound(
        layer.cell,
        stack,
        parameters.home,
        [suffix for _, suffix in layer.parts()],
        batch_first=layer.batch_first,
        owner=layer,
        parameters=parameters,
    )


def _cell(layer: Layer[Any], suffix: str, reverse: bool) -> BoundCell:
    """One cell of the layer, with zeros for the biases that it does not have."""
    parameters, cell = layer.weights, layer.cell
    given = tuple(cell.shapes(1, 1, layer.bias))
    weights = {name: parameters[f"{name}{suffix}"] for name in given}
    for name, shape in cell.shapes(weights["W"].shape[1], layer.hidden_size).items():
        if name not in weights:
            weights[name] = parameters.home.zeros(shape)
    return BoundCell(
        cell,
        weights,
        parameters.home,
        given=given,
        precision=layer.precision,
        reverse=reverse,
        frozen=parameters.frozen,
    )


def _values(layer: Layer[Any], suffix: str, cell: BoundCell) -> dict[str, Array]:
    """The present weights of a cell, and its zeros for absent biases."""
    named = {name: layer.weights[f"{name}{suffix}"] for name in cell.given}
    return {**cell.weights, **named}
