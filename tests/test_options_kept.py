"""Layers with options in files, copies and pickles, and frozen: options and results stay."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import cells

XS = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")

#: layers by what makes them, with options of cells, of weights and of time
MADE: dict[str, Callable[..., Any]] = {
    "activations": lambda **o: xrnn.LSTM(
        3, 4, activations=[("hard_sigmoid", 1 / 6), ("scaled_tanh", 1.7, 0.6), "softsign"], **o
    ),
    "limits": lambda **o: xrnn.LSTM(3, 4, clip=0.5, cell_clip=0.25, **o),
    "gates": lambda **o: xrnn.LSTM(3, 4, coupled=True, peephole=True, **o),
    "sizes": lambda **o: xrnn.LSTM(3, (4, 5), proj_size=2, learn_state=True, **o),
    "norm": lambda **o: xrnn.LSTM(3, 4, layer_norm=True, reverse=True, **o),
    "norm of gates": lambda **o: xrnn.LSTM(3, 4, layer_norm="gates", peephole=True, **o),
    "noise": lambda **o: xrnn.LSTM(
        3, 4, 2, zoneout=(0.1, 0.2), recurrent_dropout=0.3, weight_drop=0.4, dropout=0.5, **o
    ),
    "gru": lambda **o: xrnn.GRU(3, 4, clip=0.5, layer_norm=True, zoneout=0.2, **o),
    "gru before": lambda **o: xrnn.GRU(
        3, 4, reset="before", activations=["hard_sigmoid", "relu"], recurrent_dropout=0.2, **o
    ),
    "rnn": lambda **o: xrnn.RNN(3, (4, 5), activations=["elu"], weight_drop=0.5, **o),
    "leaky": lambda **o: xrnn.Layer(cells.leaky_with(0.2, noise=0.1, potential=True), 3, 4, **o),
    "zoneout of any cell": lambda **o: xrnn.Layer(cells.with_zoneout(cells.MGU, 0.5), 3, 4, **o),
}
each = pytest.mark.parametrize("make", MADE.values(), ids=list(MADE))


def numbers(layer: Any) -> list[Any]:
    """What a layer computes, as arrays: inference, and a training step."""
    ys, state, tape = layer.forward(XS, seed=3)
    dxs, dstate, dweights = layer.backward(tape, np.ones_like(ys))
    return _flat((layer(XS), ys, state, dxs, dstate, *dweights.values()))


def _flat(found: Any) -> list[Any]:
    return [a for part in found for a in _flat(part)] if isinstance(found, tuple) else [found]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@each
def test_a_file(tmp_path: Path, make: Any) -> None:
    layer = make(rng=0)
    xrnn.save(tmp_path / "m", layer)
    other = make(rng=1)
    assert other.config() == layer.config()
    assert_same(numbers(xrnn.load(tmp_path / "m", other)), numbers(layer))


@each
def test_a_file_fits_no_layer_with_other_options(tmp_path: Path, make: Any) -> None:
    layer = make(rng=0)
    for other in MADE.values():
        wrong = other(rng=1)
        if other is make:
            continue
        before = {name: w.copy() for name, w in wrong.weights.items()}
        xrnn.save(tmp_path / "m", layer)
        with pytest.raises(ValueError, match="another configuration than the part") as caught:
            xrnn.load(tmp_path / "m", wrong)
        text = f"cell is {layer.cell.identity!r} in the file, {wrong.cell.identity!r} here"
        assert text in str(caught.value)
        assert all(np.array_equal(wrong.weights[name], w) for name, w in before.items())


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ({"cell_clip": 10.0}, {}, "cell is 'lstm(cell_clip=10.0)' in the file, 'lstm' here"),
        ({}, {"zoneout": (0.1, 0.2)}, "'lstm' in the file, 'zoneout(lstm, 0.1, 0.2)' here"),
        (
            {"proj_size": 2},
            {"proj_size": 3},
            "lstm(proj_size=2)' in the file, 'lstm(proj_size=3)'",
        ),
        (
            {"activations": [("elu", 1 / 3)] * 3, "layer_norm": "gates", "clip": 1.0},
            {"activations": [("elu", 1 / 3)] * 3, "layer_norm": "products", "clip": 1.0},
            "clip=1.0, layer_norm=products)' here",
        ),
        ({"peephole": True}, {}, "cell is 'peephole' in the file, 'lstm' here"),
        ({"weight_drop": 0.5}, {}, "weight_drop is 0.5 in the file, 0.0 here"),
        ({}, {"weight_drop": 0.5}, "weight_drop is 0.0 in the file, 0.5 here"),
        ({}, {"learn_state": True}, "learn_state is False in the file, True here"),
        ({"hidden_size": (4, 5)}, {"num_layers": 2}, "hidden_size is [4, 5] in the file, 4 here"),
    ],
    ids=str,
)
def test_the_message_names_the_option(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], words: str
) -> None:
    usual = {"input_size": 3, "hidden_size": 4}
    xrnn.save(tmp_path / "m", xrnn.LSTM(**usual | there))
    with pytest.raises(ValueError, match="another configuration") as caught:
        xrnn.load(tmp_path / "m", xrnn.LSTM(**usual | here))
    assert words in str(caught.value)


@each
@pytest.mark.parametrize(
    "form", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deep", "pickle"]
)
def test_a_copy(make: Any, form: Any) -> None:
    layer = make(rng=0)
    ys, _, tape = layer.forward(XS, seed=3)
    twin, again = form((layer, tape))
    assert twin.cell is layer.cell
    assert repr(twin) == repr(layer)
    assert_same(numbers(twin), numbers(layer))
    assert_same(_flat(twin.backward(again, ys)[:2]), _flat(layer.backward(tape, ys)[:2]))
    twin.weights["W_l0"] = twin.weights["W_l0"] + 1
    assert_same(numbers(layer), numbers(make(rng=0)))


@each
def test_frozen(make: Any) -> None:
    expected = make(rng=0)
    for layer in (make(rng=0).freeze(), copy.deepcopy(make(rng=0).freeze())):
        assert layer.weights.frozen
        assert_same(numbers(layer), numbers(expected))
        if not layer.reverse:
            state = layer.step(XS[0])[1]
            found, steps = (one.step(XS[1], state) for one in (layer, expected))
            assert_same(_flat(found), _flat(steps))


def test_a_pickle_in_another_process(tmp_path: Path) -> None:
    layers = [make(rng=0) for make in MADE.values()]
    (tmp_path / "layers").write_bytes(pickle.dumps([(one, XS, one(XS)[0]) for one in layers]))
    code = """if True:
        import pathlib, pickle, sys
        for layer, xs, ys in pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()):
            assert (layer(xs)[0] == ys).all(), layer
            print(layer.cell.identity)
    """
    command = [sys.executable, "-c", code, str(tmp_path / "layers")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [one.cell.identity for one in layers]
