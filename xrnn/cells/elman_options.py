"""The simple recurrent network with another activation function, and a limit.

h_t = φ(a),  a = W x_t + U h_{t-1} + b      (1)

- `activations`: φ; the usual one is tanh.
- `clip`: the pre-activations a are limited to ±clip, and the derivative where this limit is
  reached is 0.
- `recurrent_dropout`: in training (1) has d ⊙ h_{t-1} in the place of h_{t-1}, with a mask d for
  each sequence that is 0 or 1/(1 − p).

Source: the operator RNN of ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, ClassVar

from xrnn.cells.activations import activate, limited, limited_slope, slope
from xrnn.cells.base import Cell
from xrnn.cells.elman import Elman, ElmanReLU
from xrnn.cells.noise import dropout_noise, dropped, dropped_backward, rate_of, without_mask
from xrnn.cells.options import GivenActivations, Options, activations_of, limit_of
from xrnn.cells.zoneout import with_zoneout, zoneout_rates
from xrnn.typing import Array, Contribution, HState, Namespace, State, Weights


@dataclass(frozen=True)
class RNNOptions(Options):
    """The options of a simple recurrent network, checked; see `rnn_with`."""

    kind: ClassVar[str] = "rnn"
    usual: ClassVar[tuple[str, ...]] = ("tanh",)


def rnn_with(
    *,
    activations: GivenActivations = None,
    clip: float | None = None,
    zoneout: float = 0.0,
    recurrent_dropout: float = 0.0,
) -> Cell[HState]:
    """The cell of the simple recurrent network with these options; without any it is `Elman`.

    Parameters
    ----------
    activations : sequence of 1, optional
        φ: a name of `xrnn.cells.activations.ACTIVATIONS`, or (name, alpha) or
        (name, alpha, beta).
    clip : float, optional
        What the pre-activations are limited to.
    zoneout : float
        The probability that a unit keeps its old value in training, see `with_zoneout`.
    recurrent_dropout : float
        The fraction of h_{t-1} that the product with U does not see in training.

    Returns
    -------
    Cell
        The same one for the same options.

    Raises
    ------
    TypeError, ValueError
        If an option is of a wrong type or out of range.

    Examples
    --------
    >>> from xrnn import cells
    >>> cells.rnn_with(activations=["softsign"])
    <cell rnn(activations=[softsign])>
    >>> cells.rnn_with(activations=["relu"]) is cells.ElmanReLU
    True
    """
    phi = activations_of("rnn", activations, RNNOptions.usual)
    limit = limit_of("rnn", "clip", clip)
    options = RNNOptions(phi, limit, rate_of("rnn", "recurrent_dropout", recurrent_dropout))
    return with_zoneout(made(options), *zoneout_rates("rnn", 1, zoneout))


@cache
def made(options: RNNOptions) -> Cell[HState]:
    """The cell of these options."""
    if options.name in ("rnn", "rnn(activations=[relu])"):
        return Elman if options.name == "rnn" else ElmanReLU

    def step(ax: Array, state: State, weights: Weights, *, xp: Namespace) -> tuple[State, Any]:
        return _step(options, ax, state, weights, xp=xp)

    def step_backward(
        dstate: State, saved: Any, weights: Weights, *, xp: Namespace
    ) -> tuple[Array, State, dict[str, Contribution]]:
        return _step_backward(options, dstate, saved, weights, xp=xp)

    return Cell(
        name=options.name,
        gates=("h",),
        step=step,
        step_backward=step_backward,
        noise=dropout_noise(options.recurrent_dropout),
        analytic=options.analytic,
        options=options,
        maker=made,
    )


def _step(
    o: RNNOptions, ax: Array, state: State, weights: Weights, *, xp: Namespace
) -> tuple[State, Any]:
    (h_prev,), (phi,) = state, o.activations
    q, mask = dropped(o.recurrent_dropout, h_prev, weights, xp=xp)
    a = ax + q @ weights["U"].T
    if o.clip < inf:
        a = limited(a, o.clip, xp=xp)
    h = activate(phi, a, xp=xp)  # (1)
    return (h,), (h, a, q, *mask)


def _step_backward(
    o: RNNOptions, dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    (dh,), (phi,) = dstate, o.activations
    (h, a, q), mask = without_mask(o.recurrent_dropout, saved)
    da = dh * slope(phi, a, h, xp=xp)  # (1)
    if o.clip < inf:
        da = da * limited_slope(a, o.clip, xp=xp)
    dh_prev = dropped_backward(da @ weights["U"], mask)
    return da, (dh_prev,), {"U": ((da, q),)}
