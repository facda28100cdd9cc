"""Dual numbers: the derivative of every function, what is refused, and parts of a user's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import backend_of, get, register, unregister
from xrnn.learn.dual_functions import _RULES, CONSTANT, LINEAR, SLOPES, dual

X = np.random.default_rng(0).uniform(0.2, 0.9, size=(3, 4))
DX = np.random.default_rng(1).normal(size=(3, 4))
Y = np.random.default_rng(2).uniform(1.1, 2.0, size=(3, 4))

#: functions of an array x, of the namespace xp
OTHERS: dict[str, Any] = {
    "add": lambda x, xp: xp.add(Y, x) + 1 + x,
    "asarray": lambda x, xp: xp.asarray(x, copy=True),
    "astype": lambda x, xp: xp.astype(x, xp.float64),
    "clip": lambda x, xp: xp.clip(x, min=0.4, max=0.7) + xp.clip(x, None, 0.5),
    "concat": lambda x, xp: xp.concat([x, Y, x * x], axis=1),
    "divide": lambda x, xp: xp.divide(Y, x) + x / Y + x / (1 + x),
    "log": lambda x, xp: xp.log(x),
    "matmul": lambda x, xp: xp.matmul(x, x.T) + x @ Y.T + Y @ x.mT,
    "max": lambda x, xp: xp.max(x) * xp.max(x, axis=0, keepdims=True),
    "maximum": lambda x, xp: xp.maximum(x, 0.5 * Y) + xp.maximum(Y - 1, x),
    "min": lambda x, xp: xp.min(x, axis=-1),
    "minimum": lambda x, xp: xp.minimum(x, 0.5 * Y),
    "multiply": lambda x, xp: xp.multiply(x, Y) * x,
    "pow": lambda x, xp: x**3 + xp.pow(x, Y) + 2**x + x**x,
    "stack": lambda x, xp: xp.stack([x, Y, x * x]),
    "subtract": lambda x, xp: xp.subtract(Y, x) - x - 1,
    "where": lambda x, xp: xp.where(Y > 1.5, x, x * x) + xp.where(x > 0.5, Y[0], x[:1, :1]),
    "broadcast_to": lambda x, xp: xp.broadcast_to(x, (2, 3, 4)),
    "cumulative_sum": lambda x, xp: xp.cumulative_sum(x, axis=1),
    "expand_dims": lambda x, xp: xp.expand_dims(x, axis=1),
    "moveaxis": lambda x, xp: xp.moveaxis(x, 0, 1),
    "permute_dims": lambda x, xp: xp.permute_dims(x, (1, 0)),
    "repeat": lambda x, xp: xp.repeat(x, 2, axis=0),
    "reshape": lambda x, xp: xp.reshape(x, (2, 6)) + x.reshape(2, 6),
    "roll": lambda x, xp: xp.roll(x, 1),
    "squeeze": lambda x, xp: xp.squeeze(x[:, :1], axis=1),
    "sum": lambda x, xp: xp.sum(x, axis=0) + x.sum(),
    "mean": lambda x, xp: xp.mean(x, axis=0) + x.mean(axis=1, keepdims=True),
    "take": lambda x, xp: xp.take(x, np.array([2, 0, 2]), axis=1),
    "tile": lambda x, xp: xp.tile(x, (2, 1)),
    "operators": lambda x, xp: abs(-x) + (+x)[..., ::2].sum() + x[np.array([0, 2])].sum(),
    "NumPy": lambda x, xp: np.concatenate([np.exp(x), np.transpose(x.T)]) + np.ones((6, 4)) * 2,
}


def plain(name: str) -> Any:
    return lambda x, xp: getattr(xp, name)(x)


CASES = {name: plain(name) for name in (*SLOPES, *LINEAR)} | OTHERS


def test_every_rule_has_its_case() -> None:
    assert set(_RULES) - set(CONSTANT) == set(CASES) - {"operators", "NumPy"}


@pytest.mark.parametrize("name", CASES)
def test_derivatives(name: str) -> None:
    f, e = CASES[name], 1e-4
    moving = dual(X, DX, xp=np)
    y = f(moving, moving.__array_namespace__())
    np.testing.assert_array_equal(y.value, f(X, np))
    near, far = ([f(X + sign * k * e * DX, np) for sign in (1, -1)] for k in (1, 2))
    expected = (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * e)
    assert y.tangent.shape == y.value.shape == y.shape
    np.testing.assert_allclose(y.tangent, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", CONSTANT)
def test_what_is_constant_has_no_derivative(name: str) -> None:
    moving = dual(X, DX, xp=np)
    xp = moving.__array_namespace__()
    given: dict[str, Any] = {
        "full_like": (moving, 2.0),
        "searchsorted": (np.array([0.3, 0.5]), moving[0, :]),
        **dict.fromkeys(("logical_and", "logical_or"), (moving > 0.5, moving > 0.3)),
        "logical_not": (moving > 0.5,),
        "any": (moving > 0.5,),
        "all": (moving > 0.5,),
        **dict.fromkeys(
            ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"), (moving, X)
        ),
    }
    found = getattr(xp, name)(*given.get(name, (moving,)))
    assert found.tangent is None
    assert not found.shape or found.shape[-1] in (2, 4)


def test_a_function_of_constants_needs_no_rule() -> None:
    moving = dual(X, DX, xp=np)
    xp = moving.__array_namespace__()
    np.testing.assert_array_equal(xp.sort(dual(X, xp=np)).value, np.sort(X))
    assert xp.float32 is np.float32
    assert xp.isdtype(moving.dtype, "real floating")
    for call, name in ((xp.sort, "sort"), (np.sort, "sort"), (np.linalg.norm, "norm")):
        with pytest.raises(TypeError, match=f"{name} has no rule for derivatives; compute the"):
            call(moving)


@pytest.mark.parametrize("lose", [float, bool, int, np.asarray])
def test_a_derivative_is_not_lost(lose: Any) -> None:
    moving = dual(np.array(0.5), np.array(1.0), xp=np)
    with pytest.raises(TypeError, match=r"an array is made .* must be computed by operators"):
        lose(moving)
    with pytest.raises(TypeError, match="changed in place"):
        dual(X, DX, xp=np)[0, 0] = 1.0


def test_what_is_constant_is_converted() -> None:
    assert float(dual(np.array(0.5), xp=np)) == 0.5
    assert int(dual(np.array(3), xp=np)) == 3
    assert bool(dual(np.array(True), xp=np))
    with pytest.raises(TypeError, match="cannot become one of NumPy"):
        np.asarray(dual(X, xp=np))


def test_they_are_a_library_of_their_own(device: str) -> None:
    backend = get(device)
    one = dual(backend.from_host(X), backend.from_host(DX), xp=backend.xp)
    mine = backend_of(one)
    assert mine is not backend
    assert mine.constants() is backend
    assert mine.name == f"dual_{backend.name}"
    np.testing.assert_array_equal(backend.to_host((one * one).tangent), 2 * X * DX)


def test_another_backend_for_the_library_serves_too() -> None:
    ys = dual(X, DX, xp=np)
    register("numpy", replace(get("cpu")))
    try:
        _, dys = xrnn.losses.squared_error(ys, Y)
    finally:
        unregister("numpy")
    np.testing.assert_allclose(dys.tangent, 2 * DX / X.size)


class Own:
    """A part of a user's own: y = x w, with weights in a dict."""

    def __init__(self) -> None:
        self.weights = {"w": np.array([2.0, 3.0])}

    def __call__(self, x: Any) -> Any:
        return x * np.exp(self.weights["w"])

    def forward(self, x: Any) -> Any:
        return self(x), x

    def backward(self, tape: Any, dy: Any) -> Any:
        w = np.exp(self.weights["w"])
        return dy * w, {"w": np.sum(dy * tape * w, axis=0)}


def test_a_part_of_ones_own() -> None:
    part: Any = Own()
    x, vector = np.ones((5, 2)), {"w": np.array([1.0, 0.0])}
    before = part.weights["w"]
    _, tangent = xrnn.jvp(part, x, vector)
    np.testing.assert_allclose(tangent, [[np.exp(2), 0]] * 5)
    product = xrnn.hvp(part, x, lambda y: (y.sum(), np.ones((5, 2))), vector)
    np.testing.assert_allclose(product["w"], [5 * np.exp(2), 0])
    assert not xrnn.gnvp(part, x, lambda y: (y.sum(), np.ones((5, 2))), vector)["w"].any()
    assert part.weights["w"] is before


def squares(y: Any) -> Any:
    return (y * y).sum() / 2, y


NUMBER: Any = 3
WRONG: dict[str, tuple[Any, str]] = {
    "no part": (lambda p, x, v: xrnn.hvp(NUMBER, x, squares, v), "hvp: part is int; it must"),
    "names": (
        lambda p, x, v: xrnn.hvp(p, x, squares, {"W": v["W"]}),
        "hvp: vector and weights differ in b; they must",
    ),
    "shape": (
        lambda p, x, v: xrnn.gnvp(p, x, squares, {**v, "b": v["W"]}),
        r"gnvp: vector b has shape \(2, 3\); it must be that of b = \(2,\)",
    ),
    "dtype": (
        lambda p, x, v: xrnn.jvp(p, x, {**v, "b": v["b"].astype("float32")}),
        "jvp: vector b is float32 and b is float64; cast",
    ),
    "no function": (lambda p, x, v: xrnn.hvp(p, x, NUMBER, v), "hvp: loss is a int; it must be a"),
    "no pair": (
        lambda p, x, v: xrnn.hvp(p, x, lambda y: y, v),
        "loss returns a DualArray",
    ),
    "no array": (
        lambda p, x, v: xrnn.hvp(p, x, lambda y: (0, 1), v),
        "the gradient of loss is a int; it must be an array",
    ),
    "other shape": (
        lambda p, x, v: xrnn.hvp(p, x, lambda y: (0, y[0]), v),
        r"the gradient of loss has shape \(2,\); it must be that of ys, \(4, 2\)",
    ),
    "inputs": (lambda p, x, v: xrnn.jvp(p, (x, x), v), "jvp: xs are 2 inputs and there are the"),
    "options": (lambda p, x, v: xrnn.jvp(p, x, v, seed=3), "the options seed; they must be what"),
    "direction": (
        lambda p, x, v: xrnn.jvp(p, x, xs_vector=x[0]),
        r"jvp: xs_vector has shape \(3,\); it must be that of xs = \(4, 3\)",
    ),
    "form": (
        lambda p, x, v: xrnn.jvp(p, x, xs_vector=(x, x)),
        "xs_vector is a tuple|must be an array",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name: str) -> None:
    call, words = WRONG[name]
    part, x = xrnn.Linear(3, 2, dtype="float64", rng=0), np.ones((4, 3))
    vector = {name: np.ones_like(w) for name, w in part.weights.items()}
    with pytest.raises((TypeError, ValueError), match=words):
        call(part, x, vector)


def test_a_state_needs_its_own_form() -> None:
    layer, x = xrnn.GRU(3, 2, dtype="float64"), np.ones((4, 1, 3))
    state = (np.zeros((1, 1, 2)),)
    with pytest.raises(ValueError, match="state_vector is a ndarray; it must have the form of"):
        xrnn.jvp(layer, x, state=state, state_vector=state[0])
    with pytest.raises(TypeError, match=r"state is a builtins.NoneType; it must be an array"):
        xrnn.jvp(layer, x, state_vector=state)
