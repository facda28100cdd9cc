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
from xrnn.typing import Array, Namespace


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
    one, residuals = _single(tape)
    cell, xp, T = one.bound.cell, one.bound.xp, tape.sizes[0]
    order = range(T) if residuals.order.step == 1 else range(T - 1, -1, -1)
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
        if step >= tape.steps:  # behind all sequences, where nothing ran
            continue
        before = rows_backward(cell, rows, residuals.steps[step], one.bound.weights, xp=xp).dprev
        if residuals.mask is not None:
            before = select_state(residuals.mask[step, ...], before, rows, xp=xp)
        rows = before
    return xp.permute_dims(xp.concat(rows, axis=-1)[..., held], (1, 0, 2))


@host.ignore_underflow
def lyapunov(tape: Tape[Any], k: int = 1, *, skip: int = 0) -> Array:
    """The k largest Lyapunov exponents along the tape, for each sequence.

    Parameters
    ----------
    tape : Tape
        From `xrnn.unroll`, or from a layer in one direction, without lengths.
    k : int
        The number of exponents, 1…N for the N values of the state: S·H for the S states of one
        cell, and the sum of these for the layers of a stack.
    skip : int
        How many steps at the beginning do not count.  In them the directions turn to those of
        largest growth, and the states leave what is only at the start.

    Returns
    -------
    array (B, k)
        The natural logarithm of the growth per step, largest first.  Below 0 a change of the
        state decays, above 0 it grows, and −∞ means that a step removes a direction completely.
        In float32 where the tape has half precision.

    Raises
    ------
    ValueError
        If k or `skip` is out of range, the tape is empty, has lengths or is of both directions, or
        the weights have changed since.
    TypeError
        If `tape` is not a tape.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> from xrnn.cells import Elman
    >>> weights = {"W": np.zeros((2, 1)), "U": np.diag([0.5, 2.0])}
    >>> _, _, tape = xrnn.unroll(Elman, weights, np.zeros((40, 1, 1)))
    >>> growth = np.exp(xrnn.analysis.lyapunov(tape, 2, skip=20))  # by the factors of U
    >>> growth.round(3).tolist()
    [[2.0, 0.5]]
    """
    stack = _stack(tape)
    (one, residuals), *_ = stack
    cell, xp, (T, B) = tape.cell, one.bound.xp, tape.sizes
    n, words = sum(sum(each.bound.widths) for each, _ in stack), _letters(tape)
    check_integer(cell.name, "k", k)
    check_integer(cell.name, "skip", skip)
    if not 1 <= k <= n or not T or residuals.mask is not None:
        raise ValueError(
            f"{cell.name}: k is {k} and the tape has {T} steps"
            f"{'' if residuals.mask is None else ' and lengths'}; "
            f"k must lie in 1…{words} = 1…{n}, over at least one step of whole sequences"
        )
    if not 0 <= skip < T:
        raise ValueError(f"{cell.name}: skip is {skip}; it must lie in 0…T−1 = 0…{T - 1}")
    # A random basis turns to the directions of largest growth; a basis of unit vectors might not.
    start = backend_of(one.xs).from_host(host.generator(0).normal(size=(n, k)))
    wide = accumulation_dtype(one.xs.dtype, xp=xp)  # no library decomposes half precision
    Q = xp.linalg.qr(xp.broadcast_to(xp.astype(start, wide), (B, n, k)))[0]
    total = xp.zeros((B, k), dtype=Q.dtype, device=array_api_compat.device(Q))
    for number, step in enumerate(residuals.order):
        Q, R = xp.linalg.qr(_of_step(stack, tape.masks, step, xp=xp) @ Q)
        growth = xp.abs(xp.linalg.diagonal(R))
        alive = growth > 0
        log = xp.log(xp.where(alive, growth, xp.ones_like(growth)))
        if number >= skip:
            total = total + xp.where(alive, log, xp.full_like(log, -float("inf")))
    # Over a finite time two directions may end in another order than they began.
    return -xp.sort(-total / (T - skip), axis=-1)


#: a pass, and what the cell's own code saved at each of its steps
Replayed = tuple[Pass, Residuals]


def _of_step(stack: list[Replayed], masks: list[Array], t: int, *, xp: Namespace) -> Array:
    """The Jacobian (B, N, N) of the states of all layers after step t by those before it.

    The states of a layer depend on its own ones before, and through its inputs on all of the
    layers below.
    """
    rows: list[Array] = []
    below: Array | None = None
    for k, (one, residuals) in enumerate(stack):
        weights = one.bound.weights
        found = rows_backward(
            one.bound.cell, units(one.first, xp=xp), residuals.steps[t], weights, xp=xp
        )
        own = widen(xp.permute_dims(xp.concat(found.dprev, axis=-1), (1, 0, 2)), xp=xp)
        if below is not None:
            K, B, m = found.da.shape
            dx = xp.reshape(xp.reshape(found.da, (K * B, m)) @ weights["W"], (K, B, -1))
            dx = dx * masks[k - 1][t, ...] if masks else dx
            own = xp.concat([widen(xp.permute_dims(dx, (1, 0, 2)), xp=xp) @ below, own], axis=-1)
        rows.append(own)
        below = own[:, : one.bound.widths[0], :]
    n = rows[-1].shape[-1]
    return xp.concat([_widened(block, n, xp=xp) for block in rows], axis=1)


def _widened(block: Array, n: int, *, xp: Namespace) -> Array:
    """A block (B, m, k) as (B, m, n), with zeros behind its columns."""
    B, m, k = block.shape
    zeros = xp.zeros((B, m, n - k), dtype=block.dtype, device=array_api_compat.device(block))
    return xp.concat([block, zeros], axis=-1)


def _letters(tape: Tape[Any]) -> str:
    """The number of values of the state in letters."""
    if len(tape.passes) > 1:
        return "N"
    return "S·H" if tape.cell.projection is None else "P+(S−1)·H"


def _stack(tape: Tape[Any]) -> list[Replayed]:
    """The passes of all layers, each with its residuals from the cell's own code.

    Raises
    ------
    ValueError
        If the tape is of both directions, or has a mask or resets.
    """
    check_tape(tape)
    if tape.timeline is not None:
        raise ValueError(
            f"{tape.cell.name}: the tape has a mask or resets; it must be of whole sequences: run "
            "them without, or with lengths"
        )
    if tape.axes.D != 1:
        raise ValueError(
            f"{tape.cell.name}: the tape is of both directions, which have no common state; it "
            "must be of one: of a layer with bidirectional=False"
        )
    passes = [one.computed() for one in tape.passes]
    return [(one, one.replay()[0]) for one in passes]


def _single(tape: Tape[Any]) -> Replayed:
    """The single pass of a tape, and its residuals.

    Raises
    ------
    ValueError
        If the tape is of a layer with several cells, and so has several states at each step.
    """
    if isinstance(tape, Tape) and tape.timeline is None and len(tape.passes) != 1:
        raise ValueError(
            f"{tape.cell.name}: the tape holds {len(tape.passes)} cells; it must be of one: of "
            "xrnn.unroll, or of a layer with num_layers=1 in one direction"
        )
    (one,) = _stack(tape)
    return one


def _block(one: Pass, state: str | None) -> slice:
    """The position of a state among all states side by side."""
    cell, names, widths = one.bound.cell, one.bound.cell.states, one.bound.widths
    if state is None:
        return slice(None)
    if not isinstance(state, str) or state not in names:
        raise ValueError(f"{cell.name}: state {state!r:.80} is unknown; it has {', '.join(names)}")
    k = names.index(state)
    return slice(sum(widths[:k]), sum(widths[: k + 1]))
