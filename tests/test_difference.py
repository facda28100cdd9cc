"""`xrnn.analysis.difference`: how far the outputs of two models lie apart."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.cells import Elman

XS = np.random.default_rng(0).normal(size=(6, 2, 3)).astype("float32")


def test_it_is_that_of_the_outputs() -> None:
    layer = xrnn.GRU(3, 4, rng=0)
    small = copy.deepcopy(layer).freeze(weights="int8")
    gap = abs(layer(XS)[0].astype("float64") - small(XS)[0])
    found = xrnn.analysis.difference(layer, small, XS)
    assert 0 < found.rms < found.largest < 0.1 * found.outputs
    assert found.largest == gap.max()
    assert found.rms == pytest.approx(np.sqrt((gap**2).mean()))
    assert xrnn.analysis.difference(layer, layer, XS, lengths=[6, 2]).largest == 0


@pytest.mark.parametrize(
    ("other", "how", "error", "words"),
    [
        (3, {}, TypeError, "other is 3; it must be a layer or another part"),
        (xrnn.GRU(3, 5, rng=0), {}, ValueError, r"shape \(6, 2, 4\) and those of other"),
        (xrnn.GRU(3, 4, rng=0), {"length": [6, 2]}, TypeError, "model takes no length; further"),
    ],
)
def test_what_is_refused(other: Any, how: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        xrnn.analysis.difference(xrnn.GRU(3, 4, rng=0), other, XS, **how)


def test_the_difference_of_complex_outputs() -> None:
    one, other = (xrnn.Layer(Elman, 2, 3, dtype="complex64", rng=0) for _ in range(2))
    other.weights["b_l0"] = other.weights["b_l0"] + np.complex64(0.1j)
    xs = np.full((4, 2, 2), 0.5 + 0.2j, "complex64")
    a, b = (layer(xs)[0] for layer in (one, other))
    found = xrnn.analysis.difference(one, other, xs)
    assert found.largest == pytest.approx(abs(a - b).max(), rel=1e-5)
    assert found.rms == pytest.approx(np.sqrt((abs(a - b) ** 2).mean()), rel=1e-5)
    assert found.outputs == pytest.approx(np.sqrt((abs(a) ** 2).mean()), rel=1e-5)
