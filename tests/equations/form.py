"""An equation of a derivation, and what it must agree with.

Every product is strict: nothing is broadcast, so an equation whose shapes do not fit cannot
be evaluated, as on paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pytest

Value = np.ndarray | Sequence[np.ndarray]

#: both sides are float64 and sum a few dozen terms
BOUND = 1e-10

#: an equation that is wrong as printed is off by at least this, or cannot be evaluated
WRONG = 1e-3


class CannotEvaluate(ValueError):
    """The shapes do not fit, or a symbol is not defined."""


@dataclass(frozen=True)
class Equation:
    """One equation: its corrected right side against xrnn, and its printed one.

    Parameters
    ----------
    id : str
        Derivation and number, ``relu-lstm-gru-eq-76``; without a number, its line or section.
    states : str
        What the corrected equation states.
    here : callable
        The right side in the notation of the derivation, in plain NumPy.
    true : callable
        The same quantity by xrnn's public functions.
    printed : callable, optional
        The right side as it is printed, where that is wrong.
    """

    id: str
    states: str
    here: Callable[[], Value]
    true: Callable[[], Value]
    printed: Callable[[], Value] | None = None


def every(equations: Sequence[Equation]) -> pytest.MarkDecorator:
    """A test for each equation, under its number."""
    return pytest.mark.parametrize("equation", equations, ids=lambda e: e.id)


def every_erratum(equations: Sequence[Equation]) -> pytest.MarkDecorator:
    """A test for each equation that is wrong as printed."""
    wrong = [e for e in equations if e.printed is not None]
    return pytest.mark.parametrize("equation", wrong, ids=lambda e: f"{e.id}-as-printed")


def assert_holds(equation: Equation) -> None:
    """The corrected equation gives what xrnn gives."""
    assert gap(equation.here(), equation.true()) <= BOUND, equation.states


def assert_printed_form_is_wrong(equation: Equation) -> None:
    """The printed one does not, or cannot be evaluated at all."""
    assert equation.printed is not None
    try:
        error = gap(equation.printed(), equation.true())
    except CannotEvaluate:
        return
    assert error >= WRONG, equation.states


def gap(found: Value, expected: Value) -> float:
    """The largest relative difference; of several arrays, such as one a step, the worst."""
    if isinstance(found, np.ndarray) and isinstance(expected, np.ndarray):
        if found.shape != expected.shape:
            raise CannotEvaluate(f"the result is {found.shape}, needed is {expected.shape}")
        scale = abs(expected).max() if expected.size else 0.0
        assert scale > 0, "nothing can be told from zeros"
        return float(abs(found - expected).max() / scale)
    if isinstance(found, np.ndarray) or isinstance(expected, np.ndarray):
        raise TypeError("one side is an array, the other several")
    assert len(found) == len(expected) > 0
    return max(gap(a, b) for a, b in zip(found, expected, strict=True))


def mm(*matrices: np.ndarray) -> np.ndarray:
    """The matrix product, from left to right."""

    def product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
        if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0]:
            raise CannotEvaluate(f"{A.shape} @ {B.shape}")
        return A @ B

    return reduce(product, matrices)


def had(*arrays: np.ndarray) -> np.ndarray:
    """The Hadamard product ⊙."""

    def product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
        if A.shape != B.shape:
            raise CannotEvaluate(f"{A.shape} ⊙ {B.shape}")
        return A * B

    return reduce(product, arrays)


def add(*arrays: np.ndarray) -> np.ndarray:
    """The sum."""

    def plus(A: np.ndarray, B: np.ndarray) -> np.ndarray:
        if A.shape != B.shape:
            raise CannotEvaluate(f"{A.shape} + {B.shape}")
        return A + B

    return reduce(plus, arrays)


def diag(v: np.ndarray) -> np.ndarray:
    """The diagonal matrix of a column or row."""
    return np.diag(v.ravel())


def column(v: np.ndarray) -> np.ndarray:
    """A vector as (n, 1)."""
    return np.asarray(v).reshape(-1, 1)


def row(v: np.ndarray) -> np.ndarray:
    """A vector as (1, n)."""
    return np.asarray(v).reshape(1, -1)


def sigma(a: np.ndarray) -> np.ndarray:
    """σ, as the documents write it."""
    return 1 / (1 + np.exp(-a))
