"""The tape: what a backward pass needs of the forward pass that made it, and that pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from xrnn.cells.base import Cell
from xrnn.engine import stack
from xrnn.engine.axes import Axes
from xrnn.engine.cell_pass import Pass
from xrnn.engine.checks import check_real
from xrnn.engine.parameters import Parameters
from xrnn.typing import Array, GivenState, S, State


@dataclass(frozen=True, eq=False)
class Tape(Generic[S]):
    """What backward needs.  Made by `xrnn.unroll` and `Layer.forward`; not an interface.

    It holds what the forward pass was given and what it gave, not copies: change no inputs
    and no states in place before backward.  If the weights of a layer have changed since,
    backward raises an error.
    """

    axes: Axes[S]
    passes: list[Pass]
    masks: list[Array]
    #: whether the inputs were one sequence, without an axis B
    unbatched: bool
    #: the layer that made it, and its parameters as they were; None for `xrnn.unroll`
    owner: Any
    parameters: Parameters | None
    version: int

    @property
    def cell(self) -> Cell[S]:
        """The cell that ran."""
        return self.axes.cell

    def backward(
        self, dys: Array | None, dstate: GivenState | None
    ) -> tuple[Array, S, dict[str, Array]]:
        """The gradients of all that the forward pass was given."""
        axes = self.axes
        given, dlasts = self.gradients_given(dys, dstate)
        found = stack.backward(self.passes, self.masks, axes.D, given, dlasts)
        dfirst = axes.joined([dfirst for _, dfirst, _ in found])
        dweights = self.named([dweights for _, _, dweights in found])
        return self.to_user(found[0][0]), axes.to_user_state(dfirst, self.unbatched), dweights

    def gradients_given(
        self, dys: Array | None, dstate: GivenState | None
    ) -> tuple[Array | None, list[State]]:
        """What `backward` is given, checked: dys (T, B, D·H), and a dstate for each cell."""
        axes = self.axes
        check_real(axes.cell, axes.home)
        T, B, _ = self.passes[0].xs.shape
        if dys is not None:
            dys = axes.gradient(dys, T, B, self.unbatched)
        parts = axes.state("dstate", dstate, B, self.unbatched, axes.outputs)
        return dys, axes.split(parts)

    def named(self, found: list[dict[str, Array]]) -> dict[str, Array]:
        """One dict for each pass as one for the whole: from a layer ``f`` → ``f_l0`` …"""
        parts = zip(self.axes.suffixes, found, strict=True)
        return {f"{name}{suffix}": a for suffix, part in parts for name, a in part.items()}

    def to_user(self, a: Array) -> Array:
        """(T, B, n) with the axes that the user gave."""
        return self.axes.to_user(a, self.unbatched)
