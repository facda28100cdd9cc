"""What an option costs: the time of a cell with it, divided by that of the LSTM without options.

    python benchmarks/options.py                       (100, 32, 64, 128) in float32
    python benchmarks/options.py --size 50 64 512 512

One thread; processor time, so that other processes count little; all cells take turns.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XRNN_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

import xrnn  # noqa: E402
from xrnn import cells  # noqa: E402
from xrnn.backends.host import named_dtype  # noqa: E402

#: the time of a call is the lower quartile of so many
ROUNDS = 6

KERAS: Any = (("hard_sigmoid", 0.2, 0.5), "tanh", "tanh")

#: name → cell and dtype; the first one is what the others are compared with
SIDES: dict[str, tuple[cells.Cell[Any], str]] = {
    "lstm": (cells.LSTM, "float32"),
    "float16": (cells.LSTM, "float16"),
    "bfloat16": (cells.LSTM, "bfloat16"),
    "hard sigmoid": (cells.lstm_with(activations=KERAS), "float32"),
    "relu": (cells.lstm_with(activations=("sigmoid", "relu", "relu")), "float32"),
    "softplus, elu": (cells.lstm_with(activations=("sigmoid", "softplus", "elu")), "float32"),
    "clip, cell_clip": (cells.lstm_with(clip=3.0, cell_clip=10.0), "float32"),
    "coupled": (cells.lstm_with(coupled=True), "float32"),
    "peephole": (cells.lstm_with(peephole=True), "float32"),
    "peephole, cell_clip": (cells.lstm_with(peephole=True, cell_clip=10.0), "float32"),
    "proj_size=64": (cells.lstm_with(proj_size=64), "float32"),
    "recurrent_dropout": (cells.lstm_with(recurrent_dropout=0.3), "float32"),
    "zoneout": (cells.lstm_with(zoneout=(0.1, 0.3)), "float32"),
    "layer_norm=products": (cells.lstm_with(layer_norm="products"), "float32"),
    "layer_norm=gates": (cells.lstm_with(layer_norm="gates"), "float32"),
    "minGRU": (cells.MinGRU, "float32"),
    "JANET": (cells.BY_NAME["janet"], "float32"),
    "MGU": (cells.BY_NAME["mgu"], "float32"),
}

Size = tuple[int, int, int, int]


def calls(
    cell: cells.Cell[Any], dtype: Any, size: Size
) -> tuple[str, tuple[Callable[[], object], ...]]:
    """What runs the cell, and the calls that are timed: inference and training."""
    T, B, I, H = size
    layer, rng = xrnn.Layer(cell, I, H, dtype=dtype, rng=0), np.random.default_rng(0)
    widths = I, cell.widths(H)[0]
    xs, dys = (rng.normal(size=(T, B, n)).astype(named_dtype(dtype)) for n in widths)

    def train() -> object:
        _, _, tape = layer.forward(xs, seed=0 if cell.noise else None)
        return layer.backward(tape, dys)

    return layer.path(xs.shape)["_l0"], (lambda: layer(xs), train)


def seconds(call: Callable[[], object]) -> float:
    """The processor time of a call: the least of some in a row, when memory that other calls gave
    back to the system is there again."""
    found = []
    for _ in range(3):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def rows(size: Size) -> Iterator[str]:
    """A line for each side."""
    sides = {name: calls(*side, size) for name, side in SIDES.items()}
    times: dict[str, list[list[float]]] = {name: [[], []] for name in sides}
    for _ in range(ROUNDS):
        for name, (_, pair) in sides.items():
            for call, series in zip(pair, times[name], strict=True):
                series.append(seconds(call))
    least = {name: [sorted(t)[ROUNDS // 4] for t in pair] for name, pair in times.items()}
    whole = next(iter(least.values()))
    for name, found in least.items():
        words = "  ".join(
            f"{1e3 * t:9.3f} ms {t / base:6.2f}" for t, base in zip(found, whole, strict=True)
        )
        yield f"{name:20} {words}  {sides[name][0]}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--size", type=int, nargs=4, metavar=("T", "B", "I", "H"), default=(100, 32, 64, 128)
    )
    print(f"{'':20} inference    ratio   training    ratio  path")
    for row in rows(tuple(parser.parse_args(argv).size)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
