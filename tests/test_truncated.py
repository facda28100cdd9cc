"""Truncated backpropagation through time, against its definition."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import xrnn

I, H, B = 3, 4, 2

#: (T, k1, k2): windows that meet, that overlap by less and by more than k1, that do not fill T
SIZES = [
    (12, 3, 3),
    (12, 3, 5),
    (12, 3, 9),
    (13, 4, 4),
    (13, 4, 11),
    (10, 1, 1),
    (10, 1, 4),
    (7, 3, 50),
    (5, 8, 8),
    (5, 8, 9),
]
every_size = pytest.mark.parametrize(("T", "k1", "k2"), SIZES)


def layer_and_inputs(T: int, **options: Any) -> tuple[Any, Any, Any]:
    layer = xrnn.LSTM(I, H, rng=0, dtype="float64", **options)
    rng = np.random.default_rng(1)
    return layer, rng.normal(size=(T, B, I)), rng.normal(size=(T, B, H))


def slope(layer: Any, weights: Any, objective: Any, direction: Any) -> float:
    """The derivative of the objective as the weights move in a direction, by differences."""
    values = []
    for e in (1e-6, -1e-6):
        layer.weights = {name: w + e * direction[name] for name, w in weights.items()}
        values.append(objective())
    layer.weights = weights
    return float(values[0] - values[1]) / 2e-6


@every_size
def test_the_gradient_is_that_of_the_definition(T: int, k1: int, k2: int) -> None:
    layer, xs, dys = layer_and_inputs(T)
    weights = {name: w.copy() for name, w in layer.weights.items()}
    rng = np.random.default_rng(2)
    ends = []
    for window in xrnn.truncated(layer, xs, k1, k2):
        steps, t = window.steps, window.steps.stop
        # (2): a constant, the state of the sequences themselves as long as no weight changes.
        _, constant = layer(xs[: max(t - k2, 0)])
        assert window.first == max(t - k2, 0)

        def objective(t: int = t, steps: slice = steps, constant: Any = constant) -> float:
            ys, _ = layer(xs[max(t - k2, 0) : t], constant)
            return float((ys[-(t - steps.start) :] * dys[steps]).sum())  # (1)

        _, _, dweights = window.backward(dys[steps])
        direction = {name: rng.normal(size=w.shape) for name, w in weights.items()}
        expected = slope(layer, weights, objective, direction)
        found = sum(float((dweights[name] * d).sum()) for name, d in direction.items())
        assert abs(found - expected) <= 1e-6 * (1 + abs(expected))
        np.testing.assert_allclose(window.ys, layer(xs)[0][steps], rtol=1e-12, atol=1e-14)
        ends.append((steps.start, t))
    assert ends == [(t, min(t + k1, T)) for t in range(0, T, k1)]


@every_size
def test_with_updates_the_state_is_that_of_an_earlier_window(T: int, k1: int, k2: int) -> None:
    layer, xs, dys = layer_and_inputs(T)
    mine, _, _ = layer_and_inputs(T)
    states: dict[int, Any] = {0: None}  # by step, as the windows computed them
    for window in xrnn.truncated(layer, xs, k1, k2):
        first, t = max(window.steps.stop - k2, 0), window.steps.stop
        # The state of every step, run through one by one with the weights in force.
        state = states[first]
        for n in range(first, t):
            _, state = mine(xs[n : n + 1], state)
            states[n + 1] = state
        ys, last, tape = mine.forward(xs[first:t], states[first])
        given = np.zeros_like(ys)
        given[window.steps.start - first :] = dys[window.steps]
        for expected, found in zip(
            mine.backward(tape, given)[2].values(),
            window.backward(dys[window.steps])[2].values(),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        for a, b in zip(last, window.state, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        for one in (layer, mine):
            one.weights = {name: 0.9 * w for name, w in one.weights.items()}


def test_back_to_the_start_the_gradients_add_up_to_those_of_the_whole() -> None:
    layer, xs, dys = layer_and_inputs(11)
    total: Any = dict.fromkeys(layer.weights, 0.0)
    for window in xrnn.truncated(layer, xs, 3, 11):
        _, _, dweights = window.backward(dys[window.steps])
        total = {name: total[name] + d for name, d in dweights.items()}
    _, _, tape = layer.forward(xs)
    for name, d in layer.backward(tape, dys)[2].items():
        np.testing.assert_allclose(total[name], d, rtol=1e-10, atol=1e-12)


def cut(a: Any, start: int, stop: int, axis: int) -> Any:
    return a[:, start:stop] if axis else a[start:stop]


@pytest.mark.parametrize("k2", [3, 7])
@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, {"lengths": [11, 4]}),
        ({"batch_first": True}, {"lengths": [2, 11]}),
        ({"num_layers": 2, "dropout": 0.4}, {"seed": 5, "t": 2}),
        ({"recurrent_dropout": 0.3, "zoneout": (0.2, 0.1)}, {"seed": 5}),
        ({}, {"mask": True}),
        ({"batch_first": True}, {"resets": True, "mask": True}),
        ({}, {"resets": True, "checkpoint": 2}),
    ],
)
def test_whatever_belongs_to_steps_is_cut(options: Any, how: dict[str, Any], k2: int) -> None:
    layer, xs, dys = layer_and_inputs(11, **options)
    axis, rng = int(layer.batch_first), np.random.default_rng(3)
    if axis:
        xs, dys = np.swapaxes(xs, 0, 1), np.swapaxes(dys, 0, 1)
    drawn = {name: rng.random(xs.shape[:2]) < 0.4 for name in ("mask", "resets") if name in how}
    how = how | drawn
    whole, last, _ = layer.forward(xs, **how)
    for window in xrnn.truncated(layer, xs, 3, k2, **how):
        start, stop = window.steps.start, window.steps.stop
        np.testing.assert_allclose(window.ys, cut(whole, start, stop, axis), atol=1e-12)
        dxs = window.backward(cut(dys, start, stop, axis))[0]
        assert dxs.shape == cut(xs, window.first, stop, axis).shape
    for a, b in zip(window.state, last, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_one_sequence_and_a_state() -> None:
    layer, xs, dys = layer_and_inputs(7)
    state = tuple(np.ones((1, H)) for _ in range(2))
    whole, _ = layer(xs[:, 0], state)
    windows = xrnn.truncated(layer, xs[:, 0], 3, 4, state)
    ys = []
    for window in windows:
        ys.append(window.ys)
        window.backward(dys[window.steps, 0])
    np.testing.assert_allclose(np.concatenate(ys), whole, atol=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_of_parts(tied: bool) -> None:
    words = xrnn.Embedding(7, 3, rng=0)
    model = xrnn.Sequential(
        tokens=words,
        rnn=xrnn.Residual(a=xrnn.GRU(3, 3, rng=1, batch_first=True)),
        out=xrnn.TiedLinear(words) if tied else xrnn.Linear(3, 7, rng=2),
    )
    tokens = np.random.default_rng(0).integers(0, 7, size=(B, 12))
    whole = model(tokens)
    optimizer, count = xrnn.optim.SGD(1e-30), 0
    for window in xrnn.truncated(model, tokens, 5, 8):
        np.testing.assert_allclose(window.ys, whole[:, window.steps], atol=1e-6)
        dx, dweights = window.backward(np.ones_like(window.ys))
        assert dx is None
        optimizer.update(model.weights, dweights)
        count += 1
    assert count == 3


def test_a_window_serves_until_the_next_one() -> None:
    layer, xs, dys = layer_and_inputs(9)
    windows = xrnn.truncated(layer, xs, 3)
    first = next(windows)
    assert repr(first) == "<window: losses of steps 0…2, back to step 0>"
    first.backward(dys[:3])
    first.backward(dys[:3])
    with pytest.raises(ValueError, match=r"dys has shape \(2, 2, 4\); it must be that of ys = \("):
        first.backward(dys[:2])
    with pytest.raises(TypeError, match="dys is float32 and ys is float64"):
        first.backward(dys[:3].astype("float32"))
    second = next(windows)
    with pytest.raises(ValueError, match="a later window has been asked for"):
        first.backward(dys[:3])
    layer.weights = dict(layer.weights)
    with pytest.raises(ValueError, match="changed"):
        second.backward(dys[3:6])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"k1": 0}, "k1 is 0; it must be an integer ≥ 1"),
        ({"k2": 2.0}, "k2 is 2.0; it must be an integer ≥ 1"),
        ({"k2": 2}, "k1 is 3 and k2 is 2; k2 must be at least k1"),
        ({"k1": True}, "k1 is True; it must be an integer"),
        ({"xs": np.ones(3)}, "xs has shape (3,); it must have an axis of T steps"),
        ({"lengths": [3]}, "lengths"),
        ({"mask": np.ones((3, 2), bool)}, "mask has shape (3, 2)"),
        ({"model": xrnn.GRU(3, 4, bidirectional=True)}, "the model is bidirectional"),
        ({"model": xrnn.GRU(3, 4, reverse=True)}, "the model is reverse"),
        (
            {"model": xrnn.Sequential(a=xrnn.GRU(3, 4), pool=xrnn.Last())},
            "pool needs whole sequences; leave it out",
        ),
        (
            {"model": xrnn.Sequential(a=xrnn.Residual(b=xrnn.GRU(3, 3, reverse=True)))},
            "b is reverse, and starts at the end",
        ),
        ({"model": xrnn.Linear(3, 4)}, "the model is Linear; it must be a layer, or a Sequential"),
        ({"model": xrnn.GRU}, "the model is type; it must be a layer"),
    ],
)
def test_what_does_not_fit_is_said_at_once(given: dict[str, Any], words: str) -> None:
    layer, xs, _ = layer_and_inputs(9)
    how: dict[str, Any] = {"model": layer, "xs": xs, "k1": 3} | given
    with pytest.raises((TypeError, ValueError)) as found:
        xrnn.truncated(**how)
    assert words in str(found.value)


def test_memory_is_that_of_a_window() -> None:
    layer = xrnn.LSTM(1, 32, rng=0)

    def peak(T: int) -> int:
        xs, dys = np.ones((T, 1, 1), "float32"), np.ones((20, 1, 32), "float32")
        tracemalloc.start()
        try:
            for window in xrnn.truncated(layer, xs, 20, 40):
                window.backward(dys)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is made once
    # The outputs of all steps would be half a megabyte; a little is what Python keeps of tuples.
    assert peak(4000) < peak(400) + 200_000
