"""The layers of a file of Keras that has arrays but no configuration.

Names and shapes of the arrays tell a layer and its sizes.  They do not tell its activation
functions, in which direction it runs, and whether it returns all outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from xrnn.convert.keras_files import KerasFile

RECURRENT = ("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU")
LOADED = (*RECURRENT, "Dense", "Embedding")

#: how many gates a recurrent layer has
GATES: Mapping[int, str] = {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}


class Found(NamedTuple):
    """A layer whose weights the file holds.

    - name: its name, after those of the models that hold it: "encoder/lstm"
    - kind: one of `LOADED`
    - config: its configuration; None if the file has none
    - arrays: the paths of its arrays in order, for each direction
    - notes: what is to be known of it
    """

    name: str
    kind: str
    config: Mapping[str, Any] | None
    arrays: list[list[str]]
    notes: tuple[str, ...] = ()


#: the last part of a path: the name that Keras gives an array, and in Keras 1 its owner before it
MODERN = re.compile(r"(?:(.*)/)?(kernel|recurrent_kernel|bias|embeddings)(?:_\d+)?(?::\d+)?")
KERAS_1 = re.compile(r"(?:(.*?)[/_])?([WUb](?:_[ifcozrh])?)(?::\d+)?")


def split(path: str) -> tuple[str, str]:
    """The owner of an array, and the name of the array; "" if Keras has no such name."""
    found = MODERN.fullmatch(path) or KERAS_1.fullmatch(path)
    return (found[1] or "", found[2]) if found else (path.rpartition("/")[0], "")


def arrays_in(file: KerasFile, group: str) -> list[str]:
    """The paths of the arrays of one object, in order."""
    start = f"{group}/vars/"
    numbers = sorted(
        int(p[len(start) :]) for p in file.unread if re.fullmatch(re.escape(start) + r"\d+", p)
    )
    return [f"{start}{n}" for n in numbers]


def unconfigured(file: KerasFile) -> Iterator[Found]:
    """The layers of a file without configuration, as far as names and shapes tell them."""
    objects = _objects(file)
    kinds = {owner: kind for owner, paths in objects.items() if (kind := _kind(file, owner, paths))}
    ways = {owner: _way(owner) for owner in kinds}
    for owner, kind in kinds.items():
        there, way = ways[owner]
        pair = {ways[other][1]: other for other in kinds if ways[other][0] == there}
        both = len(pair) == 2 and kind in RECURRENT
        if both and way == "backward":
            continue
        arrays = [objects[pair[w]] for w in ("forward", "backward")] if both else [objects[owner]]
        yield Found(_label(file, owner, list(kinds)), kind, None, arrays)


def _objects(file: KerasFile) -> dict[str, list[str]]:
    """Owner → the paths of its arrays, in order."""
    found: dict[str, list[str]] = {}
    if file.layers is None:
        return {group: arrays_in(file, group) for group in file.groups}
    for path in (p for paths in file.layers.values() for p in paths):
        found.setdefault(split(path)[0], []).append(path)
    return found


def _kind(file: KerasFile, owner: str, paths: list[str]) -> str:
    """The kind of the object with these arrays; "" if it is not one of `LOADED`."""
    shapes = [file.unread[p].shape for p in paths if p in file.unread]
    if file.layers is not None:
        names = [split(path)[1] for path in paths]
    else:
        names = _numbered_names(file, owner)[: len(paths)]
    # One that is shared has been counted already, and has no arrays of its own.
    if not len(shapes) == len(paths) == len(names):
        return ""
    return _kind_of_names(dict(zip(names, shapes, strict=True)), file.major == 1)


def _numbered_names(file: KerasFile, owner: str) -> list[str]:
    """The names of the arrays 0, 1, 2 of an object, as far as names tell its class: its own, or
    that of its group, or for a cell that of the group of its layer."""
    *above, last = owner.split("/")
    names = [file.groups[owner], last]
    if last == "cell" or above[-1:] == ["cells"]:
        known = r"(lstm|gru|simple_rnn)(_cell)?(_\d+)?|(forward|backward)_layer"
        found = any(re.fullmatch(known, name) for name in (*names, *above[-1:]))
        return ["kernel", "recurrent_kernel", "bias"] if found else []
    if any(re.fullmatch(r"embedding(_\d+)?", name) for name in names):
        return ["embeddings"]
    found = any(re.fullmatch(r"dense(_\d+)?", name) for name in names)
    return ["kernel", "bias"] if found else []


def _kind_of_names(shapes: Mapping[str, tuple[int, ...]], keras_1: bool) -> str:
    """The kind of a layer with arrays of these names and shapes."""
    names = set(shapes)
    recurrent = shapes.get("recurrent_kernel", shapes.get("U", ()) if keras_1 else ())
    if len(recurrent) == 2:
        H, rest = recurrent[0], recurrent[1] % max(recurrent[0], 1)
        kind = "" if rest or not H else GATES.get(recurrent[1] // H, "")
        twice = shapes.get("bias") == (2 * recurrent[1],)
        return f"CuDNN{kind}" if kind in ("LSTM", "GRU") and twice else kind
    if keras_1 and {"U_i", "U_f", "U_c", "U_o"} <= names:
        return "LSTM"
    if keras_1 and {"U_z", "U_r", "U_h"} <= names:
        return "GRU"
    matrices = {name for name, shape in shapes.items() if len(shape) == 2}
    if names == {"embeddings"} == matrices or (keras_1 and names == {"W"} == matrices):
        return "Embedding"
    dense = [{"kernel"}, {"kernel", "bias"}] + [{"W", "b"}] * keras_1
    return "Dense" if names in dense and matrices <= {"kernel", "W"} and matrices else ""


def _way(owner: str) -> tuple[str, str]:
    """What both directions of a Bidirectional have in common, and "forward" or "backward"."""
    found = re.match(r"(.*/|)(forward|backward)_([^/]+)", owner)
    return (f"{found[1]}*_{found[3]}", found[2]) if found else (owner, "")


def _label(file: KerasFile, owner: str, owners: list[str]) -> str:
    """The name of a layer that is loaded."""
    parts = re.sub(r"(^|/)(forward|backward)_[^/]+.*", "", owner).split("/")
    if file.layers is not None:
        ways = {_way(other)[0] for other in owners if other.split("/")[0] == parts[0]}
        if len(ways) == 1:
            return parts[0]
        if len(parts) > 1 and parts[1] == parts[0]:
            del parts[0]
        if re.fullmatch(r"(lstm|gru|simple_rnn)_cell(_\d+)?", parts[-1]):
            del parts[-1]
        return "/".join(parts)
    names = []
    for n, part in enumerate(parts):
        if part in ("layers", "_layer_checkpoint_dependencies", "layer", "cell", "cells"):
            continue
        listed = n and parts[n - 1] in ("layers", "_layer_checkpoint_dependencies", "cells")
        called = file.groups.get("/".join(parts[: n + 1]), "")
        names.append(called if listed and called else part)
    return "/".join(names)
