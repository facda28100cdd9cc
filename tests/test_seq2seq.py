"""Sequences from sequences: gradients of whole models, greedy writing, and what is refused."""

from __future__ import annotations

import copy
import pickle
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get

F64: Any = {"dtype": "float64"}
V, T1, T2, B = 7, 5, 4, 3
RNG = np.random.default_rng(0)
SOURCES, TARGETS = RNG.integers(0, V, (T1, B)), RNG.integers(0, V, (T2, B))
LENGTHS, ENDS = [5, 2, 0], [4, 1, 3]


def model(
    cell: Any = xrnn.GRU,
    *,
    layers: Any = MappingProxyType({}),
    both: bool = False,
    attention: Any = "general",
    tied: bool = True,
    dropout: float = 0.3,
    **how: Any,
) -> Any:
    """Tokens to tokens, with dropout before the readout."""
    how = F64 | how
    where = {name: how[name] for name in ("dtype", "device") if name in how}
    order = {"batch_first": how.get("batch_first", False)}
    words = xrnn.Embedding(V, 3, rng=0, **where)
    H = layers.get("hidden_size", 2)
    D = 2 if both else 1
    wide = tuple(D * n for n in H) if isinstance(H, tuple) else D * H
    last = wide[-1] if isinstance(wide, tuple) else wide
    more = {k: v for k, v in layers.items() if k != "hidden_size"}
    size = 3 if attention else last
    reading = attention and xrnn.Attention(last, last, 3, score=attention, rng=3, **order, **where)
    out = xrnn.TiedLinear(words) if tied and attention else xrnn.Linear(size, V, rng=4, **where)
    return xrnn.Seq2Seq(
        source=words,
        encoder=cell(3, H, bidirectional=both, rng=1, **more, **how),
        target=xrnn.Sequential(words=words, drop=xrnn.Dropout(dropout)),
        decoder=cell(3, wide, rng=2, **more, **how),
        attention=reading or None,
        readout=xrnn.Sequential(drop=xrnn.Dropout(dropout), out=out),
    )


def loss_of(one: Any, **how: Any) -> Any:
    """A loss of all valid logits."""
    v = np.random.default_rng(1).normal(size=(T2, B, V))
    if "target_lengths" in how:
        v *= (np.arange(T2)[:, None] < how["target_lengths"])[:, :, None]

    def f(weights: Any) -> Any:
        y, tape = one.forward(SOURCES, TARGETS, seed=5, **how)
        return (y * v).sum(), one.backward(tape, v)[1]

    return f


MODELS: dict[str, dict[str, Any]] = {
    "GRU": {},
    "GRU, dot": {"attention": "dot", "tied": False},
    "GRU, no attention": {"attention": None},
    "LSTM, both directions": {"cell": xrnn.LSTM, "both": True},
    "LSTM, two layers": {
        "cell": xrnn.LSTM,
        "both": True,
        "layers": {"num_layers": 2, "dropout": 0.2},
    },
    "GRU, layers of different sizes": {"layers": {"hidden_size": (3, 2)}, "both": True},
    "RNN, different sizes": {"cell": xrnn.RNN, "layers": {"hidden_size": (3, 2)}},
}
every_model = pytest.mark.parametrize("options", MODELS.values(), ids=list(MODELS))


@every_model
@pytest.mark.parametrize("how", [{}, {"lengths": LENGTHS, "target_lengths": ENDS}])
def test_gradients(options: Any, how: Any) -> None:
    one = model(**options)
    verdict = xrnn.check_gradients(loss_of(one, **how), one.weights, raises=True)
    names = [c.name for c in verdict.comparisons]
    assert [name for name in names if name.endswith(".E")] == ["source.E"]
    assert {name.split(".")[0] for name in names} <= {*one.parts}


def test_the_projection_of_an_lstm() -> None:
    """The outputs have another size than c, and both directions of both states are joined."""
    one = xrnn.Seq2Seq(
        source=xrnn.Embedding(V, 3, rng=0, **F64),
        encoder=xrnn.LSTM(3, 4, proj_size=2, bidirectional=True, rng=1, **F64),
        target=xrnn.Embedding(V, 3, rng=2, **F64),
        decoder=xrnn.LSTM(3, 8, proj_size=4, rng=3, **F64),
        attention=xrnn.Attention(4, rng=4, **F64),
        readout=xrnn.Linear(4, V, rng=5, **F64),
    )
    assert xrnn.check_gradients(loss_of(one, lengths=LENGTHS), one.weights, raises=True).ok


@every_model
def test_every_library(options: Any, device: str) -> None:
    backend, one = get(device), model(**options, device=device)
    given = [backend.from_host(a) for a in (SOURCES, TARGETS)]
    y, tape = one.forward(*given, LENGTHS, ENDS, seed=5)
    none, dweights = one.backward(tape, y)
    assert none is None
    same = model(**options)
    expected, other = same.forward(SOURCES, TARGETS, LENGTHS, ENDS, seed=5)
    _, wanted = same.backward(other, expected)
    np.testing.assert_allclose(backend.to_host(y), expected, rtol=1e-11, atol=1e-13)
    found = backend.to_host(dweights["source"]["E"])
    np.testing.assert_allclose(found, wanted["source"]["E"], rtol=1e-10, atol=1e-12)
    tokens, ends = one.generate(given[0], start=0, stop=1, longest=6, lengths=LENGTHS)
    theirs, same_ends = same.generate(SOURCES, start=0, stop=1, longest=6, lengths=LENGTHS)
    np.testing.assert_array_equal(backend.to_host(tokens), theirs)
    np.testing.assert_array_equal(ends, same_ends)


@every_model
def test_batch_first(options: Any) -> None:
    one, other = model(**options), model(**options, batch_first=True)
    assert other.batch_first
    other.weights = {  # copies of the same
        name: copy.deepcopy(part) for name, part in one.weights.items()
    }
    y = one(SOURCES, TARGETS, LENGTHS, ENDS)
    turned = other(SOURCES.T.copy(), TARGETS.T.copy(), LENGTHS, ENDS)
    np.testing.assert_allclose(turned.swapaxes(0, 1), y, rtol=1e-12)
    tokens, ends = one.generate(SOURCES, start=0, stop=1, longest=5, lengths=LENGTHS)
    theirs, same = other.generate(SOURCES.T.copy(), start=0, stop=1, longest=5, lengths=LENGTHS)
    np.testing.assert_array_equal(theirs.T, tokens)
    np.testing.assert_array_equal(same, ends)


def test_vectors_in_and_out() -> None:
    """A forecast: the sources and targets are vectors, and the sources have a gradient."""
    one = xrnn.Seq2Seq(
        encoder=xrnn.GRU(2, 3, rng=0, **F64),
        decoder=xrnn.GRU(1, 3, rng=1, **F64),
        attention=xrnn.Attention(3, rng=2, **F64),
        readout=xrnn.Linear(3, 1, rng=3, **F64),
    )
    targets, v = RNG.normal(size=(T2, B, 1)), RNG.normal(size=(T2, B, 1))

    def f(tree: Any) -> Any:
        y, tape = one.forward(tree["sources"], targets, LENGTHS)
        dsources, dweights = one.backward(tape, v)
        return (y * v).sum(), {"sources": dsources, "weights": dweights}

    sources = RNG.normal(size=(T1, B, 2))
    tree = {"sources": sources, "weights": one.weights}
    assert xrnn.check_gradients(f, tree, raises=True).ok
    with pytest.raises(ValueError, match="generate writes tokens, and there is no target"):
        one.generate(sources, start=0, stop=1, longest=3)


def test_padding_is_not_read() -> None:
    one = model(dropout=0.0)
    y, tape = one.forward(SOURCES, TARGETS, LENGTHS, ENDS)
    valid = (np.arange(T2)[:, None] < ENDS)[:, :, None]
    sources = np.where(np.arange(T1)[:, None] < LENGTHS, SOURCES, 10**6)
    targets = np.where(valid[:, :, 0], TARGETS, -5)
    again, other = one.forward(sources, targets, LENGTHS, ENDS)
    np.testing.assert_array_equal(np.where(valid, again, 0), np.where(valid, y, 0))
    for mine, theirs in zip(
        flat(one.backward(tape, y * valid)), flat(one.backward(other, y * valid)), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(one(sources, targets, LENGTHS, ENDS), y)


def flat(tree: Any) -> list[Any]:
    if isinstance(tree, tuple):
        return flat(tree[1])
    return [a for v in tree.values() for a in flat(v)] if isinstance(tree, dict) else [tree]


def test_one_sequence_without_an_axis_of_the_batch() -> None:
    one = model(xrnn.LSTM, both=True, dropout=0.0)
    y, tape = one.forward(SOURCES[:, 0], TARGETS[:, 0])
    np.testing.assert_allclose(y, one(SOURCES[:, :1], TARGETS[:, :1])[:, 0], rtol=1e-13)
    found = one.backward(tape, y)[1]
    expected, other = one.forward(SOURCES[:, :1], TARGETS[:, :1])
    for a, b in zip(flat(found), flat(one.backward(other, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    with pytest.raises(ValueError, match=r"sources has shape \(5,\); it must be \(T1, B, …\) to"):
        one.generate(SOURCES[:, 0], start=0, stop=1, longest=3)


def test_what_is_written_is_what_is_most_likely() -> None:
    """Token by token the same as from the logits of all that was written before."""
    one = model(xrnn.LSTM, both=True)
    tokens, ends = one.generate(SOURCES, start=0, stop=1, longest=6, lengths=LENGTHS)
    written = np.full((1, B), 0)
    for t in range(6):
        choice = one(SOURCES, written, LENGTHS)[-1].argmax(axis=-1)
        for b in range(B):
            if t < ends[b]:
                assert tokens[t, b] == choice[b] != 1
            elif t == ends[b] < 6:
                assert choice[b] == 1
        written = np.concatenate([written, choice[None]])
    assert all((tokens[ends[b] :, b] == 1).all() for b in range(B))
    assert len(tokens) == max(ends)
    none, ends = one.generate(SOURCES[:, :0], start=0, stop=1, longest=3)
    assert none.shape == (0, 0)


@pytest.mark.parametrize("form", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies(form: Any) -> None:
    one = model(xrnn.LSTM, both=True)
    y, tape = one.forward(SOURCES, TARGETS, LENGTHS, seed=1)
    twin, other = form((one, tape))
    mine, theirs = one.backward(tape, y)[1], twin.backward(other, y)[1]
    np.testing.assert_array_equal(mine["source"]["E"], theirs["source"]["E"])
    assert twin.config() == one.config()
    assert twin.config()["parts"]["target"]["parts"]["words"] == {
        "kind": "shared",
        "path": ["source"],
    }
    twin.freeze()
    np.testing.assert_array_equal(twin(SOURCES, TARGETS), one(SOURCES, TARGETS))


def test_learns_to_reverse() -> None:
    """Digits of unequal lengths, backwards; 10 starts and ends the targets."""
    rng, size = np.random.default_rng(0), 24
    words = xrnn.Embedding(11, size, rng=0)
    one = xrnn.Seq2Seq(
        source=words,
        encoder=xrnn.GRU(size, size, bidirectional=True, rng=1),
        target=words,
        decoder=xrnn.GRU(size, 2 * size, rng=2),
        attention=xrnn.Attention(2 * size, 2 * size, size, rng=3),
        readout=xrnn.TiedLinear(words),
    )
    optimizer = xrnn.optim.Adam(0.01)
    for _ in range(300):
        sources, lengths, answers = reversals(rng, 32)
        targets = np.concatenate([np.full((1, 32), 10), answers[:-1]])
        logits, tape = one.forward(sources, targets, lengths, lengths + 1)
        counted = np.arange(len(answers))[:, None] <= lengths
        _, dlogits = xrnn.losses.softmax_cross_entropy(logits, answers, counted)
        optimizer.update(one.weights, one.backward(tape, dlogits)[1])
    sources, lengths, answers = reversals(np.random.default_rng(1), 100)
    tokens, ends = one.generate(sources, start=10, stop=10, longest=7, lengths=lengths)
    right = [
        ends[b] == n and (tokens[:n, b] == answers[:n, b]).all() for b, n in enumerate(lengths)
    ]
    assert np.mean(right) > 0.9


def reversals(rng: Any, count: int) -> tuple[Any, Any, Any]:
    """Sources (6, B), their lengths, and the answers (7, B), which end with 10."""
    lengths = rng.integers(1, 7, count)
    sources, answers = rng.integers(0, 10, (6, count)), np.full((7, count), 10)
    for b, n in enumerate(lengths):
        answers[:n, b] = sources[:n, b][::-1]
    return sources, lengths, answers


def parts(**changes: Any) -> dict[str, Any]:
    return {
        "encoder": xrnn.GRU(3, 4),
        "decoder": xrnn.GRU(3, 4),
        "readout": xrnn.Linear(4, 2),
    } | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": xrnn.Linear(3, 4)}, "encoder is a Linear; it must be a recurrent layer"),
        ({"decoder": None}, "decoder is a NoneType; it must be a recurrent layer"),
        ({"decoder": xrnn.GRU(3, 4, reverse=True)}, "it must run forward"),
        ({"decoder": xrnn.GRU(3, 2, bidirectional=True)}, "it must run forward"),
        ({"decoder": xrnn.GRU(3, 4, batch_first=True)}, "both must have the same"),
        ({"decoder": xrnn.LSTM(3, 4)}, "decoder h, c in 1; the decoder starts from"),
        ({"decoder": xrnn.GRU(3, 4, 2)}, "decoder h in 2; the decoder starts from"),
        ({"decoder": xrnn.GRU(3, 5)}, r"have \(5,\) units; they must have 1·\(4,\) = \(4,\)"),
        (
            {"encoder": xrnn.GRU(3, 4, bidirectional=True)},
            r"they must have 2·\(4,\) = \(8,\), those of encoder in both directions",
        ),
        ({"attention": xrnn.Last()}, r"attention is a Last; it must be an xrnn\.Attention"),
        ({"attention": xrnn.Attention(4, 3)}, "they must be 4 and 4, the sizes of the outputs"),
        ({"attention": xrnn.Attention(4, batch_first=True)}, "attention has batch_first=True"),
        ({"source": 3}, "seq2seq: source is int; it must be a part"),
        ({"readout": None}, "seq2seq: readout is a NoneType; it must be a part"),
    ],
)
def test_what_is_refused(changes: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        xrnn.Seq2Seq(**parts(**changes))


def test_wrong_tapes_and_numbers() -> None:
    one, other = model(), model()
    y, tape = one.forward(SOURCES, TARGETS, seed=0)
    with pytest.raises(ValueError, match="the tape was made by another model"):
        other.backward(tape, y)
    with pytest.raises(TypeError, match="it must be the tape that forward returned"):
        one.backward(None, y)
    with pytest.raises(ValueError, match="needs an integer, another one at every training step"):
        one.forward(SOURCES, TARGETS)
    for odd in ({"start": -1}, {"stop": 1.5}, {"longest": 0}):
        with pytest.raises((TypeError, ValueError), match=f"seq2seq: {next(iter(odd))} is"):
            one.generate(SOURCES, **{"start": 0, "stop": 1, "longest": 3} | odd)
