"""Derivation "ReLU RNN, LSTM and GRU", sections 1 and 3: every quantity by xrnn's functions.

Vectors are columns and t counts from 1, as in the derivation; h_0 is the state given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

import xrnn
from equations.form import CannotEvaluate, Value, column, gap
from equations.gradients import Gradients, all_gradients
from xrnn.cells import Cell
from xrnn.engine.tape import Tape


class Rows(NamedTuple):
    """Where a weight of the document stands in xrnn's."""

    weight: str
    rows: slice = slice(None)


@dataclass(frozen=True)
class Unrolled:
    """A cell over one sequence, and the gradients of its losses step by step.

    L_t is the loss of step t, L_t+ the sum of L_t and all later ones.
    """

    cell: Cell[Any]
    weights: Mapping[str, np.ndarray]
    names: Mapping[str, Rows]
    xs: np.ndarray
    h_0: np.ndarray
    dL_dh: np.ndarray

    @cached_property
    def tape(self) -> Tape:
        return self._from(0)

    @cached_property
    def hs(self) -> np.ndarray:
        """h_0 … h_T as (T + 1, 1, n)."""
        hs = xrnn.unroll(self.cell, self.weights, self.xs, (self.h_0,))[0]
        return np.concatenate((self.h_0[None], hs))

    @cached_property
    def all_losses(self) -> Gradients:
        """The gradients of L."""
        return all_gradients(self.tape, self.dL_dh)

    def one_loss(self, t: int) -> Gradients:
        """The gradients of L_t."""
        dys = np.zeros_like(self.dL_dh)
        dys[t - 1] = self.dL_dh[t - 1]
        return all_gradients(self.tape, dys)

    def dL_plus_dh(self, t: int) -> np.ndarray:
        """∂L_t+/∂h_t."""
        return column(self.all_losses.dstates["h"][t - 1])

    def dL_later_dh(self, t: int) -> np.ndarray:
        """∂L_(t+1)+/∂h_t: h_t starts what comes after it."""
        _, (dh,), _ = xrnn.unroll_backward(self._from(t), self.dL_dh[t:])
        return column(dh)

    def dL_plus_da(self, t: int, gate: str) -> np.ndarray:
        """∂L_t+ by the pre-activation of a gate at step t."""
        return column(self.all_losses.dgates[gate][t - 1])

    def dL_plus_dx(self, t: int) -> np.ndarray:
        """∂L_t+/∂x_t."""
        return column(self.all_losses.dxs[t - 1])

    def dL_t_dx(self, t: int) -> np.ndarray:
        """∂L_t/∂x_t."""
        return column(self.one_loss(t).dxs[t - 1])

    def dL_t_dh_before(self, t: int) -> np.ndarray:
        """∂L_t/∂h_{t-1}."""
        found = self.one_loss(t)
        return column(found.dstate.h if t == 1 else found.dstates["h"][t - 2])

    def dL(self, name: str) -> np.ndarray:
        """∂L by a weight."""
        return self._part(self.all_losses.dweights, name)

    def dL_t(self, name: str, t: int) -> np.ndarray:
        """∂L_t by a weight, which every step up to t uses."""
        return self._part(self.one_loss(t).dweights, name)

    def dL_plus_at(self, name: str, t: int) -> np.ndarray:
        """∂L_t+ by the weight that step t alone uses."""
        return self._at(name, t, self.dL_later_dh(t).T)

    def dL_t_at(self, name: str, t: int) -> np.ndarray:
        """∂L_t by the weight that step t alone uses."""
        return self._at(name, t, np.zeros_like(self.h_0))

    def dh(self, name: str, t: int) -> np.ndarray:
        """∂h_t by a weight: the units of h_t, then the weight's own axes."""

        def of_unit(k: int) -> np.ndarray:
            dys = np.zeros_like(self.dL_dh)
            dys[t - 1, 0, k] = 1
            return self._part(xrnn.unroll_backward(self.tape, dys)[2], name)

        return np.stack([of_unit(k) for k in range(self.h_0.shape[1])])

    def _from(self, t: int) -> Tape:
        return xrnn.unroll(self.cell, self.weights, self.xs[t:], (self.hs[t],))[2]

    def _at(self, name: str, t: int, dh: np.ndarray) -> np.ndarray:
        here = slice(t - 1, t)
        tape = xrnn.unroll(self.cell, self.weights, self.xs[here], (self.hs[t - 1],))[2]
        return self._part(xrnn.unroll_backward(tape, self.dL_dh[here], (dh,))[2], name)

    def _part(self, dweights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        weight, rows = self.names[name]
        dw = dweights[weight][rows]
        return column(dw) if dw.ndim == 1 else dw


def nearest(true: Callable[[], Value], *readings: Callable[[], Value]) -> Callable[[], Value]:
    """The reading that comes nearest the truth, where a printed form leaves several."""

    def value() -> Value:
        found: list[tuple[float, Value]] = []
        for reading in readings:
            try:
                found.append((gap(reading(), true()), reading()))
            except CannotEvaluate:
                continue
        if not found:
            raise CannotEvaluate("under no reading")
        return min(found, key=lambda pair: pair[0])[1]

    return value
