"""Long short-term memory with a forget gate.

i_t = σ(W_i x_t + U_i h_{t-1} + b_i)       (1)   input gate
f_t = σ(W_f x_t + U_f h_{t-1} + b_f)       (2)   forget gate
g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)    (3)   candidate
o_t = σ(W_o x_t + U_o h_{t-1} + b_o)       (4)   output gate
c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t            (5)
h_t = o_t ⊙ tanh(c_t)                      (6)

Sources: Hochreiter & Schmidhuber (1997), Gers, Schmidhuber & Cummins (2000); derivations "LSTM",
eqs 1-10, whose Γ_u, Γ_f, c̃, Γ_o, a are i, f, g, o, h here, and "ReLU RNN, LSTM and GRU",
eqs 25-30.  Backward: derivation "LSTM", section 3 (corrected: see the errata in
``xrnn/guide/derivations.md``).

In the code `ax` is W x_t + b for all gates side by side, and `dh`, `dc` are the gradients of the
new state.  Step t passes two gradients to step t−1: dh, and dc, in which h is held fixed; `total`
adds the effect of c on the loss through h.
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope, tanh_slope
from xrnn.cells.base import Cell, blocks
from xrnn.typing import Array, Contribution, HCState, Namespace, State, Weights


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    h_prev, c_prev = state
    a_i, a_f, a_g, a_o = blocks(ax + h_prev @ weights["U"].T, 4)
    i = sigmoid(a_i, xp=xp)  # (1)
    f = sigmoid(a_f, xp=xp)  # (2)
    g = xp.tanh(a_g)  # (3)
    o = sigmoid(a_o, xp=xp)  # (4)
    c = f * c_prev + i * g  # (5)
    tanh_c = xp.tanh(c)
    h = o * tanh_c  # (6)
    return (h, c), (i, f, g, o, c_prev, tanh_c, h_prev)


def total(dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State:
    dh, dc = dstate
    _, _, _, o, _, tanh_c, _ = saved
    return dh, dc + dh * o * tanh_slope(tanh_c)  # (6)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    dh, dc = total(dstate, saved, weights, xp=xp)
    i, f, g, o, c_prev, tanh_c, h_prev = saved
    do = dh * tanh_c  # (6)
    df, dc_prev = dc * c_prev, dc * f  # (5)
    di, dg = dc * g, dc * i
    da_o = do * sigmoid_slope(o)  # (4)
    da_g = dg * tanh_slope(g)  # (3)
    da_f = df * sigmoid_slope(f)  # (2)
    da_i = di * sigmoid_slope(i)  # (1)
    da = xp.concat((da_i, da_f, da_g, da_o), axis=-1)
    dh_prev = da @ weights["U"]
    return da, (dh_prev, dc_prev), {"U": ((da, h_prev),)}


LSTM: Cell[HCState] = Cell(
    name="lstm",
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    step=step,
    step_backward=step_backward,
    total=total,
)
