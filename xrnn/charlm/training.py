"""A training run in a folder: progress, history, a chart of the loss, and resuming.

The folder holds

- ``model.safetensors``: weights, vocabulary and configuration, which `xrnn sample` reads;
- ``checkpoint.safetensors``: what is needed to resume exactly (the state of the optimizer, the
  recurrent state, the weights and the history);
- ``history.csv`` and ``loss.png``: the losses as a table and as a chart.
"""

from __future__ import annotations

import csv
import io
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xrnn.charlm.model import (
    CharModel,
    Config,
    Corpus,
    RefusedError,
    Trainer,
    learning_rate,
    read_text,
)
from xrnn.convert import files
from xrnn.engine import atomic

REPORTS = 25

FILES = ("model.safetensors", "checkpoint.safetensors", "history.csv", "loss.png")


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
    """A trainer and the folder it writes to."""

    def __init__(self, folder: Path, trainer: Trainer, text: str | None) -> None:
        self.folder, self.trainer, self.text = folder, trainer, text
        self.history: list[Row] = []
        self.seconds = 0.0

    @property
    def config(self) -> Config:
        return self.trainer.model.config

    def save(self) -> None:
        """Write all files, the checkpoint last; each file is replaced completely or not at all."""
        model, trainer = self.trainer.model, self.trainer
        about = {"vocabulary": model.vocabulary, "charlm": asdict(self.config)}
        files.save(self.folder / "model.safetensors", model.parts, about)
        self._write_history()
        tensors = {f"optimizer.{k}": a for k, a in trainer.optimizer.state.items()}
        for name, part in model.parts.items():
            tensors |= {f"weights.{name}.{k}": w for k, w in part.weights.items()}
        for k, s in enumerate(trainer.state or ()):
            tensors[f"state.{k}"] = s
        info = about | {
            "step": trainer.step,
            "seconds": self.seconds,
            "text": self.text,
            "sha256": trainer.corpus.sha256,
            "history": [asdict(row) for row in self.history],
        }
        files.write(self.folder / "checkpoint.safetensors", tensors, info)

    def _write_history(self) -> None:
        page = io.StringIO()
        writer = csv.DictWriter(page, list(Row.__dataclass_fields__))
        writer.writeheader()
        for row in self.history:
            digits = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            writer.writerow(digits)
        atomic.replace(self.folder / "history.csv", page.getvalue().encode())


def restore(trainer: Trainer, tensors: dict[str, Any], info: dict[str, Any]) -> None:
    """Restore a trainer from a checkpoint."""
    model = trainer.model
    put = model.backend.from_host
    for key, value in tensors.items():
        kind, _, path = key.partition(".")
        if kind == "optimizer":
            trainer.optimizer.state[path] = put(value)
        elif kind == "weights":
            part, _, name = path.partition(".")
            model.parts[part].weights[name] = put(value)
    count = sum(key.startswith("state.") for key in tensors)
    if count:
        arrays = (put(tensors[f"state.{k}"]) for k in range(count))
        trainer.state = model.layer.cell.state(arrays)
    trainer.step = trainer.optimizer.steps = info["step"]


def train(run: Run) -> bool:
    """Train to the last step, or until Ctrl-C; return whether the last step was reached.

    The folder is written at every report, so that little is lost in a crash; the chart at the end.
    """
    trainer, config = run.trainer, run.config
    every = max(1, config.steps // REPORTS)
    window = config.batch * config.length
    since: list[float] = []
    held_out = run.history[-1].held_out_bits if run.history else float("nan")
    with interruption() as stop, progress(trainer.step, config.steps, window) as bar:
        last = time.monotonic()
        stopping = False
        while trainer.step < config.steps and not stopping:
            since.append(trainer.advance())
            now = time.monotonic()
            run.seconds, last = run.seconds + now - last, now
            stopping = bool(stop)  # read once a step, so that stopping always saves
            if trainer.step % every == 0 or trainer.step == config.steps or stopping:
                held_out = trainer.model.bits(trainer.corpus.held_out)
                run.history.append(_row(run, sum(since) / len(since), held_out, window))
                since.clear()
                run.save()
                last = time.monotonic()
            bar(trainer.step, since[-1] if since else run.history[-1].train_bits, held_out)
    plot(run.history, config, run.folder / "loss.png")
    return trainer.step >= config.steps


def _row(run: Run, train_bits: float, held_out_bits: float, window: int) -> Row:
    step = run.trainer.step
    lr = learning_rate(run.config, step - 1)
    return Row(step, step * window, train_bits, held_out_bits, lr, run.seconds)


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that Ctrl-C appends to, so that the running step is completed.

    A second Ctrl-C interrupts at once.
    """
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress(done: int, steps: int, window: int) -> Iterator[Any]:
    """A progress bar on standard error: bits per character, characters per second, time left."""
    from tqdm import tqdm

    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
    start, first = time.monotonic(), done
    with tqdm(total=steps, initial=done, bar_format=form, dynamic_ncols=True) as bar:

        def show(step: int, bits: float, held_out: float) -> None:
            rate = (step - first) * window / max(time.monotonic() - start, 1e-9)
            ahead = f", held out {held_out:.3f}" if held_out == held_out else ""
            bar.set_postfix_str(
                f"{bits:.3f} bits/char{ahead}, {rate / 1000:.0f}k chars/s", refresh=False
            )
            bar.update(step - bar.n)

        yield show


def plot(history: list[Row], config: Config, path: Path) -> None:
    """Draw both losses, in bits per character over characters read."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 11}):
        figure = Figure(figsize=(7.5, 4.5), dpi=120, layout="constrained")
        axes = figure.subplots()
        read = [row.characters / 1e6 for row in history]
        axes.plot(read, [row.train_bits for row in history], color="C0", label="training")
        held_out = [row.held_out_bits for row in history]
        label = f"held out, {held_out[-1]:.2f} at the end"
        axes.plot(read, held_out, color="C1", marker=".", label=label)
        axes.set_xlabel("characters read, millions")
        axes.set_ylabel("bits per character")
        layers = f", {config.layers} layers" if config.layers > 1 else ""
        axes.set_title(f"{config.cell}, {config.hidden} units{layers}")
        axes.grid(alpha=0.3)
        axes.legend()
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        atomic.replace(path, picture.getvalue())


def begin(folder: Path, config: Config, text: str | None, device: str) -> Run:
    """Start a new run; RefusedError if the folder already holds one of its files."""
    if folder.exists() and not folder.is_dir():
        raise RefusedError(f"{folder} is a file; --out must be a folder")
    for name in FILES:
        if (folder / name).exists():
            raise RefusedError(
                f"{folder} already holds {name}; go on with --resume --out {folder}, "
                "or choose another --out"
            )
    config.check()
    corpus = Corpus(read_text(text), config.batch, config.length)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, Trainer(CharModel(corpus.vocabulary, config, device), corpus), text)


def resume(folder: Path, given: dict[str, Any], text: str | None, device: str) -> Run:
    """Resume the run in a folder.

    `given` are the options that were given again; all but the number of steps must be unchanged.
    """
    tensors, info = read_saved(folder, "checkpoint.safetensors")
    config = Config(**info["charlm"])
    changed = [k for k, v in given.items() if k != "steps" and v != getattr(config, k)]
    if changed:
        k = changed[0]
        raise RefusedError(
            f"{folder} was trained with --{k} {getattr(config, k)}, not {given[k]}; "
            "leave the option out, or start another run with another --out"
        )
    config = replace(config, steps=given.get("steps", config.steps))
    if info["step"] >= config.steps:
        raise RefusedError(
            f"{folder} has made all of its {info['step']} steps; ask for more with --steps"
        )
    text = info["text"] if text is None else text
    corpus = Corpus(read_text(text), config.batch, config.length)
    if corpus.sha256 != info["sha256"]:
        raise RefusedError(f"{folder} was trained on another text; give that one with --text")
    model = CharModel(corpus.vocabulary, config, device)
    run = Run(folder, Trainer(model, corpus), text)
    restore(run.trainer, tensors, info)
    run.history = [Row(**row) for row in info["history"]]
    run.seconds = info["seconds"]
    return run


def load_model(folder: Path, device: str) -> CharModel:
    """The model that a run left in its folder."""
    _, info = read_saved(folder, "model.safetensors")
    about = info["metadata"]
    model = CharModel(about["vocabulary"], Config(**about["charlm"]), device)
    files.load(folder / "model.safetensors", model.parts)
    return model


def read_saved(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file of a run; RefusedError if it is none."""
    try:
        tensors, info = files.read(folder / name)
    except FileNotFoundError:
        raise RefusedError(f"{folder} holds no {name}; it is not a folder of a run") from None
    except ValueError as error:
        raise RefusedError(str(error)) from None
    if not isinstance(info.get("metadata") or info.get("charlm"), dict):
        raise RefusedError(f"{folder / name} holds no character model")
    return tensors, info
