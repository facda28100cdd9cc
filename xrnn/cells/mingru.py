"""minGRU: a GRU without a reset gate whose gate and candidate see only the input.

z_t = σ(W_z x_t + b_z)                    (1)   update gate: 1 takes the candidate
n_t = W_n x_t + b_n                       (2)   candidate, without an activation
h_t = (1 − z_t) ⊙ h_{t-1} + z_t ⊙ n_t     (3)

As in the paper, z = 1 takes the new candidate; in `GRU`, z = 1 keeps the old state.

Source: Feng et al., "Were RNNs All We Needed?" (2024), arXiv:2410.01201, section 3.1.
"""

from typing import Any

from xrnn.cells.activations import sigmoid, sigmoid_slope
from xrnn.cells.base import Cell, blocks
from xrnn.cells.linear import LinearRecurrence
from xrnn.typing import Array, Contribution, HState, Namespace, State, Weights


def gates(ax: Array, *, xp: Namespace) -> tuple[Array, ...]:
    a_z, a_n = blocks(ax, 2)
    z = sigmoid(a_z, xp=xp)  # (1)
    n = a_n  # (2)
    return z, n


def recurrence(gates: tuple[Array, ...]) -> tuple[Array, Array]:
    z, n = gates
    return 1 - z, z * n  # (3)


def finish(
    gates: tuple[Array, ...], h_prev: Array, h: Array, *, xp: Namespace
) -> tuple[State, tuple[Array, ...]]:
    return (h,), (*gates, h_prev)


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    (h_prev,) = state
    values = gates(ax, xp=xp)  # (1), (2)
    f, u = recurrence(values)
    h = f * h_prev + u  # (3)
    return finish(values, h_prev, h, xp=xp)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,) = dstate
    z, n, h_prev = saved
    dz, dh_prev = dh * (n - h_prev), dh * (1 - z)  # (3)
    dn = dh * z
    da_n = dn  # (2)
    da_z = dz * sigmoid_slope(z)  # (1)
    return xp.concat((da_z, da_n), axis=-1), (dh_prev,), {}


MinGRU: Cell[HState] = Cell(
    name="mingru",
    gates=("z", "n"),
    recurrent=False,
    linear=LinearRecurrence(gates, recurrence, finish),
    step=step,
    step_backward=step_backward,
)
