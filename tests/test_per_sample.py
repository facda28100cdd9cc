"""Gradients of the weights for each sequence, and their norms, against passes of one sequence."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from rows import MADE, NOISY, ROWS

import xrnn
from xrnn.backends import get
from xrnn.backends.cpu import extension
from xrnn.certify.trial import OPTIONS, Trial, each

CELLS = [row.cell for row in ROWS] + [*MADE, *NOISY]
PLAIN = [row.cell for row in ROWS]
BRIEF = ("plain", "no bias", "lengths", "3 layers, both", "uneven", "T=1", "mask and resets")


def alone(trial: Trial) -> dict[str, Any]:
    """The gradients of the weights, with those of the outputs of one sequence at a time."""
    given, axis = trial.inputs, trial.option.axes[1]
    all_dys, tape = np.asarray(given.dys), _tape(trial)
    found = []
    for b in range(trial.option.B):
        keep = np.zeros(trial.option.B, bool)
        keep[b] = True
        shape = [1] * all_dys.ndim
        shape[axis] = -1
        dys = np.where(keep.reshape(shape), all_dys, 0)
        dlast = each(partial(np.multiply, keep[:, None]), given.dlast)
        found.append(trial.layer.backward(tape, dys, dlast)[2])
    names = trial.layer.weights
    return {
        name: np.stack([one[name] for one in found]) if found else w[None][:0]
        for name, w in names.items()
    }


def _tape(trial: Trial, checkpoint: int | None = None) -> Any:
    given, how = trial.inputs, {"seed": trial.seed, **trial.inputs.steps}
    how["checkpoint"] = checkpoint
    return trial.layer.forward(given.xs, given.state, given.lengths, **how)[2]


def check(trial: Trial, bound: float, checkpoint: int | None = None) -> None:
    """Both kinds against passes of one sequence, and all other results against those of all."""
    given, layer = trial.inputs, trial.layer
    expected, tape = alone(trial), _tape(trial, checkpoint)
    whole = layer.backward(tape, given.dys, given.dlast)
    found = [
        layer.backward(tape, given.dys, given.dlast, per_sample=how)
        for how in ("gradients", "norms")
    ]
    for name, one in expected.items():
        scale = max(float(abs(one).max(initial=0)), 1e-30)
        gradients, norms = (part[2][name] for part in found)
        assert gradients.shape == one.shape
        assert gradients.dtype == norms.dtype == one.dtype
        one, gradients, norms, summed = (
            a.astype("float64") / scale for a in (one, gradients, norms, whole[2][name])
        )
        np.testing.assert_allclose(gradients, one, atol=bound, rtol=0)
        of_each = np.sqrt((one**2).sum(axis=tuple(range(1, one.ndim))))
        np.testing.assert_allclose(norms, of_each, atol=50 * bound, rtol=0)
        np.testing.assert_allclose(gradients.sum(axis=0), summed, atol=50 * bound, rtol=0)
    for dxs, dfirst, dweights in found:
        assert list(dweights) == list(whole[2])
        np.testing.assert_allclose(dxs, whole[0], atol=50 * bound)
        assert type(dfirst) is type(whole[1])
        for a, b in zip(dfirst, whole[1], strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_allclose(x, y, atol=50 * bound)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_of_every_cell(cell: Any) -> None:
    for option in OPTIONS:
        # Where two values are normalised, all gradients but the signs are rounding.
        lost = "layer_norm" in cell.name and option.uneven
        if cell in PLAIN or (option.name in BRIEF and not lost):
            check(Trial(cell, option), 1e-13)


@pytest.mark.parametrize("cell", PLAIN, ids=lambda cell: cell.name)
def test_by_the_code_of_the_cell(cell: Any) -> None:
    for option in OPTIONS[::3]:
        check(Trial(replace(cell), option), 1e-13)


@pytest.mark.parametrize("cell", PLAIN, ids=lambda cell: cell.name)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("float16", 5e-3)])
def test_in_other_dtypes(cell: Any, dtype: str, bound: float) -> None:
    for option in OPTIONS[::4]:
        check(Trial(cell, option, "cpu", dtype), bound)


@pytest.mark.parametrize("own", [False, True], ids=["kernels", "own code"])
@pytest.mark.parametrize("cell", PLAIN, ids=lambda cell: cell.name)
def test_of_tapes_that_hold_few_states(cell: Any, own: bool) -> None:
    cell = replace(cell) if own else cell
    for option in OPTIONS[own::2]:
        if not (option.left_out or option.resets):
            for k in (1, 3):
                check(Trial(cell, option), 1e-13, k)
    # In half precision states between stretches of a cell's own code are rounded.
    check(Trial(cell, OPTIONS[own], "cpu", "float16"), 1e-2, 3)


@pytest.mark.parametrize("options", [{"weight_drop": 0.4}, {"dropout": 0.4}, {"learn_state": True}])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_with_options_of_layers(options: Any, dtype: Any) -> None:
    layer = xrnn.GRU(3, 4, 2, bidirectional=True, dtype=dtype, rng=0, **options)
    rng = np.random.default_rng(0)
    xs, resets = rng.normal(size=(6, 3, 3)).astype(dtype), rng.random((6, 3)) < 0.3
    several: Any = ({}, {"resets": resets}, {"checkpoint": 4})
    for how in several:
        ys, _, tape = layer.forward(xs, seed=1, **how)
        dys = rng.normal(size=ys.shape).astype(dtype)
        gradients = layer.backward(tape, dys, per_sample="gradients")[2]
        norms = layer.backward(tape, dys, per_sample="norms")[2]
        for b in range(3):
            mine = np.where(np.arange(3)[:, None] == b, dys, 0).astype(dtype)
            for name, expected in layer.backward(tape, mine)[2].items():
                np.testing.assert_allclose(gradients[name][b], expected, rtol=1e-4, atol=1e-5)
                size = np.linalg.norm(expected)
                np.testing.assert_allclose(norms[name][b], size, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("T", "H"), [(3, 40), (60, 3)], ids=["products of steps", "gradients"])
def test_norms_both_ways(T: int, H: int) -> None:
    """A short sequence and a large matrix take one way, the opposite the other."""
    layer = xrnn.Layer(replace(xrnn.cells.LSTM), 5, H, dtype="float64", rng=0)
    rng = np.random.default_rng(0)
    ys, _, tape = layer.forward(rng.normal(size=(T, 4, 5)), lengths=[T, 0, 1, T - 1])
    dys = rng.normal(size=ys.shape)
    gradients = layer.backward(tape, dys, per_sample="gradients")[2]
    for name, norms in layer.backward(tape, dys, per_sample="norms")[2].items():
        expected = np.sqrt((gradients[name] ** 2).sum(axis=tuple(range(1, gradients[name].ndim))))
        np.testing.assert_allclose(norms, expected, rtol=1e-11)
        assert norms[1] == 0


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("own", [False, True], ids=["kernels", "own code"])
def test_norms_of_any_size(size: float, own: bool) -> None:
    cell = replace(xrnn.cells.Elman) if own else xrnn.cells.Elman
    layer = xrnn.Layer(cell, 8, 8, rng=0)
    ys, _, tape = layer.forward(np.ones((2, 3, 8), "float32"))
    one = layer.backward(tape, np.ones_like(ys), per_sample="norms")[2]
    scaled = layer.backward(tape, np.full_like(ys, size), per_sample="norms")[2]
    for name, norms in scaled.items():
        np.testing.assert_allclose(norms / np.float32(size), one[name], rtol=1e-5)


@pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
def test_the_native_loops_tell_contributions() -> None:
    """Those in which what they keep suffices; the others leave it to the cell's own code."""
    telling = {c.name for c in PLAIN for k in extension.kernels(c) if k.contributions}
    assert telling == {"rnn", "rnn-relu", "lstm", "gru", "input-gated", "mingru", "janet"}


def test_a_tape_serves_again() -> None:
    """The same bits, whatever ran before: the native loops overwrite what they have kept."""
    layer = xrnn.LSTM(3, 4, bidirectional=True, rng=0)
    xs = np.random.default_rng(0).normal(size=(5, 1, 3)).astype("float32")
    ys, _, tape = layer.forward(xs)
    before = layer.backward(layer.forward(xs)[2], ys)[2]
    found = [layer.backward(tape, ys, per_sample="gradients")[2] for _ in range(2)]
    again = layer.backward(tape, ys)[2]
    for name, expected in before.items():
        np.testing.assert_array_equal(again[name], expected)
        np.testing.assert_array_equal(found[0][name], found[1][name])
        np.testing.assert_allclose(found[0][name][0], expected, rtol=1e-5, atol=1e-6)


def test_in_every_library(device: str) -> None:
    backend = get(device)
    xs = np.random.default_rng(0).normal(size=(5, 3, 2))
    found = []
    for where in ("cpu", device):
        layer = xrnn.LSTM(2, 4, 2, dtype="float64", rng=0, device=where)
        put = layer.weights.placement.from_host
        ys, _, tape = layer.forward(put(xs), lengths=[5, 2, 0])
        for how in ("gradients", "norms"):
            dweights = layer.backward(tape, ys, per_sample=how)[2]
            found.append({name: backend.to_host(a) for name, a in dweights.items()})
    for a, b in zip(found[:2], found[2:], strict=True):
        for name, expected in a.items():
            np.testing.assert_allclose(b[name], expected, rtol=1e-10, atol=1e-13)


def test_of_one_sequence_without_an_axis_of_the_batch() -> None:
    layer = xrnn.GRU(3, 4, rng=0)
    ys, _, tape = layer.forward(np.ones((5, 3), "float32"))
    dxs, dstate, dweights = layer.backward(tape, ys, per_sample="gradients")
    assert dxs.shape == (5, 3)
    assert dstate.h.shape == (1, 4)
    for name, d in layer.backward(tape, ys)[2].items():
        np.testing.assert_allclose(dweights[name], d[None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["gradients", "norms"])
def test_few_states_and_resets_are_refused(how: Any) -> None:
    layer = xrnn.LSTM(3, 4, rng=0)
    xs, resets = np.ones((5, 2, 3), "float32"), np.arange(10).reshape(5, 2) == 4
    for steps in ({"resets": resets}, {"mask": ~resets}):
        _, _, tape = layer.forward(xs, checkpoint=2, **steps)
        words = f"lstm: per_sample is '{how}', and the tape was made with checkpoint, and with res"
        with pytest.raises(ValueError, match=words):
            layer.backward(tape, per_sample=how)


def test_another_word_is_refused() -> None:
    layer = xrnn.GRU(3, 4)
    _, _, tape = layer.forward(np.ones((5, 2, 3), "float32"))
    word: Any = "norm"
    with pytest.raises(ValueError, match="gru: per_sample is 'norm'; it must be None or 'grad"):
        layer.backward(tape, per_sample=word)
