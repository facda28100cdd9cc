"""Files with the weights of PyTorch's modules, read without PyTorch: .pt, safetensors, npz.

A file is recognised by its content.  Nothing in it is trusted: what it says of sizes is compared
with what it holds before memory is taken, and none of its code runs (see `xrnn.convert.pickles`).
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from io import BytesIO
from math import prod
from typing import Any, NamedTuple

from safetensors import SafetensorError, deserialize

from xrnn.backends import host
from xrnn.convert import pickles
from xrnn.convert.encoding import DTYPES as SAFETENSORS
from xrnn.convert.encoding import is_own
from xrnn.convert.paths import reading
from xrnn.engine import atomic
from xrnn.typing import Array

#: how many times its own size a file may unpack to, and what it may unpack to in any case
LARGEST_RATIO, UNPACKED = 100, 256 * 2**20

#: how many numbers a tensor that repeats the same ones may have
REPEATED = 2**24

#: the first bytes of the pickle that PyTorch before 1.6 begins a file with
LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"

#: PyTorch's name of a dtype → NumPy's, where that is another one
TORCH_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
    **{name: name for name in ("uint16", "uint32", "uint64")},
}

#: the head of a class in the code of a TorchScript program, and an option of a recurrent module
CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
CONSTANT = re.compile(
    r"^  (batch_first|mode|nonlinearity) : Final\[\w+\] = (True|False|\"\w+\")$", re.MULTILINE
)

SAVE_AGAIN = "torch.save(torch.load(path, map_location='cpu'), 'new.pt')"


class Tensor(NamedTuple):
    """A tensor whose numbers are still in a file, or in an array of a library.

    - dtype: its name; bfloat16 is read as float32, which holds all its numbers
    - shape: its sizes
    - read: ``read() -> array``, perhaps of memory that others use too
    - place: where the numbers lie, equal for tensors that share all of them; None if unknown
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array]
    place: Hashable = None


#: what stands for a tensor without having its numbers in a row, and what to do
UNREADABLE = {
    "sparse": "give tensor.to_dense()",
    "on the device meta": "it has no numbers there; load them into the module first",
    "a list": "give an array or a tensor, such as numpy.asarray(…) of it",
}


def unreadable(kind: str) -> Tensor:
    """What stands for a tensor whose numbers cannot be read, of one of the kinds `UNREADABLE`."""

    def read() -> Array:
        raise TypeError(f"it is {kind}, which xrnn does not read; {UNREADABLE[kind]}")

    return Tensor(kind, (), read)


class Contents(NamedTuple):
    """What a file holds: containers with tensors, whether it is a TorchScript program, and of its
    classes the options that are constants of their code: name of the class → option → value."""

    tree: Any
    program: bool = False
    constants: Mapping[str, Mapping[str, bool | str]] = {}


class _Storage(NamedTuple):
    """The numbers that tensors are views of: the name of the record, and PyTorch's of the dtype."""

    key: str
    dtype: str


@contextmanager
def opened(name: str) -> Iterator[Contents]:
    """What the file of that name holds; its tensors can be read until the end of the block.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is damaged, or holds something else.
    """
    with reading(name):
        begins = atomic.read(name, 512)
        with open(name, "rb") as file:
            if begins[:4] == b"PK\x03\x04":
                yield _of_archive(_Archive(file, file.seek(0, 2)))
            else:
                yield Contents(_of_safetensors(begins, file))


def _of_safetensors(begins: bytes, file: Any) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError if it is none."""
    if begins[8:9] != b"{":
        raise ValueError(_foreign(begins))
    data = file.read()
    try:
        views = deserialize(data)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"it is no safetensors file, or is damaged or cut short ({error})"
        ) from None
    if is_own(data):
        raise ValueError("it was written by xrnn.save, not by PyTorch; xrnn.load reads it")
    found = {}
    for name, view in views:
        shape, kind = tuple(view["shape"]), view["dtype"]
        dtype = SAFETENSORS.get(kind, kind)
        data = view["data"]
        strides = _row_major(shape)
        found[name] = Tensor(dtype, shape, partial(_view, data, dtype, 0, shape, strides, "<"))
    return found


def _foreign(begins: bytes) -> str:
    """Why a file that is neither a zip archive nor of safetensors is not read."""
    if LEGACY in begins[:32] or begins[257:262] == b"ustar":
        return (
            "it has the format of PyTorch before 1.6, which xrnn does not read; with PyTorch, save "
            f"it again: {SAVE_AGAIN}"
        )
    if begins[:1] == b"\x80":
        return (
            "it is a pickle, which can hold code; with PyTorch, save the weights alone: "
            "torch.save(module.state_dict(), 'new.pt')"
        )
    return (
        "it is none of the files with PyTorch's weights: .pt of torch.save (1.6 or newer), "
        "safetensors, npz"
    )


# ---- Zip archives: .pt and npz


class _Archive:
    """The records of a zip archive of `size` bytes, as far as their sizes can be true."""

    def __init__(self, file: Any, size: int) -> None:
        try:
            self.archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise ValueError(f"it is damaged, or cut short ({error})") from None
        self.records = {record.filename: record for record in self.archive.infolist()}
        total = sum(record.file_size for record in self.archive.infolist())
        if total > max(UNPACKED, LARGEST_RATIO * size):
            raise ValueError(f"its {size} bytes would unpack to {total}; it is damaged")

    def read(self, name: str) -> bytes:
        """The bytes of a record."""
        if name not in self.records:
            raise ValueError(f"it holds no {name}; it is damaged")
        try:
            return self.archive.read(self.records[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
            raise ValueError(f"{name} in it is damaged, or cut short ({error})") from None
        except (RuntimeError, NotImplementedError, OverflowError, OSError) as error:
            raise ValueError(f"{name} in it cannot be read ({error})") from None


def _of_archive(archive: _Archive) -> Contents:
    """What a zip archive holds."""
    pickled = [name for name in archive.records if name.split("/")[1:] == ["data.pkl"]]
    if len(pickled) == 1:
        folder = pickled[0].removesuffix("data.pkl")
        program = f"{folder}constants.pkl" in archive.records
        return Contents(_of_pickle(archive, folder), program, _constants(archive, f"{folder}code/"))
    arrays = [name for name in archive.records if name.endswith(".npy")]
    if not arrays:
        raise ValueError(
            "it is a zip archive with neither data.pkl, as torch.save writes it, nor .npy, as "
            "numpy.savez does"
        )
    return Contents({name.removesuffix(".npy"): _of_npy(archive, name) for name in arrays})


def _constants(archive: _Archive, folder: str) -> dict[str, dict[str, bool | str]]:
    """The options of recurrent modules that the code in a folder declares, by class.

    The code is a text here: ``class GRU(Module):``, and below it ``batch_first : Final[bool] =
    True``.
    """
    found: dict[str, dict[str, bool | str]] = {}
    for name in archive.records:
        if name.startswith(folder) and name.endswith(".py"):
            module = name.removeprefix(folder).removesuffix(".py").replace("/", ".")
            _, *pieces = CLASS.split(archive.read(name).decode("utf-8", "replace"))
            for kind, body in zip(pieces[::2], pieces[1::2], strict=True):
                found[f"{module}.{kind}"] = {
                    option: value.strip('"') if '"' in value else value == "True"
                    for option, value in CONSTANT.findall(body)
                }
    return found


def _of_npy(archive: _Archive, name: str) -> Any:
    """An array of an npz file; None if it holds objects, which would be a pickle."""
    data = archive.read(name)
    npy, file = host.xp.lib.format, BytesIO(data)
    try:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, column_major, dtype = header(file)
    except (ValueError, TypeError, RecursionError, MemoryError, struct.error) as error:
        raise ValueError(f"{name} in it is no array of NumPy, or damaged ({error})") from None
    if dtype.hasobject:
        return None
    if len(data) - file.tell() != prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} in it does not have the size of its shape {shape}; it is damaged")

    def read() -> Array:
        order = "F" if column_major else "C"
        array = host.xp.ndarray(shape, dtype, data, file.tell(), order=order)
        return array.astype(dtype.newbyteorder("="), copy=False)

    return Tensor(dtype.name, shape, read)


def _of_pickle(archive: _Archive, folder: str) -> Any:
    """The containers and tensors of a file of torch.save."""
    order = "<"
    if f"{folder}byteorder" in archive.records:
        order = {b"little": "<", b"big": ">"}.get(archive.read(f"{folder}byteorder"), "?")
    if order == "?":
        raise ValueError(f"its byte order, in {folder}byteorder, is unknown; it is damaged")
    data = cache(lambda key: archive.read(f"{folder}data/{key}"))

    def tensor(
        storage: _Storage, offset: int, shape: Any, strides: Any, *others: Any, dtype: Any = None
    ) -> Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no storage")
        kind = TORCH_DTYPES.get(dtype or storage.dtype, dtype or storage.dtype)
        numbers = [offset, *shape, *strides]
        if any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
            raise ValueError(f"a tensor has shape {_short(shape)}, strides {_short(strides)}")
        how = (kind, offset, tuple(shape), tuple(strides), order)
        place = (storage.key, *how)
        return Tensor(kind, tuple(shape), lambda: _view(data(storage.key), *how), place)

    def with_dtype(*arguments: Any) -> Tensor:
        # storage, offset, shape, strides, requires_grad, hooks, dtype
        return tensor(*arguments[:4], dtype=arguments[6].name.removeprefix("torch."))

    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": with_dtype,
        "torch._utils._rebuild_parameter": lambda data, *others: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *others: data,
        "torch._tensor._rebuild_from_type_v2": lambda call, kind, args, state: functions[call.name](
            *args
        ),
        "torch._utils._rebuild_sparse_tensor": lambda *others: unreadable("sparse"),
        "torch._utils._rebuild_meta_tensor_no_storage": lambda *others: unreadable(
            "on the device meta"
        ),
        "torch.Size": lambda sizes=(): tuple(sizes),
        "collections.OrderedDict": lambda items=(): dict(_pairs(items)),
        "collections.defaultdict": lambda *others: {},
    }
    return pickles.read(archive.read(f"{folder}data.pkl"), functions, _storage)


def _storage(key: Any) -> _Storage:
    """The storage that a persistent id names: ("storage", class, record, device, size)."""
    if not isinstance(key, tuple) or len(key) < 5 or not isinstance(key[1], pickles.Name):
        raise ValueError("a storage is not described as torch.save does it")
    return _Storage(str(key[2]), key[1].name.rpartition(".")[2])


def _pairs(items: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in items:
        yield (key if isinstance(key, pickles.KEYS) else pickles.Unknown("a key")), value


# ---- Numbers


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in numbers, of an array of that shape in C order."""
    return tuple(prod(shape[n + 1 :]) for n in range(len(shape)))


def _view(
    data: bytes,
    dtype: str,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    order: str,
) -> Array:
    """The array whose numbers lie in `data`, in a byte order; offset and strides in numbers."""
    xp = host.xp
    try:
        stored = xp.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder(order)
    except TypeError:
        raise TypeError(f"it is {dtype}, which xrnn does not read") from None
    size = stored.itemsize
    if prod(shape) > max(len(data) // size, REPEATED):
        raise ValueError(f"a tensor of shape {shape} repeats {len(data) // size} numbers")
    # NumPy refuses what would lie outside of the data.
    in_bytes = tuple(size * stride for stride in strides)
    try:
        array = xp.ndarray(shape, stored, data, size * offset, in_bytes)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} does not fit in "
            f"the {len(data) // size} numbers that the file holds for it; it is damaged ({error})"
        ) from None
    if dtype == "bfloat16":
        return (array.astype("uint32") << 16).view("float32")
    return array.astype(stored.newbyteorder("="), copy=False)


def _short(value: Any) -> str:
    """A few words for sizes that are none."""
    if isinstance(value, tuple | list) and all(isinstance(n, int) for n in value):
        return f"{value!r:.80}"
    return f"a {type(value).__name__}"
