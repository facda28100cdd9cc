"""The types of the signatures.

No static type covers NumPy, CuPy, torch and JAX arrays, so `Array` is `Any` to a type checker.
Docstrings give the shape of every array, and arguments are checked at run time.  The letters of
the shapes are the same everywhere:

====  ==============================  ====  ==============================
T     time steps                      G     gates of the cell
B     sequences (the batch)           L     layers
I     inputs                          D     directions, 1 or 2
H     hidden units                    S     states of the cell
====  ==============================  ====  ==============================
"""

from __future__ import annotations

from collections import abc
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, SupportsIndex, TypeAlias

Array: TypeAlias = Any
"""An array of any library that follows the Python Array API standard."""

Namespace: TypeAlias = Any
"""The functions of such a library: ``numpy``, ``cupy``, ``array_api_compat.torch`` …"""

Size: TypeAlias = SupportsIndex
"""An integer of Python or NumPy."""

DType: TypeAlias = Literal["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]
"""The dtypes of a layer's weights; complex numbers work in the forward pass only."""


class _LibraryDType(Protocol):
    """A dtype of an array library."""

    @property
    def itemsize(self) -> int: ...


GivenDType: TypeAlias = DType | type[Any] | _LibraryDType
"""A dtype as a user may give it: its name, or that of a library, such as ``numpy.float32``."""

Precision: TypeAlias = Literal["ieee", "tf32", "bf16"]
"""How products of float32 may be rounded."""

Form: TypeAlias = Literal["int8", "bfloat16"]
"""How the matrices of a frozen layer are kept, if not as they are."""

Checkpoint: TypeAlias = Size | Literal["sqrt"]
"""The number of steps between states that are kept."""

Masked: TypeAlias = Literal["zero", "hold"]
"""The output of a step that a mask leaves out: 0, or that of the step before."""

Init: TypeAlias = Literal["orthogonal", "uniform"]
"""How weights are drawn, see `xrnn.layers.initialisation.draw`."""

Weights: TypeAlias = Mapping[str, Array]
"""Name → array; for one cell its shapes are ``cell.shapes(I, H)``."""

State: TypeAlias = tuple[Array, ...]
"""What a cell carries from step to step, in the order of ``cell.states``; h is first."""

GivenState: TypeAlias = abc.Sequence[Array | None]
"""A state as a user may give it: a part that is None means zeros."""


class HState(NamedTuple):
    """The state of a cell whose only state is its output."""

    h: Array


class HCState(NamedTuple):
    """The state of a cell that has a cell state c beside its output h."""

    h: Array
    c: Array


if TYPE_CHECKING:
    # The default makes `Cell` without a parameter a cell of any state.  Python itself has
    # defaults of type variables only from 3.13 on.
    from typing_extensions import TypeVar

    S = TypeVar("S", bound=State, default=Any)
else:
    from typing import TypeVar

    S = TypeVar("S", bound=State)
    """The named tuple that a cell's state is."""

Contribution: TypeAlias = Array | tuple[tuple[Array, Array], ...]
"""What one step adds to the gradient of one weight, not yet summed over the sequences.

For a vector weight an array (B, n).  For a matrix its blocks of rows from top to bottom,
each a pair (rows (B, m), operand (B, k)) that stands for Σ_b rows_b operand_bᵀ.  The sums
over sequences and time are then one product each, after the loop.
"""

Gradients: TypeAlias = tuple[Array, State, dict[str, Array]]
"""dxs (T, B, I), the gradient of the first state, and those of the weights by name."""


class Step(Protocol):
    """One time step forward: see `xrnn.cells.base.Cell`."""

    def __call__(
        self, ax: Array, state: Any, weights: Weights, *, xp: Namespace
    ) -> tuple[State, Any]: ...


class StepBackward(Protocol):
    """The same time step backward: see `xrnn.cells.base.Cell`."""

    def __call__(
        self, dstate: Any, saved: Any, weights: Weights, *, xp: Namespace
    ) -> tuple[Array, State, dict[str, Contribution]]: ...


class Total(Protocol):
    """The gradients of the new states, including effects through the other new states."""

    def __call__(self, dstate: Any, saved: Any, weights: Weights, *, xp: Namespace) -> State: ...


class Sequence(Protocol):
    """One cell over whole sequences in one direction: the form of every sequence kernel.

    `xrnn.recurrence.loop.Loop` is the reference that every other implementation must equal.
    All arrays are of one library, device and dtype, and have been checked: `weights` are
    complete (no bias is left out), C-contiguous and in native byte order; the other arrays
    may have any strides.  An implementation does not write to its arguments, and its results
    share no memory with them.
    """

    def forward(
        self,
        weights: Weights,
        xs: Array,
        state: State,
        *,
        lengths: Array | None,
        reverse: bool,
        keep: bool,
        xp: Namespace,
    ) -> tuple[Array, State, Any]:
        """Run xs (T, B, I) from state, each part (B, H).

        Returns ys (T, B, H), exactly 0 past a sequence's end; the state where each sequence
        ends; and the residuals that `backward` needs, or None with ``keep=False``.
        `lengths` (B,) are int64 in 0…T.
        """
        ...

    def backward(
        self,
        weights: Weights,
        residuals: Any,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> Gradients:
        """The gradients of the arguments of `forward`, from those of ys and of the last state.

        It may be called several times with the same residuals, and must give the same results.
        """
        ...


class BothDirections(Protocol):
    """A sequence kernel that runs the two directions over the same inputs together."""

    def forward_both(
        self,
        passes: list[tuple[Weights, State, bool]],
        xs: Array,
        *,
        lengths: Array | None,
        keep: bool,
        xp: Namespace,
    ) -> list[tuple[Array, State, Any]]:
        """`Sequence.forward` for each (weights, state, reverse)."""
        ...

    def backward_both(
        self, passes: list[tuple[Weights, Any, Array | None, State]], *, xp: Namespace
    ) -> list[Gradients]:
        """`Sequence.backward` for each (weights, residuals, dys, dstate).

        If `xrnn.backends.Kernel.omits_dxs`, it takes the keyword ``omit_dxs`` too.
        """
        ...


class Stepping(Protocol):
    """A sequence kernel made for little delay, which runs single steps too.

    In `step`, and in `Sequence.forward` with ``keep=False``, there may be an axis of length 1 in
    front: x (1, B, I) as a sequence of one step has it, and the parts of both states (1, B, H)
    as a layer of one cell has them.
    """

    def step(self, weights: Weights, x: Array, state: State) -> State:
        """The state after one step of x (B, I) from state, with weights from `prepare`."""
        ...

    def prepare(self, weights: Weights, *, fixed: bool) -> Weights:
        """The weights in the form that the kernel takes with the least delay.

        Weights that are `fixed` never change, so they can be packed once.  If they are a mapping
        that is no dict, its arrays are made when they are asked for, and none of them shall be kept
        besides what is packed; no backward pass will follow.
        """
        ...


def dtype_name(dtype: Any) -> str:
    """The name, such as "float32", of a dtype of any library and byte order, or of its class.

    >>> import numpy as np
    >>> dtype_name(np.zeros(1).dtype), dtype_name(np.float32), dtype_name(np.dtype(">f4"))
    ('float64', 'float32', 'float32')
    """
    library: Any = type(dtype)
    return _name(library, dtype)


# The type comes first: libraries warn when their dtypes are compared with those of others.
@cache
def _name(library: type, dtype: Any) -> str:
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2].rstrip("'>")


def is_floating(dtype: Any, *, xp: Namespace) -> bool:
    """Whether a dtype is real floating point of 16 bits or more.

    It includes bfloat16, which NumPy does not know.  Numbers of 8 bits or less can be stored, but
    libraries do not compute with them.
    """
    library: Any = type(dtype)
    return _is_floating(library, dtype, xp)


@cache
def _is_floating(library: type, dtype: Any, xp: Namespace) -> bool:
    name = dtype_name(dtype)
    # The others of 8 bits or less have such names too: float8_e4m3fn, float4_e2m1fn.
    if "_" in name or not name.startswith(("float", "longdouble")):
        return name == "bfloat16"
    return bool(xp.isdtype(dtype, "real floating"))


def is_integer(dtype: Any) -> bool:
    """Whether a dtype is one of integers, signed or not; booleans are none.

    >>> import numpy as np
    >>> is_integer(np.dtype("uint8")), is_integer(np.dtype(bool))
    (True, False)
    """
    return dtype_name(dtype).startswith(("int", "uint"))


def is_complex(dtype: Any) -> bool:
    """Whether a dtype is one of complex numbers.

    >>> import numpy as np
    >>> is_complex(np.dtype("complex64")), is_complex(np.dtype("float32"))
    (True, False)
    """
    return dtype_name(dtype).startswith("complex")
