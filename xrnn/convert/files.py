"""`save` and `load`: safetensors files with the configuration in their metadata.

A file holds one part (a layer, an embedding, a linear map) or several under names.  It is written
under a temporary name and renamed when it is complete, so that a crash leaves the old file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors_numpy

from xrnn.backends import backend_of, host
from xrnn.engine.parameters import Parameters
from xrnn.typing import Array

FORMAT = "xrnn 2"


class Part(Protocol):
    """What can be saved: an object with weights and a configuration."""

    @property
    def weights(self) -> Parameters: ...

    def config(self) -> dict[str, Any]: ...


Parts = Part | Mapping[str, Part]

P = TypeVar("P", bound=Parts)


def save(path: str | os.PathLike[str], part: Parts, metadata: Any = None) -> None:
    """Write weights and configuration to a safetensors file.

    A file that is already there is replaced completely or, after an error, left as it was.

    Parameters
    ----------
    path : path
        The file.
    part : Layer, Embedding, Linear, or mapping of str to those
        What to save; with a mapping, several under their names.
    metadata : JSON value, optional
        Further data (a vocabulary, a note), which `xrnn.convert.files.read` returns.

    Raises
    ------
    OSError
        If the file cannot be written.
    TypeError
        If `metadata` is not a JSON value.

    Examples
    --------
    >>> import tempfile, xrnn
    >>> layer = xrnn.LSTM(3, 5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     xrnn.save(f"{folder}/model.safetensors", layer)
    ...     other = xrnn.load(f"{folder}/model.safetensors", xrnn.LSTM(3, 5, rng=1))
    >>> bool((other.weights["U_l0"] == layer.weights["U_l0"]).all())
    True
    """
    config = _config(part)
    tensors = {key: holder.weights[name] for key, holder, name in _entries(part)}
    write(path, tensors, {"config": config, "metadata": metadata})


def load(path: str | os.PathLike[str], part: P) -> P:
    """Read the weights in a file of `save` into a part that has the same configuration.

    Parameters
    ----------
    path : path
        The file.
    part : Layer, Embedding, Linear, or mapping of str to those
        The part whose weights are replaced; it keeps its library and device.

    Returns
    -------
    part
        The `part` that was given.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is cut short, not written by xrnn, or has another configuration; the part
        is left as it was.
    TypeError
        If the weights of the part are frozen; the part is left as it was.

    Examples
    --------
    See `save`.
    """
    tensors, info = read(path)
    mine, theirs = _config(part), info.get("config")
    if mine != theirs:
        raise ValueError(
            f"{os.fspath(path)} holds another configuration than the part it is to fill: "
            f"{_differences(theirs, mine)}"
        )
    entries = list(_entries(part))
    if odd := sorted({key for key, _, _ in entries} ^ set(tensors)):
        raise ValueError(f"{os.fspath(path)}: weights missing or unknown: {', '.join(odd)}")
    for key, holder, name in entries:
        holder.weights.check_changeable()
        # The shapes are known before the weights are drawn.
        if tensors[key].shape != (shape := holder.weights.specs[name].shape):
            raise ValueError(
                f"{os.fspath(path)}: {key} has shape {tensors[key].shape}; it must be {shape}"
            )
    taken = []
    for key, holder, _ in entries:
        placement = holder.weights.placement
        taken.append(placement.accept(key, placement.from_host(tensors[key])))
    for (_, holder, name), array in zip(entries, taken, strict=True):
        holder.weights[name] = array
    return part


def write(path: str | os.PathLike[str], tensors: Mapping[str, Array], info: dict[str, Any]) -> None:
    """Write arrays of any library, and JSON values, to a safetensors file, replacing it."""
    path = Path(path)
    arrays = {
        key: host.xp.ascontiguousarray(backend_of(a, key).to_host(a)) for key, a in tensors.items()
    }
    header = {"format": FORMAT} | {key: json.dumps(value) for key, value in info.items()}
    replace(path, safetensors_numpy.save(arrays, metadata=header))


def replace(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, and rename it when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays (NumPy) and the JSON of a file written by `write` or `save`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no safetensors file, cut short, or not of xrnn.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    try:
        with safe_open(name, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{name} is no safetensors file, or is cut short ({error})") from None
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{name} is a safetensors file, but not of xrnn ({FORMAT}); for weights trained with "
            "PyTorch use xrnn.convert.from_torch"
        )
    return tensors, {k: json.loads(v) for k, v in header.items() if k != "format"}


def _entries(part: Parts) -> Any:
    """(key in the file, part, name of its weight) of everything to save."""
    named = part.items() if isinstance(part, Mapping) else [("", part)]
    for prefix, one in named:
        for name in one.weights:
            yield f"{prefix}.{name}" if prefix else name, one, name


def _config(part: Parts) -> dict[str, Any]:
    if isinstance(part, Mapping):
        return {name: _config(one) for name, one in part.items()}
    if isinstance(part, type) or not hasattr(part, "config"):
        raise TypeError(
            f"part is a {type(part).__name__}; it must be a layer, an embedding, a linear map, or "
            "a mapping of names to those"
        )
    return part.config()


def _differences(theirs: Any, mine: dict[str, Any]) -> str:
    theirs = theirs if isinstance(theirs, dict) else {}
    keys = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
    return "; ".join(f"{k} is {theirs.get(k)!r} in the file, {mine.get(k)!r} here" for k in keys)
