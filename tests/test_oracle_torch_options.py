"""Cells with options equal what others defined, written down a second time in PyTorch."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from oracles.flat import Arrays, assert_agree, case_shapes, draw, spoiled
from oracles.subject import results_of

import xrnn
from xrnn import cells
from xrnn.engine.random import Random

torch = pytest.importorskip("torch", reason="the oracles are written in PyTorch")

from oracles import torch_cells, torch_options  # noqa: E402
from oracles.torch_cells import CELLS, Oracle  # noqa: E402
from oracles.torch_options import (  # noqa: E402
    HASTE_GRU,
    HASTE_LSTM,
    Leaky,
    TFLite,
    with_dropout,
)

T, B, I, H, P = 5, 4, 3, 4, 2

SEED = 5

#: both sides are float64; norms divide by standard deviations that may be small
BOUND = 1e-11

#: the layers and directions, and lengths
USES: dict[str, tuple[int, bool, tuple[int, ...] | None]] = {
    "plain": (1, False, None),
    "deep": (2, True, (3, 0, 5, 1)),
}


def case_for(layer: xrnn.Layer[Any], lengths: tuple[int, ...] | None) -> Arrays:
    """A case with weights, with NaN in the padding."""
    cell, how = layer.cell, ((T, B, I, H), layer.num_layers, layer.directions)
    shapes = case_shapes(layer.shapes(), cell.states, *how, cell.widths(H))
    given = draw(cell.name, shapes)
    return given if lengths is None else spoiled(given | {"lengths": np.array(lengths)})


def drawn(layer: xrnn.Layer[Any]) -> Arrays:
    """The random numbers of a training pass, under the names of the oracles."""
    random = Random(SEED, 0, layer.weights.placement, weight_drop=layer.weight_drop)
    found = {}
    for k, suffix in layer.parts():
        d, widths = int(suffix.endswith("_reverse")), layer.cell.widths(H)
        for noise in layer.cell.noise:
            shape = (T, B, widths[noise.state])
            found[f"noise.{noise.name}{suffix}"] = random.of_cell(noise, k, d, shape)
        if layer.weight_drop:
            G, width = len(layer.cell.gates), widths[0]
            found[f"drop.U{suffix}"] = random.over_weights(k, d, (G * H, width))
    return found


def check(cell: cells.Cell[Any], oracle: Oracle, use: str, **options: Any) -> None:
    """Fail unless values and gradients of the cell in training are those of the oracle."""
    num_layers, bidirectional, lengths = USES[use]
    how: Any = {"num_layers": num_layers, "bidirectional": bidirectional}
    layer = xrnn.Layer(cell, I, H, **how, **options, dtype="float64")
    given = case_for(layer, lengths)
    random = drawn(layer)
    got = results_of(layer, given, seed=SEED if random else None)
    assert_agree(got, torch_cells.verdict(oracle, given | random, **how), BOUND)


every_use = pytest.mark.parametrize("use", USES)


@every_use
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "biasless"])
@pytest.mark.parametrize("weight_drop", [0.0, 0.4])
@pytest.mark.parametrize("zoneout", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layer_norm_of_haste(
    kind: str, zoneout: float, weight_drop: float, bias: bool, use: str
) -> None:
    """Also with its zoneout, which is of h alone, and its DropConnect of U."""
    oracle, rates = HASTE_GRU, [zoneout]
    cell: Any = cells.gru_with(layer_norm=True, zoneout=zoneout)
    if kind == "lstm":
        oracle, rates = HASTE_LSTM, [zoneout, 0.0]
        cell = cells.lstm_with(layer_norm=True, zoneout=(zoneout, 0.0))
    oracle = torch_options.with_zoneout(oracle, rates, training=True)
    check(cell, oracle, use, bias=bias, weight_drop=weight_drop)


@every_use
@pytest.mark.parametrize("cell_clip", [None, 0.3])
@pytest.mark.parametrize(
    ("norm", "coupled", "peephole", "projection"), [*product([False, True], repeat=4)]
)
def test_lstm_of_tensorflow_lite(
    norm: bool, coupled: bool, peephole: bool, projection: bool, cell_clip: Any, use: str
) -> None:
    cell = cells.lstm_with(
        layer_norm="gates" if norm else False,
        coupled=coupled,
        peephole=peephole,
        proj_size=P if projection else 0,
        cell_clip=cell_clip,
    )
    oracle = TFLite(norm, coupled, peephole, projection, cell_clip or 0.0)
    check(cell, oracle.oracle(), use)


@every_use
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "biasless"])
def test_activation_of_tensorflow_lite(bias: bool, use: str) -> None:
    """It has one for the candidate and the cell state."""
    cell = cells.lstm_with(activations=("sigmoid", "relu", "relu"), layer_norm="gates")
    oracle = TFLite(True, False, False, False, 0.0, activation=torch.relu)
    check(cell, oracle.oracle(), use, bias=bias)


ZONED: dict[str, tuple[Any, tuple[float, ...]]] = {
    "lstm": (cells.lstm_with(zoneout=(0.2, 0.6)), (0.2, 0.6)),
    "gru": (cells.gru_with(zoneout=0.4), (0.4,)),
    "rnn": (cells.rnn_with(zoneout=0.4), (0.4,)),
    "peephole": (cells.lstm_with(peephole=True, zoneout=(0.0, 0.5)), (0.0, 0.5)),
    "mgu": (cells.with_zoneout(cells.BY_NAME["mgu"], 0.5), (0.5,)),
}


@every_use
@pytest.mark.parametrize("name", ZONED)
def test_zoneout_of_krueger(name: str, use: str) -> None:
    cell, rates = ZONED[name]
    check(cell, torch_options.with_zoneout(CELLS[name], rates, training=True), use)


@every_use
@pytest.mark.parametrize("name", ZONED)
def test_zoneout_in_inference(name: str, use: str) -> None:
    """Then a unit keeps that fraction of its old state which is the probability to keep all."""
    cell, rates = ZONED[name]
    num_layers, bidirectional, lengths = USES[use]
    how: Any = {"num_layers": num_layers, "bidirectional": bidirectional}
    layer = xrnn.Layer(cell, I, H, **how, dtype="float64")
    given = case_for(layer, lengths)
    layer.weights = {k.removeprefix("weights."): a for k, a in given.items() if "weights" in k}
    state = tuple(given[f"state.{s}"] for s in cell.states)
    ys, last = layer(given["xs"], state, lengths)
    oracle = torch_options.with_zoneout(CELLS[name], rates, training=False)
    want = torch_cells.verdict(oracle, given, **how)
    found = {"ys": ys, **{f"last.{s}": a for s, a in zip(cell.states, last, strict=True)}}
    assert_agree(found, {name: want[name] for name in found}, BOUND)


DROPPED: dict[str, tuple[Any, Any]] = {
    "rnn": (cells.rnn_with(recurrent_dropout=0.4), with_dropout),
    "lstm": (cells.lstm_with(recurrent_dropout=0.4), with_dropout),
    "peephole": (cells.lstm_with(recurrent_dropout=0.4, peephole=True), with_dropout),
    "gru": (cells.gru_with(recurrent_dropout=0.4), torch_options.gru_with_dropout),
    "gru-before": (
        cells.gru_with(recurrent_dropout=0.4, reset="before"),
        torch_options.gru_with_dropout,
    ),
}


@every_use
@pytest.mark.parametrize("name", DROPPED)
def test_variational_dropout_of_gal(name: str, use: str) -> None:
    cell, make = DROPPED[name]
    check(cell, make(CELLS[name]), use)


@every_use
def test_dropout_and_zoneout_together(use: str) -> None:
    cell = cells.lstm_with(recurrent_dropout=0.3, zoneout=(0.3, 0.4), layer_norm=True)
    oracle = torch_options.with_zoneout(with_dropout(HASTE_LSTM), (0.3, 0.4), training=True)
    check(cell, oracle, use, weight_drop=0.2)


@every_use
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "biasless"])
@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("currents", [False, True], ids=["rates", "currents"])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_leaky_network(alpha: float, currents: bool, noise: float, bias: bool, use: str) -> None:
    cell = cells.leaky_with(alpha, activations=["softplus"], noise=noise, potential=currents)
    oracle = Leaky(alpha, torch_options.softplus, currents)
    check(cell, oracle.oracle(), use, bias=bias)
