"""Initial states that are weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from projected import PROJECTED

import xrnn
from xrnn import cells
from xrnn.backends import get

RNG = np.random.default_rng(0)
T, B, I, H = 6, 4, 3, 5


def noise(*shape: int) -> Any:
    return RNG.normal(size=shape)


def made(cell: Any = cells.LSTM, **how: Any) -> xrnn.Layer[Any]:
    """A layer whose initial states are not zeros."""
    given: Any = {"dtype": "float64", "init": "uniform", "rng": 0, **how}
    return xrnn.Layer(cell, I, H, learn_state=True, **given)


class TestWeights:
    def test_names_and_shapes(self) -> None:
        layer = xrnn.LSTM(I, (5, 4), bidirectional=True, learn_state=True)
        shapes = layer.shapes()
        assert list(shapes)[:5] == ["W_l0", "U_l0", "b_l0", "h0_l0", "c0_l0"]
        assert shapes["c0_l1_reverse"] == (4,)
        assert xrnn.Layer(PROJECTED, I, H, learn_state=True).shapes()["h0_l0"] == (3,)
        with pytest.raises(ValueError, match=r"h0_l0 has shape \(4,\); it must be \(H,\) = \(5,\)"):
            layer.weights["h0_l0"] = np.zeros(4, "float32")

    def test_they_begin_as_zeros(self) -> None:
        layer, plain = xrnn.LSTM(I, H, rng=0, learn_state=True), xrnn.LSTM(I, H, rng=0)
        assert not layer.weights["h0_l0"].any()
        for name, w in plain.weights.items():
            assert np.array_equal(layer.weights[name], w)
        uniform = xrnn.LSTM(I, H, rng=0, init="uniform", learn_state=True).weights["c0_l0"]
        assert 0 < abs(uniform).max() <= H**-0.5

    def test_a_name_that_is_taken(self) -> None:
        cell = replace(cells.PeepholeLSTM, extras={"p": (3,), "c0": (1,)})
        with pytest.raises(
            ValueError, match=r"peephole: learn_state is True, and the cell has a w"
        ):
            xrnn.Layer(cell, I, H, learn_state=True)

    def test_the_option_is_a_flag(self) -> None:
        with pytest.raises(TypeError, match="lstm: learn_state is 1; it must be True or False"):
            xrnn.LSTM(I, H, learn_state=1)  # type: ignore[arg-type]
        layer = xrnn.LSTM(I, H, learn_state=True)
        assert repr(layer) == "<LSTM(3, 5, learn_state=True): lstm>"
        with pytest.raises(AttributeError, match="learn_state is True and cannot be changed"):
            layer.learn_state = False

    @pytest.mark.parametrize("make", [xrnn.RNN, xrnn.LSTM, xrnn.GRU, xrnn.InputGatedLSTM])
    def test_every_layer_has_it(self, make: Any) -> None:
        assert "h0_l0" in make(I, H, learn_state=True).weights


class TestRuns:
    @pytest.mark.parametrize("sizes", [5, (5, 2)])
    def test_it_is_the_state_where_none_is_given(self, sizes: Any, device: str) -> None:
        how: Any = {"num_layers": 2} if sizes == 5 else {}
        layer: Any = xrnn.LSTM(
            I, sizes, learn_state=True, init="uniform", dtype="float64", device=device, **how
        )
        put, to_host = layer.weights.placement.from_host, get(device).to_host
        first, xs = layer.initial_state(B), put(noise(T, B, I))
        for k in range(2):
            expected = np.broadcast_to(to_host(layer.weights[f"h0_l{k}"]), (B, layer.widths(k)[0]))
            found = first.h[k] if isinstance(first.h, tuple) else first.h[k, ...]
            assert np.array_equal(to_host(found), expected)
        expected = to_host(layer(xs, first)[0])
        for given in (None, (first.h, None), (None, first.c), (None, None)):
            assert np.array_equal(to_host(layer(xs, given)[0]), expected)

    def test_steps_begin_with_it(self) -> None:
        layer, xs = made(num_layers=2), noise(T, B, I)
        ys, last = layer(xs)
        state: Any = None
        for x, y in zip(xs, ys, strict=True):
            found, state = layer.step(x, state)
            np.testing.assert_allclose(found, y, rtol=1e-12)
        np.testing.assert_allclose(state.c, last.c, rtol=1e-12)
        one, _ = layer.step(xs[0, 0])
        np.testing.assert_allclose(one, ys[0, 0], rtol=1e-12)

    def test_changes_and_other_weights_are_seen(self) -> None:
        layer, x = made(cells.GRU), np.zeros((1, B, I))
        before = layer(x)[0]
        layer.weights["h0_l0"] *= 2
        assert not np.allclose(layer(x)[0], before)
        layer.weights["h0_l0"] = np.zeros(H)
        zero = layer(x)[0]
        assert np.array_equal(zero, layer(x, (np.zeros((1, B, H)),))[0])
        assert np.array_equal(layer.freeze()(x)[0], zero)

    def test_the_state_given_back_is_not_the_weight(self) -> None:
        layer = made(cells.GRU)
        state = layer.initial_state(1)
        state.h[...] = 7
        assert abs(layer.weights["h0_l0"]).max() < 1
        _, last = layer(np.zeros((T, 2, I)), None, [0, 3])
        last.h[...] = 7
        assert abs(layer.weights["h0_l0"]).max() < 1


class TestGradients:
    def test_it_is_the_sum_over_the_sequences_that_began_with_it(self) -> None:
        layer, xs, lengths = made(bidirectional=True), noise(T, B, I), [6, 0, 2, 3]
        ys, last, tape = layer.forward(xs, None, lengths)
        _, dfirst, dweights = layer.backward(tape, ys, last)
        for n, suffix in enumerate(layer.suffixes(0)):
            np.testing.assert_allclose(dweights[f"h0{suffix}"], dfirst.h[n].sum(0), rtol=1e-12)
            np.testing.assert_allclose(dweights[f"c0{suffix}"], dfirst.c[n].sum(0), rtol=1e-12)

    def test_what_was_given_is_not_learned(self) -> None:
        layer, xs = made(), noise(T, B, I)
        ys, last, tape = layer.forward(xs, (None, noise(1, B, H)))
        _, _, dweights = layer.backward(tape, ys, last)
        assert dweights["h0_l0"].any()
        assert not dweights["c0_l0"].any()

    def test_resets_add_to_it(self) -> None:
        layer, xs, state = made(cells.GRU), noise(T, 1, I), (noise(1, 1, H),)
        resets = np.zeros((T, 1), bool)
        resets[[2, 4]] = True
        ys, _, tape = layer.forward(xs, state, resets=resets)
        dys = noise(T, 1, H)
        _, _, dweights = layer.backward(tape, dys)
        total = 0
        for part in (slice(2, 4), slice(4, None)):
            piece, _, alone = layer.forward(xs[part])
            np.testing.assert_allclose(piece, ys[part], rtol=1e-12)
            total = total + layer.backward(alone, dys[part])[2]["h0_l0"]
        np.testing.assert_allclose(dweights["h0_l0"], total, rtol=1e-10)

    def test_a_reset_at_the_end_gives_it_back(self) -> None:
        layer, mask, resets = made(cells.GRU), np.ones((T, 1), bool), np.zeros((T, 1), bool)
        mask[4:], resets[5] = False, True
        _, last, tape = layer.forward(noise(T, 1, I), mask=mask, resets=resets)
        assert np.array_equal(last.h[0, 0], layer.weights["h0_l0"])
        dlast = noise(1, 1, H)
        dxs, dfirst, dweights = layer.backward(tape, None, (dlast,))
        assert not dxs.any()
        assert not dfirst.h.any()
        np.testing.assert_allclose(dweights["h0_l0"], dlast[0, 0], rtol=1e-12)

    def test_optimizers_train_it(self) -> None:
        layer, optimizer = made(cells.GRU), xrnn.optim.Adam(0.05)
        xs, target, losses = np.zeros((1, B, I)), np.full((1, B, H), 0.2), []
        for _ in range(50):
            ys, _, tape = layer.forward(xs)
            losses.append(float(((ys - target) ** 2).sum()))
            dweights = layer.backward(tape, 2 * (ys - target))[2]
            optimizer.update(layer.weights, {**dict.fromkeys(dweights, 0), **dweights})
        assert losses[-1] < 0.01 * losses[0]


class TestFiles:
    def test_a_file_holds_it(self, tmp_path: Path) -> None:
        layer = made(num_layers=2)
        xrnn.save(tmp_path / "a", layer)
        other = xrnn.load(tmp_path / "a", made(num_layers=2, rng=1))
        assert np.array_equal(other.weights["c0_l1"], layer.weights["c0_l1"])
        plain = xrnn.Layer(cells.LSTM, I, H, num_layers=2, dtype="float64")
        with pytest.raises(ValueError, match="learn_state is True in the file, False here"):
            xrnn.load(tmp_path / "a", plain)

    def test_torch_has_no_such_module(self) -> None:
        with pytest.raises(ValueError, match="gru: learn_state is True; PyTorch's modules have no"):
            xrnn.convert.to_torch(xrnn.GRU(I, H, learn_state=True))
