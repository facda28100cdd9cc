"""Products of bfloat16 on the emulated device are those of `xrnn.recurrence.bfloat16`.

A product of what is rounded is exact in float32, so the tolerance is that of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulation import EMULATED, Watched, emulator, loop_of, use_small_blocks
from optioned import SMOOTH
from sequences import AnyCell, Case, run, same
from shim.runtime import matrix

from xrnn.backends import Kernel
from xrnn.backends.cpu import BACKEND
from xrnn.backends.cuda.tables import FUSED
from xrnn.engine import verify
from xrnn.engine.trial import tolerance
from xrnn.recurrence.bfloat16 import nearest

pytestmark = EMULATED
FLOAT32 = np.dtype("float32")

every_cell = pytest.mark.parametrize("cell", [*FUSED, *SMOOTH], ids=lambda cell: cell.name)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


def kernel_of(cell: AnyCell, precision: str) -> Kernel:
    """The cell's loop in a precision, as what is to have products of bfloat16."""
    loop = Watched(loop_of(cell, emulator(), precision=precision))
    return Kernel(loop, frozenset({FLOAT32}), precision="bf16", both=loop)


@every_cell
@pytest.mark.parametrize("sizes", [(5, 3, 4, 16), (3, 2, 3, 7)], ids=["vectors", "single"])
def test_they_are_those_of_their_definition(cell: AnyCell, sizes: Any) -> None:
    """What does not round is seen."""
    given = BACKEND, cell, FLOAT32
    assert verify._compare(*given, kernel_of(cell, "bf16"), sizes) is None
    allowed = tolerance(cell, FLOAT32, "bf16", sizes)
    assert verify.difference(*given, kernel_of(cell, "ieee"), sizes) > 20 * allowed


@pytest.mark.parametrize("cell", [cell for cell in FUSED if cell.linear], ids=lambda c: c.name)
def test_so_they_are_in_pieces_of_time(cell: AnyCell) -> None:
    kernel = kernel_of(cell, "bf16")
    assert verify._compare(BACKEND, cell, FLOAT32, kernel, (130, 3, 2, 4)) is None


@every_cell
def test_no_schedule_changes_a_bit(cell: AnyCell) -> None:
    case = Case(cell, (5, 5, 3, 12), "float32")
    loop = loop_of(cell, emulator(), precision="bf16")
    expected = run(Watched(loop), case)
    for schedule in (1, 7, 100):
        same(run(Watched(loop, schedule), case), expected)


@pytest.mark.parametrize(("vector", "columns", "stride"), [(1, 5, 7), (1, 8, 8), (4, 8, 12)])
def test_numbers_are_rounded_to_the_nearest(vector: int, columns: int, stride: int) -> None:
    """Of all sizes, to the bit; nothing is written beside the result."""
    runtime, rows = emulator(), 300
    bits = np.random.default_rng(0).integers(0, 2**32, (rows, stride), dtype=np.uint64)
    x = bits.astype(np.uint32).view(FLOAT32)
    x[:2, :5] = [
        [np.inf, -np.inf, np.nan, -0.0, 3.4e38],
        [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1e-39, 2.0**-126, -(2.0**-126) * (1 - 2.0**-23)],
    ]
    out = runtime.xp.empty((rows, columns), np.uint16)
    long = np.int64
    runtime.launch(
        "rounded.cu",
        f"rounded<{vector}>",
        (-(-rows * columns // (vector * 8)),),
        (8,),
        (long(rows), long(columns), runtime.pointer(x), long(stride), runtime.pointer(out)),
    )
    runtime.guards.check()
    found = matrix(runtime.pointer(out), rows, columns, columns, "bfloat16").astype(FLOAT32)
    with np.errstate(all="ignore"):
        expected = nearest(x[:, :columns], xp=np)
    np.testing.assert_array_equal(found, expected)  # of which NaN is any
    number = ~np.isnan(expected)
    assert (np.signbit(found) == np.signbit(expected))[number].all()
