"""Random ONNX models of one recurrent node each, written without xrnn.convert, and how they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 17

#: operator → gates, activation functions, states
OPS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "LSTM": (4, 3, ("h", "c")),
    "GRU": (3, 2, ("h",)),
    "RNN": (1, 1, ("h",)),
}

#: activation functions → how many parameters they take
FUNCTIONS = {
    **{"Sigmoid": 0, "Tanh": 0, "Relu": 0, "Softsign": 0, "Softplus": 0},
    **{"LeakyRelu": 1, "Elu": 1, "ThresholdedRelu": 1},
    **{"HardSigmoid": 2, "Affine": 2, "ScaledTanh": 2},
}

BOUNDED = ("Sigmoid", "Tanh", "HardSigmoid", "Softsign")

DIRECTIONS = ("forward", "reverse", "bidirectional")


@dataclass
class Model:
    """A model that grows: nodes, initializers, inputs; and what it is fed with."""

    rng: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    feeds: dict[str, Any] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], **how: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **how))
        return name

    def hold(self, array: Any) -> str:
        """An initializer, or a constant."""
        if self.rng.random() < 0.3:
            return self.add("Constant", [], value=numpy_helper.from_array(np.asarray(array)))
        name = f"i{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def feed(self, name: str, array: Any) -> str:
        self.feeds[name] = array
        return name

    def hidden(self, array: Any, times: int = 2) -> str:
        """The tensor in some disguise."""
        for _ in range(times):
            if self.rng.random() < 0.6:
                return DISGUISES[self.rng.integers(len(DISGUISES))](self, array, times - 1)
        return self.hold(array)

    def run(self, *outputs: str) -> list[Any]:
        """The outputs, computed by onnxruntime."""
        return self.session(outputs).run(None, self.feeds)  # type: ignore[no-any-return]

    def made(self, outputs: tuple[str, ...]) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "model",
            [info(name, a.dtype, [None] * a.ndim) for name, a in self.feeds.items()],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self.constants,
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)

    def session(self, outputs: tuple[str, ...]) -> Any:
        return session(self.made(outputs))


def session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def info(name: str, dtype: Any, shape: Any) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)


# ---- Disguises: each stores another array, of which the model makes this one


def _constant_list(m: Model, a: Any, n: int) -> str:
    flat = m.add("Constant", [], value_floats=[float(x) for x in a.reshape(-1)])
    return m.add("Reshape", [flat, m.hold(np.array(a.shape))])


def _identity(m: Model, a: Any, n: int) -> str:
    return m.add("Identity", [m.hidden(a, n)])


def _cast(m: Model, a: Any, n: int) -> str:
    return m.add("Cast", [m.hidden(a.astype("float64"), n)], to=TensorProto.FLOAT)


def _squeeze(m: Model, a: Any, n: int) -> str:
    return m.add("Squeeze", [m.hidden(a[None, ..., None], n), m.hold(np.array([0, -1]))])


def _unsqueeze(m: Model, a: Any, n: int) -> str:
    return (
        m.add("Unsqueeze", [m.hidden(a[0], n), m.hold(np.array([0]))])
        if len(a) == 1
        else (_identity(m, a, n))
    )


def _transpose(m: Model, a: Any, n: int) -> str:
    perm = [int(k) for k in m.rng.permutation(a.ndim)]
    back = [int(k) for k in np.argsort(perm)]
    return m.add("Transpose", [m.hidden(a.transpose(perm).copy(), n)], perm=back)


def _reshape(m: Model, a: Any, n: int) -> str:
    return m.add("Reshape", [m.hidden(a.reshape(-1), n), m.hold(np.array([*a.shape[:-1], -1]))])


def _concat(m: Model, a: Any, n: int) -> str:
    axis = int(m.rng.integers(a.ndim))
    cut = int(m.rng.integers(0, a.shape[axis] + 1))
    parts = [m.hidden(p.copy(), n if p.size else 0) for p in np.split(a, [cut], axis)]
    return m.add("Concat", parts, axis=axis)


def _slice(m: Model, a: Any, n: int) -> str:
    axis = int(m.rng.integers(a.ndim))
    wide = np.concatenate([a, a[:1] if axis == 0 else np.take(a, [0], axis)], axis)
    ends = [m.hold(np.array([x])) for x in (0, a.shape[axis], axis)]
    return m.add("Slice", [m.hidden(wide, n), *ends])


def _backwards(m: Model, a: Any, n: int) -> str:
    axis = int(m.rng.integers(a.ndim))
    ends = [m.hold(np.array([x])) for x in (-1, -(2**62), axis, -1)]
    return m.add("Slice", [m.hidden(np.flip(a, axis).copy(), n), *ends])


def _gather(m: Model, a: Any, n: int) -> str:
    axis = int(m.rng.integers(a.ndim))
    order = m.rng.permutation(a.shape[axis])
    stored = np.take(a, np.argsort(order), axis)
    return m.add("Gather", [m.hidden(stored, n), m.hold(order)], axis=axis)


def _split(m: Model, a: Any, n: int) -> str:
    axis = int(m.rng.integers(a.ndim))
    stored = m.hidden(np.concatenate([a + 1, a], axis), n)
    name = f"t{len(m.nodes)}_split"
    m.nodes.append(helper.make_node("Split", [stored], [f"{name}_0", name], axis=axis))
    return name


def _scaled(m: Model, a: Any, n: int) -> str:
    # By a power of two: no rounding.
    return m.add("Mul", [m.hidden(a * 4, n), m.hold(np.array(0.25, a.dtype))])


DISGUISES: list[Callable[[Model, Any, int], str]] = [
    *(_constant_list, _identity, _cast, _squeeze, _unsqueeze, _transpose, _reshape, _concat),
    *(_slice, _backwards, _gather, _split, _scaled),
]


# ---- A random node


@dataclass
class Case:
    """A model with one recurrent node, named "rec", and what a layer must be given for it."""

    model: Model
    op: str
    direction: str
    xs: Any
    lengths: Any
    state: list[Any]
    outputs: tuple[str, ...]


def random_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    op = list(OPS)[rng.integers(len(OPS))]
    G, n, states = OPS[op]
    T, B, I, H = (int(x) for x in rng.integers((1, 1, 1, 1), (7, 5, 5, 6)))
    direction = DIRECTIONS[rng.integers(3)]
    D = 2 if direction == "bidirectional" else 1
    m = Model(rng)

    def draw(*shape: int) -> Any:
        return rng.normal(size=shape, scale=0.2).astype("float32")

    xs = rng.normal(size=(T, B, I)).astype("float32")
    inputs = [m.feed("X", xs), m.hidden(draw(D, G * H, I)), m.hidden(draw(D, G * H, H))]
    inputs += [m.hidden(draw(D, 2 * G * H)) if rng.random() < 0.8 else ""]
    lengths = rng.integers(0, T + 1, B) if rng.random() < 0.5 else None
    inputs += ["" if lengths is None else m.feed("lengths", lengths.astype("int32"))]
    state = [_initial(m, s, D, B, H, inputs) for s in states]
    if op == "LSTM":
        inputs += [m.hidden(draw(D, 3 * H)) if rng.random() < 0.4 else ""]
    attributes = random_attributes(rng, op, n, D)
    outputs = ("Y", *(f"Y_{s}" for s in states))
    attributes |= {"hidden_size": H, "direction": direction}
    node = helper.make_node(op, inputs, outputs, "rec", **attributes)
    m.nodes.append(node)
    return Case(m, op, direction, xs, lengths, state, outputs)


def _initial(m: Model, s: str, D: int, B: int, H: int, inputs: list[str]) -> Any:
    """Add the input of one initial state; what a layer is to be given for it."""
    kind = ["none", "input", "zeros", "filled", "learned", "expanded"][m.rng.integers(6)]
    array = m.rng.normal(size=(D, B, H)).astype("float32")
    row = array[:, :1]
    shape = np.array([D, B, H])
    if kind == "none":
        inputs += [""]
    elif kind == "input":
        inputs += [m.feed(f"initial_{s}", array)]
        return array
    elif kind == "zeros":
        inputs += [m.hidden(0 * array)]
    elif kind == "filled":
        # Zeros for as many sequences as X has.
        ends = [m.hold(np.array([k])) for k in (1, 2, 0)]
        batch = m.add("Slice", [m.add("Shape", ["X"]), *ends])
        sizes = [m.hold(np.array([D])), batch, m.hold(np.array([H]))]
        inputs += [m.add("ConstantOfShape", [m.add("Concat", sizes, axis=0)])]
    elif kind == "learned":
        inputs += [m.hidden(np.repeat(row, B, 1))]
    else:
        inputs += [m.add("Expand", [m.hidden(row), m.hold(shape)])]
    return None


def random_attributes(rng: np.random.Generator, op: str, n: int, D: int) -> dict[str, Any]:
    how: dict[str, Any] = {}
    if rng.random() < 0.6:
        names = random_functions(rng, n)
        names += (names if rng.random() < 0.7 else random_functions(rng, n)) if D == 2 else []
        # In its RNN alone, onnxruntime minds capitals.
        how["activations"] = [name.lower() for name in names] if op != "RNN" else names
        counts = [FUNCTIONS[name] for name in names]
        same = D == 2 and names[:n] == names[n:]
        for least, which in ((1, "alpha"), (2, "beta")):
            numbers = [float(rng.uniform(0.1, 0.9)) for c in counts if c >= least]
            if same:
                numbers = numbers[: len(numbers) // 2] * 2
            if numbers:
                how[f"activation_{which}"] = numbers
    if rng.random() < 0.4:
        how["clip"] = float(rng.uniform(0.2, 1.5))
    if op == "LSTM":
        how["input_forget"] = int(rng.integers(2))
    if op == "GRU":
        how["linear_before_reset"] = int(rng.integers(2))
    return how


def random_functions(rng: np.random.Generator, n: int) -> list[str]:
    names = [list(FUNCTIONS)[rng.integers(len(FUNCTIONS))] for _ in range(n)]
    if n == 2 and names[0] not in BOUNDED:
        # A GRU whose z is not bounded grows to infinity.
        names[0] = BOUNDED[rng.integers(len(BOUNDED))]
    return names


# ---- The same node inside another graph


def inside_if(case: Case) -> Any:
    """The node in a branch of an If; half of the constants stay outside."""
    m = case.model
    m.feeds["which"] = np.array(True)
    inner, outer = m.nodes, m.constants[::2]
    values = [helper.make_empty_tensor_value_info(name) for name in case.outputs]
    branch = helper.make_graph(inner, "yes", [], values, m.constants[1::2])
    other = [
        helper.make_node("Constant", [], [f"no_{name}"], value_float=0.0) for name in case.outputs
    ]
    no = [helper.make_empty_tensor_value_info(f"no_{name}") for name in case.outputs]
    branches = {"then_branch": branch, "else_branch": helper.make_graph(other, "no", [], no)}
    outputs = [f"{name}_of_if" for name in case.outputs]
    m.nodes = [helper.make_node("If", ["which"], outputs, "choice", **branches)]
    m.constants, case.outputs = outer, tuple(outputs)
    return m.made(case.outputs)


def inside_loop(case: Case) -> Any:
    """The node in the body of a Loop that runs once."""
    m = case.model
    scalar = [info("i", "int64", []), info("going", "bool", [])]
    ends = [helper.make_empty_tensor_value_info(name) for name in ("still", *case.outputs)]
    inner = [*m.nodes, helper.make_node("Identity", ["going"], ["still"])]
    body = helper.make_graph(inner, "body", scalar, ends)
    outputs = [f"{name}_of_loop" for name in case.outputs]
    looped = [f"{name}_steps" for name in case.outputs]
    m.nodes = [helper.make_node("Loop", ["once", ""], looped, "loop", body=body)]
    m.nodes += [
        helper.make_node("Squeeze", [one, "first"], [name])
        for one, name in zip(looped, outputs, strict=True)
    ]
    m.constants += [numpy_helper.from_array(np.array(1), "once")]
    m.constants += [numpy_helper.from_array(np.array([0]), "first")]
    case.outputs = tuple(outputs)
    return m.made(case.outputs)


def inside_function(case: Case) -> Any:
    """The node in a function that a function of the model calls; the constants are arguments."""
    m, opsets = case.model, [helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
    given = [*m.feeds, *(one.name for one in m.constants)]
    calls = [("Inner", m.nodes)]
    for name, caller in (("Outer", "Inner"), ("", "Outer")):
        call = helper.make_node(caller, given, case.outputs, f"call_{caller}", domain="own")
        calls.append((name, [call]))
    functions = [
        helper.make_function("own", name, given, list(case.outputs), nodes, opsets)
        for name, nodes in calls[:2]
    ]
    m.nodes = calls[2][1]
    model = m.made(case.outputs)
    model.functions.extend(functions)
    model.opset_import.append(opsets[1])
    return model
