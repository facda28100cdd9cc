"""NumPy for work that always runs on the host: random numbers, dtypes by name, copies to it."""

from __future__ import annotations

import importlib
from typing import Any

import array_api_compat
import numpy as np

from xrnn.typing import dtype_name

#: NumPy's functions, for modules that do not import NumPy themselves
xp: Any = np

#: A decorator: within the function a number that is rounded to 0 is no error, whatever the user has
#: told NumPy to do at floating-point errors.  Gradients that vanish do so in every long sequence.
ignore_underflow = np.errstate(under="ignore")


def to_host(array: Any) -> np.ndarray:
    """The values of an array of any library as a NumPy array (a view where it can be)."""
    if isinstance(array, np.ndarray):
        return array
    if array_api_compat.is_torch_array(array):
        # torch does not export arrays that record gradients, or arrays on a device.
        array = array.detach().cpu()
        if dtype_name(array.dtype) == "bfloat16":
            return to_host(array.float()).astype(named_dtype("bfloat16"))
    try:
        return np.asarray(np.from_dlpack(array))
    except (AttributeError, BufferError, TypeError, RuntimeError):
        return np.asarray(array)


def address(array: Any) -> int:
    """A number that is the same for arrays of one library that begin at the same memory.

    Where the library does not tell, it is the identity of the array object.
    """
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr())
    for name in ("__array_interface__", "__cuda_array_interface__"):
        interface = getattr(array, name, None)
        if interface is not None:
            return int(interface["data"][0])
    return id(array)


def named_dtype(name: str) -> np.dtype:
    """NumPy's dtype of that name; bfloat16 comes from ml_dtypes.

    Raises
    ------
    ImportError
        If the name is bfloat16 and ml_dtypes is not installed.
    """
    if name == "bfloat16":
        try:
            importlib.import_module("ml_dtypes")
        except ModuleNotFoundError as error:
            raise ImportError("bfloat16 needs ml_dtypes: pip install ml_dtypes") from error
    return np.dtype(name)


def generator(rng: Any = None) -> np.random.Generator:
    """NumPy's generator from a seed (None: a random seed), or the given generator (SPEC 7)."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"rng is {rng!r:.80}; it must be None, an integer ≥ 0 or a numpy.random.Generator"
        ) from error


def seed_of(rng: Any = None) -> Any:
    """The seed of `generator(rng)`, which gives the same numbers again; a new one for None.

    None if `rng` is a generator, because others draw from it too.
    """
    kinds = (np.random.Generator, np.random.BitGenerator, np.random.RandomState)
    return None if isinstance(rng, kinds) else generator(rng).bit_generator.seed_seq


def counter_bits(seed: int, stream: int, n: int, start: int = 0) -> np.ndarray:
    """n random uint64 from position `start` on, which depend on (seed, stream) and their position
    alone.

    NumPy guarantees that the bits of Philox stay the same, unlike its distributions.
    """
    key = np.asarray([int(seed) % 2**64, stream % 2**64], np.uint64)
    # Each count of Philox gives four numbers.
    count, skipped = divmod(start, 4)
    return np.random.Philox(key=key, counter=count).random_raw(n + skipped)[skipped:]
