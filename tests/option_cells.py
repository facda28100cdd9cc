"""Cells with options in NumPy, equation by equation: what the native loops with options must equal.

`cell_with(family, options)` gives a cell whose gates are those of `xrnn.cells`; with coupled gates
i, g, o and, if it has peepholes, p = (p_i, p_o).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from xrnn.cells.base import Cell, blocks
from xrnn.typing import Array

Spec = tuple[str, float, float]

#: the activation functions of the cells without options
USUAL: dict[str, tuple[Spec, ...]] = {
    "lstm": (("sigmoid", 0, 0), ("tanh", 0, 0), ("tanh", 0, 0)),
    "gru": (("sigmoid", 0, 0), ("tanh", 0, 0)),
    "gru-before": (("sigmoid", 0, 0), ("tanh", 0, 0)),
    "rnn": (("tanh", 0, 0),),
}


@dataclass(frozen=True)
class Options:
    """The options of a cell."""

    activations: tuple[Spec, ...]
    clip: float | None = None
    cell_clip: float | None = None
    coupled: bool = False
    peephole: bool = False


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


VALUES: dict[str, Callable[[Array, float, float], Array]] = {
    "sigmoid": lambda x, a, b: sigmoid(x),
    "tanh": lambda x, a, b: np.tanh(x),
    "relu": lambda x, a, b: np.maximum(x, 0),
    "hard_sigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "affine": lambda x, a, b: a * x + b,
    "leaky_relu": lambda x, a, b: np.where(x <= 0, a * x, x),
    "thresholded_relu": lambda x, a, b: np.where(x <= a, 0, x),
    "scaled_tanh": lambda x, a, b: a * np.tanh(b * x),
    "elu": lambda x, a, b: np.where(x <= 0, a * np.expm1(np.minimum(x, 0)), x),
    "softsign": lambda x, a, b: x / (1 + abs(x)),
    "softplus": lambda x, a, b: np.logaddexp(0, x),
}

SLOPES: dict[str, Callable[[Array, float, float], Array]] = {
    "sigmoid": lambda x, a, b: sigmoid(x) * sigmoid(-x),
    "tanh": lambda x, a, b: 1 - np.tanh(x) ** 2,
    "relu": lambda x, a, b: 1.0 * (x > 0),
    "hard_sigmoid": lambda x, a, b: a * ((a * x + b > 0) & (a * x + b < 1)),
    "affine": lambda x, a, b: np.full_like(x, a),
    "leaky_relu": lambda x, a, b: np.where(x <= 0, a, 1.0),
    "thresholded_relu": lambda x, a, b: 1.0 * (x > a),
    "scaled_tanh": lambda x, a, b: a * b * (1 - np.tanh(b * x) ** 2),
    "elu": lambda x, a, b: np.where(x <= 0, a * np.exp(np.minimum(x, 0)), 1.0),
    "softsign": lambda x, a, b: 1 / (1 + abs(x)) ** 2,
    "softplus": lambda x, a, b: sigmoid(x),
}


def value(spec: Spec, limit: float | None, x: Array) -> Array:
    """The activation of the limited pre-activation."""
    name, a, b = spec
    return VALUES[name](limited(x, limit), a, b)


def slope(spec: Spec, limit: float | None, x: Array) -> Array:
    """Its derivative: 0 outside the limit."""
    name, a, b = spec
    return SLOPES[name](limited(x, limit), a, b) * inside(x, limit)


def limited(x: Array, limit: float | None) -> Array:
    return x if limit is None else np.clip(x, -limit, limit)


def inside(x: Array, limit: float | None) -> Any:
    return 1.0 if limit is None else 1.0 * (abs(x) < limit)


def lstm_step(o: Options, ax: Array, state: Any, weights: Any, *, xp: Any) -> Any:
    h_prev, c_prev = state
    parts = list(blocks(ax + h_prev @ weights["U"].T, 3 if o.coupled else 4))
    p = list(blocks(weights["p"], len(parts) - 1)) if o.peephole else [0.0] * (len(parts) - 1)
    gate, candidate, output = o.activations
    a_i, a_g, a_o = parts[0] + p[0] * c_prev, parts[-2], parts[-1]
    i, g = value(gate, o.clip, a_i), value(candidate, o.clip, a_g)
    a_f = np.zeros_like(a_i) if o.coupled else parts[1] + p[1] * c_prev
    f = 1 - i if o.coupled else value(gate, o.clip, a_f)
    raw = f * c_prev + i * g
    c = limited(raw, o.cell_clip)
    a_o = a_o + p[-1] * c
    out = value(gate, o.clip, a_o)
    h = out * value(output, None, c)
    return (h, c), (i, f, g, out, a_i, a_f, a_g, a_o, raw, c, c_prev, h_prev)


def lstm_backward(o: Options, dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
    dh, dc = dstate
    i, f, g, out, a_i, a_f, a_g, a_o, raw, c, c_prev, h_prev = saved
    gate, candidate, output = o.activations
    G = 3 if o.coupled else 4
    p = list(blocks(weights["p"], G - 1)) if o.peephole else [0.0] * (G - 1)
    da_o = dh * value(output, None, c) * slope(gate, o.clip, a_o)
    dc = dc + dh * out * slope(output, None, c) + p[-1] * da_o
    dc = dc * inside(raw, o.cell_clip)
    da_g = dc * i * slope(candidate, o.clip, a_g)
    da_i = dc * (g - c_prev if o.coupled else g) * slope(gate, o.clip, a_i)
    da_f = dc * c_prev * slope(gate, o.clip, a_f)
    dc_prev = dc * f + p[0] * da_i
    if not o.coupled:
        dc_prev = dc_prev + p[1] * da_f
    das = (da_i, da_g, da_o) if o.coupled else (da_i, da_f, da_g, da_o)
    da = np.concatenate(das, axis=-1)
    found: dict[str, Any] = {"U": ((da, h_prev),)}
    if o.peephole:
        seen = [da_i * c_prev, *([] if o.coupled else [da_f * c_prev]), da_o * c]
        found["p"] = np.concatenate(seen, axis=-1)
    return da, (da @ weights["U"], dc_prev), found


def gru_step(o: Options, before: bool, ax: Array, state: Any, weights: Any, *, xp: Any) -> Any:
    (h_prev,) = state
    U_r, U_z, U_n = np.split(weights["U"], 3)
    x_r, x_z, x_n = blocks(ax, 3)
    gate, candidate = o.activations
    a_r, a_z = x_r + h_prev @ U_r.T, x_z + h_prev @ U_z.T
    r, z = value(gate, o.clip, a_r), value(gate, o.clip, a_z)
    m = (r * h_prev) @ U_n.T if before else h_prev @ U_n.T + weights["v"]
    a_n = x_n + (m if before else r * m)
    n = value(candidate, o.clip, a_n)
    return ((1 - z) * n + z * h_prev,), (r, z, n, a_r, a_z, a_n, m, h_prev)


def gru_backward(
    o: Options, before: bool, dstate: Any, saved: Any, weights: Any, *, xp: Any
) -> Any:
    (dh,) = dstate
    r, z, n, a_r, a_z, a_n, m, h_prev = saved
    U_r, U_z, U_n = np.split(weights["U"], 3)
    gate, candidate = o.activations
    da_n = dh * (1 - z) * slope(candidate, o.clip, a_n)
    da_z = dh * (h_prev - n) * slope(gate, o.clip, a_z)
    dh_prev = dh * z + da_z @ U_z
    if before:
        dq = da_n @ U_n
        da_r = dq * h_prev * slope(gate, o.clip, a_r)
        dh_prev = dh_prev + dq * r
        of_n: Any = (da_n, r * h_prev)
    else:
        dm = da_n * r
        da_r = da_n * m * slope(gate, o.clip, a_r)
        dh_prev = dh_prev + dm @ U_n
        of_n = (dm, h_prev)
    found: dict[str, Any] = {"U": ((da_r, h_prev), (da_z, h_prev), of_n)}
    if not before:
        found["v"] = da_n * r
    return np.concatenate((da_r, da_z, da_n), axis=-1), (dh_prev + da_r @ U_r,), found


def rnn_step(o: Options, ax: Array, state: Any, weights: Any, *, xp: Any) -> Any:
    (h_prev,) = state
    a = ax + h_prev @ weights["U"].T
    h = value(o.activations[0], o.clip, a)
    return (h,), (h, a, h_prev)


def rnn_backward(o: Options, dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
    (dh,) = dstate
    _, a, h_prev = saved
    da = dh * slope(o.activations[0], o.clip, a)
    return da, (da @ weights["U"],), {"U": ((da, h_prev),)}


def cell_with(family: str, o: Options) -> Cell[Any]:
    """The cell of a family with these options."""
    if family == "lstm":
        gates = ("i", "g", "o") if o.coupled else ("i", "f", "g", "o")
        return Cell(
            name="lstm with options",
            gates=gates,
            states=("h", "c"),
            extras={"p": (len(gates) - 1,)} if o.peephole else {},
            step=partial(lstm_step, o),
            step_backward=partial(lstm_backward, o),
        )
    if family == "rnn":
        steps = partial(rnn_step, o), partial(rnn_backward, o)
        return Cell("rnn with options", ("a",), *steps)
    before = family == "gru-before"
    return Cell(
        name=f"{family} with options",
        gates=("r", "z", "n"),
        extras={} if before else {"v": (1,)},
        step=partial(gru_step, o, before),
        step_backward=partial(gru_backward, o, before),
    )
