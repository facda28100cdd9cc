"""Files as PyTorch writes them, made without it; and the equations of its modules in NumPy."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xrnn.convert import load_torch

STORAGES = {
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
    "int8": "CharStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}

REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


class Raw(bytes):
    """Instructions of a pickle that stand for a value."""


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(32, "little", signed=True)
    return b"\x8a\x20" + data


def called(name: str, *arguments: Any) -> Raw:
    """The call of a function, such as "os.system"."""
    module, _, function = name.rpartition(".")
    return Raw(f"c{module}\n{function}\n".encode() + pickled(tuple(arguments)) + b"R")


def pickled(value: Any) -> bytes:
    """The instructions that make a value of plain Python types."""
    if isinstance(value, Raw):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        items = b"".join(pickled(k) + pickled(v) for k, v in value.items())
        return b"}(" + items + b"u"
    inside = b"".join(map(pickled, value))
    return b"(" + inside + (b"t" if isinstance(value, tuple) else b"l")


def tensor(
    key: str,
    storage: str,
    size: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int = 0,
) -> Raw:
    """The instructions that make a tensor of a storage."""
    class_ = Raw(f"ctorch\n{storage}\n".encode())
    place = pickled(("storage", class_, key, "cpu", size)) + b"Q"
    hooks = Raw(b"ccollections\nOrderedDict\n)R")
    return Raw(REBUILD + pickled((Raw(place), offset, shape, strides, False, hooks)) + b"R")


def archive(
    data: bytes, records: dict[str, bytes], *, folder: str = "model", order: str | None = "little"
) -> bytes:
    """The zip archive with that data.pkl and those other records."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as found:
        found.writestr(f"{folder}/data.pkl", data)
        if order is not None:
            found.writestr(f"{folder}/byteorder", order)
        for name, content in records.items():
            found.writestr(f"{folder}/{name}", content)
    return file.getvalue()


def saved(tree: Any, *, order: str | None = "little") -> bytes:
    """What torch.save writes for containers with arrays; equal arrays share their storage."""
    records: dict[str, bytes] = {}

    def prepared(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: prepared(one) for key, one in value.items()}
        if isinstance(value, list | tuple) and not isinstance(value, Raw):
            return type(value)(map(prepared, value))
        return stored(value) if isinstance(value, np.ndarray) else value

    def stored(array: np.ndarray) -> Raw:
        key = str(len(records))
        swapped = array.dtype.newbyteorder(">" if order == "big" else "<")
        flat = np.ascontiguousarray(array).astype(swapped)
        records[f"data/{key}"] = flat.tobytes()
        strides = tuple(int(np.prod(array.shape[n + 1 :])) for n in range(array.ndim))
        kind = STORAGES[array.dtype.name]
        return tensor(key, kind, array.size, array.shape, strides)

    data = b"\x80\x02" + pickled(prepared(tree)) + b"."
    return archive(data, records, order=order)


def npz(arrays: dict[str, np.ndarray], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def with_another(rebuilt: bytes, records: dict[str, bytes], **how: Any) -> bytes:
    """A file with `GRU`, and with what makes another value, "x"."""
    with zipfile.ZipFile(io.BytesIO(saved(GRU, **how))) as found:
        program = found.read("model/data.pkl")
        own = [name for name in found.namelist() if "/data/" in name]
        records = {name.removeprefix("model/"): found.read(name) for name in own} | records
    items = pickled({"x": Raw(rebuilt)})
    return archive(program[:-1] + items[1:] + b".", records, **how)


def read(data: bytes, folder: Path, **options: Any) -> Any:
    """The parts in a file."""
    path = folder / "weights.bin"
    path.write_bytes(data)
    return load_torch(path, **options)


def refused(data: bytes, folder: Path, message: str) -> None:
    """The file is refused, by its name and in these words."""
    with pytest.raises(ValueError, match=rf"(?s)weights\.bin: .*({message})"):
        read(data, folder)


# ---- What PyTorch's modules compute, after their documentation


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def lstm(ax: Any, ah: Any, h: Any, c: Any) -> tuple[Any, Any]:
    i, f, g, o = np.split(ax + ah, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(ax: Any, ah: Any, h: Any, c: Any) -> tuple[Any, Any]:
    (rx, zx, nx), (rh, zh, nh) = np.split(ax, 3, axis=-1), np.split(ah, 3, axis=-1)
    r, z = sigmoid(rx + rh), sigmoid(zx + zh)
    n = np.tanh(nx + r * nh)
    return (1 - z) * n + z * h, c


def rnn(ax: Any, ah: Any, h: Any, c: Any) -> tuple[Any, Any]:
    return np.tanh(ax + ah), c


STEPS = {"lstm": (lstm, 4), "gru": (gru, 3), "rnn": (rnn, 1)}


def tensors_of(
    kind: str,
    I: int,
    H: int,
    layers: int = 1,
    directions: int = 1,
    *,
    bias: bool = True,
    proj: int = 0,
    cell: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Random weights of a module under PyTorch's names, float64."""
    rng, G, found = np.random.default_rng(seed), STEPS[kind][1], {}
    h = proj or H
    for layer in range(layers):
        for reverse in ("", "_reverse")[:directions]:
            s = "" if cell else f"_l{layer}{reverse}"
            found[f"weight_ih{s}"] = rng.normal(size=(G * H, directions * h if layer else I))
            found[f"weight_hh{s}"] = rng.normal(size=(G * H, h))
            if bias:
                found[f"bias_ih{s}"] = rng.normal(size=G * H)
                found[f"bias_hh{s}"] = rng.normal(size=G * H)
            if proj:
                found[f"weight_hr{s}"] = rng.normal(size=(proj, H))
    return found


def outputs(kind: str, tensors: dict[str, np.ndarray], xs: np.ndarray) -> np.ndarray:
    """The outputs (T, B, D·H) of a module for inputs (T, B, I), from zero states."""
    suffixes = [name.removeprefix("weight_ih") for name in tensors if name.startswith("weight_ih")]
    for layer in sorted({s.removesuffix("_reverse") for s in suffixes}):
        both = [s for s in suffixes if s in (layer, f"{layer}_reverse")]
        ys = [_direction(kind, tensors, s, xs[::-1] if "reverse" in s else xs) for s in both]
        pairs = zip(both, ys, strict=True)
        xs = np.concatenate([y[::-1] if "reverse" in s else y for s, y in pairs], axis=-1)
    return xs


def _direction(kind: str, tensors: dict[str, np.ndarray], s: str, xs: Any) -> np.ndarray:
    step, G = STEPS[kind]
    W, U = tensors[f"weight_ih{s}"], tensors[f"weight_hh{s}"]
    b_x, b_h = tensors.get(f"bias_ih{s}", 0.0), tensors.get(f"bias_hh{s}", 0.0)
    P = tensors.get(f"weight_hr{s}")
    h, c = (
        np.zeros((xs.shape[1], U.shape[1])),
        np.zeros((xs.shape[1], len(W) // G)),
    )
    ys = []
    for x in xs:
        h, c = step(x @ W.T + b_x, h @ U.T + b_h, h, c)
        h = h if P is None else h @ P.T
        ys.append(h)
    return np.stack(ys)


#: the weights of a GRU in a larger module
GRU = {f"rnn.{name}": a.astype("float32") for name, a in tensors_of("gru", 3, 5).items()}
