"""A training script of PyTorch with one line more: ``python benchmarks/torch_script.py``.

A language model as many scripts train it, of the kind and the sizes of ``word_language_model`` in
PyTorch's examples: an embedding, dropout, two recurrent layers of 200 units with dropout between
them, a linear layer; 20 columns of text are read 35 steps at a time, the state is handed on,
gradients are clipped, and SGD updates.  The text is the one that every CPython contains, read as
words or as characters.

Two copies of the model train on the same batches, one of them after the line
``xrnn.adapters.torch.accelerate(model)``.  They take turns batch by batch, and draw the same random
numbers for dropout.  Printed are the first and the last loss of both, the largest relative
difference of the losses of the first steps and of all, and the times of a whole step with the ratio
of their medians.  With one thread these are times of the processor, so that other processes count
little.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from pydoc_data.topics import topics
from statistics import median
from time import perf_counter, process_time
from typing import Any

from run import BUSY, set_environment

CELLS = ("RNN", "GRU", "LSTM")
UNITS, LAYERS, DROPOUT, COLUMNS, STEPS, CLIP = 200, 2, 0.2, 20, 35, 0.25
READINGS = ("characters", "words")
#: the learning rate; with that of the example, 20, the networks without gates do not learn, and
#: rounding grows
RATE = 1.0
#: words that are rarer are one word
RARE = 3
#: so many steps are compared before rounding has grown
FIRST = 20

#: of a batch the loss
Step = Callable[[Any, Any], float]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=150, help="updates of each model")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    options = parser.parse_args(argv)
    set_environment(options.threads, "fp32-ieee")
    # Only now, as the array libraries read the environment when they are loaded.
    import torch

    torch.set_num_threads(options.threads)
    for reading in READINGS:
        tokens, size = read(reading)
        for cell in options.cells:
            print(f"{reading:11}{cell:5}", compared(cell, tokens, size, options), flush=True)
    return 0


def read(reading: str) -> tuple[Any, int]:
    """The text as tokens in columns (N, B), and how many different ones there are."""
    import torch

    text = "\n".join(topics.values())
    parts: Sequence[str] = text if reading == "characters" else text.split()
    counts = Counter(parts)
    known = {part: n for n, part in enumerate(p for p, count in counts.items() if count >= RARE)}
    tokens = torch.tensor([known.get(part, len(known)) for part in parts])
    rows = len(tokens) // COLUMNS
    return tokens[: rows * COLUMNS].view(COLUMNS, rows).t().contiguous(), len(known) + 1


def compared(cell: str, tokens: Any, size: int, options: argparse.Namespace) -> str:
    """Train both copies; the line of the table."""
    import torch
    from machine import Load

    from xrnn.adapters.torch import accelerate

    torch.manual_seed(0)
    model = language_model(cell, size)
    sides = [trainer(deepcopy(model)), trainer(accelerate(model))]
    clock = process_time if options.threads == 1 else perf_counter
    losses, times, load = [], [], Load()
    for n in range(options.steps):
        at = n * STEPS % (len(tokens) - STEPS - 1)
        x, y = tokens[at : at + STEPS], tokens[at + 1 : at + STEPS + 1].reshape(-1)
        for step in sides:
            torch.manual_seed(n)
            start = clock()
            losses.append(step(x, y))
            times.append(1e3 * (clock() - start))
    theirs, mine = losses[0::2], losses[1::2]
    gaps = [abs(a - b) / a for a, b in zip(theirs, mine, strict=True)]
    ms = [median(series[FIRST:]) for series in (times[0::2], times[1::2])]
    others = load.others()
    return (
        f"torch {ms[0]:6.1f} ms, with the line {ms[1]:6.1f} ms, ratio {ms[1] / ms[0]:.2f}   "
        f"losses {theirs[0]:.4f} → {theirs[-1]:.4f} and {mine[0]:.4f} → {mine[-1]:.4f}, "
        f"apart by {max(gaps[:FIRST]):.0e} in {FIRST} steps, {max(gaps):.0e} in {options.steps}"
        + (f"   (other processes took {others:.1f} cores)" if others > BUSY else "")
    )


def language_model(cell: str, size: int) -> Any:
    import torch

    class LanguageModel(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(size, UNITS)
            self.dropout = torch.nn.Dropout(DROPOUT)
            self.rnn = getattr(torch.nn, cell)(UNITS, UNITS, LAYERS, dropout=DROPOUT)
            self.out = torch.nn.Linear(UNITS, size)
            torch.nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
            torch.nn.init.uniform_(self.out.weight, -0.1, 0.1)

        def forward(self, tokens: Any, state: Any) -> tuple[Any, Any]:
            output, state = self.rnn(self.dropout(self.embedding(tokens)), state)
            return self.out(self.dropout(output)).flatten(0, 1), state

    return LanguageModel()


def trainer(model: Any) -> Step:
    """The step of a training script."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loss_of, state = torch.nn.CrossEntropyLoss(), None

    def step(x: Any, y: Any) -> float:
        nonlocal state
        logits, state = model(x, state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        loss = loss_of(logits, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    sys.exit(main())
