"""The losses: value, gradient, what is ignored, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xrnn.backends import get
from xrnn.learn.losses import softmax_cross_entropy, softmax_jacobian, squared_error

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3, 5))
CLASSES = RNG.integers(0, 5, (4, 3))
SOFT = RNG.dirichlet(np.ones(5), (4, 3))
MASK = RNG.random((4, 3)) < 0.6


def numeric(loss: Callable[[Any], Any], x: Any) -> Any:
    """The gradient of loss by central differences, number by number."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        move = np.zeros_like(x)
        move[index] = 1e-6
        gradient[index] = (float(loss(x + move)) - float(loss(x - move))) / 2e-6
    return gradient


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
@pytest.mark.parametrize("targets", [CLASSES, SOFT, 2 * SOFT], ids=["classes", "soft", "sum 2"])
def test_cross_entropy(targets: Any, mask: Any, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    there = None if mask is None else put(mask)
    loss, dlogits = softmax_cross_entropy(put(LOGITS), put(targets), there)
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    hot = np.eye(5)[targets] if targets.ndim == 2 else targets
    each = -(hot * log_p).sum(-1)
    expected = each.mean() if mask is None else each[mask].mean()
    np.testing.assert_allclose(float(loss), expected, rtol=1e-13)
    slope = numeric(lambda y: softmax_cross_entropy(y, targets, mask)[0], LOGITS)
    np.testing.assert_allclose(host(dlogits), slope, atol=1e-9)
    if mask is not None:
        assert not host(dlogits)[~mask].any()


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
def test_squared_error(mask: Any, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    there = None if mask is None else put(mask)
    loss, dys = squared_error(put(LOGITS), put(SOFT), there)
    each = (LOGITS - SOFT) ** 2
    np.testing.assert_allclose(float(loss), each.mean() if mask is None else each[mask].mean())
    slope = numeric(lambda y: squared_error(y, SOFT, mask)[0], LOGITS)
    np.testing.assert_allclose(host(dys), slope, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_cross_entropy_of_huge_logits(size: float, dtype: str) -> None:
    logits = np.array([[size, 0.0, -size], [0.0, size, size]], dtype)
    loss, dlogits = softmax_cross_entropy(logits, np.array([0, 1]))
    first, second = (0.0, math.log(2)) if size > 0 else (2e4, 1e4)
    np.testing.assert_allclose(float(loss), (first + second) / 2, rtol=1e-6)
    assert np.isfinite(dlogits).all()
    assert loss.dtype == dlogits.dtype == dtype


def test_what_is_masked_is_not_read() -> None:
    logits, classes = LOGITS.copy(), CLASSES.copy()
    logits[~MASK], classes[~MASK] = np.nan, -100
    loss, dlogits = softmax_cross_entropy(logits, classes, MASK)
    np.testing.assert_array_equal(loss, softmax_cross_entropy(LOGITS, CLASSES, MASK)[0])
    assert np.isfinite(dlogits).all()
    wild = SOFT.copy()
    wild[~MASK] = np.inf
    np.testing.assert_array_equal(
        squared_error(LOGITS, wild, MASK)[1], squared_error(LOGITS, SOFT, MASK)[1]
    )


def test_nothing_counts() -> None:
    nothing = np.zeros((4, 3), bool)
    for loss, gradient in (
        softmax_cross_entropy(LOGITS, CLASSES, nothing),
        squared_error(LOGITS, SOFT, nothing),
        softmax_cross_entropy(LOGITS[:0], CLASSES[:0]),
    ):
        assert float(loss) == 0
        assert not gradient.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: softmax_cross_entropy(LOGITS, CLASSES[:2]), "targets has shape (2, 3); it must"),
        (lambda: softmax_cross_entropy(LOGITS, SOFT[..., :2]), "targets has shape (4, 3, 2); it"),
        (lambda: softmax_cross_entropy(LOGITS, CLASSES + 5), "targets go from 5 to 9; they must"),
        (lambda: softmax_cross_entropy(LOGITS, -CLASSES - 1), "targets go from -5 to -1; they"),
        (lambda: softmax_cross_entropy(LOGITS, CLASSES, MASK[0]), "mask has shape (3,) and dtype"),
        (lambda: squared_error(LOGITS, SOFT, 1.0 * MASK), "mask has shape (4, 3) and dtype float"),
        (lambda: squared_error(LOGITS, SOFT[0]), "targets has shape (3, 5); it must be that of"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_softmax_jacobian_is_the_long_way_to_the_same_gradient(device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    P = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    J = host(softmax_jacobian(put(P)))
    assert J.shape == (4, 3, 5, 5)
    by_chain = np.einsum("tbi,tbij->tbj", -SOFT / P, J) / 12  # ∂L/∂P, then ∂P/∂y
    _, fused = softmax_cross_entropy(put(LOGITS), put(SOFT))
    np.testing.assert_allclose(by_chain, host(fused), rtol=1e-12, atol=1e-15)


def test_softmax_jacobian_refuses_a_number() -> None:
    with pytest.raises(ValueError, match=r"p has shape \(\); it must be \(…, V\)"):
        softmax_jacobian(np.array(0.5))
