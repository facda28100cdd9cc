"""The files of Keras: their configuration, and their arrays by path.  Nothing in them is run.

There are two layouts of arrays.

- By layers (Keras 1, 2 and tf.keras, and ``model.save("….h5")`` of Keras 3): a group for each
  layer of the model, whose attribute ``weight_names`` lists its arrays in order.  A whole model
  has these groups in ``model_weights``, and its configuration in the attribute ``model_config``.
- By objects (``.keras``, ``….weights.h5`` of Keras 3 and tf.keras 2.13 and later): groups by the
  attributes of the objects of the model, such as ``layers/lstm/cell/vars``, with arrays 0, 1, 2.
  A ``.keras`` file is a zip file of these arrays and of ``config.json`` and ``metadata.json``.

Sources: ``keras/src/legacy/saving/legacy_h5_format.py`` and ``keras/src/saving/saving_lib.py`` of
Keras 3, ``keras/engine/topology.py`` of Keras 1 and 2.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from xrnn.backends import host
from xrnn.convert.paths import reading
from xrnn.typing import Array

HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"

#: the endings of the files of a checkpoint of TensorFlow
CHECKPOINTS = (".index", ".data-00000-of-00001")

#: what is raised at arrays, and at values of a configuration, that are not what they should be
DAMAGES = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    UnicodeError,
    struct.error,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
)

#: the groups of optimizers, whose arrays are no weights
OPTIMIZERS = ("optimizer_weights", "optimizer", "_optimizer")

#: an array or a member of a zip file above this size must not be so many times its stored size
LARGE, MOST_EXPANSION = 2**30, 1000

MODEL_FILE = (
    "it must be an HDF5 file (.h5, .hdf5) or a .keras file: save it again with "
    "model.save('model.h5') in the version of Keras that wrote it"
)


class KerasFile:
    """The content of a file.

    Attributes
    ----------
    version : str
        The version of Keras that wrote it, "" if it does not say.
    config : dict or None
        The configuration of the model: JSON values.
    layers : dict of str to list of str, or None
        Layer → the paths of its arrays in order; None if the arrays lie by objects.
    groups : dict of str to str
        The path of each group that holds the arrays of one object, without ``/vars`` → the name of
        that object, "" if the file does not say.  Empty if the arrays lie by layers.
    unread : dict of str
        Path → the array that has not been read yet, without those of optimizers.
    """

    def __init__(self, version: str, config: Any, root: Any) -> None:
        groups: dict[str, Any] = {}
        self.version, self.config = version, config
        self.groups: dict[str, str] = {}
        self.unread: dict[str, Any] = {}

        def visit(path: str, node: Any) -> None:
            if hasattr(node, "keys"):
                groups[path] = node
            elif path.split("/")[0] not in OPTIMIZERS:
                self.unread[path] = node

        # Links to other places and to other files are not followed.
        root.visititems(visit)
        self.layers = _by_layers(root, groups)
        if self.layers is None:
            self.groups = {
                path.removesuffix("/vars"): _text(node.attrs.get("name", ""))
                for path, node in groups.items()
                if path.endswith("/vars")
            }

    @property
    def major(self) -> int | None:
        """The first number of the version, None if the file does not say it."""
        found = re.match(r"\d+", self.version)
        return int(found[0]) if found else None

    def read(self, path: str) -> Array:
        """The array of that path, in the byte order of this machine."""
        if path not in self.unread:
            raise ValueError(f"{path} is missing, or no array, or that of two layers")
        found = self.unread[path]
        stored = found.id.get_storage_size()
        if found.nbytes > LARGE and found.nbytes > MOST_EXPANSION * stored:
            raise ValueError(
                f"{path} has shape {found.shape}, but only {stored} bytes of it are in the file"
            )
        if found.is_virtual or found.external:
            raise ValueError(f"{path} lies in another file; it must be in this one")
        array = host.xp.asarray(found[()])
        if array.dtype.kind == "V" and array.dtype.itemsize == 2:
            array = array.view(host.named_dtype("bfloat16"))
        else:
            array = array.astype(array.dtype.newbyteorder("="), copy=False)
        del self.unread[path]
        return array


@contextmanager
def opened(path: str) -> Iterator[KerasFile]:
    """A file of Keras, while it is open.

    Raises
    ------
    ValueError
        If it is no such file, or damaged.
    ImportError
        If h5py is not installed.
    OSError
        If it cannot be opened.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ImportError(
            "files of Keras need h5py, which is not installed: pip install xrnn-array[keras]"
        ) from error
    _check_kind(path)
    with open(path, "rb") as stream:
        try:
            if stream.read(len(HDF5)) == HDF5:
                with h5py.File(stream, "r") as root:
                    yield _hdf5(root)
            else:
                config, version, arrays = _unzipped(stream)
                with h5py.File(io.BytesIO(arrays), "r") as root:
                    yield KerasFile(version, config, root)
        except DAMAGES as error:
            raise ValueError(
                f"it is damaged ({type(error).__name__}: {error}); take another copy of it"
            ) from error


def _check_kind(path: str) -> None:
    """Raise ValueError for what else models are saved as."""
    if os.path.isdir(path):
        tensorflow = os.path.exists(os.path.join(path, "saved_model.pb"))
        raise ValueError(
            f"it is a {'SavedModel of TensorFlow' if tensorflow else 'folder'}; {MODEL_FILE}"
        )
    if path.endswith(CHECKPOINTS) or any(os.path.exists(path + end) for end in CHECKPOINTS):
        raise ValueError(f"it is a checkpoint of TensorFlow; {MODEL_FILE}")
    with reading(path), open(path, "rb") as stream:
        start = stream.read(len(HDF5))
    if start != HDF5 and not start.startswith(ZIP):
        raise ValueError(f"it begins with {start!r}; {MODEL_FILE}")


def _hdf5(root: Any) -> KerasFile:
    arrays = root.get("model_weights", root)
    attributes = dict(arrays.attrs) | dict(root.attrs)
    config = None
    if "model_config" in attributes:
        config = _json("model_config", attributes["model_config"])
    version = _text(attributes.get("keras_version", ""))
    found = KerasFile(version, config, arrays)
    if not version and found.layers is not None:
        # As Keras itself takes it.
        found.version = "1"
    return found


def _unzipped(stream: Any) -> tuple[Any, str, bytes]:
    """Configuration, version and arrays of a .keras file."""
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            raise ValueError(f"it is a zip file without config.json; {MODEL_FILE}")
        if "model.weights.h5" not in names:
            raise ValueError(
                "it has no model.weights.h5; weights as pickles (model.weights.npz) are refused: "
                "they can hold code"
            )
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            info = archive.getinfo(name)
            if info.file_size > LARGE and info.file_size > MOST_EXPANSION * info.compress_size:
                raise ValueError(f"{name} is {info.file_size} bytes of {info.compress_size}")
        config = _json("config.json", archive.read("config.json"))
        metadata = _json("metadata.json", archive.read("metadata.json"))
        version = metadata.get("keras_version", "") if isinstance(metadata, Mapping) else ""
        return config, str(version), archive.read("model.weights.h5")


def _by_layers(root: Any, groups: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """Layer → the paths of its arrays, if they lie so."""
    names = _list(root.attrs, "layer_names")
    if names is None:
        return None
    found = {}
    for name in names:
        if name not in groups:
            raise ValueError(f"the layer {name} is named, and is missing")
        weights = _list(groups[name].attrs, "weight_names") or []
        found[name] = [f"{name}/{weight}" for weight in weights]
    return found


def _list(attributes: Mapping[str, Any], name: str) -> list[str] | None:
    """A list of texts among attributes; a long one is in pieces with numbers."""
    if name in attributes:
        return [_text(one) for one in attributes[name]]
    pieces = [f"{name}{n}" for n in range(len(attributes)) if f"{name}{n}" in attributes]
    return [_text(one) for piece in pieces for one in attributes[piece]] if pieces else None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _json(name: str, text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is no JSON ({error})") from error
