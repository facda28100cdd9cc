"""Seed 004: every equation against xrnn, and every error in it against the same."""

from __future__ import annotations

from equations.form import (
    BOUND,
    WRONG,
    Equation,
    assert_holds,
    assert_printed_form_is_wrong,
    every,
    every_erratum,
    gap,
)
from equations.handwritten_rnn import equations, readings
from equations.handwritten_rnn_system import System, by_xrnn

import xrnn

SYSTEM = System(d=3, n=5, o=6)
XRNN = by_xrnn(SYSTEM)
EQUATIONS = equations(SYSTEM, XRNN)


def square(id: str) -> Equation:
    """An equation where all sizes agree, so that no shape forbids its printed form."""
    s = System(d=5, n=5, o=5)
    return next(e for e in equations(s, by_xrnn(s)) if e.id == id)


@every(EQUATIONS)
def test_equation(equation: Equation) -> None:
    assert_holds(equation)


@every_erratum([*EQUATIONS, *readings(SYSTEM, EQUATIONS)])
def test_printed_form(equation: Equation) -> None:
    assert_printed_form_is_wrong(equation)


def test_printed_form_where_shapes_fit() -> None:
    equation = square("004-N2")
    assert equation.printed is not None
    assert gap(equation.printed(), equation.true()) >= WRONG


def test_forward_values() -> None:
    s, x = SYSTEM, XRNN
    assert gap(s.each(lambda t: s.h[t]), [row.T for row in x.hs]) <= BOUND
    assert (
        gap(s.each(lambda t: s.h[t]), [row.T for row in xrnn.analysis.gates(x.tape)["h"]]) <= BOUND
    )
    assert gap(s.each(lambda t: s.O[t]), [row.T for row in x.logits]) <= BOUND
    assert gap(s.each(lambda t: s.y_hat[t]), s.each(x.y_hat)) <= BOUND
