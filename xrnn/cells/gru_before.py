"""Gated recurrent unit, reset gate before the product (as published).

z_t = σ(W_z x_t + U_z h_{t-1} + b_z)               (1)   update gate: 1 keeps the old state
r_t = σ(W_r x_t + U_r h_{t-1} + b_r)               (2)   reset gate
n_t = tanh(W_n x_t + U_n (r_t ⊙ h_{t-1}) + b_n)    (3)   candidate
h_t = z_t ⊙ h_{t-1} + (1 − z_t) ⊙ n_t              (4)

The rows of the weights stand in the order r, z, n, as in `GRU`.

Sources: Cho et al. (2014), arXiv:1406.1078v3; derivation "ReLU RNN, LSTM and GRU", eqs 58-61, whose
W_h, U_h, h̃ are W_n, U_n, n here.  ONNX calls this cell linear_before_reset=0, Keras
reset_after=False.  Backward: the same derivation, eqs 74-87 (corrected: see the errata in
``xrnn/guide/derivations.md``).
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope, tanh_slope
from xrnn.cells.base import Cell, blocks
from xrnn.typing import Array, Contribution, HState, Namespace, State, Weights


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    (h_prev,) = state
    U_rz, U_n = _rows(weights["U"])
    a_r, a_z, x_n = blocks(ax, 3)
    u_r, u_z = blocks(h_prev @ U_rz.T, 2)
    z = sigmoid(a_z + u_z, xp=xp)  # (1)
    r = sigmoid(a_r + u_r, xp=xp)  # (2)
    q = r * h_prev
    n = xp.tanh(x_n + q @ U_n.T)  # (3)
    h = z * h_prev + (1 - z) * n  # (4)
    return (h,), (r, z, n, q, h_prev)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,) = dstate
    r, z, n, q, h_prev = saved
    U_rz, U_n = _rows(weights["U"])
    dz, dh_prev = dh * (h_prev - n), dh * z  # (4)
    dn = dh * (1 - z)
    da_n = dn * tanh_slope(n)  # (3)
    dq = da_n @ U_n
    dr, dh_prev = dq * h_prev, dh_prev + dq * r
    da_r = dr * sigmoid_slope(r)  # (2)
    da_z = dz * sigmoid_slope(z)  # (1)
    da_rz = xp.concat((da_r, da_z), axis=-1)
    dh_prev = dh_prev + da_rz @ U_rz
    dax = xp.concat((da_rz, da_n), axis=-1)
    return dax, (dh_prev,), {"U": ((da_rz, h_prev), (da_n, q))}


def _rows(U: Array) -> tuple[Array, Array]:
    """The rows of U that take h_{t-1}, and those that take r_t ⊙ h_{t-1}."""
    H = U.shape[1]
    return U[: 2 * H, :], U[2 * H :, :]


GRUBefore: Cell[HState] = Cell(
    name="gru-before",
    gates=("r", "z", "n"),
    step=step,
    step_backward=step_backward,
)
