"""The options of a character language model, and the requests that are refused."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from xrnn.cells import BY_NAME
from xrnn.engine.checks import PRECISIONS
from xrnn.training.contents import COUNT, LIMIT, NUMBER, STRING, check_values, refusal
from xrnn.typing import Precision


class RefusedError(ValueError):
    """A request that cannot be fulfilled; the message says what to do instead."""


def check_integer(name: str, value: int, at_least: int) -> None:
    """Raise RefusedError unless `value`, of the option `name`, is in range."""
    if value < at_least:
        raise RefusedError(f"--{name} is {value}; it must be at least {at_least}")
    if value >= LIMIT:
        raise RefusedError(f"--{name} is {value!r:.30}; it must be at most {LIMIT - 1}")


def check_memory(needed: int, options: str) -> None:
    """Raise RefusedError if `needed` bytes are more than this machine has."""
    here = _memory()
    if needed > here:
        raise RefusedError(
            f"this takes at least {needed / 1e9:.3g} GB of memory and the machine has "
            f"{here / 1e9:.3g} GB; choose smaller {options}"
        )


def _memory() -> int:
    """The bytes of memory of this machine; more than any machine has if it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this operating system
        return LIMIT


@dataclass(frozen=True)
class Config:
    """All options of a training run."""

    cell: str = "lstm"
    hidden: int = 256
    layers: int = 1
    embedding: int = 64
    batch: int = 32
    length: int = 64
    steps: int = 1000
    lr: float = 8e-3
    seed: int = 0
    precision: Precision = "ieee"

    def check(self) -> None:
        """Raise RefusedError for values that cannot be trained with."""
        if self.cell not in BY_NAME:
            raise RefusedError(
                f"unknown cell {self.cell!r}; it must be one of {', '.join(BY_NAME)}"
            )
        if self.precision not in PRECISIONS:
            raise RefusedError(
                f"--precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}"
            )
        for name in ("hidden", "layers", "embedding", "batch", "length", "steps"):
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0)
        if not 0 < self.lr < math.inf:
            raise RefusedError(f"--lr is {self.lr}; it must be a number above 0")
        # No vocabulary is smaller than one character: sizes that no text allows are seen before
        # a text is read.
        self.check_memory(1)

    def check_memory(self, V: int) -> None:
        """Raise RefusedError if training with a vocabulary of V takes more than the machine has.

        Counted are weights, gradients and the two moments of Adam, what a window keeps of the
        recurrent layers for the backward pass, and its logits with their gradient: the least that
        is needed.
        """
        cell, I, H = BY_NAME[self.cell], self.embedding, self.hidden
        first, other = (sum(map(prod, cell.shapes(n, H).values())) for n in (I, H))
        weights = V * I + first + (self.layers - 1) * other + V * H + V
        kept = self.layers * H * (len(cell.gates) + len(cell.states)) + 2 * V
        check_memory(
            4 * (4 * weights + self.batch * self.length * kept),
            "--hidden, --layers, --embedding, --batch or --length",
        )

    @classmethod
    def read(cls, path: str, where: str, found: Any) -> Config:
        """The options in a file, at a place of its JSON values.

        Raises
        ------
        ValueError
            If they are not those that `asdict` gives, or cannot be trained with.
        """
        kinds = {str: STRING, int: COUNT, float: NUMBER}
        expected = {name: kinds[type(value)] for name, value in asdict(cls()).items()}
        if isinstance(found, dict):  # runs begun before there was this option have none
            found = {"precision": cls.precision, **found}
        check_values(path, where, found, expected)
        config = cls(**found)
        try:
            config.check()
        except RefusedError as error:
            raise refusal(path, str(error)) from None
        return config
