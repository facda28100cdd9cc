"""Calls that take turns, so that what disturbs a machine disturbs all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter, sleep
from typing import Any

#: what is timed
Call = Callable[[], Any]


def take_turns(
    calls: Sequence[Call],
    seconds: float,
    fewest: int,
    *,
    clock: Callable[[], float] = perf_counter,
    pause: float = 0.0,
    twice: bool = False,
) -> list[list[float]]:
    """Milliseconds of each call in each of its turns.

    The turns go on for `seconds` of `clock`, and each call has at least `fewest` of them.  There is
    silence of `pause` seconds before a turn.  In a turn of which the second call is timed
    (`twice`), nothing is left of the caches of the call before.
    """
    times: list[list[float]] = [[] for _ in calls]
    end = clock() + seconds
    while len(times[-1]) < fewest or clock() < end:
        for call, series in zip(calls, times, strict=True):
            sleep(pause)
            if twice:
                call()
            start = clock()
            call()
            series.append(1e3 * (clock() - start))
    return times
