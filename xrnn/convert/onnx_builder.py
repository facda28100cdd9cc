"""An ONNX graph that is built node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from xrnn.backends import backend_of, host
from xrnn.convert.casting import rounded, wide
from xrnn.convert.onnx_operators import require_onnx
from xrnn.typing import Array

#: numbers, and the letters of those that are known at run time only
Shape: TypeAlias = tuple[int | str, ...]


class Value(NamedTuple):
    """What stands between two parts.

    - tensor: its name
    - width: the size of its last axis; 0 for tokens, which have no such axis
    - steps: whether it is (T, B, width), and not (B, width)
    - source: what made it, in messages
    """

    tensor: str
    width: int
    steps: bool
    source: str


def host_weights(part: Any) -> dict[str, Array]:
    """The weights of a part as NumPy arrays in which sums may be computed."""
    return {name: wide(backend_of(a, name).to_host(a)) for name, a in part.weights.items()}


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
    batch, steps : str
        The tensors (1,) and () that hold B and T.
    lengths, empty : str
        The lengths (B,) as int32, and which of them are 0 (1, B, 1); "" without lengths.
    """

    def __init__(self, dtype: str) -> None:
        self.onnx, self.dtype = require_onnx("to_onnx"), dtype
        self.inputs: dict[str, Shape] = {}
        self.outputs: dict[str, Shape] = {}
        self.batch = self.steps = self.lengths = self.empty = ""
        self._nodes: list[Any] = []
        self._made: set[str] = set()
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
        """A node; its first output.

        Raises
        ------
        ValueError
            If there is a tensor of that name, which two parts have made.
        """
        if twice := self._made.intersection(outputs):
            raise ValueError(f"two parts make the tensor {twice.pop()}; give them other names")
        self._made.update(outputs)
        node = self.onnx.helper.make_node(op, inputs, outputs, name or outputs[0], **how)
        self._nodes.append(node)
        return outputs[0]

    def input(self, name: str, shape: Shape, dtype: str = "") -> str:
        self.inputs[name] = shape
        return self._declared(name, shape, dtype or self.dtype)

    def output(self, name: str, shape: Shape) -> None:
        self.outputs[name] = shape
        self._declared(name, shape, self.dtype)

    def start(self, width: int, batch_first: bool, lengths: bool) -> Value:
        """Add the inputs that are no states: sequences of `width` values, or of tokens for 0."""
        axes: Shape = ("B", "T") if batch_first else ("T", "B")
        given = self.input("xs", (*axes, width)) if width else self.input("tokens", axes, "int64")
        value = Value(given, width, True, "the input")
        if batch_first:
            value = value._replace(tensor=self._turned(value, "time_first"))
        shape = self.add("Shape", [value.tensor], "shape")
        zero, one, two = (self.constant(f"{n}", [n]) for n in range(3))
        self.batch = self.add("Slice", [shape, one, two], "batch")
        self.steps = self.add("Gather", [shape, self.constant("first", 0)], "steps")
        if lengths:
            given = self.input("lengths", ("B",), "int64")
            self.lengths = self.add("Cast", [given], "lengths_int32", to=self._kind("int32"))
            empty = self.add("Equal", [given, zero], "is_empty")
            self.empty = self.add("Unsqueeze", [empty, self.constant("0, 2", [0, 2])], "empty")
        return value

    def finish(
        self, value: Value, batch_first: bool, last: Mapping[str, tuple[str, Shape]]
    ) -> None:
        """Add the outputs: a value, and name → (tensor, shape) of the states."""
        axes: Shape = ("B", "T") if batch_first else ("T", "B")
        self.output("ys", (*(axes if value.steps else ("B",)), value.width))
        turned = batch_first and value.steps
        self.add("Identity", [self._turned(value, "turned") if turned else value.tensor], "ys")
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

    def _turned(self, value: Value, name: str) -> str:
        """The same with its first two axes exchanged."""
        return self.add(
            "Transpose", [value.tensor], name, perm=[1, 0, 2] if value.width else [1, 0]
        )

    def _declared(self, name: str, shape: Shape, dtype: str) -> str:
        make = self.onnx.helper.make_tensor_value_info
        self._infos[name] = make(name, self._kind(dtype), shape)
        return name

    def _kind(self, dtype: str) -> int:
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(host.named_dtype(dtype)))
