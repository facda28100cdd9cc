"""What seed 000 speaks of, by xrnn's public functions alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

import xrnn
from equations.calculus import derivative
from equations.input_gated import Given
from xrnn.cells import InputGatedLSTM
from xrnn.engine.unroll import Tape
from xrnn.typing import Array

#: the gates of the document in the cell's letters, and in the cell's order
NAMES = {"f": "f", "i": "i", "o": "o", "c": "g"}
ORDER = sorted(NAMES, key=lambda gate: InputGatedLSTM.gates.index(NAMES[gate]))


def by_gate(stacked: Array) -> dict[str, Array]:
    """W or b by the document's gates (views)."""
    return dict(zip(ORDER, np.split(stacked, len(ORDER)), strict=True))


def jacobian(f: Callable[[Array], Array], v: Array) -> Array:
    """∂f/∂v, (size of f) x (size of v)."""
    return derivative(f, v).reshape(-1, v.size)


class ByXrnn:
    """xrnn's network of the document's weights, over its first steps."""

    def __init__(self, given: Given, steps: int | None = None) -> None:
        self.given = given
        self.t = len(given.x) if steps is None else steps
        self.T, self.M = given.W["v"].shape
        self.readout = xrnn.Linear(self.M, self.T, dtype="float64")
        self.readout.weights = {"W": given.W["v"], "b": given.b["v"]}
        self.weights = {
            "W": np.concatenate([given.W[k] for k in ORDER]),
            "b": np.concatenate([given.b[k] for k in ORDER]),
        }

    def unroll(self, first: int = 1, last: int | None = None) -> tuple[Array, Tape]:
        """The outputs and the tape of these steps, from the state before them."""
        xs = self.given.x[first - 1 : self.t if last is None else last, None, :]
        state = self.state(self.given.C_0 if first == 1 else self.C[first - 2])
        ys, _, tape = xrnn.unroll(InputGatedLSTM, self.weights, xs, state)
        return ys, tape

    def state(self, C: Array) -> tuple[Array, Array]:
        """No gate sees h, so it may be anything."""
        return np.full((1, self.M), 9.0), C[None]

    # ---- values -------------------------------------------------------------------------

    @cached_property
    def whole(self) -> tuple[Array, Tape]:
        return self.unroll()

    @cached_property
    def values(self) -> dict[str, Array]:
        """F, i, O, C', C, h and L, (steps, ·)."""
        ys, tape = self.whole
        gates = xrnn.analysis.gates(tape)
        L = self.readout(ys)
        names = {"F": "f", "i": "i", "O": "o", "C'": "g", "C": "c"}
        found = {name: gates[gate] for name, gate in names.items()} | {"h": ys, "L": L}
        return {name: a[:, 0] for name, a in found.items()}

    @property
    def C(self) -> Array:
        return self.values["C"]

    def loss(self, t: int) -> tuple[Array, Array]:
        """E_t, and its gradient by the logits of all steps (steps, 1, T)."""
        mask = np.arange(1, self.t + 1)[:, None] == t
        L, Y = self.values["L"][:, None], self.given.Y[: self.t, None]
        return xrnn.losses.softmax_cross_entropy(L, Y, mask)

    def loss_of(self, k: int) -> Array:
        """The last loss, were its target class k alone."""
        return xrnn.losses.softmax_cross_entropy(self.values["L"][-1], np.asarray(k))[0]

    @property
    def P(self) -> Array:
        """softmax(L) at every step, from the gradient P - Y of the loss."""
        return np.stack([self.loss(t)[1][t - 1, 0] for t in range(1, self.t + 1)]) + self.given.Y

    @property
    def dP_dL(self) -> Array:
        return xrnn.losses.softmax_jacobian(self.P[-1])

    # ---- gradients ----------------------------------------------------------------------

    def gradients(self, counts: Array) -> dict[str, Array]:
        """Σ_t counts_t E_t by every weight, x and C_0."""
        ys, tape = self.whole
        dL = sum(count * self.loss(t)[1] for t, count in enumerate(counts, 1))
        dys, dreadout = self.readout.backward(self.readout.forward(ys)[1], dL)
        dxs, dstate, dweights = xrnn.unroll_backward(tape, dys)
        found = {f"W_{k}": a for k, a in by_gate(dweights["W"]).items()}
        found |= {f"b_{k}": a for k, a in by_gate(dweights["b"]).items()}
        found |= {"W_v": dreadout["W"], "b_v": dreadout["b"]}
        return found | {"x": dxs[:, 0], "C_0": dstate[1][0]}

    def online(self) -> list[dict[str, Array]]:
        """∂E_t by W and b of every gate, for every t, at that very t."""
        net = xrnn.online.Online(
            InputGatedLSTM, self.weights, batch=1, state=self.state(self.given.C_0)
        )
        each = []
        for t, x in enumerate(self.given.x, 1):
            _, read = self.readout.forward(net.step(x[None]))
            dweights = net.gradient(self.readout.backward(read, self.loss(t)[1][t - 1])[0])
            each.append({f"{w}_{k}": a for w, d in dweights.items() for k, a in by_gate(d).items()})
        return each

    @property
    def dE_dh_0(self) -> Array:
        """The last loss by the first h."""
        return xrnn.unroll_backward(self.whole[1], self.dys)[1][0]

    @property
    def dE_dW(self) -> Array:
        """The last loss by W_i, 1 x (M·N)."""
        return self.gradients(np.eye(self.t)[-1])["W_i"].reshape(1, -1)

    @cached_property
    def dys(self) -> Array:
        """The gradient that the last loss gives to the outputs."""
        read = self.readout.forward(self.whole[0])[1]
        return self.readout.backward(read, self.loss(self.t)[1])[0]

    def sent(self, t: int) -> Array:
        """What the steps after t send back to C_t."""
        if t == self.t:
            return np.zeros((1, self.M))
        _, tape = self.unroll(first=t + 1)
        return xrnn.unroll_backward(tape, self.dys[t:])[1][1]

    def dE_dW_of_steps(self, first: int, last: int) -> Array:
        """The last loss by the copies of W_i that these steps use."""
        _, tape = self.unroll(first, last)
        dys = self.dys[first - 1 : last]
        dweights = xrnn.unroll_backward(tape, dys, (None, self.sent(last)))[2]
        return by_gate(dweights["W"])["i"]

    def dC_dtheta(self, gate: str, t: int) -> tuple[Array, Array]:
        """∂C_t/∂W and ∂C_t/∂b of a gate, total: M x (M·N) and M x M."""
        _, tape = self.unroll(last=t)
        rows = []
        for unit in np.eye(self.M):
            dweights = xrnn.unroll_backward(tape, None, (None, unit[None]))[2]
            rows.append([by_gate(dweights[name])[gate].ravel() for name in ("W", "b")])
        return np.stack([W for W, _ in rows]), np.stack([b for _, b in rows])

    def dC_dC(self, t: int, span: int = 1) -> Array:
        """∂C_{t+span}/∂C_t."""
        return xrnn.analysis.jacobian(self.whole[1], t - 1, span, of="c", by="c")[0]

    # ---- single factors of the last step ------------------------------------------------

    def node(self, name: str, **inject: Array) -> Array:
        """A symbol of the last step, its W_i, b_i, C_{t-1} or x set to what is given."""
        weights = {k: a.astype(complex) for k, a in self.weights.items()}
        for key in inject.keys() & {"W_i", "b_i"}:
            by_gate(weights[key[0]])["i"][...] = inject[key]
        x = inject.get("x", self.given.x[[self.t - 1]]).astype(complex)
        C = np.broadcast_to(inject.get("C", self.C[-2]), (len(x), self.M)).astype(complex)
        ys, _, tape = xrnn.unroll(InputGatedLSTM, weights, x[None], (np.zeros_like(C), C))
        i, f, g, o, C = (xrnn.analysis.gates(tape)[k][0] for k in "ifgoc")
        found = {"F": f, "i": i, "O": o, "C'": g, "C": C, "h": ys[0], "b": ys[0] / o}
        return (found | {"a1": i * g, "a": C - i * g, "d": np.log(i / (1 - i))})[name]

    def by(self, name: str, what: str) -> Array:
        """A symbol of the last step by W_i, b_i or C_{t-1}."""
        bases = {"W_i": self.given.W["i"], "b_i": self.given.b["i"], "C": self.C[-2]}
        return jacobian(lambda v: self.node(name, **{what: v}), bases[what])

    def factor(self, of: str, by: str, through: str) -> Array:
        """∂of/∂by of two symbols that `through` moves both."""
        return self.by(of, through) @ np.linalg.inv(self.by(by, through))

    def dd2_dW(self, k: int) -> Array:
        """∂d2_k/∂W_i: row k of W_i ⊗ x is what each input does alone, so each is a sequence."""
        x = np.diag(self.given.x[self.t - 1])
        return jacobian(lambda v: self.node("d", W_i=v, x=x)[:, k], self.given.W["i"])

    def dL(self, by: str) -> Array:
        """∂L by h, W_v or b_v, T x its size."""
        _, tape = self.readout.forward(self.values["h"][-1])
        rows = []
        for unit in np.eye(self.T):
            dh, dweights = self.readout.backward(tape, unit)
            rows.append({"h": dh, "W_v": dweights["W"], "b_v": dweights["b"]}[by].ravel())
        return np.stack(rows)

    @property
    def dL1_dL2(self) -> Array:
        """By W_v and not by L2 = W_v ⊗ h: each entry over its own h."""
        return self.dL("W_v") / np.tile(self.values["h"][-1], self.T)

    def dL2_dh(self, k: int) -> Array:
        """∂L2_k/∂h: row k of W_v ⊗ h is what each unit does alone, so each is a position."""
        _, tape = self.readout.forward(np.diag(self.values["h"][-1]))
        dL2 = np.zeros((self.M, self.M, self.T))
        dL2[np.arange(self.M), np.arange(self.M), k] = 1
        return np.stack([np.diag(self.readout.backward(tape, d)[0]) for d in dL2])
