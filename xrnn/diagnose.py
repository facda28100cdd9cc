"""How gradients travel through time: their norms, the Jacobians of the state, its exponents.

∂h_n/∂h_k = Π_{k≤t<n} ∂h_{t+1}/∂h_t      (1)   seed 001 eqs 10, 11 (as W7 of its check: the
                                               later factor on the left): what vanishes or
                                               explodes with n − k
λ = lim 1/n log ‖∂s_n/∂s_0 · v‖           (2)   Lyapunov exponents of the whole state s, by
                                               repeated QR (Benettin et al., 1980)
"""

from __future__ import annotations

import array_api_compat

from xrnn.affine import either
from xrnn.backends import backend_of, get, move
from xrnn.backends.cpu import generator
from xrnn.layer import LayerTape
from xrnn.sensitivity import rows_back, units
from xrnn.typing import Array, State
from xrnn.unroll import Tape, unroll_backward


def gradient_flow(
    tape: Tape | LayerTape, dys: Array | None = None, dstate: State | None = None
) -> dict[str, Array]:
    """The size of ∂L/∂h_t, ∂L/∂c_t at every step.

    Parameters
    ----------
    tape : Tape or LayerTape
        From `xrnn.unroll` or `xrnn.Layer.forward`.
    dys, dstate
        As of `xrnn.unroll_backward`, or of `xrnn.Layer.backward`.

    Returns
    -------
    dict of str to array (T,)
        For each of ``cell.states`` the Euclidean norm, over sequences and units, of the
        gradient of the state after step t; from a layer under ``h_l0``, ``h_l0_reverse`` …

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> ys, state, tape = xrnn.RNN(3, 5, init="uniform").forward(np.ones((50, 2, 3), "float32"))
    >>> dys = np.zeros_like(ys)
    >>> dys[-1] = 1  # the loss looks at the end alone
    >>> norms = xrnn.diagnose.gradient_flow(tape, dys)["h_l0"]
    >>> bool(norms[0] < 1e-3 * norms[-1])
    True
    """
    if isinstance(tape, Tape):
        dstates = unroll_backward(tape, dys, dstate, gates=True)[4]
        time = 0
    else:
        dstates = tape.layer.backward(tape, dys, dstate, gates=True)[4]
        time = 1 if tape.layer.batch_first else 0
    xp = backend_of(next(iter(dstates.values()))).xp
    return {name: xp.sqrt(xp.sum(d * d, axis=(1 - time, 2))) for name, d in dstates.items()}


def jacobian(
    tape: Tape, t: int, span: int = 1, of: str | None = "h", by: str | None = "h"
) -> Array:
    """∂h_{t+span}/∂h_t, for each sequence.

    Parameters
    ----------
    tape : Tape
        From `xrnn.unroll`.
    t : int
        ``ys[t]`` is h_t; −1 means the state given.  On a reverse tape time runs the other
        way: h_{t−1} follows h_t, and T means the state given.
    span : int
        How many steps lie between; 0 gives the identity.
    of, by : str or None
        Which of ``cell.states`` is differentiated by which; None: all, side by side.  The
        other states at t are held fixed: for a cell with a c look at all of them.

    Returns
    -------
    array (B, n, m)
        n and m are H, or S·H for all S states.  Past its end a sequence keeps its state: the
        identity.

    Raises
    ------
    ValueError
        If t or t+span is not a step of the tape, or a state is unknown.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> from xrnn.cells import Elman
    >>> weights = {"W": np.zeros((2, 1)), "U": np.diag([0.5, 2.0])}
    >>> _, _, tape = xrnn.unroll(Elman, weights, np.zeros((4, 1, 1)))
    >>> xrnn.diagnose.jacobian(tape, 0, span=3)[0].tolist()
    [[0.125, 0.0], [0.0, 8.0]]
    """
    cell, saved, xp = tape.cell, tape.own(), tape.xp
    order = saved.order
    at = order.index(t) + 1 if t in order else 0
    if t not in (order.start - order.step, *order) or not 0 <= span <= len(order) - at:
        raise ValueError(
            f"{cell.name}: t is {t} and span {span}; h_t and h_t+span must be among the "
            f"{len(order)} steps of the tape, or h_t the state given"
        )
    wanted, held = _block(tape, of), _block(tape, by)
    rows = tuple(d[wanted, ...] for d in units(cell, tape.first[0], xp=xp))
    for step in reversed(order[at : at + span]):
        before = rows_back(cell, rows, saved.steps[step], tape.weights, xp=xp).dprev
        if saved.mask is not None:
            before = either(saved.mask[step, ...], before, rows, xp=xp)
        rows = before
    return xp.permute_dims(xp.concat(rows, axis=-1)[..., held], (1, 0, 2))


def lyapunov(tape: Tape, k: int = 1) -> Array:
    """The k largest Lyapunov exponents along the tape, for each sequence.

    Parameters
    ----------
    tape : Tape
        From `xrnn.unroll`, without lengths.
    k : int
        How many, 1…S·H for the S states of the cell.

    Returns
    -------
    array (B, k)
        Growth per step, natural logarithm, largest first: below 0 what happens to the state
        is forgotten, above 0 it explodes, and −∞ where a step loses a direction altogether.

    Raises
    ------
    ValueError
        If k is out of range, or the tape is empty or has lengths.
    """
    cell, saved, xp = tape.cell, tape.own(), tape.xp
    (B, H), T = tape.first[0].shape, len(saved.steps)
    n = len(cell.states) * H
    if not 1 <= k <= n or not T or saved.mask is not None:
        raise ValueError(
            f"{cell.name}: k is {k} and the tape has {T} steps"
            f"{'' if saved.mask is None else ' and lengths'}; "
            f"k must lie in 1…S·H = 1…{n}, over at least one step of whole sequences"
        )
    unit = units(cell, tape.first[0], xp=xp)
    # Any basis but one that the Jacobians treat apart will turn to the largest directions.
    start = get("cpu").from_host(generator(0).normal(size=(n, k)))
    start = move(start, backend_of(unit[0]))
    Q = xp.linalg.qr(xp.broadcast_to(xp.astype(start, unit[0].dtype), (B, n, k)))[0]
    total = xp.zeros((B, k), dtype=Q.dtype, device=array_api_compat.device(Q))
    for step in saved.order:
        rows = rows_back(cell, unit, saved.steps[step], tape.weights, xp=xp).dprev
        J = xp.permute_dims(xp.concat(rows, axis=-1), (1, 0, 2))
        Q, R = xp.linalg.qr(J @ Q)
        growth = xp.abs(xp.linalg.diagonal(R))
        alive = growth > 0
        log = xp.log(xp.where(alive, growth, xp.ones_like(growth)))
        total = total + xp.where(alive, log, xp.full_like(log, -float("inf")))
    return total / T


def _block(tape: Tape, state: str | None) -> slice:
    """Where a state lies among all of them, side by side."""
    names, H = tape.cell.states, tape.first[0].shape[1]
    if state is None:
        return slice(None)
    if state not in names:
        raise ValueError(f"{tape.cell.name}: state {state!r} is unknown; it has {', '.join(names)}")
    k = names.index(state)
    return slice(k * H, (k + 1) * H)
