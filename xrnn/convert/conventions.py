"""The conventions of other libraries: how each of them stores the weights of a cell.

`CONVENTIONS` is the one table of them.  `decode` makes xrnn's weights of what a library stores,
and `encode` makes what it stores of xrnn's weights; every loader and writer of `xrnn.convert` goes
through these two.

xrnn's own convention is W (G·H, I) and U (G·H, H), one block of H rows for each of ``cell.gates``;
one bias b (G·H,); a GRU with the reset gate after the product has a second one, v (H,), which the
reset gate multiplies; z = 1 keeps the old state.  Letters of gates in the table are xrnn's: i, f, g
(also called c or j: the candidate) and o of an LSTM; r, z (also u) and n (also c or h) of a GRU; h
of a simple network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from xrnn.backends import host
from xrnn.cells.activations import Spec
from xrnn.cells.base import Cell
from xrnn.cells.zoneout import Zoneout
from xrnn.typing import Array

Layout = Literal["rows", "columns", "blocks"]
Biases = Literal["one", "two", "joined", "stacked"]
Polarity = Literal["keeps", "takes"]


@dataclass(frozen=True)
class Convention:
    """How one library stores the weights of one kind of cell.

    - gates: the gates in the order of their blocks
    - layout: "rows": W (G·H, I), U (G·H, H) and P (P, H); "columns": their transposes; "blocks": as
      "columns", but with the numbers of each block of H columns in the order of its transpose
    - biases: "one": (G·H,); "two": one of the inputs and one of the recurrent product, (G·H,)
      each; "joined": these two one after the other, (2·G·H,); "stacked": both as (2, G·H)
    - z: what z = 1 does in a GRU: "keeps" the old state, or "takes" the candidate
    - forget_bias: what the library adds to the bias of f whenever it runs
    - peepholes: the gates that have peepholes, in the order of their blocks
    - reset: of a GRU, whether the reset gate acts "after" or "before" the product with U, so that
      no weights are given to the other cell; "" where the file says it
    """

    gates: str
    layout: Layout = "rows"
    biases: Biases = "two"
    z: Polarity = "keeps"
    forget_bias: float = 0.0
    peepholes: str = ""
    reset: Literal["", "after", "before"] = ""


#: (library, its name of the layer) → the convention
CONVENTIONS: Mapping[tuple[str, str], Convention] = {
    ("PyTorch", "LSTM"): Convention("ifgo"),
    ("PyTorch", "GRU"): Convention("rzn", reset="after"),
    ("PyTorch", "RNN"): Convention("h"),
    ("cuDNN", "LSTM"): Convention("ifgo"),
    ("cuDNN", "GRU"): Convention("rzn", reset="after"),
    ("ONNX", "LSTM"): Convention("iofg", biases="joined", peepholes="iof"),
    ("ONNX", "GRU"): Convention("zrn", biases="joined"),
    ("ONNX", "RNN"): Convention("h", biases="joined"),
    ("onnxruntime", "DynamicQuantizeLSTM"): Convention(
        "iofg", layout="columns", biases="joined", peepholes="iof"
    ),
    ("Keras", "LSTM"): Convention("ifgo", layout="columns", biases="one"),
    ("Keras", "GRU"): Convention("zrn", layout="columns", biases="stacked", reset="after"),
    ("Keras", "GRU(reset_after=False)"): Convention(
        "zrn", layout="columns", biases="one", reset="before"
    ),
    ("Keras", "SimpleRNN"): Convention("h", layout="columns", biases="one"),
    ("Keras", "CuDNNLSTM"): Convention("ifgo", layout="blocks", biases="joined"),
    ("Keras", "CuDNNGRU"): Convention("zrn", layout="blocks", biases="joined", reset="after"),
    ("TensorFlow 1", "LSTMCell"): Convention(
        "igfo", layout="columns", biases="one", forget_bias=1.0, peepholes="fio"
    ),
    ("TensorFlow Lite", "LSTM"): Convention("ifgo", biases="one", peepholes="ifo"),
    ("TensorFlow Lite", "LSTM (coupled)"): Convention("fgo", biases="one", peepholes="fo"),
    ("TensorFlow Lite", "RNN"): Convention("h", biases="one"),
    ("Core ML", "LSTM"): Convention("ifgo", biases="one", peepholes="ifo"),
    ("Core ML", "GRU"): Convention("zrn", biases="one", reset="before"),
    ("Core ML", "RNN"): Convention("h", biases="one"),
    ("Flax", "LSTMCell"): Convention("ifgo", layout="columns", biases="one"),
    ("Flax", "GRUCell"): Convention("rzn", layout="columns", reset="after"),
    ("DyNet", "VanillaLSTM"): Convention("ifog", biases="one", forget_bias=1.0),
    ("Paddle 1", "dynamic_gru"): Convention(
        "zrn", layout="columns", biases="one", z="takes", reset="before"
    ),
    ("Opus", "GRU"): Convention("zrn", layout="columns", reset="after"),
    ("Tesseract", "LSTM"): Convention("gifo", biases="one"),
}


class Stored(NamedTuple):
    """The arrays of one cell in one direction, as a library stores them; NumPy, or None for what
    there is not.

    - W, U: in the layout of the convention
    - b: the bias; with "two" biases that of the inputs
    - recurrent_bias: with "two" biases the other one
    - peephole: (n·H,), the blocks of the convention's `peepholes`
    - projection: (P, H), P being the size of h, in the layout of the convention
    - gain: (G·H,), of a cell whose gates are normalised
    """

    W: Array
    U: Array | None
    b: Array | None = None
    recurrent_bias: Array | None = None
    peephole: Array | None = None
    projection: Array | None = None
    gain: Array | None = None


def decode(
    convention: Convention, cell: Cell[Any], stored: Stored, *, gradients: bool = False
) -> dict[str, Array]:
    """The weights of a cell, by the names of ``cell.shapes``, from what a library stores.

    With `gradients` the arrays are gradients: each of two biases that are added up has the
    gradient of their sum.

    Raises
    ------
    ValueError
        If the library has not all gates or peepholes of the cell, its reset gate acts elsewhere,
        or a gate is 1 minus the one here, with an activation function that is not symmetric.
    """
    check_expressible(convention, cell)
    gates = convention.gates
    W = _from_layout(convention, stored.W)
    H = len(W) // len(gates)
    found = {"W": _decoded(gates, cell.gates, W, convention)}
    if cell.recurrent:
        found["U"] = _decoded(gates, cell.gates, _from_layout(convention, stored.U), convention)
    of_x, of_h = _two_biases(convention, stored)
    if of_x is None and convention.forget_bias:
        of_x = host.xp.zeros(len(W), W.dtype)
    if of_x is not None:
        bias = _decoded(gates, cell.gates, of_x, convention)
        if of_h is not None:
            other = _decoded(gates, cell.gates, of_h, convention)
            if "v" in cell.extras:
                found["v"] = other[-H:].copy()
                other[-H:] = 0
            bias = bias if gradients else bias + other
        elif "v" in cell.extras:
            found["v"] = host.xp.zeros_like(bias[-H:])
        if convention.forget_bias and not gradients:
            f = cell.gates.index("f")
            bias[f * H : (f + 1) * H] += convention.forget_bias
        found["b"] = bias
    if stored.peephole is not None:
        ours = peephole_gates(cell)
        found["p"] = _decoded(convention.peepholes, ours, stored.peephole, convention)
    if stored.projection is not None:
        found["P"] = _turned(convention, stored.projection)
    if stored.gain is not None:
        gains = dict(zip(gates, host.xp.split(stored.gain, len(gates)), strict=True))
        # A gate that is 1 minus the one here has its gain: norms of a and −a differ in the sign.
        found["gain"] = host.xp.concat([gains[k if k in gains else "f"] for k in cell.gates])
    return found


def encode(
    convention: Convention,
    cell: Cell[Any],
    weights: Mapping[str, Array],
    *,
    gradients: bool = False,
) -> Stored:
    """What a library stores for the weights of a cell: the inverse of `decode`.

    Where the library has two biases, b becomes the first one, and the second one is zero except
    for v.  Of `gradients` both have the gradient of b, except for v.

    Raises
    ------
    ValueError
        As for `decode`; or if the library has one bias alone, and v is not zero.
    """
    check_expressible(convention, cell)
    gates, rows = convention.gates, weights["W"]
    H = len(rows) // len(cell.gates)
    W = _to_layout(convention, _encoded(gates, cell.gates, rows, convention))
    U = None
    if cell.recurrent:
        U = _to_layout(convention, _encoded(gates, cell.gates, weights["U"], convention))
    of_x = of_h = peephole = None
    if "b" in weights or convention.forget_bias:
        bias = weights["b"].copy() if "b" in weights else host.xp.zeros(len(rows), rows.dtype)
        twice = gradients and convention.biases != "one"
        other = bias.copy() if twice else host.xp.zeros_like(bias)
        if "v" in weights:
            other[-H:] = weights["v"]
        if convention.forget_bias and not gradients:
            f = cell.gates.index("f")
            bias[f * H : (f + 1) * H] -= convention.forget_bias
        of_x = _encoded(gates, cell.gates, bias, convention)
        of_h = _encoded(gates, cell.gates, other, convention)
    if "p" in weights:
        peephole = _encoded(convention.peepholes, peephole_gates(cell), weights["p"], convention)
    b, recurrent_bias = _stored_biases(convention, of_x, of_h)
    projection = _turned(convention, weights["P"]) if "P" in weights else None
    gain = None
    if "gain" in weights:
        gains = dict(zip(cell.gates, host.xp.split(weights["gain"], len(cell.gates)), strict=True))
        gain = host.xp.concat([gains[k if k in gains else "i"] for k in gates])
    return Stored(W, U, b, recurrent_bias, peephole, projection, gain)


def peephole_gates(cell: Cell[Any]) -> tuple[str, ...]:
    """The gates of a cell that have peepholes, in the order of p."""
    return tuple(k for k in cell.gates if k != "g") if "p" in cell.extras else ()


def check_expressible(convention: Convention, cell: Cell[Any]) -> None:
    """Raise ValueError unless `decode` and `encode` can serve this cell."""
    for what, ours, theirs in (
        ("gates", cell.gates, convention.gates),
        ("peepholes", peephole_gates(cell), convention.peepholes),
    ):
        known = theirs + "i" if "f" in theirs else theirs
        if missing := [k for k in ours if k not in known]:
            raise ValueError(
                f"{cell.name}: {what} is {theirs!r}; it must have a letter for each of "
                f"{', '.join(ours)}, and {missing[0]} is missing"
            )
    after = "after" if "v" in cell.extras else "before"
    if "r" in cell.gates and convention.reset not in ("", after):
        raise ValueError(
            f"{cell.name}: its reset gate acts {after} the product with U; it must act "
            f"{convention.reset} it, as in the library that stored the weights"
        )
    turned = convention.z == "takes" and "z" in cell.gates
    turned = turned or ("i" in cell.gates and "i" not in convention.gates)
    name, _, beta = _activation_of_gates(cell)
    if turned and not (name == "sigmoid" or (name in ("hard_sigmoid", "affine") and beta == 0.5)):
        raise ValueError(
            f"{cell.name}: the gates have the activation function {name}, for which 1 − σ(a) is "
            "not σ(−a); weights of a gate that is 1 minus the one here cannot be converted"
        )


def _activation_of_gates(cell: Cell[Any]) -> Spec:
    options = cell.made.cell.made if isinstance(cell.made, Zoneout) else cell.made
    return ("sigmoid", 0.0, 0.0) if options is None else options.activations[0]


# ---- One array: gates, signs, layouts


def _decoded(gates: str, ours: Sequence[str], rows: Array, convention: Convention) -> Array:
    """The blocks of rows in the order of our gates."""
    blocks = dict(zip(gates, host.xp.split(rows, len(gates)), strict=True))
    found = []
    for k in ours:
        if k == "z" and convention.z == "takes":
            found.append(-blocks[k])
        else:
            # Coupled gates: i = 1 − f = σ(−a_f).
            found.append(blocks[k] if k in blocks else -blocks["f"])
    return host.xp.concat(found)


def _encoded(gates: str, ours: Sequence[str], rows: Array, convention: Convention) -> Array:
    """The blocks of rows in the order of the library's gates."""
    blocks = dict(zip(ours, host.xp.split(rows, len(ours)), strict=True))
    found = []
    for k in gates:
        if k == "z" and convention.z == "takes":
            found.append(-blocks[k])
        elif k in blocks:
            found.append(blocks[k])
        else:
            # Coupled gates: f is computed from i here; a library that has both does not read f.
            found.append(host.xp.zeros_like(blocks["i"]) if "i" in gates else -blocks["i"])
    return host.xp.concat(found)


def _from_layout(convention: Convention, matrix: Array) -> Array:
    """(G·H, n) of a stored matrix."""
    if convention.layout == "rows":
        return matrix
    if convention.layout == "columns":
        return matrix.T
    blocks = host.xp.split(matrix, len(convention.gates), axis=1)
    return host.xp.concat([block.reshape(block.shape[::-1]) for block in blocks])


def _to_layout(convention: Convention, rows: Array) -> Array:
    """The stored matrix of one of (G·H, n)."""
    if convention.layout == "rows":
        return rows
    if convention.layout == "columns":
        return rows.T
    blocks = host.xp.split(rows, len(convention.gates))
    return host.xp.concat([block.reshape(block.shape[::-1]) for block in blocks], axis=1)


def _turned(convention: Convention, projection: Array) -> Array:
    """A stored projection of P (P, H), and back; it has no blocks."""
    return projection if convention.layout == "rows" else projection.T


def _two_biases(convention: Convention, stored: Stored) -> tuple[Array | None, Array | None]:
    """The biases (G·H,) of the inputs and of the recurrent product."""
    b, recurrent_bias = stored.b, stored.recurrent_bias
    if b is None and recurrent_bias is not None:
        b = host.xp.zeros_like(recurrent_bias)
    if b is None or convention.biases in ("one", "two"):
        return b, recurrent_bias
    halves = b if convention.biases == "stacked" else host.xp.split(b, 2)
    return halves[0], halves[1]


def _stored_biases(
    convention: Convention, of_x: Array | None, of_h: Array | None
) -> tuple[Array | None, Array | None]:
    """The two biases as they are stored: the inverse of `_two_biases`."""
    if of_x is None or convention.biases == "two":
        return of_x, of_h
    if convention.biases == "stacked":
        return host.xp.stack([of_x, of_h]), None
    if convention.biases == "joined":
        return host.xp.concat([of_x, of_h]), None
    if of_h is not None and of_h.any():
        raise ValueError(
            "v is not zero, and there is one bias alone, which the reset gate does not multiply; "
            "weights with v cannot be converted"
        )
    return of_x, None
