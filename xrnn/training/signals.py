"""Signals that ask a run to end: the step that is running is completed first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: what asks a program to end: kill, a batch system or a container; a closed terminal
TERMINATIONS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def noted(*numbers: int, always: tuple[int, ...] = ()) -> Iterator[list[int]]:
    """The signals of these numbers that have come, as a list that grows; a second Ctrl-C raises
    KeyboardInterrupt.

    Other signals may well come twice (a batch system sends one to the shell and one to the
    program); they do not disturb what the first one began.  Signals that are ignored (nohup), or
    handled by other code than Python's, stay so, but for those that are noted `always`; only the
    main thread can change any.
    """
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (*numbers, *always):
            if number in always or signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
