"""Mutation tests: each law is broken on purpose, and must notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xrnn import unroll
from xrnn.backends import Backend, Kernel, register, unregister
from xrnn.backends.cpu import BACKEND
from xrnn.cells import GRU, LSTM, Cell, GRUBefore, PeepholeLSTM, lstm
from xrnn.certify import laws
from xrnn.certify.derivative import derivative
from xrnn.certify.report import bound, certify
from xrnn.certify.trial import OPTIONS, Trial
from xrnn.recurrence.loop import Loop

PLAIN = OPTIONS[0]


def broken_backward(cell: Cell, change: Any) -> Cell:
    """The cell with what its backward returns changed."""

    def step_backward(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
        return change(*cell.step_backward(dstate, saved, weights, xp=xp), weights)

    return replace(cell, step_backward=step_backward)


def without_c_path(dax: Any, dstate: Any, dweights: Any, weights: Any) -> Any:
    return dax, (dstate[0], 0 * dstate[1]), dweights


def through_U_transposed(dax: Any, dstate: Any, dweights: Any, weights: Any) -> Any:
    H = dstate[0].shape[-1]
    wrong = sum(dax[:, k : k + H] @ weights["U"][k : k + H].T for k in range(0, dax.shape[1], H))
    return dax, (wrong, *dstate[1:]), dweights


def without_v(dax: Any, dstate: Any, dweights: Any, weights: Any) -> Any:
    return dax, dstate, dweights | {"v": 0 * dweights["v"]}


def without_peephole_of_o(dax: Any, dstate: Any, dweights: Any, weights: Any) -> Any:
    H = dstate[0].shape[-1]
    dp = np.concatenate((dweights["p"][:, : 2 * H], 0 * dweights["p"][:, 2 * H :]), axis=-1)
    return dax, dstate, dweights | {"p": dp}


def operand_not_reset(dax: Any, dstate: Any, dweights: Any, weights: Any) -> Any:
    (first, second) = dweights["U"]
    return dax, dstate, {"U": (first, (second[0], first[1]))}


def error(law: Any, trial: Trial) -> float:
    """What a law that applies finds."""
    found = law(trial)
    assert found is not None
    return float(found)


@pytest.mark.parametrize(
    ("cell", "change"),
    [
        (LSTM, without_c_path),
        (LSTM, through_U_transposed),
        (GRU, without_v),
        (PeepholeLSTM, without_peephole_of_o),
        (GRUBefore, operand_not_reset),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_derivative_notices_a_wrong_backward(cell: Cell, change: Any) -> None:
    good, bad = Trial(cell, PLAIN), Trial(broken_backward(cell, change), PLAIN)
    limit = bound(cell, "derivative", "float64")
    assert error(derivative, good) <= limit < 1e-3 < error(derivative, bad)


def test_contract_notices_a_write_to_an_argument() -> None:
    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        state[1][...] *= 1.0001
        return lstm.step(ax, state, weights, xp=xp)

    assert laws.contract(Trial(replace(LSTM, step=step), PLAIN)) == float("inf")


def test_contract_notices_another_dtype() -> None:
    def wider(dax: Any, dstate: Any, dweights: Any, weights: Any) -> Any:
        return dax.astype("float64"), dstate, dweights

    bad = Trial(broken_backward(LSTM, wider), PLAIN, dtype="float32")
    assert laws.contract(bad) == float("inf")


def test_batch_notices_a_sequence_that_sees_another() -> None:
    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        return lstm.step(ax + 0.1 * ax[:1], state, weights, xp=xp)

    assert laws.batch(Trial(replace(LSTM, step=step), PLAIN)) > 1e-3  # type: ignore[operator]


def test_cut_notices_a_state_that_is_not_carried() -> None:
    calls: list[int] = []

    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        calls.append(1)
        return lstm.step(ax * (1 + 0.1 * len(calls)), state, weights, xp=xp)

    assert laws.cut(Trial(replace(LSTM, step=step), PLAIN)) > 1e-3  # type: ignore[operator]


@pytest.fixture
def slightly_wrong_kernel() -> Iterator[None]:
    """NumPy with a kernel of the LSTM that is wrong by 0.1 %."""

    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        return lstm.step(1.001 * ax, state, weights, xp=xp)

    wrong = Kernel(Loop(replace(LSTM, step=step)), frozenset({np.dtype("float64")}))
    register("numpy", Backend("cpu", np, BACKEND.to_host, {LSTM: (wrong,)}))
    yield
    unregister("numpy")


@pytest.mark.usefixtures("slightly_wrong_kernel")
def test_twin_notices_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert laws.twin(Trial(GRU, PLAIN)) == 0
    with pytest.warns(RuntimeWarning, match="the kernel of lstm for float64 is not used here"):
        assert laws.twin(Trial(LSTM, PLAIN)) == 0, "verification keeps it out"
    monkeypatch.setattr("xrnn.engine.select.verified", lambda *given: True)
    assert error(laws.twin, Trial(LSTM, PLAIN)) > 1e-5


@pytest.mark.usefixtures("slightly_wrong_kernel")
def test_look_notices_that_what_is_seen_is_not_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xrnn.engine.select.verified", lambda *given: True)
    assert laws.look(Trial(GRU, PLAIN)) < 1e-13
    assert laws.look(Trial(LSTM, PLAIN)) > 1e-5


def test_look_notices_pre_activations_that_are_not_what_feeds_the_weights() -> None:
    def step_backward(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
        dax, dprev, dweights = lstm.step_backward(dstate, saved, weights, xp=xp)
        seen.append(dax)
        return (dax if len(seen) <= PLAIN.T else 1.01 * dax), dprev, dweights

    seen: list[Any] = []
    assert laws.look(Trial(replace(LSTM, step_backward=step_backward), PLAIN)) > 1e-3


@pytest.mark.parametrize(
    "begins",
    [lambda i, f, o, g: (f, i, o, g), lambda i, f, o, g: (i, f, 0 * o, g)],
    ids=["in another order", "with something else"],
)
def test_look_notices_that_what_is_saved_does_not_begin_with_the_gates(begins: Any) -> None:
    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        new, saved = lstm.step(ax, state, weights, xp=xp)
        return new, (*begins(*saved[:4]), *saved)

    def step_backward(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
        return lstm.step_backward(dstate, saved[4:], weights, xp=xp)

    def total(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
        return LSTM.total(dstate, saved[4:], weights, xp=xp)

    mine = replace(LSTM, step=step, step_backward=step_backward, total=total)
    assert error(derivative, Trial(mine, PLAIN)) < 1e-5
    assert laws.look(Trial(mine, PLAIN)) == float("inf")


def test_checkpoint_notices_a_stretch_that_is_computed_otherwise_in_backward() -> None:
    calls: list[int] = []

    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        calls.append(1)
        return lstm.step(ax * (1 + 0.1 * len(calls)), state, weights, xp=xp)

    assert laws.checkpoint(Trial(replace(LSTM, step=step), PLAIN)) > 1e-3


def test_oracle_notices_gates_in_another_order() -> None:
    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        H = ax.shape[-1] // 4
        swapped = np.concatenate((ax[:, H : 2 * H], ax[:, :H], ax[:, 2 * H :]), axis=-1)
        return lstm.step(swapped, state, weights, xp=xp)

    assert laws.oracle(replace(LSTM, step=step), "plain") > 1e-3


def test_a_law_that_cannot_be_run_is_a_failure() -> None:
    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        raise RuntimeError("no such luck")

    verdicts = list(certify("cpu", "float64", [replace(LSTM, name="mine", step=step)]))
    failed = [v for v in verdicts if not v.passed]
    assert len(failed) > 30
    assert all(v.note == "RuntimeError: no such luck" for v in failed)


def test_a_cell_given_as_a_copy_still_runs() -> None:
    weights = {k: np.ones(s) for k, s in LSTM.shapes(2, 3).items()}
    xs = np.ones((4, 1, 2))
    ours, theirs = (unroll(cell, weights, xs)[0] for cell in (LSTM, replace(LSTM)))
    # A copy has no fused loop of its own: the same to rounding, not to the bit.
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)
