"""What a backend is: an array library, and a table from cells to sequence kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xrnn.cells.base import Cell
from xrnn.recurrence.scatter import scatter_add
from xrnn.typing import Array, BothDirections, Namespace, Sequence, Stepping, dtype_name

#: T, B, I, H
Sizes = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Kernel:
    """One entry of a backend's table: code that runs whole sequences of one cell.

    Parameters
    ----------
    sequence : Sequence
        What runs.
    dtypes : frozenset
        The dtypes that it serves.
    source : callable
        The text (or a hash) of the code behind it, so that a verification that is
        remembered holds for this code alone.  None: it cannot be known, and the kernel is
        verified anew in every process.
    precision : {"ieee", "tf32"}
        "tf32" rounds what products multiply to 10 bits, and serves who allows that.
    serves : callable
        Whether the kernel is the way to go for sizes (T, B, I, H).
    trial : callable
        Small sizes that take the same path through the kernel as the sizes in hand: what it
        is verified on.
    tolerance : float, optional
        How far it may lie from its cell, relative.  Default: as the dtype allows.
    path : callable
        In words, what runs for sizes (T, B, I, H).
    both : BothDirections, optional
        The same, running two directions at once.
    stepping : Stepping, optional
        The same, for single steps and for weights that never change.
    """

    sequence: Sequence
    dtypes: frozenset[Any]
    source: Callable[[], str | None] = lambda: None
    precision: str = "ieee"
    serves: Callable[[int, int, int, int], bool] = lambda T, B, I, H: True
    trial: Callable[[int, int, int, int], Sizes] = lambda T, B, I, H: (5, 3, 4, 16)
    tolerance: float | None = None
    path: Callable[[int, int, int, int], str] = lambda T, B, I, H: "whole sequences"
    both: BothDirections | None = None
    stepping: Stepping | None = None

    def __deepcopy__(self, memo: Any) -> Kernel:
        return self


@dataclass(frozen=True, eq=False)
class Backend:
    """An array library as xrnn sees it.

    Parameters
    ----------
    name : str
        What a user gives as ``device``.
    xp : namespace
        Its functions.
    to_host : callable
        Its array as a NumPy array.
    kernels : mapping of Cell to tuple of Kernel
        For a cell the kernels that run it faster than its own code, the best first.
    describe : callable
        What the result of a verification depends on, in words: library, device, driver.
    missing : callable
        What keeps the backend from working here, or None.
    scatter_add : callable
        `xrnn.recurrence.scatter.scatter_add`, or what does the same faster.
    computes : callable
        Whether the library's own functions keep a dtype.  (Those of NumPy and CuPy do not
        keep bfloat16: kernels alone serve it.)
    device_of : callable
        What tells two devices of one library apart.
    notes : callable
        Lines for `xrnn info`.
    dense : callable
        An equal array that is C-contiguous, aligned and in native byte order; the same one
        if it is so already.
    read_only : callable
        The array, made such that nothing can write to it through this name; where a library
        has no such arrays, the array as it is.
    refused : tuple of type
        Subclasses of the array type whose meaning would be lost.
    """

    name: str
    xp: Namespace
    to_host: Callable[[Array], Array]
    kernels: Mapping[Cell[Any], tuple[Kernel, ...]] = field(default_factory=dict)
    describe: Callable[[], str] = lambda: ""
    missing: Callable[[], str | None] = lambda: None
    scatter_add: Callable[..., Array] = scatter_add
    computes: Callable[[Any], bool] = lambda dtype: True
    device_of: Callable[[Array], Any] = lambda array: None
    notes: Callable[[], list[str]] = list
    dense: Callable[[Array], Array] = lambda array: array
    read_only: Callable[[Array], Array] = lambda array: array
    refused: tuple[type, ...] = ()

    def from_host(self, array: Array) -> Array:
        """A copy of a NumPy array, in C order, as an array of this library."""
        if dtype_name(array.dtype) == "bfloat16" and self.computes(array.dtype):
            # The library has a bfloat16 of its own, which does not know ml_dtypes'.
            return self.xp.astype(self.xp.asarray(array.astype("float32")), self.xp.bfloat16)
        return self.xp.asarray(array.copy())

    def __deepcopy__(self, memo: Any) -> Backend:
        return self

    def __reduce__(self) -> Any:
        from xrnn.backends import get

        return get, (self.name,)
