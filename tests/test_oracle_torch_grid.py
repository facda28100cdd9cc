"""The grid of options of `torch.nn.RNN`, `LSTM` and `GRU`: values and gradients, in float64.

`test_oracle_torch.py` has batches of all modules without `proj_size`; here are single sequences of
all of them, and all layouts of the LSTM with `proj_size`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from oracles.flat import Arrays, assert_agree, case_shapes, draw, spoiled
from oracles.subject import results_of

import xrnn

pytest.importorskip("torch", reason="the oracle is PyTorch")

from oracles import torch_nn

T, B, I, H, P = 5, 4, 3, 4, 2

#: both sides are float64 and sum a few dozen terms
BOUND = 1e-12

LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn": (xrnn.RNN, {"nonlinearity": "tanh"}),
    "rnn-relu": (xrnn.RNN, {"nonlinearity": "relu"}),
    "lstm": (xrnn.LSTM, {}),
    "gru": (xrnn.GRU, {}),
}

LAYOUTS = ("single sequence", "time first", "batch first", "packed", "packed, batch first")

GRID = [
    (cell, proj_size, layout, *others)
    for cell, proj_size, layout, *others in product(
        LAYERS, (0, P), LAYOUTS, (1, 2, 3), (False, True), (False, True), (False, True)
    )
    if (cell == "lstm" if proj_size else layout == "single sequence")
]


@pytest.mark.parametrize(
    ("cell", "proj_size", "layout", "num_layers", "bidirectional", "bias", "state"), GRID
)
def test_layer_is_the_module(
    cell: str,
    proj_size: int,
    layout: str,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    state: bool,
) -> None:
    Layer, own = LAYERS[cell]
    options: dict[str, Any] = {"num_layers": num_layers, "bidirectional": bidirectional}
    options["batch_first"] = layout.endswith("batch first")
    own = {**own, "proj_size": proj_size} if proj_size else own
    layer = Layer(I, H, **options, **own, bias=bias, dtype="float64")
    given = case_for(layer, layout, state)
    got, want = results_of(layer, given), torch_nn.verdict(cell, given, **options)
    if not state:  # then torch.nn makes the zeros itself and tells no gradient of them
        got = {k: a for k, a in got.items() if not k.startswith("dfirst.")}
    assert_agree(got, want, BOUND)


def case_for(layer: xrnn.Layer[Any], layout: str, state: bool) -> Arrays:
    """A case with weights, in the layer's own order of axes, with NaN in the padding."""
    cell, sizes = layer.cell, (T, B, I, H)
    how = (sizes, layer.num_layers, layer.directions, cell.widths(H))
    shapes = case_shapes(layer.shapes(), cell.states, *how)
    if layout == "single sequence":
        shapes = {
            name: shape if name.startswith("weights.") else (shape[0], shape[2])
            for name, shape in shapes.items()
        }
    given = draw(layout, shapes)
    if not state:
        given = {name: a for name, a in given.items() if not name.startswith("state.")}
    if layout.startswith("packed"):
        given = spoiled(given | {"lengths": np.array([3, 5, 1, 4])})
    if layer.batch_first:
        given |= {name: given[name].transpose(1, 0, 2) for name in ("xs", "dys")}
    return given
