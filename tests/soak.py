"""What only many repetitions show: memory that grows, threads that meet, processes that fork.

Each job is a function that repeats one thing ``scale`` times as often as usual, raises
AssertionError when something is wrong, and returns its figures.  `test_soak.py` runs all of them
for a moment; this script runs them for minutes:

    python tests/soak.py                       all jobs
    python tests/soak.py threads fork          some of them
    python tests/soak.py training --scale 10   ten times as long
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import xrnn
from xrnn import losses, optim

#: what a job tells of its run, by name
Figures = dict[str, Any]

JOBS: dict[str, Callable[[float], Figures]] = {}


def job(run: Callable[[float], Figures]) -> Callable[[float], Figures]:
    """List a function among the jobs, by its name."""
    JOBS[run.__name__] = run
    return run


def resident() -> float:
    """The memory of this process that is in use, in MB; 0 where it cannot be read."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return pages * mmap.PAGESIZE / 2**20


def noise(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


@job
def training(scale: float) -> Figures:
    """100,000 steps of a small layer: the memory stays what it was after the first tenth."""
    steps = max(int(100_000 * scale), 20)
    layer, adam = xrnn.LSTM(8, 16, rng=0), optim.Adam(1e-3)
    xs, targets = noise(6, 4, 8), noise(6, 4, 16)
    early, start = 0.0, time.perf_counter()
    for step in range(steps):
        if step == steps // 10:
            early = resident()
        ys, _, tape = layer.forward(xs)
        loss, dys = losses.squared_error(ys, targets)
        _, _, gradients = layer.backward(tape, dys)
        adam.update(layer.weights, gradients)
    seconds, grown = time.perf_counter() - start, resident() - early
    assert np.isfinite(loss), loss
    assert grown < 4, f"{grown:.1f} MB more after {steps} steps"
    return {"steps": steps, "seconds": seconds, "MB grown": grown, "loss": float(loss)}


def _passes(layer: xrnn.LSTM, xs: Any) -> list[Any]:
    """Everything that a forward and a backward pass give."""
    ys, state, tape = layer.forward(xs)
    dxs, _, gradients = layer.backward(tape, ys)
    return [ys, *state, dxs, *gradients.values()]


def _equal(found: list[Any], expected: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@job
def threads(scale: float) -> Figures:
    """64 threads on one layer, large and small calls: every bit is that of one thread."""
    calls = max(int(200 * scale), 2)
    layer = xrnn.LSTM(32, 64, rng=0)
    inputs = [noise(3, 2, 32), noise(40, 16, 32)]
    expected = [_passes(layer, xs) for xs in inputs]
    wrong: list[Any] = []

    def work(first: int) -> None:
        for call in range(first, first + calls):
            which = call % 16 == 0  # mostly small calls
            try:
                if not _equal(_passes(layer, inputs[which]), expected[which]):
                    wrong.append(call)
            except BaseException as error:
                wrong.append(error)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(64)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong, wrong[:3]
    return {"threads": 64, "calls": 64 * calls, "seconds": time.perf_counter() - start}


class _StoppedError(Exception):
    """Raised by the handler of a signal."""


def _stop(*_: object) -> None:
    raise _StoppedError


@job
def interrupts(scale: float) -> Figures:
    """Passes that signals end at any moment: the layer stays as it was, and so does the memory."""
    rounds = max(int(1000 * scale), 3)
    layer, xs = xrnn.LSTM(64, 128, rng=0), noise(100, 32, 64)
    expected, ended = _passes(layer, xs), 0
    before, start = signal.signal(signal.SIGALRM, _stop), time.perf_counter()
    early = resident()
    for round_ in range(rounds):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001 + round_ % 60 * 0.001)
            _passes(layer, xs)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except _StoppedError:
            ended += 1
    signal.signal(signal.SIGALRM, before)
    assert _equal(_passes(layer, xs), expected)
    grown = resident() - early
    assert grown < 40, f"{grown:.1f} MB more after {rounds} rounds"
    seconds = time.perf_counter() - start
    return {"rounds": rounds, "ended": ended, "seconds": seconds, "MB grown": grown}


def _same_in_this_process(expected: list[Any]) -> bool:
    return _equal(_passes(xrnn.LSTM(32, 64, rng=0), noise(40, 16, 32)), expected)


def _children(method: str, scale: float) -> Figures:
    """Pools of processes, started by one method after the native loops have been used."""
    rounds = max(int(10 * scale), 1)
    expected = _passes(xrnn.LSTM(32, 64, rng=0), noise(40, 16, 32))
    start = time.perf_counter()
    for _ in range(rounds):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert all(pool.map(_same_in_this_process, [expected] * 8)), method
    return {"processes": 2 * rounds, "passes": 8 * rounds, "seconds": time.perf_counter() - start}


@job
def fork(scale: float) -> Figures:
    """A forked process computes the same bits."""
    return _children("fork", scale)


@job
def spawn(scale: float) -> Figures:
    """A spawned process computes the same bits."""
    return _children("spawn", scale)


@job
def forkserver(scale: float) -> Figures:
    """A process of a fork server computes the same bits."""
    return _children("forkserver", scale)


def main(arguments: list[str]) -> None:
    """Run the jobs that are named, or all, and print a line for each."""
    parser = argparse.ArgumentParser(description="Run jobs many times over.")
    parser.add_argument("jobs", nargs="*", metavar="job", help=f"any of {', '.join(JOBS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="how many times as long")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.jobs) - set(JOBS)):
        parser.error(f"no job {', '.join(unknown)}; the jobs are {', '.join(JOBS)}")
    for name in options.jobs or JOBS:
        figures = JOBS[name](options.scale)
        words = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()]
        print(f"{name}: {', '.join(words)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
