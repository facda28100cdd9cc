"""The input projection W x_t + b, which does not depend on the state, for all steps at once."""

from __future__ import annotations

from xrnn.recurrence.precision import rounded_sum
from xrnn.typing import Array, Namespace, Weights


def input_projection(xs: Array, weights: Weights, *, bias: bool = True, xp: Namespace) -> Array:
    """W x_t + b (T, B, G·H) for xs (T, B, I), or W x_t alone."""
    T, B, I = xs.shape
    axs = xp.reshape(xs, (T * B, I)) @ weights["W"].T
    if bias:
        axs = axs + weights["b"]
    return xp.reshape(axs, (T, B, axs.shape[-1]))


def input_projection_backward(
    das: Array, xs: Array, weights: Weights, *, bias: bool = True, xp: Namespace
) -> tuple[Array, dict[str, Array]]:
    """The gradients of xs, W and, with `bias`, b from das (T·B, G·H)."""
    dweights = {"W": das.T @ xp.reshape(xs, (das.shape[0], xs.shape[2]))}
    if bias:
        dweights["b"] = rounded_sum(das, axis=0, xp=xp)
    return xp.reshape(das @ weights["W"], xs.shape), dweights
