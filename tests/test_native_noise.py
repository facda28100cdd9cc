"""The native loops of cells that draw: zoneout and recurrent dropout, in training and inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from native_kernels import steps_are_the_whole
from sequences import Case, close, reference, run, same, some_lengths
from test_native_base import native
from test_native_options import BOUND, every_dtype, kernel

import xrnn
from xrnn import cells
from xrnn.backends.cpu import BACKEND
from xrnn.recurrence.storage import Stored

HARD: Any = ("hard_sigmoid", 0.2, 0.5)

DRAWING: list[Any] = [
    cells.rnn_with(recurrent_dropout=0.3, zoneout=0.4),
    cells.rnn_with(activations=["relu"], zoneout=0.2),
    cells.gru_with(recurrent_dropout=0.3),
    cells.gru_with(activations=[HARD, "tanh"], clip=1.0, zoneout=0.4, recurrent_dropout=0.5),
    cells.gru_with(reset="before", recurrent_dropout=0.3),
    cells.gru_with(reset="before", zoneout=0.4, recurrent_dropout=0.3, clip=1.0),
    cells.lstm_with(zoneout=(0.3, 0.5)),
    cells.lstm_with(zoneout=(0.0, 0.5), coupled=True, cell_clip=0.8),
    cells.lstm_with(zoneout=(0.3, 0.0), peephole=True, recurrent_dropout=0.2),
    cells.lstm_with(zoneout=(0.3, 0.5), proj_size=7, recurrent_dropout=0.2),
    cells.lstm_with(zoneout=(0.2, 0.1), proj_size=40, coupled=True, recurrent_dropout=0.2),
]

every_cell = pytest.mark.parametrize("cell", DRAWING, ids=lambda cell: cell.name)
every_use = pytest.mark.parametrize("draws", [False, True])


@every_cell
@every_dtype
@every_use
def test_equal_to_the_equations(cell: Any, dtype: str, draws: bool) -> None:
    for sizes, start in (((5, 3, 4, 20), 0), ((3, 2, 9, 33), 1)):
        case = Case(cell, sizes, dtype, gain=1.5, draws=draws)
        for one in (case, replace(case, reverse=True, lengths=some_lengths(*sizes[:2], start))):
            found = run(kernel(cell), one)
            close(found, reference(one), BOUND[dtype])
            checks.padding_is_zero(one, found)


@every_cell
def test_each_of_what_is_drawn_is_seen(cell: Any) -> None:
    case = Case(cell, (5, 3, 4, 20), draws=True)
    expected = run(kernel(cell), case)
    for name in case.drawn:
        other = case.copied()
        other.drawn[name][..., 0] += 0.5
        found = run(kernel(cell), other)
        assert all((found[k] != expected[k]).any() for k in ("ys", "dxs", "dW", "dU")), name


@every_cell
@every_dtype
@every_use
def test_threads_that_share_change_no_bit(cell: Any, dtype: str, draws: bool) -> None:
    T = 70 if len(cell.gates) == 1 else 30
    for sizes in ((T, 30, 99, 130), (T, 2, 130, 397)):
        case = Case(cell, sizes, dtype, some_lengths(*sizes[:2]), draws=draws)
        one = run(kernel(cell), case)
        for threads in (2, 3):
            many = kernel(cell, threads)
            same(run(many, case), one)
            assert abs(many.shared[0]) == abs(many.shared[1]) > 1


@every_cell
@every_use
def test_what_every_kernel_does(cell: Any, draws: bool) -> None:
    case = Case(cell, (6, 7, 9, 33), "float32", some_lengths(6, 7), draws=draws)
    checks.a_sequence_alone_is_the_same(kernel(cell), case)
    checks.padding_is_not_read(kernel(cell), case)
    checks.nan_stays_in_its_sequence(kernel(cell), replace(case, lengths=None), 3)
    checks.nothing_given_is_written_to(kernel(cell, 2), case)
    checks.backward_may_run_twice(kernel(cell), case)
    checks.inference_is_the_same(kernel(cell), case)


@every_cell
@every_dtype
@pytest.mark.parametrize("fixed", [False, True])
def test_steps_are_the_whole(cell: Any, dtype: str, fixed: bool) -> None:
    steps_are_the_whole(kernel(cell), Case(cell, (5, 2, 17, 70), dtype), fixed)


@every_cell
@every_dtype
def test_instruction_sets_agree(cell: Any, dtype: str) -> None:
    case, before = Case(cell, (6, 7, 9, 33), dtype, some_lengths(6, 7), draws=True), native.isa()
    try:
        for name in native.isas():
            native.isa(name)
            close(run(kernel(cell), case), reference(case), BOUND[dtype])
    finally:
        native.isa(before)


@every_cell
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_16_bits(cell: Any, dtype: str) -> None:
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    case = Case(cell, (5, 3, 4, 20), dtype, draws=True)
    (kernel_of_16_bits,) = (k for k in BACKEND.kernels_of(cell) if dtype in map(str, k.dtypes))
    found = run(kernel_of_16_bits, case)
    close(found, run(Stored(cell), case), {"float16": 4e-3, "bfloat16": 3e-2}[dtype])


@every_cell
def test_no_steps(cell: Any) -> None:
    for sizes in ((0, 3, 5, 9), (4, 0, 5, 9)):
        case = Case(cell, sizes, "float32", draws=True)
        found = run(kernel(cell), case)
        for name, first in zip(cell.states, case.state, strict=True):
            np.testing.assert_array_equal(found[f"last {name}"], first)
        assert not any(found[f"d{name}"].any() for name in case.weights)


def test_a_layer_runs_by_them() -> None:
    layer = xrnn.Layer(DRAWING[6], 3, 5, rng=0)
    assert layer.path((4, 2, 3))["_l0"].startswith("native loop")


def test_there_is_no_loop_for_other_cells_in_zoneout() -> None:
    for cell in (
        cells.with_zoneout(cells.MinGRU, 0.5),
        cells.with_zoneout(replace(cells.LSTM, step=cells.LSTM.step), 0.1, 0.1),
        cells.lstm_with(peephole=True, zoneout=(0.0, 0.5)),
    ):
        assert BACKEND.kernels_of(cell) == ()


@pytest.mark.parametrize(
    "cell",
    [
        cells.leaky_with(0.3),
        cells.leaky_with(1.0, activations=["softplus"]),
        cells.leaky_with(0.05, activations=[HARD]),
    ],
    ids=lambda cell: cell.name,
)
@every_dtype
def test_a_leak_is_zoneout_on_average(cell: Any, dtype: str) -> None:
    for lengths, reverse in ((None, False), (some_lengths(6, 7), True)):
        case = Case(cell, (6, 7, 9, 33), dtype, lengths, reverse)
        found = run(kernel(cell), case)
        close(found, reference(case), BOUND[dtype])
        checks.padding_is_zero(case, found)


def test_leaky_cells_that_the_loops_do_not_serve() -> None:
    for cell in (cells.leaky_with(0.3, noise=0.1), cells.leaky_with(0.3, potential=True)):
        assert BACKEND.kernels_of(cell) == ()
