"""The LSTMs over whole sequences in NumPy.

Equations as in `xrnn.cells.lstm` and `xrnn.cells.peephole`, here in the order of the first.
Backward, all gradients of a step are dh or dc times what forward knows:

da_o = dh ⊙ k_o,  dc ← dc + dh ⊙ k_c        (6)
da_{i,f,g} = dc ⊙ k_{i,f,g},  dc ← dc ⊙ f   (1)-(5)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from xrnn.backends.cpu.sequences import (
    NumpyLoop,
    Residuals,
    by_gate,
    by_row,
    ignore_overflow,
)
from xrnn.typing import Array, State, Weights


class LSTMLoop(NumpyLoop):
    """Keeps the gates, over which their gradients are written.

    Pre-activations are computed with the opposite sign, as e^-a is what σ needs; so g is, too, and
    has its own sign only at the end of a block.
    """

    def memory(self, run: Residuals, steps: int) -> tuple[Array, ...]:
        return (run.empty(steps, run.B, 4 * run.H),)

    @ignore_overflow
    def steps(
        self, run: Residuals, weights: Weights, part: slice, pre: Array, kept: tuple[Array, ...]
    ) -> None:
        U, (p, p_gates) = weights["U"].T, run.product(4)
        p_g, one = p_gates[2], np.asarray(1, pre.dtype)
        minus = run.along(np.negative(pre, pre))
        gates = run.along(by_gate(kept[0], 4))
        i_f_g_o = [gates[:, k] for k in range(4)]
        states = (*run.around(run.hs, part), *run.around(run.cs, part), run.ended(part))
        u = run.empty(*run.shape)
        add, divide, dot, exp = np.add, np.divide, np.dot, np.exp
        multiply, subtract, tanh = np.multiply, np.subtract, np.tanh
        for a, y, i, f, g, o, h_prev, h, c_prev, c, out in zip(
            minus, gates, *i_f_g_o, *states, strict=False
        ):
            dot(h_prev, U, p)
            subtract(a, p, p)
            exp(p_gates, y)
            add(y, one, y)
            divide(one, y, y)  # (1), (2), (4)
            tanh(p_g, g)  # (3)
            multiply(i, g, u)
            multiply(f, c_prev, c)
            subtract(c, u, c)  # (5)
            tanh(c, u)
            multiply(o, u, h)  # (6)
            if out is not None:
                np.copyto(c, c_prev, where=out)
                np.copyto(h, h_prev, where=out)
        np.negative(i_f_g_o[2], i_f_g_o[2])

    def steps_backward(
        self,
        run: Residuals,
        weights: Weights,
        part: slice,
        kept: tuple[Array, ...],
        dys: Iterable[Array | None],
        carried: State,
    ) -> State:
        (rows, *_), U, (dh, dc) = kept, weights["U"], carried
        k, k_c, f = self.factors(run, weights, part, by_gate(rows, 4))
        k, k_c, f = run.from_last(k), run.from_last(k_c), run.from_last(f)
        das = run.from_last(by_row(rows, 4))
        u, dc_prev, dh_prev = (run.empty(*run.shape) for _ in range(3))
        add, dot, multiply = np.add, np.dot, np.multiply
        for dy, k_ifg, k_o, k_c_t, f_t, da, da_ifg, da_o, out in zip(
            *(dys, k[:, :3], k[:, 3], k_c, f, run.from_last(rows), das[:, :3], das[:, 3]),
            run.ended(part, backward=True),
            strict=False,
        ):
            if dy is not None:
                add(dh, dy, dh)
            multiply(dh, k_c_t, u)
            if out is not None:
                np.copyto(u, 0, where=out)
            add(dc, u, dc)  # (6)
            multiply(dc, f_t, dc_prev)  # (5): before the gates are written over
            multiply(dc, k_ifg, da_ifg)  # (5), (1)-(3)
            multiply(dh, k_o, da_o)  # (6), (4)
            if out is not None:
                np.copyto(da, 0, where=out)
                np.copyto(dc_prev, dc, where=out)
            dot(da, U, dh_prev)
            if out is not None:
                np.copyto(dh_prev, dh, where=out)
            dh, dh_prev, dc, dc_prev = dh_prev, dh, dc_prev, dc
        return dh, dc

    def factors(
        self, run: Residuals, weights: Weights, part: slice, gates: Array
    ) -> tuple[Array, Array, Array]:
        """k (steps, 4, B, H) of the gates, k_c and f (steps, B, H)."""
        i, f, g, o = (gates[:, n] for n in range(4))
        k = np.subtract(1, gates)
        np.multiply(k, gates, k)
        k_i, k_f, k_g, k_o = (k[:, n] for n in range(4))
        np.multiply(k_i, g, k_i)  # di i (1 − i), where di = dc g
        np.multiply(k_f, run.before(run.cs)[part], k_f)
        np.multiply(g, g, k_g)
        np.subtract(1, k_g, k_g)
        np.multiply(k_g, i, k_g)
        k_c = np.tanh(run.after(run.cs)[part])
        np.multiply(k_o, k_c, k_o)
        np.multiply(k_c, k_c, k_c)
        np.subtract(1, k_c, k_c)
        np.multiply(k_c, o, k_c)
        return k, k_c, f


class PeepholeLoop(LSTMLoop):
    """The same with c_{t-1} in i and f, and c_t in o: back through o to c, and to c_{t-1}
    through i and f, are two more terms of k_c and f."""

    @ignore_overflow
    def steps(
        self, run: Residuals, weights: Weights, part: slice, pre: Array, kept: tuple[Array, ...]
    ) -> None:
        U, (p, p_gates) = weights["U"].T, run.product(4)
        (p_if, p_g, p_o), one = (p_gates[:2], p_gates[2], p_gates[3]), np.asarray(1, pre.dtype)
        minus, peep = run.along(np.negative(pre, pre)), run.full(weights["p"].reshape(3, run.H))
        peep_if, peep_o = peep[:2], peep[2]
        gates = run.along(by_gate(kept[0], 4))
        views = [gates[:, :2], *(gates[:, k] for k in range(4))]
        states = (*run.around(run.hs, part), *run.around(run.cs, part), run.ended(part))
        u, w = run.empty(*run.shape), run.empty(2, *run.shape)
        add, divide, dot, exp = np.add, np.divide, np.dot, np.exp
        multiply, subtract, tanh = np.multiply, np.subtract, np.tanh
        for a, i_f, i, f, g, o, h_prev, h, c_prev, c, out in zip(
            minus, *views, *states, strict=False
        ):
            dot(h_prev, U, p)
            subtract(a, p, p)
            multiply(peep_if, c_prev, w)
            subtract(p_if, w, i_f)
            exp(i_f, i_f)
            add(i_f, one, i_f)
            divide(one, i_f, i_f)  # (1), (2)
            tanh(p_g, g)  # (3)
            multiply(i, g, u)
            multiply(f, c_prev, c)
            subtract(c, u, c)  # (5)
            multiply(peep_o, c, u)
            subtract(p_o, u, o)
            exp(o, o)
            add(o, one, o)
            divide(one, o, o)  # (4)
            tanh(c, u)
            multiply(o, u, h)  # (6)
            if out is not None:
                np.copyto(c, c_prev, where=out)
                np.copyto(h, h_prev, where=out)
        np.negative(views[3], views[3])

    def factors(
        self, run: Residuals, weights: Weights, part: slice, gates: Array
    ) -> tuple[Array, Array, Array]:
        k, k_c, f = super().factors(run, weights, part, gates)
        p_i, p_f, p_o = weights["p"].reshape(3, run.H)
        k_c += p_o * k[:, 3]
        return k, k_c, f + p_i * k[:, 0] + p_f * k[:, 1]

    def gradients(
        self, run: Residuals, weights: Weights, kept: tuple[Array, ...]
    ) -> tuple[Array, dict[str, Array]]:
        dxs, dweights = super().gradients(run, weights, kept)
        da_i, da_f, _, da_o = kept[0].reshape(run.T * run.B, 4, run.H).swapaxes(0, 1)
        parts = ((da_i, run.before(run.cs)), (da_f, run.before(run.cs)), (da_o, run.after(run.cs)))
        dp = [np.einsum("rh,rh->h", da, c.reshape(-1, run.H)) for da, c in parts]
        return dxs, dweights | {"p": np.concatenate(dp)}
