"""Dropout: the part, and the checks of dropout between layers and of weights."""

from __future__ import annotations

from numbers import Real
from typing import Any

from xrnn.backends import host
from xrnn.engine.random import random_numbers
from xrnn.layers.part import PartTape, Weightless, accept_input, accept_tape
from xrnn.typing import Array, Size


def check_dropout(kind: str, dropout: float, num_layers: int) -> None:
    """Raise ValueError unless `dropout` is in [0, 1), and 0 if there is only one layer."""
    if not _is_rate(dropout):
        raise ValueError(f"{kind}: dropout is {dropout!r:.80}; it must be in [0, 1)")
    if dropout and num_layers == 1:
        raise ValueError(
            f"{kind}: dropout is {dropout} and num_layers is 1; it acts between layers: give "
            "num_layers ≥ 2, or dropout=0"
        )


def check_weight_drop(kind: str, weight_drop: float, recurrent: bool) -> None:
    """Raise ValueError unless `weight_drop` is in [0, 1), and 0 if there is no U."""
    if not _is_rate(weight_drop):
        raise ValueError(f"{kind}: weight_drop is {weight_drop!r:.80}; it must be in [0, 1)")
    if weight_drop and not recurrent:
        raise ValueError(f"{kind}: weight_drop is {weight_drop}, and there is no U; give 0")


def _is_rate(given: object) -> bool:
    return isinstance(given, Real) and not isinstance(given, bool) and not given < 0 and given < 1


class Dropout(Weightless):
    """Sets a random part of the values to 0 in training, and scales the others.

    y = m ⊙ x,  m = 0 with probability p, else 1/(1 − p)

    Inference (`__call__`) changes nothing.  The numbers depend on the seed and the position alone.

    Parameters
    ----------
    rate : float
        p, in [0, 1).

    Raises
    ------
    ValueError
        If the rate is not in [0, 1).

    References
    ----------
    Srivastava et al. (2014), Journal of Machine Learning Research 15, 1929-1958.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> y, tape = xrnn.Dropout(0.5).forward(np.ones((1, 6)), seed=0)
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    """

    kind = "dropout"

    def __init__(self, rate: float) -> None:
        if not _is_rate(rate):
            raise ValueError(f"dropout: rate is {rate!r:.80}; it must be in [0, 1)")
        self.rate = float(rate)

    def __call__(self, x: Array) -> Array:
        """The input itself."""
        return accept_input("dropout", x, 0, "(…)")[1]

    @host.ignore_underflow
    def forward(self, x: Array, *, seed: Size | None = None, t: Size = 0) -> tuple[Array, PartTape]:
        """Drop values.

        Parameters
        ----------
        x : array (…)
            The input; (T, …) if `t` is given.
        seed : int, optional
            The seed, another one at every training step.  Required unless the rate is 0.
        t : int
            How many steps of the same sequences came before, in earlier calls with this seed.

        Returns
        -------
        y : array like x
            The input with values dropped; the input itself if the rate is 0.
        tape : PartTape
            For `backward`.

        Raises
        ------
        TypeError, ValueError
            If x holds no real floating-point numbers, or there is no seed.
        """
        placement, x = accept_input("dropout", x, 0, "(…)")
        shape = tuple(x.shape)
        needed = "dropout" if self.rate else ""
        random = random_numbers(placement, seed, t, needed, dropout=self.rate)
        if random is None:
            return x, PartTape(self, placement, shape, (None,))
        mask = random.over(shape)
        return x * mask, PartTape(self, placement, shape, (mask,))

    @host.ignore_underflow
    def backward(self, tape: PartTape, dy: Array) -> tuple[Array, dict[str, Array]]:
        """The gradient of the input, m ⊙ dy, and no gradients of weights; see `forward`.

        Raises
        ------
        TypeError, ValueError
            If the tape is not from `forward` of this part, or dy is not like y.
        """
        tape, dy = accept_tape("dropout", self, tape, dy)
        (mask,) = tape.kept
        return (dy if mask is None else dy * mask), {}

    def config(self) -> dict[str, Any]:
        """The options that change what is computed."""
        return {"kind": "dropout", "rate": self.rate}
