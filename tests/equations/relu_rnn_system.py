"""Derivation "ReLU RNN, LSTM and GRU", section 1: the system of eqs 1-24, a ReLU network.

Its readout has a ReLU too, and the loss is outside of the unit. Vectors are columns and t counts
from 1. The braces of (4)-(9) and (12) are chains of Jacobians with diag left out, in which x_t,
h_{t-1} and 1 stand for the derivative of the pre-activation by the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial

import numpy as np

import xrnn
from equations.calculus import gradient
from equations.form import add, column, diag, had, mm
from equations.relu_lstm_gru import Rows, Unrolled

Step = Callable[["Network", int], np.ndarray]
Reading = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

HIDDEN = {"W_x": Rows("W"), "W_h": Rows("U"), "b_h": Rows("b")}
READOUT = {"W_y": "W", "b_y": "b"}


def ReLU(z: np.ndarray) -> np.ndarray:
    return np.where(z.real > 0, z, 0)


def slope(z: np.ndarray) -> np.ndarray:
    """ReLU'."""
    return np.where(z > 0, 1.0, 0.0)


class Network:
    """The system (1)-(3), (10), (11); ∂L_t/∂y_t is given."""

    def __init__(self, d: int, n: int, o: int, seed: int, T: int = 4) -> None:
        rng = np.random.default_rng(seed)

        def draw(*shape: int) -> np.ndarray:
            return rng.normal(0, 0.8, shape)

        self.steps = range(1, T + 1)
        self.W_x, self.W_h, self.b_h = draw(n, d), draw(n, n), draw(n, 1) + 0.3
        self.W_y, self.b_y = draw(o, n), draw(o, 1) + 0.2
        self.x = {t: draw(d, 1) for t in self.steps}
        self.dL_dy = {t: draw(o, 1) for t in self.steps}
        self.h = {0: draw(n, 1)}
        self.z0, self.z, self.y = ({} for _ in range(3))
        for t in self.steps:
            self.z0[t] = self.hidden(self.x[t], self.h[t - 1])
            self.h[t] = ReLU(self.z0[t])  # (1)
            self.z[t] = self.output(self.h[t])
            self.y[t] = ReLU(self.z[t])  # (2)
            for z in (self.z0[t], self.z[t]):
                assert abs(z).min() > 0.02, "ReLU has no derivative at 0"
                assert 0 < slope(z).sum() < z.size, "an open mask hides where it stands"
        # Not by (13) and (20): an error there is not to spread to every other equation.
        self.dL_plus_dh = {t: gradient(partial(self.losses_from, t), self.h[t]) for t in self.steps}
        self.xrnn = self._through_xrnn()

    def hidden(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """z_t^0."""
        return add(mm(self.W_x, x), mm(self.W_h, h), self.b_h)  # (10)

    def output(self, h: np.ndarray) -> np.ndarray:
        """z_t."""
        return add(mm(self.W_y, h), self.b_y)  # (11)

    def losses_from(self, t: int, h: np.ndarray) -> np.ndarray:
        """L_t+ of h_t, for losses of the slopes given."""
        L = mm(self.dL_dy[t].T, ReLU(self.output(h)))
        if t == self.steps[-1]:
            return L
        return add(L, self.losses_from(t + 1, ReLU(self.hidden(self.x[t + 1], h))))

    def swept(self) -> Network:
        """The same network, with every ∂L_t+/∂h_t by (13) from the last step on."""
        s = copy(self)
        s.dL_plus_dh = {}
        for t in reversed(s.steps):
            s.dL_plus_dh[t] = dL_plus_dh(s, t)
        return s

    def _through_xrnn(self) -> Unrolled:
        weights = {"W": self.W_x, "U": self.W_h, "b": self.b_h[:, 0]}
        o, n = self.W_y.shape
        self.readout = xrnn.Linear(n, o, activation="relu", dtype="float64")
        self.readout.weights = {"W": self.W_y, "b": self.b_y[:, 0]}
        xs = np.stack([self.x[t].T for t in self.steps])
        hs = xrnn.unroll(xrnn.cells.ElmanReLU, weights, xs, (self.h[0].T,))[0]
        self.ys, tape = self.readout.forward(hs)
        dL_dh, _ = self.readout.backward(tape, np.stack([self.dL_dy[t].T for t in self.steps]))
        return Unrolled(xrnn.cells.ElmanReLU, weights, HIDDEN, xs, self.h[0].T, dL_dh)

    def dL_t_readout(self, name: str, t: int) -> np.ndarray:
        """∂L_t by a weight of the readout, by xrnn."""
        _, tape = self.readout.forward(self.xrnn.hs[t])
        dweight = self.readout.backward(tape, self.dL_dy[t].T)[1][READOUT[name]]
        return column(dweight) if dweight.ndim == 1 else dweight


# ------------------------------------------------------------ δ, and what it gives: (13)-(21)


def delta(s: Network, t: int) -> np.ndarray:  # (15)
    return had(s.dL_dy[t], slope(s.z[t]))


def own_error(s: Network, t: int) -> np.ndarray:
    """∂L_t/∂h_t, the first term of (13)."""
    return mm(s.W_y.T, had(s.dL_dy[t], slope(s.z[t])))


def dL_plus_dh(s: Network, t: int) -> np.ndarray:  # (13)
    return own_error(s, t) if t == s.steps[-1] else add(own_error(s, t), back(s, t + 1))


def delta_h(s: Network, t: int) -> np.ndarray:  # (16)
    return had(s.dL_plus_dh[t], slope(s.z0[t]))


def back(s: Network, t: int) -> np.ndarray:  # (20)
    return mm(s.W_h.T, delta_h(s, t))


def below(s: Network, t: int) -> np.ndarray:  # (21)
    return mm(s.W_x.T, delta_h(s, t))


def operand(name: str, s: Network, t: int) -> np.ndarray | None:
    """What the weight multiplies at step t."""
    return {"W_x": s.x[t], "W_h": s.h[t - 1], "W_y": s.h[t]}.get(name)


def by_weight(of: Step, name: str, s: Network, t: int) -> np.ndarray:
    """δ x_t^T and its kind: (17)-(19); δ alone for a bias."""
    beside = operand(name, s, t)
    return of(s, t) if beside is None else mm(of(s, t), beside.T)


# ------------------------------------------------------------ forward sensitivities: (4)-(12)


def along(A: np.ndarray, S: np.ndarray) -> np.ndarray:
    """A matrix or row times ∂h/∂W, over the units of h."""
    product = mm(A, S.reshape(len(S), -1)).reshape(len(A), *S.shape[1:])
    return product[0] if len(A) == 1 else product


def explicit(name: str, s: Network, t: int) -> np.ndarray:
    """x_t, h_{t-1}, 1 as the braces of (6)-(8) mean them: ∂z_t^0/∂W with h_{t-1} held."""
    beside = operand(name, s, t)
    one = np.ones(1) if beside is None else beside[:, 0]
    return np.multiply.outer(np.eye(len(s.W_h)), one)


def sensitivity(name: str, s: Network, t: int) -> np.ndarray:
    """∂h_t/∂W, the last pair of braces of (6)-(8); it starts from ∂h_0/∂W = 0."""
    if t == 0:
        return np.zeros_like(explicit(name, s, 1))
    z0_by_W = add(explicit(name, s, t), along(s.W_h, sensitivity(name, s, t - 1)))
    return along(diag(slope(s.z0[t])), z0_by_W)


def to_h(s: Network, t: int) -> np.ndarray:
    """{∂L_t/∂y_t}{ReLU'(z_t) W_y}."""
    return mm(s.dL_dy[t].T, diag(slope(s.z[t])), s.W_y)


def braces(name: str, s: Network, t: int) -> np.ndarray:  # (6)-(8)
    return along(to_h(s, t), sensitivity(name, s, t))


def braces_x(s: Network, t: int) -> np.ndarray:  # (9)
    dh_before = np.zeros_like(s.W_x)  # h_{t-1} comes before x_t
    through = add(s.W_x, mm(s.W_h, dh_before))
    return mm(to_h(s, t), diag(slope(s.z0[t])), through).T


def braces_h(s: Network, t: int) -> np.ndarray:  # (12)
    return mm(to_h(s, t), diag(slope(s.z0[t])), s.W_h).T


def braces_readout(name: str, s: Network, t: int) -> np.ndarray:  # (4), (5)
    beside = operand(name, s, t)
    row = mm(s.dL_dy[t].T, diag(slope(s.z[t])))
    return row.T if beside is None else mm(row.T, beside.T)


def local(s: Network, t: int) -> np.ndarray:
    """∂L_t/∂z_t^0, which stands in every last line of (6)-(9) and (12)."""
    return had(mm(s.W_y.T, had(s.dL_dy[t], slope(s.z[t]))), slope(s.z0[t]))


def local_as_printed(s: Network, t: int) -> np.ndarray:
    """The parenthesis closes too late, so that a mask of the size of h is multiplied with y."""
    return mm(s.W_y.T, had(s.dL_dy[t], slope(s.z[t]), slope(s.z0[t])))


def last_line(v: Step, name: str, s: Network, t: int) -> np.ndarray:  # (6)-(8)
    recursive = along(mm(s.W_h.T, v(s, t)).T, sensitivity(name, s, t - 1))
    return add(by_weight(v, name, s, t), recursive)


def last_line_x(v: Step, s: Network, t: int) -> np.ndarray:  # (9)
    recursive = mm(mm(s.W_h.T, v(s, t)).T, np.zeros_like(s.W_x)).T
    return add(mm(s.W_x.T, v(s, t)), recursive)


def last_line_h(v: Step, s: Network, t: int) -> np.ndarray:  # (12)
    return mm(s.W_h.T, v(s, t))


def substituted(name: str, s: Network) -> np.ndarray:  # (14)
    """The braces of (6)-(8) with ∂L_t+/∂h_t in front and no recursive term, over all steps."""
    row = {t: mm(s.dL_plus_dh[t].T, diag(slope(s.z0[t]))) for t in s.steps}
    return add(*(along(row[t], explicit(name, s, t)) for t in s.steps))


# ------------------------------------------------------------ the sums over i: (22)-(24)


def unrolled(name: str, s: Network, t: int) -> np.ndarray:
    """Σ_i D_{t-i+1} W_h^T D_{t-i+2} … W_h^T D_t ∂L_t/∂h_t, with D_k = diag(ReLU'(z_k^0))."""
    terms = []
    v = mm(diag(slope(s.z0[t])), own_error(s, t))
    for i in range(1, t + 1):
        if i > 1:
            v = mm(diag(slope(s.z0[t - i + 1])), s.W_h.T, v)
        beside = operand(name, s, t - i + 1)
        terms.append(v if beside is None else mm(v, beside.T))
    return add(*terms)


def power_acts(W: np.ndarray, g: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return mm(W, had(g, masks))


def row_from_the_left(W: np.ndarray, g: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return mm(g.T, W, diag(masks)).T


def entry_by_entry(W: np.ndarray, g: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return had(g, mm(W, masks))


def unrolled_as_printed(reading: Reading, name: str, s: Network, t: int) -> np.ndarray:
    """The same power t - 1 of W_h^T in every term, and all masks at one place."""
    W = np.linalg.matrix_power(s.W_h.T, t - 1)
    terms = []
    for i in range(1, t + 1):
        masks = had(*(slope(s.z0[t - j + 1]) for j in range(1, i + 1)))
        v = reading(W, own_error(s, t), masks)
        beside = operand(name, s, t - i + 1)
        terms.append(v if beside is None else mm(v, beside.T))
    return add(*terms)
