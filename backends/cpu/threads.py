"""How many threads the native loops may use, and what threadpoolctl says of it."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

#: more are not made, whatever is asked for
MOST = 256

_limits = threading.local()


def threads() -> int:
    """How many the calling thread may use.

    What threadpoolctl has set for it, else XRNN_NUM_THREADS, else OMP_NUM_THREADS, else the
    cores.
    """
    register_with_threadpoolctl()
    limit: int | None = getattr(_limits, "threads", None)
    return limit or _default()


def _default() -> int:
    for variable in ("XRNN_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(variable, "").partition(",")[0]
        if value.isdecimal() and int(value) > 0:
            return min(int(value), MOST)
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
        """As threadpoolctl asks for it: a limit is of the thread that sets it."""

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
