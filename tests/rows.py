"""The table of the laws' subjects: a cell without its row here fails `test_house.py`.

A new cell needs its file and its row, no more: ``Row(cells.BY_NAME["yours"])``.  Its equations
in `oracles/torch_cells.py`, and the frozen vectors made from them, come with "equations".
"""

from dataclasses import dataclass
from typing import Any

from xrnn import cells


@dataclass(frozen=True)
class Row:
    """One cell, and the oracles that it is compared with besides the laws.

    "torch" and "onnxruntime" are implementations by others (to torch, `InputGatedLSTM` is an
    LSTM whose recurrent weights are 0); "equations" is the cell written down a second time,
    with automatic gradients (`oracles/torch_cells.py`).
    """

    cell: cells.Cell[Any]
    oracles: tuple[str, ...] = ()


ROWS = (
    Row(cells.Elman, ("torch", "onnxruntime", "equations")),
    Row(cells.ElmanReLU, ("torch", "onnxruntime", "equations")),
    Row(cells.LSTM, ("torch", "onnxruntime", "equations")),
    Row(cells.GRU, ("torch", "onnxruntime", "equations")),
    Row(cells.GRUBefore, ("onnxruntime", "equations")),
    Row(cells.InputGatedLSTM, ("torch", "equations")),
    Row(cells.PeepholeLSTM, ("onnxruntime", "equations")),
    Row(cells.MinGRU, ("equations",)),
    Row(cells.BY_NAME["janet"]),
    Row(cells.BY_NAME["mgu"]),
)
