"""The choice of what runs a cell: a kernel that was verified here, or the cell's own code."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from xrnn.backends import Backend, Kernel, Sizes, host
from xrnn.cells.base import Cell
from xrnn.engine.verify import NotNow, verified
from xrnn.recurrence.bfloat16 import RoundedLoop
from xrnn.recurrence.loop import Loop
from xrnn.recurrence.storage import Stored
from xrnn.typing import dtype_name

#: precision → what the path of a cell's own code says of it
WORDS = {"bf16": ", products of bfloat16", "int8": ", int8 weights"}


def candidates(
    backend: Backend, cell: Cell[Any], sizes: Sizes, dtype: Any, precision: str = "ieee"
) -> list[Kernel]:
    """The kernels in the backend's table for this cell, dtype and sizes (T, B, I, H), the best
    first.  A precision of "tf32" allows rounding; "bf16" and "int8" demand it."""
    accepted = (precision,) if precision in WORDS else ("ieee", precision)
    return [
        kernel
        for kernel in backend.kernels_of(cell)
        if dtype_name(dtype) in map(dtype_name, kernel.dtypes)
        and kernel.precision in accepted
        and kernel.serves(*sizes)
    ]


class Choice(NamedTuple):
    """A kernel, and whether it is final: otherwise the next call is to choose again."""

    kernel: Kernel
    final: bool = True


def decide(
    backend: Backend, cell: Cell[Any], sizes: Sizes, dtype: Any, precision: str = "ieee"
) -> Choice:
    """The kernel that runs the cell: the first candidate that passes verification on this
    machine, or else the cell's own code.  Empty inputs always run by the cell's own code.

    If a candidate cannot be verified at this moment, a warning tells it, and what serves instead
    is not final.
    """
    postponed: NotNow | None = None
    chosen = reference(cell, computes=backend.computes(dtype), precision=precision)
    if 0 not in sizes:
        for kernel in candidates(backend, cell, sizes, dtype, precision):
            try:
                if verified(backend, cell, dtype, kernel, kernel.trial(*sizes)):
                    chosen = kernel
                    break
            except NotNow as problem:
                postponed = postponed or problem
    if postponed is not None:
        serves = "another kernel" if chosen.dtypes else "the cell's own code"
        warnings.warn(
            f"{postponed}; {serves} serves this call, and the next one tries again",
            RuntimeWarning,
            stacklevel=2,
        )
    return Choice(chosen, postponed is None)


def choose(
    backend: Backend, cell: Cell[Any], sizes: Sizes, dtype: Any, precision: str = "ieee"
) -> Kernel:
    """The kernel that `decide` finds, final or not."""
    return decide(backend, cell, sizes, dtype, precision).kernel


class OwnCode(Loop):
    """The loop over a cell's own code, as the engine runs it with every library."""

    forward = host.ignore_underflow(Loop.forward)
    backward = host.ignore_underflow(Loop.backward)
    contributions = host.ignore_underflow(Loop.contributions)


class RoundedOwnCode(RoundedLoop):
    """The same with products of bfloat16."""

    forward = host.ignore_underflow(RoundedLoop.forward)
    backward = host.ignore_underflow(RoundedLoop.backward)
    contributions = host.ignore_underflow(RoundedLoop.contributions)


def own_loop(cell: Cell[Any], precision: str) -> OwnCode | RoundedOwnCode:
    """The loop over a cell's own code in a precision."""
    return RoundedOwnCode(cell) if precision == "bf16" else OwnCode(cell)


class StoredOwnCode(Stored):
    """The same for arrays that are computed with in float32."""

    forward = host.ignore_underflow(Stored.forward)
    backward = host.ignore_underflow(Stored.backward)


def reference(cell: Cell[Any], *, computes: bool = True, precision: str = "ieee") -> Kernel:
    """The cell's own code in the form of a kernel; it runs in the dtype of the arrays if the
    library computes in that, see `Backend.computes`."""
    path = "the cell as written" + WORDS.get(precision, "")
    if not computes:
        return Kernel(StoredOwnCode(cell), frozenset(), path=lambda T, B, I, H: path)
    loop = own_loop(cell, precision)
    return Kernel(loop, frozenset(), path=lambda T, B, I, H: path, contributions=loop.contributions)
