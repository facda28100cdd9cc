"""What the parts of a file of Keras are not: layers that are skipped, and notes on the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_models import H, I, Model, write_by_layers, write_by_objects

from xrnn.convert import load_keras

pytest.importorskip("h5py", reason="h5py reads the files of Keras")

LSTM = Model("LSTM", "3.15.1")
OWN = "a class of the user: the file does not hold its code"
ORDER = "the file does not say the order of the layers, and what is computed between them"


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **config}}


def lstm(name: str = "lstm", **how: Any) -> dict[str, Any]:
    found = LSTM.layer() | how
    found["config"]["name"] = name
    return found


def model(*layers: dict[str, Any]) -> dict[str, Any]:
    return layer("Sequential", "model", layers=list(layers))


def whole(path: Path, *layers: dict[str, Any]) -> Any:
    """What is loaded of a .keras file of LSTMs and of layers without weights."""
    arrays: dict[str, Any] = {}
    for n in range(sum(one["class_name"] == "LSTM" for one in layers)):
        end = f"_{n}" if n else ""
        arrays |= {p.replace("lstm/", f"lstm{end}/"): w for p, w in LSTM.objects().items()}
    write_by_objects(path, arrays, LSTM.version, model(*layers))
    return load_keras(path)


# ---- Classes of the user


@pytest.mark.parametrize(
    ("module", "registered"),
    [
        (None, "me>LSTM"),
        (None, "LSTM"),
        ("my.layers", "LSTM"),
        ("keras_hub.src.layers", "LSTM"),
        ("keras.layers", "me>LSTM"),
    ],
)
def test_a_class_of_the_user_with_the_name_of_one_of_keras(
    module: Any, registered: str, tmp_path: Path
) -> None:
    path, own = tmp_path / "model.keras", lstm(module=module, registered_name=registered)
    with pytest.raises(ValueError, match=rf"has no layer LSTM.*; lstm: it is LSTM, {OWN}"):
        whole(path, own)
    loaded = whole(path, own, lstm("other", module="keras.layers", registered_name=None))
    assert list(loaded) == ["other"]
    assert OWN in loaded.skipped["lstm"]
    assert len(loaded.unused) == 3
    both = layer("Bidirectional", "both", layer=own, merge_mode="concat")
    cell = layer("RNN", "rnn", cell=own | {"class_name": "LSTMCell"})
    loaded = whole(path, lstm("other"), both, cell)
    assert list(loaded) == ["other"]
    assert loaded.skipped["both"].startswith("it runs LSTM (a class of the user); it must be LSTM")
    assert loaded.skipped["rnn"].startswith("it runs LSTMCell (a class of the user); it must")


@pytest.mark.parametrize("module", ["keras", "keras.src.layers.rnn.lstm", "tf_keras.layers"])
@pytest.mark.parametrize("registered", [None, "LSTM", "keras>LSTM"])
def test_the_modules_of_keras(module: str, registered: Any, tmp_path: Path) -> None:
    one = lstm(module=module, registered_name=registered)
    assert list(whole(tmp_path / "model.keras", one)) == ["lstm"]


def test_a_registered_class_in_a_file_without_modules(tmp_path: Path) -> None:
    path, old = tmp_path / "model.h5", Model("LSTM", "2.4.0")
    dense = [("dense/kernel:0", np.zeros((H, 2))), ("dense/bias:0", np.zeros(2))]
    for kind in ("me>LSTM", "Custom>Dense", "MyLSTM", "ConvLSTM1D"):
        own = lstm("own") | {"class_name": kind}
        layers = {"own": old.weight_names(), "dense": dense}
        config = model(own, layer("Dense", "dense", activation="linear", units=2))
        write_by_layers(path, layers, old.version, config)
        loaded = load_keras(path)
        assert list(loaded) == ["dense"]
        assert kind in loaded.skipped["own"]
        write_by_layers(path, {"own": old.weight_names()}, old.version, model(own))
        with pytest.raises(ValueError, match=f"; own: it (is|runs) {kind}"):
            load_keras(path)


# ---- Layers between the parts


def test_layers_that_compute_something(tmp_path: Path) -> None:
    others = ["Lambda", "Rescaling", "ReLU", "Softmax", "Flatten", "GlobalMaxPooling1D", "Add"]
    layers = [layer(kind, f"a_{kind}") for kind in others]
    act = layer("Activation", "act", activation="softmax")
    each = layer("TimeDistributed", "each", layer=layer("Activation", "in", activation="relu"))
    loaded = whole(tmp_path / "model.keras", lstm(), *layers, act, each)
    assert [*loaded.skipped] == [*(f"a_{kind}" for kind in others), "act", "each"]
    for kind in others:
        why = f"it is {kind}: compute it where the model has it"
        assert loaded.skipped[f"a_{kind}"] == why
    assert "Activation of 'softmax'" in loaded.skipped["act"]
    assert "Activation of 'relu'" in loaded.skipped["each"]


def test_layers_that_change_nothing(tmp_path: Path) -> None:
    kinds = ["InputLayer", "Masking", "Dropout", "SpatialDropout1D", "GaussianDropout", "NotEqual"]
    layers = [layer(kind, f"a_{kind}") for kind in kinds]
    act = layer("Activation", "act", activation="linear")
    assert not whole(tmp_path / "model.keras", *layers, act, lstm()).skipped


def test_a_recurrent_layer_of_each_step(tmp_path: Path) -> None:
    path, old = tmp_path / "model.h5", Model("LSTM", "2.4.0")
    each = layer("TimeDistributed", "each", layer=old.layer())
    write_by_layers(path, {"each": old.weight_names()}, old.version, model(each))
    assert load_keras(path).notes["each"][-1].startswith("TimeDistributed: Keras runs the layer on")


# ---- Initial states


def tensor(name: str, n: int = 0) -> dict[str, Any]:
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, n]}}


STATES = [tensor("enc", 1), tensor("enc", 2)]
OLD = [["xs", 0, 0, {}], ["enc", 0, 1, {}], ["enc", 0, 2, {}]]
CALLS: dict[str, tuple[Any, str]] = {
    "keyword": ([{"args": [tensor("xs")], "kwargs": {"initial_state": STATES}}], "enc"),
    "position": ([{"args": [tensor("xs"), STATES], "kwargs": {}}], "enc"),
    "one tensor": ([{"args": [tensor("xs")], "kwargs": {"initial_state": tensor("h")}}], "h"),
    "one of two calls": (
        [
            {"args": [tensor("xs")], "kwargs": {"training": False, "mask": tensor("m")}},
            {"args": [tensor("xs")], "kwargs": {"initial_state": [tensor("a"), tensor("b")]}},
        ],
        "a, b",
    ),
    "none": ([{"args": [tensor("xs")], "kwargs": {"initial_state": None}}], ""),
    "only a mask": ([{"args": [tensor("xs"), None, tensor("m")], "kwargs": {}}], ""),
    "Keras 2": ([OLD], "enc"),
    "Keras 2, one input": ([OLD[:1]], ""),
    "Keras 2, two calls": ([OLD[:1], OLD[1:2]], ""),
    "tf.keras": ([[["xs", 0, 0, {"initial_state": [["enc", 0, 1], ["enc", 0, 2]]}]]], "enc"),
    "tf.keras, flat": ([["xs", 0, 0, {"initial_state": [["enc", 0, 1]]}]], "enc"),
    "tf.keras, none": ([[["xs", 0, 0, {"initial_state": None}]]], ""),
    "Keras 1": ([[["xs", 0, 0]]], ""),
}


@pytest.mark.parametrize(("calls", "sources"), CALLS.values(), ids=[*CALLS])
def test_initial_states(calls: Any, sources: str, tmp_path: Path) -> None:
    loaded = whole(tmp_path / "model.keras", lstm(inbound_nodes=calls))
    notes = [note for note in loaded.notes["lstm"] if "initial state" in note]
    wanted = [f"its initial state comes from {sources}: give state"] * bool(sources)
    assert notes == wanted


def test_the_initial_state_of_other_layers(tmp_path: Path) -> None:
    path, calls = tmp_path / "model.h5", CALLS["keyword"][0]
    both = Model("LSTM", "3.15.1", bidirectional=True)
    rnn = layer("RNN", "rnn", cell=LSTM.layer() | {"class_name": "LSTMCell"})
    for one, weights in ((both.layer(), both.weight_names()), (rnn, LSTM.weight_names())):
        name, given = one["config"]["name"], one | {"inbound_nodes": calls}
        write_by_layers(path, {name: weights}, LSTM.version, model(given))
        assert "its initial state comes from enc: give state" in load_keras(path).notes[name]


# ---- Weights alone


def test_the_order_of_weights_alone(tmp_path: Path) -> None:
    path, n = tmp_path / "model.weights.h5", 12
    ends = [f"_{k}" if k else "" for k in range(n)]
    arrays: dict[str, Any] = {}
    for k, end in enumerate(ends):
        for p, w in LSTM.objects().items():
            arrays[p.replace("lstm/", f"lstm{end}/")] = np.full_like(w, k)
    write_by_objects(path, arrays)
    loaded = load_keras(path, "sigmoid")
    assert [part.weights["W_l0"][0, 0] for part in loaded.values()] == [*range(n)]
    assert all(ORDER in notes for notes in loaded.notes.values())
    write_by_objects(path, LSTM.objects())
    assert ORDER not in load_keras(path, "sigmoid").notes["lstm"]
    # Files by layers list them in their order.
    weights = [(name, array) for name, array in LSTM.weight_names()]
    renamed = [(name.replace("lstm/", "a/", 1), array) for name, array in weights]
    write_by_layers(path, {"lstm": weights, "a": renamed}, "3.15.1")
    assert not any(ORDER in notes for notes in load_keras(path, "sigmoid").notes.values())


def test_a_bidirectional_of_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    assumed = "the outputs are joined by merge_mode='concat'"
    for kind in ("LSTM", "SimpleRNN"):
        both = Model(kind, "3.15.1", bidirectional=True)
        write_by_objects(path, both.objects())
        ((_, *notes),) = load_keras(path, "sigmoid").notes.values()
        what = f"tanh in both directions, and that {assumed}"
        assert notes == [f"the file has no configuration; assumed: {what}"]
    cudnn = Model("CuDNNGRU", "2.4.0", bidirectional=True)
    ((_, note),) = load_keras(cudnn.save(path, whole=False)).notes.values()
    assert note == f"the file has no configuration; assumed: that {assumed}"


# ---- The function of a Dense


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "softplus", "softmax", "linear", None])
def test_the_function_of_a_dense(name: Any, tmp_path: Path) -> None:
    path, weights = tmp_path / "model.h5", [("dense/kernel:0", np.ones((I, 2)))]
    config = model(layer("Dense", "dense", activation=name, units=2))
    write_by_layers(path, {"dense": weights}, "2.4.0", config)
    loaded = load_keras(path)
    known = name in ("relu", "tanh", "sigmoid", "softplus")
    assert loaded["dense"].activation == (name if known else None)
    noted = ["'softmax' follows: apply it to the outputs"] * (name == "softmax")
    assert loaded.notes["dense"] == noted
