"""The definition of a backend: an array library, and a table from cells to kernels."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from xrnn.cells.base import Cell
from xrnn.recurrence.cross_entropy import cross_entropy
from xrnn.recurrence.scatter import scatter_add
from xrnn.typing import (
    Array,
    BothDirections,
    Contribution,
    Namespace,
    Sequence,
    State,
    Stepping,
    dtype_name,
)

#: numbers of the errors of the system that may be gone at the next call
SCARCE = {
    getattr(errno, name, None)
    for name in ("ENOMEM", "ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "EAGAIN", "EINTR")
} - {None}

#: T, B, I, H
Sizes = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Kernel:
    """One entry of a backend's table: code that runs whole sequences of one cell.

    Parameters
    ----------
    sequence : Sequence
        The code, forward and backward.
    dtypes : frozenset
        The dtypes that it can run, or their names.
    source : callable
        ``source() -> str | None``: the text (or a hash) of the code, part of the key under which
        a verification is cached.  None: the code cannot be identified, and the kernel is verified
        in every process.
    precision : {"ieee", "tf32", "bf16", "int8"}
        A "tf32" kernel rounds what products multiply to 10 bits; it is used only where the user
        allows that.  A "bf16" kernel rounds it to bfloat16, as `xrnn.recurrence.bfloat16` defines;
        it is used where the user asks for that, and no other kernel is.  An "int8" kernel takes
        matrices of weights as `xrnn.recurrence.quantised.Quantised`, and has no backward pass.
    serves : callable
        ``serves(T, B, I, H) -> bool``: whether the kernel should be used for these sizes.
    trial : callable
        ``trial(T, B, I, H) -> Sizes``: small sizes that take the same path through the kernel;
        it is verified with them.
    tolerance : float, optional
        The accepted relative difference from its cell.  Default: that of the dtype,
        `xrnn.engine.trial.tolerance`.
    strict : callable
        ``strict()``: a context in which the kernel fails where otherwise another way of its own
        would serve; it is verified in it.
    path : callable
        ``path(T, B, I, H) -> str``: a short description of what runs for these sizes.
    both : BothDirections, optional
        The same computation for two directions together.
    stepping : Stepping, optional
        The same computation for single steps, and for weights that never change.
    contributions : callable, optional
        As `xrnn.recurrence.loop.Loop.contributions`, from the residuals of ``sequence``: it serves
        gradients for each sequence.
    omits_dxs : bool
        Whether ``sequence.backward``, and ``both.backward_both`` if there is one, take the keyword
        ``omit_dxs``, and if it is True give None in the place of dxs.
    adds : bool
        Whether ``sequence.backward`` takes the keyword ``onto``: the gradients of the weights, as
        it returned them for the steps that come later.  It adds those of these steps to them in
        place, number by number in the order of one backward pass over all steps.  Such a kernel for
        numbers of 16 bits takes states, and their gradients, in float32 too, and then returns these
        and the gradients of weights in it.
    """

    sequence: Sequence
    dtypes: frozenset[Any]
    source: Callable[[], str | None] = lambda: None
    precision: str = "ieee"
    serves: Callable[[int, int, int, int], bool] = lambda T, B, I, H: True
    trial: Callable[[int, int, int, int], Sizes] = lambda T, B, I, H: (5, 3, 4, 16)
    tolerance: float | None = None
    strict: Callable[[], AbstractContextManager[Any]] = nullcontext
    path: Callable[[int, int, int, int], str] = lambda T, B, I, H: "whole sequences"
    both: BothDirections | None = None
    stepping: Stepping | None = None
    contributions: Callable[..., tuple[Array, State, dict[str, Contribution]]] | None = None
    omits_dxs: bool = False
    adds: bool = False

    def __deepcopy__(self, memo: Any) -> Kernel:
        return self


def passing(error: Exception) -> bool:
    """Whether an error tells that memory, the stack, or the system's files or space ran out."""
    if isinstance(error, OSError):
        return error.errno in SCARCE
    return isinstance(error, MemoryError | RecursionError)


@dataclass(frozen=True, eq=False)
class Backend:
    """An array library, and the faster kernels that xrnn has for it.

    Parameters
    ----------
    name : str
        The name for the argument ``device``.
    xp : namespace
        The functions of the library, as the Array API standard names them.
    to_host : callable
        ``to_host(array)``: the values as a NumPy array; `xrnn.backends.host.to_host` works for
        most libraries.
    kernels : mapping of Cell to tuple of Kernel
        For a cell the kernels that run it faster than its own code, the best first.
    variants : callable
        ``variants(cell)``: the same for a cell that is not in `kernels`, such as one with options
        (`Cell.made`); always the same objects for the same cell.
    describe : callable
        ``describe() -> str``: everything that a verification depends on: library, driver, and the
        device that kernels run on now.  It is asked for each choice of a kernel.
    occupied : callable
        ``occupied() -> str | None``: the reason why nothing can be verified at this moment, such
        as a stream that is being captured; or None.
    passing : callable
        ``passing(error) -> bool``: whether an error tells of the moment alone, so that the same
        call may succeed later; default: `passing`.
    missing : callable
        ``missing() -> str | None``: the reason why the backend cannot work here, or None.
    scatter_add : callable
        A function equal to `xrnn.recurrence.scatter.scatter_add`, possibly faster.
    cross_entropy : callable
        A function equal to `xrnn.recurrence.cross_entropy.cross_entropy`, possibly faster.
    computes : callable
        ``computes(dtype) -> bool``: whether the code of cells runs in this dtype.  Where it does
        not, numbers are stored in it and computed with in float32 (`xrnn.recurrence.storage`): in
        NumPy and CuPy the results of bfloat16 have another dtype, and NumPy is slow in float16.
    device : callable
        ``device(text)``: the library's device of that name or number, such as that of "0" in
        ``device="cuda:0"``, in the form that its `asarray` takes.
    device_of : callable
        ``device_of(array)``: a value that differs between devices, or None if there is only one.
    notes : callable
        ``notes()``: further lines for `xrnn info`.
    dense : callable
        ``dense(array)``: an equal array that is C-contiguous, aligned and in native byte order;
        the array itself if it already is.
    read_only : callable
        ``read_only(array)``: an equal array that cannot be written to.  If the library has no such
        arrays: a copy if kernels keep their outputs for backward, else the array itself.
    fingerprint : callable
        ``fingerprint(array)``: a value that is another one after the array was changed in place;
        None where that cannot happen, or cannot be told without waiting for a device.
    constants : callable
        ``constants()``: another backend, whose arrays may stand beside its own, such as the targets
        of a loss; or None.
    adder : callable
        ``adder(world)``: what starts to add up one of its arrays over all ranks of an
        `xrnn.learn.parallel.World` in place, and returns what makes later work wait for the end;
        or None, if arrays must come to the host for that.
    refused : tuple of type
        Subclasses of the array type that are refused, because treating them as plain arrays
        would change their meaning.
    """

    name: str
    xp: Namespace
    to_host: Callable[[Array], Array]
    kernels: Mapping[Cell[Any], tuple[Kernel, ...]] = field(default_factory=dict)
    variants: Callable[[Cell[Any]], tuple[Kernel, ...]] = lambda cell: ()
    describe: Callable[[], str] = lambda: ""
    occupied: Callable[[], str | None] = lambda: None
    passing: Callable[[Exception], bool] = passing
    missing: Callable[[], str | None] = lambda: None
    scatter_add: Callable[..., Array] = scatter_add
    cross_entropy: Callable[..., tuple[Array, Array]] = cross_entropy
    computes: Callable[[Any], bool] = lambda dtype: True
    device: Callable[[str], Any] = lambda text: text
    device_of: Callable[[Array], Any] = lambda array: None
    notes: Callable[[], list[str]] = list
    dense: Callable[[Array], Array] = lambda array: array
    read_only: Callable[[Array], Array] = lambda array: array
    fingerprint: Callable[[Array], Any] = lambda array: None
    constants: Callable[[], Backend | None] = lambda: None
    adder: Callable[[Any], Callable[[Array], Callable[[], object]] | None] = lambda world: None
    refused: tuple[type, ...] = ()

    def kernels_of(self, cell: Cell[Any]) -> tuple[Kernel, ...]:
        """The kernels that run the cell faster than its own code, the best first."""
        return self.kernels[cell] if cell in self.kernels else self.variants(cell)

    def from_host(self, array: Array, device: Any = None) -> Array:
        """A copy of a NumPy array, in C order, as an array of this library.

        `device` is one of the library's own, as the standard has it.  Default: that on which the
        library makes new arrays.
        """
        try:
            if dtype_name(array.dtype) == "bfloat16" and self.computes(array.dtype):
                # The library has its own bfloat16 and cannot convert that of ml_dtypes.
                single = self.xp.asarray(array.astype("float32"), device=device)
                return self.xp.astype(single, self.xp.bfloat16)
            return self.xp.asarray(array.copy(), device=device)
        except (TypeError, AttributeError) as error:
            raise TypeError(
                f"backend {self.name!r} has no arrays of {array.dtype}; choose another dtype"
            ) from error

    def __deepcopy__(self, memo: Any) -> Backend:
        return self

    def __reduce__(self) -> Any:
        from xrnn.backends import get

        return get, (self.name,)
