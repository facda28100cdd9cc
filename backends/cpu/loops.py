"""The cells that have a loop written for NumPy, and the sizes for which it is used."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from xrnn import cells
from xrnn.backends.base import Kernel, Sizes
from xrnn.backends.cpu.elman import ElmanLoop, ElmanReLULoop
from xrnn.backends.cpu.gru import GRUBeforeLoop, GRULoop
from xrnn.backends.cpu.lstm import LSTMLoop, PeepholeLoop
from xrnn.backends.cpu.sequences import NumpyLoop
from xrnn.cells.base import Cell

#: the number of steps from which on the loop pays for its buffers; cells with one gate gain less
GATED_FROM, ELMAN_FROM = 3, 12

DTYPES = frozenset({np.dtype("float32"), np.dtype("float64")})


@cache
def module_sources(*names: str) -> str | None:
    """The source text of modules; None if one has none (an installation without sources)."""
    found: list[str] = []
    for name in names:
        spec = importlib.import_module(name).__spec__
        get_source = getattr(spec.loader if spec else None, "get_source", lambda name: None)
        try:
            text = get_source(name)
        except ImportError:  # raised by a loader for a module without source text
            text = None
        if text is None:
            return None
        found.append(text)
    return "".join(found)


def source() -> str | None:
    """The source text of these loops, which identifies a verification."""
    folder = __name__.rpartition(".")[0]
    return module_sources(*(f"{folder}.{name}" for name in ("sequences", "elman", "lstm", "gru")))


def _trial(T: int, B: int, I: int, H: int) -> Sizes:
    """Sizes for a batch, or for one sequence, whose arrays in the loop have one axis less."""
    return (6, 1, 4, 16) if B == 1 else (5, 3, 4, 16)


def _kernel(form: NumpyLoop, start: int = GATED_FROM) -> Kernel:
    return Kernel(
        form,
        DTYPES,
        source,
        serves=lambda T, B, I, H: start <= T,
        trial=_trial,
        path=lambda T, B, I, H: "whole sequences in NumPy",
    )


KERNELS: dict[Cell[Any], Kernel] = {
    cells.Elman: _kernel(ElmanLoop(), ELMAN_FROM),
    cells.ElmanReLU: _kernel(ElmanReLULoop(), ELMAN_FROM),
    cells.LSTM: _kernel(LSTMLoop()),
    cells.GRU: _kernel(GRULoop()),
    cells.GRUBefore: _kernel(GRUBeforeLoop()),
    cells.PeepholeLSTM: _kernel(PeepholeLoop()),
}
