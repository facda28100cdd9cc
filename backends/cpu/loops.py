"""The cells whose whole loop is written out for NumPy, and where it serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xrnn import cells
from xrnn.backends import Sequences, Sizes
from xrnn.backends.cpu.elman import ElmanPass, ElmanReLUPass
from xrnn.backends.cpu.gru import GRUBeforePass, GRUPass
from xrnn.backends.cpu.lstm import LSTMPass, PeepholePass
from xrnn.backends.cpu.passes import Pass
from xrnn.cells.base import Cell

#: steps from which on the buffers are worth making; a cell of one gate has few to save
GATED_FROM, ELMAN_FROM = 3, 12

DTYPES = frozenset({np.dtype("float32"), np.dtype("float64")})

SOURCE = "".join(
    Path(__file__).with_name(f"{name}.py").read_text()
    for name in ("passes", "elman", "lstm", "gru")
)


def _trial(T: int, B: int, I: int, H: int) -> Sizes:
    """A batch, or one sequence, whose arrays have an axis less."""
    return (6, 1, 4, 16) if B == 1 else (5, 3, 4, 16)


def _entry(form: Pass, start: int = GATED_FROM) -> Sequences:
    return Sequences(
        form.forward,
        form.backward,
        DTYPES,
        SOURCE,
        serves=lambda T, B, I, H: start <= T,
        trial=_trial,
        path=lambda T, B, I, H: "whole sequences in NumPy",
    )


LOOPS: dict[Cell, Sequences] = {
    cells.Elman: _entry(ElmanPass(), ELMAN_FROM),
    cells.ElmanReLU: _entry(ElmanReLUPass(), ELMAN_FROM),
    cells.LSTM: _entry(LSTMPass()),
    cells.GRU: _entry(GRUPass()),
    cells.GRUBefore: _entry(GRUBeforePass()),
    cells.PeepholeLSTM: _entry(PeepholePass()),
}
