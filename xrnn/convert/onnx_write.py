"""`to_onnx`: layers as an ONNX model of standard operators."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from xrnn._version import __version__
from xrnn.cells.base import check_flags
from xrnn.convert.onnx_nodes import Graph, Shape, add_embedding, add_layer, add_linear
from xrnn.convert.onnx_operators import form_of, require_onnx
from xrnn.engine import atomic
from xrnn.engine.module import Module
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.linear import Linear
from xrnn.typing import dtype_name

Part: TypeAlias = Layer[Any] | Embedding | Linear

PARTS = (Layer, Embedding, Linear)

#: the version of the operators, and the version of the format that belongs to it
OPSET, IR = 14, 7

#: what onnxruntime computes recurrent operators in
DTYPES = ("float32", "float16")

#: a message of protobuf has at most 2 GB
MOST_BYTES = 2**31 - 2**20


class Signature(NamedTuple):
    """The inputs and outputs of a model: name → shape, in which "T" and "B" may be any number."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]


def to_onnx(
    parts: Module | Sequence[Module] | Mapping[str, Module],
    path: str | os.PathLike[str],
    *,
    states: bool = True,
    lengths: bool = True,
    dtype: str | None = None,
) -> Signature:
    """Write layers as an ONNX model, which onnxruntime runs to the same numbers.

    The model computes what ``layer(xs, state, lengths)`` does: inference, with the weights as they
    are now.  It has operators of the opset 14 of ONNX (IR version 7), which onnxruntime has known
    since 1.8, and needs nothing of xrnn.

    Inputs of the model, of which T and B may be other numbers in each call:

    - ``xs`` (T, B, I), or (B, T, I) with ``batch_first``; or, where an embedding is the first part,
      ``tokens`` (T, B) or (B, T), int64 in 0…V−1
    - ``lengths`` (B,), int64 in 0…T: the valid steps of each sequence; unless ``lengths=False``
    - ``h`` (L·D, B, H), and ``c`` of an LSTM: the states to start from; unless ``states=False``

    Outputs: ``ys`` and the last states ``h_last``, ``c_last``.  With several recurrent layers their
    names stand before those of the states: ``lstm.h``, ``lstm_2.h``.  Where the layers of one part
    have different sizes, each has states of its own, (D, B, H): ``h_l0``, ``h_l1``.

    Parameters
    ----------
    parts : Layer, or a sequence or mapping of Layer, Embedding, Linear
        What to write.  Several parts run one after the other; an embedding can only be the first.
        The keys of a mapping are the names of the parts; in a sequence they are ``embedding``,
        ``lstm``, ``gru``, ``rnn`` and ``linear``, and ``lstm_2`` for a second one.
    path : path
        The file, which is replaced as a whole.
    states : bool
        Whether the initial states are inputs.  Without, sequences start as they do in a layer that
        is given none: from zeros, or from its learned states, which are in the model then.
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
        If ONNX has no operator for a cell, or the parts do not fit together.

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
    check_flags("to_onnx", states=states, lengths=lengths)
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path is a {type(path).__name__}; it must be a path")
    named = _named(parts)
    layers = _check(named)
    if dtype is None:
        dtype = dtype_name(layers[0].weights.placement.dtype)
    _check_dtype(dtype)
    graph = Graph(dtype)
    _add_all(graph, named, layers, states, lengths)
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
    atomic.replace(path, model.SerializeToString(deterministic=True))
    return Signature(graph.inputs, graph.outputs)


def _add_all(
    graph: Graph,
    named: Mapping[str, Part],
    layers: Sequence[Layer[Any]],
    states: bool,
    lengths: bool,
) -> None:
    """Add inputs, parts and outputs."""
    first, batch_first = next(iter(named.values())), layers[0].batch_first
    graph.start(first, batch_first, lengths)
    last: dict[str, tuple[str, Shape]] = {}
    value = graph.xs
    for name, part in named.items():
        if isinstance(part, Embedding):
            value = add_embedding(graph, name, part, value)
        elif isinstance(part, Linear):
            value = add_linear(graph, name, part, value)
        else:
            prefix = f"{name}." if len(layers) > 1 else ""
            value, found = add_layer(graph, name, prefix, part, value, states)
            last |= found
    graph.finish(value, _width(list(named.values())[-1]), batch_first, last)


# ---- Checks


def _named(parts: Any) -> dict[str, Part]:
    """The parts by name."""
    if isinstance(parts, Mapping):
        found = dict(parts)
        given = list(found.values())
    else:
        given = [parts] if isinstance(parts, PARTS) else parts
        if not isinstance(given, Sequence) or isinstance(given, str):
            given = [given]
        found = {}
    if not given or not all(isinstance(part, PARTS) for part in given):
        kinds = ", ".join(type(part).__name__ for part in given) or "empty"
        raise TypeError(
            f"parts is {kinds}; it must be a Layer, or a sequence or mapping of Layer, Embedding "
            "and Linear"
        )
    if isinstance(parts, Mapping):
        if odd := [name for name in found if not isinstance(name, str) or not name]:
            raise TypeError(f"parts has the name {odd[0]!r:.80}; names must be str, and not empty")
        return found
    for part in given:
        kind = _kind(part)
        name, n = kind, 2
        while name in found:
            name, n = f"{kind}_{n}", n + 1
        found[name] = part
    return found


def _kind(part: Part) -> str:
    if isinstance(part, Embedding):
        return "embedding"
    if isinstance(part, Linear):
        return "linear"
    return _operator(part).lower()


def _operator(layer: Layer[Any]) -> str:
    """The operator of a layer; ValueError if there is none."""
    return form_of(layer.cell, layer.directions).op


def _check(named: Mapping[str, Part]) -> list[Layer[Any]]:
    """The layers, after it has been checked that all parts fit together."""
    parts = list(named.values())
    layers = [part for part in parts if isinstance(part, Layer)]
    if not layers:
        raise ValueError(f"parts are {', '.join(named)}; there must be a recurrent layer")
    for layer in layers:
        _operator(layer)
    if len({layer.batch_first for layer in layers}) > 1:
        raise ValueError("parts have batch_first=True and batch_first=False; they must agree")
    dtypes = {name: dtype_name(part.weights.placement.dtype) for name, part in named.items()}
    if len(set(dtypes.values())) > 1:
        words = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise ValueError(f"parts have different dtypes: {words}; they must agree")
    for (below, lower), (name, part) in zip(
        list(named.items())[:-1], list(named.items())[1:], strict=True
    ):
        if isinstance(part, Embedding):
            raise ValueError(f"{name} is an embedding; it must be the first part")
        if (n := _inputs(part)) != _width(lower):
            raise ValueError(
                f"{name} takes {n} values, and {below} gives {_width(lower)}; they must agree"
            )
    return layers


def _inputs(part: Layer[Any] | Linear) -> int:
    return part.in_features if isinstance(part, Linear) else part.input_size


def _width(part: Part) -> int:
    """The number of values that a part gives."""
    if isinstance(part, Embedding):
        return part.embedding_dim
    if isinstance(part, Linear):
        return part.out_features
    return part.directions * part.widths(part.num_layers - 1)[0]


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(
            f"dtype is {dtype!r:.80}; it must be of {', '.join(DTYPES)}, in which onnxruntime "
            "computes recurrent layers: say dtype='float32'"
        )
