"""The nodes of an ONNX graph that compute parts of xrnn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from xrnn.backends import backend_of, host
from xrnn.convert.casting import rounded, wide
from xrnn.convert.conventions import encode
from xrnn.convert.onnx_operators import OPERATORS, expressed, form_of, require_onnx, rewritten
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.linear import Linear
from xrnn.typing import Array

#: numbers, and the letters of those that are known at run time only
Shape: TypeAlias = tuple[int | str, ...]


class Graph:
    """An ONNX graph that grows from its inputs to its outputs.

    Inside it everything is time first.

    Parameters
    ----------
    dtype : str
        The dtype of the weights.

    Attributes
    ----------
    inputs, outputs : dict of str to Shape
    xs : str
        What the first part takes.
    batch : str
        The tensor (1,) that holds B.
    lengths, empty : str
        The lengths (B,) as int32, and which of them are 0 (1, B, 1); "" without lengths.
    """

    def __init__(self, dtype: str) -> None:
        self.onnx, self.dtype = require_onnx("to_onnx"), dtype
        self.inputs: dict[str, Shape] = {}
        self.outputs: dict[str, Shape] = {}
        self.xs = self.batch = self.lengths = self.empty = ""
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}
        self._infos: dict[str, Any] = {}

    def constant(self, name: str, array: Any) -> str:
        """An initializer: numbers in the dtype of the graph, or int64."""
        array = host.xp.asarray(array)
        if array.dtype != "int64":
            array = rounded(name, array, self.dtype)
        self._constants[name] = array
        return name

    def add(self, op: str, inputs: Sequence[str], *outputs: str, name: str = "", **how: Any) -> str:
        """A node; its first output."""
        node = self.onnx.helper.make_node(op, inputs, outputs, name or outputs[0], **how)
        self._nodes.append(node)
        return outputs[0]

    def input(self, name: str, shape: Shape, dtype: str = "") -> str:
        self.inputs[name] = shape
        return self._declared(name, shape, dtype or self.dtype)

    def output(self, name: str, shape: Shape) -> None:
        self.outputs[name] = shape
        self._declared(name, shape, self.dtype)

    def start(self, first: Any, batch_first: bool, lengths: bool) -> None:
        """Add the inputs that are no states; `first` is the first part."""
        axes: Shape = ("B", "T") if batch_first else ("T", "B")
        if isinstance(first, Embedding):
            given = self.input("tokens", axes, "int64")
        else:
            size = first.in_features if isinstance(first, Linear) else first.input_size
            given = self.input("xs", (*axes, size))
        self.xs = self._turned(given, "time_first") if batch_first else given
        shape = self.add("Shape", [self.xs], "shape")
        ends = [self.constant("1", [1]), self.constant("2", [2]), self.constant("0", [0])]
        self.batch = self.add("Slice", [shape, *ends], "batch")
        if lengths:
            given = self.input("lengths", ("B",), "int64")
            self.lengths = self.add("Cast", [given], "lengths_int32", to=self._kind("int32"))
            empty = self.add("Equal", [given, "0"], "is_empty")
            self.empty = self.add("Unsqueeze", [empty, self.constant("0, 2", [0, 2])], "empty")

    def finish(
        self, ys: str, width: int, batch_first: bool, last: Mapping[str, tuple[str, Shape]]
    ) -> None:
        """Add the outputs: those of the last part, and name → (tensor, shape) of the states."""
        axes: Shape = ("B", "T") if batch_first else ("T", "B")
        self.output("ys", (*axes, width))
        ys = self._turned(ys, "batch_first") if batch_first else ys
        self.add("Identity", [ys], "ys")
        for name, (tensor, shape) in last.items():
            self.output(name, shape)
            self.add("Identity", [tensor], name)

    def size(self) -> int:
        """The bytes of all constants."""
        return sum(array.nbytes for array in self._constants.values())

    def made(self, name: str) -> Any:
        """The GraphProto."""
        return self.onnx.helper.make_graph(
            self._nodes,
            name,
            [self._infos[name] for name in self.inputs],
            [self._infos[name] for name in self.outputs],
            [self.onnx.numpy_helper.from_array(a, n) for n, a in self._constants.items()],
        )

    def _turned(self, value: str, name: str) -> str:
        """The same with its first two axes exchanged."""
        perm = [1, 0] if value == "tokens" else [1, 0, 2]
        return self.add("Transpose", [value], name, perm=perm)

    def _declared(self, name: str, shape: Shape, dtype: str) -> str:
        make = self.onnx.helper.make_tensor_value_info
        self._infos[name] = make(name, self._kind(dtype), shape)
        return name

    def _kind(self, dtype: str) -> int:
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(host.named_dtype(dtype)))


# ---- Parts


def host_weights(part: Any) -> dict[str, Array]:
    """The weights of a part as NumPy arrays in which sums may be computed."""
    return {name: wide(backend_of(a, name).to_host(a)) for name, a in part.weights.items()}


def add_embedding(graph: Graph, name: str, part: Embedding, tokens: str) -> str:
    E = graph.constant(f"{name}.E", host_weights(part)["E"])
    return graph.add("Gather", [E, tokens], f"{name}.xs", name=name)


def add_linear(graph: Graph, name: str, part: Linear, hs: str) -> str:
    weights = host_weights(part)
    W = graph.constant(f"{name}.W", weights["W"].T)
    ys = graph.add("MatMul", [hs, W], f"{name}.product", name=name)
    if part.bias:
        ys = graph.add("Add", [ys, graph.constant(f"{name}.b", weights["b"])], f"{name}.sum")
    return graph.add("Relu", [ys], f"{name}.ys") if part.activation == "relu" else ys


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
        W, U, b, _, p, _ = encode(convention, cell, rewritten(layer.cell, own))
        rows.append({"W": W, "R": U, "B": b, "P": p})
    found = {x: [row[x] for row in rows] for x in rows[0] if rows[0][x] is not None}
    return cell, {x: host.xp.stack(arrays) for x, arrays in found.items()}
