"""Optimizers and clipping at the edges: 16 bits, odd trees, tied weights, other places, errors."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from test_precision import halves

import xrnn
from xrnn.backends import get, host
from xrnn.typing import dtype_name

# Wrong arguments are given here, which a type checker would refuse.
SGD: Any = xrnn.optim.SGD
Adam: Any = xrnn.optim.Adam
clip_by_global_norm: Any = xrnn.optim.clip_by_global_norm
float16: Any = np.float16
float32: Any = np.float32


@pytest.mark.parametrize("limit", [math.inf, 1e39, 1e300])
def test_a_limit_that_the_dtype_cannot_hold_changes_nothing(limit: float, device: str) -> None:
    backend = get(device)
    clipped, norm = clip_by_global_norm({"W": backend.from_host(float32([3, 4]))}, limit)
    assert backend.to_host(clipped["W"]).tolist() == [3, 4]
    assert float(norm) == 5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_norms_of_half_precision(dtype: str, device: str) -> None:
    backend = get(device)
    given = halves(np.full((512, 512), 0.01), dtype, device)
    for limit in (100.0, 1e5):
        clipped, norm = clip_by_global_norm({"W": given}, limit)
        assert float(norm) == pytest.approx(5.12, rel=2e-3)
        assert dtype_name(norm.dtype) == "float32"
        assert clipped["W"].dtype == given.dtype
        np.testing.assert_array_equal(backend.to_host(clipped["W"]), backend.to_host(given))
    clipped, _ = clip_by_global_norm({"W": given}, 1.0)
    found = backend.to_host(clipped["W"]).astype("float64")
    np.testing.assert_allclose(found, 0.01 / 5.12, rtol=1e-2)


def test_gradients_whose_norm_is_too_large_are_clipped() -> None:
    clipped, norm = clip_by_global_norm({"W": np.full(4, 3e38, "float32")}, 1.0)
    assert norm == math.inf
    assert clipped["W"].tolist() == [0.5] * 4
    clipped, norm = clip_by_global_norm({"a": float16([3]), "b": float32([[4]])}, 1.0)
    assert norm == 5
    assert (clipped["a"].dtype, clipped["b"].dtype) == ("float16", "float32")
    clipped, norm = clip_by_global_norm({"a": np.zeros((0, 3)), "b": np.array([3.0, 4])}, 1.0)
    assert norm == 5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_moments_of_half_precision(dtype: str, device: str) -> None:
    pytest.importorskip("numpy" if device == "cpu" else device, reason=f"{device} is not installed")
    backend, optimizer = get(device), Adam(1e-3)
    given = halves([0, 1e-4, 0.1], dtype, device)
    weights = {"W": halves(np.ones(3), dtype, device)}
    kind = weights["W"].dtype
    optimizer.update(weights, {"W": given})
    expected = np.array([1, 0.999, 0.999]).astype(host.named_dtype(dtype))
    np.testing.assert_array_equal(backend.to_host(weights["W"]), expected)
    assert weights["W"].dtype == kind
    assert {dtype_name(a.dtype) for a in optimizer.state.values()} == {"float32"}
    if dtype == "float16":
        # As what was saved before moments were float32 has it.
        optimizer.state = {k: backend.xp.astype(a, kind) for k, a in optimizer.state.items()}
        optimizer.update(weights, {"W": given})
        assert {dtype_name(a.dtype) for a in optimizer.state.values()} == {"float32"}


def test_the_update_of_half_precision_is_rounded_once() -> None:
    weights = {"W": float16([1.0])}
    SGD(1.0).update(weights, {"W": float32([-(2.0**-11) - 2.0**-20])})
    assert weights["W"].tolist() == [1 + 2**-10]  # −2⁻¹¹ − 2⁻²⁰ in float16 is −2⁻¹¹: a tie, to 1


def test_finite_data_signals_no_warning() -> None:
    tiny = float32([1e-30, 1, 1e-20])
    with np.errstate(all="raise"):
        clip_by_global_norm({"W": tiny, "b": float32([1e30])}, 1e-20)
        clip_by_global_norm({"W": float16([6e-8, 1])}, 1e-3)
        for optimizer in (Adam(1e-10), Adam(eps=0), SGD(1e-20, momentum=0.1)):
            weights = {"W": np.zeros(3, "f4"), "b": np.zeros(3, "f2")}
            for _ in range(3):
                optimizer.update(weights, {"W": tiny, "b": float16([0, 6e-8, 1])})
            assert all(np.isfinite(w).all() for w in weights.values())


def test_dots_in_names_do_not_collide() -> None:
    weights = {"a.b": np.ones(1), "a": {"b": np.ones(1), r"b\.c": np.ones(1)}}
    gradients = {"a.b": np.ones(1), "a": {"b": 2 * np.ones(1), r"b\.c": 3 * np.ones(1)}}
    optimizer = Adam(0.5)
    optimizer.update(weights, gradients)
    assert len(optimizer.state) == 6
    SGD(0.5).update(weights, gradients)
    found = [weights["a.b"], *weights["a"].values()]  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.concatenate(found), [0, -0.5, -1], atol=1e-7)


def test_one_array_under_two_names_is_refused(device: str) -> None:
    if device == "readonly":
        pytest.skip("its arrays cannot be written to")
    w = get(device).from_host(np.ones((2, 3)))
    optimizer, same = Adam(0.1), {"E": w, "out": {"W": w}}
    with pytest.raises(ValueError, match=r"E and out\.W are one array, .* add its gradient to"):
        optimizer.update(same, same)
    assert get(device).to_host(w).tolist() == [[1] * 3] * 2
    assert not optimizer.steps
    if device == "cpu":
        with pytest.raises(ValueError, match="E and W are one array"):
            optimizer.update({"E": w, "W": w.T}, {"E": w, "W": w.T})


@pytest.mark.parametrize("make", [lambda: Adam(0.1), lambda: SGD(0.1, momentum=0.9)])
def test_the_state_moves_with_the_weights(make: Any, device: str) -> None:
    backend = get(device)
    if device == "readonly":
        pytest.skip("its arrays cannot be written to")
    there, here = xrnn.RNN(2, 3, rng=0), xrnn.RNN(2, 3, rng=0)
    moving, staying = make(), make()
    for step in range(4):
        if step == 2:
            there.to(device)
        ones = {k: float32(w * 0 + step) for k, w in here.weights.items()}
        staying.update(here.weights, ones)
        put = host.to_host if step < 2 else backend.from_host
        moving.update(there.weights, {k: put(g) for k, g in ones.items()})
    for name, w in here.weights.items():
        found = backend.to_host(there.weights[name])
        np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-6)


FAULTS: list[tuple[str, Any, Any, str]] = [
    ("masked weight", lambda: np.ma.masked_equal([1.0, 2], 2), lambda: np.ones(2), "b is a numpy"),
    ("masked gradient", lambda: np.ones(2), lambda: np.ma.ones(2), "the gradient of b is a numpy"),
    ("complex weight", lambda: np.ones(2) + 0j, lambda: np.ones(2), "b is complex128; it must be"),
    ("shape", lambda: np.ones(2), lambda: np.ones(3), r"the gradient of b has shape \(3,\)"),
    ("a view", lambda: np.broadcast_to(1.0, 2), lambda: np.ones(2), "b is read-only; give a copy"),
    ("a list", lambda: [1.0, 2], lambda: np.ones(2), "b is a builtins.list; it must be an array"),
]


@pytest.mark.parametrize(("fault", "w", "g", "message"), FAULTS, ids=[row[0] for row in FAULTS])
def test_after_an_error_nothing_is_changed(fault: str, w: Any, g: Any, message: str) -> None:
    weights = {"a": np.ones(2), "b": w(), "c": np.ones(2)}
    dweights = {"a": np.ones(2), "b": g(), "c": np.ones(2)}
    for optimizer in (Adam(), SGD(0.1, 0.9)):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            optimizer.update(weights, dweights)
        assert weights["a"].tolist() == weights["c"].tolist() == [1, 1]
        assert not optimizer.steps
        assert not optimizer.state


def test_an_overflow_in_the_middle_changes_nothing() -> None:
    weights = {name: np.ones(2, "f4") for name in "abc"}
    dweights = {"a": np.ones(2, "f4"), "b": float32([1e30, 1]), "c": np.ones(2, "f4")}
    optimizer = Adam()
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        optimizer.update(weights, dweights)
    assert all(w.tolist() == [1, 1] for w in weights.values())
    assert not optimizer.steps
    assert not optimizer.state


def test_frozen_weights_and_a_wrong_state_change_nothing() -> None:
    layers = {"a": xrnn.RNN(2, 2), "b": xrnn.RNN(2, 2).freeze()}
    weights: Any = {name: layer.weights for name, layer in layers.items()}
    before = {k: w.copy() for k, w in weights["a"].items()}
    gradients = {name: {k: w * 0 + 1 for k, w in tree.items()} for name, tree in weights.items()}
    optimizer = Adam()
    with pytest.raises(TypeError, match="rnn: the weights are frozen"):
        optimizer.update(weights, gradients)
    layers["b"].weights = {k: w.copy() for k, w in weights["b"].items()}
    weights["b"] = layers["b"].weights
    optimizer.state["m.b.W_l0"] = np.ones(3)
    with pytest.raises(ValueError, match=r"m\.b\.W_l0 has shape \(3,\); it must be .* \(2, 2\)"):
        optimizer.update(weights, gradients)
    assert not optimizer.steps
    for name, w in before.items():
        np.testing.assert_array_equal(weights["a"][name], w)


def test_tensors_that_cannot_be_changed_in_place_are_refused() -> None:
    """Before any weight is changed: torch refuses them only when they are written to."""
    torch: Any = pytest.importorskip("torch")
    with torch.inference_mode():
        inference = torch.ones(2)
    recording = torch.ones(2, requires_grad=True)
    for w, g, message in (
        (torch.ones(1).expand(2), torch.ones(2), "b repeats its values in memory; give a copy"),
        (inference, torch.ones(2), "b was made in torch.inference_mode; give a copy"),
        (torch.ones(2), recording, "the gradient of b records gradients; give g.detach()"),
    ):
        weights, optimizer = {"a": torch.ones(2), "b": w}, Adam()
        with pytest.raises(ValueError, match=message):
            optimizer.update(weights, {"a": torch.ones(2), "b": g})
        assert weights["a"].tolist() == [1, 1]
        assert not optimizer.steps
    with torch.inference_mode():
        Adam(0.1).update({"b": inference}, {"b": torch.ones(2)})
    assert inference.tolist() == pytest.approx([0.9, 0.9])


def test_weights_in_8_bits_are_refused() -> None:
    """Libraries store such numbers, but do not compute with them."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays: list[Any] = [np.ones(2, ml_dtypes.float8_e4m3fn), np.ones(2, ml_dtypes.int4)]
    with contextlib.suppress(ImportError):
        torch: Any = importlib.import_module("torch")
        arrays.append(torch.ones(2, dtype=torch.float8_e5m2))
    for a in arrays:
        with pytest.raises(TypeError, match=r"^W is (torch\.)?\w+; it must be real floating point"):
            SGD(0.1).update({"W": a}, {"W": a})
        with pytest.raises(TypeError, match="; it must be real floating point"):
            clip_by_global_norm({"W": a}, 1.0)
        with pytest.raises(TypeError, match="it must be real floating point"):
            xrnn.losses.squared_error(a, a)


def test_a_state_that_was_read_stays_as_it_was() -> None:
    """Another optimizer goes on from it, while the first one goes on too."""
    first, second, gradient = Adam(0.1), Adam(0.1), {"W": np.ones(2)}
    one = {"W": np.ones(2)}
    first.update(one, gradient)
    second.state, second.steps = first.state, first.steps
    other = {"W": one["W"].copy()}
    first.update(one, gradient)
    second.update(other, gradient)
    assert one["W"].tolist() == other["W"].tolist()


LAYER = xrnn.RNN(2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Adam().update(LAYER, {}), "weights is a RNN; .* give layer.weights"),
        (lambda: Adam().update({"rnn": LAYER}, {}), "rnn is a RNN; it must be a mapping of names"),
        (lambda: clip_by_global_norm(LAYER, 1), "dweights is a RNN; .* give layer.weights"),
        (lambda: clip_by_global_norm({}, 1), "dweights hold no gradient; give those of at least"),
        (lambda: Adam().update({}, {}), "weights hold no array; give those of a layer"),
        (lambda: Adam().update({1: np.ones(1)}, {1: np.ones(1)}), "weights have the name 1; names"),
        (
            lambda: SGD(1).update(MappingProxyType({"a": np.ones(1)}), {"a": np.ones(1)}),
            "a is in a mappingproxy; it must be in a dict",
        ),
        (lambda: clip_by_global_norm({"a": np.ones(1) * 1j}, 1), "the gradient of a is complex128"),
        (lambda: clip_by_global_norm({"a": np.ones(1)}, math.nan), "limit is nan; it must be > 0"),
        (
            lambda: clip_by_global_norm({"a": np.ones(1)}, None),
            "limit is None; it must be > 0",
        ),
        (lambda: Adam("x"), "lr is 'x'; it must be > 0 and finite"),
        (lambda: Adam(math.inf), "lr is inf; it must be > 0 and finite"),
        (lambda: Adam(True), "lr is True; it must be > 0"),
        (lambda: Adam(beta1=1), r"beta1 is 1; it must be in \[0, 1\)"),
        (lambda: Adam(beta2=math.nan), r"beta2 is nan; it must be in \[0, 1\)"),
        (lambda: Adam(eps=-1e-8), "eps is -1e-08; it must be ≥ 0 and finite"),
        (lambda: Adam(weight_decay=None), "weight_decay is None; it must be ≥ 0"),
        (lambda: SGD(0.1, momentum=1.5), r"momentum is 1.5; it must be in \[0, 1\)"),
        (lambda: setattr(SGD(0.1), "lr", math.nan), "lr is nan; it must be ≥ 0 and finite"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()


def test_a_copy_of_an_optimizer_goes_its_own_way() -> None:
    adam, weights, g = Adam(), {"a": np.ones(3)}, {"a": np.full(3, 0.5)}
    adam.update(weights, g)
    twin, kept = copy.copy(adam), {name: a.copy() for name, a in adam.state.items()}
    twin.update(weights, g)
    assert (adam.steps, twin.steps) == (1, 2)
    for name, a in adam.state.items():
        np.testing.assert_array_equal(a, kept[name])
