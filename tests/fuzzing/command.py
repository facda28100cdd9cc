"""Words of the fuzzer's calls: the command line, and what lies outside of arguments."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzzing.right import folder
from xrnn import backends
from xrnn._cli import main


class CommandError(Exception):
    """What the command line wrote to standard error before it ended with a status above 0."""


def command(*words: Any, **options: Any) -> str:
    """Run the command line in a folder of its own; what it prints.

    An option of True is given without a value, one of None is left out.
    """
    argv = [str(word) for word in words]
    for name, value in options.items():
        if value is not None and value is not False:
            argv += [f"--{name}", *([] if value is True else [str(value)])]
    out, err = io.StringIO(), io.StringIO()
    with _inside(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    if status:
        raise CommandError(err.getvalue())
    return out.getvalue()


@contextlib.contextmanager
def _inside() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="xrnn-fuzz-") as place:
        Path(place, "text.txt").write_text("to be or not to be, that is it. " * 8)
        with contextlib.chdir(place):
            yield


@functools.cache
def trained() -> str:
    """The folder of a run of `xrnn train`."""
    path = f"{folder()}/run"
    command("train", text="text.txt", out=path, hidden=4, embedding=3, batch=2, length=5, steps=2)
    return path


def registered(name: str) -> str:
    """The name of a library for which a backend is registered."""
    backends.register(name, backends.get("cpu"))
    return name


def forget() -> None:
    """Undo what calls of `xrnn.backends.register` left behind.

    The dual numbers of `xrnn.jvp` register themselves, once in a process.
    """
    for name in set(backends._registered) - set(_REGISTERED):
        if not name.startswith("dual_"):
            backends.unregister(name)
    for name, backend in _REGISTERED.items():
        if backends._registered.get(name) is not backend:
            backends.register(name, backend)


_REGISTERED = dict(backends._registered)
os.environ.setdefault("MPLBACKEND", "agg")
