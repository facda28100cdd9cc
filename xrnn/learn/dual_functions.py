"""The functions of the Array API standard for dual numbers, see `xrnn.learn.dual`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import array_api_compat

from xrnn.backends import Backend, backend_of, host, register
from xrnn.learn.dual import Dual, added, power, product, quotient, tangent_of, value_of
from xrnn.typing import Array, Namespace, is_floating

#: the derivatives of functions of single values: ``slope(x, y, xp)`` at x with y = f(x)
SLOPES: Mapping[str, Callable[[Array, Array, Namespace], Array]] = {
    "abs": lambda x, y, xp: xp.sign(x),
    "atan": lambda x, y, xp: 1 / (1 + x * x),
    "cos": lambda x, y, xp: -xp.sin(x),
    "cosh": lambda x, y, xp: xp.sinh(x),
    "exp": lambda x, y, xp: y,
    "expm1": lambda x, y, xp: y + 1,
    "log1p": lambda x, y, xp: 1 / (1 + x),
    "sin": lambda x, y, xp: xp.cos(x),
    "sinh": lambda x, y, xp: xp.cosh(x),
    "sqrt": lambda x, y, xp: 0.5 / y,
    "square": lambda x, y, xp: 2 * x,
    "tanh": lambda x, y, xp: 1 - y * y,
}

#: functions that are linear in their first argument
LINEAR = (
    *("broadcast_to", "cumulative_sum", "expand_dims", "flip", "matrix_transpose", "mean"),
    *("moveaxis", "negative", "permute_dims", "positive", "repeat", "reshape", "roll", "squeeze"),
    *("sum", "take", "tile", "tril", "triu"),
)

#: functions whose results do not change with their arguments, but for jumps
CONSTANT = (
    *("all", "any", "argmax", "argmin", "argsort", "ceil", "empty_like", "equal", "floor"),
    *("full_like", "greater", "greater_equal", "isfinite", "isinf", "isnan", "less"),
    *("less_equal", "logical_and", "logical_not", "logical_or", "not_equal", "ones_like"),
    *("round", "searchsorted", "sign", "trunc", "zeros_like"),
)

#: functions that are operators
OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "multiply": lambda a, b: a * b,
    "subtract": lambda a, b: a - b,
}

Rule = Callable[..., Any]


class Functions:
    """The functions of a library, for its dual numbers.

    A function without a rule here is that of the library, for constants alone.

    Parameters
    ----------
    kind : type of Dual
        The class of these dual numbers.
    name : str
        The name of their library.
    """

    def __init__(self, kind: type[Dual], name: str) -> None:
        self._kind, self.__name__ = kind, name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kind.inner, name)
        if isinstance(found, type) or not callable(found):  # a dtype, or a constant
            return found
        made = partial(_RULES.get(name, partial(_for_constants, name)), self._kind, found)
        setattr(self, name, made)  # so that it is made once
        return made


def _for_constants(name: str, kind: type[Dual], f: Rule, *args: Any, **how: Any) -> Any:
    if any(tangent_of(a) is not None for a in (*args, *how.values())):
        raise TypeError(
            f"{name} has no rule for derivatives; compute the same by other functions of "
            "array.__array_namespace__()"
        )
    return _constant(kind, f, *args, **how)


def _constant(kind: type[Dual], f: Rule, *args: Any, **how: Any) -> Any:
    y = f(*map(value_of, args), **{name: value_of(a) for name, a in how.items()})
    if isinstance(y, bool) or not array_api_compat.is_array_api_obj(y):
        return y
    return kind(y)


def _linear(kind: type[Dual], f: Rule, a: Any, *args: Any, **how: Any) -> Dual:
    args, da = tuple(map(value_of, args)), tangent_of(a)
    named = {name: value_of(value) for name, value in how.items()}
    y = f(value_of(a), *args, **named)
    return kind(y, None if da is None else f(da, *args, **named))


def _pointwise(
    slope: Callable[[Array, Array, Namespace], Array], kind: type[Dual], f: Rule, a: Any
) -> Dual:
    x, da = value_of(a), tangent_of(a)
    y = f(x)
    return kind(y, None if da is None else slope(x, y, kind.inner) * da)


def _log(kind: type[Dual], f: Rule, a: Any) -> Dual:
    x, da, xp = value_of(a), tangent_of(a), kind.inner
    if da is None:
        return kind(f(x))
    # What is 0 whatever the direction has the constant logarithm −inf.
    still = da == 0
    return kind(f(x), xp.where(still, da, da / xp.where(still, xp.ones_like(x), x)))


def _operator(
    operate: Callable[[Any, Any], Any], kind: type[Dual], f: Rule, a: Any, b: Any
) -> Dual:
    found: Dual = operate(a if isinstance(a, Dual) else kind(kind.inner.asarray(a)), b)
    return found


def _of_two(
    operate: Callable[[type[Dual], Any, Any], Dual], kind: type[Dual], f: Rule, a: Any, b: Any
) -> Dual:
    return operate(kind, a, b)


def _converted(kind: type[Dual], f: Rule, a: Any, *args: Any, **how: Any) -> Dual:
    """`astype` and `asarray`: integers and booleans have no derivative."""
    y, da = f(value_of(a), *args, **how), tangent_of(a)
    if da is None or not is_floating(y.dtype, xp=kind.inner):
        return kind(y)
    return kind(y, f(da, *args, **how))


def _joined(kind: type[Dual], f: Rule, arrays: Any, **how: Any) -> Dual:
    """`concat` and `stack`."""
    parts = list(arrays)
    values, tangents = [value_of(a) for a in parts], [tangent_of(a) for a in parts]
    if all(d is None for d in tangents):
        return kind(f(values, **how))
    zeros = kind.inner.zeros_like
    filled = [zeros(x) if d is None else d for x, d in zip(values, tangents, strict=True)]
    return kind(f(values, **how), f(filled, **how))


def _chosen(kind: type[Dual], f: Rule, condition: Any, a: Any, b: Any) -> Dual:
    """`where`."""
    where, da, db = value_of(condition), tangent_of(a), tangent_of(b)
    y = f(where, value_of(a), value_of(b))
    if da is None and db is None:
        return kind(y)
    zero = kind.inner.zeros((), dtype=y.dtype, device=array_api_compat.device(y))
    d = f(where, zero if da is None else da, zero if db is None else db)
    return kind(y, added(d, None, y, kind.inner))


def _extreme(larger: bool, kind: type[Dual], f: Rule, a: Any, b: Any) -> Dual:
    """`maximum` and `minimum`; of equal values that of b, so ReLU has the derivative 0 at 0."""
    x, z = value_of(a), value_of(b)
    y = f(x, z)
    first = Dual(x > z if larger else x < z)
    return kind(y, _chosen(kind, kind.inner.where, first, a, b).tangent)


def _limited(kind: type[Dual], f: Rule, a: Any, *args: Any, **how: Any) -> Dual:
    """`clip` to constants."""
    x, da = value_of(a), tangent_of(a)
    limits = {"min": None, "max": None, **dict(zip(("min", "max"), args, strict=False)), **how}
    limits = {name: value_of(limit) for name, limit in limits.items()}
    y = f(x, **limits)
    if da is None:
        return kind(y)
    # Where a limit was reached it is constant.
    for limit in limits.values():
        da = da if limit is None else kind.inner.where(y == limit, kind.inner.zeros_like(da), da)
    return kind(y, da)


def _largest(
    place: str, kind: type[Dual], f: Rule, a: Any, *, axis: Any = None, keepdims: bool = False
) -> Dual:
    """`max` and `min` over one axis or all; of equal values the derivative of the first."""
    xp, x, da = kind.inner, value_of(a), tangent_of(a)
    y = f(x, axis=axis, keepdims=keepdims)
    if da is None:
        return kind(y)
    if axis is None:
        x, da = xp.reshape(x, (-1,)), xp.reshape(da, (-1,))
    at = x.ndim - 1 if axis is None else axis % x.ndim
    first = getattr(xp, place)(x, axis=at, keepdims=True)
    steps = xp.arange(x.shape[at], dtype=first.dtype, device=array_api_compat.device(x))
    is_first = first == xp.reshape(steps, (-1, *[1] * (x.ndim - 1 - at)))
    d = xp.sum(xp.where(is_first, da, xp.zeros_like(da)), axis=at, dtype=da.dtype)
    return kind(y, xp.reshape(d, y.shape))


_RULES: dict[str, Rule] = {
    **dict.fromkeys(CONSTANT, _constant),
    **dict.fromkeys(LINEAR, _linear),
    **{name: partial(_pointwise, slope) for name, slope in SLOPES.items()},
    **{name: partial(_operator, operate) for name, operate in OPERATORS.items()},
    **dict.fromkeys(("asarray", "astype"), _converted),
    **dict.fromkeys(("concat", "stack"), _joined),
    "clip": _limited,
    "log": _log,
    "divide": partial(_of_two, quotient),
    "matmul": partial(_of_two, product),
    "max": partial(_largest, "argmax"),
    "maximum": partial(_extreme, True),
    "min": partial(_largest, "argmin"),
    "minimum": partial(_extreme, False),
    "pow": partial(_of_two, power),
    "where": _chosen,
}


@cache
def _class_of(xp: Namespace) -> type[Dual]:
    """The dual numbers of a library."""
    kind = type("DualArray", (Dual,), {"__slots__": (), "inner": xp})
    number = xp.asarray(0.0)
    kind.__module__ = f"dual_{backend_of(number).name}"
    functions = kind.functions = Functions(kind, kind.__module__)  # type: ignore[attr-defined]
    options: Any = {
        "device_of": array_api_compat.device,
        # Asked each time, because another backend may be registered for the library.
        "constants": lambda: backend_of(number),
    }
    backend = Backend(kind.__module__, functions, host.to_host, **options)
    register(kind.__module__, backend)
    return kind


def dual(value: Array, tangent: Array | None = None, *, xp: Namespace) -> Dual:
    """An array of a library with its derivative along a direction; None: it is constant.

    >>> import numpy as np
    >>> a = dual(np.array([2.0, 3.0]), np.array([1.0, 0.0]), xp=np)
    >>> y = (a * a).sum()
    >>> float(y.value), float(y.tangent)
    (13.0, 4.0)
    """
    return _class_of(xp)(value, tangent)
