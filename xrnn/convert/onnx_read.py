"""`load_onnx`: the recurrent layers of an ONNX model."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from xrnn.backends import host
from xrnn.convert.loaded import Loaded, free_name, freeze_as, make_layer, within
from xrnn.convert.onnx_graph import Scope, array_of, described
from xrnn.convert.onnx_node import Node, convention, initial_states, order, scales, stored
from xrnn.convert.onnx_operators import OPERATORS, options_of, require_onnx
from xrnn.convert.paths import accept_path, reading
from xrnn.engine import atomic
from xrnn.engine.checks import check_choice
from xrnn.typing import GivenDType

#: calls of functions of a model are written out up to this many nodes
MOST_NODES = 10**6


def load_onnx(
    path: str | os.PathLike[str] | bytes | Any,
    *,
    dtype: GivenDType | None = None,
    device: str = "cpu",
    weights: Literal["int8"] | None = None,
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
    weights : {"int8"}, optional
        What becomes of a DynamicQuantizeLSTM.  "int8": frozen weights of 8 bits
        (`xrnn.Layer.freeze`) that are those of the file, not rounded again; their zero points must
        be 0.  Other nodes become the same layers as without.  Default: float32.

    Returns
    -------
    Loaded
        Name of the node, or of its first output → the layer, in the order of the graph.  Each has
        one layer, and one or two directions.  Where the two directions of a node have different
        activation functions, they are two layers, NAME.forward and NAME.reverse, whose outputs
        stand side by side in that of the node.  ``notes`` says in which order the layer takes its
        axes, and what the node takes that is no weight: initial states and lengths, which a caller
        gives.  ``unused`` has the weights of the other nodes: name → the array as it is stored.

    Raises
    ------
    ImportError
        If onnx is not installed.
    FileNotFoundError, OSError
        If the file cannot be read.
    TypeError
        If `path` is something else.
    ValueError
        If it is no ONNX model, or is damaged; if it has no recurrent node; or if one of them
        cannot be a layer: its weights are computed while the model runs, or xrnn has no such cell,
        or they are not what `weights` asks for.  Then nothing is loaded.

    Notes
    -----
    Gates stand in the order i o f c (LSTM) or z r h (GRU); the two biases are added up, except for
    v of a GRU with linear_before_reset.  Y (T, D, B, H) is ys (T, B, D·H) here.  Initial states
    that are constants become weights (``learn_state=True``), unless they are zero.

    Layers take (T, B, I), as the nodes do, also where the model takes (B, T, I) and transposes it:
    exporters write the ``batch_first=True`` of PyTorch so, and `to_onnx` that of xrnn.  The notes
    tell of the Transpose.  ``layout=1`` becomes ``batch_first=True``; states are (D, B, H) in xrnn
    all the same.

    Source: the operators LSTM, GRU and RNN of ONNX, opsets 7 to 22.

    Examples
    --------
    >>> import tempfile, xrnn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = xrnn.convert.to_onnx(xrnn.GRU(3, 5, bidirectional=True), f"{folder}/model.onnx")
    ...     xrnn.convert.load_onnx(f"{folder}/model.onnx")
    'gru': <GRU(3, 5, bidirectional=True): gru>
        ONNX GRU, gates z r h, two biases
        takes (T, B, I), as the node does
        initial_h: h is an input of the model; give state=
        the node has sequence_lens; give lengths=
    """
    check_choice("load_onnx", "weights", weights, (None, "int8"))
    what, model, folder = _opened(path)
    # Numbers that are not finite are the model's own.
    with within(what), host.xp.errstate(all="ignore"):
        try:
            return _loaded(model, folder, dtype, device, weights)
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
        what, folder = str(file), str(file.parent)
        with reading(what):
            data = atomic.read(file)
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


def _loaded(model: Any, folder: str | None, dtype: Any, device: str, weights: Any) -> Loaded:
    model = _inlined(model)
    opset = max([o.version for o in model.opset_import if o.domain in ("", "ai.onnx")] or [1])
    found, scopes = Loaded(), list(Scope(model.graph, opset, folder).all())
    used: set[tuple[Scope, str]] = set()
    for scope in scopes:
        for node in scope.graph.node:
            if node.op_type in OPERATORS and node.domain in ("", "ai.onnx", "com.microsoft"):
                with within(described(node)):
                    one = Node(node, scope)
                    integers = weights if one.op == "DynamicQuantizeLSTM" else None
                    _add(found, one, integers, dtype, device)
                    for name in one.used:
                        scope.add_sources(name, used)
    if not found:
        raise ValueError(_nothing(scopes))
    for scope in scopes:
        for name, tensor in scope.weights():
            if (scope, name) not in used:
                _leave(found, name, tensor, folder)
    return found


def _leave(found: Loaded, name: str, tensor: Any, folder: str | None) -> None:
    """Add a tensor that is in no layer to what is unused."""
    try:
        found.unused[free_name(found.unused, name)] = array_of(tensor, folder)
    except ValueError as error:
        found.skipped[name] = str(error)


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


def _add(found: Loaded, node: Node, integers: Any, dtype: Any, device: str) -> None:
    """Add the layer of a node, or one for each direction if these have other functions; with its
    own `integers`, frozen."""
    cells, H = stored(node)
    options = options_of(node.op, node.given, node.D)
    if "P" in node.inputs:
        options = [{**one, "peephole": True} for one in options]
    states, notes = initial_states(node, H)
    notes = [convention(node), order(node), *notes]
    how: Any = {"batch_first": node.batch_first, "dtype": dtype, "device": device}

    def layer(d: slice, **direction: Any) -> Any:
        one = make_layer(
            node.operator.kind,
            node.operator.convention,
            cells[d],
            options=options[d.start],
            states=None if states is None else states[d],
            **direction,
            **how,
        )
        if integers is not None:
            freeze_as(one, node.operator.convention, scales(node)[d])
        return one

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
