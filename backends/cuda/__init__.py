"""CuPy, on NVIDIA GPUs: its namespace and the way to and from the device.

The two tables are empty until the kernels stand here; the cells run on CuPy as they are.
"""

from __future__ import annotations

import array_api_compat.cupy
import cupy

from xrnn.backends import Backend


def _missing() -> str | None:
    if cupy.cuda.is_available():
        return None
    return f"CuPy {cupy.__version__} finds no NVIDIA device or driver"


def _describe() -> str:
    runtime = cupy.cuda.runtime
    device = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    return f"cupy {cupy.__version__}, driver {runtime.driverGetVersion()}, {device}"


BACKEND = Backend(
    name="cuda",
    xp=array_api_compat.cupy,
    to_host=cupy.asnumpy,
    describe=_describe,
    missing=_missing,
)
