"""Weights of 8 bits: what a product with them is, in plain array code.

A row of weights w has one scale, and so has each row x that it is multiplied by (the inputs of one
sequence at one step, or its state).  With the levels Q of a row:

    s = max |w| / 127          w ≈ s p,    p = round(w / s) in -127 … 127            (1)
    t = max |x| / Q            x ≈ t q,    q = round(x · (Q / max |x|)) in -Q … Q    (2)
    w · x  ≈  (n t) s                                                                (3)

n is the sum of the integers p q.  Where Q is 127 it is exact.  Where Q is 32,767, which is that of
W x, q is 256 q₁ + q₀ with q₀ in 0 … 255, and n is 256 (Σ p q₁) + (Σ p q₀), where both sums are
exact and each is rounded to float32 before they are added.  All else is float32, each operation
rounded once.

So a result depends on its own row alone: not on other sequences or steps, nor on the order of a
sum.  A row that holds NaN or infinity has the scale NaN, and so have all its results; one below
2⁻¹⁰⁰ counts as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from array_api_compat import array_namespace

from xrnn.typing import Array, Namespace, Weights

#: the levels of a weight, and of what is multiplied by it, on each side of 0
LEVELS = 127

#: the levels of the inputs, which W is multiplied by
WIDE_LEVELS = 32767

#: ranges below it count as 0, so that no scale is a denormal number
LEAST = 2.0**-100

#: the largest number of columns: the sums of products of 8 bits are integers of 32 bits
MOST_COLUMNS = 66_000

#: so many products of 8 bits add up in float32 without rounding
EXACT = 512


def quantised(weights: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """The integers p (n, k) and the scales s (n,) of weights (n, k), see (1).

    >>> import numpy as np
    >>> quantised(np.asarray([[2.54, -1.0], [0.0, 0.0]], "float32"), xp=np)
    (array([[127, -50],
           [  0,   0]], dtype=int8), array([0.02, 0.  ], dtype=float32))
    """
    most = xp.max(xp.abs(weights), axis=1)
    large = most >= LEAST
    scales = xp.where(large, most / LEVELS, xp.zeros_like(most))
    divisors = xp.where(large, scales, xp.ones_like(most))
    return xp.astype(xp.round(weights / divisors[:, None]), xp.int8), scales


def _rounded(x: Array, levels: float, *, xp: Namespace) -> tuple[Array, Array]:
    """The integers q (m, k), as numbers of the dtype of x, and the scales t (m, 1), see (2)."""
    most = xp.max(xp.abs(x), axis=1, keepdims=True)
    finite, zero = xp.isfinite(most), xp.zeros_like(most)
    large = finite & (most >= LEAST)
    by = levels / xp.where(large, most, xp.ones_like(most))
    q = xp.round(xp.where(large, x, xp.zeros_like(x)) * by)
    return q, xp.where(finite, xp.where(large, most, zero) / levels, zero + float("nan"))


def _sums(q: Array, p: Array, *, xp: Namespace) -> Array:
    """q (m, k) p (k, n) for integers of 8 bits, in the dtype of q, rounded once."""
    parts = [slice(start, start + EXACT) for start in range(0, q.shape[1], EXACT)]
    sums = [xp.astype(q[:, k] @ xp.astype(p[k, :], q.dtype), xp.int32) for k in parts]
    return xp.astype(sum(sums[1:], sums[0]), q.dtype)


class Quantised:
    """A matrix of weights of 8 bits, (n, k).

    It can be multiplied as ``x @ matrix.T``, and its rows can be taken, as matrices have it; so
    the code of a cell works with it as it stands.

    Parameters
    ----------
    integers : array (n, k) of int8
        p.
    scales : array (n,) of float32
        s.
    wide : bool
        Whether x has 16 bits (see above) or 8.
    """

    #: NumPy, and libraries that are like it, leave the product to this class
    __array_ufunc__ = None

    def __init__(self, integers: Array, scales: Array, wide: bool) -> None:
        self.integers, self.scales, self.wide = integers, scales, wide
        self.shape = tuple(integers.shape)

    def real(self) -> Array:
        """The weights as float32."""
        xp = array_namespace(self.scales)
        return xp.astype(self.integers, self.scales.dtype) * self.scales[:, None]

    def times(self, x: Array) -> Array:
        """x (m, k) times the transpose: (m, n), see (3)."""
        xp, p = array_namespace(x), self.integers.T
        q, scales = _rounded(x, WIDE_LEVELS if self.wide else LEVELS, xp=xp)
        if self.wide:
            high = xp.floor(q / 256)
            n = 256 * _sums(high, p, xp=xp) + _sums(q - 256 * high, p, xp=xp)
        else:
            n = _sums(q, p, xp=xp)
        return n * scales * self.scales

    def __getitem__(self, key: Any) -> Quantised:
        rows = key[0] if isinstance(key, tuple) else key
        return Quantised(self.integers[rows, :], self.scales[rows], self.wide)

    @property
    def T(self) -> _Transposed:
        """The transpose, which can stand on the right of a product."""
        return _Transposed(self)


class _Transposed:
    """The transpose of a matrix, which stands on the right of a product."""

    __array_ufunc__ = None

    def __init__(self, matrix: Quantised) -> None:
        self.matrix = matrix

    def __rmatmul__(self, x: Array) -> Array:
        """x (m, k) times the transpose: (m, n)."""
        return self.matrix.times(x)


def real(weights: Mapping[str, Any]) -> Weights:
    """The weights of one cell as arrays of float32."""
    return {k: w.real() if isinstance(w, Quantised) else w for k, w in weights.items()}
