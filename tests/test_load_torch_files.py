"""The files that `load_torch` reads without PyTorch, and those that it refuses by name."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as safetensors
from torch_files import (
    GRU,
    STORAGES,
    Raw,
    archive,
    called,
    npz,
    pickled,
    read,
    refused,
    saved,
    tensor,
    tensors_of,
    with_another,
)

from xrnn.convert import load_torch

FORMATS: dict[str, bytes] = {
    "pt": saved(GRU),
    "pt, big-endian": saved(GRU, order="big"),
    "pt without byteorder": saved(GRU, order=None),
    "safetensors": safetensors(GRU),
    "npz": npz(GRU),
    "npz, compressed": npz(GRU, compressed=True),
}


@pytest.mark.parametrize("how", FORMATS)
def test_formats(how: str, tmp_path: Path) -> None:
    """Told by what is in the file: the name says nothing."""
    want, found = load_torch(GRU)["rnn"], read(FORMATS[how], tmp_path)
    assert list(found) == ["rnn"]
    assert found["rnn"].dtype == "float32"
    for name, w in want.weights.items():
        np.testing.assert_array_equal(found["rnn"].weights[name], w)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("dtype", STORAGES)
def test_dtypes(dtype: str, order: str, tmp_path: Path) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found = read(saved(GRU | {"x": array, "empty": array[:0]}, order=order), tmp_path)
    for name, want in (("x", array), ("empty", array[:0])):
        assert found.unused[name].dtype == dtype
        assert found.unused[name].dtype.isnative
        np.testing.assert_array_equal(found.unused[name], want)


@pytest.mark.parametrize("order", ["little", "big"])
def test_bfloat16_is_read_without_that_dtype(order: str, tmp_path: Path) -> None:
    """Its numbers are the upper halves of those of float32."""
    halves = np.array([0x3F80, 0xC000, 0x7F80], ">u2" if order == "big" else "<u2")
    rebuilt = tensor("b", "BFloat16Storage", 3, (3,), (1,))
    found = read(with_another(rebuilt, {"data/b": halves.tobytes()}, order=order), tmp_path)
    np.testing.assert_array_equal(found.unused["x"], np.array([1.0, -2.0, np.inf], "float32"))
    halves = halves.astype("<u2")
    weights = {"a.weight": np.ones((2, 2)), "a.bias": np.ones(2)}
    data = safetensors(weights)
    size = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + size].strip().removesuffix(b"}") + (
        b',"x":{"dtype":"BF16","shape":[3],"data_offsets":[48,54]}}'
    )
    data = struct.pack("<Q", len(header)) + header + data[8 + size :] + halves.tobytes()
    np.testing.assert_array_equal(read(data, tmp_path).unused["x"], [1.0, -2.0, np.inf])


#: name → (shape, strides, offset) of a view of arange(12)
VIEWS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "all": ((3, 4), (4, 1), 0),
    "transposed": ((4, 3), (1, 4), 0),
    "every second": ((2, 2), (8, 2), 1),
    "a column": ((3,), (4,), 3),
    "repeated": ((5, 4), (0, 1), 8),
    "a number": ((), (), 11),
    "empty": ((0, 4), (4, 1), 12),
}


@pytest.mark.parametrize("how", VIEWS)
def test_views_of_a_storage(how: str, tmp_path: Path) -> None:
    shape, strides, offset = VIEWS[how]
    numbers = np.arange(12, dtype="float64")
    rebuilt = tensor("s", "DoubleStorage", 12, shape, strides, offset)
    found = read(with_another(rebuilt, {"data/s": numbers.tobytes()}), tmp_path).unused["x"]
    want = np.lib.stride_tricks.as_strided(numbers[offset:], shape, [8 * s for s in strides])
    assert found.shape == shape
    np.testing.assert_array_equal(found, want)
    assert found.flags.writeable


def test_what_else_torch_writes(tmp_path: Path) -> None:
    """Parameters, sizes, and calls of classes that nobody knows, of which nothing is made."""
    weight = tensor("w", "FloatStorage", 4, (2, 2), (2, 1))
    bias = tensor("w", "FloatStorage", 4, (2,), (1,), 2)
    hooks = Raw(b"ccollections\nOrderedDict\n)R")
    tree = {
        "a.weight": called("torch._utils._rebuild_parameter", weight, True, hooks),
        "a.bias": called("torch._utils._rebuild_parameter_with_state", bias, True, hooks, {}),
        "size": called("torch.Size", (2, 2)),
        "options": called("argparse.Namespace"),
        "scalar": called("numpy.core.multiarray.scalar", 1, "abc"),
        (1, 2): 3,
    }
    numbers = np.arange(4, dtype="<f4")
    data = archive(b"\x80\x02" + pickled(tree) + b".", {"data/w": numbers.tobytes()})
    linear = read(data, tmp_path)["a"]
    np.testing.assert_array_equal(linear.weights["W"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(linear.weights["b"], [2, 3])


def test_a_program(tmp_path: Path) -> None:
    """A TorchScript file: objects that hold tensors and objects; its code is not read."""

    def made(kind: str, attributes: dict[str, Any]) -> Raw:
        name = kind.replace(":", "\n").encode()
        return Raw(b"c__torch__." + name + b"\n)\x81" + pickled(attributes) + b"b")

    def stored(n: int, *shape: int) -> Raw:
        return tensor(str(n), "FloatStorage", int(np.prod(shape)), shape, (*shape[1:], 1))

    emb = made("torch.nn.modules.sparse:Embedding", {"weight": stored(0, 7, 3)})
    tok = made(
        "torch.nn.modules.linear.___torch_mangle_3:Linear",
        {"weight": stored(1, 2, 7), "bias": None},
    )
    cell = {name: stored(2 + n, *a.shape) for n, (name, a) in enumerate(CELL.items())}
    inner = made("mine.model:Inner", {"cell": made("torch.nn.modules.rnn:GRUCell", cell), "n": 3})
    root = made("mine:Net", {"training": False, "lookup": emb, "word_emb": tok, "inner": inner})
    arrays = [np.ones((7, 3)), np.ones((2, 7)), *CELL.values()]
    records = {f"data/{n}": a.astype("<f4").tobytes() for n, a in enumerate(arrays)}
    records |= {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"raise SystemExit"}
    found = read(archive(b"\x80\x02" + root + b".", records), tmp_path)
    kinds = {name: type(part).__name__ for name, part in found.items()}
    # Here the classes tell, not the names.
    assert kinds == {"lookup": "Embedding", "word_emb": "Linear", "inner.cell": "GRU"}
    want = load_torch({name: a.astype("float32") for name, a in CELL.items()})[""]
    for name, w in want.weights.items():
        np.testing.assert_array_equal(found["inner.cell"].weights[name], w)


CELL = tensors_of("gru", 3, 5, cell=True)


def module_of(tree: Any) -> Raw:
    """A pickled module, as torch.save(module) writes it."""
    attributes = {"_parameters": tree, "_modules": {}, "training": True}
    return Raw(b"cmine\nNet\n)\x81" + pickled(attributes) + b"b")


class TestRefused:
    @pytest.mark.parametrize("protocol", [b"\x80\x02", b"\x80\x04\x95" + bytes(8)])
    def test_before_1_6(self, protocol: bytes, tmp_path: Path) -> None:
        data = protocol + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
        refused(data, tmp_path, r"PyTorch before 1\.6.*torch\.save\(torch\.load\(path")

    def test_tar(self, tmp_path: Path) -> None:
        refused(bytes(257) + b"ustar" + bytes(250), tmp_path, r"PyTorch before 1\.6")

    def test_a_pickle(self, tmp_path: Path) -> None:
        refused(b"\x80\x04}.", tmp_path, r"it is a pickle.*torch\.save\(module\.state_dict\(\)")

    @pytest.mark.parametrize("outer", [(), ("model",), ("a", "b")])
    def test_a_pickled_module(self, outer: tuple[str, ...], tmp_path: Path) -> None:
        tree: Any = module_of({"weight": None})
        for name in reversed(outer):
            tree = {name: tree}
        data = archive(b"\x80\x02" + pickled(tree) + b".", {})
        refused(
            data, tmp_path, r"a pickled module, which holds code, not weights; .*state_dict\(\)"
        )

    def test_a_pickled_module_beside_weights(self, tmp_path: Path) -> None:
        found = read(with_another(module_of({}), {}), tmp_path)
        assert list(found) == ["rnn"]
        assert "holds code, not weights" in found.skipped["x"]

    def test_quantised(self, tmp_path: Path) -> None:
        packed = {"a._all_weight_values.0.param": called("torch.ScriptObject"), "x": 1}
        data = archive(b"\x80\x02" + pickled(packed) + b".", {})
        refused(data, tmp_path, "a: .*the module is quantised; save it before it is quantised")
        packed = {
            "fc._packed_params._packed_params": (called("torch._utils._rebuild_qtensor"), None)
        }
        data = archive(b"\x80\x02" + pickled(packed) + b".", {})
        refused(data, tmp_path, "fc: it is quantised")
        rebuilt = tensor("q", "QInt8Storage", 4, (2, 2), (2, 1))
        assert read(with_another(rebuilt, {"data/q": bytes(4)}), tmp_path).skipped == {
            "x": "it is QInt8Storage, which xrnn does not read"
        }

    @pytest.mark.parametrize("data", [b"", b"text\n" * 200, b"\x89HDF\r\n", b"\x08\x08\x12"])
    def test_others(self, data: bytes, tmp_path: Path) -> None:
        refused(data, tmp_path, "it is none of the files with PyTorch's weights")

    def test_other_archives(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as found:
            found.writestr("config.json", "{}")
        refused(file.getvalue(), tmp_path, r"with neither data\.pkl.* nor \.npy")
        objects = npz({"a": np.array([{}], object)})
        refused(objects, tmp_path, "it holds no LSTM")

    def test_paths(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"none\.pt: no such file"):
            load_torch(tmp_path / "none.pt")
        with pytest.raises(ValueError, match="is a folder or a device"):
            load_torch(tmp_path)
        with pytest.raises(ValueError, match=r"the name of a file cannot contain \\0"):
            load_torch("a\0b")
