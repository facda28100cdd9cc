"""What happened in a training run."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from xrnn.engine import atomic

Stopped = Literal["epochs", "steps", "patience", "interrupted"]


@dataclass
class History:
    """The course of `xrnn.fit`; it prints as a table.

    Attributes
    ----------
    rows : list of dict of str to float
        For each epoch, or with `every` for so many steps, ``epoch`` (the number of the one that
        is made), ``loss``, with validation data ``validation`` and the metrics, ``step`` (how many
        were made), ``lr`` and ``seconds``.  After an interruption there is a row for the steps
        after the last one.
    best : int or None
        The number of the row, and so of the epoch, whose weights the model has, if the best were
        restored.
    stopped : {"epochs", "steps", "patience", "interrupted"}
        Why training ended.
    seed : int
        What all random numbers were made of: ``rng=seed`` gives the same run again.
    skipped : int
        Updates that were left out because a gradient was not finite.
    """

    seed: int
    rows: list[dict[str, float]] = field(default_factory=list)
    best: int | None = None
    stopped: Stopped = "epochs"
    skipped: int = 0

    def __getitem__(self, name: str) -> list[float]:
        """The values of all rows, as ``history["validation"]``."""
        if self.rows and name not in self.rows[0]:
            raise KeyError(f"there is no {name!r:.80}; there are {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return "no epoch"
        names = list(self.rows[0])
        lines = ["  ".join(f"{name:>10}" for name in names)]
        for n, row in enumerate(self.rows, 1):
            here = "  best" if n == self.best else ""
            lines.append("  ".join(f"{row[name]:>10.4g}" for name in names) + here)
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the losses over the epochs, or over the steps where there are several rows in one.

        Parameters
        ----------
        path : path, optional
            Where to save the picture; its ending decides the format, ".png" or ".svg" for instance.

        Returns
        -------
        matplotlib.figure.Figure
            The picture.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no epoch, or matplotlib does not know the format.
        OSError
            If the file cannot be written.
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ImportError("history.plot needs matplotlib: pip install matplotlib") from error
        if not self.rows:
            raise ValueError("history holds no epoch; there is nothing to draw")
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        unit = "epoch" if self["epoch"] == [*range(1, len(self) + 1)] else "step"
        for name, words in self._curves():
            axes.plot(self[unit], self[name], marker=".", label=words)
        if self.best is not None:
            at = self[unit][self.best - 1]
            axes.axvline(at, color="grey", linewidth=1, linestyle=":", label=f"best {unit}")
        axes.set_xlabel(unit)
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
        axes.legend()
        if path is not None:
            picture, ending = io.BytesIO(), os.path.splitext(os.fsdecode(path))[1]
            figure.savefig(picture, format=ending[1:] or "png")
            atomic.replace(path, picture.getvalue())
        return figure

    def _curves(self) -> Iterator[tuple[str, str]]:
        yield "loss", "training"
        if "validation" in self.rows[0]:
            yield "validation", "validation"
