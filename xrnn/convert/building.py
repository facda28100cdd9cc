"""Parts made from the configuration in a file.  Their constructors check all of it again.

No size is believed before the file has been seen to hold arrays of that size, and no code is taken
from a file.  What a file does not say is an error, unless it cannot change what is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, prod
from typing import Any, NamedTuple

from xrnn.backends import host, locate
from xrnn.cells import BY_NAME
from xrnn.cells.base import Cell, check_sizes
from xrnn.cells.descriptions import cell_of
from xrnn.cells.numbers import accept_number
from xrnn.cells.options import Options
from xrnn.cells.zoneout import Zoneout
from xrnn.convert.encoding import renamed
from xrnn.convert.held import Held, is_group
from xrnn.convert.parts import CLASSES, OTHERS, Module, Part, is_module, key_of
from xrnn.engine.checks import DTYPES, accept_dtype, check_choice
from xrnn.engine.compact import FORMS, checked, layout
from xrnn.engine.parameters import stored
from xrnn.layers.architecture import LATER, OPTIONS
from xrnn.layers.composite import Composite
from xrnn.layers.layer import Layer
from xrnn.learn.online import Online
from xrnn.learn.optim import Optimizer
from xrnn.typing import Array, DType


class Kind(NamedTuple):
    """A kind of parts: the class, and the options that must stand in a file, and that may; for one
    that consists of parts the names of those that it must have and that it may, None: any."""

    usual: str
    needed: tuple[str, ...]
    known: tuple[str, ...] = ()
    parts: tuple[tuple[str, ...], tuple[str, ...]] | None = None


KINDS = {
    "layer": Kind(
        "Layer", ("input_size", "hidden_size"), (*OPTIONS, *LATER, "precision", "weights")
    ),
    "embedding": Kind("Embedding", ("num_embeddings", "embedding_dim"), ("padding_idx",)),
    "linear": Kind("Linear", ("in_features", "out_features"), ("activation", "bias")),
    "layer_norm": Kind("LayerNorm", ("size", "eps")),
    "dropout": Kind("Dropout", ("rate",)),
    "last": Kind("Last", ("batch_first",), ("both_ends",)),
    "mean": Kind("Mean", ("batch_first",)),
    "max": Kind("Max", ("batch_first",)),
    "merge": Kind("Merge", ("mode",)),
    "attention": Kind(
        "Attention", ("query_size", "memory_size", "output_size", "score", "batch_first")
    ),
    "attention_pooling": Kind("AttentionPooling", ("size", "attention_size", "batch_first")),
    "bias": Kind("Bias", ("size",)),
    "average": Kind("Average", ("decay",)),
    "plateau": Kind("Plateau", ("shrink", "patience", "threshold", "least")),
    "sequential": Kind("Sequential", ("parts",)),
    "residual": Kind("Residual", ("parts",)),
    "tied_linear": Kind(
        "TiedLinear", ("parts", "activation", "bias"), parts=(("embedding",), ("bias",))
    ),
    "seq2seq": Kind(
        "Seq2Seq",
        ("parts",),
        parts=(("encoder", "decoder", "readout"), ("source", "target", "attention")),
    ),
}

#: the name of a cell → the class of its layers, where a file does not say it
USUAL = {
    **dict.fromkeys(("lstm", "peephole"), "LSTM"),
    **dict.fromkeys(("gru", "gru-before"), "GRU"),
    **dict.fromkeys(("rnn", "rnn-relu"), "RNN"),
    "input-gated": "InputGatedLSTM",
}

#: what the limit of a learner must be
BYTES = ("a number of bytes ≥ 0", lambda number: number >= 0)

#: what to do where a part cannot be made from a file
HELP = "make the part yourself and give it: load(path, part)"


class Builder:
    """Makes the parts of one file.

    Parameters
    ----------
    held : Held
        What the file holds.
    dtype : str or None
        The dtype of all parts.  Default: those that the file says.
    device : str
        As for `xrnn.Layer`.
    """

    def __init__(self, held: Held, dtype: DType | None, device: str) -> None:
        self.held, self.dtype, self.device = held, dtype, device
        self.found: dict[str, Part] = {}
        #: the names of parts that are being made
        self.begun: set[str] = set()

    def parts(self) -> dict[str, Part]:
        """All parts by name, also those within others; their weights are yet to be filled.

        Raises
        ------
        ValueError
            If a part cannot be made; the text goes on a sentence that begins with the name of the
            file.
        """
        flat = self.held.flat
        # The innermost first, so that an error names the part that it is about; learners last,
        # because their weights may be those of a module.
        for name in sorted(flat, key=lambda name: (_kind(flat[name]) == "online", -_depth(name))):
            try:
                self._part(name)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                which = f"the part {name!r:.80}" if name else "a part"
                raise ValueError(f"holds {which}, which cannot be made: {error}") from error
        return {name: self._part(name) for name in flat}

    def _part(self, name: str) -> Part:
        """The part of that name, made when it is first needed."""
        name = self.held.tied.get(name, name)
        if name not in self.found:
            if name in self.begun:
                raise ValueError("it is a part of itself")
            self.begun.add(name)
            self.found[name] = self._made(name, self.held.flat[name])
        return self.found[name]

    def _made(self, name: str, config: Any) -> Part:
        kind = _kind(config)
        if kind == "online":
            return self._learner(name, config)
        if kind == "optimizer":
            return self._optimizer(name, config)
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"its kind is {kind!r:.80}, which is unknown; {HELP}")
        options = self._options(kind, renamed(config, self.held.format))
        if kind == "layer":
            form = options.pop("weights", "")
            layer = self._layer(name, config, options)
            return self._compact(name, layer, form) if form else self._checked(name, layer)
        made = self._class(name, KINDS[kind].usual)
        if issubclass(made, Composite):
            del options["parts"]
            whole: Part = made._made_of(self._parts_of(name, kind, config), options)
            return whole
        part: Part = made(**options)
        return self._checked(name, part) if is_module(part) else part

    def _parts_of(self, name: str, kind: str, config: Mapping[str, Any]) -> dict[str, Part]:
        """The parts of a part that consists of parts, by their names in it."""
        if not is_group(config):
            raise ValueError(f"its parts are {config['parts']!r:.80}; they must be a mapping")
        found = config["parts"]
        needed, known = KINDS[kind].parts or ((), tuple(found))
        if any(k not in found for k in needed) or any(k not in (*needed, *known) for k in found):
            raise ValueError(
                f"{kind}: its parts are {', '.join(found):.80}; they must be {', '.join(needed)}, "
                f"and may be {', '.join(known)}"
            )
        return {k: self._part(key_of(name, k)) for k in found}

    def _options(self, kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a part that stand in its configuration, and where it is made."""
        _, needed, known, _ = KINDS[kind]
        if missing := [option for option in needed if option not in config]:
            raise ValueError(f"{kind}: {missing[0]} is missing")
        # Files of the format 2 do not say the precision; by default no product is rounded.
        options = {option: config[option] for option in (*needed, *known) if option in config}
        if not issubclass(CLASSES[KINDS[kind].usual], OTHERS):
            options |= {"dtype": self.dtype or config.get("dtype"), "device": self.device}
        return options

    def _checked(self, name: str, made: Module) -> Module:
        """The module; an error unless the weights in the file have its shapes."""
        for key, (shape, letters) in made.weights.specs.items():
            found = self.held.tensors.get(self.held.key(name, key))
            if found is None or found.shape != shape:
                words = "missing" if found is None else f"of the shape {found.shape}"
                raise ValueError(
                    f"{made.weights.kind}: {self.held.key(name, key)} is {words}; it must have the "
                    f"shape {letters} = {shape}"
                )
        return made

    def _compact(self, name: str, made: Layer[Any], form: Any) -> Module:
        """The layer with the weights of that form in the file."""
        kind, specs, here = made.weights.kind, made.weights.specs, made.weights.placement
        check_choice(kind, "weights", form, FORMS)
        if self.dtype is not None:
            raise ValueError(f"{kind}: its weights are {form}; to load them leave dtype out")
        keys = {k: self.held.key(name, k) for k, _, _ in layout(specs, form)}
        if missing := [key for key in keys.values() if key not in self.held.tensors]:
            raise ValueError(f"{kind}: {missing[0]} is missing")
        arrays = {k: self.held.tensors[key] for k, key in keys.items()}
        put = {k: stored(kind, here.backend, a, here.standard_device) for k, a in arrays.items()}
        made._parameters = checked(kind, specs, here, form, put)
        return made

    def _layer(self, name: str, config: Mapping[str, Any], options: dict[str, Any]) -> Layer[Any]:
        if self.held.format == "xrnn 1":
            raise ValueError(
                "files of the format 'xrnn 1' do not say batch_first and dropout of a layer; "
                f"{HELP}"
            )
        layers, most = options.get("num_layers", 1), len(self.held.tensors)
        check_sizes("layer", num_layers=layers)
        if layers > most:
            raise ValueError(f"layer: num_layers is {layers}, and the file holds {most} arrays")
        cell = self._cell(name, config)
        usual = USUAL.get(_family(cell), "Layer")
        kind = self._class(name, usual)
        if kind not in (Layer, CLASSES[usual]):
            raise ValueError(f"{kind.__name__}: the cell of such a layer cannot be {cell.name!r}")
        made: Layer[Any] = kind.__new__(kind)
        # The classes for one kind of cell add nothing to this but the making of the cell.
        Layer.__init__(made, cell, **options)
        return made

    def _class(self, name: str, usual: str) -> Any:
        """The class of a part; files of earlier versions do not say it."""
        found = self.held.details.get(name, {}).get("class", usual)
        if not isinstance(found, str) or found not in CLASSES:
            raise ValueError(f"the class {found!r:.80} is not one of xrnn; {HELP}")
        kind = CLASSES[found]
        if not issubclass(kind, Layer if issubclass(CLASSES[usual], Layer) else CLASSES[usual]):
            raise ValueError(f"the class {found} is not that of such a part, {usual}")
        return kind

    def _cell(self, name: str, config: Mapping[str, Any]) -> Cell[Any]:
        details, said = self.held.details.get(name, {}), config.get("cell")
        if "cell" in details:
            return cell_of(details["cell"])
        if not isinstance(said, str) or said not in BY_NAME:
            raise ValueError(
                f"the cell {said!r:.300} cannot be made from the file: it is not one of xrnn, or "
                f"the file does not hold its options; {HELP}"
            )
        return BY_NAME[said]

    def _optimizer(self, name: str, config: Mapping[str, Any]) -> Optimizer:
        said = config.get("class")
        kind = CLASSES.get(said) if isinstance(said, str) else None
        if kind is None or not issubclass(kind, Optimizer):
            raise ValueError(f"the class {said!r:.80} is not an optimizer of xrnn; {HELP}")
        options = {key: value for key, value in config.items() if key not in ("kind", "class")}
        if unknown := sorted(options.keys() - kind.bounds.keys()):
            raise ValueError(f"{said}: the option {unknown[0]!r:.80} is unknown")
        return kind(**{**options, "lr": 1.0})

    def _learner(self, name: str, config: Mapping[str, Any]) -> Online[Any]:
        """A learner; its weights are zeros, or those of parts that have been made before."""
        held, cell = self.held, self._cell(name, config)
        batch: Any = config.get("batch")
        method: Any = config.get("method")
        dtype = host.named_dtype(self.dtype or accept_dtype(cell.name, config.get("dtype"), DTYPES))
        backend, where = locate(self.device)
        theirs, given = self._weights(), {}
        for k, key in held.detail(name, "weights", dict).items():
            if not isinstance(key, str) or key not in held.tensors:
                raise ValueError(f"{cell.name}: weight {k!r:.80} is missing")
            if key not in theirs:
                zeros = host.xp.zeros(held.tensors[key].shape, dtype)
                theirs[key] = stored(cell.name, backend, zeros, where)
            given[k] = theirs[key]
        check_sizes(cell.name, batch=batch)
        past = {k: held.tensors.get(held.key(name, f"sensitivity.{k}")) for k in given}
        states = [held.tensors.get(held.key(name, f"state.{k}")) for k in cell.states]
        if any(a is None or a.shape[:1] != (batch,) for a in states):
            raise ValueError(f"{cell.name}: batch is {batch}, and the states are not of that size")
        # No more bytes than those of the numbers in the file in the widest dtype.
        most = 16 * sum(prod(a.shape) for a in past.values() if a is not None)
        made = Online(cell, given, batch, method=method, limit=most)
        limit = held.details[name].get("limit")
        made.limit = inf if limit is None else accept_number(f"{cell.name}: limit", limit, *BYTES)
        return made

    def _weights(self) -> dict[str, Array]:
        """Key → weight of all modules and learners that have been made.

        Those of modules become zeros, until they are filled: otherwise they would be drawn.
        """
        weights: dict[str, Array] = {}
        for name, one in self.found.items():
            if isinstance(one, Online):
                keys = self.held.detail(name, "weights", dict)
                weights |= {keys[k]: w for k, w in one.weights.items()}
            elif is_module(one):
                own = one.weights
                if not own.version:
                    own.update({k: own.placement.zeros(s.shape) for k, s in own.specs.items()})
                weights |= {self.held.key(name, k): w for k, w in own.items()}
        return weights


def _kind(config: Any) -> Any:
    return config.get("kind") if isinstance(config, dict) else None


def _depth(name: str) -> int:
    """How deep the part of that name lies within others."""
    return len(name.split(".")) if name else 0


def _family(cell: Cell[Any]) -> str:
    """The name of the cell without options."""
    options = cell.made
    if isinstance(options, Zoneout):
        return _family(options.cell)
    return options.family if isinstance(options, Options) else cell.name
