"""The option `reverse` of a layer: one direction, from the end to the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get

RNG = np.random.default_rng(0)
T, B, I, H = 6, 4, 3, 5


def noise(*shape: int) -> Any:
    return RNG.normal(size=shape)


def test_it_is_the_forward_layer_on_turned_sequences(device: str) -> None:
    how: Any = {"num_layers": 2, "dtype": "float64", "device": device, "rng": 0}
    layer, forward = xrnn.GRU(I, H, reverse=True, **how), xrnn.GRU(I, H, **how)
    put, to_host = layer.weights.placement.from_host, get(device).to_host
    xs = noise(T, B, I)
    ys, last = layer(put(xs))
    turned, other = forward(put(xs[::-1].copy()))
    np.testing.assert_allclose(to_host(ys), to_host(turned)[::-1], rtol=1e-12)
    np.testing.assert_allclose(to_host(last.h), to_host(other.h), rtol=1e-12)


def test_freezing_changes_nothing() -> None:
    layer, xs = xrnn.LSTM(I, H, reverse=True, rng=0), noise(T, B, I).astype("float32")
    before = layer(xs, None, [6, 0, 2, 3])[0].copy()
    frozen = layer.freeze()
    assert frozen.reverse
    assert np.array_equal(frozen(xs, None, [6, 0, 2, 3])[0], before)


def test_files_know_it(tmp_path: Path) -> None:
    xrnn.save(tmp_path / "a", xrnn.GRU(I, H, reverse=True))
    assert xrnn.load(tmp_path / "a", xrnn.GRU(I, H, reverse=True)).reverse
    with pytest.raises(ValueError, match="reverse is True in the file, False here"):
        xrnn.load(tmp_path / "a", xrnn.GRU(I, H))


def test_torch_computes_the_same_on_turned_sequences() -> None:
    torch = pytest.importorskip("torch")
    layer, module = xrnn.LSTM(I, H, reverse=True, rng=0), torch.nn.LSTM(I, H)
    xrnn.convert.from_torch(layer, module.state_dict())
    xs = noise(T, B, I).astype("float32")
    with torch.no_grad():
        ys, _ = module(torch.from_numpy(xs[::-1].copy()))
    np.testing.assert_allclose(layer(xs)[0], ys.numpy()[::-1], rtol=1e-4, atol=1e-6)
    forward = xrnn.LSTM(I, H)
    forward.weights = layer.weights
    back = xrnn.convert.to_torch(forward)
    assert np.array_equal(back["weight_hh_l0"], module.state_dict()["weight_hh_l0"].numpy())


@pytest.mark.parametrize("inside", [False, True])
def test_torch_has_no_module_that_only_runs_backward(inside: bool) -> None:
    layer = xrnn.GRU(I, H, reverse=True)
    parts: Any = {"rnn": layer} if inside else layer
    tree = {"rnn": layer.weights} if inside else layer.weights
    for given in (None, tree):
        with pytest.raises(ValueError, match=r"gru: reverse is True; PyTorch has no.*reverse=Fals"):
            xrnn.convert.to_torch(parts, given)


def test_it_cannot_step() -> None:
    with pytest.raises(ValueError, match=r"lstm: a reverse layer cannot step; make one with re"):
        xrnn.LSTM(I, H, reverse=True).step(np.ones((B, I), "float32"))
