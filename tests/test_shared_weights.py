"""Weights that stand in several places of a model: one leaf, and the sum of their gradients."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get
from xrnn.convert import files

F64: Any = {"dtype": "float64"}
TOKENS = np.random.default_rng(0).integers(0, 7, (5, 3))
LENGTHS = [5, 2, 0]
FORMS = [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]


def model(device: str = "cpu", **how: Any) -> Any:
    """Tokens in, logits of tokens out, with one table for both."""
    where = F64 | {"device": device}
    words = xrnn.Embedding(7, 4, rng=0, **where)
    return xrnn.Sequential(
        words=words, rnn=xrnn.GRU(4, 4, rng=1, **where), out=xrnn.TiedLinear(words, **how)
    )


def loss_of(one: Any, tokens: Any = TOKENS, **how: Any) -> Any:
    shape = one.forward(tokens, **how)[0].shape
    v = np.random.default_rng(1).normal(size=shape)

    def f(weights: Any) -> Any:
        y, tape = one.forward(tokens, **how)
        return (y * v).sum(), one.backward(tape, v)[1]

    return f


@pytest.mark.parametrize("activation", [None, "tanh", "softplus"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_gradients(activation: Any, bias: bool, lengths: Any) -> None:
    one = model(activation=activation, bias=bias)
    assert list(one.weights) == ["words", "rnn"] + ["out"] * bias
    verdict = xrnn.check_gradients(loss_of(one, lengths=lengths), one.weights, raises=True)
    assert [c.name for c in verdict.comparisons if "words" in c.name] == ["words.E"]


def test_equal_to_a_linear_map(device: str) -> None:
    backend, one = get(device), model(device)
    xs = backend.from_host(np.random.default_rng(2).normal(size=(5, 3, 4)))
    tied = one.parts["out"]
    own = xrnn.Linear(4, 7, activation=tied.activation, device=device, **F64)
    own.weights["W"] = backend.xp.asarray(tied.weights["embedding"]["E"], copy=True)
    ys, tape = tied.forward(xs)
    expected, other = own.forward(xs)
    dxs, dweights = tied.backward(tape, ys)
    wanted, dother = own.backward(other, expected)
    found = [ys, tied(xs), dxs, dweights["embedding"]["E"], dweights["bias"]["b"]]
    for a, b in zip(found, [expected, expected, wanted, *dother.values()], strict=True):
        np.testing.assert_array_equal(backend.to_host(a), backend.to_host(b))


def test_an_optimizer_changes_the_one_array(device: str) -> None:
    backend, one = get(device), model(device)
    tokens = backend.from_host(TOKENS)
    y, tape = one.forward(tokens)
    _, dweights = one.backward(tape, y)
    before = backend.to_host(one.weights["words"]["E"]).copy()
    if device == "readonly":
        pytest.skip("arrays of this library cannot be changed in place")
    xrnn.optim.SGD(0.1).update(one.weights, dweights)
    changed = before - 0.1 * backend.to_host(dweights["words"]["E"])
    for place in (one.parts["words"].weights, one.parts["out"].weights["embedding"]):
        np.testing.assert_allclose(backend.to_host(place["E"]), changed, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="embedding: the weights have changed since"):
        one.backward(tape, y)


def test_assignment_changes_both_and_is_noticed() -> None:
    one = model()
    hs = np.ones((2, 4))
    tied = one.parts["out"]
    y, tape = tied.forward(hs)
    for change in ("words", "out"):
        tree = {k: dict(part) for k, part in one.weights.items()}
        tree["words"] = {"E": one.weights["words"]["E"] + (change == "words")}
        tree["out"] = {"bias": {"b": np.full(7, 5.0)}}
        one.weights = tree
        with pytest.raises(ValueError, match="the weights have changed since the forward pass"):
            tied.backward(tape, y)
        y, tape = tied.forward(hs)
    np.testing.assert_array_equal(y, hs @ one.parts["words"].weights["E"].T + 5)
    with pytest.raises(ValueError, match="weights are words; they must be words, rnn, out"):
        one.weights = {"words": one.weights["words"]}


@pytest.mark.parametrize("form", FORMS)
def test_copies_keep_the_tie(form: Any) -> None:
    one = model(activation="tanh")
    y, tape = one.forward(TOKENS)
    twin, other = form((one, tape))
    assert twin.parts["out"].parts["embedding"] is twin.parts["words"]
    expected = one.backward(tape, y)[1]
    np.testing.assert_array_equal(twin.backward(other, y)[1]["words"]["E"], expected["words"]["E"])
    twin.parts["words"].weights["E"] = np.zeros((7, 4))
    assert not twin(TOKENS).any()
    assert one(TOKENS).any()


@pytest.mark.parametrize("device", ["torch", "array_api_strict"])
def test_to_another_library_and_back(device: str) -> None:
    pytest.importorskip(device)
    one = model()
    expected = one(TOKENS)
    moved = get(device).from_host(TOKENS)
    np.testing.assert_allclose(get(device).to_host(one.to(device)(moved)), expected, rtol=1e-13)
    one.parts["out"].to("cpu")
    assert one.parts["words"].weights.placement.backend.name == "cpu"
    np.testing.assert_array_equal(one.to("cpu")(TOKENS), expected)


def test_an_embedding_that_was_moved_alone() -> None:
    one = model()
    one.parts["words"].to("array_api_strict")
    hs = get("array_api_strict").from_host(np.ones((2, 4)))
    with pytest.raises(TypeError, match=r"b is an array of cpu and E is one of array_api_strict"):
        one.parts["out"](hs)


def test_freeze() -> None:
    one = model()
    expected = one(TOKENS)
    np.testing.assert_array_equal(one.freeze()(TOKENS), expected)
    for leaf in (one.weights["words"], one.weights["out"]["bias"]):
        with pytest.raises(TypeError, match="frozen"):
            leaf.update({name: np.zeros(w.shape) for name, w in leaf.items()})


def test_a_map_alone_has_the_weights_of_its_embedding() -> None:
    words = xrnn.Embedding(7, 4, rng=0, **F64)
    one = xrnn.Sequential(xrnn.GRU(4, 4, rng=1, **F64), out=xrnn.TiedLinear(words))
    assert list(one.weights["out"]) == ["embedding", "bias"]
    xs = np.random.default_rng(0).normal(size=(3, 2, 4))
    assert xrnn.check_gradients(loss_of(one, xs), one.weights).ok


def test_two_ties_and_nested_models() -> None:
    words = xrnn.Embedding(7, 4, rng=0, **F64)
    rnn = xrnn.GRU(4, 4, rng=1, **F64)
    inner = xrnn.Residual(a=rnn, norm=xrnn.LayerNorm(4, **F64), b=rnn)
    one = xrnn.Sequential(
        words=words,
        inner=inner,
        again=xrnn.Residual(rnn=rnn, same=xrnn.Residual(inner)),
        low=xrnn.TiedLinear(words, activation="tanh", bias=False),
        high=xrnn.Linear(7, 4, rng=2, **F64),
        out=xrnn.Sequential(deep=xrnn.TiedLinear(words)),
    )
    paths = [path for path, _, _ in _leaves(one.weights)]
    assert paths == [
        *("words.E", *(f"inner.a.{name}" for name in rnn.weights)),
        *("inner.norm.gain", "inner.norm.b", "high.W", "high.b", "out.deep.bias.b"),
    ]
    xrnn.check_gradients(loss_of(one, lengths=LENGTHS, seed=1), one.weights, raises=True)
    parts = one.config()["parts"]
    assert parts["inner"]["parts"]["b"] == {"kind": "shared", "path": ["inner", "a"]}
    assert parts["again"]["parts"]["same"]["parts"]["0"] == {"kind": "shared", "path": ["inner"]}
    deep = parts["out"]["parts"]["deep"]
    assert deep["parts"]["embedding"] == {"kind": "shared", "path": ["words"]}
    assert deep["kind"] == "tied_linear"
    assert parts["low"] == {
        "kind": "tied_linear",
        "activation": "tanh",
        "bias": False,
        "parts": {"embedding": {"kind": "shared", "path": ["words"]}},
    }


def _leaves(tree: Any) -> Any:
    from xrnn.learn.trees import leaves

    return leaves(tree, "weights")


def test_parts_of_a_user_that_make_their_mapping_anew() -> None:
    class Scale(xrnn.Dropout):
        def __init__(self, s: float) -> None:
            super().__init__(0.0)
            self.s = np.array([s])

        @property
        def weights(self) -> Any:
            return {"s": self.s}

        def forward(self, x: Any, **how: Any) -> Any:
            return self.s * x, x

        def backward(self, tape: Any, dy: Any) -> Any:
            return self.s * dy, {"s": np.array([(dy * tape).sum()])}

    scale = Scale(2.0)
    one = xrnn.Sequential(scale, other=Scale(3.0), again=scale)
    assert {name: part["s"].tolist() for name, part in one.weights.items()} == {
        "0": [2.0],
        "other": [3.0],
    }
    y, tape = one.forward(np.ones((1, 1)))
    _, dweights = one.backward(tape, np.ones((1, 1)))
    assert {name: part["s"].tolist() for name, part in dweights.items()} == {
        "0": [12.0],
        "other": [4.0],
    }
    assert y.tolist() == [[12.0]]
    with pytest.raises(TypeError, match="the weights of a part are not `Parameters`"):
        one.weights = {"0": {"s": np.ones(1)}, "other": {"s": np.ones(1)}}


def test_a_run_of_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """The table is one weight in the checkpoint too."""
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 7, n) for n in rng.integers(1, 9, 40)]
    given: Any = ((x, [(one + 1) % 7 for one in x]), xrnn.losses.softmax_cross_entropy)
    how: Any = {"validation": 0.25, "patience": 9, "rng": 5, "progress": False}
    whole, other, path = model(), model(), tmp_path / "run"
    expected = xrnn.fit(whole, *given, epochs=4, **how)
    xrnn.fit(model(), *given, epochs=2, checkpoint=path, **how)
    history = xrnn.fit(other, *given, epochs=4, checkpoint=path, resume=True, **how)
    assert history["loss"] == expected["loss"]
    assert other.parts["out"].parts["embedding"] is other.parts["words"]
    places = {name: holder[k] for name, holder, k in _leaves(whole.weights)}
    for name, holder, k in _leaves(other.weights):
        np.testing.assert_array_equal(holder[k], places[name])
    assert places["out.bias.b"].any()
    tensors, _ = files.read(path)
    found = {name.removeprefix("weights.") for name in tensors if name.startswith("weights.")}
    assert found == places.keys()


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match=r"embedding is a Linear; it must be an xrnn\.Embedding"):
        xrnn.TiedLinear(xrnn.Linear(3, 4))  # type: ignore[arg-type]
    words = xrnn.Embedding(7, 4, **F64)
    with pytest.raises(ValueError, match="tied_linear: activation is 'gelu'; it must be"):
        xrnn.TiedLinear(words, activation="gelu")  # type: ignore[arg-type]
    tied = xrnn.TiedLinear(words)
    with pytest.raises(ValueError, match=r"hs has shape \(2, 3\); it must be \(…, I\) with I = 4"):
        tied(np.ones((2, 3)))
    with pytest.raises(TypeError, match="hs is float32 and E is float64"):
        tied(np.ones((2, 4), "float32"))
    with pytest.raises(TypeError, match="it must be the tape that forward returned"):
        tied.backward(None, np.ones((2, 7)))  # type: ignore[arg-type]
    _, tape = tied.forward(np.ones((2, 4)))
    with pytest.raises(ValueError, match="the tape was made by another part"):
        xrnn.TiedLinear(words).backward(tape, np.ones((2, 7)))
    with pytest.raises(ValueError, match="dy has shape"):
        tied.backward(tape, np.ones((2, 8)))
