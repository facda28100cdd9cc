"""Arrays between guards that nobody may write to, full of NaN until somebody writes."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from xrnn.typing import Array

GUARD, VALUE = 256, 0xA5


class Guards:
    """What new arrays are surrounded by."""

    def __init__(self) -> None:
        self._regions: list[tuple[weakref.ref[Array], int, int]] = []

    def empty(self, shape: Any, dtype: Any = np.float64, **ignored: Any) -> Array:
        """A new array at an aligned address, each byte 0xFF: floats are NaN."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = np.full(size + 3 * GUARD, VALUE, np.uint8)
        start = 2 * GUARD - memory.ctypes.data % GUARD
        memory[start : start + size] = 0xFF
        self._regions.append((weakref.ref(memory), start, start + size))
        return memory[start : start + size].view(dtype).reshape(shape)

    def check(self) -> None:
        """Fail if a guard of an array that is still in use was written to."""
        alive = []
        for ref, start, stop in self._regions:
            memory = ref()
            if memory is None:
                continue
            assert (memory[:start] == VALUE).all(), "written before the beginning of an array"
            assert (memory[stop:] == VALUE).all(), "written past the end of an array"
            alive.append((ref, start, stop))
        self._regions = alive


class Guarded:
    """A namespace such as NumPy, whose new arrays lie between guards."""

    def __init__(self, xp: Any, guards: Guards) -> None:
        self._xp, self.guards = xp, guards
        self.empty = guards.empty

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def empty_like(self, array: Array) -> Array:
        """As NumPy's."""
        return self.empty(array.shape, array.dtype)

    def astype(self, array: Array, dtype: Any, *, copy: bool = True) -> Array:
        """As NumPy's."""
        if not copy and array.dtype == dtype:
            return array
        new = self.empty(array.shape, dtype)
        new[...] = array
        return new
