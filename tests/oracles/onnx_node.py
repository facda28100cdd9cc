"""One recurrent layer as an ONNX model of one node, run by onnxruntime in float32.

ONNX has its own order of gates (i o f c; z r h), two biases side by side, and the direction
as the first axis of every weight and state.  onnxruntime gives zeros as the last state of a
sequence of length 0, even when an initial state is given; xrnn gives that state back.  So
`run` puts the given state there: everything else is onnxruntime's word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np
import onnx
import onnxruntime

from oracles.flat import Arrays, over
from xrnn.cells import Cell
from xrnn.cells.activations import ACTIVATIONS


@dataclass(frozen=True)
class Op:
    """An ONNX operator: where each of its gates stands in ours, and what else it needs."""

    name: str
    order: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    states: tuple[str, ...] = ("h",)
    activation: str | None = None
    coupled: bool = False


OPS = {
    "rnn": Op("RNN", (0,), activation="Tanh"),
    "rnn-relu": Op("RNN", (0,), activation="Relu"),
    "lstm": Op("LSTM", (0, 3, 1, 2), states=("h", "c")),
    "peephole": Op("LSTM", (0, 3, 1, 2), states=("h", "c")),
    "gru": Op("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "gru-before": Op("GRU", (1, 0, 2), {"linear_before_reset": 0}),
}


#: our names of activation functions → ONNX's
FUNCTIONS = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "hard_sigmoid": "HardSigmoid",
    "affine": "Affine",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "elu": "Elu",
    "softsign": "Softsign",
    "softplus": "Softplus",
}


def op_of(cell: Cell[Any], D: int) -> Op:
    """The operator of a cell with options, in D directions."""
    options, plain = cell.made, OPS[cell.made.family]
    functions = options.activations * D
    attributes: dict[str, Any] = {"activations": [FUNCTIONS[name] for name, *_ in functions]}
    for k, letter in ((1, "alpha"), (2, "beta")):
        values = [f[k] for f in functions if getattr(ACTIVATIONS[f[0]], letter) is not None]
        if values:
            attributes[f"activation_{letter}"] = values
    if options.clip < inf:
        attributes["clip"] = options.clip
    if getattr(options, "coupled", False):
        attributes["input_forget"] = 1
    return replace(
        plain,
        attributes={**plain.attributes, **attributes},
        activation=None,
        coupled="input_forget" in attributes,
    )


def run(
    cell: str | Cell[Any],
    parts: Sequence[Arrays],
    xs: Any,
    state: Sequence[Any] = (None, None),
    lengths: Any = None,
    direction: str = "forward",
) -> Arrays:
    """ys (T, B, D·H) and the last states (D, B, H): ``ys``, ``last.h``, ``last.c``.

    `parts` holds the weights W, U, b … of each direction; `direction` is ONNX's word,
    "forward", "reverse" or "bidirectional"; each state is (D, B, H), or None if it is not given.
    """
    op = OPS[cell] if isinstance(cell, str) else op_of(cell, len(parts))
    T, B, _ = xs.shape
    fixed = _initializers(op, parts)
    feeds = {"X": xs.astype(np.float32)}
    if lengths is not None:
        feeds["sequence_lens"] = np.asarray(lengths, np.int32)
    for name, s in zip(op.states, state, strict=False):
        if s is not None:
            feeds[f"initial_{name}"] = s.astype(np.float32)
    Y, *last = _session(op, fixed, feeds, direction).run(None, feeds)
    if lengths is not None:
        empty = (np.asarray(lengths) == 0)[:, None]
        pairs = zip(state, last, strict=False)
        last = [found if s is None else np.where(empty, s, found) for s, found in pairs]
    # (T, D, B, H) → (T, B, D·H)
    ys = Y.transpose(0, 2, 1, 3).reshape(T, B, -1)
    return {"ys": ys, **over("last", dict(zip(op.states, last, strict=True)))}


def _initializers(op: Op, parts: Sequence[Arrays]) -> Arrays:
    """W, R, B and P of ONNX, the directions stacked."""
    H = parts[0]["U"].shape[1]
    if op.coupled:
        parts = [_with_forget_gate(w, H) for w in parts]

    def gates(a: Any, order: Sequence[int]) -> Any:
        return np.concatenate([a[k * H : (k + 1) * H] for k in order])

    fixed: dict[str, list[Any]] = {"W": [], "R": [], "B": [], "P": []}
    for w in parts:
        fixed["W"].append(gates(w["W"], op.order))
        fixed["R"].append(gates(w["U"], op.order))
        if "b" in w:
            recurrent = np.zeros_like(w["b"])
            if "v" in w:
                recurrent[-H:] = w["v"]
            fixed["B"].append(np.concatenate([gates(b, op.order) for b in (w["b"], recurrent)]))
        if "p" in w:
            fixed["P"].append(gates(w["p"], (0, 2, 1)))  # ours i f o, theirs i o f
    return {name: np.stack(a).astype(np.float32) for name, a in fixed.items() if a}


def _with_forget_gate(weights: Arrays, H: int) -> Arrays:
    """The weights i, g, o of coupled gates with the rows of f, which are there and not used."""
    found = {}
    for name, w in weights.items():
        blocks = np.split(w, len(w) // H)
        blocks.insert(1, np.full_like(blocks[0], 0.7))
        found[name] = np.concatenate(blocks)
    return found


def _session(op: Op, fixed: Arrays, feeds: Arrays, direction: str) -> Any:
    H, D = fixed["R"].shape[2], len(fixed["R"])
    inputs = ["X", "W", "R", "B", "sequence_lens", "initial_h"]
    inputs += ["initial_c", "P"] if op.name == "LSTM" else []
    present = {*fixed, *feeds}
    outputs = ["Y", *(f"Y_{s}" for s in op.states)]
    attributes = {**op.attributes, "hidden_size": H, "direction": direction}
    if op.activation:
        attributes["activations"] = [op.activation] * D
    node = onnx.helper.make_node(
        op.name,
        [name if name in present else "" for name in inputs],
        outputs,
        **attributes,
    )
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [_info(name, a.dtype, a.shape) for name, a in feeds.items()],
        [_info(name, np.float32, [None] * (4 if name == "Y" else 3)) for name in outputs],
        [onnx.numpy_helper.from_array(a, name) for name, a in fixed.items()],
    )
    # Opset 14 has these operators as they still are; IR 8 belongs to it.
    opset = onnx.helper.make_opsetid("", 14)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _info(name: str, dtype: Any, shape: Sequence[int | None]) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_value_info(name, kind, shape)
