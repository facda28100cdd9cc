"""`save` and `load`: safetensors files with the configuration in their metadata.

A file holds one part (a layer or another part of a model, an optimizer, a learner) or several under
names.  It is replaced as a whole (see `xrnn.engine.atomic`) and carries a checksum (see
`xrnn.convert.encoding`).

Files of every released version can be read.  A file of a newer format is refused.  So is an option
in the configuration that the part does not have, because it would change what is computed; what
else the metadata hold is kept, and `read` returns it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar, overload

from xrnn.backends import backend_of, locate
from xrnn.cells.base import check_flags
from xrnn.convert import encoding
from xrnn.convert.building import Builder
from xrnn.convert.filling import check_fillable, fill
from xrnn.convert.held import Held, held
from xrnn.convert.parts import (
    Part,
    Parts,
    config_of,
    details_of,
    differences,
    named,
    stored,
    tied_names,
)
from xrnn.convert.paths import accept_path, reading
from xrnn.engine import atomic
from xrnn.engine.checks import DTYPES, accept_dtype
from xrnn.typing import Array, GivenDType

#: how a safetensors file begins: 8 bytes that hold a length, then JSON
HEAD = 9


P = TypeVar("P", bound=Parts)


def save(path: str | os.PathLike[str], part: Parts, metadata: Any = None) -> None:
    """Write weights and configuration to a safetensors file.

    A file that is already there is replaced completely or, after an error or a crash, left as it
    was; its mode is kept, and a symbolic link is followed.

    Parameters
    ----------
    path : path
        The file.
    part : part of a model, Optimizer, Average, Plateau, Online, or mapping of str to those
        What to save: any part of xrnn, such as a layer, an `xrnn.Sequential` or an
        `xrnn.Seq2Seq`; with a mapping, several under their names.  A part that stands in several
        places or under several names is written once, and so is a weight of an
        `xrnn.online.Online` that is that of a layer.
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
        be written as UTF-8, or gives an array the same name as another part.

    Examples
    --------
    >>> import tempfile, xrnn
    >>> layer = xrnn.LSTM(3, 5, batch_first=True, cell_clip=10.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     xrnn.save(f"{folder}/model.safetensors", layer)
    ...     other = xrnn.load(f"{folder}/model.safetensors")
    >>> other
    <LSTM(3, 5, batch_first=True): lstm(cell_clip=10.0)>
    >>> bool((other.weights["U_l0"] == layer.weights["U_l0"]).all())
    True
    """
    name, parts = accept_path(path, "model.safetensors"), named(part)
    tied = tied_names(parts)
    own = {key: one for key, one in parts.items() if key not in tied}
    tensors, keys = stored(own)
    encoding.check_json("metadata", metadata)
    info: dict[str, Any] = {
        "config": _config(part),
        "metadata": metadata,
        "parts": {key: details_of(one, keys) for key, one in own.items()},
    }
    write(name, tensors, info | ({"tied": tied} if tied else {}))


@overload
def load(
    path: str | os.PathLike[str],
    part: None = None,
    *,
    dtype: GivenDType | None = None,
    device: str | None = None,
) -> Any: ...


@overload
def load(path: str | os.PathLike[str], part: P, *, cast: bool = False) -> P: ...


def load(
    path: str | os.PathLike[str],
    part: Parts | None = None,
    *,
    cast: bool = False,
    dtype: GivenDType | None = None,
    device: str | None = None,
) -> Any:
    """Read what `save` has written: new parts, or new weights of a part that is there.

    Without `part`, what was saved is made anew: the part, or the dict of parts, of the same
    classes, options and numbers.  With `part`, which must have the same configuration as the one
    that was saved, its weights are replaced; everything is checked before the first of them is.

    Parameters
    ----------
    path : path
        The file.
    part : as for `save`, optional
        The part whose weights are replaced; it keeps its library and device.
    cast : bool
        With `part`: whether a file of another dtype is accepted; its numbers are then rounded to
        the dtype of the part.
    dtype : as for `xrnn.Layer`, optional
        Without `part`: the dtype to which all weights are rounded.  Default: that in the file.
    device : str, optional
        Without `part`: where the parts are made, as for `xrnn.Layer`.  Default: "cpu".

    Returns
    -------
    part
        The `part` that was given, or what was saved.  What was one part in several places, such
        as the embedding of an `xrnn.TiedLinear`, is one part again, and the weights of an `Online`
        are those of the layer if they were so before.  The state of an optimizer or an average
        follows its weights to their device at the next update.  New parts are not frozen, but for
        layers with weights of 8 or 16 bits (`xrnn.Layer.freeze`), which are as they were.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is damaged or not written by xrnn; if it has another configuration than `part` or,
        without it, does not say all that it takes to make the part: a cell or a class of one's
        own, or a layer in a file of xrnn 0.1, is loaded with `part`.
    TypeError
        If an argument is of a wrong type, the weights of the part are frozen, or those in the file
        are not of the dtype that its configuration says.
    ImportError
        If the library of the device is not installed, or finds no device.

    After an error, and after Ctrl-C, the part is as it was or, if all weights had been replaced by
    then, as the file says.

    Examples
    --------
    A training goes on bit for bit:

    >>> import tempfile, xrnn
    >>> net, optimizer = xrnn.GRU(3, 5), xrnn.optim.Adam(1e-3)
    >>> optimizer.update(net.weights, {k: 0 * w for k, w in net.weights.items()})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     xrnn.save(f"{folder}/training", {"net": net, "optimizer": optimizer})
    ...     parts = xrnn.load(f"{folder}/training")
    ...     wide = xrnn.load(f"{folder}/training", dtype="float64")
    >>> parts["optimizer"].steps, wide["net"]
    (1, <GRU(3, 5, dtype='float64'): gru>)
    """
    name = accept_path(path, "model.safetensors")
    if part is None:
        return _loaded(name, cast, dtype, device)
    parts = named(part)
    check_flags("load", cast=cast)
    if dtype is not None or device is not None:
        raise TypeError(
            "load: dtype and device are those of the part; to convert the numbers in the file to "
            "its dtype, give cast=True"
        )
    check_fillable(parts)
    found = _held(name)
    _check_names(name, found, part)
    odd = _odd(found, _config(part), cast)
    if odd and all(_is_dtype(key) for key in odd):
        odd[""] = "to convert the numbers, give load cast=True"
    if odd:
        raise ValueError(
            f"{name} holds another configuration than the part it is to fill: "
            f"{'; '.join(odd.values())}"
        )
    _fill(name, found, parts)
    return part


def _loaded(name: str, cast: bool, dtype: GivenDType | None, device: str | None) -> Any:
    """What the file of that name holds, made anew."""
    if cast is not False:
        raise TypeError(
            f"load: cast is {cast!r:.80} and there is no part; to convert the numbers, say to what "
            "they are to be rounded, such as dtype='float32'"
        )
    target = None if dtype is None else accept_dtype("load", dtype, DTYPES)
    device = "cpu" if device is None else device
    locate(device)
    found = _held(name)
    try:
        parts = Builder(found, target, device).parts()
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    mine: Parts = {key: parts[key] for key in found.config} if found.several else parts[""]
    if odd := _odd(found, _config(mine), target is not None):
        raise ValueError(
            f"{name} holds a configuration that does not agree with itself: "
            f"{'; '.join(odd.values())}"
        )
    try:
        _fill(name, found, parts)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return mine


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
    tensors, info, _ = _contents(accept_path(path, "model.safetensors"))
    return tensors, info


def _contents(name: str) -> encoding.Contents:
    """What the file of that name holds; every error names it."""
    with reading(name):
        # What is no safetensors file may be too large to be read as a whole.
        begins = atomic.read(name, HEAD)[8:] == b"{"
        data = atomic.read(name) if begins else b""
    try:
        return encoding.decode(data)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _held(name: str) -> Held:
    """What the file of that name holds of parts."""
    contents = _contents(name)
    try:
        return held(contents)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _fill(name: str, found: Held, parts: Mapping[str, Part]) -> None:
    """Fill parts from the file of that name; every error names it."""
    try:
        fill(found, parts)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from None


def _config(part: Parts) -> dict[str, Any]:
    """The configuration of one part, or of several by their names."""
    if isinstance(part, Mapping):
        return {name: config_of(one) for name, one in part.items()}
    return config_of(part)


def _check_names(name: str, found: Held, part: Parts) -> None:
    """ValueError unless the file and what it is to fill are one part, or parts of equal names."""
    several = isinstance(part, Mapping)
    names = ", ".join(found.config) if found.several else ""
    if found.several and not several:
        raise ValueError(
            f"{name} holds the parts {names}, and part is a single one; give a mapping"
        )
    if several and not found.several:
        raise ValueError(f"{name} holds a single part, and part is a mapping; give the part itself")
    if isinstance(part, Mapping) and part.keys() != found.config.keys():
        raise ValueError(
            f"{name} holds the parts {names}, and part has {', '.join(part)}; give these parts, or "
            "load the file alone"
        )


def _odd(found: Held, mine: dict[str, Any], cast: bool) -> dict[str, str]:
    """The options that differ, and how; with `cast` dtypes may differ."""
    theirs = encoding.modern(found.config, found.format, mine)
    odd = differences(theirs, mine)
    return {key: words for key, words in odd if not (cast and _is_dtype(key))}


def _is_dtype(option: str) -> bool:
    return option.rpartition(".")[2] == "dtype"
