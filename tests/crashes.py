"""Faults at each system call of a writer: errors, Ctrl-C, and the sudden end of the process.

A test gives a function that puts the old files in place and one that writes the new ones:

    for fault in crashes.faults(prepare, write):
        fault()  # prepares, writes, and disturbs one call
        ...      # old or new?

Only calls through the module `os` are seen, which are those of `xrnn.engine.atomic`.  `Traced` sees
every system call of a program, where strace is installed; it takes a second for each.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: the calls that change files or folders, and those that can fail for want of rights
CALLS = (
    "open",
    "write",
    "chown",
    "chmod",
    "fsync",
    "replace",
    "unlink",
    "mkdir",
    "listdir",
    "lstat",
)

#: on systems without it the process cannot be ended in a copy of itself
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

#: what a call may be made to raise
ERRORS: dict[str, Callable[[], BaseException]] = {
    "disk full": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "I/O error": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    "Ctrl-C": KeyboardInterrupt,
}


class Fault:
    """One fault in one call of a function that writes; call it to run the function with it.

    Attributes
    ----------
    raised : BaseException or None
        What the function raised.  (Some calls may fail without harm, such as those of tidying up.)
    """

    raised: BaseException | None = None

    def __init__(
        self,
        prepare: Callable[[], object],
        write: Callable[[], object],
        kind: str,
        n: int,
        call: str,
    ) -> None:
        self.prepare, self.write = prepare, write
        self.kind, self.n, self.call = kind, n, call

    def __call__(self) -> None:
        self.prepare()
        if self.kind == "kill":
            _in_child(self._killed)
            return
        error = ERRORS[self.kind]()
        with watched(self._raising(error)):
            try:
                self.write()
            except type(error) as raised:
                self.raised = raised

    def _raising(self, error: BaseException) -> Callable[[int], None]:
        def stop(n: int) -> None:
            if n == self.n:
                raise error

        return stop

    def _killed(self) -> None:
        def stop(n: int) -> None:
            if n == self.n:
                os.kill(os.getpid(), signal.SIGKILL)

        with watched(stop):
            self.write()

    def __repr__(self) -> str:
        return f"{self.kind} at call {self.n}, os.{self.call}"


def faults(
    prepare: Callable[[], object], write: Callable[[], object], *kinds: str
) -> Iterator[Fault]:
    """Every fault in every call that `write` makes; it is run once without a fault before.

    The kinds are those of `ERRORS`, and "kill": by default all that this system has.
    """
    seen: list[str] = []
    prepare()
    with watched(lambda n: None, seen):
        write()
    assert "replace" in seen, "nothing was written by xrnn.engine.atomic"
    for kind in kinds or (*ERRORS, *(["kill"] if hasattr(os, "fork") else [])):
        for n, call in enumerate(seen):
            yield Fault(prepare, write, kind, n, call)


@contextmanager
def watched(before: Callable[[int], None], seen: list[str] | None = None) -> Iterator[None]:
    """Call `before` with the number of each call among `CALLS`; a half of each write is made first.

    The names of the calls are added to `seen`.
    """
    names: list[str] = [] if seen is None else seen
    original = {name: getattr(os, name) for name in CALLS if hasattr(os, name)}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            names.append(name)
            if name != "write":
                before(len(names) - 1)
                return original[name](*given, **options)
            file, data = given
            half = original["write"](file, data[: len(data) // 2])
            before(len(names) - 1)
            return half + original["write"](file, data[half:])

        return call

    try:
        for name in original:
            setattr(os, name, wrapped(name))
        yield
    finally:
        for name, function in original.items():
            setattr(os, name, function)


def _in_child(run: Callable[[], None]) -> None:
    """Run a function in a copy of this process, which it must end by SIGKILL."""
    with warnings.catch_warnings():
        # Of threads of this process, which the copy does not have; it needs none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the copy was not killed, but ended with {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL


class Traced:
    """A program of Python under strace, which can be disturbed in each system call for files.

    Parameters
    ----------
    before, program : str
        What is run first, and what the faults are for.
    """

    #: strace injects them: the end of the process, or what the call returns instead of being made
    FAULTS = ("signal=SIGKILL", "error=EIO", "error=ENOSPC")

    @staticmethod
    def available() -> bool:
        """Whether strace is installed, and may trace here."""
        if shutil.which("strace") is None:
            return False
        trial = ["strace", "-qq", "-e", "trace=none", sys.executable, "-c", ""]
        return subprocess.run(trial, capture_output=True).returncode == 0

    def __init__(self, before: str, program: str) -> None:
        mark = 'import os; os.access("/the program begins", 0)'
        self.text = "\n".join([before, mark, program, mark])

    def calls(self) -> list[tuple[str, int]]:
        """(name, how often it was called by then) of each system call for files."""
        seen: Counter[str] = Counter()
        found, marks = [], 0
        for line in self._trace("-e", "trace=%file,%desc").splitlines():
            name = line.partition("(")[0]
            seen[name] += 1
            marks += "/the program begins" in line and name == "access"
            if marks == 1 and name not in ("access", "mmap"):
                found.append((name, seen[name]))
        assert marks == 2, "the program did not end"
        return found

    def disturb(self, name: str, n: int, fault: str) -> None:
        """Run the program with a fault in the n-th call of this name."""
        trace = self._trace("-e", f"trace={name},access", "-e", f"inject={name}:{fault}:when={n}")
        before, _, after = trace.partition("/the program begins")
        assert re.search(r"INJECTED|killed by SIGKILL", after), f"{name} {n}: no fault"
        assert "INJECTED" not in before, f"{name} {n}: a fault before the program"

    def _trace(self, *words: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log")
            strace = ["strace", "-qq", "-o", str(log), *words]
            env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
            subprocess.run([*strace, sys.executable, "-c", self.text], env=env, capture_output=True)
            return log.read_text("utf-8", "replace")
