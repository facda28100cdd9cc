"""What `load_keras` refuses, and in which words; damaged files."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_models import H, I, Model, write_by_layers, write_by_objects

from xrnn.convert import load_keras

pytest.importorskip("h5py", reason="h5py reads the files of Keras")

LSTM, GRU, RNN = (Model(kind, "2.2.4") for kind in ("LSTM", "GRU", "SimpleRNN"))


def refused(path: Path, message: str, said: Any = None) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_keras(path, said)
    assert str(caught.value).startswith(f"{path}: ")


def changed(model: Model, folder: Path, **config: Any) -> Path:
    """A file of the model with something else in its configuration."""
    whole, path = model.model(), folder / "model.h5"
    whole["config"]["layers"][0]["config"] |= config
    write_by_layers(path, {whole_name(model): model.weight_names()}, model.version, whole)
    return path


def whole_name(model: Model) -> str:
    return "bidirectional" if model.bidirectional else model.kind.lower()


def load_or_refuse(path: Path) -> None:
    """A file is loaded, or refused with its name."""
    try:
        loaded = load_keras(path)
    except ValueError as error:
        if not str(error).startswith(f"{path}: "):
            raise
    else:
        assert all(w.shape for part in loaded.values() for w in part.weights.values())


# ---- What a file does not say


def test_weights_alone_do_not_say_the_recurrent_activation(tmp_path: Path) -> None:
    path = LSTM.save(tmp_path / "weights.h5", whole=False)
    refused(
        path,
        r"lstm: the file has weights but no configuration, .* \(it was written by Keras 2\.2\.4\); "
        r"say recurrent_activation='sigmoid', .* or 'hard_sigmoid'",
    )
    refused(GRU.save(tmp_path / "gru.h5", whole=False), "gru: the file has weights but no")
    assert list(load_keras(RNN.save(tmp_path / "rnn.h5", whole=False))) == ["simplernn"]


def test_arrays_by_objects_do_not_say_the_version(tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    write_by_objects(path, Model("LSTM", "3.0").objects())
    refused(path, r"by Keras of an unknown version")
    refused(path, r"say \('hard_sigmoid', 0\.2, 0\.5\) for Keras 1, 2", "hard_sigmoid")
    (layer,) = load_keras(path, ("hard_sigmoid", 0.2, 0.5)).values()
    assert layer.cell.name == "lstm(activations=[hard_sigmoid(0.2, 0.5), tanh, tanh])"


def test_weights_alone_of_a_gru_without_bias(tmp_path: Path) -> None:
    path = Model("GRU", "2.2.4", use_bias=False).save(tmp_path / "weights.h5", whole=False)
    refused(
        path,
        r"gru: .* no bias, so that nothing says whether .* xrnn\.convert\.from_arrays",
        "sigmoid",
    )


def test_a_recurrent_activation_against_the_file(tmp_path: Path) -> None:
    path = LSTM.save(tmp_path / "model.h5")
    refused(
        path,
        "lstm: recurrent_activation is 'hard_sigmoid'; the file says 'sigmoid'",
        "hard_sigmoid",
    )
    assert load_keras(path, "sigmoid")
    cudnn = Model("CuDNNLSTM", "2.1.5").save(tmp_path / "cudnn.h5", whole=False)
    refused(cudnn, "recurrent_activation is .* the file says 'sigmoid'", "hard_sigmoid")
    assert load_keras(cudnn)
    hard = Model("GRU", "3.1.0", recurrent_activation="hard_sigmoid").save(tmp_path / "hard.h5")
    refused(hard, r"says \('hard_sigmoid', 0\.166", ("hard_sigmoid", 0.2, 0.5))
    assert load_keras(hard, "hard_sigmoid")


@pytest.mark.parametrize(
    "given", ["Sigmoid", 3, ("hard_sigmoid", "x"), [], np.zeros(3), ("tanh", 1.0)]
)
def test_no_activation(given: Any, tmp_path: Path) -> None:
    path = LSTM.save(tmp_path / "weights.h5", whole=False)
    with pytest.raises((TypeError, ValueError), match=r"^load_keras: recurrent_activation is "):
        load_keras(path, given)


# ---- What xrnn has not

CONFIGURATIONS: dict[str, tuple[Model, dict[str, Any], str]] = {
    "gelu": (LSTM, {"activation": "gelu"}, "lstm: activation is 'gelu'; the cells of xrnn have"),
    "a function of the user": (
        GRU,
        {"recurrent_activation": {"class_name": "function", "config": "mine"}},
        "gru: recurrent_activation is 'mine'; the cells",
    ),
    "a layer as function": (
        RNN,
        {"activation": {"class_name": "PReLU", "config": {}}},
        "simplernn: activation is 'PReLU'; the cells",
    ),
    "a lambda": (
        LSTM,
        {"activation": {"class_name": "__lambda__", "config": {"code": "4wEAAA"}}},
        "lstm: activation is a lambda, of which the file has nothing but code, which",
    ),
    "a lambda of Keras 3": (
        RNN,
        {"activation": {"value": ["4wEAAA", None, None]}},
        "simplernn: activation is a lambda",
    ),
    "units": (LSTM, {"units": 5}, f"lstm: units is 5; its arrays have {H}"),
    "no bias": (
        LSTM,
        {"use_bias": False},
        "lstm: use_bias is False, and its arrays are lstm/lstm/k",
    ),
    "reset_after": (
        GRU,
        {"reset_after": True},
        rf"gru: .* shapes \({I}, 12\), \({H}, 12\), \(12,\); .* \(2, 3·H\)",
    ),
}


@pytest.mark.parametrize(
    ("model", "config", "message"), CONFIGURATIONS.values(), ids=[*CONFIGURATIONS]
)
def test_configurations(model: Model, config: Any, message: str, tmp_path: Path) -> None:
    refused(changed(model, tmp_path, **config), message)


def test_a_configuration_without_its_activation(tmp_path: Path) -> None:
    whole = LSTM.model()
    del whole["config"]["layers"][0]["config"]["recurrent_activation"]
    path = tmp_path / "model.h5"
    write_by_layers(path, {"lstm": LSTM.weight_names()}, "2.2.4", whole)
    refused(path, "lstm: its configuration does not say its recurrent_activation")


@pytest.mark.parametrize("mode", ["sum", "mul", "ave", None])
def test_merge_modes(mode: Any, tmp_path: Path) -> None:
    both = Model("LSTM", "2.2.4", bidirectional=True)
    refused(
        changed(both, tmp_path, merge_mode=mode), f"bidirectional: merge_mode is {mode!r}; it must"
    )


def test_ways_of_a_bidirectional(tmp_path: Path) -> None:
    both = Model("GRU", "2.2.4", bidirectional=True)
    inner = GRU.layer()
    other = {"class_name": "GRU", "config": inner["config"] | {"go_backwards": True}}
    assert load_keras(changed(both, tmp_path, backward_layer=other))
    for key, value in {"units": 9, "activation": "relu", "use_bias": False}.items():
        odd = {"class_name": "GRU", "config": other["config"] | {key: value}}
        refused(
            changed(both, tmp_path, backward_layer=odd), f"its backward_layer has another {key}"
        )
    odd = {"class_name": "LSTM", "config": other["config"]}
    refused(
        changed(both, tmp_path, backward_layer=odd), "its backward_layer has another class_name"
    )
    refused(changed(both, tmp_path, layer=other), "bidirectional: go_backwards is True within Bidi")
    cell = {"class_name": "StackedRNNCells", "config": {"cells": [LSTM.layer(), LSTM.layer()]}}
    stack = {"class_name": "RNN", "config": {"name": "rnn", "cell": cell}}
    refused(changed(both, tmp_path, layer=stack), "it runs a stack of 2 cells both ways")


def test_arrays_of_the_backward_direction_first(tmp_path: Path) -> None:
    both = Model("LSTM", "2.2.4", bidirectional=True)
    names = both.weight_names()
    path = tmp_path / "model.h5"
    for wrong in (names[3:] + names[:3], names[:5], names[:3]):
        write_by_layers(path, {"bidirectional": wrong}, "2.2.4", both.model())
        refused(
            path,
            "bidirectional: its arrays are .*; they must be those of the forward layer|must be k",
        )


def test_shapes(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    for n, shape in ((0, (I, 15)), (1, (H, 4 * H + 1)), (1, (4 * H, H)), (2, (2, 4 * H)), (2, ())):
        names = LSTM.weight_names()
        names[n] = (names[n][0], np.zeros(shape))
        write_by_layers(path, {"lstm": names}, "2.2.4", LSTM.model())
        refused(
            path, r"lstm: its arrays have the shapes .*; they must be \(I, 4·H\), \(H, 4·H\) and"
        )
    for names in (LSTM.weight_names()[:1], LSTM.weight_names()[1:], []):
        write_by_layers(path, {"lstm": names}, "2.2.4", LSTM.model())
        refused(path, "lstm: (its arrays are|use_bias is True, and|the file has no weights)")


def test_quantised_weights(tmp_path: Path) -> None:
    names = [(name, array.astype("int8")) for name, array in LSTM.weight_names()]
    path = tmp_path / "model.h5"
    write_by_layers(path, {"lstm": names}, "2.2.4", LSTM.model())
    refused(path, "lstm: lstm/lstm/kernel:0 is int8; it must be of floating-point numbers: save")


def test_numbered_objects_of_another_order(tmp_path: Path) -> None:
    """Newer files name the layers, so that a wrong order would be seen."""
    import h5py

    model, path = Model("LSTM", "3.15.1"), tmp_path / "model.keras"
    write_by_objects(path, model.objects(), model.version, model.model())
    assert list(load_keras(path)) == ["lstm"]
    stream = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
    with h5py.File(stream, "a") as file:
        file.create_group("layers/lstm/vars").attrs["name"] = "other"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(model.model()))
        archive.writestr("model.weights.h5", stream.getvalue())
    refused(path, "layers/lstm holds other; it must hold lstm, the next one of its class")


# ---- No files of Keras


def test_a_file_without_such_layers(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    conv = {"class_name": "Conv1D", "config": {"name": "conv"}}
    whole = {"class_name": "Sequential", "config": {"name": "s", "layers": [conv]}}
    write_by_layers(path, {"conv": [("conv/kernel:0", np.zeros((3, 2, 2)))]}, "2.2.4", whole)
    refused(path, "it has no layer LSTM, GRU, .*; its arrays are conv/conv/kernel:0")


def test_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    refused(folder, r"it is a folder; it must be an HDF5 file \(\.h5, \.hdf5\) or a \.keras file")
    (folder / "saved_model.pb").touch()
    refused(folder, r"it is a SavedModel of TensorFlow; .* model\.save\('model\.h5'\)")
    (tmp_path / "ckpt.index").touch()
    refused(tmp_path / "ckpt", "it is a checkpoint of TensorFlow; it must")
    refused(tmp_path / "ckpt.index", "it is a checkpoint of TensorFlow; it must")
    path = tmp_path / "model.h5"
    path.write_bytes(b"\x80\x04pickle")
    refused(path, "it begins with b'.x80.x04pickle'; it must be")
    path.write_bytes(b"")
    refused(path, "it begins with b''; it must be")
    with pytest.raises(FileNotFoundError, match=": no such file"):
        load_keras(tmp_path / "absent.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    refused(path, r"it is a zip file without config\.json; it must be")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.npz", b"")
    refused(path, r"it has no model\.weights\.h5; weights as pickles .* are refused")


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_damaged_files(ending: str, tmp_path: Path) -> None:
    """Files that are cut short; and zip files, which have a checksum, with changed bytes.  (At
    some changed bytes the HDF5 library itself does not return.)"""
    model, path = Model("LSTM", "3.15.1", bidirectional=True), tmp_path / f"model{ending}"
    if ending == ".h5":
        model.save(path)
    else:
        write_by_objects(path, model.objects(), model.version, model.model())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(len(whole), size=60):
        path.write_bytes(whole[:at])
        refused(path, "it is damaged|it begins with|it is a zip file without")
        if ending == ".keras":
            data = bytearray(whole)
            data[at] ^= 1 << rng.integers(8)
            path.write_bytes(data)
            load_or_refuse(path)


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [1], {"a": 1}], ids=repr)
def test_configurations_of_any_values(value: Any, tmp_path: Path) -> None:
    """Every value of a configuration in turn is replaced."""
    model = Model("LSTM", "2.2.4", bidirectional=True)
    path = tmp_path / "model.h5"
    for place in places(whole := model.model()):
        changed_ = json.loads(json.dumps(whole))
        *above, last = place
        inner = changed_
        for key in above:
            inner = inner[key]
        inner[last] = value
        write_by_layers(path, {"bidirectional": model.weight_names()}, "2.2.4", changed_)
        load_or_refuse(path)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys that lead to each value within a JSON value."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value if isinstance(value, list) else ())
    )
    return [(*above, k) for k, _ in items] + [p for k, v in items for p in places(v, (*above, k))]


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    import h5py

    names, path = LSTM.weight_names(), tmp_path / "model.h5"
    LSTM.save(tmp_path / "other.h5", whole=False)
    write_by_layers(path, {"lstm": names}, "2.2.4", LSTM.model())
    with h5py.File(path, "a") as file:
        del file["model_weights/lstm/lstm/kernel:0"]
        link = h5py.ExternalLink(str(tmp_path / "other.h5"), "lstm/lstm/kernel:0")
        file["model_weights/lstm/lstm/kernel:0"] = link
    refused(path, "lstm: lstm/lstm/kernel:0 is missing, or no array")


def test_an_array_that_is_not_in_the_file(tmp_path: Path) -> None:
    import h5py

    path = LSTM.save(tmp_path / "model.h5")
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/huge", shape=(2**20, 2**20), dtype="f4", chunks=True)
    refused(path, r"huge has shape \(1048576, 1048576\), but only 0 bytes of it are in the file")


def test_no_code_is_run(tmp_path: Path) -> None:
    """A Lambda layer has Python code, as text in a configuration, or marshalled."""
    whole = LSTM.model()
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None}}
    whole["config"]["layers"].append(
        {"class_name": "Lambda", "config": {"name": "l", "function": code}}
    )
    path = tmp_path / "model.h5"
    write_by_layers(path, {"lstm": LSTM.weight_names(), "l": []}, "2.2.4", whole)
    assert list(load_keras(path)) == ["lstm"]


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = LSTM.save(tmp_path / "model.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"need h5py, .*: pip install xrnn-array\[keras\]"):
        load_keras(path)


def test_other_arguments(tmp_path: Path) -> None:
    path = LSTM.save(tmp_path / "model.h5")
    with pytest.raises(ValueError, match=r"^load_keras: dtype is 'int8'; it must be"):
        load_keras(path, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=r"^backend 'none': none is not installed"):
        load_keras(path, device="none")
    (layer,) = load_keras(str(path), dtype="float32").values()
    assert layer.weights["W_l0"].dtype == np.float32
    with pytest.raises(TypeError, match="path is 3; it must be a str or a path"):
        load_keras(3)  # type: ignore[arg-type]
