"""The backward pass that tells the gradients of the weights for each sequence of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from xrnn.backends import host
from xrnn.engine import segments, stack
from xrnn.engine.bound_cell import BoundCell, Pass
from xrnn.engine.checks import check_choice
from xrnn.engine.timeline import Timeline
from xrnn.recurrence import per_sample
from xrnn.recurrence.precision import cast
from xrnn.typing import Array, Contribution, Gradients, State

if TYPE_CHECKING:
    from xrnn.engine.tape import Tape

PerSample = Literal["gradients", "norms"]


@host.ignore_underflow
def backward(
    tape: Tape[Any], dys: Array | None, dlasts: list[State], how: PerSample
) -> tuple[Array, list[State], dict[str, Array]]:
    """As `Tape.backward`, but with checked arguments: dxs (T, B, I), the gradients of the first
    states, and for each weight its gradient for each sequence, (B, …), or the norms of these."""
    check_choice(tape.cell.name, "per_sample", how, (None, "gradients", "norms"))
    cells, starts = tape.cells, None
    if tape.timeline is None:
        (run,) = tape.runs
        gradients = run.backward(dys, dlasts, False, [_OfEach(one, how) for one in cells])
        found = [one[2] for one in gradients]
    else:
        gradients, starts, found = _of_segments(tape, tape.timeline, dys, dlasts, how)
    dfirsts = [one[1] for one in gradients]
    dweights = tape.named(found)
    if tape.absent:
        dweights |= _of_initial_state(tape, dfirsts, starts, how)
    return gradients[0][0], dfirsts, dweights


class _OfEach:
    """Gradients of the weights of one cell for each sequence, or their norms, which are added up
    over stretches: a `xrnn.engine.sums.Adding`."""

    def __init__(self, cell: BoundCell, how: PerSample) -> None:
        self.cell, self.how = cell, how
        #: the contributions of the latest stretch, and the sums of those before it
        self._latest: Mapping[str, Contribution] = {}
        self._sums: dict[str, Array] = {}

    def backward(
        self, one: Pass, dys: Array | None, dlast: State, omit_dxs: bool
    ) -> tuple[Array, State]:
        """As `Adding.backward`."""
        self._close()
        dxs, dfirst, self._latest = one.contributions(dys, dlast)
        return dxs, dfirst

    def total(self, one: Pass) -> dict[str, Array]:
        """As `Adding.total`."""
        if not self._sums:
            return _reduced(one, self._latest, self.how)
        self._close()
        found, xp = one.named(self._sums), self.cell.xp
        if self.how == "norms":
            found = {name: per_sample.norm_of(d, xp=xp) for name, d in found.items()}
        return {name: cast(d, one.xs.dtype, xp=xp) for name, d in found.items()}

    def _close(self) -> None:
        """Add the gradients of the latest stretch to the sums."""
        for name in self.cell.given if self._latest else ():
            shape = tuple(self.cell.weights[name].shape)
            d = per_sample.gradients(self._latest[name], shape, xp=self.cell.xp)
            self._sums[name] = self._sums[name] + d if name in self._sums else d
        self._latest = {}


def _of_segments(
    tape: Tape[Any], timeline: Timeline, dys: Array | None, dlasts: list[State], how: PerSample
) -> tuple[list[Gradients], list[State], list[dict[str, Array]]]:
    """The gradients of each cell but those of its weights, those of its initial state for each
    sequence, and those of its weights."""
    if any(run.few for run in tape.runs):
        raise ValueError(
            f"{tape.cell.name}: per_sample is {how!r}, and the tape was made with checkpoint, and "
            "with resets or a mask; it must be made without one of them: run forward again"
        )

    def parts(passes: list[Pass], ds: list[Any], lasts: list[State], omitted: bool) -> list[Any]:
        return [one.contributions(*given) for one, *given in zip(passes, ds, lasts, strict=True)]

    ends = tape.gradients_of_runs(dys, dlasts)
    runs = [
        stack.backward(run.passes, run.masks, tape.axes.D, *given, parts)
        for run, given in zip(tape.runs, ends, strict=True)
    ]
    plain = [[(*one[:2], {}) for one in run] for run in runs]
    gradients, _ = segments.joined(timeline, tape.cells, plain, dlasts)
    starts = segments.starts_of_each(timeline, tape.cells, plain, dlasts)
    xp, found = tape.axes.xp, []
    for n, one in enumerate(tape.runs[0].passes):
        several = [run[n][2] for run in runs]
        whole = {
            name: _whole([part[name] for part in several], timeline, xp) for name in several[0]
        }
        found.append(_reduced(one, whole, how))
    return gradients, starts, found


def _reduced(one: Pass, parts: Mapping[str, Contribution], how: PerSample) -> dict[str, Array]:
    """The gradients of the weights that were given, or their norms."""
    xp, weights, found = one.bound.xp, one.bound.weights, {}
    over_U = None if one.drawn is None else one.drawn.over_U
    for name in one.bound.given:
        shape = tuple(weights[name].shape)
        if how == "norms" and (name != "U" or over_U is None):
            found[name] = per_sample.norms(parts[name], shape, xp=xp)
            continue
        gradients = per_sample.gradients(parts[name], shape, xp=xp)
        if name == "U" and over_U is not None:
            gradients = gradients * over_U
        found[name] = per_sample.norm_of(gradients, xp=xp) if how == "norms" else gradients
    return {name: cast(a, one.xs.dtype, xp=xp) for name, a in found.items()}


def _whole(parts: list[Contribution], timeline: Any, xp: Any) -> Contribution:
    """Contributions of arrays (T', B', n) of all groups as one of arrays (T, B, n)."""
    if not isinstance(parts[0], tuple):
        return segments.spread(timeline, parts, xp=xp)
    return tuple(
        tuple(
            segments.spread(timeline, list(several), xp=xp) for several in zip(*block, strict=True)
        )
        for block in zip(*parts, strict=True)
    )


def _of_initial_state(
    tape: Tape[Any], dfirsts: list[State], starts: list[State] | None, how: PerSample
) -> dict[str, Array]:
    """The gradients of the learned initial state for each sequence."""
    xp, found = tape.axes.xp, {}
    for n, (suffix, dfirst) in enumerate(zip(tape.axes.suffixes, dfirsts, strict=True)):
        for k, name in enumerate(tape.cell.states):
            total = dfirst[k] if tape.absent[k] else xp.zeros_like(dfirst[k])
            if starts is not None:
                total = total + starts[n][k]
            norm = per_sample.norm_of(total, xp=xp) if how == "norms" else None
            found[f"{name}0{suffix}"] = total if norm is None else cast(norm, total.dtype, xp=xp)
    return found
