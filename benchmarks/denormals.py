"""What denormal numbers cost: the time of a pass on them, divided by that on normal numbers.

    python benchmarks/denormals.py          the native loops, where they are built
    XRNN_NATIVE=off python benchmarks/denormals.py          NumPy alone

Two inputs: "silence", zeros after a sound, where the state decays; and a constant of 1e-41.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XRNN_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

import xrnn  # noqa: E402
from xrnn.cells import BY_NAME  # noqa: E402

T, B, I, H, ROUNDS = 2000, 4, 16, 64, 9

CELLS = ("rnn", "lstm", "gru", "gru-before", "peephole", "mingru")


def seconds(run: Callable[[], object]) -> float:
    """The time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratios(layer: xrnn.Layer) -> tuple[float, ...]:
    """Silence and the constant, against noise; all three in turn, the medians of ROUNDS."""
    rng = np.random.default_rng(0)
    for w in layer.weights.values():
        w *= 0.3  # a state that forgets, but keeps more than half of itself at each step
    for k, gate in enumerate(layer.cell.gates):
        layer.weights["b_l0"][k * H : (k + 1) * H] = 2 * (gate in "ifoz")
    noise = rng.normal(size=(T, B, I)).astype("float32")
    silence = noise.copy()
    silence[100:] = 0
    inputs = (noise, silence, np.full_like(noise, 1e-41))
    times: list[list[float]] = [[], [], []]
    for _ in range(ROUNDS):
        for xs, found in zip(inputs, times, strict=True):
            found.append(seconds(lambda xs=xs: layer(xs)))  # type: ignore[misc]
    normal, *others = map(statistics.median, times)
    return tuple(other / normal for other in others)


def main() -> None:
    """Print a line for each cell."""
    print(f"(T, B, I, H) = {(T, B, I, H)}, float32, 1 thread: silence / 1e-41, against noise")
    for name in CELLS:
        layer = xrnn.Layer(BY_NAME[name], I, H, rng=0)
        words = " / ".join(f"{ratio:.2f}" for ratio in ratios(layer))
        print(f"{name:<12}{words:<14}{layer.path((T, B, I))['_l0']}", flush=True)


if __name__ == "__main__":
    main()
