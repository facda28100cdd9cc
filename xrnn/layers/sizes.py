"""The sizes of layers and of batches, from what a user gave."""

from __future__ import annotations

from typing import Any

from xrnn.cells.base import check_sizes
from xrnn.engine.checks import check_integer


def accept_hidden_sizes(kind: str, hidden_size: Any, num_layers: Any) -> tuple[int, ...]:
    """H of each of the L layers, from one size for all, or a tuple or list with a size for each.

    Raises
    ------
    ValueError
        If a size is not an integer of at least 1, or there is not one for each layer.

    Examples
    --------
    >>> accept_hidden_sizes("lstm", 5, 2), accept_hidden_sizes("lstm", (5, 4), 1)
    ((5, 5), (5, 4))
    """
    check_sizes(kind, num_layers=num_layers)
    if not isinstance(hidden_size, tuple | list):
        check_sizes(kind, hidden_size=hidden_size)
        return (int(hidden_size),) * int(num_layers)
    if not hidden_size:
        raise ValueError(f"{kind}: hidden_size is empty; it must hold one integer for each layer")
    check_sizes(kind, **{f"hidden_size[{k}]": n for k, n in enumerate(hidden_size)})
    if num_layers not in (1, len(hidden_size)):
        raise ValueError(
            f"{kind}: hidden_size holds {len(hidden_size)} sizes and num_layers is {num_layers}; "
            "it must hold one for each layer: leave num_layers out"
        )
    return tuple(map(int, hidden_size))


def steps_and_batch(kind: str, shape: Any, batch_first: bool) -> tuple[int, int]:
    """T and B of inputs of a shape, (T, B, I), (B, T, I) or (T, I).

    Raises
    ------
    TypeError, ValueError
        If it is not such a shape.

    Examples
    --------
    >>> steps_and_batch("lstm", (7, 2, 3), False), steps_and_batch("lstm", (7, 3), False)
    ((7, 2), (7, 1))
    """
    if not isinstance(shape, tuple | list) or len(shape) not in (2, 3):
        raise ValueError(
            f"{kind}: shape is {shape!r:.80}; it must be that of xs, (T, B, I), or (T, I)"
        )
    for n in shape:
        check_integer(kind, "a size in shape", n)
        if n < 0:
            raise ValueError(f"{kind}: a size in shape is {n}; it must be ≥ 0")
    if len(shape) == 2:
        return shape[0], 1
    return (shape[1], shape[0]) if batch_first else (shape[0], shape[1])
