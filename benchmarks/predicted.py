"""The predicted time of a step, for every case of the GPU grid: ``python benchmarks/predicted.py``.

Prints the tables of ``benchmarks/gpu-notes.md``: what is predicted, and whole calls, predicted →
measured, for a file of results that the command names.  Nothing that is predicted was measured; all
that is assumed stands at the top of this file, for an H200.  Times are microseconds a step, forward
/ backward:

- clusters: the whole sequence in one launch.  The first number is that of a step in which
  instructions, products and shared memory overlap, the second that of one in which nothing does;
  the geometry is the one that is chosen: C blocks, slices of n sequences, and how often the device
  must be filled (w)
- steps: one product and one kernel a step, launched one by one by the loop in C.  The host must
  launch both, the device must run one after the other; the slower of the two counts
- graph: the same in CUDA graphs, so that the device alone counts; kernels read their arguments from
  its memory
- outside: the products of the whole sequence before or after the loop, a share for each step:
  W x forward; dx, dW and dU backward.  They come on top of each of the above
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cases import CELLS, CUDA_SIZES, MODES, Case
from floors import GATES
from report import read

from xrnn.backends.cuda.cluster import geometry
from xrnn.backends.cuda.geometry import KINDS, Geometry

#: size of a cluster → how many the device holds at once
HELD = {1: 132, 2: 66, 4: 33, 8: 15, 16: 7}

#: cycles of a microsecond
CLOCK = 1755.0

#: host time of a launch of a kernel and of a product by cuBLAS, µs
LAUNCH, LAUNCH_PRODUCT = 2.0, 3.0

#: from the end of a kernel to the begin of the one that depends on it, µs
BETWEEN = 1.0

#: what the way to the arguments of a kernel in a graph takes, which all else waits for, µs
ARGUMENTS = 0.25

#: the shortest kernel; the shortest product, and what each unit of its depth adds up to a depth at
#: which it is split, µs
KERNEL, PRODUCT, DEPTH, SPLIT_AT = 0.5, 0.5, 0.002, 512

#: operations in a µs of large products; those of a step, which are small, reach half of it
RATES = {"float32": 50e6, "tf32": 320e6, "float16": 640e6, "bfloat16": 640e6}
OF_A_STEP = 0.5

#: bytes that memory moves in a µs
BANDWIDTH = 4.0e6


#: setting of the measurements → kind of arithmetic
KIND_OF = {"fp32-ieee": "float32", "tf32": "tf32", "fp16": "float16", "bf16": "bfloat16"}


class Times(NamedTuple):
    """Microseconds a step, forward and backward."""

    forward: float
    backward: float

    def __str__(self) -> str:
        return f"{self.forward:.1f} / {self.backward:.1f}"


class Clusters(NamedTuple):
    """The chosen geometry, how often the device is filled, the times at best and at worst."""

    geometry: Geometry
    waves: int
    best: Times
    worst: Times

    def __str__(self) -> str:
        ways = (f"{a:.1f}–{b:.1f}" for a, b in zip(self.best, self.worst, strict=True))
        g = self.geometry
        return f"{' / '.join(ways)} (C {g.cluster}, n {g.batch}, w {self.waves})"


def clusters(cell: str, kind: str, B: int, H: int) -> Clusters | None:
    """The whole sequence in one launch, or None where no cluster serves."""
    g = geometry(cell, kind, H, B, HELD.__getitem__)
    if g is None:
        return None
    waves = -(-g.grid(B)[0] // g.cluster // HELD[g.cluster])
    costs = [g.cost(forward) for forward in (True, False)]
    best, worst = (
        Times(*(waves * cycles / CLOCK for cycles in both))
        for both in ([c.waits + max(c[1:]) for c in costs], [sum(c) for c in costs])
    )
    return Clusters(g, waves, best, worst)


def device(cell: str, kind: str, B: int, H: int) -> Times:
    """The time of the device for one product and one kernel, each after the other."""
    gates, size = GATES[cell], KINDS[kind].bytes
    operations, rate = 2 * B * gates * H * H, RATES[kind] * OF_A_STEP
    # U, the state or the gradients, and the sums in float32.
    moved = gates * H * H * size + B * H * (gates + 1) * 4
    # W x, U h and the bias in, the gates out; states and their gradients.
    values = B * H * (gates * (2 * size + 4) + 24)
    kernel = max(KERNEL, values / BANDWIDTH)
    times = []
    for depth in (H, gates * H):
        chain = PRODUCT + DEPTH * min(depth, SPLIT_AT)
        product = max(chain, operations / rate, moved / BANDWIDTH)
        times.append(2 * BETWEEN + product + kernel)
    return Times(*times)


def launched(device: Times) -> Times:
    """The time of a step that the host launches call by call."""
    return Times(*(max(LAUNCH + LAUNCH_PRODUCT, time) for time in device))


def in_graph(device: Times) -> Times:
    """The time of a step in a CUDA graph."""
    return Times(*(ARGUMENTS + time for time in device))


def outside(cell: str, kind: str, B: int, I: int, H: int) -> Times:
    """Each step's share of the products of the whole sequence."""
    unit = 2 * B * GATES[cell] * H / RATES[kind]
    return Times(unit * I, unit * (2 * I + H))


def lines() -> Iterator[str]:
    """The table, in Markdown.  bfloat16 takes the time of float16."""
    yield "| T, B, H | cell | arithmetic | clusters | steps | graph | outside |"
    yield "|---|---|---|---|---|---|---|"
    for T, B, I, H in CUDA_SIZES:
        for cell in CELLS:
            for kind in ("float32", "tf32", "float16"):
                alone = device(cell, kind, B, H)
                one = clusters(cell, kind, B, H) or "–"
                times = (one, launched(alone), in_graph(alone), outside(cell, kind, B, I, H))
                yield f"| {T}, {B}, {H} | {cell} | {kind} | {' | '.join(map(str, times))} |"


def call(cell: str, kind: str, size: tuple[int, ...], mode: str) -> tuple[float, float]:
    """Milliseconds of a whole call, at best and at worst: all steps, and the products outside."""
    T, B, I, H = size
    found, rest = clusters(cell, kind, B, H), outside(cell, kind, B, I, H)
    steps = launched(device(cell, kind, B, H))
    best, worst = (steps, steps) if found is None else (found.best, found.worst)
    both = len(MODES) if mode == "training" else 1  # forward alone, or backward too
    low, high = (1e-3 * T * sum((*times[:both], *rest[:both])) for times in (best, worst))
    return low, high


def compared(records: Iterable[dict[str, Any]], mode: str) -> Iterator[str]:
    """A table in Markdown of whole calls: predicted → measured, milliseconds."""
    measured = {record["case"]: record["ms"]["xrnn"] for record in records}
    yield f"| T, B, H | cell | {' | '.join(KIND_OF)} |"
    yield f"|---|---|{'---|' * len(KIND_OF)}"
    for size in CUDA_SIZES:
        for cell in CELLS:
            found = []
            for precision, kind in KIND_OF.items():
                low, high = (f"{ms:.2f}" for ms in call(cell, kind, size, mode))
                told = low if low == high else f"{low}–{high}"
                found.append(f"{told} → {measured[Case(cell, *size, mode, precision)]:.2f}")
            T, B, _, H = size
            yield f"| {T}, {B}, {H} | {cell} | {' | '.join(found)} |"


def main() -> None:
    print("\n".join(lines()))
    for file in sys.argv[1:]:
        records = read(Path(file))
        for mode in MODES:
            print(f"\n{mode}:\n\n" + "\n".join(compared(records, mode)))


if __name__ == "__main__":
    main()
