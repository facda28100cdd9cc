"""Which array library an array belongs to, and what that library's backend does faster.

A backend is a value: an array namespace, the way back to the host, and two literal tables
from cells to faster code.  The narrow door, `steps`, holds one time step; the wide door,
`sequences`, the whole loop.  A cell that stands in neither runs as it is written.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import array_api_compat

from xrnn.cells.base import Cell
from xrnn.scatter import scatter_add
from xrnn.typing import Array, Namespace, Step, StepBackward

#: array library (first module of the array's type) → the folder here that serves it
FOLDERS = {"numpy": "cpu", "cupy": "cuda"}


@dataclass(frozen=True)
class Steps:
    """One cell's `step` and `step_backward` for one array library, in the form of `Cell`.

    `source` is the text the code is built from, so that a changed kernel is proved anew.
    """

    step: Step
    step_backward: StepBackward
    dtypes: frozenset[Any]
    source: str = ""


#: T, B, I, H
Sizes = tuple[int, int, int, int]


@dataclass(frozen=True)
class Sequences:
    """One cell's whole loop for one array library, in the form of `xrnn.loop.Loop`.

    `serves` says for which sizes (T, B, I, H) it is the way to go; `trial` gives small sizes
    that go the same way as those in hand, for the entry to prove itself on, and `tolerance`
    how far it may lie from its cell then (default: as its dtype allows); `path` says in words
    what runs.  An entry of `precision` "tf32" rounds what it multiplies to 10 bits, and serves
    who allows that.  Where it can run both directions at once, `forward_both` takes
    ``[(weights, state, reverse), …], xs`` and `backward_both` ``[(weights, saved, dys,
    dstate), …]``, and each gives a list of results.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    dtypes: frozenset[Any]
    source: str = ""
    precision: str = "ieee"
    serves: Callable[[int, int, int, int], bool] = lambda T, B, I, H: True
    trial: Callable[[int, int, int, int], Sizes] = lambda T, B, I, H: (5, 3, 4, 16)
    tolerance: float | None = None
    path: Callable[[int, int, int, int], str] = lambda T, B, I, H: "whole sequences"
    forward_both: Callable[..., Any] | None = None
    backward_both: Callable[..., Any] | None = None


@dataclass(frozen=True, eq=False)
class Backend:
    """An array library as xrnn sees it.

    The tables hold for a cell one step, or several loops, the best first.  `to_host` gives a
    NumPy array; `describe` names what a verdict on fast code depends on
    (library, device, driver); `missing` says what keeps the backend from working here, or
    None; `scatter_add` is `xrnn.scatter.scatter_add` or what does it faster, just as surely;
    `computes` says whether the library's own functions keep a dtype (bfloat16 they may not:
    only entries of the tables serve it then); `device_of` tells devices of one library
    apart; `notes` are lines for `xrnn info`;
    `direct` gives for (layers, inputs, hidden units) what runs a layer with the least delay, if
    it has such: ``step(weights, x, state)`` and ``run(weights, xs, state)``, each y, state or
    None; `fixed` gives an equal array that nothing can write to; `refused` are subclasses of the
    array type whose meaning would be lost.
    """

    name: str
    xp: Namespace
    to_host: Callable[[Array], Array]
    steps: Mapping[Cell, Steps] = field(default_factory=dict)
    sequences: Mapping[Cell, tuple[Sequences, ...]] = field(default_factory=dict)
    describe: Callable[[], str] = lambda: ""
    missing: Callable[[], str | None] = lambda: None
    scatter_add: Callable[..., Array] = scatter_add
    computes: Callable[[Any], bool] = lambda dtype: True
    device_of: Callable[[Array], Any] = lambda array: None
    notes: Callable[[], list[str]] = list
    direct: Callable[[Cell, Any, tuple[int, int, int], bool], Any] = (
        lambda cell, dtype, sizes, bias: None
    )
    fixed: Callable[[Array], Array] | None = None
    refused: tuple[type, ...] = ()

    def entries(
        self, cell: Cell, sizes: Sizes, dtype: Any, precision: str = "ieee"
    ) -> list[Steps | Sequences]:
        """What the tables hold for this very cell, dtype and sizes, the best first."""
        found: list[Steps | Sequences] = [
            entry
            for entry in self.sequences.get(cell, ())
            if dtype in entry.dtypes and entry.precision in ("ieee", precision)
            if entry.serves(*sizes)
        ]
        step = self.steps.get(cell)
        if step is not None and dtype in step.dtypes:
            found.append(step)
        return found

    def from_host(self, array: Array) -> Array:
        """A copy of a NumPy array, in C order, as an array of this library."""
        if dtype_name(array.dtype) == "bfloat16" and self.computes(array.dtype):
            # The library has a bfloat16 of its own, which does not know ml_dtypes'.
            return self.xp.astype(self.xp.asarray(array.astype("float32")), self.xp.bfloat16)
        return self.xp.asarray(array.copy())


_registered: dict[str, Backend] = {}
_of_type: dict[type, Backend] = {}


def register(library: str, backend: Backend) -> None:
    """Serve the arrays of `library` (the first module of their type) by `backend`."""
    _registered[library] = backend
    _of_type.clear()


def unregister(library: str) -> None:
    """Undo `register`."""
    del _registered[library]
    _of_type.clear()


def backend_of(x: Array, name: str = "x") -> Backend:
    """The backend of the library that x belongs to; `name` is what messages call x.

    Raises
    ------
    TypeError
        If x is not an array of a library that follows the Array API standard.

    >>> import numpy as np
    >>> backend_of(np.zeros(3)).name
    'cpu'
    """
    cls = type(x)
    if cls not in _of_type:
        backend = _find(x)
        if backend is None or issubclass(cls, backend.refused):
            raise TypeError(
                f"{name} is a {cls.__module__}.{cls.__qualname__}; it must be an array of "
                "NumPy, CuPy or another library that follows the Python Array API standard"
            )
        _of_type[cls] = backend
    return _of_type[cls]


def dtype_name(dtype: Any) -> str:
    """Such as "float32", of the dtype of any library, or its class."""
    return str(dtype).rpartition(".")[2].rstrip("'>")


def is_floating(dtype: Any, *, xp: Namespace) -> bool:
    """Whether a dtype is real floating point; bfloat16 is, of which NumPy does not know."""
    return dtype_name(dtype) == "bfloat16" or bool(xp.isdtype(dtype, "real floating"))


def check_library(name: str, a: Array, other: str, b: Array) -> None:
    """Raise TypeError unless a and b (called `name` and `other`) are of one library."""
    home = backend_of(b, other)
    if backend_of(a, name) is not home:
        theirs, mine = (type(x).__module__.partition(".")[0] for x in (b, a))
        raise TypeError(
            f"{other} is a {theirs} array and {name} a {mine} array; "
            f'move one: layer.to("{home.name}")'
        )


def check_same(kind: str, name: str, a: Array, other: str, b: Array) -> None:
    """Raise TypeError unless a and b are of one library, device and dtype.

    A mixed sum would be promoted, or moved, without a word.
    """
    check_library(name, a, other, b)
    device_of = backend_of(a).device_of
    if device_of(a) != device_of(b):
        raise TypeError(
            f"{kind}: {other} is on device {device_of(b)} and {name} on device {device_of(a)}; "
            "move one of them"
        )
    if a.dtype != b.dtype:
        raise TypeError(f"{kind}: {other} is {b.dtype} and {name} is {a.dtype}; cast one of them")


def _find(x: Array) -> Backend | None:
    libraries = [base.__module__.partition(".")[0] for base in type(x).__mro__]
    for library in libraries:
        if library in _registered:
            return _registered[library]
    if not array_api_compat.is_array_api_obj(x):
        return None
    for library in libraries:
        if library in FOLDERS:
            return _folder(FOLDERS[library])
    return _generic(libraries[0], array_api_compat.array_namespace(x))


@cache
def get(name: str) -> Backend:
    """The backend by name: ``"cpu"``, ``"cuda"``, or the import name of any array library.

    Raises
    ------
    ImportError
        If the library is not installed, or finds no device to run on.
    ValueError
        If the name is neither a backend nor a library that follows the standard.

    >>> get("cpu").name
    'cpu'
    """
    try:
        if name in FOLDERS.values():
            backend = _folder(name)
        else:
            zero = importlib.import_module(name).asarray(0.0)
            backend = backend_of(zero)
    except ModuleNotFoundError as error:
        hint = ' (pip install "xrnn-array[cuda13]" or [cuda12])' if name == "cuda" else ""
        raise ImportError(f"backend {name!r}: {error.name} is not installed{hint}") from error
    except (AttributeError, TypeError, ValueError) as error:
        known = ", ".join(sorted(FOLDERS.values()))
        raise ValueError(
            f"backend {name!r} is unknown; it must be one of {known}, or the import name of a "
            'library that follows the Python Array API standard, such as "torch"'
        ) from error
    if problem := backend.missing():
        raise ImportError(f"backend {name!r}: {problem}")
    return backend


def move(array: Array, backend: Backend) -> Array:
    """The array in the library of `backend`, through the host; itself if it is there."""
    home = backend_of(array)
    return array if home is backend else backend.from_host(home.to_host(array))


class Fixed(dict[str, Array]):
    """Weights that do not change any more, so that what is made of them can be kept.

    The arrays are copies, and of NumPy's even the flags cannot make them writable again.
    `made` holds what a backend made of them.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        super().__init__({name: _fixed(w) for name, w in weights.items()})
        self.made: dict[Any, Any] = {}

    def __reduce__(self) -> Any:
        return Fixed, (dict(self),)

    def refuse(self, *args: Any, **options: Any) -> Any:
        """Raise TypeError: what every method that would change the mapping does."""
        raise TypeError(
            "the weights are frozen; to change them, first assign "
            "weights = {name: w.copy() for name, w in weights.items()}"
        )

    __setitem__ = __delitem__ = __ior__ = refuse
    clear = pop = popitem = setdefault = update = refuse


def _fixed(array: Array) -> Array:
    home = backend_of(array)
    return home.fixed(array) if home.fixed else home.xp.asarray(array, copy=True)


def _folder(name: str) -> Backend:
    module = importlib.import_module(f"{__name__}.{name}")
    backend: Backend = module.BACKEND
    return backend


@cache
def _generic(library: str, xp: Namespace) -> Backend:
    from xrnn.backends.cpu import to_host

    return Backend(library, xp, to_host)
