"""What the two functions of a cell return, looked at once, when the cell first runs as written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import array_api_compat

from xrnn.backends import host
from xrnn.cells.base import Cell
from xrnn.typing import Namespace, Weights

#: so many sequences are looked at
B = 2

_checked: WeakSet[Cell[Any]] = WeakSet()


@host.ignore_underflow
def check_forms(cell: Cell[Any], weights: Weights, *, xp: Namespace) -> None:
    """Raise TypeError unless both functions of the cell return what `Cell` says.

    They are called with a small input and these weights, at the first call for a cell.
    """
    if cell in _checked:
        return
    W = weights["W"]
    H = W.shape[0] // len(cell.gates)
    shapes: list[tuple[int, ...]] = [(B, n) for n in cell.widths(H)]
    half = xp.zeros_like(W[:1, :1]) + 0.5
    # The sums are arrays of their own, as those of a pass are.
    ax = xp.broadcast_to(half, (B, W.shape[0])) + 0
    state = tuple([xp.broadcast_to(half, shape) + 0 for shape in shapes])
    letters = ", ".join(cell.states) + ("," if len(shapes) == 1 else "")
    sizes = f"({letters}) has the shapes {', '.join(map(str, shapes))} here"

    found = cell.step(ax, state, weights, xp=xp)
    if not (_several(found, 2) and _fits(found[0], shapes)):
        raise TypeError(
            f"{cell.name}: step returned {_described(found)}; it must return the state and what "
            f"backward needs, ({letters}), saved, where {sizes}"
        )
    back = cell.step_backward(state, found[1], weights, xp=xp)
    known = _several(back, 3) and _fits(back[:1], [(B, W.shape[0])]) and _fits(back[1], shapes)
    if not (known and isinstance(back[2], Mapping)):
        raise TypeError(
            f"{cell.name}: step_backward returned {_described(back)}; it must return da, the "
            f"gradients of the old state and a dict, da, ({letters}), dweights, where da is "
            f"(B, G·H) = {(B, W.shape[0])} and {sizes}"
        )
    for name, part in back[2].items():
        if name in weights and not _adds_up(part, tuple(weights[name].shape)):
            raise TypeError(_wrong_part(cell, name, part, tuple(weights[name].shape)))
    _checked.add(cell)


def _several(value: Any, n: int) -> bool:
    return isinstance(value, tuple | list) and len(value) == n


def _fits(arrays: Any, shapes: list[tuple[int, ...]]) -> bool:
    """Whether it is a tuple of arrays of these shapes."""
    return _several(arrays, len(shapes)) and all(
        _is_array(a) and tuple(a.shape) == shape for a, shape in zip(arrays, shapes, strict=True)
    )


def _is_array(value: Any) -> bool:
    return bool(array_api_compat.is_array_api_obj(value))


def _adds_up(part: Any, shape: tuple[int, ...]) -> bool:
    """Whether it is a `xrnn.typing.Contribution` to a weight of that shape."""
    if len(shape) == 1:
        return _fits([part], [(B, *shape)])
    if not isinstance(part, tuple) or not all(_several(pair, 2) for pair in part):
        return False
    rows = [pair[0] for pair in part]
    if not all(_is_array(a) and a.ndim == 2 and a.shape[0] == B for a in rows):
        return False
    fits = all(_fits([pair[1]], [(B, shape[1])]) for pair in part)
    return fits and sum(a.shape[1] for a in rows) == shape[0]


def _wrong_part(cell: Cell[Any], name: str, part: Any, shape: tuple[int, ...]) -> str:
    words = f"{cell.name}: step_backward returned {_described(part)} for the weight {name}; it must"
    if len(shape) == 1:
        return f"{words} be an array (B, n) = {(B, *shape)}, not yet summed over the sequences"
    return (
        f"{words} be pairs (rows (B, m), operand (B, k)) that stand for Σ_b rows_bᵀ operand_b, one "
        f"for each block of rows, where the m add up to {shape[0]} and k is {shape[1]}: give "
        f"{{{name!r}: ((rows, operand),)}}"
    )


def _described(value: Any) -> str:
    """What was returned, in words."""
    if _is_array(value):
        return f"an array {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_described, value))})"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    return "None" if value is None else f"a {type(value).__name__}"
