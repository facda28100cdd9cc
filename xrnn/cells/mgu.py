"""The minimal gated unit: one gate that both resets and updates.

u_t = σ(W_u x_t + U_u h_{t-1} + b_u)               (1)   update gate: 0 keeps the old state
n_t = tanh(W_n x_t + U_n (u_t ⊙ h_{t-1}) + b_n)    (2)   candidate
h_t = (1 − u_t) ⊙ h_{t-1} + u_t ⊙ n_t              (3)

Source: Zhou, Wu, Zhang & Zhou (2016), arXiv:1603.09420, eqs 6-8, whose f and h̃ are u and n here.
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope, tanh_slope
from xrnn.cells.base import Cell, blocks
from xrnn.typing import Array, Contribution, HState, Namespace, State, Weights


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    (h_prev,) = state
    U_u, U_n = _rows(weights["U"])
    x_u, x_n = blocks(ax, 2)
    u = sigmoid(x_u + h_prev @ U_u.T, xp=xp)  # (1)
    q = u * h_prev
    n = xp.tanh(x_n + q @ U_n.T)  # (2)
    h = (1 - u) * h_prev + u * n  # (3)
    return (h,), (u, n, q, h_prev)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,) = dstate
    u, n, q, h_prev = saved
    U_u, U_n = _rows(weights["U"])
    du, dn, dh_prev = dh * (n - h_prev), dh * u, dh * (1 - u)  # (3)
    da_n = dn * tanh_slope(n)  # (2)
    dq = da_n @ U_n
    du, dh_prev = du + dq * h_prev, dh_prev + dq * u
    da_u = du * sigmoid_slope(u)  # (1)
    dax = xp.concat((da_u, da_n), axis=-1)
    return dax, (dh_prev + da_u @ U_u,), {"U": ((da_u, h_prev), (da_n, q))}


def _rows(U: Array) -> tuple[Array, Array]:
    """The rows of U that take h_{t-1}, and those that take u_t ⊙ h_{t-1}."""
    H = U.shape[1]
    return U[:H, :], U[H:, :]


MGU: Cell[HState] = Cell(
    name="mgu",
    gates=("u", "n"),
    step=step,
    step_backward=step_backward,
)
