"""Names of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def accept_path(path: Any, example: str) -> str:
    """The path as a str.

    Raises
    ------
    TypeError
        If it is no str or path; the message shows the `example`.
    ValueError
        If no file can have that name.
    """
    try:
        name = os.fsdecode(path)
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ValueError(
            f"path is {path!r:.80}; it holds characters that no file name can have here"
        ) from None
    except TypeError:
        raise TypeError(
            f"path is {path!r:.80}; it must be a str or a path, such as {example!r}"
        ) from None
    if "\0" in name:
        raise ValueError(f"path is {name!r:.80}; the name of a file cannot contain \\0")
    return name


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Make an OSError of the block name the file, in the words of every loader.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such file") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot be read: {error.strerror or error}", name) from error
