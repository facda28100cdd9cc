"""Products of bfloat16 on the CPU: ``python benchmarks/bfloat16.py``.

For each cell and size `precision="bf16"` against xrnn's own float32, and against PyTorch in
bfloat16: with weights of that dtype, and in training also by ``torch.autocast``.  In inference
weights are frozen.  All sides run in turns in this one process on one thread; a time is the least
CPU time of a call, so that other processes count little.  Memory that is freed is kept
(``MALLOC_*``): else page faults are timed.  Errors are the largest difference from xrnn in float64,
of outputs, and in training of the gradients of inputs and weights, each relative to its largest
value.

One JSON line a case goes to ``results/bfloat16-<machine>.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import geometric_mean
from time import process_time
from typing import TYPE_CHECKING, Any

from cases import CELLS, FEWER_BITS, MODES, Case
from run import set_environment, title
from turns import take_turns

if TYPE_CHECKING:
    from peers import Side

#: what glibc reads when a program starts
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 31), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}

#: seconds of CPU time for the sides of a case together, and the fewest turns of each
SECONDS, TURNS = 4.0, 5

#: the goals: what is compared, mode, cells, the fewest sequences, the sides (the best one counts),
#: and bounds of the geometric mean and of the worst ratio
GOALS = (
    ("ratio", "inference", CELLS, 1, ("float32",), 0.58, 0.70),
    ("ratio", "inference", ("lstm",), 1, ("torch bf16",), 0.75, 1.05),
    ("ratio", "inference", ("gru",), 1, ("torch bf16",), 0.35, 1.05),
    ("ratio", "inference", ("rnn",), 1, ("torch bf16",), 0.25, 1.05),
    ("ratio", "training", CELLS, 20, ("float32",), 0.57, 0.65),
    ("ratio", "training", ("lstm",), 20, ("torch bf16", "torch autocast"), 0.85, 1.00),
    ("error", "training", ("lstm",), 20, ("torch bf16", "torch autocast"), 0.90, 0.90),
)

Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, help="instead of results/bfloat16-<machine>.jsonl")
    options = parser.parse_args(argv)
    if any(os.environ.get(name) != value for name, value in KEEP.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP})
    set_environment(1, "fp32-ieee")
    # Only now, as the array libraries read the environment when they are loaded.
    import machine

    from xrnn.backends.cpu import extension

    about = {**machine.describe("cpu", 1), "loops": extension.notes()[0]}
    usual = machine.results_file("cpu")
    out = options.out or usual.with_name(f"bfloat16-{usual.name}")
    for mode, cell, size in product(options.modes, options.cells, FEWER_BITS):
        case = Case(cell, *size, mode, "fp32-ieee")
        found = measure(case, options.seconds)
        print(title(case), found, flush=True)
        machine.store(out, {"case": asdict(case), "code": "bf16", **found, **about})
    print(f"written to {out}")
    return 0


def measure(case: Case, seconds: float) -> dict[str, Any]:
    """Milliseconds and errors of all sides."""
    from peers import difference

    exact, sides = make_sides(case)
    expected = exact.read(exact.call())
    kept = {"ys"} if case.mode == "inference" else {"ys", "dxs"} | weights_of(expected)
    errors = {}
    for side in sides:
        found = side.read(side.call())
        gap, _ = difference({k: expected[k] for k in kept}, {k: found[k] for k in kept})
        errors[side.name] = float(f"{gap:.1e}")
    times = take_turns([side.call for side in sides], seconds, TURNS, clock=process_time)
    ms = {side.name: round(min(own), 4) for side, own in zip(sides, times, strict=True)}
    ratio = {name: round(ms["bf16"] / t, 4) for name, t in ms.items() if name != "bf16"}
    return {"ms": ms, "ratio": ratio, "error": errors, "turns": len(times[0])}


def weights_of(results: dict[str, Any]) -> set[str]:
    """The names of the weights among the results."""
    return {name for name in results if name.startswith(("weight", "bias"))}


def make_sides(case: Case) -> tuple[Side, list[Side]]:
    """The reference in float64, and what is timed, with the same weights and inputs."""
    import torch
    from peers import LAYERS, Problem, Side, ours, with_torch

    def problem(precision: str = "ieee", dtype: str = "float32") -> Problem:
        made = Problem(case, "cpu")
        layer: Any = LAYERS[case.cell](case.I, case.H, dtype=dtype, precision=precision)
        layer.weights = {name: w.astype(dtype) for name, w in made.layer.weights.items()}
        made.layer = layer if made.training else layer.freeze()
        made.xs, made.dys = made.xs.astype(dtype), made.dys.astype(dtype)
        made.state = tuple(part.astype(dtype) for part in made.state)
        return made

    own = [
        replace(ours(problem(precision)), name=name)
        for name, precision in (("float32", "ieee"), ("bf16", "bf16"))
    ]
    half = with_torch(Problem(replace(case, precision="bf16"), "cpu"), 1)
    sides = [*own, replace(half, name="torch bf16")]
    if case.mode == "training":
        plain = with_torch(problem(), 1)

        def cast() -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return plain.call()

        sides.append(Side("torch autocast", cast, plain.read))
    return ours(problem(dtype="float64")), sides


def section(file: Path) -> str:
    """What a file says: the goals, and a table of each mode."""
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    first, dates = records[0], sorted({record["date"] for record in records})
    versions = ", ".join(f"{k} {v}" for k, v in first["versions"].items())
    about = (
        f"**{first['device']}**, {first['loops']}; {versions}; commit {first['commit']}, "
        f"{' and '.join(dates)}."
    )
    return "\n\n".join([about, goals(records), *(times(records, mode) for mode in MODES)])


def goals(records: Sequence[Record]) -> str:
    """A row a goal: the geometric mean and the worst ratio, with what was aimed at."""
    lines = ["| bf16 / other | geometric mean | worst |", "| --- | --- | --- |"]
    for what, mode, cells, least, others, *bounds in GOALS:
        ratios = [
            max(ratio(record, what, other) for other in others)
            for record in records
            if record["case"]["mode"] == mode
            and record["case"]["cell"] in cells
            and record["case"]["B"] >= least
        ]
        if not ratios:
            continue
        words = [mode, ", ".join(cells), *([f"B ≥ {least}"] if least > 1 else [])]
        named = "own float32" if others == ("float32",) else " and ".join(others)
        values = zip((geometric_mean(ratios), max(ratios)), bounds, strict=True)
        told = [f"{v:.3f} (≤ {b:.2f}: {'met' if v <= b else 'missed'})" for v, b in values]
        kind = {"ratio": "time", "error": "error"}[what]
        lines.append(f"| {kind}, {', '.join(words)} / {named} | {' | '.join(told)} |")
    return "\n".join(lines)


def ratio(record: Record, what: str, other: str) -> float:
    """The time or the error of bf16 divided by that of another side."""
    errors = record["error"]
    found = record["ratio"][other] if what == "ratio" else errors["bf16"] / errors[other]
    return float(found)


def times(records: Sequence[Record], mode: str) -> str:
    """A row a size: for each cell the ratios, and the errors of bf16 and of the peers."""
    mine = [record for record in records if record["case"]["mode"] == mode]
    others = list(mine[0]["ratio"])
    cells = [cell for cell in CELLS if any(r["case"]["cell"] == cell for r in mine)]
    lines = [f"| {mode}: (T, B, I, H) | {' | '.join(cells)} |", "| --- |" + " --- |" * len(cells)]
    for size in FEWER_BITS:
        row = []
        for cell in cells:
            found = [
                r
                for r in mine
                if (r["case"]["cell"], tuple(r["case"][k] for k in "TBIH")) == (cell, size)
            ]
            row.append(place(found[0], others) if found else "–")
        lines.append(f"| {size} | {' | '.join(row)} |")
    means = [
        " / ".join(
            f"{geometric_mean([r['ratio'][o] for r in mine if r['case']['cell'] == cell]):.2f}"
            for o in others
        )
        for cell in cells
    ]
    lines.append(f"| geometric mean | {' | '.join(means)} |")
    named = ", ".join(others[1:])
    return (
        "\n".join(lines)
        + f"\n\nIn each place: the time of bf16 / that of {' / '.join(others)}; then, "
        f"as errors, that of bf16 / those of {named}."
    )


def place(record: Record, others: Sequence[str]) -> str:
    """The ratios and errors of a case."""
    ratios = " / ".join(f"{record['ratio'][name]:.2f}" for name in others)
    errors = " / ".join(f"{record['error'][name]:.1e}" for name in ("bf16", *others[1:]))
    return f"{ratios}; {errors}"


if __name__ == "__main__":
    sys.exit(main())
