"""Saving and loading: nothing lost, nothing half done, every wrong file named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import xrnn
from xrnn.backends import get
from xrnn.cells import LSTM
from xrnn.convert import files


def same(a: Any, b: Any) -> bool:
    host = [{k: get("cpu").to_host(w) for k, w in part.weights.items()} for part in (a, b)]
    return all(np.array_equal(host[0][k], host[1][k]) for k in host[0])


def mine(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
    return LSTM.step(2 * ax, state, weights, xp=xp)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_round_trip(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "model.safetensors"
    layer = xrnn.GRU(3, 4, num_layers=2, bidirectional=True, dtype=dtype)
    xrnn.save(path, layer, {"note": "ünïcode"})
    other = xrnn.GRU(3, 4, num_layers=2, bidirectional=True, dtype=dtype, rng=1)
    assert not same(layer, other)
    assert xrnn.load(path, other) is other
    assert same(layer, other)
    assert files.read(path)[1]["metadata"] == {"note": "ünïcode"}
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_from_one_library_to_another(tmp_path: Path, device: str) -> None:
    path = tmp_path / "model.safetensors"
    layer = xrnn.LSTM(3, 4, device=device)
    xrnn.save(path, layer)
    other = xrnn.load(path, xrnn.LSTM(3, 4, rng=1))
    np.testing.assert_array_equal(get(device).to_host(layer.weights["U_l0"]), other.weights["U_l0"])
    xrnn.load(path, layer)
    assert type(layer.weights["U_l0"]) is type(xrnn.LSTM(3, 4, device=device).weights["U_l0"])


def test_several_parts_in_one_file(tmp_path: Path) -> None:
    def parts(rng: int) -> dict[str, Any]:
        return {
            "embedding": xrnn.Embedding(7, 3, rng=rng),
            "layer": xrnn.LSTM(3, 4, rng=rng),
            "readout": xrnn.Linear(4, 7, activation="relu", rng=rng),
        }

    path, mine, other = tmp_path / "m.safetensors", parts(0), parts(1)
    xrnn.save(path, mine)
    xrnn.load(path, other)
    assert all(same(mine[name], other[name]) for name in mine)
    with pytest.raises(ValueError, match="holds another configuration"):
        xrnn.load(path, mine["layer"])


def test_weights_in_any_memory_order(tmp_path: Path) -> None:
    layer = xrnn.LSTM(3, 4)
    layer.weights["W_l0"] = np.asfortranarray(layer.weights["W_l0"])
    layer.weights["U_l0"] = np.repeat(layer.weights["U_l0"], 2, axis=1)[:, ::2]
    xrnn.save(tmp_path / "m", layer)
    assert same(layer, xrnn.load(tmp_path / "m", xrnn.LSTM(3, 4, rng=1)))


def broken(tmp_path: Path, how: str) -> Path:
    path = tmp_path / "broken.safetensors"
    xrnn.save(path, xrnn.LSTM(3, 4))
    whole = path.read_bytes()
    if how == "cut short":
        path.write_bytes(whole[:-100])
    elif how == "cut in the header":
        path.write_bytes(whole[:50])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a model\n" * 50)
    elif how == "foreign":
        save_file({"weight": np.zeros(3)}, path)
    elif how == "renamed":
        tensors, info = files.read(path)
        tensors["X_l0"] = tensors.pop("W_l0")
        files.write(path, tensors, info)
    elif how == "reshaped":
        tensors, info = files.read(path)
        tensors["W_l0"] = tensors["W_l0"][:-1]
        files.write(path, tensors, info)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut short", "is no safetensors file, or is cut short"),
        ("cut in the header", "is no safetensors file, or is cut short"),
        ("empty", "is no safetensors file, or is cut short"),
        ("text", "is no safetensors file, or is cut short"),
        ("foreign", "is a safetensors file, but not of xrnn"),
        ("renamed", "weights missing or unknown: W_l0, X_l0"),
        ("reshaped", r"W_l0 has shape \(15, 3\); it must be \(16, 3\)"),
    ],
)
def test_a_wrong_file_is_named_and_the_layer_kept(tmp_path: Path, how: str, message: str) -> None:
    path, layer, before = broken(tmp_path, how), xrnn.LSTM(3, 4, rng=1), xrnn.LSTM(3, 4, rng=1)
    with pytest.raises(ValueError, match=message) as caught:
        xrnn.load(path, layer)
    assert str(path) in str(caught.value)
    assert same(layer, before)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (xrnn.LSTM(3, 5), "hidden_size is 4 in the file, 5 here"),
        (xrnn.GRU(3, 4), "cell is 'lstm' in the file, 'gru' here"),
        (xrnn.LSTM(3, 4, dtype="float64"), "dtype is 'float32' in the file, 'float64' here"),
        (xrnn.Linear(3, 4), "kind is 'layer' in the file, 'linear' here"),
        (xrnn.LSTM(3, 4, batch_first=True), "batch_first is False in the file, True here"),
        (xrnn.LSTM(3, 4, reverse=True), "reverse is False in the file, True here"),
        (xrnn.LSTM(3, 4, bias=False), "bias is True in the file, False here"),
        (xrnn.Layer(replace(LSTM, step=mine), 3, 4), r"cell is 'lstm' in .*, 'lstm \(mine, step_b"),
    ],
    ids=["size", "cell", "dtype", "kind", "batch first", "reverse", "bias", "own cell"],
)
def test_another_configuration(tmp_path: Path, part: Any, message: str) -> None:
    xrnn.save(tmp_path / "m", xrnn.LSTM(3, 4))
    with pytest.raises(ValueError, match=message):
        xrnn.load(tmp_path / "m", part)


def test_a_cell_of_ones_own_is_not_the_one_it_was_made_from(tmp_path: Path) -> None:
    own = xrnn.Layer(replace(LSTM, step=mine), 3, 4)
    xrnn.save(tmp_path / "own", own)
    with pytest.raises(ValueError, match=r"cell is 'lstm \(mine, .*' in the file, 'lstm' here"):
        xrnn.load(tmp_path / "own", xrnn.LSTM(3, 4))
    again = xrnn.load(tmp_path / "own", xrnn.Layer(replace(LSTM, step=mine), 3, 4))
    assert same(again, own)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        xrnn.load(tmp_path / "nothing", xrnn.LSTM(3, 4))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    xrnn.save(path, xrnn.LSTM(3, 4))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        xrnn.save(path, xrnn.LSTM(3, 4, rng=1))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_file_with_one_weight_of_another_dtype_changes_nothing(tmp_path: Path) -> None:
    layer = xrnn.LSTM(3, 5, rng=0)
    before = {name: w.copy() for name, w in layer.weights.items()}
    tensors = {name: 2 * w for name, w in layer.weights.items()}
    tensors["U_l0"] = tensors["U_l0"].astype("float64")
    files.write(tmp_path / "file", tensors, {"config": layer.config()})
    with pytest.raises(TypeError, match="lstm: U_l0 is float64"):
        xrnn.load(tmp_path / "file", layer)
    for name, w in layer.weights.items():
        np.testing.assert_array_equal(w, before[name])
