"""LSTM with peepholes: the gates also look at the cell state.

i_t = σ(W_i x_t + U_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)    (1)   input gate
f_t = σ(W_f x_t + U_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)    (2)   forget gate
g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)                 (3)   candidate
c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t                         (4)
o_t = σ(W_o x_t + U_o h_{t-1} + p_o ⊙ c_t + b_o)        (5)   output gate: sees the new c
h_t = o_t ⊙ tanh(c_t)                                   (6)

The weight p (3·H,) holds p_i, p_f, p_o.

Sources: Gers & Schmidhuber (2000); Greff et al., "LSTM: A Search Space Odyssey" (2017),
section II, whose z is g here, and its appendix for the backward pass.
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope, tanh_slope
from xrnn.cells.base import Cell, blocks
from xrnn.typing import Array, Contribution, HCState, Namespace, State, Weights


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    h_prev, c_prev = state
    p_i, p_f, p_o = blocks(weights["p"], 3)
    a_i, a_f, a_g, a_o = blocks(ax + h_prev @ weights["U"].T, 4)
    i = sigmoid(a_i + p_i * c_prev, xp=xp)  # (1)
    f = sigmoid(a_f + p_f * c_prev, xp=xp)  # (2)
    g = xp.tanh(a_g)  # (3)
    c = f * c_prev + i * g  # (4)
    o = sigmoid(a_o + p_o * c, xp=xp)  # (5)
    tanh_c = xp.tanh(c)
    h = o * tanh_c  # (6)
    return (h, c), (i, f, g, o, c_prev, c, tanh_c, h_prev)


def total(dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State:
    dh, dc = dstate
    _, _, _, o, _, _, tanh_c, _ = saved
    _, _, p_o = blocks(weights["p"], 3)
    da_o = dh * tanh_c * sigmoid_slope(o)
    return dh, dc + dh * o * tanh_slope(tanh_c) + p_o * da_o  # (5), (6)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    dh, dc = total(dstate, saved, weights, xp=xp)
    i, f, g, o, c_prev, c, tanh_c, h_prev = saved
    p_i, p_f, _ = blocks(weights["p"], 3)
    do = dh * tanh_c  # (6)
    da_o = do * sigmoid_slope(o)  # (5)
    df, dc_prev = dc * c_prev, dc * f  # (4)
    di, dg = dc * g, dc * i
    da_g = dg * tanh_slope(g)  # (3)
    da_f = df * sigmoid_slope(f)  # (2)
    da_i = di * sigmoid_slope(i)  # (1)
    dc_prev = dc_prev + p_f * da_f + p_i * da_i
    da = xp.concat((da_i, da_f, da_g, da_o), axis=-1)
    dh_prev = da @ weights["U"]
    dp = xp.concat((da_i * c_prev, da_f * c_prev, da_o * c), axis=-1)
    return da, (dh_prev, dc_prev), {"U": ((da, h_prev),), "p": dp}


PeepholeLSTM: Cell[HCState] = Cell(
    name="peephole",
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    extras={"p": (3,)},
    step=step,
    step_backward=step_backward,
    total=total,
)
