"""Derivation "ReLU RNN, LSTM and GRU", section 3: the system of eqs 58-87, a GRU.

Its reset gate acts before the product with U_h, and the loss is outside of the unit. Vectors are
columns and t counts from 1; W_h multiplies the input here and U_h the state. G_t is short for
∂L_t+/∂h_t. Braces are chains of Jacobians with diag left out. Where a last line lacks its
parentheses, it is read in two ways: products of matrices first, or the leading matrix acts on all
to its right.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial

import numpy as np

import xrnn
from equations.calculus import gradient, jacobian
from equations.form import add, diag, had, mm, sigma
from equations.relu_lstm_gru import Rows, Unrolled

Step = Callable[["Unit", int], np.ndarray]


class Unit:
    """The system (58)-(61); ∂L_t/∂h_t is given."""

    def __init__(self, d: int, n: int, seed: int, T: int = 4) -> None:
        rng = np.random.default_rng(seed)

        def draw(*shape: int) -> np.ndarray:
            return rng.normal(0, 0.8, shape)

        self.steps, self.n = range(1, T + 1), n
        self.W_z, self.U_z, self.b_z = draw(n, d), draw(n, n), draw(n, 1)
        self.W_r, self.U_r, self.b_r = draw(n, d), draw(n, n), draw(n, 1)
        self.W_h, self.U_h, self.b_h = draw(n, d), draw(n, n), draw(n, 1)
        self.x = {t: draw(d, 1) for t in self.steps}
        self.dL_dh = {t: draw(n, 1) for t in self.steps}
        self.h = {0: draw(n, 1)}
        self.z, self.r, self.h_tilde = ({} for _ in range(3))
        for t in self.steps:
            self.z[t] = self.update(self.x[t], self.h[t - 1])
            self.r[t] = self.reset(self.x[t], self.h[t - 1])
            self.h_tilde[t] = self.candidate(self.x[t], self.h[t - 1])
            self.h[t] = self.step(self.x[t], self.h[t - 1])
        # Not by (62) and (86): an error there is not to spread to every other equation.
        self.G = {t: gradient(partial(self.losses_from, t), self.h[t]) for t in self.steps}
        self.xrnn = self._through_xrnn()

    def update(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """z_t."""
        return sigma(add(mm(self.W_z, x), mm(self.U_z, h), self.b_z))  # (58)

    def reset(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """r_t."""
        return sigma(add(mm(self.W_r, x), mm(self.U_r, h), self.b_r))  # (59)

    def candidate(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """h̃_t."""
        r = self.reset(x, h)
        a = add(mm(self.W_h, x), mm(self.U_h, had(r, h)), self.b_h)
        return np.asarray(np.tanh(a))  # (60)

    def step(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """h_t."""
        z = self.update(x, h)
        return add(had(z, h), had(1 - z, self.candidate(x, h)))  # (61)

    def losses_from(self, t: int, h: np.ndarray) -> np.ndarray:
        """L_t+ of h_t, for losses of the slopes given."""
        L = mm(self.dL_dh[t].T, h)
        if t == self.steps[-1]:
            return L
        return add(L, self.losses_from(t + 1, self.step(self.x[t + 1], h)))

    def swept(self) -> Unit:
        """The same unit, with every G_t by (62) from the last step on."""
        s = copy(self)
        s.G = {}
        for t in reversed(s.steps):
            s.G[t] = G(s, t)
        return s

    def _through_xrnn(self) -> Unrolled:
        weights = {
            "W": np.concatenate((self.W_r, self.W_z, self.W_h)),
            "U": np.concatenate((self.U_r, self.U_z, self.U_h)),
            "b": np.concatenate((self.b_r, self.b_z, self.b_h))[:, 0],
        }
        names = {
            f"{weight}_{gate}": Rows(weight, slice(k * self.n, (k + 1) * self.n))
            for weight in "WUb"
            for k, gate in enumerate("rzh")
        }
        xs = np.stack([self.x[t].T for t in self.steps])
        dL_dh = np.stack([self.dL_dh[t].T for t in self.steps])
        return Unrolled(xrnn.cells.GRUBefore, weights, names, xs, self.h[0].T, dL_dh)


# ------------------------------------------------------------ δ: (62), (74)-(76), (86), (87)


def G(s: Unit, t: int) -> np.ndarray:  # (62)
    return s.dL_dh[t] if t == s.steps[-1] else add(s.dL_dh[t], back(s, t + 1))


def after_z(s: Unit, t: int) -> tuple[np.ndarray, ...]:
    """What stands beside G_t in δ_t^z."""
    return s.h[t - 1] - s.h_tilde[t], s.z[t], 1 - s.z[t]


def after_h(s: Unit, t: int) -> tuple[np.ndarray, ...]:
    """What stands beside G_t in δ_t^h."""
    return 1 - s.z[t], 1 - s.h_tilde[t] ** 2


def after_r(s: Unit, t: int) -> tuple[np.ndarray, ...]:
    """What stands beside U_h^T δ_t^h in δ_t^r."""
    return s.h[t - 1], s.r[t], 1 - s.r[t]


def delta_z(s: Unit, t: int) -> np.ndarray:  # (74)
    return had(s.G[t], *after_z(s, t))


def delta_h(s: Unit, t: int) -> np.ndarray:  # (75)
    return had(s.G[t], *after_h(s, t))


def delta_r(s: Unit, t: int) -> np.ndarray:  # (76)
    return had(mm(s.U_h.T, delta_h(s, t)), *after_r(s, t))


def delta_r_product_first(s: Unit, t: int) -> np.ndarray:
    """(76) as printed, which is also the last line of (66)-(71)."""
    return had(mm(s.U_h.T, s.G[t]), *after_h(s, t), *after_r(s, t))


def delta_r_product_last(s: Unit, t: int) -> np.ndarray:
    return mm(s.U_h.T, had(s.G[t], *after_h(s, t), *after_r(s, t)))


def back(s: Unit, t: int) -> np.ndarray:  # (86)
    through_h = had(mm(s.U_h.T, delta_h(s, t)), s.r[t])
    through_z, through_r = mm(s.U_z.T, delta_z(s, t)), mm(s.U_r.T, delta_r(s, t))
    return add(had(s.G[t], s.z[t]), through_z, through_h, through_r)


def back_product_first(s: Unit, t: int) -> np.ndarray:
    """(86) as printed: δ^z twice."""
    through_h = had(mm(s.U_h.T, delta_z(s, t)), s.r[t])
    through_z, through_r = mm(s.U_z.T, delta_z(s, t)), mm(s.U_r.T, delta_r(s, t))
    return add(had(s.G[t], s.z[t]), through_z, through_h, through_r)


def back_product_last(s: Unit, t: int) -> np.ndarray:
    through_h = mm(s.U_h.T, had(delta_z(s, t), s.r[t]))
    through_z, through_r = mm(s.U_z.T, delta_z(s, t)), mm(s.U_r.T, delta_r(s, t))
    return add(had(s.G[t], s.z[t]), through_z, through_h, through_r)


def below(s: Unit, t: int) -> np.ndarray:  # (87)
    through_r = mm(s.W_r.T, delta_r(s, t))
    return add(mm(s.W_z.T, delta_z(s, t)), mm(s.W_h.T, delta_h(s, t)), through_r)


def below_as_printed(s: Unit, t: int) -> np.ndarray:
    """U_h^T once more, though δ^r holds it."""
    through_r = mm(s.W_r.T, s.U_h.T, delta_r(s, t))
    return add(mm(s.W_z.T, delta_z(s, t)), mm(s.W_h.T, delta_h(s, t)), through_r)


# ------------------------------------------------------------ by a weight: (63)-(71), (77)-(85)


def operand(name: str, s: Unit, t: int) -> np.ndarray | None:
    """What the weight multiplies at step t; nothing for a bias."""
    if name == "U_h":
        return had(s.r[t], s.h[t - 1])
    return {"W": s.x[t], "U": s.h[t - 1]}.get(name[0])


def by_weight(of: Step, name: str, s: Unit, t: int) -> np.ndarray:
    """δ x_t^T and its kind; δ alone for a bias."""
    beside = operand(name, s, t)
    return of(s, t) if beside is None else mm(of(s, t), beside.T)


def chain_h(s: Unit, t: int) -> np.ndarray:
    """The braces of (63)-(65) before x_t and its kind."""
    return mm(s.G[t].T, *map(diag, after_h(s, t))).T


def chain_r(s: Unit, t: int) -> np.ndarray:
    """The braces of (66)-(68) before x_t and its kind."""
    return mm(s.G[t].T, *map(diag, after_h(s, t)), s.U_h, *map(diag, after_r(s, t))).T


def chain_z(s: Unit, t: int) -> np.ndarray:
    """The braces of (69)-(71) before x_t and its kind."""
    return mm(s.G[t].T, *map(diag, after_z(s, t))).T


# ------------------------------------------------------------ by h_{t-1} and x_t: (72), (73)


def by_h(f: Callable[[np.ndarray, np.ndarray], np.ndarray], s: Unit, t: int) -> np.ndarray:
    """∂z_t/∂h_{t-1} and its kind, of (58)-(60)."""
    return jacobian(lambda h: f(s.x[t], h), s.h[t - 1])


def by_x(f: Callable[[np.ndarray, np.ndarray], np.ndarray], s: Unit, t: int) -> np.ndarray:
    """∂z_t/∂x_t and its kind, of (58)-(60)."""
    return jacobian(lambda x: f(x, s.h[t - 1]), s.x[t])


def back_1(s: Unit, t: int) -> np.ndarray:
    dz, dh_tilde = by_h(s.update, s, t), by_h(s.candidate, s, t)
    through_z = mm(diag(s.h[t - 1]), dz) - mm(diag(s.h_tilde[t]), dz)
    return mm(s.G[t].T, add(diag(s.z[t]), through_z, mm(diag(1 - s.z[t]), dh_tilde))).T


def back_2(s: Unit, t: int) -> np.ndarray:
    dz, dh_tilde = by_h(s.update, s, t), by_h(s.candidate, s, t)
    through_z = mm(diag(s.h[t - 1] - s.h_tilde[t]), dz)
    return mm(s.G[t].T, add(diag(s.z[t]), through_z, mm(diag(1 - s.z[t]), dh_tilde))).T


def back_3(s: Unit, t: int, z: int | None = None, dr: np.ndarray | None = None) -> np.ndarray:
    """Lines 3 and 4: z_T, as printed, is z of the last step."""
    dr = by_h(s.reset, s, t) if dr is None else dr
    z_t = s.z[t if z is None else z]
    through_z = mm(diag(s.h[t - 1] - s.h_tilde[t]), diag(z_t), diag(1 - s.z[t]), s.U_z)
    within = add(mm(diag(s.h[t - 1]), dr), diag(s.r[t]))
    through_h = mm(*map(diag, after_h(s, t)), s.U_h, within)
    return mm(s.G[t].T, add(diag(s.z[t]), through_z, through_h)).T


def back_4(s: Unit, t: int, z: int | None = None) -> np.ndarray:
    return back_3(s, t, z, mm(diag(s.r[t]), diag(1 - s.r[t]), s.U_r))


def back_last(s: Unit, t: int) -> np.ndarray:
    g, to_h = s.G[t], mm(s.U_h.T, had(s.G[t], *after_h(s, t)))
    through_z = mm(s.U_z.T, had(g, *after_z(s, t)))
    return add(had(g, s.z[t]), through_z, had(to_h, s.r[t]), mm(s.U_r.T, had(to_h, *after_r(s, t))))


def back_last_product_first(s: Unit, t: int) -> np.ndarray:
    g, v, u = s.G[t], after_h(s, t), after_z(s, t)
    through_z, through_h = had(mm(s.U_z.T, g), *u), had(mm(s.U_h.T, g), *v, s.r[t])
    through_r = had(mm(s.U_r.T, s.U_h.T, g), *v, *after_r(s, t))
    return add(had(g, s.z[t]), through_z, through_h, through_r)


def back_last_product_last(s: Unit, t: int) -> np.ndarray:
    g, v, u = s.G[t], after_h(s, t), after_z(s, t)
    through_z, through_h = mm(s.U_z.T, had(g, *u)), mm(s.U_h.T, had(g, *v, s.r[t]))
    through_r = mm(s.U_r.T, s.U_h.T, had(g, *v, *after_r(s, t)))
    return add(had(g, s.z[t]), through_z, through_h, through_r)


def below_1(s: Unit, t: int) -> np.ndarray:
    dz, dh_tilde = by_x(s.update, s, t), by_x(s.candidate, s, t)
    through_z = mm(diag(s.h[t - 1]), dz) - mm(diag(s.h_tilde[t]), dz)
    return mm(s.G[t].T, add(through_z, mm(diag(1 - s.z[t]), dh_tilde))).T


def below_1_collected(s: Unit, t: int) -> np.ndarray:
    dz, dh_tilde = by_x(s.update, s, t), by_x(s.candidate, s, t)
    through_z = mm(diag(s.h[t - 1] - s.h_tilde[t]), dz)
    return mm(s.G[t].T, add(through_z, mm(diag(1 - s.z[t]), dh_tilde))).T


def below_2(s: Unit, t: int, h: np.ndarray | None = None) -> np.ndarray:
    """Lines 2 and 3: the reset multiplies h_{t-1}; as printed, h̃_t."""
    h = s.h[t - 1] if h is None else h
    through_z = mm(diag(s.h[t - 1] - s.h_tilde[t]), diag(s.z[t]), diag(1 - s.z[t]), s.W_z)
    through_r = mm(s.U_h, diag(h), diag(s.r[t]), diag(1 - s.r[t]), s.W_r)
    through_h = mm(*map(diag, after_h(s, t)), add(s.W_h, through_r))
    return mm(s.G[t].T, add(through_z, through_h)).T


def below_last(s: Unit, t: int) -> np.ndarray:
    g, to_h = s.G[t], mm(s.U_h.T, had(s.G[t], *after_h(s, t)))
    through_z, through_h = mm(s.W_z.T, had(g, *after_z(s, t))), mm(s.W_h.T, had(g, *after_h(s, t)))
    return add(through_z, through_h, mm(s.W_r.T, had(to_h, *after_r(s, t))))


def below_last_product_first(s: Unit, t: int) -> np.ndarray:
    g, v, u = s.G[t], after_h(s, t), after_z(s, t)
    through_r = had(mm(s.W_r.T, s.U_h.T, g), *v, *after_r(s, t))
    return add(had(mm(s.W_z.T, g), *u), had(mm(s.W_h.T, g), *v), through_r)


def below_last_product_last(s: Unit, t: int) -> np.ndarray:
    g, v, u = s.G[t], after_h(s, t), after_z(s, t)
    through_r = mm(s.W_r.T, s.U_h.T, had(g, *v, *after_r(s, t)))
    return add(mm(s.W_z.T, had(g, *u)), mm(s.W_h.T, had(g, *v)), through_r)
