"""The axes of a user's arrays: checked when they come in, and restored when results go out.

Inside the library, sequences are (T, B, n), and each cell has its own state, with parts (B, H).
A user may pass one sequence without an axis B, sequences with the axis B first, and the states of
all cells stacked in one array, or where they differ in width in one tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, Generic

from xrnn.cells.base import Cell
from xrnn.engine.checks import Placement, Spec, StateSpec
from xrnn.engine.states import accept_state
from xrnn.typing import Array, GivenState, S, State

#: for how many batch sizes a shape is remembered
REMEMBERED = 256

#: adds an axis in front: the state (B, H) of a cell as that of a layer of one cell, (1, B, H)
_with_axis = itemgetter((None, ...))

#: add and take away the axis B of an array (…, B, n)
_with_batch = itemgetter((..., None, slice(None)))
_without_batch = itemgetter((..., 0, slice(None)))


class Axes(Generic[S]):
    """The order of axes in the arrays that the user of a layer, or of one cell, passes and gets.

    Parameters
    ----------
    cell : Cell
        The cell that runs.
    placement : Placement
        The library, device and dtype that the arrays must have.
    I : int
        Inputs.
    widths : list of tuple of int
        For each cell the number of values of each state, `Cell.widths`.
    suffixes : list of str
        For each cell the ending of the names of its weights, gates and states, in the order
        of the states: layer 0 forward, layer 0 reverse, layer 1 forward …
    directions : int
        D, the number of directions.
    batch_first : bool
        Whether sequences are (B, T, …) instead of (T, B, …).
    stacked : bool
        Whether the parts of a state are (L·D, B, H), or where H is not the same everywhere tuples
        of L·D arrays (B, H); otherwise there is one cell, and they are (B, H).
    """

    def __init__(
        self,
        cell: Cell[S],
        placement: Placement,
        I: int,
        widths: list[tuple[int, ...]],
        suffixes: list[str],
        *,
        directions: int = 1,
        batch_first: bool = False,
        stacked: bool = True,
    ) -> None:
        self.cell, self.placement, self.I, self.widths = cell, placement, I, widths
        self.suffixes, self.D, self.cells = suffixes, directions, len(suffixes)
        self.batch_first, self.stacked = batch_first, stacked
        self.xp, self.state_type = placement.backend.xp, cell.state_type
        #: the placement that gradients must have
        self.outputs = placement.called("the output")
        #: makes a tuple the named tuple; as a built-in it is faster than a call of Python code
        self.as_named: Callable[[State], S] = partial(tuple.__new__, cell.state_type)
        #: the size of the outputs
        self.n = directions * widths[-1][0]
        #: for each state whether it has the same width in all cells
        self.even = [len(set(sizes)) == 1 for sizes in zip(*widths, strict=True)]
        self._specs: dict[int, tuple[tuple[int, ...], list[StateSpec]]] = {}
        #: for each cell the functions that select its parts of a user's state
        self._parts = [
            [itemgetter((n, ...) if even else n) for even in self.even] for n in range(self.cells)
        ]
        self._all_even = all(self.even)
        h = cell.width_letters[0]
        #: the size of the outputs in letters
        self._units = f"D·{h}" if stacked else h

    def __reduce__(self) -> Any:
        how: Any = {"directions": self.D, "batch_first": self.batch_first, "stacked": self.stacked}
        given = (self.cell, self.placement, self.I, self.widths, self.suffixes)
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
        n, units = self.n, self._units
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
            shape, specs = self._specs.get(B) or self._new_specs(B)
            if state is None and shape:
                return tuple([placement.zeros(shape) for _ in specs])
            if type(state) is self.state_type and placement.all_fit(state, shape):
                return state
            return accept_state(self.cell, what, state, placement, specs)
        parts = accept_state(self.cell, what, state, placement, self._specs_of((), ""))
        return tuple([each_array(_with_batch, part) for part in parts])

    def split(self, parts: State) -> list[State]:
        """The parts of a user's state as one state for each cell, with parts (B, H)."""
        if not self.stacked:
            return [parts]
        if self._all_even:  # as below, with fewer calls: every step of several layers passes here
            return [tuple(map(selectors[0], parts)) for selectors in self._parts]
        return [
            tuple([select(part) for select, part in zip(selectors, parts, strict=True)])
            for selectors in self._parts
        ]

    def joined(self, states: list[State]) -> State:
        """The inverse of `split`: the states of all cells in the user's shape, with an axis B."""
        if not self.stacked:
            return states[0]
        if len(states) == 1:
            return tuple(map(_with_axis, states[0]))
        if self._all_even:
            return tuple(map(self.xp.stack, zip(*states, strict=True)))
        parts = zip(self.even, zip(*states, strict=True), strict=True)
        return tuple([self.xp.stack(part) if even else part for even, part in parts])

    def lengthened(self, a: Array, T: int) -> Array:
        """An array (T', B, n) as one of T steps, which is 0 at those that it lacks."""
        steps, B, n = a.shape
        if steps == T:
            return a
        return self.xp.concat([a, self.placement.zeros((T - steps, B, n))])

    def to_user(self, a: Array, unbatched: bool) -> Array:
        """An array (T, B, n) with its axes in the user's order."""
        if unbatched:
            return a[:, 0, :]
        return self._swapped(a) if self.batch_first else a

    def to_user_state(self, parts: State, unbatched: bool) -> S:
        """Parts with an axis B as the named tuple that is returned to the user."""
        if unbatched:
            parts = tuple([each_array(_without_batch, part) for part in parts])
        return self.as_named(parts)

    def _swapped(self, a: Array) -> Array:
        return self.xp.permute_dims(a, (1, 0, 2))

    def _new_specs(self, B: int) -> tuple[tuple[int, ...], list[StateSpec]]:
        """What the parts of a state of B sequences must be, after the shape of all parts; this is
        () where they have different ones."""
        if len(self._specs) >= REMEMBERED:
            self._specs.clear()
        specs = self._specs_of((B,), "B, ")
        shapes = {one.shape if isinstance(one, Spec) else () for one in specs}
        self._specs[B] = (shapes.pop() if len(shapes) == 1 else ()), specs
        return self._specs[B]

    def _specs_of(self, batch: tuple[int, ...], B: str) -> list[StateSpec]:
        """The same for the given axes, in numbers and letters, between L·D and H."""
        specs: list[StateSpec] = []
        widths = zip(*self.widths, strict=True)
        for letter, even, sizes in zip(self.cell.width_letters, self.even, widths, strict=True):
            if self.stacked and even:
                specs.append(Spec((self.cells, *batch, sizes[0]), f"(L·D, {B}{letter})"))
                continue
            letters = f"({B}{letter})" if batch else f"({letter},)"
            alone = [Spec((*batch, n), letters) for n in sizes]
            specs.append(alone if self.stacked else alone[0])
        return specs


def each_array(change: Callable[[Array], Array], part: Any) -> Any:
    """A part of a state with a change to its array, or to each of its arrays."""
    return tuple(map(change, part)) if isinstance(part, tuple) else change(part)
