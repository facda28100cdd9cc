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
        (kernel,) = extension.kernels(cell)
        assert kernel.omits_dxs
        layer = xrnn.Layer(cell, I, H, rng=0)
        _, _, tape = layer.forward(np.ones((T, B, I), "float32"), seed=0)
        one = tape.passes[0]
        loop: Any = one.kernel.sequence
        found = loop.backward(one.weights, one.residuals, None, one.first, xp=np, omit_dxs=True)
        assert found[0] is None
