"""Dual numbers: arrays that carry their derivative along one direction.

x + ε ẋ with ε² = 0: whatever is computed of x, ε is multiplied by its derivative along ẋ    (1)
(a + ε ȧ) (b + ε ḃ) = a b + ε (ȧ b + a ḃ)                                                    (2)
f(a + ε ȧ) = f(a) + ε f'(a) ȧ                                                                (3)

`Dual` is an array of an array library that follows the Array API standard, as NumPy's are: its
functions are `xrnn.learn.dual_functions.Functions`.  So everything that runs with every library
runs with it too, and a forward and a backward pass give their derivatives along a direction without
code of their own.  What decides without having a derivative (comparisons, indices) is decided by x
alone, so a function with kinks has the derivative of the side that it takes.

Source: Clifford (1873); (1) as a method to differentiate programs: Wengert (1964).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat

from xrnn.typing import Array, Namespace


class Dual:
    """An array x, and its derivative along a direction; arithmetic by operators as of any array.

    Each library has its own class of them, see `xrnn.learn.dual_functions.dual`.

    Parameters
    ----------
    value : array
        x.
    tangent : array or None
        ẋ, of the shape of x.  None: 0, because x does not depend on what is varied.
    """

    __slots__ = ("tangent", "value")
    #: the functions of the library of x, and those of this class
    inner: Namespace
    functions: Any

    def __init__(self, value: Array, tangent: Array | None = None) -> None:
        self.value, self.tangent = value, tangent

    def __array_namespace__(self, api_version: str | None = None) -> Namespace:
        return self.functions

    shape = property(lambda self: tuple(self.value.shape))
    ndim = property(lambda self: self.value.ndim)
    dtype = property(lambda self: self.value.dtype)
    size = property(lambda self: array_api_compat.size(self.value))
    device = property(lambda self: array_api_compat.device(self.value))
    T = property(lambda self: self._both(lambda a: a.T))
    mT = property(lambda self: self.functions.matrix_transpose(self))

    def _both(self, change: Callable[[Array], Array]) -> Dual:
        """The same linear change of both parts."""
        tangent = self.tangent
        return type(self)(change(self.value), None if tangent is None else change(tangent))

    def __getitem__(self, key: Any) -> Dual:
        keys = tuple(map(value_of, key)) if isinstance(key, tuple) else value_of(key)
        return self._both(lambda a: a[keys])

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "an array is changed in place while derivatives are computed; compute a new one, such "
            "as by where, of the functions of array.__array_namespace__()"
        )

    def __len__(self) -> int:
        return len(self.value)

    def __neg__(self) -> Dual:
        return self._both(lambda a: -a)

    def __pos__(self) -> Dual:
        return self

    def __abs__(self) -> Dual:
        found: Dual = self.functions.abs(self)
        return found

    def __add__(self, other: Any) -> Dual:
        a, b = self.value, value_of(other)
        y = a + b
        return type(self)(y, added(self.tangent, tangent_of(other), y, self.inner))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Dual:
        y, db = self.value - value_of(other), tangent_of(other)
        return type(self)(y, added(self.tangent, None if db is None else -db, y, self.inner))

    def __rsub__(self, other: Any) -> Dual:
        return (-self).__add__(other)

    def __mul__(self, other: Any) -> Dual:
        a, b, da, db = self.value, value_of(other), self.tangent, tangent_of(other)
        y = a * b
        left, right = None if da is None else da * b, None if db is None else a * db  # (2)
        return type(self)(y, added(left, right, y, self.inner))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        return quotient(type(self), self, other)

    def __rtruediv__(self, other: Any) -> Dual:
        return quotient(type(self), other, self)

    def __matmul__(self, other: Any) -> Dual:
        if getattr(other, "__array_ufunc__", self) is None:  # no array: a matrix of its own kind
            raise TypeError(f"there is no rule for derivatives of a product by {type(other)}")
        return product(type(self), self, other)

    def __rmatmul__(self, other: Any) -> Dual:
        return product(type(self), other, self)

    def __pow__(self, other: Any) -> Dual:
        return power(type(self), self, other)

    def __rpow__(self, other: Any) -> Dual:
        return power(type(self), other, self)

    def __lt__(self, other: Any) -> Dual:
        return type(self)(self.value < value_of(other))

    def __le__(self, other: Any) -> Dual:
        return type(self)(self.value <= value_of(other))

    def __gt__(self, other: Any) -> Dual:
        return type(self)(self.value > value_of(other))

    def __ge__(self, other: Any) -> Dual:
        return type(self)(self.value >= value_of(other))

    def __eq__(self, other: object) -> Dual:  # type: ignore[override]
        return type(self)(self.value == value_of(other))

    def __ne__(self, other: object) -> Dual:  # type: ignore[override]
        return type(self)(self.value != value_of(other))

    __hash__ = None  # type: ignore[assignment]

    def __invert__(self) -> Dual:
        return type(self)(~self.value)

    def __and__(self, other: Any) -> Dual:
        return type(self)(self.value & value_of(other))

    def __or__(self, other: Any) -> Dual:
        return type(self)(self.value | value_of(other))

    __rand__, __ror__ = __and__, __or__

    def __bool__(self) -> bool:
        return bool(self._constant("a bool"))

    def __int__(self) -> int:
        return int(self._constant("an integer"))

    __index__ = __int__

    def __float__(self) -> float:
        return float(self._constant("a float"))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        self._constant("an array of NumPy")
        raise TypeError("an array of dual numbers cannot become one of NumPy")

    def _constant(self, what: str) -> Array:
        """x, which has no derivative; an error where it has one, which would be lost."""
        if self.tangent is not None:
            raise TypeError(
                f"an array is made {what} while derivatives are computed, and its own would be "
                "lost; results must be computed by operators, and the functions of "
                "array.__array_namespace__()"
            )
        return self.value

    def sum(self, axis: Any = None, **how: Any) -> Dual:
        """As the function of that name."""
        found: Dual = self.functions.sum(self, axis=axis, **how)
        return found

    def mean(self, axis: Any = None, **how: Any) -> Dual:
        """As the function of that name."""
        found: Dual = self.functions.mean(self, axis=axis, **how)
        return found

    def reshape(self, *shape: Any) -> Dual:
        """As the function of that name."""
        return self._both(lambda a: a.reshape(*shape))

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **how: Any) -> Any:
        """NumPy's functions of single values, such as ``np.exp(a)``, and ``np.ones(3) * a``."""
        if method != "__call__":
            return NotImplemented
        return self.__array_function__(ufunc, (), args, how)

    def __array_function__(self, function: Any, types: Any, args: Any, how: Any) -> Any:
        """NumPy's other functions, such as ``np.sum(a)``."""
        name = NUMPY_NAMES.get(function.__name__, function.__name__)
        if not hasattr(self.functions, name):
            raise TypeError(
                f"{name} has no rule for derivatives; compute the same by other functions of "
                "array.__array_namespace__()"
            )
        return getattr(self.functions, name)(*args, **how)


#: NumPy's own names of functions of the standard
NUMPY_NAMES = {
    "absolute": "abs",
    "concatenate": "concat",
    "power": "pow",
    "transpose": "permute_dims",
    "arctan": "atan",
    "true_divide": "divide",
}


def value_of(a: Any) -> Any:
    """x of a dual number; of anything else itself."""
    return a.value if isinstance(a, Dual) else a


def tangent_of(a: Any) -> Array | None:
    """ẋ of a dual number; None of anything else, which is constant."""
    return a.tangent if isinstance(a, Dual) else None


def added(da: Array | None, db: Array | None, y: Array, xp: Namespace) -> Array | None:
    """The sum of two tangents, in the shape of y."""
    if da is not None and db is not None:
        return da + db
    d = db if da is None else da
    return d if d is None or d.shape == y.shape else xp.broadcast_to(d, y.shape)


def quotient(kind: type[Dual], a: Any, b: Any) -> Dual:
    """a / b."""
    x, da, db = value_of(b), tangent_of(a), tangent_of(b)
    y = value_of(a) / x
    left, right = None if da is None else da / x, None if db is None else -(y / x) * db
    return kind(y, added(left, right, y, kind.inner))


def product(kind: type[Dual], a: Any, b: Any) -> Dual:
    """The matrix product a b."""
    x, z, da, db = value_of(a), value_of(b), tangent_of(a), tangent_of(b)
    y = x @ z
    left, right = None if da is None else da @ z, None if db is None else x @ db  # (2)
    return kind(y, added(left, right, y, kind.inner))


def power(kind: type[Dual], a: Any, b: Any) -> Dual:
    """a to the power of b."""
    x, n, da, db = value_of(a), value_of(b), tangent_of(a), tangent_of(b)
    y = x**n
    left = None if da is None else n * x ** (n - 1) * da
    right = None if db is None else y * kind.inner.log(kind.inner.asarray(x)) * db
    return kind(y, added(left, right, y, kind.inner))
