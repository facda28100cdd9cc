"""Learning online: exact gradients computed forward in time, without storing past steps.

Let s be the state, θ a weight, and P_t = ∂s_t/∂θ the total derivative.  Then

P_t = J_t P_{t-1} + D_t,   J_t = ∂s_t/∂s_{t-1},   D_t = ∂s_t/∂θ at step t alone    (1)
∂L_t/∂θ = (∂L_t/∂h_t)ᵀ P_t^h                                                       (2)

is real-time recurrent learning.  P is called the sensitivity of the state to the weights.

In a cell that is a linear recurrence, row m of a weight acts on unit m alone.  J_t is then
diagonal, and P_t has only as many numbers as θ for each state.  In other cells, keeping the
diagonal alone is the approximation SnAp-1.

Sources: Williams & Zipser (1989); Menick et al., "Practical real time recurrent learning with
a sparse approximation" (2021), arXiv:2006.07232; derivations "ReLU RNN, LSTM and GRU", eqs 6-8 and
31-54, and "Input-gated LSTM", line 312 (corrected: see the errata in
``xrnn/guide/derivations.md``).
"""

from __future__ import annotations

from math import prod
from typing import Any, Generic, Literal

import array_api_compat

from xrnn.cells.base import Cell, check_sizes
from xrnn.engine.checks import (
    accept_state,
    cell_weights,
    check_cell,
    check_choice,
    check_numbers,
)
from xrnn.engine.parameters import count
from xrnn.recurrence.sensitivity import Rows, rows_backward, units
from xrnn.typing import Array, GivenState, Namespace, S, Weights

METHODS = ("exact", "snap1")


class Online(Generic[S]):
    """One cell on a stream; after each step it gives the gradient of that step's loss.

    Parameters
    ----------
    cell : Cell
        Such as `xrnn.cells.InputGatedLSTM`.
    weights : mapping of str to array
        Names and shapes of ``cell.shapes(I, H)``; biases may be left out.  The mapping is
        kept, not copied: changes in it take effect from the next step on, and newly assigned
        arrays are checked then.  After a change the sensitivities still depend on the old
        weights of past steps, an error that is small for small learning rates.
    batch : int
        B, the number of streams that run in parallel.
    state : tuple of array (B, H) or None, optional
        The state to start from, which is copied.  Default: zeros, for the tuple or any of
        its parts.
    method : {"exact", "snap1"}
        "exact": the exact gradient.  For a linear cell (`InputGatedLSTM`, `MinGRU`) the
        sensitivities are B·S·P numbers, for P parameters and S states, and the work of a step
        is proportional to that.  For any other cell they are B·S·H·P numbers, and the work is
        S·H times as much, so it is meant for small H.
        "snap1": the diagonal approximation, which costs as much as a linear cell.
    limit : int
        The largest number of bytes that the sensitivities may take.

    Attributes
    ----------
    state : named tuple of array (B, H)
        The state after the last step.
    nbytes : int
        The size of the sensitivities in bytes, which does not depend on the length of the stream.

    Raises
    ------
    TypeError
        If weights and state are of different libraries or dtypes.
    ValueError
        If a size, a shape or the method is wrong, or the sensitivities would take more than
        `limit` bytes.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> from xrnn.cells import InputGatedLSTM
    >>> rng = np.random.default_rng(0)
    >>> weights = {k: rng.normal(size=s) for k, s in InputGatedLSTM.shapes(3, 5).items()}
    >>> xs, dys = rng.normal(size=(2, 100, 1, 3)), rng.normal(size=(100, 1, 5))
    >>> online = xrnn.online.Online(InputGatedLSTM, weights, batch=1)
    >>> total = 0
    >>> for x, dh in zip(xs[0], dys):
    ...     h = online.step(x)
    ...     total = total + online.gradient(dh)["W"]
    >>> _, _, tape = xrnn.unroll(InputGatedLSTM, weights, xs[0])
    >>> bool(np.allclose(total, xrnn.unroll_backward(tape, dys)[2]["W"]))
    True
    """

    def __init__(
        self,
        cell: Cell[S],
        weights: Weights,
        batch: int,
        state: GivenState | None = None,
        *,
        method: Literal["exact", "snap1"] = "exact",
        limit: int = 2**30,
    ) -> None:
        check_cell(cell)
        check_sizes(cell.name, batch=batch)
        check_choice(cell.name, "method", method, METHODS)
        self.cell, self.weights, self.B = cell, weights, int(batch)
        self._complete, self._placement = cell_weights(cell, weights)
        check_numbers(cell, self._complete["W"], self._placement.backend, "W")
        self._seen = dict(weights)
        rows, self.I = self._complete["W"].shape
        self.H: int = rows // len(cell.gates)
        self.xp = self._placement.backend.xp
        shape = (self.B, self.H)
        given = accept_state(cell, "state", state, self._placement, shape, "(B, H)")
        self.state: S = cell.state([self._copy(part) for part in given])
        diagonal = method == "snap1" or cell.linear is not None
        rows = len(cell.states) * (1 if diagonal else self.H)
        numbers = rows * self.B * count(weights)
        self.nbytes = numbers * self.xp.finfo(self._placement.dtype).bits // 8
        if self.nbytes > limit:
            raise ValueError(
                f"{cell.name}: the sensitivities would take {self.nbytes:,} bytes ({numbers:,} "
                f"numbers: {rows} rows · B = {self.B} · {count(weights):,} parameters), more "
                f'than limit = {limit:,}; take a smaller H or batch, or method="snap1"'
            )
        zero = self._placement.zeros(shape)
        self._sensitivity = (_Diagonal if diagonal else _Full)(cell, weights, zero, xp=self.xp)

    def _bind(self) -> None:
        """Check the weights as they are now, and complete them.  After an error the next step
        checks them again."""
        seen, kind = dict(self.weights), self.cell.name
        if odd := sorted(set(seen) ^ set(self._seen)):
            raise ValueError(
                f"{kind}: weights added or taken away since the start: {', '.join(odd)}; the "
                "sensitivities are of those given then: make another Online"
            )
        given = {name: self._placement.accept(name, w) for name, w in seen.items()}
        self._complete, _ = cell_weights(self.cell, given, I=self.I, H=self.H)
        self._seen = seen

    def _copy(self, array: Array) -> Array:
        return self._placement.backend.xp.asarray(array, copy=True)

    def step(self, x: Array) -> Array:
        """One time step.

        Parameters
        ----------
        x : array (B, I)
            The inputs of this step, one for each stream.

        Returns
        -------
        h : array (B, H)
            The outputs of this step, a copy.

        Raises
        ------
        TypeError
            If x is of another library, device or dtype than the weights.
        ValueError
            If its shape does not fit, or that of a weight that was assigned since.
        """
        seen, now = self._seen, self.weights
        if len(now) != len(seen) or any(now.get(name) is not w for name, w in seen.items()):
            self._bind()
        x = self._placement.accept_shaped("x", x, (self.B, self.I), "(B, I)")
        weights = self._complete
        ax = x @ weights["W"].T + weights["b"]
        state, saved = self.cell.step(ax, self.state, weights, xp=self.xp)
        self._sensitivity.advance(saved, x, weights)
        self.state = self.cell.state(state)
        # A copy, so that a change of h does not change the state.
        return self._copy(self.state[0])

    def gradient(self, dh: Array) -> dict[str, Array]:
        """∂L_t/∂weights of the loss at this step, through all of the past.

        Parameters
        ----------
        dh : array (B, H)
            ∂L_t/∂h_t, for h as `step` has just returned it.

        Returns
        -------
        dict of str to array
            Names and shapes of the weights that were given.

        Raises
        ------
        TypeError
            If dh is of another library, device or dtype than the weights.
        ValueError
            If its shape does not fit.
        """
        dh = self._placement.accept_shaped("dh", dh, (self.B, self.H), "(B, H)")
        found = self._sensitivity.gradient(dh)
        return {name: found[name] for name in self.weights}


class _Full:
    """P (B, S·H, …): the derivative of every unit of the state by every parameter."""

    def __init__(self, cell: Cell[Any], weights: Weights, zero: Array, *, xp: Namespace) -> None:
        self.cell, self.xp, self.shapes = cell, xp, {k: w.shape for k, w in weights.items()}
        self.unit = units(cell, zero, xp=xp)
        B, n = zero.shape[0], self.unit[0].shape[0]
        self.P = {
            name: _zeros((B, n, prod(shape)), zero, xp=xp) for name, shape in self.shapes.items()
        }

    def advance(self, saved: Any, x: Array, weights: Weights) -> None:
        xp = self.xp
        rows = rows_backward(self.cell, self.unit, saved, weights, xp=xp)
        J = xp.permute_dims(xp.concat(rows.dprev, axis=-1), (1, 0, 2))
        for name, P in self.P.items():
            D = xp.permute_dims(_direct(name, rows, x, xp=xp), (1, 0, 2))
            self.P[name] = J @ P + D  # (1)

    def gradient(self, dh: Array) -> dict[str, Array]:
        found = {}
        for name, P in self.P.items():
            h = P[:, : dh.shape[1], :]
            summed = self.xp.sum(dh[:, None, :] @ h, axis=0)  # (2)
            found[name] = self.xp.reshape(summed, self.shapes[name])
        return found


class _Diagonal:
    """P (S, B, n, H, m): the derivative of unit k by row k of every block of rows alone.

    It is computed by `rows_backward` for all units at once, with only the diagonals of the
    blocks of U, as if no unit acted on another.
    """

    def __init__(self, cell: Cell[Any], weights: Weights, zero: Array, *, xp: Namespace) -> None:
        self.cell, self.xp, self.shapes = cell, xp, {k: w.shape for k, w in weights.items()}
        (B, H), S = zero.shape, len(cell.states)
        device = array_api_compat.device(zero)
        eye = xp.eye(S, dtype=zero.dtype, device=device)
        self.ones = tuple(xp.broadcast_to(eye[:, s, None, None], (S, B, H)) for s in range(S))
        unit = xp.eye(H, dtype=zero.dtype, device=device)
        self.diagonals = xp.concat([unit] * len(cell.gates))
        self.P = {
            name: _zeros((S, B, shape[0] // H, H, prod(shape[1:])), zero, xp=xp)
            for name, shape in self.shapes.items()
        }

    def advance(self, saved: Any, x: Array, weights: Weights) -> None:
        xp = self.xp
        if "U" in weights:
            weights = {**weights, "U": weights["U"] * self.diagonals}
        rows = rows_backward(self.cell, self.ones, saved, weights, xp=xp)
        for name, P in self.P.items():
            new = xp.reshape(_direct(name, rows, x, xp=xp), P.shape)
            for s, J in enumerate(rows.dprev):
                new = new + J[:, :, None, :, None] * P[s, ...][None, ...]  # (1)
            self.P[name] = new

    def gradient(self, dh: Array) -> dict[str, Array]:
        found = {}
        for name, P in self.P.items():
            summed = self.xp.sum(dh[:, None, :, None] * P[0, ...], axis=0)  # (2)
            found[name] = self.xp.reshape(summed, self.shapes[name])
        return found


def _direct(name: str, rows: Rows, x: Array, *, xp: Namespace) -> Array:
    """D (K, B, …) of (1), flat: the derivative by one weight at this step alone."""
    K, B, _ = rows.da.shape
    if name == "b":
        return rows.da
    part = ((rows.da, x[None, ...]),) if name == "W" else rows.dweights[name]
    if isinstance(part, tuple):
        outer = [left[..., None] * right[..., None, :] for left, right in part]
        part = xp.concat(outer, axis=2)
    return xp.reshape(part, (K, B, prod(part.shape[2:])))


def _zeros(shape: tuple[int, ...], like: Array, *, xp: Namespace) -> Array:
    return xp.zeros(shape, dtype=like.dtype, device=array_api_compat.device(like))
