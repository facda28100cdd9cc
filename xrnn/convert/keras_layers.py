"""The layers of a model of Keras, and which arrays of its file belong to each.

A model is a tree of layers: models hold layers, wrappers hold one layer.  `layers_of` goes down
this tree in the configuration and, at the same time, in the arrays, which lie in one of the two
layouts of `xrnn.convert.keras_files`; `ByLayers` and `ByObjects` are a place in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

from xrnn.convert.keras_files import KerasFile
from xrnn.convert.keras_found import LOADED, RECURRENT, Found, arrays_in, split
from xrnn.convert.keras_nodes import Node, node_of
from xrnn.convert.keras_notes import spelled
from xrnn.convert.keras_unconfigured import unconfigured
from xrnn.convert.loaded import within

#: what holds layers that can be loaded
WRAPPERS = ("Bidirectional", "TimeDistributed", "RNN")

#: what changes nothing between two parts: it acts in training alone, or `masks_of` tells of it;
#: NotEqual and Any are what Keras 3 makes of masks
PASSING = re.compile(
    "InputLayer|Identity|Masking|NotEqual|Any|ActivityRegularization|GaussianNoise"
    "|(Alpha|Gaussian|Spatial|)Dropout([123]D)?"
)

#: the note on a recurrent layer within a TimeDistributed
EACH = (
    "TimeDistributed: Keras runs the layer on each step of (B, T, …) as a sequence of its own; "
    "call the part with (B·T, …)"
)

#: what makes a difference between the two directions of a Bidirectional
EQUAL = (
    "activation",
    "recurrent_activation",
    "inner_activation",
    "use_bias",
    "reset_after",
    "units",
    "output_dim",
    "time_major",
)


class Place(Protocol):
    """Where the arrays of a layer are."""

    def children(self, nodes: Sequence[Node]) -> list[Place]:
        """The places of the layers of a model."""

    def cells(self, nodes: Sequence[Node]) -> list[Place]:
        """The places of the cells of a stack."""

    def wrapped(self) -> Place:
        """The place of the layer in a TimeDistributed."""

    def directions(self) -> list[Place]:
        """The places of both directions of a Bidirectional, the forward one first."""

    def arrays(self, kind: str, name: str) -> list[str]:
        """The paths of the arrays of a layer of that kind, in order."""


def layers_of(file: KerasFile) -> list[Found]:
    """The layers that can be loaded, and those that the caller must compute, in order.

    Raises
    ------
    ValueError
        If the weights of such a layer are missing, or it joins its directions in another way than
        xrnn.
    """
    model = None if file.config is None else node_of(file.config)
    if model is None or model.layers is None:
        # A class of the user has its layers in its code.
        return list(unconfigured(file))
    place = ByObjects(file, "") if file.layers is None else ByLayers(file.layers, [])
    return [
        one
        for node, there in zip(model.layers, place.children(model.layers), strict=True)
        for one in _walk(there, node, "")
    ]


def _walk(place: Place, node: Node, prefix: str) -> Iterator[Found]:
    """A layer, or the layers in it."""
    name, nodes = f"{prefix}{node.name}", node.layers
    if nodes is not None:
        for one, there in zip(nodes, place.children(nodes), strict=True):
            yield from _walk(there, one, f"{name}/")
    elif node.kind == "TimeDistributed":
        inner = node_of(node.config.get("layer"))
        for found in _walk(place.wrapped(), inner._replace(name=node.name), prefix):
            each = (EACH,) if found.kind in RECURRENT else ()
            yield found._replace(notes=(*found.notes, *each))
    elif node.kind == "Bidirectional":
        yield from _bidirectional(place, node, name)
    elif node.kind == "RNN":
        yield from _stack(place, node, name)
    elif node.kind in LOADED:
        yield Found(name, node.kind, node.config, [place.arrays(node.kind, node.name)], node.notes)
    elif not PASSING.fullmatch(node.kind) and not _is_linear(node):
        yield _not_loaded(name, node)


def _is_linear(node: Node) -> bool:
    return node.kind == "Activation" and node.config.get("activation") == "linear"


def _not_loaded(name: str, node: Node) -> Found:
    """A layer that is in no part, and computes something."""
    if not node.kind:
        why = (
            f"it is {node.class_name}, a class of the user: the file does not hold its code, which "
            "says what it computes; if a layer of Keras computes the same, save the model with that"
        )
    elif node.kind.startswith("ConvLSTM"):
        return skipped(name, [node])
    else:
        function = f" of {spelled(node.config.get('activation'))}" * (node.kind == "Activation")
        why = f"it is {node.class_name}{function}: compute it where the model has it"
    return Found(name, "", None, [], (why,))


def _stack(place: Place, node: Node, name: str) -> Iterator[Found]:
    """The layer RNN of one cell, or of several."""
    nodes = _cells(node)
    if len(nodes) == 1 and nodes[0].kind in RECURRENT:
        (one,) = nodes
        paths = place.arrays(one.kind, node.name)
        yield Found(name, one.kind, one.config, [paths], node.notes)
        return
    if any(one.kind not in RECURRENT for one in nodes):
        yield skipped(name, nodes)
    else:
        note = f"a cell of {name}: each cell reads the outputs of the one before"
        for one, there in zip(nodes, place.cells(nodes), strict=True):
            paths = there.arrays(one.kind, one.name)
            notes = (note, *node.notes)
            yield Found(f"{name}/{one.name}", one.kind, one.config, [paths], notes)


def skipped(name: str, nodes: Sequence[Node]) -> Found:
    """A recurrent layer with others than the cells of Keras."""
    classes = ", ".join(
        f"{node.class_name}{'' if node.kind else ' (a class of the user)'}" for node in nodes
    )
    return Found(name, "", None, [], (f"it runs {classes}; it must be LSTM, GRU or SimpleRNN",))


def _cells(node: Node) -> list[Node]:
    """The cells of a layer RNN, with the options of the layer among theirs."""
    cell = node_of(node.config.get("cell"))
    cells = [cell]
    if cell.kind == "StackedRNNCells":
        cells = [node_of(one) for one in cell.config.get("cells", ())]
    return [one._replace(config={**node.config, **one.config}) for one in cells]


def _bidirectional(place: Place, node: Node, name: str) -> Iterator[Found]:
    inner, mode = node_of(node.config.get("layer")), node.config.get("merge_mode", "concat")
    if inner.kind == "RNN":
        cells = _cells(inner)
        if len(cells) > 1:
            raise ValueError(
                f"{name}: it runs a stack of {len(cells)} cells both ways, and joins the outputs "
                "of the last ones; xrnn joins those of every layer"
            )
        (inner,) = cells
    if inner.kind not in RECURRENT:
        yield skipped(name, [inner])
        return
    if mode != "concat":
        raise ValueError(
            f"{name}: merge_mode is {mode!r}; it must be 'concat': xrnn puts the outputs of both "
            "directions side by side"
        )
    if inner.config.get("go_backwards"):
        raise ValueError(
            f"{name}: go_backwards is True within Bidirectional, which has the outputs of the "
            "backward direction first, and the last step first; it must be False"
        )
    if node.config.get("backward_layer") is not None:
        other = node_of(node.config["backward_layer"])
        other = _cells(other)[0] if other.kind == "RNN" else other
        odd = [] if other.kind == inner.kind else ["class_name"]
        odd += [k for k in EQUAL if other.config.get(k) != inner.config.get(k)]
        if odd:
            raise ValueError(
                f"{name}: its backward_layer has another {odd[0]} than its layer; they must be "
                "equal: xrnn has the same cell in both directions"
            )
    with within(name):
        arrays = [there.arrays(inner.kind, node.name) for there in place.directions()]
    yield Found(name, inner.kind, inner.config, arrays, node.notes)


# ---- Arrays by layers


class ByLayers(NamedTuple):
    """Arrays listed by the layers of the model, or some of these."""

    layers: Mapping[str, list[str]]
    paths: list[str]

    def children(self, nodes: Sequence[Node]) -> list[Place]:
        if self.layers:
            return [ByLayers({}, self.layers.get(node.name, [])) for node in nodes]
        # Those of a model within a model are in one list.
        return [ByLayers({}, [p for p in self.paths if _owns(node, p)]) for node in nodes]

    def cells(self, nodes: Sequence[Node]) -> list[Place]:
        ends = [0, *accumulate(2 + bool(node.config.get("use_bias", True)) for node in nodes)]
        known = _known(self.paths)
        return [ByLayers({}, known[a:b]) for a, b in pairwise(ends)]

    def wrapped(self) -> Place:
        return self

    def directions(self) -> list[Place]:
        known = _known(self.paths)
        halves = known[: len(known) // 2], known[len(known) // 2 :]
        # Keras calls the first layer forward_…; a backward layer of the user has a name of its own.
        ways = {found[1] for p in halves[0] if (found := re.match(".*/(forward|backward)_", p))}
        if len(halves[0]) != len(halves[1]) or "backward" in ways:
            raise ValueError(
                f"its arrays are {', '.join(self.paths)}; they must be those of the forward layer, "
                "and as many of the backward layer"
            )
        return [ByLayers({}, half) for half in halves]

    def arrays(self, kind: str, name: str) -> list[str]:
        if not self.paths:
            raise ValueError(f"{name}: the file has no weights of this layer")
        return _known(self.paths)


def _known(paths: list[str]) -> list[str]:
    """Those with names that Keras gives to weights; all, if there are none: older files have
    numbers alone.  A stateful layer may have its states among them."""
    return [p for p in paths if split(p)[1]] or paths


def _owns(node: Node, path: str) -> bool:
    """Whether an array belongs to a layer, or to a layer within it."""
    names = {node.name}
    inner = node.config.get("layer")
    if node.kind == "Bidirectional":
        name = node_of(inner).name.removeprefix("forward_")
        names |= {f"forward_{name}", f"backward_{name}"}
    owner = split(path)[0].split("/")
    return bool(names & set(owner)) or any(_owns(one, path) for one in node.layers or ())


# ---- Arrays by objects


class ByObjects(NamedTuple):
    """Arrays in groups by the attributes of objects; the place is the group of one object."""

    file: KerasFile
    group: str | None

    def children(self, nodes: Sequence[Node]) -> list[Place]:
        # tf.keras 2.12 has the second one.
        for name in ("layers", "_layer_checkpoint_dependencies"):
            if self._groups(name):
                return self._numbered(name, nodes)
        return [ByObjects(self.file, None) for _ in nodes]

    def cells(self, nodes: Sequence[Node]) -> list[Place]:
        return self._numbered("cell/cells", nodes)

    def wrapped(self) -> Place:
        return self._below("layer")

    def directions(self) -> list[Place]:
        return [self._below("forward_layer"), self._below("backward_layer")]

    def arrays(self, kind: str, name: str) -> list[str]:
        # The arrays of a recurrent layer are those of its cell; a cell of a stack has its own.
        for below in ("/cell", "") if kind in RECURRENT else ("",):
            if self.group is not None and (found := arrays_in(self.file, f"{self.group}{below}")):
                return found
        raise ValueError(f"{name}: the file has no weights of this layer")

    def _below(self, name: str) -> ByObjects:
        return ByObjects(self.file, None if self.group is None else f"{self.group}/{name}")

    def _groups(self, name: str) -> list[str]:
        """The groups of the objects in the list of that name."""
        start = f"{self.group}/{name}/".removeprefix("/")
        below = [p for p in (*self.file.groups, *self.file.unread) if p.startswith(start)]
        return list(dict.fromkeys(p[len(start) :].split("/")[0] for p in below))

    def _numbered(self, name: str, nodes: Sequence[Node]) -> list[Place]:
        """The objects of each kind are numbered: lstm, lstm_1, …"""
        if self.group is None:
            return [ByObjects(self.file, None) for _ in nodes]
        places: dict[int, Place] = {}
        for class_name in {node.class_name for node in nodes}:
            mine = [n for n, node in enumerate(nodes) if node.class_name == class_name]
            groups: list[str | None] = [*self._numbered_groups(name, _snake(class_name), len(mine))]
            for n, group in zip(mine, groups or [None] * len(mine), strict=True):
                places[n] = self._checked(group, nodes[n])
        return [places[n] for n in range(len(nodes))]

    def _numbered_groups(self, name: str, kind: str, count: int) -> list[str]:
        """The groups kind, kind_1, kind_2 … in order; none, if they are not as many."""
        numbers = {}
        for group in self._groups(name):
            if found := re.fullmatch(rf"{kind}(?:_(\d+))?", group):
                numbers[int(found[1] or 0)] = f"{self.group}/{name}/{group}".removeprefix("/")
        groups = [numbers[n] for n in sorted(numbers)]
        if len(groups) != count:
            # Objects that are listed a second time have no arrays there.
            groups = [g for g in groups if any(p.startswith(f"{g}/") for p in self.file.unread)]
        return groups if len(groups) == count else []

    def _checked(self, group: str | None, node: Node) -> ByObjects:
        named = self.file.groups.get(group or "", "")
        looked_at = node.kind in (*LOADED, *WRAPPERS) or node.layers is not None
        if looked_at and named and named != node.name:
            raise ValueError(
                f"{group} holds {named}; it must hold {node.name}, the next one of its class"
            )
        return ByObjects(self.file, group)


def _snake(kind: str) -> str:
    """The name of a class as Keras numbers its objects by it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
