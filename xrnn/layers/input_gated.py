"""The layer of the LSTM whose gates see only the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xrnn import cells
from xrnn.layers.layer import Layer
from xrnn.typing import GivenDType, HCState, Init, Precision, Size


class InputGatedLSTM(Layer[HCState]):
    """The LSTM whose gates see only the input: a layer of `xrnn.cells.InputGatedLSTM`.

    Parameters
    ----------
    input_size : int
        I, the inputs.
    hidden_size : int or tuple of int
        H, the hidden units of every layer; or one number for each of the L layers.
    num_layers : int
        L; each layer reads the outputs of the one below.
    bias : bool
        Whether the cells have biases.
    batch_first : bool
        Whether inputs and outputs are (B, T, …) instead of (T, B, …).
    dropout : float
        The fraction of the outputs of each layer but the last that `forward` sets to 0.
    bidirectional : bool
        Whether a second set of weights runs from the end to the start; the outputs of both
        are concatenated, (T, B, 2·H).
    reverse : bool
        Whether all layers run from the end to the start.
    learn_state : bool
        Whether the initial state is a weight.
    dtype : {"float32", "float64", "float16", "bfloat16", "complex64", "complex128"}
        The dtype of the weights, which inputs and states must have too: its name, or the dtype
        of an array library, such as ``np.float32``.
    device : str
        "cpu", "cuda" or the name of an array library, such as "torch" or "jax"; one of its
        devices after a colon, such as "cuda:0" or "torch:cuda:1".
    rng : int or numpy.random.Generator, optional
        The seed or generator of the initial weights.  Default: a new random seed.
    init : {"orthogonal", "uniform"}
        How the weights are drawn, see `xrnn.layers.initialisation.draw`.
    forget_bias : float
        The initial bias of the forget gate (with "orthogonal"); a cell without one ignores it.
    precision : {"ieee", "tf32", "bf16"}
        How products of float32 may be rounded, see `xrnn.unroll`.

    Attributes
    ----------
    weights : Parameters
        ``W_l0`` (4·H, I), ``b_l0`` (4·H,) …; see `xrnn.Layer`.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `xrnn.Layer`, which describes the options in full.

    Examples
    --------
    >>> import xrnn
    >>> sorted(xrnn.InputGatedLSTM(3, 5).weights)
    ['W_l0', 'b_l0']
    """

    def __init__(
        self,
        input_size: Size,
        hidden_size: Size | Sequence[Size],
        num_layers: Size = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        reverse: bool = False,
        learn_state: bool = False,
        dtype: GivenDType = "float32",
        device: str = "cpu",
        rng: Any = None,
        init: Init = "orthogonal",
        forget_bias: float = 1.0,
        precision: Precision = "ieee",
    ) -> None:
        cell = cells.InputGatedLSTM
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            reverse=reverse,
            learn_state=learn_state,
            dtype=dtype,
            device=device,
            rng=rng,
            init=init,
            forget_bias=forget_bias,
            precision=precision,
        )
