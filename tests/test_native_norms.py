"""The native loops of cells with layer norm: equal to the equations, and as sure as the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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

NORMED: list[Any] = [
    cells.gru_with(layer_norm=True),
    cells.gru_with(layer_norm=True, activations=[HARD, "softsign"], clip=1.0, zoneout=0.3),
    cells.gru_with(layer_norm=True, recurrent_dropout=0.3),
    *(
        cells.lstm_with(layer_norm="products", coupled=coupled, proj_size=size, clip=2.0)
        for coupled in (False, True)
        for size in (0, 7)
    ),
    *(
        cells.lstm_with(layer_norm="gates", coupled=coupled, peephole=peephole, proj_size=size)
        for coupled in (False, True)
        for peephole in (False, True)
        for size in (0, 40)
    ),
    cells.lstm_with(layer_norm="products", zoneout=(0.1, 0.3), activations=[HARD, "tanh", "elu"]),
    cells.lstm_with(layer_norm="gates", cell_clip=0.6, clip=0.9, recurrent_dropout=0.3),
]

every_cell = pytest.mark.parametrize("cell", NORMED, ids=lambda cell: cell.name)


@every_cell
@every_dtype
def test_equal_to_the_equations(cell: Any, dtype: str) -> None:
    for sizes, start in (((5, 3, 4, 20), 0), ((3, 2, 9, 33), 1), ((4, 1, 3, 5), 0)):
        case = Case(cell, sizes, dtype, draws=True)
        for one in (case, replace(case, reverse=True, lengths=some_lengths(*sizes[:2], start))):
            found = run(kernel(cell), one)
            close(found, reference(one), BOUND[dtype])
            checks.padding_is_zero(one, found)


@every_cell
@every_dtype
def test_threads_that_share_change_no_bit(cell: Any, dtype: str) -> None:
    case = Case(cell, (30, 30, 99, 130), dtype, some_lengths(30, 30), draws=True)
    one = run(kernel(cell), case)
    for threads in (2, 3):
        many = kernel(cell, threads)
        same(run(many, case), one)
        assert many.shared == (threads, threads)


@every_cell
def test_what_every_kernel_does(cell: Any) -> None:
    case = Case(cell, (6, 7, 9, 33), "float32", some_lengths(6, 7), draws=True)
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
    close(found, run(Stored(cell), case), {"float16": 8e-3, "bfloat16": 6e-2}[dtype])


def test_no_steps() -> None:
    for cell in NORMED:
        for sizes in ((0, 3, 5, 9), (4, 0, 5, 9)):
            found = run(kernel(cell), Case(cell, sizes, "float32", draws=True))
            assert not any(found[f"d{name}"].any() for name in cell.shapes(5, 9))


def test_layers_run_by_them() -> None:
    for cell in (NORMED[0], NORMED[3], NORMED[7]):
        assert xrnn.Layer(cell, 3, 5, rng=0).path((4, 2, 3))["_l0"].startswith("native loop")
