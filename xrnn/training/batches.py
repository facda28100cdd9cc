"""Batches of sequences of unequal length.

A data set holds one entry for each sequence: its inputs (T, …), and its targets, which are one
value for the sequence, one for each step, or labels in any number.  Models of sequences from
sequences have two inputs.  Sequences of similar length are put into one batch, so that little of
it is padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.checks import Placement
from xrnn.learn.padding import like_others, side_by_side
from xrnn.typing import Array, dtype_name

#: so many batches are drawn together and sorted by length
SORTED_TOGETHER = 50


#: what the targets of a sequence are: one value, one for each step, or labels in any number
Targets = Literal["whole", "steps", "labels"]


class Batch(NamedTuple):
    """Some sequences side by side.

    - inputs: arrays (T, B, …), or (B, T, …), in the library of the model: one, or sources and
      targets of the step before
    - y: their targets: (B, …); like the last input for targets of each step; (B, S) for labels
    - lengths: of each input integers (B,), NumPy; None if all are T
    - mask: which steps count, a bool for each step; None if targets are not those of steps, or if
      all count
    - counted: the number of targets that count
    - target_lengths: integers (B,), NumPy: the numbers of labels; None if all are S
    """

    inputs: tuple[Array, ...]
    y: Array
    lengths: tuple[Array | None, ...]
    mask: Array | None
    counted: int
    target_lengths: Array | None = None

    def between(self, steps: slice, axis: int) -> Batch:
        """Some steps of a batch with targets of each step; `axis` is that of time."""
        start, stop = steps.start, steps.stop

        def cut(a: Array) -> Array:
            return a[:, start:stop, ...] if axis else a[start:stop, ...]

        y, lengths = cut(self.y), self.lengths[-1]
        ends = None if lengths is None else (lengths - start).clip(0, stop - start)
        return self._replace(
            inputs=tuple(map(cut, self.inputs)),
            y=y,
            lengths=(ends,),
            mask=None if self.mask is None else cut(self.mask),
            counted=y.shape[0] * y.shape[1] if ends is None else int(ends.sum()),
        )


class Dataset:
    """Sequences and their targets, on the host.

    Parameters
    ----------
    x : array (N, T, …) or sequence of N arrays (T_n, …)
        The inputs, one entry for each sequence; of any array library.  With `pair` two such.
    y : array (N, …) or sequence of N values or arrays, optional
        The targets.
    pair : bool
        Whether the model has two inputs.

    Raises
    ------
    TypeError, ValueError
        If these are no arrays, there is no sequence, or the numbers of both differ.
    """

    def __init__(self, x: Any, y: Any = None, pair: bool = False) -> None:
        named = pair_of(x) if pair else {"x": x}
        self.inputs = {name: _entries(name, given) for name, given in named.items()}
        n = len(next(iter(self.inputs.values())))
        self.y = [host.xp.zeros(())] * n if y is None else _entries("y", y)
        for name, entries in self.inputs.items():
            if len(entries) != len(self.y):
                raise ValueError(
                    f"{name} holds {len(entries)} sequences and y {len(self.y)} targets; there "
                    "must be one for each"
                )
            if not entries:
                raise ValueError(f"{name} holds no sequence; give at least one")
            if any(one.ndim == 0 for one in entries):
                raise ValueError(
                    f"{name} holds single numbers; each entry must be a sequence (T, …)"
                )
        #: of each input (N,)
        self.lengths = [_lengths(entries) for entries in self.inputs.values()]

    def __len__(self) -> int:
        return len(self.y)

    def split(self, fraction: float, rng: Any) -> tuple[Dataset, Dataset]:
        """Two data sets: the rest, and a random part of that fraction, at least one sequence."""
        order = host.generator(rng).permutation(len(self))
        n = max(1, round(fraction * len(self)))
        if n >= len(self):
            raise ValueError(
                f"validation is {fraction} of {len(self)} sequences, which leaves none to "
                "train on; give more data or a smaller fraction"
            )
        return self.part(order[n:]), self.part(order[:n])

    def part(self, places: Iterable[int]) -> Dataset:
        """The data set of these sequences."""
        chosen = list(places)
        xs = [[entries[n] for n in chosen] for entries in self.inputs.values()]
        pair = len(xs) > 1
        return Dataset(xs if pair else xs[0], [self.y[n] for n in chosen], pair)

    def order(self, size: int, rng: Any) -> list[Array]:
        """The places of the sequences of each batch, in random order, similar lengths together."""
        random = host.generator(rng)
        shuffled = random.permutation(len(self))
        batches = []
        for start in range(0, len(self), SORTED_TOGETHER * size):
            some = shuffled[start : start + SORTED_TOGETHER * size]
            some = some[host.xp.argsort(sum(self.lengths)[some], kind="stable")]
            batches += [some[n : n + size] for n in range(0, len(some), size)]
        return [batches[n] for n in random.permutation(len(batches))]

    def in_order(self, size: int) -> list[Array]:
        """The same without random numbers: all batches of sequences sorted by length."""
        order = host.xp.argsort(sum(self.lengths), kind="stable")
        return [order[n : n + size] for n in range(0, len(order), size)]

    def batch(
        self, places: Array, placement: Placement, batch_first: bool, targets: Targets
    ) -> Batch:
        """The batch of these sequences, padded with 0 to the longest of them."""
        inputs, lengths = [], [one[places] for one in self.lengths]
        for (name, entries), sizes in zip(self.inputs.items(), lengths, strict=True):
            one = padded(name, [entries[n] for n in places], sizes, batch_first)
            inputs.append(moved(name, one, placement))
        chosen, last = [self.y[n] for n in places], lengths[-1]
        mask, count, sizes = None, len(places), None
        if targets == "steps":
            y, count = padded("y", chosen, last, batch_first), int(last.sum())
            if unless_equal(last) is not None:
                mask = mask_of(last, int(last.max()), batch_first, placement)
        elif targets == "labels":
            if odd := [one for one in chosen if one.ndim != 1]:
                raise ValueError(
                    f"y has an entry of shape {odd[0].shape}; it must be (S,), the labels of its "
                    "sequence"
                )
            sizes = _lengths(chosen)
            # An empty list among no others has become an array of floats.
            chosen = [one if len(one) else one.astype("int64") for one in chosen]
            y = padded("y", chosen, sizes, batch_first=True)
        else:
            y = _stacked("y", chosen)
        known = tuple(unless_equal(one) for one in lengths)
        return Batch(tuple(inputs), moved("y", y, placement), known, mask, count, sizes)


def mask_of(lengths: Array, T: int, batch_first: bool, placement: Placement) -> Array:
    """Which of T steps lie before the ends of sequences: bools (T, B) or (B, T)."""
    valid = host.xp.arange(T)[:, None] < lengths
    return placement.moved(valid.T.copy() if batch_first else valid)


def unless_equal(lengths: Array) -> Array | None:
    """The lengths; None if all are the same."""
    return None if (lengths == lengths[:1]).all() else lengths


def _lengths(entries: Sequence[Array]) -> Array:
    return host.xp.asarray([len(one) for one in entries])


def pair_of(x: Any) -> dict[str, Any]:
    """Sources and targets of a model that has two inputs, by their names in messages."""
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise TypeError(
            f"x is a {type(x).__name__}; it must be a pair (sources, targets), as forward of the "
            "model takes"
        )
    return {"x[0]": x[0], "x[1]": x[1]}


def padded(name: str, entries: Sequence[Array], lengths: Array, batch_first: bool) -> Array:
    """The entries (T_n, …) as one array (T, B, …) or (B, T, …), with 0 past their ends."""
    rest = entries[0].shape[1:]
    for one, length in zip(entries, lengths, strict=True):
        if one.ndim == 0 or len(one) != length or one.shape[1:] != rest:
            raise ValueError(
                f"{name} has an entry of shape {one.shape}; it must be "
                f"{(int(length), *rest)}, one value for each step of its sequence"
            )
    return side_by_side(entries, batch_first, xp=host.xp)


def moved(name: str, array: Array, placement: Placement) -> Array:
    """A NumPy array in the library of the model; floating-point numbers in its dtype."""
    if host.xp.isdtype(array.dtype, "real floating") or dtype_name(array.dtype) == "bfloat16":
        array = array.astype(host.named_dtype(dtype_name(placement.dtype)))
    elif array.dtype == bool or not host.xp.isdtype(array.dtype, "integral"):
        raise TypeError(
            f"{name} is {array.dtype}; it must be floating-point numbers, or integers for tokens "
            "and classes; number others 0, 1, 2 …, as numpy.unique with return_inverse does"
        )
    return placement.from_host(array)


def _entries(name: str, given: Any) -> list[Array]:
    """The entries as NumPy arrays."""
    if array_api_compat.is_array_api_obj(given):
        given = backend_of(given, name).to_host(given)
        if given.dtype == object:
            raise TypeError(f"{name} is an object array; give list({name})")
        if given.ndim == 0:
            raise ValueError(f"{name} is a single number; it must hold one entry a sequence")
        return list(given) if given.ndim > 1 else [given[n, ...] for n in range(len(given))]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise TypeError(
            f"{name} is a {type(given).__name__}; it must be an array or a list of arrays, "
            "one entry for each sequence"
        )
    found = []
    for one in given:
        known = array_api_compat.is_array_api_obj(one)
        try:
            found.append(backend_of(one, name).to_host(one) if known else host.xp.asarray(one))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} has the entry {one!r:.60}, which is no array") from error
    return like_others(given, found)


def _stacked(name: str, entries: Sequence[Array]) -> Array:
    """The entries as one array (B, …)."""
    if len({one.shape for one in entries}) > 1:
        shapes = sorted({one.shape for one in entries})
        raise ValueError(
            f"{name} has entries of shapes {', '.join(map(str, shapes[:3]))}; the model makes "
            "one output for each sequence, so they must all have one shape (for outputs at each "
            "step leave out what pools over time)"
        )
    return host.xp.stack(list(entries))
