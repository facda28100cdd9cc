"""`xrnn.fit` by steps: states that are carried, rows and checkpoints within an epoch, signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import losses
from xrnn.convert import files
from xrnn.learn.trees import leaves
from xrnn.training.loop import Loop
from xrnn.training.signals import TERMINATIONS, noted

QUIET: Any = {"progress": False}
LOSS = losses.squared_error


class Pieces:
    """Long sequences (T, B, 1) and their running sums, in pieces of some steps."""

    def __init__(self, steps: int, seed: int = 0, total: int = 24) -> None:
        x = np.random.default_rng(seed).normal(size=(total, 3, 1)).astype("float32")
        self.x, self.y, self.steps = x, np.cumsum(x, axis=0) / 3, steps

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for t in range(0, len(self.x), self.steps):
            yield self.x[t : t + self.steps], self.y[t : t + self.steps]


def model(dropout: float = 0.0, rng: int = 0) -> xrnn.Sequential:
    block = xrnn.Residual(rnn=xrnn.LSTM(4, 4, rng=rng + 2))
    first = xrnn.GRU(1, 4, 2, dropout=dropout, rng=rng)
    return xrnn.Sequential(first=first, block=block, out=xrnn.Linear(4, 1, rng=rng + 1))


def weights(one: Any) -> list[Any]:
    return [holder[name].copy() for _, holder, name in leaves(one.weights, "weights")]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


def still() -> xrnn.optim.Optimizer:
    return xrnn.optim.SGD(1e-30)


class Stop(Exception):
    """Ends a run as a kill does."""


def stop_at(n: int) -> Any:
    """A loss that ends the run when it is called for the n-th time."""
    calls = iter(range(10**6))

    def loss(y: Any, targets: Any, mask: Any = None) -> Any:
        if next(calls) == n:
            raise Stop
        return LOSS(y, targets, mask)

    return loss


class TestStates:
    @pytest.mark.parametrize("part", ["sequential", "layer"])
    def test_they_are_carried(self, part: str) -> None:
        """Losses are those of whole sequences, in training and in validation."""
        one: Any = model() if part == "sequential" else xrnn.LSTM(1, 1, rng=0)
        whole, _ = one.run(Pieces(5).x) if part == "sequential" else one(Pieces(5).x)
        expected = float(LOSS(whole, Pieces(5).y)[0])
        for carried in (True, False):
            history = xrnn.fit(
                *(one, Pieces(5), LOSS),
                validation=Pieces(7),
                carry_state=carried,
                epochs=2,
                optimizer=still(),
                **QUIET,
            )
            for name in ("loss", "validation"):
                near = [abs(value - expected) < 1e-5 for value in history[name]]
                assert near == [carried, carried], name

    def test_gradients_are_truncated(self) -> None:
        """Those of each piece, from the state that the one before has left."""
        one, other = model(), model()
        xrnn.fit(
            *(one, Pieces(8), LOSS),
            carry_state=True,
            epochs=1,
            optimizer=xrnn.optim.SGD(0.1),
            clip=None,
            **QUIET,
        )
        state, sgd = None, xrnn.optim.SGD(0.1)
        for x, y in Pieces(8):
            ys, tape = other.forward(x, state, seed=0)
            sgd.update(other.weights, other.backward(tape, LOSS(ys, y)[1])[1])
            state = tape.state
        assert same(weights(one), weights(other))

    def test_after_a_batch_that_is_left_out_they_start_anew(self) -> None:
        pieces = [(x, y.copy()) for x, y in Pieces(4)]
        pieces[2][1][:] = np.nan
        one, states = model(), []
        forward = one.forward

        def watched(x: Any, state: Any = None, **how: Any) -> Any:
            states.append(state)
            return forward(x, state, **how)

        one.forward = watched  # type: ignore[method-assign, assignment]
        with pytest.warns(RuntimeWarning, match="1 of 6 updates were left out"):
            history = xrnn.fit(one, pieces, LOSS, carry_state=True, epochs=1, **QUIET)
        assert [state is None for state in states] == [True, False, False, True, False, False]
        assert history.skipped == 1

    def test_what_has_none_is_refused(self) -> None:
        pool: Any = xrnn.Seq2Seq(
            encoder=xrnn.GRU(1, 2), decoder=xrnn.GRU(1, 2), readout=xrnn.Linear(2, 1)
        )
        with pytest.raises(TypeError, match="model is a Seq2Seq; for carry_state it must be"):
            xrnn.fit(pool, Pieces(5), LOSS, carry_state=True)
        pair = (Pieces(5).x, Pieces(5).y)
        with pytest.raises(ValueError, match="carry_state is True and data are sequences"):
            xrnn.fit(model(), pair, LOSS, carry_state=True)


class TestSteps:
    def test_rows_within_epochs(self) -> None:
        """6 batches in an epoch: every 4 steps, and what is left at the end."""
        history = xrnn.fit(model(), Pieces(4), LOSS, steps=15, every=4, rng=0, **QUIET)
        assert history["step"] == [4, 8, 12, 15]
        assert history["epoch"] == [1, 2, 2, 3]
        assert history.stopped == "steps"
        each = xrnn.fit(model(), Pieces(4), LOSS, steps=15, every=1, rng=0, **QUIET)["loss"]
        expected = [np.mean(each[a:b]) for a, b in ((0, 4), (4, 8), (8, 12), (12, 15))]
        np.testing.assert_allclose(history["loss"], expected, rtol=1e-6)

    def test_steps_and_epochs(self) -> None:
        def run(**how: Any) -> tuple[list[float], str]:
            history = xrnn.fit(model(), Pieces(4), LOSS, optimizer=still(), **how, **QUIET)
            return history["step"], history.stopped

        assert run(epochs=2) == ([6, 12], "epochs")
        assert run(steps=8) == ([6, 8], "steps")
        assert run(steps=8, epochs=1) == ([6], "epochs")
        assert run(steps=130)[0][-1] == 130, "more than the epochs that are usual"
        assert run(every=5, epochs=1) == ([5, 6], "epochs")
        assert run(every=2, epochs=3, patience=2, clip=None)[1] == "patience"

    def test_a_generator_without_an_end(self) -> None:
        def forever() -> Iterator[Any]:
            while True:
                yield from Pieces(4)

        history = xrnn.fit(model(), forever(), LOSS, steps=20, every=10, **QUIET)
        assert history["step"] == [10, 20]

    def test_the_last_weights_instead_of_the_best(self) -> None:
        how: Any = {"validation": Pieces(4, 1), "epochs": 6, "optimizer": None, "rng": 0, **QUIET}
        how["optimizer"] = xrnn.optim.SGD(1.0)  # overshoots
        best, last = model(), model()
        history = xrnn.fit(best, Pieces(4), LOSS, **how)
        assert history.best is not None
        other = xrnn.fit(
            last, Pieces(4), LOSS, **how | {"optimizer": xrnn.optim.SGD(1.0)}, keep_best=False
        )
        assert other.best is None
        for one, row in ((best, history.best - 1), (last, -1)):
            again = xrnn.fit(
                *(one, Pieces(4), LOSS),
                **how | {"epochs": 1, "optimizer": still()},
            )
            assert again["validation"][0] == pytest.approx(history["validation"][row], rel=1e-5)
        assert history["validation"][-1] != min(history["validation"])

    def test_a_callback_after_each_row(self, tmp_path: Path) -> None:
        found = []

        def callback(history: Any) -> None:
            step = files.read(tmp_path / "run")[1]["progress"]["step"]
            found.append((len(history), step))

        xrnn.fit(
            *(model(), Pieces(4), LOSS),
            steps=10,
            every=4,
            checkpoint=tmp_path / "run",
            callback=callback,
            **QUIET,
        )
        assert found == [(1, 4), (2, 8), (3, 10)]


class TestResuming:
    @pytest.mark.parametrize("killed", [1, 5, 9, 10, 16, 17])
    @pytest.mark.parametrize("every", [None, 4])
    def test_to_the_same_bits(self, killed: int, every: Any, tmp_path: Path) -> None:
        """Killed in any batch: weights, optimizer, states, rows and what is kept as the best."""
        path, how = tmp_path / "run", {"carry_state": True, "every": every, "rng": 1, **QUIET}
        how |= {"validation": Pieces(6, 1), "epochs": 3, "patience": 9}
        whole, adam = model(dropout=0.3), xrnn.optim.Adam(0.05)
        expected = xrnn.fit(whole, Pieces(4), LOSS, optimizer=adam, **how)
        given = {**how, "checkpoint": path, "resume": True}
        with pytest.raises(Stop):
            xrnn.fit(
                model(0.3), Pieces(4), stop_at(killed), optimizer=xrnn.optim.Adam(0.05), **given
            )
        again, other = model(dropout=0.3, rng=5 if path.exists() else 0), xrnn.optim.Adam(0.05)
        history = xrnn.fit(again, Pieces(4), LOSS, optimizer=other, **given)
        assert same(weights(again), weights(whole))
        assert other.state.keys() == adam.state.keys()
        assert all(np.array_equal(other.state[key], a) for key, a in adam.state.items())
        assert history.best == expected.best
        for name in ("epoch", "step", "loss", "validation", "lr"):
            assert history[name] == expected[name]

    def test_the_best_weights_are_those_of_before(self, tmp_path: Path) -> None:
        how: Any = {"validation": Pieces(4, 1), "epochs": 6, "rng": 0, **QUIET}
        whole, again = model(), model()
        rate = xrnn.optim.SGD(1.0)  # overshoots
        expected = xrnn.fit(whole, Pieces(4), LOSS, optimizer=rate, **how)
        assert expected.best is not None
        assert expected.best < 5
        how |= {"checkpoint": tmp_path / "run", "resume": True}
        with pytest.raises(Stop):  # 12 calls in an epoch
            xrnn.fit(model(), Pieces(4), stop_at(12 * 5 + 1), optimizer=xrnn.optim.SGD(1.0), **how)
        xrnn.fit(again, Pieces(4), LOSS, optimizer=xrnn.optim.SGD(1.0), **how)
        assert same(weights(again), weights(whole))

    @pytest.mark.parametrize("stopped", [1, 5, 6, 7, 12])
    def test_after_ctrl_c(self, stopped: int, tmp_path: Path, monkeypatch: Any) -> None:
        """The row of what was measured then is not in the checkpoint."""
        path, how = tmp_path / "run", {"carry_state": True, "rng": 1, "epochs": 3, **QUIET}
        how |= {"validation": Pieces(6, 1), "patience": 2}
        whole = model()
        expected = xrnn.fit(whole, Pieces(4), LOSS, **how)
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "_advance", interrupted(stopped, signal.SIGINT))
            history = xrnn.fit(model(), Pieces(4), LOSS, checkpoint=path, **how)
        assert history.stopped == "interrupted"
        assert history["step"][-1] == stopped
        again = model(rng=7)
        history = xrnn.fit(again, Pieces(4), LOSS, checkpoint=path, resume=True, **how)
        assert same(weights(again), weights(whole))
        assert history["step"] == expected["step"]
        assert history["loss"] == expected["loss"]

    def test_sequences_of_a_data_set(self, tmp_path: Path) -> None:
        """In the middle of an epoch its order goes on."""
        rng = np.random.default_rng(0)
        data = [rng.normal(size=(n, 1)) for n in rng.integers(1, 9, 30)], rng.normal(size=30)
        path, how = tmp_path / "run", {"steps": 13, "every": 2, "batch_size": 4, "rng": 2, **QUIET}

        def pooled() -> xrnn.Sequential:
            return xrnn.Sequential(xrnn.RNN(1, 3, rng=0), xrnn.Mean(), xrnn.Linear(3, 1, rng=1))

        whole, again = pooled(), pooled()
        xrnn.fit(whole, data, LOSS, **how)
        with pytest.raises(Stop):
            xrnn.fit(pooled(), data, stop_at(7), checkpoint=path, **how)
        xrnn.fit(again, data, LOSS, checkpoint=path, resume=True, **how)
        assert same(weights(again), weights(whole))

    def test_with_more_steps(self, tmp_path: Path) -> None:
        path, how = tmp_path / "run", {"carry_state": True, "every": 4, "rng": 1, **QUIET}
        whole, again = model(), model()
        xrnn.fit(whole, Pieces(4), LOSS, steps=16, **how)
        xrnn.fit(model(), Pieces(4), LOSS, steps=9, checkpoint=path, **how)
        history = xrnn.fit(again, Pieces(4), LOSS, steps=16, checkpoint=path, resume=True, **how)
        assert same(weights(again), weights(whole))
        assert history["step"] == [4, 8, 9, 12, 16]

    def test_what_need_not_be_that_of_before(self, tmp_path: Path) -> None:
        """The loss, the limit of gradients and options of the optimizer hold from there on."""
        again, calls = model(), []

        def other(y: Any, targets: Any) -> Any:
            calls.append(len(y))
            return losses.huber(y, targets)

        begun, how = model(), {"checkpoint": tmp_path / "run", "rng": 0, **QUIET}
        xrnn.fit(begun, Pieces(4), LOSS, steps=4, optimizer=xrnn.optim.SGD(1.0), **how)
        how |= {"steps": 7, "resume": True}
        xrnn.fit(again, Pieces(4), other, optimizer=xrnn.optim.SGD(1.0), clip=1e-5, **how)
        assert calls
        moved = [abs(a - b).max() for a, b in zip(weights(again), weights(begun), strict=True)]
        assert 0 < max(moved) < 3 * 1e-5 * 1.01
        found: list[Any] = []
        for beta1 in (0.9, 0.5):
            one, how["checkpoint"] = model(), tmp_path / f"{len(found)}"
            xrnn.fit(model(), Pieces(4), LOSS, **how | {"steps": 4})
            adam = xrnn.optim.Adam(beta1=beta1)
            xrnn.fit(one, Pieces(4), LOSS, optimizer=adam, **how)
            assert adam.config()["beta1"] == beta1
            found.append(weights(one))
        assert not same(*found)

    def test_a_seed_that_is_not_given(self, tmp_path: Path) -> None:
        """That of the checkpoint, unless validation data were chosen with it."""
        path, whole, again = tmp_path / "run", model(0.5), model(0.5)
        history = xrnn.fit(whole, Pieces(4), LOSS, steps=9, **QUIET)
        how: Any = {"checkpoint": path, "resume": True, **QUIET}
        xrnn.fit(model(0.5), Pieces(4), LOSS, steps=4, rng=history.seed, **how)
        assert xrnn.fit(again, Pieces(4), LOSS, steps=9, **how).seed == history.seed
        assert same(weights(again), weights(whole))
        data = list(np.ones((8, 5, 1))), list(np.ones((8, 5, 1)))
        path.unlink()
        xrnn.fit(model(), data, LOSS, steps=1, validation=0.5, rng=3, **how)
        with pytest.raises(ValueError, match=r"seed was 3 and is \d+ now; give rng=3"):
            xrnn.fit(model(), data, LOSS, steps=2, validation=0.5, **how)

    def test_metadata(self, tmp_path: Path) -> None:
        how: Any = {"steps": 1, "checkpoint": tmp_path / "run", **QUIET}
        xrnn.fit(model(), Pieces(4), LOSS, metadata={"note": [1, "a"]}, **how)
        assert files.read(tmp_path / "run")[1]["metadata"] == {"note": [1, "a"]}
        with pytest.raises(TypeError, match="metadata must be a JSON value"):
            xrnn.fit(model(), Pieces(4), LOSS, metadata={1: 2}, **how)


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C as a shell has it in the foreground."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(step: int, *numbers: int) -> Any:
    """A step of training during which signals come."""
    advance = Loop._advance

    def disturbed(loop: Loop, batch: Any) -> None:
        advance(loop, batch)
        if loop.progress.step == step:
            for number in numbers:
                signal.raise_signal(number)

    return disturbed


class TestSignals:
    def test_ctrl_c_completes_the_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = signal.getsignal(signal.SIGINT)
        monkeypatch.setattr(Loop, "_advance", interrupted(8, signal.SIGINT))
        one, whole = model(), model()
        history = xrnn.fit(one, Pieces(4), LOSS, rng=0, **QUIET)
        assert history.stopped == "interrupted"
        assert history["step"] == [6, 8]
        monkeypatch.undo()
        xrnn.fit(whole, Pieces(4), LOSS, rng=0, steps=8, **QUIET)
        assert same(weights(one), weights(whole))
        assert signal.getsignal(signal.SIGINT) is before

    def test_what_was_learnt_last_may_be_the_best(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Loop, "_advance", interrupted(8, signal.SIGINT))
        how: Any = {"validation": Pieces(4), "optimizer": xrnn.optim.Adam(0.005), **QUIET}
        history = xrnn.fit(model(), Pieces(4), LOSS, rng=0, **how)
        assert history["validation"][1] < history["validation"][0]
        assert history.best == 2

    def test_a_second_ctrl_c_interrupts_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Loop, "_advance", interrupted(3, signal.SIGINT, signal.SIGINT))
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            xrnn.fit(model(), Pieces(4), LOSS, **QUIET)
        assert signal.getsignal(signal.SIGINT) is before

    def test_ignored_ones_stay_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in the workers of a pool, whose first process alone is to see Ctrl-C."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        monkeypatch.setattr(Loop, "_advance", interrupted(3, signal.SIGINT))
        assert xrnn.fit(model(), Pieces(4), LOSS, epochs=1, **QUIET).stopped == "epochs"
        with noted(always=(signal.SIGINT,)) as seen:
            signal.raise_signal(signal.SIGINT)
            assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    @pytest.mark.parametrize("number", TERMINATIONS)
    def test_a_run_that_is_asked_to_end_is_saved(
        self, heard: None, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And the signal is passed on; without a checkpoint it is left alone."""
        path = tmp_path / "run"
        with noted(number) as seen:
            monkeypatch.setattr(Loop, "_advance", interrupted(3, number, number))
            history = xrnn.fit(model(), Pieces(4), LOSS, checkpoint=path, **QUIET)
            assert history.stopped == "interrupted"
            assert files.read(path)[1]["progress"]["step"] == 3
            assert seen == [number, number]
            history = xrnn.fit(model(), Pieces(4), LOSS, epochs=1, **QUIET)
            assert history.stopped == "epochs"
            assert len(seen) == 4
