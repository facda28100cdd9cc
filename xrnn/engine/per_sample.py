"""The backward pass that tells the gradients of the weights for each sequence of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from xrnn.backends import host
from xrnn.engine import segments, stack
from xrnn.engine.bound_cell import Pass
from xrnn.recurrence import per_sample
from xrnn.recurrence.precision import cast
from xrnn.typing import Array, Contribution, State

if TYPE_CHECKING:
    from xrnn.engine.tape import Tape

PerSample = Literal["gradients", "norms"]


@host.ignore_underflow
def backward(
    tape: Tape[Any], dys: Array | None, dlasts: list[State], how: PerSample
) -> tuple[Array, list[State], dict[str, Array]]:
    """As `Tape.backward`, but with checked arguments: dxs (T, B, I), the gradients of the first
    states, and for each weight its gradient for each sequence, (B, …), or the norms of these."""

    def parts(passes: list[Pass], ds: list[Any], lasts: list[State], omitted: bool) -> list[Any]:
        return [one.contributions(*given) for one, *given in zip(passes, ds, lasts, strict=True)]

    timeline, D = tape.timeline, tape.axes.D
    if timeline is None:
        gradients = stack.backward(tape.passes, tape.masks, D, dys, dlasts, parts)
        pairs = zip(tape.passes, gradients, strict=True)
        found, starts = [_reduced(one, given[2], how) for one, given in pairs], None
    else:
        runs = [
            stack.backward(passes, masks, D, ds, lasts, parts)
            for passes, masks, ds, lasts in tape.runs(dys, dlasts)
        ]
        plain = [[(*one[:2], {}) for one in run] for run in runs]
        gradients, _ = segments.joined(timeline, tape.passes, plain, dlasts)
        starts = segments.starts_of_each(timeline, tape.passes, plain, dlasts)
        xp, found = tape.axes.xp, []
        for n, one in enumerate(tape.passes[: tape.axes.cells]):
            several = [run[n][2] for run in runs]
            whole = {
                name: _whole([part[name] for part in several], timeline, xp) for name in several[0]
            }
            found.append(_reduced(one, whole, how))
    dfirsts = [one[1] for one in gradients]
    dweights = tape.named(found)
    if tape.absent:
        dweights |= _of_initial_state(tape, dfirsts, starts, how)
    return gradients[0][0], dfirsts, dweights


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
