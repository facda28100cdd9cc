"""An LSTM with a projection, a cell whose h is narrower than its c, as tests define it.

h = P (o ⊙ tanh c), and U acts on this h; all else as in `xrnn.cells.LSTM`.  Source: Sak, Senior &
Beaufays, "Long short-term memory based recurrent neural network architectures" (2014).
"""

from __future__ import annotations

from typing import Any

from xrnn.cells import LSTM
from xrnn.cells.activations import tanh_slope
from xrnn.cells.base import Cell
from xrnn.typing import Array, Contribution, HCState, Namespace, State, Weights


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    (m, c), saved = LSTM.step(ax, state, weights, xp=xp)
    return (m @ weights["P"].T, c), (*saved, m)


def total(dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State:
    dh, dc = dstate
    o, tanh_c = saved[3], saved[5]
    return dh, dc + (dh @ weights["P"]) * o * tanh_slope(tanh_c)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    dh, dc = dstate
    *saved, m = saved
    da, dprev, dweights = LSTM.step_backward((dh @ weights["P"], dc), saved, weights, xp=xp)
    return da, dprev, {**dweights, "P": ((dh, m),)}


PROJECTED: Cell[HCState] = Cell(
    name="projected",
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    step=step,
    step_backward=step_backward,
    total=total,
    projection=3,
)
