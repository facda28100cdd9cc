"""Derivation "Input-gated LSTM" as whole algorithms: backward through time, and forward (l.312).

Both give the gradient of every weight, which the document derives for W_i alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from equations.form import sigma
from equations.input_gated import Document, Given, Matrix, softmax

Gradients = dict[str, Matrix]


def back_through_time(document: Document, counts: Matrix) -> Gradients:
    """Σ_t counts_t E_t by every weight, x and C_0: the only thing carried is dC."""
    at, given = document.at, document.given
    grads = {f"W_{k}": np.zeros_like(A) for k, A in given.W.items()}
    grads |= {f"b_{k}": np.zeros_like(A) for k, A in given.b.items()}
    grads["x"], dC = np.zeros_like(given.x), np.zeros_like(given.C_0)
    for t in range(document.t, 0, -1):
        F, i, O, C_new, b = (at(name, t) for name in ("F", "i", "O", "C'", "b"))
        dL = counts[t - 1] * (at("P", t) - at("Y", t))
        e = given.W["v"].T @ dL
        dC = dC + e * O * (1 - b**2)
        delta = {
            "f": dC * at("C", t - 1) * F * (1 - F),
            "i": dC * C_new * i * (1 - i),
            "c": dC * i * (1 - C_new**2),
            "o": e * b * O * (1 - O),
        }
        for gate, v in delta.items():
            grads[f"W_{gate}"] += np.outer(v, at("x", t))
            grads[f"b_{gate}"] += v
            grads["x"][t - 1] += given.W[gate].T @ v
        grads["W_v"] += np.outer(dL, at("h", t))
        grads["b_v"] += dL
        dC = dC * F
    return grads | {"C_0": dC}


@dataclass
class Online:
    """Forward with the traces S = ∂C_t/∂W, row m of W by C_{t,m} alone; no history is kept."""

    given: Given
    C: Matrix = field(init=False)
    S: dict[str, Matrix] = field(init=False)
    s: dict[str, Matrix] = field(init=False)
    s_0: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.C = self.given.C_0
        self.S = {gate: np.zeros_like(self.given.W[gate]) for gate in "fic"}
        self.s = {gate: np.zeros_like(self.C) for gate in "fic"}
        self.s_0 = np.ones_like(self.C)

    def step(self, x: Matrix, Y: Matrix) -> Gradients:
        """One step on, and ∂E_t by everything at it."""
        W, b = self.given.W, self.given.b
        F, i, O = (sigma(W[gate] @ x + b[gate]) for gate in "fio")
        C_new = np.tanh(W["c"] @ x + b["c"])
        u = {"f": self.C * F * (1 - F), "i": C_new * i * (1 - i), "c": i * (1 - C_new**2)}
        for gate in "fic":
            self.S[gate] = np.diag(F) @ self.S[gate] + np.outer(u[gate], x)
            self.s[gate] = F * self.s[gate] + u[gate]
        self.s_0 = F * self.s_0
        self.C = F * self.C + i * C_new
        tanh_C = np.tanh(self.C)
        h = O * tanh_C
        dL = softmax(W["v"] @ h + b["v"]) - Y
        e = W["v"].T @ dL
        q, delta_o = e * O * (1 - tanh_C**2), e * tanh_C * O * (1 - O)
        grads = {f"W_{gate}": np.diag(q) @ self.S[gate] for gate in "fic"}
        grads |= {f"b_{gate}": q * self.s[gate] for gate in "fic"}
        grads |= {"W_o": np.outer(delta_o, x), "b_o": delta_o, "C_0": q * self.s_0}
        return grads | {"W_v": np.outer(dL, h), "b_v": dL}


def online_gradients(given: Given) -> list[Gradients]:
    """∂E_t by every weight, for every t."""
    net = Online(given)
    return [net.step(x, Y) for x, Y in zip(given.x, given.Y, strict=True)]


def after(given: Given, steps: int) -> Online:
    """What is held after so many steps."""
    net = Online(given)
    for x, Y in zip(given.x[:steps], given.Y[:steps], strict=True):
        net.step(x, Y)
    return net
