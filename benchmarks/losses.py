"""Softmax cross-entropy and CTC against PyTorch's: ``python benchmarks/losses.py [--threads 2]``.

Loss and gradient of float32 logits: nanoseconds a value, the least and the median of several calls
that take turns, and the most memory that was allocated meanwhile, as a multiple of the logits.
Numbers go to ``results/losses-<machine>-<threads>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tracemalloc
from collections.abc import Sequence
from statistics import median
from typing import Any

from turns import Call, take_turns

SHAPES = ((64, 100_000), (32, 65_536), (256, 65_536), (4096, 100), (64, 100))
KINDS = ("classes", "mask", "distribution", "weights", "smoothed")

#: T, B, V and the length S of the targets
CTC = ((100, 1, 30, 20), (200, 32, 30, 30), (400, 16, 100, 60), (200, 8, 5000, 30))

NAMES = ("xrnn", "torch")

#: seconds that each point gets
SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XRNN_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    import machine

    try:
        import torch
    except ImportError as error:
        print(f"nothing to compare with: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    points = []
    for shape in SHAPES:
        points += [measure(shape, kind, *calls(shape, kind)) for kind in KINDS]
    points += [measure(shape, "ctc", *ctc_calls(*shape)) for shape in CTC]
    out = machine.results_file("cpu")
    out = out.with_name(f"losses-{out.stem}-{options.threads}.json")
    about = machine.describe("cpu", options.threads)
    out.write_text(json.dumps({**about, "points": points}, indent=1) + "\n")
    print(f"written to {out}")
    return 0


def measure(
    shape: tuple[int, ...], kind: str, ours: Call, theirs: Call, size: int
) -> dict[str, Any]:
    """One point: times and memory of the two calls, which is printed too."""
    point: dict[str, Any] = {"shape": shape, "kind": kind, "peak": peak(ours) / (4 * size)}
    for name, times in zip(NAMES, take_turns((ours, theirs), SECONDS, 5), strict=True):
        point[name] = [1e6 * least / size for least in (min(times), median(times))]
    words = (f"{name} {point[name][0]:6.2f} {point[name][1]:6.2f}" for name in NAMES)
    print(f"{shape!s:19}{kind:13}{'  '.join(words)}  peak {point['peak']:.2f}", flush=True)
    return point


def calls(shape: tuple[int, int], kind: str) -> tuple[Call, Call, int]:
    """xrnn's loss and PyTorch's of the same numbers, and the number of logits."""
    import torch

    import xrnn
    from xrnn.backends.host import generator

    random = generator(0)
    logits = random.normal(size=shape).astype("float32")
    targets = random.integers(0, shape[1], shape[0])
    mask = random.uniform(size=shape[0]) < 0.5 if kind == "mask" else None
    if kind == "distribution":
        targets = random.dirichlet([1.0] * shape[1], shape[0]).astype("float32")
    weights = random.uniform(size=shape[1]).astype("float32") if kind == "weights" else None
    smoothing = 0.1 if kind == "smoothed" else 0.0
    y, t = torch.tensor(logits, requires_grad=True), torch.tensor(targets)
    w = None if weights is None else torch.tensor(weights)
    if mask is not None:
        t[~torch.tensor(mask)] = -100

    def theirs() -> Any:
        y.grad = None
        loss: Any = torch.nn.functional.cross_entropy(y, t, w, label_smoothing=smoothing)
        loss.backward()
        return y.grad

    def ours() -> Any:
        return xrnn.losses.softmax_cross_entropy(
            logits, targets, mask, class_weights=weights, label_smoothing=smoothing
        )[1]

    check(ours, theirs, 1e-6)
    return ours, theirs, logits.size


def ctc_calls(T: int, B: int, V: int, S: int) -> tuple[Call, Call, int]:
    """The same for CTC."""
    import torch

    import xrnn
    from xrnn.backends.host import generator

    random = generator(0)
    logits = random.normal(size=(T, B, V)).astype("float32")
    targets = random.integers(1, V, (B, S))
    y, t = torch.tensor(logits, requires_grad=True), torch.tensor(targets)
    lengths, sizes = torch.full((B,), T), torch.full((B,), S)

    def theirs() -> Any:
        y.grad = None
        log_p = torch.log_softmax(y, -1)
        loss: Any = torch.nn.functional.ctc_loss(log_p, t, lengths, sizes)
        loss.backward()
        return y.grad

    def ours() -> Any:
        return xrnn.losses.ctc(logits, targets)[1]

    check(ours, theirs, 1e-4)
    return ours, theirs, logits.size


def check(ours: Call, theirs: Call, tolerance: float) -> None:
    """Raise ValueError if the two gradients differ."""
    gap = float(abs(ours() - theirs().numpy()).max())
    if not gap < tolerance:
        raise ValueError(f"the two gradients differ by {gap:.1e}")


def peak(call: Call) -> int:
    """Bytes that a call allocates at most, its result included."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


if __name__ == "__main__":
    sys.exit(main())
