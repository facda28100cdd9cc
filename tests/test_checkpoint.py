"""Passes that keep the states before every k steps only: the same results, and less memory."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rows import MADE, NOISY, ROWS

import xrnn
from xrnn import cells
from xrnn.backends.cpu import BACKEND, extension
from xrnn.certify.distance import difference
from xrnn.certify.laws import checkpoint
from xrnn.certify.report import BOUNDS
from xrnn.certify.trial import OPTIONS, Option, Trial
from xrnn.engine import verify
from xrnn.engine.checkpoint import steps_of

CELLS = [*(row.cell for row in ROWS), *MADE, *NOISY]
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
native = pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)

#: long enough for the blocks of the native loops, with sequences that start and end in stretches
LONG = (
    Option("long", T=70, B=5),
    Option("long, lengths", T=70, B=5, lengths=(70, 0, 33, 7, 69), num_layers=2),
    Option("long, both", T=70, B=5, lengths=(70, 0, 33, 7, 69), bidirectional=True),
    Option("long, reverse", T=70, B=5, lengths=(66, 0, 33, 7, 69), reverse=True),
    Option("dropout, both", T=7, num_layers=3, dropout=0.4, bidirectional=True),
)


def results(trial: Trial, k: Any) -> list[Any]:
    inputs = trial.inputs
    return trial.run(inputs._replace(steps=inputs.steps | {"checkpoint": k})).arrays()


@native
@every_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_the_native_loops_it_is_the_same_bits(cell: Any, dtype: str) -> None:
    ks = {"float32": (1, 16, "sqrt"), "float64": (3,)}[dtype]
    for option in (*OPTIONS[7:], *LONG):
        trial = Trial(cell, option, "cpu", dtype)
        path = set(trial.layer.path((8, 8, 3)).values())
        if not all(words.startswith("native loop") for words in path):
            pytest.skip(f"the kernel is {path}")
        whole = results(trial, None)
        for k in ks:
            for a, b in zip(whole, results(trial, k), strict=True):
                # Some of these cells grow without limit.
                assert np.array_equal(a, b, equal_nan=True), (option.name, k)


@pytest.mark.parametrize(
    # One of them grows without limit, and every rounding with it.
    "cell",
    [cell for cell in CELLS if "thresholded" not in cell.name],
    ids=lambda cell: cell.name,
)
def test_elsewhere_it_is_the_same_to_rounding(cell: Any) -> None:
    copied = replace(cell)  # another cell, which no kernel serves
    for option in LONG:
        trial = Trial(copied, replace(option, T=7, lengths=option.lengths and (7, 0, 3, 1, 6)))
        found = difference(results(trial, None), results(trial, 3))
        assert found <= BOUNDS["float64"], option.name


@pytest.fixture(params=["float16", "bfloat16"])
def half(request: Any) -> str:
    """Each dtype of 16 bits."""
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    return str(request.param)


@native
@pytest.mark.parametrize("cell", [*CELLS[2:10], *MADE[6:12]], ids=lambda cell: cell.name)
def test_in_half_precision_too(cell: Any, half: str) -> None:
    for option in LONG:
        trial = Trial(cell, option, "cpu", half)
        whole = results(trial, None)
        for a, b in zip(whole, results(trial, 16), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=True), option.name


@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU], ids=lambda cell: cell.name)
def test_elsewhere_sums_in_half_precision_are_rounded_once(cell: Any, half: str) -> None:
    trial = Trial(replace(cell), Option("long", T=600, B=2), "cpu", half)
    whole, found = results(trial, None), results(trial, 2)
    assert all(a.dtype == b.dtype for a, b in zip(whole, found, strict=True))
    # Three hundred sums that are rounded one after the other would be wrong by more.
    assert difference(whole, found) <= {"float16": 1e-2, "bfloat16": 6e-2}[half]


class Forgetful(extension.Native):
    """A loop that does not add to what it is given."""

    def backward(self, *given: Any, onto: Any = None, **how: Any) -> Any:
        return super().backward(*given, **how)


@native
def test_a_kernel_that_does_not_add_up_is_not_used() -> None:
    right, _ = extension.kernels(cells.GRU)
    wrong = replace(right, sequence=Forgetful(extension.CODES[cells.GRU]))
    given = (BACKEND, cells.GRU, np.dtype("float32"))
    errors = [verify.difference(*given, kernel, (5, 3, 4, 16)) for kernel in (right, wrong)]
    assert errors[0] < 1e-5 < 1e-2 < errors[1]


@pytest.mark.parametrize("cell", NOISY, ids=lambda cell: cell.name)
def test_the_law_holds_for_cells_that_draw(cell: Any) -> None:
    for option in OPTIONS:
        assert checkpoint(Trial(cell, option)) <= BOUNDS["float64"], option.name


def layer_and_inputs(**options: Any) -> tuple[Any, Any, Any]:
    layer = xrnn.LSTM(3, 5, rng=0, **options)
    rng = np.random.default_rng(1)
    xs, dys = (rng.normal(size=(11, 2, n)).astype("float32") for n in (3, 5 * layer.directions))
    return layer, xs, dys


def flat(gradients: Any) -> list[Any]:
    dxs, dstate, dweights = gradients
    return [dxs, *dstate, *dweights.values()]


def equal(one: Any, other: Any) -> bool:
    return all(map(np.array_equal, flat(one), flat(other)))


def close(one: Any, other: Any) -> None:
    for a, b in zip(flat(one), flat(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_tape_serves_several_backward_passes(bidirectional: bool) -> None:
    layer, xs, dys = layer_and_inputs(num_layers=2, bidirectional=bidirectional)
    _, state, tape = layer.forward(xs, checkpoint=4)
    first = layer.backward(tape, dys)
    layer.backward(tape, None, state)
    assert equal(first, layer.backward(tape, dys))
    _, _, whole = layer.forward(xs)
    for given in ((None, None), (None, state), (dys, None)):
        close(layer.backward(tape, *given), layer.backward(whole, *given))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("how", [{}, {"mask": np.arange(22).reshape(11, 2) % 5 > 0}])
def test_the_gradient_of_the_inputs_can_be_left_out(bidirectional: bool, how: Any) -> None:
    layer, xs, dys = layer_and_inputs(num_layers=2, bidirectional=bidirectional)
    tape = layer.forward(xs, checkpoint=4, **how)[2]
    _, *expected = layer.backward(tape, dys)
    dxs, *found = layer.backward(tape, dys, omit_dxs=True)
    assert dxs is None
    assert equal((xs, *expected), (xs, *found))


def test_one_sequence_and_the_batch_first() -> None:
    layer, xs, dys = layer_and_inputs(batch_first=True)
    one, turned = xs[:, 0], np.swapaxes(xs, 0, 1)
    for given, d in ((one, dys[:, 0]), (turned, np.swapaxes(dys, 0, 1))):
        ys, _, tape = layer.forward(given, checkpoint="sqrt")
        expected, _, whole = layer.forward(given)
        np.testing.assert_allclose(ys, expected, atol=1e-6)
        close(layer.backward(tape, d), layer.backward(whole, d))


def test_unroll_takes_it_too() -> None:
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=s) for k, s in cells.GRU.shapes(3, 4).items()}
    xs = rng.normal(size=(9, 2, 3))
    ys, _, tape = xrnn.unroll(cells.GRU, weights, xs, checkpoint=2)
    expected, _, whole = xrnn.unroll(cells.GRU, weights, xs)
    np.testing.assert_allclose(ys, expected, rtol=1e-12)
    close(xrnn.unroll_backward(tape, ys), xrnn.unroll_backward(whole, ys))
    weights["U"] += 1
    with pytest.raises(ValueError, match="the weights have changed"):
        xrnn.unroll_backward(tape, ys)


def test_sequential_hands_it_on() -> None:
    model = xrnn.Sequential(
        rnn=xrnn.GRU(3, 4, rng=0), out=xrnn.Linear(4, 2, rng=1), again=xrnn.RNN(2, 3, rng=2)
    )
    xs = np.random.default_rng(0).normal(size=(9, 2, 3)).astype("float32")
    y, tape = model.forward(xs, checkpoint=2)
    words = [repr(one) for name, one in tape.tapes if name != "out"]
    assert all("of each cell only 5 states are held" in word for word in words)
    dx, dweights = model.backward(tape, y)
    assert dx is not None
    expected, expected_weights = model.backward(model.forward(xs)[1], y)
    assert expected is not None
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-6)
    for name, part in expected_weights.items():
        for key, d in part.items():
            np.testing.assert_allclose(dweights[name][key], d, rtol=1e-4, atol=1e-5)


def test_seq2seq_hands_it_on() -> None:
    model = xrnn.Seq2Seq(
        encoder=xrnn.LSTM(3, 4, rng=0), decoder=xrnn.LSTM(2, 4, rng=1), readout=xrnn.Linear(4, 5)
    )
    rng = np.random.default_rng(0)
    sources, targets = (rng.normal(size=(9, 2, n)).astype("float32") for n in (3, 2))
    logits, tape = model.forward(sources, targets, checkpoint=2)
    assert all("only 5 states" in repr(one.tapes[-1][1]) for one in (tape.read, tape.write))
    dx, dweights = model.backward(tape, logits)
    expected, expected_weights = model.backward(model.forward(sources, targets)[1], logits)
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
    for name, part in expected_weights.items():
        for key, d in part.items():
            np.testing.assert_allclose(dweights[name][key], d, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [0, -3, True, 2.0, "SQRT", "4", None])
def test_a_wrong_number_of_steps_is_refused(wrong: Any) -> None:
    layer, xs, _ = layer_and_inputs()
    if wrong is None:
        assert layer.forward(xs, checkpoint=None)[2].passes
        return
    with pytest.raises(ValueError, match=r"lstm: checkpoint is .*; it must be an integer k ≥ 1"):
        layer.forward(xs, checkpoint=wrong)
    weights = {k: np.ones(s) for k, s in cells.Elman.shapes(3, 2).items()}
    with pytest.raises(ValueError, match=r"rnn: checkpoint is .*; it must be an integer k ≥ 1"):
        xrnn.unroll(cells.Elman, weights, xs.astype("float64"), checkpoint=wrong)


def test_the_number_of_steps() -> None:
    layer, xs, _ = layer_and_inputs()
    assert [steps_of("sqrt", T) for T in (0, 1, 9, 10, 16, 17)] == [1, 1, 3, 4, 4, 5]
    counts = {1: 11, 2: 6, np.int64(4): 3, 11: 1, 12: 1, 10**9: 1, "sqrt": 3}
    for k, count in counts.items():
        tape = layer.forward(xs, checkpoint=k)[2]
        assert f"of each cell only {count} states are held" in repr(tape)
    assert "held" not in repr(layer.forward(xs)[2])


@pytest.mark.parametrize("how", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_analysis_says_what_it_needs(how: Any) -> None:
    layer, xs, dys = layer_and_inputs(**how)
    tape = layer.forward(xs, checkpoint=2)[2]
    analysis: Any = xrnn.analysis
    calls: dict[str, Any] = {
        "gates": lambda: analysis.gates(tape),
        "gate_gradients": lambda: analysis.gate_gradients(tape, dys),
        "lyapunov": lambda: analysis.lyapunov(tape),
        "jacobian": lambda: analysis.jacobian(tape, 3),
    }
    if how.get("bidirectional"):
        del calls["lyapunov"]  # which refuses both directions
    for call in calls.values():
        with pytest.raises(ValueError, match="the tape was made with checkpoint"):
            call()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer_and_tape_can_be_copied(again: Any, bidirectional: bool) -> None:
    options: Any = {"bidirectional": bidirectional, "num_layers": 2, "dropout": 0.3}
    layer, xs, dys = layer_and_inputs(**options)
    resets = np.zeros((11, 2), bool)
    resets[5, 1] = True
    for how in ({}, {"resets": resets}, {"lengths": [11, 4]}):
        tape = layer.forward(xs, seed=3, checkpoint=4, **how)[2]
        other, copied = again((layer, tape))
        assert equal(layer.backward(tape, dys), other.backward(copied, dys))


@native
def test_what_a_sequence_ended_with_does_not_reach_later_stretches() -> None:
    """An infinite state behind the end of a sequence, times a gradient of 0, would be NaN."""
    layer = xrnn.Layer(cells.ElmanReLU, 1, 2, rng=0)
    layer.weights = {name: np.ones_like(w) for name, w in layer.weights.items()}
    xs = np.ones((8, 2, 1), "float32")
    xs[:, 0] = 1e38
    with np.errstate(over="ignore"):
        ys, state, tape = layer.forward(xs, lengths=[3, 8], checkpoint=3)
    assert np.isinf(state.h[0, 0]).all()
    dys = np.ones_like(ys)
    dys[:, 0] = 0
    assert all(np.isfinite(a).all() for a in flat(layer.backward(tape, dys)))


def peak(layer: Any, xs: Any, k: Any) -> int:
    tracemalloc.start()
    try:
        _, state, tape = layer.forward(xs, checkpoint=k)
        layer.backward(tape, None, state)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layers", [1, 3])
def test_memory_besides_inputs_and_outputs_is_that_of_few_steps(layers: int) -> None:
    T, H = 2500, 32
    layer = xrnn.LSTM(1, H, layers, rng=0)
    xs = np.ones((T, 1, 1), "float32")
    peak(layer, xs, "sqrt")  # what is made once
    outputs, row = T * H * 4, H * 4
    # of a layer and step: four gates, c and h; here also their projections and gradients
    whole, few = peak(layer, xs, None), peak(layer, xs, "sqrt")
    assert whole > outputs + 5 * layers * T * row
    assert few < 2 * outputs + 40 * layers * 2 * 50 * row
