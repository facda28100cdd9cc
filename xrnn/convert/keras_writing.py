"""`to_keras`: weights as the layers of Keras take them."""

from __future__ import annotations

from dataclasses import fields
from math import inf
from numbers import Integral
from typing import Any

from xrnn.backends import backend_of, host
from xrnn.cells import GRU, LSTM, Elman, ElmanReLU, GRUBefore
from xrnn.cells.base import Cell
from xrnn.cells.elman_options import RNNOptions
from xrnn.cells.gru_options import GRUOptions
from xrnn.cells.lstm_options import LSTMOptions
from xrnn.cells.options import Options, activations_of
from xrnn.convert.conventions import CONVENTIONS, Convention, encode
from xrnn.convert.keras_activations import HARD_SIGMOID, functions_of, spec_of
from xrnn.convert.loaded import within
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.linear import Linear
from xrnn.layers.part import Weightless
from xrnn.layers.sequential import Sequential
from xrnn.typing import Array

#: a cell without options → its options
PLAIN: dict[Cell[Any], Options] = {
    Elman: RNNOptions(activations_of("rnn", ["tanh"], RNNOptions.usual), inf, 0.0),
    ElmanReLU: RNNOptions(activations_of("rnn", ["relu"], RNNOptions.usual), inf, 0.0),
    LSTM: LSTMOptions(activations_of("lstm", None, LSTMOptions.usual), inf, 0.0),
    GRU: GRUOptions(activations_of("gru", None, GRUOptions.usual), inf, 0.0),
    GRUBefore: GRUOptions(activations_of("gru", None, GRUOptions.usual), inf, 0.0, reset="before"),
}

#: the options that Keras has too, or that act in training alone
EXPRESSIBLE = ("activations", "recurrent_dropout", "reset")


def to_keras(
    layer: Layer[Any] | Embedding | Linear | Sequential, *, version: int = 3
) -> list[Array]:
    """The weights of a layer as ``set_weights`` of a layer of Keras takes them.

    The layer of Keras must be made with these arguments:

    ====================================  =========================================================
    xrnn                                  Keras
    ====================================  =========================================================
    ``xrnn.LSTM(I, H)``                   ``LSTM(H)``
    ``xrnn.GRU(I, H)``                    ``GRU(H)``; with ``reset="before"``
                                          ``GRU(H, reset_after=False)``
    ``xrnn.RNN(I, H)``                    ``SimpleRNN(H)``
    ``xrnn.Embedding(V, I)``              ``Embedding(V, I)``
    ``xrnn.Linear(H, O)``                 ``Dense(O)``; with the same ``activation``
    ``activations=(σ, φ, φ)``             ``recurrent_activation=σ, activation=φ``
    ``bias=False``                        ``use_bias=False``
    ``bidirectional=True``                ``Bidirectional(LSTM(H, …))``
    ``reverse=True``                      ``go_backwards=True``; Keras returns the last step first
    ``num_layers=L``                      ``Sequential`` of L such layers, all but the last with
                                          ``return_sequences=True``; ``go_backwards`` in the first
                                          one alone
    ``xrnn.Sequential(…)``                ``Sequential`` of these layers
    ``xrnn.Last()`` behind a layer        its ``return_sequences=False``; if it is bidirectional,
                                          that is ``xrnn.Last(both_ends=True)``, and ``xrnn.Last()``
                                          is ``Lambda(lambda ys: ys[:, -1])``
    ``xrnn.Merge()`` behind a layer       its ``merge_mode="sum"``
    ====================================  =========================================================

    Parameters
    ----------
    layer : Layer, Embedding, Linear, or Sequential of them
        Parts without weights, such as `xrnn.Dropout` and `xrnn.Last`, have no arrays.  What a
        layer does in training alone, such as dropout, is not looked at.
    version : {1, 2, 3}
        The version of Keras, which says what a hard sigmoid is: (0.2, 0.5) in Keras 1, 2 and
        tf.keras, (1/6, 0.5) in Keras 3.  The arrays of all are the same.

    Returns
    -------
    list of numpy.ndarray
        New arrays: kernel, recurrent_kernel and, with biases, bias, of every direction (the
        forward one first) of every layer.  For several layers, or a Sequential of xrnn, this is
        what ``set_weights`` of the Sequential of Keras takes.

    Raises
    ------
    TypeError
        If `layer`, or a part of it, is something else.
    ValueError
        If Keras has no layer that computes the same.

    Examples
    --------
    >>> import xrnn
    >>> [w.shape for w in xrnn.convert.to_keras(xrnn.GRU(3, 5))]
    [(3, 15), (5, 15), (2, 15)]
    """
    if not isinstance(version, Integral) or version is True or version not in HARD_SIGMOID:
        raise ValueError(f"to_keras: version is {version!r:.80}; it must be 1, 2 or 3")
    return [host.xp.array(w, order="C") for w in _arrays("layer", layer, version)]


def _arrays(name: str, layer: Any, version: int) -> list[Array]:
    """Those of a layer, which messages call `name`."""
    if type(layer) is Sequential:
        return _of_parts(layer, version)
    if not isinstance(layer, Layer | Embedding | Linear):
        kind = layer.__name__ if isinstance(layer, type) else type(layer).__name__
        raise TypeError(
            f"{name} is {kind}; it must be a Layer, an Embedding or a Linear of xrnn, or an "
            "xrnn.Sequential of them and of parts without weights"
        )
    on_host = {name: backend_of(w, name).to_host(w) for name, w in layer.weights.items()}
    if isinstance(layer, Layer):
        return _of_cells(layer, _convention(layer, version), on_host)
    return [w.T if name == "W" else w for name, w in on_host.items()]


def _of_parts(model: Sequential, version: int) -> list[Array]:
    """Those of the parts of a model, one after the other."""
    arrays: list[Array] = []
    parts = {name: part for name, part in model.parts.items() if not isinstance(part, Weightless)}
    for name, part in parts.items():
        twin = next(other for other, one in parts.items() if one is part)
        if twin != name:
            raise ValueError(
                f"{name} and {twin} are one part; a Sequential of Keras must not have a layer twice"
            )
        with within(name):
            arrays += _arrays("it", part, version)
    return arrays


def _of_cells(layer: Layer[Any], convention: Convention, weights: dict[str, Array]) -> list[Array]:
    arrays = []
    for _, suffix in layer.parts():
        mine = {name: weights[f"{name}{suffix}"] for name in layer.cell.shapes(1, 1, layer.bias)}
        stored = encode(convention, layer.cell, mine)
        arrays += [one for one in (stored.W, stored.U, stored.b) if one is not None]
    return arrays


def _convention(layer: Layer[Any], version: int) -> Convention:
    """How Keras stores the weights of this layer.

    ValueError if it has no layer that computes the same.
    """
    cell = layer.cell
    options = PLAIN.get(cell, cell.made)
    if not isinstance(options, RNNOptions | LSTMOptions | GRUOptions):
        raise ValueError(f"{cell.name}: Keras has no such cell; it has SimpleRNN, LSTM and GRU")
    usual = type(options)(options.activations, inf, 0.0)
    odd = [
        f.name
        for f in fields(options)
        if f.name not in EXPRESSIBLE and getattr(options, f.name) != getattr(usual, f.name)
    ]
    odd += ["learn_state"] * layer.learn_state
    odd += ["dtype"] * layer.dtype.startswith("complex")
    if odd:
        value = getattr(layer if odd[0] in ("learn_state", "dtype") else options, odd[0])
        raise ValueError(
            f"{cell.name}: {odd[0]} is {value}; the layers of Keras have no such option"
        )
    known = {spec_of(given): name for name, given in functions_of(version).items()}
    for name, *numbers in options.activations:
        if (name, *numbers) not in known:
            raise ValueError(
                f"{cell.name}: an activation function is {(name, *numbers)}; Keras {version} has "
                f"{', '.join(map(str, functions_of(version).values()))}"
            )
    if isinstance(options, LSTMOptions) and options.activations[1] != options.activations[2]:
        raise ValueError(
            f"{cell.name}: φ is {options.activations[1]} and ψ is {options.activations[2]}; they "
            "must be equal: the LSTM of Keras has one activation for both"
        )
    if isinstance(options, GRUOptions):
        return CONVENTIONS["Keras", "GRU" if options.reset == "after" else "GRU(reset_after=False)"]
    return CONVENTIONS["Keras", "LSTM" if isinstance(options, LSTMOptions) else "SimpleRNN"]
