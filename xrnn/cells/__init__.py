"""The cells: one file for each, with its equations, one step forward and one step backward.

Every module of this folder is searched for cells, so that a new file is enough to add one.  The
imports below are for type checkers, which cannot follow that search.
"""

import importlib
import pkgutil
from typing import Any

from xrnn.cells.base import Cell
from xrnn.cells.elman import Elman, ElmanReLU
from xrnn.cells.elman_options import rnn_with
from xrnn.cells.gru import GRU
from xrnn.cells.gru_before import GRUBefore
from xrnn.cells.gru_options import gru_with
from xrnn.cells.input_gated import InputGatedLSTM
from xrnn.cells.janet import JANET
from xrnn.cells.leaky import leaky_with
from xrnn.cells.lstm import LSTM
from xrnn.cells.lstm_options import lstm_with
from xrnn.cells.mgu import MGU
from xrnn.cells.mingru import MinGRU
from xrnn.cells.peephole import PeepholeLSTM
from xrnn.cells.zoneout import with_zoneout

BY_NAME: dict[str, Cell[Any]] = {}
"""Every cell by the name that messages, files and the command line use."""

__all__ = [
    "BY_NAME",
    "GRU",
    "JANET",
    "LSTM",
    "MGU",
    "Cell",
    "Elman",
    "ElmanReLU",
    "GRUBefore",
    "InputGatedLSTM",
    "MinGRU",
    "PeepholeLSTM",
    "gru_with",
    "leaky_with",
    "lstm_with",
    "rnn_with",
    "with_zoneout",
]

for _module in pkgutil.iter_modules(__path__):
    for _name, _value in vars(importlib.import_module(f"{__name__}.{_module.name}")).items():
        if isinstance(_value, Cell):
            globals()[_name] = BY_NAME[_value.name] = _value
            if _name not in __all__:
                __all__ += [_name]
