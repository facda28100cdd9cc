"""The optimizers, against their equations worked by hand and on every library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xrnn.backends import get
from xrnn.learn.optim import SGD, Adam, Optimizer, clip_by_global_norm

RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(3, 2)), RNG.normal(size=3)
GRADIENTS = [{"W": RNG.normal(size=(3, 2)), "b": RNG.normal(size=3)} for _ in range(4)]


def after(optimizer: Optimizer, device: str = "cpu") -> dict[str, Any]:
    put, host = get(device).from_host, get(device).to_host
    weights = {"part": {"W": put(W), "b": put(B)}}
    for g in GRADIENTS:
        optimizer.update(weights, {"part": {k: put(v) for k, v in g.items()}})
    return {k: host(v) for k, v in weights["part"].items()}


WRITABLE = pytest.mark.parametrize("device", ["cpu", "array_api_strict"])


@WRITABLE
def test_sgd_with_momentum(device: str) -> None:
    w, v = W.copy(), np.zeros_like(W)
    for g in GRADIENTS:
        v = 0.9 * v + g["W"]
        w = w - 0.1 * v
    np.testing.assert_allclose(after(SGD(0.1, momentum=0.9), device)["W"], w, rtol=1e-13)


@WRITABLE
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam(decay: float, device: str) -> None:
    found = after(Adam(0.01, weight_decay=decay), device)
    for name, w in (("W", W.copy()), ("b", B.copy())):
        m = v = np.zeros_like(w)
        for t, g in enumerate(GRADIENTS, 1):
            m = 0.9 * m + 0.1 * g[name]
            v = 0.999 * v + 0.001 * g[name] ** 2
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            w = w - 0.01 * (step + (decay * w if name == "W" else 0))
        np.testing.assert_allclose(found[name], w, rtol=1e-12)


@pytest.mark.parametrize("make", [lambda: Adam(0.01, weight_decay=0.1), lambda: SGD(0.1, 0.9)])
def test_against_torch(make: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    parameters = [torch.nn.Parameter(torch.tensor(a)) for a in (W, B)]
    mine = make()
    if isinstance(mine, Adam):
        groups = [
            {"params": [parameters[0]], "weight_decay": 0.1},
            {"params": [parameters[1]], "weight_decay": 0.0},
        ]
        theirs = torch.optim.AdamW(groups, lr=0.01)
    else:
        theirs = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for g in GRADIENTS:
        for parameter, name in zip(parameters, ("W", "b"), strict=True):
            parameter.grad = torch.tensor(g[name])
        theirs.step()
    found = after(mine)
    for parameter, name in zip(parameters, ("W", "b"), strict=True):
        np.testing.assert_allclose(found[name], parameter.detach().numpy(), rtol=1e-10)


def test_weights_are_updated_in_place() -> None:
    weights = {"W": W.copy()}
    same = weights["W"]
    SGD(0.1).update(weights, {"W": np.ones_like(W)})
    assert weights["W"] is same
    np.testing.assert_allclose(same, W - 0.1)


def test_going_on_from_a_saved_state() -> None:
    whole = after(Adam(0.01))
    first, second = Adam(0.01), Adam(0.01)
    weights = {"part": {"W": W.copy(), "b": B.copy()}}
    for g in GRADIENTS[:2]:
        first.update(weights, {"part": g})
    second.state, second.steps = dict(first.state), first.steps
    for g in GRADIENTS[2:]:
        second.update(weights, {"part": g})
    np.testing.assert_array_equal(weights["part"]["W"], whole["W"])


def test_clip(device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    tree = {"a": {k: put(v) for k, v in GRADIENTS[0].items()}, "c": put(GRADIENTS[1]["b"])}
    flat = np.concatenate([np.ravel(host(a)) for a in (*tree["a"].values(), tree["c"])])  # type: ignore[attr-defined]
    norm = np.sqrt((flat**2).sum())
    clipped, found = clip_by_global_norm(tree, 0.5)
    np.testing.assert_allclose(float(found), norm, rtol=1e-13)
    np.testing.assert_allclose(host(clipped["c"]), GRADIENTS[1]["b"] * 0.5 / norm, rtol=1e-13)
    untouched, _ = clip_by_global_norm(tree, 100.0)
    np.testing.assert_array_equal(host(untouched["a"]["W"]), GRADIENTS[0]["W"])


def test_clip_at_the_edges() -> None:
    large = np.full(4, 3e4, "float16")
    clipped, norm = clip_by_global_norm({"W": large}, 1.0)
    assert float(norm) == 6e4
    np.testing.assert_allclose(clipped["W"], 0.5, rtol=1e-2)
    zero, norm = clip_by_global_norm({"W": np.zeros(3)}, 1.0)
    assert float(norm) == 0
    assert not zero["W"].any()
    assert not np.isfinite(clip_by_global_norm({"W": np.array([np.nan, 1.0])}, 1.0)[1])


def test_errors() -> None:
    weights = {"W": W.copy(), "b": B.copy()}
    with pytest.raises(ValueError, match="weights and dweights differ in b; they must have"):
        SGD(0.1).update(weights, {"W": W})
    with pytest.raises(ValueError, match=r"the gradient of b has shape \(2,\); it must be \(3,\)"):
        SGD(0.1).update(weights, {"W": W, "b": B[:2]})
    np.testing.assert_array_equal(weights["W"], W)
    with pytest.raises(ValueError, match="lr is 0; it must be > 0"):
        Adam(0)
    with pytest.raises(ValueError, match="limit is 0; it must be > 0"):
        clip_by_global_norm({"W": W}, 0)


@pytest.mark.parametrize("fault", ["read-only", "complex gradient", "no gradient", "integers"])
def test_after_an_error_nothing_is_changed(fault: str) -> None:
    weights: dict[str, Any] = {"a": np.ones(3), "b": np.ones(3)}
    dweights: dict[str, Any] = {"a": np.ones(3), "b": np.ones(3)}
    if fault == "read-only":
        weights["b"].flags.writeable = False
    elif fault == "integers":
        weights["b"] = np.ones(3, int)
    else:
        dweights["b"] = np.ones(3) + 0j if fault == "complex gradient" else None
    optimizer = Adam()
    with pytest.raises((TypeError, ValueError), match=r"^(the gradient of )?b is "):
        optimizer.update(weights, dweights)
    assert weights["a"].tolist() == [1, 1, 1]
    assert not optimizer.steps
    assert not optimizer.state
