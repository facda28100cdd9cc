"""The layers in a configuration of Keras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: another name of a layer or of its cell → the layer
SAME: Mapping[str, str] = {
    "LSTMCell": "LSTM",
    "GRUCell": "GRU",
    "SimpleRNNCell": "SimpleRNN",
    "TimeDistributedDense": "Dense",
}

#: the first words of the modules of Keras itself
LIBRARIES = ("keras", "tf_keras", "tensorflow")


class Node(NamedTuple):
    """A layer in a configuration.

    - name: its name
    - class_name: that of its class
    - kind: the same, or the layer that a cell is of; "" for a class that is not of Keras
    - config: its configuration
    - notes: what its place in the model says of it
    """

    name: str
    class_name: str
    kind: str
    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> list[Node] | None:
        """Those of a model; None if it is no model."""
        # Keras 1 and 2 wrote those of a Sequential as a list.
        held = self.config.get("layers")
        return None if not isinstance(held, list) else [node_of(one) for one in held]


def node_of(layer: Any) -> Node:
    """A layer of a configuration."""
    if not isinstance(layer, Mapping) or not isinstance(layer.get("class_name"), str):
        raise ValueError(f"a layer of its configuration is {layer!r:.80}, which has no class_name")
    class_name, config = layer["class_name"], layer.get("config")
    if isinstance(config, list):
        config = {"layers": config}
    if not isinstance(config, Mapping):
        raise ValueError(f"the configuration of a layer {class_name} is {config!r:.80}")
    kind = SAME.get(class_name, class_name) if _is_of_keras(layer) else ""
    sources = dict.fromkeys(_state_sources(layer.get("inbound_nodes")))
    note = f"its initial state comes from {', '.join(sources)}: give state"
    name = str(config.get("name", layer.get("name")) or "")
    return Node(name, class_name, kind, config, (note,) if sources else ())


def masks_of(node: Node) -> list[str]:
    """The names of the layers that mask steps."""
    masks = node.kind == "Masking" or bool(node.config.get("mask_zero"))
    return ([node.name] if masks else []) + [n for one in node.layers or () for n in masks_of(one)]


def _is_of_keras(layer: Mapping[str, Any]) -> bool:
    """Whether a class is one of Keras: one of the user can have the same name.

    Files before ``.keras`` have no module; a class of the user that is registered has its package
    before its name: "package>LSTM".  ``.keras`` files have the module; it is None if the class is
    of a script.
    """
    for name in (layer["class_name"], str(layer.get("registered_name"))):
        package, found, _ = name.rpartition(">")
        if found and package.lower() not in LIBRARIES:
            return False
    return "module" not in layer or str(layer["module"]).split(".")[0] in LIBRARIES


def _state_sources(calls: Any) -> Iterator[str]:
    """The layers whose outputs are the initial state of this one, in any call of it."""
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, Mapping):
            # Keras 3: the arguments of call(sequences, initial_state).
            yield from _tensors((call.get("args") or [])[1:2])
            yield from _tensors((call.get("kwargs") or {}).get("initial_state"))
        elif isinstance(call, list) and call:
            # Before: [layer, call, output, other arguments] for each input, the states behind.
            entries = [call] if isinstance(call[0], str) else call
            yield from (str(one[0]) for one in entries[1:])
            for one in entries:
                others = one[3] if len(one) > 3 and isinstance(one[3], Mapping) else {}
                yield from _tensors(others.get("initial_state"))


def _tensors(value: Any) -> Iterator[str]:
    """The names of the layers whose outputs stand in an argument."""
    if isinstance(value, Mapping):
        history = (value.get("config") or {}).get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
    elif isinstance(value, list):
        if value and isinstance(value[0], str):
            yield value[0]
        else:
            yield from (name for one in value for name in _tensors(one))
