"""Seed 003, section 2, against xrnn: the LSTM by forward sensitivities (eqs 25-57).

Each equation is evaluated at every step that has a past, each reading on the whole loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import xrnn
from equations import lstm_sensitivities_system as seed
from equations.form import Equation, Value, column, mm, row
from equations.lstm_sensitivities_system import STEPS, THETAS, P, T, n_h
from xrnn.cells import LSTM
from xrnn.engine.unroll import Look, Tape
from xrnn.typing import Array, State

# The same system by xrnn, a batch of one; g is the document's c̃

LETTERS = tuple("c" if gate == "g" else gate for gate in LSTM.gates)
WEIGHTS = {a: np.concatenate([P[f"{a}_{letter}"] for letter in LETTERS]) for a in ("W", "U", "b")}
WEIGHTS["b"] = WEIGHTS["b"].ravel()
XS, DYS = (np.stack([row(v) for v in vs[1:]]) for vs in (seed.x, seed.dL_dh))
FIRST = (row(seed.START.h), row(seed.START.c))


@cache
def run(steps: int = T) -> tuple[Array, State, Tape]:
    return xrnn.unroll(LSTM, WEIGHTS, XS[:steps], FIRST)


def by_theta(dweights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradients of W_f, U_f, … out of those of all gates together."""
    parts = {a: np.split(d, len(LETTERS)) for a, d in dweights.items()}
    return {
        theta: parts[theta[0]][LETTERS.index(theta[-1])].reshape(P[theta].shape) for theta in THETAS
    }


@cache
def back_from(t: int | None = None) -> Look:
    """All that goes back from L_t; without t, from L."""
    dys = DYS if t is None else np.where(np.arange(1, T + 1)[:, None, None] == t, DYS, 0)
    return xrnn.unroll_backward(run()[2], dys, gates=True)


def dtheta(theta: str, t: int) -> np.ndarray:
    """∂L_t/∂θ."""
    return by_theta(back_from(t)[2])[theta]


def dz(letter: str, t: int) -> np.ndarray:
    """∂L_t/∂z_t of one gate."""
    return column(back_from(t)[3]["g" if letter == "c" else letter][t - 1])


def dx(t: int) -> np.ndarray:
    """∂L_t/∂x_t."""
    return column(back_from(t)[0][t - 1])


def dc(t: int) -> np.ndarray:
    """∂L_t/∂c_{t-1}, where h_{t-1} moves with c_{t-1}."""
    return column(back_from(t)[4]["c"][t - 2])


@cache
def over_one_step(t: int) -> Any:
    """∂L_t/∂h_{t-1} and ∂L_t/∂c_{t-1}, the other of the two held fixed."""
    _, _, tape = xrnn.unroll(LSTM, WEIGHTS, XS[t - 1 : t], run(t - 1)[1])
    return xrnn.unroll_backward(tape, DYS[t - 1 : t])[1]


@cache
def unit_back(state: str, k: int, t: int) -> Look:
    """All that goes back from unit k of h_t or c_t."""
    dstate = [np.zeros((1, n_h)), np.zeros((1, n_h))]
    dstate[LSTM.states.index(state)][0, k] = 1
    return xrnn.unroll_backward(run(t)[2], None, tuple(dstate), gates=True)


def sensitivity(state: str, theta: str, t: int) -> np.ndarray:
    """∂h_t/∂θ or ∂c_t/∂θ, over the whole past."""
    gradients = (by_theta(unit_back(state, k, t)[2])[theta] for k in range(n_h))
    return np.concatenate([row(d) for d in gradients])


def dh_dc(t: int) -> np.ndarray:
    """∂h_t/∂c_t."""
    return np.concatenate([unit_back("h", k, t)[4]["c"][-1] for k in range(n_h)])


def through_h(theta: str, t: int) -> np.ndarray:
    """The part of ∂L_t/∂θ that comes by h_{t-1}."""
    dstate = (over_one_step(t).h, np.zeros((1, n_h)))
    return by_theta(xrnn.unroll_backward(run(t - 1)[2], None, dstate)[2])[theta]


def gradients() -> list[np.ndarray]:
    """∂L/∂θ for every θ."""
    return list(by_theta(back_from()[2]).values())


def all_gradients() -> list[np.ndarray]:
    """∂L/∂θ, ∂L/∂x_t, ∂L/∂h_0 and ∂L/∂c_0."""
    dxs, first = back_from()[:2]
    return [*gradients(), *map(column, dxs), *map(column, first)]


# The table


def each(value: Callable[[int], np.ndarray]) -> Callable[[], Value]:
    return lambda: [value(t) for t in STEPS]


def forward() -> Equation:
    def true() -> Value:
        values = xrnn.analysis.gates(run()[2])
        arrays = [values[name] for name in ("f", "i", "o", "g", "c")]
        return [*arrays, np.tanh(values["c"]), run()[0]]

    def here() -> Value:
        return [np.stack([row(v) for v in vs]) for vs in zip(*seed.UNITS[1:], strict=True)]

    return Equation("003-lstm-forward", "(25)-(30): the gates, c_t and h_t", here, true)


def lines(n: int, q: str, states: str, true: Callable[[int], np.ndarray]) -> list[Equation]:
    """Lines 1-3 and the braces of (31)-(37)."""
    forms = {
        "line-1": seed.line_1,
        "line-2": seed.line_2,
        "line-3": seed.line_3,
        "braces": seed.braces,
    }
    printed: dict[str, Callable[[], Value]] = {
        "003-eq-31-braces": each(seed.braces_31_printed),
        "003-eq-35-braces": each(seed.braces_35_printed),
    }

    def equation(name: str, form: Callable[[int, seed.Chain], np.ndarray]) -> Equation:
        here, label = each(lambda t: form(t, seed.chain(q, t))), f"003-eq-{n}-{name}"
        return Equation(label, states, here, each(lambda t: row(true(t))), printed.get(label))

    return [equation(name, form) for name, form in forms.items()]


def by_weights() -> list[Equation]:
    """(31)-(34)."""
    printed: dict[str, Callable[[], Value]] = {
        "W_c": each(lambda t: seed.final("W_c", t, gates=("o", "f", "i"))),
        "W_f": each(seed.final_34_printed),
    }

    def equations(n: int, W: str) -> list[Equation]:
        here, true = each(lambda t: seed.final(W, t)), each(lambda t: dtheta(W, t))
        states = f"∂L_t/∂{W} over the whole past"
        final = Equation(f"003-eq-{n}-final", states, here, true, printed.get(W))
        return [*lines(n, W, states, lambda t: dtheta(W, t)), final]

    numbered = enumerate(("W_c", "W_o", "W_i", "W_f"), 31)
    return [e for n, W in numbered for e in equations(n, W)]


def backpropagated() -> list[Equation]:
    """(35)-(37) and (55)-(57)."""
    dh = "∂L_t/∂h_{t-1}, c_{t-1} held fixed"
    dc_total = "∂L_t/∂c_{t-1}, h_{t-1} moving with it"
    back_h = each(lambda t: over_one_step(t).h.T)
    sum_U = each(lambda t: seed.back("U", seed.local(t)))
    sum_W = each(lambda t: seed.back("W", seed.local(t)))
    return [
        *lines(35, "h", dh, lambda t: over_one_step(t).h),
        Equation("003-eq-35-final", dh, sum_U, back_h),
        Equation(
            "003-eq-36-dh-dc",
            "∂h_{t-1}/∂c_{t-1}, which (36) and (56) do not write out",
            each(lambda t: seed.dh_dc(t - 1)),
            each(lambda t: dh_dc(t - 1)),
        ),
        *lines(36, "c", dc_total, dc),
        Equation(
            "003-eq-36-final", dc_total, each(seed.final_36), each(dc), each(seed.final_36_printed)
        ),
        *lines(37, "x", "∂L_t/∂x_t", dx),
        Equation("003-eq-37-final", "∂L_t/∂x_t", sum_W, each(dx)),
        Equation("003-eq-55", dh, sum_U, back_h),
        Equation("003-eq-56-first", dc_total, each(seed.eq_56_first), each(dc)),
        Equation("003-eq-56-second", dc_total, each(seed.eq_56_second), each(dc)),
        Equation("003-eq-57", "∂L_t/∂x_t, of L_t alone", sum_W, each(dx)),
        Equation(
            "003-eq-57-whole-loss",
            "∂L/∂x_t takes errors that are carried back, not those of L_t alone",
            lambda: seed.backward("(41)").dx,
            lambda: [column(d) for d in back_from()[0]],
            lambda: [seed.back("W", seed.local(t)) for t in range(1, T + 1)],
        ),
    ]


def errors() -> list[Equation]:
    """(38)-(42)."""

    def of_gate(n: int, gate: str) -> Equation:
        here = each(lambda t: seed.local(t).of(gate))
        return Equation(f"003-eq-{n}", f"∂L_t/∂z^{gate}_t", here, each(lambda t: dz(gate, t)))

    return [
        *(of_gate(n, gate) for n, gate in ((38, "o"), (39, "f"), (40, "i"), (42, "c"))),
        Equation(
            "003-eq-41",
            "∂L_t/∂c_{t-1}, h_{t-1} held fixed: not the error of a pre-activation",
            each(lambda t: seed.local(t).c),
            each(lambda t: over_one_step(t).c.T),
        ),
    ]


def collected() -> list[Equation]:
    """(43)-(54), and what the product that they share with (31)-(34) means."""

    def equation(n: int, theta: str) -> Equation:
        here, true = each(lambda t: seed.collected_by(theta, t)), each(lambda t: dtheta(theta, t))
        printed = each(lambda t: seed.collected_by(theta, t, printed=True))
        states = f"∂L_t/∂{theta} over the whole past"
        return Equation(f"003-eq-{n}", states, here, true, printed if n <= 45 else None)

    def product(t: int, theta: str, times: Callable[..., np.ndarray]) -> np.ndarray:
        v = seed.back("U", seed.local(t))
        return times(v, seed.by(theta, t - 1).h).reshape(P[theta].shape)

    def product_36(t: int, times: Callable[..., np.ndarray]) -> np.ndarray:
        return times(seed.back("U", seed.local(t)), seed.dh_dc(t - 1))

    pairs = [(t, theta) for t in STEPS for theta in THETAS]
    return [
        *(equation(n, theta) for n, theta in enumerate(THETAS, 43)),
        Equation(
            "003-eq-31-54-product",
            "a column beside ∂h_{t-1}/∂θ is Σ_k v_k ∂h_{t-1,k}/∂θ, not a matrix product",
            lambda: [product(*pair, seed.along) for pair in pairs],
            lambda: [through_h(theta, t) for t, theta in pairs],
            lambda: [product(*pair, mm) for pair in pairs],
        ),
        Equation(
            "003-eq-36-56-product",
            "a column beside ∂h_{t-1}/∂c_{t-1} likewise",
            each(lambda t: product_36(t, seed.along)),
            each(lambda t: dc(t) - over_one_step(t).c.T),
            each(lambda t: product_36(t, mm)),
        ),
    ]


def recursion() -> list[Equation]:
    """The forward sensitivities that (31)-(34) imply; without U_c they are wrong from t = 2."""

    def equation(n: int, state: str) -> Equation:
        def here(printed: bool = False) -> Value:
            return [seed.carried(theta, printed)[t][n] for t in STEPS for theta in THETAS]

        def true() -> Value:
            return [sensitivity(state, theta, t) for t in STEPS for theta in THETAS]

        states = f"∂{state}_t/∂θ, carried forward with U_c ∂h_{{t-1}}/∂θ in it"
        return Equation(f"003-recursion-{state}", states, here, true, lambda: here(printed=True))

    return [equation(n, state) for n, state in enumerate(("h", "c"))]


def readings_forward() -> list[Equation]:
    """∂L/∂θ, L = Σ_t L_t, with sensitivities carried from step to step."""
    return [
        Equation(
            "003-reading-A",
            "forward mode: Σ_t (43)…(54) with local errors; U_c was lost",
            lambda: seed.forward_mode(seed.dL_dh),
            gradients,
            lambda: seed.forward_mode(seed.dL_dh, printed=True),
        ),
        Equation(
            "003-reading-F",
            "cumulated ∂L/∂h in (43)-(54) count the past twice: local ones are due",
            lambda: seed.forward_mode(seed.dL_dh),
            gradients,
            lambda: seed.forward_mode(seed.backward("(41)").dh),
        ),
    ]


def readings_backward() -> list[Equation]:
    """The same with errors carried back."""

    def everything(back: seed.Back) -> Value:
        return [*back.dtheta, *back.dx, *back.first]

    return [
        Equation(
            "003-reading-B",
            "backward: (55) and δ^c carried separately",
            lambda: everything(seed.backward("(41)")),
            all_gradients,
        ),
        Equation(
            "003-reading-C",
            "section 1's recipe (14), ∂L/∂h alone cumulated, forgets the cell: δ^c is due",
            lambda: seed.backward("(41)").dtheta,
            gradients,
            lambda: seed.backward("none").dtheta,
        ),
        Equation(
            "003-reading-D",
            "(55) and all of (56) carried count c_{t-1} → h_{t-1} twice if dc_t takes all of dh_t",
            lambda: seed.backward("(56)", cell_from="local").dtheta,
            gradients,
            lambda: seed.backward("(56)").dtheta,
        ),
        Equation(
            "003-reading-E",
            "all of (56) carried, and dc_t takes ∂L_t/∂h_t alone",
            lambda: everything(seed.backward("(56)", cell_from="local")),
            all_gradients,
        ),
        Equation(
            "003-reading-G",
            "the first terms of (43)-(54) alone take errors that are carried back",
            lambda: seed.backward("(41)").dtheta,
            gradients,
            seed.first_terms_only,
        ),
    ]


EQUATIONS: tuple[Equation, ...] = (
    forward(),
    *by_weights(),
    *backpropagated(),
    *errors(),
    *collected(),
    *recursion(),
    *readings_forward(),
    *readings_backward(),
)
