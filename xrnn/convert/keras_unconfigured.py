"""The layers of a file of Keras that has arrays but no configuration.

Names and shapes of the arrays tell a layer and its sizes.  They do not tell its activation
functions, in which direction it runs, and whether it returns all outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from xrnn.convert.keras_files import KerasFile
from xrnn.convert.keras_found import RECURRENT, Found, arrays_in, split

#: how many gates a recurrent layer has
GATES: Mapping[int, str] = {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}

#: the note on each of several parts
ORDER = "the file does not say the order of the layers, and what is computed between them"

#: the owner of the arrays of one direction of a Bidirectional
WAY = r"(.*/|)(forward|backward)_([^/]+)(?:/.*)?"


def unconfigured(file: KerasFile) -> Iterator[Found]:
    """The layers of a file without configuration, as far as names and shapes tell them."""
    objects = _objects(file)
    kinds = {owner: kind for owner, paths in objects.items() if (kind := _kind(file, owner, paths))}
    ways = {owner: _way(file, owner) for owner in kinds}
    notes = (ORDER,) * (file.layers is None and len({there for there, _ in ways.values()}) > 1)
    for owner, kind in kinds.items():
        there, way = ways[owner]
        pair = {ways[other][1]: other for other in kinds if ways[other][0] == there}
        both = len(pair) == 2 and kind in RECURRENT
        if both and way == "backward":
            continue
        arrays = [objects[pair[w]] for w in ("forward", "backward")] if both else [objects[owner]]
        yield Found(_label(file, owner, list(kinds)), kind, None, arrays, notes)


def _objects(file: KerasFile) -> dict[str, list[str]]:
    """Owner → the paths of its arrays, in order."""
    found: dict[str, list[str]] = {}
    if file.layers is None:
        return {group: arrays_in(file, group) for group in sorted(file.groups, key=_by_numbers)}
    for path in (p for paths in file.layers.values() for p in paths):
        found.setdefault(split(path)[0], []).append(path)
    return found


def _by_numbers(group: str) -> list[list[str | int]]:
    """The key that puts lstm_2 before lstm_10: objects of one class are numbered in their order."""
    parts = [re.split(r"(\d+)", part) for part in group.split("/")]
    return [[int(one) if n % 2 else one for n, one in enumerate(part)] for part in parts]


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


def _way(file: KerasFile, owner: str) -> tuple[str, str]:
    """What both directions of a Bidirectional have in common, and "forward" or "backward"."""
    # By objects they are its attributes; by layers they have the name of the layer in it.
    name = r"(.+/)(forward|backward)_(layer)/.*" if file.layers is None else WAY
    found = re.fullmatch(name, owner)
    return (f"{found[1]}*_{found[3]}", found[2]) if found else (owner, "")


def _label(file: KerasFile, owner: str, owners: list[str]) -> str:
    """The name of a layer that is loaded."""
    there, way = _way(file, owner)
    parts = (there.rpartition("/")[0] if way else owner).split("/")
    if file.layers is not None:
        ways = {_way(file, other)[0] for other in owners if other.split("/")[0] == parts[0]}
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
