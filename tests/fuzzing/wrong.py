"""Words of the fuzzer's calls: what is done to arguments, and odd objects."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import array_api_strict as strict
import numpy as np

from xrnn.backends import backend_of, host
from xrnn.typing import dtype_name

HAVE_TORCH = importlib.util.find_spec("torch") is not None


class Plain(np.ndarray):
    """A subclass that changes nothing."""


class Unhashable:
    """An object that no dictionary and no cache takes as a key."""

    __hash__ = None  # type: ignore[assignment]


def at(value: Any, change: Callable[..., Any], *options: Any, last: bool = False) -> Any:
    """A value whose first (or last) array is changed: that of a tuple, a mapping, or itself."""
    if isinstance(value, Mapping):
        keys = [k for k, v in value.items() if v is not None]
        chosen = keys[-1 if last else 0]
        return {k: at(v, change, *options) if k == chosen else v for k, v in value.items()}
    if isinstance(value, tuple | list):
        chosen = len(value) - 1 if last else 0
        return tuple(at(v, change, *options) if k == chosen else v for k, v in enumerate(value))
    if value is None:
        raise TypeError("there is no array to change")
    return change(value, *options)


def _of_numpy(change: Callable[..., Any]) -> Callable[..., Any]:
    """Other libraries have no such arrays: theirs stay as they are."""

    @functools.wraps(change)
    def changed(a: Any, *options: Any) -> Any:
        return change(a, *options) if isinstance(a, np.ndarray) else a

    return changed


@_of_numpy
def strided(a: Any) -> Any:
    """The same numbers, stored backwards."""
    return np.ascontiguousarray(a[..., ::-1])[..., ::-1] if a.ndim else a


@_of_numpy
def sliced(a: Any) -> Any:
    """The same numbers, every second of a larger array."""
    wide = np.zeros((*a.shape, 2), a.dtype)
    wide[..., 1] = a
    return wide[..., 1]


@_of_numpy
def misaligned(a: Any) -> Any:
    """The same numbers at an odd address."""
    memory = np.zeros(a.nbytes + 1, "u1")[1:].view(a.dtype).reshape(a.shape)
    memory[...] = a
    return memory


fortran = _of_numpy(lambda a: np.asfortranarray(a))
swapped = _of_numpy(lambda a: a.astype(a.dtype.newbyteorder("S")))
subclass = _of_numpy(lambda a: a.view(Plain))


@_of_numpy
def readonly(a: Any) -> Any:
    """A copy that cannot be written to."""
    a = a.copy()
    a.flags.writeable = False
    return a


@_of_numpy
def memmap(a: Any) -> Any:
    """The same numbers in a file."""
    if not a.size:
        return a
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, dtype=a.dtype, mode="w+", shape=a.shape)
    mapped[...] = a
    return mapped


def masked(a: Any) -> Any:
    """An array of NumPy with a mask, under which nothing is hidden."""
    return np.ma.masked_array(host.to_host(a), mask=False)


def objects(a: Any) -> Any:
    """Objects, in NumPy."""
    return host.to_host(a).astype(object)


def text(a: Any) -> Any:
    """Text, in NumPy."""
    return host.to_host(a).astype("U8")


def structured(a: Any) -> Any:
    """Records of one field, in NumPy."""
    return host.to_host(a).astype([("value", host.to_host(a).dtype)])


def cast(a: Any, dtype: str) -> Any:
    """The array in another dtype."""
    return backend_of(a).from_host(host.to_host(a).astype(dtype))


def other_float(a: Any) -> Any:
    """The array in another floating dtype than its own."""
    return cast(a, "float32" if dtype_name(a.dtype) == "float64" else "float64")


def elsewhere(a: Any) -> Any:
    """The array in another library."""
    values = host.to_host(a)
    return values if "strict" in type(a).__module__ else strict.asarray(values.real.astype("f8"))


def in_torch(a: Any) -> Any:
    """The array in torch, from torch in NumPy."""
    if "torch" in type(a).__module__ or not HAVE_TORCH:
        return elsewhere(a)
    return importlib.import_module("torch").asarray(host.to_host(a).real.astype("f8"))


def shorter(a: Any) -> Any:
    """Without the last number of the last axis."""
    return a[..., :-1] if a.ndim else a[None]


def deeper(a: Any) -> Any:
    """With one axis more."""
    return a[None, ...]


def flat(a: Any) -> Any:
    """All numbers in one axis."""
    return backend_of(a).xp.reshape(a, (-1,))


def first(a: Any) -> Any:
    """The first of its rows."""
    return a[0, ...] if a.ndim and a.shape[0] else a


def scalar(a: Any) -> Any:
    """One number, without axes."""
    return backend_of(a).from_host(np.array(1.0))


def empty(a: Any) -> Any:
    """None of its rows."""
    return a[:0, ...] if a.ndim else a


def filled(a: Any, value: float) -> Any:
    """The array with a number of its own at the end."""
    xp = backend_of(a).xp
    a = xp.asarray(a, copy=True)
    if a.ndim and 0 not in a.shape:
        with np.errstate(all="ignore"):
            a[(-1,) * a.ndim] = value
    return a


def listed(a: Any) -> Any:
    """Lists of numbers."""
    return host.to_host(a).tolist()


def without(mapping: Any, position: int = 0) -> dict[Any, Any]:
    """A mapping that lacks one of its names."""
    names = list(mapping)
    return {k: v for k, v in mapping.items() if k != names[position]}


def renamed(mapping: Any, name: Any) -> dict[Any, Any]:
    """A mapping whose first name is another."""
    chosen = next(iter(mapping), None)
    return {name if k == chosen else k: v for k, v in mapping.items()}
