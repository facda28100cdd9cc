"""The recurrent layers by name: each is a `Layer` with a fixed cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from xrnn import cells
from xrnn.engine.checks import check_choice
from xrnn.layers.layer import Layer
from xrnn.typing import GivenDType, HCState, HState, Init, Precision, Size


class RNN(Layer[HState]):
    """The simple recurrent network: a layer of `xrnn.cells.Elman` or `xrnn.cells.ElmanReLU`.

    Parameters
    ----------
    input_size : int
        I, the inputs.
    hidden_size : int or tuple of int
        H, the hidden units of every layer; or one number for each of the L layers.
    num_layers : int
        L; each layer reads the outputs of the one below.
    nonlinearity : {"tanh", "relu"}
        The activation function.
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
    precision : {"ieee", "tf32"}
        How products of float32 may be rounded, see `xrnn.unroll`.

    Attributes
    ----------
    weights : Parameters
        ``W_l0`` (H, I), ``U_l0`` (H, H), ``b_l0`` (H,) …; see `xrnn.Layer`.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `xrnn.Layer`, which describes the options in full.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> ys, state = xrnn.RNN(3, 5, nonlinearity="relu")(np.ones((7, 2, 3), "float32"))
    >>> state.h.shape
    (1, 2, 5)
    """

    def __init__(
        self,
        input_size: Size,
        hidden_size: Size | Sequence[Size],
        num_layers: Size = 1,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
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
        activations = {"tanh": cells.Elman, "relu": cells.ElmanReLU}
        check_choice("rnn", "nonlinearity", nonlinearity, activations)
        cell = activations[nonlinearity]
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
            precision=precision,
        )


class LSTM(Layer[HCState]):
    """Long short-term memory: a layer of the cell `xrnn.cells.LSTM`.

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
        The initial bias of the forget gate (with "orthogonal").
    precision : {"ieee", "tf32"}
        How products of float32 may be rounded, see `xrnn.unroll`.

    Attributes
    ----------
    weights : Parameters
        ``W_l0`` (4·H, I), ``U_l0`` (4·H, H), ``b_l0`` (4·H,) …; see `xrnn.Layer`.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `xrnn.Layer`, which describes the options in full.

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
        cell = cells.LSTM
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


class GRU(Layer[HState]):
    """Gated recurrent unit, in both published forms.

    Parameters
    ----------
    input_size : int
        I, the inputs.
    hidden_size : int or tuple of int
        H, the hidden units of every layer; or one number for each of the L layers.
    num_layers : int
        L; each layer reads the outputs of the one below.
    reset : {"after", "before"}
        Whether the reset gate acts after the recurrent product (`xrnn.cells.GRU`: PyTorch,
        cuDNN) or before it (`xrnn.cells.GRUBefore`).  The two compute different functions,
        so weights trained for one cannot be used in the other.
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
    precision : {"ieee", "tf32"}
        How products of float32 may be rounded, see `xrnn.unroll`.

    Attributes
    ----------
    weights : Parameters
        ``W_l0`` (3·H, I), ``U_l0`` (3·H, H), ``b_l0`` (3·H,) …; see `xrnn.Layer`.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `xrnn.Layer`, which describes the options in full.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.GRU(3, 5, reset="before")
    >>> y, state = layer.step(np.ones((2, 3), "float32"))
    >>> y.shape
    (2, 5)
    """

    def __init__(
        self,
        input_size: Size,
        hidden_size: Size | Sequence[Size],
        num_layers: Size = 1,
        *,
        reset: Literal["after", "before"] = "after",
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
        forms = {"after": cells.GRU, "before": cells.GRUBefore}
        check_choice("gru", "reset", reset, forms)
        cell = forms[reset]
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
            precision=precision,
        )
