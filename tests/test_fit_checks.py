"""`xrnn.fit`: what it refuses, and what it says of numbers that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import losses
from xrnn.training.measures import RESERVED

QUIET: Any = {"progress": False, "rng": 0}
LOSS = losses.softmax_cross_entropy


def data(n: int = 20) -> tuple[list[Any], Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(4, 2)) for _ in range(n)], rng.integers(0, 2, n)


def model(first: Any = None, pool: Any = None) -> xrnn.Sequential:
    first = xrnn.GRU(2, 8, rng=0) if first is None else first
    return xrnn.Sequential(first, pool or xrnn.Last(), xrnn.Linear(8, 2, rng=1))


class TestAnotherRun:
    """A checkpoint with whose weights another run could go on is refused, and nothing changes."""

    @pytest.mark.parametrize(
        ("one", "other", "words"),
        [
            ({}, {"pool": xrnn.Mean()}, "kind is 'last' in the file, 'mean' here"),
            (
                {"first": xrnn.RNN(2, 8, rng=0)},
                {"first": xrnn.RNN(2, 8, nonlinearity="relu", rng=0)},
                "cell is 'rnn",
            ),
            ({}, {"first": xrnn.GRU(2, 8, clip=1.0, rng=0)}, "cell is 'gru"),
            ({}, {"first": xrnn.GRU(2, 8, zoneout=0.1, rng=0)}, "cell is 'gru"),
            ({}, {"first": xrnn.GRU(2, 8, reverse=True, rng=0)}, "reverse is False in the file"),
        ],
    )
    def test_of_another_model(self, one: Any, other: Any, words: str, tmp_path: Path) -> None:
        how: Any = {"checkpoint": tmp_path / "run", "resume": True, **QUIET}
        xrnn.fit(model(**one), data(), LOSS, epochs=1, **how)
        second = model(**other)
        before = second(np.ones((3, 1, 2), "float32"))
        with pytest.raises(ValueError, match=f"is the checkpoint of another model: .*{words}"):
            xrnn.fit(second, data(), LOSS, epochs=2, **how)
        np.testing.assert_array_equal(second(np.ones((3, 1, 2), "float32")), before)
        xrnn.fit(model(**one), data(), LOSS, epochs=2, **how)

    def test_of_another_learning_rate(self, tmp_path: Path) -> None:
        def run(lr: float, epochs: int, **more: Any) -> Any:
            optimizer = xrnn.optim.Adam(lr)
            how = {"checkpoint": tmp_path / "run", "resume": True, **QUIET, **more}
            xrnn.fit(model(), data(), LOSS, optimizer=optimizer, epochs=epochs, **how)
            return optimizer.lr

        run(0.01, 1)
        with pytest.raises(ValueError, match=r"another run: lr was 0\.01 and is 0\.02 now"):
            run(0.02, 2)
        assert run(0.01, 2) == 0.01
        assert run(0.02, 3, schedule=lambda step: 0.5) == 0.5, "a schedule says it"
        assert run(0.5, 4) == 0.5, "that which the same optimizer had at the end"

    @pytest.mark.parametrize(("before", "words"), [(None, "was without"), (0.2, "was with")])
    def test_of_other_validation_data(self, before: Any, words: str, tmp_path: Path) -> None:
        """Also where the numbers of sequences that are trained on agree."""
        how: Any = {"checkpoint": tmp_path / "run", "resume": True, "epochs": 1, **QUIET}
        xrnn.fit(model(), data(), LOSS, validation=data() if before else None, **how)
        with pytest.raises(ValueError, match=f"another run: it {words} validation data and is"):
            xrnn.fit(model(), data(), LOSS, validation=None if before else data(), **how)

    def test_parts_of_a_user_have_no_configuration(self, tmp_path: Path) -> None:
        class Twice:
            weights: Any = {}  # noqa: RUF012

            def __call__(self, x: Any) -> Any:
                return 2 * x

            def forward(self, x: Any) -> Any:
                return 2 * x, None

            def backward(self, tape: Any, dy: Any) -> Any:
                return 2 * dy, {}

        how: Any = {"checkpoint": tmp_path / "run", "resume": True, **QUIET}
        for epochs in (1, 2):
            one = xrnn.Sequential(xrnn.GRU(2, 8, rng=0), xrnn.Last(), Twice(), xrnn.Linear(8, 2))
            history = xrnn.fit(one, data(), LOSS, epochs=epochs, **how)
        assert len(history) == 2


class TestNotFinite:
    def test_no_update_at_all(self) -> None:
        x, y = data()
        one = model()
        before = one.weights["0"]["W_l0"].copy()
        x[3] = x[3] * np.nan
        with pytest.raises(FloatingPointError, match="the gradients of all 4 batches are not fin"):
            xrnn.fit(one, (x, y), LOSS, epochs=4, **QUIET)
        np.testing.assert_array_equal(one.weights["0"]["W_l0"], before)

    def test_some_updates(self) -> None:
        x, y = data()
        x[3] = x[3] * np.nan
        words = "fit: 2 of 10 updates were left out, because a gradient was not finite"
        with pytest.warns(RuntimeWarning, match=words) as told:
            history = xrnn.fit(model(), (x, y), LOSS, epochs=2, batch_size=4, **QUIET)
        assert history.skipped == 2
        assert [one.filename for one in told] == [__file__], "it points to the caller"

    def test_the_validation_loss(self) -> None:
        """The row of such a loss is named, and is not the best one."""
        x, y = data()
        losses_of_rows = iter([np.nan, 0.5, np.inf])

        def loss(y: Any, targets: Any) -> Any:
            value, dy = LOSS(y, targets)
            return (next(losses_of_rows) if len(targets) == 3 else value), dy

        with pytest.warns(RuntimeWarning) as told:
            history = xrnn.fit(
                model(), (x, y), loss, validation=(x[:3], y[:3]), epochs=3, batch_size=20, **QUIET
            )
        words = [str(one.message).partition(";")[0] for one in told]
        assert words == [
            "fit: the validation loss of row 1 is nan",
            "fit: the validation loss of row 3 is inf",
        ]
        assert history.best == 2


class TestMetrics:
    @pytest.mark.parametrize(
        ("metrics", "kind", "words"),
        [
            *(
                ({name: LOSS}, ValueError, f"metrics has the name '{name}', and epoch, loss, val")
                for name in RESERVED
            ),
            ("accuracy", TypeError, "metrics is 'accuracy'; it must be a mapping of names"),
            ({"mean": 3}, TypeError, r"metrics\['mean'\] is 3; it must be a function"),
            ({3: LOSS}, TypeError, "metrics has the name 3; names must be str"),
            (
                {"own": lambda y, targets: y[:, 0]},
                TypeError,
                r"metrics\['own'\] returns a ndarray of shape \(20,\); it must return one number",
            ),
            ({"own": lambda y, targets: None}, TypeError, "returns a NoneType; it must return one"),
        ],
    )
    def test_what_is_refused(self, metrics: Any, kind: type[Exception], words: str) -> None:
        with pytest.raises(kind, match=f"fit: .*{words}"):
            xrnn.fit(model(), data(), LOSS, validation=data(), metrics=metrics, **QUIET)

    def test_without_validation_data(self) -> None:
        metrics: Any = {"own": lambda y, targets: 1.0}
        with pytest.raises(ValueError, match="metrics are own and validation is not given"):
            xrnn.fit(model(), data(), LOSS, metrics=metrics, **QUIET)
        with_them = xrnn.fit(
            model(), data(), LOSS, metrics=metrics, validation=0.2, epochs=1, **QUIET
        )
        assert with_them["own"] == [1.0]


@pytest.mark.parametrize("word", ["bidirectional", "reverse"])
def test_no_state_is_carried_from_the_end_of_sequences(word: str) -> None:
    how: Any = {word: True, "rng": 0}
    batches = [(np.ones((4, 3, 2)), np.ones((4, 3, 2)))] * 2
    nested = xrnn.Sequential(block=xrnn.Residual(rnn=xrnn.GRU(2, 2 - (word != "reverse"), **how)))
    for one, name in ((xrnn.GRU(2, 8, **how), "model"), (nested, "rnn")):
        with pytest.raises(ValueError, match=f"carry_state is True: {name} is {word}, and starts"):
            xrnn.fit(one, batches, losses.squared_error, carry_state=True, **QUIET)


class TestIterators:
    """What can be gone through once is refused before training, if it may have to be twice."""

    def test_training_data(self) -> None:
        batches = [(np.ones((4, 3, 2), "float32"), np.ones(3, int))] * 2
        how: Any
        for how in ({}, {"epochs": 2}, {"every": 1}):
            given = iter(batches)
            with pytest.raises(ValueError, match="fit: data is a list_iterator, an iterator, wh"):
                xrnn.fit(model(), given, LOSS, **how, **QUIET)
            assert len(list(given)) == 2, "nothing was read"
        for how in ({"epochs": 1}, {"steps": 2}):
            history = xrnn.fit(model(), iter(batches), LOSS, **how, **QUIET)
            assert history["step"][-1] == 2

    def test_validation_data(self) -> None:
        batches = [(np.ones((4, 3, 2), "float32"), np.ones(3, int))] * 2
        how: Any
        for how in ({}, {"epochs": 1, "every": 1}, {"steps": 5}):
            with pytest.raises(ValueError, match="fit: validation is a list_iterator, an iter"):
                xrnn.fit(model(), batches, LOSS, validation=iter(batches), **how, **QUIET)
        history = xrnn.fit(model(), batches, LOSS, validation=iter(batches), epochs=1, **QUIET)
        assert len(history["validation"]) == 1


def test_an_object_array() -> None:
    x, y = data(3)
    x[0] = x[0][:2]
    given = np.empty(3, object)
    given[:] = x
    with pytest.raises(TypeError, match=r"x is an object array; give list\(x\)"):
        xrnn.fit(model(), (given, y), LOSS, **QUIET)
    with pytest.raises(TypeError, match=r"y is an object array; give list\(y\)"):
        xrnn.fit(model(), (x, given), LOSS, **QUIET)
    assert len(xrnn.fit(model(), (list(given), y), LOSS, epochs=1, **QUIET)) == 1


def test_data_without_targets() -> None:
    x, _ = data()
    with pytest.raises(TypeError, match="fit: y of data is None; it must hold the targets"):
        xrnn.fit(model(), (x, None), LOSS, **QUIET)


@pytest.mark.parametrize("first", [False, True])
def test_a_batch_of_no_sequence(first: bool) -> None:
    one = xrnn.GRU(2, 2, rng=0, batch_first=first)
    shape = (0, 4, 2) if first else (4, 0, 2)
    empty = np.zeros(shape, "float32")
    full = np.ones((4, 4, 2), "float32")
    with pytest.raises(ValueError, match="a batch must hold at least one sequence"):
        xrnn.fit(one, [(full, full), (empty, empty)], losses.squared_error, **QUIET)


@pytest.mark.parametrize("labels", [["a", "b"] * 10, np.array(["a", "b"] * 10), [True, False] * 10])
def test_labels_that_are_no_integers(labels: Any) -> None:
    x, _ = data()
    with pytest.raises(TypeError, match=r"y is .*; it must be .* integers .*; number others 0, 1,"):
        xrnn.fit(model(), (x, labels), LOSS, **QUIET)
    numbers = np.unique(labels, return_inverse=True)[1]
    assert len(xrnn.fit(model(), (x, numbers), LOSS, epochs=1, **QUIET)) == 1
