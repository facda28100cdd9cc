"""What a module computes, in xrnn's terms: its cells, and the names and order of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence

from xrnn import cells
from xrnn.adapters.torch.tensors import bridge
from xrnn.cells.base import Cell
from xrnn.engine.bound_cell import BoundCell
from xrnn.engine.stack import Stack
from xrnn.typing import Array, State

#: the mode of a PyTorch module → the cell; the LSTM's may have a projection
CELLS: dict[str, Cell[Any]] = {
    "LSTM": cells.LSTM,
    "GRU": cells.GRU,
    "RNN_TANH": cells.Elman,
    "RNN_RELU": cells.ElmanReLU,
}


class Sizes(NamedTuple):
    """The options of a module that decide which tensors it takes."""

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    proj_size: int


class Form:
    """The cells of all modules of the same sizes, device and dtype.

    It holds no weights, and is kept for the choices of kernels that its cells remember.
    """

    def __init__(self, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> None:
        self.sizes, self.device, self.dtype = sizes, device, dtype
        self.bridge = bridge(sizes.mode.partition("_")[0], device, dtype)
        self.D = 1 + sizes.bidirectional
        cell = CELLS[sizes.mode]
        if sizes.proj_size:
            cell = cells.lstm_with(proj_size=sizes.proj_size)
        self.cell, placement = cell, self.bridge.placement
        #: how many tensors of weights each cell has in PyTorch
        self.each = 2 + 2 * sizes.bias + (cell.projection is not None)
        #: the values of h and c
        self.widths = cell.widths(sizes.hidden_size)
        given = tuple(cell.shapes(1, 1, sizes.bias))
        self._cells = []
        for k in range(sizes.num_layers):
            I = self.D * self.widths[0] if k else sizes.input_size
            shapes = cell.shapes(I, sizes.hidden_size).items()
            zeros = {name: self._zeros(shape) for name, shape in shapes}
            for d in range(self.D):
                reverse = d == 1
                self._cells.append(BoundCell(cell, zeros, placement, given=given, reverse=reverse))

    def _zeros(self, shape: tuple[int, ...]) -> Array:
        """Zeros for the weights that PyTorch has not; in place of matrices, which it has always,
        without memory of that size."""
        placement = self.bridge.placement
        if len(shape) == 1:
            return placement.zeros(shape)
        return placement.backend.xp.broadcast_to(placement.zeros((1, 1)), shape)

    def takes(self, input: Any, parts: Sequence[Any], weights: Sequence[torch.Tensor]) -> bool:
        """Whether these arguments of a module fit: they have its device and dtype, and the shapes
        that it needs; `parts` are those of the state, or none."""
        packed = isinstance(input, PackedSequence)
        data = input.data if packed else input
        for tensor in (data, *parts, *weights):
            if not isinstance(tensor, torch.Tensor) or tensor.dtype != self.dtype:
                return False
            if tensor.device != self.device:
                return False
        shape = data.shape
        if len(shape) not in ((2,) if packed else (2, 3)) or shape[-1] != self.sizes.input_size:
            return False
        if not parts:
            return 0 not in shape
        batch: tuple[int, ...] = ()
        if packed:
            batch = (int(input.batch_sizes[0]),)
        elif len(shape) == 3:
            batch = (shape[0 if self.sizes.batch_first else 1],)
        shapes = [(len(self._cells), *batch, n) for n in self.widths]
        return 0 not in shape and [part.shape for part in parts] == shapes

    def stack(self, weights: Sequence[Array]) -> Stack:
        """The cells with these weights, in PyTorch's order."""
        n, D = self.each, self.D
        bound = [
            cell.rebound(self._named(cell, *weights[k * n : (k + 1) * n]))
            for k, cell in enumerate(self._cells)
        ]
        return [tuple(bound[k : k + D]) for k in range(0, len(bound), D)]

    def _named(self, cell: BoundCell, W: Array, U: Array, *others: Array) -> dict[str, Array]:
        """xrnn's weights of a cell.  The two biases of PyTorch are one, except the GRU's for n, of
        which the second is inside the product with r."""
        found = {**cell.weights, "W": W, "U": U}
        if self.cell.projection is not None:
            found["P"] = others[-1]
        if self.sizes.bias:
            b_ih, b_hh, *_ = others
            found["b"] = b_ih + b_hh
            if "v" in found:
                n = 2 * self.sizes.hidden_size
                found["v"], found["b"][n:] = b_hh[n:], b_ih[n:]
        return found

    def gradients(self, dweights: dict[str, Array]) -> list[Array]:
        """The gradients of one cell in the order of PyTorch's tensors, none of them twice."""
        found = [dweights["W"], dweights["U"]]
        if self.sizes.bias:
            db = dweights["b"]
            found += [db, self.bridge.placement.backend.xp.asarray(db, copy=True)]
            if "v" in dweights:
                found[-1][2 * self.sizes.hidden_size :] = dweights["v"]
        if self.cell.projection is not None:
            found.append(dweights["P"])
        return found

    def states(self, arrays: Sequence[Array | None], B: int) -> list[State]:
        """The state of each cell, from h, or h and c, of all of them; None stands for zeros."""
        parts = []
        for array, n in zip(arrays, self.widths, strict=True):
            if array is None:
                array = self.bridge.placement.zeros((len(self._cells), B, n))
            parts.append(array)
        return [tuple([part[k, ...] for part in parts]) for k in range(len(self._cells))]

    def joined(self, states: list[State]) -> list[Array]:
        """The inverse of `states`."""
        if len(states) == 1:
            return [part[None, ...] for part in states[0]]
        return [self.bridge.placement.backend.xp.stack(part) for part in zip(*states, strict=True)]


@lru_cache
def form_of(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Form:
    """The form of the modules of these sizes, device and dtype."""
    return Form(sizes, device, dtype)
