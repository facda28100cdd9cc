"""What the operators LSTM, GRU and RNN of ONNX and the cells of xrnn are to each other.

Their weights stand in `xrnn.convert.conventions.CONVENTIONS`; here are their attributes.
onnxruntime's DynamicQuantizeLSTM has those of the LSTM.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from xrnn import cells
from xrnn.backends import host
from xrnn.cells.activations import ACTIVATIONS, Spec
from xrnn.cells.base import Cell
from xrnn.cells.elman_options import RNNOptions
from xrnn.cells.gru_options import GRUOptions
from xrnn.cells.janet import BETA
from xrnn.cells.lstm_options import LSTMOptions
from xrnn.cells.options import GivenActivation
from xrnn.convert.conventions import CONVENTIONS, Convention
from xrnn.convert.loaded import Kind
from xrnn.typing import Array

#: our names of activation functions → ONNX's
FUNCTIONS: Mapping[str, str] = {
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

#: the same the other way round; onnxruntime does not read capitals
NAMES = {theirs.lower(): ours for ours, theirs in FUNCTIONS.items()}

#: the functions whose parameters have defaults, and the same ones in ONNX and in onnxruntime
DEFAULTED = ("leaky_relu", "hard_sigmoid", "elu")

#: σ(SATURATED) is 1 in every precision
SATURATED = 100.0


class Operator(NamedTuple):
    """One operator: our layer of it, its activation functions by default, its states, and how its
    weights are stored."""

    kind: Kind
    usual: tuple[str, ...]
    states: tuple[str, ...]
    convention: Convention


OPERATORS: Mapping[str, Operator] = {
    "LSTM": Operator("lstm", ("Sigmoid", "Tanh", "Tanh"), ("h", "c"), CONVENTIONS["ONNX", "LSTM"]),
    "GRU": Operator("gru", ("Sigmoid", "Tanh"), ("h",), CONVENTIONS["ONNX", "GRU"]),
    "RNN": Operator("rnn", ("Tanh",), ("h",), CONVENTIONS["ONNX", "RNN"]),
    "DynamicQuantizeLSTM": Operator(
        "lstm",
        ("Sigmoid", "Tanh", "Tanh"),
        ("h", "c"),
        CONVENTIONS["onnxruntime", "DynamicQuantizeLSTM"],
    ),
}


def require_onnx(function: str) -> Any:
    """The package onnx, which only `load_onnx` and `to_onnx` need.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{function} needs the package onnx: pip install 'xrnn-array[onnx]'"
        ) from error


# ---- Attributes to options

#: the attributes of all operators, and what they hold
ATTRIBUTES: Mapping[str, type] = {
    **{"direction": str, "activations": list, "activation_alpha": list, "activation_beta": list},
    **{"clip": float, "hidden_size": int, "input_forget": int, "layout": int},
    **{"linear_before_reset": int, "output_sequence": int},
}


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes of a recurrent node by name, text as str.

    Raises
    ------
    ValueError
        If there are others, or one holds something else.
    """
    onnx, found = require_onnx("load_onnx"), {}
    for attribute in node.attribute:
        kind, value = ATTRIBUTES.get(attribute.name), onnx.helper.get_attribute_value(attribute)
        value = [_text(one) for one in value] if isinstance(value, list) else _text(value)
        if kind is None or not isinstance(value, kind):
            raise ValueError(
                f"the attribute {attribute.name[:80]!r} is {value!r:.80}; this operator has "
                f"{', '.join(f'{name} ({kind.__name__})' for name, kind in ATTRIBUTES.items())}"
            )
        found[attribute.name] = value
    return found


def options_of(op: str, given: Mapping[str, Any], D: int) -> list[dict[str, Any]]:
    """The options of a layer, one set for each of D directions, from an operator's attributes.

    Raises
    ------
    ValueError
        If an attribute is not one of the operator, or says what no cell has.
    """
    shared: dict[str, Any] = {}
    if given.get("clip") is not None:
        shared["clip"] = _decimal(given["clip"])
    if OPERATORS[op].kind == "lstm":
        shared["coupled"] = bool(given.get("input_forget", 0))
    if OPERATORS[op].kind == "gru":
        shared["reset"] = "after" if given.get("linear_before_reset", 0) else "before"
    return [{**shared, "activations": specs} for specs in _activations(op, given, D)]


def _activations(op: str, given: Mapping[str, Any], D: int) -> list[list[tuple[Any, ...]]]:
    """(name, alpha, beta) of each activation function, in each direction."""
    n = len(OPERATORS[op].usual)
    names = list(given.get("activations", ())) or [*OPERATORS[op].usual] * D
    if len(names) != n * D or any(str(name).lower() not in NAMES for name in names):
        raise ValueError(
            f"activations is {names!r:.200}; it must hold {n} names for each direction, {n * D} "
            f"here, of {', '.join(FUNCTIONS.values())}"
        )
    numbers = {k: iter(given.get(f"activation_{k}", ())) for k in ("alpha", "beta")}
    found = [_activation(NAMES[name.lower()], numbers) for name in names]
    for k, rest in numbers.items():
        if unused := len(list(rest)):
            raise ValueError(
                f"activation_{k} holds {unused} numbers more than {', '.join(names)} take; "
                "which number belongs to which function is not clear"
            )
    return [found[d * n : (d + 1) * n] for d in range(D)]


def _activation(name: str, numbers: Mapping[str, Iterator[float]]) -> tuple[Any, ...]:
    """One function with its parameters, which are taken from `numbers` in turn."""
    spec: list[Any] = [name]
    for k, rest in numbers.items():
        usual = getattr(ACTIVATIONS[name], k)
        if usual is None:
            continue
        x = next(rest, None)
        if x is None and name not in DEFAULTED:
            raise ValueError(
                f"activation_{k} has no number for {FUNCTIONS[name]}; it must be given, because "
                "ONNX and onnxruntime disagree about the default"
            )
        spec.append(usual if x is None else _decimal(x))
    return tuple(spec)


def _decimal(x: float) -> float:
    """The shortest decimal that is this number in float32, in which ONNX stores attributes."""
    return float(str(host.xp.float32(x)))


def _text(given: Any) -> Any:
    """Bytes as str, and anything else as it is."""
    return given.decode("utf-8", "replace") if isinstance(given, bytes) else given


# ---- Cells to operators


class Form(NamedTuple):
    """The operator that computes a cell, with its attributes but those of directions and sizes."""

    op: str
    attributes: dict[str, Any]


#: cells without options → the operator, and the options that it would have
PLAIN: Mapping[Cell[Any], tuple[str, tuple[str, ...], dict[str, Any]]] = {
    cells.LSTM: ("LSTM", ("sigmoid", "tanh", "tanh"), {}),
    cells.PeepholeLSTM: ("LSTM", ("sigmoid", "tanh", "tanh"), {}),
    cells.GRU: ("GRU", ("sigmoid", "tanh"), {"linear_before_reset": 1}),
    cells.GRUBefore: ("GRU", ("sigmoid", "tanh"), {"linear_before_reset": 0}),
    cells.Elman: ("RNN", ("tanh",), {}),
    cells.ElmanReLU: ("RNN", ("relu",), {}),
}


def form_of(cell: Cell[Any], D: int) -> Form:
    """The operator that computes a cell, or what it is `expressed` as, in D directions.

    Random numbers, which are drawn in training alone, do not matter.

    Raises
    ------
    ValueError
        If there is none.
    """
    other = expressed(cell)
    if other in PLAIN:
        op, names, attributes = PLAIN[other]
        specs: Sequence[Spec] = [(name, 0.0, 0.0) for name in names]
        return Form(op, {**attributes, **_attributes(specs, D)})
    options = other.made
    attributes = {}
    if isinstance(options, LSTMOptions):
        op, lacking = "LSTM", {"cell_clip": inf, "proj_size": 0, "layer_norm": ""}
        attributes |= {"input_forget": 1} if options.coupled else {}
    elif isinstance(options, GRUOptions):
        op, lacking = "GRU", {"layer_norm": False}
        attributes["linear_before_reset"] = int(options.reset == "after")
    elif isinstance(options, RNNOptions):
        op, lacking = "RNN", {}
    else:
        raise ValueError(
            f"{cell.name}: ONNX has no operator for this cell; it has LSTM, GRU and RNN"
        )
    for name, without in lacking.items():
        if (value := getattr(options, name)) != without:
            raise ValueError(
                f"{cell.name}: {name} is {value!r}; the operator {op} of ONNX has no such option"
            )
    if options.clip < inf:
        attributes["clip"] = options.clip
    return Form(op, {**attributes, **_attributes(options.activations, D)})


def _attributes(specs: Sequence[Spec], D: int) -> dict[str, Any]:
    """The attributes of activation functions; all their parameters are written."""
    found: dict[str, Any] = {"activations": [FUNCTIONS[name] for name, *_ in specs] * D}
    for k, which in ((1, "alpha"), (2, "beta")):
        numbers = [spec[k] for spec in specs if getattr(ACTIVATIONS[spec[0]], which) is not None]
        if numbers:
            found[f"activation_{which}"] = numbers * D
    return found


# ---- Cells that are another cell with some weights tied or fixed

LINEAR: GivenActivation = ("affine", 1.0, 0.0)


def rewritten(cell: Cell[Any], weights: Mapping[str, Array]) -> Mapping[str, Array]:
    """The weights of `expressed(cell)` with which it computes the same h."""
    return REWRITTEN[cell][1](weights) if cell in REWRITTEN else weights


def expressed(cell: Cell[Any]) -> Cell[Any]:
    """The cell that has an operator and can compute what this one does; else the cell itself."""
    return REWRITTEN[cell][0] if cell in REWRITTEN else cell


def _input_gated(weights: Mapping[str, Array]) -> Mapping[str, Array]:
    """An LSTM with U = 0."""
    return {**weights, "U": _square(weights["W"], 4)}


def _mingru(weights: Mapping[str, Array]) -> Mapping[str, Array]:
    """A GRU with U = 0 and without tanh, whose z is 1 minus that of the minGRU."""
    found = {}
    for name, rows in weights.items():
        z, n = host.xp.split(rows, 2)
        found[name] = host.xp.concat([host.xp.zeros_like(z), -z, n])
    return {**found, "U": _square(found["W"], 3)}


def _mgu(weights: Mapping[str, Array]) -> Mapping[str, Array]:
    """A GRU (reset before) with r = u and z = 1 − u."""
    found = {}
    for name, rows in weights.items():
        u, n = host.xp.split(rows, 2)
        found[name] = host.xp.concat([u, -u, n])
    return found


def _janet(weights: Mapping[str, Array]) -> Mapping[str, Array]:
    """An LSTM without its second tanh, with o = 1; so its c is h."""
    found = {}
    b = weights.get("b", host.xp.zeros_like(weights["W"][:, 0]))
    for name, rows in {**weights, "b": b}.items():
        f, g = host.xp.split(rows, 2)
        i, o = -f, host.xp.zeros_like(f)
        if name == "b":
            i, o = BETA + i, o + SATURATED
        found[name] = host.xp.concat([i, f, g, o])
    return found


def _square(W: Array, gates: int) -> Array:
    """U of zeros for a W of that many gates."""
    return host.xp.zeros((len(W), len(W) // gates), W.dtype)


#: cell → a cell that has an operator, and what makes its weights
REWRITTEN: Mapping[
    Cell[Any], tuple[Cell[Any], Callable[[Mapping[str, Array]], Mapping[str, Array]]]
] = {
    cells.InputGatedLSTM: (cells.LSTM, _input_gated),
    cells.MinGRU: (cells.gru_with(reset="before", activations=("sigmoid", LINEAR)), _mingru),
    cells.MGU: (cells.GRUBefore, _mgu),
    cells.JANET: (cells.lstm_with(activations=("sigmoid", "tanh", LINEAR)), _janet),
}
