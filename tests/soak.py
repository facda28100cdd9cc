"""What only many repetitions show: memory that grows, threads that meet, processes that fork
or are killed.

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
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crashes
import numpy as np

import xrnn
from xrnn import losses, optim
from xrnn.convert import files

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


def _is_whole(path: Path, layers: list[xrnn.LSTM]) -> None:
    """AssertionError or ValueError unless the file holds one of the layers."""
    found = files.read(path)[0]["U_l0"]
    assert any(np.array_equal(found, layer.weights["U_l0"]) for layer in layers), "half a file"


def _save_for_ever(path: Path, layer: xrnn.LSTM) -> None:
    while True:
        xrnn.save(path, layer)


@job
def saves(scale: float) -> Figures:
    """Processes that save to one file are killed: it is always whole, and nothing stays behind."""
    kills, reads = max(int(400 * scale), 4), 0
    layers, rng = [xrnn.LSTM(64, 128, rng=rng) for rng in range(3)], np.random.default_rng(0)
    processes, start = multiprocessing.get_context("fork"), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        xrnn.save(path, layers[2])
        for _ in range(kills // 2):
            writers = [
                processes.Process(target=_save_for_ever, args=(path, layer)) for layer in layers[:2]
            ]
            for writer in writers:
                writer.start()
            end = time.perf_counter() + rng.uniform(0.001, 0.2)
            while time.perf_counter() < end:
                _is_whole(path, layers)
                reads += 1
            for writer in writers:
                writer.kill()
                writer.join()
            _is_whole(path, layers)
        xrnn.save(path, layers[2])
        assert os.listdir(folder) == ["model"], os.listdir(folder)
    return {"kills": kills, "reads": reads, "seconds": time.perf_counter() - start}


@job
def faults(scale: float) -> Figures:
    """A save is killed, or gets an error, at each of its system calls: old or new, never half."""
    if not crashes.Traced.available():
        return {"faults": 0, "because": "strace does not run here"}
    layers, start = [xrnn.LSTM(64, 128, rng=rng) for rng in range(2)], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        make = "import xrnn; layer = xrnn.LSTM(64, 128, rng=1)"
        traced = crashes.Traced(make, f"xrnn.save({str(path)!r}, layer)")
        xrnn.save(path, layers[0])
        points = [(call, fault) for call in traced.calls() for fault in traced.FAULTS]
        step = max(round(1 / scale) if scale else len(points), 1)
        for (name, n), fault in points[::step]:
            xrnn.save(path, layers[0])
            traced.disturb(name, n, fault)
            _is_whole(path, layers)
            xrnn.save(path, layers[0])
            assert os.listdir(folder) == ["model"], f"{fault} in {name} {n} left something behind"
    return {"faults": len(points[::step]), "seconds": time.perf_counter() - start}


@job
def runs(scale: float) -> Figures:
    """kill -9 of `xrnn train` at random moments: it is gone on with until it is finished.

    The end is that of a run that nobody killed, bit for bit, and no other file is left.
    """
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        text, whole, run = (Path(place, name) for name in ("text", "whole", "run"))
        text.write_text("".join(random.choice(list("abc \n"), size=4000).tolist()))
        steps = max(int(20_000 * scale), 30)
        start = time.perf_counter()
        assert _train(text, whole, steps).wait() == 0
        seconds, killed = time.perf_counter() - start, 0
        for _ in range(max(int(100 * scale), 3)):
            process = _train(text, run, steps)
            try:
                ended = process.wait(random.uniform(0, seconds / 3))
                assert ended in (0, 2), ended  # 2: all its steps are made
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        while not (run / "loss.png").exists():
            assert _train(text, run, steps).wait() == 0
        one, other = (files.read(f / "checkpoint.safetensors")[0] for f in (whole, run))
        assert _equal([one[k] for k in sorted(one)], [other[k] for k in sorted(other)])
        assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}
    return {"steps": steps, "kills": killed, "seconds": time.perf_counter() - start}


def _train(text: Path, run: Path, steps: int) -> subprocess.Popen[bytes]:
    """A process that begins a run, or goes on with it."""
    sizes = "--hidden 8 --embedding 4 --batch 4 --length 8 --backend cpu"
    more = ["--resume"] if (run / "checkpoint.safetensors").exists() else []
    words = ["train", "--text", text, "--out", run, *sizes.split(), "--steps", steps, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "xrnn", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


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
