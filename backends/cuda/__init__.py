"""CuPy, on NVIDIA GPUs: its namespace and the way to and from the device.

The linear cells run by the scan: a launch costs more than what it computes in a step, and the
scan has log₂ T rounds of launches.  All others run on CuPy as they are.
"""

from __future__ import annotations

import array_api_compat.cupy
import cupy

from xrnn import cells
from xrnn.backends import Backend, Sequences
from xrnn.cells.base import Cell
from xrnn.scan import SOURCE, Scan, scan


def _missing() -> str | None:
    if cupy.cuda.is_available():
        return None
    return f"CuPy {cupy.__version__} finds no NVIDIA device or driver"


def _describe() -> str:
    runtime = cupy.cuda.runtime
    device = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    return f"cupy {cupy.__version__}, driver {runtime.driverGetVersion()}, {device}"


def _linear(cell: Cell) -> Sequences:
    form = Scan(cell, scan)
    dtypes = frozenset({cupy.dtype("float32"), cupy.dtype("float64")})
    return Sequences(form.forward, form.backward, dtypes, SOURCE)


BACKEND = Backend(
    name="cuda",
    xp=array_api_compat.cupy,
    to_host=cupy.asnumpy,
    sequences={
        cells.InputGatedLSTM: _linear(cells.InputGatedLSTM),
        cells.MinGRU: _linear(cells.MinGRU),
    },
    describe=_describe,
    missing=_missing,
)
