"""Layer normalisation as a part between layers.

y = g ⊙ (x − μ) / √(s² + ε) + b        (1)   μ and s² are mean and variance over the last axis

Source: Ba, Kiros & Hinton (2016), arXiv:1607.06450, eq. 4.
"""

from __future__ import annotations

from math import prod
from typing import Any

from xrnn.backends import host
from xrnn.cells.base import check_sizes
from xrnn.cells.normalisation import normalise, normalise_backward
from xrnn.cells.numbers import accept_number
from xrnn.engine.checks import REAL_DTYPES, Spec, accept_dtype
from xrnn.engine.module import Module, drawn
from xrnn.layers.part import PartTape, accept_tape
from xrnn.recurrence.precision import cast, rounded_sum, widen
from xrnn.typing import Array, GivenDType, Size


class LayerNorm(Module):
    """Normalises the values of each step to mean 0 and variance 1, and scales and shifts them.

    Parameters
    ----------
    size : int
        n, the number of values of a step.
    eps : float
        ε, in [1e-30, 1).
    dtype, device
        As for `xrnn.Layer`.

    Attributes
    ----------
    weights : Parameters
        ``gain`` (n,), initially 1, and ``b`` (n,), initially 0.

    Raises
    ------
    TypeError, ValueError
        If the size is not an integer of at least 1, or ε not a number in [1e-30, 1).
    ImportError
        If the library of the device is not installed, or finds no device.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> y, tape = xrnn.LayerNorm(2, dtype="float64").forward(np.array([[1.0, 3.0]]))
    >>> y.round(3).tolist()
    [[-1.0, 1.0]]
    """

    _fixed = frozenset({"size", "eps", "dtype"})

    def __init__(
        self,
        size: Size,
        *,
        eps: float = 1e-5,
        dtype: GivenDType = "float32",
        device: str = "cpu",
    ) -> None:
        check_sizes("layer_norm", size=size)
        n = self.size = int(size)
        # Smaller ones are 0 in float32, and rows of equal numbers would be divided by 0.
        must = "a number in [1e-30, 1)"
        self.eps = accept_number("layer_norm: eps", eps, must, lambda x: 1e-30 <= x < 1)
        self.dtype = accept_dtype("layer_norm", dtype, REAL_DTYPES)
        specs = {"gain": Spec((n,), "(n,)"), "b": Spec((n,), "(n,)")}

        def draw(random: Any) -> dict[str, Array]:
            return {"gain": host.xp.ones(n), "b": host.xp.zeros(n)}

        options: Any = {"rng": 0, "dtype": self.dtype, "device": device}
        self._parameters = drawn("layer_norm", specs, draw, **options)

    def __call__(self, x: Array) -> Array:
        """The outputs alone, without a tape; exceptions as for `forward`."""
        return self.forward(x)[0]

    @host.ignore_underflow
    def forward(self, x: Array) -> tuple[Array, PartTape]:
        """Normalise.

        Parameters
        ----------
        x : array (…, n)
            The input.

        Returns
        -------
        y : array (…, n)
            The output.
        tape : PartTape
            For `backward`.

        Raises
        ------
        TypeError
            If x is of another library or dtype than the weights.
        ValueError
            If x does not have n values in its last axis.
        """
        parameters = self._parameters
        placement = parameters.placement
        x = placement.accept("x", x)
        if x.ndim < 1 or x.shape[-1] != self.size:
            raise ValueError(
                f"layer_norm: x has shape {tuple(x.shape)}; it must be (…, n) with n = {self.size}"
            )
        xp = placement.backend.xp
        gain = widen(parameters["gain"], xp=xp)
        normalised, saved = normalise(widen(x, xp=xp), gain, self.eps, xp=xp)
        y = cast(normalised + widen(parameters["b"], xp=xp), x.dtype, xp=xp)  # (1)
        kept = (*saved, parameters, parameters.version)
        return y, PartTape(self, placement, tuple(x.shape), kept)

    @host.ignore_underflow
    def backward(self, tape: PartTape, dy: Array) -> tuple[Array, dict[str, Array]]:
        """The gradients of the input and of the weights.

        Parameters
        ----------
        tape : PartTape
            From `forward`.
        dy : array (…, n)
            The gradient of the outputs.

        Returns
        -------
        dx : array (…, n)
            The gradient of the input.
        dweights : dict of str to array
            Names and shapes of `weights`.

        Raises
        ------
        TypeError, ValueError
            If the tape is not from `forward` of this part, dy is not like y, or the weights have
            changed since.
        """
        tape, dy = accept_tape("layer_norm", self, tape, dy)
        unit, scale, parameters, version = tape.kept
        self.check_unchanged(parameters, version)
        xp = tape.placement.backend.xp
        wide = widen(dy, xp=xp)
        gain = widen(parameters["gain"], xp=xp)
        dx, dgain = normalise_backward(wide, gain, (unit, scale), xp=xp)
        rows = (prod(tape.shape[:-1]), self.size)
        dweights = {
            name: cast(rounded_sum(xp.reshape(d, rows), axis=0, xp=xp), dy.dtype, xp=xp)
            for name, d in (("gain", dgain), ("b", wide))
        }
        return cast(dx, dy.dtype, xp=xp), dweights

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this part."""
        return {"kind": "layer_norm", "size": self.size, "eps": self.eps, "dtype": self.dtype}

    def __repr__(self) -> str:
        return f"<LayerNorm({self.size}, eps={self.eps}): {self.weights!r}>"
