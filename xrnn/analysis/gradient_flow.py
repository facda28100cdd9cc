"""The size of the gradient of the state at every step."""

from __future__ import annotations

from typing import Any

from xrnn.analysis.gates import gate_gradients
from xrnn.backends import host
from xrnn.engine.tape import Tape
from xrnn.recurrence.precision import widen
from xrnn.typing import Array, GivenState, Namespace


@host.ignore_underflow
def gradient_flow(
    tape: Tape[Any], dys: Array | None = None, dstate: GivenState | None = None
) -> dict[str, Array]:
    """The norms of ∂L/∂h_t and ∂L/∂c_t at every step.

    They show whether gradients vanish or explode on their way to earlier steps.

    Parameters
    ----------
    tape : Tape
        From `xrnn.unroll` or `xrnn.Layer.forward`.
    dys, dstate
        As for `xrnn.unroll_backward`, or for `xrnn.Layer.backward`.

    Returns
    -------
    dict of str to array (T,)
        For each of ``cell.states`` the Euclidean norm, over sequences and units, of the
        gradient of the state after step t (float32 where the layer has half precision); from a
        layer under ``h_l0``, ``h_l0_reverse`` …

    Raises
    ------
    TypeError, ValueError
        As `xrnn.unroll_backward` and `xrnn.Layer.backward`.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> ys, state, tape = xrnn.RNN(3, 5, init="uniform").forward(np.ones((50, 2, 3), "float32"))
    >>> dys = np.zeros_like(ys)
    >>> dys[-1] = 1  # the loss depends on the last step alone
    >>> norms = xrnn.analysis.gradient_flow(tape, dys)["h_l0"]
    >>> bool(norms[0] < 1e-3 * norms[-1])
    True
    """
    # Sums over sequences, such as gradients of weights, may overflow where no norm does.
    with host.xp.errstate(over="ignore", invalid="ignore"):
        _, dstates = gate_gradients(tape, dys, dstate)
    time = 1 if tape.axes.batch_first and not tape.unbatched else 0
    return {name: _norms(d, time, xp=tape.axes.xp) for name, d in dstates.items()}


def _norms(d: Array, time: int, *, xp: Namespace) -> Array:
    """The Euclidean norm of each step; the axis of the steps is `time`."""
    axes = tuple(n for n in range(d.ndim) if n != time)
    d = widen(d, xp=xp)
    if 0 in d.shape:
        return xp.sum(d, axis=axes)
    # Divided by the largest first, so that no square overflows or is rounded to 0.
    largest = xp.max(xp.abs(d), axis=axes, keepdims=True)
    usable = (largest > 0) & xp.isfinite(largest)
    scale = xp.where(usable, largest, xp.ones_like(largest))
    return xp.reshape(scale, (-1,)) * xp.sqrt(xp.sum((d / scale) ** 2, axis=axes))
