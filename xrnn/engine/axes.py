"""The axes of a user's arrays: checked when they come in, and restored when results go out.

Inside the library, sequences are (T, B, n), and each cell has its own state, with parts (B, H).
A user may pass one sequence without an axis B, sequences with the axis B first, and the states of
all cells stacked in one array.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, Generic

from xrnn.cells.base import Cell
from xrnn.engine.checks import Placement, accept_state
from xrnn.typing import Array, GivenState, S, State

#: for how many batch sizes a shape is remembered
REMEMBERED = 256

#: adds an axis in front: the state (B, H) of a cell as that of a layer of one cell, (1, B, H)
_with_axis = itemgetter((None, ...))


class Axes(Generic[S]):
    """The order of axes in the arrays that the user of a layer, or of one cell, passes and gets.

    Parameters
    ----------
    cell : Cell
        The cell that runs.
    placement : Placement
        The library, device and dtype that the arrays must have.
    I, H : int
        Inputs and hidden units.
    suffixes : list of str
        For each cell the ending of the names of its weights, gates and states, in the order
        of the states: layer 0 forward, layer 0 reverse, layer 1 forward …
    directions : int
        D, the number of directions.
    batch_first : bool
        Whether sequences are (B, T, …) instead of (T, B, …).
    stacked : bool
        Whether the parts of a state are (L·D, B, H); otherwise there is one cell, and they are
        (B, H).
    """

    def __init__(
        self,
        cell: Cell[S],
        placement: Placement,
        I: int,
        H: int,
        suffixes: list[str],
        *,
        directions: int = 1,
        batch_first: bool = False,
        stacked: bool = True,
    ) -> None:
        self.cell, self.placement, self.I, self.H = cell, placement, I, H
        self.suffixes, self.D, self.cells = suffixes, directions, len(suffixes)
        self.batch_first, self.stacked = batch_first, stacked
        self.xp, self.state_type = placement.backend.xp, cell.state_type
        #: the placement that gradients must have
        self.outputs = placement.called("the output")
        #: makes a tuple the named tuple; as a built-in it is faster than a call of Python code
        self.as_named: Callable[[State], S] = partial(tuple.__new__, cell.state_type)
        self._shapes: dict[int, tuple[tuple[int, ...], str]] = {}
        #: for each cell the function that selects its part of an array (L·D, …)
        self._parts = [itemgetter((n, ...)) for n in range(self.cells)]

    def __reduce__(self) -> Any:
        how: Any = {"directions": self.D, "batch_first": self.batch_first, "stacked": self.stacked}
        given = (self.cell, self.placement, self.I, self.H, self.suffixes)
        return partial(Axes, **how), given

    def inputs(self, name: str, x: Array, axes: int) -> tuple[Array, bool]:
        """The checked input, time first and with an axis B; and whether that axis was added.

        `axes` is the number of axes of a batch: 3 for sequences, 2 for single steps.
        """
        x = self.placement.accept(name, x)
        ndim = x.ndim
        if ndim not in (axes, axes - 1) or x.shape[-1] != self.I:
            letters = "(B, I), or (I,)" if axes == 2 else "(T, B, I), or (T, I)"
            if axes == 3 and self.batch_first:
                letters = "(B, T, I), or (T, I)"
            raise ValueError(
                f"{self.cell.name}: {name} has shape {tuple(x.shape)}; it must be {letters}, "
                f"with I = {self.I}"
            )
        if ndim != axes:
            return x[..., None, :], True
        return (self._swapped(x) if axes == 3 and self.batch_first else x), False

    def gradient(self, dys: Array, T: int, B: int, unbatched: bool) -> Array:
        """The checked gradient of the outputs as (T, B, D·H)."""
        n, units = self.D * self.H, "D·H" if self.stacked else "H"
        shape: tuple[int, ...]
        if unbatched:
            shape, letters = (T, n), f"(T, {units})"
        elif self.batch_first:
            shape, letters = (B, T, n), f"(B, T, {units})"
        else:
            shape, letters = (T, B, n), f"(T, B, {units})"
        dys = self.outputs.accept_shaped("dys", dys, shape, letters)
        if unbatched:
            return dys[:, None, :]
        return self._swapped(dys) if self.batch_first else dys

    def state(
        self, what: str, state: GivenState | None, B: int, unbatched: bool, placement: Placement
    ) -> State:
        """The checked parts of a state, in the user's shape but always with an axis B.

        `what` is "state" or "dstate"; `placement` is the placement that the parts must have.
        """
        if not unbatched:
            shape, letters = self._shapes.get(B) or self._new_shape(B)
            if type(state) is self.state_type and placement.all_fit(state, shape):
                return state
            return accept_state(self.cell, what, state, placement, shape, letters)
        alone = ((self.cells, self.H), "(L·D, H)") if self.stacked else ((self.H,), "(H,)")
        parts = accept_state(self.cell, what, state, placement, *alone)
        return tuple([s[..., None, :] for s in parts])

    def split(self, parts: State) -> list[State]:
        """The parts of a user's state as one state for each cell, with parts (B, H)."""
        if not self.stacked:
            return [parts]
        return [tuple(map(part, parts)) for part in self._parts]

    def joined(self, states: list[State]) -> State:
        """The inverse of `split`: the states of all cells in the user's shape, with an axis B."""
        if not self.stacked:
            return states[0]
        if len(states) == 1:
            return tuple(map(_with_axis, states[0]))
        return tuple(map(self.xp.stack, zip(*states, strict=True)))

    def to_user(self, a: Array, unbatched: bool) -> Array:
        """An array (T, B, n) with its axes in the user's order."""
        if unbatched:
            return a[:, 0, :]
        return self._swapped(a) if self.batch_first else a

    def to_user_state(self, parts: State, unbatched: bool) -> S:
        """Parts with an axis B as the named tuple that is returned to the user."""
        if unbatched:
            parts = tuple([s[..., 0, :] for s in parts])
        return self.as_named(parts)

    def _swapped(self, a: Array) -> Array:
        return self.xp.permute_dims(a, (1, 0, 2))

    def _new_shape(self, B: int) -> tuple[tuple[int, ...], str]:
        """The shape of the parts of a state of B sequences, in numbers and letters."""
        if len(self._shapes) >= REMEMBERED:
            self._shapes.clear()
        stacked = ((self.cells, B, self.H), "(L·D, B, H)")
        self._shapes[B] = stacked if self.stacked else ((B, self.H), "(B, H)")
        return self._shapes[B]
