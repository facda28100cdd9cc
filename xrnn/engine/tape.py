"""The tape: what a backward pass needs of the forward pass that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xrnn.cells.base import Cell
from xrnn.engine.cell_pass import Pass
from xrnn.typing import Array

if TYPE_CHECKING:
    from xrnn.engine.bound import Bound


@dataclass(frozen=True, eq=False)
class Tape:
    """What backward needs.  Made by `xrnn.unroll` and `Layer.forward`; not an interface.

    It holds what the forward pass was given and what it gave, not copies: change no inputs
    and no states in place before backward.  If the weights of a layer have changed since,
    backward raises an error.
    """

    bound: Bound[Any]
    passes: list[Pass]
    masks: list[Array]
    #: whether the inputs were one sequence, without an axis B
    unbatched: bool

    @property
    def cell(self) -> Cell[Any]:
        """The cell that ran."""
        return self.bound.cell

    def named(self, found: list[dict[str, Array]]) -> dict[str, Array]:
        """One dict for each pass as one for the whole: from a layer ``f`` → ``f_l0`` …"""
        parts = zip(self.bound.suffixes, found, strict=True)
        return {f"{name}{suffix}": a for suffix, part in parts for name, a in part.items()}

    def to_user(self, a: Array) -> Array:
        """(T, B, n) with the axes that the user gave."""
        return self.bound.to_user(a, self.unbatched)
