"""NumPy, on the CPU, and what the rest of the library needs from the host."""

from __future__ import annotations

import platform
from typing import Any

import array_api_compat
import numpy as np

from xrnn.backends import Backend


def to_host(array: Any) -> np.ndarray:
    """The values of an array of any library as a NumPy array (a view where it can be)."""
    if isinstance(array, np.ndarray):
        return array
    if array_api_compat.is_torch_array(array):
        # torch hands out neither what it records gradients of nor what lies on a device.
        array = array.detach().cpu()
    try:
        return np.asarray(np.from_dlpack(array))
    except (AttributeError, BufferError, TypeError, RuntimeError):
        return np.asarray(array)


def generator(rng: int | list[int] | np.random.Generator) -> np.random.Generator:
    """NumPy's generator for a seed (or several numbers that are one), or the one given."""
    return np.random.default_rng(rng)


def counter_bits(seed: int, stream: int, n: int) -> np.ndarray:
    """n random uint64 that depend on (seed, stream) and their position alone.

    NumPy promises the bits of Philox, unlike its distributions, to stay the same.
    """
    return np.random.Philox(key=[seed % 2**64, stream % 2**64]).random_raw(n)


def _describe() -> str:
    return f"numpy {np.__version__}, {platform.machine()}, {platform.system()}"


BACKEND = Backend(
    name="cpu",
    xp=np,
    to_host=to_host,
    describe=_describe,
    # A mask or a second meaning of * would be dropped without a word.
    refused=(np.ma.MaskedArray, np.matrix),
)
