"""Options of softmax cross-entropy: class weights, smoothing, what is ignored, reductions."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from test_losses import numeric
from test_precision import halves

from xrnn.backends import get
from xrnn.learn.losses import softmax_cross_entropy
from xrnn.recurrence import cross_entropy as plain
from xrnn.typing import dtype_name

# Wrong arguments are given here, which a type checker would refuse.
loss_of: Any = softmax_cross_entropy

T, B, V = 4, 3, 5
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(T, B, V))
CLASSES = RNG.integers(0, V, (T, B))
SOFT = RNG.dirichlet(np.ones(V), (T, B))
MASK = RNG.random((T, B)) < 0.7
WEIGHTS = np.array([0.5, 2, 0, 1, 3])
LENGTHS = [4, 0, 2]
REDUCTIONS = ("mean", "sum", "none")


def defined(y: Any, targets: Any, counted: Any, weights: Any, smoothing: float, how: str) -> Any:
    """The loss by its definition."""
    log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
    hard = targets.ndim < y.ndim
    q = np.eye(V)[targets] if hard else targets
    each = -(((1 - smoothing) * q + smoothing / V) * weights * log_p).sum(-1)
    each = np.where(counted, each, 0)
    if how == "mean":
        return each.sum() / ((weights[targets] if hard else np.ones((T, B))) * counted).sum()
    return each.sum() if how == "sum" else each


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_options(soft: bool, weighted: bool, smoothing: float, reduction: str, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    targets, inside = SOFT if soft else CLASSES, np.arange(T)[:, None] < np.array(LENGTHS)
    weights = WEIGHTS if weighted else np.ones(V)
    loss, dlogits = loss_of(
        put(LOGITS),
        put(targets),
        put(MASK),
        lengths=LENGTHS,
        class_weights=put(WEIGHTS) if weighted else None,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    how = (targets, MASK & inside, weights, smoothing, reduction)
    np.testing.assert_allclose(host(loss), defined(LOGITS, *how), rtol=1e-12)
    slope = numeric(lambda y: defined(y, *how).sum(), LOGITS)
    np.testing.assert_allclose(host(dlogits), slope, atol=2e-9)
    assert not host(dlogits)[~(MASK & inside)].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_against_torch(soft: bool, weighted: bool, smoothing: float, reduction: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    y = torch.tensor(LOGITS.reshape(-1, V), requires_grad=True)
    targets = SOFT.reshape(-1, V) if soft else np.where(MASK, CLASSES, 9).reshape(-1)
    weights = np.array([0.5, 2, 0.1, 1, 3]) if weighted else None
    theirs = torch.nn.functional.cross_entropy(
        y,
        torch.tensor(targets),
        None if weights is None else torch.tensor(weights),
        ignore_index=-100 if soft else 9,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    theirs.sum().backward()
    loss, dlogits = loss_of(
        LOGITS.reshape(-1, V),
        targets,
        class_weights=weights,
        label_smoothing=smoothing,
        ignore_index=None if soft else 9,
        reduction=reduction,
    )
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(dlogits, y.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_cpu_equals_the_plain_code(reduction: str, dtype: str, soft: bool) -> None:
    logits = (3 * RNG.normal(size=(700, 900))).astype(dtype)
    logits[:, 7] = -math.inf
    targets: Any = RNG.integers(8, 900, 700)
    if soft:
        targets = RNG.dirichlet(np.ones(900), 700)
        targets[:, 7] = 0
    counted, wide = RNG.random(700) < 0.7, np.result_type(dtype, "f4")
    weights = RNG.random(900).astype(wide)
    weights[[7, 9]] = 0
    for w, smoothing in itertools.product((None, weights), (0.0, 0.1)):
        how: dict[str, Any] = {"weights": w, "smoothing": smoothing, "reduction": reduction}
        with np.errstate(all="ignore"):
            found = get("cpu").cross_entropy(logits, targets, counted, xp=np, **how)
            known = plain.cross_entropy(logits, targets, counted, xp=np, **how)
        accuracy = {"float64": 1e-12, "float32": 1e-4, "float16": 2e-3}[dtype]
        for ours, reference in zip(found, known, strict=True):
            assert ours.dtype == reference.dtype
            np.testing.assert_allclose(ours, reference, rtol=accuracy, atol=1e-3 * accuracy)


@pytest.mark.parametrize("weighted", [False, True])
def test_smoothing_over_a_masked_class(weighted: bool, device: str) -> None:
    """Its share of the target makes the loss infinite, but for a weight of 0."""
    put, host = get(device).from_host, get(device).to_host
    logits = put(np.array([[1.0, 2, -math.inf], [-math.inf] * 3]))
    weights = [1, 1, 0] if weighted else None
    loss, dlogits = loss_of(
        logits,
        put(np.array([0, 2])),
        class_weights=weights,
        label_smoothing=0.1,
        reduction="none",
    )
    expected = 0.95 * math.log(1 + math.e) + 0.05 * math.log(1 + 1 / math.e)
    found = host(loss)
    scale = 0.9 + 0.1 / 3, 0.1 / 3
    expected = scale[0] * math.log(1 + math.e) + scale[1] * math.log(1 + 1 / math.e)
    np.testing.assert_allclose(found[0], expected if weighted else math.inf)
    assert found[1] == math.inf
    assert np.isfinite(host(dlogits)).all()
    assert host(dlogits)[0, 2] == (0 if weighted else pytest.approx(-0.1 / 3))


def test_a_target_of_weight_0_costs_nothing(device: str) -> None:
    """Not even where its class is masked."""
    put = get(device).from_host
    for targets in (np.array([2]), np.array([[0, 0, 1.0]])):
        for smoothing in (0.0, 1.0):
            weights = [0, 0, 0] if smoothing else [1, 1, 0]
            loss, dlogits = loss_of(
                put(np.array([[1.0, 2, -math.inf]])),
                put(targets),
                class_weights=weights,
                label_smoothing=smoothing,
            )
            assert float(loss) == 0
            assert not get(device).to_host(dlogits).any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_counts(reduction: str, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    nan = put(np.full((2, 3, V), math.nan))
    for how in (
        {"ignore_index": -100},
        {"lengths": [0, 0, 0]},
        {"mask": put(np.zeros((2, 3), bool))},
    ):
        loss, dlogits = loss_of(nan, put(np.full((2, 3), -100)), reduction=reduction, **how)
        assert host(loss).shape == ((2, 3) if reduction == "none" else ())
        assert not host(loss).any()
        assert not host(dlogits).any()
    for shape in ((0,), (0, 3), (4, 0)):
        given = put(np.zeros((*shape, V), "float32")), put(np.zeros(shape, int))
        loss, dlogits = loss_of(*given, class_weights=WEIGHTS, reduction=reduction)
        assert host(loss).shape == (shape if reduction == "none" else ())
        assert tuple(dlogits.shape) == (*shape, V)
        assert dtype_name(loss.dtype) == "float32"


def test_one_position(device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    for reduction in REDUCTIONS:
        loss, dlogits = loss_of(put(LOGITS[0, 0]), put(np.array(2)), reduction=reduction)
        assert float(loss) == pytest.approx(
            float(plain.cross_entropy(LOGITS[0, :1], np.array([2]), None, xp=np)[0])
        )
        assert host(dlogits).shape == (V,)


@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_are_a_mask(batch_first: bool, device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    order = (1, 0, 2) if batch_first else (0, 1, 2)
    inside = np.arange(T)[:, None] < np.array(LENGTHS)
    logits = np.where(inside[..., None], LOGITS, math.nan).transpose(order)
    classes = np.where(inside, CLASSES, 99).transpose(order[:2])
    loss, dlogits = loss_of(
        put(logits), put(classes), lengths=put(np.array(LENGTHS)), batch_first=batch_first
    )
    expected, slope = softmax_cross_entropy(LOGITS, CLASSES, inside)
    assert float(loss) == pytest.approx(float(expected), rel=1e-13)
    np.testing.assert_allclose(host(dlogits).transpose(order), slope, rtol=1e-12)
    # More axes of positions than steps and sequences.
    four = put(logits[:, :, None]), put(classes[:, :, None])
    again, _ = loss_of(*four, lengths=LENGTHS, batch_first=batch_first)
    assert float(again) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(("dtype", "ignored"), [("uint8", 255), ("int64", -1), ("uint64", 255)])
def test_ignore_index_of_every_width(dtype: str, ignored: int, device: str) -> None:
    put = get(device).from_host
    classes, given = np.array([1, ignored], dtype), put(LOGITS[0, :2])
    expected = float(softmax_cross_entropy(LOGITS[0, :1], np.array([1]))[0])
    assert float(loss_of(given, put(classes), ignore_index=ignored)[0]) == pytest.approx(expected)
    assert float(loss_of(given, put(np.array([1, 1])), ignore_index=2**70)[0]) > 0


def test_a_negative_ignore_index_among_narrow_classes() -> None:
    loss, dlogits = loss_of(LOGITS[0, :2], np.array([1, -100], "int8"), ignore_index=-100)
    assert loss == softmax_cross_entropy(LOGITS[0, :1], np.array([1]))[0]
    assert not dlogits[1].any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, device: str) -> None:
    logits = halves(LOGITS, dtype, device)
    put, host = get(device).from_host, get(device).to_host
    exact = host(logits).astype("float64")
    how: dict[str, Any] = {"class_weights": WEIGHTS.tolist(), "label_smoothing": 0.1}
    for reduction in REDUCTIONS:
        loss, dlogits = loss_of(logits, put(CLASSES), reduction=reduction, **how)
        expected, slope = loss_of(exact, CLASSES, reduction=reduction, **how)
        assert dtype_name(loss.dtype) == "float32"
        assert dlogits.dtype == logits.dtype
        np.testing.assert_allclose(host(loss), expected, rtol=1e-5)
        np.testing.assert_allclose(host(dlogits).astype("f8"), slope, rtol=8e-3, atol=1e-6)


def test_options_need_no_more_memory() -> None:
    logits = RNG.normal(size=(32, 2**16)).astype("float32")
    how: dict[str, Any] = {"class_weights": np.ones(2**16), "label_smoothing": 0.1}
    tracemalloc.start()
    softmax_cross_entropy(logits, np.zeros(32, int), reduction="none", **how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 2.5 * logits.nbytes


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"reduction": "avg"}, ValueError, "loss: reduction is 'avg'; it must be 'mean' or"),
        ({"lengths": [5, 1, 1]}, ValueError, "lengths go from 1 to 5; they must lie in 0…T"),
        ({"lengths": [1, 1]}, ValueError, "lengths has shape (2,)"),
        ({"batch_first": 1}, TypeError, "loss: batch_first is 1; it must be True or False"),
        ({"class_weights": [1.0]}, ValueError, "class_weights has shape (1,) and dtype float64; "),
        ({"class_weights": [1, 1, -1, 1, 1]}, ValueError, "class_weights[2] is np.int64(-1); it "),
        ({"class_weights": [1, 1, math.nan, 1, 1]}, ValueError, "class_weights[2] is np.float64("),
        ({"class_weights": ["a"] * V}, ValueError, "class_weights has shape (5,) and dtype <U1;"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5; it must be in [0, 1]"),
        ({"label_smoothing": "x"}, TypeError, "label_smoothing is 'x'; it must be in [0, 1]"),
        ({"ignore_index": 1.0}, TypeError, "ignore_index is 1.0; it must be an integer or None"),
        ({"ignore_index": 1, "targets": SOFT}, ValueError, "ignore_index is 1, and targets are"),
    ],
)
def test_errors(how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        loss_of(LOGITS, how.pop("targets", CLASSES), **how)
    assert str(caught.value).startswith(message)


def test_lengths_of_one_sequence_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths are of a batch, .* must be \(B, T, …\); cut"):
        loss_of(LOGITS[0], CLASSES[0], lengths=[3], batch_first=True)
