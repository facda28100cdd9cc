"""Squared error, Huber's loss, quantiles, binary cross-entropy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_losses import numeric
from test_precision import halves

from xrnn.backends import get
from xrnn.learn import losses
from xrnn.typing import dtype_name

T, B, O = 4, 3, 2
RNG = np.random.default_rng(0)
YS = 2 * RNG.normal(size=(T, B, O))
TARGETS = RNG.normal(size=(T, B, O))
PARTS = RNG.random((T, B, O))
MASK = RNG.random((T, B)) < 0.7
LENGTHS = [4, 0, 2]
REDUCTIONS = ("mean", "sum", "none")


def sigmoid(y: Any) -> Any:
    return 1 / (1 + np.exp(-y))


def _binary(y: Any, t: Any, p: Any) -> Any:
    return -p * t * np.log(sigmoid(y)) - (1 - t) * np.log(1 - sigmoid(y))


#: name → the function with its options, targets, and the definition of each loss
CASES: dict[str, tuple[Any, dict[str, Any], Any, Any]] = {
    "squared": (losses.squared_error, {}, TARGETS, lambda y, t: (y - t) ** 2),
    "huber": (
        losses.huber,
        {"delta": 0.7},
        TARGETS,
        lambda y, t: np.where(abs(y - t) <= 0.7, (y - t) ** 2 / 2, 0.7 * (abs(y - t) - 0.7 / 2)),
    ),
    "quantile": (
        losses.quantile,
        {"level": 0.8},
        TARGETS,
        lambda y, t: np.maximum(0.8 * (t - y), -0.2 * (t - y)),
    ),
    "quantiles": (
        losses.quantile,
        {"level": (0.1, 0.7)},
        TARGETS,
        lambda y, t: np.maximum(np.array([0.1, 0.7]) * (t - y), np.array([-0.9, -0.3]) * (t - y)),
    ),
    "binary": (losses.binary_cross_entropy, {}, PARTS, lambda y, t: _binary(y, t, 1)),
    "weighted": (
        losses.binary_cross_entropy,
        {"pos_weight": np.array([2.0, 0.5])},
        PARTS,
        lambda y, t: _binary(y, t, np.array([2.0, 0.5])),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any], Any, Any]:
    return CASES[request.param]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_values_and_gradients(reduction: str, case: Any, device: str) -> None:
    loss_of, options, targets, define = case
    put, host = get(device).from_host, get(device).to_host
    counted = (MASK & (np.arange(T)[:, None] < np.array(LENGTHS)))[..., None]

    def expected(y: Any) -> Any:
        each = np.where(counted, define(y, targets), 0)
        total = each.sum() / (counted.sum() * O) if reduction == "mean" else each.sum()
        return each if reduction == "none" else total

    # What does not count may be NaN.
    ys, ts = (np.where(counted, a, math.nan) for a in (YS, targets))
    loss, dys = loss_of(
        put(ys), put(ts), put(MASK), lengths=LENGTHS, reduction=reduction, **options
    )
    np.testing.assert_allclose(host(loss), expected(YS), rtol=1e-12)
    slope = numeric(lambda y: expected(y).sum(), YS)
    np.testing.assert_allclose(host(dys), slope, atol=1e-8)
    assert not host(dys)[~counted[..., 0]].any()


@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_are_a_mask(batch_first: bool, case: Any, device: str) -> None:
    loss_of, options, targets, _ = case
    put, host = get(device).from_host, get(device).to_host
    order = (1, 0, 2) if batch_first else (0, 1, 2)
    inside = np.arange(T)[:, None] < np.array(LENGTHS)
    given = [put(a.transpose(order)) for a in (YS, targets)]
    found = loss_of(*given, lengths=LENGTHS, batch_first=batch_first, **options)
    known = loss_of(YS, targets, inside, **options)
    np.testing.assert_allclose(float(found[0]), float(known[0]), rtol=1e-13)
    np.testing.assert_allclose(host(found[1]).transpose(order), known[1], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_counts(reduction: str, case: Any, device: str) -> None:
    loss_of, options, _, _ = case
    put, host = get(device).from_host, get(device).to_host
    for shape, how in (((4, 3, O), {"lengths": [0, 0, 0]}), ((0, 3, O), {}), ((0, O), {})):
        nan = put(np.full(shape, math.nan))
        loss, dys = loss_of(nan, nan, reduction=reduction, **how, **options)
        assert host(loss).shape == (shape if reduction == "none" else ())
        assert not host(loss).any()
        assert host(dys).shape == shape
        assert not host(dys).any()


def test_one_position(case: Any, device: str) -> None:
    loss_of, options, targets, define = case
    put, host = get(device).from_host, get(device).to_host
    loss, dys = loss_of(put(YS[0, 0]), put(targets[0, 0]), **options)
    np.testing.assert_allclose(float(loss), define(YS[0, 0], targets[0, 0]).mean())
    assert host(dys).shape == (O,)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, case: Any, device: str) -> None:
    loss_of, options, targets, _ = case
    host = get(device).to_host
    for reduction in REDUCTIONS:
        # Of more numbers than float16 can count.
        copies = 1 if reduction == "none" else 65536 // YS.size + 1
        ys, ts = (halves(np.repeat(a, copies, axis=0), dtype, device) for a in (YS, targets))
        exact = [host(a).astype("float64") for a in (ys, ts)]
        loss, dys = loss_of(ys, ts, reduction=reduction, **options)
        expected, slope = loss_of(*exact, reduction=reduction, **options)
        assert dtype_name(loss.dtype) == "float32"
        assert dys.dtype == ys.dtype
        np.testing.assert_allclose(host(loss), expected, rtol=1e-5, atol=1e-7)
        if reduction != "mean":  # the mean of so many is below the least float16
            np.testing.assert_allclose(host(dys).astype("f8"), slope, rtol=8e-3, atol=1e-6)


def test_what_has_diverged_is_nan(case: Any, device: str) -> None:
    loss_of, options, targets, _ = case
    put, host = get(device).from_host, get(device).to_host
    ys = YS.copy()
    ys[1, 2] = math.nan
    loss, dys = loss_of(put(ys), put(targets), reduction="none", **options)
    bad = np.isnan(YS)
    bad[1, 2] = True
    np.testing.assert_array_equal(np.isnan(host(loss)), bad)
    np.testing.assert_array_equal(np.isnan(host(dys)), bad)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_against_torch(reduction: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    F, weight = torch.nn.functional, np.array([2.0, 0.5])
    pairs: tuple[tuple[Any, Any, Any], ...] = (
        (losses.huber, lambda *a: F.huber_loss(*a, delta=1.0, reduction=reduction), TARGETS),
        (losses.squared_error, lambda *a: F.mse_loss(*a, reduction=reduction), TARGETS),
        (
            lambda *a, **how: losses.binary_cross_entropy(*a, pos_weight=weight, **how),
            lambda *a: F.binary_cross_entropy_with_logits(
                *a, pos_weight=torch.tensor(weight), reduction=reduction
            ),
            PARTS,
        ),
    )
    for found, theirs, targets in pairs:
        y = torch.tensor(YS, requires_grad=True)
        expected = theirs(y, torch.tensor(targets))
        expected.sum().backward()
        loss, dys = found(YS, targets, reduction=reduction)
        np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(dys, y.grad.numpy(), rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_of_large_logits(dtype: str, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    y = put(np.array([1e4, -1e4, 1e4, -1e4, 50, -50], dtype))
    t = put(np.array([True, False, False, True, True, False]))
    with np.errstate(all="raise"):
        loss, dlogits = losses.binary_cross_entropy(y, t, reduction="none")
    small = math.exp(-50)
    np.testing.assert_allclose(host(loss), [0, 0, 1e4, 1e4, small, small], rtol=1e-6)
    np.testing.assert_allclose(host(dlogits), [0, 0, 1, -1, -small, small], rtol=1e-6)


def test_at_the_kinks(device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    zero = put(np.zeros(3))
    loss, dys = losses.quantile(zero, zero, level=0.9, reduction="none")
    assert not host(loss).any()
    assert not host(dys).any()
    loss, dys = losses.huber(put(np.array([2.0, -2, 1e200])), zero, delta=2, reduction="none")
    np.testing.assert_allclose(host(loss), [2, 2, 2e200])
    assert host(dys).tolist() == [2, -2, 2]


def test_levels_and_weights_of_any_library() -> None:
    for numbers in (np.array([0.1, 0.7]), [0.1, 0.7], np.array([0.1, 0.7], "f4")):
        loss, _ = losses.quantile(YS, TARGETS, level=numbers)
        known, _ = losses.quantile(YS, TARGETS, level=(0.1, 0.7))
        assert float(loss) == pytest.approx(float(known), rel=1e-7)
    assert losses.quantile(YS, TARGETS, level=np.array(0.5))[0] * 2 == pytest.approx(
        abs(YS - TARGETS).mean()
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: losses.huber(YS, TARGETS, delta=0), ValueError, "delta is 0; it must be > 0 and"),
        (lambda: losses.huber(YS, TARGETS[0]), ValueError, "targets has shape (3, 2); it must be"),
        (lambda: losses.huber(YS, TARGETS * 1j), TypeError, "targets are complex128; they must"),
        (lambda: losses.huber(YS, TARGETS, MASK[0]), ValueError, "mask has shape (3,) and dtype"),
        (lambda: losses.quantile(YS, TARGETS, level=1), ValueError, "level is 1; it must be in (0"),
        (lambda: losses.quantile(YS, TARGETS, level=[0.1]), ValueError, "level has shape (1,) and"),
        (
            lambda: losses.quantile(YS, TARGETS, level=(0.1, 2)),
            ValueError,
            "level[1] is np.float64(2.0); it must be in (0, 1)",
        ),
        (
            lambda: losses.binary_cross_entropy(YS, PARTS, pos_weight=-1),
            ValueError,
            "pos_weight is -1; it must be ≥ 0 and finite",
        ),
        (
            lambda: losses.binary_cross_entropy(YS.astype(int), PARTS),
            TypeError,
            "logits is int64; it must be real floating point",
        ),
        (
            lambda: losses.squared_error(YS, TARGETS, reduction="max"),  # type: ignore[arg-type]
            ValueError,
            "loss: reduction is 'max'; it must be 'mean' or 'sum' or 'none'",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)
