"""Derivation "Input-gated LSTM", lines 8-294 and 316-366: values, and factors of the chains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from equations.form import Equation, add, diag, had, mm, sigma
from equations.input_gated import Document, Matrix, draw, softmax
from equations.input_gated_by_xrnn import ByXrnn, jacobian

#: M is between T and N, so that a printed h_T or x_M is an entry, though the wrong one
N, M, T, STEPS = 7, 5, 3, 4
GIVEN = draw(N, M, T, STEPS)
DOC, XRNN = Document(GIVEN), ByXrnn(GIVEN)

W, B, W_V = GIVEN.W, GIVEN.b, GIVEN.W["v"]
t = STEPS


def over_time(name: str) -> Matrix:
    """A symbol of the document at every step."""
    return np.stack([DOC.at(name, s) for s in range(1, STEPS + 1)])


def corner(A: Matrix) -> Matrix:
    """The nine entries that the text prints of a matrix: rows and columns 1, 2 and last."""
    return A[np.ix_([0, 1, -1], [0, 1, -1])]


def entry(A: Matrix, i: int, j: int) -> Matrix:
    """One entry, counted from 1."""
    return A[i - 1 : i, j - 1 : j]


def F_printed() -> Matrix:
    """Σ before a finished dot product leaves one number for all units."""
    return np.stack([sigma(np.sum(W["f"] @ x) + B["f"]) for x in GIVEN.x])


def C_printed() -> Matrix:
    """The legend makes ⊗ an addition."""
    before = np.stack([DOC.at("C", s) for s in range(STEPS)])
    return add(over_time("F"), before, over_time("i"), over_time("C'"))


def h_printed() -> Matrix:
    """F_o is defined nowhere; the only F there is gives another h."""
    return had(over_time("F"), np.tanh(over_time("C")))


def P_printed() -> Matrix:
    """The letter under e is a, which is F ⊗ C₋."""
    return np.stack([softmax(a) for a in over_time("a")])


def value(
    line: int, states: str, name: str, printed: Callable[[], Matrix] | None = None
) -> Equation:
    """A symbol of the forward pass, at every step."""
    return Equation(
        f"input-gated-l-{line}", states, lambda: over_time(name), lambda: XRNN.values[name], printed
    )


VALUES = [
    value(8, "F = σ(W_f ⨀ x + b)", "F", F_printed),
    value(10, "i = σ(Σ W_i ⊗ x + b)", "i"),
    value(12, "O = σ(W_o ⨀ x + b)", "O"),
    value(14, "C' = tanh(W_c ⨀ x + b)", "C'"),
    value(16, "C = F ⊗ C₋ ⊕ i ⊗ C', ⊗ a product", "C", C_printed),
    value(18, "h = O ⊗ tanh C", "h", h_printed),
    value(20, "L = Σ W_v ⊗ h + b", "L"),
    Equation(
        "input-gated-l-22", "P = softmax(L)", lambda: over_time("P"), lambda: XRNN.P, P_printed
    ),
    Equation(
        "input-gated-l-24",
        "E = -Σ g, g = Y ⊗ log P",
        lambda: -over_time("g").sum(axis=1),
        lambda: np.stack([XRNN.loss(s)[0] for s in range(1, STEPS + 1)]),
    ),
]


# ---- the loss and the softmax ---------------------------------------------------------------


def P() -> Matrix:
    return DOC.at("P")


def dE_dg() -> Matrix:
    """The loss is linear in g: that of class k alone, over its log P_k."""
    return np.array([[XRNN.loss_of(k) / np.log(XRNN.P[-1][k]) for k in range(T)]])


def dg_dP() -> Matrix:
    """No function of xrnn has P free, so that of the definition."""
    dg_dP: Matrix = jacobian(lambda P: GIVEN.Y[-1] * np.log(P), XRNN.P[-1])
    return dg_dP


def by_quotient_rule(i: int, j: int) -> Matrix:
    """l.92-94, l.102-104: (g f' - f g') / g² of f = e^{L_i}, g = Σ e^{L_k}, by L_j."""
    e = np.exp(DOC.at("L"))
    f, g = e[i - 1], e.sum()
    df, dg = (f if i == j else 0.0), e[j - 1]
    return np.array([[(g * df - f * dg) / g**2]])


LOSS = [
    Equation(
        "input-gated-l-50", "∂E/∂g = [-1 … -1]", lambda: DOC.dE_dg, dE_dg, lambda: np.ones((1, T))
    ),
    Equation("input-gated-l-52-66", "∂g/∂P = diag(Y/P)", lambda: DOC.dg_dP(t), dg_dP),
    Equation(
        "input-gated-l-70",
        "∂g₁/∂P₁ = Y₁/P₁",
        lambda: np.array([DOC.at("Y")[:1] / P()[:1]]),
        lambda: entry(dg_dP(), 1, 1),
    ),
    Equation(
        "input-gated-l-72",
        "∂g₁/∂P₂ = 0, as the rest of the row",
        lambda: np.array([[DOC.at("Y")[0] / P()[0], *[0.0] * (T - 1)]]),
        lambda: dg_dP()[:1],
    ),
    Equation(
        "input-gated-l-76-84",
        "∂P/∂L, entry by entry",
        lambda: np.block(
            [[by_quotient_rule(i, j) for j in range(1, T + 1)] for i in range(1, T + 1)]
        ),
        lambda: XRNN.dP_dL,
    ),
    Equation(
        "input-gated-l-88",
        "∂P₁/∂L₁ = P₁(1 - P₁)",
        lambda: np.array([P()[:1] * (1 - P()[:1])]),
        lambda: entry(XRNN.dP_dL, 1, 1),
    ),
    Equation(
        "input-gated-l-92-94",
        "∂P₁/∂L₁ by the quotient rule",
        lambda: by_quotient_rule(1, 1),
        lambda: entry(XRNN.dP_dL, 1, 1),
    ),
    Equation(
        "input-gated-l-98",
        "∂P₁/∂L₂ = -P₁P₂",
        lambda: np.array([-P()[:1] * P()[1:2]]),
        lambda: entry(XRNN.dP_dL, 1, 2),
        lambda: np.array([P()[:1] * (1 - P()[:1])]),
    ),
    Equation(
        "input-gated-l-102-104",
        "∂P₁/∂L₂ by the quotient rule",
        lambda: by_quotient_rule(1, 2),
        lambda: entry(XRNN.dP_dL, 1, 2),
    ),
    Equation(
        "input-gated-l-106-116", "∂P/∂L = P_i(& - P_j)", lambda: DOC.dP_dL(t), lambda: XRNN.dP_dL
    ),
]


# ---- the readout ----------------------------------------------------------------------------


def row_of_ones_times_diag(k: int) -> Matrix:
    return mm(np.ones((1, M)), diag(W_V[k - 1]))


READOUT = [
    Equation(
        "input-gated-l-126",
        "∂L/∂L1 = 1 on the diagonal, 0 beside it",
        lambda: DOC.dL_dL1[:, :1],
        lambda: XRNN.dL("b_v")[:, :1],
        lambda: np.ones((T, 1)),
    ),
    Equation(
        "input-gated-l-130",
        "∂L1_k/∂L2_k = [1 … 1], 1 x M",
        lambda: DOC.dL1_dL2,
        lambda: XRNN.dL1_dL2,
        lambda: np.kron(np.eye(T), np.ones((1, T))),
    ),
    Equation(
        "input-gated-l-132-140",
        "∂L2₁/∂h = diag(W_v₁)",
        lambda: diag(W_V[0]),
        lambda: XRNN.dL2_dh(0),
    ),
    Equation(
        "input-gated-l-132-140-entries",
        "∂(W_v₁ᵢ hᵢ)/∂hⱼ; printed with ∂h₂ twice in row 2 and h_T in row M",
        lambda: corner(diag(W_V[0])),
        lambda: corner(XRNN.dL2_dh(0)),
        lambda: np.array([[W_V[0, 0], 0, 0], [0, W_V[0, 1], W_V[0, 1]], [0, 0, 0]]),
    ),
    Equation(
        "input-gated-l-144-152",
        "∂L2₂/∂h = diag(W_v₂)",
        lambda: diag(W_V[1]),
        lambda: XRNN.dL2_dh(1),
    ),
    Equation(
        "input-gated-l-144-152-entries",
        "∂(W_v₂ᵢ hᵢ)/∂hⱼ; printed with hⱼ in rows 1 and 2, h₁ in row M",
        lambda: corner(diag(W_V[1])),
        lambda: corner(XRNN.dL2_dh(1)),
        lambda: np.array([[W_V[1, 0]] * 3, [W_V[1, 1]] * 3, [W_V[1, -1], 0, 0]]),
    ),
    Equation(
        "input-gated-l-158-168",
        "∂L1₁/∂L2₁ ⨀ ∂L2₁/∂h = [W_v₁₁ … W_v₁M]",
        lambda: row_of_ones_times_diag(1),
        lambda: XRNN.dL("h")[:1],
        lambda: W_V[:1, :T],
    ),
    Equation(
        "input-gated-l-174-182",
        "∂L1₂/∂L2₂ ⨀ ∂L2₂/∂h = [W_v₂₁ … W_v₂M]",
        lambda: row_of_ones_times_diag(2),
        lambda: XRNN.dL("h")[1:2],
        lambda: W_V[1:2, :T],
    ),
    Equation(
        "input-gated-l-184-192",
        "∂L/∂L1 ⨀ ∂L1/∂L2 ⨀ ∂L2/∂h = W_v",
        lambda: mm(DOC.dL_dL1, DOC.dL1_dL2, DOC.dL2_dh),
        lambda: XRNN.dL("h"),
    ),
    Equation(
        "input-gated-l-184-192-label",
        "∂L2/∂h is T·M x M; W_v, which the text puts under that name, is ∂L/∂h",
        lambda: DOC.dL2_dh,
        lambda: np.vstack([XRNN.dL2_dh(k) for k in range(T)]),
        lambda: W_V,
    ),
]


# ---- the cell -------------------------------------------------------------------------------


dh_db = partial(XRNN.factor, "h", "b", "C")
db_dC = partial(XRNN.factor, "b", "C", "C")
da1_di = partial(XRNN.factor, "a1", "i", "b_i")
di_dd = partial(XRNN.factor, "i", "d", "b_i")
dC_da = partial(XRNN.factor, "C", "a", "C")
da_dC = partial(XRNN.by, "a", "C")


def i_slopes() -> Matrix:
    return diag(DOC.at("i") * (1 - DOC.at("i")))


def d2_block(k: int, x: Matrix) -> Matrix:
    """∂d2_k/∂W_i = [0 … diag(x) … 0], N x (M·N)."""
    blocks = [np.zeros((N, N))] * M
    blocks[k - 1] = diag(x)
    return np.hstack(blocks)


def x_ending_in_x_M() -> Matrix:
    return np.append(GIVEN.x[-1, :-1], GIVEN.x[-1, M - 1])


CELL = [
    Equation("input-gated-l-198-206", "∂h/∂b = diag(O)", lambda: DOC.dh_db(t), dh_db),
    Equation(
        "input-gated-l-198-206-entries",
        "∂(Oᵢ bᵢ)/∂bⱼ, up to M; printed up to T",
        lambda: corner(DOC.dh_db(t)),
        lambda: corner(dh_db()),
        lambda: diag(DOC.at("O")[[0, 1, T - 1]]),
    ),
    Equation("input-gated-l-214-222", "∂b/∂C = diag(1 - tanh² C)", lambda: DOC.db_dC(t), db_dC),
    Equation(
        "input-gated-l-214-222-entries",
        "∂tanh(Cᵢ)/∂Cⱼ; printed is ∂tanh(Cᵢ)/∂bⱼ, where b is tanh C",
        lambda: corner(DOC.db_dC(t)),
        lambda: corner(db_dC()),
        lambda: np.eye(3),
    ),
    Equation(
        "input-gated-l-226", "∂C/∂a1 = 1", lambda: DOC.dC_da1, lambda: XRNN.factor("C", "a1", "b_i")
    ),
    Equation(
        "input-gated-l-230-238",
        "∂a1/∂i = diag(C')",
        lambda: DOC.da1_di(t),
        da1_di,
    ),
    Equation(
        "input-gated-l-230-238-entries",
        "row 1 of ∂a1/∂i runs to i_M; printed to i_T",
        lambda: DOC.da1_di(t)[:1],
        lambda: da1_di()[:1],
        lambda: DOC.da1_di(t)[:1, :T],
    ),
    Equation("input-gated-l-244", "∂i/∂d = diag(i(1 - i))", i_slopes, di_dd, lambda: np.eye(M)),
    Equation("input-gated-l-248-256", "∂i/∂d = diag(σ(d)(1 - σ(d)))", lambda: DOC.di_dd(t), di_dd),
    Equation(
        "input-gated-l-260",
        "∂σ(d₁)/∂d₁ = σ(d₁)(1 - σ(d₁))",
        lambda: np.array([sigma(DOC.at("d")[:1]) * (1 - sigma(DOC.at("d")[:1]))]),
        lambda: entry(di_dd(), 1, 1),
    ),
    Equation("input-gated-l-266", "∂d/∂d1 = 1", lambda: DOC.dd_dd1, lambda: XRNN.by("d", "b_i")),
    Equation(
        "input-gated-l-268",
        "∂d1_m/∂d2_m = [1 … 1], 1 x N; printed as ∂d/∂d1",
        lambda: DOC.dd1_dd2,
        lambda: XRNN.by("d", "W_i") / np.tile(GIVEN.x[-1], M),
        lambda: np.kron(np.eye(M), np.ones((1, T))),
    ),
    Equation(
        "input-gated-l-272-280",
        "∂d2₁/∂W_i = [diag(x₁ … x_N) 0 …]; printed up to x_M",
        lambda: d2_block(1, DOC.at("x")),
        lambda: XRNN.dd2_dW(0),
        lambda: d2_block(1, x_ending_in_x_M()),
    ),
    Equation(
        "input-gated-l-286-294",
        "∂d2₂/∂W_i = [0 diag(x₁ … x_N) 0 …]; printed up to x_M",
        lambda: d2_block(2, DOC.at("x")),
        lambda: XRNN.dd2_dW(1),
        lambda: d2_block(2, x_ending_in_x_M()),
    ),
]


# ---- back through time ----------------------------------------------------------------------

BACK = [
    Equation("input-gated-l-316-324", "∂C/∂a = diag(1)", lambda: DOC.dC_da, dC_da),
    Equation(
        "input-gated-l-316-324-entries",
        "∂(aᵢ + a1ᵢ)/∂aⱼ, M x M; printed T x T",
        lambda: DOC.dC_da,
        dC_da,
        lambda: np.eye(T),
    ),
    Equation(
        "input-gated-l-328",
        "∂(a₁ + a1₁)/∂a₁ = 1",
        lambda: np.ones((1, 1)),
        lambda: entry(dC_da(), 1, 1),
    ),
    Equation("input-gated-l-332-340", "∂a/∂C₋ = diag(F)", lambda: DOC.da_dC(t), da_dC),
    Equation(
        "input-gated-l-332-340-entries",
        "∂(Fᵢ C₋ᵢ)/∂C₋ⱼ; printed with F + C₋, whose derivative is I",
        lambda: DOC.da_dC(t),
        da_dC,
        lambda: np.eye(M),
    ),
    Equation(
        "input-gated-l-348-356",
        "∂a_{t-1}/∂C_{t-2} = diag(F_{t-1})",
        lambda: DOC.da_dC(t - 1),
        lambda: XRNN.dC_dC(t - 2),
    ),
    Equation(
        "input-gated-l-348-356-entries",
        "by C_{t-2}; printed is ∂(F_{t-1} + C_{t-2})/∂C_{t-1}, which is 0",
        lambda: DOC.da_dC(t - 1),
        lambda: XRNN.dC_dC(t - 2),
        lambda: np.zeros((M, M)),
    ),
    Equation(
        "input-gated-l-362-366",
        "∂a_{t-k}/∂C_{t-k-1} = diag(F_{t-k})",
        lambda: [DOC.da_dC(t - k) for k in range(STEPS)],
        lambda: [XRNN.dC_dC(t - k - 1) for k in range(STEPS)],
    ),
]

FACTORS = [*VALUES, *LOSS, *READOUT, *CELL, *BACK]
