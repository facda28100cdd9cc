"""What does not depend on the state, for all steps at once: W x_t + b, and which steps count."""

from __future__ import annotations

import array_api_compat

from xrnn.typing import Array, Namespace, State, Weights


def affine(xs: Array, weights: Weights, *, xp: Namespace) -> Array:
    """W x_t + b (T, B, G·H) for xs (T, B, I)."""
    T, B, I = xs.shape
    axs = xp.reshape(xs, (T * B, I)) @ weights["W"].T + weights["b"]
    return xp.reshape(axs, (T, B, axs.shape[-1]))


def affine_backward(
    das: Array, xs: Array, weights: Weights, *, xp: Namespace
) -> tuple[Array, dict[str, Array]]:
    """The gradients of xs, W and b from das (T·B, G·H)."""
    dweights = {
        "W": das.T @ xp.reshape(xs, (das.shape[0], xs.shape[2])),
        "b": xp.sum(das, axis=0),
    }
    return xp.reshape(das @ weights["W"], xs.shape), dweights


def inside(T: int, lengths: Array, *, xp: Namespace) -> Array:
    """(T, B, 1): whether step t lies before the end of sequence b."""
    steps = xp.arange(T, dtype=lengths.dtype, device=array_api_compat.device(lengths))
    return (steps[:, None] < lengths[None, :])[:, :, None]


def either(mask: Array, new: State, old: State, *, xp: Namespace) -> State:
    """The new state where mask (B, 1) holds, else the old one."""
    return tuple(xp.where(mask, n, o) for n, o in zip(new, old, strict=True))
