"""The random numbers of a training pass, from a key of JAX.

They have the distributions of `xrnn.engine.random`, and not its numbers.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp

from xrnn.cells.noise import Noise
from xrnn.layers.layer import Layer
from xrnn.typing import Array


class Draws:
    """What a layer draws in training, from a key: for each place its own numbers."""

    def __init__(self, layer: Layer[Any], key: Array, dtype: Any) -> None:
        check_key(layer.cell.name, key)
        self.layer, self.key, self.dtype = layer, key, dtype

    def between(self, ys: Array, k: int) -> Array:
        """The outputs of layer k with some of them dropped."""
        if not self.layer.dropout:
            return ys
        return ys * self._drawn(Noise("dropout", "drop", self.layer.dropout), k, 0, ys.shape)

    def of_cell(
        self, weights: dict[str, Array], k: int, d: int, shape: tuple[int, ...]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The weights of a cell with some values of U dropped, and what the cell itself draws.

        `shape` is that of the inputs of the cell, (T, B, I).
        """
        T, B, _ = shape
        layer, found = self.layer, {}
        if layer.weight_drop:
            U = weights["U"]
            mask = self._drawn(Noise("U", "drop", layer.weight_drop), k, d, U.shape)
            weights = {**weights, "U": U * mask}
        for noise in layer.cell.noise:
            n = layer.widths(k)[noise.state]
            found[noise.name] = self._drawn(noise, k, d, (T, B, n) if noise.each_step else (B, n))
        return weights, found

    def _drawn(self, noise: Noise, k: int, d: int, shape: tuple[int, ...]) -> Array:
        key = jax.random.fold_in(
            jax.random.fold_in(self.key, 2 * k + d), crc32(noise.name.encode())
        )
        return drawn(key, noise, shape, self.dtype)


def check_key(kind: str, key: Any) -> None:
    """Raise TypeError unless it is a key of `jax.random`, of the new kind or of the old one."""
    if isinstance(key, jax.Array):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return
        if key.dtype == jnp.uint32 and key.shape == jax.random.PRNGKey(0).shape:
            return
    raise TypeError(
        f"{kind}: key is {key!r:.80}; it must be a key of jax.random, another one at every "
        "training step, such as jax.random.fold_in(jax.random.key(0), step)"
    )


def drawn(key: Array, noise: Noise, shape: tuple[int, ...], dtype: Any) -> Array:
    """Random numbers of a distribution."""
    if noise.kind == "normal":
        return noise.rate * jax.random.normal(key, shape, dtype)
    if noise.kind == "keep":
        return jax.random.bernoulli(key, noise.rate, shape).astype(dtype)
    return jax.random.bernoulli(key, 1 - noise.rate, shape).astype(dtype) / (1 - noise.rate)
