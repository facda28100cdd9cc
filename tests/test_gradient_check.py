"""`xrnn.check_gradients` finds wrong gradients, and none that are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get

RNG = np.random.default_rng(0)
XS, VS = RNG.normal(size=(5, 2, 3)), RNG.normal(size=(5, 2, 4))


def loss_of(layer: Any) -> Any:
    def f(weights: Any) -> Any:
        y, _, tape = layer.forward(XS.astype(layer.dtype))
        v = VS.astype(layer.dtype)
        return (y * v).sum(), layer.backward(tape, v)[2]

    return f


@pytest.mark.parametrize("make", [xrnn.RNN, xrnn.LSTM, xrnn.GRU])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_gradients(make: Any, dtype: Any) -> None:
    layer = make(3, 4, dtype=dtype, rng=0)
    before = {name: w.copy() for name, w in layer.weights.items()}
    verdict = xrnn.check_gradients(loss_of(layer), layer.weights, raises=True)
    assert verdict.ok
    assert bool(verdict)
    assert [one.name for one in verdict.comparisons] == list(layer.weights)
    for name, w in before.items():
        np.testing.assert_array_equal(layer.weights[name], w)


@pytest.mark.parametrize(("dtype", "factor"), [("float64", 1 + 1e-5), ("float32", 1.05)])
def test_a_single_wrong_entry_is_found(dtype: Any, factor: float) -> None:
    layer = xrnn.GRU(3, 4, dtype=dtype, rng=0)
    right = loss_of(layer)

    def wrong(weights: Any) -> Any:
        loss, gradients = right(weights)
        gradients["W_l0"][7, 1] *= factor
        return loss, gradients

    verdict = xrnn.check_gradients(wrong, layer.weights)
    assert [one.name for one in verdict.comparisons if not one.ok] == ["W_l0"]
    assert verdict.worst.entry == (7, 1)
    assert "WRONG W_l0: given" in str(verdict)
    with pytest.raises(AssertionError, match=r"WRONG W_l0: .*most at \[7, 1\]"):
        xrnn.check_gradients(wrong, layer.weights, raises=True)


def test_gradients_that_are_not_numbers_are_wrong() -> None:
    def f(weights: Any) -> Any:
        return (weights["w"] ** 2).sum(), {"w": np.full(3, np.nan)}

    assert not xrnn.check_gradients(f, {"w": np.ones(3)}).ok


def test_a_forgotten_term_is_found() -> None:
    def f(weights: Any) -> Any:
        a, b = weights["a"], weights["b"]
        return (a * b + a).sum(), {"a": b, "b": a}

    verdict = xrnn.check_gradients(f, {"a": np.ones(3), "b": np.ones(3)})
    assert [one.ok for one in verdict.comparisons] == [False, True]


def test_complex_steps_are_exact() -> None:
    weights: Any = {k: RNG.normal(size=s) for k, s in xrnn.cells.LSTM.shapes(3, 4).items()}

    def f(weights: Any) -> Any:
        ys, _, tape = xrnn.unroll(xrnn.cells.LSTM, weights, XS.astype(weights["W"].dtype))
        loss = (ys * VS).sum()
        if np.iscomplexobj(loss):
            return loss, {}
        return loss, xrnn.unroll_backward(tape, VS)[2]

    # unroll wants all weights in one dtype, so they are one leaf here.
    sizes = {k: w.size for k, w in weights.items()}
    flat = np.concatenate([w.ravel() for w in weights.values()])

    def g(tree: Any) -> Any:
        parts = np.split(tree["flat"], np.cumsum(list(sizes.values()))[:-1])
        named = {k: p.reshape(w.shape) for p, (k, w) in zip(parts, weights.items(), strict=True)}
        loss, gradients = f(named)
        return loss, {"flat": np.concatenate([d.ravel() for d in gradients.values()] or [flat])}

    verdict = xrnn.check_gradients(g, {"flat": flat}, method="complex")
    assert verdict.ok
    assert verdict.worst.error < 1e-13


def test_a_kink_nearby_is_no_fault() -> None:
    def f(weights: Any) -> Any:
        w = weights["w"]
        return np.maximum(w, 0).sum(), {"w": (w > 0).astype(float)}

    assert xrnn.check_gradients(f, {"w": np.array([1e-5, -1e-5, 2.0])}).ok
    assert not xrnn.check_gradients(lambda t: (f(t)[0], {"w": np.ones(3)}), {"w": -np.ones(3)}).ok


def test_on_every_library(device: str) -> None:
    layer = xrnn.RNN(3, 4, dtype="float64", device=device, rng=0)
    backend = get(device)
    xs, vs = backend.from_host(XS), backend.from_host(VS)

    def f(weights: Any) -> Any:
        y, _, tape = layer.forward(xs)
        return backend.xp.sum(y * vs), layer.backward(tape, vs)[2]

    assert xrnn.check_gradients(f, layer.weights).ok


def test_what_is_refused() -> None:
    weights: Any = {"w": np.ones(3)}
    good = lambda tree: ((tree["w"] ** 2).sum(), {"w": 2 * tree["w"]})  # noqa: E731
    assert xrnn.check_gradients(good, weights).ok
    with pytest.raises(TypeError, match="it must return a tuple of the loss and its gradients"):
        xrnn.check_gradients(lambda tree: 3.0, weights)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="the loss nan; it must be finite"):
        xrnn.check_gradients(lambda tree: (float("nan"), tree), weights)
    with pytest.raises(ValueError, match="differ in v, w; they must have the same names"):
        xrnn.check_gradients(lambda tree: (1.0, {"v": tree["w"]}), weights)
    with pytest.raises(ValueError, match=r"gradient of w has shape \(2,\); it must be \(3,\)"):
        xrnn.check_gradients(lambda tree: (1.0, {"w": np.ones(2)}), weights)
    with pytest.raises(TypeError, match="w is int64; it must be real floating point"):
        xrnn.check_gradients(good, {"w": np.ones(3, int)})
    layer = xrnn.RNN(3, 4).freeze()
    with pytest.raises(TypeError, match="frozen"):
        xrnn.check_gradients(loss_of(layer), layer.weights)
    with pytest.raises(ValueError, match="weights hold no array"):
        xrnn.check_gradients(lambda tree: (1.0, {}), {})
    with pytest.raises(ValueError, match="method is 'exact'"):
        xrnn.check_gradients(good, weights, method="exact")  # type: ignore[arg-type]
