"""The number of threads of the native loops, and its control by threadpoolctl."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from xrnn.backends import environment

#: the largest number of threads, even if a variable asks for more
MOST = 256

_limits = threading.local()


class at_most:
    """A context in which the loops use at most so many threads, when called from this thread.

    It is a class because entering it costs less than a generator's context.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    def __enter__(self) -> None:
        self._outer = getattr(_limits, "most", MOST)
        _limits.most = min(self._outer, self._most)

    def __exit__(self, *problem: object) -> None:
        _limits.most = self._outer


def threads() -> int:
    """The number of threads that the loops may use when called from this thread.

    It is the limit that threadpoolctl has set for this thread, else XRNN_NUM_THREADS, else
    OMP_NUM_THREADS if that is a number, else the number of cores; and no more than `at_most`.

    Raises
    ------
    ValueError
        If XRNN_NUM_THREADS is no whole number, or less than 1.
    """
    register_with_threadpoolctl()
    limit: int | None = getattr(_limits, "threads", None)
    return min(limit or _default(), getattr(_limits, "most", MOST))


def _default() -> int:
    if ours := environment.count("XRNN_NUM_THREADS"):
        return min(ours, MOST)
    # What other libraries read too, one number for each level of nesting, is never refused.
    outer = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if outer.isascii() and outer.isdecimal() and int(outer) > 0:
        return min(int(outer), MOST)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has it
        return os.cpu_count() or 1


def register_with_threadpoolctl() -> None:
    """Make the loops known to threadpoolctl, once the program has imported it."""
    global _registered_with
    found = sys.modules.get("threadpoolctl")
    if found is None or found is _registered_with:
        return
    _registered_with = found
    if hasattr(found, "register"):  # from 3.4 on
        found.register(_controller(found.LibController))


_registered_with: Any = None


def _controller(base: Any) -> Any:
    class Loops(base):  # type: ignore[misc]
        """The interface that threadpoolctl requires; a limit holds for the thread that sets it."""

        user_api = internal_api = "xrnn"
        filename_prefixes = ("_native",)
        check_symbols = ("xrnn_native_loops",)

        def get_num_threads(self) -> int:
            return threads()

        def set_num_threads(self, num_threads: int) -> None:
            _limits.threads = None if num_threads == _default() else num_threads

        def get_version(self) -> None:
            return None

    return Loops
