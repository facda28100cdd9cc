"""What a layer is made of: its cells, their sizes, and the names of their weights."""

from __future__ import annotations

from typing import Any, Generic, Self

from xrnn.cells.base import Cell
from xrnn.engine.checks import Spec
from xrnn.engine.compact import compact
from xrnn.engine.module import Module
from xrnn.engine.signature import signature
from xrnn.engine.values import check_index
from xrnn.layers.initialisation import Part, specs
from xrnn.typing import DType, Form, Precision, S

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

    def freeze(self, weights: Form | None = None) -> Self:
        """Make the weights constant, for inference; return the layer itself.

        They are replaced by copies that cannot be assigned to; NumPy arrays cannot be written to
        either.  So the native loops pack them once, in the layout that products read, and not at
        every call: `Layer.step` takes 0.4 to 0.8 of the time, and its results are the same bit
        for bit.  To change the weights again, assign a whole mapping:
        ``layer.weights = {name: w.copy() for name, w in layer.weights.items()}``.

        Parameters
        ----------
        weights : {"int8", "bfloat16"}, optional
            How the matrices of a layer of float32 are kept.  Default: as they are.

            "int8": in 8 bits, with a scale for each row.  What they are multiplied by is rounded
            too, x to 16 bits and h to 8, each row (one sequence at one step) with a scale of its
            own, and the sums of the integers are exact.  So a result depends on nothing but its
            own sequence: not on the batch, on where a sequence is cut, on the number of threads or
            on the processor.  NaN and infinity in x give NaN.

            "bfloat16": in 16 bits, and what they are multiplied by is rounded to bfloat16.

            Such a layer serves inference: `__call__` and `step`.  Its `weights` are the float32
            numbers that stand for the matrices, and `xrnn.save` writes the integers and scales.
            `xrnn.analysis.difference` says what the rounding does to results.

        Raises
        ------
        ValueError
            If there is no such form, the weights are not of float32 or not finite, or a matrix has
            more than 66,000 columns ("int8").
        TypeError
            If arrays of the layer's library cannot be multiplied by such weights.
        ImportError
            If ml_dtypes is missing ("bfloat16").

        Examples
        --------
        >>> import numpy as np, xrnn
        >>> layer = xrnn.LSTM(3, 5).freeze()
        >>> y, state = layer.step(np.ones((1, 3), "float32"))
        >>> layer.weights["W_l0"] *= 2
        Traceback (most recent call last):
        ValueError: output array is read-only

        A quarter of the bytes:

        >>> layer = xrnn.GRU(256, 256)
        >>> before = layer.weights.nbytes
        >>> layer.freeze(weights="int8")
        <GRU(256, 256): gru, frozen as int8>
        >>> round(before / layer.weights.nbytes, 1)
        3.9
        """
        if weights is None:
            return super().freeze()
        self._parameters = compact(self._parameters, weights)
        return self

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
            **({"weights": form} if (form := self._parameters.form) else {}),
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
