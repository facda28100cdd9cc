"""Core ML models, written byte by byte: a message is a list of pairs of the number of a field and
its value, which is a message, an int, a float, a text, or bytes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from xrnn.typing import Array


def varint(n: int) -> bytes:
    found = bytearray()
    while n > 0x7F:
        found.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*found, n])


def message(fields: list[Any]) -> bytes:
    data = b""
    for number, value in fields:
        if isinstance(value, int):
            data += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            data += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            inner = message(value) if isinstance(value, list) else value
            inner = inner.encode() if isinstance(inner, str) else inner
            data += varint(number << 3 | 2) + varint(len(inner)) + inner
    return data


def weights(array: Array) -> list[Any]:
    """WeightParams: packed numbers, one of them in a field of its own, or those of float16."""
    flat = np.ascontiguousarray(array).ravel()
    if flat.dtype == np.float16:
        return [(2, flat.astype("<f2").tobytes())]
    flat = flat.astype("<f4")
    return [(1, flat[:-1].tobytes()), (1, float(flat[-1]))]


def arrays(numbers: Any, blocks: Any) -> list[Any]:
    """One field for each of the blocks."""
    return [(n, weights(block)) for n, block in zip(numbers, blocks, strict=True)]


def network(layers: list[Any], kind: int = 500) -> bytes:
    """A model of one neural network: layers are (name, field of the layer, its parameters)."""
    inner = [(1, [(1, name), (2, "x"), (3, "y"), (field, p)]) for name, field, p in layers]
    return message([(1, 4), (2, [(1, "a description")]), (kind, inner)])
