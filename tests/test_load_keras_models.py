"""Whole models of Keras: which arrays belong to which layer, in every layout of files."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.convert import load_keras, to_keras

pytest.importorskip("torch", reason="the oracle is Keras on PyTorch")
pytest.importorskip("h5py", reason="h5py reads the files of Keras")
if find_spec("keras") is None:  # `oracles.keras_layer` imports it, on PyTorch
    pytest.skip("the oracle is Keras", allow_module_level=True)

from oracles import keras_layer

#: on PyTorch, as `oracles.keras_layer` has told it
keras: Any = import_module("keras")
L: Any = keras.layers

pytestmark = pytest.mark.filterwarnings("ignore")

#: (V, I, T) of the models
V, I, T = 7, 2, 5


def gru(H: int, **how: Any) -> Any:
    """One whose arrays go there and back exactly, as it has one bias."""
    return L.GRU(H, reset_after=False, return_sequences=True, **how)


def lstm(H: int, **how: Any) -> Any:
    return L.LSTM(H, return_sequences=True, **how)


def several_of_a_class() -> Any:
    layers = [lstm(2, name="zebra"), gru(3), lstm(3, name="ape"), gru(2), L.LSTM(2, name="last")]
    return keras.Sequential([L.Input((T, I)), *layers, L.Dense(3, name="out"), L.Dense(2)])


def branches() -> Any:
    tokens, xs = L.Input((T,), name="tokens"), L.Input((T, I), name="xs")
    vectors = L.Embedding(V, 3, mask_zero=True, name="vectors")(tokens)
    a, b = lstm(2, name="one")(vectors), L.Bidirectional(gru(2), name="two")(xs)
    c = L.LayerNormalization()(L.Concatenate()([a, b]))
    d = L.TimeDistributed(L.Dense(4, activation="relu"), name="each")(c)
    e = L.Conv1D(3, 2, padding="same")(d)
    return keras.Model([tokens, xs], [L.SimpleRNN(2)(L.Dropout(0.1)(e)), d], name="branches")


def nested() -> Any:
    inner = keras.Sequential([L.Input((T, 3)), lstm(2, name="same"), L.Dense(3)], name="inner")
    other = keras.Sequential([L.Input((T, 3)), lstm(4, name="same2"), L.Dense(3)], name="other")
    first = L.Input((T, 3))
    middle = keras.Model(first, other(inner(first)), name="middle")
    xs = L.Input((T, I))
    return keras.Model(xs, L.LSTM(2, name="top")(middle(L.Dense(3, name="up")(xs))))


def stack() -> Any:
    cells = [L.LSTMCell(3), L.GRUCell(2, reset_after=False), L.LSTMCell(2, use_bias=False)]
    layers = [L.RNN(cells, return_sequences=True, name="stack"), L.RNN(L.SimpleRNNCell(2))]
    return keras.Sequential([L.Input((T, I)), *layers])


def shared() -> Any:
    layer, first, second = lstm(2, name="twice"), L.Input((T, I)), L.Input((T, I))
    return keras.Model([first, second], L.Add()([layer(first), layer(second)]))


def frozen() -> Any:
    layers = [lstm(2, trainable=False, name="fixed"), L.BatchNormalization(), lstm(2, name="free")]
    inner = keras.Sequential([L.Input((T, I)), *layers, L.Dense(3, trainable=False)], name="inner")
    return keras.Sequential([L.Input((T, I)), inner])


def compiled() -> Any:
    model = keras.Sequential([L.Input((T, I)), L.LSTM(2), L.Dense(1)])
    model.compile("adam", "mse")
    model.fit(np.zeros((4, T, I)), np.zeros((4, 1)), verbose=0)
    return model


def mixed() -> Any:
    layers = [lstm(2, dtype="mixed_float16"), L.Dense(2, dtype="mixed_bfloat16")]
    # Keras on PyTorch cannot draw an orthogonal matrix in 16 bits.
    how = {"return_sequences": True, "recurrent_initializer": "zeros"}
    layers += [L.LSTM(2, dtype=dtype, **how) for dtype in ("float16", "bfloat16")]
    return keras.Sequential([L.Input((T, I)), *layers])


def own_backward_layer() -> Any:
    ways = [L.LSTM(2, name="there"), L.LSTM(2, go_backwards=True, recurrent_dropout=0.1)]
    return keras.Sequential([L.Input((T, I)), L.Bidirectional(ways[0], backward_layer=ways[1])])


MODELS = [several_of_a_class, branches, nested, stack, shared, frozen]
MODELS += [compiled, mixed, own_backward_layer]


def parts_of(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The layers that can be loaded by the names of their parts."""
    for layer in model.layers:
        cells = getattr(getattr(layer, "cell", None), "cells", None)
        if isinstance(layer, keras.Model):
            yield from parts_of(layer, f"{prefix}{layer.name}/")
        elif cells is not None:
            yield from ((f"{prefix}{layer.name}/{cell.name}", cell) for cell in cells)
        elif isinstance(layer, L.RNN | L.Bidirectional | L.Dense | L.Embedding | L.TimeDistributed):
            yield f"{prefix}{layer.name}", layer


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_each_layer_gets_its_own_weights(make: Any, ending: str, tmp_path: Path) -> None:
    model = make()
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    path = tmp_path / f"model{ending}"
    (model.save_weights if ending == ".weights.h5" else model.save)(path)
    loaded = load_keras(path, "sigmoid" if ending == ".weights.h5" else None)
    layers = dict(parts_of(model))
    assert sorted(loaded) == sorted(layers)
    if ending != ".weights.h5":
        assert list(loaded) == list(layers)
    seen = sum(len(layer.get_weights()) for layer in layers.values())
    assert seen + len(loaded.unused) == len(model.get_weights())
    for name, layer in layers.items():
        for mine, theirs in zip(to_keras(loaded[name]), layer.get_weights(), strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)


class Subclass(keras.Model):  # type: ignore[misc]
    """Its layers are attributes, of which the file has no configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = lstm(3)
        self.both = L.Bidirectional(gru(2))
        # Two layers with the names that a Bidirectional gives to its own ones.
        self.forward_one, self.backward_one = lstm(2), lstm(2, go_backwards=True)
        self.layers_above = [lstm(2), lstm(2)]
        self.vectors, self.out = L.Embedding(V, I), L.Dense(2)

    def call(self, xs: Any) -> Any:
        xs = self.both(self.begin(self.vectors(xs)))
        xs = self.forward_one(xs) + self.backward_one(xs)
        return self.out(self.layers_above[1](self.layers_above[0](xs)))


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_a_model_of_a_class_of_the_user(ending: str, tmp_path: Path) -> None:
    model, path = Subclass(), tmp_path / f"model{ending}"
    model(np.zeros((1, T), "int32"))
    (model.save_weights if ending == ".weights.h5" else model.save)(path)
    with pytest.raises(
        ValueError, match=r"backward_one: the file .* no configuration, .* say recurrent"
    ):
        load_keras(path)
    loaded = load_keras(path, "sigmoid")
    # Keras lists all layers after the attributes whose names are in the alphabet before "layers".
    names = ("begin", "both", "forward_one", "backward_one")
    layers = {name: getattr(model, name) for name in names}
    layers |= {one.name: one for one in (*model.layers_above, model.vectors, model.out)}
    assert sorted(loaded) == sorted(layers)
    for name, layer in layers.items():
        for mine, theirs in zip(to_keras(loaded[name]), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_parts_compute_what_the_model_does(tmp_path: Path) -> None:
    """With a mask, as the notes say it."""
    tokens = L.Input((T,), dtype="int32")
    xs = L.Embedding(V, 4, mask_zero=True, name="vectors")(tokens)
    hs = L.Bidirectional(L.GRU(3, return_sequences=True), name="both")(xs)
    last = L.LSTM(3, name="last")(hs)
    logits = L.Dense(4, activation="softmax", name="out")(last)
    model, path = keras.Model(tokens, logits), tmp_path / "model.keras"
    model.save(path)
    parts = load_keras(path)
    assert "masked='zero'" in parts.notes["both"][-1]
    assert "masked='hold'" in parts.notes["last"][-1]
    assert parts.notes["out"] == ["'softmax' follows: apply it to the outputs"]
    given = np.random.default_rng(0).integers(0, V, (6, T)) * (np.arange(T) > 1)
    by_name: dict[str, Any] = {**parts}
    vectors, both_ways, end, readout = by_name.values()
    ys, _ = both_ways(vectors(given), mask=given != 0, masked="zero")
    ys, _ = end(ys, mask=given != 0, masked="hold")
    out = readout(ys[:, -1])
    softmax = np.exp(out) / np.exp(out).sum(-1, keepdims=True)
    np.testing.assert_allclose(softmax, model(given).detach().numpy(), 1e-5, 1e-5)


@keras.saving.register_keras_serializable("mine", name="LSTM")
class OwnLSTM(L.LSTM):  # type: ignore[misc]
    """A class of the user with the name of one of Keras."""


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_layer_of_a_class_of_the_user(ending: str, tmp_path: Path) -> None:
    layers = [OwnLSTM(2, return_sequences=True, name="own"), lstm(3, name="usual"), L.ReLU()]
    keras.Sequential([L.Input((T, I)), *layers]).save(tmp_path / f"model{ending}")
    loaded = load_keras(tmp_path / f"model{ending}")
    assert list(loaded) == ["usual"]
    assert list(loaded.skipped) == ["own", layers[-1].name]


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_the_initial_state_of_a_decoder(ending: str, tmp_path: Path) -> None:
    first, second = L.Input((T, I), name="first"), L.Input((T, I), name="second")
    _, h, c = L.LSTM(3, return_state=True, name="encoder")(first)
    ys = lstm(3, name="decoder")(second, initial_state=[h, c])
    model, path = keras.Model([first, second], ys), tmp_path / f"model{ending}"
    model.save(path)
    parts: Any = load_keras(path)
    assert "its initial state comes from encoder: give state" in parts.notes["decoder"]
    assert not any("initial" in note for note in parts.notes["encoder"])
    xs = np.random.default_rng(0).normal(size=(2, 4, T, I)).astype("float32")
    ys, _ = parts["decoder"](xs[1], parts["encoder"](xs[0])[1])
    np.testing.assert_allclose(ys, model([*xs]).detach().numpy(), 1e-5, 1e-5)


def test_a_sequential_goes_to_keras() -> None:
    own = xrnn.Sequential(
        xrnn.Embedding(V, I),
        xrnn.GRU(I, 3, bidirectional=True, batch_first=True),
        xrnn.Merge(),
        xrnn.LSTM(3, 4, batch_first=True),
        xrnn.Last(batch_first=True),
        xrnn.Linear(4, 2, activation="softplus"),
    )
    layers = [L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="sum"), L.LSTM(4)]
    layers = [L.Embedding(V, I), *layers, L.Dense(2, activation="softplus")]
    model = keras.Sequential([L.Input((T,)), *layers])
    model.set_weights(to_keras(own))
    tokens = np.random.default_rng(0).integers(0, V, (3, T))
    np.testing.assert_allclose(own(tokens), model(tokens).detach().numpy(), 1e-5, 1e-5)


@pytest.mark.parametrize("seed", range(60))
def test_a_random_layer_goes_to_keras(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = ["SimpleRNN", "LSTM", "GRU"][rng.integers(3)]
    names = list(keras_layer.FUNCTIONS)
    phi, sigma = names[rng.integers(len(names))], ("sigmoid", "hard_sigmoid")[rng.integers(2)]
    both, backward, bias, after = (bool(n) for n in rng.integers(2, size=4))
    reverse = backward and not both
    how: dict[str, Any] = {"activation": phi, "use_bias": bias, "return_sequences": True}
    activations = [keras_layer.FUNCTIONS[phi]]
    if kind != "SimpleRNN":
        activations = [keras_layer.FUNCTIONS[sigma], *activations * (1 + (kind == "LSTM"))]
        how["recurrent_activation"] = sigma
    own = {"reset": "after" if after else "before"} if kind == "GRU" else {}
    how |= {"reset_after": after} if kind == "GRU" else {}
    num, sizes = int(rng.integers(1, 4)), [int(n) for n in rng.integers(1, 5, 3)]
    Layer = {"SimpleRNN": xrnn.RNN, "LSTM": xrnn.LSTM, "GRU": xrnn.GRU}[kind]
    layer: Any = Layer(
        I,
        sizes[:num],
        activations=activations,
        bias=bias,
        bidirectional=both,
        reverse=reverse,
        batch_first=True,
        dropout=0.5 * (num > 1),
        dtype="float64",
        rng=rng,
        **own,
    )
    for name, w in layer.weights.items():
        layer.weights[name] = rng.normal(0, 0.5, w.shape)
    layers = [getattr(L, kind)(H, dtype="float64", **how) for H in sizes[:num]]
    layers[0].go_backwards = reverse
    layers = [L.Bidirectional(one, dtype="float64") for one in layers] if both else layers
    model = keras.Sequential([L.Input((T, I), dtype="float64"), *layers])
    model.set_weights(to_keras(layer))
    xs = rng.normal(size=(2, T, I))
    want = model(xs).detach().numpy()
    np.testing.assert_allclose(layer(xs)[0][:, :: -1 if reverse else 1], want, 1e-5, 1e-5)
