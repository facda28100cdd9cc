"""The simple recurrent network of Elman (1990), with tanh or ReLU.

h_t = tanh(W x_t + U h_{t-1} + b)      (1)      `Elman`
h_t = ReLU(W x_t + U h_{t-1} + b)      (2)      `ElmanReLU`

Sources: (1) derivations "Tanh RNN", eq. 2, and "Handwritten tanh RNN", F1-F2 (both exchange the
letters W and U); (2) derivation "ReLU RNN, LSTM and GRU", eq. 1.  Backward: the same, eqs 16-21
(corrected: see the errata in ``xrnn/guide/derivations.md``).
"""

from typing import Any

from xrnn.cells.activations import relu, relu_slope, tanh_slope
from xrnn.cells.base import Cell
from xrnn.typing import Array, Contribution, HState, Namespace, State, Weights


def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    (h_prev,) = state
    h = xp.tanh(ax + h_prev @ weights["U"].T)  # (1)
    return (h,), (h, h_prev)


def step_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,) = dstate
    h, h_prev = saved
    da = dh * tanh_slope(h)  # (1)
    dh_prev = da @ weights["U"]
    return da, (dh_prev,), {"U": ((da, h_prev),)}


def step_relu(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
    (h_prev,) = state
    h = relu(ax + h_prev @ weights["U"].T, xp=xp)  # (2)
    return (h,), (h, h_prev)


def step_relu_backward(
    dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,) = dstate
    h, h_prev = saved
    da = dh * relu_slope(h, xp=xp)  # (2)
    dh_prev = da @ weights["U"]
    return da, (dh_prev,), {"U": ((da, h_prev),)}


Elman: Cell[HState] = Cell(
    name="rnn",
    gates=("h",),
    step=step,
    step_backward=step_backward,
)

ElmanReLU: Cell[HState] = Cell(
    name="rnn-relu",
    gates=("h",),
    analytic=False,
    step=step_relu,
    step_backward=step_relu_backward,
)
