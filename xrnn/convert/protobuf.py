"""Messages of Protocol Buffers, read by the numbers of their fields.

The encoding is documented in "Protocol Buffers: Encoding": a message is a sequence of fields, each
with a number and a value, which is an integer of variable length, 4 or 8 bytes, or bytes with their
length in front.
"""

from __future__ import annotations

from xrnn.backends import host
from xrnn.typing import Array

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


class Message:
    """The fields of a message.  A field that is not there is 0 or empty, as in proto3.

    Raises
    ------
    ValueError
        If the bytes are not those of a message.
    """

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        at = 0
        while at < len(data):
            key, at = _varint(data, at)
            kind = key & 7
            if kind == VARINT:
                value: int | memoryview
                value, at = _varint(data, at)
            elif kind in (EIGHT_BYTES, BYTES, FOUR_BYTES):
                size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(kind, 0)
                if kind == BYTES:
                    size, at = _varint(data, at)
                value = data[at : at + size]
                at += size
            else:
                raise ValueError(f"a field of the unknown kind {kind}")
            if at > len(data):
                raise ValueError("a field that is longer than the message")
            self._fields.setdefault(key >> 3, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def integer(self, number: int) -> int:
        """The integer or truth value of a field."""
        value = self._fields.get(number, [0])[-1]
        if not isinstance(value, int):
            raise ValueError(f"the field {number} is not an integer")
        return value

    def real(self, number: int) -> float:
        """The number of a field of float."""
        return float(self.floats(number)[-1]) if number in self else 0.0

    def messages(self, number: int) -> list[Message]:
        """The messages of a repeated field."""
        return [Message(data) for data in self.data(number)]

    def message(self, number: int) -> Message:
        """The message of a field."""
        return (self.messages(number) or [Message(memoryview(b""))])[-1]

    def text(self, number: int) -> str:
        """The text of a field."""
        found = self.data(number)
        return bytes(found[-1]).decode("utf-8") if found else ""

    def floats(self, number: int) -> Array:
        """The numbers of a repeated field of float, packed or not."""
        data = b"".join(self.data(number))
        if len(data) % 4:
            raise ValueError(f"the field {number} does not hold numbers of 4 bytes")
        return host.xp.frombuffer(data, "<f4")

    def data(self, number: int) -> list[memoryview]:
        """The bytes of a repeated field."""
        values = self._fields.get(number, [])
        found = [value for value in values if isinstance(value, memoryview)]
        if len(found) < len(values):
            raise ValueError(f"the field {number} does not hold bytes")
        return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An integer, whose bytes hold 7 bits each, and where the next value begins."""
    value = 0
    for n in range(10):
        if at + n >= len(data):
            raise ValueError("it ends within a number")
        value |= (data[at + n] & 0x7F) << (7 * n)
        if data[at + n] < 0x80:
            return value, at + n + 1
    raise ValueError("a number of more than 10 bytes")
