"""Attention: pooling by learned scores, and a decoder's reading from a memory."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get, host
from xrnn.typing import dtype_name

RNG = np.random.default_rng(0)
T1, T2, B, H, M = 6, 4, 5, 3, 4
MEMORY, QUERIES = RNG.normal(size=(T1, B, M)), RNG.normal(size=(T2, B, H))
LENGTHS = [6, 3, 0, 1, 5]
MASK = RNG.random((T1, B)) < 0.6
F64: Any = {"dtype": "float64"}

HOWS: list[dict[str, Any]] = [
    {},
    {"lengths": LENGTHS},
    {"mask": MASK},
    {"lengths": LENGTHS, "mask": MASK},
]
every_how = pytest.mark.parametrize("how", HOWS, ids=["whole", "lengths", "mask", "both"])


def swapped(how: dict[str, Any]) -> dict[str, Any]:
    return {k: v.T.copy() if k == "mask" else v for k, v in how.items()}


def valid_of(how: dict[str, Any]) -> Any:
    ends = np.asarray(how.get("lengths", [T1] * B))
    return (np.arange(T1)[:, None] < ends) & how.get("mask", True)


def softmax(s: np.ndarray) -> Any:
    return np.exp(s - s.max()) / np.exp(s - s.max()).sum()


def assert_gradients(part: Any, inputs: dict[str, Any], **how: Any) -> None:
    """Fail unless the gradients of all inputs and weights are those of the outputs."""
    v = np.random.default_rng(1).normal(size=part.forward(*inputs.values(), **how)[0].shape)

    def f(tree: Any) -> tuple[Any, Any]:
        y, tape = part.forward(*(tree[name] for name in inputs), **how)
        *dxs, dweights = part.backward(tape, v)
        return (y * v).sum(), dict(zip(inputs, dxs, strict=True)) | {"weights": dweights}

    tree = {name: x.copy() for name, x in inputs.items()} | {"weights": part.weights}
    xrnn.check_gradients(f, tree, raises=True)


# Pooling ------------------------------------------------------------------------------------


def pool(**how: Any) -> Any:
    part = xrnn.AttentionPooling(M, 3, rng=0, **F64 | how)
    part.weights["b"] = get(how.get("device", "cpu")).from_host(np.array([0.3, -0.2, 0.5]))
    return part


@every_how
def test_pooling_by_its_definition(how: Any, device: str) -> None:
    backend, part, valid = get(device), pool(device=device), valid_of(how)
    x = backend.from_host(np.where(valid[:, :, None], MEMORY, np.nan))
    W, b, v = (backend.to_host(part.weights[name]) for name in "Wbv")
    expected, weights = np.zeros((B, M)), np.zeros((T1, B))
    for k in range(B):
        steps = MEMORY[valid[:, k], k]
        if len(steps):
            weights[valid[:, k], k] = softmax(np.tanh(steps @ W.T + b) @ v)
            expected[k] = weights[valid[:, k], k] @ steps
    y, tape = part.forward(x, **how)
    np.testing.assert_allclose(backend.to_host(y), expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(backend.to_host(part(x, **how)), backend.to_host(y))
    found = backend.to_host(part.attention(x, **how))
    np.testing.assert_allclose(found, weights, rtol=1e-13, atol=1e-15)
    dx, dweights = part.backward(tape, backend.xp.ones_like(y))
    assert not backend.to_host(dx)[~valid].any()
    for a in (dx, *dweights.values()):
        assert np.isfinite(backend.to_host(a)).all()


@every_how
def test_gradients_of_pooling(how: Any) -> None:
    assert_gradients(pool(), {"x": MEMORY}, **how)
    x = MEMORY.swapaxes(0, 1).copy()
    assert_gradients(pool(batch_first=True), {"x": x}, **swapped(how))


@pytest.mark.parametrize("x", [MEMORY[:, 0], MEMORY[:0], MEMORY[:, :0], MEMORY[:1]])
def test_gradients_of_pooling_in_corners(x: Any) -> None:
    assert_gradients(pool(), {"x": x})


def test_pooling_batch_first() -> None:
    y = pool()(MEMORY, LENGTHS, mask=MASK)
    x, part = MEMORY.swapaxes(0, 1).copy(), pool(batch_first=True)
    np.testing.assert_allclose(part(x, LENGTHS, mask=MASK.T), y, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        part.attention(x, LENGTHS), pool().attention(MEMORY, LENGTHS).T, rtol=1e-14
    )
    np.testing.assert_allclose(pool()(MEMORY[:, 0]), pool()(MEMORY)[0], rtol=1e-12, atol=1e-14)


def test_pooling_in_a_model() -> None:
    model = xrnn.Sequential(
        rnn=xrnn.LSTM(M, 3, rng=0, **F64),
        pool=xrnn.AttentionPooling(3, rng=1, **F64),
        out=xrnn.Linear(3, 2, rng=2, **F64),
    )

    def f(weights: Any) -> Any:
        y, tape = model.forward(MEMORY, lengths=LENGTHS)
        return (y**2).sum() / 2, model.backward(tape, y)[1]

    assert xrnn.check_gradients(f, model.weights, raises=True).ok


# Attention ----------------------------------------------------------------------------------


def attention(score: Any = "general", **how: Any) -> Any:
    return xrnn.Attention(H, H if score == "dot" else M, 2, score=score, rng=0, **F64 | how)


def memory_of(score: str) -> np.ndarray:
    return MEMORY[..., :H].copy() if score == "dot" else MEMORY


every_score = pytest.mark.parametrize("score", ["general", "dot"])


@every_score
@every_how
def test_attention_by_its_definition(score: str, how: Any, device: str) -> None:
    backend, part, valid = get(device), attention(score, device=device), valid_of(how)
    m = memory_of(score)
    weights = {name: backend.to_host(w) for name, w in part.weights.items()}
    U = weights.get("U", np.eye(H) / H**0.5)
    expected, alpha = np.zeros((T2, B, 2)), np.zeros((T2, B, T1))
    for b in range(B):
        for t in range(T2):
            steps, c = m[valid[:, b], b], np.zeros(m.shape[2])
            if len(steps):
                alpha[t, b, valid[:, b]] = softmax(steps @ (QUERIES[t, b] @ U))
                c = alpha[t, b, valid[:, b]] @ steps
            expected[t, b] = np.tanh(weights["W"] @ np.concatenate([c, QUERIES[t, b]]))
    given = (QUERIES, np.where(valid[:, :, None], m, np.nan))
    q, memory = (backend.from_host(a.copy()) for a in given)
    y, tape = part.forward(q, memory, **how)
    np.testing.assert_allclose(backend.to_host(y), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(backend.to_host(part(q, memory, **how)), backend.to_host(y))
    found = backend.to_host(part.attention(q, memory, **how))
    np.testing.assert_allclose(found, alpha, rtol=1e-12, atol=1e-15)
    dq, dm, dweights = part.backward(tape, backend.xp.ones_like(y))
    assert not backend.to_host(dm)[~valid].any()
    for a in (dq, dm, *dweights.values()):
        assert np.isfinite(backend.to_host(a)).all()


@every_score
@every_how
def test_gradients_of_attention(score: str, how: Any) -> None:
    given = {"queries": QUERIES, "memory": memory_of(score)}
    assert_gradients(attention(score), given, **how)
    other = {name: a.swapaxes(0, 1).copy() for name, a in given.items()}
    assert_gradients(attention(score, batch_first=True), other, **swapped(how))


@every_score
def test_gradients_of_attention_in_corners(score: str) -> None:
    m, part = memory_of(score), attention(score)
    for q, memory in (
        (QUERIES[:, 0], m[:, 0]),
        (QUERIES, m[:0]),
        (QUERIES[:0], m),
        (QUERIES[:, :0], m[:, :0]),
        (QUERIES[:1], m[:1]),
    ):
        assert_gradients(part, {"queries": q, "memory": memory})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_half_precision(dtype: Any, device: str) -> None:
    pytest.importorskip("ml_dtypes")
    pytest.importorskip(device.replace("cpu", "numpy"))
    backend, half = get(device), host.named_dtype(dtype)
    q, m = (backend.from_host(a.astype(half)) for a in (QUERIES, MEMORY))
    for make in (attention, pool_of_half):
        part = make(dtype=dtype, device=device)
        single = make(dtype="float64")
        given, exact = ((q, m), (QUERIES, MEMORY)) if make is attention else ((m,), (MEMORY,))
        y, tape = part.forward(*given, lengths=LENGTHS)
        expected, other = single.forward(*exact, lengths=LENGTHS)
        v = np.random.default_rng(1).normal(size=expected.shape)
        *dxs, dweights = part.backward(tape, backend.from_host(v.astype(half)))
        *wanted, dother = single.backward(other, v)
        pairs = zip(
            [y, *dxs, *dweights.values()], [expected, *wanted, *dother.values()], strict=True
        )
        for a, b in pairs:
            assert dtype_name(a.dtype) == dtype
            values = np.asarray(backend.to_host(a), "float64")
            np.testing.assert_allclose(values, b, rtol=0.05, atol=0.05 * abs(b).max())


def pool_of_half(**how: Any) -> Any:
    return xrnn.AttentionPooling(M, 3, rng=0, **how)


@pytest.mark.parametrize("form", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_and_changed_outputs(form: Any, device: str) -> None:
    if device not in ("cpu", "torch"):
        pytest.skip("copies of arrays of this library are tested with those of layers")
    backend = get(device)
    q, m = backend.from_host(QUERIES), backend.from_host(MEMORY)
    for part, given in ((attention(device=device), (q, m)), (pool(device=device), (m,))):
        y, tape = part.forward(*given)
        dy = backend.xp.ones_like(y)
        expected = part.backward(tape, dy)
        y[...] = 7.0
        twin, other = form((part, tape))
        assert twin.config() == part.config()
        for found in (part.backward(tape, dy), twin.backward(other, dy)):
            for a, b in zip(found[:-1], expected[:-1], strict=True):
                np.testing.assert_array_equal(backend.to_host(a), backend.to_host(b))


def test_underflow_and_large_scores_are_no_errors() -> None:
    with np.errstate(all="raise"):
        for part, given in ((attention(), (QUERIES, MEMORY)), (pool(), (MEMORY,))):
            for factor in (1e-200, 1e3):
                y, tape = part.forward(*(factor * a for a in given))
                part.backward(tape, np.full(y.shape, 1e-200))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="for the score 'dot' they must be equal"):
        xrnn.Attention(3, 4, score="dot")
    with pytest.raises(ValueError, match="attention: score is 'additive'; it must be"):
        xrnn.Attention(3, score="additive")  # type: ignore[arg-type]
    part = attention()
    with pytest.raises(ValueError, match=r"memory has shape .* \(T, n\), with n = 4"):
        part(QUERIES, QUERIES)
    with pytest.raises(ValueError, match="must have the same number of sequences B"):
        part(QUERIES, MEMORY[:, :2])
    with pytest.raises(ValueError, match="must have the same number of sequences B"):
        part(QUERIES[:, 0], MEMORY)
    with pytest.raises(TypeError, match="queries is float32 and W is float64"):
        part(QUERIES.astype("float32"), MEMORY)
    with pytest.raises(ValueError, match="lengths go from"):
        part(QUERIES, MEMORY, lengths=[7] * B)
    with pytest.raises(ValueError, match=r"attention_pooling: x has shape .* n = 4"):
        pool()(QUERIES)
    y, tape = part.forward(QUERIES, MEMORY)
    part.weights["W"] *= 2
    with pytest.raises(ValueError, match="the weights have changed since"):
        part.backward(tape, y)
    y, tape = pool().forward(MEMORY)
    with pytest.raises(ValueError, match="the tape was made by another part"):
        pool().backward(tape, y)
    with pytest.raises(ValueError, match="dtype is 'complex64'"):
        xrnn.AttentionPooling(3, dtype="complex64")
