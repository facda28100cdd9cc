"""JANET: the LSTM with its forget gate alone.

f_t = σ(s_t),  s_t = W_f x_t + U_f h_{t-1} + b_f    (1)   forget gate: 1 keeps the old state
i_t = 1 − σ(s_t − β),  β = 1                        (2)   what is taken of the candidate
g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)             (3)   candidate
h_t = f_t ⊙ h_{t-1} + i_t ⊙ g_t                     (4)

Source: van der Westhuizen & Lasenby (2018), arXiv:1804.04849, section 3, whose c̃ and c are g and h
here.
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope, tanh_slope
from xrnn.cells.base import Cell, blocks
from xrnn.typing import Array, Contribution, HState, Namespace, State, Weights

BETA = 1.0


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    (h_prev,) = state
    s, a_g = blocks(ax + h_prev @ weights["U"].T, 2)
    f = sigmoid(s, xp=xp)  # (1)
    i = sigmoid(BETA - s, xp=xp)  # (2): 1 − σ(a) = σ(−a)
    g = xp.tanh(a_g)  # (3)
    h = f * h_prev + i * g  # (4)
    return (h,), (f, g, i, h_prev)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,) = dstate
    f, g, i, h_prev = saved
    df, dh_prev = dh * h_prev, dh * f  # (4)
    di, dg = dh * g, dh * i
    da_g = dg * tanh_slope(g)  # (3)
    ds = df * sigmoid_slope(f) - di * sigmoid_slope(i)  # (2), (1)
    da = xp.concat((ds, da_g), axis=-1)
    return da, (dh_prev + da @ weights["U"],), {"U": ((da, h_prev),)}


JANET: Cell[HState] = Cell(
    name="janet",
    gates=("f", "g"),
    step=step,
    step_backward=step_backward,
)
