"""How training costs grow: ``python benchmarks/scale.py``.

Time of one training step (forward, backward to inputs, state and weights) of an LSTM against
T, B and H, with PyTorch's beside it, on one thread, and the power of T, B or H that it grows as in
the last half of each curve; and the memory that a training step takes at its peak, in bytes a step
and unit of B·H, each library in a process of its own.  Numbers go to
``results/scale-<machine>.json``, curves to the PNG beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from turns import Call, take_turns

AXES = {
    "T": [(T, 32, 128, 128) for T in (25, 50, 100, 200, 400, 800)],
    "B": [(50, B, 128, 128) for B in (1, 4, 16, 64, 256)],
    "H": [(50, 32, H, H) for H in (32, 64, 128, 256, 512, 1024)],
}

#: where memory is measured, and where its own share is: the difference of two lengths
MEMORY = ((100, 64, 64, 512), (300, 64, 64, 512))

SECONDS = 1.5


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peak", nargs=5, metavar=("WHO", "T", "B", "I", "H"), help="for itself")
    options = parser.parse_args(argv)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XRNN_NUM_THREADS"):
        os.environ[variable] = "1"
    if options.peak:
        who, *sizes = options.peak
        print(peak(who, tuple(map(int, sizes))))
        return 0
    import machine

    # Before this process grows: the peak of one that it starts begins at its own size.
    memory = {who: bytes_a_unit(who) for who in ("xrnn", "torch")}
    print(", ".join(f"{who}: {n:.1f} bytes a step and unit" for who, n in memory.items()))
    curves: dict[str, list[dict[str, Any]]] = {}
    for axis, points in AXES.items():
        for sizes in points:
            ours, theirs = race(sizes)
            curves.setdefault(axis, []).append({"sizes": sizes, "xrnn": ours, "torch": theirs})
            print(f"{sizes!s:22} xrnn {ours:9.3f} ms, torch {theirs:9.3f} ms", flush=True)
    out = machine.results_file("cpu")
    out = out.with_name(f"scale-{out.stem}.json")
    record = {**machine.describe("cpu", 1), "curves": curves, "memory": memory}
    out.write_text(json.dumps(record, indent=1) + "\n")
    draw(curves, record["device"], out.with_suffix(".png"))
    print(f"written to {out} and {out.with_suffix('.png').name}")
    return 0


def sides(sizes: tuple[int, ...]) -> dict[str, Call]:
    """One training step of each library."""
    import torch
    from cases import Case
    from peers import Problem, ours, with_torch

    torch.set_num_threads(1)
    T, B, I, H = sizes
    problem = Problem(Case("lstm", T, B, I, H, "training"), "cpu")
    return {"xrnn": ours(problem).call, "torch": with_torch(problem, 1).call}


def race(sizes: tuple[int, ...]) -> tuple[float, float]:
    """Milliseconds of both, in turns; the first call of each is not counted."""
    calls = sides(sizes)
    for call in calls.values():
        call()
    ours, theirs = take_turns(list(calls.values()), SECONDS, 3)
    return median(ours), median(theirs)


def bytes_a_unit(who: str) -> float:
    """What a longer sequence adds to the peak, for each step and each of its B·H units."""
    peaks = []
    for sizes in MEMORY:
        command = [sys.executable, __file__, "--peak", who, *map(str, sizes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    (short, B, _, H), (long, *_) = MEMORY
    return (peaks[1] - peaks[0]) / ((long - short) * B * H)


def peak(who: str, sizes: tuple[int, ...]) -> int:
    """The most memory this process held, in bytes, after three training steps."""
    call = sides(sizes)[who]
    for _ in range(3):
        call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def power(points: Sequence[dict[str, Any]], axis: int, who: str) -> float:
    """That of its axis which the last half of a curve grows as."""
    import numpy as np

    half = points[len(points) // 2 :]
    x = np.log([p["sizes"][axis] for p in half])
    return float(np.polyfit(x, np.log([p[who] for p in half]), 1)[0])


def draw(curves: dict[str, list[dict[str, Any]]], device: str, path: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(11, 4), dpi=110, layout="constrained")
    titles = ("B = 32, I = H = 128", "T = 50, I = H = 128", "T = 50, B = 32, I = H")
    for panel, (axis, points), title in zip(panels, curves.items(), titles, strict=True):
        k = {"T": 0, "B": 1, "H": 3}[axis]
        for who, color in (("xrnn", "C0"), ("torch", "C1")):
            label = f"{who}, grows as {axis}^{power(points, k, who):.2f}"
            x, y = [p["sizes"][k] for p in points], [p[who] for p in points]
            panel.plot(x, y, "o-", color=color, ms=3, label=label)
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="ms", title=title)
        panel.set_xticks(x, labels=map(str, x), minor=False)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.suptitle(f"a training step of an LSTM; {device}, float32, one thread")
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
