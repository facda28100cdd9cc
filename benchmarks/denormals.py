"""What denormal numbers cost: the time of a pass on them, divided by that on normal numbers.

    python benchmarks/denormals.py          the native loops, where they are built
    XRNN_NATIVE=off python benchmarks/denormals.py          NumPy alone

Two inputs: "silence", zeros after a sound, where the state decays; and a constant of 1e-41.
"""

from __future__ import annotations

import os
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


def ratio(layer: xrnn.Layer, xs: np.ndarray) -> float:
    """The time for xs, divided by that for noise: the least of ROUNDS, taken in turn."""
    inputs = noise(), xs
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for given, found in zip(inputs, times, strict=True):
            found.append(seconds(lambda given=given: layer(given)))  # type: ignore[misc]
    return min(times[1]) / min(times[0])


def noise() -> np.ndarray:
    """Inputs of an ordinary size."""
    return np.random.default_rng(0).normal(size=(T, B, I)).astype("float32")


def silence(name: str) -> float:
    """Zeros after a sound, where the state forgets but keeps more than half at each step."""
    layer, xs = xrnn.Layer(BY_NAME[name], I, H, rng=0), noise()
    for w in layer.weights.values():
        w *= 0.3
    for k, gate in enumerate(layer.cell.gates):
        layer.weights["b_l0"][k * H : (k + 1) * H] = 2 * (gate in "ifoz")
    xs[100:] = 0
    return ratio(layer, xs)


def constant(name: str) -> float:
    """1e-41 at every step."""
    layer = xrnn.Layer(BY_NAME[name], I, H, bias=False, rng=0)
    return ratio(layer, np.full((T, B, I), 1e-41, "float32"))


def main() -> None:
    """Print a line for each cell."""
    print(f"(T, B, I, H) = {(T, B, I, H)}, float32, 1 thread: silence / 1e-41, against noise")
    for name in CELLS:
        path = xrnn.Layer(BY_NAME[name], I, H).path((T, B, I))["_l0"]
        print(f"{name:<12}{silence(name):.2f} / {constant(name):<7.2f}{path}", flush=True)


if __name__ == "__main__":
    main()
