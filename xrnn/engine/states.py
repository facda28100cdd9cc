"""The checks of states: what a user may give, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xrnn.cells.base import Cell
from xrnn.engine.checks import Placement, Spec, StateSpec
from xrnn.typing import Array, State


def state_parts(cell: Cell[Any], what: str, state: Any) -> tuple[Array | None, ...]:
    """The parts of a state, one for each of ``cell.states``; None stands for zeros.

    Raises
    ------
    TypeError
        If the state is not a tuple or list with one part for each of ``cell.states``.
    """
    if state is None:
        return (None,) * len(cell.states)
    if not isinstance(state, tuple | list) or len(state) != len(cell.states):
        given = f"{len(state)} parts" if isinstance(state, tuple | list) else type(state).__name__
        comma = "," if len(cell.states) == 1 else ""
        raise TypeError(
            f"{cell.name}: {what} is {given}; it must be a tuple ({', '.join(cell.states)}{comma})"
        )
    return tuple(state)


def accept_state(
    cell: Cell[Any], what: str, state: Any, placement: Placement, specs: Sequence[StateSpec]
) -> State:
    """A state, checked: its parts have that placement and these shapes; None becomes zeros.

    `what` is "state" or "dstate".
    """
    prefix = "d" if what == "dstate" else "state "
    parts = zip(cell.states, state_parts(cell, what, state), specs, strict=True)
    return tuple([_accept_part(placement, prefix + name, part, spec) for name, part, spec in parts])


def _accept_part(placement: Placement, name: str, part: Any, spec: StateSpec) -> Any:
    """One part of a state: an array, or a tuple of arrays, one for each cell."""
    if isinstance(spec, Spec):
        if part is None:
            return placement.zeros(spec.shape)
        return placement.accept_shaped(name, part, *spec)
    if part is None:
        part = [None] * len(spec)
    if not isinstance(part, tuple | list) or len(part) != len(spec):
        given = f"{len(part)} arrays" if isinstance(part, tuple | list) else type(part).__name__
        shapes = ", ".join(str(one.shape) for one in spec)
        raise TypeError(
            f"{placement.kind}: {name} is {given}; the widths of the layers differ, so it must be "
            f"a tuple of L·D = {len(spec)} arrays {spec[0].letters} = {shapes}"
        )
    arrays = enumerate(zip(part, spec, strict=True))
    return tuple([_accept_part(placement, f"{name}[{n}]", *given) for n, given in arrays])
