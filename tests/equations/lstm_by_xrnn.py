"""The system of the derivation "LSTM" by xrnn's public functions, to compare its equations with.

Γ_u, Γ_f, c̃, Γ_o and a are i, f, g, o and h here.  xrnn's rows are outputs, so its gradients
have the layout of the document's Jacobians.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import xrnn
from equations.form import column, row
from equations.gradients import all_gradients
from equations.lstm import GATES, T, cross_entropy, n_a, n_x, n_y
from xrnn.cells import LSTM
from xrnn.typing import DType

Named = dict[str, np.ndarray]

NAMES = {"u": "i", "f": "f", "c": "g", "o": "o"}
ORDER = sorted(GATES, key=lambda gate: LSTM.gates.index(NAMES[gate]))

#: a complex step loses nothing to cancellation, so it may be this small
STEP = 1e-30


def stacked(w: Named) -> Named:
    """The document's weights as `xrnn.cells.LSTM` holds them."""
    return {
        "W": np.concatenate([w[f"W_{gate}x"].T for gate in ORDER]),
        "U": np.concatenate([w[f"W_{gate}a"].T for gate in ORDER]),
        "b": np.concatenate([w[f"b_{gate}"].ravel() for gate in ORDER]),
    }


def readout(w: Named) -> xrnn.Linear:
    """Equation 11."""
    dtype: DType = "complex128" if np.iscomplexobj(w["W_ya"]) else "float64"
    linear = xrnn.Linear(n_a, n_y, dtype=dtype)
    linear.weights = {"W": w["W_ya"].T, "b": w["b_y"].ravel()}
    return linear


def named(dweights: Named, dreadout: Named) -> Named:
    """Gradients under the document's names, in its layout."""
    of = {"W_ya": dreadout["W"], "b_y": row(dreadout["b"])}
    for gate in GATES:
        at = ORDER.index(gate)
        block = slice(at * n_a, (at + 1) * n_a)
        of[f"W_{gate}a"], of[f"W_{gate}x"] = dweights["U"][block], dweights["W"][block]
        of[f"b_{gate}"] = row(dweights["b"][block])
    return of


def pre_activation(gate: str, value: np.ndarray) -> np.ndarray:
    """z from the value of a gate."""
    z: np.ndarray = np.arctanh(value) if gate == "c" else np.log(value / (1 - value))
    return z


class ByXrnn:
    """Values and gradients; t = 1 … T as in the document, 0 for the state given."""

    def __init__(self, w: Named, xs: list[np.ndarray], ys: list[np.ndarray]) -> None:
        self.w, self.weights, self.readout = w, stacked(w), readout(w)
        self.xs, self.ys = np.stack([x.T for x in xs]), np.stack([y.T for y in ys])
        self.first = (w["a_0"].T, w["c_0"].T)
        self.hs, _, self.tape = xrnn.unroll(LSTM, self.weights, self.xs, self.first)
        self.logits, readout_tape = self.readout.forward(self.hs)
        mean, dlogits = xrnn.losses.softmax_cross_entropy(self.logits, self.ys)
        self.J, self.dlogits = np.array([T * mean]), T * dlogits
        self.y_hats = self.dlogits + self.ys
        self.dhs, dreadout = self.readout.backward(readout_tape, self.dlogits)
        found = all_gradients(self.tape, self.dhs)
        self.dxs, (da_0, dc_0), self.dgates, self.dstates = (
            found.dxs,
            found.dstate,
            found.dgates,
            found.dstates,
        )
        self.total = named(found.dweights, dreadout) | {"a_0": da_0, "c_0": dc_0}

    def after(self, t: int) -> Any:
        """The state after step t."""
        return xrnn.unroll(LSTM, self.weights, self.xs[:t], self.first)[1]

    def comp_1(self, t: int) -> Any:
        """∂J/∂(a⁽ᵗ⁾, c⁽ᵗ⁾) by what the steps after t do with them, each with the other fixed."""
        _, _, tape = xrnn.unroll(LSTM, self.weights, self.xs[t:], self.after(t))
        return xrnn.unroll_backward(tape, self.dhs[t:])[1]

    def c_comp_2(self, t: int) -> np.ndarray:
        """∂J/∂c⁽ᵗ⁾ by a⁽ᵗ⁾ alone: a single step, cut out, has no later steps."""
        _, _, tape = xrnn.unroll(LSTM, self.weights, self.xs[t - 1 : t], self.after(t - 1))
        dh = self.dstates["h"][t - 1 : t]
        return row(xrnn.analysis.gate_gradients(tape, dh)[1]["c"])

    def of_step(self, t: int) -> Named:
        """∂J by the copies of the weights that step t alone uses."""
        _, _, tape = xrnn.unroll(LSTM, self.weights, self.xs[t - 1 : t], self.after(t - 1))
        _, _, dweights = xrnn.unroll_backward(tape, self.dhs[t - 1 : t], self.comp_1(t))
        _, readout_tape = self.readout.forward(self.hs[t - 1 : t])
        _, dreadout = self.readout.backward(readout_tape, self.dlogits[t - 1 : t])
        return named(dweights, dreadout)

    def of_copies(self, t: int) -> Named:
        """∂J by a⁽ᵗ⁻¹⁾ and x⁽ᵗ⁾ as one gate alone reads them: each gets copies as its inputs."""
        prev, copies = self.after(t - 1), {}
        W = np.zeros((4, n_a, 4, n_a + n_x))
        for at, gate in enumerate(ORDER):
            W[at, :, at] = np.concatenate([self.w[f"W_{gate}a"], self.w[f"W_{gate}x"]]).T
        weights = {
            "W": W.reshape(4 * n_a, -1),
            "U": np.zeros((4 * n_a, n_a)),
            "b": self.weights["b"],
        }
        xs = np.tile(np.concatenate([prev.h, self.xs[t - 1]], axis=1), 4)[None]
        _, _, tape = xrnn.unroll(LSTM, weights, xs, prev)
        dxs = xrnn.unroll_backward(tape, self.dhs[t - 1 : t], self.comp_1(t))[0]
        for gate, d in zip(ORDER, dxs.reshape(4, -1), strict=True):
            copies[f"a_{gate}"], copies[f"x_{gate}"] = row(d[:n_a]), row(d[n_a:])
        return copies

    def dJ(self, t: int, a: np.ndarray | float = 0.0, **d: np.ndarray) -> np.ndarray:
        """J changes by this as the weights change by d, and a⁽ᵗ⁾ by a for z_y, at t alone."""
        w = {name: value + 1j * STEP * d.get(name, 0) for name, value in self.w.items()}
        still = {name: value + 0j for name, value in self.w.items()}
        xs, prev = self.xs + 0j, tuple(s + 0j for s in self.after(t - 1))
        h, state, _ = xrnn.unroll(LSTM, stacked(w), xs[t - 1 : t], prev)
        later, _, _ = xrnn.unroll(LSTM, stacked(still), xs[t:], state)
        z = np.concatenate([readout(w)(h + 1j * STEP * np.transpose(a)), readout(still)(later)])
        y_hat = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
        return cross_entropy(y_hat, self.ys[t - 1 :]).imag / STEP

    def gradient(self, t: int, of: str) -> np.ndarray:
        """J by every entry of a weight that step t uses."""
        units = np.eye(self.w[of].size).reshape(-1, *self.w[of].shape)
        return np.concatenate([self.dJ(t, **{of: unit}) for unit in units]).reshape(units.shape[1:])

    def dJ_dgate(self, gate: str, t: int) -> np.ndarray:
        """∂J by the value of a gate: its bias is what moves it, one unit after the other."""
        value = xrnn.analysis.gates(self.tape)[NAMES[gate]][t - 1].T
        moves = [value + 1j * STEP * column(unit) for unit in np.eye(n_a)]
        biases = [pre_activation(gate, to).imag / STEP for to in moves]
        return row(np.concatenate([self.dJ(t, **{f"b_{gate}": d}) for d in biases]))

    def dJ_dy_hat(self, t: int) -> np.ndarray:
        """∂J⁽ᵗ⁾/∂ŷ⁽ᵗ⁾, each value alone; no public function has it."""
        y_hat, y = self.y_hats[t - 1], self.ys[t - 1]
        moved = [cross_entropy(y_hat + 1j * STEP * unit, y) for unit in np.eye(n_y)]
        return row(np.concatenate(moved).imag / STEP)

    def dz(
        self, gate: str, t: int, a_prev: np.ndarray, x: np.ndarray, **d: np.ndarray
    ) -> np.ndarray:
        """z of a gate changes by this as weights, a⁽ᵗ⁻¹⁾ and x⁽ᵗ⁾ change."""
        w = {name: value + 1j * STEP * d.get(name, 0) for name, value in self.w.items()}
        h, c = self.after(t - 1)
        state = (h + 1j * STEP * a_prev.T, c + 0j)
        xs = self.xs[t - 1 : t] + 1j * STEP * x.T
        _, _, tape = xrnn.unroll(LSTM, stacked(w), xs, state)
        value = xrnn.analysis.gates(tape)[NAMES[gate]]
        return column(pre_activation(gate, value).imag / STEP)

    def dz_y(self, t: int, a: np.ndarray, **d: np.ndarray) -> np.ndarray:
        """z_y changes by this as W_ya, b_y and a⁽ᵗ⁾ change."""
        w = {name: value + 1j * STEP * d.get(name, 0) for name, value in self.w.items()}
        return column(readout(w)(self.hs[t - 1] + 1j * STEP * a.T).imag / STEP)
