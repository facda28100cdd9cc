"""The loops that launch one kernel or a few, on the emulated device, equal the cells.

Inputs are rounded to the storage dtype; the reference is the cell's own loop on the same
values in float64.  Units go in vectors of four (12 of them), or one by one (5).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from emulation import (
    BOUNDS,
    EMULATED,
    Emulator,
    Watched,
    emulator,
    fused,
    loop_of,
    use_small_blocks,
)
from optioned import SMOOTH
from sequences import AnyCell, Case, forward, gap, reference, run, same, some_lengths, variants
from tails import Tail, each_tail, keeps_its_digits

from xrnn.backends.cuda.tables import FUSED
from xrnn.engine.trial import tolerance

pytestmark = EMULATED

every_cell = pytest.mark.parametrize("cell", [*FUSED, *SMOOTH], ids=lambda cell: cell.name)
every_dtype = pytest.mark.parametrize("dtype", BOUNDS)
#: stored as what is computed in, or not: enough where no value is compared
both_kinds = pytest.mark.parametrize("dtype", ["float64", "float16"])
every_vector = pytest.mark.parametrize("H", [12, 5], ids=["vectors", "single"])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


def small(cell: AnyCell, dtype: str = "float32", H: int = 12, **options: Any) -> Case:
    return Case(cell, (5, 5, 3, H), dtype, **options)


@every_cell
@every_dtype
@every_vector
def test_kernels_equal_the_cell(cell: AnyCell, dtype: str, H: int) -> None:
    checks.equals_the_cell(fused(cell), small(cell, dtype, H), BOUNDS[dtype])


@every_cell
@every_dtype
def test_other_sizes_equal_the_cell(cell: AnyCell, dtype: str) -> None:
    """A linear recurrence of many steps is cut into pieces."""
    every = [(5, 3, 4, 16), (3, 2, 3, 7)]
    for sizes in [*every, (130, 3, 2, 4)] if cell.linear is not None else every:
        checks.equals_the_cell(fused(cell), Case(cell, sizes, dtype), BOUNDS[dtype])


@every_cell
@every_vector
def test_no_schedule_changes_a_bit(cell: AnyCell, H: int) -> None:
    """Threads in order, in reverse, at random, some starving."""
    case = small(cell, "float16", H, lengths=some_lengths(5, 5))
    expected = run(fused(cell), case)
    for schedule in (1, 7, 100):
        same(run(fused(cell, schedule), case), expected)


@every_cell
@both_kinds
@every_vector
def test_padding_is_not_read(cell: AnyCell, dtype: str, H: int) -> None:
    for reverse in (False, True):
        case = small(cell, dtype, H, lengths=some_lengths(5, 5), reverse=reverse)
        checks.padding_is_not_read(fused(cell), case)
        checks.infinite_weights_leave_the_padding_zero(fused(cell), case)


@every_cell
@both_kinds
@every_vector
def test_outputs_may_have_no_gradient(cell: AnyCell, dtype: str, H: int) -> None:
    checks.outputs_may_have_no_gradient(fused(cell), small(cell, dtype, H), BOUNDS[dtype])


@every_cell
@both_kinds
@every_vector
def test_nan_stays_in_its_sequence(cell: AnyCell, dtype: str, H: int) -> None:
    checks.nan_stays_in_its_sequence(fused(cell), small(cell, dtype, H), 2)


@each_tail(FUSED)
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [("float32", 1.1e-5), ("float64", 1e-15), ("float16", 1e-3), ("bfloat16", 8e-3)],
)
@every_vector
def test_small_values_of_gates_keep_their_digits(
    cell: AnyCell, tail: Tail, dtype: str, bound: float, H: int
) -> None:
    keeps_its_digits(fused(cell), cell, tail, dtype, bound, H)


@every_cell
@every_dtype
def test_large_values_saturate(cell: AnyCell, dtype: str) -> None:
    """e^-a overflows in float, and what comes of it does not."""
    case = small(cell, dtype)
    checks.saturated_gates_stay_finite(fused(cell), case, BOUNDS[dtype])


@every_cell
@both_kinds
@every_vector
def test_inference_is_the_same_and_writes_little(cell: AnyCell, dtype: str, H: int) -> None:
    """W x stays as it is, but for what goes from one kernel of a step to the next there."""
    kernel, case = fused(cell), small(cell, dtype, H)
    checks.inference_is_the_same(kernel, case)
    before = len(kernel.runtime.launched)
    forward(kernel, case, keep=False)
    launches = (len(kernel.runtime.launched) - before) // 5
    assert kernel.runtime.overwritten <= H * max(0, launches - 1)


@every_cell
@both_kinds
def test_backward_may_run_twice(cell: AnyCell, dtype: str) -> None:
    checks.backward_may_run_twice(fused(cell), small(cell, dtype))


@every_cell
@both_kinds
def test_nothing_given_is_written_to(cell: AnyCell, dtype: str) -> None:
    checks.nothing_given_is_written_to(fused(cell), small(cell, dtype))


@every_cell
@both_kinds
@every_vector
def test_arrays_may_lie_anywhere(cell: AnyCell, dtype: str, H: int) -> None:
    checks.arrays_may_lie_anywhere(fused(cell), small(cell, dtype, H))


@every_cell
@every_dtype
def test_little_is_kept(cell: AnyCell, dtype: str) -> None:
    """A state beside h has the dtype that is computed in."""
    acc = 8 if dtype == "float64" else 4
    checks.little_is_kept(fused(cell), Case(cell, (64, 4, 3, 32), dtype), acc)


@every_cell
def test_rounded_products_are_near_and_not_the_same(cell: AnyCell) -> None:
    kernel = Watched(loop_of(cell, emulator(), precision="tf32"))
    for case in variants(Case(cell, dtype="float32")):
        allowed = tolerance(cell, np.dtype("float32"), "tf32", case.sizes)
        assert 1e-5 < gap(run(kernel, case), reference(case))[0] <= allowed


def test_the_emulator_sees_what_is_written_beside_an_array() -> None:
    cell = next(iter(FUSED))
    kernel, case = fused(cell), small(cell)
    array = kernel.runtime.xp.empty((3,), np.float32)
    array.base[-1] = 0
    with pytest.raises(AssertionError, match="past the end of an array"):
        run(kernel, case)
    assert isinstance(kernel.runtime, Emulator)
    del array
    run(kernel, case)
