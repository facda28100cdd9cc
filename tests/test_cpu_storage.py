"""The native loops for arrays of 16 bits: float16 and bfloat16, computed with in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from native_kernels import Recorded
from sequences import Case, close, forward, run, same, some_lengths, variants
from test_native_base import isa, native

import xrnn
from xrnn.backends.cpu import BACKEND, extension, storage
from xrnn.backends.host import named_dtype
from xrnn.recurrence.storage import Stored

__all__ = ["isa"]  # the fixture

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")

#: dtype → the largest relative difference of two ways to compute in float32
BOUND = {"float16": 4e-3, "bfloat16": 3e-2}

every_cell = pytest.mark.parametrize("cell", extension.CODES, ids=lambda cell: cell.name)
every_dtype = pytest.mark.parametrize("dtype", BOUND)


def kernel(cell: Any) -> Any:
    return storage.kernels(cell)[0]


@every_cell
@every_dtype
@pytest.mark.usefixtures("isa")
def test_equal_to_the_cell(cell: Any, dtype: str) -> None:
    for case in variants(Case(cell, (6, 5, 9, 21), dtype)):
        found = run(kernel(cell), case)
        close(found, run(Stored(cell), replace(case)), BOUND[dtype])
        checks.padding_is_zero(case, found)


@every_cell
@every_dtype
def test_saturated_units_keep_their_slopes(cell: Any, dtype: str) -> None:
    """Outputs that are rounded to 1 come from units that still have a slope."""
    case = Case(cell, (4, 5, 9, 21), dtype, gain=0.1)
    case.weights["b"][...] = 3
    found, expected = run(kernel(cell), case), run(Stored(cell), case)
    close({"dxs": found["dxs"]}, {"dxs": expected["dxs"]}, BOUND[dtype])


@every_cell
@every_dtype
@pytest.mark.parametrize("B", [1, 30])
def test_threads_that_share_change_no_bit(
    cell: Any, dtype: str, B: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    T = 70 if len(cell.gates) == 1 else 30
    case = Case(cell, (T, B, 200, 260), dtype, some_lengths(T, B) if B > 1 else None)
    module = Recorded(native)
    monkeypatch.setattr(extension, "_native", module)
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(extension, "threads", lambda n=threads: n)
        found.append(run(kernel(cell), case))
    same(*found)
    assert abs(module.answers[-1]) == 2


@every_cell
@every_dtype
def test_outputs_of_a_sequence_in_two_parts_are_those_of_one(cell: Any, dtype: str) -> None:
    """Bit for bit where h is the only state; c is rounded between the parts."""
    whole = Case(cell, (8, 3, 5, 21), dtype)
    ys, last, _ = forward(kernel(cell), whole)
    parts, state = [], whole.state
    for part in (slice(3), slice(3, 8)):
        case = replace(whole)
        case.xs, case.state = whole.xs[part], state
        y, state, _ = forward(kernel(cell), case)
        parts.append(y)
    joined = {"ys": np.concatenate(parts), **{str(k): s for k, s in enumerate(state)}}
    expected = {"ys": ys, **{str(k): s for k, s in enumerate(last)}}
    if len(cell.states) == 1:
        same(joined, expected)
    close(joined, expected, BOUND[dtype])


@every_cell
@every_dtype
@pytest.mark.parametrize("fixed", [False, True])
def test_steps_are_the_whole(cell: Any, dtype: str, fixed: bool) -> None:
    case = Case(cell, (5, 2, 17, 37), dtype)
    ys, _, _ = forward(kernel(cell), case)
    loop = kernel(cell).stepping
    weights, state = loop.prepare(case.weights, fixed=fixed), case.state
    for x, y in zip(case.xs, ys, strict=True):
        state = loop.step(weights, x, state)
        close({"h": state[0]}, {"h": y}, BOUND[dtype])
        assert {s.dtype for s in state} == {named_dtype(dtype)}


@every_cell
@every_dtype
def test_what_every_kernel_does(cell: Any, dtype: str) -> None:
    case = Case(cell, (6, 7, 9, 21), dtype, some_lengths(6, 7))
    checks.nothing_given_is_written_to(kernel(cell), case)
    checks.backward_may_run_twice(kernel(cell), case)
    checks.padding_is_not_read(kernel(cell), case)
    checks.inference_is_the_same(kernel(cell), replace(case, lengths=None))
    checks.arrays_may_lie_anywhere(kernel(cell), replace(case, lengths=None))


@every_dtype
def test_weights_changed_in_place_are_seen(dtype: Any) -> None:
    layer = xrnn.LSTM(3, 5, dtype=dtype, rng=0)
    xs = np.ones((4, 2, 3), named_dtype(dtype))
    before, _ = layer(xs)
    stepped, _ = layer.step(xs[0])
    layer.weights["W_l0"][...] *= layer.weights["W_l0"].dtype.type(2)
    assert (layer(xs)[0] != before).any()
    assert (layer.step(xs[0])[0] != stepped).any()
    assert layer.path(xs.shape)["_l0"].startswith("native loop")


@every_dtype
def test_cells_with_options(dtype: str) -> None:
    cell = xrnn.cells.lstm_with(clip=0.8, coupled=True, peephole=True)
    (found,) = (k for k in BACKEND.kernels_of(cell) if dtype in map(str, k.dtypes))
    case = Case(cell, (5, 3, 4, 20), dtype)
    close(run(found, case), run(Stored(cell), case), BOUND[dtype])


def every_float() -> Any:
    """Floats of all sizes, all numbers of 16 bits, and those in the middle between them."""
    bits = np.random.default_rng(0).integers(0, 2**32, 50_000, dtype=np.uint32)
    with np.errstate(all="ignore"):
        found = [bits.view(np.float32), np.array([65519.996, 65520, 1e38, np.inf], np.float32)]
        for dtype in BOUND:
            all16 = np.arange(2**16, dtype=np.uint16).view(named_dtype(dtype)).astype(np.float32)
            finite = np.sort(all16[np.isfinite(all16)])
            middle = ((finite[1:].astype(float) + finite[:-1]) / 2).astype(np.float32)
            found += [finite, middle, *(np.nextafter(middle, np.float32(x)) for x in (-9e9, 9e9))]
    return np.concatenate(found)


@every_dtype
@pytest.mark.usefixtures("isa")
def test_conversions_are_those_of_numpy(dtype: str) -> None:
    kind, to = named_dtype(dtype), storage.KINDS[dtype]
    all16 = np.arange(2**16, dtype=np.uint16)
    found = np.empty(2**16, np.float32)
    native.widen(to, 2**16, all16, found)
    np.testing.assert_array_equal(found, all16.view(kind).astype(np.float32))
    floats = every_float()
    narrow = np.empty(len(floats), np.uint16)
    native.narrow(to, len(floats), floats, narrow)
    with np.errstate(all="ignore"):
        wanted = floats.astype(kind).astype(np.float32)
    np.testing.assert_array_equal(narrow.view(kind).astype(np.float32), wanted)
    np.testing.assert_array_equal(np.signbit(narrow.view(kind)), np.signbit(wanted))


@pytest.mark.usefixtures("isa")
def test_conversions_write_no_further() -> None:
    for n in range(40):
        wide, narrow = np.full(40, 7, np.float32), np.full(40, 7, np.uint16)
        native.widen(2, n, np.zeros(n, np.uint16), wide[:n])
        native.narrow(1, n, np.zeros(n, np.float32), narrow[:n])
        for array in (wide, narrow):
            assert not array[:n].any()
            assert (array[n:] == 7).all()


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, 0, "storage is 0; it must lie in 1 to 2"),
        (0, 3, "storage is 3"),
        (1, 4, "x holds 3 items; it must hold 4"),
        (2, np.zeros(3, "int16"), "x holds items of format h"),
        (3, np.zeros(3), "y holds items of format d"),
    ],
)
def test_conversions_check_their_arguments(place: int, value: Any, words: str) -> None:
    arguments = [1, 3, np.zeros(3, np.uint16), np.zeros(3, np.float32)]
    native.widen(*arguments)
    arguments[place] = value
    with pytest.raises(ValueError, match=words):
        native.widen(*arguments)
