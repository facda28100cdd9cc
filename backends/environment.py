"""The environment variables of xrnn: what each may say, and errors that tell it.

A variable that is unset or empty says nothing.  Case and surrounding blanks do not matter.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

ON, OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class VariableError(ValueError):
    """An environment variable says something that it cannot."""


def switch(variable: str, default: bool) -> bool:
    """Whether a variable turns something on.

    Parameters
    ----------
    variable : str
        Its name.
    default : bool
        The answer if it says nothing.

    Returns
    -------
    bool

    Raises
    ------
    VariableError
        If it is none of the words in `ON` and `OFF`.
    """
    word = _word(variable)
    if word in ("", *ON, *OFF):
        return word in ON if word else default
    raise _refused(variable, f"{', '.join(ON)} (on), or {', '.join(OFF)} (off)")


def count(variable: str) -> int | None:
    """The number, at least 1, that a variable holds; None if it says nothing.

    Raises
    ------
    VariableError
        If it is no whole number, or less than 1.
    """
    word = _word(variable)
    if not word:
        return None
    if not (word.isascii() and word.isdecimal() and int(word) > 0):
        raise _refused(variable, "a whole number, at least 1")
    return int(word)


def choice(variable: str, choices: Sequence[str]) -> str | None:
    """Which of some names a variable holds; None if it says nothing.

    Raises
    ------
    VariableError
        If it is none of them.
    """
    word = _word(variable)
    if word in ("", *choices):
        return word or None
    raise _refused(variable, f"one of {', '.join(choices)} on this machine")


def _word(variable: str) -> str:
    return os.environ.get(variable, "").strip().lower()


def _refused(variable: str, wanted: str) -> VariableError:
    return VariableError(
        f"the environment variable {variable} is {os.environ[variable]!r:.80}; it must be "
        f"{wanted}, or unset"
    )
