"""Products with second derivatives: of parts and losses, against PyTorch, and what they obey."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from test_second_order import distance, dot, vector_like

import xrnn
from xrnn import losses

T, B, I, H = 5, 3, 3, 4
LENGTHS = [5, 0, 3]
RNG = np.random.default_rng(7)
XS, TARGETS = RNG.normal(size=(T, B, I)), RNG.normal(size=(T, B, H))


def squared(ys: Any) -> Any:
    return losses.squared_error(ys, TARGETS, lengths=LENGTHS)


def moved(weights: Any, vector: Any, e: float) -> None:
    """Move the weights of a tree by e · vector."""
    for name in weights:
        if hasattr(weights[name], "items"):
            moved(weights[name], vector[name], e)
        else:
            weights[name] = weights[name] + e * vector[name]


def by_differences(f: Any, part: Any, vector: Any, e: float = 1e-4) -> Any:
    """The derivative of f(part) along a direction of its weights, of fourth order."""

    def at(step: float) -> Any:
        other = deepcopy(part)
        moved(other.weights, vector, step)
        return f(other)

    def joined(parts: list[Any]) -> Any:
        if hasattr(parts[0], "items"):
            return {name: joined([part[name] for part in parts]) for name in parts[0]}
        return (8 * (parts[0] - parts[1]) - (parts[2] - parts[3])) / (12 * e)

    return joined([at(e), at(-e), at(2 * e), at(-2 * e)])


def gradient(part: Any, inputs: Any, loss: Any, how: Any) -> Any:
    y, *_, tape = part.forward(*inputs, **how)
    return part.backward(tape, loss(y)[1])[-1]


def _sequential(*parts: Any) -> Any:
    return xrnn.Sequential(*parts)


W: Any = {"dtype": "float64", "rng": 0}
TOKENS = np.array([[1, 2, 0], [3, 4, 4], [5, 6, 1], [0, 1, 2], [2, 2, 6]])
#: part, inputs, further arguments
PARTS: dict[str, tuple[Any, Any, Any]] = {
    "linear": (xrnn.Linear(I, H, activation="softplus", **W), (XS,), {}),
    "norm": (xrnn.LayerNorm(I, dtype="float64"), (XS,), {}),
    "attention pooling": (xrnn.AttentionPooling(I, **W), (XS,), {"lengths": LENGTHS}),
    "attention": (xrnn.Attention(I, **W), (XS, XS[::-1]), {"lengths": LENGTHS}),
    "dot attention": (xrnn.Attention(I, score="dot", **W), (XS, XS[::-1]), {"lengths": LENGTHS}),
    "tagger": (
        _sequential(xrnn.Embedding(7, I, **W), xrnn.LSTM(I, H, **W), xrnn.Linear(H, 2, **W)),
        (TOKENS,),
        {"lengths": LENGTHS},
    ),
    "dropped": (
        _sequential(xrnn.GRU(I, H, 2, dropout=0.4, **W), xrnn.Dropout(0.3), xrnn.Linear(H, 2, **W)),
        (XS,),
        {"seed": 3},
    ),
    "few states": (
        _sequential(xrnn.LSTM(I, H, 2, dropout=0.4, **W), xrnn.GRU(H, H, bidirectional=True, **W)),
        (XS,),
        {"seed": 3, "lengths": LENGTHS, "checkpoint": 2},
    ),
    "few states, no seed": (xrnn.LSTM(I, H, 2, **W), (XS,), {"checkpoint": "sqrt"}),
    "last": (_sequential(xrnn.GRU(I, H, **W), xrnn.Last()), (XS,), {"lengths": LENGTHS}),
    "mean": (_sequential(xrnn.GRU(I, H, **W), xrnn.Mean()), (XS,), {"lengths": LENGTHS}),
    "max": (_sequential(xrnn.GRU(I, H, **W), xrnn.Max()), (XS,), {"lengths": LENGTHS}),
    "residual": (
        _sequential(
            xrnn.Residual(xrnn.LayerNorm(I, dtype="float64"), xrnn.LSTM(I, I, **W)),
            xrnn.GRU(I, H, bidirectional=True, **W),
            xrnn.Merge("mul"),
        ),
        (XS,),
        {"lengths": LENGTHS},
    ),
    "merged": (
        _sequential(xrnn.RNN(I, H, bidirectional=True, **W), xrnn.Merge("max")),
        (XS,),
        {},
    ),
}


def _tied() -> tuple[Any, Any, Any]:
    words = xrnn.Embedding(7, H, **W)
    return (_sequential(words, xrnn.GRU(H, H, **W), xrnn.TiedLinear(words)), (TOKENS,), {})


def _translator() -> tuple[Any, Any, Any]:
    words = xrnn.Embedding(7, I, **W)
    model = xrnn.Seq2Seq(
        source=words,
        encoder=xrnn.GRU(I, 2, bidirectional=True, **W),
        target=words,
        decoder=xrnn.GRU(I, 4, **W),
        attention=xrnn.Attention(4, 4, 3, **W),
        readout=xrnn.TiedLinear(words),
    )
    return (model, (TOKENS, TOKENS[1:3]), {"lengths": LENGTHS})


PARTS |= {"tied": _tied(), "seq2seq": _translator()}


@pytest.mark.parametrize("name", PARTS)
def test_of_every_part(name: str) -> None:
    part, inputs, how = PARTS[name]
    xs, vector = inputs if len(inputs) > 1 else inputs[0], vector_like(part.weights)

    def loss(y: Any) -> Any:
        return (y**4).sum() / 4, y**3

    found = xrnn.jvp(part, xs, vector, **how)
    # A recurrent layer returns its state too.
    outputs, tangents = (one[0] if isinstance(one, tuple) else one for one in found)
    expected = by_differences(lambda p: p.forward(*inputs, **how)[0], part, vector)
    assert distance(tangents, expected) < 1e-9
    np.testing.assert_allclose(outputs, part.forward(*inputs, **how)[0], rtol=1e-12, atol=1e-14)
    product = xrnn.hvp(part, xs, loss, vector, **how)
    expected = by_differences(lambda p: gradient(p, inputs, loss, how), part, vector)
    assert distance(product, expected) < 1e-7
    other = vector_like(part.weights, seed=1)
    opposite = dot(vector, xrnn.hvp(part, xs, loss, other, **how))
    np.testing.assert_allclose(dot(other, product), opposite, rtol=1e-10, atol=1e-12)


CLASSES = np.array([[0, 1, 3], [2, 2, 2], [1, 0, 1], [3, 3, 0], [2, 1, 1]])
SHARES = np.exp(TARGETS) / np.exp(TARGETS).sum(-1, keepdims=True)
MASK = RNG.random((T, B)) < 0.7
SEQUENCE_LOSSES: dict[str, Any] = {
    "squared": squared,
    "squared, none": lambda y: losses.squared_error(y, TARGETS, MASK, reduction="none"),
    "huber": lambda y: losses.huber(y, TARGETS, delta=0.5),
    "quantile": lambda y: losses.quantile(y, TARGETS, level=(0.1, 0.5, 0.5, 0.9)),
    "binary": lambda y: losses.binary_cross_entropy(20 * y, SHARES, pos_weight=2.0),
    "classes": lambda y: losses.softmax_cross_entropy(y, CLASSES, MASK),
    "weighted classes": lambda y: losses.softmax_cross_entropy(
        y, CLASSES, class_weights=[1, 2, 0, 1], label_smoothing=0.1, ignore_index=3
    ),
    "distribution": lambda y: losses.softmax_cross_entropy(y, SHARES, lengths=LENGTHS),
    "ctc": lambda y: losses.ctc(y, np.array([[1, 2], [3, 3], [2, 1]]), LENGTHS, [2, 0, 1]),
    "NumPy": lambda y: (np.sum(np.log1p(np.exp(y))), 1 / (1 + np.exp(-y))),
    "methods": lambda y: ((y**4).sum() / 4, np.ones(H) * y**3),
    "standard": lambda y: (y.sum(), y.__array_namespace__().tanh(y)),
    "linear": lambda y: ((y * TARGETS).sum(), TARGETS),
}


@pytest.mark.parametrize("name", SEQUENCE_LOSSES)
def test_of_every_loss(name: str) -> None:
    loss, layer = SEQUENCE_LOSSES[name], xrnn.GRU(I, H, **W)
    vector = vector_like(layer.weights)
    product = xrnn.hvp(layer, XS, loss, vector)
    expected = by_differences(lambda p: gradient(p, (XS,), loss, {}), layer, vector)
    assert distance(product, expected) < 1e-8
    assert name == "ctc" or dot(vector, xrnn.gnvp(layer, XS, loss, vector)) >= 0


@pytest.mark.parametrize("kind", ["RNN", "ReLU", "LSTM", "GRU"])
def test_against_the_double_backward_pass_of_torch(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    how = {"nonlinearity": "relu"} if kind == "ReLU" else {}
    name = "RNN" if kind == "ReLU" else kind
    layer = getattr(xrnn, name)(I, H, 2, bidirectional=True, **how, **W)
    module = getattr(torch.nn, name)(I, H, 2, bidirectional=True, dtype=torch.float64, **how)
    vector = vector_like(layer.weights)
    along = deepcopy(layer)
    along.weights = vector
    weights, directions = (
        {k: torch.as_tensor(a) for k, a in xrnn.convert.to_torch(one).items()}
        for one in (layer, along)
    )
    xs, targets = torch.as_tensor(XS), torch.as_tensor(np.concatenate([TARGETS] * 2, axis=-1))

    def outputs(*values: Any) -> Any:
        return torch.func.functional_call(module, dict(zip(weights, values, strict=True)), xs)[0]

    def loss(*values: Any) -> Any:
        return (torch.tanh(outputs(*values) - targets) ** 2).sum()

    given = tuple(weights.values()), tuple(directions[k] for k in weights)
    _, dys = torch.autograd.functional.jvp(outputs, *given)
    _, product = torch.autograd.functional.hvp(loss, *given)

    def mine(ys: Any) -> Any:
        gap = np.tanh(ys - np.concatenate([TARGETS] * 2, axis=-1))
        return (gap**2).sum(), 2 * gap * (1 - gap**2)

    assert distance(xrnn.jvp(layer, XS, vector)[1][0], dys.numpy()) < 1e-12
    gradients = {k: p.numpy() for k, p in zip(weights, product, strict=True)}
    expected = xrnn.convert.from_torch(layer, gradients, gradients=True)
    assert distance(xrnn.hvp(layer, XS, mine, vector), expected) < 1e-11
