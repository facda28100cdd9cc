"""The backend: JAX's namespace and its devices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy

from xrnn.backends import host
from xrnn.backends.base import Backend


def _device(text: str) -> Any:
    """JAX's device of a number, a platform, or both: "1", "cpu", "cuda:1"."""
    platform, _, number = text.rpartition(":")
    if not number.isdecimal():
        platform, number = text, "0"
    found = jax.devices(platform or None)
    if int(number) >= len(found):
        raise ValueError(f"there are {len(found)} devices")
    return found[int(number)]


# Arrays that JAX traces have no device, so JAX itself checks that those of a computation agree.
BACKEND = Backend(
    name="jax",
    xp=jax.numpy,
    to_host=host.to_host,
    describe=lambda: f"jax {jax.__version__} on {jax.default_backend()}",
    device=_device,
)
