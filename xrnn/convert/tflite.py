"""Recurrent operators of TensorFlow Lite models (``.tflite``), without TensorFlow.

The numbers of operators, fields and inputs are those of TensorFlow Lite's ``schema.fbs`` and of its
kernels ``lstm_shared.h``, ``bidirectional_sequence_lstm.cc`` and ``*_sequence_rnn.cc``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.convert.conventions import CONVENTIONS, Stored
from xrnn.convert.flatbuffer import Table
from xrnn.convert.loaded import Kind, Loaded, make_layer, within
from xrnn.convert.paths import accept_path, reading
from xrnn.typing import Array, GivenDType

DEQUANTIZE, WHILE = 6, 119


class Operator(NamedTuple):
    """An operator: the layer here, its directions, and the fields of its options.

    - activation, time_major, merge_outputs: the numbers of these fields; None if there is none
    - time_first: what time_major is if it is not written
    - refused: the inputs that cannot be loaded, and what they are
    """

    name: str
    kind: Kind
    refused: Mapping[int, str]
    directions: int = 1
    activation: int = 0
    time_major: int | None = None
    time_first: bool = True
    merge_outputs: int | None = None


LSTM_INPUTS = {17: "a projection bias"}
BOTH_INPUTS = {17: "a projection bias", 34: "a projection bias", 39: "an auxiliary input"}

OPERATORS: dict[int, Operator] = {
    16: Operator("LSTM", "lstm", LSTM_INPUTS),
    44: Operator(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", "lstm", LSTM_INPUTS, time_major=3, time_first=False
    ),
    52: Operator(
        "BIDIRECTIONAL_SEQUENCE_LSTM", "lstm", BOTH_INPUTS, 2, time_major=4, merge_outputs=3
    ),
    24: Operator("RNN", "rnn", {}),
    35: Operator(
        "UNIDIRECTIONAL_SEQUENCE_RNN", "rnn", {}, activation=1, time_major=0, time_first=False
    ),
    46: Operator(
        "BIDIRECTIONAL_SEQUENCE_RNN",
        "rnn",
        {9: "an auxiliary input"},
        2,
        activation=1,
        time_major=0,
        time_first=False,
        merge_outputs=2,
    ),
}

#: ActivationFunctionType → an entry of `activations`
ACTIVATIONS: dict[int, Any] = {0: ("affine", 1.0, 0.0), 1: "relu", 4: "tanh"}

#: TensorType → dtype
DTYPES = {0: "<f4", 1: "<f2", 3: "u1", 9: "i1"}


def load_tflite(
    path: str | os.PathLike[str], *, dtype: GivenDType | None = None, device: str = "cpu"
) -> Loaded:
    """The recurrent layers of a TensorFlow Lite model.

    No framework is needed.  Weights of 8 bits with a scale become float32, as do weights in
    float16.

    Parameters
    ----------
    path : str or path
        A ``.tflite`` file.
    dtype, device : str, optional
        As for `xrnn.Layer`.  Default: float32 on the CPU.

    Returns
    -------
    Loaded
        Name of the operator's output → `xrnn.LSTM` or `xrnn.RNN`, batch first where the operator
        is.

    Raises
    ------
    FileNotFoundError, OSError
        If the file cannot be read.
    ValueError
        If it is damaged, has no recurrent operator (that of a GRU, and of an LSTM that was not
        fused, is a loop), or has one that xrnn has not: with a limit or a bias of the projection,
        activations of 8 bits, an auxiliary input, or weights that are not
        constant.

    Examples
    --------
    See the page ``conventions.md`` of the guide.
    """
    name = accept_path(path, "model.tflite")
    with reading(name):
        data = memoryview(Path(name).read_bytes())
    found = Loaded()
    where = {"dtype": "float32" if dtype is None else dtype, "device": device}
    with within(name):
        if bytes(data[4:8]) != b"TFL3":
            raise ValueError("it must be a TensorFlow Lite model, whose bytes 4 to 7 are TFL3")
        try:
            model = Model(data)
            for graph, node, code in model.operators:
                if code in OPERATORS:
                    operator, output = OPERATORS[code], model.output(graph, node)
                    with within(f"{operator.name} {output!r}"):
                        found.add(output, *_loaded(model, graph, node, operator, where))
        except (IndexError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"the file is damaged; give a whole one: {error}") from error
        if not found:
            raise ValueError(_nothing_found([code for _, _, code in model.operators]))
    return found


def _nothing_found(codes: Sequence[int]) -> str:
    if WHILE in codes:
        return (
            "no LSTM or RNN operator: a loop (WHILE) writes the steps out; convert the model with "
            "a fused LSTM, or take its arrays to xrnn.convert.from_arrays"
        )
    return f"none of its {len(codes)} operators is an LSTM or RNN; there must be one"


class Model:
    """A model: its graphs, operators and constants."""

    def __init__(self, data: memoryview) -> None:
        root = Table.root(data)
        self.buffers = root.tables(4)
        # Codes above 126 stand in another field than those below.
        codes = [max(code.number(0, "b"), code.number(3, "i")) for code in root.tables(1)]
        graphs = root.tables(2)
        self.tensors = [graph.tables(0) for graph in graphs]
        self.operators: list[tuple[int, Table, int]] = []
        self.makers: dict[tuple[int, int], tuple[Table, int]] = {}
        for n, graph in enumerate(graphs):
            for node in graph.tables(3):
                code = codes[node.number(0, "I")]
                self.operators.append((n, node, code))
                for k in node.array(2, "<i4"):
                    self.makers[n, int(k)] = node, code

    def output(self, graph: int, node: Table) -> str:
        """The name of the first output of an operator."""
        first: Table = self.tensors[graph][node.array(2, "<i4")[0]]
        return first.text(3)

    def given(self, node: Table, k: int) -> bool:
        """Whether the input k of an operator is not left out."""
        inputs = node.array(1, "<i4")
        return k < len(inputs) and bool(inputs[k] >= 0)

    def input(self, graph: int, node: Table, k: int) -> Table:
        """The tensor of the input k of an operator."""
        found: Table = self.tensors[graph][node.array(1, "<i4")[k]]
        return found

    def constant(self, graph: int, node: Table, k: int) -> Array | None:
        """The numbers of the input k of an operator as float32; None if it is left out."""
        if not self.given(node, k):
            return None
        tensor = self.input(graph, node, k)
        maker, code = self.makers.get((graph, int(node.array(1, "<i4")[k])), (None, 0))
        if maker is not None and code == DEQUANTIZE:
            return self.constant(graph, maker, 0)
        name, kind = tensor.text(3), tensor.number(1, "b")
        numbers = self.buffers[tensor.number(2, "I")].array(0, "u1")
        if maker is not None or not len(numbers):
            raise ValueError(f"{name} is computed while the model runs; it must be a constant")
        if kind not in DTYPES or 6 in tensor:
            raise ValueError(
                f"{name} is sparse, or its type has the number {kind}; it must be of float32 (0), "
                "float16 (1), uint8 (3) or int8 (9)"
            )
        shape = tuple(int(n) for n in tensor.array(0, "<i4"))
        return _real(name, numbers.view(DTYPES[kind]).reshape(shape), tensor.table(4))


def _real(name: str, numbers: Array, quantization: Table | None) -> Array:
    """The numbers in float32: (q − zero point) · scale, for each index of one axis or for all."""
    found = numbers.astype("float32")
    if numbers.dtype.kind == "f":
        return found
    scale = zero = host.xp.zeros(0, "float32")
    if quantization is not None:
        scale, zero = quantization.array(2, "<f4"), quantization.array(3, "<i8")
    if quantization is None or not len(scale):
        raise ValueError(f"{name} is {numbers.dtype} without a scale")
    shape = [1] * found.ndim
    shape[quantization.number(6, "i")] = len(scale)
    offset = zero.astype("float32").reshape(shape) if len(zero) else 0
    return (found - offset) * scale.reshape(shape)


def _loaded(
    model: Model, graph: int, node: Table, operator: Operator, where: dict[str, Any]
) -> tuple[Any, ...]:
    """A layer, with the dtype and on the device of `where`, and the notes on it."""
    options = node.table(4)
    if options is None:
        raise ValueError("it has no options")
    if model.input(graph, node, 0).number(1, "b") != 0:
        raise ValueError(
            "its inputs are not of float32: the model computes with integers; give the model "
            "before it was quantised, or one whose weights alone are of 8 bits"
        )
    for k, what in operator.refused.items():
        if model.given(node, k):
            raise ValueError(f"it has {what} (input {k}), which cannot be loaded")
    row, choices = "RNN", dict[str, Any]()
    if operator.kind == "lstm":
        _check_lstm(operator, options)
        cells = [_read_lstm(model, graph, node, n) for n in range(operator.directions)]
        row, choices = _lstm_options(options, cells[0])
    else:
        cells = [_read_rnn(model, graph, node, n) for n in range(operator.directions)]
    choices["activations"] = _activations(operator, options.number(operator.activation, "b"))
    time_first = operator.time_first
    if operator.time_major is not None:
        time_first = bool(options.number(operator.time_major, "b", time_first))
    convention = CONVENTIONS["TensorFlow Lite", row]
    made = make_layer(
        operator.kind,
        convention,
        cells,
        bidirectional=operator.directions == 2,
        batch_first=not time_first,
        options=choices,
        **where,
    )
    notes = [f"TensorFlow Lite {row}, gates {' '.join(convention.gates)}"]
    if "cell_clip" in choices:
        notes.append(f"cell_clip={choices['cell_clip']}, as in the file")
    if operator.merge_outputs is not None and not options.number(operator.merge_outputs, "b"):
        notes.append("in the model the outputs of its directions are two tensors")
    return made, *notes


def _check_lstm(operator: Operator, options: Table) -> None:
    if operator.name == "LSTM" and options.number(3, "b"):
        raise ValueError("its kernel is BASIC, with all weights in one matrix; it must be FULL")
    if limit := options.number(2, "f"):
        raise ValueError(f"proj_clip is {limit}; xrnn does not limit the projected h")


def _lstm_options(options: Table, first: Stored) -> tuple[str, dict[str, Any]]:
    """The row of the table of conventions, and the options of the layer."""
    choices: dict[str, Any] = {"peephole": first.peephole is not None}
    if first.gain is not None:
        choices["layer_norm"] = "gates"
    if (limit := options.number(1, "f")) > 0:
        choices["cell_clip"] = float(limit)
    across = first.U
    if first.projection is not None:
        choices["proj_size"], across = len(first.projection), first.projection
    assert across is not None
    choices["coupled"] = len(first.W) == 3 * across.shape[-1]
    return "LSTM (coupled)" if choices["coupled"] else "LSTM", choices


def _activations(operator: Operator, number: int) -> tuple[Any, ...]:
    if number not in ACTIVATIONS:
        raise ValueError(
            f"its fused activation function has the number {number}; it must be one of NONE (0), "
            "RELU (1), TANH (4)"
        )
    one = ACTIVATIONS[number]
    return ("sigmoid", one, one) if operator.kind == "lstm" else (one,)


def _read_lstm(model: Model, graph: int, node: Table, direction: int) -> Stored:
    """The arrays of a direction of an LSTM, with all gates side by side."""
    start = 1 + 17 * direction

    def joined(numbers: range) -> Array | None:
        arrays = [model.constant(graph, node, start + k) for k in numbers]
        given = [array for array in arrays if array is not None]
        return host.xp.concat(given) if given else None

    W, U = joined(range(4)), joined(range(4, 8))
    if W is None or U is None:
        raise ValueError("it has no weights")
    return Stored(
        W,
        U,
        joined(range(11, 15)),
        peephole=joined(range(8, 11)),
        projection=model.constant(graph, node, start + 15),
        # Only an operator with one direction has these inputs.
        gain=joined(range(19, 23)) if len(node.array(1, "<i4")) == 24 else None,
    )


def _read_rnn(model: Model, graph: int, node: Table, direction: int) -> Stored:
    """The arrays of a direction of a simple network."""
    start = 1 + 4 * direction
    W, U, b = (model.constant(graph, node, start + k) for k in range(3))
    if W is None or U is None:
        raise ValueError("it has no weights")
    return Stored(W, U, b)
