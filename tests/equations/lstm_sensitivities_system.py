"""Derivation "ReLU RNN, LSTM and GRU", section 2, eqs 25-57: an LSTM by forward sensitivities.

Vectors are columns.  L = Σ_t L_t, and each L_t sends ∂L_t/∂h_t from outside; every δ is of L_t
alone.  ∂h_{t-1}/∂θ and ∂c_{t-1}/∂θ, (n_h, size of θ), are total derivatives over the past.
Lines 1-3 and the braces multiply a row by Jacobians; the final lines have the shape of θ, and
there a column beside ∂h_{t-1}/∂θ is Σ_k v_k ∂h_{t-1,k}/∂θ.  x_t in a brace is ∂(W x_t)/∂W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from equations.form import add, column, diag, had, mm, sigma

n_x, n_h, T = 3, 5, 4

#: ∂h_0/∂θ is zero and c̃_0 does not exist: the first step with a past is the second
STEPS = range(2, T + 1)

GATES = ("o", "f", "i", "c")
THETAS = tuple(f"{a}_{g}" for g in ("c", "o", "i", "f") for a in ("W", "U", "b"))

_rng = np.random.default_rng(3)
_shapes = {"W": (n_h, n_x), "U": (n_h, n_h), "b": (n_h, 1)}
P = {theta: 0.7 * _rng.normal(size=_shapes[theta[0]]) for theta in THETAS}
x, dL_dh = ([column(v) for v in _rng.normal(size=(T + 1, n))] for n in (n_x, n_h))


# The system


class Unit(NamedTuple):
    """What the unit computes in one step; or the Jacobian of each."""

    f: np.ndarray
    i: np.ndarray
    o: np.ndarray
    c_tilde: np.ndarray
    c: np.ndarray
    tanh_c: np.ndarray
    h: np.ndarray


def unit(P: dict[str, np.ndarray], x: np.ndarray, h_prev: np.ndarray, c_prev: np.ndarray) -> Unit:
    z = {g: add(mm(P[f"W_{g}"], x), mm(P[f"U_{g}"], h_prev), P[f"b_{g}"]) for g in GATES}
    f, i, o, c_tilde = sigma(z["f"]), sigma(z["i"]), sigma(z["o"]), np.tanh(z["c"])  # (25)-(28)
    c = add(had(f, c_prev), had(i, c_tilde))  # (29)
    return Unit(f, i, o, c_tilde, c, np.tanh(c), had(o, np.tanh(c)))  # (30)


def run(P: dict[str, np.ndarray]) -> list[Unit]:
    """The units of all steps; of step 0 only the state exists, the rest is NaN."""
    units = [START]
    for t in range(1, T + 1):
        units.append(unit(P, x[t], units[-1].h, units[-1].c))
    return units


_none, _c_0 = np.full((n_h, 1), np.nan), column(_rng.normal(size=n_h))
START = Unit(_none, _none, _none, _none, _c_0, np.tanh(_c_0), column(_rng.normal(size=n_h)))
UNITS = run(P)


def derivative(of: Callable[[np.ndarray], Unit], at: np.ndarray) -> Unit:
    """The Jacobian of everything in the unit, by complex steps."""
    rows = []
    for k in range(at.size):
        moved = at.astype(complex)
        moved.flat[k] += 1e-30j
        rows.append([value.imag / 1e-30 for value in of(moved)])
    return Unit(*(np.hstack(columns) for columns in zip(*rows, strict=True)))


@cache
def by(theta: str, t: int) -> Unit:
    """∂f_t/∂θ, …, ∂h_t/∂θ: total, over the whole past."""
    return derivative(lambda moved: run({**P, theta: moved})[t], P[theta])


def direct(theta: str, t: int) -> np.ndarray:
    """∂z_t/∂θ with h_{t-1} held fixed, for the gate that θ belongs to."""
    seen = {"W": x[t], "U": UNITS[t - 1].h, "b": np.ones((1, 1))}[theta[0]]
    return np.kron(np.eye(n_h), seen.T)


# (31)-(37): lines 1-3 and the braces


@dataclass(frozen=True)
class Chain:
    """What stands in the braces when h_t is differentiated by q: a W, h_{t-1}, c_{t-1} or x_t."""

    d: Unit
    """∂f_t/∂q, …, ∂tanh(c_t)/∂q"""
    dz: dict[str, np.ndarray]
    """for each gate the bracket behind its slope, such as U_o ∂h_{t-1}/∂q"""
    dc_prev: np.ndarray | None
    """∂c_{t-1}/∂q; None where the term is left out"""


def chain(q: str, t: int) -> Chain:
    now, prev = UNITS[t], UNITS[t - 1]
    if q == "x":
        d = derivative(lambda moved: unit(P, moved, prev.h, prev.c), x[t])
        return Chain(d, {g: P[f"W_{g}"] for g in GATES}, None)
    if q == "h":
        d = derivative(lambda moved: unit(P, x[t], moved, prev.c), prev.h)
        return Chain(d, {g: P[f"U_{g}"] for g in GATES}, None)
    if q == "c":
        d = derivative(lambda c: unit(P, x[t], had(prev.o, np.tanh(c)), c), prev.c)
        return Chain(d, {g: mm(P[f"U_{g}"], dh_dc(t - 1)) for g in GATES}, np.eye(now.c.size))
    past = by(q, t - 1)
    dz = {g: mm(P[f"U_{g}"], past.h) for g in GATES}
    dz[q[-1]] = add(direct(q, t), dz[q[-1]])
    return Chain(by(q, t), dz, past.c)


def dh_dc(t: int) -> np.ndarray:
    """∂h_t/∂c_t, which (36) and (56) use and do not write out."""
    return diag(had(UNITS[t].o, 1 - UNITS[t].tanh_c ** 2))


def line_1(t: int, k: Chain) -> np.ndarray:
    u = UNITS[t]
    return mm(dL_dh[t].T, add(mm(diag(u.tanh_c), k.d.o), mm(diag(u.o), k.d.tanh_c)))


def line_2(t: int, k: Chain) -> np.ndarray:
    return _with_do(t, k, k.d.c)


def line_3(t: int, k: Chain) -> np.ndarray:
    u, c_prev = UNITS[t], UNITS[t - 1].c
    dc = add(mm(diag(c_prev), k.d.f), mm(diag(u.c_tilde), k.d.i), mm(diag(u.i), k.d.c_tilde))
    return _with_do(t, k, dc if k.dc_prev is None else add(dc, mm(diag(u.f), k.dc_prev)))


def _with_do(t: int, k: Chain, dc: np.ndarray) -> np.ndarray:
    u = UNITS[t]
    do = mm(diag(had(u.o, 1 - u.o)), k.dz["o"])
    both = add(mm(diag(u.tanh_c), do), mm(diag(u.o), diag(1 - u.tanh_c**2), dc))
    return mm(dL_dh[t].T, both)


def braces(t: int, k: Chain) -> np.ndarray:
    u, v, c_prev = UNITS[t], dL_dh[t].T, UNITS[t - 1].c
    cell = diag(had(u.o, 1 - u.tanh_c**2))
    terms = [
        mm(v, diag(u.tanh_c), diag(had(u.o, 1 - u.o)), k.dz["o"]),
        mm(v, cell, diag(c_prev), diag(had(u.f, 1 - u.f)), k.dz["f"]),
        mm(v, cell, diag(u.c_tilde), diag(had(u.i, 1 - u.i)), k.dz["i"]),
        mm(v, cell, diag(u.i), diag(1 - u.c_tilde**2), k.dz["c"]),
    ]
    return add(*terms) if k.dc_prev is None else add(*terms, mm(v, cell, diag(u.f), k.dc_prev))


def braces_31_printed(t: int) -> np.ndarray:
    """U_c ∂h_{t-1}/∂W_c is missing beside x_t."""
    k = chain("W_c", t)
    return braces(t, replace(k, dz={**k.dz, "c": direct("W_c", t)}))


def braces_35_printed(t: int) -> np.ndarray:
    """x_t stands beside U_f."""
    k = chain("h", t)
    return braces(t, replace(k, dz={**k.dz, "f": add(x[t], P["U_f"])}))


# (38)-(57) and the final lines of (31)-(37)


class Delta(NamedTuple):
    """(38)-(42).  δ^c is the error of c_{t-1}, the others are of pre-activations."""

    o: np.ndarray
    f: np.ndarray
    i: np.ndarray
    c: np.ndarray
    c_tilde: np.ndarray

    def of(self, gate: str) -> np.ndarray:
        return {"o": self.o, "f": self.f, "i": self.i, "c": self.c_tilde}[gate]


def deltas(t: int, dh: np.ndarray, dc: np.ndarray | None = None) -> Delta:
    """The errors of step t for ∂L/∂h_t; `dc` is for those who cumulate ∂L/∂c_t too."""
    u, c_prev = UNITS[t], UNITS[t - 1].c
    dc = cell_error(t, dh) if dc is None else dc
    return Delta(
        o=had(dh, u.tanh_c, u.o, 1 - u.o),  # (38)
        f=had(dc, c_prev, u.f, 1 - u.f),  # (39)
        i=had(dc, u.c_tilde, u.i, 1 - u.i),  # (40)
        c=had(dc, u.f),  # (41)
        c_tilde=had(dc, u.i, 1 - u.c_tilde**2),  # (42)
    )


def cell_error(t: int, dh: np.ndarray) -> np.ndarray:
    return had(dh, UNITS[t].o, 1 - UNITS[t].tanh_c ** 2)


def local(t: int) -> Delta:
    return deltas(t, dL_dh[t])


def along(v: np.ndarray, J: np.ndarray) -> np.ndarray:
    """Σ_k v_k ∂h_k/∂θ, a column as long as θ."""
    return mm(v.T, J).T


def back(letter: str, d: Delta, gates: Sequence[str] = GATES) -> np.ndarray:
    """U_oᵀδ^o + U_fᵀδ^f + …, or with W."""
    return add(*(mm(P[f"{letter}_{g}"].T, d.of(g)) for g in gates))


def first_term(theta: str, t: int, d: Delta) -> np.ndarray:
    """δ_t x_tᵀ, δ_t h_{t-1}ᵀ or δ_t."""
    own = d.of(theta[-1])
    return {
        "W": lambda: mm(own, x[t].T),
        "U": lambda: mm(own, UNITS[t - 1].h.T),
        "b": lambda: own,
    }[theta[0]]()


def final(
    theta: str, t: int, gates: Sequence[str] = GATES, first: np.ndarray | None = None
) -> np.ndarray:
    """The final lines of (31)-(34)."""
    d, past = local(t), by(theta, t - 1)
    terms = [along(mm(P[f"U_{g}"].T, d.of(g)), past.h) for g in gates]
    history = add(*terms, along(d.c, past.c)).reshape(P[theta].shape)
    return add(first_term(theta, t, d) if first is None else first, history)


def final_34_printed(t: int) -> np.ndarray:
    """c̃_{t-1} for c_{t-1} in the first term."""
    u, c_tilde_prev = UNITS[t], UNITS[t - 1].c_tilde
    delta_f = had(cell_error(t, dL_dh[t]), c_tilde_prev, u.f, 1 - u.f)
    return final("W_f", t, first=mm(delta_f, x[t].T))


def final_36(t: int) -> np.ndarray:
    d, J = local(t), dh_dc(t - 1)
    return add(*(along(mm(P[f"U_{g}"].T, d.of(g)), J) for g in GATES), d.c)


def final_36_printed(t: int) -> np.ndarray:
    """The first term without ∂h_{t-1}/∂c_{t-1}."""
    d, J = local(t), dh_dc(t - 1)
    rest = (along(mm(P[f"U_{g}"].T, d.of(g)), J) for g in ("f", "i", "c"))
    return add(mm(P["U_o"].T, d.o), *rest, d.c)


def collected(
    theta: str, t: int, past: tuple[np.ndarray, np.ndarray], dh: np.ndarray, printed: bool = False
) -> np.ndarray:
    """(43)-(54), where `past` is (∂h_{t-1}/∂θ, ∂c_{t-1}/∂θ)."""
    d, (Jh, Jc) = deltas(t, dh), past
    # (43)-(45) leave U_cᵀδ^c̃ out.
    gates = ("o", "f", "i") if printed and theta[-1] == "c" else GATES
    history = add(along(back("U", d, gates), Jh), along(d.c, Jc))
    return add(first_term(theta, t, d), history.reshape(P[theta].shape))


def collected_by(theta: str, t: int, printed: bool = False) -> np.ndarray:
    past = by(theta, t - 1)
    return collected(theta, t, (past.h, past.c), dL_dh[t], printed)


def eq_56_first(t: int) -> np.ndarray:
    return add(local(t).c, along(back("U", local(t)), dh_dc(t - 1)))


def eq_56_second(t: int) -> np.ndarray:
    dh_prev = along(dL_dh[t], chain("h", t).d.h)
    return add(local(t).c, along(dh_prev, dh_dc(t - 1)))


# What is carried from step to step


@cache
def carried(theta: str, printed: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """(∂h_t/∂θ, ∂c_t/∂θ), t = 0…T, by the recursion that the braces of (31)-(34) imply."""
    Jh = Jc = np.zeros((n_h, P[theta].size))
    sensitivities = [(Jh, Jc)]
    for t in range(1, T + 1):
        u, c_prev = UNITS[t], UNITS[t - 1].c
        A = {g: mm(P[f"U_{g}"], Jh) for g in GATES}
        if printed and theta[-1] == "c":
            A["c"] = np.zeros_like(Jh)  # as (31) and (43)-(45)
        A[theta[-1]] = add(direct(theta, t), A[theta[-1]])
        Jc = add(
            mm(diag(u.f), Jc),
            mm(diag(had(c_prev, u.f, 1 - u.f)), A["f"]),
            mm(diag(had(u.c_tilde, u.i, 1 - u.i)), A["i"]),
            mm(diag(had(u.i, 1 - u.c_tilde**2)), A["c"]),
        )
        outer = diag(had(u.o, 1 - u.tanh_c**2))
        Jh = add(mm(diag(had(u.tanh_c, u.o, 1 - u.o)), A["o"]), mm(outer, Jc))
        sensitivities.append((Jh, Jc))
    return sensitivities


def forward_mode(dh: Sequence[np.ndarray], printed: bool = False) -> list[np.ndarray]:
    """∂L/∂θ = Σ_t (43)…(54), nothing carried back; ∂L_t/∂h_t are `dh`."""
    return [
        add(
            *(
                collected(theta, t, carried(theta, printed)[t - 1], dh[t], printed)
                for t in range(1, T + 1)
            )
        )
        for theta in THETAS
    ]


class Back(NamedTuple):
    """What one way of carrying errors back gives."""

    dtheta: list[np.ndarray]
    dx: list[np.ndarray]
    first: list[np.ndarray]
    dh: list[np.ndarray]
    """the cumulated ∂L/∂h_t, t = 0…T"""


def backward(carry: str, cell_from: str = "cumulated") -> Back:
    """Errors carried back: ∂L/∂h by (55), and for the cell nothing, δ^c (41) or all of (56)."""
    dh, dc = np.zeros((n_h, 1)), np.zeros((n_h, 1))
    cumulated, each, dx = [dh] * (T + 1), [], []
    for t in range(T, 0, -1):
        dh = cumulated[t] = add(dL_dh[t], dh)
        dc = add(cell_error(t, dh if cell_from == "cumulated" else dL_dh[t]), dc)
        d = deltas(t, dh, dc)
        each.append([first_term(theta, t, d) for theta in THETAS])
        dx.append(back("W", d))
        dh, dc = back("U", d), {"none": 0 * d.c, "(41)": d.c, "(56)": d.c}[carry]
        if carry == "(56)" and t > 1:  # a given c_0 does not move h_0
            dc = add(dc, along(dh, dh_dc(t - 1)))
    dtheta = [add(*terms) for terms in zip(*each, strict=True)]
    return Back(dtheta, dx[::-1], [dh, dc], [dh, *cumulated[1:]])


def first_terms_only() -> list[np.ndarray]:
    steps = range(1, T + 1)
    return [add(*(first_term(theta, t, local(t)) for t in steps)) for theta in THETAS]
