"""The grids and the goals, as data: what is timed, against whom, and what is aimed at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import inf

CELLS = ("rnn", "lstm", "gru")
MODES = ("inference", "training")

#: sizes (T, B, I, H) on which products of bfloat16 and weights of 8 bits are measured
FEWER_BITS = (
    (100, 1, 128, 128),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (100, 1, 1024, 1024),
    (28, 128, 28, 128),
    (100, 32, 256, 256),
    (50, 64, 512, 512),
    (35, 20, 640, 640),
)

#: how float32 and narrower numbers are multiplied; both sides always do the same
PRECISIONS = ("fp32-ieee", "tf32", "fp16", "bf16")


@dataclass(frozen=True)
class Case:
    """One point of a grid: a cell (one layer, one direction), a size and a mode.

    Inference is forward with nothing kept; training is forward, then backward to the
    inputs, the state and all weights.
    """

    cell: str
    T: int
    B: int
    I: int
    H: int
    mode: str
    precision: str = "fp32-ieee"

    @property
    def size(self) -> tuple[int, int, int, int]:
        """(T, B, I, H)."""
        return self.T, self.B, self.I, self.H


@dataclass(frozen=True)
class Goal:
    """A bound on xrnn's time / a peer's, over the cases of a grid that it speaks of.

    The peer is the fastest of `peers` at each point.  `worst` asks for the largest ratio
    instead of the geometric mean, and `numpy_alone` speaks of results without the native
    loops; all other goals speak of results with them.
    """

    name: str
    bound: float
    modes: tuple[str, ...]
    peers: tuple[str, ...]
    worst: bool = False
    min_B: int = 1
    max_H: float = inf
    cells: tuple[str, ...] = CELLS
    precisions: tuple[str, ...] = PRECISIONS
    numpy_alone: bool = False

    def covers(self, case: Case) -> bool:
        """Whether the goal speaks of this case."""
        return (
            case.mode in self.modes
            and case.cell in self.cells
            and case.precision in self.precisions
            and self.min_B <= case.B
            and self.max_H >= case.H
        )


CPU_SIZES = (
    (100, 1, 32, 32),
    (100, 1, 64, 128),
    (1, 1, 64, 128),
    (28, 128, 28, 128),
    (100, 32, 64, 128),
    (100, 32, 256, 256),
    (50, 64, 512, 512),
    (35, 20, 640, 640),
)

CUDA_SIZES = (
    (512, 64, 512, 512),
    (1024, 16, 256, 256),
    (128, 256, 1024, 1024),
    (256, 32, 128, 128),
    (100, 1, 512, 512),
)

GRIDS = {
    "cpu": tuple(Case(cell, *size, mode) for cell, size, mode in product(CELLS, CPU_SIZES, MODES)),
    "cuda": tuple(
        Case(cell, *size, mode, precision)
        for precision, cell, size, mode in product(PRECISIONS, CELLS, CUDA_SIZES, MODES)
    ),
}

TRAINING, INFERENCE = ("training",), ("inference",)
TORCH, FASTEST = ("torch",), ("torch", "onnxruntime")

GOALS = {
    "cpu": (
        Goal("training", 0.40, TRAINING, TORCH),
        Goal("training, B ≥ 20", 0.80, TRAINING, TORCH, min_B=20),
        Goal("training, worst point", 1.00, TRAINING, TORCH, worst=True),
        Goal("inference", 0.90, INFERENCE, FASTEST),
        Goal("inference, worst point", 1.15, INFERENCE, FASTEST, worst=True),
        Goal("training, NumPy alone", 1.00, TRAINING, TORCH, numpy_alone=True),
    ),
    "cuda": (
        Goal("training, H ≤ 512", 0.50, TRAINING, TORCH, max_H=512),
        Goal("training, worst point", 1.10, TRAINING, TORCH, worst=True),
        Goal("LSTM in fp16", 0.70, MODES, TORCH, cells=("lstm",), precisions=("fp16",)),
    ),
}
