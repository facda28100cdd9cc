"""The losses at the edges of dtypes: masked classes, 16 bits, small integers, many classes."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from test_precision import halves

from xrnn.backends import get
from xrnn.learn.losses import softmax_cross_entropy, softmax_jacobian, squared_error
from xrnn.recurrence import cross_entropy as plain
from xrnn.typing import dtype_name

RNG = np.random.default_rng(0)
INF = math.inf
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def results(device: str, *given: Any) -> tuple[float, Any]:
    """Loss and gradient on the host; nothing signals a floating-point warning."""
    put, host = get(device).from_host, get(device).to_host
    arrays = [None if a is None else put(np.asarray(a)) for a in given]
    with np.errstate(all="raise"):
        loss, gradient = softmax_cross_entropy(*arrays)
    return float(loss), host(gradient)


def test_masked_classes(device: str) -> None:
    expected, slope = results(device, [[1.0, 2.0]], [0])
    for targets in ([0], [[1.0, 0.0, 0.0]]):
        loss, gradient = results(device, [[1.0, 2.0, -INF]], targets)
        assert loss == pytest.approx(1.3132617)
        assert loss == pytest.approx(expected)
        np.testing.assert_allclose(gradient, [[*slope[0], 0]], rtol=1e-12)
        assert gradient[0, 2] == 0


def test_a_masked_class_as_target(device: str) -> None:
    for targets in ([2], [[0.0, 0.0, 1.0]]):
        loss, gradient = results(device, [[1.0, 2.0, -INF]], targets)
        assert loss == INF
        np.testing.assert_allclose(gradient, [[0.2689414, 0.7310586, -1]], rtol=1e-6)
        loss, gradient = results(device, [[-INF] * 3], targets)
        assert loss == INF
        assert gradient.tolist() == [[0, 0, -1]]


@pytest.mark.parametrize("bad", [INF, math.nan])
def test_what_has_diverged_is_nan_in_its_row_alone(bad: float, device: str) -> None:
    for targets in ([0, 1], [[1.0, 0, 0], [0, 1.0, 0]]):
        loss, gradient = results(device, [[1.0, 2.0, bad], [1, 2, 3]], targets)
        assert math.isnan(loss)
        assert np.isnan(gradient[0]).all()
        assert np.isfinite(gradient[1]).all()


def test_positions_that_do_not_count_may_hold_anything(device: str) -> None:
    rows = [[1.0, 2.0, 3.0], [math.nan] * 3, [INF] * 3, [-INF] * 3, [0, INF, -INF]]
    mask = [True, False, False, False, False]
    soft = [[0.2, 0.3, 0.5], [math.nan] * 3, [INF] * 3, [1, 2, 3], [-INF] * 3]
    for targets in ([0, 99, -1, 1, 2], soft):
        loss, gradient = results(device, rows, targets, mask)
        alone, slope = results(device, rows[:1], targets[:1])
        assert loss == pytest.approx(alone)
        np.testing.assert_allclose(gradient[0], slope[0], rtol=1e-12)
        assert (gradient[1:] == 0).all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_classes_of_every_integer_dtype(dtype: str, device: str) -> None:
    classes = np.array([5, 7], dtype)
    loss, gradient = results(device, np.zeros((2, 300)), classes)
    assert loss == pytest.approx(math.log(300))
    assert np.argwhere(gradient < 0).tolist() == [[0, 5], [1, 7]]
    with pytest.raises(ValueError, match="targets go from 5 to 7; they must lie in 0…V−1 = 0…6"):
        results(device, np.zeros((2, 7)), classes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_means_of_half_precision(dtype: str, device: str) -> None:
    backend = get(device)
    ys = halves(np.ones((100, 64, 32)), dtype, device)
    loss, gradient = squared_error(ys, ys * 0)
    assert float(loss) == 1
    assert dtype_name(loss.dtype) == "float32"
    assert gradient.dtype == ys.dtype
    found = backend.to_host(gradient).astype("float64")
    np.testing.assert_allclose(found, 2 / 204800, rtol=5e-3)
    for shape in ((65536, 4), (2, 70000)):
        logits = halves(np.zeros(shape), dtype, device)
        for mask in (None, backend.from_host(np.ones(shape[:1], bool))):
            classes = backend.from_host(np.ones(shape[0], int))
            loss, gradient = softmax_cross_entropy(logits, classes, mask)
            assert float(loss) == pytest.approx(math.log(shape[1]), rel=1e-5)
            assert dtype_name(loss.dtype) == "float32"
            assert gradient.dtype == logits.dtype
            slope = backend.to_host(gradient)[:, 1].astype("float64")
            np.testing.assert_allclose(slope, (1 / shape[1] - 1) / shape[0], rtol=5e-3)


def test_finite_data_signals_no_warning() -> None:
    with np.errstate(all="ignore"):
        logits = (RNG.normal(size=(5, 40)) * [[1e4], [1e3], [1], [1e-30], [1e-40]]).astype("f4")
        tiny = np.full((5, 40), 1e-40, "f4")
    half = np.float16(RNG.normal(size=(5, 40)) * 1e-6)
    with np.errstate(all="raise"):
        for targets in (np.arange(5), tiny):
            assert np.isfinite(softmax_cross_entropy(logits, targets)[0])
        assert np.isfinite(squared_error(tiny, tiny * 0 + 1)[1]).all()
        assert squared_error(tiny, tiny * 0)[0] == 0
        softmax_jacobian(np.full((2, 3), 1e-30, "f4"))
        softmax_cross_entropy(half, np.arange(5))
        squared_error(half, half)


def reordered(shape: tuple[int, ...]) -> Any:
    """Numbers whose strides do not allow one axis of positions."""
    return np.asarray(RNG.normal(size=shape[::-1])).T


@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 4, 5), (3, 700, 5), (2, 3, 140000)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_blocks_change_nothing(
    shape: tuple[int, ...], masked: bool, soft: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shape[-1] > 1000 and device != "cpu":
        pytest.skip("large sizes are for the backend that starts threads")
    backend = get(device)
    monkeypatch.setattr(plain, "BLOCK", 1000)
    logits = reordered(shape)
    targets = reordered(shape) if soft else RNG.integers(0, shape[-1], shape[:-1])
    mask = RNG.random(shape[:-1]) < 0.5 if masked else None
    put = [None if a is None else backend.from_host(np.asarray(a)) for a in (targets, mask)]
    loss, gradient = softmax_cross_entropy(backend.from_host(logits), *put)
    whole, slope = plain.cross_entropy(logits, targets, mask, xp=np, block=2**30)
    np.testing.assert_allclose(float(loss), whole, rtol=1e-11)
    np.testing.assert_allclose(backend.to_host(gradient), slope, rtol=1e-11, atol=1e-18)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["classes", "mask", "distribution"])
def test_memory(kind: str, dtype: str) -> None:
    logits = RNG.normal(size=(32, 2**16)).astype(dtype)
    targets: Any = np.zeros(32, int)
    if kind == "distribution":
        targets = np.full(logits.shape, 2.0**-16, dtype)
    mask = np.arange(32) % 2 == 0 if kind == "mask" else None
    tracemalloc.start()
    softmax_cross_entropy(logits, targets, mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 2.5 * logits.nbytes


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: squared_error(np.ones(3), np.ones(3) * 1j), TypeError, "targets are complex128"),
        (lambda: softmax_cross_entropy(np.ones(3), np.ones(3) * 1j), TypeError, "targets are comp"),
        (lambda: softmax_cross_entropy(np.ones(()), np.array(0)), ValueError, "logits has shape "),
        (lambda: softmax_cross_entropy(np.ones((2, 0)), np.zeros(2, int)), ValueError, "logits ha"),
        (lambda: softmax_cross_entropy(np.ones(3), np.ones(3, bool)[0]), ValueError, "targets has"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)
