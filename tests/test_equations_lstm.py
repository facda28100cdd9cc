"""Derivation "LSTM", sections 2-5: its equations, corrected and as printed, against xrnn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from equations import lstm as document
from equations.form import (
    BOUND,
    Equation,
    add,
    assert_holds,
    assert_printed_form_is_wrong,
    diag,
    every,
    every_erratum,
    gap,
    had,
    mm,
)
from equations.lstm import COMPONENTS, T, n_a, n_x, n_y, tr
from equations.lstm_by_xrnn import NAMES, ByXrnn

import xrnn

rng = np.random.default_rng(2)


def draw(*shape: int) -> np.ndarray:
    """Numbers of the size that weights and inputs have."""
    return rng.normal(0, 0.7, shape)


w = {name: draw(*shape) for name, shape in document.shapes().items()}
xs = [draw(n_x, 1) for _ in range(T)]
# Not one-hot: every entry of ∂J/∂ŷ counts.
ys = [document.softmax(draw(n_y, 1)) for _ in range(T)]

STEPS = document.forward(w, xs, ys)
FOUND = document.backward(w, STEPS)
AS_PRINTED = document.backward(w, STEPS, document.dJ_dy_hat_with_bars)
TRUE = ByXrnn(w, xs, ys)
J = document.cross_entropy(np.stack([v["y_hat"] for v in STEPS[1:]]), np.stack(ys))

#: the step at which single equations are read: there are others before and after it
t = 2
v, prev, d = STEPS[t], STEPS[t - 1], FOUND[t]


def output() -> list[Equation]:
    """Sections 3.1 and 3.2 down to ∂J/∂z_y."""
    dz_y = draw(n_y, 1)

    change = partial(TRUE.dJ, t, b_y=dz_y)

    def differential(r: int) -> np.ndarray:
        return tr(mm(FOUND[r]["z_y"], dz_y))

    return [
        Equation(
            "lstm-3.1",
            "∂J/∂ŷ = −[y_1/ŷ_1 … ]: no array of two rows",
            lambda: d["y_hat"],
            lambda: TRUE.dJ_dy_hat(t),
            lambda: np.vstack([v["y"].T, v["y_hat"].T]),
        ),
        Equation(
            "lstm-3.1-bars",
            "∂J/∂ŷ = −[y_1/ŷ_1 … ]: with bars, but still without its sign",
            lambda: d["y_hat"],
            lambda: TRUE.dJ_dy_hat(t),
            lambda: document.dJ_dy_hat_with_bars(v),
        ),
        Equation(
            "lstm-3.2-y_hat",
            "∂ŷ/∂z_y = diag(ŷ) − ŷ ŷᵀ",
            lambda: add(diag(v["y_hat"]), -mm(v["y_hat"], v["y_hat"].T)),
            lambda: xrnn.losses.softmax_jacobian(TRUE.y_hats[t - 1, 0]),
        ),
        Equation(
            "lstm-3.2-z_y",
            "∂J/∂z_y = ∂J/∂ŷ (diag(ŷ) − ŷ ŷᵀ), where 3.1 has its sign",
            lambda: d["z_y"],
            lambda: TRUE.dlogits[t - 1],
            lambda: AS_PRINTED[t]["z_y"],
        ),
        Equation(
            "lstm-3.2-dJ",
            "dJ, not tr(J), = tr(∂J/∂z_y dz_y)",
            lambda: differential(t),
            change,
            lambda: J,
        ),
        Equation(
            "lstm-3.2-dJ-r",
            "dJ = tr(∂J/∂z_y dz_y) of one step t, not of another, r",
            lambda: differential(t),
            change,
            lambda: differential(t + 1),
        ),
    ]


def weight(id: str, of: str, z: str, read: np.ndarray) -> list[Equation]:
    """The trace method for one weight, which is multiplied by the column `read`."""
    dW, dz = draw(*w[of].shape), d[z]
    return [
        Equation(
            f"{id}-{of}-traces",
            f"dJ = tr(∂J/∂{z} d{of}ᵀ v) = tr(vᵀ d{of} (∂J/∂{z})ᵀ) = tr((∂J/∂{z})ᵀ vᵀ d{of})",
            lambda: [tr(mm(dz, dW.T, read)), tr(mm(read.T, dW, dz.T)), tr(mm(dz.T, read.T, dW))],
            lambda: [TRUE.dJ(t, **{of: dW})] * 3,
        ),
        Equation(
            f"{id}-{of}",
            f"∂J/∂{of} = (∂J/∂{z})ᵀ vᵀ, of step t",
            lambda: d[of],
            lambda: TRUE.of_step(t)[of],
        ),
    ]


def bias(id: str, of: str, z: str, transposed: bool = False) -> list[Equation]:
    """The trace method for a bias; one of them is printed with a transpose too many."""
    db, dz = draw(*w[of].shape), d[z]
    return [
        Equation(
            f"{id}-{of}-trace",
            f"dJ = tr(∂J/∂{z} d{of})",
            lambda: tr(mm(dz, db)),
            lambda: TRUE.dJ(t, **{of: db}),
            (lambda: tr(mm(dz, db.T))) if transposed else None,
        ),
        Equation(
            f"{id}-{of}",
            f"∂J/∂{of} = ∂J/∂{z}, of step t",
            lambda: d[of],
            lambda: TRUE.of_step(t)[of],
        ),
    ]


def readout() -> list[Equation]:
    """The rest of section 3.2, and section 3.3."""
    dW, da, db = draw(n_a, n_y), draw(n_a, 1), draw(n_y, 1)
    from_z_y = mm(d["z_y"], w["W_ya"].T)
    return [
        Equation(
            "lstm-eq-13-1",
            "dz_y = dW_yaᵀ a + W_yaᵀ da + db_y",
            lambda: add(mm(dW.T, v["a"]), mm(w["W_ya"].T, da), db),
            lambda: TRUE.dz_y(t, a=da, W_ya=dW, b_y=db),
        ),
        *weight("lstm-3.2", "W_ya", "z_y", v["a"]),
        *bias("lstm-3.2", "b_y", "z_y", transposed=True),
        Equation(
            "lstm-3.3-Comp-2-traces",
            "dJ = tr(∂J/∂z_y dz_y) = tr(∂J/∂z_y W_yaᵀ da)",
            lambda: [tr(mm(d["z_y"], mm(w["W_ya"].T, da))), tr(mm(from_z_y, da))],
            lambda: [TRUE.dJ(t, a=da)] * 2,
        ),
        Equation(
            "lstm-3.3-Comp-2",
            "∂J/∂a by ŷ = ∂J/∂z_y W_yaᵀ",
            lambda: d["a Comp-2"],
            lambda: TRUE.dhs[t - 1],
        ),
        Equation(
            "lstm-3.3-a",
            "∂J/∂a = Comp-1 (3.10 of step t+1) + Comp-2",
            lambda: [d["a Comp-1"], d["a"]],
            lambda: [TRUE.comp_1(t).h, TRUE.dstates["h"][t - 1]],
        ),
    ]


def cell() -> list[Equation]:
    """Section 3.4."""
    I, c, Gamma_o = np.eye(n_a), v["c"], v["Gamma_o"]
    return [
        Equation(
            "lstm-3.4-Gamma_o",
            "∂J/∂Γ_o = ∂J/∂a diag(tanh c) = ∂J/∂a ∘ tanh(c)ᵀ",
            lambda: [mm(d["a"], diag(np.tanh(c))), d["Gamma_o"]],
            lambda: [TRUE.dJ_dgate("o", t)] * 2,
        ),
        Equation(
            "lstm-3.4-Comp-2-line-3",
            "∂J/∂c by a = ∂J/∂a diag(Γ_o) (I − diag(tanh² c)): a matrix has no ∘ with a column",
            lambda: mm(d["a"], diag(Gamma_o), add(I, -diag(np.tanh(c) ** 2))),
            lambda: TRUE.c_comp_2(t),
            lambda: mm(d["a"], had(I, Gamma_o), add(I, -had(I, np.tanh(c) ** 2))),
        ),
        Equation(
            "lstm-3.4-Comp-2",
            "∂J/∂c by a = ∂J/∂a ∘ [Γ_o ∘ (1 − tanh² c)]ᵀ",
            lambda: d["c Comp-2"],
            lambda: TRUE.c_comp_2(t),
        ),
        Equation(
            "lstm-3.4-c",
            "∂J/∂c = Comp-1 (3.6 of step t+1) + Comp-2",
            lambda: [d["c Comp-1"], d["c"]],
            lambda: [TRUE.comp_1(t).c, TRUE.dstates["c"][t - 1]],
        ),
    ]


def gate(section: str, number: str, g: str) -> list[Equation]:
    """Section 3.5, 3.7, 3.8 or 3.9: one gate, from ∂J/∂z to its weights."""
    id, z, dz = f"lstm-{section}", f"z_{g}", draw(n_a, 1)
    dWa, dWx, da, dx, db = draw(n_a, n_a), draw(n_x, n_a), draw(n_a, 1), draw(n_x, 1), draw(n_a, 1)
    W_a, W_x = w[f"W_{g}a"], w[f"W_{g}x"]
    changes = {f"W_{g}a": dWa, f"W_{g}x": dWx, f"b_{g}": db}

    def differential() -> np.ndarray:
        from_a = add(mm(dWa.T, prev["a"]), mm(W_a.T, da))
        return add(from_a, mm(dWx.T, v["x"]), mm(W_x.T, dx), db)

    return [
        Equation(
            f"{id}-{z}",
            f"∂J/∂{z} = that of the gate's value ∘ (slope)ᵀ",
            lambda: d[z],
            lambda: TRUE.dgates[NAMES[g]][t - 1],
        ),
        Equation(
            f"{id}-dJ",
            f"dJ, not tr(J), = tr(∂J/∂{z} d{z})",
            lambda: tr(mm(d[z], dz)),
            lambda: TRUE.dJ(t, **{f"b_{g}": dz}),
            lambda: J,
        ),
        Equation(
            f"lstm-eq-{number}",
            f"d{z} = dW_{g}aᵀ a + W_{g}aᵀ da + dW_{g}xᵀ x + W_{g}xᵀ dx + db_{g}",
            differential,
            lambda: TRUE.dz(g, t, a_prev=da, x=dx, **changes),
        ),
        *weight(id, f"W_{g}a", z, prev["a"]),
        *weight(id, f"W_{g}x", z, v["x"]),
        *bias(id, f"b_{g}", z),
    ]


def product(of: str, factor: np.ndarray, true: Callable[[], np.ndarray]) -> Equation:
    """One factor of eq. 9: its lines with diag and with ∘."""
    return Equation(
        f"lstm-3.6-{of}",
        f"∂J/∂{of} = ∂J/∂c diag(v) = ∂J/∂c ∘ vᵀ",
        lambda: [mm(d["c"], diag(factor)), d[of]],
        lambda: [true(), true()],
    )


def products() -> list[Equation]:
    """Section 3.6."""
    return [
        product("Gamma_u", v["c_tilde"], lambda: TRUE.dJ_dgate("u", t)),
        product("c_tilde", v["Gamma_u"], lambda: TRUE.dJ_dgate("c", t)),
        product("Gamma_f", prev["c"], lambda: TRUE.dJ_dgate("f", t)),
        product("c_prev", v["Gamma_f"], lambda: TRUE.comp_1(t - 1).c),
        Equation(
            "lstm-3.6-c_prev-total",
            "∂J/∂c⁽ᵗ⁻¹⁾ = ∂J/∂c ∘ Γ_fᵀ + Comp-2 of step t−1: the symbol is that of the total",
            lambda: add(d["c_prev"], FOUND[t - 1]["c Comp-2"]),
            lambda: TRUE.dstates["c"][t - 2],
            lambda: d["c_prev"],
        ),
    ]


def component(n: int, of: str) -> Equation:
    """Section 3.10: what reaches a⁽ᵗ⁻¹⁾ or x⁽ᵗ⁾ through one gate."""
    g = COMPONENTS[n]
    name = {"a": "a_prev", "x": "x"}[of]
    return Equation(
        f"lstm-3.10-Comp-{n}-{of}",
        f"∂J/∂{of} by z_{g} = ∂J/∂z_{g} W_{g}{of}ᵀ",
        lambda: d[f"{name} Comp-{n}"],
        lambda: TRUE.of_copies(t)[f"{of}_{g}"],
    )


def inputs() -> list[Equation]:
    """Section 3.10."""
    return [
        *(component(n, of) for n in COMPONENTS for of in "ax"),
        Equation(
            "lstm-3.10-a",
            "the four add up to Comp-1 of 3.3 at step t−1",
            lambda: d["a_prev"],
            lambda: TRUE.comp_1(t - 1).h,
        ),
        Equation(
            "lstm-3.10-a-total",
            "∂J/∂a⁽ᵗ⁻¹⁾ = the four + Comp-2 of 3.3 at step t−1: the true derivative has ŷ⁽ᵗ⁻¹⁾ too",
            lambda: add(d["a_prev"], FOUND[t - 1]["a Comp-2"]),
            lambda: TRUE.dstates["h"][t - 2],
            lambda: d["a_prev"],
        ),
        Equation("lstm-3.10-x", "∂J/∂x = the four", lambda: d["x"], lambda: TRUE.dxs[t - 1]),
    ]


def end() -> list[Equation]:
    """Sections 4 and 5."""
    return [
        Equation(
            "lstm-4",
            "gradients, entry by entry of W, are the transposes of the Jacobians",
            lambda: [d["W_oa"].T, d["W_ox"].T],
            lambda: [TRUE.gradient(t, "W_oa"), TRUE.gradient(t, "W_ox")],
        ),
        Equation(
            "lstm-5-1",
            "∂(x ∘ y)/∂x = diag(y), as in ∂c/∂c⁽ᵗ⁻¹⁾",
            lambda: diag(v["Gamma_f"]),
            lambda: xrnn.analysis.jacobian(TRUE.tape, t - 2, of="c", by="c")[0],
        ),
    ]


def whole(of: str) -> Equation:
    """A gradient through all steps; the sign of 3.1 reaches each of them."""
    return Equation(
        f"lstm-BPTT-{of}",
        "the sum over all steps, transposed",
        lambda: document.gradients(FOUND)[of],
        lambda: TRUE.total[of].T,
        lambda: document.gradients(AS_PRINTED)[of],
    )


def through_time() -> list[Equation]:
    """All equations, through all steps."""
    names = list(TRUE.of_step(t))
    return [
        *(whole(of) for of in w),
        Equation(
            "lstm-BPTT-x",
            "∂J/∂x at every step",
            lambda: [of["x"] for of in FOUND[1:]],
            lambda: list(TRUE.dxs),
            lambda: [of["x"] for of in AS_PRINTED[1:]],
        ),
        Equation(
            "lstm-BPTT-sum",
            "∂J/∂W = Σ_t of what 3.2-3.9 give for step t: the sum is not printed",
            lambda: [add(*(of[name] for of in FOUND[1:])) for name in names],
            lambda: [TRUE.total[name] for name in names],
            lambda: [d[name] for name in names],
        ),
    ]


EQUATIONS = [
    *output(),
    *readout(),
    *cell(),
    *gate("3.5", "13-2", "o"),
    *products(),
    *gate("3.7", "13-3", "u"),
    *gate("3.8", "13-4", "f"),
    *gate("3.9", "13-5", "c"),
    *inputs(),
    *end(),
    *through_time(),
]


@every(EQUATIONS)
def test_equation(equation: Equation) -> None:
    assert_holds(equation)


@every_erratum(EQUATIONS)
def test_printed_form_is_wrong(equation: Equation) -> None:
    assert_printed_form_is_wrong(equation)


def test_forward() -> None:
    """Equations 1-12 at every step, and J."""
    values = xrnn.analysis.gates(TRUE.tape)
    true = {f"Gamma_{g}": values[NAMES[g]] for g in "fuo"}
    true |= {"c_tilde": values["g"], "c": values["c"], "a": TRUE.hs}
    true |= {"z_y": TRUE.logits, "y_hat": TRUE.y_hats}
    for name, of in true.items():
        assert gap([step[name].T for step in STEPS[1:]], list(of)) <= BOUND, name
    assert gap(J, TRUE.J) <= BOUND
