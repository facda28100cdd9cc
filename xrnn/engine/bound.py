"""Parameters, options and kernels bound together: the one way to run a layer or a cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, Generic

from xrnn.cells.base import Cell
from xrnn.engine import stack as stacks
from xrnn.engine.cell_pass import Stepper
from xrnn.engine.checks import Home, check_real, take_lengths, take_state
from xrnn.engine.parameters import Parameters
from xrnn.engine.stack import Mask, Stack
from xrnn.engine.tape import Tape
from xrnn.typing import Array, GivenState, S, State

#: a state (B, H) as that of one cell (1, B, H)
_with_axis = itemgetter((None, ...))


class Bound(Generic[S]):
    """Cells whose weights are checked, whose kernels are chosen once, ready to run.

    Parameters
    ----------
    cell : Cell
    stack : Stack
        The bound cells, for each layer those of its directions.
    home : Home
        Where their weights are.
    suffixes : list of str
        What the names of each cell's weights end in.
    batch_first : bool
        Whether sequences come as (B, T, …).
    stacked : bool
        Whether parts of states are (L·D, B, H); else there is one cell, and they are (B, H).
    owner : Layer, optional
        The layer whose cells they are.
    parameters : Parameters, optional
        Whose values the cells hold.
    """

    def __init__(
        self,
        cell: Cell[S],
        stack: Stack,
        home: Home,
        suffixes: list[str],
        *,
        batch_first: bool = False,
        stacked: bool = True,
        owner: Any = None,
        parameters: Parameters | None = None,
    ) -> None:
        self.cell, self.stack, self.home, self.suffixes = cell, stack, home, suffixes
        self.batch_first, self.stacked = batch_first, stacked
        self.owner, self.parameters = owner, parameters
        self.version = parameters.version if parameters else 0
        self.xp, self.state_type = home.backend.xp, cell.state_type
        #: a tuple as the named tuple, without a call of Python code
        self._named: Callable[[State], S] = partial(tuple.__new__, cell.state_type)
        self.outputs = home.called("the output")
        self.I, self.H = stack[0][0].I, stack[0][0].H
        self.D, self.cells = len(stack[0]), len(suffixes)
        self._steppers: dict[int, tuple[Stepper | None, list[Stepper]]] = {}
        self._shapes: dict[int, tuple[tuple[int, ...], str]] = {}
        #: what takes the part of each cell out of an array (L·D, …)
        self._parts = [itemgetter((n, ...)) for n in range(self.cells)]

    def forward(
        self,
        xs: Array,
        state: GivenState | None,
        lengths: Any,
        *,
        keep: bool,
        mask: Mask | None = None,
    ) -> tuple[Array, S, Tape | None]:
        """Run sequences; with ``keep=False`` there is no tape."""
        xs, unbatched = self._inputs("xs", xs, 3)
        T, B, _ = xs.shape
        parts = self._taken("state", state, B, unbatched, self.home)
        if lengths is not None:
            if unbatched:
                raise ValueError(
                    f"{self.cell.name}: lengths are of a batch; cut the one sequence instead"
                )
            lengths = take_lengths(lengths, T, B, self.home)
        tape = None
        if T == 1 and self.D == 1 and self.stacked and lengths is None and not keep:
            ys, last = self._step(xs, parts)
        else:
            ys, lasts, passes, masks = stacks.forward(
                self.stack, xs, self._split(parts), lengths, mask=mask, keep=keep
            )
            last = self._joined(lasts)
        if keep:
            ys, tape = self.home.backend.read_only(ys), Tape(self, passes, masks, unbatched)
        if unbatched or self.batch_first:
            ys = self.to_user(ys, unbatched)
        return ys, self._to_user_state(last, unbatched), tape

    def backward(
        self, tape: Tape, dys: Array | None, dstate: GivenState | None
    ) -> tuple[Array, S, dict[str, Array]]:
        """The gradients of all that `forward` was given."""
        dys, dlasts = self.gradients_given(tape, dys, dstate)
        found = stacks.backward(tape.passes, tape.masks, self.D, dys, dlasts)
        dfirst = self._joined([dfirst for _, dfirst, _ in found])
        dstate_first = self._to_user_state(dfirst, tape.unbatched)
        return tape.to_user(found[0][0]), dstate_first, tape.named([dw for _, _, dw in found])

    def gradients_given(
        self, tape: Tape, dys: Array | None, dstate: GivenState | None
    ) -> tuple[Array | None, list[State]]:
        """What `backward` is given, checked: dys (T, B, D·H), and a dstate for each cell."""
        check_real(self.cell, self.home)
        T, B, _ = tape.passes[0].xs.shape
        if dys is not None:
            n = self.D * self.H
            units = "D·H" if self.stacked else "H"
            shape: tuple[int, ...]
            if tape.unbatched:
                shape, letters = (T, n), f"(T, {units})"
            elif self.batch_first:
                shape, letters = (B, T, n), f"(B, T, {units})"
            else:
                shape, letters = (T, B, n), f"(T, B, {units})"
            dys = self._time_first(self.outputs.take_shaped("dys", dys, shape, letters))
        return dys, self._split(self._taken("dstate", dstate, B, tape.unbatched, self.outputs))

    def step(self, x: Array, state: GivenState | None) -> tuple[Array, S]:
        """One time step of every layer, each in one direction."""
        x, unbatched = self._inputs("x", x, 2)
        parts = self._taken("state", state, x.shape[0], unbatched, self.home)
        y, last = self._step(x, parts)
        if unbatched:
            return y[0, :], self._to_user_state(last, unbatched)
        return y, self._named(last)

    def _step(self, x: Array, parts: State) -> tuple[Array, State]:
        """One step of x (B, I) or (1, B, I): the output with as many axes, and the parts of the
        state after it."""
        B, alone = x.shape[-2], x.ndim == 2
        single, steppers = self._steppers.get(B) or self._new_steppers(B)
        if single is not None:
            last = single(x, parts)
            y = last[0][0, ...] if alone else last[0]
        else:
            lasts, y = [], x if alone else x[0, ...]
            for stepper, first in zip(steppers, self._split(parts), strict=True):
                lasts.append(stepper(y, first))
                y = lasts[-1][0]
            y, last = y if alone else y[None, ...], self._joined(lasts)
        # A copy: what is done to y must not reach the state.
        return self.xp.asarray(y, copy=True), last

    def _new_steppers(self, B: int) -> tuple[Stepper | None, list[Stepper]]:
        """What runs one step of B sequences, for each cell; and first, where there is one cell
        and a kernel with single steps, what takes the parts of the state as the user has them."""
        cells = [cell for (cell,) in self.stack]
        found = [cell.stepper(B) for cell in cells]
        steppers = [s or cell.step for s, cell in zip(found, cells, strict=True)]
        self._steppers[B] = (found[0] if self.cells == 1 else None), steppers
        return self._steppers[B]

    def path(self, T: int, B: int) -> dict[str, str]:
        """What runs T steps of B sequences, for each cell."""
        cells = [bound for directions in self.stack for bound in directions]
        return {
            suffix: bound.kernel(T, B).path(T, B, bound.I, bound.H)
            for suffix, bound in zip(self.suffixes, cells, strict=True)
        }

    def to_user(self, a: Array, unbatched: bool) -> Array:
        """(T, B, n) with the axes that the user gave."""
        if unbatched:
            return a[:, 0, :]
        return self._swapped(a) if self.batch_first else a

    def _inputs(self, name: str, x: Array, axes: int) -> tuple[Array, bool]:
        """The input, checked, time first and with an axis B; and whether it lacked that."""
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

    def _time_first(self, a: Array) -> Array:
        """(T, B, n), from the axes that the user gave."""
        if a.ndim == 2:
            return a[:, None, :]
        return self._swapped(a) if self.batch_first else a

    def _swapped(self, a: Array) -> Array:
        return self.xp.permute_dims(a, (1, 0, 2))

    def _taken(
        self, what: str, state: GivenState | None, B: int, unbatched: bool, home: Home
    ) -> State:
        """The parts of a state as the user has them, checked, but with an axis B."""
        if not unbatched:
            shape, letters = self._shapes.get(B) or self._new_shape(B)
            if type(state) is self.state_type and home.all_fit(state, shape):
                return state
            return take_state(self.cell, what, state, home, shape, letters)
        alone = ((self.cells, self.H), "(L·D, H)") if self.stacked else ((self.H,), "(H,)")
        parts = take_state(self.cell, what, state, home, *alone)
        return tuple([s[..., None, :] for s in parts])

    def _new_shape(self, B: int) -> tuple[tuple[int, ...], str]:
        """The shape of the parts of a state of B sequences, in numbers and letters."""
        found = (
            ((self.cells, B, self.H), "(L·D, B, H)") if self.stacked else ((B, self.H), "(B, H)")
        )
        self._shapes[B] = found
        return found

    def _split(self, parts: State) -> list[State]:
        """One state for each cell, its parts (B, H)."""
        if not self.stacked:
            return [parts]
        return [tuple(map(part, parts)) for part in self._parts]

    def _joined(self, states: list[State]) -> State:
        """The states of all cells as the parts that the user has, but with an axis B."""
        if not self.stacked:
            return states[0]
        if len(states) == 1:
            return tuple(map(_with_axis, states[0]))
        return tuple(map(self.xp.stack, zip(*states, strict=True)))

    def _to_user_state(self, parts: State, unbatched: bool) -> S:
        if unbatched:
            parts = tuple([s[..., 0, :] for s in parts])
        return self._named(parts)
