"""The table of the laws' subjects: a cell without its row here fails `test_house.py`."""

from dataclasses import dataclass

from xrnn import cells


@dataclass(frozen=True)
class Row:
    """One cell, and who besides the laws judges it.

    "torch" and "onnxruntime" are implementations by others (to torch, `InputGatedLSTM` is an
    LSTM whose recurrent weights are 0); "equations" is the cell written down a second time,
    with automatic gradients (`oracles/torch_cells.py`).
    """

    cell: cells.Cell
    judges: tuple[str, ...]


ROWS = (
    Row(cells.Elman, ("torch", "onnxruntime", "equations")),
    Row(cells.ElmanReLU, ("torch", "onnxruntime", "equations")),
    Row(cells.LSTM, ("torch", "onnxruntime", "equations")),
    Row(cells.GRU, ("torch", "onnxruntime", "equations")),
    Row(cells.GRUBefore, ("onnxruntime", "equations")),
    Row(cells.InputGatedLSTM, ("torch", "equations")),
    Row(cells.PeepholeLSTM, ("onnxruntime", "equations")),
    Row(cells.MinGRU, ("equations",)),
)
