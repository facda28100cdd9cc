"""The noisy estimates of `benchmarks/online_recall.py`, against the exact gradient."""

from __future__ import annotations

import importlib
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.cells import BY_NAME

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not beside us")
sys.path.append(str(BENCHMARKS))


@pytest.mark.parametrize(
    ("method", "kind", "H", "T"),
    [
        ("Uoro", "rnn", 2, 4),
        ("Uoro", "lstm", 1, 4),
        ("Uoro", "lstm", 2, 2),
        ("KfRtrl", "rnn", 3, 4),
        ("KfRtrl", "lstm", 2, 4),
    ],
)
def test_the_mean_over_all_signs_is_the_exact_gradient(
    method: str, kind: str, H: int, T: int
) -> None:
    """Every stream has the same inputs and signs of its own: together, all that there are."""
    recall, cell = importlib.import_module("online_recall"), BY_NAME[kind]
    many = 2 if method == "KfRtrl" else H * len(cell.states)
    signs = np.array(list(product((-1, 1), repeat=T * many)))
    B, steps = len(signs), iter(np.split(signs, T, axis=1))

    def drawn(shape: tuple[int, ...]) -> Any:
        part = next(steps)
        return part if part.shape == shape else part.T

    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, shape in cell.shapes(2, H).items()}
    estimate = getattr(recall, method)(cell, weights, B, drawn)
    exact = xrnn.online.Online(cell, weights, 1)
    for t, x in enumerate(rng.normal(size=(T, 1, 2))):
        h = estimate.step(np.repeat(x, B, axis=0))
        np.testing.assert_allclose(h[:1], exact.step(x), rtol=1e-12)
        dh = rng.normal(size=(1, H))
        found = estimate.gradient(np.repeat(dh / B, B, axis=0))
        one = estimate.gradient(np.repeat(dh, B, axis=0) * (np.arange(B) == 0)[:, None])
        for name, right in exact.gradient(dh).items():
            np.testing.assert_allclose(found[name], right, rtol=1e-9, atol=1e-9)
            noise = abs(one[name] - right).max()
            assert t == 0 or noise > 1e-2 * abs(right).max()  # of one alone


def test_a_short_run_of_the_benchmark() -> None:
    recall = importlib.import_module("online_recall")
    task = recall.Task("rnn", 4, (2, 4))
    for method in recall.METHODS:
        errors = recall.run(task, method, 1e-2, 0, 60).errors(20)
        assert len(errors) == 3
        assert all(0 <= error <= 1 for error in errors)
