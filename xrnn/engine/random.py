"""The random numbers of a training pass: dropout, and what cells draw (`xrnn.cells.noise`).

They depend on a seed, the layer, the direction and the position in the batch and in time alone, so
they are the same on every backend, and for a sequence in several parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import pi, prod
from numbers import Integral
from typing import Any
from zlib import crc32

from xrnn.backends import host
from xrnn.cells.noise import Noise
from xrnn.engine.checks import Placement
from xrnn.typing import Array, dtype_name


@dataclass(frozen=True)
class Rows:
    """Which sequences of a larger batch those of a pass are, where several processes share one.

    - first, count: so many from that one on
    - of: the number of sequences in the whole batch
    - batch_first: whether inputs of parts are (B, T, …)
    """

    first: int
    count: int
    of: int
    batch_first: bool = False


_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextmanager
def drawn_for(rows: Rows) -> Iterator[None]:
    """Within, forward passes draw the random numbers of these rows of the whole batch."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


@dataclass(frozen=True)
class Random:
    """The random numbers of one pass.

    Parameters
    ----------
    seed : int
        The seed.
    t : int
        How many steps of the same sequences came before.
    placement : Placement
        Where the arrays are.
    dropout : float
        The fraction that is dropped of the outputs of a layer.
    weight_drop : float
        The fraction that is dropped of the values of U.
    rows : Rows, optional
        Which sequences of a larger batch these are.  Default: the batch is all of them.
    """

    seed: int
    t: int
    placement: Placement
    dropout: float = 0.0
    weight_drop: float = 0.0
    rows: Rows | None = None

    def between_steps(self, start: int, stop: int) -> Random:
        """Those of the steps from `start` on, as of a pass of their own."""
        return replace(self, t=self.t + start)

    def between(self, k: int, shape: tuple[int, int, int]) -> Array:
        """The mask (T, B, n) over the outputs of layer k: 0 or 1/(1 − dropout)."""
        return self._drawn(Noise("dropout", "drop", self.dropout), k, shape, 1)

    def over(self, shape: tuple[int, ...]) -> Array:
        """The mask over an array of a part: (T, B, …), (B, T, …) or (B, n)."""
        time_first = len(shape) > 2 and not (self.rows and self.rows.batch_first)
        return self._drawn(Noise("dropout", "drop", self.dropout), 0, shape, int(time_first))

    def of_cell(self, noise: Noise, k: int, d: int, shape: tuple[int, int, int]) -> Array:
        """What the cell of layer k in direction d draws under one name: (T, B, n), or (B, n)."""
        stream = crc32(noise.name.encode()) << 32 | 2 * k + d
        if noise.each_step:
            return self._drawn(noise, stream, shape, 1)
        return self._drawn(noise, stream, shape[1:], 0)

    def over_weights(self, k: int, d: int, shape: tuple[int, int]) -> Array:
        """The mask over U of the same cell: 0 or 1/(1 − weight_drop)."""
        noise = Noise("U", "drop", self.weight_drop, each_step=False)
        return replace(self, rows=None).of_cell(noise, k, d, (0, *shape))

    def _drawn(self, noise: Noise, stream: int, shape: tuple[int, ...], axis: int) -> Array:
        """Numbers for an array whose sequences are on that axis."""
        bits = self._bits(noise, stream, shape, axis)
        wide = dtype_name(self.placement.dtype) in ("float64", "complex128")
        values = _values(noise, bits).astype("float64" if wide else "float32").reshape(shape)
        xp = self.placement.backend.xp
        return xp.astype(self.placement.from_host(values), self.placement.dtype)

    def _bits(self, noise: Noise, stream: int, shape: tuple[int, ...], axis: int) -> Array:
        """The random bits of the numbers of such an array, one after the other."""
        rows, t = self.rows, self.t if noise.each_step else 0
        if rows is None:
            return host.counter_bits(self.seed, stream, prod(shape), t * prod(shape[1:]))
        if len(shape) <= axis or shape[axis] != rows.count:
            raise ValueError(
                f"{self.placement.kind}: x has shape {shape}; where this process has {rows.count} "
                f"of the {rows.of} sequences of a batch, axis {axis} must be that of the "
                "sequences, because they draw random numbers by their places in the whole batch"
            )
        each = prod(shape[axis + 1 :])
        start = (t * (rows.of if axis else 1) + rows.first) * each
        pieces = [
            host.counter_bits(self.seed, stream, rows.count * each, start + n * rows.of * each)
            for n in range(prod(shape[:axis]))
        ]
        return host.xp.concat([host.xp.zeros(0, "uint64"), *pieces])


def _values(noise: Noise, bits: Array) -> Array:
    """Random numbers of a distribution, from 64 random bits for each."""
    if noise.kind == "keep":
        return bits < int(noise.rate * 2**64)
    if noise.kind == "drop":
        return (bits >= int(noise.rate * 2**64)) / (1 - noise.rate)
    # Box and Muller (1958): the upper and the lower bits are two uniform numbers.
    xp = host.xp
    radius = xp.sqrt(-2 * xp.log(((bits >> 32) + 1.0) / 2**32))
    return noise.rate * radius * xp.cos(2 * pi * (bits % 2**32) / 2**32)


def random_numbers(
    placement: Placement, seed: Any, t: Any, needed: str, **rates: float
) -> Random | None:
    """The random numbers of a pass; None if none are `needed`.

    Parameters
    ----------
    placement
        As for `Random`.
    seed, t : int
        The same, to be checked.
    needed : str
        The words for what needs them, or "".
    **rates : float
        Further parameters of `Random`.

    Raises
    ------
    ValueError
        If they are no integers, or a seed is needed and not given.
    """
    kind = placement.kind
    if isinstance(t, bool) or not isinstance(t, Integral) or not 0 <= int(t) < 2**63:
        raise ValueError(f"{kind}: t is {t!r:.80}; it must be an integer in 0…2**63 − 1")
    if seed is None and not needed:
        return None
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        must = "it must be an integer"
        if needed:
            must = f"{needed} needs an integer, another one at every training step: give seed=step"
        raise ValueError(f"{kind}: seed is {seed!r:.80}; {must}")
    return Random(int(seed), int(t), placement, rows=_rows.get(), **rates) if needed else None


def seed_of_part(name: str, seed: int) -> int:
    """The seed of the part of that name in a model."""
    words = f"{int(seed)}/{name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(words, digest_size=8).digest(), "little")
