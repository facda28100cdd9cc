"""Fixed points: of maps whose fixed points are known, and of every cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rows import ROWS

import xrnn
from xrnn.analysis import fixed_points, jacobian
from xrnn.backends import get

I, H = 3, 4


def starts_of(layer: Any, B: int, seed: int = 0) -> Any:
    rng, put = np.random.default_rng(seed), layer.weights.placement.from_host
    widths = [layer.widths(k) for k in range(layer.num_layers)]
    dtype = "float32" if layer.dtype == "float32" else "float64"
    return tuple(
        put(rng.normal(size=(layer.num_layers, B, sizes[0])).astype(dtype))
        if len(set(sizes)) == 1
        else tuple(put(rng.normal(size=(B, n)).astype(dtype)) for n in sizes)
        for sizes in zip(*widths, strict=True)
    )


def test_of_a_unit_that_remembers_its_sign() -> None:
    layer = xrnn.RNN(1, 1, dtype="float64")
    layer.weights = {"W_l0": np.ones((1, 1)), "U_l0": np.full((1, 1), 2.0), "b_l0": np.zeros(1)}
    found = fixed_points(layer, (np.linspace(-2, 2, 41)[None, :, None],))
    h = np.sort(found.state.h[0, :, 0])
    np.testing.assert_allclose(h, [-0.957504024079, 0, 0.957504024079], atol=1e-10)
    order = np.argsort(found.state.h[0, :, 0])
    assert found.stable[order].tolist() == [True, False, True]
    slopes = 2 * (1 - found.state.h[0, :, 0] ** 2)
    np.testing.assert_allclose(found.eigenvalues[:, 0], slopes, atol=1e-9)
    assert found.count.sum() == 41
    assert (np.diff(found.speed) >= 0).all()


def test_an_input_moves_them() -> None:
    layer = xrnn.RNN(1, 1, dtype="float64")
    layer.weights = {"W_l0": np.ones((1, 1)), "U_l0": np.full((1, 1), 2.0), "b_l0": np.zeros(1)}
    found = fixed_points(layer, (np.linspace(-2, 2, 41)[None, :, None],), np.ones(1))
    assert found.state.h.shape == (1, 1, 1)  # the input leaves one of the three
    assert found.stable.all()
    assert found.count.sum() <= 41


def test_of_a_line_of_fixed_points() -> None:
    """Where they are not isolated, each start finds its own."""
    layer = xrnn.RNN(1, 2, nonlinearity="relu", bias=False, dtype="float64")
    U = np.array([[0.5, 0.5], [0.5, 0.5]])  # all h with equal positive values stay
    layer.weights = {"W_l0": np.zeros((2, 1)), "U_l0": U}
    starts = np.random.default_rng(0).uniform(0.5, 2, size=(1, 9, 2))
    found = fixed_points(layer, (starts,), distance=1e-9)
    h = found.state.h[0]
    assert h.shape == (9, 2)
    np.testing.assert_allclose(h[:, 0], h[:, 1], atol=1e-9)
    np.testing.assert_allclose(np.sort(h[:, 0]), np.sort(starts[0].mean(axis=1)), atol=1e-6)
    np.testing.assert_allclose(found.eigenvalues, [[1, 0]] * 9, atol=1e-12)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)
@pytest.mark.parametrize("layers", [1, 2])
def test_of_every_cell(row: Any, layers: int) -> None:
    layer = xrnn.Layer(row.cell, I, H, layers, dtype="float64", rng=0, init="uniform")
    x = np.random.default_rng(1).normal(size=I)
    found = fixed_points(layer, starts_of(layer, 6), x)
    n = len(found.speed)
    assert n > 0
    after = layer.step(np.stack([x] * n), found.state)[1]
    for s, new in zip(found.state, after, strict=True):
        np.testing.assert_allclose(new, s, atol=1e-10)
    assert np.array_equal(found.stable, (abs(found.eigenvalues) < 1).all(axis=1))
    assert (np.diff(abs(found.eigenvalues), axis=1) <= 1e-12).all()
    if layers == 1:
        tape = layer.forward(np.stack([x] * n)[None], found.state)[2]
        own = jacobian(tape, -1, of=None, by=None)
        np.testing.assert_allclose(found.jacobian, own, atol=1e-12)


def test_in_every_library_and_dtype(device: str) -> None:
    backend = get(device)
    kinds: Any = ("float64", "float32")
    for dtype in kinds:
        layer = xrnn.LSTM(I, (H, 2), 2, dtype=dtype, rng=0, device=device, batch_first=True)
        found = fixed_points(layer, starts_of(layer, 3), backend.from_host(np.ones(I, dtype)))
        assert all(type(a) is np.ndarray for a in (*found.state.h, found.jacobian))
        assert found.jacobian.dtype == "float64"
        assert found.jacobian.shape[1:] == (12, 12)


def test_points_that_are_near_are_one() -> None:
    layer = xrnn.GRU(I, H, dtype="float64", rng=0)
    starts = starts_of(layer, 12)
    assert len(fixed_points(layer, starts, distance=100.0).speed) == 1
    few = fixed_points(layer, starts, iterations=1, tolerance=1e-12)
    assert few.count.sum() < 12
    assert few.state.h.shape == (1, len(few.speed), H)
    assert few.jacobian.shape == (len(few.speed), H, H)


def test_what_is_refused() -> None:
    layer: Any = xrnn.GRU(I, H, dtype="float64")
    linear: Any = xrnn.Linear(I, H)
    starts = starts_of(layer, 2)
    with pytest.raises(TypeError, match="layer is a Linear; it must be a recurrent layer"):
        fixed_points(linear, starts)
    for word in ("reverse", "bidirectional"):
        how: Any = {word: True}
        other = xrnn.GRU(I, H, dtype="float64", **how)
        with pytest.raises(ValueError, match=f"a {word} layer has no fixed points; make one"):
            fixed_points(other, starts)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3\); it must be \(I,\) = \(3,\)"):
        fixed_points(layer, starts, np.ones((1, I)))
    with pytest.raises(ValueError, match="gru: starts hold no array of states; they must be as"):
        fixed_points(layer, (None,))
    with pytest.raises(ValueError, match=r"state h has shape \(2, 2, 4\); it must be"):
        fixed_points(layer, (np.ones((2, 2, H)),))
    with pytest.raises(ValueError, match="fixed_points: tolerance is 0; it must be > 0"):
        fixed_points(layer, starts, tolerance=0)
    with pytest.raises(ValueError, match="fixed_points: iterations is 0; it must be"):
        fixed_points(layer, starts, iterations=0)
