"""The option precision="bf16": what it means in each library, and where it is refused."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get
from xrnn.backends.cpu.extension import ABSENT
from xrnn.recurrence.bfloat16 import nearest

LAYERS = (xrnn.RNN, xrnn.LSTM, xrnn.GRU, xrnn.InputGatedLSTM)
native = pytest.mark.skipif(bool(ABSENT), reason=ABSENT)


def noise(*shape: int) -> Any:
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


def test_nearest_is_what_libraries_with_bfloat16_round_to() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint64)
    a = bits.astype(np.uint32).view("float32")
    a = a[np.isfinite(a)]
    with np.errstate(over="ignore"):
        found, expected = nearest(a, xp=np), a.astype(ml_dtypes.bfloat16).astype("float32")
    expected[abs(a) < 2.0**-126] *= 0
    assert found.tobytes() == expected.tobytes()
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 3.4e38, -1e-40], "float32")
    with np.errstate(over="ignore"):
        rounded = nearest(special, xp=np)
    np.testing.assert_array_equal(rounded, [np.inf, -np.inf, np.nan, 0, 0, np.inf, 0])
    assert np.signbit(rounded[[4, 6]]).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_it_rounds_what_products_multiply(kind: Any) -> None:
    """By about 2^-9 of it, and rounding it before is the same."""
    layer, other = kind(5, 7, precision="bf16", rng=0), kind(5, 7, rng=0)
    xs = noise(1, 3, 5)
    found, exact = layer(xs)[0], other(xs)[0]
    assert 1e-5 < abs(found - exact).max() < 2e-2
    other.weights = {k: nearest(w, xp=np) if w.ndim > 1 else w for k, w in other.weights.items()}
    np.testing.assert_allclose(other(nearest(xs, xp=np))[0], found, atol=1e-6)


@pytest.mark.parametrize("device", ["torch", "jax"])
@pytest.mark.parametrize("kind", LAYERS)
def test_it_means_the_same_in_other_libraries(kind: Any, device: str) -> None:
    """Rounding may decide otherwise where sums differ in their last bits: here it does not."""
    pytest.importorskip(device)
    backend, xs = get(device), noise(4, 3, 5)
    here, there = (
        kind(5, 7, precision="bf16", rng=0),
        kind(5, 7, precision="bf16", rng=0, device=device),
    )
    assert there.path((4, 3, 5)) == {"_l0": "the cell as written, products of bfloat16"}
    ys, _, tape = here.forward(xs)
    found, _, twin = there.forward(backend.from_host(xs))
    np.testing.assert_allclose(backend.to_host(found), ys, atol=1e-6)
    expected, gradients = here.backward(tape, ys)[2], there.backward(twin, found)[2]
    for name, d in expected.items():
        np.testing.assert_allclose(backend.to_host(gradients[name]), d, atol=1e-5)


def test_a_library_that_multiplies_its_own_arrays_alone_is_refused() -> None:
    strict = pytest.importorskip("array_api_strict")
    layer = xrnn.LSTM(3, 4, device="array_api_strict", precision="bf16")
    with pytest.raises(
        TypeError, match="precision is 'bf16' and the arrays are of array_api_strict"
    ):
        layer(strict.asarray(noise(4, 2, 3)))


@native
def test_its_path() -> None:
    layer = xrnn.GRU(3, 5, precision="bf16")
    (path,) = layer.path((4, 2, 3)).values()
    assert path.startswith("native loop, ")
    assert path.endswith(", products of bfloat16")
    layer.precision = "ieee"
    assert "bfloat16" not in layer.path((4, 2, 3))["_l0"]
    own = xrnn.Layer(replace(xrnn.cells.GRU), 3, 5, precision="bf16")
    assert own.path((4, 2, 3)) == {"_l0": "the cell as written, products of bfloat16"}


@native
@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_bits_however_it_is_run(kind: Any, tmp_path: Path) -> None:
    layer = kind(5, 33, num_layers=2, bidirectional=True, precision="bf16", rng=0)
    xs, lengths = noise(6, 3, 5), [6, 2, 0]
    ys, _, tape = layer.forward(xs, None, lengths)
    expected = layer.backward(tape, ys)[2]
    checked = layer.forward(xs, None, lengths, checkpoint=2)[2]
    for name, d in layer.backward(checked, ys)[2].items():
        np.testing.assert_array_equal(d, expected[name])
    xrnn.save(tmp_path / "layer", layer)
    others = (xrnn.load(tmp_path / "layer"), copy.copy(layer).freeze())
    for other in (*others, pickle.loads(pickle.dumps(layer))):
        assert other.precision == "bf16"
        np.testing.assert_array_equal(other(xs, None, lengths)[0], ys)
    one = kind(5, 33, precision="bf16", rng=0)
    state, whole = None, one(xs)[0]
    for t in range(6):
        y, state = one.step(xs[t], state)
        np.testing.assert_array_equal(y, whole[t])


def test_gradients_for_each_sequence_add_up() -> None:
    layer, xs = xrnn.LSTM(5, 7, precision="bf16", rng=0), noise(4, 3, 5)
    ys, _, tape = layer.forward(xs)
    whole = layer.backward(tape, ys)[2]
    each = layer.backward(tape, ys, per_sample="gradients")[2]
    for name, d in whole.items():
        np.testing.assert_allclose(each[name].sum(axis=0), d, atol=1e-5)


def test_empty_inputs() -> None:
    layer = xrnn.LSTM(5, 7, precision="bf16")
    for T, B in ((0, 2), (3, 0)):
        ys, _, tape = layer.forward(noise(T, B, 5))
        assert not any(d.any() for d in layer.backward(tape, ys)[2].values())


@pytest.mark.parametrize("dtype", ["float64", "float16", "complex64"])
def test_it_is_for_float32_alone(dtype: Any) -> None:
    with pytest.raises(
        ValueError, match=f"lstm: precision is 'bf16' and the dtype is {dtype}; with"
    ):
        xrnn.LSTM(3, 4, dtype=dtype, precision="bf16")
    layer = xrnn.LSTM(3, 4, dtype=dtype)
    with pytest.raises(ValueError, match="the dtype must be float32"):
        layer.precision = "bf16"
    weights = {k: w.astype(dtype) for k, w in zip("WUb", layer.weights.values(), strict=True)}
    with pytest.raises(ValueError, match="the dtype must be float32"):
        xrnn.unroll(xrnn.cells.LSTM, weights, np.zeros((2, 1, 3), dtype), precision="bf16")


def test_inside_jax_it_is_refused() -> None:
    jax = pytest.importorskip("jax")
    from xrnn.adapters.jax import apply

    layer = xrnn.GRU(3, 5, device="jax", precision="bf16")
    with pytest.raises(ValueError, match="gru: precision is 'bf16'; it must be 'ieee' here"):
        apply(layer, dict(layer.weights), jax.numpy.zeros((2, 1, 3)))
    for weights in ("int8", "bfloat16"):
        frozen = xrnn.GRU(3, 5).freeze(weights=weights)
        with pytest.raises(ValueError, match=f"gru: the layer is frozen with weights of {weights}"):
            apply(frozen, dict(frozen.weights), jax.numpy.zeros((2, 1, 3)))
