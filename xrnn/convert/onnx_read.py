"""`load_onnx`: the recurrent layers of an ONNX model."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.convert.conventions import Stored
from xrnn.convert.loaded import Loaded, make_layer, within
from xrnn.convert.onnx_graph import Scope, Unresolved, described
from xrnn.convert.onnx_operators import OPERATORS, Operator, attributes_of, options_of, require_onnx
from xrnn.convert.paths import accept_path
from xrnn.engine import atomic
from xrnn.engine.checks import REAL_DTYPES
from xrnn.typing import Array, GivenDType, dtype_name

#: the inputs of the operators, by their places
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
QUANTIZED = (*INPUTS, "W_scale", "W_zero_point", "R_scale", "R_zero_point")

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

#: calls of functions of a model are written out up to this many nodes
MOST_NODES = 10**6


def load_onnx(
    path: str | os.PathLike[str] | bytes | Any,
    *,
    dtype: GivenDType | None = None,
    device: str = "cpu",
) -> Loaded:
    """Every LSTM, GRU and RNN of an ONNX model as a layer.

    The nodes may stand in the bodies of If, Loop, Scan and of functions of the model.  Their
    weights may be initializers, in the file or beside it, or what is computed from these alone by
    operators that move, cast, scale or join numbers, such as Transpose, Concat, Slice and
    DequantizeLinear.  The operator DynamicQuantizeLSTM of onnxruntime becomes a layer with its
    weights as float32 numbers.

    Needs the package ``onnx`` (``pip install 'xrnn-array[onnx]'``), and no runtime.  Nothing that
    the file holds is executed but those operators.

    Parameters
    ----------
    path : path, bytes or onnx.ModelProto
        The model.  Tensors in files beside it are read only for a path.
    dtype : str, optional
        The dtype of the layers.  Default: that of their weights in the model.
    device : str
        As for `xrnn.Layer`.

    Returns
    -------
    Loaded
        Name of the node, or of its first output → the layer, in the order of the graph.  Each has
        one layer, and one or two directions.  Where the two directions of a node have different
        activation functions, they are two layers, NAME.forward and NAME.reverse, whose outputs
        stand side by side in that of the node.  ``notes`` says what the node takes that is no
        weight: initial states and lengths, which a caller gives.

    Raises
    ------
    ImportError
        If onnx is not installed.
    OSError
        If the file cannot be read.
    TypeError
        If `path` is something else.
    ValueError
        If it is no ONNX model, or is damaged; if it has no recurrent node; or if one of them
        cannot be a layer: its weights are computed while the model runs, or xrnn has no such cell.
        Then nothing is loaded.

    Notes
    -----
    Gates stand in the order i o f c (LSTM) or z r h (GRU); the two biases are added up, except for
    v of a GRU with linear_before_reset.  ``layout=1`` becomes ``batch_first=True``; states are (D,
    B, H) in xrnn all the same.  Y (T, D, B, H) is ys (T, B, D·H) here.  Initial states that are
    constants become weights (``learn_state=True``), unless they are zero.

    Source: the operators LSTM, GRU and RNN of ONNX, opsets 7 to 22.

    Examples
    --------
    >>> import tempfile, xrnn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = xrnn.convert.to_onnx(xrnn.GRU(3, 5, bidirectional=True), f"{folder}/model.onnx")
    ...     xrnn.convert.load_onnx(f"{folder}/model.onnx")
    'gru': <GRU(3, 5, bidirectional=True): gru>
        ONNX GRU, gates z r h, two biases
        initial_h: h is an input of the model; give state=
        the node has sequence_lens; give lengths=
    """
    what, model, folder = _opened(path)
    # Numbers that are not finite are the model's own.
    with within(what), host.xp.errstate(all="ignore"):
        try:
            return _loaded(model, folder, dtype, device)
        except RecursionError:
            raise ValueError("tensors that are computed from themselves, or too deeply") from None


def _opened(path: Any) -> tuple[str, Any, str | None]:
    """A name for messages, the ModelProto, and the folder of its other files."""
    onnx = require_onnx("load_onnx")
    if isinstance(path, onnx.ModelProto):
        return "the model", path, None
    if isinstance(path, bytes | bytearray | memoryview):
        what, data, folder = "the model", bytes(path), None
    elif isinstance(path, str | os.PathLike):
        file = Path(accept_path(path, "model.onnx"))
        what, data, folder = str(file), atomic.read(file), str(file.parent)
    else:
        raise TypeError(
            f"path is a {type(path).__name__}; it must be a path, bytes or an onnx.ModelProto"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # DecodeError of protobuf, which is not a dependency by name
        raise ValueError(f"{what}: is no ONNX model, or is cut short ({error})") from None
    if not model.graph.node or not model.ir_version:
        raise ValueError(f"{what}: is no ONNX model: it has no graph with nodes")
    return what, model, folder


def _loaded(model: Any, folder: str | None, dtype: Any, device: str) -> Loaded:
    model = _inlined(model)
    opset = max([o.version for o in model.opset_import if o.domain in ("", "ai.onnx")] or [1])
    found, scopes = Loaded(), list(Scope(model.graph, opset, folder).all())
    for scope in scopes:
        for node in scope.graph.node:
            if node.op_type in OPERATORS and node.domain in ("", "ai.onnx", "com.microsoft"):
                with within(described(node)):
                    _add(found, _Node(node, scope), dtype, device)
    if not found:
        raise ValueError(_nothing(scopes))
    return found


def _inlined(model: Any) -> Any:
    """The model with the bodies of its functions in the place of their calls."""
    if not model.functions:
        return model
    bodies = {(f.domain, f.name): f.node for f in model.functions}

    @cache
    def size(key: tuple[str, str]) -> int:
        return count(bodies[key])

    def count(nodes: Any) -> int:
        n = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            n += size(key) if key in bodies else 1
            n += sum(count(a.g.node) for a in node.attribute if a.HasField("g"))
        return n

    if count(model.graph.node) > MOST_NODES:
        raise ValueError(f"its functions written out have more than {MOST_NODES:,} nodes")
    inliner = importlib.import_module("onnx.inliner")
    try:
        found = inliner.inline_local_functions(model)
    except Exception as error:  # of any kind: the functions may hold anything
        raise ValueError(f"its functions cannot be written out: {error}") from error
    for function in found.functions:
        if OPERATORS.keys() & {node.op_type for node in function.node}:
            raise ValueError(
                f"its function {function.name} has an opset of its own, and holds recurrent nodes; "
                "convert the model to one opset"
            )
    return found


def _nothing(scopes: Sequence[Scope]) -> str:
    """Why a model without recurrent nodes is refused."""
    graphs = [scope.graph for scope in scopes]
    tensors = {one.name: tuple(one.dims) for graph in graphs for one in graph.initializer}
    square = [
        f"{name} {shape}"
        for name, shape in tensors.items()
        if len(shape) == 2 and min(shape) > 1 and max(shape) in (3 * min(shape), 4 * min(shape))
    ]
    operators = {node.op_type for graph in graphs for node in graph.node}
    if not square or not operators >= {"Sigmoid", "Tanh"}:
        return "it has no LSTM, GRU or RNN node"
    return (
        "it has no LSTM, GRU or RNN node; the steps of a network are written out in single "
        f"operators, and these tensors look recurrent: {', '.join(square[:8])}; give them to "
        "xrnn.convert.from_arrays"
    )


# ---- One node


class _Node:
    """A recurrent node, its inputs by name and its attributes."""

    def __init__(self, node: Any, scope: Scope) -> None:
        self.scope, self.name = scope, node.name or next(filter(None, node.output), node.op_type)
        self.op = node.op_type
        self.operator: Operator = OPERATORS[self.op]
        names = QUANTIZED if self.op == "DynamicQuantizeLSTM" else INPUTS
        self.inputs = {k: name for k, name in zip(names, node.input, strict=False) if name}
        self.given = attributes_of(node)
        self.direction = self.given.get("direction", "forward")
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"direction is {self.direction!r:.80}; it must be of {', '.join(DIRECTIONS)}"
            )
        self.D = DIRECTIONS[self.direction]
        self.batch_first = bool(self.given.get("layout", 0))

    def weight(self, k: str) -> Array | None:
        """The constant at an input; None where the node has none."""
        if k not in self.inputs:
            return None
        try:
            return self.scope.value(self.inputs[k])
        except Unresolved as error:
            raise ValueError(f"{k} is no constant: {error}; only constants can be read") from None

    def required(self, k: str) -> Array:
        found = self.weight(k)
        if found is None:
            raise ValueError(f"{k} is missing")
        return found


def _add(found: Loaded, node: _Node, dtype: Any, device: str) -> None:
    """Add the layer of a node, or one for each direction if these have other functions."""
    cells, H = _stored(node)
    options = options_of(node.op, node.given, node.D)
    if "P" in node.inputs:
        options = [{**one, "peephole": True} for one in options]
    states, notes = _states(node, H)
    notes = [_convention(node), *notes]
    how: Any = {"batch_first": node.batch_first, "dtype": dtype, "device": device}

    def layer(d: slice, **direction: Any) -> Any:
        return make_layer(
            node.operator.kind,
            node.operator.convention,
            cells[d],
            options=options[d.start],
            states=None if states is None else states[d],
            **direction,
            **how,
        )

    if node.D == 1 or options[0] == options[1]:
        one = layer(
            slice(0, node.D), bidirectional=node.D == 2, reverse=node.direction == "reverse"
        )
        found.add(node.name, one, *notes)
        return
    for d, direction in enumerate(("forward", "reverse")):
        note = f"the {direction} direction of {node.name}, whose output has both side by side"
        one = layer(slice(d, d + 1), reverse=bool(d))
        found.add(f"{node.name}.{direction}", one, *notes, note)


def _convention(node: _Node) -> str:
    # ONNX calls g and n c and h.
    gates = " ".join(node.operator.convention.gates.translate({ord("g"): "c", ord("n"): "h"}))
    place = f" in {node.scope.place}" if node.scope.place else ""
    words = f"ONNX {node.op}{place}, gates {gates}"
    return f"{words}, two biases" if "B" in node.inputs else words


class _Weights(NamedTuple):
    """W, R, B and P of a node: one row for each direction."""

    W: Array
    R: Array
    B: Array | None
    P: Array | None


def _stored(node: _Node) -> tuple[list[Stored], int]:
    """The arrays of each direction, of shapes that fit together, and H."""
    W, R = node.required("W"), node.required("R")
    columns = node.operator.convention.layout == "columns"
    if columns:
        W = _dequantized("W", W, node.required("W_scale"), node.weight("W_zero_point"))
        R = _dequantized("R", R, node.required("R_scale"), node.weight("R_zero_point"))
    given = _Weights(W, R, node.weight("B"), node.weight("P"))
    D, G = node.D, len(node.operator.convention.gates)
    H = R.shape[1 if columns else 2] if R.ndim == 3 else 0
    I = W.shape[1 if columns else 2] if W.ndim == 3 else 0
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "W": (((D, I, G * H), "(D, I, 4·H)") if columns else ((D, G * H, I), f"(D, {G}·H, I)")),
        "R": (((D, H, G * H), "(D, H, 4·H)") if columns else ((D, G * H, H), f"(D, {G}·H, H)")),
        "B": ((D, 2 * G * H), f"(D, {2 * G}·H)"),
        "P": ((D, 3 * H), "(D, 3·H)"),
    }
    for name, (shape, letters) in shapes.items():
        array = getattr(given, name)
        if array is None:
            continue
        if dtype_name(array.dtype) not in REAL_DTYPES:
            raise ValueError(f"{name} is {array.dtype}; it must be of {', '.join(REAL_DTYPES)}")
        if array.shape != shape or 0 in shape:
            raise ValueError(f"{name} has shape {array.shape}; it must be {letters} = {shape}")
    if (said := node.given.get("hidden_size", H)) != H:
        raise ValueError(f"hidden_size is {said}, and R has shape {R.shape}; they must agree")
    rows = zip(*([None] * D if array is None else list(array) for array in given), strict=True)
    return [Stored(w, r, b, None, p) for w, r, b, p in rows], H


def _dequantized(name: str, q: Array, scale: Array, zero: Array | None) -> Array:
    """The numbers (D, n, 4·H) of 8-bit integers, with a scale for each direction or column."""
    if zero is None:
        zero = host.xp.zeros_like(scale)
    if q.ndim != 3 or scale.shape not in ((q.shape[0],), (q.shape[0], q.shape[2])):
        raise ValueError(
            f"{name} has shape {q.shape} and its scales {scale.shape}; they must be (D, n, 4·H), "
            "and (D,) or (D, 4·H)"
        )
    if zero.shape != scale.shape:
        raise ValueError(f"{name} has scales {scale.shape} and zero points {zero.shape}")
    shape = (len(q), 1, -1)
    return (q.astype("float32") - zero.astype("float32").reshape(shape)) * scale.reshape(shape)


# ---- Initial states and lengths


def _states(node: _Node, H: int) -> tuple[list[list[Array]] | None, list[str]]:
    """The initial states that the model holds, of each direction, and notes on what it takes."""
    found: dict[str, Array] = {}
    notes = []
    for s in node.operator.states:
        name = node.inputs.get(f"initial_{s}")
        if name is None or node.scope.is_zero(name):
            continue
        try:
            found[s] = _learned(node, s, name, H)
        except Unresolved as error:
            notes.append(f"initial_{s}: {error}; give state=")
    if "sequence_lens" in node.inputs:
        notes.append("the node has sequence_lens; give lengths=")
    if not found:
        return None, notes
    zeros = host.xp.zeros((node.D, H), next(iter(found.values())).dtype)
    notes.append(f"the initial {', '.join(found)} of the model: weights of the layer")
    return [[found.get(s, zeros)[d] for s in node.operator.states] for d in range(node.D)], notes


def _learned(node: _Node, s: str, name: str, H: int) -> Array:
    """The initial state (D, H) that is a constant, for every sequence the same."""
    array = node.scope.value(_expanded(node.scope, name))
    # (D, B, H); what is repeated by Expand may have fewer axes, or fewer numbers in one.
    rows = array.reshape((*(1,) * (3 - array.ndim), *array.shape))
    if rows.ndim == 3 and node.batch_first:
        rows = host.xp.moveaxis(rows, 0, 1)
    if rows.ndim != 3 or not rows.size or rows.shape[0] not in (1, node.D) or rows.shape[2] != H:
        raise ValueError(
            f"initial_{s} has shape {array.shape}; it must be "
            f"{'(B, D, H)' if node.batch_first else '(D, B, H)'} with D = {node.D} and H = {H}"
        )
    if (rows != rows[:, :1]).any():
        raise ValueError(
            f"initial_{s} is a constant with other values for each sequence, which a layer cannot "
            "hold; make it an input of the model"
        )
    return host.xp.broadcast_to(rows[:, 0], (node.D, H))


def _expanded(scope: Scope, name: str) -> str:
    """The tensor that is repeated for each sequence, where that is how this one is made."""
    node = scope.maker(name)
    while node is not None and node.op_type in ("Identity", "Expand"):
        name = node.input[0]
        node = scope.maker(name)
    return name
