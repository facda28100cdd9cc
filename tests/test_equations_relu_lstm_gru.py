"""Derivation "ReLU RNN, LSTM and GRU": its equations, corrected and as printed, against xrnn.

The loss is outside of the unit.  Gradients are computed by backpropagation, and by sensitivities
that are carried forward.
"""

from __future__ import annotations

import re

from equations import gru_before, lstm_sensitivities, relu_rnn
from equations.form import (
    Equation,
    assert_holds,
    assert_printed_form_is_wrong,
    every,
    every_erratum,
)

EQUATIONS = [*relu_rnn.EQUATIONS, *lstm_sensitivities.EQUATIONS, *gru_before.EQUATIONS]

DEFINITIONS = {1, 2, 3, 10, 11, *range(25, 31), *range(58, 62)}


@every(EQUATIONS)
def test_equation_holds(equation: Equation) -> None:
    assert_holds(equation)


@every_erratum(EQUATIONS)
def test_printed_form_is_wrong(equation: Equation) -> None:
    assert_printed_form_is_wrong(equation)


def test_no_gradient_is_left_out() -> None:
    numbers = [re.match(r"relu-lstm-gru-eq-(\d+)", equation.id) for equation in EQUATIONS]
    assert {int(n[1]) for n in numbers if n} == {*range(1, 88)} - DEFINITIONS
    assert len({equation.id for equation in EQUATIONS}) == len(EQUATIONS)
