"""`xrnn.fit` and `xrnn.predict`: sequences of unequal length, early stopping, resuming."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import losses
from xrnn.training.batches import Dataset

QUIET: Any = {"progress": False}


def signs(n: int = 60, seed: int = 0) -> tuple[list[Any], Any]:
    """Sequences of unequal length, and whether the sum of their first input is positive."""
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(length, 2)) for length in rng.integers(1, 9, n)]
    return x, np.array([one[:, 0].sum() > 0 for one in x]).astype(int)


def running(n: int = 40, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Sequences of unequal length, and their running sums."""
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(length, 1)) for length in rng.integers(1, 9, n)]
    return x, [np.cumsum(one[:, 0]) for one in x]


def classifier(dropout: float = 0.0, **how: Any) -> xrnn.Sequential:
    first = how.get("batch_first", False)
    return xrnn.Sequential(
        xrnn.GRU(2, 8, rng=0, **how),
        xrnn.Last(batch_first=first),
        xrnn.Dropout(dropout),
        xrnn.Linear(8, 2, rng=1, dtype=how.get("dtype", "float32")),
    )


def regressor() -> xrnn.Sequential:
    return xrnn.Sequential(xrnn.RNN(1, 8, rng=0), xrnn.Linear(8, 1, rng=1))


def weights(model: Any) -> list[Any]:
    return [w.copy() for part in model.weights.values() for w in part.values()]


def assert_same(a: list[Any], b: list[Any]) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def adam(lr: float = 0.02) -> xrnn.optim.Optimizer:
    return xrnn.optim.Adam(lr)


@pytest.mark.parametrize("how", [{}, {"batch_first": True}, {"dtype": "float64"}], ids=str)
def test_a_class_for_each_sequence(how: Any) -> None:
    model = classifier(**how)
    history = xrnn.fit(
        *(model, signs(200), losses.softmax_cross_entropy),
        validation=signs(100, seed=1),
        epochs=15,
        optimizer=adam(),
        rng=0,
        **QUIET,
    )
    assert history["accuracy"][-1] > 0.85
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    x, y = signs(100, seed=1)
    found = xrnn.predict(model, x, batch_size=7)
    assert (found.argmax(1) == y).mean() > 0.85


def test_a_number_for_each_step() -> None:
    model, (x, y) = regressor(), running()
    history = xrnn.fit(
        model, (x, y), losses.squared_error, epochs=40, optimizer=adam(), rng=0, **QUIET
    )
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    found = xrnn.predict(model, x, batch_size=3)
    assert [len(one) for one in found] == [len(one) for one in x]
    error = np.concatenate([(a[:, 0] - b) ** 2 for a, b in zip(found, y, strict=True)]).mean()
    assert error < 1.5 * history["loss"][-1]


def test_tokens_and_a_layer_alone() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 5, (40, 7))
    model = xrnn.Sequential(xrnn.Embedding(5, 4, rng=0), xrnn.GRU(4, 5, rng=1))
    before = xrnn.fit(
        model,
        (tokens, tokens),
        losses.softmax_cross_entropy,
        epochs=8,
        optimizer=adam(),
        rng=0,
        **QUIET,
    )
    assert before["loss"][-1] < 0.85 * before["loss"][0]
    layer = xrnn.RNN(2, 3, rng=0)
    x, y = rng.normal(size=(20, 5, 2)), np.tanh(rng.normal(size=(20, 5, 3)))
    history = xrnn.fit(layer, (x, y), losses.squared_error, epochs=5, rng=0, **QUIET)
    assert history["loss"][-1] < history["loss"][0]


def test_losses_are_means_over_what_counts() -> None:
    """Whatever the batches: with a learning rate that changes nothing they are those of all."""
    x, y = running(23)
    model = regressor()
    expected = np.concatenate(
        [(a[:, 0] - b) ** 2 for a, b in zip(xrnn.predict(model, x), y, strict=True)]
    ).mean()
    for size in (1, 4, 100):
        model, still = regressor(), xrnn.optim.SGD(1e-30)
        history = xrnn.fit(
            *(model, (x, y), losses.squared_error),
            validation=(x, y),
            epochs=1,
            batch_size=size,
            optimizer=still,
            rng=0,
            **QUIET,
        )
        assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
        assert history["validation"][0] == pytest.approx(expected, rel=1e-5)


def test_batches_hold_every_sequence_once_with_similar_lengths() -> None:
    x, y = signs(500)
    data = Dataset(x, y)
    order = data.order(16, 0)
    assert sorted(np.concatenate(order)) == list(range(500))
    spread = [np.ptp(data.lengths[0][places]) for places in order]
    assert np.mean(spread) < 2
    assert any((a != b).any() for a, b in zip(order, data.order(16, 1), strict=True))
    assert_same(order, data.order(16, 0))


def test_the_same_seed_gives_the_same_bits() -> None:
    runs = []
    for seed in (3, 3, 4):
        model = classifier(dropout=0.3)
        xrnn.fit(model, signs(), losses.softmax_cross_entropy, epochs=2, rng=seed, **QUIET)
        runs.append(weights(model))
    assert_same(runs[0], runs[1])
    assert any((a != b).any() for a, b in zip(runs[0], runs[2], strict=True))
    model = classifier(dropout=0.3)
    history = xrnn.fit(model, signs(), losses.softmax_cross_entropy, epochs=2, **QUIET)
    again = classifier(dropout=0.3)
    xrnn.fit(again, signs(), losses.softmax_cross_entropy, epochs=2, rng=history.seed, **QUIET)
    assert_same(weights(model), weights(again))


def test_the_best_weights_are_restored() -> None:
    x, y = signs(40)
    rng = np.random.default_rng(0)
    # Labels without a rule: the validation loss soon grows.
    model = classifier()
    history = xrnn.fit(
        *(model, (x, rng.integers(0, 2, 40)), losses.softmax_cross_entropy),
        validation=(x, rng.integers(0, 2, 40)),
        epochs=200,
        patience=4,
        optimizer=adam(0.05),
        rng=0,
        **QUIET,
    )
    assert history.stopped == "patience"
    assert history.best == 1 + int(np.argmin(history["validation"]))
    assert len(history) == history.best + 4
    again = xrnn.fit(
        *(model, (x, y), losses.softmax_cross_entropy),
        validation=(x, np.random.default_rng(0).integers(0, 2, (2, 40))[1]),
        epochs=1,
        optimizer=xrnn.optim.SGD(1e-30),
        rng=0,
        **QUIET,
    )
    assert again["validation"][0] == pytest.approx(min(history["validation"]), rel=1e-4)
    assert "best" in str(history)


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    how: Any = {"validation": 0.25, "patience": 9, "rng": 5, **QUIET}
    given: Any = (signs(), losses.softmax_cross_entropy)
    whole, optimizer = classifier(dropout=0.2), adam()
    expected = xrnn.fit(whole, *given, epochs=6, optimizer=optimizer, **how)
    model, path = classifier(dropout=0.2), tmp_path / "run"
    xrnn.fit(model, *given, epochs=2, optimizer=adam(), checkpoint=path, **how)
    other, fresh = classifier(dropout=0.2), adam()
    history = xrnn.fit(
        other, *given, epochs=6, optimizer=fresh, checkpoint=path, resume=True, **how
    )
    assert_same(weights(other), weights(whole))
    assert history["loss"] == expected["loss"]
    assert history["validation"] == expected["validation"]
    assert fresh.steps == optimizer.steps
    done = classifier(dropout=0.2)
    xrnn.fit(done, *given, epochs=6, optimizer=adam(), checkpoint=path, resume=True, **how)
    assert_same(weights(done), weights(whole))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    given: Any = (signs(), losses.softmax_cross_entropy)
    how: Any = {"checkpoint": path, "resume": True, "rng": 5, **QUIET}
    xrnn.fit(classifier(), *given, epochs=1, **how)
    with pytest.raises(ValueError, match="seed was 5 and is 6 now"):
        xrnn.fit(classifier(), *given, epochs=2, **(how | {"rng": 6}))
    with pytest.raises(ValueError, match="batch_size was 32 and is 7 now"):
        xrnn.fit(classifier(), *given, epochs=2, batch_size=7, **how)
    with pytest.raises(ValueError, match="was trained with Adam; give such an optimizer"):
        xrnn.fit(classifier(), *given, epochs=2, optimizer=xrnn.optim.SGD(0.1), **how)
    with pytest.raises(ValueError, match="is the checkpoint of another model"):
        xrnn.fit(regressor(), *given, epochs=2, **how)
    xrnn.save(path, xrnn.LSTM(2, 3))
    with pytest.raises(ValueError, match=r"is no checkpoint of xrnn\.fit"):
        xrnn.fit(classifier(), *given, epochs=2, **how)


def test_ctrl_c_keeps_what_was_learnt() -> None:
    calls = itertools.count()

    def loss(y: Any, targets: Any, mask: Any = None) -> Any:
        if next(calls) == 20:
            raise KeyboardInterrupt
        return losses.softmax_cross_entropy(y, targets, mask)

    model = classifier()
    before = weights(model)
    history = xrnn.fit(model, signs(), loss, epochs=50, rng=0, **QUIET)
    assert history.stopped == "interrupted"
    assert 0 < len(history) < 50
    assert (before[0] != weights(model)[0]).any()


def test_gradients_that_are_not_finite_end_training_with_the_weights_before() -> None:
    x, y = signs()
    x = [one * np.nan for one in x]
    model = classifier()
    before = weights(model)
    with pytest.raises(FloatingPointError, match="the gradients of 10 batches one after the other"):
        xrnn.fit(model, (x, y), losses.softmax_cross_entropy, batch_size=2, rng=0, **QUIET)
    assert_same(weights(model), before)


def test_a_batch_that_is_left_out_does_not_hide_the_others() -> None:
    x, y = running(20)
    x[3] = x[3] * np.nan
    how: Any = {"epochs": 20, "patience": 5, "batch_size": 1, "rng": 0, **QUIET}
    with pytest.warns(RuntimeWarning, match="fit: 20 of 400 updates were left out"):
        history = xrnn.fit(*(regressor(), (x, y), losses.squared_error), optimizer=adam(), **how)
    assert history.skipped == len(history) == 20
    assert history["loss"][-1] < history["loss"][0]
    assert history.best is not None


def test_batches_of_a_user() -> None:
    x = np.random.default_rng(0).normal(size=(6, 8, 1)).astype("float32")
    y = np.cumsum(x, axis=0)
    batches = [(x, y, [6, 5, 4, 3, 2, 1, 6, 6]), (x, y)]
    history = xrnn.fit(
        regressor(), batches, losses.squared_error, epochs=3, validation=batches, rng=0, **QUIET
    )
    assert len(history) == 3
    with pytest.raises(ValueError, match="gone through anew"):
        xrnn.fit(regressor(), iter(batches), losses.squared_error, epochs=3, rng=0, **QUIET)
    with pytest.raises(ValueError, match="an iterable, which cannot be split"):
        xrnn.fit(regressor(), batches, losses.squared_error, validation=0.1, rng=0, **QUIET)
    with pytest.raises(TypeError, match="it must give batches"):
        xrnn.fit(regressor(), [3], losses.squared_error, rng=0, **QUIET)


def test_schedule_and_clip() -> None:
    seen = []

    def schedule(step: int) -> float:
        seen.append(step)
        return 0.1 / (1 + step)

    optimizer = xrnn.optim.SGD(0.1)
    history = xrnn.fit(
        *(classifier(), signs(), losses.softmax_cross_entropy),
        epochs=2,
        batch_size=20,
        optimizer=optimizer,
        schedule=schedule,
        clip=None,
        rng=0,
        **QUIET,
    )
    assert seen == list(range(6))
    assert history["lr"] == [0.1 / 3, 0.1 / 6]


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    xrnn.fit(classifier(), signs(), losses.softmax_cross_entropy, validation=0.2, epochs=2, rng=0)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2
    assert shown[1].startswith("epoch 2 of 2: loss 0.")
    assert "validation 0." in shown[1]
    assert "accuracy 0." in shown[1]


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    history = xrnn.fit(
        classifier(),
        signs(),
        losses.softmax_cross_entropy,
        validation=0.2,
        epochs=3,
        rng=0,
        **QUIET,
    )
    history.plot(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(KeyError, match="there is no 'lost'; there are epoch, loss, validation"):
        history["lost"]


def test_on_every_library(device: str) -> None:
    if device in ("readonly", "array_api_strict"):
        pytest.skip("optimizers change weights in place, or need more functions")
    model = xrnn.Sequential(
        xrnn.GRU(2, 8, rng=0, device=device), xrnn.Last(), xrnn.Linear(8, 2, rng=1, device=device)
    )
    history = xrnn.fit(
        model,
        signs(200),
        losses.softmax_cross_entropy,
        validation=0.2,
        epochs=8,
        optimizer=adam(),
        rng=0,
        **QUIET,
    )
    assert history["accuracy"][-1] > 0.8


def test_what_is_refused() -> None:
    x, y = signs(10)
    good: Any = (classifier(), (x, y), losses.softmax_cross_entropy)
    for change, kind, words in [
        ({0: 3}, TypeError, "model is 3; it must be a part"),
        ({0: xrnn.Dropout(0.5)}, ValueError, "model has no weights"),
        ({1: 3}, TypeError, "data is a int; it must be a pair"),
        ({1: (x, y[:-1])}, ValueError, "x holds 10 sequences and y 9 targets"),
        ({1: ([], [])}, ValueError, "x holds no sequence"),
        ({1: ([1.0, 2.0], [0, 1])}, ValueError, "x holds single numbers"),
        ({1: (x, [str(n) for n in y])}, TypeError, "y is <U1"),
        ({2: 3}, TypeError, "loss is 3; it must be a function"),
        ({2: lambda y, t, m=None: 1.0}, TypeError, "loss returns a float; it must return"),
    ]:
        given = [change.get(n, one) for n, one in enumerate(good)]  # type: ignore[attr-defined]
        with pytest.raises(kind, match=words):
            xrnn.fit(*given, epochs=1, **QUIET)
    for how, words in [
        ({"epochs": 0}, "epochs is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"batch_size": 1.5}, r"batch_size is 1\.5"),
        ({"clip": 0}, "clip is 0"),
        ({"validation": 1.5}, r"validation is 1\.5"),
        ({"validation": 0.99}, "which leaves none to train on"),
        ({"resume": True}, "checkpoint is not given"),
        ({"rng": "a"}, "rng is 'a'"),
    ]:
        with pytest.raises((ValueError, TypeError), match=words):
            xrnn.fit(*good, **(QUIET | how))
    with pytest.raises(ValueError, match="y has an entry of shape"):
        xrnn.fit(regressor(), (running()[0], y.repeat(4)), losses.squared_error, **QUIET)


def test_an_empty_list_is_a_sequence_without_steps() -> None:
    """Of tokens and of targets as of the other lists, also where it is the first one."""
    x, y = [[], [1, 2, 2], [], [3]], [[], [0, 1, 1], [], [1]]
    model = xrnn.Sequential(xrnn.Embedding(4, 3, rng=0), xrnn.GRU(3, 2, rng=1))
    xrnn.fit(model, (x, y), losses.softmax_cross_entropy, epochs=1, **QUIET)
    found = xrnn.predict(model, x)
    assert [one.shape for one in found] == [(0, 2), (3, 2), (0, 2), (1, 2)]
    np.testing.assert_allclose(found[1], xrnn.predict(model, x[1:2])[0], atol=1e-6)
