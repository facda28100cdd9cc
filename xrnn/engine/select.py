"""The choice of what runs a cell: a kernel that was verified here, or the cell's own code."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from xrnn.backends import Backend, Kernel, Sizes, host
from xrnn.cells.base import Cell
from xrnn.engine.verify import NotNow, verified
from xrnn.recurrence.loop import Loop
from xrnn.typing import dtype_name


def candidates(
    backend: Backend, cell: Cell[Any], sizes: Sizes, dtype: Any, precision: str = "ieee"
) -> list[Kernel]:
    """The kernels in the backend's table for this cell, dtype and sizes (T, B, I, H), the best
    first."""
    return [
        kernel
        for kernel in backend.kernels.get(cell, ())
        if dtype in kernel.dtypes
        and kernel.precision in ("ieee", precision)
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

    Raises
    ------
    TypeError
        If the library itself does not compute in the dtype, and no kernel does.
    NotNow
        If the library does not compute in the dtype, and a kernel may do so later.
    """
    postponed: NotNow | None = None
    chosen = reference(cell)
    if 0 not in sizes:
        for kernel in candidates(backend, cell, sizes, dtype, precision):
            try:
                if verified(backend, cell, dtype, kernel, kernel.trial(*sizes)):
                    chosen = kernel
                    break
            except NotNow as problem:
                postponed = postponed or problem
    own = not chosen.dtypes
    if own and not backend.computes(dtype):
        raise postponed or TypeError(
            f"{cell.name}: backend {backend.name} computes in {dtype_name(dtype)} by fused "
            "kernels alone, and none serves here; use float32 or float16"
        )
    if postponed is not None:
        serves = "the cell's own code" if own else "another kernel"
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


def reference(cell: Cell[Any]) -> Kernel:
    """The cell's own code in the form of a kernel."""
    return Kernel(OwnCode(cell), frozenset(), path=lambda T, B, I, H: "the cell as written")
