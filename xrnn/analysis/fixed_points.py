"""Fixed points of a layer under a constant input, and their stability.

r(s) = F(s) − s = 0                          (1)   F is a step of the layer under the input
(AᵀA + μ 1) δ = −Aᵀ r,  μ = ‖r‖²             (2)   a step of the search; A = ∂F/∂s − 1
s ← s + λ δ,  λ = 1, 1/2, 1/4 …              (3)   the first that makes ‖r‖ smaller

Near a solution (2) is Newton's method, so the number of digits doubles at each step; with μ = ‖r‖²
it does so where solutions are not isolated too, as on a line of fixed points.  A change of the
state decays near a fixed point if all eigenvalues of ∂F/∂s are smaller than 1 in modulus.

Sources: Sussillo & Barak, "Opening the black box" (2013); (2) Yamashita & Fukushima, "On the rate
of convergence of the Levenberg-Marquardt method" (2001).
"""

from __future__ import annotations

from copy import deepcopy
from math import inf
from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.cells.base import check_sizes
from xrnn.cells.numbers import POSITIVE_FINITE, accept_number
from xrnn.engine.checks import check_real
from xrnn.engine.parameters import Parameters
from xrnn.engine.states import state_parts
from xrnn.layers.layer import Layer
from xrnn.learn.second_order import jvp
from xrnn.typing import Array, GivenState, Size, State

#: a search takes so many halvings of a step before it gives up
HALVINGS = 12

#: so many numbers of all Jacobians are computed at once
NUMBERS = 2**22


class FixedPoints(NamedTuple):
    """Different fixed points of a layer; all arrays are of NumPy, in float64.

    N is the number of values of the state of all layers.  In a Jacobian they stand side by side,
    layer after layer, h before c.
    """

    state: Any
    """Of n sequences, as the layer takes it: (L, n, H) for each of ``cell.states``"""
    speed: Array
    """(n,): the largest |F(s) − s|, in ascending order"""
    jacobian: Array
    """(n, N, N): ∂F/∂s"""
    eigenvalues: Array
    """(n, N), complex: those of the Jacobian, the largest modulus first"""
    stable: Array
    """(n,) booleans: whether all of these are smaller than 1 in modulus"""
    count: Array
    """(n,) integers: how many starts led to each; their sum is the number of searches that
    succeeded"""


@host.ignore_underflow
def fixed_points(
    layer: Layer[Any],
    starts: GivenState,
    x: Array | None = None,
    *,
    tolerance: float = 1e-10,
    distance: float = 1e-3,
    iterations: Size = 100,
) -> FixedPoints:
    """The states that a step of a layer leaves as they are, under a constant input.

    One search begins at each start; those that have not arrived after all iterations are left out.
    States that the layer visits on its task are good starts.

    Parameters
    ----------
    layer : Layer
        Of one direction; it runs as in inference.
    starts : tuple of array (L, B, H)
        B states, as `step` of the layer takes them.
    x : array (I,), optional
        The input at every step.  Default: zeros.
    tolerance : float
        The largest |F(s) − s| of a fixed point.
    distance : float
        Fixed points are the same if no value differs by more than this.
    iterations : int
        The largest number of steps of a search.

    Returns
    -------
    FixedPoints
        The different fixed points; none if no search succeeded.

    Raises
    ------
    TypeError
        If `layer` is no layer of real numbers, or an array is of another library or dtype.
    ValueError
        If the layer runs in reverse or both directions, or an argument is out of range or of a
        wrong shape.

    Notes
    -----
    It is computed in float64 by NumPy, whatever the dtype and library of the layer.  At a kink,
    such as that of ReLU at 0, the derivative of one side counts, and a search may end there.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.RNN(1, 1, dtype="float64")  # h ← tanh(2 h): 0 is not stable
    >>> layer.weights = {"W_l0": np.ones((1, 1)), "U_l0": np.full((1, 1), 2.0), "b_l0": np.zeros(1)}
    >>> found = xrnn.analysis.fixed_points(layer, (np.array([[[-1.0], [0.1], [1.0]]]),))
    >>> h = found.state.h[0, :, 0]
    >>> sorted((h.round(3) + 0).tolist()), found.stable[np.argsort(h)].tolist()
    ([-0.958, 0.0, 0.958], [True, False, True])
    """
    step = _Step(layer, starts, x)
    must = POSITIVE_FINITE
    tolerance = accept_number("fixed_points: tolerance", tolerance, *must)
    distance = accept_number("fixed_points: distance", distance, *must)
    check_sizes("fixed_points", iterations=iterations)
    points, speed = _searched(step, step.starts, tolerance, int(iterations))
    arrived = speed <= tolerance
    order = host.xp.argsort(speed[arrived], kind="stable")
    kept, count = _different(points[arrived][order], distance)
    points, speed = points[arrived][order][kept], speed[arrived][order][kept]
    J = step.jacobian(points)
    values = host.xp.linalg.eigvals(J) + 0j
    modulus = abs(values)
    values = host.xp.take_along_axis(values, host.xp.argsort(-modulus, axis=1), axis=1)
    stable = (modulus < 1).all(axis=1)
    return FixedPoints(step.state(points), speed, J, values, stable, count)


class _Step:
    """One step of a layer as a function of vectors (n, N), in float64 on the host."""

    def __init__(self, layer: Any, starts: GivenState, x: Array | None) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(
                f"fixed_points: layer is a {type(layer).__name__}; it must be a recurrent layer"
            )
        if layer.bidirectional or layer.reverse:
            word = "bidirectional" if layer.bidirectional else "reverse"
            raise ValueError(
                f"{layer.cell.name}: a {word} layer has no fixed points; make one with {word}=False"
            )
        weights, axes = layer.weights, layer._bound().axes
        check_real(layer.cell, weights.placement)
        to_host, I = weights.placement.backend.to_host, layer.input_size
        if x is None:
            x = weights.placement.zeros((I,))
        x = weights.placement.accept_shaped("x", x, (I,), "(I,)")
        B = _number(layer, starts)
        cells = axes.split(axes.state("starts", starts, B, False, weights.placement))
        self.x = to_host(x).astype("float64")
        self.starts = _vectors([tuple(map(to_host, state)) for state in cells])
        arrays = {name: to_host(w).astype("float64") for name, w in weights.items()}
        mine = Parameters(weights.kind, weights.specs, arrays)
        # A copy finds the weights in the memo, as if they had been copied already.
        self.layer: Layer[Any] = deepcopy(layer, {id(weights): mine})
        self.axes = self.layer._bound().axes

    def __call__(self, points: Array) -> Array:
        """F(s) for each of the points."""
        return self._after(self.layer(self._inputs(points), self.state(points))[1])

    def jacobian(self, points: Array) -> Array:
        """∂F/∂s (n, N, N) at each of the points."""
        n, N = points.shape
        several, found = max(1, NUMBERS // max(1, N * N)), [host.xp.zeros((0, N, N))]
        for at in range(0, n, several):
            # Every point stands N times in a batch, once for each direction.
            rows = host.xp.repeat(points[at : at + several], N, axis=0)
            units = host.xp.tile(host.xp.eye(N), (rows.shape[0] // N, 1))
            states = {"state": self.state(rows), "state_vector": self.state(units)}
            _, (_, moved) = jvp(self.layer, self._inputs(rows), **states)
            columns = self._after(moved).reshape(-1, N, N)
            found.append(host.xp.swapaxes(columns, 1, 2))
        return host.xp.concatenate(found)

    def state(self, points: Array) -> Any:
        """The points as a state of the layer."""
        cells, at = [], 0
        for widths in self.axes.widths:
            parts = []
            for width in widths:
                parts.append(host.xp.ascontiguousarray(points[:, at : at + width]))
                at += width
            cells.append(tuple(parts))
        return self.axes.as_named(self.axes.joined(cells))

    def _inputs(self, points: Array) -> Array:
        n, I = points.shape[0], self.x.size
        shape = (n, 1, I) if self.layer.batch_first else (1, n, I)
        return host.xp.broadcast_to(self.x, shape)

    def _after(self, state: Any) -> Array:
        return _vectors(self.axes.split(state))


def _number(layer: Layer[Any], starts: Any) -> int:
    """B of the starts."""
    for part in state_parts(layer.cell, "starts", starts):
        one: Any = part[0] if isinstance(part, tuple | list) and part else part
        if getattr(one, "ndim", 0) >= 2:
            return int(one.shape[-2])
    raise ValueError(
        f"{layer.cell.name}: starts hold no array of states; they must be as step takes a state, "
        "with parts (L, B, H)"
    )


def _vectors(cells: list[State]) -> Array:
    """The states of all layers side by side, (n, N)."""
    parts = [part.astype("float64") for state in cells for part in state]
    return host.xp.concatenate(parts, axis=1)


def _searched(step: _Step, s: Array, tolerance: float, iterations: int) -> tuple[Array, Array]:
    """Where the searches from s end, and the largest |r| there."""
    xp, s = host.xp, s.copy()
    r = step(s) - s
    unit = xp.eye(s.shape[1])
    going = xp.flatnonzero(_size(r) > tolerance)
    for _ in range(iterations):
        if not going.size:
            break
        A, b = step.jacobian(s[going]) - unit, r[going]
        before = (b * b).sum(axis=1)
        At = xp.swapaxes(A, 1, 2)
        least = 1e-15 * (A * A).sum(axis=(1, 2))  # a rounded AᵀA + μ 1 could be singular
        damped = At @ A + xp.maximum(before, least)[:, None, None] * unit
        delta = xp.linalg.solve(damped, -At @ b[:, :, None])[..., 0]  # (2)
        moved = _line_search(step, s, r, going, delta, before)
        going = going[moved & (_size(r[going]) > tolerance)]
    return s, _size(r)


def _line_search(
    step: _Step, s: Array, r: Array, going: Array, delta: Array, before: Array
) -> Array:
    """(3), in place in s and r; whether each of these searches has moved."""
    open_ = host.xp.arange(going.size)
    scale = 1.0
    for _ in range(HALVINGS):
        tried = s[going[open_]] + scale * delta[open_]
        rest = step(tried) - tried
        better = (rest * rest).sum(axis=1) < before[open_]  # not where it is NaN
        at = going[open_[better]]
        s[at], r[at] = tried[better], rest[better]
        open_, scale = open_[~better], scale / 2
        if not open_.size:
            break
    moved = host.xp.ones(going.size, bool)
    moved[open_] = False
    return moved


def _size(r: Array) -> Array:
    """The largest |r| of each vector; infinity where it is NaN."""
    return host.xp.nan_to_num(abs(r).max(axis=1, initial=0.0), nan=inf)


def _different(points: Array, distance: float) -> tuple[Array, Array]:
    """The indices of points of which no two are the same, and how many are the same as each."""
    kept: list[int] = []
    count: list[int] = []
    for n, point in enumerate(points):
        near = abs(points[kept] - point).max(axis=1, initial=0.0) <= distance
        if near.any():
            count[int(near.argmax())] += 1
        else:
            kept.append(n)
            count.append(1)
    whole = host.xp.int64
    return host.xp.asarray(kept, whole), host.xp.asarray(count, whole)
