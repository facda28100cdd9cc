"""The system of the derivation "Handwritten tanh RNN", in its own letters.

a^(t) = b + W h^(t-1) + U x^(t)
h^(t) = tanh(a^(t))
O^(t) = c + V h^(t)
L     = Σ_t L^(t)

The page writes neither softmax nor cross-entropy down: only ∇_O L = ŷ − y shows them.  All
vectors and gradients are columns; J_ij = ∂f_i/∂x_j.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from equations.calculus import derivative
from equations.form import add, diag, mm
from equations.tanh_rnn_by_xrnn import ByXrnn


class System:
    """The document's system, with random weights.

    Parameters
    ----------
    d, n, o : int
        Size of x^(t), of h^(t) and of O^(t).
    T : int
        Steps.
    """

    def __init__(self, d: int, n: int, o: int, T: int = 4) -> None:
        rng = np.random.default_rng(4)
        shapes = {"W": (n, n), "U": (n, d), "b": (n, 1), "V": (o, n), "c": (o, 1)}
        self.weights = {name: rng.normal(0, 0.7, shape) for name, shape in shapes.items()}
        self.W, self.U, self.b, self.V, self.c = (self.weights[name] for name in "WUbVc")
        self.steps, self.T = range(1, T + 1), T
        self.x = {t: rng.normal(size=(d, 1)) for t in self.steps}
        # Distributions, not one-hot: so that no term hides behind a zero.
        self.y = {t: softmax(rng.normal(size=(o, 1))) for t in self.steps}
        self.h = {0: rng.normal(0, 0.7, (n, 1))}
        self.a: dict[int, np.ndarray] = {}
        for t in self.steps:
            self.a[t], self.h[t] = self.step(t, {})
        self.O = {t: self.output(t, {}) for t in self.steps}
        self.y_hat = {t: softmax(self.O[t]) for t in self.steps}
        self.grad_h: dict[int, np.ndarray] = {T: mm(self.V.T, self.grad_O(T))}
        for t in range(T - 1, -1, -1):
            self.grad_h[t] = mm(self.W.T, self.H(t + 1), self.grad_h[t + 1])
            if t > 0:
                self.grad_h[t] = add(self.grad_h[t], mm(self.V.T, self.grad_O(t)))

    def step(self, t: int, changed: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """a^(t) and h^(t), with some weights, or ``h`` for h^(t-1), changed."""
        p = {**self.weights, "h": self.h[t - 1], **changed}
        a = add(p["b"], mm(p["W"], p["h"]), mm(p["U"], self.x[t]))
        return a, np.tanh(a)

    def output(self, t: int, changed: Mapping[str, np.ndarray]) -> np.ndarray:
        """O^(t), with V, c, or ``h`` for h^(t), changed."""
        p = {**self.weights, "h": self.h[t], **changed}
        return add(p["c"], mm(p["V"], p["h"]))

    def grad_O(self, t: int) -> np.ndarray:
        """∇_{O^(t)} L."""
        return add(self.y_hat[t], -self.y[t])

    def H(self, t: int) -> np.ndarray:
        """H^(t) = diag(1 − (h^(t))²)."""
        return diag(1 - self.h[t] ** 2)

    def dh(self, t: int, name: str) -> np.ndarray:
        """∂h^(t)_i/∂ of a weight or of h^(t-1): with all else held."""
        at = {**self.weights, "h": self.h[t - 1]}[name]
        return derivative(lambda w: self.step(t, {name: w})[1], at)[:, 0]

    def dh_total(self, t: int, name: str) -> np.ndarray:
        """∂h^(t)_i/∂ of a weight, varied at every step."""

        def last(w: np.ndarray) -> np.ndarray:
            h = self.h[0]
            for k in range(1, t + 1):
                h = self.step(k, {name: w, "h": h})[1]
            return h

        return derivative(last, self.weights[name])[:, 0]

    def dO(self, t: int, name: str) -> np.ndarray:
        """∂O^(t)_i/∂ of V, c or h^(t)."""
        at = {**self.weights, "h": self.h[t]}[name]
        return derivative(lambda w: self.output(t, {name: w}), at)[:, 0]

    def each(self, f: Callable[[int], np.ndarray]) -> list[np.ndarray]:
        """f(t) for every step."""
        return [f(t) for t in self.steps]

    def over_time(self, f: Callable[[int], np.ndarray]) -> np.ndarray:
        """Σ_t f(t)."""
        return add(*self.each(f))


def softmax(O: np.ndarray) -> np.ndarray:
    """ŷ of O."""
    return np.asarray(np.exp(O) / np.exp(O).sum())


def by_xrnn(s: System) -> ByXrnn:
    """The same system by xrnn."""
    xs, ys = (np.stack([of[t].T for t in s.steps]) for of in (s.x, s.y))
    return ByXrnn(s.weights, s.h[0], xs, ys)
