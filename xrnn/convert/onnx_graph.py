"""The constants of an ONNX graph: tensors that it holds, and what is computed from them alone.

Nothing is run but a few operators that move, cast, scale and join numbers, and these only for the
tensors that are asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from math import prod
from typing import Any

from xrnn.backends import host
from xrnn.convert.onnx_operators import require_onnx
from xrnn.typing import Array

#: operators that move and cast the numbers of their first input, or of all inputs (Concat)
MOVING = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"}
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze"}
)

#: all operators that are computed
COMPUTED = MOVING | {"Constant", "ConstantOfShape", "DequantizeLinear", "Shape"}
COMPUTED |= {"Add", "Div", "Mul", "Neg", "Sub"}

#: a small file could ask for any amount of memory
MOST = 2**28


class Unresolved(ValueError):
    """A tensor that is not a constant; the text says where it comes from."""


class Scope:
    """The names that the nodes of one graph see: its own, and those of the graphs around it.

    Parameters
    ----------
    graph : GraphProto
        The graph.
    opset : int
        The version of the operators.
    folder : str or None
        Where files with its tensors may lie; None: nowhere.
    outer : Scope, optional
        That of the graph around.
    place : str
        What the graph is, in messages.
    """

    def __init__(
        self,
        graph: Any,
        opset: int,
        folder: str | None,
        outer: Scope | None = None,
        place: str = "",
    ) -> None:
        self.graph, self.opset, self.folder, self.outer = graph, opset, folder, outer
        self.place = place
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {one.values.name for one in graph.sparse_initializer}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.inputs = {one.name for one in graph.input}
        self.known: dict[str, Array] = {}

    def all(self) -> Iterator[Scope]:
        """This scope, and those of all graphs inside."""
        yield self
        for node in self.graph.node:
            for attribute in node.attribute:
                place = f"{attribute.name} of {described(node)}"
                inside = [attribute.g] if attribute.HasField("g") else attribute.graphs
                for graph in inside:
                    yield from Scope(graph, self.opset, self.folder, self, place).all()

    def value(self, name: str) -> Array:
        """The constant of that name.

        Raises
        ------
        Unresolved
            If it is none.
        ValueError
            If it cannot be computed.
        """
        home = self._home(name)
        if name not in home.known:
            if name in home.tensors:
                home.known[name] = array_of(home.tensors[name], home.folder)
            elif name in home.sparse:
                raise ValueError(f"{name} is a sparse tensor; write it as a dense one")
            elif name in home.makers:
                home._compute(home.makers[name])
            else:
                where = home.place or "the model"
                raise Unresolved(f"{name} is an input of {where}")
        return home.known[name]

    def maker(self, name: str) -> Any:
        """The node that makes a tensor; None for an initializer or an input."""
        home = self._home(name)
        return None if name in home.tensors else home.makers.get(name)

    def is_zero(self, name: str) -> bool:
        """Whether all numbers of a tensor are 0, even if its shape is known only at run time."""
        try:
            return not self.value(name).any()
        except Unresolved:
            pass
        home, node = self._home(name), self.maker(name)
        if node is None:
            return False
        if node.op_type == "ConstantOfShape":
            # Its number is 0 unless it is given.
            return not any(array_of(a.t, self.folder).any() for a in node.attribute)
        return node.op_type in MOVING and all(map(home.is_zero, _numbers_of(node)))

    def add_sources(self, name: str, found: set[tuple[Scope, str]]) -> None:
        """Add a tensor, and all those whose numbers are in it, to what was found: scope and name.

        Lengths, shapes and places are no such numbers.
        """
        home, node = self._home(name), self.maker(name)
        if (home, name) not in found:
            found.add((home, name))
            for source in _numbers_of(node) if node is not None else ():
                home.add_sources(source, found)

    def weights(self) -> Iterator[tuple[str, Any]]:
        """The arrays of floating-point numbers that this graph holds: name and TensorProto."""
        kinds = require_onnx("load_onnx").TensorProto
        floats = (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)
        held = list(self.tensors.items())
        for node in self.graph.node:
            if node.op_type == "Constant":
                values = [a.t for a in node.attribute if a.name == "value"]
                held += zip(node.output, values, strict=False)
        for name, tensor in held:
            # Single numbers are parameters of operators.
            if tensor.data_type in floats and tensor.dims and 0 not in tensor.dims:
                yield name, tensor

    def _home(self, name: str) -> Scope:
        """The innermost scope with that name."""
        scope: Scope | None = self
        while scope is not None:
            if any(name in names for names in (scope.tensors, scope.sparse, scope.makers)):
                return scope
            if name in scope.inputs:
                return scope
            scope = scope.outer
        raise ValueError(f"there is no tensor {name}: the model is damaged")

    def _compute(self, node: Any) -> None:
        """Compute the outputs of a node of this graph."""
        if node.op_type not in COMPUTED or node.domain not in ("", "ai.onnx", "com.microsoft"):
            raise Unresolved(f"{node.output[0]} is computed by {described(node)}")
        feeds = {name: self.value(name) for name in node.input if name}
        try:
            if (size := _size(node, [feeds.get(name) for name in node.input])) > MOST:
                raise ValueError(f"it would have {size:,} numbers; at most {MOST:,} are read")
            outputs = _run(node, feeds, self.opset)
        except Exception as error:  # of any kind: the node may hold anything
            raise ValueError(f"{described(node)} cannot be computed: {error}") from error
        self.known |= dict(zip(node.output, outputs, strict=False))


def described(node: Any) -> str:
    """The operator and the name of a node, or of what it makes if it has no name."""
    return f"{node.op_type} {node.name or next(iter(node.output), '')!r}"


def _numbers_of(node: Any) -> list[str]:
    """The inputs of a node whose numbers are in its outputs."""
    if node.op_type in ("ConstantOfShape", "Shape"):
        return []
    one = node.op_type in MOVING and node.op_type != "Concat"
    return [name for name in (node.input[:1] if one else node.input) if name]


def array_of(tensor: Any, folder: str | None) -> Array:
    """The numbers of a tensor.

    Raises
    ------
    ValueError
        If they lie in another file that may not be read, or are damaged.
    """
    onnx = require_onnx("load_onnx")
    if onnx.external_data_helper.uses_external_data(tensor) and folder is None:
        raise ValueError(f"the numbers of {tensor.name} lie in another file; give the model's path")
    try:
        return host.xp.asarray(onnx.numpy_helper.to_array(tensor, folder or ""))
    except Exception as error:  # of any kind: the tensor may hold anything
        raise ValueError(f"the tensor {tensor.name} cannot be read: {error}") from error


def _size(node: Any, inputs: list[Any]) -> int:
    """How many numbers a node makes, or more."""
    wanted: list[int] = []
    if len(inputs) > 1 and inputs[1] is not None:
        wanted = inputs[1].reshape(-1).tolist()
    if node.op_type == "ConstantOfShape":
        return prod(map(int, inputs[0].tolist()))
    if node.op_type == "Expand":
        return prod(host.xp.broadcast_shapes(inputs[0].shape, tuple(map(int, wanted))))
    if node.op_type == "Tile":
        return int(inputs[0].size) * prod(map(int, wanted))
    if node.op_type == "Gather":
        (axis,) = [a.i for a in node.attribute if a.name == "axis"] or [0]
        return int(inputs[0].size // max(1, inputs[0].shape[axis])) * len(wanted)
    if node.op_type in ("Add", "Div", "Mul", "Sub"):
        return prod(host.xp.broadcast_shapes(*(one.shape for one in inputs)))
    return sum(int(one.size) for one in inputs if one is not None)


def _run(node: Any, feeds: dict[str, Array], opset: int) -> Any:
    """The outputs of a node, computed by the reference implementation of onnx."""
    onnx = require_onnx("load_onnx")
    reference = importlib.import_module("onnx.reference")
    info, kind = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
    known = onnx.NodeProto()
    known.CopyFrom(node)
    known.domain = ""
    if node.op_type == "DequantizeLinear":
        # The same as in all versions before, of which the reference lacks the first ones.
        opset = max(opset, 21)
    graph = onnx.helper.make_graph(
        [known],
        "constant",
        [info(name, kind(array.dtype), None) for name, array in feeds.items()],
        [info(name, onnx.TensorProto.UNDEFINED, None) for name in node.output if name],
    )
    return reference.ReferenceEvaluator(graph, opsets={"": opset}).run(None, feeds)
