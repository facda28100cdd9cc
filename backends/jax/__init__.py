"""JAX, on its devices.

There are no kernels here: arrays of JAX run the cell's own code, one operation after the other.
`xrnn.adapters.jax` compiles whole sequences.  JAX is imported when the backend is first used.
"""

from __future__ import annotations

from typing import Any

LIBRARY = "jax"
INSTALL = "pip install jax"


def __getattr__(name: str) -> Any:
    if name == "BACKEND":
        from xrnn.backends.jax.device import BACKEND

        return BACKEND
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
