"""Parts that are composed: gradients of every part and of whole models, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get

RNG = np.random.default_rng(0)
XS = RNG.normal(size=(6, 5, 4))
LENGTHS = [6, 3, 0, 1, 5]
MASK = RNG.random((6, 5)) < 0.6

F64: Any = {"dtype": "float64"}

#: parts without lengths: a maker
PLAIN: dict[str, Callable[..., Any]] = {
    **{
        f"Linear {a}": lambda a=a, **how: xrnn.Linear(4, 3, activation=a, rng=0, **F64, **how)
        for a in (None, "relu", "tanh", "sigmoid", "softplus")
    },
    "LayerNorm": lambda **how: _spread(xrnn.LayerNorm(4, **F64, **how)),
    "Dropout": lambda **how: xrnn.Dropout(0.4),
    **{f"Merge {m}": lambda m=m, **how: xrnn.Merge(m) for m in ("sum", "mean", "mul", "max")},
}
POOLS: dict[str, Any] = {
    "Last": xrnn.Last,
    "both ends": partial(xrnn.Last, both_ends=True),
    "Mean": xrnn.Mean,
    "Max": xrnn.Max,
}
every_plain = pytest.mark.parametrize("name", PLAIN)
every_pool = pytest.mark.parametrize("pool", POOLS.values(), ids=list(POOLS))


def _spread(part: Any) -> Any:
    """The part with other gains and biases than at the start."""
    for name, w in part.weights.items():
        noise = np.random.default_rng(len(name)).normal(size=w.shape)
        part.weights[name] = part.weights.placement.from_host(noise.astype(part.dtype))
    return part


def seeded(part: Any) -> dict[str, Any]:
    return {"seed": 3} if isinstance(part, xrnn.Dropout) else {}


def assert_gradients(part: Any, x: np.ndarray, **how: Any) -> None:
    """Fail unless the gradients of the input and of the weights are those of the outputs."""
    y, _ = part.forward(x, **how)
    v = np.random.default_rng(1).normal(size=y.shape)

    def f(tree: Any) -> tuple[Any, Any]:
        y, tape = part.forward(tree["x"], **how)
        dx, dweights = part.backward(tape, v)
        return (y * v).sum(), {"x": dx} | ({"weights": dweights} if dweights else {})

    tree = {"x": x.copy()} | ({"weights": part.weights} if part.weights else {})
    xrnn.check_gradients(f, tree, raises=True)


@every_plain
def test_gradients_of_parts(name: str) -> None:
    part = PLAIN[name]()
    for x in (XS, XS[0, 0], XS[:0]):
        assert_gradients(part, x, **seeded(part))


@every_plain
def test_parts_on_every_library(name: str, device: str) -> None:
    backend, part = get(device), PLAIN[name](device=device)
    x, how = backend.from_host(XS), seeded(part)
    y, tape = part.forward(x, **how)
    dx, dweights = part.backward(tape, y)
    same = PLAIN[name]()
    expected, other = same.forward(XS, **how)
    wanted, of_weights = same.backward(other, expected)
    for a, b in [(y, expected), (dx, wanted), *((dweights[k], of_weights[k]) for k in of_weights)]:
        np.testing.assert_allclose(backend.to_host(a), b, rtol=1e-12, atol=1e-13)


@every_plain
def test_parts_in_half_precision(name: str) -> None:
    part = PLAIN[name]()
    if part.weights:
        half = type(part)(*_sizes(part), dtype="float16")
        half.weights = {k: w.astype("float16") for k, w in part.weights.items()}
    else:
        half = part
    x = XS.astype("float16")
    y, tape = half.forward(x, **seeded(part))
    expected, _ = part.forward(x.astype("float64"), **seeded(part))
    if getattr(part, "activation", None) is None:
        np.testing.assert_allclose(y, expected, rtol=0, atol=0.02)
    dx, dweights = half.backward(tape, y)
    assert {a.dtype.name for a in (y, dx, *dweights.values())} == {"float16"}


def _sizes(part: Any) -> tuple[int, ...]:
    return (4, 3) if isinstance(part, xrnn.Linear) else (4,)


@every_pool
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS, [0] * 5])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "mask"])
def test_pooling(pool: Any, batch_first: bool, lengths: Any, mask: Any, device: str) -> None:
    backend, part = get(device), pool(batch_first=batch_first)
    valid = np.ones((6, 5), bool) if mask is None else mask.copy()
    if lengths is not None:
        valid &= np.arange(6)[:, None] < lengths
    expected = np.zeros((5, 4))
    for b in range(5):
        steps = XS[valid[:, b], b]
        if len(steps):
            found = {"last": steps[-1], "mean": steps.mean(0), "max": steps.max(0)}
            expected[b] = found[part.kind]
            if getattr(part, "both_ends", False):
                expected[b, 2:] = steps[0, 2:]
    # What stands at steps that are not valid does not matter.
    xs = np.where(valid[:, :, None], XS, np.nan)
    given = [xs, mask]
    if batch_first:
        given = [xs.swapaxes(0, 1), None if mask is None else mask.T]
    x = backend.from_host(np.ascontiguousarray(given[0]))
    y, tape = part.forward(x, lengths, mask=given[1])
    np.testing.assert_allclose(backend.to_host(y), expected, rtol=1e-12, atol=1e-14)
    again = backend.to_host(part(x, lengths, mask=given[1]))
    np.testing.assert_array_equal(again, backend.to_host(y))
    dx, dweights = part.backward(tape, y)
    assert dweights == {}
    dxs = backend.to_host(dx).swapaxes(0, 1) if batch_first else backend.to_host(dx)
    assert not dxs[~valid].any()
    assert np.isfinite(dxs).all()


@every_pool
def test_gradients_of_pooling(pool: Any) -> None:
    for how in ({}, {"lengths": LENGTHS}, {"mask": MASK}, {"lengths": LENGTHS, "mask": MASK}):
        assert_gradients(pool(), XS, **how)
    assert_gradients(pool(batch_first=True), XS, lengths=[4, 0, 1, 2, 4, 3])
    assert_gradients(pool(), XS[:, 0], mask=MASK[:, 0])
    assert_gradients(pool(), XS[:0])
    assert_gradients(pool(), XS[:, :0])


def test_max_of_nan_is_nan() -> None:
    x = XS.copy()
    x[1, 0, 0] = np.nan
    assert np.isnan(xrnn.Max()(x)[0, 0])
    assert np.isfinite(xrnn.Max()(x, lengths=[1, 6, 6, 6, 6])).all()


def test_mean_of_half_precision_does_not_overflow() -> None:
    assert xrnn.Mean()(np.full((9, 1, 1), 6e4, "float16")).tolist() == [[6e4]]


def test_the_padding_row_of_an_embedding_stays_zero() -> None:
    embedding = xrnn.Embedding(5, 3, padding_idx=2, rng=0, **F64)
    tokens = np.array([[2, 1], [4, 2]])
    assert not embedding.weights["E"][2].any()
    y, tape = embedding.forward(tokens)
    none, dweights = embedding.backward(tape, np.ones_like(y))
    assert none is None
    assert dweights["E"].sum(1).tolist() == [0, 3, 0, 0, 3]
    assert embedding.config()["padding_idx"] == 2
    assert "padding_idx" not in xrnn.Embedding(5, 3).config()
    for odd in (5, -1, 1.0):
        with pytest.raises((ValueError, TypeError), match="padding_idx is"):
            xrnn.Embedding(5, 3, padding_idx=odd)  # type: ignore[arg-type]


def network(device: str = "cpu", **how: Any) -> xrnn.Sequential:
    how = F64 | how | {"device": device}
    return xrnn.Sequential(
        rnn=xrnn.LSTM(4, 3, 2, bidirectional=True, dropout=0.3, rng=0, **how),
        merge=xrnn.Merge("sum"),
        block=xrnn.Residual(_spread(xrnn.LayerNorm(3, **how)), gru=xrnn.GRU(3, 3, rng=1, **how)),
        drop=xrnn.Dropout(0.2),
        pool=xrnn.Mean(),
        out=xrnn.Linear(3, 2, activation="tanh", rng=2, **how),
    )


def test_gradients_of_a_model() -> None:
    assert_gradients(network(), XS, lengths=LENGTHS, seed=7)
    assert_gradients(network(), XS, mask=MASK, seed=8)


def test_gradients_of_tokens() -> None:
    model = xrnn.Sequential(xrnn.Embedding(7, 4, rng=0, **F64), xrnn.RNN(4, 3, rng=0, **F64))
    tokens = np.array([[1, 6], [0, 1]])
    y, tape = model.forward(tokens)
    dx, _ = model.backward(tape, y)
    assert dx is None

    def f(weights: Any) -> tuple[Any, Any]:
        y, tape = model.forward(tokens)
        return (y**2).sum() / 2, model.backward(tape, y)[1]

    assert xrnn.check_gradients(f, model.weights).ok


def test_a_model_on_every_library(device: str) -> None:
    backend, model = get(device), network(device)
    y, tape = model.forward(backend.from_host(XS), lengths=LENGTHS, seed=7)
    dx, dweights = model.backward(tape, y)
    expected, other = network().forward(XS, lengths=LENGTHS, seed=7)
    wanted, _ = other.owner.backward(other, expected)
    np.testing.assert_allclose(backend.to_host(y), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(backend.to_host(dx), wanted, rtol=1e-11, atol=1e-14)
    assert list(dweights) == ["rnn", "block", "out"] == list(model.weights)
    assert list(dweights["block"]) == ["0", "gru"]
    if device not in ("readonly", "jax"):
        xrnn.optim.Adam(0.1).update(model.weights, dweights)


def test_a_part_given_twice_has_its_gradients_added_up() -> None:
    shared = xrnn.GRU(4, 4, rng=0, **F64)
    model = xrnn.Sequential(a=shared, b=xrnn.Dropout(0.0), c=shared)
    assert list(model.weights) == ["a"]
    assert_gradients(model, XS, lengths=LENGTHS)


def test_states_go_on_where_they_ended() -> None:
    model = xrnn.Sequential(xrnn.LSTM(4, 4, rng=0, **F64), xrnn.Residual(xrnn.GRU(4, 4, **F64)))
    whole, tape = model.forward(XS)
    first, before = model.forward(XS[:2])
    rest, after = model.forward(XS[2:], before.state)
    np.testing.assert_allclose(np.concatenate([first, rest]), whole, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(model(XS[2:], before.state), rest, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        after.state["1"]["0"].h, tape.state["1"]["0"].h, rtol=1e-12, atol=1e-15
    )
    state, steps = None, []
    for x in XS:
        y, state = model.step(x, state)
        steps.append(y)
    np.testing.assert_allclose(np.stack(steps), whole, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="which needs whole sequences and cannot step"):
        network_without_directions().step(XS[0])


def network_without_directions() -> xrnn.Sequential:
    return xrnn.Sequential(xrnn.GRU(4, 3, **F64), xrnn.Last())


def test_each_part_has_random_numbers_of_its_own() -> None:
    model = xrnn.Sequential(xrnn.Dropout(0.5), xrnn.Dropout(0.5))
    x = np.ones((40, 40))
    y, _ = model.forward(x, seed=0)
    assert abs((y == 0).mean() - 0.75) < 0.05
    np.testing.assert_array_equal(model.forward(x, seed=0)[0], y)
    assert (model.forward(x, seed=1)[0] != y).any()
    np.testing.assert_array_equal(model(x), x)


@pytest.mark.parametrize("form", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies(form: Any) -> None:
    model = network()
    y, tape = model.forward(XS, seed=0)
    twin, other = form((model, tape))
    np.testing.assert_array_equal(twin(XS), model(XS))
    np.testing.assert_array_equal(twin.backward(other, y)[0], model.backward(tape, y)[0])
    assert twin.config() == model.config()


def test_weights_are_assigned_all_or_none() -> None:
    model = xrnn.Sequential(a=xrnn.Linear(4, 3), b=xrnn.Linear(3, 2))
    new = {k: {n: w + 1 for n, w in part.items()} for k, part in model.weights.items()}
    before = model.weights["a"]["W"].copy()
    with pytest.raises(ValueError, match=r"weights are a; they must be a, b"):
        model.weights = {"a": new["a"]}
    with pytest.raises(ValueError, match="linear: W has shape"):
        model.weights = new | {"b": {"W": np.ones((9, 9), "float32"), "b": new["b"]["b"]}}
    np.testing.assert_array_equal(model.weights["a"]["W"], before)
    model.weights = new
    np.testing.assert_array_equal(model.weights["a"]["W"], before + 1)


def test_freeze_and_path() -> None:
    model = network(dtype="float32")
    assert model.path((6, 5, 4)).keys() == {"rnn", "block"}
    model.freeze()
    with pytest.raises(TypeError, match="frozen"):
        model.weights["out"]["b"] = np.ones(2, "float32")


def test_only_the_first_part_may_give_no_gradient() -> None:
    class Rounded(xrnn.Dropout):
        def forward(self, x: Any, **how: Any) -> Any:
            return (x > 0).astype("int64"), None

    chain = xrnn.Sequential(Rounded(0.0), xrnn.Embedding(7, 4))
    _, tape = chain.forward(XS[0, 0])
    with pytest.raises(ValueError, match="1 gives no gradient of its input"):
        chain.backward(tape, np.ones((4, 4), "float32"))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no part"):
        xrnn.Sequential()
    for odd in (3, xrnn.LSTM, lambda x: x):
        with pytest.raises(TypeError, match="it must be a part"):
            xrnn.Sequential(odd)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a has batch_first=True, b has batch_first=False"):
        xrnn.Sequential(a=xrnn.GRU(4, 3, batch_first=True), b=xrnn.Last())
    model = xrnn.Sequential(a=xrnn.GRU(4, 3, **F64), b=xrnn.Last())
    _, tape = model.forward(XS)
    with pytest.raises(ValueError, match="the tape was made by another one"):
        xrnn.Sequential(model).backward(tape, XS[0])
    with pytest.raises(TypeError, match="it must be the tape that forward returned"):
        model.backward(None, XS[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state has 'b'; the parts with a state are a"):
        model(XS, {"b": None})
    chain = xrnn.Sequential(xrnn.Linear(4, 3))
    with pytest.raises(ValueError, match="linear: hs has shape"):
        chain(np.ones((2, 9), "float32"))
    with pytest.raises(ValueError, match="both are added up and must have the same shape"):
        xrnn.Residual(xrnn.GRU(4, 3, **F64))(XS)
    for part in (xrnn.Dropout(0.5), xrnn.Last(), xrnn.Merge(), xrnn.LayerNorm(4)):
        with pytest.raises(TypeError, match="it must be the tape that forward returned"):
            part.backward(None, XS)  # type: ignore[arg-type]
    for rate in (1, -0.1, "a", True, None):
        with pytest.raises(ValueError, match=r"rate is .*; it must be in \[0, 1\)"):
            xrnn.Dropout(rate)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs an integer, another one at every training step"):
        xrnn.Dropout(0.5).forward(XS)
    with pytest.raises(ValueError, match=r"x has shape .* it must be \(…, 2·n\)"):
        xrnn.Merge()(XS[..., :3])


def test_pieces_in_inference_go_on_from_states() -> None:
    """Also those of parts within parts, and without random numbers."""
    block = xrnn.Residual(xrnn.Dropout(0.5), rnn=xrnn.LSTM(4, 4, rng=0))
    model = xrnn.Sequential(first=xrnn.GRU(3, 4, rng=1), block=block, out=xrnn.Linear(4, 2, rng=2))
    x = np.random.default_rng(0).normal(size=(9, 2, 3)).astype("float32")
    whole, last = model.run(x)
    np.testing.assert_array_equal(whole, model(x))
    assert list(last) == ["first", "block"]
    state: Any = None
    found = []
    for piece in (x[:4], x[4:5], x[5:]):
        y, state = model.run(piece, state)
        found.append(y)
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state["block"]["rnn"].c, last["block"]["rnn"].c, atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"lengths": LENGTHS}, {"mask": MASK}], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
def test_both_ends_are_the_last_states_of_both_directions(how: Any, batch_first: bool) -> None:
    layer = xrnn.GRU(4, 3, bidirectional=True, batch_first=batch_first, dtype="float64", rng=0)
    xs, how = (XS, how) if not batch_first else (XS.swapaxes(0, 1), dict(how))
    if batch_first and "mask" in how:
        how["mask"] = MASK.T
    ys, state = layer(xs, **how)
    y = xrnn.Last(batch_first=batch_first, both_ends=True)(ys, **how)
    some: Any = MASK.any(axis=0) if "mask" in how else np.asarray(how.get("lengths", [6] * 5)) > 0
    expected = np.concatenate([state.h[0], state.h[1]], axis=-1) * some[:, None]
    np.testing.assert_array_equal(y, expected)


def test_both_ends_must_be_two_halves() -> None:
    pool = xrnn.Last(both_ends=True)
    with pytest.raises(ValueError, match=r"last: x has 3 values at each step; with both_ends it"):
        pool(XS[..., :3])
    with pytest.raises(TypeError, match="last: both_ends is 1; it must be True or False"):
        xrnn.Last(both_ends=1)  # type: ignore[arg-type]
    assert repr(pool) == "<Last(batch_first=False, both_ends=True)>"
    model = xrnn.Sequential(rnn=xrnn.GRU(4, 3, rng=0), last=pool)
    with pytest.raises(ValueError, match=r"last is .* which needs whole sequences and cannot step"):
        model.step(XS[0].astype("float32"))
