"""What a layer is made of: its cells, their sizes, and the names of their weights."""

from __future__ import annotations

from typing import Any, Generic

from xrnn.cells.base import Cell
from xrnn.engine.checks import Spec
from xrnn.engine.module import Module
from xrnn.engine.signature import signature
from xrnn.engine.values import check_index
from xrnn.layers.initialisation import Part, specs
from xrnn.typing import DType, Precision, S

#: the options of a layer that say what is computed, and what they are by default
OPTIONS = {
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "reverse": False,
}

#: the same for options that files of earlier versions do not have: a configuration holds them
#: only where they are others
LATER = {"weight_drop": 0.0, "learn_state": False}


class Architecture(Module, Generic[S]):
    """The options of a `xrnn.Layer`, and what follows from them for its weights and states."""

    _fixed = frozenset({"cell", "input_size", "hidden_size", "dtype", *OPTIONS, *LATER})

    cell: Cell[S]
    input_size: int
    hidden_size: int | tuple[int, ...]
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    weight_drop: float
    bidirectional: bool
    reverse: bool
    learn_state: bool
    dtype: DType
    precision: Precision
    #: H of each layer
    _sizes: tuple[int, ...]

    def inputs(self, k: int) -> int:
        """The size of the inputs of layer k: I, or the D·H outputs of the layer below."""
        check_index(self.cell.name, "k", k, self.num_layers)
        return self.input_size if k == 0 else self.directions * self.widths(k - 1)[0]

    def widths(self, k: int) -> tuple[int, ...]:
        """The number of values of each state of layer k; the first is that of its outputs."""
        check_index(self.cell.name, "k", k, self.num_layers)
        return self.cell.widths(self._sizes[k])

    @property
    def directions(self) -> int:
        """D, the number of directions: 1 or 2."""
        return 2 if self.bidirectional else 1

    def parts(self) -> list[tuple[int, str]]:
        """(layer, suffix of its weights' names) of every cell, in the order of the states."""
        return [(k, suffix) for k in range(self.num_layers) for suffix in self.suffixes(k)]

    def suffixes(self, k: int) -> tuple[str, ...]:
        """The endings of the names of layer k's weights, one for each direction."""
        check_index(self.cell.name, "k", k, self.num_layers)
        return (f"_l{k}", f"_l{k}_reverse")[: self.directions]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every weight."""
        return {name: spec.shape for name, spec in self._specs().items()}

    def config(self) -> dict[str, Any]:
        """The options that change what is computed; a file must have the same to be loaded.

        For a cell that is not one of `xrnn.cells` the results of a small computation are added.
        """
        later = {name: getattr(self, name) for name in LATER}
        own, H = self.cell.identity != self.cell.name, self.hidden_size
        return {
            "kind": "layer",
            "cell": self.cell.identity,
            **({"signature": signature(self.cell)} if own else {}),
            "input_size": self.input_size,
            # A list, as it comes from a file.
            "hidden_size": list(H) if isinstance(H, tuple) else H,
            **{name: getattr(self, name) for name in OPTIONS},
            **{name: value for name, value in later.items() if value != LATER[name]},
            "dtype": self.dtype,
            "precision": self.precision,
        }

    def _specs(self) -> dict[str, Spec]:
        return specs(self.cell, self._cells(), self.bias, self.learn_state)

    def _cells(self) -> list[Part]:
        """The sizes of every cell, in the order of the states."""
        D, h = self.directions, self.cell.width_letters[0]
        cells = []
        for k, suffix in self.parts():
            below = f"{h}_l{k - 1}" if isinstance(self.hidden_size, tuple) else h
            letter = "I" if k == 0 else below if D == 1 else f"{D}·{below}"
            cells.append(Part(self.inputs(k), self._sizes[k], letter, suffix))
        return cells
