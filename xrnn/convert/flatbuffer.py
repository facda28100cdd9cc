"""Tables of FlatBuffers, read by the numbers of their fields.

The encoding is documented in "FlatBuffer Internals": a table begins with the distance to its
vtable, which holds where each field lies in the table, or 0 for one that has its default.
"""

from __future__ import annotations

import struct
from typing import Any

from xrnn.backends import host
from xrnn.typing import Array


class Table:
    """One table of a buffer.

    Raises
    ------
    ValueError
        If an offset points outside the buffer.
    """

    def __init__(self, data: memoryview, at: int) -> None:
        self._data, self._at = data, at
        self._vtable = at - self._read("<i", at)
        self._size = self._read("<H", self._vtable)

    @classmethod
    def root(cls, data: memoryview) -> Table:
        """The table of the whole buffer."""
        if len(data) < 8:
            raise ValueError("it is too short; it must hold 8 bytes or more")
        return cls(data, struct.unpack_from("<I", data)[0])

    def __contains__(self, field: int) -> bool:
        return self._place(field) > 0

    def number(self, field: int, kind: str, default: Any = 0) -> Any:
        """A number, of a type in the letters of `struct`."""
        place = self._place(field)
        return self._read(f"<{kind}", place) if place else default

    def table(self, field: int) -> Table | None:
        """A table, or None."""
        place = self._place(field)
        return Table(self._data, self._target(place)) if place else None

    def tables(self, field: int) -> list[Table]:
        """A vector of tables."""
        start, n = self._vector(field, 4)
        return [Table(self._data, self._target(start + 4 * k)) for k in range(n)]

    def array(self, field: int, dtype: str) -> Array:
        """A vector of numbers."""
        kind = host.xp.dtype(dtype)
        start, n = self._vector(field, kind.itemsize)
        return host.xp.frombuffer(self._data[start : start + n * kind.itemsize], kind)

    def text(self, field: int) -> str:
        """A text."""
        return bytes(self.array(field, "u1")).decode("utf-8")

    def _place(self, field: int) -> int:
        """Where a field lies in the buffer, or 0."""
        entry = 4 + 2 * field
        offset = self._read("<H", self._vtable + entry) if entry < self._size else 0
        return self._at + offset if offset else 0

    def _target(self, place: int) -> int:
        return place + int(self._read("<I", place))

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many there are."""
        place = self._place(field)
        if not place:
            return 0, 0
        start = self._target(place)
        n = int(self._read("<I", start))
        if start + 4 + n * size > len(self._data):
            raise ValueError(
                "the file is damaged: a vector is longer than the file; give a whole one"
            )
        return start + 4, n

    def _read(self, kind: str, at: int) -> Any:
        if not 0 <= at <= len(self._data) - struct.calcsize(kind):
            raise ValueError(
                f"the file is damaged: an offset ({at}) points outside; give a whole one"
            )
        return struct.unpack_from(kind, self._data, at)[0]
