"""The activation functions of the cells, and their derivatives.

The derivatives of the usual ones are functions of their outputs, because that is what the forward
pass keeps.  `activate` and `slope` compute any of `ACTIVATIONS`, which a cell with options
(`xrnn.cells.lstm_with` and the others) names by tuples (name, alpha, beta).

Sources: the operator RNN of ONNX, which lists them with their parameters; Keras 2 and 3, whose
hard sigmoids are ("hard_sigmoid", 0.2, 0.5) and ("hard_sigmoid", 1/6, 0.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from xrnn.typing import Array, Namespace, is_complex


def sigmoid(a: Array, *, xp: Namespace) -> Array:
    """σ(a) = 1 / (1 + e^-a), written with e^-|a|: nothing overflows, and small values of σ keep
    all their digits."""
    positive = _real(a, xp=xp) >= 0
    e = xp.exp(xp.where(positive, -a, a))
    return xp.where(positive, xp.ones_like(e), e) / (1 + e)


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


def limited(a: Array, limit: float, *, xp: Namespace) -> Array:
    """a limited to ±limit; a NaN stays a NaN."""
    return _between(a, -limit, limit, xp=xp)


def limited_slope(y: Array, limit: float, *, xp: Namespace) -> Array:
    """The derivative of `limited` at y = limited(a, limit): 0 where the limit was reached."""
    return xp.astype(abs(_real(y, xp=xp)) < limit, y.dtype)


class Activation(NamedTuple):
    """One kind of activation function.

    - value: ``value(a, alpha, beta, *, xp) -> y``
    - slope: ``slope(a, y, alpha, beta, *, xp)``, the derivative; at a kink that of the side on
      which the function is constant, or that of the left side
    - alpha, beta: the parameters where none are given; None: it has no such parameter
    - analytic: whether the function is analytic
    """

    value: Callable[..., Array]
    slope: Callable[..., Array]
    alpha: float | None = None
    beta: float | None = None
    analytic: bool = True


#: (name, alpha, beta), with 0 for a parameter that the function does not have
Spec = tuple[str, float, float]


def activate(spec: Spec, a: Array, *, xp: Namespace) -> Array:
    """The activation function of that name and parameters at a."""
    name, alpha, beta = spec
    return ACTIVATIONS[name].value(a, alpha, beta, xp=xp)


def slope(spec: Spec, a: Array, y: Array, *, xp: Namespace) -> Array:
    """Its derivative at a, where y = activate(spec, a)."""
    name, alpha, beta = spec
    return ACTIVATIONS[name].slope(a, y, alpha, beta, xp=xp)


# ---- All kinds: y and dy/da of the pre-activation a


def _sigmoid(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return sigmoid(a, xp=xp)


def _sigmoid_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return sigmoid_slope(y)


def _tanh(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return xp.tanh(a)


def _tanh_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return tanh_slope(y)


def _relu(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return xp.where(_real(a, xp=xp) <= 0, xp.zeros_like(a), a)


def _relu_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return _chosen(a, 0, 0.0, 1.0, xp=xp)


def _hard_sigmoid(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return _between(alpha * a + beta, 0.0, 1.0, xp=xp)


def _hard_sigmoid_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    real = _real(y, xp=xp)
    return alpha * xp.astype((real > 0) & (real < 1), y.dtype)


def _affine(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return alpha * a + beta


def _affine_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return xp.full_like(a, alpha)


def _leaky_relu(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return xp.where(_real(a, xp=xp) <= 0, alpha * a, a)


def _leaky_relu_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return _chosen(a, 0, alpha, 1.0, xp=xp)


def _thresholded_relu(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return xp.where(_real(a, xp=xp) <= alpha, xp.zeros_like(a), a)


def _thresholded_relu_slope(
    a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace
) -> Array:
    return _chosen(a, alpha, 0.0, 1.0, xp=xp)


def _scaled_tanh(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return alpha * xp.tanh(beta * a)


def _scaled_tanh_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return alpha * beta * tanh_slope(xp.tanh(beta * a))


def _elu(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    negative = _real(a, xp=xp) <= 0
    # The exponential of what is not used would overflow.
    below = xp.expm1(xp.where(negative, a, xp.zeros_like(a)))
    return xp.where(negative, alpha * below, a)


def _elu_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return xp.where(_real(a, xp=xp) <= 0, y + alpha, xp.ones_like(y))


def _softsign(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return a / (1 + _absolute(a, xp=xp))


def _softsign_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    below = 1 + _absolute(a, xp=xp)
    return 1 / below / below


def _softplus(a: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    positive = _real(a, xp=xp) > 0
    rest = xp.log1p(xp.exp(xp.where(positive, -a, a)))
    return xp.where(positive, a + rest, rest)


def _softplus_slope(a: Array, y: Array, alpha: float, beta: float, *, xp: Namespace) -> Array:
    return sigmoid(a, xp=xp)


ACTIVATIONS: Mapping[str, Activation] = {
    "sigmoid": Activation(_sigmoid, _sigmoid_slope),
    "tanh": Activation(_tanh, _tanh_slope),
    "relu": Activation(_relu, _relu_slope, analytic=False),
    "hard_sigmoid": Activation(_hard_sigmoid, _hard_sigmoid_slope, 0.2, 0.5, analytic=False),
    "affine": Activation(_affine, _affine_slope, 1.0, 0.0),
    "leaky_relu": Activation(_leaky_relu, _leaky_relu_slope, 0.01, analytic=False),
    "thresholded_relu": Activation(_thresholded_relu, _thresholded_relu_slope, 1.0, analytic=False),
    "scaled_tanh": Activation(_scaled_tanh, _scaled_tanh_slope, 1.0, 1.0),
    "elu": Activation(_elu, _elu_slope, 1.0, analytic=False),
    "softsign": Activation(_softsign, _softsign_slope, analytic=False),
    "softplus": Activation(_softplus, _softplus_slope),
}
"""The kinds of activation functions by name: hard_sigmoid is min(max(alpha·a + beta, 0), 1),
affine alpha·a + beta, leaky_relu alpha·a for a ≤ 0 and a above, thresholded_relu 0 for a ≤ alpha
and a above, scaled_tanh alpha·tanh(beta·a), elu alpha·(e^a − 1) for a ≤ 0 and a above, softsign
a/(1 + |a|), softplus ln(1 + e^a)."""


#: the functions whose slopes depend on their parameters → the largest slope; the others' are ≤ 1
STEEPEST: Mapping[str, Callable[[float, float], float]] = {
    "hard_sigmoid": lambda alpha, beta: abs(alpha),
    "affine": lambda alpha, beta: abs(alpha),
    "leaky_relu": lambda alpha, beta: max(1.0, abs(alpha)),
    "scaled_tanh": lambda alpha, beta: abs(alpha * beta),
    "elu": lambda alpha, beta: max(1.0, abs(alpha)),
}


def steepness(spec: Spec) -> float:
    """The largest slope of an activation function, at least 1."""
    name, alpha, beta = spec
    return max(1.0, STEEPEST[name](alpha, beta)) if name in STEEPEST else 1.0


# ---- Numbers that may be complex: a function with kinks is analytic between them


def _real(a: Array, *, xp: Namespace) -> Array:
    """The real part, by which a side of a kink is chosen."""
    return xp.real(a) if is_complex(a.dtype) else a


def _absolute(a: Array, *, xp: Namespace) -> Array:
    """|a| of a real number, continued analytically on each side of 0."""
    return xp.where(_real(a, xp=xp) < 0, -a, a)


def _chosen(a: Array, kink: float, below: float, above: float, *, xp: Namespace) -> Array:
    """`below` where a ≤ kink, `above` elsewhere."""
    left = _real(a, xp=xp) <= kink
    return xp.where(left, xp.full_like(a, below), xp.full_like(a, above))


def _between(a: Array, low: float, high: float, *, xp: Namespace) -> Array:
    """a limited to low…high."""
    real = _real(a, xp=xp)
    least, most = xp.full_like(a, low), xp.full_like(a, high)
    return xp.where(real < low, least, xp.where(real > high, most, a))
