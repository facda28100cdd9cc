"""The folder of a training run: what is written to it, in which order, and by one process alone.

The folder holds

- ``model.safetensors``: weights, vocabulary and configuration, which `xrnn sample` reads;
- ``checkpoint.safetensors``: what is needed to resume exactly (the state of the optimizer, the
  recurrent state, the weights and the history);
- ``history.csv`` and ``loss.png``: the losses as a table and as a chart.

Every file is replaced completely or not at all.  The checkpoint is written last, so that the other
files are never older than it; only the first is written before them, so that a folder which holds
any of these files can be resumed.
"""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xrnn.charlm.chart import draw
from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.corpus import Corpus, read_text
from xrnn.charlm.model import CharModel, Trainer
from xrnn.convert import files
from xrnn.engine import atomic

FILES = ("model.safetensors", "checkpoint.safetensors", "history.csv", "loss.png")
MODEL, CHECKPOINT, HISTORY, CHART = FILES


@dataclass(frozen=True)
class Row:
    """One line of the history: the mean training loss since the line before, the held-out loss."""

    step: int
    characters: int
    train_bits: float
    held_out_bits: float
    learning_rate: float
    seconds: float


class Run:
    """A trainer and the folder it writes to.

    `text` is the absolute path of the text, None for the language reference of Python.
    """

    def __init__(self, folder: Path, trainer: Trainer, text: str | None) -> None:
        self.folder, self.trainer, self.text = folder, trainer, text
        self.history: list[Row] = []
        self.seconds = 0.0

    @property
    def config(self) -> Config:
        return self.trainer.model.config

    def save(self) -> None:
        """Write model, history and checkpoint."""
        if not (self.folder / CHECKPOINT).exists():
            self._write_checkpoint()
        model = self.trainer.model
        files.save(self.folder / MODEL, model.parts, self._about())
        self._write_history()
        self._write_checkpoint()

    def draw(self) -> None:
        """Write the chart."""
        layers = f", {self.config.layers} layers" if self.config.layers > 1 else ""
        title = f"{self.config.cell}, {self.config.hidden} units{layers}"
        read = [row.characters / 1e6 for row in self.history]
        training = [row.train_bits for row in self.history]
        held_out = [row.held_out_bits for row in self.history]
        atomic.replace(self.folder / CHART, draw(read, training, held_out, title))

    def remove_chart(self) -> None:
        """Remove the chart of fewer steps: a chart that is there is of all of them."""
        (self.folder / CHART).unlink(missing_ok=True)

    def _about(self) -> dict[str, Any]:
        return {"vocabulary": self.trainer.model.vocabulary, "charlm": asdict(self.config)}

    def _write_checkpoint(self) -> None:
        trainer = self.trainer
        info = self._about() | {
            "step": trainer.step,
            "seconds": self.seconds,
            "text": self.text,
            "sha256": trainer.corpus.text.sha256,
            "history": [asdict(row) for row in self.history],
        }
        files.write(self.folder / CHECKPOINT, trainer.tensors(), info)

    def _write_history(self) -> None:
        page = io.StringIO()
        writer = csv.DictWriter(page, list(Row.__dataclass_fields__))
        writer.writeheader()
        for row in self.history:
            digits = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            writer.writerow(digits)
        atomic.replace(self.folder / HISTORY, page.getvalue().encode())


@contextmanager
def begin(folder: Path, config: Config, text: str | None, device: str) -> Iterator[Run]:
    """A new run, which has the folder for itself until the end of the block.

    Raises
    ------
    RefusedError
        If an option or the text cannot be trained with, or the folder holds a file of a run or
        is used by another process.
    """
    config.check()
    given = read_text(text)
    config.check_memory(len(given.vocabulary))
    with locked(folder):
        for name in FILES:
            if (folder / name).exists():
                raise RefusedError(
                    f"{folder} already holds {name}; go on with --resume --out {folder}, "
                    "or choose another --out"
                )
        corpus = Corpus(given, config.batch, config.length)
        model = CharModel(given.vocabulary, config, device)
        yield Run(folder, Trainer(model, corpus), absolute(text))


def absolute(text: str | None) -> str | None:
    """The path of a text as it is kept, so that it is found from every folder."""
    return None if text is None else os.path.abspath(text)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there, and keep other processes from training in it.

    The operating system gives the folder free when the process ends, however it ends.  Folders
    that were made here are removed if nothing has been written to them.
    """
    if folder.exists() and not folder.is_dir():
        raise RefusedError(f"{folder} is a file; --out must be a folder")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RefusedError(f"{folder} cannot be written to; choose another --out")
    lock = _lock(folder)
    try:
        yield
    finally:
        if os.name == "nt":  # the lock is a file in the folder
            os.close(lock)
            _remove_empty(made)
        else:  # while no other process can have begun to train there
            _remove_empty(made)
            os.close(lock)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the inner ones first, up to the first that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _lock(folder: Path) -> int:
    """An open descriptor that holds the lock of the folder."""
    busy = f"another process trains in {folder}; wait for its end, or choose another --out"
    if os.name == "nt":
        # Windows opens no folders; there the system removes this file with its process.
        flags = os.O_CREAT | os.O_EXCL | os.O_TEMPORARY  # type: ignore[attr-defined]
        try:
            return os.open(folder / ".lock", flags)
        except FileExistsError:
            raise RefusedError(busy) from None
    lock = os.open(folder, os.O_RDONLY)
    try:
        held = atomic.lock(lock)
        # The process that made the folder may have removed it since it was opened here.
        if not os.path.samestat(os.fstat(lock), os.stat(folder)):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        os.close(lock)
        raise RefusedError(busy) from None
    if not held:  # as on some file systems over a network
        warnings.warn(
            f"the file system of {folder} has no locks: see to it that no other process trains "
            "there",
            stacklevel=2,
        )
    return lock
