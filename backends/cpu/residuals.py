"""The arrays that the native loops take, and what they keep between forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xrnn.typing import Array, State

#: the names of what a cell with options may draw, see `xrnn.cells.noise`
NOISE = ("dropout_h", "zoneout_h", "zoneout_c")


@dataclass
class Residuals:
    """What backward needs of forward.  `noise` is what the cell drew, see `NOISE`.  `gates` is None
    if the cell keeps none, or if backward has overwritten them already."""

    xs: Array
    first: State
    lengths: Array | None
    reverse: bool
    storage: int
    ys: Array
    cs: Array | None
    noise: tuple[Array | None, ...]
    gates: Array | None = None

    def given(self) -> dict[str, Array]:
        """What was drawn, by name."""
        return {k: a for k, a in zip(NOISE, self.noise, strict=False) if a is not None}

    def take_gates(self) -> Array | None:
        """The gates, for the first who asks, in whatever thread; None for all others."""
        gates: Array | None = self.__dict__.pop("gates", None)
        return gates


class Prepared(dict[str, Array]):
    """The weights of one cell, and the same weights as the extension takes them: one pack."""

    arguments: tuple[Any, ...]


class Sums(dict[str, Array]):
    """The gradients of the weights of one cell, to which those of earlier steps can be added."""

    #: those that are summed for each sequence, see ``rows`` of the extension
    rows: tuple[Array, ...] = ()


#: the bits C_CONTIGUOUS and ALIGNED of ``array.flags.num``
WALKABLE = 0x101


def plain(array: Array) -> Array:
    """The same values as a contiguous and aligned array."""
    if array.flags.num & WALKABLE == WALKABLE:
        return array
    array = np.ascontiguousarray(array)
    return array if array.flags.aligned else array.copy()
