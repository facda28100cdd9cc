"""Inference with weights of 8 bits, beside the peers': ``python benchmarks/quantised.py``.

At every size all sides get the same weights and inputs, and take turns in this one process on one
thread: xrnn with frozen weights of float32 and of 8 bits, PyTorch's dynamic quantisation (LSTM and
GRU) and ONNX Runtime's (LSTM).  What counts is the least time of the processor of each, and beside
it the largest difference from float32.  Then single steps of one stream (B = 1), every one timed,
in one layer and in two.  All of it goes to ``results/int8-<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import machine
import numpy as np
from cases import CELLS, FEWER_BITS, Case
from peers import Problem, onnx_model, usable
from stream import PERCENTILES, race
from tables import table
from turns import Call, take_turns

import xrnn

#: I, H of single steps, and how many are timed
STEPS = ((64, 128, 20_000), (256, 256, 10_000), (512, 512, 5_000), (1024, 1024, 1_000))

#: what is aimed at, of int8 / another side: the quantity, the cells, the other side, and the bounds
#: of the geometric mean and of the worst size
GOALS = (
    ("ms", CELLS, "float32", 0.42, 0.60),
    ("ms", ("lstm",), "onnxruntime int8", 0.90, 1.20),
    ("ms", ("lstm", "gru"), "torch qint8", 0.50, 0.95),
    ("error", ("lstm",), "onnxruntime int8", 0.50, 1.00),
)

#: the same of a step of layers with at least 256 units, beside float32: the geometric mean alone
STEP_GOAL = 0.30


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each size, of all sides")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    options = parser.parse_args(argv)
    os.environ["XRNN_NUM_THREADS"] = "1"  # read at every call
    grid, steps = [], []
    for cell in options.cells:
        for size in FEWER_BITS:
            grid.append(compared(cell, size, options.seconds))
            print(cell, size, grid[-1]["ms"], grid[-1]["error"], flush=True)
    for cell in options.cells:
        for layers in (1, 2):
            for I, H, n in STEPS:
                for found in stepped(cell, I, H, layers, n):
                    steps.append(found)
                    print(*found.values(), flush=True)
    out = machine.results_file("cpu")
    out = out.with_name(f"int8-{out.stem}.json")
    record = {**machine.describe("cpu", 1), "grid": grid, "steps": steps}
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {out}")
    return 0


def compared(cell: str, size: tuple[int, int, int, int], seconds: float) -> dict[str, Any]:
    """The least milliseconds of each side at one size, and its largest difference from float32."""
    problem = Problem(Case(cell, *size, "inference", "fp32-ieee"), "cpu")
    xs = problem.xs
    frozen, small = copy(problem.layer).freeze(), copy(problem.layer).freeze(weights="int8")
    sides: dict[str, Call] = {"float32": lambda: frozen(xs)[0], "int8": lambda: small(xs)[0]}
    if cell in ("lstm", "gru") and usable("torch"):
        sides["torch qint8"] = with_torch(problem)
    if cell == "lstm" and usable("onnxruntime"):
        sides["onnxruntime int8"] = with_onnxruntime(problem)
    expected = frozen(xs)[0]
    errors = {name: float(abs(np.asarray(call()) - expected).max()) for name, call in sides.items()}
    times = take_turns(list(sides.values()), seconds, 5, clock=process_time)
    ms = {name: round(min(own), 4) for name, own in zip(sides, times, strict=True)}
    del errors["float32"]
    return {"cell": cell, "size": size, "rounds": len(times[0]), "ms": ms, "error": errors}


def with_torch(problem: Problem) -> Call:
    import torch

    torch.set_num_threads(1)
    module = getattr(torch.nn, problem.case.cell.upper())(problem.case.I, problem.case.H)
    weights = xrnn.convert.to_torch(problem.layer)
    module.load_state_dict({k: torch.from_numpy(w) for k, w in weights.items()})
    quantize: Any = torch.ao.quantization.quantize_dynamic
    quantised = quantize(torch.nn.Sequential(module), {type(module)}, dtype=torch.qint8)[0]
    xs = torch.from_numpy(problem.xs)

    def call() -> Any:
        with torch.inference_mode():
            return quantised(xs)[0]

    return call


def with_onnxruntime(problem: Problem) -> Call:
    import onnx
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with TemporaryDirectory() as folder:
        whole, small = Path(folder, "whole.onnx"), Path(folder, "small.onnx")
        onnx.save(onnx.load_model_from_string(onnx_model(problem)), whole)
        quantize_dynamic(whole, small)
        model = small.read_bytes()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {"X": problem.xs}
    return lambda: session.run(["Y"], given)[0][:, 0]


def stepped(cell: str, I: int, H: int, layers: int, n: int) -> list[dict[str, Any]]:
    """The microseconds of single steps."""
    kind: Any = getattr(xrnn, cell.upper())
    layer = kind(I, H, layers, rng=0, init="uniform")
    sides = {
        "float32": copy(layer).freeze().step,
        "int8": copy(layer).freeze(weights="int8").step,
    }
    found = []
    for name, times in race(sides, I, n).items():
        us = [round(float(t) / 1e3, 2) for t in np.percentile(times, PERCENTILES)]
        least = round(float(times.min()) / 1e3, 2)
        who = {"cell": cell, "I": I, "H": H, "layers": layers, "side": name, "steps": len(times)}
        found.append({**who, "us": us, "least": least})
    return found


# ---- What the page of results shows


def section(file: Path) -> str:
    """The goals, a table of the sizes and one of the steps, from a file of results."""
    found = json.loads(file.read_text("utf-8"))
    rows = [
        [name_of(*goal[:3]), *met(ratios(found["grid"], *goal[:3]), *goal[3:])] for goal in GOALS
    ]
    large = [ratio for H, ratio in step_ratios(found["steps"]) if H >= 256]
    rows.append(["time of a step, H ≥ 256 / own float32", *met(large, STEP_GOAL, None)])
    parts = [
        f"**{found['device']}**, one thread; {versions(found)}; commit {found['commit']}, "
        f"{found['date']}.",
        table(["int8 / other", "geometric mean", "worst"], rows),
        table(["(T, B, I, H)", *CELLS], [size_row(found["grid"], size) for size in FEWER_BITS]),
        "In each place: the time of int8 / that of float32 / torch qint8 / onnxruntime int8, where "
        "there are these; then the largest errors of int8 / the same.",
        table(["(I, H), layers", *CELLS], step_rows(found["steps"])),
        "In each place, microseconds of a step: p50 / p99 / p99.9 of float32, then of int8. Where "
        "other processes wanted the cores meanwhile, p99 and p99.9 are the turns these had. The "
        "goal of a step is about the least time of each.",
    ]
    return "\n\n".join(parts)


def versions(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found["versions"].items())


def name_of(quantity: str, cells: Sequence[str], other: str) -> str:
    words = "time" if quantity == "ms" else "largest error"
    return f"{words}, {', '.join(cells)} / {'own float32' if other == 'float32' else other}"


def ratios(
    grid: list[dict[str, Any]], quantity: str, cells: Sequence[str], other: str
) -> list[float]:
    """int8 / the other side at all sizes of these cells."""
    mine = [one[quantity] for one in grid if one["cell"] in cells]
    return [one["int8"] / one[other] for one in mine]


def step_ratios(steps: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """(H, the least time of a step with int8 / that with float32)."""
    pairs = zip(steps[::2], steps[1::2], strict=True)
    return [(wide["H"], small["least"] / wide["least"]) for wide, small in pairs]


def met(found: list[float], bound: float, worst: float | None) -> list[str]:
    """The geometric mean and the worst ratio beside their bounds."""
    pairs = (geometric_mean(found), bound), (max(found), worst)
    return [
        f"{x:.2f}" + (f" (≤ {y:.2f}: {'met' if x <= y else 'not met'})" if y is not None else "")
        for x, y in pairs
    ]


def size_row(grid: list[dict[str, Any]], size: Sequence[int]) -> list[str]:
    row = [str(tuple(size))]
    for cell in CELLS:
        (one,) = [one for one in grid if one["cell"] == cell and one["size"] == list(size)]
        others = [name for name in one["ms"] if name != "int8"]
        times = " / ".join(f"{one['ms']['int8'] / one['ms'][name]:.2f}" for name in others)
        errors = " / ".join(f"{error:.1e}" for error in one["error"].values())
        row.append(f"{times}; {errors}")
    return row


def step_rows(steps: list[dict[str, Any]]) -> list[list[str]]:
    rows: dict[str, list[str]] = {}
    for wide, small in zip(steps[::2], steps[1::2], strict=True):
        name = f"({wide['I']}, {wide['H']}), {wide['layers']}"
        both = ("/".join(f" {t:.1f} " for t in one["us"]).strip() for one in (wide, small))
        rows.setdefault(name, [name]).append("; ".join(both))
    return list(rows.values())


if __name__ == "__main__":
    sys.exit(main())
