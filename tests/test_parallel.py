"""`fit` on several ranks: the run of one process, whatever their number."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from parallel_runs import (
    CASES,
    F8,
    Case,
    assert_close,
    classes,
    regressor,
    rows,
    sums,
    trained,
    weights,
)
from ranks import together

import xrnn
from xrnn import losses
from xrnn.learn.parallel import World
from xrnn.training import buffer as buffers
from xrnn.training.buffer import Buffer
from xrnn.training.loop import Loop
from xrnn.training.model import Model

SIZES = (2, 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_a_run_on_several_ranks_is_that_of_one_process(name: str, size: int) -> None:
    history, alone = trained(CASES[name])
    ranks = together(size, lambda world: trained(CASES[name], world))
    again = together(size, lambda world: trained(CASES[name], world))
    assert max(abs(w - v).max() for w, v in zip(
        alone.values(), weights(CASES[name][0]()).values(), strict=True
    )) > 1e-3  # fmt: skip
    for (theirs, mine), (_, twice) in zip(ranks, again, strict=True):
        assert_close(mine, alone)
        for row, expected in zip(rows(theirs), rows(history), strict=True):
            assert row == pytest.approx(expected, rel=1e-9)
        for path, w in mine.items():
            np.testing.assert_array_equal(w, ranks[0][1][path])
            np.testing.assert_array_equal(w, twice[path])


def test_other_libraries(device: str) -> None:
    if device in ("readonly", "array_api_strict"):
        pytest.skip("optimizers change weights in place, or need more functions")
    how: Any = {"device": device, "rng": 0}

    def model() -> Any:
        return xrnn.Sequential(xrnn.GRU(2, 6, **how), xrnn.Linear(6, 1, **how))

    case: Case = model, sums(), losses.squared_error, {}
    _, alone = trained(case)
    for _, mine in together(2, lambda world: trained(case, world)):
        assert_close(mine, alone, 1e-5)


def test_half_precision_is_added_up_in_single() -> None:
    """The sum of gradients of 2⁻²⁴ and 1, which float16 does not have, is that of the ranks."""
    model = Model(xrnn.Linear(1, 2, bias=False, dtype="float16", rng=0))

    def added(world: World) -> Any:
        buffer = Buffer(model, world)
        g = np.asarray([[1.0], [2.0**-12]], "float16") if world.rank else np.ones((2, 1), "float16")
        return buffer.mean(lambda ready: {"W": g}, 1.0)(1.0)["W"].copy()

    for found in together(2, added):
        np.testing.assert_array_equal(found, np.asarray([[2.0], [1 + 2.0**-12]], "float32"))


class TestTheSameOnAll:
    @pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of NumPy
    def test_a_gradient_that_is_not_finite_is_left_out_by_all(self) -> None:
        x, y = sums()
        x[3][0, 0] = np.inf
        case: Case = regressor, (x, y), losses.squared_error, {}
        with pytest.warns(RuntimeWarning, match="2 of 6 updates were left out"):
            history, alone = trained(case)
        with pytest.warns(RuntimeWarning, match="2 of 6 updates were left out") as told:
            ranks = together(2, lambda world: trained(case, world))
        assert sum("left out" in str(warning.message) for warning in told) == 1
        for theirs, mine in ranks:
            assert theirs.skipped == history.skipped == 2
            assert_close(mine, alone)

    def test_the_callback_is_called_once_and_all_take_over_its_learning_rate(self) -> None:
        calls = []

        def run(world: World | None) -> Any:
            adam = xrnn.optim.Adam(0.01)

            def halve(history: Any) -> None:
                calls.append(len(history))
                adam.lr = adam.lr / 2

            return trained(CASES["each step"], world, optimizer=adam, callback=halve)

        _, alone = run(None)
        calls.clear()
        for history, mine in together(2, run):
            assert history["lr"] == [0.01, 0.005, 0.0025]
            assert_close(mine, alone)
        assert calls == [1, 2, 3]

    def test_all_begin_with_what_rank_0_has(self) -> None:
        """Weights, seed, and the moments of an optimizer that has been used."""

        def run(world: World) -> Any:
            model = xrnn.Sequential(xrnn.GRU(2, 4, rng=world.rank), xrnn.Linear(4, 1, rng=None))
            adam = xrnn.optim.Adam(0.01)
            for _ in range(world.rank + 1):
                adam.update(model.weights, model.weights)
            history = xrnn.fit(
                model, sums(), losses.squared_error, validation=0.3, epochs=1, batch_size=5,
                optimizer=adam, parallel=world, progress=False,
            )  # fmt: skip
            return history.seed, adam.steps, weights(model)

        (seed, steps, first), (its_seed, its_steps, second) = together(2, run)
        assert (seed, steps) == (its_seed, its_steps)
        assert_close(first, second, 0.0)

    def test_a_signal_to_one_rank_ends_all_after_the_same_step(self, tmp_path: Path) -> None:
        advance = Loop._advance

        def signalled(loop: Loop, share: Any) -> None:
            if loop.world.rank == 1 and loop.progress.step == 2:
                loop.seen.append(signal.SIGINT)
            advance(loop, share)

        with patch.object(Loop, "_advance", signalled):
            ranks = together(3, lambda world: trained(CASES["one target"], world))
        for history, mine in ranks:
            assert history.stopped == "interrupted"
            assert history["step"][-1] == 3
            assert_close(mine, ranks[0][1], 0.0)

    def test_other_options_or_data_are_refused(self) -> None:
        def run(world: World) -> Any:
            return trained(CASES["one target"], world, clip=1.0 + world.rank)

        with pytest.raises(ValueError, match=r"clip is 2\.0 in rank 1 and 1\.0 in rank 0"):
            together(2, run)
        case = CASES["one target"]
        with pytest.raises(ValueError, match="sequences is 10 in rank 1 and 9 in rank 0"):
            together(
                2,
                lambda world: trained((case[0], classes(13 + world.rank), *case[2:]), world),
            )

    def test_weights_that_differ_are_found(self) -> None:
        def run(world: World) -> Any:
            model = regressor()

            def loss(*given: Any) -> Any:
                if world.rank:
                    b = model.weights["1"]["b"]
                    b += 1e-9
                return losses.squared_error(*given)

            return xrnn.fit(model, sums(), loss, epochs=1, parallel=world, progress=False)

        with pytest.raises(RuntimeError, match="the weights of rank 1 are not those of rank 0"):
            together(2, run)


class TestCheckpoints:
    @pytest.mark.parametrize("name", ["one target", "carried state", "carried windows"])
    @pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 3), (3, 2)])
    def test_a_run_goes_on_with_another_number_of_ranks(
        self, name: str, first: int, second: int, tmp_path: Path
    ) -> None:
        how: Any = {"checkpoint": tmp_path / "run", "resume": True, "every": 2}
        _, alone = trained(CASES[name], epochs=None, steps=7, every=2)

        def run(steps: int) -> Callable[[World], Any]:
            return lambda world: trained(CASES[name], world, epochs=None, steps=steps, **how)

        together(first, run(4))
        for history, mine in together(second, run(7)):
            assert_close(mine, alone)
            assert history["step"] == [2, 4, 6, 7]

    def test_one_that_cannot_be_gone_on_with_is_refused_on_all(self, tmp_path: Path) -> None:
        path = tmp_path / "run"
        path.write_bytes(b"nothing")
        refused = []

        def run(world: World) -> None:
            with pytest.raises(ValueError, match="is no safetensors file"):
                trained(CASES["one target"], world, checkpoint=path, resume=True)
            refused.append(world.rank)

        together(2, run)
        assert sorted(refused) == [0, 1]


class TestOverlap:
    def test_sums_begin_while_the_backward_pass_goes_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the last part to the first, small ones together; shared weights at the end."""
        events: list[str] = []
        monkeypatch.setattr(buffers, "FEWEST", 100)
        big = xrnn.Embedding(7, 20, rng=0)
        model = xrnn.Sequential(
            first=big,
            small=xrnn.Linear(20, 4, rng=0),
            middle=xrnn.RNN(4, 20, rng=0),
            last=xrnn.Linear(20, 20, rng=0),
            tied=xrnn.TiedLinear(big),
        )

        class Noting(World):
            size = 2

            def add(self, buffer: Any) -> Callable[[], object]:
                events.append(f"sum of {buffer.size}")
                return lambda: events.append("waited")

        for name, part in model.parts.items():
            backward = part.backward

            def noted(*given: Any, name: str = name, backward: Any = backward, **how: Any) -> Any:
                events.append(name)
                return backward(*given, **how)

            object.__setattr__(part, "backward", noted)
        bound = Model(model)
        y, tape = model.forward(np.zeros((1, 1), int))
        buffer = Buffer(bound, Noting())
        mean = buffer.mean(lambda ready: bound._backward(tape, y, ready), 0.5)
        last, middle, small = (
            sum(w.size for w in model.weights[name].values())
            for name in ("last", "middle", "small")
        )
        assert events == [
            "tied", "last", f"sum of {last}", "middle", f"sum of {middle}", "small", "first",
            f"sum of {buffer.array.size - last - middle}",
        ]  # fmt: skip
        assert buffer.array.size > last + middle + small + 7 * 20
        gradients = mean(1.0)
        assert events[8:] == ["waited"] * 3
        assert {k: g.shape for k, g in gradients["last"].items()} == {
            k: w.shape for k, w in model.weights["last"].items()
        }

    def test_gradients_of_other_names_are_refused(self) -> None:
        class Odd(xrnn.Linear):
            def backward(self, *given: Any, **how: Any) -> Any:
                dx, dweights = super().backward(*given, **how)
                return dx, {"V": dweights["W"]}

        case: Case = lambda: xrnn.Sequential(Odd(2, 1, **F8)), sums(), losses.squared_error, {}
        with pytest.raises(ValueError, match="weights and dweights differ in"):
            together(2, lambda world: trained(case, world))


def test_what_is_no_world_is_refused() -> None:
    with pytest.raises(TypeError, match=r"parallel is 2; it must be xrnn\.learn\.parallel\.world"):
        xrnn.fit(regressor(), sums(), losses.squared_error, parallel=2)  # type: ignore[arg-type]
