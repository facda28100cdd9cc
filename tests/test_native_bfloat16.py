"""Products of bfloat16 in the native loops: the bits of float32 products of rounded operands."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from native_kernels import NativeKernel, steps_are_the_whole
from sequences import AnyCell, Case, forward, run, same, some_lengths
from test_native_base import SIZES, draw, isa, multiply, native
from test_native_options import FORMS

from xrnn import cells
from xrnn.backends.cpu import extension, options
from xrnn.recurrence.bfloat16 import nearest

__all__ = ["isa"]  # the fixture

every_cell = pytest.mark.parametrize("cell", extension.CODES, ids=lambda cell: cell.name)

#: those whose h goes into products alone
MULTIPLIED_ALONE = (
    *(cells.Elman, cells.ElmanReLU, cells.LSTM, cells.PeepholeLSTM),
    *(cells.InputGatedLSTM, cells.MGU),
)

#: whose instructions round a product and its sum once: the loops have the same bits on all of them
FUSED = [name for name in native.isas() if name != "portable"]


def rounded(a: Any) -> Any:
    return nearest(a, xp=np)


def loop_of(cell: AnyCell) -> extension.Native:
    """The loop with products of bfloat16."""
    if cell in extension.CODES:
        return extension.Native(extension.CODES[cell]).rounded()
    found = options.loop_of(cell.made)
    assert found is not None
    return found.rounded()


# --- products


def special(*shape: int) -> Any:
    """float32 of every kind: zeros, ties, infinities, NaN, denormal and huge numbers."""
    rng = np.random.default_rng(shape)
    bits = rng.integers(0, 2**32, shape, dtype=np.uint64).astype(np.uint32)
    ordinary = rng.standard_normal(shape).astype("float32")
    ties = (ordinary.view(np.uint32) & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    kind = rng.integers(0, 8, shape)
    found = np.where(kind == 0, bits, np.where(kind == 1, ties, ordinary.view(np.uint32)))
    a = found.astype(np.uint32).view("float32")
    a[kind == 2] = rng.choice(np.array([0.0, -0.0, 1e-39, -1e-40, 2.0**-126], "float32"))
    return np.where(np.isnan(a), np.float32(np.nan), a)


@pytest.mark.parametrize("size", SIZES)
def test_a_product_is_that_of_rounded_operands(isa: str, size: tuple[int, int, int]) -> None:
    """Also where k is odd, and -0 in a sum stays -0."""
    A, B, C = draw(*size, "float32")
    A[0], C[0] = 0, -0.0
    expected = multiply(rounded(A), rounded(B), C=C)
    assert np.signbit(multiply(-0.0 * A[:1], abs(B), C=C[:1], rounding=1)).all()
    for ta, tb, threads in product((False, True), (False, True), (1, 3)):
        found = multiply(A, B, C=C, ta=ta, tb=tb, threads=threads, rounding=1)
        assert found.tobytes() == expected.tobytes()
    bias = C[-1].copy()
    found = multiply(A, B, bias=bias, rounding=1)
    assert found.tobytes() == multiply(rounded(A), rounded(B), bias=bias).tobytes()
    assert size[0] == 1 or (found != multiply(A, B, bias=bias)).any()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in cast")
def test_of_numbers_of_every_kind(isa: str) -> None:
    A, B = special(29, 41), special(41, 50)
    found, expected = multiply(A, B, rounding=1), multiply(rounded(A), rounded(B))
    np.testing.assert_array_equal(found, expected)
    one = np.ones((1, 1), "float32")
    alone = np.ascontiguousarray(special(1, 5000))
    np.testing.assert_array_equal(multiply(one, alone, rounding=1), rounded(alone))


def test_instruction_sets_agree_on_the_smallest_numbers() -> None:
    """Products and sums around the smallest normal number, below which all results are 0."""
    rng, before = np.random.default_rng(0), native.isa()

    def near(exponent: int, *shape: int) -> Any:
        powers = 2.0 ** rng.integers(exponent - 6, exponent + 6, shape).astype(float)
        return (rng.standard_normal(shape) * powers).astype("float32")

    for k in (1, 2, 5):
        A, B, C = near(-63, 13, k), near(-63, k, 37), near(-124, 13, 37)
        found = []
        for name in FUSED:
            native.isa(name)
            found.append(multiply(A, B, C=C, rounding=1))
            found.append(multiply(rounded(A), rounded(B), C=C))
        native.isa(before)
        assert (found[0] == 0).any()
        assert all(C.tobytes() == found[0].tobytes() for C in found)


# --- loops


@pytest.mark.parametrize("cell", MULTIPLIED_ALONE[:5], ids=lambda cell: cell.name)
@pytest.mark.parametrize("sizes", [(9, 1, 37, 50), (6, 13, 7, 33), (5, 40, 64, 128)], ids=str)
def test_a_sequence_is_float32_steps_on_rounded_operands(
    isa: str, cell: AnyCell, sizes: Any
) -> None:
    case, plain = Case(cell, sizes, "float32"), extension.Native(extension.CODES[cell])
    ys, last, _ = forward(NativeKernel(loop_of(cell)), case)
    weights = {k: rounded(w) if k in ("W", "U") else w for k, w in case.weights.items()}
    prepared, state = plain.prepare(weights, fixed=False), case.state
    for t, x in enumerate(case.xs):
        state = plain.step(prepared, rounded(x), (rounded(state[0]), *state[1:]))
        assert state[0].tobytes() == ys[t].tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(state, last, strict=True))


@every_cell
def test_a_step_of_rounded_numbers_rounds_nothing(isa: str, cell: AnyCell) -> None:
    """But q, which the cells compute that multiply by U twice, one after the other."""
    case = Case(cell, (1, 5, 19, 33), "float32").mapped(rounded)
    found = forward(NativeKernel(loop_of(cell)), case)[:2]
    expected = forward(NativeKernel(extension.Native(extension.CODES[cell])), case)[:2]
    equal = found[0].tobytes() == expected[0].tobytes()
    assert equal == (cell.name not in ("gru-before", "mgu"))


@every_cell
def test_the_sums_for_gradients_are_products_of_rounded_operands(isa: str, cell: AnyCell) -> None:
    """dW and dxs, from the gradients of the pre-activations; db rounds nothing."""
    case, loop = Case(cell, (5, 7, 19, 33), "float32"), loop_of(cell)
    _, _, residuals = forward(loop, case)
    given = (case.weights, residuals, case.dys, case.dstate)
    call, (dxs, _, dweights, das) = loop._backward(*given)
    extension._native.backward(*call)
    T, B, I, H = case.sizes
    n = loop.gates * H
    rows = np.ascontiguousarray(das.reshape(T * B, -1)[:, :n])
    xs, W = case.xs.reshape(T * B, I), case.weights["W"]
    expected = multiply(rounded(rows), rounded(W))
    assert dxs.tobytes() == expected.tobytes()
    # From the last step to the first.
    later, left = (np.ascontiguousarray(rounded(a)[::-1]) for a in (xs, rows))
    expected = multiply(np.ascontiguousarray(left.T), later)
    assert dweights["W"].tobytes() == expected.tobytes()
    again = plain_of(cell)
    kept = forward(again, case)[2]
    plain = again.backward(case.weights, kept, case.dys, case.dstate, xp=np)[2]
    assert (dweights["W"] != plain["W"]).any()


def plain_of(cell: AnyCell) -> extension.Native:
    """The loop that rounds nothing."""
    return extension.Native(extension.CODES[cell])


def by_every_set(case: Case) -> None:
    """Fail unless the instruction sets give the same bits."""
    before, found = native.isa(), []
    for name in FUSED:
        native.isa(name)
        found.append(run(NativeKernel(loop_of(case.cell)), case))
    native.isa(before)
    for other in found[1:]:
        same(other, found[0])


@every_cell
@pytest.mark.skipif(len(FUSED) < 2, reason="this processor has one instruction set with fma")
def test_instruction_sets_change_no_bit(cell: AnyCell) -> None:
    for sizes in ((6, 7, 9, 33), (2, 1, 65, 129), (3, 40, 130, 64)):
        lengths = some_lengths(*sizes[:2])
        by_every_set(Case(cell, sizes, "float32"))
        by_every_set(Case(cell, sizes, "float32", lengths, reverse=True))


@pytest.mark.parametrize("cell", FORMS, ids=lambda cell: cell.name)
@pytest.mark.skipif(len(FUSED) < 2, reason="this processor has one instruction set with fma")
def test_instruction_sets_change_no_bit_of_cells_with_options(cell: AnyCell) -> None:
    by_every_set(Case(cell, (4, 5, 9, 33), "float32"))


@every_cell
def test_threads_that_share_change_no_bit(cell: AnyCell) -> None:
    """Whether they share sequences or units."""
    T = {1: 70, 2: 45}.get(len(cell.gates), 28)
    for sizes, shares in (((T, 30, 99, 130), (2, 3)), ((60, 1, 300, 430), (-2, -3))):
        case = Case(cell, sizes, "float32")
        one = run(NativeKernel(loop_of(cell)), case)
        for threads, share in zip((2, 3), shares, strict=True):
            kernel = NativeKernel(loop_of(cell), threads)
            same(run(kernel, case), one)
            assert kernel.shared == (share, share), sizes


@every_cell
def test_the_batch_changes_no_bit(isa: str, cell: AnyCell) -> None:
    case = Case(cell, (4, 14, 9, 33), "float32", some_lengths(4, 14))
    whole = run(NativeKernel(loop_of(cell)), case)
    for b in (0, 5, 13):
        alone = run(NativeKernel(loop_of(cell)), case.sequence(b))
        for name, a in alone.items():
            if not name.startswith("dU") and name in whole and whole[name].ndim == 3:
                np.testing.assert_array_equal(a[:, 0], whole[name][:, b])


@every_cell
@pytest.mark.parametrize("fixed", [False, True])
def test_steps_are_the_whole(isa: str, cell: AnyCell, fixed: bool) -> None:
    for sizes in ((5, 1, 21, 130), (4, 3, 8, 33)):
        steps_are_the_whole(NativeKernel(loop_of(cell)), Case(cell, sizes, "float32"), fixed)


def test_a_nan_is_seen(isa: str) -> None:
    case = Case(cells.LSTM, (3, 4, 9, 33), "float32")
    case.xs[1, 2, 5] = np.nan
    ys = forward(NativeKernel(loop_of(cells.LSTM)), case)[0]
    hit = np.zeros(ys.shape, bool)
    hit[1:, 2] = True
    np.testing.assert_array_equal(np.isnan(ys), hit)


def test_packs_are_of_one_rounding() -> None:
    case = Case(cells.LSTM, (1, 1, 9, 33), "float32")
    loops = plain_of(cells.LSTM), loop_of(cells.LSTM)
    for one, other in (loops, loops[::-1]):
        for fixed in (False, True):
            with pytest.raises(ValueError, match="a pack of another"):
                other.step(one.prepare(case.weights, fixed=fixed), case.xs[0], case.state)


def test_float64_is_not_rounded() -> None:
    case = Case(cells.LSTM, (1, 1, 9, 33), "float64")
    with pytest.raises(ValueError, match="rounding is 1; it must be 0 for float64"):
        forward(loop_of(cells.LSTM), case)
