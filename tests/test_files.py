"""Saving and loading: nothing lost, nothing half done, every wrong file named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import crashes
import numpy as np
import pytest
from safetensors.numpy import save_file

import xrnn
from xrnn.backends import get
from xrnn.convert import files


def same(a: Any, b: Any) -> bool:
    host = [{k: get("cpu").to_host(w) for k, w in part.weights.items()} for part in (a, b)]
    return all(np.array_equal(host[0][k], host[1][k]) for k in host[0])


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
    with pytest.raises(ValueError, match=r"holds the parts .*, and part is a single one"):
        xrnn.load(path, mine["layer"])


def test_weights_in_any_memory_order(tmp_path: Path) -> None:
    layer = xrnn.LSTM(3, 4)
    layer.weights["W_l0"] = np.asfortranarray(layer.weights["W_l0"])
    layer.weights["U_l0"] = np.repeat(layer.weights["U_l0"], 2, axis=1)[:, ::2]
    xrnn.save(tmp_path / "m", layer)
    assert same(layer, xrnn.load(tmp_path / "m", xrnn.LSTM(3, 4, rng=1)))


def test_a_name_that_no_file_can_have() -> None:
    for call in (xrnn.save, xrnn.load):
        with pytest.raises(ValueError, match=r"path is '\\ud800x'; it holds characters that no"):
            call("\ud800x", xrnn.LSTM(3, 4))


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


def test_a_dtype_that_no_file_can_hold(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="W_l0 is complex128, which a safetensors file cannot hold"):
        xrnn.save(tmp_path / "m", xrnn.LSTM(3, 4, dtype="complex128"))
    assert [*tmp_path.iterdir()] == []


class TestAllOrNothing:
    """Several parts are loaded at once: after an error, or Ctrl-C, none of them has changed."""

    def parts(self, rng: int) -> dict[str, Any]:
        layers = {name: xrnn.RNN(2, 2, num_layers=2, rng=rng) for name in "ab"}
        return {**layers, "map": xrnn.Linear(2, 3, rng=rng)}

    def test_frozen_parts_are_refused_first(self, tmp_path: Path) -> None:
        parts = self.parts(1)
        parts["map"].freeze()
        with pytest.raises(TypeError, match="linear: the weights are frozen"):
            xrnn.load(tmp_path / "no such file", parts)

    def test_ctrl_c_at_every_line(self, tmp_path: Path) -> None:
        """A trace function raises what Ctrl-C does, at the n-th line that a load executes."""
        path, here, there = tmp_path / "m", self.parts(1), self.parts(0)
        xrnn.save(path, there)
        old, new = (
            [w.tobytes() for one in p.values() for w in one.weights.values()] for p in (here, there)
        )
        outcomes = set()
        n = 0
        while True:
            n += 1
            left = n

            def trace(frame: Any, event: str, given: Any) -> Any:
                nonlocal left
                if event == "line" and "/xrnn/" in frame.f_code.co_filename:
                    left -= 1
                    if left == 0:
                        raise KeyboardInterrupt
                return trace

            sys.settrace(trace)
            try:
                xrnn.load(path, here)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            found = [w.tobytes() for one in here.values() for w in one.weights.values()]
            assert found in (old, new), f"line {n}"
            outcomes.add(found == new)
            if left > 0:
                break
            here = self.parts(1)
        assert n > 100
        assert outcomes == {True, False}

    def test_one_part_under_two_names(self, tmp_path: Path) -> None:
        layers = [xrnn.RNN(2, 2, rng=rng) for rng in (0, 1)]
        xrnn.save(tmp_path / "m", {"a": layers[0], "b": layers[1]})
        with pytest.raises(ValueError, match=r"a\.W_l0 and b\.W_l0 are one weight here"):
            xrnn.load(tmp_path / "m", {"a": layers[0], "b": layers[0]})


class TestWhatIsGiven:
    """What cannot be saved is refused in words, and no file is made."""

    METADATA: ClassVar[dict[str, tuple[Any, type[Exception], str]]] = {
        "an array": (np.zeros(3), TypeError, "ndarray is not JSON"),
        "a set": ([{1}], TypeError, "set is not JSON"),
        "a key of int": ({1: 2}, TypeError, "metadata has the key 1"),
        "a key of None": ([{"a": {None: 2}}], TypeError, "metadata has the key None"),
        "a key of bool": ((1, {True: 2}), TypeError, "metadata has the key True"),
        "a key of a tuple": ({(1, 2): 3}, TypeError, "keys must be str"),
        "NaN": ({"loss": float("nan")}, ValueError, "JSON compliant"),
        "infinity": ([float("inf")], ValueError, "JSON compliant"),
        "a number of NumPy": ({"loss": np.float32(1)}, TypeError, "float32 is not JSON"),
        "bytes": (b"a", TypeError, "bytes is not JSON"),
        "a type": (int, TypeError, "type is not JSON"),
        "a huge number": (10**5000, ValueError, "4300"),
    }

    @pytest.mark.parametrize(("metadata", "kind", "message"), METADATA.values(), ids=list(METADATA))
    def test_metadata(self, tmp_path: Path, metadata: Any, kind: Any, message: str) -> None:
        with pytest.raises(kind, match=f"metadata must be a JSON value: .*{message}"):
            xrnn.save(tmp_path / "m", xrnn.LSTM(2, 2), metadata)
        assert [*tmp_path.iterdir()] == []

    def test_metadata_that_hold_themselves(self, tmp_path: Path) -> None:
        circle: list[Any] = []
        circle.append(circle)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        for metadata in (circle, deep):
            with pytest.raises(ValueError, match="metadata must be a JSON value: "):
                xrnn.save(tmp_path / "m", xrnn.LSTM(2, 2), metadata)

    @pytest.mark.parametrize("metadata", [None, True, 3, 0.1, "\ud800ü", [], {"": [None, {}]}])
    def test_metadata_come_back_as_they_were(self, tmp_path: Path, metadata: Any) -> None:
        xrnn.save(tmp_path / "m", xrnn.LSTM(2, 2), metadata)
        assert files.read(tmp_path / "m")[1]["metadata"] == metadata

    @pytest.mark.parametrize(
        "part", [0, 3, xrnn.LSTM, "lstm", [xrnn.LSTM(2, 2)], dict(xrnn.LSTM(2, 2).weights)]
    )
    def test_no_part(self, tmp_path: Path, part: Any) -> None:
        for call in (xrnn.save, xrnn.load):
            with pytest.raises(TypeError, match="it must be a layer, an embedding, a linear map"):
                call(tmp_path / "m", part)

    def test_names_of_parts(self, tmp_path: Path) -> None:
        for odd in (1, None, ("a", "b")):
            with pytest.raises(TypeError, match="names of parts must be str"):
                xrnn.save(tmp_path / "m", {odd: xrnn.LSTM(2, 2)})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match="part is a mapping whose 'a' is a dict; it must be"):
            xrnn.save(tmp_path / "m", {"a": {"b": xrnn.LSTM(2, 2)}})  # type: ignore[arg-type, dict-item]
        with pytest.raises(ValueError, match=r"the name 'a\\ud800', which UTF-8 cannot hold"):
            xrnn.save(tmp_path / "m", {"a\ud800": xrnn.LSTM(2, 2)})
        for name in ("", "a.b", "__metadata__", "ü 文"):
            parts = {name: xrnn.LSTM(2, 2, rng=0), "b": xrnn.LSTM(2, 2, rng=1)}
            other = {name: xrnn.LSTM(2, 2), "b": xrnn.LSTM(2, 2)}
            xrnn.save(tmp_path / "m", parts)
            xrnn.load(tmp_path / "m", other)
            assert all(same(parts[key], other[key]) for key in parts)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        xrnn.load(tmp_path / "nothing", xrnn.LSTM(3, 4))


@pytest.mark.parametrize("kind", [*crashes.ERRORS, pytest.param("kill", marks=crashes.FORK)])
def test_a_fault_at_each_call_of_a_save(tmp_path: Path, kind: str) -> None:
    path, layers = tmp_path / "m.safetensors", [xrnn.LSTM(3, 4, rng=rng) for rng in (0, 1)]
    outcomes = set()
    for fault in crashes.faults(
        lambda: xrnn.save(path, layers[0]), lambda: xrnn.save(path, layers[1]), kind
    ):
        fault()
        found = xrnn.load(path, xrnn.LSTM(3, 4))
        assert same(found, layers[0]) or same(found, layers[1]), fault
        outcomes.add(same(found, layers[0]))
        xrnn.save(path, layers[0])
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"], fault
    assert True in outcomes


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
