"""The check of an index."""

from __future__ import annotations

from typing import Any

from xrnn.engine.checks import check_integer


def check_index(kind: str, name: str, value: Any, n: int) -> None:
    """Raise ValueError unless the value is an integer in 0…n−1."""
    check_integer(kind, name, value)
    if not 0 <= value < n:
        raise ValueError(f"{kind}: {name} is {value}; it must be an integer in 0…{n - 1}")
