"""Small training runs for the tests of `xrnn train`: a text, its options, and what it leaves."""

from __future__ import annotations

import io
import random
import signal
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from unittest.mock import patch

from xrnn import _cli as cli
from xrnn.charlm.config import Config
from xrnn.charlm.run import CHART, CHECKPOINT, begin
from xrnn.convert import files
from xrnn.training.loop import Loop

SIZES: dict[str, Any] = {"hidden": 12, "embedding": 6, "batch": 4, "length": 8}
OPTIONS = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]


def write_text(path: Path) -> Path:
    """A small text: words of a few letters, ünïcode among them."""
    words = random.Random(0)
    content = " ".join(words.choice(["tick", "tock", "küche"]) for _ in range(400))
    path.write_text(content, "utf-8")
    return path


def xrnn(*words: object) -> int:
    return cli.main([str(word) for word in words])


def train(text: Path, out: Path, *more: object) -> int:
    return xrnn("train", "--text", text, "--out", out, "--backend", "cpu", *OPTIONS, *more)


def at_each_step(do: Callable[[int], object]) -> Any:
    """A context in which something is done in each step of training, given its number."""
    advance = Loop._advance

    def disturbed(loop: Loop, batch: Any) -> None:
        do(loop.progress.step)
        advance(loop, batch)

    return patch.object(Loop, "_advance", disturbed)


def half_a_run(text: Path, out: Path, steps: int = 40) -> None:
    """A run that was asked to end after 17 steps, and killed before its chart was drawn."""

    def stop(step: int) -> None:
        if step == 16:
            signal.raise_signal(signal.SIGINT)

    quiet = redirect_stderr(io.StringIO())
    started = begin(out, Config(**SIZES, steps=steps), str(text), "cpu")
    with quiet, at_each_step(stop), started as run:
        run.train()
    (out / CHART).unlink()


def steps_made(folder: Path) -> int:
    return int(files.read(folder / CHECKPOINT)[1]["progress"]["step"])


def tensors(folder: Path) -> dict[str, Any]:
    return files.read(folder / CHECKPOINT)[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}
