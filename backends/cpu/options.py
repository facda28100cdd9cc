"""The native loops of cells with options, of zoneout around them, and what the extension is told.

A plain cell within zoneout is run by the loop of its kind with options, which are the usual ones.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from math import inf
from typing import Any

import numpy as np

from xrnn import cells
from xrnn.backends.base import Kernel
from xrnn.backends.cpu import extension
from xrnn.backends.cpu.extension import STRUCTURE, WITH_OPTIONS, Native
from xrnn.cells.base import Cell
from xrnn.cells.elman_options import RNNOptions
from xrnn.cells.gru_options import GRUOptions
from xrnn.cells.leaky import LeakyOptions
from xrnn.cells.lstm_options import LSTMOptions
from xrnn.cells.options import Options, activations_of
from xrnn.cells.zoneout import Zoneout
from xrnn.typing import Array


def _usual(kind: type[Options], **own: Any) -> Options:
    return kind(activations_of(kind.kind, None, kind.usual), inf, 0.0, **own)


#: cell without options → the options that it would be made of
USUAL: dict[Cell[Any], Options] = {
    cells.Elman: _usual(RNNOptions),
    cells.ElmanReLU: replace(
        _usual(RNNOptions), activations=activations_of("rnn", ["relu"], RNNOptions.usual)
    ),
    cells.LSTM: _usual(LSTMOptions),
    cells.PeepholeLSTM: _usual(LSTMOptions, peephole=True),
    cells.GRU: _usual(GRUOptions),
    cells.GRUBefore: _usual(GRUOptions, reset="before"),
}


def kernels(cell: Cell[Any]) -> tuple[Kernel, ...]:
    """The native loops of a cell with options or zoneout, if there are some and the extension was
    built."""
    found = cell.made
    options: Any
    rates: tuple[float, ...]
    options, rates = found, ()
    if isinstance(found, Zoneout):
        options, rates = USUAL.get(found.cell, found.cell.made), found.rates
    if isinstance(found, LeakyOptions) and not (found.noise or found.potential):
        # (1 − α) h + α g: on average so does a simple network whose units keep their old value.
        options, rates = RNNOptions(found.activations, inf, 0.0), (1 - found.alpha,)
    loop = loop_of(options, rates) if isinstance(options, Options) else None
    return () if loop is None else extension.kernels_of(loop)


def loop_of(options: Options, rates: tuple[float, ...] = ()) -> Native | None:
    """The loop for these options, and these rates of zoneout of each state; None: there is none."""
    structure = structure_of(options)
    code = WITH_OPTIONS.get((options.family, structure))
    # The gradient of p_o needs the c before it is mixed with the old one, which is not kept.
    lost = "peephole" in structure and any(rates[1:])
    if code is None or lost or not all(name in KINDS for name, *_ in options.activations):
        return None
    return Native(code, numbers(options, rates))


def structure_of(options: Options) -> frozenset[str]:
    """Those of `STRUCTURE` that the options have."""
    found = {name for name in STRUCTURE if getattr(options, name, False)}
    norm = getattr(options, "layer_norm", False)
    if norm:
        found.add(f"layer_norm={'products' if norm is True else norm}")
    return frozenset(found)


#: the kinds of activation functions, in the order of their numbers in the extension
KINDS: tuple[str, ...] = () if extension._native is None else extension._native.activations()


def numbers(options: Options, rates: tuple[float, ...]) -> Array:
    """The options as the extension takes them."""
    functions = [(KINDS.index(name), alpha, beta) for name, alpha, beta in options.activations]
    limits = [getattr(options, name, inf) for name in ("clip", "cell_clip")]
    zoneout = (*rates, 0.0, 0.0)[:2]
    size = getattr(options, "proj_size", 0)
    return np.array([*chain(*functions), *limits, *zoneout, size], float)
