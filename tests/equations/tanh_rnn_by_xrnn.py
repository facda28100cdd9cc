"""What xrnn's public functions say of the system that seeds 001 and 004 share.

h_t = tanh(W h_{t-1} + U x_t + b),  Ω_t = V h_t + c,  L = Σ_t −y_tᵀ ln softmax(Ω_t)

Results bear the documents' letters and are columns.  Their W is xrnn's U and their U its W.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import xrnn
from equations.form import column
from xrnn.analysis import jacobian
from xrnn.cells import Elman
from xrnn.learn.losses import softmax_cross_entropy, softmax_jacobian


def columns(a: np.ndarray) -> np.ndarray:
    """(T, 1, n) as T columns."""
    return a.swapaxes(1, 2)


class ByXrnn:
    """One sequence: weights by letter, h_0 (n, 1), xs (T, 1, d), y_t one under the other.

    Parameters
    ----------
    weights : mapping of str to array
        W, U, b, V, c.
    h_0 : array (n, 1)
    xs : array (T, 1, d)
    ys : array (T, 1, o)
        The distribution over the classes that step t should have given.
    """

    def __init__(
        self, weights: Mapping[str, np.ndarray], h_0: np.ndarray, xs: np.ndarray, ys: np.ndarray
    ) -> None:
        self.weights = {"W": weights["U"], "U": weights["W"], "b": weights["b"][:, 0]}
        self.h_0, self.xs, self.ys = h_0.T, xs, ys
        self.T, self.n, self.o = len(xs), len(h_0), ys.shape[-1]
        self.hs, _, self.tape = xrnn.unroll(Elman, self.weights, xs, (self.h_0,))
        self.readout = xrnn.Linear(self.n, self.o, dtype="float64")
        self.readout.weights = {"W": weights["V"], "b": weights["c"][:, 0]}
        self.logits, self.read = self.readout.forward(self.hs)

    def loss(self, t: int) -> np.ndarray:
        """L_t (1, 1)."""
        return column(softmax_cross_entropy(self.logits[t - 1], self.ys[t - 1])[0])

    def y_hat(self, t: int) -> np.ndarray:
        """softmax(Ω_t): the loss is −ln ŷ_i where class i is the right one."""
        losses = [
            softmax_cross_entropy(self.logits[t - 1], np.array([i]))[0] for i in range(self.o)
        ]
        return column(np.exp(-np.array(losses)))

    def dy_hat_dOmega(self, t: int) -> np.ndarray:
        """∂ŷ_i/∂Ω_j (o, o)."""
        return np.asarray(softmax_jacobian(self.y_hat(t)[:, 0]))

    def dOmega(self, t: int) -> dict[str, np.ndarray]:
        """∂Ω_i/∂ of h_t (o, n), V (o, o, n), c (o, o, 1)."""
        _, read = self.readout.forward(self.hs[t - 1])
        rows = [self.readout.backward(read, unit) for unit in np.eye(self.o)[:, None, :]]
        return {
            "h": np.stack([dh[0] for dh, _ in rows]),
            "V": np.stack([dweights["W"] for _, dweights in rows]),
            "c": np.stack([column(dweights["b"]) for _, dweights in rows]),
        }

    def gradients(self, t: int | None = None) -> dict[str, np.ndarray]:
        """The gradient of L_t, or of L, to weights and h_0, and step by step to x, h, a, Ω."""
        if t is None:
            dOmegas = softmax_cross_entropy(self.logits, self.ys)[1] * self.T
        else:
            alone = np.arange(1, self.T + 1)[:, None] == t
            dOmegas = softmax_cross_entropy(self.logits, self.ys, alone)[1]
        dhs, dreadout = self.readout.backward(self.read, dOmegas)
        return {
            **self._lettered(xrnn.unroll_backward(self.tape, dhs, gates=True)),
            "V": dreadout["W"],
            "c": column(dreadout["b"]),
            "Omega": columns(dOmegas),
        }

    def immediate(self, t: int) -> dict[str, np.ndarray]:
        """∂h_t of unit i to W, U, b, x (n, d), a (n, n) of this step alone, h_{t-1} held."""
        h_prev = self.h_0 if t == 1 else self.hs[t - 2]
        _, _, tape = xrnn.unroll(Elman, self.weights, self.xs[t - 1 : t], (h_prev,))
        rows = [
            self._lettered(xrnn.unroll_backward(tape, None, (unit,), gates=True))
            for unit in np.eye(self.n)[:, None, :]
        ]
        d = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {**d, "x": d["x"][:, 0, :, 0], "a": d["a"][:, 0, :, 0]}

    def dh_dh(self, t: int, k: int) -> np.ndarray:
        """∂h_t/∂h_k (n, n)."""
        return np.asarray(jacobian(self.tape, k - 1, t - k)[0])

    @staticmethod
    def _lettered(look: Any) -> dict[str, np.ndarray]:
        dxs, dfirst, dweights, dgates, dstates = look
        return {
            "W": dweights["U"],
            "U": dweights["W"],
            "b": column(dweights["b"]),
            "h_0": dfirst.h.T,
            "x": columns(dxs),
            "a": columns(dgates["h"]),
            "h": columns(dstates["h"]),
        }
