"""What `to_keras` refuses, and the arrays that it makes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import cells
from xrnn.convert import to_keras

CELLS: dict[str, tuple[Any, str]] = {
    "peephole": (xrnn.LSTM(2, 3, peephole=True), "Keras has no such cell"),
    "MGU": (xrnn.Layer(cells.MGU, 2, 3), "Keras has no such cell"),
    "input-gated": (xrnn.InputGatedLSTM(2, 3), "Keras has no such cell"),
    "zoneout": (xrnn.LSTM(2, 3, zoneout=(0.1, 0.1)), "Keras has no such cell"),
    "clip": (xrnn.GRU(2, 3, clip=3.0), "clip is 3.0; the layers of Keras have no such option"),
    "cell_clip": (xrnn.LSTM(2, 3, cell_clip=3.0), "cell_clip is 3.0; the layers"),
    "coupled": (xrnn.LSTM(2, 3, coupled=True), "coupled is True; the layers"),
    "proj_size": (xrnn.LSTM(2, 3, proj_size=2), "proj_size is 2; the layers"),
    "layer_norm": (xrnn.GRU(2, 3, layer_norm=True), "layer_norm is True; the layers"),
    "learn_state": (xrnn.RNN(2, 3, learn_state=True), "learn_state is True; the layers"),
    "complex": (xrnn.RNN(2, 3, dtype="complex128"), "dtype is complex128; the layers"),
    "two functions": (
        xrnn.LSTM(2, 3, activations=["sigmoid", "tanh", "relu"]),
        r"φ is .*tanh.* and ψ is .*relu.*; they must be equal",
    ),
    "a function": (
        xrnn.RNN(2, 3, activations=["scaled_tanh"]),
        "'scaled_tanh', 1.0, 1.0.; Keras 3 has",
    ),
    "a slope": (
        xrnn.RNN(2, 3, activations=["leaky_relu"]),
        "'leaky_relu', 0.01, 0.0.; Keras 3 has",
    ),
    "an old hard sigmoid": (
        xrnn.GRU(2, 3, activations=["hard_sigmoid", "tanh"]),
        "'hard_sigmoid', 0.2, 0.5.; Keras 3 has",
    ),
}


@pytest.mark.parametrize(("layer", "message"), CELLS.values(), ids=[*CELLS])
def test_what_keras_has_not(layer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(layer.cell.name)}: .*{message}"):
        to_keras(layer)


def test_the_version_says_the_hard_sigmoid() -> None:
    for slope, versions in ((0.2, (1, 2)), (1 / 6, (3,))):
        layer = xrnn.GRU(2, 3, activations=[("hard_sigmoid", slope, 0.5), "tanh"])
        for version in (1, 2, 3):
            if version in versions:
                assert len(to_keras(layer, version=version)) == 3
            else:
                with pytest.raises(ValueError, match=f"Keras {version} has"):
                    to_keras(layer, version=version)


@pytest.mark.parametrize("version", [0, 4, "3", None, [], np.zeros(2)], ids=repr)
def test_no_version(version: Any) -> None:
    with pytest.raises(ValueError, match=r"to_keras: version is .*; it must be 1, 2 or 3"):
        to_keras(xrnn.LSTM(2, 3), version=version)


def test_no_layer() -> None:
    for other in (None, xrnn.LSTM, [xrnn.LSTM(2, 3)], cells.LSTM):
        with pytest.raises(TypeError, match="it must be a Layer, an Embedding or a Linear of xrnn"):
            to_keras(other)  # type: ignore[arg-type]


def test_new_arrays_in_c_order() -> None:
    for layer in (xrnn.LSTM(2, 3), xrnn.GRU(2, 3, 2, bidirectional=True), xrnn.Linear(2, 3)):
        before = {name: w.copy() for name, w in layer.weights.items()}
        for array in to_keras(layer):
            assert array.flags.c_contiguous
            array[:] = 9
        assert all((before[name] == w).all() for name, w in layer.weights.items())


def test_a_sequential() -> None:
    lstm, out = xrnn.LSTM(3, 4, 2), xrnn.Linear(4, 2, activation="tanh")
    inner = xrnn.Sequential(lstm, xrnn.Dropout(0.1), xrnn.Last())
    vectors = xrnn.Embedding(7, 3)
    arrays = to_keras(xrnn.Sequential(vectors, inner=inner, out=out))
    wanted = [*to_keras(vectors), *to_keras(lstm), *to_keras(out)]
    for mine, theirs in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_parts_of_a_sequential_that_keras_has_not() -> None:
    inner = xrnn.Sequential(rnn=xrnn.GRU(2, 3, clip=3.0))
    with pytest.raises(ValueError, match=r"^inner: rnn: gru.*: clip is 3\.0; the layers of Keras"):
        to_keras(xrnn.Sequential(inner=inner))
    for part in (xrnn.LayerNorm(3), xrnn.Residual(xrnn.Linear(3, 3))):
        name = type(part).__name__
        with pytest.raises(TypeError, match=f"^norm: it is {name}; it must be a Layer, an Embed"):
            to_keras(xrnn.Sequential(xrnn.GRU(2, 3), norm=part))
    layer = xrnn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"^1 and 0 are one part; .* must not have a layer twice"):
        to_keras(xrnn.Sequential(layer, layer))
