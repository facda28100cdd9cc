"""A linear map over the outputs of a recurrent layer.

y_t = W h_t + b               (1)   derivation "Tanh RNN", eq. 3
y_t = φ(W h_t + b)            (2)   with ``activation``: relu ("ReLU RNN, LSTM and GRU", eq. 2),
                                    tanh, sigmoid or softplus

Softmax has no layer of its own: `xrnn.losses.softmax_cross_entropy` takes the logits,
because its gradient with respect to them is simple and stable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, Literal, NamedTuple

from xrnn.backends import host
from xrnn.cells.activations import activate, relu_slope, sigmoid_slope, tanh_slope
from xrnn.cells.base import check_flags, check_sizes
from xrnn.engine.checks import DTYPES, Spec, accept_dtype, check_choice
from xrnn.engine.module import Module, drawn
from xrnn.engine.parameters import Parameters
from xrnn.layers.part import check_tape
from xrnn.recurrence.precision import cast, rounded_sum, widen
from xrnn.typing import Array, GivenDType, Namespace, Size

LinearActivation = Literal["relu", "tanh", "sigmoid", "softplus"]


def _softplus_slope(y: Array, *, xp: Namespace) -> Array:
    """σ(a) = 1 − e^-y at y = ln(1 + e^a)."""
    return -xp.expm1(-y)


#: the activation functions, and their derivatives as functions of their outputs
SLOPES: Mapping[str, Callable[..., Array]] = {
    "relu": relu_slope,
    "tanh": lambda y, *, xp: tanh_slope(y),
    "sigmoid": lambda y, *, xp: sigmoid_slope(y),
    "softplus": _softplus_slope,
}


class LinearTape(NamedTuple):
    """What `Linear.backward` needs.

    It refers to the inputs without copying them, so do not change that array in place before
    backward.  A copied or unpickled tape has a copy of its linear map with it, as `owner`.
    """

    hs: Array
    ys: Array
    owner: Linear
    parameters: Parameters
    version: int


class Linear(Module):
    """The linear map y = W h + b, optionally followed by an activation function.

    Parameters
    ----------
    in_features, out_features : int
        H and O: inputs (the hidden units of the layer below) and outputs.
    activation : None, or {"relu", "tanh", "sigmoid", "softplus"}
        The function applied to W h + b.
    bias : bool
        Whether there is a bias b.
    dtype, device, rng
        As for `xrnn.Layer`.

    Attributes
    ----------
    weights : Parameters
        ``W`` (O, H), initially Glorot uniform, and ``b`` (O,), initially zero.

    Raises
    ------
    TypeError
        If `bias` is not a bool.
    ValueError
        If a size is not an integer of at least 1, or the activation is unknown.
    ImportError
        If the library of the device is not installed, or finds no device.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> readout = xrnn.Linear(5, 2)
    >>> ys, tape = readout.forward(np.ones((7, 3, 5), "float32"))
    >>> dhs, dweights = readout.backward(tape, ys)
    >>> dhs.shape, dweights["W"].shape
    ((7, 3, 5), (2, 5))
    """

    _fixed = frozenset({"in_features", "out_features", "activation", "bias", "dtype"})

    def __init__(
        self,
        in_features: Size,
        out_features: Size,
        *,
        activation: LinearActivation | None = None,
        bias: bool = True,
        dtype: GivenDType = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        check_sizes("linear", in_features=in_features, out_features=out_features)
        check_flags("linear", bias=bias)
        check_choice("linear", "activation", activation, (None, *SLOPES))
        H, O = int(in_features), int(out_features)
        self.in_features, self.out_features, self.bias = H, O, bool(bias)
        self.activation, self.dtype = activation, accept_dtype("linear", dtype, DTYPES)
        specs = {"W": Spec((O, H), "(O, H)")}
        if bias:
            specs["b"] = Spec((O,), "(O,)")
        options: Any = {"rng": rng, "dtype": self.dtype, "device": device}
        self._parameters = drawn("linear", specs, partial(_draw, H, O, self.bias), **options)

    def __call__(self, hs: Array) -> Array:
        """The outputs (…, O) for hs (…, H), without a tape; exceptions as for `forward`."""
        return self._outputs(self._taken(hs))

    def forward(self, hs: Array) -> tuple[Array, LinearTape]:
        """Compute the outputs and keep what `backward` needs.

        Parameters
        ----------
        hs : array (…, H)
            The inputs.

        Returns
        -------
        ys : array (…, O)
            Read-only, where the library has such arrays, because `backward` reads it again.
        tape : LinearTape
            For `backward`.

        Raises
        ------
        TypeError
            If hs is of another library or dtype than W.
        ValueError
            If hs does not have H values in its last axis.
        """
        parameters = self._parameters
        hs = self._taken(hs)
        backend, kept = parameters.placement.backend, self._outputs(hs)
        ys = backend.read_only(kept)
        if ys is kept and self.activation:
            # The library has no read-only arrays, and backward reads the outputs again.
            kept = backend.xp.asarray(ys, copy=True)
        return ys, LinearTape(hs, kept, self, parameters, parameters.version)

    def backward(self, tape: LinearTape, dys: Array) -> tuple[Array, dict[str, Array]]:
        """The gradients of hs and of the weights.

        Parameters
        ----------
        tape : LinearTape
            From `forward`.
        dys : array (…, O)
            The gradient of the outputs.

        Returns
        -------
        dhs : array (…, H)
            The gradient of the inputs.
        dweights : dict of str to array
            Names and shapes of `weights`.

        Raises
        ------
        TypeError, ValueError
            If dys does not have the library, dtype and shape of the outputs, the tape is not
            from `forward` of this map, or the weights have changed since.
        """
        check_tape("linear", self, tape, LinearTape, "linear map")
        self.check_unchanged(tape.parameters, tape.version)
        hs, ys, placement = tape.hs, tape.ys, self.weights.placement
        dys = placement.accept_shaped("dys", dys, tuple(ys.shape), "that of ys")
        xp = placement.backend.xp
        dhs, dweights = linear_backward(
            dys, hs, ys, self.weights["W"], self.activation, bias=self.bias, xp=xp
        )
        return dhs, dweights

    def _taken(self, hs: Array) -> Array:
        """The input, after its library, dtype and shape have been checked."""
        hs = self.weights.placement.accept("hs", hs)
        if hs.ndim < 1 or hs.shape[-1] != self.in_features:
            raise ValueError(
                f"linear: hs has shape {tuple(hs.shape)}; it must be (…, H) with "
                f"H = {self.in_features}"
            )
        return hs

    def _outputs(self, hs: Array) -> Array:
        weights = self.weights
        b = weights["b"] if self.bias else None
        return linear(hs, weights["W"], b, self.activation, xp=weights.placement.backend.xp)

    def __repr__(self) -> str:
        how = f", activation={self.activation!r}" if self.activation else ""
        return f"<Linear({self.in_features}, {self.out_features}{how}): {self.weights!r}>"

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this map."""
        return {
            "kind": "linear",
            "in_features": self.in_features,
            "out_features": self.out_features,
            "activation": self.activation,
            "bias": self.bias,
            "dtype": self.dtype,
        }


@host.ignore_underflow
def linear(
    hs: Array, W: Array, b: Array | None, activation: LinearActivation | None, *, xp: Namespace
) -> Array:
    """The outputs (…, O) of a linear map for hs (…, H)."""
    ys = xp.reshape(hs, (prod(hs.shape[:-1]), hs.shape[-1])) @ W.T  # (1)
    if b is not None:
        ys = ys + b
    if activation:
        ys = activate((activation, 0.0, 0.0), widen(ys, xp=xp), xp=xp)  # (2)
    return xp.reshape(cast(ys, hs.dtype, xp=xp), (*hs.shape[:-1], W.shape[0]))


@host.ignore_underflow
def linear_backward(
    dys: Array,
    hs: Array,
    ys: Array,
    W: Array,
    activation: LinearActivation | None,
    *,
    bias: bool,
    xp: Namespace,
) -> tuple[Array, dict[str, Array]]:
    """The gradients of hs, and of W and b by name, of outputs ys with the gradient dys."""
    O, H = W.shape
    da = dys
    if activation:
        slope = SLOPES[activation](widen(ys, xp=xp), xp=xp)
        da = cast(widen(dys, xp=xp) * slope, dys.dtype, xp=xp)  # (2)
    count = prod(hs.shape[:-1])
    da = xp.reshape(da, (count, O))
    # The products of bfloat16 are float32 in NumPy.
    dW = cast(da.T @ xp.reshape(hs, (count, H)), dys.dtype, xp=xp)  # (1)
    dweights = {"W": dW}
    if bias:
        dweights["b"] = rounded_sum(da, axis=0, xp=xp)
    return xp.reshape(cast(da @ W, dys.dtype, xp=xp), hs.shape), dweights


def _draw(H: int, O: int, bias: bool, random: Any) -> dict[str, Array]:
    """W, Glorot uniform (Glorot & Bengio, 2010), and b."""
    limit = (6 / (H + O)) ** 0.5
    W = {"W": random.uniform(-limit, limit, (O, H))}
    return {**W, "b": host.xp.zeros(O)} if bias else W
