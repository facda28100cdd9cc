"""Small training runs for the tests of `xrnn train`: a text, its options, and what it leaves."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from xrnn import _cli as cli
from xrnn.charlm.config import Config
from xrnn.charlm.run import CHECKPOINT, begin
from xrnn.convert import files

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


def half_a_run(text: Path, out: Path, steps: int = 40) -> None:
    """A run that was stopped by nobody after 17 steps, without a report."""
    with begin(out, Config(**SIZES, steps=steps), str(text), "cpu") as run:
        for _ in range(17):
            run.trainer.advance()
        run.save()


def tensors(folder: Path) -> dict[str, Any]:
    return files.read(folder / CHECKPOINT)[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}
