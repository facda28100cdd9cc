"""Derivation "ReLU RNN, LSTM and GRU", section 2: eqs 25-57 (LSTM), each compared with xrnn.

Each equation is evaluated at every step that has a past.  Where the text can be read in several
ways, each reading is evaluated on the whole loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import xrnn
from equations import lstm_sensitivities_system as document
from equations.form import Equation, Value, column, mm, row
from equations.gradients import Gradients
from equations.gradients import all_gradients as gradients_of
from equations.lstm_sensitivities_system import STEPS, THETAS, P, T, n_h
from xrnn.cells import LSTM
from xrnn.engine.tape import Tape
from xrnn.typing import Array, State

# The same system by xrnn, a batch of one; g is the document's c̃

LETTERS = tuple("c" if gate == "g" else gate for gate in LSTM.gates)
WEIGHTS = {a: np.concatenate([P[f"{a}_{letter}"] for letter in LETTERS]) for a in ("W", "U", "b")}
WEIGHTS["b"] = WEIGHTS["b"].ravel()
XS, DYS = (np.stack([row(v) for v in vs[1:]]) for vs in (document.x, document.dL_dh))
FIRST = (row(document.START.h), row(document.START.c))


@cache
def run(steps: int = T) -> tuple[Array, State, Tape]:
    return xrnn.unroll(LSTM, WEIGHTS, XS[:steps], FIRST)


def by_theta(dweights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradients of W_f, U_f, … out of those of all gates."""
    parts = {a: np.split(d, len(LETTERS)) for a, d in dweights.items()}
    return {
        theta: parts[theta[0]][LETTERS.index(theta[-1])].reshape(P[theta].shape) for theta in THETAS
    }


@cache
def of_loss(t: int | None = None) -> Gradients:
    """All gradients of L_t; without t, of L."""
    dys = DYS if t is None else np.where(np.arange(1, T + 1)[:, None, None] == t, DYS, 0)
    return gradients_of(run()[2], dys)


def dtheta(theta: str, t: int) -> np.ndarray:
    """∂L_t/∂θ."""
    return by_theta(of_loss(t).dweights)[theta]


def dz(letter: str, t: int) -> np.ndarray:
    """∂L_t/∂z_t of one gate."""
    return column(of_loss(t).dgates["g" if letter == "c" else letter][t - 1])


def dx(t: int) -> np.ndarray:
    """∂L_t/∂x_t."""
    return column(of_loss(t).dxs[t - 1])


def dc(t: int) -> np.ndarray:
    """∂L_t/∂c_{t-1}, where h_{t-1} moves with c_{t-1}."""
    return column(of_loss(t).dstates["c"][t - 2])


@cache
def over_one_step(t: int) -> Any:
    """∂L_t/∂h_{t-1} and ∂L_t/∂c_{t-1}, the other of the two held fixed."""
    _, _, tape = xrnn.unroll(LSTM, WEIGHTS, XS[t - 1 : t], run(t - 1)[1])
    return xrnn.unroll_backward(tape, DYS[t - 1 : t])[1]


@cache
def of_unit(state: str, k: int, t: int) -> Gradients:
    """All gradients of unit k of h_t or c_t."""
    dstate = [np.zeros((1, n_h)), np.zeros((1, n_h))]
    dstate[LSTM.states.index(state)][0, k] = 1
    return gradients_of(run(t)[2], None, tuple(dstate))


def sensitivity(state: str, theta: str, t: int) -> np.ndarray:
    """∂h_t/∂θ or ∂c_t/∂θ, over the whole past."""
    gradients = (by_theta(of_unit(state, k, t).dweights)[theta] for k in range(n_h))
    return np.concatenate([row(d) for d in gradients])


def dh_dc(t: int) -> np.ndarray:
    """∂h_t/∂c_t."""
    return np.concatenate([of_unit("h", k, t).dstates["c"][-1] for k in range(n_h)])


def through_h(theta: str, t: int) -> np.ndarray:
    """The part of ∂L_t/∂θ that comes by h_{t-1}."""
    dstate = (over_one_step(t).h, np.zeros((1, n_h)))
    return by_theta(xrnn.unroll_backward(run(t - 1)[2], None, dstate)[2])[theta]


def gradients() -> list[np.ndarray]:
    """∂L/∂θ for every θ."""
    return list(by_theta(of_loss().dweights).values())


def all_gradients() -> list[np.ndarray]:
    """∂L/∂θ, ∂L/∂x_t, ∂L/∂h_0 and ∂L/∂c_0."""
    dxs, first = of_loss()[:2]
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
        return [np.stack([row(v) for v in vs]) for vs in zip(*document.UNITS[1:], strict=True)]

    return Equation("relu-lstm-gru-lstm-forward", "(25)-(30): the gates, c_t and h_t", here, true)


def lines(n: int, q: str, states: str, true: Callable[[int], np.ndarray]) -> list[Equation]:
    """Lines 1-3 and the braces of (31)-(37)."""
    forms = {
        "line-1": document.line_1,
        "line-2": document.line_2,
        "line-3": document.line_3,
        "braces": document.braces,
    }
    printed: dict[str, Callable[[], Value]] = {
        "relu-lstm-gru-eq-31-braces": each(document.braces_31_printed),
        "relu-lstm-gru-eq-35-braces": each(document.braces_35_printed),
    }

    def equation(name: str, form: Callable[[int, document.Chain], np.ndarray]) -> Equation:
        here, label = each(lambda t: form(t, document.chain(q, t))), f"relu-lstm-gru-eq-{n}-{name}"
        return Equation(label, states, here, each(lambda t: row(true(t))), printed.get(label))

    return [equation(name, form) for name, form in forms.items()]


def by_weights() -> list[Equation]:
    """(31)-(34)."""
    printed: dict[str, Callable[[], Value]] = {
        "W_c": each(lambda t: document.final("W_c", t, gates=("o", "f", "i"))),
        "W_f": each(document.final_34_printed),
    }

    def equations(n: int, W: str) -> list[Equation]:
        here, true = each(lambda t: document.final(W, t)), each(lambda t: dtheta(W, t))
        states = f"∂L_t/∂{W} over the whole past"
        final = Equation(f"relu-lstm-gru-eq-{n}-final", states, here, true, printed.get(W))
        return [*lines(n, W, states, lambda t: dtheta(W, t)), final]

    numbered = enumerate(("W_c", "W_o", "W_i", "W_f"), 31)
    return [e for n, W in numbered for e in equations(n, W)]


def backpropagated() -> list[Equation]:
    """(35)-(37) and (55)-(57)."""
    dh = "∂L_t/∂h_{t-1}, c_{t-1} held fixed"
    dc_total = "∂L_t/∂c_{t-1}, h_{t-1} moving with it"
    back_h = each(lambda t: over_one_step(t).h.T)
    sum_U = each(lambda t: document.back("U", document.local(t)))
    sum_W = each(lambda t: document.back("W", document.local(t)))
    return [
        *lines(35, "h", dh, lambda t: over_one_step(t).h),
        Equation("relu-lstm-gru-eq-35-final", dh, sum_U, back_h),
        Equation(
            "relu-lstm-gru-eq-36-dh-dc",
            "∂h_{t-1}/∂c_{t-1}, which (36) and (56) do not write out",
            each(lambda t: document.dh_dc(t - 1)),
            each(lambda t: dh_dc(t - 1)),
        ),
        *lines(36, "c", dc_total, dc),
        Equation(
            "relu-lstm-gru-eq-36-final",
            dc_total,
            each(document.final_36),
            each(dc),
            each(document.final_36_printed),
        ),
        *lines(37, "x", "∂L_t/∂x_t", dx),
        Equation("relu-lstm-gru-eq-37-final", "∂L_t/∂x_t", sum_W, each(dx)),
        Equation("relu-lstm-gru-eq-55", dh, sum_U, back_h),
        Equation("relu-lstm-gru-eq-56-first", dc_total, each(document.eq_56_first), each(dc)),
        Equation("relu-lstm-gru-eq-56-second", dc_total, each(document.eq_56_second), each(dc)),
        Equation("relu-lstm-gru-eq-57", "∂L_t/∂x_t, of L_t alone", sum_W, each(dx)),
        Equation(
            "relu-lstm-gru-eq-57-whole-loss",
            "∂L/∂x_t takes errors that are carried back, not those of L_t alone",
            lambda: document.backward("(41)").dx,
            lambda: [column(d) for d in of_loss()[0]],
            lambda: [document.back("W", document.local(t)) for t in range(1, T + 1)],
        ),
    ]


def errors() -> list[Equation]:
    """(38)-(42)."""

    def of_gate(n: int, gate: str) -> Equation:
        here = each(lambda t: document.local(t).of(gate))
        return Equation(
            f"relu-lstm-gru-eq-{n}", f"∂L_t/∂z^{gate}_t", here, each(lambda t: dz(gate, t))
        )

    return [
        *(of_gate(n, gate) for n, gate in ((38, "o"), (39, "f"), (40, "i"), (42, "c"))),
        Equation(
            "relu-lstm-gru-eq-41",
            "∂L_t/∂c_{t-1}, h_{t-1} held fixed: not the error of a pre-activation",
            each(lambda t: document.local(t).c),
            each(lambda t: over_one_step(t).c.T),
        ),
    ]


def collected() -> list[Equation]:
    """(43)-(54), and what the product that they share with (31)-(34) means."""

    def equation(n: int, theta: str) -> Equation:
        here, true = (
            each(lambda t: document.collected_by(theta, t)),
            each(lambda t: dtheta(theta, t)),
        )
        printed = each(lambda t: document.collected_by(theta, t, printed=True))
        states = f"∂L_t/∂{theta} over the whole past"
        return Equation(f"relu-lstm-gru-eq-{n}", states, here, true, printed if n <= 45 else None)

    def product(t: int, theta: str, times: Callable[..., np.ndarray]) -> np.ndarray:
        v = document.back("U", document.local(t))
        return times(v, document.by(theta, t - 1).h).reshape(P[theta].shape)

    def product_36(t: int, times: Callable[..., np.ndarray]) -> np.ndarray:
        return times(document.back("U", document.local(t)), document.dh_dc(t - 1))

    pairs = [(t, theta) for t in STEPS for theta in THETAS]
    return [
        *(equation(n, theta) for n, theta in enumerate(THETAS, 43)),
        Equation(
            "relu-lstm-gru-eq-31-54-product",
            "a column beside ∂h_{t-1}/∂θ is Σ_k v_k ∂h_{t-1,k}/∂θ, not a matrix product",
            lambda: [product(*pair, document.along) for pair in pairs],
            lambda: [through_h(theta, t) for t, theta in pairs],
            lambda: [product(*pair, mm) for pair in pairs],
        ),
        Equation(
            "relu-lstm-gru-eq-36-56-product",
            "a column beside ∂h_{t-1}/∂c_{t-1} likewise",
            each(lambda t: product_36(t, document.along)),
            each(lambda t: dc(t) - over_one_step(t).c.T),
            each(lambda t: product_36(t, mm)),
        ),
    ]


def recursion() -> list[Equation]:
    """The forward sensitivities that (31)-(34) imply; without U_c they are wrong from t = 2."""

    def equation(n: int, state: str) -> Equation:
        def here(printed: bool = False) -> Value:
            return [document.carried(theta, printed)[t][n] for t in STEPS for theta in THETAS]

        def true() -> Value:
            return [sensitivity(state, theta, t) for t in STEPS for theta in THETAS]

        states = f"∂{state}_t/∂θ, carried forward with U_c ∂h_{{t-1}}/∂θ in it"
        return Equation(
            f"relu-lstm-gru-recursion-{state}", states, here, true, lambda: here(printed=True)
        )

    return [equation(n, state) for n, state in enumerate(("h", "c"))]


def readings_forward() -> list[Equation]:
    """∂L/∂θ, L = Σ_t L_t, with sensitivities carried from step to step."""
    return [
        Equation(
            "relu-lstm-gru-reading-A",
            "forward mode: Σ_t (43)…(54) with local errors; U_c was lost",
            lambda: document.forward_mode(document.dL_dh),
            gradients,
            lambda: document.forward_mode(document.dL_dh, printed=True),
        ),
        Equation(
            "relu-lstm-gru-reading-F",
            "cumulated ∂L/∂h in (43)-(54) count the past twice: local ones are due",
            lambda: document.forward_mode(document.dL_dh),
            gradients,
            lambda: document.forward_mode(document.backward("(41)").dh),
        ),
    ]


def readings_backward() -> list[Equation]:
    """The same with errors carried back."""

    def everything(back: document.Back) -> Value:
        return [*back.dtheta, *back.dx, *back.first]

    return [
        Equation(
            "relu-lstm-gru-reading-B",
            "backward: (55) and δ^c carried separately",
            lambda: everything(document.backward("(41)")),
            all_gradients,
        ),
        Equation(
            "relu-lstm-gru-reading-C",
            "section 1's recipe (14), ∂L/∂h alone cumulated, forgets the cell: δ^c is due",
            lambda: document.backward("(41)").dtheta,
            gradients,
            lambda: document.backward("none").dtheta,
        ),
        Equation(
            "relu-lstm-gru-reading-D",
            "(55) and all of (56) carried count c_{t-1} → h_{t-1} twice if dc_t takes all of dh_t",
            lambda: document.backward("(56)", cell_from="local").dtheta,
            gradients,
            lambda: document.backward("(56)").dtheta,
        ),
        Equation(
            "relu-lstm-gru-reading-E",
            "all of (56) carried, and dc_t takes ∂L_t/∂h_t alone",
            lambda: everything(document.backward("(56)", cell_from="local")),
            all_gradients,
        ),
        Equation(
            "relu-lstm-gru-reading-G",
            "the first terms of (43)-(54) alone take errors that are carried back",
            lambda: document.backward("(41)").dtheta,
            gradients,
            document.first_terms_only,
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
