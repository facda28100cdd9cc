"""The axes of a user's arrays: checked when they come in, and restored when results go out.

Inside, sequences are (T, B, n) and each cell has a state of its own, its parts (B, H).  A user
may give one sequence without an axis B, batches first, and the states of all cells stacked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Generic

from xrnn.cells.base import Cell
from xrnn.engine.checks import Home, take_state
from xrnn.typing import Array, GivenState, S, State

#: a state (B, H) as that of one cell (1, B, H)
_with_axis = itemgetter((None, ...))


class Axes(Generic[S]):
    """What the arrays of one layer, or of one cell, look like to its user.

    Parameters
    ----------
    cell : Cell
    home : Home
        Where the arrays must be.
    I, H : int
        Inputs and hidden units.
    suffixes : list of str
        What the names of each cell's weights, gates and states end in, in the order of the
        states: layer 0 forward, layer 0 reverse, layer 1 forward …
    directions : int
        D.
    batch_first : bool
        Whether sequences come as (B, T, …).
    stacked : bool
        Whether parts of states are (L·D, B, H); else there is one cell, and they are (B, H).
    """

    def __init__(
        self,
        cell: Cell[S],
        home: Home,
        I: int,
        H: int,
        suffixes: list[str],
        *,
        directions: int = 1,
        batch_first: bool = False,
        stacked: bool = True,
    ) -> None:
        self.cell, self.home, self.I, self.H = cell, home, I, H
        self.suffixes, self.D, self.cells = suffixes, directions, len(suffixes)
        self.batch_first, self.stacked = batch_first, stacked
        self.xp, self.state_type = home.backend.xp, cell.state_type
        #: where gradients must be
        self.outputs = home.called("the output")
        #: a tuple as the named tuple, without a call of Python code
        self.as_named: Callable[[State], S] = partial(tuple.__new__, cell.state_type)
        self._shapes: dict[int, tuple[tuple[int, ...], str]] = {}
        #: what takes the part of each cell out of an array (L·D, …)
        self._parts = [itemgetter((n, ...)) for n in range(self.cells)]

    def inputs(self, name: str, x: Array, axes: int) -> tuple[Array, bool]:
        """The input, checked, time first and with an axis B; and whether it lacked that.

        `axes` is 3 for sequences, and 2 for single steps.
        """
        x = self.home.take(name, x)
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
        """The gradient of the outputs, checked: (T, B, D·H)."""
        n, units = self.D * self.H, "D·H" if self.stacked else "H"
        shape: tuple[int, ...]
        if unbatched:
            shape, letters = (T, n), f"(T, {units})"
        elif self.batch_first:
            shape, letters = (B, T, n), f"(B, T, {units})"
        else:
            shape, letters = (T, B, n), f"(T, B, {units})"
        dys = self.outputs.take_shaped("dys", dys, shape, letters)
        if unbatched:
            return dys[:, None, :]
        return self._swapped(dys) if self.batch_first else dys

    def state(
        self, what: str, state: GivenState | None, B: int, unbatched: bool, home: Home
    ) -> State:
        """The parts of a state as the user has them, checked, but with an axis B.

        `what` is "state" or "dstate", `home` where they must be.
        """
        if not unbatched:
            shape, letters = self._shapes.get(B) or self._new_shape(B)
            if type(state) is self.state_type and home.all_fit(state, shape):
                return state
            return take_state(self.cell, what, state, home, shape, letters)
        alone = ((self.cells, self.H), "(L·D, H)") if self.stacked else ((self.H,), "(H,)")
        parts = take_state(self.cell, what, state, home, *alone)
        return tuple([s[..., None, :] for s in parts])

    def split(self, parts: State) -> list[State]:
        """One state for each cell, its parts (B, H)."""
        if not self.stacked:
            return [parts]
        return [tuple(map(part, parts)) for part in self._parts]

    def joined(self, states: list[State]) -> State:
        """The states of all cells as the parts that the user has, but with an axis B."""
        if not self.stacked:
            return states[0]
        if len(states) == 1:
            return tuple(map(_with_axis, states[0]))
        return tuple(map(self.xp.stack, zip(*states, strict=True)))

    def to_user(self, a: Array, unbatched: bool) -> Array:
        """(T, B, n) with the axes that the user gave."""
        if unbatched:
            return a[:, 0, :]
        return self._swapped(a) if self.batch_first else a

    def to_user_state(self, parts: State, unbatched: bool) -> S:
        """Parts with an axis B as the named tuple that the user gets."""
        if unbatched:
            parts = tuple([s[..., 0, :] for s in parts])
        return self.as_named(parts)

    def _swapped(self, a: Array) -> Array:
        return self.xp.permute_dims(a, (1, 0, 2))

    def _new_shape(self, B: int) -> tuple[tuple[int, ...], str]:
        """The shape of the parts of a state of B sequences, in numbers and letters."""
        stacked = ((self.cells, B, self.H), "(L·D, B, H)")
        self._shapes[B] = stacked if self.stacked else ((B, self.H), "(B, H)")
        return self._shapes[B]
