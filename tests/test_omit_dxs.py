"""The backward pass without the gradient of the inputs: all other gradients are the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rows import ROWS

import xrnn
from xrnn.backends.cpu import extension
from xrnn.engine import stack

T, B, I, H = 5, 3, 4, 6


@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=["whole", "lengths"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("cell", [row.cell for row in ROWS], ids=lambda cell: cell.name)
def test_the_other_gradients_stay(cell: Any, bidirectional: bool, lengths: Any) -> None:
    layer = xrnn.Layer(cell, I, H, 2, bidirectional=bidirectional, rng=0, init="uniform")
    rng = np.random.default_rng(1)
    xs, dys = (rng.normal(size=(T, B, n)).astype("float32") for n in (I, H * layer.directions))
    if lengths is not None:
        xs[2:, 2] = np.nan
    _, _, tape = layer.forward(xs, lengths=lengths, seed=2)
    given = (tape.passes, tape.masks, layer.directions, *tape.gradients_given(dys, None))
    whole, rest = stack.backward(*given), stack.backward(*given, omit_dxs=True)
    assert rest[0][0] is None
    assert whole[0][0].shape == xs.shape
    for (_, dstate, dweights), (_, found, named) in zip(whole, rest, strict=True):
        assert all(map(np.array_equal, dstate, found))
        assert dweights.keys() == named.keys()
        assert all(np.array_equal(dweights[name], named[name]) for name in named)


@pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
def test_the_native_loops_leave_it_out() -> None:
    for cell in extension.CODES:
        kernels = extension.kernels(cell)
        assert kernels
        assert all(kernel.omits_dxs for kernel in kernels)
        layer = xrnn.Layer(cell, I, H, rng=0)
        _, _, tape = layer.forward(np.ones((T, B, I), "float32"), seed=0)
        one = tape.passes[0]
        loop: Any = one.kernel.sequence
        found = loop.backward(one.weights, one.residuals, None, one.first, xp=np, omit_dxs=True)
        assert found[0] is None


def _same(found: Any, expected: Any) -> None:
    """Trees of gradients with the same bits."""
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        if isinstance(one, dict):
            _same(found[name], one)
        else:
            np.testing.assert_array_equal(found[name], one)


@pytest.mark.parametrize("how", [{}, {"lengths": [5, 0, 2]}, {"resets": True}], ids=str)
def test_a_layer_leaves_it_out(how: dict[str, Any]) -> None:
    layer, rng = xrnn.LSTM(I, H, 2, rng=0), np.random.default_rng(1)
    xs = rng.normal(size=(T, B, I)).astype("float32")
    if "resets" in how:
        how = {"resets": rng.random((T, B)) < 0.4}
    ys, _, tape = layer.forward(xs, **how)
    _, dstate, dweights = layer.backward(tape, ys)
    dxs, found, rest = layer.backward(tape, ys, omit_dxs=True)
    assert dxs is None
    assert all(map(np.array_equal, dstate, found))
    _same(rest, dweights)
    with pytest.raises(TypeError, match="lstm: omit_dxs is 1; it must be True or False"):
        layer.backward(tape, ys, omit_dxs=1)  # type: ignore[arg-type]


MODELS: dict[str, Any] = {
    "layer": lambda: xrnn.Sequential(xrnn.GRU(I, H, rng=0), xrnn.Linear(H, 2, rng=1)),
    "linear": lambda: xrnn.Sequential(xrnn.Linear(I, H, rng=0), xrnn.GRU(H, 2, rng=1)),
    "residual": lambda: xrnn.Sequential(xrnn.Residual(xrnn.GRU(I, I, rng=0)), xrnn.Last()),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_leaves_it_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]()
    y, tape = model.forward(np.ones((T, B, I), "float32"), lengths=[5, 0, 2])
    dx, dweights = model.backward(tape, y)
    assert dx.shape == (T, B, I)
    left_out, backward = [], stack.backward

    def watched(*given: Any, omit_dxs: bool = False) -> Any:
        left_out.append(omit_dxs)
        return backward(*given, omit_dxs=omit_dxs)

    monkeypatch.setattr(stack, "backward", watched)
    found, rest = model.backward(tape, y, omit_dxs=True)
    assert found is None
    _same(rest, dweights)
    assert left_out == [name != "linear"], "the parts before a layer need its gradient"


def test_an_encoder_leaves_it_out() -> None:
    model = xrnn.Seq2Seq(
        encoder=xrnn.GRU(I, H, rng=0), decoder=xrnn.GRU(2, H, rng=1), readout=xrnn.Linear(H, 2)
    )
    sources, targets = np.ones((T, B, I), "float32"), np.ones((3, B, 2), "float32")
    y, tape = model.forward(sources, targets)
    dsources, dweights = model.backward(tape, y)
    assert dsources is not None
    assert dsources.shape == sources.shape
    found, rest = model.backward(tape, y, omit_dxs=True)
    assert found is None
    _same(rest, dweights)
