"""Every public part in a file, and parts of parts that share weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import xrnn
from xrnn.backends import backend_of, get
from xrnn.convert import files
from xrnn.convert.parts import CLASSES
from xrnn.learn.trees import leaves

V, T1, T2, B, H = 7, 5, 4, 3, 4
RNG = np.random.default_rng(0)
SOURCES, TARGETS = RNG.integers(0, V, (T1, B)), RNG.integers(0, V, (T2, B))
XS, YS = RNG.normal(size=(T1, B, H)), RNG.normal(size=(T2, B, H))
LENGTHS = [5, 2, 0]


def tied(words: Any, rng: int, **how: Any) -> Any:
    """A tied map with a bias that is not zero."""
    one = xrnn.TiedLinear(words, **how)
    bias = np.random.default_rng(rng).normal(size=words.num_embeddings)
    one.weights["bias"]["b"] = bias.astype(words.dtype)
    return one


def language_model(rng: int, **how: Any) -> Any:
    """Tokens in, logits of tokens out, with one table for both."""
    words = xrnn.Embedding(V, H, rng=rng, **how)
    norm = xrnn.LayerNorm(H, **how)
    return xrnn.Sequential(
        words=words,
        block=xrnn.Residual(norm, rnn=xrnn.GRU(H, H, rng=rng + 1, **how), again=norm),
        out=xrnn.Sequential(xrnn.Dropout(0.2), tied=tied(words, rng, activation="relu")),
    )


def translator(rng: int, score: Any = "general", **how: Any) -> Any:
    """Tokens to tokens, with one table for all."""
    words = xrnn.Embedding(V, H, rng=rng, **how)
    return xrnn.Seq2Seq(
        source=words,
        encoder=xrnn.LSTM(H, H, 2, bidirectional=True, dropout=0.2, rng=rng + 1, **how),
        target=xrnn.Sequential(words=words, drop=xrnn.Dropout(0.2)),
        decoder=xrnn.LSTM(H, 2 * H, 2, rng=rng + 2, **how),
        attention=xrnn.Attention(2 * H, 2 * H, H, score=score, rng=rng + 3, **how),
        readout=tied(words, rng),
    )


class Row(NamedTuple):
    """How a part is made, with a seed, and called."""

    make: Callable[..., Any]
    given: tuple[Any, ...] = (XS,)


F64: Any = {"dtype": "float64"}

EVERY: dict[str, Row] = {
    "RNN": Row(lambda rng: xrnn.RNN(H, H, nonlinearity="relu", rng=rng, **F64)),
    "LSTM": Row(lambda rng: xrnn.LSTM(H, H, 2, bidirectional=True, rng=rng, **F64)),
    "GRU": Row(lambda rng: xrnn.GRU(H, (H, 5), rng=rng, **F64)),
    "InputGatedLSTM": Row(lambda rng: xrnn.InputGatedLSTM(H, H, rng=rng, **F64)),
    "Layer": Row(lambda rng: xrnn.Layer(xrnn.cells.PeepholeLSTM, H, H, rng=rng, **F64)),
    "Embedding": Row(lambda rng: xrnn.Embedding(V, H, padding_idx=1, rng=rng), (SOURCES,)),
    "Linear": Row(lambda rng: xrnn.Linear(H, 2, activation="relu", rng=rng, **F64)),
    "LayerNorm": Row(lambda rng: xrnn.LayerNorm(H, eps=1e-3, **F64)),
    "Dropout": Row(lambda rng: xrnn.Dropout(0.5)),
    "Last": Row(lambda rng: xrnn.Last(batch_first=True)),
    "Last, both ends": Row(lambda rng: xrnn.Last(both_ends=True)),
    "Mean": Row(lambda rng: xrnn.Mean()),
    "Max": Row(lambda rng: xrnn.Max()),
    "Merge": Row(lambda rng: xrnn.Merge("mul")),
    "AttentionPooling": Row(lambda rng: xrnn.AttentionPooling(H, 3, rng=rng, **F64)),
    "Attention": Row(lambda rng: xrnn.Attention(H, H, 2, rng=rng, **F64), (YS, XS, LENGTHS)),
    "Attention, dot": Row(
        lambda rng: xrnn.Attention(H, score="dot", batch_first=True, rng=rng, **F64),
        (YS[:3], XS[:3]),
    ),
    "TiedLinear": Row(lambda rng: tied(xrnn.Embedding(V, H, rng=rng, **F64), rng)),
    "TiedLinear without bias": Row(
        lambda rng: xrnn.TiedLinear(
            xrnn.Embedding(V, H, rng=rng, **F64), activation="tanh", bias=False
        )
    ),
    "Sequential": Row(language_model, (SOURCES, None, LENGTHS)),
    "Residual": Row(
        lambda rng: xrnn.Residual(xrnn.LayerNorm(H, **F64), xrnn.Linear(H, H, rng=rng, **F64))
    ),
    "Seq2Seq": Row(translator, (SOURCES, TARGETS, LENGTHS)),
    "Seq2Seq, dot": Row(lambda rng: translator(rng, "dot"), (SOURCES, TARGETS)),
    "Seq2Seq of vectors": Row(
        lambda rng: xrnn.Seq2Seq(
            encoder=xrnn.GRU(H, H, rng=rng, **F64),
            decoder=xrnn.GRU(H, H, rng=rng + 1, **F64),
            readout=xrnn.Linear(H, 2, rng=rng + 2, **F64),
        ),
        (XS, YS),
    ),
}


def test_every_public_part_is_in_the_table() -> None:
    members = ("weights", "config", "__call__", "forward", "backward", "to", "freeze")
    public = {
        one
        for one in vars(xrnn).values()
        if isinstance(one, type) and all(hasattr(one, member) for member in members)
    }
    assert {type(row.make(0)) for row in EVERY.values()} == public
    assert public < set(CLASSES.values())


def bits(weights: Any) -> dict[str, bytes]:
    """Path → bits of every array of a tree."""
    return {
        path: backend_of(holder[name]).to_host(holder[name]).tobytes()
        for path, holder, name in leaves(weights, "weights")
    }


def arrays(found: Any) -> list[Any]:
    """The outputs, and the states of a layer."""
    return [a for one in found for a in arrays(one)] if isinstance(found, tuple) else [found]


def check_same(here: Any, there: Any, given: tuple[Any, ...]) -> None:
    assert type(here) is type(there)
    assert here.config() == there.config()
    assert repr(here) == repr(there)
    assert bits(here.weights) == bits(there.weights)
    for a, b in zip(arrays(here(*given)), arrays(there(*given)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("row", EVERY.values(), ids=list(EVERY))
class TestEveryPart:
    def test_it_comes_back(self, tmp_path: Path, row: Row) -> None:
        here, other = row.make(0), row.make(50)
        xrnn.save(tmp_path / "m", here)
        check_same(here, xrnn.load(tmp_path / "m"), row.given)
        assert xrnn.load(tmp_path / "m", other) is other
        check_same(here, other, row.given)

    def test_within_others(self, tmp_path: Path, row: Row) -> None:
        """Twice in one part, and once more under a name."""
        one = row.make(0)
        xrnn.save(tmp_path / "m", {"whole": xrnn.Sequential(a=one, b=xrnn.Residual(one)), "c": one})
        found = xrnn.load(tmp_path / "m")
        parts = found["whole"].parts
        assert parts["a"] is parts["b"].parts["0"] is found["c"]
        check_same(one, found["c"], row.given)
        tensors, _ = files.read(tmp_path / "m")
        assert len(tensors) == len(bits(one.weights)), "each is stored once"


def test_what_is_shared_is_one_again(tmp_path: Path) -> None:
    model = translator(0)
    xrnn.save(tmp_path / "m", {"model": model, "words": model.parts["source"]})
    for found in (
        xrnn.load(tmp_path / "m"),
        xrnn.load(tmp_path / "m", {"model": (one := translator(9)), "words": one.parts["source"]}),
    ):
        words, parts = found["words"], found["model"].parts
        assert words is parts["source"] is parts["target"].parts["words"]
        assert words is parts["readout"].parts["embedding"]
        assert list(found["model"].weights) == list(model.weights)
        check_same(model, found["model"], (SOURCES, TARGETS, LENGTHS))
    readout = model.parts["readout"]
    parts = {"bias": readout.parts["bias"], "tied": readout, "words": model.parts["source"]}
    xrnn.save(tmp_path / "m", parts)
    alone = xrnn.load(tmp_path / "m")
    assert list(alone) == list(parts)
    assert alone["tied"].parts["bias"] is alone["bias"]
    assert alone["tied"].parts["embedding"] is alone["words"]


def test_in_another_dtype_and_library(tmp_path: Path, device: str) -> None:
    here = translator(0)
    xrnn.save(tmp_path / "m", here)
    wide = xrnn.load(tmp_path / "m", dtype="float64", device=device)
    filled = xrnn.load(tmp_path / "m", translator(9, **F64), cast=True)
    assert bits(wide.weights) == bits(filled.weights)
    backend = get(device)
    tokens = [backend.from_host(a) for a in (SOURCES, TARGETS)]
    expected = filled(SOURCES, TARGETS, LENGTHS)
    np.testing.assert_allclose(backend.to_host(wide(*tokens, LENGTHS)), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"source\.dtype is 'float32' in the file, 'float64' here"):
        xrnn.load(tmp_path / "m", translator(9, **F64))


def train(parts: dict[str, Any], first: int, last: int) -> None:
    """Steps of training, each with its own gradient of the logits and dropout."""
    for step in range(first, last):
        logits, tape = parts["model"].forward(SOURCES, TARGETS, LENGTHS, seed=step)
        v = np.random.default_rng(step).normal(size=logits.shape).astype(logits.dtype)
        _, dweights = parts["model"].backward(tape, v)
        parts["optimizer"].update(parts["model"].weights, dweights)


@pytest.mark.parametrize("make", [xrnn.optim.Adam, lambda: xrnn.optim.SGD(0.1, 0.9)])
def test_training_goes_on_bit_for_bit(tmp_path: Path, make: Any) -> None:
    here = {"model": translator(0), "optimizer": make()}
    train(here, 0, 3)
    xrnn.save(tmp_path / "m", here)
    alone = xrnn.load(tmp_path / "m")
    filled = xrnn.load(tmp_path / "m", {"model": translator(9), "optimizer": make()})
    for one in (here, alone, filled):
        train(one, 3, 6)
    for other in (alone, filled):
        assert bits(other["model"].weights) == bits(here["model"].weights)
        assert bits(other["optimizer"].state) == bits(here["optimizer"].state)


def test_other_configurations_are_refused(tmp_path: Path) -> None:
    words = xrnn.Embedding(V, H)
    xrnn.save(tmp_path / "m", xrnn.TiedLinear(words))
    for other, message in (
        (xrnn.TiedLinear(words, activation="relu"), "activation is None in the file, 'relu' here"),
        (xrnn.TiedLinear(words, bias=False), "bias is True in the file, False here"),
        (
            xrnn.TiedLinear(xrnn.Embedding(V, 5)),
            r"parts\.embedding\.embedding_dim is 4 in the file, 5",
        ),
        (xrnn.Linear(H, V), "kind is 'tied_linear' in the file, 'linear' here"),
    ):
        before = bits(other.weights)
        with pytest.raises(ValueError, match=message):
            xrnn.load(tmp_path / "m", other)
        assert bits(other.weights) == before
    xrnn.save(tmp_path / "m", translator(0))
    with pytest.raises(ValueError, match=r"attention\.score is 'general' in the file, 'dot' here"):
        xrnn.load(tmp_path / "m", translator(0, "dot"))
    frozen = translator(1).freeze()
    with pytest.raises(TypeError, match="the weights are frozen"):
        xrnn.load(tmp_path / "m", frozen)


def test_parts_that_are_one_here_must_be_equal_in_the_file(tmp_path: Path) -> None:
    def model(words: Any, other: Any) -> Any:
        return xrnn.Sequential(words=words, out=xrnn.TiedLinear(other, bias=False))

    two, one = [xrnn.Embedding(V, H, rng=rng) for rng in (0, 1)], xrnn.Embedding(V, H, rng=2)
    xrnn.save(tmp_path / "two", model(*two))
    before = bits(one.weights)
    message = r"words\.E and out\.embedding\.E are one weight here, and have different values"
    with pytest.raises(ValueError, match=message):
        xrnn.load(tmp_path / "two", model(one, one))
    assert bits(one.weights) == before
    xrnn.save(tmp_path / "one", model(one, one))
    xrnn.load(tmp_path / "one", model(*two))
    assert bits(two[0].weights) == bits(two[1].weights) == before


def test_a_part_of_ones_own_is_named(tmp_path: Path) -> None:
    class Scale:
        """A part that no file can hold."""

        weights: Any = {}  # noqa: RUF012

        def __call__(self, x: Any) -> Any:
            return x

        def forward(self, x: Any) -> Any:
            return x, None

        def backward(self, tape: Any, dy: Any) -> Any:
            return dy, {}

    rnn = xrnn.GRU(H, H)
    model = xrnn.Seq2Seq(encoder=rnn, decoder=rnn, readout=Scale())
    with pytest.raises(TypeError, match="whose 'readout' is a Scale; it must be a layer"):
        xrnn.save(tmp_path / "m", model)


def test_last_of_before(tmp_path: Path) -> None:
    """Files of versions without `both_ends` hold the one without it, and only that fills them."""
    old, both = xrnn.Last(), xrnn.Last(both_ends=True)
    assert old.config() == {"kind": "last", "batch_first": False}
    xrnn.save(tmp_path / "old", old)
    assert xrnn.load(tmp_path / "old").both_ends is False
    with pytest.raises(ValueError, match="both_ends is False in the file, True here"):
        xrnn.load(tmp_path / "old", both)
    xrnn.save(tmp_path / "both", both)
    assert xrnn.load(tmp_path / "both").both_ends is True
    with pytest.raises(ValueError, match="both_ends is True in the file, False here"):
        xrnn.load(tmp_path / "both", old)
