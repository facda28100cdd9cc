"""The simple recurrent network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from xrnn import cells
from xrnn.cells.options import GivenActivations
from xrnn.engine.checks import check_choice
from xrnn.layers.layer import Layer
from xrnn.typing import GivenDType, HState, Init, Precision, Size


class RNN(Layer[HState]):
    """The simple recurrent network: a layer of `xrnn.cells.Elman`, or of one with options.

    Parameters
    ----------
    input_size : int
        I, the inputs.
    hidden_size : int or sequence of int
        H, the hidden units of every layer; or one number for each of the L layers.
    num_layers : int
        L; each layer reads the outputs of the one below.
    nonlinearity : {"tanh", "relu"}
        The activation function.
    activations : sequence of 1, optional
        The activation function in a sequence of one: a name such as "softsign", or a tuple
        (name, alpha, beta); see `xrnn.cells.rnn_with`.  Default: `nonlinearity`.  Give one of the
        two.
    clip : float, optional
        What the pre-activations are limited to.
    zoneout : float
        The probability that a unit keeps its old value in `forward`, see `xrnn.cells.with_zoneout`.
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
    precision : {"ieee", "tf32", "bf16"}
        How products of float32 may be rounded, see `xrnn.unroll`.

    Attributes
    ----------
    weights : Parameters
        ``W_l0`` (H, I), ``U_l0`` (H, H), ``b_l0`` (H,) …; see `xrnn.Layer`.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `xrnn.Layer` and `xrnn.cells.rnn_with`.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> ys, state = xrnn.RNN(3, 5, nonlinearity="relu")(np.ones((7, 2, 3), "float32"))
    >>> state.h.shape
    (1, 2, 5)
    >>> xrnn.RNN(3, 5, activations=[("leaky_relu", 0.1)])
    <RNN(3, 5): rnn(activations=[leaky_relu(0.1)])>
    """

    def __init__(
        self,
        input_size: Size,
        hidden_size: Size | Sequence[Size],
        num_layers: Size = 1,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        activations: GivenActivations = None,
        clip: float | None = None,
        zoneout: float = 0.0,
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
        precision: Precision = "ieee",
    ) -> None:
        check_choice("rnn", "nonlinearity", nonlinearity, ("tanh", "relu"))
        if activations is None:
            activations = (nonlinearity,)
        elif nonlinearity != "tanh":
            raise ValueError("rnn: nonlinearity and activations exclude each other; give one")
        cell = cells.rnn_with(
            activations=activations,
            clip=clip,
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
            precision=precision,
        )
