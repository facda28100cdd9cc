"""A check of gradients that somebody has written by hand, against differences of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Literal, NamedTuple

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.base import check_flags, check_sizes
from xrnn.cells.numbers import accept_number
from xrnn.engine.checks import check_choice
from xrnn.engine.parameters import Parameters
from xrnn.learn.trees import Tree, check_real, leaves
from xrnn.typing import Array, dtype_name

#: f(weights) → the loss and its gradients
Loss = Callable[[Any], tuple[Any, Tree]]

#: the step of the differences, relative to the size of a weight, and the largest relative error
STEPS = {"float64": (1e-3, 1e-7), "float32": (3e-2, 3e-3)}

#: the parts of that step that are tried one after the other
PARTS = (1.0, 1e-2, 1e-4)

#: the step in the imaginary direction, whose square is 0 beside any number
COMPLEX_STEP, COMPLEX_BOUND = 1e-40, 1e-10

#: of a weight whose gradient is wrong so many entries are tried one by one
ENTRIES = 200


class Comparison(NamedTuple):
    """The derivative of the loss along one direction, by f and by differences.

    - name: the path of the weight, ``"rnn.W_l0"``
    - given: from the gradient that f returned
    - expected: from differences of the loss
    - error: their difference, divided by the largest that both could be along such a direction
    - bound: what the error may be
    - entry: the index of the entry with the largest error; None if the error is within its bound
    """

    name: str
    given: float
    expected: float
    error: float
    bound: float
    entry: tuple[int, ...] | None

    @property
    def ok(self) -> bool:
        """Whether the error is within its bound; NaN is not."""
        return self.error <= self.bound

    def __str__(self) -> str:
        where = "" if self.entry is None else f", most at {list(self.entry)}"
        return (
            f"{'ok  ' if self.ok else 'WRONG'} {self.name}: given {self.given:.6g}, expected "
            f"{self.expected:.6g}, relative error {self.error:.1e} (bound {self.bound:.0e}){where}"
        )


@dataclass(frozen=True)
class GradientCheck:
    """The verdict of `check_gradients`; it prints as a table.

    Attributes
    ----------
    comparisons : list of Comparison
        The one with the largest error for each weight.
    """

    comparisons: list[Comparison]

    @property
    def ok(self) -> bool:
        """Whether all gradients are right."""
        return all(one.ok for one in self.comparisons)

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest error in units of its bound."""
        return max(
            self.comparisons, key=lambda one: (one.error != one.error, one.error / one.bound)
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self.comparisons))

    def __bool__(self) -> bool:
        return self.ok


def check_gradients(
    f: Loss,
    weights: Any,
    *,
    method: Literal["differences", "complex"] = "differences",
    directions: int = 2,
    bound: float | None = None,
    rng: Any = 0,
    raises: bool = False,
) -> GradientCheck:
    """Compare the gradients that a function returns with those of its loss.

    Parameters
    ----------
    f : callable
        ``f(weights) -> loss, gradients``: a number, and a tree of the same names and shapes as
        `weights`.  It may use its argument or the model that the weights belong to.  It must give
        the same loss for the same weights: fix the seed of dropout.
    weights : tree of array
        The weights, such as ``model.weights`` or ``{"x": x}``; float64 is best.  Each is replaced
        by others for each call of f; at the end they are as they were.
    method : {"differences", "complex"}
        "differences": central differences of fourth order.  "complex": the imaginary part of the
        loss at w + i·h, which is exact to rounding; f must then compute with complex arrays, and
        `weights` must be a dict of arrays.
    directions : int
        The number of random directions for each weight.
    bound : float, optional
        The largest relative error.  Default: 1e-7 for differences in float64, 3e-3 in float32 and
        1e-10 for complex steps.
    rng : int or numpy.random.Generator
        For the directions.
    raises : bool
        Whether wrong gradients raise an error.

    Returns
    -------
    GradientCheck
        With ``.ok``, and the comparison for each weight.

    Raises
    ------
    AssertionError
        With `raises`: if a gradient is wrong; the text names the weights and entries.
    TypeError, ValueError
        If an argument is of a wrong type, f does not return such a pair, or its loss is not finite.

    Notes
    -----
    Where the loss has a kink, such as that of a ReLU at 0, differences over it are wrong.  So
    smaller steps are tried before a gradient is called wrong.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.GRU(3, 4, dtype="float64", rng=0)
    >>> x = np.random.default_rng(0).normal(size=(5, 2, 3))
    >>> def f(weights):
    ...     y, _, tape = layer.forward(x)
    ...     return (y**2).sum() / 2, layer.backward(tape, y)[2]
    >>> xrnn.check_gradients(f, layer.weights).ok
    True
    """
    check_choice("check_gradients", "method", method, ("differences", "complex"))
    check_flags("check_gradients", raises=raises)
    check_sizes("check_gradients", directions=directions)
    if bound is not None:
        needed = "a number above 0"
        bound = accept_number("check_gradients: bound", bound, needed, lambda x: 0 < x < inf)
    if not callable(f):
        raise TypeError(
            f"check_gradients: f is a {type(f).__name__}; it must be a function of the weights "
            "that returns the loss and its gradients"
        )
    places = list(leaves(weights, "weights"))
    _check_changeable(places)
    _, gradients = _called(f, weights)
    given = {path: holder[name] for path, holder, name in leaves(gradients, "gradients")}
    _check_same_names(places, given)
    random, found = host.generator(rng), []
    for path, holder, name in places:
        w = host.xp.array(backend_of(holder[name], path).to_host(holder[name]))
        g = backend_of(given[path], path).to_host(given[path])
        if g.shape != w.shape:
            raise ValueError(f"the gradient of {path} has shape {g.shape}; it must be {w.shape}")
        if w.size == 0:
            continue
        one = _Weight(f, weights, path, holder, name, w, g.astype("float64"), method, bound)
        found.append(one.compared([random.normal(size=w.shape) for _ in range(directions)]))
    verdict = GradientCheck(found)
    if raises and not verdict.ok:
        raise AssertionError(f"check_gradients: gradients are wrong\n{verdict}")
    return verdict


@dataclass
class _Weight:
    """One weight of the tree, its gradient, and how differences along it are made."""

    f: Loss
    tree: Any
    path: str
    holder: Any
    name: str
    w: Array
    g: Array
    method: str
    bound: float | None

    def compared(self, directions: list[Array]) -> Comparison:
        """The comparison with the largest error; with the worst entry if it is beyond its bound."""
        rows = [self._along(v, None) for v in directions]
        worst = max(rows, key=lambda one: (one.error != one.error, one.error))
        if worst.ok:
            return worst
        entries = list(host.xp.ndindex(self.w.shape))
        step = max(1, len(entries) // ENTRIES)
        units = [self._along(_unit(self.w.shape, entry), entry) for entry in entries[::step]]
        single = max(units, key=lambda one: (one.error != one.error, one.error))
        return single if not single.ok else worst

    def _along(self, v: Array, entry: tuple[int, ...] | None) -> Comparison:
        """The comparison along a direction, whose norm becomes 1.

        Of several steps the first whose error is within its bound, else the best: a larger step
        may reach over a kink, and a smaller one loses digits.
        """
        norm = host.xp.linalg.norm
        v = v / norm(v)
        given, rows = float((self.g * v).sum()), []
        for part in (1.0,) if self.method == "complex" else PARTS:
            expected, bound, noise = self._derivative(v, part)
            # Along a random direction the derivative is about as large as a usual entry.
            scale = max(float(norm(self.g)) / v.size**0.5, abs(expected), noise / bound, 1e-300)
            error = abs(given - expected) / scale
            rows.append(Comparison(self.path, given, expected, error, bound, entry))
            if rows[-1].ok:
                break
        return min(rows, key=lambda one: one.error)

    def _derivative(self, v: Array, part: float) -> tuple[float, float, float]:
        """The derivative of the loss along v by its values alone, the largest relative error that
        it may have, and what rounding may add to it; with a part of the usual step."""
        xp = host.xp
        if self.method == "complex":
            value = self._loss(self.w + 1j * COMPLEX_STEP * v)
            return value.imag / COMPLEX_STEP, self.bound or COMPLEX_BOUND, 0.0
        dtype = "float64" if dtype_name(self.w.dtype) == "float64" else "float32"
        step, bound = STEPS[dtype]
        h = part * step * max(1.0, float(xp.sqrt(xp.mean(self.w * self.w))))
        near, far = (
            [self._loss(self.w + sign * k * h * v).real for sign in (1, -1)] for k in (1, 2)
        )
        # Abramowitz & Stegun (1964), 25.3.6: the error is h⁴/30 times the fifth derivative.
        found = (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * h)
        noise = 4 * float(xp.finfo(dtype).eps) * max(map(abs, near + far)) / h
        return found, self.bound or bound, noise

    def _loss(self, values: Array) -> complex:
        """The loss where this weight has other values."""
        before = self.holder[self.name]
        backend = backend_of(before, self.path)
        dtype = "complex128" if self.method == "complex" else dtype_name(before.dtype)
        device = array_api_compat.device(before)
        try:
            self.holder[self.name] = backend.from_host(values.astype(dtype), device)
            return complex(_called(self.f, self.tree, self.method)[0])
        finally:
            self.holder[self.name] = before


def _called(f: Loss, weights: Any, method: str = "") -> tuple[complex, Tree]:
    """What f returns, the loss as a number, after checks."""
    found = f(weights)
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(
            f"f returns a {type(found).__name__}; it must return a tuple of the loss and its "
            "gradients"
        )
    loss, gradients = found
    try:
        value = complex(loss)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"f returns the loss {loss!r:.80}; it must be a number, or an array of one"
        ) from error
    if not isfinite(value.real):
        raise ValueError(f"f returns the loss {value.real}; it must be finite")
    if value.imag and method != "complex":
        raise TypeError("f returns a complex loss; it must be real")
    return value, gradients


def _check_changeable(places: list[tuple[str, Any, str]]) -> None:
    """Raise unless the weights are real numbers and can be replaced."""
    if not places:
        raise ValueError("weights hold no array; give those of a model: model.weights")
    for path, holder, name in places:
        if isinstance(holder, Parameters):
            holder.check_changeable()
        elif not isinstance(holder, MutableMapping):
            raise TypeError(f"{path} is in a {type(holder).__name__}; it must be in a dict")
        check_real(path, holder[name])


def _check_same_names(places: list[tuple[str, Any, str]], given: Mapping[str, Array]) -> None:
    """Raise unless there is a gradient of real numbers for each weight."""
    if odd := sorted({path for path, _, _ in places} ^ set(given)):
        raise ValueError(
            f"weights and the gradients of f differ in {', '.join(odd)}; they must have the same "
            "names"
        )
    for path, gradient in given.items():
        check_real(f"the gradient of {path}", gradient)


def _unit(shape: tuple[int, ...], entry: tuple[int, ...]) -> Array:
    """1 at one entry, 0 elsewhere."""
    v = host.xp.zeros(shape)
    v[entry] = 1
    return v
