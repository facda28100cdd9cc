"""The values of every gate and state at every step, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xrnn.backends import host
from xrnn.cells.base import blocks
from xrnn.engine import stack
from xrnn.engine.bound_cell import Pass
from xrnn.engine.tape import Tape
from xrnn.recurrence.loop import Residuals, Trace
from xrnn.recurrence.masks import apply_mask
from xrnn.recurrence.precision import cast
from xrnn.typing import Array, GivenState, Gradients


@host.ignore_underflow
def gates(tape: Tape[Any]) -> dict[str, Array]:
    """The values of every gate, and of every state beyond h, at every step.

    The cell's own code computes them again from the inputs that the tape refers to, whichever
    kernel ran the forward pass.  So the forward pass need not store them.

    Parameters
    ----------
    tape : Tape
        From `xrnn.unroll` or `xrnn.Layer.forward`.

    Returns
    -------
    dict of str to array (T, B, H)
        For each of ``cell.gates`` its value after the activation, and c_t where the cell has
        a c; exactly 0 past a sequence's end, and at masked steps.  For the tape of a layer the
        names have the same endings as those of its weights, ``f_l0``, ``f_l0_reverse``, ``c_l0``
        …, and the axes are in the order of its inputs: (B, T, H) with ``batch_first``.

    Raises
    ------
    TypeError, ValueError
        If `tape` is not a tape, or the weights have changed since.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.LSTM(3, 5)
    >>> ys, state, tape = layer.forward(np.ones((7, 2, 3), "float32"))
    >>> values = xrnn.analysis.gates(tape)
    >>> sorted(values)
    ['c_l0', 'f_l0', 'g_l0', 'i_l0', 'o_l0']
    >>> values["f_l0"].shape
    (7, 2, 5)
    >>> np.allclose(ys, values["o_l0"] * np.tanh(values["c_l0"]))
    True
    """
    check_tape(tape)
    named = tape.named(tape.over_runs([_values(one) for one in tape.passes]))
    return {name: tape.to_user(a) for name, a in named.items()}


@host.ignore_underflow
def gate_gradients(
    tape: Tape[Any], dys: Array | None = None, dstate: GivenState | None = None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The gradients of every gate and of every state, at every step.

    The cell's own code computes them, whichever kernel ran the forward pass.

    Parameters
    ----------
    tape : Tape
        From `xrnn.unroll` or `xrnn.Layer.forward`.
    dys, dstate
        As for `xrnn.unroll_backward`, or for `xrnn.Layer.backward`.

    Returns
    -------
    dgates : dict of str to array (T, B, H)
        For each of ``cell.gates`` the gradient of its pre-activation (the argument of its
        activation function), including its effects on all later steps: δ in the derivation
        "ReLU RNN, LSTM and GRU", eqs 38-40, 42, 74-76 (corrected: see the errata in
        ``xrnn/guide/derivations.md``).  In a cell with layer norm that of W x_t, before it is
        normalised; with a limit `clip` that of the sum before it is limited.
    dstates : dict of str to array (T, B, H)
        For each of ``cell.states`` the gradient ∂L/∂h_t, ∂L/∂c_t of the state after step t,
        including all its effects on later steps.

    All are exactly 0 past a sequence's end, and at masked steps.  Names and axes are as for
    `gates`.

    Raises
    ------
    TypeError, ValueError
        As `xrnn.unroll_backward` and `xrnn.Layer.backward`.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.GRU(3, 5)
    >>> ys, state, tape = layer.forward(np.ones((7, 2, 3), "float32"))
    >>> dgates, dstates = xrnn.analysis.gate_gradients(tape, np.ones_like(ys))
    >>> sorted(dgates), sorted(dstates)
    (['n_l0', 'r_l0', 'z_l0'], ['h_l0'])
    """
    check_tape(tape)
    given, dlasts = tape.gradients_given(dys, dstate)
    traces: dict[int, tuple[Trace, Residuals]] = {}

    def traced(part: list[Pass], ds: list[Any], lasts: list[Any], omitted: bool) -> list[Gradients]:
        found = []
        for one, dy, dlast in zip(part, ds, lasts, strict=True):
            gradients, trace, residuals = one.traced_backward(dy, dlast)
            traces[id(one)] = trace, residuals
            found.append(gradients)
        return found

    pairs = []
    for run, ends in zip(tape.runs, tape.gradients_of_runs(given, dlasts), strict=True):
        stack.backward(run.passes, run.masks, tape.axes.D, *ends, traced)
        pairs += [_gradients(one, *traces[id(one)]) for one in run.passes]
    named = (tape.named(tape.over_runs([pair[n] for pair in pairs])) for n in (0, 1))
    dgates, dstates = ({k: tape.to_user(a) for k, a in part.items()} for part in named)
    return dgates, dstates


def check_tape(tape: Tape[Any]) -> None:
    """Raise an error if `tape` is not a tape, or the weights have changed since."""
    if not isinstance(tape, Tape):
        raise TypeError(
            f"tape is a {type(tape).__name__}; it must be the tape that xrnn.unroll or a "
            "layer's forward returned"
        )
    tape.check_unchanged()


def _values(one: Pass) -> dict[str, Array]:
    G, cell = len(one.bound.cell.gates), one.bound.cell
    residuals, states = one.replay()
    rows = [(*step[:G], *state[1:]) for step, state in zip(residuals.steps, states, strict=True)]
    return {
        name: _over_time([row[n] for row in rows], one, residuals.mask, one.bound.H)
        for n, name in enumerate((*cell.gates, *cell.states[1:]))
    }


def _gradients(
    one: Pass, trace: Trace, residuals: Residuals
) -> tuple[dict[str, Array], dict[str, Array]]:
    cell, weights, xp = one.bound.cell, one.computed().bound.weights, one.bound.xp
    steps, n, mask = range(len(residuals.steps)), len(cell.gates), residuals.mask
    totals = [cell.total(trace.states[t], residuals.steps[t], weights, xp=xp) for t in steps]
    dgates = {
        name: _over_time([blocks(trace.das[t], n)[k] for t in steps], one, mask, one.bound.H)
        for k, name in enumerate(cell.gates)
    }
    dstates = {
        name: _over_time([total[k] for total in totals], one, mask, one.bound.widths[k])
        for k, name in enumerate(cell.states)
    }
    return dgates, dstates


def _over_time(arrays: Sequence[Array], one: Pass, mask: Array | None, width: int) -> Array:
    """T arrays (B, width) of a pass as one (T, B, width), 0 where mask (T, B, 1) is False."""
    xp = one.bound.xp
    if not arrays:
        return one.bound.placement.zeros((0, one.first[0].shape[0], width))
    a = cast(xp.stack(arrays), one.xs.dtype, xp=xp)
    return a if mask is None else apply_mask(mask, a, xp=xp)
