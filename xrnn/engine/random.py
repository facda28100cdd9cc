"""The random numbers of a training pass: dropout, and what cells draw (`xrnn.cells.noise`).

They depend on a seed, the layer, the direction and the position in the batch and in time alone, so
they are the same on every backend, and for a sequence in several parts.
"""

from __future__ import annotations

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
    """

    seed: int
    t: int
    placement: Placement
    dropout: float = 0.0
    weight_drop: float = 0.0

    def between_steps(self, start: int, stop: int) -> Random:
        """Those of the steps from `start` on, as of a pass of their own."""
        return replace(self, t=self.t + start)

    def between(self, k: int, shape: tuple[int, int, int]) -> Array:
        """The mask (T, B, n) over the outputs of layer k: 0 or 1/(1 − dropout)."""
        return self._drawn(Noise("dropout", "drop", self.dropout), k, shape)

    def of_cell(self, noise: Noise, k: int, d: int, shape: tuple[int, int, int]) -> Array:
        """What the cell of layer k in direction d draws under one name: (T, B, n), or (B, n)."""
        stream = crc32(noise.name.encode()) << 32 | 2 * k + d
        return self._drawn(noise, stream, shape if noise.each_step else shape[1:])

    def over_weights(self, k: int, d: int, shape: tuple[int, int]) -> Array:
        """The mask over U of the same cell: 0 or 1/(1 − weight_drop)."""
        noise = Noise("U", "drop", self.weight_drop, each_step=False)
        return self.of_cell(noise, k, d, (0, *shape))

    def _drawn(self, noise: Noise, stream: int, shape: tuple[int, ...]) -> Array:
        start = self.t * prod(shape[1:]) if noise.each_step else 0
        bits = host.counter_bits(self.seed, stream, prod(shape), start)
        wide = dtype_name(self.placement.dtype) in ("float64", "complex128")
        values = _values(noise, bits).astype("float64" if wide else "float32").reshape(shape)
        xp = self.placement.backend.xp
        return xp.astype(self.placement.from_host(values), self.placement.dtype)


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
    return Random(int(seed), int(t), placement, **rates) if needed else None


def seed_of_part(name: str, seed: int) -> int:
    """The seed of the part of that name in a model."""
    words = f"{int(seed)}/{name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(words, digest_size=8).digest(), "little")
