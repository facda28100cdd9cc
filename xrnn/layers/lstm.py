"""Long short-term memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xrnn import cells
from xrnn.cells.lstm_options import LayerNorm
from xrnn.cells.options import GivenActivations
from xrnn.layers.layer import Layer
from xrnn.typing import GivenDType, HCState, Init, Precision, Size


class LSTM(Layer[HCState]):
    """Long short-term memory: a layer of the cell `xrnn.cells.LSTM`, or of one with options.

    Parameters
    ----------
    input_size : int
        I, the inputs.
    hidden_size : int or sequence of int
        H, the hidden units of every layer; or one number for each of the L layers.
    num_layers : int
        L; each layer reads the outputs of the one below.
    activations : sequence of 3, optional
        The activation functions of the gates, of the candidate and of the cell state, each a name
        such as "hard_sigmoid", or a tuple (name, alpha, beta); see `xrnn.cells.lstm_with`.
        Default: sigmoid, tanh, tanh.
    clip, cell_clip : float, optional
        What the pre-activations, and the cell state, are limited to.
    coupled : bool
        Whether the forget gate is 1 − i, without weights of its own.
    peephole : bool
        Whether the gates look at the cell state (`xrnn.cells.PeepholeLSTM`).
    proj_size : int
        The size of h after a projection; 0 for none.
    layer_norm : bool or {"products", "gates"}
        Whether and what is normalised: the products W x and U h, and c, as haste does ("products",
        or True); or the sum of each gate, as TensorFlow Lite does ("gates").
    zoneout : (float, float)
        The probabilities that a unit of h and of c keeps its old value in `forward`, see
        `xrnn.cells.with_zoneout`.
    recurrent_dropout : float
        The fraction of h that the product with U does not see in `forward`, for each sequence
        another one that stays the same at all steps.
    weight_drop : float
        The fraction of the values of U that `forward` sets to 0, the same ones at all steps.
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
        ``W_l0`` (4·H, I), ``U_l0`` (4·H, H), ``b_l0`` (4·H,) …; see `xrnn.Layer`.  Options change
        these: `xrnn.cells.lstm_with` names the weights of its cells, and ``cell.shapes(I, H)``
        gives their shapes.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `xrnn.Layer` and `xrnn.cells.lstm_with`.

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
    >>> xrnn.LSTM(3, 5, cell_clip=10.0, proj_size=2)
    <LSTM(3, 5): lstm(cell_clip=10.0, proj_size=2)>
    """

    def __init__(
        self,
        input_size: Size,
        hidden_size: Size | Sequence[Size],
        num_layers: Size = 1,
        *,
        activations: GivenActivations = None,
        clip: float | None = None,
        cell_clip: float | None = None,
        coupled: bool = False,
        peephole: bool = False,
        proj_size: int = 0,
        layer_norm: bool | LayerNorm = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        weight_drop: float = 0.0,
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
        cell = cells.lstm_with(
            activations=activations,
            clip=clip,
            cell_clip=cell_clip,
            coupled=coupled,
            peephole=peephole,
            proj_size=proj_size,
            layer_norm=layer_norm,
            zoneout=zoneout,
            recurrent_dropout=recurrent_dropout,
        )
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            weight_drop=weight_drop,
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
