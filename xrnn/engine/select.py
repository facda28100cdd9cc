"""The choice of what runs a cell: a kernel that was verified here, or the cell's own code."""

from __future__ import annotations

from typing import Any

from xrnn.backends import Backend, Kernel, Sizes, host
from xrnn.cells.base import Cell
from xrnn.engine.verify import verified
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


def choose(
    backend: Backend, cell: Cell[Any], sizes: Sizes, dtype: Any, precision: str = "ieee"
) -> Kernel:
    """The kernel that runs the cell: the first candidate that passes verification on this
    machine, or else the cell's own code.  Empty inputs always run by the cell's own code.

    Raises
    ------
    TypeError
        If the library itself does not compute in the dtype, and no kernel does.
    """
    if 0 not in sizes:
        for kernel in candidates(backend, cell, sizes, dtype, precision):
            if verified(backend, cell, dtype, kernel, kernel.trial(*sizes)):
                return kernel
    if not backend.computes(dtype):
        raise TypeError(
            f"{cell.name}: backend {backend.name} computes in {dtype_name(dtype)} by fused "
            "kernels alone, and none serves here; use float32 or float16"
        )
    return reference(cell)


class OwnCode(Loop):
    """The loop over a cell's own code, as the engine runs it with every library."""

    forward = host.ignore_underflow(Loop.forward)
    backward = host.ignore_underflow(Loop.backward)


def reference(cell: Cell[Any]) -> Kernel:
    """The cell's own code in the form of a kernel."""
    return Kernel(OwnCode(cell), frozenset(), path=lambda T, B, I, H: "the cell as written")
