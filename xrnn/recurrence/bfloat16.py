"""Products of bfloat16: what float32 products multiply is rounded to bfloat16, once.

A product A B of float32 arrays is that of the rounded A and B, whose sums are float32.  Weights,
states, gates and gradients stay float32, and all else is computed in it.  That is so in both
directions: backward, the gradients of pre-activations are rounded where they are multiplied, by
U and W and by the states and inputs of the sums for dU and dW, and not where they are added up to
that of a bias.

bfloat16 has the exponents of float32 and 8 bits of significand.  A number is rounded to the nearest
of these, of two equally near ones to that whose last bit is 0; to infinity from 2^128 (1 − 2^-9)
on.  Numbers below 2^-126 count as 0, as processors with such products have it.  The product of two
such numbers is exact in float32, so only sums are rounded further.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from xrnn.cells.base import Cell
from xrnn.recurrence.loop import Loop
from xrnn.typing import Array, Contribution, Namespace, State, Step, StepBackward, Weights

#: the weights that products multiply, besides W
MATRICES = ("U", "P")

#: the smallest normal number of float32 and bfloat16
TINY = 2.0**-126


def nearest(a: Array, *, xp: Namespace) -> Array:
    """The nearest numbers of bfloat16, as float32.

    >>> import numpy as np
    >>> a = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -np.inf, 1e-39], "float32")
    >>> nearest(a, xp=np).tolist()
    [1.0, 1.0, 1.015625, -inf, 0.0]
    """
    if hasattr(xp, "bfloat16"):  # not part of the standard
        rounded = xp.astype(xp.astype(a, xp.bfloat16), a.dtype)
    else:
        rounded = xp.astype(_nearest(xp.astype(a, xp.float64), xp=xp), a.dtype)
    small = xp.abs(a) < TINY
    return xp.where(small, xp.where(small, a, xp.zeros_like(a)) * 0, rounded)  # keeps the sign


def _nearest(a: Array, *, xp: Namespace) -> Array:
    """The same for numbers of float32 as float64, by arithmetic alone."""
    ordinary = xp.isfinite(a) & (a != 0)
    b = xp.where(ordinary, a, xp.ones_like(a))
    # The largest power of 2 up to |b|: Rump, Ogita & Oishi (2008), "Accurate floating-point
    # summation, part I", algorithm 3.5.
    q = (2.0**52 + 1) * b
    power = xp.abs(q - (1 - 2.0**-53) * q)
    unit = power * 2.0**-7
    return xp.where(ordinary, xp.round(b / unit) * unit, a)


class RoundedMatrix:
    """A matrix M in products x @ M, which round both; a cell sees it in the place of a weight."""

    __array_ufunc__ = None  # so that NumPy and CuPy leave the product to this class

    def __init__(self, array: Array, xp: Namespace) -> None:
        self.array, self.xp = array, xp

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix."""
        return tuple(self.array.shape)

    @property
    def T(self) -> RoundedMatrix:
        """The transpose."""
        return RoundedMatrix(self.array.T, self.xp)

    def __getitem__(self, key: Any) -> RoundedMatrix:
        return RoundedMatrix(self.array[key], self.xp)

    def __rmatmul__(self, x: Array) -> Array:
        return nearest(x, xp=self.xp) @ nearest(self.array, xp=self.xp)


def check_library(kind: str, like: Array, *, xp: Namespace) -> None:
    """Raise TypeError unless arrays of the library can stand left of a `RoundedMatrix`."""
    one = xp.ones_like(like[:1, :1])
    try:
        one @ RoundedMatrix(one, xp)
    except TypeError as error:
        raise TypeError(
            f"{kind}: precision is 'bf16' and the arrays are of {type(like).__module__}, which "
            "multiplies by its own arrays alone; it must be 'ieee' here: set layer.precision = "
            "'ieee', or move arrays of another library to NumPy"
        ) from error


def _matrices(weights: Weights, xp: Namespace) -> dict[str, Any]:
    return {k: RoundedMatrix(w, xp) if k in MATRICES else w for k, w in weights.items()}


def _step(
    step: Step, ax: Array, state: State, weights: Weights, *, xp: Namespace
) -> tuple[State, Any]:
    return step(ax, state, _matrices(weights, xp), xp=xp)


def _step_backward(
    step_backward: StepBackward, dstate: State, saved: Any, weights: Weights, *, xp: Namespace
) -> tuple[Array, State, dict[str, Contribution]]:
    da, dprev, parts = step_backward(dstate, saved, _matrices(weights, xp), xp=xp)
    found: dict[str, Contribution] = {}
    for name, part in parts.items():
        found[name] = part
        if isinstance(part, tuple):
            found[name] = tuple((nearest(a, xp=xp), nearest(b, xp=xp)) for a, b in part)
    return da, dprev, found


@lru_cache
def with_rounded_products(cell: Cell[Any]) -> Cell[Any]:
    """The cell whose own products, those with U and P, round what they multiply.

    >>> import numpy as np
    >>> from xrnn.cells import Elman
    >>> weights = {"U": np.full((1, 1), 1 + 2**-8, "float32")}
    >>> one, ax = np.ones((1, 1), "float32"), np.zeros((1, 1), "float32")
    >>> (h,), _ = with_rounded_products(Elman).step(ax, (one,), weights, xp=np)
    >>> bool(h == np.tanh(one))
    True
    """
    return replace(
        cell,
        step=partial(_step, cell.step),
        step_backward=partial(_step_backward, cell.step_backward),
    )


class RoundedLoop(Loop):
    """The loop over one cell all of whose products round what they multiply.

    Parameters
    ----------
    cell : Cell
        One time step, forward and backward; it multiplies by U and P with the operator @.
    """

    def __init__(self, cell: Cell[Any]) -> None:
        super().__init__(with_rounded_products(cell))

    def operand(self, a: Array, *, xp: Namespace) -> Array:
        """As `Loop.operand`: the nearest numbers of bfloat16."""
        return nearest(a, xp=xp)
