"""array-api-strict, with a kernel of its own for LSTM that says when it runs."""

from __future__ import annotations

from typing import Any

import array_api_strict

from xrnn import cells
from xrnn.backends import host
from xrnn.backends.base import Backend, Kernel
from xrnn.recurrence.loop import Loop

LIBRARY, INSTALL = "array_api_strict", "pip install array-api-strict"

#: what ran
CALLS: list[str] = []


class Spoken(Loop):
    """The cell's own loop, which writes down that it was called."""

    def forward(self, *given: Any, **options: Any) -> Any:
        CALLS.append("forward")
        return super().forward(*given, **options)

    def backward(self, *given: Any, **options: Any) -> Any:
        CALLS.append("backward")
        return super().backward(*given, **options)


BACKEND = Backend(
    "mine",
    array_api_strict,
    host.to_host,
    kernels={
        cells.LSTM: (
            Kernel(
                Spoken(cells.LSTM),
                frozenset({array_api_strict.float32}),
                path=lambda T, B, I, H: "my kernel",
            ),
        )
    },
)
