"""Seed 001: every equation against xrnn, and every error in it against the same."""

from __future__ import annotations

from dataclasses import replace

from equations import tanh_rnn_chains, tanh_rnn_readout
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
from equations.tanh_rnn import Library, System

import xrnn


def table(s: System) -> tuple[list[Equation], list[Equation]]:
    """All equations of the document for one system, and further readings of their errors."""
    x = Library(s)
    stated = [*tanh_rnn_readout.equations(s, x), *tanh_rnn_chains.equations(s, x)]
    read = [*tanh_rnn_readout.readings(s, stated), *tanh_rnn_chains.readings(s, stated)]
    return stated, read


SYSTEM = System(v=7, d=3, n=5, o=6)
EQUATIONS, READINGS = table(SYSTEM)


def only(s: System, system: str, ids: tuple[str, ...]) -> list[Equation]:
    """Some equations and readings again, for another system."""
    found = [e for part in table(s) for e in part if e.id in ids and e.printed is not None]
    assert len(found) == len(ids)
    return [replace(e, id=f"{e.id}-{system}") for e in found]


# What cannot be evaluated above is off here, where all sizes agree and shapes forbid nothing,
SQUARE = only(
    System(v=5, d=5, n=5, o=5),
    "square",
    (
        *(f"001-eq-{n}" for n in (11, 13, 15, 17)),
        *(f"001-{label}b" for label in ("W8", "U8", "B8", "E8")),
        *("001-W8b-label", "001-E8d-layout", "001-E4-line-4"),
        *("001-eq-13-reordered", "001-eq-17-U"),
    ),
)

# or here, where h_t/h_k and ∂h_t/∂h_k are both numbers.
ONE_UNIT = only(System(v=7, d=3, n=1, o=6), "one-unit", ("001-W6t", "001-E6t"))


@every(EQUATIONS)
def test_equation(equation: Equation) -> None:
    assert_holds(equation)


@every_erratum([*EQUATIONS, *READINGS])
def test_printed_form(equation: Equation) -> None:
    assert_printed_form_is_wrong(equation)


@every_erratum([*SQUARE, *ONE_UNIT])
def test_printed_form_where_shapes_fit(equation: Equation) -> None:
    assert equation.printed is not None
    assert gap(equation.printed(), equation.true()) >= WRONG, equation.states


def test_forward_values() -> None:
    s, x = SYSTEM, Library(SYSTEM)
    assert gap(s.each(lambda t: s.x[t]), [row.T for row in x.xs]) <= BOUND
    assert gap(s.each(lambda t: s.h[t]), [row.T for row in x.hs]) <= BOUND
    assert (
        gap(s.each(lambda t: s.h[t]), [row.T for row in xrnn.analysis.gates(x.tape)["h"]]) <= BOUND
    )
    assert gap(s.each(lambda t: s.Omega[t]), [row.T for row in x.logits]) <= BOUND
    assert gap(s.each(lambda t: s.y_hat[t]), s.each(x.y_hat)) <= BOUND
    assert gap(s.each(lambda t: s.L[t]), s.each(x.loss)) <= BOUND


def test_ids_are_unique() -> None:
    errata = [e for e in [*EQUATIONS, *READINGS, *SQUARE, *ONE_UNIT] if e.printed is not None]
    for ids in ([e.id for e in EQUATIONS], [e.id for e in errata]):
        assert len(set(ids)) == len(ids)
