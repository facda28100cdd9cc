"""The nodes of an ONNX graph that compute a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xrnn.backends import host
from xrnn.convert.conventions import encode
from xrnn.convert.onnx_builder import Graph, Shape, host_weights
from xrnn.convert.onnx_operators import OPERATORS, expressed, form_of, rewritten
from xrnn.layers.layer import Layer
from xrnn.typing import Array


def add_layer(
    graph: Graph, name: str, prefix: str, layer: Layer[Any], xs: str, given: bool
) -> tuple[str, dict[str, tuple[str, Shape]]]:
    """Add the nodes of a layer, and its states as inputs if they are given.

    Returns the name of its outputs, and (tensor, shape) of each last state by name; `prefix`
    stands before the names of states.
    """
    L, D, states = layer.num_layers, layer.directions, layer.cell.states
    one_size = not isinstance(layer.hidden_size, tuple)
    last: dict[str, tuple[str, Shape]] = {}
    weights = host_weights(layer)
    initial: dict[str, list[str]] = {s: [""] * L for s in states}
    if given:
        initial = {s: _inputs(graph, prefix + s, layer, n) for n, s in enumerate(states)}
    ends: dict[str, list[str]] = {s: [] for s in states}
    for k in range(L):
        node = f"{name}_l{k}" if L > 1 else name
        if layer.learn_state and not given:
            for s in states:
                initial[s][k] = _learned(
                    graph, f"{node}.{s}0", [weights[f"{s}0{x}"] for x in layer.suffixes(k)]
                )
        begin = {s: initial[s][k] for s in states}
        xs, found = _add_node(graph, node, layer, k, weights, xs, begin)
        for s in states:
            ends[s].append(found[s])
    for n, s in enumerate(states):
        if one_size:
            tensor = (
                graph.add("Concat", ends[s], f"{name}.{s}_ends", axis=0) if L > 1 else ends[s][0]
            )
            last[f"{prefix}{s}_last"] = tensor, (L * D, "B", layer.widths(0)[n])
        else:
            for k, tensor in enumerate(ends[s]):
                last[f"{prefix}{s}_last_l{k}"] = tensor, (D, "B", layer.widths(k)[n])
    return xs, last


def _inputs(graph: Graph, name: str, layer: Layer[Any], n: int) -> list[str]:
    """Inputs for state n of the cell: its tensor (D, B, H) for each layer."""
    L, D = layer.num_layers, layer.directions
    if isinstance(layer.hidden_size, tuple):
        return [graph.input(f"{name}_l{k}", (D, "B", layer.widths(k)[n])) for k in range(L)]
    given = graph.input(name, (L * D, "B", layer.widths(0)[n]))
    if L == 1:
        return [given]
    split = [f"{name}_given_l{k}" for k in range(L)]
    graph.add("Split", [given], *split, axis=0)
    return split


def _learned(graph: Graph, name: str, directions: Sequence[Array]) -> str:
    """A learned initial state (H,) of each direction, for every sequence the same (D, B, H)."""
    rows = host.xp.stack(directions)
    D, H = rows.shape
    sizes = [graph.constant(f"{name}.D", [D]), graph.batch, graph.constant(f"{name}.H", [H])]
    shape = graph.add("Concat", sizes, f"{name}.shape", axis=0)
    return graph.add("Expand", [graph.constant(name, rows[:, None, :]), shape], f"{name}.rows")


def _add_node(
    graph: Graph,
    name: str,
    layer: Layer[Any],
    k: int,
    weights: Mapping[str, Array],
    xs: str,
    begin: Mapping[str, str],
) -> tuple[str, dict[str, str]]:
    """Add the operator of layer k: the name of its outputs (T, B, D·H), and of its last states."""
    D, (H, *_) = layer.directions, layer.widths(k)
    cell, arrays = _operands(layer, k, weights)
    form = form_of(cell, D)
    names = {x: graph.constant(f"{name}.{x}", a) for x, a in arrays.items()}
    inputs = [xs, names["W"], names["R"], names.get("B", ""), graph.lengths, begin["h"]]
    if form.op == "LSTM":
        # In a cell that has no c, c is h.
        inputs += [begin.get("c", begin["h"]), names.get("P", "")]
    outputs = [f"{name}.Y", *(f"{name}.Y_{s}" for s in OPERATORS[form.op].states)]
    direction = "bidirectional" if D == 2 else "reverse" if layer.reverse else "forward"
    graph.add(
        form.op, inputs, *outputs, name=name, direction=direction, hidden_size=H, **form.attributes
    )
    last = {s: f"{name}.Y_{s}" for s in layer.cell.states}
    for s, start in begin.items():
        if graph.empty and start:
            # onnxruntime gives zeros as the last state of an empty sequence.
            last[s] = graph.add("Where", [graph.empty, start, last[s]], f"{name}.last_{s}")
    ys = graph.add("Transpose", [outputs[0]], f"{name}.turned", perm=[0, 2, 1, 3])
    side = graph.constant(f"{name}.side", [0, 0, D * H])
    return graph.add("Reshape", [ys, side], f"{name}.ys"), last


def _operands(
    layer: Layer[Any], k: int, weights: Mapping[str, Array]
) -> tuple[Any, dict[str, Array]]:
    """The cell that has an operator, and W, R, B and P of layer k for each direction."""
    rows, cell = [], expressed(layer.cell)
    convention = OPERATORS[form_of(cell, layer.directions).op].convention
    for suffix in layer.suffixes(k):
        shapes = layer.cell.shapes(layer.inputs(k), layer.widths(k)[0], layer.bias)
        own = {name: weights[f"{name}{suffix}"] for name in shapes}
        stored = encode(convention, cell, rewritten(layer.cell, own))
        rows.append({"W": stored.W, "R": stored.U, "B": stored.b, "P": stored.peephole})
    found = {x: [row[x] for row in rows] for x in rows[0] if rows[0][x] is not None}
    return cell, {x: host.xp.stack(arrays) for x, arrays in found.items()}
