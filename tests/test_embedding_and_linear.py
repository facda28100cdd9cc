"""The embedding and the linear map, on every library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_losses_edges import INTEGERS
from test_precision import halves

import xrnn
from xrnn.backends import get
from xrnn.recurrence.scatter import scatter_add

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 7, (5, 3))
HS = RNG.normal(size=(5, 3, 4))


def test_embedding(device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    embedding = xrnn.Embedding(7, 4, dtype="float64", device=device)
    E = host(embedding.weights["E"])
    xs, tape = embedding.forward(put(TOKENS))
    np.testing.assert_array_equal(host(xs), E[TOKENS])
    expected = np.zeros((7, 4))
    np.add.at(expected, TOKENS, HS)
    np.testing.assert_allclose(
        host(embedding.backward(tape, put(HS))[1]["E"]), expected, rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(("N", "size"), [(0, 3), (1, 1), (7, 3), (1000, 5), (300, 5000)])
def test_scatter_add(N: int, size: int, dtype: str, device: str) -> None:
    backend, rng = get(device), np.random.default_rng(N)
    rows = rng.normal(size=(N, 2))
    places = rng.integers(0, min(size, np.iinfo(dtype).max), N) // 2
    expected = np.zeros((size, 2))
    np.add.at(expected, places, rows)
    given = backend.from_host(rows), backend.from_host(places.astype(dtype))
    for add in (backend.scatter_add, scatter_add):
        found = backend.to_host(add(*given, size, xp=backend.xp))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_tokens_of_every_integer_dtype(dtype: str, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    embedding = xrnn.Embedding(300, 2, device=device)
    xs, tape = embedding.forward(put(np.array([5, 7, 5], dtype)))
    np.testing.assert_array_equal(host(xs), host(embedding.weights["E"])[[5, 7, 5]])
    dE = host(embedding.backward(tape, put(np.ones((3, 2), "float32")))[1]["E"])
    assert {row: dE[row].tolist() for row in np.flatnonzero(dE.any(-1))} == {5: [2, 2], 7: [1, 1]}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_half_precision_are_summed_in_float32(dtype: str, device: str) -> None:
    backend = get(device)
    dxs = halves(np.ones((1000, 20, 3)), dtype, device)
    tokens = backend.from_host(np.arange(20000).reshape(1000, 20) % 5)
    embedding = xrnn.Embedding(6, 3, dtype=dtype, device=device)  # type: ignore[arg-type]
    dE = embedding.backward(tokens, dxs)[1]["E"]
    assert dE.dtype == dxs.dtype
    assert backend.to_host(dE)[:, 0].tolist() == [*[4000] * 5, 0]


def test_embedding_refuses_gradients_that_do_not_fit() -> None:
    embedding = xrnn.Embedding(7, 4)
    _, tape = embedding.forward(TOKENS)
    with pytest.raises(ValueError, match=r"dxs has shape \(5, 4\); it must be .* \(5, 3, 4\)"):
        embedding.backward(tape, np.ones((5, 4), "float32"))
    with pytest.raises(TypeError, match="dxs is float64 and E is float32"):
        embedding.backward(tape, np.ones((5, 3, 4)))


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(activation: Any, bias: bool, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    linear = xrnn.Linear(4, 6, activation=activation, bias=bias, dtype="float64", device=device)
    if bias:
        linear.weights["b"] = put(RNG.normal(size=6))
    w = {k: host(a) for k, a in linear.weights.items()}
    a = HS @ w["W"].T + w.get("b", 0)
    ys, tape = linear.forward(put(HS))
    np.testing.assert_allclose(
        host(ys), np.maximum(a, 0) if activation else a, rtol=1e-13, atol=1e-14
    )
    dys = RNG.normal(size=a.shape)
    dhs, dweights = linear.backward(tape, put(dys))
    da = dys * (a > 0) if activation else dys
    np.testing.assert_allclose(host(dhs), da @ w["W"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        host(dweights["W"]), np.einsum("tbo,tbh->oh", da, HS), rtol=1e-12, atol=1e-14
    )
    assert set(dweights) == set(w)
    if bias:
        np.testing.assert_allclose(host(dweights["b"]), da.sum((0, 1)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_linear_sums_half_precision_in_float32(activation: Any) -> None:
    linear = xrnn.Linear(2, 3, activation=activation, dtype="float16")
    linear.weights = {"W": np.ones((3, 2), "float16"), "b": np.ones(3, "float16")}
    _, tape = linear.forward(np.ones((2, 20000, 2), "float16"))
    _, dweights = linear.backward(tape, np.full((2, 20000, 3), 0.25, "float16"))
    for d in dweights.values():
        assert d.dtype == np.float16
        np.testing.assert_array_equal(d, np.float16(10000))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_linear_rounds_to_zero_without_an_error(dtype: Any) -> None:
    tiny = np.finfo(dtype).smallest_normal
    with np.errstate(all="raise"):
        linear = xrnn.Linear(4, 6, dtype=dtype, rng=0)
        _, tape = linear.forward(np.full((2, 4), tiny))
        dhs, dweights = linear.backward(tape, np.full((2, 6), tiny))
    assert abs(dhs).max() < 6 * tiny
    assert not dweights["W"].any()


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (4,), (2, 4)])
def test_linear_of_any_shape(shape: tuple[int, ...]) -> None:
    linear = xrnn.Linear(4, 6, dtype="float64")
    ys, tape = linear.forward(np.ones(shape))
    assert ys.shape == (*shape[:-1], 6)
    dhs, dweights = linear.backward(tape, ys)
    assert dhs.shape == shape
    assert dweights["W"].shape == (6, 4)


def test_nothing_to_embed() -> None:
    embedding = xrnn.Embedding(7, 4)
    xs, tape = embedding.forward(np.zeros((0, 3), int))
    assert xs.shape == (0, 3, 4)
    assert not embedding.backward(tape, xs)[1]["E"].any()


def test_parts_move_between_libraries(device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    embedding, linear = xrnn.Embedding(7, 4), xrnn.Linear(4, 6)
    before = linear(embedding(TOKENS))
    there = linear.to(device)(embedding.to(device)(put(TOKENS)))
    np.testing.assert_allclose(host(there), before, rtol=1e-6, atol=1e-7)


def test_another_library_is_named() -> None:
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(
        TypeError, match="tokens are an array of array_api_strict and E is one of cpu"
    ):
        EMBEDDING(strict.asarray([1, 2]))


EMBEDDING, LINEAR = xrnn.Embedding(7, 4), xrnn.Linear(4, 6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: EMBEDDING(TOKENS + 1), ValueError, "embedding: tokens go from 1 to 7; they must"),
        (
            lambda: EMBEDDING(-TOKENS),
            ValueError,
            "embedding: tokens go from -6 to 0; they must lie",
        ),
        (lambda: EMBEDDING(HS), TypeError, "embedding: tokens are float64; they must be integers"),
        (
            lambda: EMBEDDING(TOKENS > 3),
            TypeError,
            "embedding: tokens are bool; they must be integers",
        ),
        (
            lambda: LINEAR(HS[..., :3]),
            TypeError,
            "linear: hs is float64 and W is float32; cast one of them",
        ),
        (
            lambda: LINEAR(HS[..., :3].astype("float32")),
            ValueError,
            "linear: hs has shape (5, 3, 3); it must be (…, H) with H = 4",
        ),
        (
            lambda: LINEAR.backward(LINEAR.forward(HS.astype("float32"))[1], HS.astype("float32")),
            ValueError,
            "linear: dys has shape (5, 3, 4); it must be that of ys",
        ),
        (
            lambda: LINEAR.backward(LINEAR.forward(HS.astype("float32"))[1], HS),
            TypeError,
            "linear: dys is float64 and W is float32; cast one of them",
        ),
        (
            lambda: xrnn.Linear(4, 0),
            ValueError,
            "linear: out_features is 0; it must be an integer ≥ 1",
        ),
        (
            lambda: xrnn.Embedding(0, 4),
            ValueError,
            "embedding: num_embeddings is 0; it must be an integer ≥ 1",
        ),
        (
            lambda: xrnn.Linear(4, 2, activation="elu"),  # type: ignore[arg-type]
            ValueError,
            "linear: activation is 'elu'; it must be",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)
