"""One time step at a time, as an audio callback sees it: ``python benchmarks/stream.py``.

``layer.step`` for one stream (B = 1), as it is and with frozen weights, against PyTorch and
ONNX Runtime with the same weights and the state handed from step to step.  All sides are
compared over 50 steps first; then they take turns of 1,000 steps until each has done 100,000
(of the larger size a tenth), and every single step is timed.  Percentiles go to
``results/stream-<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from copy import copy
from time import perf_counter_ns
from typing import Any

import machine
import numpy as np
from cases import Case
from peers import Problem, onnx_model, usable

import xrnn

CELLS, TURN = ("rnn", "lstm", "gru"), 1000
#: I, H, and the part of the steps that is done at that size
SIZES = ((64, 128, 1.0), (512, 512, 0.1))
PERCENTILES = (50, 99, 99.9)

#: a side is (x, state) → (y (1, H), state)
Side = Callable[[Any, Any], tuple[Any, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args(argv)
    found = []
    for I, H, part in SIZES:
        for cell in CELLS:
            sides = contestants(cell, I, H)
            agree(sides, I)
            for name, times in race(sides, I, int(options.steps * part)).items():
                us = [round(float(t) / 1e3, 2) for t in np.percentile(times, PERCENTILES)]
                words = ", ".join(f"p{p} {t:8.2f} µs" for p, t in zip(PERCENTILES, us, strict=True))
                print(f"{cell:6}{I:4}{H:4}  {name:13}{words}", flush=True)
                who = {"cell": cell, "I": I, "H": H, "side": name, "steps": len(times)}
                found.append({**who, "percentiles": PERCENTILES, "us": us})
    out = machine.results_file("cpu")
    out = out.with_name(f"stream-{out.stem}.json")
    record = {**machine.describe("cpu", 1), "found": found}
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {out}")
    return 0


def contestants(cell: str, I: int, H: int) -> dict[str, Side]:
    """xrnn twice, and the peers that are installed."""
    problem = Problem(Case(cell, 1, 1, I, H, "inference", "fp32-ieee"), "cpu")
    frozen = copy(problem.layer).freeze()
    sides: dict[str, Side] = {"xrnn, frozen": frozen.step, "xrnn": problem.layer.step}
    makers = {"torch": with_torch, "onnxruntime": with_onnxruntime}
    return sides | {name: make(problem) for name, make in makers.items() if usable(name)}


def with_torch(problem: Problem) -> Side:
    import torch

    torch.set_num_threads(1)
    module = getattr(torch.nn, problem.case.cell.upper())(
        problem.layer.input_size, problem.layer.hidden_size
    )
    weights = xrnn.convert.to_torch(problem.layer)
    module.load_state_dict({k: torch.from_numpy(w) for k, w in weights.items()})

    def step(x: Any, state: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            y, state = module(torch.from_numpy(x)[None], state)
        return y[0], state

    return step


def with_onnxruntime(problem: Problem) -> Side:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx_model(problem, stateful=True), options, providers=["CPUExecutionProvider"]
    )
    names = [f"initial_{state}" for state in problem.layer.cell.states]
    zeros = [np.zeros((1, 1, problem.layer.hidden_size), "float32")] * len(names)

    def step(x: Any, state: Any) -> tuple[Any, Any]:
        given = dict(zip(names, state or zeros, strict=True))
        y, *state = session.run(None, {"X": x[None], **given})
        return y[0, 0], state

    return step


def agree(sides: dict[str, Side], I: int) -> None:
    """A ValueError if a side says something else than xrnn."""
    xs = np.random.default_rng(0).normal(size=(50, 1, I)).astype("float32")
    outputs = {name: follow(side, xs) for name, side in sides.items()}
    for name, ys in outputs.items():
        gap = float(abs(ys - outputs["xrnn"]).max())
        if not gap < 1e-4:
            raise ValueError(f"{name} differs by {gap:.1e}")


def follow(side: Side, xs: np.ndarray) -> np.ndarray:
    state, ys = None, []
    for x in xs:
        y, state = side(x, state)
        ys.append(np.asarray(y).copy())
    return np.stack(ys)


def race(sides: dict[str, Side], I: int, steps: int) -> dict[str, np.ndarray]:
    """Nanoseconds of every step; each turn goes on from where the side's last one ended."""
    xs = np.random.default_rng(1).normal(size=(TURN, 1, I)).astype("float32")
    times: dict[str, list[int]] = {name: [] for name in sides}
    states: dict[str, Any] = dict.fromkeys(sides)
    for _ in range(-(-steps // TURN)):
        for name, side in sides.items():
            state, series = states[name], times[name]
            for x in xs:
                start = perf_counter_ns()
                _, state = side(x, state)
                series.append(perf_counter_ns() - start)
            states[name] = state
    return {name: np.array(series) for name, series in times.items()}


if __name__ == "__main__":
    sys.exit(main())
