"""TensorFlow Lite models of one operator, written byte by byte.

A table of a FlatBuffer is given here as a dict of the numbers of its fields, a vector as a list of
tables or an array, and a number as a pair of its type, in the letters of `struct`, and its value.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from xrnn.typing import Array


def buffer(root: dict[int, Any]) -> bytes:
    """The FlatBuffer of a table."""
    data = bytearray(8)
    data[4:8] = b"TFL3"
    struct.pack_into("<I", data, 0, _table(data, root))
    return bytes(data)


def _align(data: bytearray, size: int, behind: int = 0) -> None:
    """Make what begins `behind` bytes after the end begin at a multiple of the size."""
    data += bytes(-(len(data) + behind) % size)


def _table(data: bytearray, fields: dict[int, Any]) -> int:
    """Append a table, and what it refers to behind it; give its place."""
    n = 1 + max(fields, default=-1)
    _align(data, 8)
    vtable = len(data)
    data += bytes(4 + 2 * n)
    _align(data, 8)
    at = len(data)
    data += bytes(8 + 8 * n)  # the distance to the vtable, and 8 bytes for each field
    struct.pack_into("<HH", data, vtable, 4 + 2 * n, 8 + 8 * n)
    struct.pack_into("<i", data, at, at - vtable)
    for field, value in fields.items():
        place = at + 8 + 8 * field
        struct.pack_into("<H", data, vtable + 4 + 2 * field, place - at)
        if isinstance(value, tuple):
            struct.pack_into(f"<{value[0]}", data, place, value[1])
        else:
            target = _table(data, value) if isinstance(value, dict) else _vector(data, value)
            struct.pack_into("<I", data, place, target - place)
    return at


def _vector(data: bytearray, value: Any) -> int:
    if isinstance(value, str):
        value = np.frombuffer(value.encode() + b"\0", "u1")[:-1]
    if not isinstance(value, list):
        _align(data, 16, 4)
        at = len(data)
        data += struct.pack("<I", len(value)) + value.tobytes() + b"\0"
        return at
    _align(data, 4)
    at = len(data)
    data += struct.pack("<I", len(value)) + bytes(4 * len(value))
    for k, table in enumerate(value):
        place = at + 4 + 4 * k
        struct.pack_into("<I", data, place, _table(data, table) - place)
    return at


TYPES = {"float32": 0, "float16": 1, "uint8": 3, "int8": 9}


class Graph:
    """The tensors, operators and constants of a model."""

    def __init__(self) -> None:
        self.buffers: list[dict[int, Any]] = [{}]
        self.tensors: list[dict[int, Any]] = []
        self.operators: list[dict[int, Any]] = []

    def tensor(self, name: str, shape: Any, kind: int = 0, **more: Any) -> int:
        """Add a tensor without numbers; `more` are fields by their numbers."""
        fields = {0: np.array(shape, "<i4"), 1: ("b", kind), 2: ("I", 0), 3: name}
        self.tensors.append(fields | {int(k[1:]): value for k, value in more.items()})
        return len(self.tensors) - 1

    def constant(self, name: str, array: Array, **more: Any) -> int:
        """Add a tensor with numbers."""
        self.buffers.append({0: np.frombuffer(np.ascontiguousarray(array).tobytes(), "u1")})
        kind = TYPES[array.dtype.name]
        return self.tensor(name, array.shape, kind, _2=("I", len(self.buffers) - 1), **more)

    def input(self, name: str, given: Any) -> int:
        """Add an input of an operator: an array; a pair of an array of 8 bits and its quantisation
        (scale, zero point, axis); the shape of a state, which the model keeps; or None.  An array
        in float16 goes through the operator DEQUANTIZE."""
        if given is None:
            return -1
        if isinstance(given, np.ndarray):
            place = self.constant(name, given)
            if given.dtype != np.float16:
                return place
            real = self.tensor(f"{name} as float32", given.shape)
            self.operators.append(_operator(1, [place], [real]))
            return real
        if isinstance(given[0], np.ndarray):
            array, (scale, zero, axis) = given
            scale, zero = np.atleast_1d(scale).astype("<f4"), np.atleast_1d(zero).astype("<i8")
            return self.constant(name, array, _4={2: scale, 3: zero, 6: ("i", axis)})
        return self.tensor(name, given, _5=("b", 1))


def model(
    code: int,
    options_kind: int,
    options: dict[int, Any],
    shape: tuple[int, ...],
    output: tuple[int, ...],
    inputs: list[Any],
    more_outputs: int = 0,
    kind: int = 0,
) -> bytes:
    """A model of one operator, whose first input has this shape and kind; `inputs` are those behind
    it."""
    graph = Graph()
    places = [graph.tensor("x", shape, kind)]
    places += [graph.input(f"input {k}", given) for k, given in enumerate(inputs, 1)]
    made = [graph.tensor(f"y{n or ''}", output) for n in range(1 + more_outputs)]
    operator = _operator(0, places, made) | {3: ("B", options_kind), 4: options}
    fields = {
        0: graph.tensors,
        1: np.array([0], "<i4"),
        2: np.array(made, "<i4"),
        3: [*graph.operators, operator],
        4: "main",
    }
    codes = [{0: ("b", n), 2: ("i", 1), 3: ("i", n)} for n in (code, 6)]
    return buffer({0: ("I", 3), 1: codes, 2: [fields], 3: "written by a test", 4: graph.buffers})


def _operator(code: int, inputs: list[int], outputs: list[int]) -> dict[int, Any]:
    return {0: ("I", code), 1: np.array(inputs, "<i4"), 2: np.array(outputs, "<i4")}


def quantized(array: Array, axis: int | None = None) -> tuple[Array, tuple[Any, Any, int]]:
    """An array in int8, with one scale or one for each index of an axis."""
    if axis is None:
        scale = np.array([np.abs(array).max() / 127])
        return np.round(array / scale).astype("int8"), (scale, [0], 0)
    others = tuple(k for k in range(array.ndim) if k != axis)
    scale = np.abs(array).max(others) / 127
    shape = [-1 if k == axis else 1 for k in range(array.ndim)]
    return np.round(array / scale.reshape(shape)).astype("int8"), (scale, 0 * scale, axis)
