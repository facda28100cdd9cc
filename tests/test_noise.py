"""Random numbers in training: what layers and cells draw, and what it depends on."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rows import NOISY

import xrnn
from xrnn import cells
from xrnn.backends.host import counter_bits
from xrnn.cells.noise import Noise
from xrnn.certify.laws import LAWS
from xrnn.certify.report import bound
from xrnn.certify.trial import OPTIONS, Trial
from xrnn.engine.random import _values

T, B, I, H = 6, 3, 4, 5

every_cell = pytest.mark.parametrize("cell", NOISY, ids=lambda cell: cell.name)

#: with masks and resets too: numbers belong to steps, and not to the segments that are run
USES = [
    option
    for option in OPTIONS
    if option.name in ("plain", "lengths", "3 layers, both", "dropout", "resets, dropout")
]


def inputs(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(T, B, I)).astype("float32")


def make(cell: Any, **options: Any) -> Any:
    return xrnn.Layer(cell, I, H, rng=1, **options)


@every_cell
@pytest.mark.parametrize("option", USES, ids=lambda option: option.name)
@pytest.mark.parametrize("law", LAWS)
def test_laws(law: str, cell: Any, option: Any) -> None:
    error = LAWS[law](Trial(cell, option))
    assert error is None or error <= bound(cell, law, "float64")


@pytest.mark.parametrize("weight_drop", [0.4])
@pytest.mark.parametrize("option", USES, ids=lambda option: option.name)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU, NOISY[0]], ids=lambda cell: cell.name)
def test_laws_with_weight_drop(law: str, cell: Any, option: Any, weight_drop: float) -> None:
    class Dropped(Trial):
        def make_layer(self, *args: Any, **how: Any) -> Any:
            layer = super().make_layer(*args, **how)
            layer.__dict__ |= {"weight_drop": weight_drop, "_needs_seed": "weight_drop"}
            return layer

    if law != "twin":  # which makes a trial of its own
        error = LAWS[law](Dropped(cell, option))
        assert error is None or error <= bound(cell, law, "float64")


@every_cell
def test_equal_in_every_library(cell: Any, device: str) -> None:
    layer = make(cell, num_layers=2, dropout=0.3, weight_drop=0.2 if cell.recurrent else 0.0)
    other = make(cell, num_layers=2, dropout=0.3, device=device, weight_drop=layer.weight_drop)
    place = other.weights.placement
    ys, last, _ = layer.forward(inputs(), seed=3)
    found, state, _ = other.forward(place.from_host(inputs()), seed=3)
    for a, b in zip((ys, *last), (found, *state), strict=True):
        np.testing.assert_allclose(a, place.backend.to_host(b), rtol=1e-4, atol=1e-5)


@every_cell
def test_they_depend_on_the_seed_and_are_none_in_inference(cell: Any) -> None:
    layer = make(cell)
    one, _, _ = layer.forward(inputs(), seed=1)
    assert (one == layer.forward(inputs(), seed=1)[0]).all()
    assert (one != layer.forward(inputs(), seed=2)[0]).any()
    assert (one != layer(inputs())[0]).any()
    assert (layer(inputs())[0] == layer(inputs())[0]).all()


@every_cell
def test_a_sequence_in_parts(cell: Any) -> None:
    layer = make(cell, weight_drop=0.3 if cell.recurrent else 0.0)
    whole, last, _ = layer.forward(inputs(), seed=5)
    first, state, _ = layer.forward(inputs()[:2], seed=5)
    second, end, _ = layer.forward(inputs()[2:], state, seed=5, t=2)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    np.testing.assert_array_equal(end[0], last[0])
    other, _, _ = layer.forward(inputs()[2:], state, seed=5)
    assert (other != second).any() == any(noise.each_step for noise in cell.noise)


@every_cell
def test_layers_and_directions_draw_their_own(cell: Any) -> None:
    layer = make(cell, bidirectional=True)
    layer.weights = {k: layer.weights[k.removesuffix("_reverse")].copy() for k in layer.weights}
    xs = np.broadcast_to(inputs()[:1], (T, B, I)).copy()
    ys, _, _ = layer.forward(xs, seed=1)
    assert (ys[..., : ys.shape[2] // 2] != ys[::-1, :, ys.shape[2] // 2 :]).any()


@every_cell
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_of_tapes(cell: Any, duplicate: Any) -> None:
    layer = make(cell, weight_drop=0.3 if cell.recurrent else 0.0)
    ys, _, tape = layer.forward(inputs(), seed=4)
    other, twin = duplicate((layer, tape))
    for a, b in zip(
        layer.backward(tape, ys)[2].values(), other.backward(twin, ys)[2].values(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_unroll() -> None:
    cell = cells.gru_with(zoneout=0.3)
    weights = {k: np.full(s, 0.1) for k, s in cell.shapes(I, H).items()}
    xs = inputs().astype("float64")
    with pytest.raises(ValueError, match="seed is None; a cell that draws random numbers needs"):
        xrnn.unroll(cell, weights, xs)
    ys, _, tape = xrnn.unroll(cell, weights, xs, seed=2)
    assert (ys != xrnn.unroll(cell, weights, xs, seed=3)[0]).any()
    xrnn.unroll_backward(tape, ys)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "seed is None; a layer with dropout needs an integer"),
        ({"seed": True}, "seed is True"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"seed": 1, "t": -1}, "t is -1; it must be an integer in 0…2"),
        ({"seed": 1, "t": 0.5}, "t is 0.5"),
        ({"seed": 1, "t": 2**63}, r"t is 9223372036854775808; it must be an integer in 0…2\*\*63"),
    ],
)
def test_errors_of_seeds(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        xrnn.LSTM(I, H, weight_drop=0.5).forward(inputs(), **how)


def zoned(make: Any, given: Any) -> Any:
    """A call with an argument of a type that is refused."""
    return make(given) if make is cells.with_zoneout else make(zoneout=given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: xrnn.LSTM(3, 5, zoneout=0.1), "2 numbers in .0, 1., one for each state"),
        (lambda: xrnn.LSTM(3, 5, zoneout=(0.1, 1.0)), r"zoneout\[1\] is 1.0; it must be a"),
        (lambda: xrnn.GRU(3, 5, zoneout=-0.1), "zoneout is -0.1"),
        (lambda: xrnn.GRU(3, 5, recurrent_dropout=1), "recurrent_dropout is 1; it must be"),
        (lambda: xrnn.RNN(3, 5, weight_drop=1.0), r"weight_drop is 1.0; it must be in \[0, 1\)"),
        (lambda: xrnn.Layer(cells.MinGRU, 3, 5, weight_drop=0.1), "there is no U; give 0"),
        (lambda: cells.with_zoneout(cells.LSTM, 0.1), "2 numbers in .0, 1., one for each state"),
        (
            lambda: cells.with_zoneout(cells.lstm_with(zoneout=(0.1, 0.0)), 0.1, 0.2),
            r"zoneout\(lstm, 0.1, 0.0\): the cell has zoneout already; give the cell without it",
        ),
    ],
)
def test_errors_of_rates(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise": ["z"]}, r"lstm: noise is \['z'\]; it must be a tuple of Noise"),
        ({"noise": (Noise("U", "drop", 0.1),)}, "noise has the name 'U'; it must be another one"),
        ({"noise": (Noise("z", "drop", 0.1),) * 2}, "noise has the name 'z'; it must be another"),
        ({"noise": (Noise("z", "drop", 0.1, 2),)}, "z: state is 2; it must be one of the 2 states"),
    ],
)
def test_errors_of_cells(values: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        replace(cells.LSTM, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("", "keep", 0.1), "noise: name is ''; it must be a name"),
        ((1, "keep", 0.1), "noise: name is 1; it must be a name"),
        (("z", "gauss", 0.1), "z: kind is 'gauss'; it must be of keep, drop, normal"),
        (("z", "keep", 1.5), r"z: rate is 1.5; it must be a number in \[0, 1\)"),
        (("z", "drop", -0.5), "z: rate is -0.5"),
        (("z", "normal", float("inf")), "z: rate is inf; it must be a finite number ≥ 0"),
    ],
)
def test_errors_of_noise(values: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Noise(*values)


def test_distributions() -> None:
    bits = counter_bits(1, 2, 100_000)
    kept, dropped = (_values(Noise("z", kind, 0.3), bits) for kind in ("keep", "drop"))
    normal = _values(Noise("n", "normal", 0.3), bits)
    assert abs(kept.mean() - 0.3) < 0.01
    assert set(np.unique(dropped)) == {0.0, 1 / 0.7}
    assert abs(dropped.mean() - 1) < 0.01
    assert abs(normal.mean()) < 0.005
    assert abs(normal.std() - 0.3) < 0.005
    assert abs((normal**4).mean() / 0.3**4 - 3) < 0.15


@pytest.mark.parametrize("resets", [None, np.ones((T, B), bool)], ids=["", "resets"])
def test_no_step_at_all(resets: Any) -> None:
    """With resets these are segments, of which there are none; held outputs are 0."""
    layer = xrnn.LSTM(I, H, recurrent_dropout=0.3, zoneout=(0.1, 0.2))
    how: Any = {"mask": np.zeros((T, B), bool), "masked": "hold", "resets": resets, "seed": 1}
    ys, last, tape = layer.forward(inputs(), **how)
    assert not ys.any()
    assert not last.c.any()
    dxs, _, dweights = layer.backward(tape, ys + 1)
    assert not any(d.any() for d in (dxs, *dweights.values()))


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_bits_from_a_position_on(start: int) -> None:
    np.testing.assert_array_equal(counter_bits(1, 2, 9, start), counter_bits(1, 2, 20)[start:][:9])


def test_zoneout_of_the_whole_state_keeps_it() -> None:
    """Nearly certain zoneout: units keep the first state, exactly."""
    layer = make(cells.with_zoneout(cells.LSTM, 0.999999, 0.999999))
    state = tuple(np.full((1, B, H), 0.5, "float32") for _ in range(2))
    ys, last, _ = layer.forward(inputs(), state, seed=0)
    assert (ys == 0.5).all()
    assert (last.c == 0.5).all()
