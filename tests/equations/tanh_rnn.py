"""The system of the derivation "Tanh RNN", with embedding and softmax cross-entropy.

x_t = Eᵀ x_t^o                          (1)
h_t = tanh(W h_{t-1} + U x_t + b)       (2)
Ω_t = V h_t + c                         (3)
ŷ_t = softmax(Ω_t)                      (4)
L_t = −y_tᵀ ln ŷ_t                      (5)

Vectors are columns and steps run from 1.  Jacobians stand as ∂f_i/∂x_j, from left to right;
the derivative by a matrix is a tensor, the matrix's axes last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import xrnn
from equations.calculus import jacobian
from equations.form import add, column, diag, mm
from equations.tanh_rnn_by_xrnn import ByXrnn


def softmax(Omega: np.ndarray) -> np.ndarray:
    """(4)."""
    return np.asarray(np.exp(Omega) / np.exp(Omega).sum())


@dataclass(frozen=True)
class Run:
    """The values of every step."""

    x: dict[int, np.ndarray]
    h: dict[int, np.ndarray]
    Omega: dict[int, np.ndarray]
    y_hat: dict[int, np.ndarray]
    L: dict[int, np.ndarray]


class System:
    """The document's system, with random weights.

    Parameters
    ----------
    v, d, n, o : int
        Tokens, size of x_t, of h_t and of y_t.
    T : int
        Steps; the document writes 𝒮, S and T.
    """

    def __init__(self, v: int, d: int, n: int, o: int, T: int = 4) -> None:
        rng = np.random.default_rng(1)
        shapes = {"E": (v, d), "W": (n, n), "U": (n, d), "b": (n, 1), "V": (o, n), "c": (o, 1)}
        self.weights = {name: rng.normal(0, 0.7, shape) for name, shape in shapes.items()}
        self.E, self.W, self.U = (self.weights[name] for name in "EWU")
        self.b, self.V, self.c = (self.weights[name] for name in "bVc")
        self.steps, self.T, self.I = range(1, T + 1), T, np.eye(n)
        self.tokens = rng.integers(v, size=T)
        self.tokens[-1] = self.tokens[0]  # twice, so that a row of E has two terms
        self.x_o = {t: column(np.eye(v)[self.tokens[t - 1]]) for t in self.steps}
        # Distributions, not one-hot: so that no term hides behind a zero.
        self.y = {t: softmax(rng.normal(size=(o, 1))) for t in self.steps}
        self.h_0 = rng.normal(0, 0.7, (n, 1))
        run = self.run({})
        self.x, self.h, self.Omega, self.y_hat, self.L = run.x, run.h, run.Omega, run.y_hat, run.L

    def run(self, changed: Mapping[str, np.ndarray], k: int = 0) -> Run:
        """Steps k+1…T with some weights, or ``h_k``, changed; complex values pass."""
        E, W, U, b, V, c = ({**self.weights, **changed}[name] for name in "EWUbVc")
        run = Run({}, {k: changed.get("h_k", self.h_0)}, {}, {}, {})
        for t in range(k + 1, self.T + 1):
            run.x[t] = mm(E.T, self.x_o[t])
            run.h[t] = np.tanh(add(mm(W, run.h[t - 1]), mm(U, run.x[t]), b))
            run.Omega[t] = add(mm(V, run.h[t]), c)
            run.y_hat[t] = softmax(run.Omega[t])
            run.L[t] = -mm(self.y[t].T, np.log(run.y_hat[t]))
        return run

    def each(self, f: Callable[[int], np.ndarray]) -> list[np.ndarray]:
        """f(t) for every step."""
        return [f(t) for t in self.steps]

    def slope(self, t: int) -> np.ndarray:
        """1 − h_t², a column."""
        return np.asarray(1 - self.h[t] ** 2)

    def D(self, t: int) -> np.ndarray:
        """diag(1 − h_t²)."""
        return diag(self.slope(t))

    def dL_dy_hat(self, t: int) -> np.ndarray:
        """∂L_t/∂ŷ_t (1, o)."""
        return np.asarray(-(self.y[t] / self.y_hat[t]).T)

    def dy_hat_dOmega(self, t: int) -> np.ndarray:
        """(6), corrected: ∂ŷ_i/∂Ω_j (o, o)."""
        return add(diag(self.y_hat[t]), -mm(self.y_hat[t], self.y_hat[t].T))

    def dL_dOmega(self, t: int) -> np.ndarray:
        """(7): a column."""
        return add(self.y_hat[t], -self.y[t])

    def dOmega_d(self, name: str, t: int) -> np.ndarray:
        """∂Ω_t/∂V (o, o, n), ∂Ω_t/∂c (o, o, 1)."""
        beside = {"V": self.h[t], "c": np.ones((1, 1))}[name]
        return np.asarray(np.einsum("ab,c->abc", np.eye(len(self.c)), beside[:, 0]))

    def dh_dx(self, k: int) -> np.ndarray:
        """∂h_k/∂x_k (n, d)."""
        return mm(self.D(k), self.U)

    def dx_dE(self, k: int) -> np.ndarray:
        """∂x_k/∂E (d, v, d)."""
        return np.asarray(np.einsum("ac,b->abc", np.eye(self.E.shape[1]), self.x_o[k][:, 0]))

    def dh_d(self, name: str, k: int) -> np.ndarray:
        """∂h_k/∂θ, h_{k-1} held: for W, U and b the entries δ_ab (1 − h_{k,a}²) (…)_c."""
        if name == "E":
            return np.asarray(np.tensordot(self.dh_dx(k), self.dx_dE(k), 1))
        beside = {"W": self.h[k - 1], "U": self.x[k], "b": np.ones((1, 1))}[name]
        return np.asarray(np.einsum("ab,bc->abc", self.I, mm(self.slope(k), beside.T)))

    def total(self, t: int, k: int) -> list[np.ndarray]:
        """∂h_t/∂h_k as one factor, with ∂h_t/∂h_t too."""
        if t == k:
            return [self.I]
        return [jacobian(lambda h_k: self.run({"h_k": h_k}, k).h[t], self.h[k])]

    def dropped(self, t: int, k: int) -> list[np.ndarray]:
        """∂h_t/∂h_k as one factor, and none where t = k."""
        return self.total(t, k) if t > k else []

    def descending(self, t: int, k: int) -> list[np.ndarray]:
        """∂h_{j+1}/∂h_j for j = t−1 on the left down to k."""
        return [mm(self.D(j + 1), self.W) for j in range(t - 1, k - 1, -1)]

    def ascending(self, t: int, k: int) -> list[np.ndarray]:
        """The same factors for j = k on the left up to t−1."""
        return self.descending(t, k)[::-1]

    def inserted(self, t: int, k: int) -> list[np.ndarray]:
        """The transposed factors, W^⊤ D(1 − h_{j+1}²), for j = k on the left up to t−1."""
        return [mm(self.W.T, self.D(j + 1)) for j in range(k, t)]


Factors = Callable[[int, int], Sequence[np.ndarray]]


def contracted(row: np.ndarray, tensor: np.ndarray) -> np.ndarray:
    """A row of gradients times the derivative by a matrix."""
    return np.asarray(np.tensordot(row[0], tensor, 1))


def chain(
    s: System,
    t: int,
    factors: Factors,
    dh_d: Callable[[int], np.ndarray],
) -> np.ndarray:
    """∂L_t/∂θ = Σ_k ∂L_t/∂ŷ_t ∂ŷ_t/∂h_t (∂h_t/∂h_k) ∂h_k/∂θ."""
    dy_hat_dh = mm(s.dy_hat_dOmega(t), s.V)
    return add(
        *(
            contracted(mm(s.dL_dy_hat(t), dy_hat_dh, *factors(t, k)), dh_d(k))
            for k in range(1, t + 1)
        )
    )


def over_pairs(s: System, term: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Σ_t Σ_{k≤t}."""
    return add(*(term(t, k) for t in s.steps for k in range(1, t + 1)))


class Library(ByXrnn):
    """The same system by xrnn, with its embedding."""

    def __init__(self, s: System) -> None:
        v, d = s.E.shape
        self.embedding = xrnn.Embedding(v, d, dtype="float64")
        self.embedding.weights = {"E": s.E}
        xs, self.tokens = self.embedding.forward(s.tokens[:, None])
        super().__init__(s.weights, s.h_0, xs, np.stack([s.y[t].T for t in s.steps]))

    def gradients(self, t: int | None = None) -> dict[str, np.ndarray]:
        """The gradient to E, too."""
        d = super().gradients(t)
        return {**d, "E": self.embedding.backward(self.tokens, d["x"].swapaxes(1, 2))[1]["E"]}

    def dx_dE(self, k: int) -> np.ndarray:
        """∂x_k/∂E (d, v, d)."""
        _, tape = self.embedding.forward(self.tokens[k - 1])
        units = np.eye(self.embedding.embedding_dim)[:, None, :]
        return np.stack([self.embedding.backward(tape, unit)[1]["E"] for unit in units])
