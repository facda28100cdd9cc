"""The tape: what a forward pass keeps for the backward pass; and that backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from xrnn.cells.base import Cell
from xrnn.engine import per_sample, segments
from xrnn.engine.axes import Axes
from xrnn.engine.bound_cell import BoundCell, Pass
from xrnn.engine.checkpoint import Run
from xrnn.engine.checks import check_real
from xrnn.engine.parameters import Parameters
from xrnn.engine.per_sample import PerSample
from xrnn.engine.timeline import Timeline
from xrnn.recurrence.precision import rounded_sum
from xrnn.typing import Array, GivenState, S, State


@dataclass(frozen=True, eq=False, repr=False)
class Tape(Generic[S]):
    """What backward needs, made by `xrnn.unroll` and `Layer.forward`.

    Pass it to `xrnn.unroll_backward`, `Layer.backward` or `xrnn.analysis`; its attributes are not
    a public interface.  It refers to the inputs and states of the forward pass without copying
    them, so do not change these arrays in place before backward.  If the weights of a layer have
    been assigned to since, backward raises an error; so it does if weights that `xrnn.unroll` was
    given have been changed in place, on the CPU.

    A deep copy or a pickle of a tape takes a copy of its layer along, as `owner`, and only that
    layer serves it: copy or pickle both together, as ``(layer, tape)``.  The forward pass is
    computed again there, from the inputs, states and weights of this one.
    """

    axes: Axes[S]
    #: the cells that ran
    cells: list[BoundCell]
    #: what was kept of them: one run, or one for each group of the timeline
    runs: list[Run]
    #: T and B of the inputs
    sizes: tuple[int, int]
    #: how many steps ran: no sequence is longer
    steps: int
    #: the segments that ran, the groups of them one after the other; None: whole sequences
    timeline: Timeline | None
    #: which parts of the first state were the learned initial ones; () if none are learned
    absent: tuple[bool, ...]
    #: whether the inputs were one sequence, without an axis B
    unbatched: bool
    #: the layer that made the tape, its parameters and their version then.  For `xrnn.unroll`
    #: there is no layer, and the version is `BoundCell.fingerprint`
    owner: Any
    parameters: Parameters | None
    version: Any

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.owner is None:
            # The passes have run again, on copies of the weights.
            self.__dict__["version"] = self.cells[0].fingerprint()

    def check_unchanged(self) -> None:
        """Raise ValueError if the weights are not as they were in the forward pass."""
        if self.owner is not None:
            self.owner.check_unchanged(self.parameters, self.version)
        elif self.cells[0].fingerprint() != self.version:
            raise ValueError(
                f"{self.cell.name}: the weights have changed since the forward pass that made this "
                "tape, in place; run unroll again, and backward before the next update"
            )

    @property
    def cell(self) -> Cell[S]:
        """The cell that ran."""
        return self.axes.cell

    @property
    def passes(self) -> list[Pass]:
        """The passes of all cells, those of one run after the other; ValueError if the tape was
        made with `checkpoint`."""
        return [one for run in self.runs for one in run.passes]

    @property
    def masks(self) -> list[Array]:
        """The dropout masks, in the same way."""
        return [mask for run in self.runs for mask in run.masks]

    def __repr__(self) -> str:
        T, B = self.sizes
        few = sum(run.few for run in self.runs)
        held = f"; of each cell only {few} states are held" if few else ""
        return f"<tape of {self.cell.name}: T, B, I = {T}, {B}, {self.axes.I}{held}>"

    def backward(
        self,
        dys: Array | None,
        dstate: GivenState | None,
        omit_dxs: bool = False,
        each: PerSample | None = None,
    ) -> tuple[Array, S, dict[str, Array]]:
        """The gradients of all arguments of the forward pass: dxs, dstate, dweights.

        With `omit_dxs` the gradient of the inputs is None; where segments ran it is computed.  With
        `each` those of the weights, or their norms, are given for each sequence.
        """
        axes = self.axes
        given, dlasts = self.gradients_given(dys, dstate)
        if each is not None:
            dxs, dfirsts, dweights = per_sample.backward(self, given, dlasts, each)
            first = axes.to_user_state(axes.joined(dfirsts), self.unbatched)
            return None if omit_dxs else self.to_user(dxs), first, dweights
        parts, omitted = self.gradients_of_runs(given, dlasts), omit_dxs and not self.timeline
        found = [run.backward(*one, omitted) for run, one in zip(self.runs, parts, strict=True)]
        starts: list[State] | None = None
        if self.timeline is None:
            (gradients,) = found
        else:
            gradients, starts = segments.joined(self.timeline, self.cells, found, dlasts)
        dfirst = axes.joined([one[1] for one in gradients])
        dweights = self.named([one[2] for one in gradients])
        if self.absent:
            dweights |= self._of_initial_state([one[1] for one in gradients], starts)
        dxs = None if omit_dxs else self.to_user(gradients[0][0])
        return dxs, axes.to_user_state(dfirst, self.unbatched), dweights

    def gradients_of_runs(
        self, dys: Array | None, dlasts: list[State]
    ) -> list[tuple[Array | None, list[State]]]:
        """The gradients of the outputs and last states of each run."""
        if self.timeline is None:
            return [(dys, dlasts)]
        return segments.given(self.timeline, self.cells, self.axes.D, dys, dlasts)

    def _of_initial_state(
        self, dfirsts: list[State], starts: list[State] | None
    ) -> dict[str, Array]:
        """The gradients of the learned initial state: the sum over the sequences that had it, and
        what has come from resets."""
        xp, found = self.axes.xp, {}
        for n, (suffix, dfirst) in enumerate(zip(self.axes.suffixes, dfirsts, strict=True)):
            for k, name in enumerate(self.cell.states):
                total = self.axes.placement.zeros(dfirst[k].shape[1:])
                if self.absent[k]:
                    total = rounded_sum(dfirst[k], axis=0, xp=xp)
                if starts is not None:
                    total = total + starts[n][k]
                found[f"{name}0{suffix}"] = total
        return found

    def gradients_given(
        self, dys: Array | None, dstate: GivenState | None
    ) -> tuple[Array | None, list[State]]:
        """The checked arguments of `backward`: dys (T', B, D·H) of the T' steps that ran, and a
        dstate for each cell."""
        axes = self.axes
        check_real(axes.cell, axes.placement)
        T, B = self.sizes
        if dys is not None:
            dys = axes.gradient(dys, T, B, self.unbatched)
            dys = dys if self.steps == T else dys[: self.steps, ...]
        parts = axes.state("dstate", dstate, B, self.unbatched, axes.outputs)
        return dys, axes.split(parts)

    def named(self, found: list[dict[str, Array]]) -> dict[str, Array]:
        """The dicts of all passes as one dict; for a layer ``f`` becomes ``f_l0`` and so on."""
        parts = zip(self.axes.suffixes, found, strict=True)
        return {f"{name}{suffix}": a for suffix, part in parts for name, a in part.items()}

    def over_runs(self, found: list[dict[str, Array]]) -> list[dict[str, Array]]:
        """Values (T', B', n) by name from each pass of each run, as those of each cell over all
        steps, (T, B, n)."""
        if self.timeline is None:
            return found
        timeline, C, xp = self.timeline, self.axes.cells, self.axes.xp
        return [
            {
                name: segments.spread(timeline, [run[name] for run in found[n::C]], xp=xp)
                for name in found[n]
            }
            for n in range(C)
        ]

    def to_user(self, a: Array) -> Array:
        """An array (T', B, n) of the steps that ran, as one of all steps with its axes in the
        user's order."""
        return self.axes.to_user(self.axes.lengthened(a, self.sizes[0]), self.unbatched)


def check_made_by(layer: Any, tape: Any) -> None:
    """Raise an error unless the layer made the tape, and its weights are as they were then."""
    name = layer.cell.name
    if not isinstance(tape, Tape):
        raise TypeError(
            f"{name}: tape is a {type(tape).__name__}; it must be the tape that forward returned"
        )
    if tape.owner is not layer:
        by = "another layer; give one that forward of this layer returned"
        if tape.owner is None:
            by = "xrnn.unroll; use xrnn.unroll_backward"
        raise ValueError(f"{name}: the tape was made by {by}")
    tape.check_unchanged()
