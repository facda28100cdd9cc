"""Ranks for tests: threads of one process in the place of MPI's processes."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from xrnn.learn.parallel import World


class Meeting:
    """Where so many threads exchange values."""

    def __init__(self, size: int) -> None:
        self.barrier, self.errors = threading.Barrier(size, timeout=30), threading.Barrier(size)
        self.values: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = pickle.dumps(value)  # as between processes, which share no objects
        self.barrier.wait()
        found = list(map(pickle.loads, self.values))
        self.barrier.wait()
        return found


class Thread(World):
    """A rank that is a thread."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, len(meeting.values), meeting

    def gather(self, value: Any) -> list[Any]:
        return self.meeting.exchange(self.rank, value)

    def from_root(self, make: Callable[[], Any]) -> Any:
        found, error = None, None
        if self.rank == 0:
            try:
                found = make()
            except Exception as raised:
                error = raised
        found, error = self.gather((found, error))[0]
        if error is not None:
            raise error
        return found

    def add(self, buffer: Any) -> Callable[[], object]:
        mine = buffer.copy()  # what MPI may send at any time from now on

        def wait() -> None:
            assert (buffer == mine)[mine == mine].all(), "changed while it was added up"
            first, *others = self.gather(mine)
            buffer[...] = first
            for other in others:
                buffer[...] += other

        return wait

    @contextmanager
    def guard(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with suppress(threading.BrokenBarrierError):
                self.meeting.errors.wait(0.5)  # all ranks have one
                raise
            self.meeting.barrier.abort()
            raise


def together(size: int, function: Callable[[World], Any]) -> list[Any]:
    """What a function of the rank returns on so many ranks; the first exception that is no mere
    consequence of another one."""
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(function, Thread(rank, meeting)) for rank in range(size)]
    errors = [error for one in futures if (error := one.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [one.result() for one in futures]
