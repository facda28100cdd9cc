"""The native loops of cells with options: equal to the equations, and as sure as the plain ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from native_kernels import NativeKernel, steps_are_the_whole
from optioned import FAR, PROJECTED, every_cell, forms, spec
from optioned import MAKERS as ELEMENTWISE
from sequences import Case, close, reference, run, same, some_lengths
from test_native_base import native

from xrnn import cells
from xrnn.backends.cpu import BACKEND, extension
from xrnn.cells.activations import ACTIVATIONS, activate
from xrnn.cells.options import activations_of

BOUND = {"float32": 1e-4, "float64": 1e-12}

#: all that the native loops serve
MAKERS = {**ELEMENTWISE, **PROJECTED}
FORMS = forms(MAKERS)

every_form = pytest.mark.parametrize("cell", FORMS, ids=lambda cell: cell.name)
every_dtype = pytest.mark.parametrize("dtype", BOUND)


def kernel(cell: Any, threads: int = 1) -> NativeKernel:
    found, *_ = BACKEND.kernels_of(cell)
    assert isinstance(found.sequence, extension.Native)
    return NativeKernel(found.sequence, threads)


@pytest.mark.parametrize("cell", list(every_cell(MAKERS)), ids=lambda cell: cell.name)
@every_dtype
def test_equal_to_the_equations(cell: Any, dtype: str) -> None:
    for sizes, start in (((5, 3, 4, 20), 0), ((3, 2, 9, 33), 1)):
        case = Case(cell, sizes, dtype, gain=1.5)
        for one in (case, replace(case, reverse=True, lengths=some_lengths(*sizes[:2], start))):
            found = run(kernel(cell), one)
            close(found, reference(one), BOUND[dtype])
            checks.padding_is_zero(one, found)


@pytest.mark.parametrize(
    ("maker", "plain"),
    [
        *((name, cells.BY_NAME[name]) for name in ("rnn", "gru", "gru-before", "lstm")),
        ("peephole", cells.PeepholeLSTM),
    ],
)
def test_usual_options_are_the_plain_cell(maker: str, plain: Any) -> None:
    case = Case(plain, (5, 3, 4, 20), "float32")
    other = replace(case, cell=MAKERS[maker](clip=FAR))
    close(run(kernel(other.cell), other), run(extension.kernels(plain)[0], case), 2e-6)


@every_form
def test_the_options_bite(cell: Any) -> None:
    """Each one changes outputs and gradients, so that a loop without it would be seen."""
    options = cell.made
    case = Case(cell, (5, 3, 4, 20), "float64", gain=1.5)
    found = run(kernel(cell), case)
    usual = activations_of(options.kind, None, options.usual)
    for name, value in (("activations", usual), ("clip", FAR), ("cell_clip", FAR)):
        if hasattr(options, name):
            other = cell.maker(replace(options, **{name: value}))
            without = run(kernel(other), case)
            assert all((found[k] != without[k]).any() for k in ("ys", "dxs", "dW")), name


@every_form
@every_dtype
@pytest.mark.parametrize("reverse", [False, True])
def test_threads_that_share_change_no_bit(cell: Any, dtype: str, reverse: bool) -> None:
    T = 70 if len(cell.gates) == 1 else 30
    for sizes, sign in (((T, 30, 99, 130), 1), ((T, 2, 130, 397), -1)):
        lengths = some_lengths(*sizes[:2])
        case = Case(cell, sizes, dtype, lengths, reverse)
        one = run(kernel(cell), case)
        for threads in (2, 3):
            many = kernel(cell, threads)
            same(run(many, case), one)
            # The units are not divided where a projection needs all of them.
            shared = sign * threads if cell.projection is None or sign > 0 else min(threads, 2)
            assert many.shared == (shared,) * 2


@every_form
def test_a_sequence_alone_is_the_same_as_in_a_batch(cell: Any) -> None:
    case = Case(cell, (6, 7, 9, 33), "float32", some_lengths(6, 7))
    checks.a_sequence_alone_is_the_same(kernel(cell), case)


@every_form
@every_dtype
@pytest.mark.parametrize("fixed", [False, True])
def test_steps_are_the_whole(cell: Any, dtype: str, fixed: bool) -> None:
    case = Case(cell, (5, 2, 17, 70), dtype)
    steps_are_the_whole(kernel(cell), case, fixed)
    checks.inference_is_the_same(kernel(cell), case)


@every_form
@every_dtype
def test_instruction_sets_agree(cell: Any, dtype: str) -> None:
    case, before = Case(cell, (6, 7, 9, 33), dtype, some_lengths(6, 7)), native.isa()
    try:
        for name in native.isas():
            native.isa(name)
            close(run(kernel(cell), case), reference(case), BOUND[dtype])
    finally:
        native.isa(before)


@every_form
@pytest.mark.parametrize("reverse", [False, True])
def test_numbers_that_are_none(cell: Any, reverse: bool) -> None:
    case = Case(cell, (6, 7, 9, 33), "float32", some_lengths(6, 7), reverse)
    checks.padding_is_not_read(kernel(cell), case)
    checks.nan_stays_in_its_sequence(kernel(cell), replace(case, lengths=None), 3)


@every_form
def test_what_is_given_and_kept(cell: Any) -> None:
    case = Case(cell, (6, 7, 9, 33), "float32", some_lengths(6, 7))
    checks.nothing_given_is_written_to(kernel(cell, 2), case)
    checks.backward_may_run_twice(kernel(cell), case)


@pytest.mark.parametrize("name", ACTIVATIONS)
@every_dtype
def test_activations_far_from_0(name: str, dtype: str) -> None:
    """By an Elman network without recurrence, whose output is the activation of its input."""
    cell = cells.rnn_with(activations=[spec(name)], clip=FAR)
    given = cell.made.activations[0]
    x = np.array([0, 1e-6, 0.4, 1, 7, 30, 80, 800], dtype)
    xs = np.concatenate([x, -x])[:, None, None]
    shapes = {"W": (1, 1), "U": (1, 1), "b": (1,)}
    weights = {k: np.full(s, float(k == "W"), dtype) for k, s in shapes.items()}
    zero = (np.zeros((1, 1), dtype),)
    how: Any = {"lengths": None, "reverse": False, "keep": True, "xp": np}
    loop, *_ = BACKEND.kernels_of(cell)
    ys, _, residuals = loop.sequence.forward(weights, xs, zero, **how)
    wanted = activate(given, xs.astype("longdouble"), xp=np)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(ys, wanted, rtol=8 * eps, atol=eps * 1e-3)
    dxs, _, _ = loop.sequence.backward(weights, residuals, np.ones_like(ys), zero, xp=np)
    assert np.isfinite(dxs).all()


def test_a_changed_cell_has_no_loop() -> None:
    assert BACKEND.kernels_of(replace(cells.lstm_with(clip=1.0), step=cells.LSTM.step)) == ()
    assert BACKEND.kernels_of(FORMS[0]) is BACKEND.kernels_of(FORMS[0])


def test_options_are_checked() -> None:
    code = extension.WITH_OPTIONS["rnn", frozenset()].number
    W, U, b = np.zeros((3, 2)), np.zeros((3, 3)), np.zeros(3)
    native.pack(code, 0, np.array([1, 0, 0, np.inf, np.inf, 0, 0, 0]), 2, 3, 0, W, U, b)
    for wrong, words in (
        (np.zeros(5), "options holds 5 items; it must hold 8"),
        (np.array([11.0] + 7 * [0]), r"options\[0\] must be the number of a kind, 0 to 10"),
        (np.array([np.nan] + 7 * [0]), r"options\[0\] must be the number of a kind"),
        (np.zeros(8, "float32"), "options holds items of format f"),
    ):
        with pytest.raises(ValueError, match=words):
            native.pack(code, 0, wrong, 2, 3, 0, W, U, b)
