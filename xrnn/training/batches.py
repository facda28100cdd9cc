"""Batches of sequences of unequal length.

A data set holds one entry for each sequence: its inputs (T, …), and its targets, which are one
value for the sequence or one for each step.  Sequences of similar length are put into one batch, so
that little of it is padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.engine.checks import Placement
from xrnn.typing import Array, dtype_name

#: so many batches are drawn together and sorted by length
SORTED_TOGETHER = 50


class Batch(NamedTuple):
    """Some sequences side by side.

    - x: (T, B, …), or (B, T, …), in the library of the model
    - y: their targets: (B, …), or like x for targets of each step
    - lengths: integers (B,), NumPy; None if all are T
    - mask: which steps count, a bool for each step; None for targets of whole sequences, or if all
      count
    - targets: the number of targets that count
    """

    x: Array
    y: Array
    lengths: Array | None
    mask: Array | None
    targets: int


class Dataset:
    """Sequences and their targets, on the host.

    Parameters
    ----------
    x : array (N, T, …) or sequence of N arrays (T_n, …)
        The inputs, one entry for each sequence; of any array library.
    y : array (N, …) or sequence of N values or arrays, optional
        The targets.

    Raises
    ------
    TypeError, ValueError
        If these are no arrays, there is no sequence, or the numbers of both differ.
    """

    def __init__(self, x: Any, y: Any = None) -> None:
        self.x = _entries("x", x)
        self.y = [host.xp.zeros(())] * len(self.x) if y is None else _entries("y", y)
        if len(self.x) != len(self.y):
            raise ValueError(
                f"x holds {len(self.x)} sequences and y {len(self.y)} targets; there must be "
                "one for each"
            )
        if not self.x:
            raise ValueError("x holds no sequence; give at least one")
        if any(one.ndim == 0 for one in self.x):
            raise ValueError("x holds single numbers; each entry must be a sequence (T, …)")
        self.lengths = host.xp.asarray([len(one) for one in self.x])

    def __len__(self) -> int:
        return len(self.x)

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
        places = list(places)
        return Dataset([self.x[n] for n in places], [self.y[n] for n in places])

    def order(self, size: int, rng: Any) -> list[Array]:
        """The places of the sequences of each batch, in random order, similar lengths together."""
        random = host.generator(rng)
        shuffled = random.permutation(len(self))
        batches = []
        for start in range(0, len(self), SORTED_TOGETHER * size):
            some = shuffled[start : start + SORTED_TOGETHER * size]
            some = some[host.xp.argsort(self.lengths[some], kind="stable")]
            batches += [some[n : n + size] for n in range(0, len(some), size)]
        return [batches[n] for n in random.permutation(len(batches))]

    def in_order(self, size: int) -> list[Array]:
        """The same without random numbers: all batches of sequences sorted by length."""
        order = host.xp.argsort(self.lengths, kind="stable")
        return [order[n : n + size] for n in range(0, len(order), size)]

    def batch(
        self, places: Array, placement: Placement, batch_first: bool, per_step: bool
    ) -> Batch:
        """The batch of these sequences, padded with 0 to the longest of them."""
        lengths = self.lengths[places]
        x = padded("x", [self.x[n] for n in places], lengths, batch_first)
        mask = None
        if per_step:
            y = padded("y", [self.y[n] for n in places], lengths, batch_first)
            valid = host.xp.arange(int(lengths.max()))[:, None] < lengths
            mask = placement.moved(valid.T.copy() if batch_first else valid)
        else:
            y = _stacked("y", [self.y[n] for n in places])
        whole = (lengths == lengths[0]).all()
        return Batch(
            moved("x", x, placement),
            moved("y", y, placement),
            None if whole else lengths,
            None if whole else mask,
            int(lengths.sum()) if per_step else len(lengths),
        )


def padded(name: str, entries: Sequence[Array], lengths: Array, batch_first: bool) -> Array:
    """The entries (T_n, …) as one array (T, B, …) or (B, T, …), with 0 past their ends."""
    rest, dtype = entries[0].shape[1:], host.xp.result_type(*entries)
    for one, length in zip(entries, lengths, strict=True):
        if one.ndim == 0 or len(one) != length or one.shape[1:] != rest:
            raise ValueError(
                f"{name} has an entry of shape {one.shape}; it must be "
                f"{(int(length), *rest)}, one value for each step of its sequence"
            )
    found = host.xp.zeros((len(entries), int(lengths.max()), *rest), dtype)
    for row, one in zip(found, entries, strict=True):
        row[: len(one)] = one
    return found if batch_first else host.xp.ascontiguousarray(found.swapaxes(0, 1))


def moved(name: str, array: Array, placement: Placement) -> Array:
    """A NumPy array in the library of the model; floating-point numbers in its dtype."""
    if host.xp.isdtype(array.dtype, "real floating") or dtype_name(array.dtype) == "bfloat16":
        array = array.astype(host.named_dtype(dtype_name(placement.dtype)))
    elif array.dtype == bool or not host.xp.isdtype(array.dtype, "integral"):
        raise TypeError(
            f"{name} is {array.dtype}; it must be floating-point numbers, or integers for tokens "
            "and classes"
        )
    return placement.from_host(array)


def _entries(name: str, given: Any) -> list[Array]:
    """The entries as NumPy arrays."""
    if array_api_compat.is_array_api_obj(given):
        given = backend_of(given, name).to_host(given)
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
    return found


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
