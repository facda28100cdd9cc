"""Names of files."""

from __future__ import annotations

import os
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
