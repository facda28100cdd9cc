"""What stands behind the wide door: every cell's fused loop, for any runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xrnn import cells
from xrnn.backends import Sequences
from xrnn.backends.cuda.cells import (
    FusedElman,
    FusedElmanReLU,
    FusedGRU,
    FusedGRUBefore,
    FusedLSTM,
    FusedPeephole,
)
from xrnn.backends.cuda.fused import Fused
from xrnn.backends.cuda.linear import FusedInputGated, FusedLinear, FusedMinGRU
from xrnn.backends.cuda.plan import Runtime
from xrnn.cells.base import Cell

KERNELS = Path(__file__).with_name("kernels")

#: cell → its loop
FUSED: Mapping[Cell, type[Fused]] = {
    cells.Elman: FusedElman,
    cells.ElmanReLU: FusedElmanReLU,
    cells.LSTM: FusedLSTM,
    cells.GRU: FusedGRU,
    cells.GRUBefore: FusedGRUBefore,
    cells.PeepholeLSTM: FusedPeephole,
    cells.InputGatedLSTM: FusedInputGated,
    cells.MinGRU: FusedMinGRU,
}

#: how far products of rounded factors may lie from those of float32, relative
TF32_TOLERANCE = 5e-3


def sequences(runtime: Runtime, dtypes: frozenset[Any]) -> dict[Cell, Sequences]:
    """The table of the wide door."""
    return {cell: _entry(kind, cell, runtime, dtypes) for cell, kind in FUSED.items()}


def _entry(kind: type[Fused], cell: Cell, runtime: Runtime, dtypes: frozenset[Any]) -> Sequences:
    source = "".join(file.read_text() for file in sorted(KERNELS.iterdir()))
    source += "".join(file.read_text() for file in sorted(KERNELS.parent.glob("*.py")))
    ieee, tf32 = kind(runtime, cell), kind(runtime, cell, tf32=True)
    # H = 16 goes by vectors of values, H = 7 one by one; 130 steps in pieces, where there are.
    long = ((130, 3, 2, 4),) if issubclass(kind, FusedLinear) else ()
    trials = ((5, 3, 4, 16), (3, 2, 3, 7), *long)
    rounded = Sequences(
        tf32.forward,
        tf32.backward,
        dtypes,
        f"tf32 {source}",
        path=tf32.path,
        trials=trials,
        tolerance=TF32_TOLERANCE,
    )
    return Sequences(
        ieee.forward, ieee.backward, dtypes, source, rounded, path=ieee.path, trials=trials
    )
