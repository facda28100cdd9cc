"""The checks of arguments, made before anything is computed.

An error message says what was given, by name and shape; what it must be, in letters and numbers;
and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from numbers import Integral
from typing import Any, NamedTuple

import array_api_compat

from xrnn.backends import Backend, backend_of, host
from xrnn.cells.base import Cell
from xrnn.typing import Array, DType, Weights, dtype_name, is_floating

PRECISIONS = ("ieee", "tf32", "bf16")

#: what a layer may store its weights in
REAL_DTYPES: tuple[DType, ...] = ("float16", "bfloat16", "float32", "float64")
DTYPES: tuple[DType, ...] = (*REAL_DTYPES, "complex64", "complex128")


class Spec(NamedTuple):
    """The required shape of one array, in numbers and in letters."""

    shape: tuple[int, ...]
    letters: str


#: what a part of a state must be: an array, or one array for each cell
StateSpec = Spec | list[Spec]


@dataclass(frozen=True, eq=False)
class Placement:
    """The library, device and dtype that all arrays of one computation must have.

    They are those of one array, the reference.

    Parameters
    ----------
    kind : str
        The name of the owner in messages, such as "lstm".
    reference : str
        The name of the reference array in messages.
    backend, device, dtype, type
        Those of the reference array.  A device of None means that the library has only one.
    standard_device
        Its device as the Array API standard gives it, for creating new arrays.
    """

    kind: str
    reference: str
    backend: Backend
    device: Any
    dtype: Any
    type: Any
    standard_device: Any

    @classmethod
    def of(cls, kind: str, reference: str, array: Array) -> Placement:
        """The placement whose reference is `array`."""
        backend = backend_of(array, reference)
        standard_device = array_api_compat.device(array)
        device, dtype, found = backend.device_of(array), array.dtype, type(array)
        if backend.xp is host.xp:
            found = host.xp.ndarray  # what `accept` converts subclasses to
            if dtype.byteorder not in "=|":
                dtype = dtype.newbyteorder("=")
        return cls(kind, reference, backend, device, dtype, found, standard_device)

    def __reduce__(self) -> Any:
        # An array takes along what some libraries' devices and dtypes cannot: a name for pickles.
        return Placement.of, (self.kind, self.reference, self.zeros((0,)))

    def called(self, reference: str) -> Placement:
        """The same placement, with another name of the reference array in messages."""
        return replace(self, reference=reference)

    def accept(self, name: str, array: Array) -> Array:
        """The array, if it has this placement; `name` is its name in messages.

        Raises
        ------
        TypeError
            If it has another one.  Otherwise the library would cast or move it silently.
        """
        if type(array) is self.type and self.device is None and array.dtype == self.dtype:
            return array
        backend = backend_of(array, name)
        if backend is not self.backend:
            raise TypeError(
                f"{self.kind}: {name} is an array of {backend.name} and {self.reference} is one "
                f'of {self.backend.name}; move one of them: layer.to("{backend.name}")'
            )
        device = backend.device_of(array)
        if device != self.device:
            raise TypeError(
                f"{self.kind}: {name} is on device {device} and {self.reference} on device "
                f"{self.device}; move one of them"
            )
        if array.dtype != self.dtype:
            if backend.xp is host.xp and array.dtype.newbyteorder("=") == self.dtype:
                return backend.dense(array)
            if name == self.reference:
                raise TypeError(f"{self.kind}: {name} is {array.dtype}; it must be {self.dtype}")
            raise TypeError(
                f"{self.kind}: {name} is {array.dtype} and {self.reference} is {self.dtype}; "
                "cast one of them"
            )
        # A subclass that behaves like its base class, such as NumPy's memmap, is converted.
        return array if type(array) is self.type else backend.dense(array)

    def all_fit(self, arrays: Iterable[Array], shape: tuple[int, ...]) -> bool:
        """A quick check whether arrays have this placement and that shape; False if unsure."""
        if self.device is not None:
            return False
        for array in arrays:
            if type(array) is not self.type or array.dtype != self.dtype or array.shape != shape:
                return False
        return True

    def accept_shaped(self, name: str, array: Array, shape: tuple[int, ...], letters: str) -> Array:
        """As `accept`, and a ValueError if the array does not have that shape."""
        array = self.accept(name, array)
        if array.shape != shape and tuple(array.shape) != shape:
            raise ValueError(
                f"{self.kind}: {name} has shape {tuple(array.shape)}; it must be "
                f"{letters} = {shape}"
            )
        return array

    def from_host(self, array: Array) -> Array:
        """A copy of a NumPy array in the library and on the device of this placement."""
        return self.backend.from_host(array, self.standard_device)

    def moved(self, array: Array) -> Array:
        """A NumPy array, such as one of indices, in the library and on the device of this
        placement."""
        return self.backend.xp.asarray(array, device=self.standard_device)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """A new array of zeros with the library, device and dtype of this placement."""
        return self.backend.xp.zeros(shape, dtype=self.dtype, device=self.standard_device)


def check_library(name: str, a: Array, other: str, b: Array) -> None:
    """Raise TypeError unless a and b (called `name` and `other`) are of one library, or a may
    stand beside b as a constant (`Backend.constants`)."""
    mine, theirs = backend_of(a, name), backend_of(b, other)
    if mine is not theirs and mine is not theirs.constants():
        raise TypeError(
            f"{name} is an array of {mine.name} and {other} is one of {theirs.name}; "
            "move one of them"
        )


def check_integer(kind: str, name: str, value: Any) -> None:
    """Raise TypeError unless the value is an integer."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{kind}: {name} is {value!r:.80}; it must be an integer")


def check_precision(kind: str, precision: str, dtype: Any) -> None:
    """Raise ValueError unless the precision is one of `PRECISIONS` and fits the dtype."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(
            f"{kind}: precision is {precision!r:.80}; it must be 'ieee', 'tf32' or 'bf16'"
        )
    if precision == "bf16" and dtype_name(dtype) != "float32":
        raise ValueError(
            f"{kind}: precision is 'bf16' and the dtype is {dtype_name(dtype)}; with it the dtype "
            "must be float32, whose products it rounds: give dtype='float32' or precision='ieee'"
        )


def accept_dtype(kind: str, dtype: Any, choices: Iterable[DType]) -> DType:
    """The name of a dtype, which may be given as the dtype (or its class) of any array library.

    Raises
    ------
    ValueError
        If it is not one of the choices.
    """
    choices = {choice: choice for choice in choices}
    name = dtype if isinstance(dtype, str) else None
    with suppress(TypeError):  # raised for what cannot be a dtype, such as a list
        # NumPy names its dtypes without their byte order; it is the native one that is stored.
        name = name or getattr(dtype, "name", None) or dtype_name(dtype)
    if name not in choices:
        words = " or ".join(map(repr, choices))
        raise ValueError(f"{kind}: dtype is {dtype!r:.80}; it must be {words}")
    return choices[name]


def check_choice(kind: str, name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    choices = list(choices)
    # An array would be compared element by element.
    if not isinstance(value, str | None) or value not in choices:
        words = " or ".join(map(repr, choices))
        raise ValueError(f"{kind}: {name} is {value!r:.80}; it must be {words}")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown name, with the known name that was probably meant."""
    known = list(known)
    lowered = {k.lower(): k for k in known}
    close = [lowered[k] for k in get_close_matches(str(name).lower(), lowered, n=5)]
    # Of the close names take the one with the most letters at the same positions.
    close.sort(
        key=lambda c: sum(a == b for a, b in zip(c.lower(), str(name).lower(), strict=False))
    )
    guess = f"; did you mean {close[-1]!r}?" if close else ";"
    return f"{kind}: unknown weight {name!r:.80}{guess} it has {', '.join(known)}"


def looks_transposed(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """The text that is added to an error message if the transpose would fit, else ""."""
    if len(shape) == 2 and shape[::-1] == wanted:
        return f"; it looks transposed: give {name}.T"
    return ""


def cell_weights(
    cell: Cell[Any], weights: Any, *, I: int | None = None, H: int | None = None
) -> tuple[dict[str, Array], Placement]:
    """The weights of one cell, checked, dense and with all biases; and their placement.

    Parameters
    ----------
    cell : Cell
        The cell that decides names and shapes.
    weights : mapping of str to array
        Biases may be left out; they are zeros then.
    I, H : int, optional
        Inputs and hidden units, from x and the state.  Default: from W and U.

    Raises
    ------
    TypeError
        If the weights are not a mapping, or not all of one library, device and dtype.
    ValueError
        If a weight is missing, unknown or of a wrong shape.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"{cell.name}: weights must be a mapping of name to array")
    names = cell.shapes(1, 1)
    for name in weights:
        if name not in names:
            raise ValueError(unknown_name(cell.name, name, names))
    for name in names:
        if name not in weights and name not in cell.biases:
            raise ValueError(
                f"{cell.name}: weight {name} is missing; it must have shape {cell.letters(name)}"
            )
    placement = Placement.of(cell.name, "W", weights["W"])
    given = {name: placement.accept(name, w) for name, w in weights.items()}
    sizes = _sizes(cell, given, I, H)
    _check_shapes(cell, given, sizes, I, H)
    complete = {}
    for name, shape in cell.shapes(*sizes).items():
        absent = name not in given
        complete[name] = placement.zeros(shape) if absent else placement.backend.dense(given[name])
    return complete, placement


def _sizes(cell: Cell[Any], weights: Weights, I: int | None, H: int | None) -> tuple[int, int]:
    """I and H, from x and the state where they are known, else from the weights."""
    W = weights["W"]
    if W.ndim != 2:
        raise ValueError(
            f"{cell.name}: W has shape {tuple(W.shape)}; it must be {cell.letters('W')}"
        )
    if H is None and cell.recurrent and cell.projection is None:
        # U says it by itself, if it is one; else W does, and the fault is U's.
        rows, columns = weights["U"].shape if weights["U"].ndim == 2 else (0, 0)
        H = columns if columns and rows == len(cell.gates) * columns else None
    if H is None:
        H = W.shape[0] // len(cell.gates)
        if H * len(cell.gates) != W.shape[0] or not H:
            raise ValueError(
                f"{cell.name}: W has shape {tuple(W.shape)}; it must be {cell.letters('W')}: its "
                f"rows are not a multiple of {len(cell.gates)}"
            )
    return (W.shape[1] if I is None else I), H


def _check_shapes(
    cell: Cell[Any], weights: Weights, sizes: tuple[int, int], I: int | None, H: int | None
) -> None:
    for name, shape in cell.shapes(*sizes).items():
        found = tuple(weights[name].shape) if name in weights else shape
        if found != shape:
            units = f"h has {H} units" if H is not None else f"there are {sizes[1]} hidden units"
            why = f"x has {I} inputs and {units}" if name == "W" and I is not None else units
            raise ValueError(
                f"{cell.name}: {name} has shape {found}; it must be {cell.letters(name)} = "
                f"{shape}, as {why}{looks_transposed(name, found, shape)}"
            )


def check_numbers(cell: Cell[Any], xs: Array, backend: Backend, name: str = "xs") -> None:
    """Raise TypeError unless xs has a dtype that the cell can compute with."""
    complex_too = cell.analytic and dtype_name(xs.dtype).startswith("complex")
    if not (complex_too or is_floating(xs.dtype, xp=backend.xp)):
        words = "real or complex" if cell.analytic else "real"
        raise TypeError(f"{cell.name}: {name} is {xs.dtype}; it must be {words} floating point")


def check_real(cell: Cell[Any], placement: Placement) -> None:
    """Raise TypeError if the forward pass was complex: backward is for real numbers."""
    if dtype_name(placement.dtype).startswith("complex"):
        raise TypeError(
            f"{cell.name}: the forward pass was complex ({placement.dtype}); "
            "backward is for real numbers: run forward in float64"
        )


def accept_lengths(lengths: Any, T: int, B: int) -> Array:
    """Lengths as an int64 array of NumPy.

    Raises
    ------
    ValueError
        If they are not B integers in 0…T.
    """
    # Checked on the host: most lengths come from there, and so a GPU is waited for at most once.
    if array_api_compat.is_array_api_obj(lengths):
        lengths = backend_of(lengths, "lengths").to_host(lengths)
    try:
        lengths = host.xp.asarray(lengths)
    except (TypeError, ValueError) as error:
        raise ValueError(f"lengths are no array; they must be (B,) = ({B},) integers") from error
    if lengths.shape != (B,) or not (B == 0 or host.xp.isdtype(lengths.dtype, "integral")):
        raise ValueError(
            f"lengths has shape {lengths.shape} and dtype {lengths.dtype}; "
            f"it must be (B,) = ({B},) integers"
        )
    if B and (lengths.min() < 0 or lengths.max() > T):
        raise ValueError(
            f"lengths go from {lengths.min()} to {lengths.max()}; they must lie in 0…T = 0…{T}"
        )
    return lengths.astype("int64")
