"""Parameters, options and kernels bound together; every way to run a layer or a cell uses this."""

from __future__ import annotations

from functools import partial
from typing import Any, Generic

from xrnn.cells.base import Cell
from xrnn.engine import checkpoint as runs
from xrnn.engine import segments
from xrnn.engine import stack as stacks
from xrnn.engine.axes import Axes, each_array
from xrnn.engine.bound_cell import REMEMBERED, BoundCell, Stepper
from xrnn.engine.checkpoint import DrawsOfStretches, Run, accept_checkpoint
from xrnn.engine.checks import accept_lengths
from xrnn.engine.compact import Made
from xrnn.engine.parameters import Parameters, check_trainable
from xrnn.engine.stack import Stack
from xrnn.engine.states import state_parts
from xrnn.engine.tape import Tape
from xrnn.engine.timeline import MASKED, Timeline, accept_steps, is_hold, plan
from xrnn.recurrence.masks import apply_mask, select_state
from xrnn.typing import Array, GivenState, Precision, S, State, Weights

#: the form of compact weights → the precision of the kernels that take them
PRECISION = {"int8": "int8", "bfloat16": "bf16"}


class Bound(Generic[S]):
    """Cells that are ready to run: their weights are checked, and choices of kernels are kept.

    Parameters
    ----------
    axes : Axes
        The order of axes in the user's arrays.
    stack : Stack
        The bound cells, for each layer those of its directions.
    parameters : Parameters, optional
        The parameters of a layer; the cells hold their values.
    version : int, or for `xrnn.unroll` a tuple
        The version of those values.  It is read before them, so that what another thread assigns
        in between is seen by the next pass.  Without `parameters`: the fingerprint of the cell.
    initial : list of tuple of array, optional
        The learned initial state of each cell, with parts (n,).  Default: zeros.
    """

    def __init__(
        self,
        axes: Axes[S],
        stack: Stack,
        parameters: Parameters | None = None,
        version: Any = 0,
        initial: list[State] | None = None,
    ) -> None:
        self.axes, self.stack, self.initial = axes, stack, initial
        self.parameters, self.version = parameters, version
        self._cells = [cell for directions in stack for cell in directions]
        self._steppers: dict[int, tuple[Stepper | None, list[Stepper]]] = {}

    def forward(
        self,
        xs: Array,
        state: GivenState | None,
        lengths: Any,
        *,
        mask: Any = None,
        masked: Any = MASKED[0],
        resets: Any = None,
        keep: bool,
        random: DrawsOfStretches | None = None,
        checkpoint: Any = None,
        owner: Any = None,
    ) -> tuple[Array, S, Tape[S] | None]:
        """Check the arguments and run sequences; with ``keep=False`` there is no tape.

        `checkpoint` is that of `xrnn.unroll`, not yet checked; `random` gives the random numbers;
        `owner` is the layer that the tape belongs to, None for `xrnn.unroll`.
        """
        axes = self.axes
        if keep and self.parameters is not None:
            check_trainable(self.parameters)
        xs, unbatched = axes.inputs("xs", xs, 3)
        parts = axes.state("state", state, xs.shape[1], unbatched, axes.placement)
        if self.initial is not None:
            parts = self._filled(parts, state)
        if checkpoint is not None:
            checkpoint = accept_checkpoint(axes.cell.name, checkpoint)
        # The default is told by its identity: an array would be compared element by element.
        hold = masked is not MASKED[0] and is_hold(axes.cell.name, masked)
        timeline = None
        if lengths is not None or mask is not None or resets is not None:
            timeline = self._planned(xs.shape, lengths, mask, resets, hold, unbatched)
        elif not keep:
            ys, last = self._inference(xs, parts, None)
            return axes.to_user(ys, unbatched), axes.to_user_state(last, unbatched), None
        how: Any = {"random": random, "keep": keep, "checkpoint": checkpoint}
        T, B = xs.shape[:2]
        steps = T
        if isinstance(timeline, Timeline):
            ys, last, kept = self._segments(xs, parts, timeline, **how)
        else:
            if timeline is not None and T * B:
                steps = _steps_to_run(T, timeline)
            part = xs if steps == T else xs[:steps, ...]
            ys, last, kept = self._sequences(part, parts, timeline, **how)
            ys, timeline = axes.lengthened(ys, T), None
        tape = None
        if keep:
            ys, absent = axes.placement.backend.read_only(ys), self._absent(state)
            mine = (timeline, absent, unbatched, owner, self.parameters, self.version)
            tape = Tape(axes, self._cells, kept, (T, B), steps, *mine)
        return axes.to_user(ys, unbatched), axes.to_user_state(last, unbatched), tape

    def _planned(
        self,
        shape: tuple[int, ...],
        lengths: Any,
        mask: Any,
        resets: Any,
        hold: bool,
        unbatched: bool,
    ) -> Timeline | Array | None:
        """The steps to run, after all checks: a timeline, lengths (B,) on the host, or all."""
        (T, B, _), axes, kind = shape, self.axes, self.axes.cell.name
        if lengths is not None:
            if unbatched:
                raise ValueError(f"{kind}: lengths are of a batch; cut the one sequence instead")
            lengths = accept_lengths(lengths, T, B)
        how: Any = {"batch_first": axes.batch_first, "unbatched": unbatched}
        if mask is not None:
            mask = accept_steps(kind, "mask", mask, T, B, **how)
        if resets is not None:
            resets = accept_steps(kind, "resets", resets, T, B, **how)
        if T * B == 0 or (mask is None and resets is None):
            return lengths
        return plan(T, B, lengths, mask, resets, hold)

    def _sequences(
        self, xs: Array, parts: State, lengths: Array | None, *, keep: bool, **how: Any
    ) -> tuple[Array, State, list[Run]]:
        """Run whole sequences: the outputs, the parts of the last state, and what is kept."""
        axes, active, given = self.axes, None, parts
        if lengths is not None:
            some = lengths > 0
            active = None if some.all() else axes.placement.moved(some[:, None])
            lengths = axes.placement.moved(lengths)
        if active is not None:
            # Whatever the state of a sequence without a step holds, NaN included, must not reach
            # a sum.
            valid = partial(apply_mask, active, xp=axes.xp)
            parts = tuple([each_array(valid, part) for part in given])
        kept: list[Run] = []
        if keep:
            firsts = axes.split(parts)
            ys, lasts, run = runs.forward(self.stack, xs, firsts, lengths, keep=True, **how)
            assert run is not None
            last = axes.joined(lasts)
            kept.append(run)
        else:
            ys, last = self._inference(xs, parts, lengths)
        if active is not None:
            pairs = zip(axes.split(last), axes.split(given), strict=True)
            last = axes.joined([self._kept(active, *pair) for pair in pairs])
        return ys, last, kept

    def _segments(
        self, xs: Array, parts: State, timeline: Timeline, **how: Any
    ) -> tuple[Array, State, list[Run]]:
        """The same for the segments of a timeline."""
        axes, initial = self.axes, self.initial
        if initial is None:
            zeros = axes.placement.zeros
            initial = [tuple([zeros((n,)) for n in widths]) for widths in axes.widths]
        ys, lasts, kept = segments.forward(
            self.stack, timeline, xs, axes.split(parts), initial, **how
        )
        return ys, axes.joined(lasts), kept

    def initial_state(self, B: int) -> S:
        """The initial state of B sequences, learned or zeros."""
        axes, zeros = self.axes, self.axes.placement.zeros
        if self.initial is None:
            return axes.as_named(axes.state("state", None, B, False, axes.placement))
        states = [tuple([zeros((B, *n.shape)) + n for n in state]) for state in self.initial]
        return axes.as_named(axes.joined(states))

    def _filled(self, parts: State, state: GivenState | None) -> State:
        """The checked parts of a state, where None was given those of the initial state."""
        absent = self._absent(state)
        if not any(absent):
            return parts
        some = parts[0][0] if isinstance(parts[0], tuple) else parts[0]
        own = zip(self.initial_state(some.shape[-2]), parts, absent, strict=True)
        return tuple([mine if missing else part for mine, part, missing in own])

    def _absent(self, state: GivenState | None) -> tuple[bool, ...]:
        """Which parts of a state are the learned initial ones; () if none are learned."""
        if self.initial is None:
            return ()
        return tuple([p is None for p in state_parts(self.axes.cell, "state", state)])

    def step(self, x: Array, state: GivenState | None) -> tuple[Array, S]:
        """Check the arguments and run one time step of every layer (which has one direction)."""
        axes = self.axes
        x, unbatched = axes.inputs("x", x, 2)
        parts = axes.state("state", state, x.shape[0], unbatched, axes.placement)
        if self.initial is not None:
            parts = self._filled(parts, state)
        y, last = self._step(x, parts)
        if unbatched:
            return y[0, :], axes.to_user_state(last, unbatched)
        return y, axes.as_named(last)

    def path(self, T: int, B: int) -> dict[str, str]:
        """The name of the kernel that runs T steps of B sequences, for each cell."""
        return {
            suffix: cell.kernel(T, B).path(T, B, cell.I, cell.H)
            for suffix, cell in zip(self.axes.suffixes, self._cells, strict=True)
        }

    def _kept(self, active: Array, new: State, old: State) -> State:
        """The new state of a cell where `active` (B, 1) is True, else the old one."""
        xp, kept = self.axes.xp, select_state(active, new, old, xp=self.axes.xp)
        # The dtype as in `apply_mask`.
        return tuple([xp.astype(s, self.axes.placement.dtype, copy=False) for s in kept])

    def _inference(self, xs: Array, parts: State, lengths: Array | None) -> tuple[Array, State]:
        """The outputs, and the parts of the last state, where nothing is kept."""
        axes, (T, B, _) = self.axes, xs.shape
        if axes.cells == 1 and axes.stacked:
            if T == 1 and lengths is None:
                return self._step(xs, parts)
            ((cell,),) = self.stack
            kernel = cell.kernel(T, B)
            if kernel.stepping is not None:
                # It takes the state in the user's shape: nothing is split, nothing joined.
                weights, xp = cell.weights_for(kernel), cell.xp
                ys, last, _ = kernel.sequence.forward(
                    weights, xs, parts, lengths=lengths, reverse=cell.reverse, keep=False, xp=xp
                )
                return ys, last
        ys, lasts, _, _ = stacks.forward(self.stack, xs, axes.split(parts), lengths, keep=False)
        return ys, axes.joined(lasts)

    def _step(self, x: Array, parts: State) -> tuple[Array, State]:
        """One step of x (B, I) or (1, B, I): the output, with the same axes, and the parts of
        the state after it."""
        axes, B, alone = self.axes, x.shape[-2], x.ndim == 2
        single, steppers = self._steppers.get(B) or self._new_steppers(B)
        if single is not None:
            last = single(x, parts)
            y = last[0][0, ...] if alone else last[0]
        else:
            lasts, y = [], x if alone else x[0, ...]
            for stepper, first in zip(steppers, axes.split(parts), strict=True):
                lasts.append(stepper(y, first))
                y = lasts[-1][0]
            y, last = y if alone else y[None, ...], axes.joined(lasts)
        # A copy, so that a change of y in place does not change the state.
        return axes.xp.asarray(y, copy=True), last

    def _new_steppers(self, B: int) -> tuple[Stepper | None, list[Stepper]]:
        """The functions that run one step of B sequences.

        The second result has one function for each cell.  The first is a shortcut for a single
        cell whose kernel has single steps: it takes the parts of the state in the user's shape,
        (1, B, H).  Otherwise it is None.
        """
        cells = [cell for (cell,) in self.stack]
        found = [cell.stepper(B) for cell in cells]
        steppers = [s or cell.step for s, cell in zip(found, cells, strict=True)]
        both = (found[0] if len(cells) == 1 else None), steppers
        if all(cell.settled(1, B) for cell in cells):
            if len(self._steppers) >= REMEMBERED:
                self._steppers.clear()
            self._steppers[B] = both
        return both


def bind(
    cell: Cell[S],
    parameters: Parameters,
    suffixes: list[tuple[str, ...]],
    old: Bound[S] | None,
    *,
    bias: bool,
    reverse: bool,
    batch_first: bool,
    learn_state: bool,
    precision: Precision,
) -> Bound[S]:
    """Bind a layer to the present values of its parameters.

    `suffixes` are, for each layer, the endings of the weights' names in each direction.  If `old`
    was bound to the same parameters, its choices of kernels are kept, and only the values of the
    weights are replaced.
    """
    version, flat = parameters.version, [suffix for names in suffixes for suffix in names]
    initial: list[State] | None = None
    if learn_state:
        states = cell.states
        initial = [tuple([parameters[f"{name}0{suffix}"] for name in states]) for suffix in flat]
    if old is not None and old.parameters is parameters:
        stack = [
            tuple(
                one.rebound({**one.weights, **_values(parameters, suffix, one.given)})
                for one, suffix in zip(directions, names, strict=True)
            )
            for directions, names in zip(old.stack, suffixes, strict=True)
        ]
        return Bound(old.axes, stack, parameters, version, initial)
    placement, given = parameters.placement, tuple(cell.shapes(1, 1, bias))
    stack = []
    for names in suffixes:
        cells = []
        for suffix, way in zip(names, (reverse, True), strict=False):
            rows, I = parameters.specs[f"W{suffix}"].shape
            shapes = cell.shapes(I, rows // len(cell.gates))
            rest = {k: placement.zeros(n) for k, n in shapes.items() if k not in given}
            weights: Weights
            if parameters.form == "bfloat16":
                weights = Made(parameters, suffix, given, rest)
            else:
                weights = _values(parameters, suffix, given) | rest
            how: Any = {"given": given, "precision": PRECISION.get(parameters.form, precision)}
            how |= {"reverse": way, "frozen": parameters.frozen}
            cells.append(BoundCell(cell, weights, placement, **how))
        stack.append(tuple(cells))
    one, D = stack[0][0], len(suffixes[0])
    widths = [one.widths for cells in stack for one in cells]
    axes = Axes(cell, placement, one.I, widths, flat, directions=D, batch_first=batch_first)
    return Bound(axes, stack, parameters, version, initial)


def _steps_to_run(T: int, lengths: Array) -> int:
    """All T; or fewer, if at least an eighth of them lies behind the longest sequence, where all
    results are 0: so much is worth a copy of the outputs."""
    longest = max(1, int(lengths.max()))
    return longest if 8 * longest <= 7 * T else T


def _values(parameters: Parameters, suffix: str, given: tuple[str, ...]) -> dict[str, Array]:
    """The present weights of one cell."""
    return {name: parameters.operand(f"{name}{suffix}") for name in given}
