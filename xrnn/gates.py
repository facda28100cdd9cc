"""The gates as values: what each of them did at every step."""

from __future__ import annotations

from xrnn.layer import LayerTape
from xrnn.typing import Array
from xrnn.unroll import Tape, over_time


def gates(tape: Tape | LayerTape) -> dict[str, Array]:
    """The values of every gate, and of every state beyond h, at every step.

    They are computed anew, by the cell's own code, from what the tape refers to: whichever
    faster code ran forward, and at no cost for who does not ask.

    Parameters
    ----------
    tape : Tape or LayerTape
        From `xrnn.unroll` or `xrnn.Layer.forward`.

    Returns
    -------
    dict of str to array (T, B, H)
        For each of ``cell.gates`` its value after the curve, and c_t where the cell has a c;
        exactly 0 past a sequence's end.  From a layer the names end as those of its weights
        do, ``f_l0``, ``f_l0_reverse``, ``c_l0`` …, and a ``batch_first`` layer gives
        (B, T, H).  The gradients: ``unroll_backward(…, gates=True)``.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.LSTM(3, 5)
    >>> ys, state, tape = layer.forward(np.ones((7, 2, 3), "float32"))
    >>> values = xrnn.gates(tape)
    >>> sorted(values)
    ['c_l0', 'f_l0', 'g_l0', 'i_l0', 'o_l0']
    >>> values["f_l0"].shape
    (7, 2, 5)
    >>> np.allclose(ys, values["o_l0"] * np.tanh(values["c_l0"]))
    True
    """
    if isinstance(tape, Tape):
        return _of_cell(tape)
    layer = tape.layer
    named = layer.named(_of_cell(t) for t in tape.stack.tapes)
    return {name: layer.time_first(a) for name, a in named.items()}


def _of_cell(tape: Tape) -> dict[str, Array]:
    cell, xp, G = tape.cell, tape.xp, len(tape.cell.gates)
    saved, states = tape.replay()
    rows = [(*step[:G], *state[1:]) for step, state in zip(saved.steps, states, strict=True)]
    values = {}
    for n, name in enumerate((*cell.gates, *cell.states[1:])):
        a = over_time([row[n] for row in rows], tape.first[0], xp=xp)
        values[name] = a if saved.mask is None else xp.where(saved.mask, a, xp.zeros_like(a))
    return values
