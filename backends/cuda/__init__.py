"""CuPy, on NVIDIA GPUs.

`plan`, `fused`, `cells`, `tables` and `cluster` work out sizes, addresses and the order of
launches, and import no CuPy; `runtime` launches; `device` is the backend.  So CuPy is
imported when the backend is asked for, and all else is tested without it.
"""

from __future__ import annotations

from typing import Any

LIBRARY = "cupy"
INSTALL = 'pip install "xrnn-array[cuda13]" or [cuda12]'


def __getattr__(name: str) -> Any:
    if name == "BACKEND":
        from xrnn.backends.cuda.device import BACKEND

        return BACKEND
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
