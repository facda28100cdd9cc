"""Linear recurrences: the cells that can run all steps of a sequence at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xrnn.typing import Array, State


@dataclass(frozen=True)
class LinearRecurrence:
    """The parts of a cell whose last state follows s_t = f_t ⊙ s_{t-1} + u_t.

    All three functions are elementwise and accept arrays (…, n) of any number of steps; f, u and
    the gates depend on x_t alone.  So `xrnn.recurrence.scan` can run whole sequences at once.

    Parameters
    ----------
    gates : callable
        ``gates(ax, *, xp) -> values`` of `Cell.gates`, in their order.
    recurrence : callable
        ``recurrence(values) -> f, u``.
    finish : callable
        ``finish(values, s_prev, s, *, xp) -> state, saved``, both as `Cell.step` gives them.
    """

    gates: Callable[..., tuple[Array, ...]]
    recurrence: Callable[[tuple[Array, ...]], tuple[Array, Array]]
    finish: Callable[..., tuple[State, tuple[Array, ...]]]
