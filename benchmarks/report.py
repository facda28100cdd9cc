"""Tables of the results beside the goals: ``python benchmarks/report.py --write``.

Everything printed is computed from ``results/*.jsonl`` and ``results/*.json``.  A ratio is xrnn's
time / the peer's: below 1 xrnn is faster, above 1 it is slower.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import bars
import bfloat16
import online_recall
import quantised
import variants
from cases import CELLS, GOALS, GRIDS, MODES, PRECISIONS, Case, Goal
from scaling_picture import undisturbed
from tables import table

RESULTS = Path(__file__).parent / "results"

#: the pages that show results, and the names of the texts that each has between markers
PAGES = {
    RESULTS.parent.parent / "README.md": ("summary",),
    RESULTS.parent / "README.md": (
        "benchmarks",
        "bfloat16",
        "int8",
        "variants",
        "stream",
        "memory",
        "side by side",
        "scaling",
        "recall",
    ),
}

#: the rows of the first page: what is done, a size of the grid, a mode
FIRST_PAGE = (
    ("train on a batch of 32 sequences", (100, 32, 64, 128), "training"),
    ("train on one sequence", (100, 1, 64, 128), "training"),
    ("run a batch of 32 sequences", (100, 32, 64, 128), "inference"),
    ("run one sequence", (100, 1, 64, 128), "inference"),
)

#: what stands beside a ratio in the tables, for each peer
MARKS = {"torch": "t", "onnxruntime": "o"}

#: what marks a column of results without the native loops
ALONE = ", NumPy alone"

Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--write",
        action="store_true",
        help="put them into the pages, between <!-- name --> and <!-- /name -->",
    )
    options = parser.parse_args(argv)
    files = sorted(RESULTS.glob("c*-*.jsonl"))  # of the CPU, and of CUDA
    if not files:
        print(f"no results in {RESULTS}: run benchmarks/run.py first", file=sys.stderr)
        return 2
    steps = min(RESULTS.glob("stream-cpu-*.json"))
    grid = RESULTS / f"{steps.stem.removeprefix('stream-')}.jsonl"  # of the same machine
    texts = {
        "summary": summary(grid, steps),
        "benchmarks": "\n\n".join(section(file) for file in files),
        "bfloat16": of_each("bfloat16-*.jsonl", bfloat16.section),
        "int8": of_each("int8-*.json", quantised.section),
        "variants": of_each("variants-*.jsonl", variants.section),
        "stream": of_each("stream-*.json", stream),
        "memory": of_each("scale-*.json", memory),
        "side by side": of_each("side-by-side-*.json", side_by_side),
        "scaling": of_each("scaling-*.jsonl", scaling),
        "recall": of_each("online-recall-*.json", online_recall.section),
    }
    if not options.write:
        print("\n\n".join(texts.values()))
        return 0
    try:
        for page, names in PAGES.items():
            replace(page, {name: texts[name] for name in names})
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def summary(grid: Path, steps: Path) -> str:
    """The table of the first page: milliseconds of xrnn / PyTorch, on one thread."""
    records = {
        key(record["case"]): record["ms"]
        for record in read(grid)
        if setting(record) == "1 thread" and "torch" in record["ms"]
    }
    rows = [
        [what, *(pair(records[cell, size, mode]) for cell in CELLS)]
        for what, size, mode in FIRST_PAGE
    ]
    found = json.loads(steps.read_text("utf-8"))
    medians: dict[str, dict[str, float]] = {cell: {} for cell in CELLS}
    for entry in found["found"]:
        if (entry["I"], entry["H"]) == (64, 128):
            name = "xrnn" if entry["side"] == "xrnn, frozen" else entry["side"]
            medians[entry["cell"]].setdefault(name, entry["us"][0] / 1000)
    rows.append(["one step of a stream", *(pair(medians[cell]) for cell in CELLS)])
    return table(["milliseconds, xrnn / PyTorch", *(cell.upper() for cell in CELLS)], rows)


def pair(ms: dict[str, float]) -> str:
    """Milliseconds of xrnn and PyTorch."""
    return f"{ms['xrnn']:.3g} / {ms['torch']:.3g}"


def stream(file: Path) -> str:
    """What `stream.py` found: one row a size and cell, one column a side."""
    found = json.loads(file.read_text("utf-8"))
    names = list(dict.fromkeys(entry["side"] for entry in found["found"]))
    rows: dict[str, dict[str, str]] = {}
    for entry in found["found"]:
        row = f"{entry['cell']} ({entry['I']}, {entry['H']}), {entry['steps']:,} steps"
        rows.setdefault(row, {})[entry["side"]] = " / ".join(f"{t:.1f}" for t in entry["us"])
    cells = [[row, *(mine[name] for name in names)] for row, mine in rows.items()]
    return f"{found['device']}.\n\n{table(['(I, H)', *names], cells)}"


def memory(file: Path) -> str:
    """What `scale.py` found of memory."""
    found = json.loads(file.read_text("utf-8"))
    told = ", ".join(f"{who} {n:.0f}" for who, n in found["memory"].items())
    return (
        "Bytes that a training step of an LSTM takes at its peak, for each step and unit of B·H, "
        f"inputs and gradients included ({found['device']}): {told}."
    )


def side_by_side(file: Path) -> str:
    """What `side_by_side.py` found: one row a library."""
    found = json.loads(file.read_text("utf-8"))
    rows = []
    for one in found["found"]:
        accuracy = "{:.3f} ± {:.3f}".format(*one["accuracy"])
        numbers = one["epochs"], f"{one['seconds']:.2f}", f"{one['ms_per_epoch']:.3g}"
        rows.append([one["side"], str(one["lines"]), accuracy, *map(str, numbers)])
    head = ["", "lines", "accuracy in the test", "epochs", "seconds", "ms for an epoch"]
    threads = "one thread" if found["threads"] == 1 else f"{found['threads']} threads"
    return (
        f"{found['device']}, {threads}, commit {found['commit']}, {found['date']}; other processes "
        f"took {found['others']} cores meanwhile.\n\n{table(head, rows)}"
    )


def scaling(file: Path) -> str:
    """What `scaling.py` predicts: one row a change, one column a network."""
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    limits = [line for line in lines if line["kind"] == "limit"]
    networks = list(dict.fromkeys(line["network"] for line in limits))
    rows: dict[str, list[str]] = {}
    for line in limits:
        found = f"{line['half']:,} / {line['fastest']:,} / {line['times']:.0f}"
        rows.setdefault(line["change"], []).append(found)
    known = [line for line in lines if line["kind"] == "network"]
    words = "; ".join(
        f"{one['name']} {1e6 * one['latency']:.1f} µs, {one['bandwidth'] / 1e9:.1f} GB/s"
        for one in known
    )
    points = "; ".join(agreement(line, lines) for line in undisturbed(lines))
    return (
        f"{lines[0]['device']}, one thread for each rank, commit {lines[0]['commit']}, "
        f"{lines[0]['date']}; other processes took {lines[0]['others']:.2f} cores meanwhile. "
        f"Latency and bandwidth: {words}. Measured / predicted milliseconds of a step: "
        f"{points or 'not measured undisturbed'}.\n\n"
        f"{table(['', *networks], [[change, *found] for change, found in rows.items()])}"
    )


def agreement(measured: Record, lines: list[Record]) -> str:
    """Milliseconds of a step beside those that were predicted for this machine."""
    ranks = measured["ranks"]
    found = next(
        line
        for line in lines
        if (line["kind"], line.get("overlap"), line.get("ranks")) == ("predicted", True, ranks)
    )
    pairs = (f"{measured[key]:.0f} / {found[key]:.0f}" for key in ("ms", "ms_growing"))
    return f"{ranks} rank{'s' if ranks > 1 else ''}: {' and '.join(pairs)}"


def of_each(pattern: str, part: Callable[[Path], str]) -> str:
    """What a page says of each of the files of results with such a name."""
    return "\n\n".join(map(part, sorted(RESULTS.glob(pattern))))


def read(file: Path) -> list[Record]:
    """The results in a file, each case as a `Case`."""
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [{**record, "case": Case(**record["case"])} for record in records]


def replace(file: Path, texts: dict[str, str]) -> None:
    """Put each text between its two markers in a file, which must be there, in order."""
    whole = file.read_text("utf-8")
    for name, text in texts.items():
        before, opened, rest = whole.partition(f"<!-- {name} -->")
        _, closed, after = rest.partition(f"<!-- /{name} -->")
        if not (opened and closed):
            raise ValueError(f"{file} lacks <!-- {name} --> and <!-- /{name} -->; add them")
        whole = f"{before}{opened}\n\n{text}\n\n{closed}{after}"
    file.write_text(whole, "utf-8")


def section(file: Path) -> str:
    """Everything that one machine has to say; its bars are drawn beside the file."""
    records = read(file)
    backend, picture = records[0]["backend"], file.with_suffix(".png")
    settings = sorted({setting(r) for r in records}, key=order)
    columns = {s: [r for r in records if setting(r) == s] for s in settings}
    bars.draw(backend, columns, picture)
    return "\n\n".join(
        [
            about(records),
            goals(backend, columns),
            f"![ratios as bars](results/{picture.name})",
            sizes(backend, columns),
            small_print(columns),
        ]
    )


def setting(record: Record) -> str:
    """What the columns of the tables are: threads on the CPU, precisions on a GPU."""
    if record["backend"] == "cuda":
        return str(record["case"].precision)
    words = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    return f"{words}{ALONE}" if record["code"] == "numpy" else words


def order(setting: str) -> tuple[bool, int]:
    """Precisions as `PRECISIONS` has them; threads by number, those of NumPy alone last."""
    if setting in PRECISIONS:
        return False, PRECISIONS.index(setting)
    return setting.endswith(ALONE), int(setting.split()[0])


def about(records: Iterable[Record]) -> str:
    """Device, versions, commits and dates; all of them where the lines differ."""

    def all_of(values: Iterable[str]) -> str:
        return " and ".join(sorted(set(values)))

    records = list(records)
    names = sorted({name for r in records for name in r["versions"]})
    versions = ", ".join(
        f"{name} {all_of(r['versions'][name] for r in records if name in r['versions'])}"
        for name in names
    )
    return (
        f"**{all_of(r['device'] for r in records)}**; {versions}; "
        f"commit {all_of(r['commit'] for r in records)}, {all_of(r['date'] for r in records)}. "
        "Ratios are xrnn's time / the peer's: below 1 xrnn is faster, above 1 it is slower."
    )


def ratios(records: Iterable[Record], peers: Iterable[str] = tuple(MARKS)) -> list[float]:
    """xrnn's time / the fastest of these peers', of the records where one was measured."""
    found = [[r["ratio"][peer] for peer in peers if peer in r["ratio"]] for r in records]
    return [max(values) for values in found if values]


def goals(backend: str, columns: dict[str, list[Record]]) -> str:
    """One row a goal: the bound, and for each setting the value and whether it is met."""
    rows = []
    for goal in GOALS[backend]:
        peers = "torch" if goal.peers == ("torch",) else f"the faster of {' and '.join(goal.peers)}"
        kind = "" if goal.worst else ", geometric mean"
        values = [
            verdict(goal, backend, records) if goal.numpy_alone == name.endswith(ALONE) else ""
            for name, records in columns.items()
        ]
        rows.append([f"{goal.name}{kind}, against {peers}", f"≤ {goal.bound:.2f}", *values])
    for mode in MODES:
        values = [faster(mode, records) for records in columns.values()]
        rows.append([f"{mode}: points where xrnn is faster than every peer", "", *values])
    return table(["ratio ours / theirs", "goal", *columns], rows)


def verdict(goal: Goal, backend: str, records: list[Record]) -> str:
    """The value of a goal, with "met" or "missed"; and over how many points, if not all."""
    covered = [r for r in records if goal.covers(r["case"])]
    values = ratios(covered, goal.peers)
    if not values:
        return "not measured"
    statistic: Callable[[list[float]], float] = max if goal.worst else geometric_mean
    value = statistic(values)
    precisions = {r["case"].precision for r in covered}
    grid = [c for c in GRIDS[backend] if goal.covers(c) and c.precision in precisions]
    part = "" if len(values) == len(grid) else f", {len(values)} of {len(grid)} points"
    return f"{value:.3f} ({'met' if value <= goal.bound else 'missed'}{part})"


def faster(mode: str, records: list[Record]) -> str:
    """How often xrnn is faster than the fastest peer."""
    values = ratios(r for r in records if r["case"].mode == mode)
    return f"{sum(value < 1 for value in values)} of {len(values)}"


def sizes(backend: str, columns: dict[str, list[Record]]) -> str:
    """One row a size, one column a cell and mode; in each place a ratio for every setting."""
    heads = [(mode, cell) for mode in reversed(MODES) for cell in CELLS]
    rows = []
    for size in dict.fromkeys(case.size for case in GRIDS[backend]):
        places = []
        for mode, cell in heads:
            found = [
                next((r for r in records if key(r["case"]) == (cell, size, mode)), None)
                for records in columns.values()
            ]
            places.append(" / ".join(place(r) for r in found))
        rows.append([str(size), *places])
    means = [
        " / ".join(
            mean(r for r in records if key(r["case"])[::2] == (cell, mode))
            for records in columns.values()
        )
        for mode, cell in heads
    ]
    rows.append(["geometric mean", *means])
    return table(["(T, B, I, H)", *(f"{cell} {mode}" for mode, cell in heads)], rows)


def mean(records: Iterable[Record]) -> str:
    values = ratios(records)
    return bold(geometric_mean(values)) if values else "–"


def bold(value: float, mark: str = "") -> str:
    """A ratio with its mark, bold where xrnn wins."""
    text = f"{value:.2f}{mark}"
    return f"**{text}**" if value < 1 else text


def key(case: Case) -> tuple[Any, ...]:
    return case.cell, case.size, case.mode


def place(record: Record | None) -> str:
    """The ratio to the fastest peer; on a GPU with xrnn's milliseconds beside their floor."""
    if record is None or not record["ratio"]:
        return "–"
    peer, value = max(record["ratio"].items(), key=lambda pair: pair[1])
    text = bold(value, MARKS[peer] if len(record["ratio"]) > 1 else "")
    if record["backend"] != "cuda":
        return text
    least = f", {record['floor']['ours']:.1f} × its floor" if "floor" in record else ""
    return f"{text} ({record['ms']['xrnn']:.3g} ms{least})"


def small_print(columns: dict[str, list[Record]]) -> str:
    """How to read the second table, and how noisy the machine was."""
    marks = ", ".join(f"{mark}: {peer}" for peer, mark in MARKS.items())
    noises = []
    for name, records in columns.items():
        noise = [max(r["noise"], 1 / r["noise"]) for r in records]
        lost = max(r["lost"] for r in records)
        noises.append(
            f"{name}: {median(noise):.2f}, at worst {max(noise):.2f} "
            f"(others took at most {lost:.2f} cores)"
        )
    return (
        f"In each place: {' / '.join(columns)}, against the fastest peer ({marks}). "
        f"Noise, the ratio of xrnn to itself: {'; '.join(noises)}."
    )


if __name__ == "__main__":
    sys.exit(main())
