"""CuPy, on NVIDIA GPUs.

`plan`, `rounded`, `fused`, `cells`, `options`, `linear`, `geometry`, `cluster`, `clustered` and
`tables` compute sizes, addresses and the order of launches, `loop` (with ``native/loop.c``) repeats
those of a step, `graphs` launches those of many steps at once, both in a `workspace`, and none of
them imports CuPy.  `runtime` launches kernels, `capture` makes CUDA graphs; `device` is the
backend.  CuPy is imported when the backend is first used, and all other modules are tested without
it.
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
