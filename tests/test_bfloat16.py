"""bfloat16, which NumPy knows by ml_dtypes alone: kept, moved, converted, computed in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")

BF16 = np.dtype(ml_dtypes.bfloat16)


def test_files(tmp_path: Path) -> None:
    layer = xrnn.LSTM(3, 4, dtype="bfloat16")
    assert {w.dtype for w in layer.weights.values()} == {BF16}
    xrnn.save(tmp_path / "layer", layer)
    other = xrnn.load(tmp_path / "layer", xrnn.LSTM(3, 4, dtype="bfloat16", rng=1))
    for name, w in layer.weights.items():
        np.testing.assert_array_equal(other.weights[name], w)


def test_on_the_cpu_it_is_stored() -> None:
    layer = xrnn.LSTM(3, 4, num_layers=2, dtype="bfloat16", rng=0)
    wide = xrnn.LSTM(3, 4, num_layers=2, rng=0)
    wide.weights = {name: w.astype("float32") for name, w in layer.weights.items()}
    xs = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(BF16)
    ys, state, tape = layer.forward(xs)
    expected, _, _ = wide.forward(xs.astype("float32"))
    np.testing.assert_allclose(ys.astype("float32"), expected, atol=5e-3)
    dxs, dstate, dweights = layer.backward(tape, ys)
    assert {a.dtype for a in (ys, *state, dxs, *dstate, *dweights.values())} == {BF16}
    y, _ = layer.freeze().step(xs[0])
    np.testing.assert_array_equal(y, ys[0])


def test_without_ml_dtypes_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("xrnn.backends.host.importlib.import_module", absent)
    with pytest.raises(ImportError, match="bfloat16 needs ml_dtypes: pip install ml_dtypes"):
        xrnn.LSTM(3, 4, dtype="bfloat16")


def test_torch_computes_in_its_own() -> None:
    torch = pytest.importorskip("torch", reason="the library under test is PyTorch")
    here, there = (xrnn.GRU(3, 4, dtype="bfloat16", device=d, rng=0) for d in ("cpu", "torch"))
    assert there.weights["W_l0"].dtype == torch.bfloat16
    for name, w in there.weights.items():
        np.testing.assert_array_equal(get("torch").to_host(w), here.weights[name])
    ys, _, tape = there.forward(torch.ones(5, 2, 3, dtype=torch.bfloat16))
    assert ys.dtype == torch.bfloat16
    dxs, _, dweights = there.backward(tape, ys)
    assert {dxs.dtype, *(d.dtype for d in dweights.values())} == {torch.bfloat16}
    module = torch.nn.GRU(3, 4).bfloat16()
    xrnn.convert.from_torch(here, module.state_dict())
    np.testing.assert_array_equal(
        here.weights["W_l0"].astype("float32"), module.weight_ih_l0.detach().float().numpy()
    )
