"""Mutation tests of the comparison itself: a kernel with a fault does not pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from sequences import Case, close, gap, reference, run, same, some_lengths

from xrnn.cells import GRU, LSTM
from xrnn.recurrence.loop import Loop

CASE = Case(LSTM, (6, 5, 3, 4), lengths=some_lengths(6, 5))


class Faulty:
    """The cell's loop, whose forward and backward are changed."""

    def __init__(self, after_forward: Any = None, after_backward: Any = None) -> None:
        self.loop = Loop(LSTM)
        self.after_forward, self.after_backward = after_forward, after_backward

    def forward(self, weights: Any, xs: Any, state: Any, **how: Any) -> Any:
        ys, last, residuals = self.loop.forward(weights, xs, state, **how)
        if self.after_forward:
            ys, last = self.after_forward(xs, state, ys, last)
        return ys, last, residuals

    def backward(self, weights: Any, residuals: Any, dys: Any, dstate: Any, *, xp: Any) -> Any:
        dxs, dfirst, dw = self.loop.backward(weights, residuals, dys, dstate, xp=xp)
        if self.after_backward:
            dxs, dfirst, dw = self.after_backward(dxs, dfirst, dw)
        return dxs, dfirst, dw


FORWARD: dict[str, Callable[..., Any]] = {
    "an output past the end": lambda xs, state, ys, last: (ys + 1e-9, last),
    "a state that moves past the end": lambda xs, state, ys, last: (ys, (last[0], last[1] * 1.001)),
    "padding that is read": lambda xs, state, ys, last: (ys + 0 * xs.sum(), last),
    "the state of another sequence": lambda xs, state, ys, last: (ys, (last[0][::-1], last[1])),
    "a part that is missing": lambda xs, state, ys, last: (ys[..., :-1], last),
}
BACKWARD: dict[str, Callable[..., Any]] = {
    "a wrong factor": lambda dxs, dfirst, dw: (dxs, dfirst, dw | {"U": 1.001 * dw["U"]}),
    "a gradient past the end": lambda dxs, dfirst, dw: (dxs + 1e-9, dfirst, dw),
    "a NaN": lambda dxs, dfirst, dw: (dxs, dfirst, dw | {"b": dw["b"] + np.nan}),
    "gradients in the wrong order": lambda dxs, dfirst, dw: (dxs, dfirst[::-1], dw),
    "another dtype": lambda dxs, dfirst, dw: (dxs.astype("float32"), dfirst, dw),
}


def test_the_loop_itself_passes() -> None:
    checks.equals_the_cell(Faulty(), CASE, 0)
    checks.padding_is_not_read(Faulty(), CASE)


@pytest.mark.parametrize("fault", [*FORWARD, *BACKWARD])
def test_a_fault_is_detected(fault: str) -> None:
    with pytest.raises(AssertionError):
        checks.equals_the_cell(Faulty(FORWARD.get(fault), BACKWARD.get(fault)), CASE, 1e-6)


def test_a_nan_that_spreads_or_is_lost_is_detected() -> None:
    case = Case(LSTM, (6, 5, 3, 4))
    checks.nan_stays_in_its_sequence(Faulty(), case, 2)
    for change in (FORWARD["padding that is read"], _without_nan):
        with pytest.raises(AssertionError):
            checks.nan_stays_in_its_sequence(Faulty(change), case, 2)


def _without_nan(xs: Any, state: Any, ys: Any, last: Any) -> Any:
    return np.nan_to_num(ys), last


def test_what_is_written_to_an_argument_is_detected() -> None:
    def write(xs: Any, state: Any, ys: Any, last: Any) -> Any:
        state[0][...] = 0
        return ys, last

    with pytest.raises(ValueError, match="read-only"):
        checks.nothing_given_is_written_to(Faulty(write), Case(LSTM, (6, 5, 3, 4)))


def test_residuals_that_are_spent_are_detected() -> None:
    class Spent(Faulty):
        def backward(self, weights: Any, residuals: Any, *given: Any, **how: Any) -> Any:
            found = super().backward(weights, residuals, *given, **how)
            for arrays in residuals.steps:
                arrays[0][...] = 0
            return found

    with pytest.raises(AssertionError, match="other bits"):
        checks.backward_may_run_twice(Spent(), Case(LSTM, (6, 5, 3, 4)))


def test_messages_name_the_result_and_the_gap() -> None:
    found = run(Loop(GRU), Case(GRU))
    worse = found | {"dv": found["dv"] * 1.5}
    size, name = gap(worse, found)
    assert (round(size, 6), name) == (0.5, "dv")
    with pytest.raises(AssertionError, match=r"dv differs by 5\.0e-01, allowed 1e-03"):
        close(worse, found, 1e-3)
    with pytest.raises(AssertionError, match="dv has other bits"):
        same(worse, found)
    close(found, reference(Case(GRU)), 0)
    with pytest.raises(AssertionError, match="instead of"):
        close({}, found, 1)
