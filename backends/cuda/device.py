"""The backend: CuPy's namespace, copies to and from the device, and the kernels."""

from __future__ import annotations

import importlib
import importlib.util
import re
from functools import cache, partial

import array_api_compat.cupy
import cupy

from xrnn.backends.base import Backend
from xrnn.backends.cuda import INSTALL
from xrnn.backends.cuda.nccl import adder
from xrnn.backends.cuda.runtime import OPTIONS, CupyRuntime, passing
from xrnn.backends.cuda.tables import kernels, kernels_of, note_of_graphs, notes
from xrnn.recurrence.cross_entropy import cross_entropy
from xrnn.typing import Array, dtype_name

RUNTIME = CupyRuntime()


#: the oldest CuPy and compute capability that are served
CUPY, CAPABILITY = (14, 0), 70


VERSION = tuple(int(part) for part in re.findall(r"\d+", cupy.__version__)[:2])


#: what every kernel needs of NVRTC: both headers, the options, the device's architecture
PROBE = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
extern "C" __global__ void probe() {}
"""

#: a part of NVRTC's message → what to do; the last fits all others
ADVICE = {
    "gpu-architecture": 'CUDA 12 may know it: pip install "xrnn-array[cuda12]"',
    "": f"CuPy needs NVRTC and CUDA's headers of its own version: {INSTALL}",
}


def _missing() -> str | None:
    if VERSION < CUPY:
        return f"CuPy {cupy.__version__} is too old; it must be {CUPY[0]}.{CUPY[1]} or newer"
    if not cupy.cuda.is_available():
        return f"CuPy {cupy.__version__} finds no NVIDIA device or driver"
    if (capability := RUNTIME.capability()) < CAPABILITY:
        return f"{_named()} has compute capability {capability}; it must be {CAPABILITY} or newer"
    return _refused()


def _refused() -> str | None:
    """Why no kernel can be compiled for the current device, or None if one was."""
    try:
        cupy.RawModule(code=PROBE, options=OPTIONS).get_function("probe")
    except Exception as error:  # CuPy has several ways to say that NVRTC or a header is not there
        if passing(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        advice = next(words for part, words in ADVICE.items() if part in reason)
        return (
            f"no kernel can be compiled for {_named()}, of compute capability "
            f"{RUNTIME.capability()}: {reason}; {advice}"
        )
    return None


def _named() -> str:
    """The name of the current device."""
    runtime = cupy.cuda.runtime
    name: str = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    return name


def _describe() -> str:
    return _described(cupy.cuda.runtime.getDevice())


@cache
def _described(device: int) -> str:
    """Of the current device, whose number is `device`; asking takes longer than a launch."""
    driver = cupy.cuda.runtime.driverGetVersion()
    capability = RUNTIME.capability()
    return f"cupy {cupy.__version__}, driver {driver}, capability {capability}, {_named()}"


def _occupied() -> str | None:
    if cupy.cuda.get_current_stream().is_capturing():
        return "the current stream is being captured"
    return None


def _notes() -> list[str]:
    compiled = ", ".join(RUNTIME.compiled()) or "none"
    words = f"loop over time: {RUNTIME.language}"
    if reason := RUNTIME.no_c():
        words += f"; {reason}"
    return [
        *notes(RUNTIME),
        words,
        note_of_graphs(RUNTIME),
        f"compiled in this process: {compiled}",
    ]


def _dtypes() -> frozenset[cupy.dtype]:
    """The dtypes of the kernels; bfloat16 only where ml_dtypes is installed."""
    names = ["float16", "float32", "float64"]
    if importlib.util.find_spec("ml_dtypes") is not None:
        importlib.import_module("ml_dtypes")
        names.append("bfloat16")
    return frozenset(cupy.dtype(name) for name in names)


def _dense(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy(order="C")


DTYPES = _dtypes()

BACKEND = Backend(
    name="cuda",
    xp=array_api_compat.cupy,
    to_host=cupy.asnumpy,
    kernels=kernels(RUNTIME, DTYPES),
    variants=cache(partial(kernels_of, RUNTIME, DTYPES)),
    describe=_describe,
    missing=_missing,
    occupied=_occupied,
    passing=passing,
    notes=_notes,
    # Blocks larger than by default: each takes a dozen launches.
    cross_entropy=partial(cross_entropy, block=2**24),
    computes=lambda dtype: dtype_name(dtype) != "bfloat16",
    dense=_dense,
    # CuPy has no read-only arrays.
    read_only=lambda array: array.copy(),
    device=lambda text: cupy.cuda.Device(int(text)),
    device_of=lambda array: array.device.id,
    adder=adder,
)
