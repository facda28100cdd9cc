"""Connectionist temporal classification: all alignments by hand, PyTorch, and edges."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from test_losses import numeric
from test_precision import halves

from xrnn.backends import get
from xrnn.learn.losses import ctc
from xrnn.typing import dtype_name

RNG = np.random.default_rng(0)
REDUCTIONS = ("mean", "sum", "none")

# Wrong arguments are given here, which a type checker would refuse.
loss_of: Any = ctc


def spelt(alignment: tuple[int, ...], blank: int) -> list[int]:
    """An alignment without repetitions, and then without blanks."""
    return [symbol for symbol, _ in itertools.groupby(alignment) if symbol != blank]


def by_hand(y: Any, target: list[int], blank: int) -> float:
    """The loss of one sequence (T, V), a sum over all V^T alignments."""
    p = np.exp(y) / np.exp(y).sum(-1, keepdims=True)
    total = 0.0
    for alignment in itertools.product(range(y.shape[1]), repeat=len(y)):
        if spelt(alignment, blank) == target:
            total += float(np.prod(p[np.arange(len(y)), list(alignment)]))
    return -math.log(total) if total else math.inf


@pytest.mark.parametrize(
    ("target", "blank"),
    [
        ([], 0),
        ([0], 1),
        ([0, 1], 0),
        ([0, 0], 2),
        ([1, 1, 0], 1),
        ([0, 0, 0], 0),
        ([0, 1, 0, 1], 2),
    ],
)
def test_all_alignments(target: list[int], blank: int, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    symbols = [k + (k >= blank) for k in target]
    for T in (0, 1, 4):
        y = RNG.normal(size=(T, 3))
        with np.errstate(all="raise"):
            loss, dlogits = ctc(put(y), put(np.array(symbols, int)), blank=blank, reduction="sum")
        expected = by_hand(y, symbols, blank)
        assert float(loss) == pytest.approx(expected, rel=1e-12)
        slope = numeric(lambda y: by_hand(y, symbols, blank), y) if expected < math.inf else 0 * y
        np.testing.assert_allclose(host(dlogits), slope, atol=1e-8)


def batch(dtype: str = "float64", blank: int = 2) -> tuple[Any, Any, list[int], list[int]]:
    """Logits (9, 5, 4), targets, lengths and target lengths; the fourth has no alignment."""
    y = (2 * RNG.normal(size=(9, 5, 4))).astype(dtype)
    targets = RNG.integers(0, 3, (5, 4))
    targets[3] = 0
    return y, targets + (targets >= blank), [9, 5, 7, 5, 0], [4, 0, 2, 4, 0]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_against_torch(dtype: str, reduction: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    y, targets, lengths, sizes = batch(dtype)
    there = torch.tensor(y, requires_grad=True)
    theirs = torch.nn.functional.ctc_loss(
        torch.log_softmax(there, -1),
        *map(torch.tensor, (targets, lengths, sizes)),
        blank=2,
        reduction=reduction,
        zero_infinity=True,
    )
    theirs.sum().backward()
    loss, dlogits = loss_of(
        y, targets, lengths, sizes, blank=2, reduction=reduction, zero_infinity=True
    )
    accuracy = 1e-12 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=accuracy)
    np.testing.assert_allclose(dlogits, there.grad.numpy(), atol=accuracy)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_batch_is_its_sequences(batch_first: bool, reduction: str, device: str) -> None:
    """What lies past the ends may be anything, and its gradient is 0."""
    put, host = get(device).from_host, get(device).to_host
    y, targets, lengths, sizes = batch()
    wild, odd = y.copy(), targets.copy()
    for b, (n, size) in enumerate(zip(lengths, sizes, strict=True)):
        wild[n:, b], odd[b, size:] = math.nan, 99
    order = (1, 0, 2) if batch_first else (0, 1, 2)
    loss, dlogits = loss_of(
        put(wild.transpose(order)),
        put(odd),
        put(np.array(lengths)),
        sizes,
        blank=2,
        batch_first=batch_first,
        reduction=reduction,
    )
    each, slopes = [], np.zeros_like(y)
    for b, (n, size) in enumerate(zip(lengths, sizes, strict=True)):
        one, d = loss_of(y[:n, b], targets[b, :size], blank=2, reduction="sum")
        share = 1 / (5 * max(1, size)) if reduction == "mean" else 1
        each.append(float(one) * share)
        slopes[:n, b] = d * share
    np.testing.assert_allclose(host(loss), each if reduction == "none" else sum(each), rtol=1e-12)
    assert each[3] == math.inf
    np.testing.assert_allclose(host(dlogits).transpose(order), slopes, rtol=1e-9, atol=1e-15)
    for b, n in enumerate(lengths):
        assert not host(dlogits).transpose(order)[n:, b].any()


def test_no_alignment(device: str) -> None:
    """inf and no gradient, or 0."""
    put, host = get(device).from_host, get(device).to_host
    y, targets = put(RNG.normal(size=(3, 1, 3))), put(np.array([[1, 1, 2]]))
    for zero_infinity, expected in ((False, math.inf), (True, 0)):
        loss, dlogits = ctc(y, targets, zero_infinity=zero_infinity)
        assert float(loss) == expected
        assert not host(dlogits).any()
    masked = RNG.normal(size=(4, 1, 3))
    masked[:, :, 1] = -math.inf
    loss, dlogits = ctc(put(masked), targets)
    assert float(loss) == math.inf
    assert not host(dlogits).any()
    loss, dlogits = ctc(put(masked), put(np.array([[2]])))
    assert float(loss) == pytest.approx(by_hand(masked[:, 0], [2], 0))
    assert (host(dlogits)[..., 1] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_has_diverged_is_nan_in_its_sequence_alone(bad: float, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    y, targets, lengths, sizes = batch()
    y[2, 0, 1] = bad
    loss, dlogits = loss_of(put(y), put(targets), lengths, sizes, blank=2, reduction="none")
    assert np.isnan(host(loss)).tolist() == [True, *[False] * 4]
    assert np.isfinite(host(dlogits)[:, 1:]).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_at_all(reduction: str, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    for shape in ((4, 0, 3), (0, 0, 3)):
        given = put(np.zeros(shape, "float32")), put(np.zeros((0, 2), int))
        loss, dlogits = loss_of(*given, reduction=reduction)
        assert host(loss).shape == ((0,) if reduction == "none" else ())
        assert not host(loss).any()
        assert tuple(dlogits.shape) == shape
        assert dtype_name(loss.dtype) == "float32"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, device: str) -> None:
    y, targets, *lengths = batch()
    put, host = get(device).from_host, get(device).to_host
    given = halves(y, dtype, device)
    for reduction in REDUCTIONS:
        how: dict[str, Any] = {"blank": 2, "zero_infinity": True, "reduction": reduction}
        loss, dlogits = loss_of(given, put(targets), *lengths, **how)
        expected, slope = loss_of(host(given).astype("f8"), targets, *lengths, **how)
        assert dtype_name(loss.dtype) == "float32"
        assert dlogits.dtype == given.dtype
        np.testing.assert_allclose(host(loss), expected, rtol=1e-5)
        np.testing.assert_allclose(host(dlogits).astype("f8"), slope, rtol=8e-3, atol=1e-5)


def test_long_sequences_do_not_underflow() -> None:
    """The probability of one alignment is 10⁻³⁰⁰⁰."""
    y, targets = np.zeros((3000, 1, 10), "float32"), np.ones((1, 1), int)
    loss, dlogits = ctc(y, targets)
    # 3000 · 3001 / 2 runs of the symbol, of 10³⁰⁰⁰ sequences.
    assert float(loss) == pytest.approx(3000 * math.log(10) - math.log(3000 * 3001 / 2), rel=1e-5)
    assert np.isfinite(dlogits).all()


@pytest.mark.parametrize(
    ("given", "how", "error", "message"),
    [
        ((np.ones((4, 1, 3)), np.zeros((1, 2), int)), {}, ValueError, "targets hold a number that"),
        ((np.ones((4, 1, 3)), np.full((1, 2), 3)), {}, ValueError, "targets hold a number that is"),
        ((np.ones((4, 1, 3)), np.ones((2, 2), int)), {}, ValueError, "targets has shape (2, 2); "),
        ((np.ones((4, 1, 3)), np.ones((1, 2))), {}, TypeError, "targets are float64; they must be"),
        ((np.ones((4, 3), int), np.ones(2, int)), {}, TypeError, "logits is int64; it must be re"),
        ((np.ones(4), np.ones(2, int)), {}, ValueError, "logits has shape (4,); it must be (T, B"),
        ((np.ones((4, 1, 0)), np.ones((1, 2), int)), {}, ValueError, "logits has shape (4, 1, 0);"),
        (
            (np.ones((4, 3)), np.ones(2, int)),
            {"blank": 3},
            ValueError,
            "blank is 3; it must lie in",
        ),
        ((np.ones((4, 3)), np.ones(2, int)), {"blank": 1.0}, TypeError, "blank is 1.0; it must be"),
        (
            (np.ones((4, 3)), np.ones(2, int)),
            {"lengths": [4]},
            ValueError,
            "lengths are of a batch; cut the one sequence",
        ),
        (
            (np.ones((4, 1, 3)), np.ones((1, 2), int)),
            {"lengths": [5]},
            ValueError,
            "lengths go from 5 to 5; they must lie in 0…T = 0…4",
        ),
        (
            (np.ones((4, 1, 3)), np.ones((1, 2), int)),
            {"target_lengths": [3]},
            ValueError,
            "target_lengths go from 3 to 3; they must lie in 0…S = 0…2",
        ),
        (
            (np.ones((4, 1, 3)), np.ones((1, 2), int)),
            {"zero_infinity": 1},
            TypeError,
            "loss: zero_infinity is 1; it must be True or False",
        ),
    ],
)
def test_errors(given: Any, how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        loss_of(*given, **how)
    assert str(caught.value).startswith(message)
