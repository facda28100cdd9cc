"""Calls that take turns, so that what disturbs a machine disturbs all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter, process_time, sleep
from typing import Any

#: seconds of calls in one turn of `for_a_while`, and of silence before a turn where there are
#: several threads: those of OpenBLAS spin for a tenth of a second after their work, and would take
#: a core from the side whose turn it is
TURN, PAUSE = 0.05, 0.15

#: what is timed
Call = Callable[[], Any]
#: seconds since some time
Clock = Callable[[], float]


def waited_for(call: Call, sync: Call) -> None:
    """A call and what waits for the end of what it began."""
    call()
    sync()


def once(call: Call, clock: Clock) -> float:
    """The seconds of a call."""
    start = clock()
    call()
    return clock() - start


def second_of_two(call: Call, clock: Clock) -> float:
    """The seconds of a call that finds in the caches what the same call left there."""
    call()
    return once(call, clock)


def for_a_while(call: Call, clock: Clock) -> float:
    """The median of calls in a row; the first, with another's caches, only if alone."""
    times: list[float] = []
    end = clock() + TURN
    while not times or clock() < end:
        times.append(once(call, clock))
    return median(times[1:] or times)


def clock_of(threads: int) -> dict[str, Any]:
    """The clock and the pause of `take_turns` for sides of so many threads.

    That of one is the time of the processor, so that other processes count little.
    """
    if threads == 1:
        return {"clock": process_time, "pause": 0.0}
    return {"clock": perf_counter, "pause": PAUSE}


def take_turns(
    calls: Sequence[Call],
    seconds: float,
    fewest: int,
    turn: Callable[[Call, Clock], float] = once,
    *,
    clock: Clock = perf_counter,
    pause: float = 0.0,
) -> list[list[float]]:
    """Milliseconds of each call in each of its turns, as `turn` measures them.

    The turns go on for `seconds` of `clock`, and each call has at least `fewest` of them.  There is
    silence of `pause` seconds before each.
    """
    times: list[list[float]] = [[] for _ in calls]
    end = clock() + seconds
    while len(times[-1]) < fewest or clock() < end:
        for call, series in zip(calls, times, strict=True):
            sleep(pause)
            series.append(1e3 * turn(call, clock))
    return times
