"""Weights are drawn when one is first read, with the numbers that they always had."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import MAKERS, every_maker

import xrnn
from xrnn.backends import host
from xrnn.engine.parameters import count


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that gets an entry whenever a part that is already made draws its weights."""
    found: list[Any] = []
    generator = host.generator

    def listening(rng: Any = None) -> Any:
        if isinstance(rng, np.random.SeedSequence):
            found.append(rng)
        return generator(rng)

    monkeypatch.setattr(host, "generator", listening)
    return found


@every_maker
def test_nothing_is_drawn_until_a_weight_is_read(make: Any, draws: list[Any]) -> None:
    part = make()
    weights = part.weights
    name = next(iter(weights))
    assert name in weights
    assert "foo" not in weights
    assert list(weights) == list(weights.keys()) == list(weights.specs)
    assert len(weights) == len(weights.specs)
    assert "float32 on cpu" in repr(weights) + repr(part)
    assert count(weights) > 0
    part.config()
    assert draws == []
    assert weights[name] is weights[name]
    assert next(iter(weights.values())) is weights[name]
    assert len(draws) == 1


@every_maker
def test_what_is_replaced_is_never_drawn(make: Any, draws: list[Any], tmp_path: Path) -> None:
    source = make(rng=1)
    given = {name: w.copy() for name, w in source.weights.items()}
    xrnn.save(tmp_path / "file.safetensors", source)
    draws.clear()
    filled = [make() for _ in range(5)]
    filled[0].weights = given
    filled[1].weights.update(given)
    filled[2].weights |= given
    for name, w in given.items():
        filled[3].weights[name] = w
    xrnn.load(tmp_path / "file.safetensors", filled[4])
    for part in filled:
        for name, w in given.items():
            np.testing.assert_array_equal(part.weights[name], w)
    assert draws == []


@pytest.mark.parametrize("make", [xrnn.LSTM, xrnn.GRU, xrnn.RNN, xrnn.Linear, xrnn.Embedding])
def test_weights_of_pytorch_draw_nothing(make: Any, draws: list[Any]) -> None:
    state_dict = xrnn.convert.to_torch(make(3, 5, rng=1))
    draws.clear()
    xrnn.convert.from_torch(make(3, 5), state_dict)
    assert draws == []


@every_maker
def test_one_that_was_assigned_stays(make: Any, draws: list[Any]) -> None:
    part, whole = make(rng=1), make(rng=1)
    *others, name = part.weights
    part.weights[name] = ones = np.ones(part.weights.specs[name].shape, "float32")
    assert part.weights[name] is ones
    assert draws == []
    for other in others:
        np.testing.assert_array_equal(part.weights[other], whole.weights[other])
    assert part.weights[name] is ones


def test_the_numbers_of_a_seed() -> None:
    """Those that the generator of the seed gives in the order of the weights."""
    layer = xrnn.LSTM(3, 5, num_layers=2, rng=7)
    random = np.random.default_rng(7)
    for k, I in enumerate((3, 5)):
        limit = (6 / (I + 5)) ** 0.5
        W = random.uniform(-limit, limit, (20, I))
        np.testing.assert_array_equal(layer.weights[f"W_l{k}"], W.astype("float32"))
        Q, R = zip(*[np.linalg.qr(random.normal(size=(5, 5))) for _ in range(4)], strict=True)
        U = np.concatenate([q * np.sign(np.diag(r)) for q, r in zip(Q, R, strict=True)])
        np.testing.assert_array_equal(layer.weights[f"U_l{k}"], U.astype("float32"))


@every_maker
def test_seeds_and_generators(make: Any) -> None:
    """The same numbers; what a user's own generator gives next does not depend on when."""
    generator, other = np.random.default_rng(5), np.random.default_rng(5)
    seed = np.random.SeedSequence(5)
    parts = [make(rng=5), make(rng=np.int64(5)), make(rng=seed), make(rng=generator)]
    after = generator.random()
    first = {name: w.copy() for name, w in parts[0].weights.items()}
    for part in parts:
        for name, w in part.weights.items():
            np.testing.assert_array_equal(w, first[name])
    for w in make(rng=other).weights.values():
        assert w.size
    assert other.random() == after
    assert seed.spawn(1)[0].spawn_key == (0,)


@every_maker
def test_without_a_seed_all_differ(make: Any) -> None:
    name = next(iter(make().weights))
    assert (make().weights[name] != make().weights[name]).any()


@every_maker
def test_copies_and_moves_draw_first(make: Any) -> None:
    forms: list[Any] = [
        copy.copy,
        copy.deepcopy,
        lambda part: pickle.loads(pickle.dumps(part)),
        lambda part: copy.deepcopy(part).freeze(),
        lambda part: copy.deepcopy(part).to("array_api_strict").to("cpu"),
    ]
    for form in forms:
        part = make()
        twin = form(part)
        for name, w in part.weights.items():
            np.testing.assert_array_equal(twin.weights[name], w)


def test_threads_get_the_same_arrays() -> None:
    for _ in range(10):
        layer = xrnn.LSTM(16, 16)
        found: list[Any] = []
        ready = threading.Barrier(8)

        def read(layer: Any, found: list[Any], ready: threading.Barrier) -> None:
            ready.wait()
            found.append([id(w) for w in layer.weights.values()])

        threads = [threading.Thread(target=read, args=(layer, found, ready)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [found[0]] * 8


def test_an_attempt_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, qr = xrnn.LSTM(3, 5, rng=0), np.linalg.qr

    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(np.linalg, "qr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        layer(np.zeros((2, 2, 3), "float32"))
    monkeypatch.setattr(np.linalg, "qr", qr)
    for name, w in xrnn.LSTM(3, 5, rng=0).weights.items():
        np.testing.assert_array_equal(layer.weights[name], w)


@pytest.mark.parametrize("wrong", ["1", None, [1.0], 1j])
def test_what_cannot_be_drawn_is_an_error_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"lstm: forget_bias is .*; it must be a finite number"):
        xrnn.LSTM(3, 5, forget_bias=wrong)
    with pytest.raises(ValueError, match=r"lstm: init is .*; it must be 'orthogonal' or"):
        xrnn.LSTM(3, 5, init=wrong)
    for make in MAKERS.values():
        with pytest.raises((TypeError, ValueError), match=r"rng is .*; it must be None, an int"):
            make(rng=-1 if wrong is None else wrong)
