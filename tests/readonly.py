"""NumPy whose every array is read-only: whoever writes to one, given or made, fails here."""

from __future__ import annotations

from typing import Any

import numpy as np

from xrnn.backends import Backend


class Frozen(np.ndarray):
    """An array that cannot be written to, whose results cannot be either."""

    def __array_ufunc__(self, ufunc: Any, method: str, *given: Any, **options: Any) -> Any:
        if options.get("out") is not None:
            raise ValueError("an operation in place on a read-only array")
        return frozen(getattr(ufunc, method)(*map(thawed, given), **options))

    def __array_function__(self, function: Any, types: Any, given: Any, options: Any) -> Any:
        return frozen(function(*map(thawed, given), **options))


def frozen(a: Any) -> Any:
    """The array as a read-only view; anything else as it is."""
    if not isinstance(a, np.ndarray | np.generic):
        return a
    view = np.asarray(a).view(Frozen)
    view.flags.writeable = False
    return view


def thawed(a: Any) -> Any:
    """The plain NumPy array (or list of arrays) behind a."""
    if isinstance(a, list | tuple):
        return type(a)(map(thawed, a)) if type(a) in (list, tuple) else a
    return a.view(np.ndarray) if isinstance(a, Frozen) else a


class Namespace:
    """NumPy's functions, their arrays read-only."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if not callable(value) or isinstance(value, type):
            return value
        return lambda *given, **options: frozen(value(*map(thawed, given), **options))


BACKEND = Backend("readonly", Namespace(), lambda a: np.array(thawed(a)))

asarray = BACKEND.xp.asarray
