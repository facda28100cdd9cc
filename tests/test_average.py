"""Sums of gradients over batches, and averages of weights."""

from __future__ import annotations

import importlib
import importlib.util
import math
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from test_precision import halves

import xrnn
from xrnn.backends import get
from xrnn.learn.optim import Adam, Average, accumulate
from xrnn.typing import dtype_name

RNG = np.random.default_rng(0)
HISTORY = [RNG.normal(size=(3, 2)) for _ in range(5)]


def tree(w: Any, device: str = "cpu") -> dict[str, Any]:
    put = get(device).from_host
    return {"a": {"W": put(w)}, "b": put(w[0])}


# Sums of gradients --------------------------------------------------------------------------


def test_accumulate(device: str) -> None:
    host, total, given = get(device).to_host, None, [tree(w, device) for w in HISTORY]
    for k, gradients in enumerate(given):
        total = accumulate(total, gradients, factor=0.5**k)
    assert total is not None
    expected: Any = sum(0.5**k * w for k, w in enumerate(HISTORY))
    np.testing.assert_allclose(host(total["a"]["W"]), expected, rtol=1e-13)
    np.testing.assert_allclose(host(total["b"]), expected[0], rtol=1e-13)
    np.testing.assert_array_equal(host(given[0]["a"]["W"]), HISTORY[0])


def test_two_halves_of_a_batch_are_the_batch() -> None:
    layer = xrnn.GRU(2, 3, dtype="float64", rng=0)
    xs, targets = RNG.normal(size=(4, 6, 2)), RNG.normal(size=(4, 6, 3))
    lengths = np.array([4, 1, 2, 3, 4, 0])

    def gradients(part: slice) -> Any:
        ys, _, tape = layer.forward(xs[:, part], lengths=lengths[part])
        _, dys = xrnn.losses.squared_error(ys, targets[:, part], lengths=lengths[part])
        return layer.backward(tape, dys)[2]

    total = None
    for part in (slice(0, 2), slice(2, 6)):
        share = lengths[part].sum() / lengths.sum()
        total = accumulate(total, gradients(part), factor=share)
    assert total is not None
    for name, known in gradients(slice(0, 6)).items():
        np.testing.assert_allclose(total[name], known, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_half_precision(dtype: str, device: str) -> None:
    backend, total = get(device), None
    step = {"W": halves([1.0], dtype, device)}
    for _ in range(3000):  # in float16 the sum stops at 2048, in bfloat16 at 256
        total = accumulate(total, step)
    assert total is not None
    assert dtype_name(total["W"].dtype) == "float32"
    assert float(backend.to_host(total["W"])[0]) == 3000
    if device == "cpu":
        Adam(0.1).update(step, total)
        assert dtype_name(step["W"].dtype) == dtype


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (({"W": np.ones(2)}, {"V": np.ones(2)}), ValueError, "total and dweights differ in V, W"),
        (({"W": np.ones(2)}, {"W": np.ones(3)}), ValueError, "the gradient of W has shape (3,)"),
        (
            ({"W": 1.0}, {"W": np.ones(2)}),
            TypeError,
            "total W is a builtins.float; it must be an array",
        ),
        ((None, {"W": np.ones(2, int)}), TypeError, "the gradient of W is int64; it must be real"),
        ((None, [np.ones(2)]), TypeError, "dweights is a list; it must be a mapping"),
        ((None, {"W": np.ones(2)}, math.inf), ValueError, "factor is inf; it must be finite"),
    ],
)
def test_errors_of_accumulate(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        accumulate(*given)
    assert str(caught.value).startswith(message)


# Averages of weights ------------------------------------------------------------------------


def averaged(decay: float, n: int) -> Any:
    """By the definition."""
    a = HISTORY[0]
    for w in HISTORY[1:n]:
        a = decay * a + (1 - decay) * w
    return a


def test_average(device: str) -> None:
    host, average = get(device).to_host, Average(0.8)
    for n, w in enumerate(HISTORY, 1):
        average.update(tree(w, device))
        np.testing.assert_allclose(host(average.state["a.W"]), averaged(0.8, n), rtol=1e-13)
    weights = tree(HISTORY[0], device)
    with average.swapped(weights):
        np.testing.assert_allclose(host(weights["a"]["W"]), averaged(0.8, 5), rtol=1e-13)
        np.testing.assert_allclose(host(weights["b"]), averaged(0.8, 5)[0], rtol=1e-13)
    np.testing.assert_array_equal(host(weights["a"]["W"]), HISTORY[0])
    average.copy_to(weights)
    np.testing.assert_allclose(host(weights["a"]["W"]), averaged(0.8, 5), rtol=1e-13)


def test_against_torch() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    utils: Any = importlib.import_module("torch.optim.swa_utils")
    model: Any = torch.nn.Linear(2, 3, bias=False, dtype=torch.float64)
    theirs = utils.AveragedModel(model, multi_avg_fn=utils.get_ema_multi_avg_fn(0.9))
    ours = Average(0.9)
    for w in HISTORY:
        model.weight.data = torch.tensor(w)
        theirs.update_parameters(model)
        ours.update({"W": w})
    np.testing.assert_allclose(ours.state["W"], theirs.module.weight.data.numpy(), rtol=1e-13)


def test_weights_of_a_layer_are_put_back_after_an_error() -> None:
    layer, average = xrnn.LSTM(2, 3, rng=0), Average(0.5)
    xs = RNG.normal(size=(4, 1, 2)).astype("f4")
    average.update(layer.weights)
    ys, arrays = layer(xs)[0], dict(layer.weights)
    xrnn.optim.SGD(0.1).update(layer.weights, {k: 0 * w + 1 for k, w in arrays.items()})
    moved = layer(xs)[0]

    def evaluate() -> None:
        with average.swapped(layer.weights):
            np.testing.assert_array_equal(layer(xs)[0], ys)
            layer.weights["W_l0"] = layer.weights["W_l0"] * 7
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate()
    np.testing.assert_array_equal(layer(xs)[0], moved)
    assert all(layer.weights[k] is w for k, w in arrays.items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, device: str) -> None:
    backend, average = get(device), Average(0.999)
    weights = {"W": halves([1.0], dtype, device)}
    average.update(weights)
    for _ in range(1000):  # each changes the average by less than float16 can hold
        average.update({"W": halves([1.5], dtype, device)})
    assert dtype_name(average.state["W"].dtype) == "float32"
    found = float(backend.to_host(average.state["W"])[0])
    assert found == pytest.approx(1.5 - 0.5 * 0.999**1000, rel=1e-5)
    kind = weights["W"].dtype
    average.copy_to(weights)
    assert weights["W"].dtype == kind


def test_it_goes_on_from_its_state() -> None:
    whole, first = Average(0.8), Average(0.8)
    for w in HISTORY:
        whole.update(tree(w))
    for w in HISTORY[:3]:
        first.update(tree(w))
    second = Average(0.8)
    second.state, second.steps = dict(first.state), first.steps
    for w in HISTORY[3:]:
        second.update(tree(w))
    for name, a in whole.state.items():
        np.testing.assert_array_equal(second.state[name], a)
    assert second.steps == 5


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_the_average_follows_its_weights() -> None:
    average = Average(0.8)
    average.update({"W": HISTORY[0]})
    average.update({"W": get("torch").from_host(HISTORY[1])})
    np.testing.assert_allclose(get("torch").to_host(average.state["W"]), averaged(0.8, 2))


def test_the_average_shares_no_memory() -> None:
    average, weights = Average(0.5), {"W": HISTORY[0].copy()}
    average.update(weights)
    average.copy_to(weights)
    weights["W"] += 1
    np.testing.assert_array_equal(average.state["W"], HISTORY[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: Average(1), ValueError, "decay is 1; it must be in [0, 1)"),
        (lambda a: Average().copy_to({}), ValueError, "weights were not averaged yet; call"),
        (lambda a: a.update({"V": np.ones(2)}), ValueError, "weights and their average differ in"),
        (lambda a: a.update({"W": np.ones(3)}), ValueError, "state W has shape (2,); it must be"),
        (lambda a: a.update({"W": np.ones(2, int)}), TypeError, "W is int64; it must be real"),
        (
            lambda a: Average().update({}),
            ValueError,
            "weights hold no array; give those of a layer",
        ),
        (lambda a: a.copy_to({}), ValueError, "weights and their average differ in W"),
        (
            lambda a: a.copy_to(MappingProxyType({"W": np.ones(2)})),
            TypeError,
            "W is in a mappingproxy; it must be in a dict",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    average = Average(0.5)
    average.update({"W": np.ones(2)})
    with pytest.raises(error) as caught:
        call(average)
    assert str(caught.value).startswith(message)
    assert average.steps == 1
    assert average.state["W"].tolist() == [1, 1]


def test_frozen_weights_are_refused() -> None:
    layer, average = xrnn.GRU(2, 3), Average()
    average.update(layer.weights)
    with pytest.raises(TypeError, match="the weights are frozen"):
        average.copy_to(layer.freeze().weights)
