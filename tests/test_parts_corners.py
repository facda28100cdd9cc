"""Parts in corner cases: what is not valid, half precision, empty axes, seeds, orders of axes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get, host
from xrnn.typing import dtype_name

F64: Any = {"dtype": "float64"}
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(6, 5, 4))
LENGTHS = [6, 3, 0, 1, 5]
MASK = RNG.random((6, 5)) < 0.6


def parts_of(dtype: Any, device: str = "cpu") -> dict[str, Any]:
    """Parts of every kind that read (T, B, 4)."""
    where = {"dtype": dtype, "device": device}
    linear = {
        f"Linear {a}": xrnn.Linear(4, 3, activation=a, rng=0, **where)
        for a in (None, "relu", "tanh", "sigmoid", "softplus")
    }
    merges = {f"Merge {mode}": xrnn.Merge(mode) for mode in ("sum", "mean", "mul", "max")}  # type: ignore[arg-type]
    tied = xrnn.TiedLinear(xrnn.Embedding(3, 4, rng=0, **where), activation="tanh")  # type: ignore[arg-type]
    return {
        **linear,
        **merges,
        "TiedLinear": tied,
        "LayerNorm": xrnn.LayerNorm(4, **where),  # type: ignore[arg-type]
        "Dropout": xrnn.Dropout(0.5),
        **{pool.kind: pool() for pool in (xrnn.Last, xrnn.Mean, xrnn.Max)},
    }


def seeded(part: Any) -> dict[str, Any]:
    return {"seed": 1} if isinstance(part, xrnn.Dropout) else {}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("name", parts_of("float32"))
def test_half_precision(name: str, device: str, dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    pytest.importorskip(device.replace("cpu", "numpy"))
    backend, part = get(device), parts_of(dtype, device)[name]
    x = backend.from_host(XS.astype(host.named_dtype(dtype)))
    y, tape = part.forward(x, **seeded(part))
    single = parts_of("float32")[name]
    expected, other = single.forward(XS.astype("float32"), **seeded(part))
    v = np.random.default_rng(1).normal(size=expected.shape)
    found = gradients(part, tape, backend.from_host(v.astype(host.named_dtype(dtype))))
    wanted = gradients(single, other, v.astype("float32"))
    for a, b in zip([y, *found], [expected, *wanted], strict=True):
        assert dtype_name(a.dtype) == dtype
        values = np.asarray(backend.to_host(a), "float32")
        np.testing.assert_allclose(values, b, rtol=0.05, atol=0.05 * abs(b).max())


def gradients(part: Any, tape: Any, dy: Any) -> list[Any]:
    dx, dweights = part.backward(tape, dy)
    return [dx, *flat(dweights)]


def flat(tree: Any) -> list[Any]:
    return (
        [leaf for value in tree.values() for leaf in flat(value)]
        if isinstance(tree, dict)
        else [tree]
    )


@pytest.mark.parametrize("name", parts_of("float32"))
def test_underflow_is_no_error(name: str) -> None:
    part = parts_of("float64")[name]
    with np.errstate(all="raise"):
        y, tape = part.forward(np.full((2, 3, 4), 1e-200), **seeded(part))
        part.backward(tape, np.full(y.shape, 1e-200))


@pytest.mark.parametrize("name", parts_of("float32"))
@pytest.mark.parametrize("sizes", [(0, 3), (2, 0), (0, 0), (1, 1)])
def test_empty_axes(name: str, sizes: tuple[int, int], device: str) -> None:
    part = parts_of("float64", device)[name]
    x = get(device).from_host(np.ones((*sizes, 4)))
    y, tape = part.forward(x, **seeded(part))
    dx, _ = part.backward(tape, y)
    assert tuple(dx.shape) == (*sizes, 4)
    assert np.isfinite(get(device).to_host(y)).all()


@pytest.mark.parametrize("name", parts_of("float32"))
def test_outputs_changed_before_backward(name: str, device: str) -> None:
    """An error of the library, or the gradients that belong to the forward pass."""
    backend, part = get(device), parts_of("float64", device)[name]
    y, tape = part.forward(backend.from_host(XS), **seeded(part))
    dy = backend.xp.ones_like(y)
    expected = gradients(part, tape, dy)
    try:
        y[...] = 7.0
    except (TypeError, ValueError):
        return
    found = gradients(part, tape, dy)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(backend.to_host(a), backend.to_host(b))


def test_the_mean_of_large_numbers_is_finite() -> None:
    assert xrnn.Merge("mean")(np.full((1, 2), 6e4, "float16")).tolist() == [[6e4]]


# What stands at steps that are not valid ----------------------------------------------------


def head(order: bool = False, device: str = "cpu") -> Any:
    """Parts that read every step, before a layer that reads the valid ones."""
    where = F64 | {"device": device}
    return xrnn.Sequential(
        low=xrnn.Linear(4, 4, rng=0, **where),
        block=xrnn.Residual(xrnn.LayerNorm(4, **where), xrnn.Linear(4, 4, rng=1, **where)),
        rnn=xrnn.GRU(4, 3, batch_first=order, rng=2, **where),
        pool=xrnn.Mean(batch_first=order),
    )


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("given", ["lengths", "mask", "both"])
def test_padding_is_not_read(order: bool, given: str, device: str) -> None:
    backend, model = get(device), head(order, device)
    valid = np.ones((6, 5), bool)
    how: dict[str, Any] = {}
    if given != "mask":
        how["lengths"] = LENGTHS
        valid &= np.arange(6)[:, None] < LENGTHS
    if given != "lengths":
        how["mask"] = MASK.T.copy() if order else MASK
        valid &= MASK
    results = []
    for filling in (0.0, np.nan):
        xs = np.where(valid[:, :, None], XS, filling)
        x = backend.from_host(np.ascontiguousarray(xs.swapaxes(0, 1) if order else xs))
        y, tape = model.forward(x, **how)
        np.testing.assert_array_equal(backend.to_host(model(x, **how)), backend.to_host(y))
        dx, dweights = model.backward(tape, backend.xp.ones_like(y))
        dxs = backend.to_host(dx)
        assert not (dxs.swapaxes(0, 1) if order else dxs)[~valid].any()
        leaves = [leaf for tree in dweights.values() for leaf in flat(dict(tree))]
        results.append([backend.to_host(a) for a in (y, dx, *leaves)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


def test_padding_of_a_residual_connection_around_a_layer() -> None:
    model = xrnn.Sequential(
        xrnn.Residual(xrnn.GRU(4, 4, rng=0, **F64)), xrnn.Linear(4, 2, rng=0, **F64)
    )
    xs = np.where((np.arange(6)[:, None] < LENGTHS)[:, :, None], XS, np.nan)
    y, tape = model.forward(xs, lengths=LENGTHS)
    dx, dweights = model.backward(tape, np.ones_like(y))
    assert np.isfinite(y).all()
    assert np.isfinite(dweights["1"]["W"]).all()
    assert dx is not None
    assert not dx[5, 1:4].any()


def test_tokens_of_padding_may_be_anything() -> None:
    model = xrnn.Sequential(xrnn.Embedding(7, 4, rng=0, **F64), xrnn.GRU(4, 3, rng=0, **F64))
    tokens = np.array([[1, 2], [3, -1], [6, 99]])
    y, _ = model.forward(tokens, lengths=[3, 1])
    # Where there are no native loops, the numbers depend on the size of the batch.
    close: Any = {"rtol": 1e-12, "atol": 1e-15}
    np.testing.assert_allclose(y[:, 0], model(tokens[:, :1])[:, 0], **close)
    step = np.array([True, False, False])
    np.testing.assert_allclose(model(tokens[:, 1], mask=step)[:1], y[:1, 1], **close)
    with pytest.raises(ValueError, match="lengths are of a batch; cut the one sequence instead"):
        model(tokens[:, 1], lengths=[1])
    with pytest.raises(ValueError, match="lengths has shape"):
        model.forward(tokens, lengths=[3, 1, 1])
    with pytest.raises(ValueError, match=r"sequential: x has shape \(\); it must have an axis"):
        model.forward(np.array(1), lengths=[1])


# Orders of axes, seeds, names ---------------------------------------------------------------


def test_the_order_of_axes() -> None:
    block = xrnn.Residual(xrnn.Linear(4, 4), xrnn.Dropout(0.5))
    assert block.batch_first is None
    assert head(True).batch_first is True
    assert xrnn.Sequential(block, head(False)).batch_first is False
    assert xrnn.Sequential(xrnn.GRU(3, 4, batch_first=True), block).batch_first is True
    with pytest.raises(ValueError, match="0 has batch_first=True, 1 has batch_first=False"):
        xrnn.Sequential(head(True), head(False))


def dropped(model: Any, x: Any, **how: Any) -> Any:
    return model.forward(x, **how)[0] == 0


def test_dropout_of_a_sequence_in_several_parts() -> None:
    x = np.ones((6, 5, 40))
    whole = dropped(xrnn.Dropout(0.5), x, seed=3)
    rest = dropped(xrnn.Dropout(0.5), x[2:], seed=3, t=2)
    np.testing.assert_array_equal(rest, whole[2:])
    first = xrnn.Sequential(xrnn.Residual(xrnn.Dropout(0.5)), xrnn.Dropout(0.5), xrnn.Last())
    y, _ = first.forward(x, seed=3)
    np.testing.assert_array_equal(first.forward(x[4:], seed=3, t=4)[0], y)
    # Where the batch comes first the numbers are independent of those of the parts before.
    other = xrnn.Sequential(xrnn.Dropout(0.5), xrnn.Last(batch_first=True))
    masks = [dropped(other, x, seed=3, t=t) for t in (0, 1, 6)]
    for a, b in pairwise(masks):
        assert (a == b).mean() < 0.8
    odd: Any
    for odd in (-1, 1.5):
        with pytest.raises(ValueError, match="dropout: t is"):
            other.forward(x, seed=3, t=odd)


def test_nested_parts_have_different_seeds() -> None:
    """The order of names on the way counts, and a name that stands there twice."""
    drop = xrnn.Dropout(0.5)
    deep = [xrnn.Sequential(**{a: xrnn.Sequential(**{b: drop})}) for a in "xy" for b in "xy"]
    x = np.ones((40, 40))
    masks = [dropped(one, x, seed=0) for one in [drop, *deep]]
    for n, a in enumerate(masks):
        for b in masks[:n]:
            assert 0.4 < (a == b).mean() < 0.6


def test_names() -> None:
    with pytest.raises(ValueError, match="two parts have the name '0'; give one another name"):
        xrnn.Sequential(xrnn.Last(), **{"0": xrnn.Dropout(0.1)})
    model = head()
    with pytest.raises(TypeError, match="does not support item assignment"):
        model.parts["low"] = xrnn.Linear(4, 4)
    assert "block=<Residual\n" in repr(model)


def test_a_missing_gradient_is_refused_at_once() -> None:
    model = head()
    _, tape = model.forward(XS)
    with pytest.raises(TypeError, match="sequential: dy is a NoneType; it must be an array"):
        model.backward(tape, None)  # type: ignore[arg-type]
