"""The same training in xrnn and in PyTorch: ``python benchmarks/same_training.py``.

A recurrent layer of each cell and a linear layer on its last output learn to classify sequences of
unequal length (``vowels.py``).  Both sides get the same initial weights (`xrnn.convert.to_torch`),
the same batches in the same order, and Adam with the same numbers.

PyTorch adds two biases before each gate, where xrnn has one.  Both get the same gradient, so their
sum moves twice as far.  Therefore PyTorch trains twice: with the second of them fixed at 0, which
is the same training, and as it comes.

- Losses of each batch: the largest difference in the first epochs.  Rounding grows with every
  update, so later ones differ.
- Accuracies in the test after the last epoch, over seeds: pairs of the same initial weights and
  batches; the mean difference of the pairs with its 95 % interval (Student's t).
- Times of a training epoch, and of the prediction of all test sequences, in turns, with 1 and 2
  threads.  PyTorch gets the sequences packed, which is its usual way, and padded, with the output
  at the end of each sequence picked, which is often faster.

The table is written to ``results/same-training-<machine>.txt``, and all figures to the JSON file of
that name.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import vowels
from run import BUSY, set_environment
from turns import clock_of, second_of_two, take_turns

CELLS, RATE, SIZE = ("gru", "lstm", "rnn"), 0.005, 32
#: the number of epochs whose losses are compared
FIRST = 3
#: two-sided 95 % quantiles of Student's t, by degrees of freedom
STUDENT = {4: 2.776, 9: 2.262, 14: 2.145, 19: 2.093}

#: a batch: x (T, B, 12), the classes (B,), the lengths (B,)
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    set_environment(options.threads, "fp32-ieee")
    if options.times_only:
        print(json.dumps([times(cell, H, options) for cell in CELLS for H in options.hidden]))
        return 0
    # Only now, as the array libraries read the environment when they are loaded.
    import machine

    found = [compared(cell, options) for cell in CELLS]
    timed = [row for threads in (1, 2) for row in in_own_process(threads, options)]
    about = machine.describe("cpu", options.threads)
    about["versions"] |= machine.versions_of(("aeon",))
    lines = [*map(words, found), "", *map(time_words, timed)]
    print("\n".join(lines))
    out = machine.results_file("cpu")
    out = out.with_name(f"same-training-{out.stem}.json")
    if not options.quick:
        record = {**about, "training": found, "times": timed}
        out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        title = f"Japanese Vowels; {about['device']}, {about['date']}, {about['commit']}"
        out.with_suffix(".txt").write_text("\n".join([title, *lines]) + "\n", "utf-8")
        print(f"written to {out}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, choices=[n + 1 for n in STUDENT])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 128], help="timed sizes")
    parser.add_argument("--quick", action="store_true", help="rough, not kept")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--times-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds, options.epochs = 5, 10
    return options


def batches(seed: int, epoch: int = 0, size: int = 30) -> list[Batch]:
    """The training data: sequences of similar length together, the batches in random order."""
    (x, y), _ = vowels.load(seed)
    return [padded([x[n] for n in some], y[some]) for some in order(x, size, seed, epoch)]


def order(x: list[np.ndarray], size: int, seed: int, epoch: int) -> list[np.ndarray]:
    random = np.random.default_rng([seed, epoch])
    shuffled = random.permutation(len(x))
    lengths = np.array([len(x[n]) for n in shuffled])
    shuffled = shuffled[np.argsort(lengths, kind="stable")]
    found = [shuffled[n : n + size] for n in range(0, len(x), size)]
    return [found[n] for n in random.permutation(len(found))]


def padded(x: list[np.ndarray], y: np.ndarray) -> Batch:
    lengths = np.array([len(one) for one in x])
    found = np.zeros((lengths.max(), len(x), vowels.INPUTS), "float32")
    for b, one in enumerate(x):
        found[: len(one), b] = one
    return found, y, lengths


class Ours:
    """The model in xrnn."""

    def __init__(self, cell: str, H: int, seed: int) -> None:
        import xrnn

        layer = getattr(xrnn, cell.upper())(vowels.INPUTS, H, rng=seed)
        out = xrnn.Linear(H, vowels.CLASSES, rng=seed + 1000)
        self.model = xrnn.Sequential(rnn=layer, pool=xrnn.Last(), out=out)
        self.weights = xrnn.convert.to_torch({"rnn": layer, "out": out})
        self.loss, self.optimizer = xrnn.losses.softmax_cross_entropy, xrnn.optim.Adam(RATE)

    def update(self, batch: Batch) -> float:
        x, y, lengths = batch
        logits, tape = self.model.forward(x, lengths=lengths)
        loss, dlogits = self.loss(logits, y)
        self.optimizer.update(self.model.weights, self.model.backward(tape, dlogits)[1])
        return float(loss)

    def predict(self, batch: Batch) -> np.ndarray:
        x, _, lengths = batch
        return np.asarray(self.model(x, lengths=lengths).argmax(axis=-1))


class Theirs:
    """The same in PyTorch, from the same weights."""

    def __init__(self, ours: Ours, cell: str, H: int, *, packed: bool, both_biases: bool) -> None:
        import torch

        self.torch, self.packed = torch, packed
        rnn = getattr(torch.nn, cell.upper())(vowels.INPUTS, H)
        self.model = torch.nn.ModuleDict({"rnn": rnn, "out": torch.nn.Linear(H, vowels.CLASSES)})
        self.model.load_state_dict({k: torch.from_numpy(w) for k, w in ours.weights.items()})
        if not both_biases:
            # Of the GRU's for n both are trained: the second is inside the product with r.
            kept = torch.zeros_like(rnn.bias_hh_l0)
            kept[2 * H :] = 1.0 if cell == "gru" else 0.0
            rnn.bias_hh_l0.register_hook(lambda gradient: gradient * kept)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)
        self.loss = torch.nn.CrossEntropyLoss()

    def logits(self, batch: Batch) -> Any:
        x, lengths = self.torch.from_numpy(batch[0]), self.torch.from_numpy(batch[2])
        if self.packed:
            pack = self.torch.nn.utils.rnn.pack_padded_sequence
            _, last = self.model["rnn"](pack(x, lengths, enforce_sorted=False))
            return self.model["out"]((last[0] if isinstance(last, tuple) else last)[0])
        ys, _ = self.model["rnn"](x)
        return self.model["out"](ys[lengths - 1, self.torch.arange(len(lengths))])

    def update(self, batch: Batch) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(self.logits(batch), self.torch.from_numpy(batch[1]))
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def predict(self, batch: Batch) -> np.ndarray:
        with self.torch.inference_mode():
            return np.asarray(self.logits(batch).argmax(dim=-1).numpy())


def compared(cell: str, options: argparse.Namespace) -> dict[str, Any]:
    """The losses of the first epochs, and the accuracies of all seeds."""
    import torch

    torch.set_num_threads(options.threads)
    test = padded(*vowels.load(0)[1])
    gaps: list[list[float]] = []
    accuracies: list[list[float]] = []
    for seed in range(options.seeds):
        ours = Ours(cell, SIZE, seed)
        same = Theirs(ours, cell, SIZE, packed=True, both_biases=False)
        usual = Theirs(ours, cell, SIZE, packed=True, both_biases=True)
        gaps.append([])
        for epoch in range(options.epochs):
            losses = np.array(
                [[side.update(b) for side in (ours, same, usual)] for b in batches(seed, epoch)]
            )
            gaps[-1].append(float(abs(losses[:, 1] / losses[:, 0] - 1).max()))
        right = [side.predict(test) == test[1] for side in (ours, same, usual)]
        accuracies.append([float(one.mean()) for one in right])
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "cell": cell,
        "H": SIZE,
        "epochs": options.epochs,
        "gaps": [float(f"{max(gap[e] for gap in gaps):.1e}") for e in range(FIRST)],
        "accuracies": [[round(one, 4) for one in row] for row in accuracies],
    }


def words(one: dict[str, Any]) -> str:
    xrnn, same, usual = zip(*one["accuracies"], strict=True)
    gaps = ", ".join(f"{gap:.0e}" for gap in one["gaps"])
    found = [f"{one['cell']:5} losses of epochs 1 to {FIRST} within {gaps} of each other"]
    for name, series in (("xrnn", xrnn), ("torch, the same", same), ("torch as it comes", usual)):
        text = f"      {name:18} accuracy {fmean(series):.4f}, deviation {stdev(series):.4f}"
        if series is not xrnn:
            text += f"; xrnn is better by {interval(xrnn, series)}"
        found.append(text)
    return "\n".join(found)


def interval(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """The mean difference of pairs, and its 95 % interval."""
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    n = len(differences)
    half = STUDENT[n - 1] * stdev(differences) / n**0.5
    return f"{fmean(differences):+.4f} ± {half:.4f}"


def in_own_process(threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """`times` with that number of threads, which is fixed when libraries are loaded."""
    quick = ["--quick"] if options.quick else []
    hidden = ["--hidden", *map(str, options.hidden)]
    command = [sys.executable, __file__, "--times-only", "--threads", str(threads), *hidden, *quick]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    return list(json.loads(done.stdout))


def times(cell: str, H: int, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of an epoch, and of a prediction, for each side."""
    import torch
    from machine import Load

    torch.set_num_threads(options.threads)
    train, test = batches(0), padded(*vowels.load(0)[1])
    ours = Ours(cell, H, 0)
    sides: dict[str, Any] = {
        "xrnn": ours,
        "packed": Theirs(ours, cell, H, packed=True, both_biases=True),
        "padded": Theirs(ours, cell, H, packed=False, both_biases=True),
    }
    load = Load()
    calls = {
        "epoch": {name: partial(each, side.update, train) for name, side in sides.items()},
        "predict": {name: partial(each, side.predict, [test]) for name, side in sides.items()},
    }
    return {
        "cell": cell,
        "H": H,
        "threads": options.threads,
        **{what: in_turns(one, options) for what, one in calls.items()},
        "others": round(load.others(), 2),
    }


def each(call: Callable[[Batch], object], given: Sequence[Batch]) -> None:
    for batch in given:
        call(batch)


def in_turns(sides: dict[str, partial[None]], options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of each side, the medians of its turns."""
    seconds = 0.3 if options.quick else 4.0
    times = take_turns(list(sides.values()), seconds, 3, second_of_two, **clock_of(options.threads))
    return {name: round(median(own), 3) for name, own in zip(sides, times, strict=True)}


def time_words(one: dict[str, Any]) -> str:
    found = f"{one['cell']:5} H = {one['H']:3}, {one['threads']} thread(s)"
    for what in ("epoch", "predict"):
        ms = one[what]
        found += f"   {what}: xrnn {ms['xrnn']:6.1f} ms"
        for name in ("packed", "padded"):
            found += f", torch {name} {ms[name]:6.1f} (ratio {ms['xrnn'] / ms[name]:.2f})"
    if one["others"] > BUSY:
        found += f"   (other processes took {one['others']} cores)"
    return found


if __name__ == "__main__":
    sys.exit(main())
