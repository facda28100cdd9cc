"""Linear recurrences over whole sequences in NumPy: as a scan, or a step after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from xrnn.backends import host
from xrnn.backends.base import Kernel
from xrnn.backends.cpu.loops import DTYPES, module_sources
from xrnn.cells.base import Cell
from xrnn.recurrence.scan import Scan, scan

#: where a scan is the faster way: up to so many values in a step (B·H), from so many steps on
SCAN_UP_TO, SCAN_FROM = 128, 128

#: where all gates at once are the faster way: beyond, memory is moved once more than it need be
WHOLE_UP_TO = 4096

#: values of one state in a block: the dozen arrays of a block stay in the cache of a core
BLOCK = 65536


def step_by_step(f: Any, u: Any, first: Any) -> np.ndarray:
    """s_t = f_t ⊙ s_{t-1} + u_t in place, a step after the other."""
    s: np.ndarray = np.empty_like(u)
    for f_t, u_t, s_t in zip(f, u, s, strict=True):
        np.multiply(f_t, first, out=s_t)
        np.add(s_t, u_t, out=s_t)
        first = s_t
    return s


def scanned(T: int, values: int) -> bool:
    """Whether T steps of so many values go by a scan."""
    return values <= SCAN_UP_TO and T >= SCAN_FROM


def solve(f: Any, u: Any, first: Any, *, xp: Any) -> Any:
    """The same, where many steps are tiny by a scan."""
    if scanned(len(f), first.size):
        return scan(f, u, first, xp=xp)
    return step_by_step(f, u, first)


class NumpyScan(Scan):
    """A scan in NumPy."""

    forward = host.ignore_underflow(Scan.forward)
    backward = host.ignore_underflow(Scan.backward)


def kernel(cell: Cell[Any]) -> Kernel:
    """The kernel of a cell with a linear recurrence."""
    return Kernel(
        NumpyScan(cell, solve, BLOCK),
        DTYPES,
        lambda: module_sources("xrnn.recurrence.scan", __name__),
        serves=lambda T, B, I, H: B * H <= WHOLE_UP_TO,
        # The recurrence goes by a scan or step by step.
        trial=lambda T, B, I, H: (SCAN_FROM, 1, 2, 3) if scanned(T, B * H) else (5, 3, 4, 16),
        path=lambda T, B, I, H: (
            "all gates at once, then a scan" if scanned(T, B * H) else "all gates at once"
        ),
    )
