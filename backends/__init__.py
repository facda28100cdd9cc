"""Which array library an array belongs to, and the backend that serves it.

Every folder here is a backend: its ``__init__`` says in ``LIBRARY`` which array library it
serves (the first module of its arrays' type), in ``INSTALL`` how that library is installed,
and has the backend as ``BACKEND``.  Other libraries that follow the Array API standard are
served by the cells as they are written.
"""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import suppress
from functools import cache
from typing import Any

import array_api_compat

from xrnn.backends import host
from xrnn.backends.base import Backend, Kernel, Sizes
from xrnn.typing import Array, Namespace

__all__ = ["Backend", "Kernel", "Sizes", "backend_of", "folders", "get", "register", "unregister"]

#: names that people use → the module whose functions are meant
ALIASES = {"jax": "jax.numpy"}

_registered: dict[str, Backend] = {}
_of_type: dict[type, Backend] = {}


@cache
def _names() -> tuple[str, ...]:
    """The folders here."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg)


@cache
def folders() -> dict[str, str]:
    """Array library → the folder here that serves it.

    A folder that imports what is not installed is left out: there are no such arrays then.
    """
    found = {}
    for name in _names():
        with suppress(ModuleNotFoundError):
            found[importlib.import_module(f"{__name__}.{name}").LIBRARY] = name
    return found


def register(library: str, backend: Backend) -> None:
    """Serve the arrays of `library` (the first module of their type) by `backend`."""
    _registered[library] = backend
    _of_type.clear()
    get.cache_clear()


def unregister(library: str) -> None:
    """Undo `register`."""
    del _registered[library]
    _of_type.clear()
    get.cache_clear()


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


def _find(x: Array) -> Backend | None:
    libraries = [base.__module__.partition(".")[0] for base in type(x).__mro__]
    for library in libraries:
        if library in _registered:
            return _registered[library]
    if not array_api_compat.is_array_api_obj(x):
        return None
    for library in libraries:
        if library in folders():
            return _folder(folders()[library])
    return _generic(array_api_compat.array_namespace(x))


@cache
def get(name: str) -> Backend:
    """The backend by name: ``"cpu"``, ``"cuda"``, or the name of any array library.

    Raises
    ------
    ImportError
        If the library is not installed, or finds no device to run on.
    ValueError
        If the name is neither a backend nor a library that follows the standard.

    >>> get("cpu").name, get("numpy").name
    ('cpu', 'cpu')
    """
    if not isinstance(name, str):
        raise TypeError(f"device is {name!r:.80}; it must be a name, such as 'cpu'")
    module = ALIASES.get(name, name)
    try:
        backend = _folder(module) if module in _names() else _library(name, module)
    except ModuleNotFoundError as error:
        wanted, hint = {module, module.partition(".")[0]}, ""
        if module in _names():
            folder = importlib.import_module(f"{__name__}.{module}")
            wanted, hint = {folder.LIBRARY}, f" ({folder.INSTALL})"
        # Whatever else is missing is a fault of the library, which its own error tells.
        if error.name not in wanted:
            raise
        raise ImportError(f"backend {name!r}: {error.name} is not installed{hint}") from error
    if problem := backend.missing():
        raise ImportError(f"backend {name!r}: {problem}")
    return backend


def _folder(name: str) -> Backend:
    backend: Backend = importlib.import_module(f"{__name__}.{name}").BACKEND
    return backend


def _library(name: str, module: str) -> Backend:
    named = all(part.isidentifier() for part in module.split("."))
    asarray = getattr(importlib.import_module(module), "asarray", None) if named else None
    zero: Any = None if asarray is None else asarray(0.0)
    if not array_api_compat.is_array_api_obj(zero):
        known = ", ".join(_names())
        raise ValueError(
            f"backend {name!r} is unknown; it must be one of {known}, or the name of a "
            'library that follows the Python Array API standard, such as "torch" or "jax"'
        )
    return backend_of(zero)


@cache
def _generic(xp: Namespace) -> Backend:
    name = xp.__name__.removeprefix("array_api_compat.").partition(".")[0]
    return Backend(name, xp, host.to_host, device_of=array_api_compat.device)
