"""The native loops: equal to the cells, and the same bits however they are run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from native_kernels import BesideTheGates, NativeKernel
from sequences import (
    AnyCell,
    Case,
    Results,
    close,
    forward,
    gap,
    outputs,
    reference,
    run,
    same,
    some_lengths,
    variants,
)
from tails import Tail, each_tail, keeps_its_digits
from test_native_base import native

import xrnn
from xrnn import cells
from xrnn.backends.cpu import extension

ROOT = Path(__file__).parent.parent
BOUND = {"float32": 1e-4, "float64": 1e-12}

every_cell = pytest.mark.parametrize("cell", extension.CODES, ids=lambda cell: cell.name)
every_dtype = pytest.mark.parametrize("dtype", BOUND)
every_direction = pytest.mark.parametrize("reverse", [False, True])


def middle(cell: AnyCell, dtype: str = "float32", **options: Any) -> Case:
    """Some sequences of units that fill no vector."""
    return Case(cell, (6, 7, 9, 33), dtype, **options)


@every_cell
@every_dtype
@every_direction
@pytest.mark.parametrize("start", [None, 0, 1, 2])
def test_equal_to_the_cell(cell: AnyCell, dtype: str, reverse: bool, start: int | None) -> None:
    for H, B, T in product((1, 5, 16, 17, 33, 70), (1, 2, 7), (1, 6)):
        lengths = None if start is None else some_lengths(T, B, start)
        case = Case(cell, (T, B, H % 7 + H // 2 + 1, H), dtype, lengths, reverse)
        found = run(NativeKernel(cell), case)
        close(found, reference(case), BOUND[dtype])
        checks.padding_is_zero(case, found)


@each_tail(extension.CODES)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float64", 1e-15)])
def test_small_values_of_gates_keep_their_digits(
    cell: AnyCell, tail: Tail, dtype: str, bound: float
) -> None:
    """By each instruction set."""
    chosen = native.isa()
    try:
        for isa in native.isas():
            native.isa(isa)
            for H in (1, 7, 16, 33):
                keeps_its_digits(NativeKernel(cell), cell, tail, dtype, bound, H)
    finally:
        native.isa(chosen)


def by_threads(case: Case, shared: dict[int, int]) -> None:
    """For each number of threads: so they share the work, and the bits are those of one."""
    kernel = NativeKernel(case.cell)
    one = run(kernel, case)
    assert kernel.shared == (1, 1)
    for threads, how in shared.items():
        kernel = NativeKernel(case.cell, threads)
        same(run(kernel, case), one)
        assert kernel.shared == (how, how), threads


def enough_steps(cell: AnyCell) -> int:
    """For threads to be worth their start, at the sizes below."""
    return {1: 70, 2: 45}.get(len(cell.gates), 28)


@every_cell
@every_dtype
@every_direction
@pytest.mark.parametrize("cut", [False, True])
def test_threads_that_share_sequences_change_no_bit(
    cell: AnyCell, dtype: str, reverse: bool, cut: bool
) -> None:
    T = enough_steps(cell)
    lengths = some_lengths(T, 30) if cut else None
    by_threads(Case(cell, (T, 30, 99, 130), dtype, lengths, reverse), {2: 2, 3: 3})


@every_cell
def test_threads_that_pack_and_sum_change_no_bit(cell: AnyCell) -> None:
    """So large that several threads pack the weights and sum the gradients of the biases."""
    by_threads(Case(cell, (20, 40, 20, 430), "float32"), {2: 2, 3: 3})


@every_cell
@every_dtype
@every_direction
@pytest.mark.parametrize("B", [1, 2, 5])
def test_threads_that_share_units_change_no_bit(
    cell: AnyCell, dtype: str, reverse: bool, B: int
) -> None:
    T = enough_steps(cell)
    lengths = some_lengths(T, B) if B > 1 else None
    I = 100 if cell.recurrent else 250  # U alone is work enough for threads that wait
    by_threads(Case(cell, (T, B, I, 397), dtype, lengths, reverse), {2: -2, 3: -3})


def test_threads_share_the_units_of_large_weights_for_more_sequences() -> None:
    by_threads(Case(cells.LSTM, (20, 13, 99, 430), "float32"), {2: -2, 3: -3})
    by_threads(Case(cells.Elman, (60, 13, 99, 430), "float32"), {2: 2, 3: 3})


@pytest.mark.parametrize("I", [40, 2000])
def test_a_cut_between_inputs_that_are_multiplied_at_once_changes_no_bit(I: int) -> None:
    """32 steps at once: of so many, what is made of x or x itself takes the memory that it may."""
    layer, xs = xrnn.LSTM(I, 64, rng=0), np.random.default_rng(0).normal(size=(70, 8, I))
    xs = xs.astype("float32")
    ys, last = layer(xs)
    first, state = layer(xs[:33])
    second, state = layer(xs[33:], state)
    assert np.concatenate([first, second]).tobytes() == ys.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(state, last, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
@pytest.mark.parametrize("B", [1, 40])
def test_without_threads_the_caller_does_it_all(B: int) -> None:
    """The system refuses threads: there is no room for their stacks."""
    code = (
        "import resource, sys; sys.path.insert(0, 'tests')\n"
        "from native_kernels import NativeKernel, extension\n"
        "from sequences import Case, run, same\n"
        "cell = max(extension.CODES, key=lambda cell: len(cell.gates))\n"
        f"case = Case(cell, (70, {B}, 30, 250), 'float32')\n"
        "one, two = NativeKernel(cell), NativeKernel(cell, threads=2)\n"
        "expected = run(one, case)\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (60 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "same(run(two, case), expected); assert two.shared == (1, 1), two.shared\n"
    )
    command = f'ulimit -s 65536 && exec {sys.executable} -c "$0"'
    subprocess.run(["bash", "-c", command, code], cwd=ROOT, check=True, timeout=120)


@every_cell
@every_direction
def test_a_sequence_alone_is_the_same_as_in_a_batch(cell: AnyCell, reverse: bool) -> None:
    for B in (2, 7, 13):
        lengths = some_lengths(6, B)
        case = Case(cell, (6, B, 9, 33), "float32", lengths, reverse)
        checks.a_sequence_alone_is_the_same(NativeKernel(cell), case)


@every_cell
@every_dtype
@pytest.mark.parametrize("B", [1, 2, 7])
def test_steps_are_the_whole(cell: AnyCell, dtype: str, B: int) -> None:
    for I, H in ((5, 33), (40, 16), (1, 1), (17, 70)):
        case = Case(cell, (5, B, I, H), dtype)
        ys, last, _ = forward(NativeKernel(cell), case)
        loop, state = extension.Native(extension.CODES[cell]), case.state
        weights = loop.prepare(case.weights, fixed=False)
        for t, x in enumerate(case.xs):
            state = loop.step(weights, x, state)
            assert state[0].tobytes() == ys[t].tobytes()
        same(outputs(case, ys, state), outputs(case, ys, last))


@every_cell
def test_nothing_kept_is_the_same(cell: AnyCell) -> None:
    for sizes in ((1, 1, 4, 17), (9, 1, 4, 17), (40, 5, 64, 200)):
        checks.inference_is_the_same(NativeKernel(cell), Case(cell, sizes, "float32"))


@pytest.fixture
def chosen_again() -> Iterator[None]:
    """The instruction set is what it was before the test."""
    before = native.isa()
    yield
    native.isa(before)


@every_cell
@every_dtype
@pytest.mark.usefixtures("chosen_again")
def test_instruction_sets_agree(cell: AnyCell, dtype: str) -> None:
    case = middle(cell, dtype, lengths=some_lengths(6, 7))
    expected = reference(case)
    for name in native.isas():
        native.isa(name)
        found = run(NativeKernel(cell), case)
        close(found, expected, BOUND[dtype])
        same(run(NativeKernel(cell, threads=3), case), found)


@every_cell
@every_direction
@pytest.mark.parametrize("bad", [0, 3])
def test_a_nan_stays_in_its_sequence(cell: AnyCell, reverse: bool, bad: int) -> None:
    checks.nan_stays_in_its_sequence(NativeKernel(cell), middle(cell, reverse=reverse), bad)


@every_cell
def test_weights_changed_in_place_are_seen(cell: AnyCell) -> None:
    kernel = NativeKernel(cell)
    for sizes in ((1, 1, 5, 20), (6, 3, 5, 20)):
        case = Case(cell, sizes, "float32")
        for name in case.weights:
            before = run(kernel, case)
            case.weights[name] += np.float32(0.25)
            after = run(kernel, case)
            assert gap({"ys": after["ys"]}, {"ys": before["ys"]})[0] > 0, name
            close(after, reference(case), BOUND["float32"])


@every_cell
def test_nothing_given_is_written_to(cell: AnyCell) -> None:
    checks.nothing_given_is_written_to(NativeKernel(cell, threads=2), middle(cell))


@every_cell
@every_direction
def test_padding_is_not_read(cell: AnyCell, reverse: bool) -> None:
    case = middle(cell, reverse=reverse, lengths=some_lengths(6, 7))
    checks.padding_is_not_read(NativeKernel(cell), case)


@every_cell
@every_direction
def test_gradients_beside_the_gates_are_the_same(cell: AnyCell, reverse: bool) -> None:
    """The extension leaves the gates as they are, if it gets another array."""
    case = middle(cell, lengths=some_lengths(6, 7), reverse=reverse)
    same(run(NativeKernel(cell, module=BesideTheGates), case), run(NativeKernel(cell), case))


@every_cell
def test_backward_may_run_twice(cell: AnyCell) -> None:
    checks.backward_may_run_twice(NativeKernel(cell), middle(cell))


@every_cell
def test_no_gradient_of_the_outputs(cell: AnyCell) -> None:
    for case in variants(middle(cell)):
        assert case.dys is not None
        case.dys[...] = 0
        zeros = run(NativeKernel(cell), case)
        case.dys = None
        found = run(NativeKernel(cell), case)
        close(found, zeros, 0)
        close(found, reference(case), BOUND["float32"])


@every_cell
@every_direction
def test_infinite_weights_leave_the_padding_zero(cell: AnyCell, reverse: bool) -> None:
    case = middle(cell, lengths=some_lengths(6, 7), reverse=reverse)
    checks.infinite_weights_leave_the_padding_zero(NativeKernel(cell), case)


@every_cell
def test_saturated_gates_stay_finite(cell: AnyCell) -> None:
    checks.saturated_gates_stay_finite(NativeKernel(cell), middle(cell, "float64"), 1e-10)


@every_cell
def test_little_is_kept(cell: AnyCell) -> None:
    checks.little_is_kept(NativeKernel(cell), Case(cell, (256, 8, 1, 64), "float32"))


@every_cell
def test_no_steps_and_no_sequences(cell: AnyCell) -> None:
    """The state stays as it was given, and there is no gradient but its own."""
    for sizes in ((0, 3, 5, 9), (4, 0, 5, 9)):
        case = Case(cell, sizes, "float32")
        found, expected = run(NativeKernel(cell), case), unchanged(case)
        same(found, expected)


def unchanged(case: Case) -> Results:
    """What no steps give."""
    dweights = {name: np.zeros_like(w) for name, w in case.weights.items()}
    T, B, _, H = case.sizes
    named = {"ys": np.zeros((T, B, H), case.dtype), "dxs": np.zeros_like(case.xs)}
    for name, first, dlast in zip(case.cell.states, case.state, case.dstate, strict=True):
        named |= {f"last {name}": first, f"dfirst {name}": dlast}
    return named | {f"d{name}": d for name, d in dweights.items()}


@every_cell
def test_guards_and_threads_are_those_of_the_kernel(cell: AnyCell) -> None:
    """The kernel under test is the one that is served."""
    kernel, case = NativeKernel(cell), middle(cell)
    same(run(kernel, case), run(extension.kernels(cell)[0], case))
    assert len(kernel.native.answers) == 2
    same(run(kernel, replace(case)), run(kernel, case))
