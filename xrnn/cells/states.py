"""The named tuples of the states of cells."""

from __future__ import annotations

from collections import namedtuple
from functools import lru_cache
from typing import Any

from xrnn.typing import Array, HCState, HState


@lru_cache
def state_type(states: tuple[str, ...]) -> Any:
    """The named tuple whose fields have these names."""
    for known in (HState, HCState):
        if known._fields == states:
            return known

    def reduced(self: Any) -> Any:
        return _restored_state, (states, tuple(self))

    build: Any = namedtuple  # of names that a type checker does not know
    named = build("State", states)
    named.__reduce__ = reduced
    return named


def _restored_state(states: tuple[str, ...], arrays: tuple[Array, ...]) -> Any:
    """A state from its pickle."""
    return state_type(states)(*arrays)
