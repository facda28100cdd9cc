"""How far a training run is: a bar on a terminal, a line for each row of the history elsewhere.

What is shown here is lost without harm, so that a closed terminal or a full disk under the log
ends no training.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

#: what is said of a row
Words = Callable[[dict[str, float]], str]


class Silent:
    """Shows nothing."""

    def batch(self, row: dict[str, float], part: float) -> None:
        """A batch of an epoch was trained on, after which this `part` of the epoch is done; the
        row is that of the history if it ended now."""

    def row(self, row: dict[str, float], part: float) -> None:
        """A row of the history is complete."""


@contextmanager
def shown(progress: bool | Words, unit: str, total: int | None, done: int) -> Iterator[Silent]:
    """What shows a run of so many of a unit, "epoch" or "step", some of which are done."""
    words = progress if callable(progress) else usual_words
    if not progress:
        yield Silent()
    elif sys.stderr.isatty() and find_spec("tqdm") is not None:
        bar = _Bar(words, unit, total, done)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield _Lines(words, unit, total, done)


def usual_words(row: dict[str, float]) -> str:
    """The loss and what was measured."""
    left_out = ("epoch", "step", "lr", "seconds", "rate")
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in left_out)


class _Lines(Silent):
    """A line for each row; where steps are counted also for the first one, which tells that
    training has begun and how long it will take."""

    def __init__(self, words: Words, unit: str, total: int | None, done: int) -> None:
        self.words, self.unit, self.total, self.done = words, unit, total, done
        self.start = time.monotonic()

    def batch(self, row: dict[str, float], part: float) -> None:
        if self.unit == "step" and row["step"] == self.done + 1 != self.total:
            self.row(row, part)

    def row(self, row: dict[str, float], part: float) -> None:
        now, ending = row[self.unit], f"{row['seconds']:.1f} s"
        of = "" if self.total is None else f" of {self.total}"
        if self.unit == "step" and self.total is not None:
            each = (time.monotonic() - self.start) / max(now - self.done, 1)
            ending = f"{(self.total - now) * each:.0f} s left"
        with suppress(OSError):
            words = f"{self.unit} {now:.0f}{of}: {self.words(row)}, {ending}"
            print(words, file=sys.stderr, flush=True)


class _Bar(Silent):
    """A bar of tqdm over all epochs or steps."""

    def __init__(self, words: Words, unit: str, total: int | None, done: int) -> None:
        from tqdm import tqdm

        form = f"{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}} {unit}s, {{remaining}} left{{postfix}}"
        self.bar: Any = tqdm(total=total, initial=done, bar_format=form, dynamic_ncols=True)
        self.words, self.unit = words, unit

    def batch(self, row: dict[str, float], part: float) -> None:
        now = row["epoch"] - 1 + round(part, 2) if self.unit == "epoch" else row["step"]
        with suppress(OSError):
            self.bar.set_postfix_str(self.words(row), refresh=False)
            self.bar.update(now - self.bar.n)

    row = batch

    def close(self) -> None:
        with suppress(OSError):
            self.bar.close()
