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
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time_ns
from typing import Any

import machine
import numpy as np
from cases import CELLS, Case
from peers import Problem, onnx_model, usable
from stream import PERCENTILES, race

import xrnn

SIZES = (
    (100, 1, 128, 128),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (100, 1, 1024, 1024),
    (28, 128, 28, 128),
    (100, 32, 256, 256),
    (50, 64, 512, 512),
    (35, 20, 640, 640),
)

#: I, H of single steps, and how many are timed
STEPS = ((64, 128, 20_000), (256, 256, 10_000), (512, 512, 5_000), (1024, 1024, 1_000))

#: () → the outputs (T, B, H)
Call = Callable[[], Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each size, of all sides")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    options = parser.parse_args(argv)
    os.environ["XRNN_NUM_THREADS"] = "1"  # read at every call
    grid, steps = [], []
    for cell in options.cells:
        for size in SIZES:
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
    least = dict.fromkeys(sides, float("inf"))
    spent, rounds = 0.0, 0
    while spent < seconds or rounds < 5:
        for name, call in sides.items():
            start = process_time_ns()
            call()
            taken = (process_time_ns() - start) / 1e6
            least[name], spent = min(least[name], taken), spent + taken / 1e3
        rounds += 1
    del errors["float32"]
    ms = {name: round(t, 4) for name, t in least.items()}
    return {"cell": cell, "size": size, "rounds": rounds, "ms": ms, "error": errors}


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


if __name__ == "__main__":
    sys.exit(main())
