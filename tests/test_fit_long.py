"""`xrnn.fit` on long sequences: fewer states in memory, and truncated backpropagation."""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import losses
from xrnn.backends.cpu import extension
from xrnn.learn.trees import leaves
from xrnn.training.batches import Dataset

QUIET: Any = {"progress": False, "rng": 0}
LOSS = losses.squared_error
LENGTHS = (11, 4, 9, 11, 1, 7)


def data(targets: int = 2) -> tuple[list[Any], list[Any]]:
    """Sequences of unequal length, and a target for each of their steps."""
    rng = np.random.default_rng(0)
    return tuple([rng.normal(size=(n, m)) for n in LENGTHS] for m in (3, targets))  # type: ignore[return-value]


def model(dropout: float = 0.0, batch_first: bool = False) -> xrnn.Sequential:
    return xrnn.Sequential(
        xrnn.LSTM(3, 4, 2, rng=0, dropout=dropout, batch_first=batch_first),
        xrnn.Linear(4, 2, rng=1),
    )


def weights(one: Any) -> list[Any]:
    return [holder[name].copy() for _, holder, name in leaves(one.weights, "weights")]


def assert_same(one: Any, other: Any) -> None:
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)


def sgd() -> xrnn.optim.Optimizer:
    return xrnn.optim.SGD(0.1)


def seq2seq() -> Any:
    return xrnn.Seq2Seq(
        encoder=xrnn.GRU(3, 4, rng=0),
        decoder=xrnn.GRU(2, 4, rng=1),
        readout=xrnn.Linear(4, 2, rng=2),
    )


class TestRecompute:
    MODELS: Any = {  # noqa: RUF012
        "dropout": partial(model, dropout=0.4),
        "layer": lambda: xrnn.GRU(3, 2, rng=0),
        "both": lambda: xrnn.LSTM(3, 1, bidirectional=True, rng=0),
        "half": lambda: xrnn.LSTM(3, 2, dtype="float16", rng=0),
    }

    @pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
    @pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
    @pytest.mark.parametrize("k", [1, 3, np.int64(100), "sqrt"])
    def test_the_same_bits_by_the_native_loops(self, make: Any, k: Any) -> None:
        one, other = make(), make()
        how: Any = {"epochs": 3, "batch_size": 4, "validation": data(), **QUIET}
        before = xrnn.fit(one, data(), LOSS, **how)
        after = xrnn.fit(other, data(), LOSS, recompute=k, **how)
        assert_same(one, other)
        assert (before["loss"], before["validation"]) == (after["loss"], after["validation"])

    def test_it_reaches_forward_in_training_alone(self) -> None:
        one, seen = model(), []
        forward = one.forward

        def watched(x: Any, lengths: Any = None, checkpoint: Any = None) -> Any:
            seen.append(checkpoint)
            return forward(x, lengths=lengths, checkpoint=checkpoint)

        one.forward = watched  # type: ignore[method-assign, assignment]
        xrnn.fit(one, data(), LOSS, recompute="sqrt", validation=data(), epochs=2, **QUIET)
        assert seen == ["sqrt"] * 2

    def test_of_two_inputs(self) -> None:
        sources, targets = data()
        found = [seq2seq() for _ in range(2)]
        for one, k in zip(found, (None, 2), strict=True):
            xrnn.fit(one, ((sources, targets), targets), LOSS, recompute=k, epochs=2, **QUIET)
        for a, b in zip(*map(weights, found), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)

    def test_the_memory(self) -> None:
        x = np.random.default_rng(0).normal(size=(3000, 2, 3)).astype("float32")
        peaks = []
        for k in (None, "sqrt"):
            one = xrnn.Sequential(xrnn.LSTM(3, 32, rng=0), xrnn.Linear(32, 1, rng=1))
            xrnn.fit(one, [(x[:9], x[:9, :, :1])], LOSS, epochs=1, **QUIET)  # kernels are verified
            tracemalloc.start()
            try:
                xrnn.fit(one, [(x, x[..., :1])], LOSS, epochs=1, recompute=k, **QUIET)
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
        assert peaks[1] < 0.5 * peaks[0]

    @pytest.mark.parametrize("wrong", [0, -1, 2.0, "log", True, (1, 2)])
    def test_what_is_no_number_of_steps(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match=r"fit: recompute is .*; it must be an integer k ≥ 1"):
            xrnn.fit(model(), data(), LOSS, recompute=wrong, **QUIET)

    def test_of_a_model_without_states(self) -> None:
        with pytest.raises(
            ValueError, match="recompute is 3, and forward of the model takes no ch"
        ):
            xrnn.fit(xrnn.Linear(3, 2), data(), LOSS, recompute=3, **QUIET)


def batches(batch_first: bool = False) -> list[Any]:
    """All sequences, as one batch in the order of `fit`."""
    order = np.argsort(LENGTHS, kind="stable")
    x, y = ([part[n] for n in order] for part in data())
    how: Any = {"batch_first": batch_first}
    both = [xrnn.pad([one.astype("float32") for one in part], **how)[0] for part in (x, y)]
    return [(*both, np.sort(LENGTHS))]


class TestTruncate:
    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("k1", [1, 3, 11])
    @pytest.mark.parametrize("k2", [3, 7, 11])
    def test_it_is_the_loop_of_xrnn_truncated(self, k1: int, k2: int, batch_first: bool) -> None:
        if k2 < k1:
            return
        one, other = (model(batch_first=batch_first) for _ in range(2))
        ((x, y, lengths),) = batches(batch_first)
        how: Any = {"epochs": 2, "clip": None, **QUIET}
        history = xrnn.fit(
            one, batches(batch_first), LOSS, optimizer=sgd(), truncate=(k1, k2), **how
        )
        optimizer, rows = sgd(), []
        for _ in range(2):
            total = 0.0
            for window in xrnn.truncated(other, x, k1, k2, lengths=lengths):
                start, stop = window.steps.start, window.steps.stop
                valid = np.arange(start, stop)[:, None] < lengths
                part = y[:, start:stop] if batch_first else y[start:stop]
                loss, dys = LOSS(window.ys, part, valid.T if batch_first else valid)
                total += float(loss) * valid.sum()
                optimizer.update(other.weights, window.backward(dys)[1])
            rows.append(total / sum(LENGTHS))
        assert_same(one, other)
        np.testing.assert_allclose(history["loss"], rows, rtol=1e-12)

    @pytest.mark.parametrize("k", [11, 12, (11, 50), [20, 20]])
    def test_one_window_is_the_whole(self, k: Any) -> None:
        one, other = model(dropout=0.3), model(dropout=0.3)
        how: Any = {"epochs": 3, "batch_size": 4, **QUIET}
        before = xrnn.fit(one, data(), LOSS, **how)
        after = xrnn.fit(other, data(), LOSS, truncate=k, **how)
        assert_same(one, other)
        assert before["loss"] == after["loss"]

    def test_a_loss_that_takes_lengths(self) -> None:
        def loss(y: Any, targets: Any, lengths: Any = None) -> Any:
            valid = np.arange(len(y))[:, None] < lengths
            return LOSS(y, targets, valid)

        one, other = model(), model()
        for net, own in ((one, LOSS), (other, loss)):
            xrnn.fit(net, data(), own, truncate=(2, 4), epochs=2, **QUIET)
        assert_same(one, other)

    def test_steps_and_the_schedule_are_those_of_batches(self) -> None:
        steps: list[int] = []

        def schedule(step: int) -> float:
            steps.append(step)
            return 0.01

        xs = np.zeros((6, 2, 3), "float32")
        given = (xrnn.GRU(3, 2, rng=0), [(xs, xs[..., :2])] * 2, LOSS)
        history = xrnn.fit(*given, truncate=2, schedule=schedule, epochs=1, **QUIET)
        assert (history["step"], steps) == ([2], [0, 0, 0, 1, 1, 1])

    def test_windows_in_which_nothing_counts(self) -> None:
        """Padding of the user, past the ends of all sequences."""
        x, y = np.zeros((9, 2, 3), "float32"), np.full((9, 2, 2), np.nan, "float32")
        x[4:] = np.nan
        y[:4] = 1
        history = xrnn.fit(
            xrnn.GRU(3, 2, rng=0), [(x, y, [4, 2])], LOSS, truncate=3, epochs=1, **QUIET
        )
        assert np.isfinite(history["loss"]).all()
        assert history.skipped == 0

    def test_the_state_is_carried_to_the_next_batch(self) -> None:
        """One batch is as two of its halves, if gradients do not go back to the first one."""
        rng = np.random.default_rng(0)
        x, y = (rng.normal(size=(12, 2, n)).astype("float32") for n in (3, 2))
        found = []
        for cut in ([(x, y)], [(x[:6], y[:6]), (x[6:], y[6:])]):
            found.append(model())
            how: Any = {"carry_state": True, "clip": None, "optimizer": sgd(), **QUIET}
            xrnn.fit(found[-1], cut, LOSS, truncate=3, epochs=2, **how)
        assert_same(*found)

    @pytest.mark.filterwarnings("ignore:fit. 1 of 3 updates")
    def test_after_what_is_not_finite_the_batch_is_left_out(self) -> None:
        x, y = np.zeros((9, 2, 3), "float32"), np.zeros((9, 2, 2), "float32")
        bad = y.copy()
        bad[4] = np.nan
        one, other, starts = xrnn.GRU(3, 2, rng=0), xrnn.GRU(3, 2, rng=0), []
        forward = one.forward

        def watched(x: Any, state: Any = None, **how: Any) -> Any:
            starts.append(state is None)
            return forward(x, state, **how)

        one.forward = watched  # type: ignore[method-assign, assignment]
        how: Any = {"truncate": 3, "epochs": 1, "optimizer": sgd(), **QUIET}
        history = xrnn.fit(one, [(x, y), (x, bad), (x, y)], LOSS, carry_state=True, **how)
        assert (history.skipped, len(starts)) == (1, 3 + 2 + 3)
        assert [n for n, start in enumerate(starts) if start] == [0, 5], "and starts anew"
        how["optimizer"] = sgd()
        xrnn.fit(other, [(x, y), (x[:3], y[:3])], LOSS, carry_state=True, **how)
        how["optimizer"] = sgd()
        xrnn.fit(other, [(x, y)], LOSS, **how)
        assert_same(one, other)

    @pytest.mark.parametrize(
        ("truncate", "words"),
        [
            (0, "fit: truncate: k1 is 0; it must be an integer ≥ 1"),
            ((2, 1.5), r"fit: truncate: k2 is 1\.5; it must be an integer"),
            ((4, 3), "fit: truncate: k1 is 4 and k2 is 3; k2 must be at least k1"),
            ((1, 2, 3), r"fit: truncate is \(1, 2, 3\); it must be \(k1, k2\)"),
            ("sqrt", "fit: truncate: k1 is 'sqrt'; it must be an integer"),
            (True, "fit: truncate: k1 is True; it must be an integer"),
        ],
        ids=str,
    )
    def test_what_are_no_numbers(self, truncate: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            xrnn.fit(model(), data(), LOSS, truncate=truncate, **QUIET)

    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: xrnn.LSTM(3, 1, bidirectional=True), ValueError, "model is bidirectional, "),
            (lambda: xrnn.GRU(3, 2, reverse=True), ValueError, "model is reverse, and starts at"),
            (seq2seq, TypeError, "model is Seq2Seq; it must be a layer, or a Sequential"),
            (lambda: xrnn.Linear(3, 2), TypeError, "model is Linear; it must be a layer, or a Seq"),
            (
                lambda: xrnn.Sequential(xrnn.GRU(3, 2), xrnn.Last()),
                ValueError,
                "1 needs whole sequences; leave it out",
            ),
        ],
    )
    def test_what_is_no_model_for_it(self, make: Any, error: Any, words: str) -> None:
        with pytest.raises(error, match=f"fit: truncate is given: {words}"):
            xrnn.fit(make(), data(), LOSS, truncate=3, **QUIET)

    def test_losses_and_targets_of_whole_sequences(self) -> None:
        with pytest.raises(ValueError, match="truncate is given, and loss takes target_lengths"):
            xrnn.fit(model(), (data()[0], [[1]] * 6), losses.ctc, truncate=3, **QUIET)
        x, y = np.zeros((6, 2, 3), "float32"), np.zeros((2, 2), "float32")
        with pytest.raises(ValueError, match=r"y has shape \(2, 2\) and x \(6, 2, 3\); there must"):
            xrnn.fit(model(), [(x, y)], LOSS, truncate=3, **QUIET)


@pytest.mark.parametrize("how", [{"truncate": (2, 5)}, {"truncate": 3, "recompute": 2}], ids=str)
def test_a_run_goes_on_to_the_same_bits(how: Any, tmp_path: Path) -> None:
    known: Any = {"batch_size": 2, **how, **QUIET}
    whole = model(dropout=0.3)
    expected = xrnn.fit(whole, data(), LOSS, epochs=4, **known)
    for steps in (4, 7, 12):
        one = model(dropout=0.3)
        history = xrnn.fit(
            one, data(), LOSS, steps=steps, checkpoint=tmp_path / "run", resume=True, **known
        )
    assert_same(one, whole)
    assert history["loss"][-1] == pytest.approx(expected["loss"][-1])


def test_some_steps_of_a_batch() -> None:
    from xrnn.engine.checks import Placement

    placement = Placement.of("x", "x", np.zeros(1))
    whole = Dataset(*data()).batch(np.array([1, 2]), placement, False, "steps")
    some = whole.between(slice(3, 6), 0)
    np.testing.assert_array_equal(some.inputs[0], whole.inputs[0][3:6])
    np.testing.assert_array_equal(some.y, whole.y[3:6])
    assert some.lengths[0].tolist() == [1, 3]  # type: ignore[union-attr]
    assert some.mask.tolist() == [[True, True], [False, True], [False, True]]  # type: ignore[union-attr]
    assert (some.counted, whole.counted) == (4, 13)
