"""Derivation "Input-gated LSTM", in its own letters and layout: no gate sees h.

There are M hidden units, N inputs and T outputs.  In its numerator layout a gradient is a row,
chains of Jacobians are multiplied from left to right, and the gradient of a weight matrix is one
row 1 x (M·N), the rows of the matrix one after the other.  Steps count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from equations.form import CannotEvaluate, add, diag, had, mm, row, sigma

Matrix = np.ndarray


@dataclass(frozen=True)
class Given:
    """What both sides are given: weights f, i, o, c and the readout v, C_0, inputs, targets."""

    W: dict[str, Matrix]
    b: dict[str, Matrix]
    C_0: Matrix
    x: Matrix
    Y: Matrix


def draw(N: int, M: int, T: int, steps: int, seed: int = 0) -> Given:
    """A system of these sizes; the targets are distributions, so that no Y is zero."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Matrix:
        drawn: Matrix = rng.normal(size=shape)
        return drawn / 2

    W = {gate: normal(M, N) for gate in "fioc"} | {"v": normal(T, M)}
    b = {name: normal(len(A)) for name, A in W.items()}
    Y = rng.uniform(0.5, 1.5, (steps, T))
    return Given(W, b, normal(M), 2 * normal(steps, N), Y / Y.sum(axis=1, keepdims=True))


def softmax(L: Matrix) -> Matrix:
    """l.22, with L where the text prints a."""
    e: Matrix = np.exp(L)
    return e / np.sum(e)


class Document:
    """The system, the factors of its chains and the chains; `t` is the last step."""

    def __init__(self, given: Given, steps: int | None = None) -> None:
        self.given = given
        self.t = len(given.x) if steps is None else steps
        self.W_i, self.W_v = given.W["i"], given.W["v"]
        self.M, self.N = self.W_i.shape
        self.T = len(self.W_v)

    @cached_property
    def values(self) -> list[dict[str, Matrix]]:
        """l.8 - l.24: every symbol at every step; step 0 holds only C."""
        W, b = self.given.W, self.given.b
        values = [{"C": self.given.C_0}]
        for x, Y in zip(self.given.x, self.given.Y, strict=True):
            F = sigma(W["f"] @ x + b["f"])
            d2 = W["i"] * x
            d = d2.sum(axis=1) + b["i"]
            i, O = sigma(d), sigma(W["o"] @ x + b["o"])
            C_new = np.tanh(W["c"] @ x + b["c"])
            a, a1 = F * values[-1]["C"], i * C_new
            C = a + a1
            h = O * np.tanh(C)
            L2 = W["v"] * h
            L = L2.sum(axis=1) + b["v"]
            P = softmax(L)
            g = Y * np.log(P)
            v = {"F": F, "i": i, "O": O, "C'": C_new, "C": C, "a": a, "a1": a1, "d": d, "x": x}
            values.append(v | {"h": h, "L": L, "P": P, "Y": Y, "g": g, "b": np.tanh(C)})
        return values

    def at(self, name: str, t: int | None = None) -> Matrix:
        """A symbol at a step, by default the last."""
        t = self.t if t is None else t
        if t < 0 or name not in self.values[t]:
            raise CannotEvaluate(f"{name} has no step {t}")
        return self.values[t][name]

    # ---- the factors, one a line or block of the text -----------------------------------

    @property
    def dE_dg(self) -> Matrix:
        return -np.ones((1, self.T))

    def dg_dP(self, t: int) -> Matrix:
        return diag(self.at("Y", t) / self.at("P", t))

    def dP_dL(self, t: int) -> Matrix:
        P = self.at("P", t)
        return np.array([[P[i] * ((i == j) - P[j]) for j in range(self.T)] for i in range(self.T)])

    @property
    def dL_dL1(self) -> Matrix:
        return np.eye(self.T)

    @property
    def dL1_dL2(self) -> Matrix:
        return np.kron(np.eye(self.T), np.ones((1, self.M)))

    @property
    def dL2_dh(self) -> Matrix:
        return np.vstack([diag(w) for w in self.W_v])

    def dh_db(self, t: int) -> Matrix:
        return diag(self.at("O", t))

    def db_dC(self, t: int) -> Matrix:
        return diag(1 - np.tanh(self.at("C", t)) ** 2)

    @property
    def dC_da(self) -> Matrix:
        return np.eye(self.M)

    @property
    def dC_da1(self) -> Matrix:
        return np.eye(self.M)

    def da_dC(self, t: int) -> Matrix:
        """∂a_t/∂C_{t-1}"""
        return diag(self.at("F", t))

    def da1_di(self, t: int) -> Matrix:
        return diag(self.at("C'", t))

    def di_dd(self, t: int) -> Matrix:
        d = self.at("d", t)
        return diag(sigma(d) * (1 - sigma(d)))

    @property
    def dd_dd1(self) -> Matrix:
        return np.eye(self.M)

    @property
    def dd1_dd2(self) -> Matrix:
        return np.kron(np.eye(self.M), np.ones((1, self.N)))

    def dd2_dW(self, t: int) -> Matrix:
        """∂d2/∂W_i, (M·N) x (M·N): the blocks of l.272-294 under one another."""
        return np.kron(np.eye(self.M), diag(self.at("x", t)))

    @property
    def dd2_dx(self) -> Matrix:
        return np.vstack([diag(w) for w in self.W_i])

    # ---- the readout in a chain, once or as printed -------------------------------------

    @property
    def once(self) -> list[Matrix]:
        return [self.dL1_dL2, self.dL2_dh]

    @property
    def twice(self) -> list[Matrix]:
        """∂L1/∂L2 ⨀ ∂L2/∂h ⨀ ∂L2/∂h, as in every printed chain."""
        return [self.dL1_dL2, self.dL2_dh, self.dL2_dh]

    @property
    def twice_as_labelled(self) -> list[Matrix]:
        """The same where "∂L2/∂h" is what l.190 puts under that name."""
        return [self.W_v, self.W_v]

    def dE_dC(self, t: int, readout: Sequence[Matrix], dE_dg: Matrix | None = None) -> Matrix:
        """The front of every chain, 1 x M."""
        return mm(self.dE_dh(t, readout, dE_dg), self.dh_db(t), self.db_dC(t))

    def dE_dh(self, t: int, readout: Sequence[Matrix], dE_dg: Matrix | None = None) -> Matrix:
        dE_dg = self.dE_dg if dE_dg is None else dE_dg
        return mm(dE_dg, self.dg_dP(t), self.dP_dL(t), self.dL_dL1, *readout)

    def direct(self, t: int, di_dd: Matrix | None = None) -> Matrix:
        """The back of every chain, M x (M·N): ∂C/∂a1 ⨀ … ⨀ ∂d2/∂W_i at step t."""
        return mm(self.dC_da1, self.da1_di(t), self.di_dW(t, di_dd))

    def di_dW(self, t: int, di_dd: Matrix | None = None, plus_x: bool = False) -> Matrix:
        di_dd = self.di_dd(t) if di_dd is None else di_dd
        inner = add(self.dd2_dW(t), self.dd2_dx) if plus_x else self.dd2_dW(t)
        return mm(di_dd, self.dd_dd1, self.dd1_dd2, inner)

    def dC_dW(self, t: int) -> Matrix:
        """∂C_t/∂W_i, total; C_0 is constant."""
        if t == 0:
            return self.zeros
        return add(mm(self.dC_da, self.da_dC(t), self.dC_dW(t - 1)), self.direct(t))

    @property
    def zeros(self) -> Matrix:
        return np.zeros((self.M, self.M * self.N))

    # ---- the chains ---------------------------------------------------------------------

    def short(self, dP_dL_times: int = 1) -> Matrix:
        """l.30: ∂E/∂P ⨀ ∂P/∂L ⨀ ∂L/∂h ⨀ ∂h/∂C ⨀ ∂C/∂W_i."""
        t = self.t
        dE_dP = row(-self.at("Y") / self.at("P"))
        dh_dC = diag(self.at("O") * (1 - self.at("b") ** 2))
        return mm(dE_dP, *[self.dP_dL(t)] * dP_dL_times, self.W_v, dh_dC, self.dC_dW(t))

    def full(self, readout: Sequence[Matrix], plus_x: bool = False) -> Matrix:
        """l.32, l.36, l.302: with the summands that are zero, as O, F, C' do not see W_i."""
        t, dO_dW, dF_dW, dCnew_dW = self.t, self.zeros, self.zeros, self.zeros
        da_dF, da1_dCnew, dh_dO = (
            diag(v) for v in (self.at("C", t - 1), self.at("i"), self.at("b"))
        )
        old = add(mm(self.da_dC(t), self.dC_dW(t - 1)), mm(da_dF, dF_dW))
        new = add(mm(self.da1_di(t), self.di_dW(t, plus_x=plus_x)), mm(da1_dCnew, dCnew_dW))
        dC_dW = add(mm(self.dC_da, old), mm(self.dC_da1, new))
        inner = add(mm(dh_dO, dO_dW), mm(self.dh_db(t), self.db_dC(t), dC_dW))
        return mm(self.dE_dh(t, readout), inner)

    def two_terms(self, readout: Sequence[Matrix]) -> Matrix:
        """l.40: what comes through C_{t-1}, and what does not."""
        t, front = self.t, self.dE_dC(self.t, readout)
        return add(mm(front, self.dC_da, self.da_dC(t), self.dC_dW(t - 1)), self.term(0, readout))

    def nested(self, readout: Sequence[Matrix], back: int = 3) -> Matrix:
        """l.304: so many steps back, the term of the step before them crossed out."""
        inner = self.direct(self.t - back)
        for t in range(self.t - back + 1, self.t):
            inner = add(mm(self.dC_da, self.da_dC(t), inner), self.direct(t))
        front = self.dE_dC(self.t, readout)
        return add(mm(front, self.dC_da, self.da_dC(self.t), inner), self.term(0, readout))

    def term(self, k: int, readout: Sequence[Matrix]) -> Matrix:
        """l.308: the term that goes k steps back."""
        links = [A for s in range(k) for A in (self.dC_da, self.da_dC(self.t - s))]
        return mm(self.dE_dC(self.t, readout), *links, self.direct(self.t - k))

    def expanded(self, readout: Sequence[Matrix]) -> Matrix:
        """l.308: its four terms."""
        return add(*(self.term(k, readout) for k in range(4)))

    def backward_terms(self) -> list[Matrix]:
        """l.312 as backward in time from one E_t: one row r is passed on, one new term a step."""
        r, terms = self.dE_dC(self.t, self.once), []
        for t in range(self.t, 0, -1):
            i = row(self.at("i", t))
            u = had(r, row(self.at("C'", t)), i, 1 - i)
            terms.append(mm(u.T, row(self.at("x", t))))
            r = had(r, row(self.at("F", t)))
        return terms
