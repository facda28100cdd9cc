"""The shares that ranks have of a batch and of its state, and what they have in common.

The sequences of a batch are cut into as many runs as there are ranks (`World.share`), so that the
batch, its random numbers and its mean gradient are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from zlib import crc32

from xrnn.backends import backend_of, host
from xrnn.engine.checks import Placement
from xrnn.engine.random import Rows
from xrnn.learn.average import Average
from xrnn.learn.parallel import World
from xrnn.learn.trees import leaves
from xrnn.training.batches import Batch
from xrnn.training.checkpoint import Training
from xrnn.typing import Array


class Share(NamedTuple):
    """What a rank has of a batch.

    - batch: its sequences; None if there are none, as where ranks are more than sequences
    - counted: the number of targets of the whole batch that count
    - rows: which sequences of the whole batch these are
    """

    batch: Any
    counted: int
    rows: Rows


def rows_of(world: World, B: int, batch_first: bool) -> Rows:
    """Which of B sequences a rank has."""
    first, stop = world.share(B)
    return Rows(first, stop - first, B, batch_first)


def share_of(batch: Batch, rows: Rows, per_step: bool) -> Share:
    """The rows of a batch, whose targets are those of each step or of each sequence."""
    if rows.count == rows.of:
        return Share(batch, batch.counted, rows)
    if not rows.count:
        return Share(None, batch.counted, rows)
    part = slice(rows.first, rows.first + rows.count)

    def cut(a: Array, sequences_first: bool) -> Array:
        return a[part] if sequences_first else a[:, part]

    mask = None if batch.mask is None else cut(batch.mask, rows.batch_first)
    y = cut(batch.y, rows.batch_first or not per_step)
    lengths = tuple(None if one is None else one[part] for one in batch.lengths)
    sizes = None if batch.target_lengths is None else batch.target_lengths[part]
    counted = rows.count
    if per_step:
        steps = batch.inputs[-1].shape[1 if rows.batch_first else 0]
        counted = steps * rows.count if lengths[-1] is None else int(lengths[-1].sum())
    inputs = tuple(cut(x, rows.batch_first) for x in batch.inputs)
    return Share(Batch(inputs, y, lengths, mask, counted, sizes), batch.counted, rows)


def whole_state(world: World, state: Any) -> Any:
    """The state of all sequences of a batch, from those of the ranks: NumPy arrays."""
    if world.size == 1:
        return state
    states = [one for one in world.gather(_mapped(state, _on_host)) if one is not None]
    return _joined(states) if states else None


def part_of_state(world: World, state: Any, placement: Placement) -> Any:
    """The state of the sequences of this rank, from that of all."""

    def cut(a: Array) -> Array:
        axis = _axis(a)
        first, stop = world.share(a.shape[axis])
        return placement.from_host(_on_host(a)[(slice(None),) * axis + (slice(first, stop),)])

    return state if world.size == 1 else _mapped(state, cut)


def _mapped(state: Any, function: Callable[[Array], Array]) -> Any:
    """A state of mappings, tuples and arrays, with a function of its arrays."""
    if isinstance(state, Mapping):
        return {name: _mapped(part, function) for name, part in state.items()}
    if isinstance(state, tuple):
        return tuple(_mapped(part, function) for part in state)
    return None if state is None else function(state)


def _joined(states: list[Any]) -> Any:
    first = states[0]
    if isinstance(first, Mapping):
        return {name: _joined([one[name] for one in states]) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(parts)) for parts in zip(*states, strict=True))
    return None if first is None else host.xp.concat(states, axis=_axis(first))


def _axis(a: Array) -> int:
    """The axis of the sequences: states are (L·D, B, H), or (B, H) where sizes differ."""
    return int(a.ndim - 2)


def _on_host(a: Array) -> Array:
    return backend_of(a).to_host(a)


def spread(world: World, training: Training) -> None:
    """Give all ranks what rank 0 has: weights, optimizer, history, progress, states."""
    if world.size == 1:
        return
    places = list(leaves(training.weights, "weights"))
    optimizer, best = training.optimizer, training.best

    def held() -> tuple[Any, ...]:
        return (
            [_on_host(holder[name]) for _, holder, name in places],
            ({k: _on_host(a) for k, a in optimizer.state.items()}, optimizer.steps, optimizer.lr),
            best and ({k: _on_host(a) for k, a in best.state.items()}, best.steps),
            (training.history, training.progress),
            _mapped(training.state, _on_host),
        )

    weights, (state, steps, lr), best_of, (history, progress), states = world.from_root(held)
    for (_, holder, name), w in zip(places, weights, strict=True):
        holder[name] = holder.placement.from_host(w)
    optimizer.state, optimizer.steps, optimizer.lr = state, steps, lr
    if best_of:
        training.best = Average(0.0)
        training.best.state, training.best.steps = best_of
    training.history, training.progress = history, progress
    training.state = part_of_state(world, states, places[0][1].placement)


def check_alike(world: World, mine: Mapping[str, Any]) -> None:
    """Raise ValueError on all ranks unless all have the same options."""
    first, *others = world.gather(dict(mine))
    for rank, theirs in enumerate(others, 1):
        if odd := [key for key, value in theirs.items() if value != first[key]]:
            raise ValueError(
                f"fit: {odd[0]} is {theirs[odd[0]]!r:.80} in rank {rank} and "
                f"{first[odd[0]]!r:.80} in rank 0; all ranks must have the same data and options"
            )


def check_equal(world: World, weights: Any, step: int) -> None:
    """Raise RuntimeError on all ranks unless all have the same weights."""
    if world.size == 1:
        return
    found = 0
    for _, holder, name in leaves(weights, "weights"):
        found = crc32(host.xp.ascontiguousarray(_on_host(holder[name])).tobytes(), found)
    first, *others = world.gather(found)
    if odd := [rank for rank, theirs in enumerate(others, 1) if theirs != first]:
        raise RuntimeError(
            f"fit: after {step} steps the weights of rank {odd[0]} are not those of rank 0; the "
            "ranks must run on machines of one kind, and nothing but fit may change weights"
        )
