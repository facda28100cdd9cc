"""The words of the signatures.

No static type spans NumPy, CuPy, torch and JAX arrays, so `Array` is `Any` to a type
checker; what an array must be is said in shapes, in every docstring, and checked at the
door.  The letters of those shapes are the same everywhere:

====  ==============================  ====  ==============================
T     time steps                      G     gates of the cell
B     sequences (the batch)           L     layers
I     inputs                          D     directions, 1 or 2
H     hidden units
====  ==============================  ====  ==============================
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

Array: TypeAlias = Any
"""An array of any library that follows the Python Array API standard."""

Namespace: TypeAlias = Any
"""The functions of such a library: ``numpy``, ``cupy``, ``array_api_compat.torch`` …"""

Weights: TypeAlias = Mapping[str, Array]
"""Name → array; for one cell its shapes are ``cell.shapes(I, H)``."""

State: TypeAlias = tuple[Array, ...]
"""What a cell carries from step to step, in the order of ``cell.states``; h is first."""

Contribution: TypeAlias = Array | tuple[tuple[Array, Array], ...]
"""What one step adds to the gradient of one weight, not yet summed over the sequences.

For a vector weight an array (B, n).  For a matrix its blocks of rows from top to bottom,
each a pair (rows (B, m), operand (B, k)) that stands for Σ_b rows_b operand_bᵀ.  The sums
over sequences and time are then one product each, after the loop.
"""


class Step(Protocol):
    """One time step forward: see `xrnn.cells.base.Cell`."""

    def __call__(
        self, ax: Array, state: State, weights: Weights, *, xp: Namespace
    ) -> tuple[State, Any]: ...


class StepBackward(Protocol):
    """The same time step backward: see `xrnn.cells.base.Cell`."""

    def __call__(
        self, dstate: State, saved: Any, weights: Weights, *, xp: Namespace
    ) -> tuple[Array, State, dict[str, Contribution]]: ...


class Total(Protocol):
    """The gradients of the new states, each with its share in the others added."""

    def __call__(self, dstate: State, saved: Any, weights: Weights, *, xp: Namespace) -> State: ...
