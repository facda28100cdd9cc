"""The recurrence as a dynamical system: Jacobians and Lyapunov exponents of its state.

∂h_n/∂h_k = Π_{k≤t<n} ∂h_{t+1}/∂h_t      (1)   later factors on the left; with growing n − k the
                                               product vanishes or explodes
λ = lim 1/n log ‖∂s_n/∂s_0 · v‖           (2)   Lyapunov exponents of the whole state s

Sources: (1) derivation "Tanh RNN", eqs 10, 11 (corrected: see the errata in
``xrnn/guide/derivations.md``); (2) by repeated QR decomposition, Benettin et al. (1980).
"""

from __future__ import annotations

from typing import Any

import array_api_compat

from xrnn.analysis.gates import check_tape
from xrnn.backends import backend_of, host
from xrnn.engine.bound_cell import Pass
from xrnn.engine.checks import check_integer
from xrnn.engine.tape import Tape
from xrnn.recurrence.loop import Residuals
from xrnn.recurrence.masks import select_state
from xrnn.recurrence.precision import accumulation_dtype, widen
from xrnn.recurrence.sensitivity import rows_backward, units
from xrnn.typing import Array


@host.ignore_underflow
def jacobian(
    tape: Tape[Any], t: int, span: int = 1, of: str | None = "h", by: str | None = "h"
) -> Array:
    """∂h_{t+span}/∂h_t, for each sequence.

    Parameters
    ----------
    tape : Tape
        From `xrnn.unroll`, or from a layer of one cell.
    t : int
        ``ys[t]`` is h_t; −1 means the state given.  On a reverse tape time runs the other
        way: h_{t−1} follows h_t, and T means the state given.
    span : int
        How many steps lie between; 0 gives the identity.
    of, by : str or None
        State `of` is differentiated by state `by`, both from ``cell.states``; None: all
        states, side by side.  The other states at t are held fixed, so for a cell with a c
        None gives the complete Jacobian.

    Returns
    -------
    array (B, n, m)
        n and m are H, or S·H for all S states (with a `Cell.projection` h has P values).  Past its
        end a sequence keeps its state: the identity.

    Raises
    ------
    ValueError
        If t or t+span is not a step of the tape, a state is unknown, the tape is of several
        cells, or the weights have changed since.
    TypeError
        If `tape` is not a tape.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> from xrnn.cells import Elman
    >>> weights = {"W": np.zeros((2, 1)), "U": np.diag([0.5, 2.0])}
    >>> _, _, tape = xrnn.unroll(Elman, weights, np.zeros((4, 1, 1)))
    >>> xrnn.analysis.jacobian(tape, 0, span=3)[0].tolist()
    [[0.125, 0.0], [0.0, 8.0]]
    """
    one, residuals, xp = _single(tape)
    cell, order = one.bound.cell, residuals.order
    check_integer(cell.name, "t", t)
    check_integer(cell.name, "span", span)
    at = order.index(t) + 1 if t in order else 0
    if t not in (order.start - order.step, *order) or not 0 <= span <= len(order) - at:
        raise ValueError(
            f"{cell.name}: t is {t} and span {span}; h_t and h_t+span must be among the "
            f"{len(order)} steps of the tape, or h_t the state given"
        )
    wanted, held = _block(one, of), _block(one, by)
    rows = tuple(d[wanted, ...] for d in units(one.first, xp=xp))
    for step in reversed(order[at : at + span]):
        before = rows_backward(cell, rows, residuals.steps[step], one.bound.weights, xp=xp).dprev
        if residuals.mask is not None:
            before = select_state(residuals.mask[step, ...], before, rows, xp=xp)
        rows = before
    return xp.permute_dims(xp.concat(rows, axis=-1)[..., held], (1, 0, 2))


@host.ignore_underflow
def lyapunov(tape: Tape[Any], k: int = 1) -> Array:
    """The k largest Lyapunov exponents along the tape, for each sequence.

    Parameters
    ----------
    tape : Tape
        From `xrnn.unroll`, or from a layer of one cell, without lengths.
    k : int
        The number of exponents, 1…S·H for the S states of the cell.

    Returns
    -------
    array (B, k)
        The natural logarithm of the growth per step, largest first.  Below 0 a change of the
        state decays, above 0 it grows, and −∞ means that a step removes a direction completely.
        In float32 where the tape has half precision.

    Raises
    ------
    ValueError
        If k is out of range, the tape is empty, has lengths or is of several cells, or the
        weights have changed since.
    TypeError
        If `tape` is not a tape.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> from xrnn.cells import Elman
    >>> weights = {"W": np.zeros((2, 1)), "U": np.diag([0.5, 2.0])}
    >>> _, _, tape = xrnn.unroll(Elman, weights, np.zeros((20, 1, 1)))
    >>> growth = np.exp(xrnn.analysis.lyapunov(tape))  # by the larger factor of U
    >>> bool(1.5 < growth[0, 0] < 2.001)
    True
    """
    one, residuals, xp = _single(tape)
    cell, B, T = one.bound.cell, one.first[0].shape[0], len(residuals.steps)
    n, words = sum(one.bound.widths), "S·H" if cell.projection is None else "P+(S−1)·H"
    check_integer(cell.name, "k", k)
    if not 1 <= k <= n or not T or residuals.mask is not None:
        raise ValueError(
            f"{cell.name}: k is {k} and the tape has {T} steps"
            f"{'' if residuals.mask is None else ' and lengths'}; "
            f"k must lie in 1…{words} = 1…{n}, over at least one step of whole sequences"
        )
    unit = units(one.first, xp=xp)
    # A random basis turns to the directions of largest growth; a basis of unit vectors might not.
    start = backend_of(unit[0]).from_host(host.generator(0).normal(size=(n, k)))
    wide = accumulation_dtype(unit[0].dtype, xp=xp)  # no library decomposes half precision
    Q = xp.linalg.qr(xp.broadcast_to(xp.astype(start, wide), (B, n, k)))[0]
    total = xp.zeros((B, k), dtype=Q.dtype, device=array_api_compat.device(Q))
    for step in residuals.order:
        rows = rows_backward(cell, unit, residuals.steps[step], one.bound.weights, xp=xp).dprev
        J = widen(xp.permute_dims(xp.concat(rows, axis=-1), (1, 0, 2)), xp=xp)
        Q, R = xp.linalg.qr(J @ Q)
        growth = xp.abs(xp.linalg.diagonal(R))
        alive = growth > 0
        log = xp.log(xp.where(alive, growth, xp.ones_like(growth)))
        total = total + xp.where(alive, log, xp.full_like(log, -float("inf")))
    # Over a finite time two directions may end in another order than they began.
    return -xp.sort(-total / T, axis=-1)


def _single(tape: Tape[Any]) -> tuple[Pass, Residuals, Any]:
    """The single pass of a tape, its residuals from the cell's own code, and its namespace.

    Raises
    ------
    ValueError
        If the tape is of a layer with several cells, and so has several states at each step.
    """
    check_tape(tape)
    if tape.timeline is not None:
        raise ValueError(
            f"{tape.cell.name}: the tape has a mask or resets; it must be of whole sequences: run "
            "them without, or with lengths"
        )
    if len(tape.passes) != 1:
        raise ValueError(
            f"{tape.cell.name}: the tape holds {len(tape.passes)} cells; it must be of one: of "
            "xrnn.unroll, or of a layer with num_layers=1 in one direction"
        )
    one = tape.passes[0].computed()
    return one, one.replay()[0], one.bound.placement.backend.xp


def _block(one: Pass, state: str | None) -> slice:
    """The position of a state among all states side by side."""
    cell, names, widths = one.bound.cell, one.bound.cell.states, one.bound.widths
    if state is None:
        return slice(None)
    if not isinstance(state, str) or state not in names:
        raise ValueError(f"{cell.name}: state {state!r:.80} is unknown; it has {', '.join(names)}")
    k = names.index(state)
    return slice(sum(widths[:k]), sum(widths[: k + 1]))
