"""Gated recurrent unit, reset gate after the product (as in PyTorch and cuDNN).

r_t = σ(W_r x_t + U_r h_{t-1} + b_r)                    (1)   reset gate
z_t = σ(W_z x_t + U_z h_{t-1} + b_z)                    (2)   update gate: 1 keeps the old state
n_t = tanh(W_n x_t + b_n + r_t ⊙ (U_n h_{t-1} + v))     (3)   candidate
h_t = z_t ⊙ h_{t-1} + (1 − z_t) ⊙ n_t                   (4)

The bias v (H,) inside the reset is a weight of its own: r_t multiplies it, so it cannot be
summed into b_n as the recurrent biases of the two gates are into b_r and b_z.

Sources: Cho et al. (2014), first version, arXiv:1406.1078v1; `torch.nn.GRU`.
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope, tanh_slope
from xrnn.cells.base import Cell, blocks
from xrnn.typing import Array, Contribution, HState, Namespace, State, Weights


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    (h_prev,) = state
    x_r, x_z, x_n = blocks(ax, 3)
    u_r, u_z, u_n = blocks(h_prev @ weights["U"].T, 3)
    r = sigmoid(x_r + u_r, xp=xp)  # (1)
    z = sigmoid(x_z + u_z, xp=xp)  # (2)
    m = u_n + weights["v"]
    n = xp.tanh(x_n + r * m)  # (3)
    h = z * h_prev + (1 - z) * n  # (4)
    return (h,), (r, z, n, m, h_prev)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,) = dstate
    r, z, n, m, h_prev = saved
    dz, dh_prev = dh * (h_prev - n), dh * z  # (4)
    dn = dh * (1 - z)
    da_n = dn * tanh_slope(n)  # (3)
    dr, dm = da_n * m, da_n * r
    da_z = dz * sigmoid_slope(z)  # (2)
    da_r = dr * sigmoid_slope(r)  # (1)
    dax = xp.concat((da_r, da_z, da_n), axis=-1)
    du = xp.concat((da_r, da_z, dm), axis=-1)
    dh_prev = dh_prev + du @ weights["U"]
    return dax, (dh_prev,), {"U": ((du, h_prev),), "v": dm}


GRU: Cell[HState] = Cell(
    name="gru",
    gates=("r", "z", "n"),
    extras={"v": (1,)},
    biases=("b", "v"),
    step=step,
    step_backward=step_backward,
)
