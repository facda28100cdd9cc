"""Layers of xrnn as pure functions of JAX: `apply` works under `jit`, `grad` and `vmap`.

``import xrnn.adapters.jax`` imports JAX; it is installed by ``pip install jax``.
"""

from xrnn.adapters.jax.pure import apply

__all__ = ["apply"]
