"""What a file can hold: modules, parts without weights, parts of parts, optimizers and what else
changes in training, and learners; and how each of them is described.

- `config_of`: what a part must have in common with a file that is loaded into it
- `known_config`: the same of a model in training, which may hold parts of a user
- `differences`: of two configurations
- `details_of`: what else is needed to make it, or is taken over from the file
- `stored`: all of their arrays by their keys in the file, each once
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Protocol, TypeAlias, TypeGuard

from xrnn.cells.descriptions import described
from xrnn.engine.parameters import Parameters
from xrnn.layers.architecture import LATER, Architecture
from xrnn.layers.attention import Attention
from xrnn.layers.attention_pooling import AttentionPooling
from xrnn.layers.composite import Composite
from xrnn.layers.dropout import Dropout
from xrnn.layers.embedding import Embedding
from xrnn.layers.gru import GRU
from xrnn.layers.input_gated import InputGatedLSTM
from xrnn.layers.layer import Layer
from xrnn.layers.layer_norm import LayerNorm
from xrnn.layers.linear import Linear
from xrnn.layers.lstm import LSTM
from xrnn.layers.merge import Merge
from xrnn.layers.part import Weightless
from xrnn.layers.pooling import Last, Max, Mean
from xrnn.layers.residual import Residual
from xrnn.layers.rnn import RNN
from xrnn.layers.seq2seq import Seq2Seq
from xrnn.layers.sequential import Sequential
from xrnn.layers.tied_linear import Bias, TiedLinear
from xrnn.learn.average import Average
from xrnn.learn.online import Online
from xrnn.learn.optim import SGD, Adam, Optimizer
from xrnn.learn.schedules import Plateau
from xrnn.typing import Array, dtype_name


class Module(Protocol):
    """A layer, an embedding or a linear map: an object with weights and a configuration."""

    @property
    def weights(self) -> Parameters: ...

    def config(self) -> dict[str, Any]: ...


Part: TypeAlias = Module | Weightless | Composite | Optimizer | Average | Plateau | Online[Any]

Parts: TypeAlias = Part | Mapping[str, Part]

#: options that a configuration holds only where they are others than these
OMITTED = LATER | {"both_ends": False}

#: the classes that a file can name
CLASSES: dict[str, type] = {
    one.__name__: one
    for one in (
        *(Layer, LSTM, GRU, RNN, InputGatedLSTM, Embedding, Linear, LayerNorm),
        *(Attention, AttentionPooling, Bias, TiedLinear),
        *(Dropout, Last, Mean, Max, Merge, Sequential, Residual, Seq2Seq),
        *(SGD, Adam, Average, Plateau, Online),
    )
}

#: what has no weights of its own
OTHERS = (Weightless, Composite, Optimizer, Average, Plateau, Online)


def named(part: Parts) -> dict[str, Part]:
    """Everything to save or to load by its name, also parts within parts, after those that hold
    them; the name of a single part is empty."""
    found: dict[str, Part] = {}
    given: Mapping[str, Any] = part if isinstance(part, Mapping) else {"": part}
    for name, one in given.items():
        if not isinstance(name, str):
            raise TypeError(f"part has the name {name!r:.80}; names of parts must be str")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"part has the name {name!r:.80}, which UTF-8 cannot hold")
        if not _can_be_saved(one):
            several = f"mapping whose {name!r:.80} is a " if isinstance(part, Mapping) else ""
            raise TypeError(
                f"part is a {several}{type(one).__name__}; it must be a layer, an embedding, a "
                "linear map, another part of xrnn, an optimizer, an Average, a Plateau, an Online, "
                "or a mapping of names to those"
            )
        inner = named(one.parts) if isinstance(one, Composite) else {}
        inner = {key_of(name, key): value for key, value in inner.items()}
        if both := found.keys() & {name, *inner}:
            raise ValueError(f"two parts have the name {min(both)!r:.80}; rename one of them")
        found |= {name: one, **inner}
    return found


def _can_be_saved(one: Any) -> bool:
    return isinstance(one, OTHERS) or isinstance(getattr(one, "weights", None), Parameters)


def is_module(part: Part) -> TypeGuard[Module]:
    """Whether it has weights of its own."""
    return not isinstance(part, OTHERS)


def tied_names(parts: Mapping[str, Part]) -> dict[str, str]:
    """Name → the first name of the same part, for each further name."""
    first: dict[int, str] = {}
    holders = {name: first.setdefault(id(one), name) for name, one in parts.items()}
    return {name: holder for name, holder in holders.items() if name != holder}


def key_of(name: str, array: str) -> str:
    """The key in a file of an array of the part of that name."""
    return f"{name}.{array}" if name else array


def config_of(part: Part) -> dict[str, Any]:
    """The configuration, with the dtype that the weights have, and of every part the whole."""
    if isinstance(part, Composite):
        return {**part.config(), "parts": {k: config_of(one) for k, one in part.parts.items()}}
    if not is_module(part):
        return part.config()
    return {**part.config(), "dtype": dtype_name(part.weights.placement.dtype)}


def known_config(part: Any) -> dict[str, Any]:
    """The configuration as far as the parts have one: that of a part of a user is empty."""
    if isinstance(part, Composite):
        parts = {name: known_config(one) for name, one in part.parts.items()}
        return {**part._options(), "parts": parts}
    return config_of(part) if _can_be_saved(part) and hasattr(part, "config") else {}


def differences(
    theirs: dict[str, Any], mine: dict[str, Any], of: str = ""
) -> Iterator[tuple[str, str]]:
    """(option, how it differs) of two configurations."""
    usual = OMITTED if "kind" in theirs and "kind" in mine else {}
    for key in {**mine, **theirs}:
        a, b = (one.get(key, usual.get(key)) for one in (theirs, mine))
        name = f"{of}{key}"
        # The name of a cell tells its options: what differs may stand at the end.
        words = [f"{value!r:.{300 if key == 'cell' else 80}}" for value in (a, b)]
        if isinstance(a, dict) and isinstance(b, dict):
            if key == "parts" and a.keys() == b.keys() and [*a] != [*b]:
                yield name, f"{name} are {', '.join(a)} in the file, {', '.join(b)} here"
            yield from differences(a, b, f"{name}.")
        elif key not in theirs and key not in usual:
            yield name, f"{name} is missing in the file, {words[1]} here"
        elif key not in mine and key not in usual:
            yield name, f"{name} is {words[0]} in the file, unknown here"
        elif a != b:
            yield name, f"{name} is {words[0]} in the file, {words[1]} here"


def details_of(part: Part, keys: Mapping[int, str]) -> dict[str, Any]:
    """What a file holds besides the configuration; `keys` are those of arrays by their ids."""
    kind = type(part)
    own = CLASSES.get(kind.__name__) is not kind
    found: dict[str, Any] = {
        "class": f"{kind.__module__}.{kind.__qualname__}" if own else kind.__name__
    }
    if isinstance(part, Plateau):
        return found | {"state": part.state}
    if isinstance(part, Optimizer | Average):
        found |= {"lr": part.lr} if isinstance(part, Optimizer) else {}
        return found | {"steps": part.steps, "state": list(part.state)}
    if isinstance(part, Architecture | Online) and (cell := described(part.cell)) is not None:
        found["cell"] = cell
    if isinstance(part, Online):
        found["limit"] = None if part.limit == inf else part.limit
        found["weights"] = {name: keys[id(w)] for name, w in part.weights.items()}
    return found


def stored(parts: Mapping[str, Part]) -> tuple[dict[str, Array], dict[int, str]]:
    """Key → array of all parts, and the key of each array by its id.

    A weight of an `Online` that is that of another part stands there under the key of that part.

    Raises
    ------
    ValueError
        If the names of the parts give two arrays the same key.
    """
    arrays: dict[str, Array] = {}
    keys: dict[int, str] = {}
    for key, array, shared in sorted(_arrays(parts), key=lambda one: one[2]):
        if shared and id(array) in keys:
            continue
        if key in arrays:
            raise ValueError(
                f"part has names that give two arrays the name {key!r} in the file; rename one of "
                "the parts"
            )
        arrays[key] = array
        keys[id(array)] = key
    return arrays, keys


def _arrays(parts: Mapping[str, Part]) -> Iterator[tuple[str, Array, bool]]:
    """(key, array, whether it may be that of another part) of all parts."""
    for name, one in parts.items():
        if isinstance(one, Optimizer | Average):
            yield from ((key_of(name, k), a, False) for k, a in one.state.items())
        elif is_module(one):
            yield from ((key_of(name, k), w, False) for k, w in one.weights.held().items())
        elif isinstance(one, Online):
            yield from ((key_of(name, k), w, True) for k, w in one.weights.items())
            yield from ((key_of(name, k), a, False) for k, a in one.memory().items())
