"""The folder of a training run: what is written to it, in which order, and by one process alone,
rank 0 of those that train together.

The folder holds

- ``checkpoint.safetensors``: that of `xrnn.fit`, what is needed to resume exactly;
- ``model.safetensors``: weights, vocabulary and configuration, which `xrnn sample` reads;
- ``history.csv`` and ``loss.png``: the losses as a table and as a chart.

Every file is replaced completely or not at all.  The checkpoint is written first, so that a folder
which holds any of these files can be resumed; the chart is written last and removed before training
goes on, so that a folder which holds all of them is complete.
"""

from __future__ import annotations

import csv
import io
import math
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xrnn.backends import host
from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.corpus import Corpus, read_text
from xrnn.charlm.model import CharModel, bits
from xrnn.convert import files
from xrnn.engine import atomic
from xrnn.learn import optim
from xrnn.learn.parallel import ALONE, World
from xrnn.training.fit import fit
from xrnn.training.history import History
from xrnn.training.signals import TERMINATIONS, noted
from xrnn.typing import Array

FILES = ("model.safetensors", "checkpoint.safetensors", "history.csv", "loss.png")
MODEL, CHECKPOINT, HISTORY, CHART = FILES

#: rows of the history of a run
REPORTS = 25

#: of `fit`, which draws no random numbers here
SEED = 0


def learning_rate(config: Config, step: int) -> float:
    """Half a cosine period, from lr at the first step to lr / 20 at the last one."""
    fall = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * (0.05 + 0.95 * fall)


@dataclass
class Run:
    """A model, its text, and the folder that training writes to.

    - path: the absolute path of the text, None for the language reference of Python
    - world: the processes that train together, of which rank 0 reads and writes the folder
    - begun: whether the folder holds a checkpoint to go on from
    - written: whether all but the chart is
    """

    folder: Path
    model: CharModel
    corpus: Corpus
    path: str | None
    world: World
    begun: bool = False
    written: bool = False

    def train(self) -> tuple[History, int | None]:
        """Train to the last step, or until a signal; the history, and the signal."""
        config, optimizer = self.model.config, optim.Adam(self.model.config.lr)

        def loss(logits: Array, targets: Array) -> tuple[Array, Array]:
            found = bits(logits, targets)
            if not math.isfinite(float(found[0])):
                raise RefusedError(
                    f"training diverged at step {optimizer.steps}; choose a smaller --lr"
                )
            return found

        # A loss that is not finite is an error here, of which no warning need tell.
        quiet = host.xp.errstate(over="ignore", invalid="ignore", divide="ignore")
        self.world.from_root(lambda: (self.folder / CHART).unlink(missing_ok=True))
        # Shells start what runs in the background with Ctrl-C ignored.
        with quiet, noted(*TERMINATIONS, always=(signal.SIGINT,)) as seen:
            history = fit(
                self.model.net,
                self.corpus.windows,
                loss,
                validation=self.corpus.held_out,
                metrics={},
                carry_state=True,
                steps=config.steps,
                every=max(1, config.steps // REPORTS),
                keep_best=False,
                optimizer=optimizer,
                schedule=lambda step: learning_rate(config, step),
                batch_size=config.batch,
                rng=SEED,
                checkpoint=self.folder / CHECKPOINT,
                metadata=self.about(),
                resume=self.begun,
                callback=self.write,
                progress=words,
                parallel=self.world,
            )
            self.world.from_root(lambda: self.complete(history))
        if history.stopped != "interrupted":
            return history, None
        return history, next((n for n in seen if n != signal.SIGINT), signal.SIGINT)

    def about(self) -> dict[str, Any]:
        """What the checkpoint holds besides the training."""
        known = {"text": self.path, "sha256": self.corpus.text.sha256}
        return self._of_model() | known

    def _of_model(self) -> dict[str, Any]:
        return {"vocabulary": self.model.vocabulary, "charlm": asdict(self.model.config)}

    def write(self, history: History) -> None:
        """Write the model and the table of the history."""
        files.save(self.folder / MODEL, self.model.parts, self._of_model())
        page = io.StringIO()
        columns = "step", "characters", "train_bits", "held_out_bits", "learning_rate", "seconds"
        writer = csv.writer(page)
        writer.writerow(columns)
        seconds, window = 0.0, self.model.config.batch * self.model.config.length
        for row in history.rows:
            seconds += row["seconds"]
            numbers = row["loss"], row["validation"], row["lr"], seconds
            steps = int(row["step"])
            writer.writerow([steps, steps * window, *(f"{value:.6g}" for value in numbers)])
        atomic.replace(self.folder / HISTORY, page.getvalue().encode())
        self.written = True

    def complete(self, history: History) -> None:
        """Write the chart, and the others if they are not there."""
        if not self.written:  # a file was lost
            self.write(history)
        atomic.replace(self.folder / CHART, self.chart(history))

    def chart(self, history: History) -> bytes:
        """The picture of the history, a PNG."""
        config, figure, picture = self.model.config, history.plot(), io.BytesIO()
        layers = f", {config.layers} layers" if config.layers > 1 else ""
        axes = figure.axes[0]
        axes.set_title(f"{config.cell}, {config.hidden} units{layers}")
        axes.set_ylabel("bits per character")
        axes.legend(["training", f"held out, {history['validation'][-1]:.2f} at the end"])
        figure.savefig(picture, format="png", dpi=120)
        return picture.getvalue()


def words(row: dict[str, float]) -> str:
    """What is shown of a row of the history."""
    ahead = f", held out {row['validation']:.3f}" if "validation" in row else ""
    return f"{row['loss']:.3f} bits/char{ahead}, {row['rate'] / 1000:.0f}k chars/s"


@contextmanager
def begin(
    folder: Path, config: Config, text: str | None, device: str, world: World = ALONE
) -> Iterator[Run]:
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
    with held(folder, world):
        world.from_root(lambda: _check_new(folder))
        corpus = Corpus(given, config.batch, config.length)
        model = CharModel(given.vocabulary, config, device)
        yield Run(folder, model, corpus, absolute(text), world)


def _check_new(folder: Path) -> None:
    """Raise RefusedError if the folder holds a file of a run."""
    for name in FILES:
        if (folder / name).exists():
            raise RefusedError(
                f"{folder} already holds {name}; go on with --resume --out {folder}, "
                "or choose another --out"
            )


def absolute(text: str | None) -> str | None:
    """The path of a text as it is kept, so that it is found from every folder."""
    return None if text is None else os.path.abspath(text)


@contextmanager
def held(folder: Path, world: World) -> Iterator[None]:
    """The folder, which rank 0 keeps locked for all of these processes."""
    with ExitStack() as stack:
        world.from_root(lambda: stack.enter_context(locked(folder)))
        yield


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
