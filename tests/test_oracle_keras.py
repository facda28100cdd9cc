"""Values and gradients equal those of Keras 3, with masks that have holes.

What Keras does is here in these words:

- `mask`: a step where it is False keeps the states.  Its output is 0 with `zero_output_for_mask`
  (``masked="zero"``), else the output of the step before, and 0 where there is none
  (``masked="hold"``).
- `go_backwards`: `reverse`.  Keras returns the outputs in the order in which they were computed,
  the last step first; xrnn returns each at its own step, as `keras.layers.Bidirectional` does.
- `keras.layers.Bidirectional` sets `zero_output_for_mask` where it returns sequences.
- "hard_sigmoid": ("hard_sigmoid", 1/6, 0.5).
- an LSTM has one `activation` for the candidate and the cell state.

With ``unroll=True`` Keras (3.15) on PyTorch fails for a mask with `go_backwards`; it is not used
here.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
import pytest
from oracles.flat import Arrays, assert_agree, case_shapes, draw
from oracles.subject import results_of

import xrnn

pytest.importorskip("torch", reason="the oracle is Keras on PyTorch")
if find_spec("keras") is None:  # `oracles.keras_layer` imports it, on PyTorch
    pytest.skip("the oracle is Keras", allow_module_level=True)

from oracles import keras_layer
from oracles.keras_layer import FUNCTIONS, KINDS, Options

#: both sides have float64, but Keras on PyTorch rounds the factors of its products to float32
BOUND = 1e-5

MASKS = ("none", "holes", "front", "end", "one empty", "all empty")

WAYS = ("forward", "backward", "bidirectional")

GRID = [
    (seed, *words)
    for seed, words in enumerate(product(KINDS, WAYS, MASKS, ("zero", "hold")))
    if words[1] != "bidirectional" or words[3] == "zero"
]


def random_mask(rng: np.random.Generator, kind: str, B: int, T: int) -> Any:
    """A mask (B, T) of that kind."""
    if kind in ("front", "end"):
        lengths = rng.integers(0, T + 1, B)
        inside = np.arange(T) < lengths[:, None]
        return inside if kind == "end" else inside[:, ::-1].copy()
    mask = rng.random((B, T)) < (0.0 if kind == "all empty" else 0.6)
    if kind == "one empty":
        mask[rng.integers(B)] = False
    return mask


def layer_of(options: Options, I: int, H: int, bias: bool) -> xrnn.Layer[Any]:
    """The layer of xrnn that is the one of Keras."""
    Layer, own = {
        "rnn": (xrnn.RNN, {}),
        "lstm": (xrnn.LSTM, {}),
        "gru": (xrnn.GRU, {}),
        "gru-before": (xrnn.GRU, {"reset": "before"}),
    }[options.kind]
    layer: xrnn.Layer[Any] = Layer(
        I,
        H,
        activations=options.activations,
        bidirectional=options.bidirectional,
        reverse=options.go_backwards,
        bias=bias,
        batch_first=True,
        dtype="float64",
        **own,
    )
    return layer


@pytest.mark.parametrize(("seed", "kind", "way", "mask", "masked"), GRID)
def test_layer_is_that_of_keras(seed: int, kind: str, way: str, mask: str, masked: str) -> None:
    rng = np.random.default_rng(seed)
    options = Options(
        kind,
        list(FUNCTIONS)[rng.integers(len(FUNCTIONS))],
        ("sigmoid", "hard_sigmoid")[rng.integers(2)],
        bidirectional=way == "bidirectional",
        go_backwards=way == "backward",
        zero_output_for_mask=masked == "zero",
    )
    T, B, I, H = (int(n) for n in rng.integers((1, 1, 1, 1), (9, 5, 5, 6)))
    layer = layer_of(options, I, H, bias=bool(rng.integers(2)))
    shapes = case_shapes(layer.shapes(), layer.cell.states, (T, B, I, H), 1, layer.directions)
    given = draw(f"keras {seed}", shapes, scale=0.4)
    given |= {name: given[name].transpose(1, 0, 2) for name in ("xs", "dys")}
    if rng.integers(3) == 0:
        given = {name: a for name, a in given.items() if not name.startswith("state.")}
    if mask != "none":
        given["mask"] = random_mask(rng, mask, B, T)
    got, want = by_xrnn(layer, given, masked), keras_layer.verdict(options, given)
    assert_agree({name: a for name, a in got.items() if name in want}, want, BOUND)


def by_xrnn(layer: xrnn.Layer[Any], given: Arrays, masked: str) -> Arrays:
    """What xrnn makes of a case, with NaN in the inputs of masked steps."""
    if "mask" not in given:
        return results_of(layer, given)
    xs = np.where(given["mask"][:, :, None], given["xs"], np.nan)
    return results_of(layer, given | {"xs": xs}, mask=given["mask"], masked=masked)
