"""A recurrent node of an ONNX graph: its weights, and what else it takes."""

from __future__ import annotations

from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.convert.conventions import Stored
from xrnn.convert.onnx_graph import Scope, Unresolved
from xrnn.convert.onnx_operators import OPERATORS, Operator, attributes_of
from xrnn.engine.checks import REAL_DTYPES
from xrnn.typing import Array, dtype_name

#: the inputs of the operators, by their places
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
QUANTIZED = (*INPUTS, "W_scale", "W_zero_point", "R_scale", "R_zero_point")

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


class Node:
    """A recurrent node, its inputs by name and its attributes.

    Attributes
    ----------
    used : set of str
        The tensors of which a layer is made.
    """

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
        self.used: set[str] = set()

    def weight(self, k: str) -> Array | None:
        """The constant at an input; None where the node has none."""
        if k not in self.inputs:
            return None
        self.used.add(self.inputs[k])
        try:
            return self.scope.value(self.inputs[k])
        except Unresolved as error:
            raise ValueError(f"{k} is no constant: {error}; only constants can be read") from None

    def required(self, k: str) -> Array:
        found = self.weight(k)
        if found is None:
            raise ValueError(f"{k} is missing")
        return found


def convention(node: Node) -> str:
    # ONNX calls g and n c and h.
    gates = " ".join(node.operator.convention.gates.translate({ord("g"): "c", ord("n"): "h"}))
    place = f" in {node.scope.place}" if node.scope.place else ""
    words = f"ONNX {node.op}{place}, gates {gates}"
    return f"{words}, two biases" if "B" in node.inputs else words


def order(node: Node) -> str:
    """The order of the axes that the layer takes, and how the model comes to it."""
    if node.batch_first:
        return "takes (B, T, I): batch_first=True, layout 1"
    perm = _transposed(node.scope, node.inputs.get("X", ""))
    if perm == [0, 1, 2]:
        return "takes (T, B, I), as the node does"
    axes = ", ".join("TBI"[perm.index(axis)] for axis in range(3))
    return f"takes (T, B, I): the model transposes ({axes}) before the node"


def _transposed(scope: Scope, name: str) -> list[int]:
    """The perm of the Transpose that makes a tensor of three axes; [0, 1, 2] without one."""
    node = scope.maker(name) if name else None
    if node is not None and node.op_type in ("Cast", "Dropout", "Identity"):
        return _transposed(scope, node.input[0])
    if node is not None and node.op_type == "Transpose":
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [2, 1, 0])
        if sorted(perm) == [0, 1, 2]:
            return perm
    return [0, 1, 2]


# ---- Weights


class _Weights(NamedTuple):
    """W, R, B and P of a node: one row for each direction."""

    W: Array
    R: Array
    B: Array | None
    P: Array | None


def stored(node: Node) -> tuple[list[Stored], int]:
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


def scales(node: Node) -> list[Stored]:
    """The scales of W and R of each direction, as matrices of one row (1, 4·H)."""
    columns = 4 * node.required("R").shape[1]
    both = [node.required(name).reshape(node.D, -1) for name in ("W_scale", "R_scale")]
    rows = [host.xp.broadcast_to(one, (node.D, columns)) for one in both]
    return [Stored(w[None, :], r[None, :]) for w, r in zip(*rows, strict=True)]


# ---- Initial states and lengths


def initial_states(node: Node, H: int) -> tuple[list[list[Array]] | None, list[str]]:
    """The initial states that the model holds, of each direction, and notes on what it takes."""
    found: dict[str, Array] = {}
    notes = []
    for s in node.operator.states:
        name = node.inputs.get(f"initial_{s}")
        if name is None:
            continue
        try:
            if not node.scope.is_zero(name):
                found[s] = _learned(node, s, name, H)
            node.used.add(name)
        except Unresolved as error:
            notes.append(f"initial_{s}: {error}; give state=")
    if "sequence_lens" in node.inputs:
        notes.append("the node has sequence_lens; give lengths=")
    if not found:
        return None, notes
    zeros = host.xp.zeros((node.D, H), next(iter(found.values())).dtype)
    notes.append(f"the initial {', '.join(found)} of the model: weights of the layer")
    return [[found.get(s, zeros)[d] for s in node.operator.states] for d in range(node.D)], notes


def _learned(node: Node, s: str, name: str, H: int) -> Array:
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
