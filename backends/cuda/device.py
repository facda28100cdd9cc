"""The backend: CuPy's namespace, copies to and from the device, and the kernels."""

from __future__ import annotations

import importlib
import importlib.util
import re
from functools import partial

import array_api_compat.cupy
import cupy

from xrnn.backends.base import Backend
from xrnn.backends.cuda.runtime import CupyRuntime
from xrnn.backends.cuda.tables import kernels, notes
from xrnn.recurrence.cross_entropy import cross_entropy
from xrnn.typing import Array, dtype_name

RUNTIME = CupyRuntime()


#: the oldest CuPy and compute capability that are served
CUPY, CAPABILITY = (13, 4), 70


VERSION = tuple(int(part) for part in re.findall(r"\d+", cupy.__version__)[:2])


def _missing() -> str | None:
    if VERSION < CUPY:
        return f"CuPy {cupy.__version__} is too old; it must be {CUPY[0]}.{CUPY[1]} or newer"
    if not cupy.cuda.is_available():
        return f"CuPy {cupy.__version__} finds no NVIDIA device or driver"
    if (capability := RUNTIME.capability()) < CAPABILITY:
        name = _describe().rpartition(", ")[2]
        return f"{name} has compute capability {capability}; it must be {CAPABILITY} or newer"
    return None


def _describe() -> str:
    runtime = cupy.cuda.runtime
    device = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    return f"cupy {cupy.__version__}, driver {runtime.driverGetVersion()}, {device}"


def _notes() -> list[str]:
    compiled = ", ".join(RUNTIME.compiled()) or "none"
    words = f"loop over time: {RUNTIME.language}"
    if reason := RUNTIME.no_c():
        words += f"; {reason}"
    return [*notes(RUNTIME), words, f"compiled in this process: {compiled}"]


def _dtypes() -> frozenset[cupy.dtype]:
    """The dtypes of the kernels; bfloat16 only where CuPy has it and ml_dtypes is installed."""
    names = ["float16", "float32", "float64"]
    if VERSION >= (14,) and importlib.util.find_spec("ml_dtypes") is not None:
        importlib.import_module("ml_dtypes")
        names.append("bfloat16")
    return frozenset(cupy.dtype(name) for name in names)


def _dense(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy(order="C")


BACKEND = Backend(
    name="cuda",
    xp=array_api_compat.cupy,
    to_host=cupy.asnumpy,
    kernels=kernels(RUNTIME, _dtypes()),
    describe=_describe,
    missing=_missing,
    notes=_notes,
    # Blocks larger than by default: each takes a dozen launches.
    cross_entropy=partial(cross_entropy, block=2**24),
    computes=lambda dtype: dtype_name(dtype) != "bfloat16",
    dense=_dense,
    # CuPy has no read-only arrays.
    read_only=lambda array: array.copy(),
    device=lambda text: cupy.cuda.Device(int(text)),
    device_of=lambda array: array.device.id,
)
