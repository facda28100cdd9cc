"""Learning online, where truncated backpropagation cannot: ``python benchmarks/online.py``.

Delayed recall on an endless stream.  A bit is shown at the same step as a mark; noise follows
for 20 to 40 steps; then a question is put, and the answer is the bit.  To learn what to keep, the
gradient of the loss at the question must reach the mark.  Backpropagation in windows of 10 steps
never contains both; the gradient that `xrnn.online` computes forward includes the whole past.  Both
get the same stream, the same number of updates and the same optimizer.

Then the same over 100,000 steps with fixed weights: the sum of the gradients carried forward
against one backward pass over all of them, and the memory that each takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import machine
import numpy as np

import xrnn
from xrnn.cells import InputGatedLSTM
from xrnn.learn.online import Online

#: streams, hidden units, steps between updates, what a step shows: bit or noise, mark, question
B, H, WINDOW, I = 32, 16, 10, 3

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40_000, help="of the stream")
    parser.add_argument("--long", type=int, default=100_000, help="of the comparison")
    options = parser.parse_args(argv)
    curves = {}
    for name, learn in (("carried forward", forward), (f"window of {WINDOW}", windows)):
        start = perf_counter()
        curves[name] = learn(options.steps)
        wrong, seconds = np.mean(curves[name][-10:]), perf_counter() - start
        print(f"{name:16}{wrong:8.1%} of answers wrong at the end, {seconds:.0f} s", flush=True)
    found = long_stream(options.long)
    print(
        f"{found['steps']:,} steps: largest relative difference to one backward pass "
        f"{found['difference']:.1e}; peak memory {found['online_peak']:,} bytes at any length, "
        f"backward pass {found['back_peak']:,}; {found['us_per_step']:.0f} µs a step"
    )
    out = machine.results_file("cpu")
    out = out.with_name(f"online-{out.stem}.json")
    about = machine.describe("cpu", 1)
    record = {**about, "wrong": {k: list(map(float, c)) for k, c in curves.items()}, "long": found}
    out.write_text(json.dumps(record) + "\n")
    draw(curves, options.steps, out.with_suffix(".png"))
    print(f"written to {out} and {out.with_suffix('.png').name}")
    return 0


def stream(seed: int, B: int = B, delay: tuple[int, int] = (20, 41)) -> Iterator[Batch]:
    """At every step inputs (B, I), answers (B, 1), and where one is asked for (B, 1)."""
    rng = np.random.default_rng(seed)
    bits, left = np.zeros(B), rng.integers(0, 30, B)
    while True:
        left -= 1
        mark, question = left < 0, left == 0
        shown = rng.choice([-1.0, 1.0], B)
        bits = np.where(mark, shown, bits)
        left = np.where(mark, rng.integers(*delay, B), left)
        yield (
            np.stack([shown, mark, question], axis=1).astype("float32"),
            bits[:, None].astype("float32"),
            question[:, None],
        )


class Learner:
    """The weights, the readout, and how many answers were wrong in each hundredth."""

    def __init__(self, steps: int) -> None:
        # Gates that keep at first, or nothing is left of the bit for either way to learn from.
        self.layer = xrnn.InputGatedLSTM(I, H, forget_bias=4.0)
        self.weights = {k.removesuffix("_l0"): w for k, w in self.layer.weights.items()}
        self.readout = xrnn.Linear(H, 1)
        self.optimizer = xrnn.optim.Adam(3e-3)
        self.wrong: list[list[bool]] = [[] for _ in range(100)]
        self.each = max(1, steps // 100)

    def loss(
        self, t: int, hs: np.ndarray, answers: np.ndarray, asked: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The gradients of hs (B, H) and of the readout."""
        ys, tape = self.readout.forward(hs)
        self.wrong[min(t // self.each, 99)] += list((ys * answers <= 0)[asked])
        dys = np.where(asked, 2 * (ys - answers), 0).astype("float32") / B
        return self.readout.backward(tape, dys)

    def update(self, dcell: dict[str, np.ndarray], dreadout: dict[str, np.ndarray]) -> None:
        self.optimizer.update(
            self.weights | {f"out {k}": w for k, w in self.readout.weights.items()},
            dcell | {f"out {k}": d for k, d in dreadout.items()},
        )

    def curve(self) -> list[float]:
        return [float(np.mean(part)) for part in self.wrong if part]


def added(total: dict[str, np.ndarray], more: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: total[k] + d if total else d for k, d in more.items()}


def forward(steps: int) -> list[float]:
    """Learn with gradients carried forward."""
    learner = Learner(steps)
    online = Online(InputGatedLSTM, learner.weights, B)
    dcell: dict[str, np.ndarray] = {}
    dreadout: dict[str, np.ndarray] = {}
    for t, (x, answers, asked) in zip(range(steps), stream(0), strict=False):
        dh, now = learner.loss(t, online.step(x), answers, asked)
        dcell, dreadout = added(dcell, online.gradient(dh)), added(dreadout, now)
        if (t + 1) % WINDOW == 0:
            learner.update(dcell, dreadout)
            dcell, dreadout = {}, {}
    return learner.curve()


def windows(steps: int) -> list[float]:
    """Learn by backpropagation within windows; the state is handed on from one to the next."""
    learner, source = Learner(steps), stream(0)
    state = None
    for start in range(0, steps, WINDOW):
        batch = [next(source) for _ in range(WINDOW)]
        xs = np.stack([x for x, _, _ in batch])
        ys, state, tape = xrnn.unroll(InputGatedLSTM, learner.weights, xs, state)
        dys = np.zeros_like(ys)
        dreadout: dict[str, np.ndarray] = {}
        for k, (_, answers, asked) in enumerate(batch):
            dys[k], now = learner.loss(start + k, ys[k], answers, asked)
            dreadout = added(dreadout, now)
        learner.update(xrnn.unroll_backward(tape, dys)[2], dreadout)
    return learner.curve()


def long_stream(steps: int) -> dict[str, Any]:
    """Exactness and memory over many steps, in float64."""
    rng = np.random.default_rng(0)
    weights = {k: 0.5 * rng.normal(size=s) for k, s in InputGatedLSTM.shapes(4, H).items()}
    xs, dys = rng.normal(size=(steps, 1, 4)), rng.normal(size=(steps, 1, H))
    online = Online(InputGatedLSTM, weights, 1)
    total: dict[str, np.ndarray] = {}

    def run(part: slice) -> None:
        nonlocal total
        for x, dh in zip(xs[part], dys[part], strict=True):
            online.step(x)
            total = added(total, online.gradient(dh))

    first = peak(lambda: run(slice(0, 1000)))
    rest = peak(lambda: run(slice(1000, None)))
    back: list[dict[str, np.ndarray]] = []

    def once() -> None:
        *_, tape = xrnn.unroll(InputGatedLSTM, weights, xs)
        back.append(xrnn.unroll_backward(tape, dys)[2])

    memory = peak(once)
    start = perf_counter()
    for x in xs[:2000]:
        online.step(x)
        online.gradient(dys[0])
    return {
        "steps": steps,
        "difference": max(abs(total[k] - d).max() / abs(d).max() for k, d in back[0].items()),
        "online_peak": rest,
        "online_peak_of_1000": first,
        "back_peak": memory,
        "us_per_step": 1e6 * (perf_counter() - start) / min(2000, steps),
    }


def peak(run: Callable[[], None]) -> int:
    """The most bytes that were held at once, beyond what was held before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def draw(curves: dict[str, list[float]], steps: int, path: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110, layout="constrained")
    for name, curve in curves.items():
        axes.plot(np.linspace(0, steps, len(curve)), curve, label=f"gradient: {name}")
    axes.axhline(0.5, color="grey", lw=0.8, ls=":", label="chance")
    axes.set(xlabel="steps of the stream", ylabel="answers wrong", ylim=(0, 0.65))
    axes.set_title("Recall a bit after 20 to 40 steps")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
