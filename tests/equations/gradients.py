"""All gradients of one backward pass over a tape, under one name each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import xrnn
from xrnn.engine.tape import Tape


class Gradients(NamedTuple):
    """What `xrnn.unroll_backward` and `xrnn.analysis.gate_gradients` return of one loss."""

    dxs: np.ndarray
    dstate: Any
    dweights: dict[str, np.ndarray]
    dgates: dict[str, np.ndarray]
    dstates: dict[str, np.ndarray]


def all_gradients(tape: Tape, dys: np.ndarray | None = None, dstate: Any = None) -> Gradients:
    """The gradients of all that `xrnn.unroll` was given, and of gates and states at every step."""
    return Gradients(
        *xrnn.unroll_backward(tape, dys, dstate), *xrnn.analysis.gate_gradients(tape, dys, dstate)
    )
