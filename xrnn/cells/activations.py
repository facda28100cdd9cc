"""The activation functions of the cells, and their derivatives as functions of their outputs.

A derivative is written in terms of the output because that is what the forward pass keeps:
backward then needs neither the pre-activation nor a second evaluation.
"""

from xrnn.typing import Array, Namespace


def sigmoid(a: Array, *, xp: Namespace) -> Array:
    """σ(a) = 1 / (1 + e^-a), written with tanh so that no a overflows."""
    return 0.5 * xp.tanh(0.5 * a) + 0.5


def sigmoid_slope(y: Array) -> Array:
    """dσ/da at y = σ(a)."""
    return y * (1 - y)


def tanh_slope(y: Array) -> Array:
    """d tanh/da at y = tanh(a)."""
    return 1 - y * y


def relu(a: Array, *, xp: Namespace) -> Array:
    """max(a, 0); a NaN stays a NaN."""
    return xp.maximum(a, xp.zeros_like(a))


def relu_slope(y: Array, *, xp: Namespace) -> Array:
    """d relu/da at y = relu(a): 1 where y > 0, else 0 (at the kink too)."""
    return xp.astype(y > 0, y.dtype)
