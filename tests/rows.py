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


#: cells with options: each option alone, and those that meet in one equation
MADE = (
    cells.lstm_with(activations=("hard_sigmoid", "softsign", "relu")),
    cells.lstm_with(activations=(("hard_sigmoid", 1 / 6), ("scaled_tanh", 1.7, 0.6), "softplus")),
    cells.lstm_with(activations=("sigmoid", ("leaky_relu", -0.2), ("elu", 0.7))),
    cells.lstm_with(activations=("softplus", ("thresholded_relu", -0.3), ("affine", 0.3, 0.1))),
    cells.lstm_with(clip=0.4),
    cells.lstm_with(cell_clip=0.3),
    cells.lstm_with(coupled=True),
    cells.lstm_with(proj_size=2),
    cells.lstm_with(layer_norm=True),
    cells.lstm_with(layer_norm="gates"),
    cells.lstm_with(coupled=True, peephole=True, clip=0.6, cell_clip=0.5),
    cells.lstm_with(coupled=True, peephole=True, layer_norm="gates", proj_size=3, cell_clip=0.5),
    cells.lstm_with(coupled=True, layer_norm="products", proj_size=7, clip=0.7),
    cells.lstm_with(peephole=True, proj_size=1, activations=("hard_sigmoid", "tanh", "elu")),
    cells.gru_with(activations=("hard_sigmoid", "relu")),
    cells.gru_with(activations=(("hard_sigmoid", 0.3), ("scaled_tanh", 1.7)), reset="before"),
    cells.gru_with(clip=0.4),
    cells.gru_with(clip=0.4, reset="before"),
    cells.gru_with(layer_norm=True),
    cells.gru_with(layer_norm=True, clip=1.5, activations=("sigmoid", "elu")),
    cells.rnn_with(activations=["softsign"]),
    cells.rnn_with(activations=[("leaky_relu", -0.2)], clip=0.5),
    cells.rnn_with(clip=0.4),
    cells.leaky_with(0.3),
    cells.leaky_with(0.3, activations=[("elu", 0.7)], potential=True),
)

#: those that draw random numbers in training
NOISY = (
    cells.lstm_with(zoneout=(0.3, 0.6), proj_size=2),
    cells.lstm_with(recurrent_dropout=0.4, layer_norm=True),
    cells.lstm_with(recurrent_dropout=0.4, zoneout=(0.0, 0.5), peephole=True, cell_clip=0.7),
    cells.gru_with(recurrent_dropout=0.4, zoneout=0.3),
    cells.gru_with(recurrent_dropout=0.4, reset="before"),
    cells.gru_with(recurrent_dropout=0.4, layer_norm=True),
    cells.rnn_with(recurrent_dropout=0.4, zoneout=0.2),
    cells.with_zoneout(cells.InputGatedLSTM, 0.2, 0.3),
    cells.with_zoneout(cells.MinGRU, 0.5),
    cells.with_zoneout(cells.JANET, 0.5),
    cells.leaky_with(0.3, noise=0.2),
    cells.leaky_with(0.3, activations=["softplus"], noise=0.2, potential=True),
)

ROWS = (
    Row(cells.Elman, ("torch", "onnxruntime", "equations")),
    Row(cells.ElmanReLU, ("torch", "onnxruntime", "equations")),
    Row(cells.LSTM, ("torch", "onnxruntime", "equations")),
    Row(cells.GRU, ("torch", "onnxruntime", "equations")),
    Row(cells.GRUBefore, ("onnxruntime", "equations")),
    Row(cells.InputGatedLSTM, ("torch", "equations")),
    Row(cells.PeepholeLSTM, ("onnxruntime", "equations")),
    Row(cells.MinGRU, ("equations",)),
    Row(cells.JANET, ("equations",)),
    Row(cells.MGU, ("equations",)),
)
