"""A stack over the segments of a `xrnn.engine.timeline.Timeline`: the values are moved to the
groups of segments, each group runs as one batch, and the results are moved back.

Every move takes rows of an array by an index, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.noise import Noise
from xrnn.engine import checkpoint as runs
from xrnn.engine.bound_cell import BoundCell
from xrnn.engine.checkpoint import DrawsOfStretches, Run
from xrnn.engine.stack import Stack
from xrnn.engine.timeline import Direction, Group, Timeline
from xrnn.recurrence.precision import rounded_sum
from xrnn.typing import Array, Checkpoint, Gradients, Namespace, State


def forward(
    stack: Stack,
    timeline: Timeline,
    xs: Array,
    firsts: list[State],
    initial: list[State],
    *,
    random: DrawsOfStretches | None,
    keep: bool,
    checkpoint: Checkpoint | None,
) -> tuple[Array, list[State], list[Run]]:
    """As `checkpoint.forward`, over all groups; `initial` are the initial states (n,) of the cells.

    What is kept is a run for each group.
    """
    cells = [one for directions in stack for one in directions]
    xp, ways = cells[0].xp, _ways(timeline, cells)
    rows = xp.reshape(xs, (timeline.T * timeline.B, xs.shape[2]))
    rest = [tuple([part[None, :] for part in state]) for state in initial]
    begun = [
        tuple([_take([*pair], way.starts, xp=xp) for pair in zip(*states, strict=True)])
        for *states, way in zip(firsts, rest, ways, strict=True)
    ]
    whole: dict[Any, Array] = {}
    outs, lasts = [], []
    kept: list[Run] = []
    how: Any = {"keep": keep, "checkpoint": checkpoint}
    for group in timeline.groups:
        inputs = _rows(rows, group, xp=xp)
        given = [_part(state, group) for state in begun]
        lengths = None if group.lengths is None else _index(group.lengths, xs, xp=xp)
        own = None if random is None else _OfGroup(random, timeline, whole, group)
        ys, last, run = runs.forward(stack, inputs, given, lengths, random=own, **how)
        outs.append(ys)
        lasts.append(last)
        if run is not None:
            kept.append(run)
    ends = [
        tuple([_take([*parts], way.ends, xp=xp) for parts in zip(*states, strict=True)])
        for *states, way in zip(*lasts, firsts, rest, ways, strict=True)
    ]
    D = len(stack[-1])
    return _outputs(outs, timeline, ways[-D:], xp=xp), ends, kept


class _OfGroup(NamedTuple):
    """The random numbers of a group, see `xrnn.engine.random.Random`.

    They belong to the steps and sequences of the inputs, so that they do not depend on the groups.
    `whole` holds those that were drawn already, of all steps or of all sequences.
    """

    random: DrawsOfStretches
    timeline: Timeline
    whole: dict[Any, Array]
    group: Group

    @property
    def dropout(self) -> float:
        return self.random.dropout

    @property
    def weight_drop(self) -> float:
        return self.random.weight_drop

    def between(self, k: int, shape: tuple[int, int, int]) -> Array:
        T, B, n = self.timeline.T, self.timeline.B, shape[2]
        if k not in self.whole:
            drawn = self.random.between(k, (T, B, n))
            self.whole[k] = backend_of(drawn).xp.reshape(drawn, (T * B, n))
        return _rows(self.whole[k], self.group, xp=backend_of(self.whole[k]).xp)

    def of_cell(self, noise: Noise, k: int, d: int, shape: tuple[int, int, int]) -> Array:
        T, B, n = self.timeline.T, self.timeline.B, shape[2]
        key, rows = (noise.name, k, d), T * B if noise.each_step else B
        if key not in self.whole:
            drawn = self.random.of_cell(noise, k, d, (T, B, n))
            self.whole[key] = backend_of(drawn).xp.reshape(drawn, (rows, n))
        whole, xp = self.whole[key], backend_of(self.whole[key]).xp
        if noise.each_step:
            return _rows(whole, self.group, xp=xp)
        return _take([whole], self.group.rows[:1].ravel() % B, xp=xp)

    def over_weights(self, k: int, d: int, shape: tuple[int, int]) -> Array:
        return self.random.over_weights(k, d, shape)

    def between_steps(self, start: int, stop: int) -> _OfGroup:
        return self._replace(group=self.group._replace(rows=self.group.rows[start:stop]))


def given(
    timeline: Timeline,
    cells: list[BoundCell],
    D: int,
    dys: Array | None,
    dlasts: list[State],
) -> list[tuple[Array | None, list[State]]]:
    """For each group the gradients of its outputs and last states."""
    xp, ways = cells[0].xp, _ways(timeline, cells)
    ended = []
    for state, way in zip(dlasts, ways, strict=True):
        parts = [[part, _zeros(part, xp=xp)] for part in state]
        ended.append(tuple([_take(pair, way.back_to_segments(), xp=xp) for pair in parts]))
    rows: list[Array | None] = [None] * len(timeline.groups)
    if dys is not None:
        rows = _to_groups(dys, timeline, ways[-D:], xp=xp)
    return [
        (ds, [_part(state, group) for state in ended])
        for ds, group in zip(rows, timeline.groups, strict=True)
    ]


def joined(
    timeline: Timeline,
    cells: list[BoundCell],
    found: list[list[Gradients]],
    dlasts: list[State],
) -> tuple[list[Gradients], list[State]]:
    """The gradients of all groups as those of each cell, and those of its initial state (n,)."""
    xp, ways = cells[0].xp, _ways(timeline, cells)
    gradients, starts = [], []
    for n, (way, dlast) in enumerate(zip(ways, dlasts, strict=True)):
        several = [group[n] for group in found]
        dfirst, dinitial = [], []
        for parts in zip(*(one[1] for one in several), dlast, strict=True):
            table = [*parts, _zeros(parts[0], xp=xp)]
            dfirst.append(_take(table, way.back_to_given(), xp=xp))
            dinitial.append(rounded_sum(_take(table, way.back_to_initial(), xp=xp), axis=0, xp=xp))
        dweights = {k: sum_of([one[2][k] for one in several]) for k in several[0][2]}
        # Only the inputs of the first cell are inputs of the user.
        dxs = spread(timeline, [one[0] for one in several], xp=xp) if n == 0 else several[0][0]
        gradients.append((dxs, tuple(dfirst), dweights))
        starts.append(tuple(dinitial))
    return gradients, starts


def starts_of_each(
    timeline: Timeline,
    cells: list[BoundCell],
    found: list[list[Gradients]],
    dlasts: list[State],
) -> list[State]:
    """The gradients of the initial state of each cell for each sequence, (B, n), from the results
    of all groups."""
    xp, B, found_of = cells[0].xp, timeline.B, []
    # The sequence of each segment, then that of each last state.
    of_segments = [group.rows[0] % B for group in timeline.groups if group.rows.size]
    owners = host.xp.concatenate([*of_segments, host.xp.arange(B)])
    for n, (way, dlast) in enumerate(zip(_ways(timeline, cells), dlasts, strict=True)):
        index, several = way.back_to_initial(), [group[n] for group in found]
        states = []
        for parts in zip(*(one[1] for one in several), dlast, strict=True):
            rows = _take([*parts], index, xp=xp)
            places = _index(owners[index], rows, xp=xp)
            states.append(backend_of(rows).scatter_add(rows, places, B, xp=xp))
        found_of.append(tuple(states))
    return found_of


def spread(timeline: Timeline, groups: list[Array], *, xp: Namespace) -> Array:
    """Arrays (T', B', n) of all groups as one (T, B, n), exactly 0 at steps that are left out."""
    return _spread(groups, timeline.inputs, timeline, xp=xp)


def sum_of(arrays: Sequence[Array]) -> Array:
    """The sum of arrays of one shape."""
    total, *more = arrays
    for array in more:
        total = total + array
    return total


def _ways(timeline: Timeline, cells: list[BoundCell]) -> list[Direction]:
    """The direction of each cell."""
    return [timeline.directions[one.reverse] for one in cells]


def _outputs(
    groups: list[Array], timeline: Timeline, ways: list[Direction], *, xp: Namespace
) -> Array:
    """The outputs (T, B, D·n) of all groups; each direction may hold other ones."""
    if ways[0].outputs is ways[-1].outputs:
        return _spread(groups, ways[0].outputs, timeline, xp=xp)
    n = groups[0].shape[2] // len(ways)
    halves = [
        _spread([ys[..., d * n : (d + 1) * n] for ys in groups], way.outputs, timeline, xp=xp)
        for d, way in enumerate(ways)
    ]
    return xp.concat(halves, axis=-1)


def _to_groups(
    dys: Array, timeline: Timeline, ways: list[Direction], *, xp: Namespace
) -> list[Array | None]:
    """The gradients of the outputs (T, B, D·n) as those of the steps of each group.

    A step has the sum of all those that its output stands for.
    """
    flat = xp.reshape(dys, (timeline.T * timeline.B, dys.shape[2]))
    if all(way.outputs is timeline.inputs for way in ways):
        return [_rows(flat, group, xp=xp) for group in timeline.groups]
    backend, count, n = backend_of(dys), timeline.total, dys.shape[2] // len(ways)
    parts = []
    for d, way in enumerate(ways):
        places = _index(host.xp.where(way.outputs >= 0, way.outputs, count), dys, xp=xp)
        half = flat[:, d * n : (d + 1) * n]
        # Steps whose output is 0 are added up in one more row, which nothing reads.
        parts.append(backend.scatter_add(half, places, count + 1, xp=xp)[:count, :])
    rows, at, found = xp.concat(parts, axis=-1), 0, []
    for group in timeline.groups:
        size = group.rows.size
        found.append(xp.reshape(rows[at : at + size, :], (*group.rows.shape, rows.shape[1])))
        at += size
    return found


def _spread(groups: list[Array], index: Array, timeline: Timeline, *, xp: Namespace) -> Array:
    """Rows of arrays (T', B', n), taken by an index (T·B,) in which −1 stands for zeros."""
    n = groups[0].shape[2]
    rows = [xp.reshape(a, (a.shape[0] * a.shape[1], n)) for a in groups]
    if bool((index < 0).any()):
        rows.append(_zeros(rows[0], xp=xp))
        index = host.xp.where(index < 0, timeline.total, index)
    return xp.reshape(_take(rows, index, xp=xp), (timeline.T, timeline.B, n))


def _rows(flat: Array, group: Group, *, xp: Namespace) -> Array:
    """The rows of an array (T·B, n) that the steps of a group have, as (T', B', n)."""
    shape = (*group.rows.shape, flat.shape[1])
    return xp.reshape(_take([flat], group.rows.ravel(), xp=xp), shape)


def _part(state: State, group: Group) -> State:
    """The states of the segments of a group."""
    return tuple([part[group.part, :] for part in state])


def _take(tables: list[Array], index: Array, *, xp: Namespace) -> Array:
    """Rows of arrays (m, n) below each other, by an index of the host."""
    table = tables[0] if len(tables) == 1 else xp.concat(tables)
    return xp.take(table, _index(index, table, xp=xp), axis=0)


def _index(values: Array, like: Array, *, xp: Namespace) -> Array:
    """An array of the host on the device of another one."""
    return xp.asarray(values, device=array_api_compat.device(like))


def _zeros(like: Array, *, xp: Namespace) -> Array:
    """A row of zeros for an array (m, n)."""
    shape: Any = (1, like.shape[1])
    return xp.zeros(shape, dtype=like.dtype, device=array_api_compat.device(like))
