"""Find the backend of an array, and backends by name.

Every folder here is a backend.  Its ``__init__`` defines ``LIBRARY``, the array library that it
serves (the first module in the name of the arrays' type), ``INSTALL``, the command that installs
that library, and ``BACKEND``, a `Backend`.  For other libraries that follow the Array API standard
a backend without kernels is made when it is needed: the cell's own array code runs there.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from contextlib import suppress
from functools import cache
from typing import Any

import array_api_compat

from xrnn.backends import environment, host
from xrnn.backends.base import Backend, Kernel, Sizes
from xrnn.typing import Array, Namespace

__all__ = [
    "Backend",
    "Kernel",
    "Sizes",
    "backend_of",
    "folders",
    "get",
    "locate",
    "register",
    "unregister",
]

#: libraries without a folder that errors name where they are installed
OTHERS = ("torch", "array_api_strict")

_registered: dict[str, Backend] = {}
_of_type: dict[type, Backend] = {}


@cache
def _names() -> tuple[str, ...]:
    """The names of the folders here."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg)


@cache
def folders() -> dict[str, str]:
    """Array library → the folder here that serves it.

    A folder whose imports are not installed is left out, since no such arrays can exist then.
    """
    found = {}
    for name in _names():
        with suppress(ModuleNotFoundError):
            found[importlib.import_module(f"{__name__}.{name}").LIBRARY] = name
    return found


def register(library: str, backend: Backend) -> None:
    """Use a backend for all arrays of a library, instead of the one found by default.

    Parameters
    ----------
    library : str
        The first module in the name of the arrays' type, such as "numpy".
    backend : Backend
        The backend to use; an earlier registration for this library is replaced.

    Raises
    ------
    TypeError
        If `library` is not a name, or `backend` is not a `Backend`.

    See Also
    --------
    unregister : undo this.
    """
    if not isinstance(library, str):
        raise TypeError(f"library is {library!r:.80}; it must be a name, such as 'numpy'")
    if not isinstance(backend, Backend):
        raise TypeError(f"backend is {backend!r:.80}; it must be an xrnn.backends.Backend")
    _registered[library] = backend
    _of_type.clear()
    _named.cache_clear()


def unregister(library: str) -> None:
    """Undo `register`.

    Parameters
    ----------
    library : str
        As for `register`.

    Raises
    ------
    ValueError
        If nothing is registered for this library.
    """
    if not isinstance(library, str) or library not in _registered:
        raise ValueError(
            f"library is {library!r:.80}; it must be one that was registered: "
            f"{', '.join(_registered) or 'none is'}"
        )
    del _registered[library]
    _of_type.clear()
    _named.cache_clear()


def backend_of(x: Array, name: str = "x") -> Backend:
    """The backend of the library that x belongs to.

    Parameters
    ----------
    x : array
        An array of any supported library.
    name : str
        The name of x in error messages.

    Returns
    -------
    Backend

    Raises
    ------
    TypeError
        If x is not an array of a library that follows the Array API standard.

    Examples
    --------
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
    # The class of an array has the attributes of one.
    if isinstance(x, type) or not array_api_compat.is_array_api_obj(x):
        return None
    for library in libraries:
        if library in folders():
            return _folder(folders()[library])
    return _generic(array_api_compat.array_namespace(x))


def get(name: str) -> Backend:
    """The backend of a given name.

    Parameters
    ----------
    name : str
        The name of a folder here, ``"cpu"`` or ``"cuda"``, or the import name of an array
        library, such as ``"torch"`` or ``"jax"``.

    Returns
    -------
    Backend

    Raises
    ------
    ImportError
        If the library is not installed, or finds no device to run on.
    TypeError
        If the name is not a string.
    ValueError
        If the name is neither a backend nor a library that follows the standard.

    Examples
    --------
    >>> get("cpu").name, get("numpy").name
    ('cpu', 'cpu')
    """
    if not isinstance(name, str):
        raise TypeError(f"device is {name!r:.80}; it must be a name, {_accepted()}")
    return _named(name)


def _accepted() -> str:
    """What a device can be here, for errors."""
    here = [name for library, name in folders().items() if importlib.util.find_spec(library)]
    here += [library for library in OTHERS if importlib.util.find_spec(library)]
    names = ", ".join(f'"{name}"' for name in here)
    return f"{names} or the name of another library that follows the Python Array API standard"


@cache
def _named(name: str) -> Backend:
    try:
        backend = _folder(name) if name in _names() else _library(name)
    except ModuleNotFoundError as error:
        wanted, hint = name, ""
        if name in _names():
            folder = importlib.import_module(f"{__name__}.{name}")
            wanted, hint = folder.LIBRARY, f" ({folder.INSTALL})"
        # If another module is missing, the library itself is broken: its own error is raised.
        if error.name != wanted:
            raise
        raise ImportError(
            f"backend {name!r:.80}: {wanted:.80} is not installed{hint}; it must be {_accepted()}"
        ) from error
    if problem := backend.missing():
        raise ImportError(f"backend {name!r:.80}: {problem}")
    return backend


def locate(device: str) -> tuple[Backend, Any]:
    """The backend of the argument ``device``, and which of its library's devices is meant.

    Parameters
    ----------
    device : str
        The name of a backend, as for `get`; or that, a colon and a device of its library, such
        as ``"cuda:0"``, ``"torch:cpu"`` or ``"torch:cuda:1"``.

    Returns
    -------
    backend : Backend
    device : object
        For `Backend.from_host`.  None: the one on which the library makes new arrays.

    Raises
    ------
    TypeError, ImportError, ValueError
        As `get`; a ValueError also if the library has no such device here.

    Examples
    --------
    >>> backend, device = locate("numpy:cpu")
    >>> backend.name, device
    ('cpu', 'cpu')
    """
    if not isinstance(device, str):
        raise TypeError(f"device is {device!r:.80}; it must be a name, {_accepted()}")
    name, colon, number = device.partition(":")
    backend = get(name)
    if not colon:
        return backend, None
    try:
        found = backend.device(number)
        backend.xp.asarray(0.0, device=found)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"device is {device!r:.80}; {backend.name} has no device {number!r:.80} here; leave "
            f"it out, or give {_accepted()}"
        ) from error
    return backend, found


def _folder(name: str) -> Backend:
    backend: Backend = importlib.import_module(f"{__name__}.{name}").BACKEND
    return backend


def _library(name: str) -> Backend:
    # Not the name of a module inside a library: arrays have the name of the library alone.
    module = importlib.import_module(name) if name.isidentifier() else None
    asarray = getattr(module, "asarray", None)
    zero: Any = None if asarray is None else asarray(0.0)
    if not array_api_compat.is_array_api_obj(zero):
        raise ValueError(f"backend {name!r:.80} is unknown; it must be {_accepted()}")
    return backend_of(zero)


@cache
def _generic(xp: Namespace) -> Backend:
    name = xp.__name__.removeprefix("array_api_compat.").partition(".")[0]
    options: Any = {"device_of": array_api_compat.device, "fingerprint": _changes}
    return Backend(name, xp, host.to_host, **options)


def _changes(array: Array) -> Any:
    """How often the array was changed in place, in a library that counts it (PyTorch)."""
    try:
        return getattr(array, "_version", None)
    except RuntimeError:  # an inference tensor, whose changes are not counted
        return None


if "threadpoolctl" in sys.modules:
    # A limit holds for what is loaded when it is set, which may be before the first layer is made.
    # What a variable of the environment says wrongly is told to whoever makes that layer.
    with suppress(environment.VariableError):
        importlib.import_module(f"{__name__}.cpu")
