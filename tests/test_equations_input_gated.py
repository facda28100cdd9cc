"""Derivation "Input-gated LSTM": its equations, corrected and as printed, against xrnn.

Its equations have no numbers, so a test id names the line, or the lines, of the text.
"""

from __future__ import annotations

import numpy as np
import pytest
from equations.form import (
    BOUND,
    WRONG,
    Equation,
    Value,
    add,
    assert_holds,
    assert_printed_form_is_wrong,
    every,
    every_erratum,
    gap,
    mm,
)
from equations.input_gated import Document, Matrix, draw
from equations.input_gated_by_xrnn import ByXrnn
from equations.input_gated_factors import DOC, FACTORS, GIVEN, STEPS, XRNN, M, N, T
from equations.input_gated_whole import after, back_through_time, online_gradients

FIRST, THIRD = Document(GIVEN, steps=1), Document(GIVEN, steps=3)


def first_step(doc: Document, readout: list[Matrix], **swapped: Matrix) -> Matrix:
    """l.44, with a factor swapped for another."""
    front = doc.dE_dC(1, readout, swapped.get("dE_dg"))
    return mm(front, doc.direct(1, swapped.get("di_dd")))


def dE_dW_at_1() -> Value:
    dE_dW: Matrix = ByXrnn(GIVEN, steps=1).dE_dW
    return dE_dW


CHAINS = [
    Equation(
        "input-gated-l-30",
        "∂E/∂W_i = ∂E/∂P ⨀ ∂P/∂L ⨀ ∂L/∂h ⨀ ∂h/∂C ⨀ ∂C/∂W_i",
        DOC.short,
        lambda: XRNN.dE_dW,
        # Its last link, ∂C/∂Fc of an undefined Fc, is read as it must be.
        lambda: DOC.short(dP_dL_times=2),
    ),
    *(
        Equation(
            f"input-gated-l-{line}",
            "the full chain, ∂L2/∂h once and without ∂d2/∂x",
            lambda: DOC.full(DOC.once),
            lambda: XRNN.dE_dW,
            lambda: DOC.full(DOC.twice, plus_x=True),
        )
        for line in (32, 36, 302)
    ),
    Equation(
        "input-gated-l-32-twice",
        "∂L2/∂h once",
        lambda: DOC.full(DOC.once),
        lambda: XRNN.dE_dW,
        lambda: DOC.full(DOC.twice),
    ),
    Equation(
        "input-gated-l-32-x",
        "without ∂d2/∂x",
        lambda: DOC.full(DOC.once),
        lambda: XRNN.dE_dW,
        lambda: DOC.full(DOC.once, plus_x=True),
    ),
    Equation(
        "input-gated-l-38",
        "of the values at t only i sees W_i: ∂O/∂W_i = ∂F/∂W_i = ∂C'/∂W_i = 0",
        lambda: np.vstack([DOC.zeros, DOC.zeros, DOC.zeros, DOC.di_dW(DOC.t)]),
        lambda: np.vstack([XRNN.by(name, "W_i") for name in ("O", "F", "C'", "i")]),
    ),
    Equation(
        "input-gated-l-40",
        "through C_{t-1}, and directly",
        lambda: DOC.two_terms(DOC.once),
        lambda: XRNN.dE_dW,
        lambda: DOC.two_terms(DOC.twice),
    ),
    Equation(
        "input-gated-l-42",
        "at t = 4 the left term is three terms",
        lambda: add(*(DOC.term(k, DOC.once) for k in (1, 2, 3))),
        lambda: XRNN.dE_dW_of_steps(1, 3).reshape(1, -1),
    ),
    Equation(
        "input-gated-l-44",
        "the chain at t = 1",
        lambda: first_step(FIRST, FIRST.once),
        dE_dW_at_1,
        lambda: first_step(FIRST, FIRST.twice),
    ),
    Equation(
        "input-gated-l-44-with-l-50",
        "the same, its sign as l.50 has it",
        lambda: first_step(FIRST, FIRST.once),
        dE_dW_at_1,
        lambda: first_step(FIRST, FIRST.once, dE_dg=np.ones((1, T))),
    ),
    Equation(
        "input-gated-l-44-with-l-244",
        "the same, ∂i/∂d as l.244 has it",
        lambda: first_step(FIRST, FIRST.once),
        dE_dW_at_1,
        lambda: first_step(FIRST, FIRST.once, di_dd=np.eye(M)),
    ),
    Equation(
        "input-gated-l-304",
        "nested, three steps back, C_0 constant",
        lambda: DOC.nested(DOC.once),
        lambda: XRNN.dE_dW,
        lambda: DOC.nested(DOC.twice),
    ),
    Equation(
        "input-gated-l-300-306",
        "three steps back is t = 4; at t = 3 there are three terms, not the four printed",
        lambda: THIRD.nested(THIRD.once, back=2),
        lambda: ByXrnn(GIVEN, steps=3).dE_dW,
        lambda: THIRD.nested(THIRD.once, back=3),
    ),
    Equation(
        "input-gated-l-308",
        "four terms",
        lambda: DOC.expanded(DOC.once),
        lambda: XRNN.dE_dW,
        lambda: DOC.expanded(DOC.twice),
    ),
    Equation(
        "input-gated-l-308-terms",
        "each is what the copy of W_i at one step gives",
        lambda: [DOC.term(k, DOC.once) for k in range(4)],
        lambda: [XRNN.dE_dW_of_steps(s, s).reshape(1, -1) for s in (4, 3, 2, 1)],
    ),
]


def saved_plus_one() -> Matrix:
    """The terms of E_{t-1} as they were saved, and one new one."""
    return add(sum_of_terms(THIRD), DOC.term(0, DOC.once))


def sum_of_terms(doc: Document) -> Matrix:
    return add(*(doc.term(k, doc.once) for k in range(doc.t)))


INCREMENTAL = [
    Equation(
        "input-gated-l-312-backward",
        "E_t fixed: one new term a step back, the row before it saved",
        DOC.backward_terms,
        lambda: [XRNN.dE_dW_of_steps(s, s) for s in range(STEPS, 0, -1)],
    ),
    Equation(
        "input-gated-l-312-forward",
        "t growing: saved is ∂C_{t-1}/∂W_i, and not the terms of E_{t-1}",
        lambda: mm(DOC.dE_dC(DOC.t, DOC.once), DOC.dC_dW(DOC.t)),
        lambda: XRNN.dE_dW,
        saved_plus_one,
    ),
]

WEIGHTS = [f"{letter}_{name}" for letter in "Wb" for name in "fiocv"] + ["C_0"]


def in_blocks(S: Matrix) -> Matrix:
    """A trace as the whole Jacobian: row m of W moves C_m alone."""
    return np.vstack([np.kron(unit, row) for unit, row in zip(np.eye(M), S, strict=True)])


def online(name: str) -> Value:
    """By the traces: E_1, E_2 …, and their sum."""
    each = [grads[name] for grads in online_gradients(GIVEN)]
    return [*each, add(*each)]


LOSSES = [*np.eye(STEPS), np.ones(STEPS)]


def by_xrnn(name: str) -> Value:
    """The same by unroll_backward."""
    return [XRNN.gradients(counts)[name] for counts in LOSSES]


def by_traces(name: str) -> Equation:
    return Equation(
        f"input-gated-l-312-online-{name}",
        "forward with traces, for every E_t alone and for their sum",
        lambda: online(name),
        lambda: by_xrnn(name),
    )


def by_bptt(name: str) -> Equation:
    return Equation(
        f"input-gated-bptt-{name}",
        "back through time, for every E_t alone and for their sum",
        lambda: [back_through_time(DOC, counts)[name] for counts in LOSSES],
        lambda: by_xrnn(name),
    )


def trace(gate: str) -> Equation:
    nets = [after(GIVEN, s) for s in range(1, STEPS + 1)]
    return Equation(
        f"input-gated-l-312-trace-{gate}",
        "S and s are ∂C_t/∂W and ∂C_t/∂b at every step",
        lambda: [A for net in nets for A in (in_blocks(net.S[gate]), np.diag(net.s[gate]))],
        lambda: [A for s in range(1, STEPS + 1) for A in XRNN.dC_dtheta(gate, s)],
    )


def named(each: list[dict[str, Matrix]]) -> Value:
    return [grads[f"{letter}_{gate}"] for grads in each for letter in "Wb" for gate in "fioc"]


WHOLE = [
    *map(by_traces, WEIGHTS),
    *map(by_bptt, [*WEIGHTS, "x"]),
    *map(trace, "fic"),
    Equation(
        "input-gated-l-312-online-in-xrnn",
        "the same recursion is xrnn.online's",
        lambda: named(online_gradients(GIVEN)),
        lambda: named(XRNN.online()),
    ),
    Equation(
        "input-gated-l-312-trace-0",
        "s⁰ is ∂C_t/∂C_0",
        lambda: [np.diag(after(GIVEN, s).s_0) for s in range(1, STEPS + 1)],
        lambda: [XRNN.dC_dC(0, s) for s in range(1, STEPS + 1)],
    ),
]

EQUATIONS = [*FACTORS, *CHAINS, *INCREMENTAL, *WHOLE]


@every(EQUATIONS)
def test_equation_is_what_xrnn_computes(equation: Equation) -> None:
    assert_holds(equation)


@every_erratum(EQUATIONS)
def test_printed_equation_is_wrong(equation: Equation) -> None:
    assert_printed_form_is_wrong(equation)


def test_every_id_is_given_once() -> None:
    assert len({e.id for e in EQUATIONS}) == len(EQUATIONS)


def test_factor_printed_twice_is_wrong_where_its_shapes_fit() -> None:
    """With as many outputs as hidden units W_v may stand twice; it must not."""
    given = draw(N, M, T=M, steps=STEPS)
    doc, true = Document(given), ByXrnn(given).dE_dW
    for chain in (doc.full, doc.two_terms, doc.nested, doc.expanded):
        assert gap(chain(doc.once), true) <= BOUND
        assert gap(chain(doc.twice_as_labelled), true) >= WRONG


def test_traces_hold_over_many_steps() -> None:
    given = draw(N, M, T, steps=300)
    each = online_gradients(given)
    true = ByXrnn(given).gradients(np.ones(300))
    for name in WEIGHTS:
        assert gap(add(*(grads[name] for grads in each)), true[name]) <= BOUND


def test_weights_of_o_need_no_trace() -> None:
    """∂C_t/∂W_o is 0."""
    for dtheta in XRNN.dC_dtheta("o", STEPS):
        assert not dtheta.any()


def test_first_h_is_not_read() -> None:
    """No gate sees h."""
    _, tape = XRNN.whole
    assert tape.passes[0].first[0].any()
    assert not XRNN.dE_dh_0.any()


@pytest.mark.parametrize("t", [0, -1])
def test_no_step_lies_before_the_first(t: int) -> None:
    with pytest.raises(ValueError, match="no step"):
        DOC.at("F", t)
