"""Files that are damaged, foreign or no files at all: refused by name, and nothing is changed."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as serialize

import xrnn
from xrnn.backends import get
from xrnn.convert import encoding, files


def values(part: Any) -> dict[str, bytes]:
    host = get("cpu").to_host
    return {name: host(w).tobytes() for name, w in part.weights.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    xrnn.save(path, xrnn.LSTM(2, 2, rng=0), {"note": "ünïcode"})
    return path


def refused(
    path: Any, kind: type[Exception] = ValueError, match: str | None = None, cast: bool = False
) -> str:
    """The message with which loading is refused; the layer is left as it was.

    Without a layer it is refused too: by a ValueError where the file itself is at fault.
    """
    layer = xrnn.LSTM(2, 2, rng=1)
    before = values(layer)
    with pytest.raises(kind, match=match) as caught:
        xrnn.load(path, layer, cast=cast)
    assert values(layer) == before
    assert os.fsdecode(path) in str(caught.value)
    with pytest.raises(ValueError if kind is TypeError else kind) as alone:
        xrnn.load(path)
    assert os.fsdecode(path) in str(alone.value)
    return str(caught.value)


class TestChecksum:
    def test_every_bit_counts(self, file: Path) -> None:
        """Whatever bit of the file is turned, it is refused, or holds the same."""
        data = file.read_bytes()
        right = encoding.decode(data)
        accepted = []
        for n in range(8 * len(data)):
            turned = bytearray(data)
            turned[n // 8] ^= 1 << n % 8
            try:
                found = encoding.decode(bytes(turned))
            except ValueError:
                continue
            accepted.append(n)
            assert found.info == right.info, f"bit {n}"
            assert found.tensors.keys() == right.tensors.keys(), f"bit {n}"
            for name, array in right.tensors.items():
                assert found.tensors[name].tobytes() == array.tobytes(), f"bit {n}"
        assert accepted == []

    def test_every_cut_is_found(self, file: Path) -> None:
        data = file.read_bytes()
        for n in range(len(data)):
            with pytest.raises(ValueError, match="is cut short"):
                encoding.decode(data[:n])
        with pytest.raises(ValueError):
            encoding.decode(data + b"\0")

    @pytest.mark.parametrize("where", ["metadata", "numbers"])
    def test_load_names_a_damaged_file(self, file: Path, where: str) -> None:
        data = bytearray(file.read_bytes())
        # The order of the metadata in a file is a matter of chance.
        data[data.index(b"note") if where == "metadata" else -10] ^= 1
        file.write_bytes(data)
        assert "is damaged: its checksum is sha256:" in refused(file)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            files.read(file)

    def test_it_is_required(self, file: Path) -> None:
        data = file.read_bytes()
        file.write_bytes(data.replace(b'"checksum"', b'"checksun"'))
        assert "is damaged: its checksum is None" in refused(file)

    def test_it_is_that_of_the_numbers_in_order(self) -> None:
        """The same bytes under another name, dtype or shape are something else."""
        a = np.arange(6, dtype="float32")
        others: list[Any] = [
            {"b": a},
            {"a": a.view("int32")},
            {"a": a.reshape(2, 3)},
            {"a": a[::-1]},
            {},
        ]
        sums = [encoding.checksum(tensors, {}) for tensors in ({"a": a}, *others)]
        assert len({*sums, encoding.checksum({"a": a}, {"a": "1"})}) == 7
        # Files hold numbers in one byte order, whatever that of the array was.
        assert encoding.checksum({"a": a.astype(">f4")}, {}) == sums[0]
        assert sums[0].startswith("sha256:")


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def tensors_of(dtype: str) -> bytes:
    """A file of a layer of float32, whose numbers are of another dtype; its checksum is right."""
    layer = xrnn.LSTM(2, 2)
    arrays = {name: w.astype(dtype) for name, w in layer.weights.items()}
    return encoding.encode(arrays, {"config": layer.config()})


def with_config(text: str) -> bytes:
    """A file of format 2, which has no checksum, with any text as its configuration."""
    arrays = dict(xrnn.LSTM(2, 2).weights)
    return serialize(arrays, metadata={"format": "xrnn 2", "config": text})


BROKEN = {
    "empty": b"",
    "text": b"not a model\n" * 50,
    "a length alone": struct.pack("<Q", 2),
    "a length beyond the file": struct.pack("<Q", 1 << 62) + b"{}",
    "deep": header(b'{"a":' + b"[" * 100_000),
    "header of another type": header(b"[]"),
    "no UTF-8": header(b'{"\xff":1}'),
    "offsets": header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,800]}}') + bytes(8),
    "negative": header(b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}') + bytes(8),
    "shape of 2^128": header(
        b'{"a":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,8]}}' % (1 << 62, 1 << 62)
    )
    + bytes(8),
    "unknown dtype": header(b'{"a":{"dtype":"F8","shape":[8],"data_offsets":[0,8]}}') + bytes(8),
    "no metadata": serialize({"weight": np.zeros(3)}),
    "deep configuration": with_config("[" * 100_000),
    "nested configuration": with_config('{"kind": ' * 500 + "1" + "}" * 500),
    "no JSON": with_config("kind=layer"),
    "a huge number": with_config('{"kind": ' + "1" * 100_000 + "}"),
    "NaN": with_config('{"kind": NaN}'),
    "another type": with_config("[1, 2]"),
    "another kind": with_config('{"kind": ["layer"], "cell": {}}'),
    "kind alone": with_config('{"kind": "layer"}'),
    "a cell of another type": with_config('{"kind": "layer", "cell": ["lstm"]}'),
    "an unknown option": with_config(json.dumps({**xrnn.LSTM(2, 2).config(), "zoneout": 0.1})),
    "no configuration": encoding.encode(dict(xrnn.LSTM(2, 2).weights), {"step": 3}),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_whatever_stands_in_a_file_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    for cast in (False, True):
        refused(file, cast=cast)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "int32", "uint8", "bool"])
def test_numbers_of_another_dtype_than_the_file_says(file: Path, dtype: str) -> None:
    file.write_bytes(tensors_of(dtype))
    for cast in (False, True):
        words = refused(file, TypeError, cast=cast)
        assert f"lstm: W_l0 is {dtype}; its configuration says 'float32'" in words


def test_a_dtype_that_no_layer_has(file: Path) -> None:
    layer = xrnn.LSTM(2, 2)
    arrays = {name: w.astype("int64") for name, w in layer.weights.items()}
    file.write_bytes(encoding.encode(arrays, {"config": {**layer.config(), "dtype": "int64"}}))
    refused(file, match="dtype is 'int64' in the file")
    refused(file, TypeError, match="W_l0 is int64; its configuration says 'int64'", cast=True)


def test_a_file_of_a_newer_version(file: Path) -> None:
    file.write_bytes(serialize({}, metadata={"format": "xrnn 17"}))
    assert "was written by a newer version of xrnn, in the format 'xrnn 17'" in refused(file)


class TestPaths:
    def test_a_folder(self, tmp_path: Path) -> None:
        refused(tmp_path, match="is a folder or a device; it must be a file")
        with pytest.raises(IsADirectoryError, match="give the name of a file"):
            xrnn.save(tmp_path, xrnn.LSTM(2, 2))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", match="is a folder or a device")
        with pytest.raises(OSError, match="this is a device or a pipe"):
            xrnn.save(tmp_path / "pipe", xrnn.LSTM(2, 2))

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no such device here")
    def test_a_device_is_not_read_for_ever(self) -> None:
        refused("/dev/zero", match="is a folder or a device")

    def test_a_file_in_the_place_of_a_folder(self, file: Path) -> None:
        refused(file / "model", OSError, match="cannot be read: Not a directory")
        with pytest.raises(OSError, match="what was there is unchanged"):
            xrnn.save(file / "model", xrnn.LSTM(2, 2))

    def test_an_error_while_reading(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*given: Any) -> Any:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("xrnn.engine.atomic.read", fails)
        refused(file, OSError, match="cannot be read: Input/output error")

    @pytest.mark.parametrize("path", [3, None, 1.5, ["m"], True])
    def test_something_else_than_a_path(self, path: Any) -> None:
        with pytest.raises(TypeError, match="it must be a str or a path"):
            xrnn.save(path, xrnn.LSTM(2, 2))
        with pytest.raises(TypeError, match="it must be a str or a path"):
            xrnn.load(path, xrnn.LSTM(2, 2))
        with pytest.raises(TypeError, match="it must be a str or a path"):
            files.read(path)

    def test_a_path_that_no_system_takes(self) -> None:
        with pytest.raises(ValueError, match=r"path is 'a\\x00b'; the name of a file cannot"):
            xrnn.save("a\0b", xrnn.LSTM(2, 2))
        with pytest.raises(ValueError, match="the name of a file cannot contain"):
            xrnn.load("a\0b", xrnn.LSTM(2, 2))
        with pytest.raises(OSError, match="this is a folder"):
            xrnn.save("", xrnn.LSTM(2, 2))

    def test_a_path_of_bytes(self, file: Path) -> None:
        path: Any = os.fsencode(file)
        xrnn.save(path, xrnn.LSTM(2, 2, rng=3))
        assert values(xrnn.load(path, xrnn.LSTM(2, 2))) == values(xrnn.LSTM(2, 2, rng=3))

    def test_a_large_file_that_is_none_of_ours_is_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "film"
        with path.open("wb") as file:
            file.truncate(1 << 40)
        refused(path, match="is no safetensors file")

    def test_a_file_without_rights(self, unprivileged: Path) -> None:
        path = unprivileged / "model"
        xrnn.save(path, xrnn.LSTM(2, 2))
        path.chmod(0)
        refused(path, PermissionError, match="cannot be read: Permission denied")
        unprivileged.chmod(0)
        refused(path, PermissionError, match="cannot be read: Permission denied")
