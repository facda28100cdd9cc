"""The nodes of an ONNX graph that compute parts of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xrnn.convert.onnx_builder import Graph, Shape, Value, host_weights
from xrnn.convert.onnx_layer import add_layer
from xrnn.convert.onnx_operators import FUNCTIONS
from xrnn.layers.dropout import Dropout
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.layer_norm import LayerNorm
from xrnn.layers.linear import Linear
from xrnn.layers.merge import Merge
from xrnn.layers.pooling import Last, Max, Mean, Pooling
from xrnn.layers.residual import Residual
from xrnn.layers.sequential import Sequential


class Writer:
    """Adds parts to a graph.

    Parameters
    ----------
    graph : Graph
        The graph, whose inputs are there.
    states : bool
        Whether the initial states of layers are inputs.
    several : bool
        Whether there is more than one layer, so that the names of states begin with theirs.

    Attributes
    ----------
    last : dict of str to (str, Shape)
        The last states: name of the output → tensor and shape.
    """

    def __init__(self, graph: Graph, states: bool, several: bool) -> None:
        self.graph, self.states, self.several = graph, states, several
        self.last: dict[str, tuple[str, Shape]] = {}

    def add(self, name: str, part: Any, value: Value) -> Value:
        """Add a part of the types in `PARTS`: what it makes of a value."""
        add = next(add for kind, add in PARTS.items() if isinstance(part, kind))
        return add(self, name, part, value)

    def made(self, name: str, tensor: str, width: int, like: Value) -> Value:
        return Value(tensor, width, like.steps, name)


def leaves(parts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every part that holds no others, with the names of those around it before its own."""
    for name, part in parts.items():
        if isinstance(part, Sequential):
            yield from leaves(part.parts, f"{prefix}{name}.")
        else:
            yield prefix + name, part


def input_width(part: Any) -> int | None:
    """The number of values that a part takes at each step; None if that may be any number."""
    if isinstance(part, Layer):
        return part.input_size
    if isinstance(part, Linear):
        return part.in_features
    return part.size if isinstance(part, LayerNorm) else None


def _check_width(name: str, n: int, value: Value) -> None:
    if value.width != n:
        gives = f"{value.width} values" if value.width else "tokens"
        raise ValueError(
            f"parts: {name} must be given {n} values, and {value.source} gives {gives}"
        )


def _check_steps(name: str, value: Value) -> None:
    if not value.steps:
        raise ValueError(
            f"parts: {name} must be given sequences, and {value.source} gives one vector for each"
        )


# ---- One function for each type of part


def _embedding(writer: Writer, name: str, part: Embedding, value: Value) -> Value:
    if value.width:
        raise ValueError(f"{name} is an embedding; it must be the first part")
    E = writer.graph.constant(f"{name}.E", host_weights(part)["E"])
    tensor = writer.graph.add("Gather", [E, value.tensor], f"{name}.xs", name=name)
    return writer.made(name, tensor, part.embedding_dim, value)


def _linear(writer: Writer, name: str, part: Linear, value: Value) -> Value:
    _check_width(name, part.in_features, value)
    graph, weights = writer.graph, host_weights(part)
    W = graph.constant(f"{name}.W", weights["W"].T)
    ys = graph.add("MatMul", [value.tensor, W], f"{name}.product", name=name)
    if part.bias:
        ys = graph.add("Add", [ys, graph.constant(f"{name}.b", weights["b"])], f"{name}.sum")
    if part.activation is not None:
        ys = graph.add(FUNCTIONS[part.activation], [ys], f"{name}.ys")
    return writer.made(name, ys, part.out_features, value)


def _layer(writer: Writer, name: str, part: Layer[Any], value: Value) -> Value:
    _check_width(name, part.input_size, value)
    _check_steps(name, value)
    prefix = f"{name}." if writer.several else ""
    ys, last = add_layer(writer.graph, name, prefix, part, value.tensor, writer.states)
    writer.last |= last
    width = part.directions * part.widths(part.num_layers - 1)[0]
    return writer.made(name, ys, width, value)


def _layer_norm(writer: Writer, name: str, part: LayerNorm, value: Value) -> Value:
    _check_width(name, part.size, value)
    graph, weights = writer.graph, host_weights(part)
    inputs = [value.tensor, *(graph.constant(f"{name}.{k}", weights[k]) for k in ("gain", "b"))]
    ys = graph.add("LayerNormalization", inputs, f"{name}.ys", name=name, epsilon=part.eps)
    return writer.made(name, ys, part.size, value)


def _dropout(writer: Writer, name: str, part: Dropout, value: Value) -> Value:
    return value


def _merge(writer: Writer, name: str, part: Merge, value: Value) -> Value:
    if not value.width or value.width % 2:
        raise ValueError(
            f"parts: {name} must be given two directions, and {value.source} gives {value.width}"
        )
    graph, sides = writer.graph, [f"{name}.forward", f"{name}.reverse"]
    graph.add("Split", [value.tensor], *sides, axis=-1)
    op = {"sum": "Add", "mean": "Mean", "mul": "Mul", "max": "Max"}[part.mode]
    return writer.made(name, graph.add(op, sides, f"{name}.ys"), value.width // 2, value)


def _pooling(writer: Writer, name: str, part: Pooling, value: Value) -> Value:
    _check_steps(name, value)
    if not value.width:
        raise ValueError(f"parts: {name} must be given values, and {value.source} gives tokens")
    graph, xs, ys = writer.graph, value.tensor, f"{name}.ys"
    if isinstance(part, Last) and part.both_ends:
        _both_ends(graph, name, value, ys)
    elif graph.lengths:
        _pool_valid(graph, name, part, xs, ys)
    elif isinstance(part, Last):
        graph.add("Gather", [xs, graph.constant("end", -1)], ys, axis=0)
    else:
        op = "ReduceMean" if isinstance(part, Mean) else "ReduceMax"
        graph.add(op, [xs], ys, axes=[0], keepdims=0)
    return Value(ys, value.width, False, name)


def _both_ends(graph: Graph, name: str, value: Value, ys: str) -> None:
    """The first half of the last valid step, and the second half of the first one."""
    if value.width % 2:
        raise ValueError(
            f"parts: {name} must be given two directions, and {value.source} gives {value.width}"
        )
    last, xs = f"{name}.last", value.tensor
    if graph.lengths:
        _pool_valid(graph, name, Last(), xs, last)
        # Where there is no valid step it is 0, as at the last one.
        inside = _steps_of(graph, f"{name}.inside", "Less")
        xs = graph.add("Where", [inside, xs, graph.constant("zero", 0.0)], f"{name}.inside.kept")
    else:
        graph.add("Gather", [xs, graph.constant("end", -1)], last, axis=0)
    first = graph.add("Gather", [xs, graph.constant("first", 0)], f"{name}.first", axis=0)
    halves = {one: [f"{one}.forward", f"{one}.reverse"] for one in (last, first)}
    for one, sides in halves.items():
        graph.add("Split", [one], *sides, axis=-1)
    graph.add("Concat", [halves[last][0], halves[first][1]], ys, axis=-1)


def _pool_valid(graph: Graph, name: str, part: Pooling, xs: str, ys: str) -> None:
    """Pool the steps before the end of each sequence; 0 where there is none."""
    zero = graph.constant("zero", 0.0)
    valid = _steps_of(graph, name, "Equal" if isinstance(part, Last) else "Less")
    other = graph.constant("lowest", float("-inf")) if isinstance(part, Max) else zero
    chosen = graph.add("Where", [valid, xs, other], f"{name}.chosen")
    if isinstance(part, Last):
        graph.add("ReduceSum", [chosen, "0"], ys, keepdims=0)
    elif isinstance(part, Mean):
        total = graph.add("ReduceSum", [chosen, "0"], f"{name}.total", keepdims=0)
        least = graph.add("Max", ["lengths", "1"], f"{name}.least")
        number = graph.add("CastLike", [least, zero], f"{name}.number")
        graph.add("Div", [total, graph.add("Unsqueeze", [number, "1"], f"{name}.numbers")], ys)
    else:
        most = graph.add("ReduceMax", [chosen], f"{name}.most", axes=[0], keepdims=0)
        none = graph.add("Squeeze", [graph.empty, "0"], f"{name}.none")
        graph.add("Where", [none, zero, most], ys)


def _steps_of(graph: Graph, name: str, which: str) -> str:
    """Which steps (T, B, 1) come before the end of their sequence ("Less"), or are the last one
    ("Equal")."""
    count = [graph.constant("first", 0), graph.steps, graph.constant("each", 1)]
    steps = graph.add("Range", count, f"{name}.range")
    sides = graph.constant("1, 2", [1, 2])
    steps = graph.add("Unsqueeze", [steps, sides], f"{name}.steps")
    if which == "Equal":
        steps = graph.add("Add", [steps, "1"], f"{name}.count")
    ends = graph.add("Unsqueeze", ["lengths", "0, 2"], f"{name}.ends")
    return graph.add(which, [steps, ends], f"{name}.valid")


def without_padding(graph: Graph, name: str, part: Sequential, value: Value) -> Value:
    """The input of a `Sequential`, with 0 past the ends of sequences where it hides these steps."""
    if not graph.lengths or not part.hides_padding or not value.steps:
        return value
    valid, zero = _steps_of(graph, f"{name}.input", "Less"), graph.constant("zero", 0.0)
    if not value.width:
        valid = graph.add("Squeeze", [valid, "2"], f"{name}.input.tokens")
        zero = graph.constant("first", 0)
    tensor = graph.add("Where", [valid, value.tensor, zero], f"{name}.input.kept")
    return value._replace(tensor=tensor)


def _sequential(writer: Writer, name: str, part: Sequential, value: Value) -> Value:
    return _inner(writer, name, part, without_padding(writer.graph, name, part, value))


def _inner(writer: Writer, name: str, part: Sequential, value: Value) -> Value:
    for one, inner in part.parts.items():
        value = writer.add(f"{name}.{one}", inner, value)
    return value


def _residual(writer: Writer, name: str, part: Residual, value: Value) -> Value:
    value = without_padding(writer.graph, name, part, value)
    found = _inner(writer, name, part, value)
    if (found.width, found.steps) != (value.width, value.steps):
        raise ValueError(
            f"{name} adds {value.width} values of {value.source} to {found.width} values of "
            f"{found.source}; both must have the same shape"
        )
    ys = writer.graph.add("Add", [value.tensor, found.tensor], f"{name}.ys")
    return writer.made(name, ys, value.width, value)


PARTS: Mapping[type, Callable[[Writer, str, Any, Value], Value]] = {
    Embedding: _embedding,
    Linear: _linear,
    Layer: _layer,
    LayerNorm: _layer_norm,
    Dropout: _dropout,
    Merge: _merge,
    Last: _pooling,
    Mean: _pooling,
    Max: _pooling,
    Residual: _residual,
    Sequential: _sequential,
}
