"""`from_torch` and `to_torch` with prefixes and trees of parts; what their messages advise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.convert import from_torch, to_torch


def tree(rng: int) -> dict[str, Any]:
    """Parts of a model; equal but for their random weights."""
    encoder = {"emb": xrnn.Embedding(7, 3, rng=rng), "rnn": xrnn.GRU(3, 5, rng=rng)}
    return {"encoder": encoder, "out": xrnn.Linear(5, 2, rng=rng)}


def weights(parts: Any) -> Any:
    """The numbers of all parts."""
    if isinstance(parts, dict):
        return {name: weights(part) for name, part in parts.items()}
    return {name: w.tolist() for name, w in parts.weights.items()}


class TestTrees:
    def test_names_are_those_of_the_modules(self) -> None:
        assert list(to_torch(tree(0))) == [
            "encoder.emb.weight",
            *(f"encoder.rnn.{name}" for name in to_torch(xrnn.GRU(3, 5))),
            "out.weight",
            "out.bias",
        ]

    def test_there_and_back(self) -> None:
        mine, theirs = tree(0), tree(1)
        taken = from_torch(mine, to_torch(theirs))
        assert weights(mine) == weights(theirs)
        assert taken.keys() == mine.keys()
        assert taken["encoder"]["rnn"].keys() == mine["encoder"]["rnn"].weights.keys()
        assert taken["out"]["W"] is mine["out"].weights["W"]

    def test_gradients(self) -> None:
        mine = tree(0)
        before = weights(mine)
        names = {name: np.ones_like(a) for name, a in to_torch(mine).items()}
        taken = from_torch(mine, names, gradients=True)
        assert weights(mine) == before
        back = to_torch(mine, taken)
        assert back.keys() == names.keys()
        assert all((a == 1).all() for a in back.values())

    def test_a_sequential(self) -> None:
        """Its parts have the names of torch.nn.Sequential: their numbers."""
        parts = (xrnn.Embedding(7, 3), xrnn.LayerNorm(3), xrnn.Dropout(0.5), xrnn.Linear(3, 2))
        model, other = (
            xrnn.Sequential(*parts),
            xrnn.Sequential(xrnn.Embedding(7, 3, rng=1), *parts[1:]),
        )
        names = to_torch(model)
        assert list(names) == ["0.weight", "1.weight", "1.bias", "3.weight", "3.bias"]
        from_torch({"model": other}, {f"model.{name}": a for name, a in names.items()})
        np.testing.assert_array_equal(other.weights["0"]["E"], model.weights["0"]["E"])
        tokens = np.zeros((4, 2), int)
        dweights = model.backward(model.forward(tokens, seed=0)[1], np.ones((4, 2, 2), "float32"))[
            1
        ]
        assert to_torch(model, dweights).keys() == names.keys()

    @pytest.mark.parametrize("faulty", ["encoder.emb.weight", "encoder.rnn.bias_hh_l0", "out.bias"])
    def test_all_or_nothing(self, faulty: str) -> None:
        mine = tree(0)
        before = weights(mine)
        for value in (np.ones(3), np.full_like(to_torch(mine)[faulty], 1e300, "float64"), None):
            with pytest.raises((ValueError, TypeError), match=faulty.rpartition(".")[0]):
                from_torch(mine, {**to_torch(tree(1)), faulty: value})
            assert weights(mine) == before

    def test_frozen_parts_are_found_before_anything_is_changed(self) -> None:
        mine = tree(0)
        mine["out"].freeze()
        before = weights(mine)
        with pytest.raises(TypeError, match="linear: the weights are frozen"):
            from_torch(mine, to_torch(tree(1)))
        assert weights(mine) == before

    def test_one_part_under_two_names(self) -> None:
        layer = xrnn.Linear(3, 3)
        names = to_torch({"a": xrnn.Linear(3, 3, rng=1)})
        both = names | {name.replace("a.", "b."): a for name, a in names.items()}
        from_torch({"a": layer, "b": layer}, both)
        np.testing.assert_array_equal(layer.weights["W"], names["a.weight"])
        with pytest.raises(ValueError, match="a and b are one part here, and have diff"):
            from_torch({"a": layer, "b": layer}, both | {"b.weight": names["a.weight"] + 1})
        np.testing.assert_array_equal(layer.weights["W"], names["a.weight"])

    def test_wrong_trees(self) -> None:
        linear = xrnn.Linear(3, 3)
        wrong: Any
        for wrong in ({"a": None}, {"a": {"b": xrnn.LSTM}}, {"a": {}}, {"a": [linear]}):
            with pytest.raises(TypeError, match="it must be a Layer, an Embedding or a Linear"):
                to_torch(wrong)
        with pytest.raises(TypeError, match="layer has the name 3; names of parts must be str"):
            to_torch({3: linear})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match=r"two parts with the name 'a\.b'"):
            from_torch({"a": {"b": linear}, "a.b": xrnn.Linear(3, 3)}, {})
        with pytest.raises(ValueError, match="missing or unknown: a, b; layer has a"):
            to_torch({"a": linear}, {"b": dict(linear.weights)})
        with pytest.raises(TypeError, match="tree is a int; it must be a mapping of names"):
            to_torch({"a": linear}, 3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="a: missing or unknown: b; the layer has W, b"):
            to_torch({"a": linear}, {"a": {"W": linear.weights["W"]}})


class TestPrefixes:
    @pytest.mark.parametrize("prefix", ["net.lstm", "net.lstm."])
    def test_only_what_begins_with_it_is_taken(self, prefix: str) -> None:
        layer, other = xrnn.LSTM(3, 5, rng=0), xrnn.LSTM(3, 5, rng=1)
        names: dict[Any, Any] = to_torch({"net": {"lstm": other, "out": xrnn.Linear(5, 2)}})
        from_torch(layer, names | {3: None, "epoch": 7, "net.lstm2.x": 1}, prefix)
        assert weights(layer) == weights(other)

    def test_of_a_tree(self) -> None:
        mine, theirs = tree(0), tree(1)
        from_torch(mine["encoder"], to_torch({"model": theirs}), prefix="model.encoder")
        assert weights(mine["encoder"]) == weights(theirs["encoder"])

    def test_a_wrong_one(self) -> None:
        names = to_torch({"lstm": xrnn.LSTM(3, 5)})
        with pytest.raises(ValueError, match=r"no names begin with 'rnn\.'; .* lstm\.weight_ih_l0"):
            from_torch(xrnn.LSTM(3, 5), names, "rnn")
        with pytest.raises(TypeError, match="prefix is 3; it must be a str"):
            from_torch(xrnn.LSTM(3, 5), names, 3)  # type: ignore[arg-type]


def lstm(**options: Any) -> dict[str, Any]:
    return to_torch(xrnn.LSTM(3, 5, **options))


#: what is given → (the layer's options, the names, the advice)
ADVICE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a prefix": (
        {},
        to_torch({"lstm": xrnn.LSTM(3, 5)}),
        r"start with 'lstm\.'; say prefix='lstm'",
    ),
    "two prefixes": (
        {},
        to_torch({"a": xrnn.LSTM(3, 5), "b": xrnn.LSTM(3, 5)}),
        r"start with 'a\.' or 'b\.'; say prefix='a'",
    ),
    "no bias": ({}, lstm(bias=False), "there are no biases; make the layer with bias=False"),
    "a bias": ({"bias": False}, lstm(), "make the layer with bias=True$"),
    "both ways": ({}, lstm(bidirectional=True), "make the layer with bidirectional=True$"),
    "one way": ({"bidirectional": True}, lstm(), "make the layer with bidirectional=False$"),
    "two layers": ({}, lstm(num_layers=2), "make the layer with num_layers=2$"),
    "one layer": ({"num_layers": 2}, lstm(), "make the layer with num_layers=1$"),
    "a projection": ({}, lstm(proj_size=2), "make the layer with proj_size=…$"),
    "much": (
        {},
        lstm(num_layers=3, bidirectional=True, bias=False),
        "make the layer with bias=False, bidirectional=True, num_layers=3$",
    ),
}


@pytest.mark.parametrize("how", ADVICE)
def test_advice(how: str) -> None:
    options, names, advice = ADVICE[how]
    with pytest.raises(ValueError, match=advice):
        from_torch(xrnn.LSTM(3, 5, **options), names)


def test_advice_in_a_tree() -> None:
    mine = {"rnn": xrnn.GRU(3, 5), "out": xrnn.Linear(5, 2)}
    names = to_torch({"rnn": xrnn.GRU(3, 5, 2), "out": xrnn.Linear(5, 2, bias=False)})
    with pytest.raises(ValueError, match=r"make rnn with num_layers=2; .* no biases of out; make"):
        from_torch(mine, names)
    with pytest.raises(ValueError, match=r"start with 'm\.'; say prefix='m'"):
        from_torch(mine, {f"m.{name}": a for name, a in to_torch(mine).items()})


@pytest.mark.parametrize("path", ["weights.pt", Path("weights.pt")], ids=repr)
def test_a_path_is_for_load_torch(path: Any) -> None:
    with pytest.raises(TypeError, match=r"is a path, 'weights\.pt'; .*\.load_torch reads"):
        from_torch(xrnn.LSTM(3, 5), path)
