"""Masks and resets as plain sequences: which steps are run together, and where results belong.

A mask leaves steps out, and a reset at step t cuts a sequence between t − 1 and t.  The valid
steps of a sequence between two cuts are a segment.  Segments do not depend on each other, so each
runs as a sequence of its own: its steps one after the other at the front, with its own length, in
a batch of segments of similar length.  So every kernel serves masks and resets, and segments of
one sequence run in parallel.

This module computes indices, on the host.  `xrnn.engine.segments` moves the values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.checks import check_choice, looks_transposed
from xrnn.typing import Array

MASKED = ("zero", "hold")

#: what a step of a group costs besides its segments, and a group besides its steps, as so many
#: steps of one segment
STEP, GROUP = 4, 16


class Group(NamedTuple):
    """Segments that run as one batch."""

    rows: Array
    """(T', B') integers: the row t·B + b of the inputs that each step reads; past the end of a
    segment any row of it"""
    lengths: Array | None
    """(B',) integers; None: all have T' steps"""
    part: slice
    """Its segments among all of them"""


class Direction(NamedTuple):
    """Where the states of one direction come from and go to, for N segments of B sequences."""

    starts: Array
    """(N,): the state that each segment starts from: b < B, the state given for sequence b; or B,
    the initial state"""
    ends: Array
    """(B,): the last state of each sequence: n < N, that after segment n; N + b, the state given
    for b; or N + B, the initial state"""
    outputs: Array
    """(T·B,): the row of all groups' outputs that is the output of each step; −1: it is 0"""

    def back_to_segments(self) -> Array:
        """(N,): the sequence whose last state each segment gives; B: none."""
        N, B = self.starts.shape[0], self.ends.shape[0]
        found = host.xp.full(N, B)
        mine = self.ends < N
        found[self.ends[mine]] = host.xp.flatnonzero(mine)
        return found

    def back_to_given(self) -> Array:
        """(B,): where the gradient of each given state comes from: n < N, segment n; N + b, the
        last state of b; or N + B, nowhere."""
        N, B = self.starts.shape[0], self.ends.shape[0]
        found = host.xp.where(self.ends == N + host.xp.arange(B), self.ends, N + B)
        mine = self.starts < B
        found[self.starts[mine]] = host.xp.flatnonzero(mine)
        return found

    def back_to_initial(self) -> Array:
        """Where the gradient of the initial state comes from, numbered in the same way."""
        N, B = self.starts.shape[0], self.ends.shape[0]
        last = host.xp.flatnonzero(self.ends == N + B)
        return host.xp.concatenate([host.xp.flatnonzero(self.starts == B), N + last])


class Timeline(NamedTuple):
    """All segments of a batch."""

    T: int
    B: int
    groups: list[Group]
    directions: tuple[Direction, Direction]
    """forward, reverse"""
    inputs: Array
    """(T·B,): the row of all groups' steps that each valid step is; −1: it is left out"""

    @property
    def total(self) -> int:
        """The number of rows of all groups."""
        return sum(group.rows.size for group in self.groups)


def accept_steps(
    kind: str, name: str, given: Any, T: int, B: int, *, batch_first: bool, unbatched: bool
) -> Array:
    """Booleans for each step, as a NumPy array (T, B).

    Raises
    ------
    ValueError
        If they are not booleans of the shape of the inputs without the last axis.
    """
    if array_api_compat.is_array_api_obj(given):
        given = backend_of(given, name).to_host(given)
    shape: tuple[int, ...] = (B, T) if batch_first else (T, B)
    letters = "(B, T)" if batch_first else "(T, B)"
    if unbatched:
        shape, letters = (T,), "(T,)"
    try:
        found = host.xp.asarray(given)
    except (TypeError, ValueError) as error:
        words = f"{kind}: {name} is no array; it must be {letters} = {shape} booleans"
        raise ValueError(words) from error
    # An empty list has no booleans that could tell its dtype.
    if found.shape != shape or (found.size and found.dtype != bool):
        raise ValueError(
            f"{kind}: {name} has shape {found.shape} and dtype {found.dtype}; it must be "
            f"{letters} = {shape} booleans{looks_transposed(name, found.shape, shape)}"
        )
    return found[:, None] if unbatched else found.T if batch_first else found


def is_hold(kind: str, masked: Any) -> bool:
    """Whether masked steps have the output of the step before, and not 0.

    Raises
    ------
    ValueError
        If `masked` is not one of `MASKED`.
    """
    if not isinstance(masked, str) or masked not in MASKED:
        check_choice(kind, "masked", masked, MASKED)
    return bool(masked == "hold")


def plan(
    T: int, B: int, lengths: Array | None, mask: Array | None, resets: Array | None, hold: bool
) -> Timeline | Array | None:
    """The segments of a batch; or the lengths (B,), or None, if these say the same.

    Parameters
    ----------
    lengths : integers (B,) or None
        The ends of the sequences, on the host.
    mask, resets : booleans (T, B) or None
        Which steps are valid; and before which ones there is a cut.
    hold : bool
        Whether the output of a step that the mask leaves out is that of the last step before it
        that is not left out, since the last cut; otherwise it is 0.
    """
    xp = host.xp
    inside = xp.ones((T, B), bool)
    if lengths is not None:
        inside = xp.arange(T)[:, None] < lengths[None, :]
    valid = inside if mask is None else inside & mask
    cuts = None if resets is None else xp.cumsum(resets & inside, axis=0)
    whole = valid.sum(axis=0)
    if cuts is None or not cuts[-1].any():
        plain = bool((valid == (xp.arange(T)[:, None] < whole[None, :])).all())
        if plain and not (hold and (inside & ~valid).any()):
            return None if lengths is None and bool((whole == T).all()) else whole
        cuts = xp.zeros((T, B), xp.int64)
    return _segments(valid, inside, cuts, hold)


def _segments(valid: Array, inside: Array, cuts: Array, hold: bool) -> Timeline:
    """The timeline; `cuts` (T, B) is the number of cuts from the start to before each step."""
    xp, (T, B) = host.xp, valid.shape
    b, t = xp.nonzero(valid.T)  # in the order of sequences, then of steps
    rows, label = t * B + b, cuts[t, b]
    new = xp.ones(b.size, bool)
    new[1:] = (b[1:] != b[:-1]) | (label[1:] != label[:-1])
    first = xp.flatnonzero(new)
    lengths = xp.diff(xp.append(first, b.size))
    order, groups = _grouped(rows, first, lengths)
    # Of each valid step: its segment, its number in it, and so its row in the groups.
    place = xp.empty_like(order)
    place[order] = xp.arange(order.size)
    base, width = xp.zeros((2, order.size), xp.int64)
    at = 0
    for group in groups:
        n = group.part.stop - group.part.start
        base[group.part], width[group.part] = at + xp.arange(n), n
        at += group.rows.size
    segment = place[xp.cumsum(new) - 1]
    step = xp.arange(b.size) - xp.repeat(first, lengths)
    inputs = xp.full(T * B, -1)
    inputs[rows] = base[segment] + step * width[segment]
    return Timeline(
        T, B, groups, _directions(valid, inside, cuts, hold, segment, inputs, order.size), inputs
    )


def _grouped(rows: Array, first: Array, lengths: Array) -> tuple[Array, list[Group]]:
    """The order in which segments are numbered, and the groups."""
    xp = host.xp
    if not lengths.size:
        nothing = xp.zeros((0, 0), xp.int64)
        return lengths, [Group(nothing, None, slice(0, 0))]
    longest = _longest(lengths)
    kinds = xp.searchsorted(longest, lengths)
    order, groups, at = xp.argsort(kinds, kind="stable"), [], 0
    for kind in range(longest.size):
        mine = order[at : at + int((kinds == kind).sum())]
        own = lengths[mine]
        steps = xp.minimum(xp.arange(own.max())[:, None], own - 1)
        even = own.min() == own.max()
        part = slice(at, at + mine.size)
        groups.append(Group(rows[first[mine] + steps], None if even else own, part))
        at += mine.size
    return order, groups


def _longest(lengths: Array) -> Array:
    """The longest length of each group, in ascending order: those that cost least.

    A group of n segments, of which the longest has T' steps, costs T' (n + `STEP`) + `GROUP`.  The
    cheapest groups of the segments with at most the k-th length follow from those of shorter ones.
    """
    xp = host.xp
    values, counts = xp.unique(lengths, return_counts=True)
    upto = xp.concatenate([[0], xp.cumsum(counts)])
    best, begin = xp.zeros(values.size + 1), xp.zeros(values.size, int)
    for k, length in enumerate(values):
        cost = best[: k + 1] + length * (upto[k + 1] - upto[: k + 1] + STEP) + GROUP
        begin[k] = cost.argmin()
        best[k + 1] = cost[begin[k]]
    k, chosen = values.size - 1, []
    while k >= 0:
        chosen.append(values[k])
        k = begin[k] - 1
    return xp.asarray(chosen[::-1])


def _directions(
    valid: Array, inside: Array, cuts: Array, hold: bool, segment: Array, inputs: Array, N: int
) -> tuple[Direction, Direction]:
    """Both directions; `segment` is that of each valid step, in the order of sequences."""
    xp, (T, B) = host.xp, valid.shape
    each, steps = xp.arange(B), xp.arange(T)[:, None]
    count = valid.sum(axis=0)
    some, stop = count > 0, xp.cumsum(count)
    earliest, latest = valid.argmax(axis=0), T - 1 - valid[::-1].argmax(axis=0)
    total = cuts[-1]
    # Whether there is a cut in front of the valid steps of a sequence, and behind them.
    front = xp.where(some, cuts[earliest, each], total) > 0
    behind = total > xp.where(some, cuts[latest, each], 0)
    head, tail = segment[(stop - count)[some]], segment[stop[some] - 1]
    found = []
    # A cut behind the valid steps counts for the last state of the forward direction.  In reverse
    # the state of the first valid step is the last one, whatever is in front of it.
    for begin, end, cut, lost in ((head, tail, front, behind), (tail, head, behind, ~some)):
        starts = xp.full(N, B)
        starts[begin[~cut[some]]] = each[some & ~cut]
        ends = xp.where(behind, N + B, N + each)
        ends[some & ~lost] = end[~lost[some]]
        found.append(Direction(starts, ends, inputs))
    if not hold:
        return found[0], found[1]
    before = xp.maximum.accumulate(xp.where(valid, steps, -1), axis=0)
    after = xp.minimum.accumulate(xp.where(valid, steps, T)[::-1], axis=0)[::-1]
    outputs = []
    for source in (before, after):
        there = xp.clip(source, 0, T - 1)
        known = inside & (source == there) & (cuts[there, each] == cuts)
        outputs.append(xp.where(known, inputs.reshape(T, B)[there, each], -1).ravel())
    return found[0]._replace(outputs=outputs[0]), found[1]._replace(outputs=outputs[1])
