"""`to_onnx`: layers and models as an ONNX model of standard operators."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xrnn._version import __version__
from xrnn.cells.base import check_flags
from xrnn.convert.onnx_builder import Graph, Shape
from xrnn.convert.onnx_operators import form_of, require_onnx
from xrnn.convert.onnx_parts import PARTS, Writer, input_width, leaves, without_padding
from xrnn.convert.paths import accept_path
from xrnn.engine import atomic
from xrnn.layers.dropout import Dropout
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.part import Part
from xrnn.layers.sequential import Sequential
from xrnn.typing import dtype_name

#: the version of the operators, and the version of the format that belongs to it
OPSET, IR = 17, 8

#: what onnxruntime computes recurrent operators in
DTYPES = ("float32", "float16")

#: a message of protobuf has at most 2 GB
MOST_BYTES = 2**31 - 2**20


class Signature(NamedTuple):
    """The inputs and outputs of a model: name → shape, in which "T" and "B" may be any number."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]


def to_onnx(
    parts: Part | Sequence[Any] | Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    states: bool | None = None,
    lengths: bool = True,
    dtype: str | None = None,
) -> Signature:
    """Write layers, or a whole model, as an ONNX model that onnxruntime runs to the same numbers.

    The model computes what ``layer(xs, state, lengths)`` does: inference, with the weights as they
    are now.  It has standard operators of the opset 17 of ONNX (IR version 8), which onnxruntime
    has known since 1.12, and needs nothing of xrnn.

    Inputs of the model, of which T and B may be other numbers in each call:

    - ``xs`` (T, B, I), or (B, T, I) with ``batch_first``; or, where an embedding is the first part,
      ``tokens`` (T, B) or (B, T), int64 in 0…V−1
    - ``lengths`` (B,), int64 in 0…T: the valid steps of each sequence; unless ``lengths=False``
    - ``h`` (L·D, B, H), and ``c`` of an LSTM: the states to start from; unless ``states=False``.
      In the first call they are ``layer.initial_state(B)``

    Outputs: ``ys``, (B, n) after a part that pools, and the last states ``h_last``, ``c_last``.
    With several recurrent layers their names stand before those of the states: ``lstm.h``,
    ``lstm_2.h``.  Where the layers of one part have different sizes, each has states of its own,
    (D, B, H): ``h_l0``, ``h_l1``.

    Parameters
    ----------
    parts : Layer, Sequential, or a sequence or mapping of parts
        What to write: layers, Embedding, Linear, LayerNorm, Dropout, Merge, Last, Mean, Max,
        Sequential and Residual.  Several parts run one after the other; an embedding can only be
        the first.  The names of parts are the keys of a mapping, or the names in a Sequential; in a
        sequence they are ``embedding``, ``lstm``, ``linear`` …, and ``lstm_2`` for a second one.
    path : path
        The file, which is replaced as a whole.
    states : bool, optional
        Whether the initial states are inputs.  With True the model holds no learned states: give it
        ``layer.initial_state(B)`` in the first call, which is zeros for a layer without them.  With
        False sequences start as they do in a layer that is given no state: from zeros, or from its
        learned states, which are in the model then.  Default: True, but where a layer has learned
        states (``learn_state=True``) there is no default.
    lengths : bool
        Whether the lengths are an input.  Without, every sequence has T steps.
    dtype : {"float32", "float16"}, optional
        The dtype of the model.  Default: that of the parts.

    Returns
    -------
    Signature
        The inputs and outputs of the model, with their shapes.

    Raises
    ------
    ImportError
        If onnx is not installed.
    OSError
        If the file cannot be written.
    TypeError
        If an argument is of a wrong type.
    ValueError
        If ONNX has no operator for a cell, the parts do not fit together, or a layer has learned
        states and `states` is not given.

    Notes
    -----
    The cells of `xrnn.LSTM`, `xrnn.GRU` and `xrnn.RNN` are the operators LSTM, GRU and RNN, with
    the options activations, clip, coupled, peephole and reset.  `xrnn.cells.InputGatedLSTM`,
    ``MinGRU``, ``MGU`` and ``JANET`` are such operators with some weights fixed or tied.  Dropout
    of every kind does not matter in inference.  Not expressible are cell_clip, proj_size,
    layer_norm, zoneout, and other cells.

    onnxruntime computes float16 models in float32 and rounds their outputs, whereas xrnn rounds h
    after every step.  It has no float64 or bfloat16 operators for recurrent layers.  T and B must
    be at least 1 there: onnxruntime 1.32 gives undefined states for T = 0, and crashes for B = 0.

    Examples
    --------
    >>> import tempfile, xrnn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     xrnn.convert.to_onnx(xrnn.LSTM(3, 5), f"{folder}/model.onnx").inputs
    {'xs': ('T', 'B', 3), 'lengths': ('B',), 'h': (1, 'B', 5), 'c': (1, 'B', 5)}
    """
    onnx = require_onnx("to_onnx")
    check_flags("to_onnx", states=states is None or states, lengths=lengths)
    target = accept_path(path, "model.onnx")
    named = _named(parts)
    single = dict(leaves(named))
    layers = _check(single)
    if states is None:
        states = _default_states(single)
    if dtype is None:
        dtype = dtype_name(layers[0].weights.placement.dtype)
    _check_dtype(dtype)
    graph = Graph(dtype)
    writer = Writer(graph, states, several=len(layers) > 1)
    value = graph.start(_width(single), layers[0].batch_first, lengths)
    if type(parts) is Sequential:
        value = without_padding(graph, "parts", parts, value)
    for name, part in named.items():
        value = writer.add(name, part, value)
    graph.finish(value, layers[0].batch_first, writer.last)
    if (size := graph.size()) > MOST_BYTES:
        raise ValueError(f"the weights have {size:,} bytes; an ONNX file holds {MOST_BYTES:,}")
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(
        graph.made("xrnn"),
        opset_imports=[opset],
        ir_version=IR,
        producer_name="xrnn",
        producer_version=__version__,
    )
    onnx.helper.set_model_props(model, {"producer": "xrnn", "version": __version__})
    onnx.checker.check_model(model, full_check=True)
    atomic.replace(target, model.SerializeToString(deterministic=True))
    return Signature(graph.inputs, graph.outputs)


# ---- Checks


def _named(parts: Any) -> dict[str, Any]:
    """The parts by name."""
    if isinstance(parts, Mapping):
        if odd := [name for name in parts if not isinstance(name, str) or not name]:
            raise TypeError(f"parts has the name {odd[0]!r:.80}; names must be str, and not empty")
        return dict(parts)
    if type(parts) is Sequential:
        return dict(parts.parts)
    given = [parts] if isinstance(parts, str) or not isinstance(parts, Sequence) else list(parts)
    found: dict[str, Any] = {}
    for part in given:
        kind = type(part).__name__.lower()
        if isinstance(part, Layer):
            kind = form_of(part.cell, part.directions).op.lower()
        name, n = kind, 2
        while name in found:
            name, n = f"{kind}_{n}", n + 1
        found[name] = part
    return found


def _check(parts: Mapping[str, Any]) -> list[Layer[Any]]:
    """The layers, after it has been checked that all parts can be in one model."""
    if odd := [part for part in parts.values() if not isinstance(part, tuple(PARTS))]:
        raise TypeError(
            f"parts holds a {type(odd[0]).__name__}; it must be of "
            f"{', '.join(kind.__name__ for kind in PARTS)}"
        )
    layers = [part for part in parts.values() if isinstance(part, Layer)]
    if not layers:
        raise ValueError(f"parts is {', '.join(parts) or 'empty'}; there must be a recurrent layer")
    for layer in layers:
        form_of(layer.cell, layer.directions)
    if len({part.batch_first for part in parts.values() if hasattr(part, "batch_first")}) > 1:
        raise ValueError("parts have batch_first=True and batch_first=False; they must agree")
    weights = {name: part.weights for name, part in parts.items() if part.weights}
    dtypes = {name: dtype_name(own.placement.dtype) for name, own in weights.items()}
    if len(set(dtypes.values())) > 1:
        words = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise ValueError(f"parts have different dtypes: {words}; they must agree")
    return layers


def _default_states(parts: Mapping[str, Any]) -> bool:
    """Whether states are inputs, where nothing is said; ValueError for learned ones."""
    learned = [name for name, p in parts.items() if isinstance(p, Layer) and p.learn_state]
    if learned:
        raise ValueError(
            f"{', '.join(learned)} has learned initial states, and states is not given; say "
            "states=False, and the model starts from them, or states=True, and give the model "
            "layer.initial_state(B) in the first call"
        )
    return True


def _width(parts: Mapping[str, Any]) -> int:
    """The number of values that the first part takes; 0 for tokens."""
    widths = (
        0 if isinstance(part, Embedding) else input_width(part)
        for part in parts.values()
        if not isinstance(part, Dropout)
    )
    if (found := next(widths)) is None:
        raise ValueError(
            f"parts begins with {next(iter(parts))}, which takes any number of values; the first "
            "part must be a layer, an Embedding, a Linear or a LayerNorm"
        )
    return found


def _check_dtype(dtype: str) -> None:
    # An array would be compared element by element.
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(
            f"dtype is {dtype!r:.80}; it must be of {', '.join(DTYPES)}, in which onnxruntime "
            "computes recurrent layers: say dtype='float32'"
        )
