"""The cells: one file each, its equations on top, then forward, then backward."""

from xrnn.cells.base import Cell
from xrnn.cells.elman import Elman, ElmanReLU
from xrnn.cells.gru import GRU
from xrnn.cells.gru_before import GRUBefore
from xrnn.cells.input_gated import InputGatedLSTM
from xrnn.cells.lstm import LSTM
from xrnn.cells.mingru import MinGRU
from xrnn.cells.peephole import PeepholeLSTM

__all__ = [
    "BY_NAME",
    "GRU",
    "LSTM",
    "Cell",
    "Elman",
    "ElmanReLU",
    "GRUBefore",
    "InputGatedLSTM",
    "MinGRU",
    "PeepholeLSTM",
    "named",
]

BY_NAME: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Elman,
        ElmanReLU,
        LSTM,
        GRU,
        GRUBefore,
        InputGatedLSTM,
        PeepholeLSTM,
        MinGRU,
    )
}
"""Every cell by the name that messages, files and the command line use."""


def named(name: str) -> Cell:
    """The cell of that name (how a pickled cell is found again, so that it stays itself)."""
    return BY_NAME[name]
