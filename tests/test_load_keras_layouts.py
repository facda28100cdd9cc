"""Models of several layers in files of older versions of Keras, which is not needed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_models import Array, Model, write_by_layers, write_by_objects

from xrnn.convert import load_keras, to_keras

h5py: Any = pytest.importorskip("h5py", reason="h5py reads the files of Keras")

Weights = list[tuple[str, Array]]

LSTM, GRU = (Model(kind, "2.4.0-tf") for kind in ("LSTM", "GRU"))


def named(model: Model, names: list[str]) -> Weights:
    """The arrays of a model under other names."""
    return list(zip(names, (array for _, array in model.weight_names()), strict=True))


def plain(owner: str, model: Model) -> Weights:
    return named(model, [f"{owner}/{w}:0" for w in ("kernel", "recurrent_kernel", "bias")])


def dense(owner: str, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return [(f"{owner}/kernel:0", rng.normal(size=(4, 2))), (f"{owner}/bias:0", rng.normal(size=2))]


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **config}}


def recurrent(model: Model, name: str) -> dict[str, Any]:
    found = model.layer()
    found["config"]["name"] = name
    return found


def sequential(name: str, *layers: dict[str, Any]) -> dict[str, Any]:
    return layer("Sequential", name, layers=list(layers))


def check(loaded: Any, **wanted: Weights) -> None:
    """The parts have these arrays."""
    assert list(loaded) == list(wanted)
    for name, weights in wanted.items():
        for mine, (_, theirs) in zip(to_keras(loaded[name]), weights, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_model_within_a_model_of_tf_keras(tmp_path: Path) -> None:
    """Arrays have the names of layers, and not of the models between; frozen ones are the last."""
    rnn, gru, out = plain("rnn/lstm_cell_3", LSTM), plain("gru", GRU), dense("out", 0)
    norm = [("norm/gamma:0", np.ones(4)), ("norm/moving_mean:0", np.zeros(4))]
    low = sequential("low", recurrent(LSTM, "rnn"), layer("BatchNormalization", "norm"))
    high = sequential("high", low, recurrent(GRU, "gru"))
    whole = sequential("whole", high, layer("Dense", "out", activation="linear"))
    path = tmp_path / "model.h5"
    layers = {"high": [*norm, *gru, *rnn], "out": out}
    write_by_layers(path, layers, "2.4.0", whole)
    loaded = load_keras(path)
    check(loaded, **{"high/low/rnn": rnn, "high/gru": gru, "out": out})
    assert [*loaded.unused] == [f"high/{name}" for name, _ in norm]
    write_by_layers(path, layers, "2.4.0")
    check(load_keras(path, "sigmoid"), **{"high/gru": gru, "high/rnn": rnn, "out": out})


def test_two_layers_of_one_name_in_models_within_a_model(tmp_path: Path) -> None:
    """Nothing in the file tells them apart."""
    parts = [sequential(name, recurrent(LSTM, "rnn")) for name in ("a", "b")]
    path = tmp_path / "model.h5"
    weights = plain("rnn", LSTM) + plain("rnn_1", LSTM)
    whole = sequential("whole", sequential("both", *parts))
    write_by_layers(path, {"both": weights}, "2.4.0", whole)
    with pytest.raises(ValueError, match="both/"):
        load_keras(path)


def test_arrays_without_names(tmp_path: Path) -> None:
    """As Keras wrote them with Theano; they are told by their order."""
    path = tmp_path / "model.h5"
    both = Model("LSTM", "2.0.0", bidirectional=True)
    one = Model("GRU", "2.0.0")
    old = Model("LSTM", "1.2.0", single_gates=True)
    for model in (both, one, old):
        weights = named(model, [f"param_{n}" for n in range(len(model.weight_names()))])
        name = "bidirectional" if model.bidirectional else model.kind.lower()
        write_by_layers(path, {name: weights}, model.version, model.model())
        (part,) = load_keras(path).values()
        xs = np.random.default_rng(0).normal(size=(2, 5, 3))
        ys: Any = part(xs)
        np.testing.assert_allclose(ys[0], model.outputs(xs), 0, 1e-12)


def test_a_long_list_of_arrays_is_in_pieces(tmp_path: Path) -> None:
    path = LSTM.save(tmp_path / "model.h5")
    with h5py.File(path, "a") as file:
        for group, name in (
            ("model_weights", "layer_names"),
            ("model_weights/lstm", "weight_names"),
        ):
            attributes = file[group].attrs
            for n, one in enumerate(attributes.pop(name)):
                attributes[f"{name}{n}"] = [one]
    assert list(load_keras(path)) == ["lstm"]


def test_a_model_of_keras_1(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    E, W, b = rng.normal(size=(7, 3)), rng.normal(size=(4, 2)), rng.normal(size=2)
    model, both = (
        Model("GRU", "1.2.2", single_gates=True),
        Model("LSTM", "1.2.2", bidirectional=True),
    )
    names = [(name.replace("lstm", "lstm_1"), array) for name, array in both.weight_names()]
    embedding, readout = [("embedding_1_W:0", E)], [("dense_1_W:0", W), ("dense_1_b:0", b)]
    layers = {"embedding_1": embedding, "gru": model.weight_names()}
    layers |= {"bidirectional_1": names, "dense_1": readout}
    inner = {**both.layer()["config"]["layer"]}
    inner["config"] |= {"name": "lstm_1"}
    wrapper = layer("Bidirectional", "bidirectional_1", layer=inner, merge_mode="concat")
    dense_1 = layer("TimeDistributedDense", "dense_1", activation="softmax", output_dim=2)
    config = [layer("Embedding", "embedding_1", output_dim=3, mask_zero=True), model.layer()]
    whole = {"class_name": "Sequential", "config": [*config, wrapper, dense_1]}
    path = tmp_path / "model.h5"
    for said in (None, "sigmoid"):
        # Before 1.0.8 files did not say their version.
        write_by_layers(path, layers, None, None if said else whole)
        loaded = load_keras(path, said)
        assert list(loaded) == ["embedding_1", "gru", "bidirectional_1", "dense_1"]
        assert not loaded.unused
        check({"e": loaded["embedding_1"], "d": loaded["dense_1"]}, e=embedding, d=readout)
        xs = rng.normal(size=(2, 5, 3))
        for name, one in (("gru", model), ("bidirectional_1", both)):
            ys: Any = loaded[name](xs)
            np.testing.assert_allclose(ys[0], one.outputs(xs), 0, 1e-12)
    assert load_keras(path, "hard_sigmoid")["gru"].cell.name.startswith(
        "gru(activations=[hard_sigmoid(0.2, 0.5), tanh], reset=before)"
    )


def test_names_of_keras_1_in_files_of_later_versions(tmp_path: Path) -> None:
    """A layer of the user may call its arrays W and b."""
    path = tmp_path / "weights.h5"
    mine = [("mine/mine_W:0", np.zeros((3, 4))), ("mine/mine_b:0", np.zeros(4))]
    write_by_layers(path, {"lstm": plain("lstm", LSTM), "mine": mine}, "2.1.5")
    loaded = load_keras(path, "sigmoid")
    assert list(loaded) == ["lstm"]
    assert list(loaded.unused) == ["mine/mine/mine_W:0", "mine/mine/mine_b:0"]


@pytest.mark.parametrize("holder", ["layers", "_layer_checkpoint_dependencies"])
def test_numbered_objects_of_tf_keras(holder: str, tmp_path: Path) -> None:
    """tf.keras 2.12 counts a layer twice if it has weights, and writes it once."""
    step = 2 if holder.startswith("_") else 1
    weights = {
        name: [(w, n + a) for w, a in plain("", LSTM)] for n, name in enumerate(["zebra", "ape"])
    }
    weights |= {f"d{n}": dense("", n) for n in range(2)}
    objects = ["lstm/cell", f"lstm_{step}/cell", "dense", f"dense_{step}"]
    arrays = {
        f"{holder}/{group}/vars/{n}": array
        for group, mine in zip(objects, weights.values(), strict=True)
        for n, (_, array) in enumerate(mine)
    }
    layers = [recurrent(LSTM, name) for name in ("zebra", "ape")]
    layers += [layer("Dense", f"d{n}", activation="relu") for n in range(2)]
    path = tmp_path / "model.keras"
    write_by_objects(path, arrays, "2.12.0", sequential("model", *layers))
    loaded = load_keras(path)
    check(loaded, **weights)
    assert not loaded.unused


def test_arrays_of_other_kinds(tmp_path: Path) -> None:
    """Big-endian numbers are taken over; what other layers hold is left as it is."""
    path = tmp_path / "model.h5"
    big = [(name, array.astype(">f4")) for name, array in LSTM.weight_names()]
    write_by_layers(path, {"lstm": big, "text": []}, "2.4.0", LSTM.model())
    with h5py.File(path, "a") as file:
        file["model_weights/text/words"] = ["a", "b"]
        file["model_weights/text/seed"] = 3
        file["model_weights/text/name"] = "a text"
        file["optimizer_weights/adam/step"] = 3.0
    loaded = load_keras(path)
    check(loaded, lstm=big)
    assert [w.dtype for w in loaded["lstm"].weights.values()] == ["float32"] * 3
    assert sorted(loaded.unused) == ["text/name", "text/seed", "text/words"]


def test_cells_that_are_not_of_keras(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    rnn = layer("RNN", "mine", cell=layer("MyCell", "cell"))
    both = layer("Bidirectional", "both", layer=layer("ConvLSTM1D", "conv"))
    arrays = {"mine": [("mine/w:0", np.zeros(3))], "both": []}
    write_by_layers(path, arrays, "2.4.0", sequential("model", rnn, both))
    with pytest.raises(ValueError, match=r"has no layer LSTM.*; mine: it runs MyCell; it must be"):
        load_keras(path)
    arrays["lstm"] = LSTM.weight_names()
    write_by_layers(path, arrays, "2.4.0", sequential("model", rnn, both, LSTM.layer()))
    loaded = load_keras(path)
    assert list(loaded) == ["lstm"]
    assert list(loaded.unused) == ["mine/mine/w:0"]
    assert loaded.skipped["both"] == "it runs ConvLSTM1D; it must be LSTM, GRU or SimpleRNN"


@pytest.mark.parametrize("name", ["forward_net", "backward_net"])
def test_a_bidirectional_whose_name_is_that_of_a_direction(name: str, tmp_path: Path) -> None:
    both = Model("LSTM", "2.4.0", bidirectional=True)
    weights = [(w.replace("bidirectional", name), array) for w, array in both.weight_names()]
    whole, path = both.model(), tmp_path / "model.h5"
    whole["config"]["layers"][0]["config"]["name"] = name
    write_by_layers(path, {name: weights}, "2.4.0", whole)
    check(load_keras(path), **{name: weights})


def test_notes(tmp_path: Path) -> None:
    options = {
        "stateful": "stateful: give every call the state",
        "time_major": "time_major: inputs and outputs are (T, B, …)",
        "dropout": "dropout of inputs and outputs, which acts in training alone",
        "go_backwards": "go_backwards: the layer has reverse=True",
        "dtype": "Keras computes in float16, and the part in the dtype",
    }
    config: dict[str, Any] = dict.fromkeys(options, True)
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    model = Model("LSTM", "2.4.0", config=config | {"dtype": policy, "return_sequences": False})
    loaded = load_keras(model.save(tmp_path / "model.h5"))
    part: Any = loaded["lstm"]
    assert part.reverse
    assert not part.batch_first
    read_as, *notes = loaded.notes["lstm"]
    assert read_as == "LSTM of Keras 2.4.0"
    text = "\n".join(notes)
    assert "return_sequences=False: Keras returns ys[0] alone" in text
    for note in options.values():
        assert note in text
    assert len(notes) == 1 + len(options)
    assert "LSTM of Keras 2.4.0" in repr(loaded)
