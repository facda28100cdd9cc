"""What the benchmarks time with, on a clock that only the timed calls move."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not beside us")
sys.path.append(str(BENCHMARKS))


@pytest.fixture
def turns() -> Any:
    return importlib.import_module("turns")


class Clock:
    """A clock, and calls that move it on by each of the given seconds in turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, *seconds: float) -> Callable[[], None]:
        rest = cycle(seconds)

        def move() -> None:
            self.now += next(rest)

        return move


def test_the_calls_take_turns_until_the_time_is_over(turns: Any) -> None:
    clock = Clock()
    found = turns.take_turns([clock.call(1), clock.call(2, 4)], 8, 2, clock=clock)
    assert found == [[1000, 1000], [2000, 4000]]


def test_each_call_has_the_fewest_turns(turns: Any) -> None:
    clock = Clock()
    found = turns.take_turns([clock.call(1), clock.call(2)], 0, 3, clock=clock)
    assert found == [[1000] * 3, [2000] * 3]


def test_the_first_of_several_calls_does_not_count(turns: Any) -> None:
    clock = Clock()
    assert turns.second_of_two(clock.call(5, 1), clock) == 1
    several = clock.call(*(part * turns.TURN for part in (0.1, 0.2, 0.6, 0.3)))
    alone = clock.call(2 * turns.TURN)
    assert turns.for_a_while(several, clock) == pytest.approx(0.3 * turns.TURN)
    assert turns.for_a_while(alone, clock) == pytest.approx(2 * turns.TURN)


def test_one_thread_is_timed_by_the_processor(turns: Any) -> None:
    assert turns.clock_of(1) == {"clock": turns.process_time, "pause": 0.0}
    assert turns.clock_of(2) == {"clock": turns.perf_counter, "pause": turns.PAUSE}


def test_the_end_of_what_a_call_began_is_timed(turns: Any) -> None:
    clock = Clock()
    begun, waited = clock.call(1), clock.call(2)
    assert turns.once(lambda: turns.waited_for(begun, waited), clock) == 3
