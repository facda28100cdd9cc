"""Properties over sizes and lengths that nobody chose."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import ROWS

import xrnn

cells = st.sampled_from([row.cell for row in ROWS])
sizes = st.integers(1, 5)


@st.composite
def batches(draw: Any) -> tuple[int, list[int]]:
    """T, and a length in 0…T for each of some sequences (perhaps none)."""
    T = draw(st.integers(0, 6))
    return T, draw(st.lists(st.integers(0, T), max_size=5))


@settings(deadline=None, max_examples=60)
@given(cells, batches(), sizes, sizes, st.integers(1, 3), st.booleans(), st.booleans())
def test_shapes_padding_and_the_adjoint(
    cell: Any, batch: Any, I: int, H: int, num_layers: int, both: bool, bias: bool
) -> None:
    T, lengths = batch
    B = len(lengths)
    layer = xrnn.Layer(
        cell,
        I,
        H,
        num_layers,
        bidirectional=both,
        bias=bias,
        rng=0,
        dtype="float64",
        init="uniform",
    )
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(T, B, I))
    state = tuple(rng.normal(size=(num_layers * (1 + both), B, H)) for _ in cell.states)
    ys, last, tape = layer.forward(xs, state, lengths)
    assert ys.shape == (T, B, H * (1 + both))
    dxs, dfirst, dweights = layer.backward(tape, np.ones_like(ys), state)
    assert dxs.shape == xs.shape
    assert [s.shape for s in (*last, *dfirst)] == [s.shape for s in state] * 2
    assert {k: g.shape for k, g in dweights.items()} == layer.shapes()
    past = np.arange(T)[:, None] >= np.asarray(lengths, int)[None, :]
    assert not ys[past].any()
    assert not dxs[past].any()
    for s, first in zip(last, state, strict=True):
        still = np.asarray(lengths, int) == 0
        np.testing.assert_array_equal(s[:, still], first[:, still])
    # Backward is linear in what it is given, in all of it at once.
    twice, _, doubled = layer.backward(tape, 2 * np.ones_like(ys), tuple(2 * s for s in state))
    np.testing.assert_allclose(twice, 2 * dxs, rtol=1e-12, atol=1e-13)
    for name, gradient in dweights.items():
        np.testing.assert_allclose(doubled[name], 2 * gradient, rtol=1e-12, atol=1e-13)


@settings(deadline=None, max_examples=60)
@given(cells, batches(), st.booleans())
def test_what_stands_in_the_padding_does_not_matter(cell: Any, batch: Any, reverse: bool) -> None:
    T, lengths = batch
    rng = np.random.default_rng(1)
    weights = {k: rng.normal(size=s) for k, s in cell.shapes(2, 3).items()}
    xs = rng.normal(size=(T, len(lengths), 2))
    past = np.arange(T)[:, None] >= np.asarray(lengths, int)[None, :]
    other = np.where(past[:, :, None], np.inf, xs)
    results = []
    for values in (xs, other):
        ys, last, tape = xrnn.unroll(cell, weights, values, None, lengths, reverse)
        dys = np.where(past[:, :, None], np.nan, ys) if values is other else ys
        dxs, dfirst, dweights = xrnn.unroll_backward(tape, dys, last)
        results.append([ys, *last, dxs, *dfirst, *dweights.values()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
