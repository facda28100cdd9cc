"""The LSTM whose gates see only the input.

f_t = σ(W_f x_t + b_f)             (1)   forget gate
i_t = σ(W_i x_t + b_i)             (2)   input gate
o_t = σ(W_o x_t + b_o)             (3)   output gate
g_t = tanh(W_g x_t + b_g)          (4)   candidate
c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t    (5)
h_t = o_t ⊙ tanh(c_t)              (6)

There is no U: no gate depends on h_{t-1}.  So the backward pass passes only dc from step to step,
and the h of the first state is not read (its gradient is 0).  c follows a linear recurrence whose
coefficients do not depend on c.  The rows of W and b stand in the order i, f, g, o.

Source: derivation "Input-gated LSTM", lines 8-18, whose F, i, O, C' are f, i, o, g here.  Backward:
lines 198-366 (corrected: see the errata in ``xrnn/guide/derivations.md``).
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope, tanh_slope
from xrnn.cells.base import Cell, blocks
from xrnn.cells.linear import LinearRecurrence
from xrnn.typing import Array, Contribution, HCState, Namespace, State, Weights


def gates(ax: Array, *, xp: Namespace) -> tuple[Array, ...]:
    a_i, a_f, a_g, a_o = blocks(ax, 4)
    f = sigmoid(a_f, xp=xp)  # (1)
    i = sigmoid(a_i, xp=xp)  # (2)
    o = sigmoid(a_o, xp=xp)  # (3)
    g = xp.tanh(a_g)  # (4)
    return i, f, g, o


def recurrence(gates: tuple[Array, ...]) -> tuple[Array, Array]:
    i, f, g, _ = gates
    return f, i * g  # (5)


def finish(
    gates: tuple[Array, ...], c_prev: Array, c: Array, *, xp: Namespace
) -> tuple[State, tuple[Array, ...]]:
    *_, o = gates
    tanh_c = xp.tanh(c)
    h = o * tanh_c  # (6)
    return (h, c), (*gates, c_prev, tanh_c)


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    _, c_prev = state
    values = gates(ax, xp=xp)  # (1)-(4)
    f, u = recurrence(values)
    c = f * c_prev + u  # (5)
    return finish(values, c_prev, c, xp=xp)  # (6)


def total(dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State:
    dh, dc = dstate
    _, _, _, o, _, tanh_c = saved
    return dh, dc + dh * o * tanh_slope(tanh_c)  # (6)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    dh, dc = total(dstate, saved, weights, xp=xp)
    i, f, g, o, c_prev, tanh_c = saved
    do = dh * tanh_c  # (6)
    df, dc_prev = dc * c_prev, dc * f  # (5)
    di, dg = dc * g, dc * i
    da_g = dg * tanh_slope(g)  # (4)
    da_o = do * sigmoid_slope(o)  # (3)
    da_i = di * sigmoid_slope(i)  # (2)
    da_f = df * sigmoid_slope(f)  # (1)
    da = xp.concat((da_i, da_f, da_g, da_o), axis=-1)
    return da, (xp.zeros_like(dh), dc_prev), {}


InputGatedLSTM: Cell[HCState] = Cell(
    name="input-gated",
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    recurrent=False,
    step=step,
    step_backward=step_backward,
    total=total,
    linear=LinearRecurrence(gates, recurrence, finish),
)
