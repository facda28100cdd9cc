"""The native loops with weights of 8 bits, forward alone; see `xrnn.recurrence.quantised`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from xrnn.backends.base import Kernel
from xrnn.backends.cpu import extension
from xrnn.backends.cpu.extension import Native
from xrnn.recurrence.quantised import Quantised
from xrnn.typing import Weights

#: the number of this kind of products in the extension
ROUNDING = 2


class QuantisedNative(Native):
    """A native loop that takes the matrices of weights as integers and scales.

    Parameters
    ----------
    loop : Native
        The same loop for weights of float32.
    """

    def __init__(self, loop: Native) -> None:
        self.__dict__.update(loop.__dict__)
        number, _, *options = loop.head
        self.head = (number, ROUNDING, *options)

    def _given(self, weights: Weights) -> tuple[Any, ...]:
        given: list[Any] = []
        for name in self.names:
            w = weights.get(name)
            if isinstance(w, Quantised):
                given += [w.integers, w.scales]
            else:
                given += [None, None] if name == "U" else [w]
        return tuple(given)


@cache
def quantised(kernel: Kernel) -> Kernel:
    """The kernel with weights of 8 bits that belongs to a native loop."""
    assert isinstance(kernel.sequence, Native)
    loop = QuantisedNative(kernel.sequence)
    words = f"native loop, {extension._native.isa()}, int8 weights"
    return Kernel(
        loop,
        frozenset({np.dtype("float32")}),
        kernel.source,
        precision="int8",
        path=lambda T, B, I, H: words,
        both=loop,
        stepping=loop,
    )
