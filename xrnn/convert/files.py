"""`save` and `load`: safetensors files with the configuration in their metadata.

A file holds one part (a layer, an embedding, a linear map) or several under names.  It is replaced
as a whole (see `xrnn.engine.atomic`) and carries a checksum (see `xrnn.convert.encoding`).

Files of every released version can be read.  A file of a newer format is refused.  So is an option
in the configuration that the part does not have, because it would change what is computed; what
else the metadata hold is kept, and `read` returns it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

from xrnn.backends import backend_of
from xrnn.cells.base import check_flags
from xrnn.convert import encoding
from xrnn.convert.casting import rounded
from xrnn.engine import atomic
from xrnn.engine.checks import DTYPES
from xrnn.engine.parameters import Parameters, assign_together
from xrnn.layers.architecture import LATER
from xrnn.typing import Array, dtype_name

#: how a safetensors file begins: 8 bytes that hold a length, then JSON
HEAD = 9


class Part(Protocol):
    """What can be saved: an object with weights and a configuration."""

    @property
    def weights(self) -> Parameters: ...

    def config(self) -> dict[str, Any]: ...


Parts = Part | Mapping[str, Part]

P = TypeVar("P", bound=Parts)

Tensors = dict[str, Array]

#: name in the file → the weights it belongs to, and its name among them
Entries = dict[str, tuple[Parameters, str]]


def save(path: str | os.PathLike[str], part: Parts, metadata: Any = None) -> None:
    """Write weights and configuration to a safetensors file.

    A file that is already there is replaced completely or, after an error or a crash, left as it
    was; its mode is kept, and a symbolic link is followed.

    Parameters
    ----------
    path : path
        The file.
    part : Layer, Embedding, Linear, or mapping of str to those
        What to save; with a mapping, several under their names.
    metadata : JSON value, optional
        Further data (a vocabulary, a note), which `xrnn.convert.files.read` returns: None, bool,
        int, float (not NaN or infinity), str, and lists and dicts (with keys of str) of those.

    Raises
    ------
    OSError
        If the file cannot be written.
    TypeError
        If `part` is something else, `metadata` is not a JSON value, or the weights have a dtype
        that safetensors files cannot hold (complex128).
    ValueError
        If `metadata` holds NaN or infinity, or is nested too deeply, or the name of a part cannot
        be written as UTF-8.

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
    name = _name(path)
    tensors = {
        _key(prefix, weight): array
        for prefix, one in _named(part)
        for weight, array in dict(one.weights).items()
    }
    _check_json("metadata", metadata)
    write(name, tensors, {"config": _config(part), "metadata": metadata})


def load(path: str | os.PathLike[str], part: P, *, cast: bool = False) -> P:
    """Read the weights in a file of `save` into a part that has the same configuration.

    Everything is checked before the first weight is replaced.

    Parameters
    ----------
    path : path
        The file.
    part : Layer, Embedding, Linear, or mapping of str to those
        The part whose weights are replaced; it keeps its library and device.
    cast : bool
        Whether a file of another dtype is accepted; its numbers are then rounded to the dtype of
        the part.

    Returns
    -------
    part
        The `part` that was given.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is damaged, not written by xrnn, or has another configuration.
    TypeError
        If the weights of the part are frozen, or those in the file are not of the dtype that its
        configuration says.

    After an error, and after Ctrl-C, the part is as it was or, if all weights had been replaced by
    then, as the file says.

    Examples
    --------
    See `save`.
    """
    name, named = _name(path), list(_named(part))
    check_flags("load", cast=cast)
    for _, one in named:
        one.weights.check_changeable()
    contents = _contents(name)
    mine = _config(part)
    theirs = encoding.modern(contents.info.get("config"), contents.format, mine)
    _check_config(name, theirs, mine, cast)
    weights = {_key(prefix, w): (one.weights, w) for prefix, one in named for w in one.weights}
    if odd := sorted(weights.keys() ^ contents.tensors.keys()):
        raise ValueError(f"{name}: weights missing or unknown: {', '.join(odd)}")
    configs = theirs if isinstance(part, Mapping) else {"": theirs}
    taken = {}
    for key, (holder, weight) in weights.items():
        said = configs[key.rpartition(".")[0]].get("dtype")
        what = f"{name}: {holder.kind}: {key}"
        taken[key] = _array(what, contents.tensors[key], said, holder, weight)
    assign_together(_grouped(name, weights, taken, contents.tensors))
    return part


def write(path: str | os.PathLike[str], tensors: Mapping[str, Array], info: dict[str, Any]) -> None:
    """Write arrays of any library, and JSON values, to a safetensors file, replacing it."""
    arrays = {key: backend_of(a, key).to_host(a) for key, a in tensors.items()}
    atomic.replace(path, encoding.encode(arrays, info))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays (NumPy) and the JSON values of a file written by `write` or `save`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is no safetensors file, damaged, or not of xrnn.
    """
    tensors, info, _ = _contents(_name(path))
    return tensors, info


def _contents(name: str) -> encoding.Contents:
    """What the file of that name holds; every error names it."""
    try:
        # What is no safetensors file may be too large to be read as a whole.
        begins = atomic.read(name, HEAD)[8:] == b"{"
        data = atomic.read(name) if begins else b""
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such file") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot be read: {error.strerror or error}", name) from error
    try:
        return encoding.decode(data)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _name(path: Any) -> str:
    """The path as a str."""
    try:
        name = os.fsdecode(path)
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ValueError(
            f"path is {path!r:.80}; it holds characters that no file name can have here"
        ) from None
    except TypeError:
        raise TypeError(
            f"path is {path!r:.80}; it must be a str or a path, such as 'model.safetensors'"
        ) from None
    if "\0" in name:
        raise ValueError(f"path is {name!r:.80}; the name of a file cannot contain \\0")
    return name


def _named(part: Parts) -> Iterator[tuple[str, Part]]:
    """(name, part) of everything to save or to load; the name of a single part is empty."""
    several = isinstance(part, Mapping)
    for name, one in part.items() if isinstance(part, Mapping) else [("", part)]:
        if not isinstance(name, str):
            raise TypeError(f"part has the name {name!r:.80}; names of parts must be str")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"part has the name {name!r:.80}, which UTF-8 cannot hold")
        if not isinstance(getattr(one, "weights", None), Parameters):
            raise TypeError(
                f"part is a {f'mapping whose {name!r:.80} is a ' if several else ''}"
                f"{type(one).__name__}; it must be a layer, an embedding, a linear map, or a "
                "mapping of names to those"
            )
        yield name, one


def _key(prefix: str, weight: str) -> str:
    """The name of a weight in a file."""
    return f"{prefix}.{weight}" if prefix else weight


def _config(part: Parts) -> dict[str, Any]:
    """The configuration, with the dtype that the weights have."""
    if isinstance(part, Mapping):
        return {name: _config(one) for name, one in part.items()}
    return {**part.config(), "dtype": dtype_name(part.weights.placement.dtype)}


def _check_config(name: str, theirs: Any, mine: dict[str, Any], cast: bool) -> None:
    """ValueError unless both configurations are equal; with `cast` dtypes may differ."""
    if not isinstance(theirs, dict):
        raise ValueError(f"{name} holds no layer or other part that xrnn.save has written")
    found = dict(_differences(theirs, mine))
    dtypes = [key for key in found if key.rpartition(".")[2] == "dtype"]
    if cast:
        found = {key: words for key, words in found.items() if key not in dtypes}
    elif found and len(dtypes) == len(found):
        found[""] = "to convert the numbers, give load cast=True"
    if found:
        raise ValueError(
            f"{name} holds another configuration than the part it is to fill: "
            f"{'; '.join(found.values())}"
        )


def _differences(
    theirs: dict[str, Any], mine: dict[str, Any], of: str = ""
) -> Iterator[tuple[str, str]]:
    """(option, how it differs) of two configurations."""
    usual = LATER if "kind" in theirs and "kind" in mine else {}
    for key in {**mine, **theirs}:
        a, b = (one.get(key, usual.get(key)) for one in (theirs, mine))
        name = f"{of}{key}"
        # The name of a cell tells its options: what differs may stand at the end.
        words = [f"{value!r:.{300 if key == 'cell' else 80}}" for value in (a, b)]
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{name}.")
        elif key not in theirs and key not in usual:
            yield name, f"{name} is missing in the file, {words[1]} here"
        elif key not in mine and key not in usual:
            yield name, f"{name} is {words[0]} in the file, unknown here"
        elif a != b:
            yield name, f"{name} is {words[0]} in the file, {words[1]} here"


def _array(what: str, found: Array, said: Any, holder: Parameters, weight: str) -> Array:
    """An array of a file as the part needs it, after all checks; `said` is its dtype by name."""
    placement, shape = holder.placement, holder.specs[weight].shape
    if found.shape != shape:
        raise ValueError(f"{what} has shape {found.shape}; it must be {shape}")
    if dtype_name(found.dtype) != said or said not in DTYPES:
        raise TypeError(f"{what} is {found.dtype}; its configuration says {said!r:.80}")
    found = rounded(what, found, dtype_name(placement.dtype))
    return placement.accept(what, placement.from_host(found))


def _grouped(
    name: str, weights: Entries, taken: Tensors, found: Tensors
) -> list[tuple[Parameters, Tensors]]:
    """The new arrays of each of the parameters; one part may have several names."""
    groups: dict[int, tuple[Parameters, Tensors]] = {}
    first: dict[tuple[int, str], str] = {}
    for key, (holder, weight) in weights.items():
        other = first.setdefault((id(holder), weight), key)
        if found[key].tobytes() != found[other].tobytes():
            raise ValueError(
                f"{name}: {other} and {key} are one weight here, and have different values in the "
                "file"
            )
        groups.setdefault(id(holder), (holder, {}))[1][weight] = taken[key]
    return list(groups.values())


def _check_json(name: str, value: Any) -> None:
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
