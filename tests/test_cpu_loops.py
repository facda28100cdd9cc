"""Whole sequences in NumPy: each kernel is its cell, spends no residuals, keeps little."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from sequences import AnyCell, Case, Results, backward, forward, of_sequences, run, same
from shim.guards import Guarded, Guards
from tails import Tail, each_tail, keeps_its_digits

from xrnn.backends import Backend, register, unregister
from xrnn.backends.cpu import BACKEND, loops, sequences
from xrnn.certify.laws import LAWS
from xrnn.certify.report import bound
from xrnn.certify.trial import OPTIONS, Trial
from xrnn.engine.select import candidates

every_cell = pytest.mark.parametrize("cell", loops.KERNELS, ids=lambda cell: cell.name)
every_batch = pytest.mark.parametrize("B", [1, 3])

#: values in a block, and the rows it has at least: as it is, one step, two or three of them
BLOCKS = {"one block": (sequences.BLOCK, sequences.ROWS), "steps": (1, 1), "blocks": (1, 8)}
every_block = pytest.mark.parametrize("block", BLOCKS)

LOOPED = Backend(
    "looped",
    np,
    BACKEND.to_host,
    kernels={
        cell: (replace(entry, serves=lambda T, B, I, H: True),)
        for cell, entry in loops.KERNELS.items()
    },
)


def cut(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, rows = BLOCKS[block]
    monkeypatch.setattr(sequences, "BLOCK", values)
    monkeypatch.setattr(sequences, "ROWS", rows)


@pytest.fixture(autouse=True)
def _unwritten_memory_is_nan(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the comparisons; the laws have enough to do."""
    if "looped" not in request.fixturenames:
        monkeypatch.setattr(sequences, "np", Guarded(np, Guards()))


@every_cell
@every_block
@pytest.mark.parametrize(("dtype", "allowed"), [("float64", 1e-14), ("float32", 3e-6)])
@pytest.mark.parametrize(
    "sizes",
    [(5, 3, 4, 16), (6, 1, 4, 16), (1, 1, 3, 5), (1, 4, 3, 5), (7, 2, 1, 1), (20, 9, 3, 33)],
)
def test_it_is_the_cell(
    cell: AnyCell,
    sizes: Any,
    dtype: str,
    allowed: float,
    block: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut(block, monkeypatch)
    checks.equals_the_cell(loops.KERNELS[cell], Case(cell, sizes, dtype), allowed)


@pytest.fixture
def looped() -> Iterator[None]:
    """NumPy arrays are served by the loops, however few the steps."""
    register("numpy", LOOPED)
    yield
    unregister("numpy")


@every_cell
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.usefixtures("looped")
def test_law(law: str, cell: AnyCell, dtype: str) -> None:
    for option in OPTIONS:
        trial = Trial(cell, option, "numpy", dtype)
        assert trial.backend is LOOPED
        error = LAWS[law](trial)
        assert error is None or error <= bound(cell, law, dtype), option.name


@every_cell
@every_batch
def test_saturated_gates(cell: AnyCell, B: int) -> None:
    kernel = loops.KERNELS[cell]
    checks.saturated_gates_stay_finite(kernel, Case(cell, (9, B, 4, 6)), 1e-10)


@each_tail(loops.KERNELS)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float64", 1e-15)])
def test_small_values_of_gates_keep_their_digits(
    cell: AnyCell, tail: Tail, dtype: str, bound: float
) -> None:
    keeps_its_digits(loops.KERNELS[cell], cell, tail, dtype, bound)


@every_cell
@every_batch
def test_backward_may_run_twice(cell: AnyCell, B: int) -> None:
    checks.backward_may_run_twice(loops.KERNELS[cell], Case(cell, (9, B, 4, 6)))


@every_cell
def test_threads_share_residuals(cell: AnyCell) -> None:
    kernel, case = loops.KERNELS[cell], Case(cell, (40, 3, 4, 32))
    residuals = forward(kernel, case)[2]
    expected = backward(kernel, case, forward(kernel, case)[2])
    found: dict[int, Results] = {}

    def work(k: int) -> None:
        found[k] = backward(kernel, case, residuals)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for results in found.values():
        same(results, expected)


@every_cell
def test_what_is_kept_is_handed_out_once(cell: AnyCell) -> None:
    residuals = forward(loops.KERNELS[cell], Case(cell, (9, 3, 4, 6)))[2]
    first = residuals.take()
    if first == ():  # nothing but the states is kept, and nothing is spent
        assert residuals.take() == ()
    else:
        assert first is not None
        assert residuals.take() is None


@every_cell
@every_batch
def test_nothing_given_is_written_to_or_handed_back(cell: AnyCell, B: int) -> None:
    kernel, case = loops.KERNELS[cell], Case(cell, (9, B, 4, 6))
    checks.nothing_given_is_written_to(kernel, case)
    ys, last, _ = forward(kernel, case)
    assert not any(np.shares_memory(ys, a) for a in last)


@every_cell
@every_batch
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_not_read_and_is_zero(cell: AnyCell, B: int, reverse: bool) -> None:
    case = Case(cell, (9, B, 4, 6), lengths=[4, 9, 0][:B], reverse=reverse)
    checks.padding_is_not_read(loops.KERNELS[cell], case)


@every_cell
def test_a_gradient_that_is_not_finite_stays_with_its_sequence(cell: AnyCell) -> None:
    kernel, case = loops.KERNELS[cell], Case(cell, (9, 3, 4, 6), lengths=[9, 4, 0])
    expected = run(kernel, case)
    # Nobody reads the last state of a sequence without steps but its first state's gradient.
    case.dstate[0][2] = np.nan
    found = run(kernel, case)
    assert np.isnan(found["dfirst h"][2]).all()
    found["dfirst h"][2] = expected["dfirst h"][2]
    same(found, expected)
    checks.nan_stays_in_its_sequence(kernel, Case(cell, (9, 3, 4, 6)), 1)


@every_cell
def test_inputs_may_lie_anywhere(cell: AnyCell) -> None:
    checks.arrays_may_lie_anywhere(loops.KERNELS[cell], Case(cell, (9, 3, 4, 6)), 1e-13)


@every_cell
@every_block
def test_inference_is_the_same_pass(
    cell: AnyCell, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(block, monkeypatch)
    checks.inference_is_the_same(loops.KERNELS[cell], Case(cell, (20, 3, 4, 6)))


@every_cell
@every_batch
def test_outputs_may_have_no_gradient(cell: AnyCell, B: int) -> None:
    checks.outputs_may_have_no_gradient(loops.KERNELS[cell], Case(cell, (9, B, 4, 6)), 1e-14)


@every_cell
def test_little_is_kept(cell: AnyCell) -> None:
    kernel, case = loops.KERNELS[cell], Case(cell, (256, 8, 1, 64), "float32")
    checks.little_is_kept(kernel, case)
    ys, _, residuals = forward(kernel, case)
    assert any(np.shares_memory(ys, a) for a in checks.kept(residuals))


#: one cell for each number of states
OF_EACH_KIND = {len(cell.states): cell for cell in loops.KERNELS if len(cell.gates) > 1}.values()


@pytest.mark.parametrize("cell", OF_EACH_KIND, ids=lambda cell: cell.name)
def test_little_is_needed(cell: AnyCell) -> None:
    """Beside its results a pass has the states or what is kept, and one block of the rest."""
    kernel, case = loops.KERNELS[cell], Case(cell, (2048, 8, 1, 64), "float32")
    peaks = []
    tracemalloc.start()
    for keep in (False, True):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        ys, last, residuals = forward(kernel, case, keep=keep)
        if keep:
            backward(kernel, case, residuals)
        _, peak = tracemalloc.get_traced_memory()
        peaks.append((peak - before) / (2048 * 8 * 64))
        del ys, last, residuals
    tracemalloc.stop()
    assert peaks[0] <= 4 * len(cell.states) + 1
    assert peaks[1] <= checks.values_needed(case) + 1


def test_few_steps_go_by_the_cell() -> None:
    backend = replace(LOOPED, kernels={cell: (loop,) for cell, loop in loops.KERNELS.items()})
    for cell, loop in loops.KERNELS.items():
        start = loops.ELMAN_FROM if len(cell.gates) == 1 else loops.GATED_FROM
        for T in (1, start - 1, start, 1000):
            found = candidates(backend, cell, (T, 1, 3, 5), np.dtype("float32"))
            assert (found == [loop]) is (start <= T)


@every_cell
def test_another_cell_has_no_loop(cell: AnyCell) -> None:
    given = (20, 3, 4, 5), np.dtype("float32")
    assert loops.KERNELS[cell] in candidates(BACKEND, cell, *given)
    assert candidates(BACKEND, replace(cell), *given) == []


def test_memory_between_guards_is_nan() -> None:
    """What the tests above rely on."""
    guards = Guards()
    a = guards.empty((3, 4), "float32")
    assert np.isnan(a).all()
    guards.check()
    memory: Any = a.base
    memory[-1] = 0
    with pytest.raises(AssertionError, match="past the end"):
        guards.check()


def test_a_case_holds_what_it_says() -> None:
    case = Case(next(iter(loops.KERNELS)), (5, 3, 4, 6), lengths=[2, 0, 5])
    assert np.isnan(case.xs[2:, 0]).all()
    assert np.isfinite(case.xs[:2, 0]).all()
    assert of_sequences({"ys": case.xs, "dW": case.xs}, [0, 2])["ys"].shape == (5, 2, 4)
