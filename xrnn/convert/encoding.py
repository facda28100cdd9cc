"""The bytes of a file: tensors, JSON values and a checksum; and what older versions wrote.

A file is a safetensors file.  Its metadata hold

- ``format``: the version of these rules, ``xrnn 3``;
- JSON values by name: ``config``, ``metadata``, ``parts`` (how to make them; since 0.4.0),
  ``tied`` (the parts with two names, if there are any; since 0.4.0), and what else the writer
  gives;
- ``checksum``: of all of them, and of name, dtype, shape and numbers of each tensor.

==========  ========  ======================================================================
format      since     what is different
==========  ========  ======================================================================
xrnn 1      0.1.0     sizes by letters (I, H, V, O); no ``batch_first``, ``dropout``,
                      ``reverse``; a cell of one's own by its name alone
xrnn 2      0.2.0     no checksum; no ``precision``, no ``signature`` of a cell of one's own
xrnn 3      0.3.0
==========  ========  ======================================================================
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from safetensors import SafetensorError, deserialize
from safetensors import numpy as safetensors_numpy

from xrnn.backends import host
from xrnn.cells import BY_NAME
from xrnn.typing import Array, dtype_name

FORMAT = "xrnn 3"

#: dtype in safetensors files → its name here
DTYPES = {
    "BOOL": "bool",
    **{
        f"{letter}{bits}": f"{kind}{bits}"
        for letter, kind in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "C64": "complex64",
}

#: format → the options that it does not hold: any value is accepted for them
UNSAID = {
    "xrnn 1": ("batch_first", "dropout", "precision", "signature"),
    "xrnn 2": ("precision", "signature"),
    FORMAT: (),
}

#: kind → the names of its sizes in format 1, and today's
LETTERS = {
    "layer": {"I": "input_size", "H": "hidden_size"},
    "embedding": {"V": "num_embeddings", "I": "embedding_dim"},
    "linear": {"H": "in_features", "O": "out_features"},
}


class Contents(NamedTuple):
    """What a file holds: arrays (NumPy), JSON values by name, and its format."""

    tensors: dict[str, Array]
    info: dict[str, Any]
    format: str


def encode(tensors: Mapping[str, Array], info: Mapping[str, Any]) -> bytes:
    """The bytes of a file with these arrays (NumPy) and JSON values.

    Raises
    ------
    TypeError
        If an array has a dtype that safetensors files cannot hold.
    """
    arrays = {name: host.xp.ascontiguousarray(a) for name, a in tensors.items()}
    for name, array in arrays.items():
        if dtype_name(array.dtype) not in DTYPES.values():
            raise TypeError(
                f"{name} is {array.dtype}, which a safetensors file cannot hold; "
                f"it must be one of {', '.join(DTYPES.values())}"
            )
    header = {"format": FORMAT} | {key: json.dumps(value) for key, value in info.items()}
    header["checksum"] = checksum(arrays, header)
    return safetensors_numpy.save(arrays, metadata=header)


def is_own(data: bytes) -> bool:
    """Whether a safetensors file with these bytes is one of xrnn, of any version."""
    try:
        return str(_metadata(data).get("format")).startswith("xrnn ")
    except (ValueError, RecursionError):
        return False


def _metadata(data: bytes) -> Any:
    """The metadata of a safetensors file with these bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__") or {}


def decode(data: bytes) -> Contents:
    """What the bytes of a file hold.

    Raises
    ------
    ValueError
        If they are no safetensors file, damaged, or not of xrnn; the text goes on a sentence
        that begins with the name of the file.
    ImportError
        If they hold bfloat16, and ml_dtypes is not installed.
    """
    try:
        views = deserialize(data)  # type: ignore[no-untyped-call]
        header = _metadata(data)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"is no safetensors file, or is cut short ({error})") from None
    written = header.get("format")
    if written not in UNSAID:
        raise ValueError(_foreign(written))
    tensors = {name: _array(name, view) for name, view in views}
    if written == FORMAT or "checksum" in header:
        found = header.pop("checksum", None)
        if found != (computed := checksum(tensors, header)):
            raise ValueError(
                f"is damaged: its checksum is {found}, that of its content {computed}; "
                "take a copy of the file, or save it again"
            )
    try:
        info = {key: json.loads(value) for key, value in header.items() if key != "format"}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: its metadata are no JSON ({error})") from None
    return Contents(tensors, info, written)


def checksum(tensors: Mapping[str, Array], header: Mapping[str, str]) -> str:
    """The SHA-256 of tensors (name, dtype, shape, numbers) and of the other metadata."""
    digest = hashlib.sha256()
    for key in sorted(header):
        digest.update(json.dumps([key, header[key]]).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, dtype_name(array.dtype), array.shape]).encode())
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        digest.update(little.reshape(-1).view("uint8"))
    return f"sha256:{digest.hexdigest()}"


def renamed(config: Mapping[str, Any], written: str) -> dict[str, Any]:
    """The configuration of one part in a file of any format by the names of today."""
    if written != "xrnn 1":
        return dict(config)
    letters: dict[str, str] = LETTERS.get(str(config.get("kind")), {})
    return {letters.get(str(key), str(key)): value for key, value in config.items()}


def modern(config: Any, written: str, mine: Mapping[str, Any]) -> Any:
    """The configuration in a file of any format as it would be written today.

    What its format does not hold is taken from `mine`, the configuration that it is compared with.
    """
    if isinstance(mine.get("kind"), str) or not isinstance(config, dict):
        return _modern_part(config, written, mine)
    return {name: _modern_part(one, written, mine.get(name)) for name, one in config.items()}


def _modern_part(config: Any, written: str, mine: Mapping[str, Any] | None) -> Any:
    """The same for one part; `mine` is None if there is no such part."""
    if not isinstance(config, dict) or mine is None:
        return config
    found = {key: mine[key] for key in UNSAID[written] if key in mine}
    found |= renamed(config, written)
    if written == "xrnn 1" and str(config.get("kind")) == "layer":
        found["reverse"] = False
        name = str(config.get("cell"))
        if name not in BY_NAME and str(mine.get("cell")).startswith(f"{name} ("):
            found["cell"] = mine["cell"]
    return found


def _foreign(written: Any) -> str:
    if isinstance(written, str) and re.fullmatch(r"xrnn \d+", written):
        return (
            f"was written by a newer version of xrnn, in the format {written!r}; this one reads "
            f"formats up to {FORMAT!r}: install the newer one"
        )
    return (
        f"is a safetensors file, but not of xrnn ({FORMAT}); for weights trained with "
        "PyTorch use xrnn.convert.load_torch"
    )


def _array(name: str, view: Mapping[str, Any]) -> Array:
    """A NumPy array of what `deserialize` gives for one tensor."""
    if view["dtype"] not in DTYPES:
        raise ValueError(f"holds {name} as {view['dtype']}, which xrnn does not read")
    values = host.xp.frombuffer(view["data"], dtype=host.named_dtype(DTYPES[view["dtype"]]))
    # safetensors files are little-endian.
    return (values.byteswap() if sys.byteorder == "big" else values).reshape(view["shape"])


def check_json(name: str, value: Any) -> None:
    """TypeError or ValueError unless `json` gives the value back as it is, but for tuples."""
    try:
        json.loads(json.dumps(value, allow_nan=False))
        _check_keys(name, value)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must be a JSON value: None, bool, int, float (finite), str, and lists and "
            f"dicts (with keys of str) of those; {error}"
        ) from None


def _check_keys(name: str, value: Any) -> None:
    """TypeError unless all keys of dicts are str; `json` would make them so silently."""
    if isinstance(value, dict) and (odd := [key for key in value if not isinstance(key, str)]):
        raise TypeError(f"{name} has the key {odd[0]!r:.80}")
    if isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            _check_keys(name, one)
