"""How far results are from what they must be."""

from __future__ import annotations

from xrnn.backends import host
from xrnn.typing import Array


def difference(expected: list[Array], found: list[Array]) -> float:
    """The largest max |a − b| / max |a| over NumPy arrays; infinite where shapes differ."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            scale = max(float(abs(a).max()), 1e-30)
            gap = float(abs(a - b.astype(a.dtype)).max())
            worst = worse(worst, 0.0 if gap == 0 else gap / scale)
    return worst


def worse(a: float, b: float) -> float:
    """The larger error; infinity if the new one is NaN."""
    return float("inf") if b != b else max(a, b)


def equal(a: Array, b: Array) -> bool:
    """Whether two NumPy arrays hold the same numbers; NaN is the same as NaN."""
    xp = host.xp
    return bool(xp.array_equal(a, b, equal_nan=True))
