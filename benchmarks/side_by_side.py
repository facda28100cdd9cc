"""The same task in five libraries, as a user writes it: ``python benchmarks/side_by_side.py``.

The scripts of ``side_by_side/`` classify sequences of unequal length (``vowels.py``): a GRU with 32
units and a linear layer on its last output, Adam with learning rate 0.01, batches of 32, a fifth of
the sequences for validation, at most 100 epochs, an end after 10 without a smaller loss; then save,
load, predict.  All else is what each library does by default: initial weights, which sequences
validate, batches of similar lengths and gradients clipped at norm 1 in xrnn.  (MLPClassifier has no
GRU, and watches the accuracy.)  They take turns in this one
process with the same number of threads, each once for each seed, and the first turn does not count.

- lines: without blank lines, comments and docstrings, as ``ruff format`` breaks them at 100
  columns; the data are read elsewhere
- words: names, numbers, strings and signs, without brackets and commas; no layout changes their
  number
- seconds: of a whole script without its imports and the reading of the data: mean over the seeds;
  with one thread those of the processor, so that other processes count little
- ms/epoch: those seconds divided by the epochs: median over the seeds

The table is written to ``results/side-by-side-<machine>.txt``, and all figures to the JSON file of
that name.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import json
import os
import runpy
import sys
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median, stdev
from time import perf_counter, process_time, sleep
from typing import Any

from run import set_environment
from turns import PAUSE

SCRIPTS = Path(__file__).parent / "side_by_side"
#: script → what it shows, and the packages without which it is left out
SIDES: dict[str, tuple[str, tuple[str, ...]]] = {
    "with_xrnn": ("xrnn.fit", ()),
    "with_estimator": ("xrnn for scikit-learn", ("sklearn",)),
    "with_mlp": ("scikit-learn's MLP", ("sklearn",)),
    "with_keras": ("Keras 3 on PyTorch", ("keras", "torch")),
    "with_torch": ("PyTorch", ("torch",)),
}
PACKAGES = ("keras", "scikit-learn", "aeon")
HEAD = "                         lines  words   accuracy in the test     epochs  seconds  ms/epoch"


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    set_environment(options.threads, "fp32-ieee")
    os.environ["KERAS_BACKEND"] = "torch"
    if not find_spec("aeon"):
        print("nothing to learn: the data are in a package; pip install aeon", file=sys.stderr)
        return 2
    sides = [name for name, (_, needs) in SIDES.items() if all(map(find_spec, needs))]
    # Only now, as the array libraries read the environment when they are loaded.
    import machine

    load, runs = machine.Load(), all_runs(sides, options)
    found = [summary(name, runs[name]) for name in sides]
    about = {**machine.describe("cpu", options.threads), "others": round(load.others(), 2)}
    about["versions"] |= machine.versions_of(PACKAGES)
    lines = [HEAD, *map(row, found)]
    print("\n".join(lines))
    out = machine.results_file("cpu")
    out = out.with_name(f"side-by-side-{out.stem}.json")
    if not options.quick:
        out.write_text(json.dumps({**about, "found": found}, indent=1) + "\n", "utf-8")
        out.with_suffix(".txt").write_text("\n".join([title(about), *lines]) + "\n", "utf-8")
        print(f"written to {out}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="of every side")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two seeds, not kept")
    options = parser.parse_args(argv)
    options.seeds = 2 if options.quick else options.seeds
    return options


def all_runs(sides: Sequence[str], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The runs of each side, one for each seed."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for seed in (0, *range(options.seeds)):
        for name in sides:
            sleep(PAUSE)
            runs[name].append(run(name, seed, options.threads))
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {name: series[1:] for name, series in runs.items()}


def run(name: str, seed: int, threads: int) -> dict[str, Any]:
    """One run of a script."""
    clock = process_time if threads == 1 else perf_counter
    with arguments(name, seed), silence():
        sys.modules.pop("task", None)
        importlib.import_module("task")  # reads the data
        start = clock()
        left = runpy.run_path(str(SCRIPTS / f"{name}.py"))
        seconds = clock() - start
    return {
        "seed": seed,
        "accuracy": round(float(left["accuracy"]), 4),
        "epochs": int(left["epochs"]),
        "seconds": round(seconds, 3),
    }


@contextlib.contextmanager
def arguments(name: str, seed: int) -> Iterator[None]:
    """What a script finds when it is started alone."""
    argv, path = sys.argv, sys.path
    sys.argv, sys.path = [name, str(seed)], [str(SCRIPTS), *path]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What libraries print is computed, and not shown."""
    nowhere = io.StringIO()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


def summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [run["accuracy"] for run in runs]
    source = (SCRIPTS / f"{name}.py").read_text("utf-8")
    return {
        "side": SIDES[name][0],
        "lines": count_lines(source),
        "words": count_words(source),
        "accuracy": [round(fmean(accuracies), 4), round(stdev(accuracies), 4)],
        "epochs": round(fmean(run["epochs"] for run in runs), 1),
        "seconds": round(fmean(run["seconds"] for run in runs), 3),
        "ms_per_epoch": round(median(1e3 * run["seconds"] / run["epochs"] for run in runs), 2),
        "runs": runs,
    }


def row(one: dict[str, Any]) -> str:
    mean, deviation = one["accuracy"]
    return (
        f"{one['side']:25}{one['lines']:5}{one['words']:7}   {mean:.3f}, deviation {deviation:.3f}"
        f"{one['epochs']:9.1f}{one['seconds']:9.2f}{one['ms_per_epoch']:10.1f}"
    )


def title(about: dict[str, Any]) -> str:
    return (
        f"Japanese Vowels; {about['device']}, {about['threads']} thread(s), {about['date']}, "
        f"{about['commit']}; other processes took {about['others']} cores"
    )


def code_of(source: str) -> str:
    """A script without its docstrings."""
    tree, lines = ast.parse(source), source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            lines[first.lineno - 1 : first.end_lineno] = [""] * (
                (first.end_lineno or 0) - first.lineno + 1
            )
    return "\n".join(lines) + "\n"


def count_lines(source: str) -> int:
    found = (line.strip() for line in code_of(source).splitlines())
    return sum(1 for line in found if line and not line.startswith("#"))


def count_words(source: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(code_of(source)).readline)
    kinds = (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP)
    return sum(token.type in kinds and token.string not in "()[]{}," for token in tokens)


if __name__ == "__main__":
    sys.exit(main())
