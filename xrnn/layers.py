"""The layers by name: `RNN`, `LSTM`, `GRU` and `InputGatedLSTM` are `Layer` with a cell chosen."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from xrnn import cells
from xrnn.cells.base import Cell
from xrnn.layer import Layer


class RNN(Layer):
    """The simple recurrent network: `xrnn.cells.Elman` or `xrnn.cells.ElmanReLU`.

    Parameters
    ----------
    nonlinearity : {"tanh", "relu"}
        The curve.
    I, H, *args, **options
        As `Layer`.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> ys, state = xrnn.RNN(3, 5, nonlinearity="relu")(np.ones((7, 2, 3), "float32"))
    >>> state.h.shape
    (1, 2, 5)
    """

    def __init__(
        self, I: int, H: int, *args: Any, nonlinearity: str = "tanh", **options: Any
    ) -> None:
        curves = {"tanh": cells.Elman, "relu": cells.ElmanReLU}
        super().__init__(
            _choice("rnn", "nonlinearity", nonlinearity, curves), I, H, *args, **options
        )


class LSTM(Layer):
    """Long short-term memory: `xrnn.cells.LSTM`.  Parameters: as `Layer`.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.LSTM(3, 5, num_layers=2, bidirectional=True)
    >>> xs = np.ones((7, 2, 3), "float32")
    >>> ys, state, tape = layer.forward(xs, lengths=[7, 4])
    >>> ys.shape, state.c.shape
    ((7, 2, 10), (4, 2, 5))
    >>> dxs, dstate, dweights = layer.backward(tape, ys)
    >>> dweights["U_l1_reverse"].shape
    (20, 5)
    """

    def __init__(self, I: int, H: int, *args: Any, **options: Any) -> None:
        super().__init__(cells.LSTM, I, H, *args, **options)


class GRU(Layer):
    """Gated recurrent unit, in both published forms.

    Parameters
    ----------
    reset : {"after", "before"}
        Whether the reset gate acts after the recurrent product (`xrnn.cells.GRU`: PyTorch,
        cuDNN) or before it (`xrnn.cells.GRUBefore`).  The weights of one do not fit the
        other: it is another function.
    I, H, *args, **options
        As `Layer`.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.GRU(3, 5, reset="before")
    >>> y, state = layer.step(np.ones((2, 3), "float32"))
    >>> y.shape
    (2, 5)
    """

    def __init__(self, I: int, H: int, *args: Any, reset: str = "after", **options: Any) -> None:
        forms = {"after": cells.GRU, "before": cells.GRUBefore}
        super().__init__(_choice("gru", "reset", reset, forms), I, H, *args, **options)


class InputGatedLSTM(Layer):
    """The LSTM whose gates see only the input: `xrnn.cells.InputGatedLSTM`.

    Parameters: as `Layer`.

    Examples
    --------
    >>> import xrnn
    >>> sorted(xrnn.InputGatedLSTM(3, 5).weights)
    ['W_l0', 'b_l0']
    """

    def __init__(self, I: int, H: int, *args: Any, **options: Any) -> None:
        super().__init__(cells.InputGatedLSTM, I, H, *args, **options)


def _choice(cell: str, name: str, value: str, choices: Mapping[str, Cell]) -> Cell:
    if value not in choices:
        words = " or ".join(map(repr, choices))
        raise ValueError(f"{cell}: {name} is {value!r}; it must be {words}")
    return choices[value]


def _show_options(cls: type[Layer]) -> None:
    """Let ``help`` and editors show the parameters of `Layer` in place of *args, **options."""
    own = inspect.signature(cls.__init__).parameters.values()
    shared = inspect.signature(Layer).parameters.values()
    words = [p for p in own if p.kind is p.KEYWORD_ONLY]
    signature = inspect.Signature([p for p in shared if p.name != "cell"] + words)
    cls.__signature__ = signature  # type: ignore[attr-defined]


for _cls in (RNN, LSTM, GRU, InputGatedLSTM):
    _show_options(_cls)
