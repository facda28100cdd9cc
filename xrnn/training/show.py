"""How far a training run is: a bar on a terminal, a line for each epoch anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any


@contextmanager
def shown(epochs: int) -> Iterator[Any]:
    """An object with ``batch(epoch, n, of, loss)`` and ``epoch(row)``, to be called at these."""
    if sys.stderr.isatty() and find_spec("tqdm") is not None:
        bar = _Bar(epochs)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield _Lines(epochs)


def _words(row: dict[str, float]) -> str:
    left_out = ("epoch", "lr", "seconds")
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in left_out)


class _Lines:
    """A line for each epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def batch(self, epoch: int, n: int, of: int | None, loss: float) -> None:
        pass

    def epoch(self, row: dict[str, float]) -> None:
        line = f"epoch {row['epoch']:.0f} of {self.epochs}: {_words(row)}, {row['seconds']:.1f} s"
        # What is shown is lost without harm.
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


class _Bar:
    """A bar of tqdm over all epochs."""

    def __init__(self, epochs: int) -> None:
        from tqdm import tqdm

        form = "{l_bar}{bar}| {n_fmt}/{total_fmt} epochs, {remaining} left{postfix}"
        self.bar: Any = tqdm(total=epochs, bar_format=form, dynamic_ncols=True)
        self.row = ""

    def batch(self, epoch: int, n: int, of: int | None, loss: float) -> None:
        with suppress(OSError):
            part = 0.0 if of is None else round((n + 1) / of, 2)
            self.bar.n = epoch + part
            self.bar.set_postfix_str(f"loss {loss:.4g}; {self.row}", refresh=False)
            self.bar.update(0)

    def epoch(self, row: dict[str, float]) -> None:
        self.row = _words(row)
        with suppress(OSError):
            self.bar.n = row["epoch"]
            self.bar.set_postfix_str(self.row, refresh=True)

    def close(self) -> None:
        with suppress(OSError):
            self.bar.close()
