"""The gated recurrent units over whole sequences in NumPy.

Equations as in `xrnn.cells.gru` and `xrnn.cells.gru_before`; (4) as n + z ⊙ (h_{t-1} − n).
Backward, all gradients of a step are dh (of the second: dh or dq) times what forward knows.
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
    input_gradients,
    product_gradients,
)
from xrnn.recurrence.masks import apply_mask
from xrnn.typing import Array, State, Weights


class GRULoop(NumpyLoop):
    """Keeps r, z and m = U_n h + v, over which the gradients of U h are written; and n, over
    which that of W_n x is."""

    def memory(self, run: Residuals, steps: int) -> tuple[Array, ...]:
        return run.empty(steps, run.B, 3 * run.H), run.empty(steps, run.B, run.H)

    @ignore_overflow
    def steps(
        self, run: Residuals, weights: Weights, part: slice, pre: Array, kept: tuple[Array, ...]
    ) -> None:
        U, (p, p_gates) = weights["U"].T, run.product(3)
        p_rz, p_n, v = p_gates[:2], p_gates[2], run.full(weights["v"])
        gates, a = run.along(by_gate(kept[0], 3)), run.along(by_row(pre, 3))
        views = (gates[:, :2], *(gates[:, k] for k in range(3)), run.along(kept[1]))
        minus_rz, one = np.negative(a[:, :2], a[:, :2]), np.asarray(1, pre.dtype)
        add, divide, dot, exp = np.add, np.divide, np.dot, np.exp
        multiply, subtract, tanh = np.multiply, np.subtract, np.tanh
        for a_rz, a_n, rz, r, z, m, n, h_prev, h, out in zip(
            *(minus_rz, a[:, 2], *views, *run.around(run.hs, part), run.ended(part)),
            strict=False,
        ):
            dot(h_prev, U, p)
            subtract(a_rz, p_rz, rz)
            exp(rz, rz)
            add(rz, one, rz)
            divide(one, rz, rz)  # (1), (2)
            add(p_n, v, m)
            multiply(r, m, n)
            add(n, a_n, n)
            tanh(n, n)  # (3)
            subtract(h_prev, n, h)
            multiply(h, z, h)
            add(h, n, h)  # (4)
            if out is not None:
                np.copyto(h, h_prev, where=out)

    def steps_backward(
        self,
        run: Residuals,
        weights: Weights,
        part: slice,
        kept: tuple[Array, ...],
        dys: Iterable[Array | None],
        carried: State,
    ) -> State:
        (rows, ns), U, (dh,) = kept, weights["U"], carried
        gates = by_gate(rows, 3)
        k, k_n = _factors(gates, ns, run.before(run.hs)[part])
        views = (
            run.from_last(k),
            run.from_last(k_n),
            run.from_last(gates[:, 1]),
            run.from_last(rows),
        )
        p, dh_prev = run.empty(*run.shape), run.empty(*run.shape)
        add, dot, multiply = np.add, np.dot, np.multiply
        for dy, k_t, k_n_t, z, du, du_gates, da_n, out in zip(
            *(dys, *views, run.from_last(by_row(rows, 3)), run.from_last(ns)),
            run.ended(part, backward=True),
            strict=False,
        ):
            if dy is not None:
                add(dh, dy, dh)
            multiply(dh, z, dh_prev)  # (4): before the gates are written over
            multiply(dh, k_n_t, da_n)  # (4), (3)
            multiply(dh, k_t, du_gates)  # (1)-(4)
            if out is not None:
                np.copyto(da_n, 0, where=out)
                np.copyto(du, 0, where=out)
            dot(du, U, p)
            add(dh_prev, p, dh_prev)
            if out is not None:
                np.copyto(dh_prev, dh, where=out)
            dh, dh_prev = dh_prev, dh
        return (dh,)

    def gradients(
        self, run: Residuals, weights: Weights, kept: tuple[Array, ...]
    ) -> tuple[Array, dict[str, Array]]:
        du, da_n = (a.reshape(-1, a.shape[-1]) for a in kept)
        W, two, da_rz = weights["W"], 2 * run.H, du[:, : 2 * run.H]
        dxs = da_rz @ W[:two]
        dxs += da_n @ W[two:]
        dW = [product_gradients(da, run.xs) for da in (da_rz, da_n)]
        d_rz_v = du.sum(axis=0)
        return dxs.reshape(run.xs.shape), {
            "W": np.concatenate(dW),
            "U": product_gradients(du, run.before(run.hs)),
            "b": np.concatenate([d_rz_v[:two], da_n.sum(axis=0)]),
            "v": d_rz_v[two:].copy(),
        }


def _factors(gates: Array, n: Array, h_prev: Array) -> tuple[Array, Array]:
    """k of r, z, m (steps, 3, B, H) and of n (steps, B, H): each gradient is dh times one."""
    r, z, m = (gates[:, k] for k in range(3))
    k = np.empty_like(gates)
    k_r, k_z, k_m = (k[:, j] for j in range(3))
    np.subtract(1, z, k_z)  # dn = dh (1 − z)
    k_n = np.multiply(n, n)
    np.subtract(1, k_n, k_n)
    np.multiply(k_n, k_z, k_n)  # da_n
    np.multiply(k_z, z, k_z)
    np.multiply(k_z, h_prev - n, k_z)  # da_z
    np.multiply(k_n, r, k_m)  # dm = da_n r
    np.subtract(1, r, k_r)
    np.multiply(k_r, m, k_r)
    np.multiply(k_r, k_m, k_r)  # da_r = da_n m r (1 − r)
    return k, k_n


class GRUBeforeLoop(NumpyLoop):
    """Keeps r, z and n, over which their gradients are written; q = r ⊙ h_{t-1} is made again."""

    def memory(self, run: Residuals, steps: int) -> tuple[Array, ...]:
        return (run.empty(steps, run.B, 3 * run.H),)

    def room(self, run: Residuals) -> tuple[Array, ...]:
        return (run.empty(run.T, run.B, run.H),)

    @ignore_overflow
    def steps(
        self, run: Residuals, weights: Weights, part: slice, pre: Array, kept: tuple[Array, ...]
    ) -> None:
        U_rz, U_n = weights["U"][: 2 * run.H].T, weights["U"][2 * run.H :].T
        (p, p_rz), (p_n, _) = run.product(2), run.product(1)
        gates, a = run.along(by_gate(kept[0], 3)), run.along(by_row(pre, 3))
        views = (gates[:, :2], *(gates[:, k] for k in range(3)))
        minus_rz, one = np.negative(a[:, :2], a[:, :2]), np.asarray(1, pre.dtype)
        q = run.empty(*run.shape)
        add, divide, dot, exp = np.add, np.divide, np.dot, np.exp
        multiply, subtract, tanh = np.multiply, np.subtract, np.tanh
        for a_rz, a_n, rz, r, z, n, h_prev, h, out in zip(
            *(minus_rz, a[:, 2], *views, *run.around(run.hs, part), run.ended(part)),
            strict=False,
        ):
            dot(h_prev, U_rz, p)
            subtract(a_rz, p_rz, rz)
            exp(rz, rz)
            add(rz, one, rz)
            divide(one, rz, rz)  # (1), (2)
            multiply(r, h_prev, q)
            dot(q, U_n, p_n)
            add(p_n, a_n, n)
            tanh(n, n)  # (3)
            subtract(h_prev, n, h)
            multiply(h, z, h)
            add(h, n, h)  # (4)
            if out is not None:
                np.copyto(h, h_prev, where=out)

    def steps_backward(
        self,
        run: Residuals,
        weights: Weights,
        part: slice,
        kept: tuple[Array, ...],
        dys: Iterable[Array | None],
        carried: State,
    ) -> State:
        (rows, qs), (dh,), gates = kept, carried, by_gate(kept[0], 3)
        U_rz, U_n = weights["U"][: 2 * run.H], weights["U"][2 * run.H :]
        k, r = _factors_before(gates, run.before(run.hs)[part], qs)
        k, das, flat = run.from_last(k), run.from_last(by_row(rows, 3)), run.from_last(rows)
        views = (
            run.from_last(r),
            run.from_last(gates[:, 1]),
            k[:, 0],
            k[:, 1:],
            das[:, 0],
            das[:, 1:],
        )
        products = (flat, flat[..., : 2 * run.H], flat[..., 2 * run.H :])
        p, dq, dh_prev = (run.empty(*run.shape) for _ in range(3))
        add, dot, multiply = np.add, np.dot, np.multiply
        for dy, r_t, z, k_r, k_zn, da_r, da_zn, da, da_rz, da_n, out in zip(
            *(dys, *views, *products, run.ended(part, backward=True)), strict=False
        ):
            if dy is not None:
                add(dh, dy, dh)
            multiply(dh, z, dh_prev)  # (4): before the gates are written over
            multiply(dh, k_zn, da_zn)  # (4), (3), (1)
            dot(da_n, U_n, dq)
            multiply(dq, k_r, da_r)  # (2)
            multiply(dq, r_t, dq)
            add(dh_prev, dq, dh_prev)
            if out is not None:
                np.copyto(da, 0, where=out)
            dot(da_rz, U_rz, p)
            add(dh_prev, p, dh_prev)
            if out is not None:
                np.copyto(dh_prev, dh, where=out)
            dh, dh_prev = dh_prev, dh
        return (dh,)

    def gradients(
        self, run: Residuals, weights: Weights, kept: tuple[Array, ...]
    ) -> tuple[Array, dict[str, Array]]:
        rows, qs = kept
        if run.mask is not None:
            qs = apply_mask(run.mask, qs, xp=np)  # NaN in the padding, if a weight is infinite
        dxs, dweights = input_gradients(run, weights, rows)
        dU = [
            product_gradients(rows[..., : 2 * run.H], run.before(run.hs)),
            product_gradients(rows[..., 2 * run.H :], qs),
        ]
        return dxs, dweights | {"U": np.concatenate(dU)}


def _factors_before(gates: Array, h_prev: Array, q: Array) -> tuple[Array, Array]:
    """k of r, z, n (steps, 3, B, H), whose gradients are dq, dh, dh times one; r; and q."""
    r, z, n = (gates[:, k].copy() for k in range(3))
    k = np.subtract(1, gates)
    k_r, k_z, k_n = (k[:, j] for j in range(3))
    np.multiply(r, h_prev, q)
    np.multiply(k_r, q, k_r)  # dq h_prev r (1 − r)
    np.multiply(n, n, k_n)
    np.subtract(1, k_n, k_n)
    np.multiply(k_n, k_z, k_n)  # dh (1 − z) (1 − n²)
    np.multiply(k_z, z, k_z)
    np.multiply(k_z, h_prev - n, k_z)  # dh (h_prev − n) z (1 − z)
    return k, r
