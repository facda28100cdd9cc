"""A training step of one long sequence, in time and memory: ``python benchmarks/long.py``.

An LSTM of H = 256 over T = 100,000 steps of B = 2 sequences: forward, the gradient of all outputs,
backward to the inputs, the state and all weights.  Each way runs in a process of its own, the ways
in turn: the plain one, which keeps everything, and those with `checkpoint`.  Then the same through
`xrnn.fit`, with a readout, a loss and an update: plain, with `recompute`, and with `truncate`.  A
result is the median time, the largest resident memory of the whole process, and a hash of all
gradients (of `fit`: weights), which must be that of the plain way, but for `truncate`.  Numbers go
to ``results/long-<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from statistics import median
from time import perf_counter, process_time
from typing import Any

B, I, H = 2, 64, 256
WAYS = ("plain", "sqrt", "100", "1000")
#: what `xrnn.fit` is given
FITS: dict[str, dict[str, Any]] = {
    "fit": {},
    "fit, recompute": {"recompute": "sqrt"},
    "fit, truncate": {"truncate": (1000, 1000)},
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="T")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    ways = (*WAYS, *FITS)
    parser.add_argument("--way", choices=ways, help="run this way here, and print the result")
    options = parser.parse_args(argv)
    if options.way:
        one = train if options.way in FITS else measure
        print(json.dumps(one(options.way, options.steps)))
        return 0
    import machine

    load = machine.Load()
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, found in runs.items():
            found.append(child(way, options))
            print(f"{way:15}", found[-1], flush=True)
    points = [
        summary(way, found, runs["fit" if way in FITS else "plain"]) for way, found in runs.items()
    ]
    out = machine.results_file("cpu")
    out = out.with_name(f"long-{out.stem}.json")
    about = {**machine.describe("cpu", options.threads), "others": load.others()}
    shape = {"T": options.steps, "B": B, "I": I, "H": H}
    out.write_text(json.dumps({**about, **shape, "points": points}, indent=1) + "\n")
    for point in points:
        print(
            f"{point['way']:15}{point['seconds']:8.2f} s {point['bytes'] / 1e9:6.2f} GB"
            f"{point['ratio']:8.2f} of the plain time, {point['cpu_ratio']:.2f} of its work"
        )
    print(f"written to {out}")
    return 0


def child(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """The result of one way, measured in a process of its own."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XRNN_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(options.threads))
    words = [sys.executable, __file__, "--way", way, "--steps", str(options.steps)]
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(way: str, T: int) -> dict[str, Any]:
    """Seconds, seconds of the processor, bytes, and the hash of the gradients of one step."""
    import numpy as np

    import xrnn

    checkpoint: Any = {"plain": None, "sqrt": "sqrt"}.get(way, way)
    checkpoint = int(checkpoint) if str(checkpoint).isdecimal() else checkpoint
    layer = xrnn.LSTM(I, H, rng=0)
    xs = np.random.default_rng(0).standard_normal((T, B, I), dtype="float32")
    _, _, tape = layer.forward(xs[:500], checkpoint=100)  # kernels are chosen and verified
    layer.backward(tape)
    start, work = perf_counter(), process_time()
    ys, _, tape = layer.forward(xs, checkpoint=checkpoint)
    dys = ys * np.float32(1e-3)
    dxs, dstate, dweights = layer.backward(tape, dys)
    seconds, work = perf_counter() - start, process_time() - work
    return record(seconds, work, [dxs, *dstate, *dweights.values()])


def train(way: str, T: int) -> dict[str, Any]:
    """The same of a batch in `xrnn.fit`, with the hash of the weights."""
    import numpy as np

    import xrnn

    model = xrnn.Sequential(xrnn.LSTM(I, H, rng=0), xrnn.Linear(H, 1, rng=1))
    xs = np.random.default_rng(0).standard_normal((T, B, I), dtype="float32")
    ys = xs[..., :1].cumsum(0) / np.float32(T) ** 0.5

    def fit(steps: int) -> None:
        batch = (xs[:steps], ys[:steps])
        how: dict[str, Any] = {"epochs": 1, "progress": False, "rng": 0, **FITS[way]}
        xrnn.fit(model, [batch], xrnn.losses.squared_error, **how)

    fit(500)  # kernels are chosen and verified
    start, work = perf_counter(), process_time()
    fit(T)
    seconds, work = perf_counter() - start, process_time() - work
    return record(seconds, work, [w for part in model.weights.values() for w in part.values()])


def record(seconds: float, work: float, arrays: list[Any]) -> dict[str, Any]:
    """The result of a way; the memory is the most that the process has held."""
    import resource

    import numpy as np

    unit = 1 if sys.platform == "darwin" else 1024
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest = sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return {"seconds": seconds, "work": work, "bytes": peak, "hash": digest.hexdigest()}


def summary(way: str, found: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of all runs of a way; the ratios are medians over the turns."""
    both = list(zip(found, plain, strict=True))
    if "truncate" not in FITS.get(way, {}):
        assert all(one["hash"] == other["hash"] for one, other in both), f"{way}: other gradients"
    return {
        "way": way,
        "seconds": median(one["seconds"] for one in found),
        "work": median(one["work"] for one in found),
        "bytes": max(one["bytes"] for one in found),
        "ratio": median(one["seconds"] / other["seconds"] for one, other in both),
        "cpu_ratio": median(one["work"] / other["work"] for one, other in both),
    }


if __name__ == "__main__":
    sys.exit(main())
