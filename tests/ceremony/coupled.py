"""Long short-term memory whose input gate is what the forget gate leaves: i = 1 − f.

f_t = σ(W_f x_t + U_f h_{t-1} + b_f)           (1)   forget gate
g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)        (2)   candidate
o_t = σ(W_o x_t + U_o h_{t-1} + b_o)           (3)   output gate
c_t = f_t ⊙ c_{t-1} + (1 − f_t) ⊙ g_t          (4)
h_t = o_t ⊙ tanh(c_t)                          (5)

Source: Greff et al., "LSTM: A Search Space Odyssey" (2017), section III (CIFG).
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope, tanh_slope
from xrnn.cells.base import Cell, blocks
from xrnn.typing import Array, Contribution, HCState, Namespace, State, Weights


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    h_prev, c_prev = state
    a_f, a_g, a_o = blocks(ax + h_prev @ weights["U"].T, 3)
    f = sigmoid(a_f, xp=xp)  # (1)
    g = xp.tanh(a_g)  # (2)
    o = sigmoid(a_o, xp=xp)  # (3)
    c = f * c_prev + (1 - f) * g  # (4)
    tanh_c = xp.tanh(c)
    h = o * tanh_c  # (5)
    return (h, c), (f, g, o, c_prev, tanh_c, h_prev)


def total(dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State:
    dh, dc = dstate
    _, _, o, _, tanh_c, _ = saved
    return dh, dc + dh * o * tanh_slope(tanh_c)  # (5)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    dh, dc = total(dstate, saved, weights, xp=xp)
    f, g, o, c_prev, tanh_c, h_prev = saved
    do = dh * tanh_c  # (5)
    df, dc_prev, dg = dc * (c_prev - g), dc * f, dc * (1 - f)  # (4)
    da_o = do * sigmoid_slope(o)  # (3)
    da_g = dg * tanh_slope(g)  # (2)
    da_f = df * sigmoid_slope(f)  # (1)
    da = xp.concat((da_f, da_g, da_o), axis=-1)
    dh_prev = da @ weights["U"]
    return da, (dh_prev, dc_prev), {"U": ((da, h_prev),)}


CoupledLSTM: Cell[HCState] = Cell(
    name="coupled",
    gates=("f", "g", "o"),
    states=("h", "c"),
    step=step,
    step_backward=step_backward,
    total=total,
)
