"""The native loops of cells with options: equal to the equations, and as sure as the plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from native_kernels import NativeKernel
from option_cells import USUAL, VALUES, Options, cell_with
from sequences import Case, close, forward, outputs, reference, run, same, some_lengths

from xrnn import cells
from xrnn.backends.cpu import extension

native: Any = pytest.importorskip(
    "xrnn.backends.cpu._native", reason="the native loops are not built", exc_type=ImportError
)

BOUND = {"float32": 1e-4, "float64": 1e-12}

#: alpha and beta of the kinds that have them
PARAMETERS = {
    "hard_sigmoid": (0.2, 0.5),
    "affine": (0.5, 0.1),
    "leaky_relu": (0.1, 0),
    "thresholded_relu": (0.3, 0),
    "scaled_tanh": (0.8, 0.6),
    "elu": (0.7, 0),
}


def spec(name: str) -> tuple[str, float, float]:
    alpha, beta = PARAMETERS.get(name, (0, 0))
    return name, alpha, beta


def of_kinds(family: str, *names: str) -> Options:
    """Options with these kinds of functions in turn."""
    n = len(USUAL[family])
    return Options(tuple(spec(names[k % len(names)]) for k in range(n)))


def every_option() -> Iterator[tuple[str, Options]]:
    """Each kind for each function of each family, each limit, and each form of the LSTM."""
    for family, usual in USUAL.items():
        plain = Options(usual)
        yield family, plain
        for name in VALUES:
            for k in range(len(usual)):
                yield family, Options((*usual[:k], spec(name), *usual[k + 1 :]))
        yield family, replace(plain, clip=0.7)
    lstm = Options(USUAL["lstm"])
    for coupled in (False, True):
        for peephole in (False, True):
            form = replace(lstm, coupled=coupled, peephole=peephole)
            yield "lstm", form
            yield "lstm", replace(form, clip=0.9, cell_clip=0.6)
            kinds = ("hard_sigmoid", "softsign", "elu")
            yield "lstm", replace(form, activations=tuple(map(spec, kinds)))


#: a form of each loop, with limits that bite and functions of several kinds
FORMS = [
    ("rnn", replace(of_kinds("rnn", "leaky_relu"), clip=1.0)),
    ("gru", replace(of_kinds("gru", "hard_sigmoid", "softsign"), clip=1.0)),
    ("gru-before", replace(of_kinds("gru-before", "hard_sigmoid", "tanh"), clip=1.0)),
    *(
        (
            "lstm",
            replace(
                of_kinds("lstm", "hard_sigmoid", "tanh", "elu"),
                clip=1.0,
                cell_clip=0.8,
                coupled=coupled,
                peephole=peephole,
            ),
        )
        for coupled in (False, True)
        for peephole in (False, True)
    ),
]


def word(given: Any) -> str:
    family, o = given
    names = "-".join(name for name, *_ in o.activations)
    limits = [f"{k}{v}" for k in ("clip", "cell_clip") if (v := getattr(o, k)) is not None]
    return "-".join([family, names, *limits, *(k for k in extension.STRUCTURE if getattr(o, k))])


every_form = pytest.mark.parametrize("given", FORMS, ids=word)
every_dtype = pytest.mark.parametrize("dtype", BOUND)


def kernel(given: tuple[str, Options], threads: int = 1) -> NativeKernel:
    found = extension.native_kernel(*given)
    assert found is not None
    assert isinstance(found.sequence, extension.Native)
    return NativeKernel(found.sequence, threads)


@pytest.mark.parametrize("given", list(every_option()), ids=word)
@every_dtype
def test_equal_to_the_equations(given: Any, dtype: str) -> None:
    cell = cell_with(*given)
    for sizes, start in (((5, 3, 4, 20), 0), ((3, 2, 9, 33), 1)):
        case = Case(cell, sizes, dtype, gain=1.5)
        for one in (case, replace(case, reverse=True, lengths=some_lengths(*sizes[:2], start))):
            found = run(kernel(given), one)
            close(found, reference(one), BOUND[dtype])
            checks.padding_is_zero(one, found)


@pytest.mark.parametrize("family", USUAL)
def test_usual_options_are_the_plain_cell(family: str) -> None:
    plain = Case(cells.BY_NAME[family], (5, 3, 4, 20), "float32")
    options = Options(USUAL[family])
    case = replace(plain, cell=cell_with(family, options))
    close(run(kernel((family, options)), case), run(extension.kernels(plain.cell)[0], plain), 2e-6)


@every_form
def test_the_options_bite(given: Any) -> None:
    """Each one changes outputs and gradients, so that a loop without it would be seen."""
    family, options = given
    case = Case(cell_with(*given), (5, 3, 4, 20), "float64", gain=1.5)
    found = run(kernel(given), case)
    usual = Options(USUAL[family], peephole=options.peephole, coupled=options.coupled)
    for name in ("activations", "clip", "cell_clip"):
        other = replace(options, **{name: getattr(usual, name)})
        if other != options:
            without = run(kernel((family, other)), case)
            assert all((found[k] != without[k]).any() for k in ("ys", "dxs", "dW")), name


@every_form
@every_dtype
@pytest.mark.parametrize("reverse", [False, True])
def test_threads_that_share_change_no_bit(given: Any, dtype: str, reverse: bool) -> None:
    cell = cell_with(*given)
    T = 70 if len(cell.gates) == 1 else 30
    for sizes, sign in (((T, 30, 99, 130), 1), ((T, 2, 130, 397), -1)):
        lengths = some_lengths(*sizes[:2])
        case = Case(cell, sizes, dtype, lengths, reverse)
        one = run(kernel(given), case)
        for threads in (2, 3):
            many = kernel(given, threads)
            same(run(many, case), one)
            assert many.shared == (sign * threads,) * 2


@every_form
def test_a_sequence_alone_is_the_same_as_in_a_batch(given: Any) -> None:
    case = Case(cell_with(*given), (6, 7, 9, 33), "float32", some_lengths(6, 7))
    checks.a_sequence_alone_is_the_same(kernel(given), case)


@every_form
@every_dtype
@pytest.mark.parametrize("fixed", [False, True])
def test_steps_are_the_whole(given: Any, dtype: str, fixed: bool) -> None:
    case = Case(cell_with(*given), (5, 2, 17, 70), dtype)
    loop = kernel(given)
    ys, last, _ = forward(loop, case)
    weights, state = loop.loop.prepare(case.weights, fixed=fixed), case.state
    for t, x in enumerate(case.xs):
        state = loop.loop.step(weights, x, state)
        assert state[0].tobytes() == ys[t].tobytes()
    same(outputs(case, ys, state), outputs(case, ys, last))
    checks.inference_is_the_same(loop, case)


@every_form
@every_dtype
def test_instruction_sets_agree(given: Any, dtype: str) -> None:
    case, before = Case(cell_with(*given), (6, 7, 9, 33), dtype, some_lengths(6, 7)), native.isa()
    try:
        for name in native.isas():
            native.isa(name)
            close(run(kernel(given), case), reference(case), BOUND[dtype])
    finally:
        native.isa(before)


@every_form
@pytest.mark.parametrize("reverse", [False, True])
def test_numbers_that_are_none(given: Any, reverse: bool) -> None:
    case = Case(cell_with(*given), (6, 7, 9, 33), "float32", some_lengths(6, 7), reverse)
    checks.padding_is_not_read(kernel(given), case)
    checks.nan_stays_in_its_sequence(kernel(given), replace(case, lengths=None), 3)


@every_form
def test_what_is_given_and_kept(given: Any) -> None:
    case = Case(cell_with(*given), (6, 7, 9, 33), "float32", some_lengths(6, 7))
    checks.nothing_given_is_written_to(kernel(given, 2), case)
    checks.backward_may_run_twice(kernel(given), case)


@pytest.mark.parametrize("name", VALUES)
@every_dtype
def test_activations_far_from_0(name: str, dtype: str) -> None:
    """By an Elman network without recurrence, whose output is the activation of its input."""
    options = Options((spec(name),))
    x = np.array([0, 1e-6, 0.4, 1, 7, 30, 80, 800], dtype)
    xs = np.concatenate([x, -x])[:, None, None]
    shapes = {"W": (1, 1), "U": (1, 1), "b": (1,)}
    weights = {k: np.full(s, float(k == "W"), dtype) for k, s in shapes.items()}
    zero = (np.zeros((1, 1), dtype),)
    how: Any = {"lengths": None, "reverse": False, "keep": True, "xp": np}
    loop = extension.native_kernel("rnn", options)
    assert loop is not None
    ys, _, residuals = loop.sequence.forward(weights, xs, zero, **how)
    wanted = VALUES[name](xs.astype("float64"), *spec(name)[1:])
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(ys, wanted, rtol=8 * eps, atol=eps * 1e-3)
    dxs, _, _ = loop.sequence.backward(weights, residuals, np.ones_like(ys), zero, xp=np)
    assert np.isfinite(dxs).all()


def test_there_is_no_loop_for_what_is_not_known() -> None:
    assert extension.native_kernel("rnn", Options((("swish", 0, 0),))) is None
    assert extension.native_kernel("gru", replace(of_kinds("gru", "tanh"), coupled=True)) is None
    assert extension.native_kernel("mingru", of_kinds("gru", "tanh")) is None


def test_options_are_checked() -> None:
    code = extension.WITH_OPTIONS["rnn", frozenset()].number
    W, U, b = np.zeros((3, 2)), np.zeros((3, 3)), np.zeros(3)
    native.pack(code, np.array([1, 0, 0, np.inf, np.inf]), 2, 3, 0, W, U, b)
    for wrong, words in (
        (np.zeros(4), "options holds 4 items; it must hold 5"),
        (np.array([11, 0, 0, 1, 1.0]), r"options\[0\] must be the number of a kind, 0 to 10"),
        (np.array([np.nan, 0, 0, 1, 1]), r"options\[0\] must be the number of a kind"),
        (np.zeros(5, "float32"), "options holds items of format f"),
    ):
        with pytest.raises(ValueError, match=words):
            native.pack(code, wrong, 2, 3, 0, W, U, b)
