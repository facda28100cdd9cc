"""Derivation "Tanh RNN", sections 1 to 2.4: softmax, cross-entropy, gradients of V and c."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from equations.calculus import derivative, gradient, jacobian
from equations.form import Equation, Value, add, column, had, mm
from equations.tanh_rnn import Library, System, contracted, softmax


def equations(s: System, x: Library) -> list[Equation]:
    """Every equation of these sections, for the system `s` and the same by xrnn, `x`."""
    return [
        *_forward(s, x),
        *_softmax(s, x),
        *_softmax_by_entry(s, x),
        *_quotient_and_log(),
        *_loss(s, x),
        *_loss_by_class(s, x),
        *_readout(s, x, "V", "tanh-rnn-V"),
        *_readout(s, x, "c", "tanh-rnn-C"),
        *_results(s, x),
    ]


def _forward(s: System, x: Library) -> list[Equation]:
    def embedding(id: str) -> Equation:
        return Equation(
            id=id,
            states="x_t = E^⊤ x_t^o, a column, as (2) needs it",
            here=lambda: s.each(lambda t: mm(s.E.T, s.x_o[t])),
            true=lambda: s.each(lambda t: x.xs[t - 1].T),
            printed=lambda: s.each(lambda t: mm(s.x_o[t].T, s.E)),
        )

    return [
        embedding("tanh-rnn-eq-1"),
        embedding("tanh-rnn-E1"),
        Equation(
            id="tanh-rnn-eq-5",
            states="L_t = −y_t^⊤ ln ŷ_t, a number",
            here=lambda: s.each(lambda t: -mm(s.y[t].T, np.log(s.y_hat[t]))),
            true=lambda: s.each(x.loss),
            printed=lambda: s.each(lambda t: -had(s.y[t], np.log(s.y_hat[t]))),
        ),
    ]


Entry = Callable[[np.ndarray, int, int], float]


def _matrix(s: System, entry: Entry) -> Callable[[], Value]:
    """At every step the matrix of entry(e^{Ω_t}, i, j)."""
    places = range(len(s.c))
    exps = [np.exp(s.Omega[t][:, 0]) for t in s.steps]
    return lambda: [np.array([[entry(e, i, j) for j in places] for i in places]) for e in exps]


def _softmax(s: System, x: Library) -> list[Equation]:
    def one_entry(t: int, i: int, j: int) -> float:
        def S_i(x_j: np.ndarray) -> np.ndarray:
            x = s.Omega[t].astype(complex)
            x[j] = x_j
            return np.asarray(np.exp(x[i]) / np.exp(x).sum())

        return float(derivative(S_i, s.Omega[t][j])[0, 0])

    def S3(t: int) -> np.ndarray:
        places = range(len(s.c))
        return np.array([[one_entry(t, i, j) for j in places] for i in places])

    return [
        Equation(
            id="tanh-rnn-S2",
            states="∂S/∂x has ∂S_i/∂x_j in row i and column j",
            here=lambda: s.each(lambda t: jacobian(softmax, s.Omega[t])),
            true=lambda: s.each(x.dy_hat_dOmega),
        ),
        Equation(
            id="tanh-rnn-S3",
            states="∂S_i/∂x_j = ∂/∂x_j (e^{x_i} / Σ_k e^{x_k})",
            here=lambda: s.each(S3),
            true=lambda: s.each(x.dy_hat_dOmega),
        ),
    ]


def _softmax_by_entry(s: System, x: Library) -> list[Equation]:
    """The lines that lose δ_ij; Σ is the sum of all e^{x_k}."""

    def line(label: str, states: str, here: Entry, printed: Entry) -> Equation:
        return Equation(
            id=f"tanh-rnn-{label}",
            states=states,
            here=_matrix(s, here),
            true=lambda: s.each(x.dy_hat_dOmega),
            printed=_matrix(s, printed),
        )

    return [
        line(
            "S6",
            "the entries with i ≠ j are not zero",
            here=lambda e, i, j: e[i] / e.sum() * ((i == j) - e[j] / e.sum()),
            printed=lambda e, i, j: (i == j) * e[i] / e.sum() * (1 - e[j] / e.sum()),
        ),
        line(
            "S7a",
            "∂S_i/∂x_j = (δ_ij e^{x_i} Σ − e^{x_j} e^{x_i}) / Σ²",
            here=lambda e, i, j: ((i == j) * e[i] * e.sum() - e[j] * e[i]) / e.sum() ** 2,
            printed=lambda e, i, j: (e[i] * e.sum() - e[j] * e[i]) / e.sum() ** 2,
        ),
        line(
            "S7b",
            "= e^{x_i} (δ_ij Σ − e^{x_j}) / Σ²",
            here=lambda e, i, j: e[i] * ((i == j) * e.sum() - e[j]) / e.sum() ** 2,
            printed=lambda e, i, j: e[i] * (e.sum() - e[j]) / e.sum() ** 2,
        ),
        line(
            "S7c",
            "= (e^{x_i} / Σ) (δ_ij − e^{x_j} / Σ)",
            here=lambda e, i, j: e[i] / e.sum() * ((i == j) - e[j] / e.sum()),
            printed=lambda e, i, j: e[i] / e.sum() * (e.sum() / e.sum() - e[j] / e.sum()),
        ),
        Equation(
            id="tanh-rnn-eq-6",
            states="∂S_i/∂x_j = S_i (δ_ij − S_j)",
            here=lambda: s.each(s.dy_hat_dOmega),
            true=lambda: s.each(x.dy_hat_dOmega),
            printed=lambda: s.each(lambda t: mm(s.y_hat[t], (1 - s.y_hat[t]).T)),
        ),
    ]


def _quotient_and_log() -> list[Equation]:
    u = np.array([0.3, -0.8, 1.1])
    y = 2.0

    def g(u: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(u[:1]))

    def h(u: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(u).sum(keepdims=True))

    def x(u: np.ndarray) -> np.ndarray:
        return u**2

    return [
        Equation(
            id="tanh-rnn-S4",
            states="(g/h)' = (g' h − g h') / h²",
            here=lambda: (derivative(g, u) * h(u) - g(u) * derivative(h, u)) / h(u) ** 2,
            true=lambda: derivative(lambda u: g(u) / h(u), u),
        ),
        Equation(
            id="tanh-rnn-S5",
            states="∂/∂x_j Σ_k e^{x_k} = e^{x_j}",
            here=lambda: np.exp(u)[None, :],
            true=lambda: derivative(h, u),
        ),
        Equation(
            id="tanh-rnn-LG2",
            states="(log_y x)' = (x'/x) log_y e",
            here=lambda: np.diag(2 * u / x(u) / np.log(y)),
            true=lambda: derivative(lambda u: np.log(x(u)) / np.log(y), u),
            printed=lambda: np.diag(2 * u / x(u) * np.log(y)),
        ),
    ]


def _loss(s: System, x: Library) -> list[Equation]:
    def true() -> Value:
        return list(x.gradients()["Omega"])

    def log_softmax(Omega: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(softmax(Omega)))

    def LD2(t: int) -> np.ndarray:
        return gradient(lambda Omega: -mm(s.y[t].T, log_softmax(Omega)), s.Omega[t])

    return [
        Equation(
            id="tanh-rnn-LD2",
            states="∂L/∂Ω_t = −∂/∂Ω_t Σ y_t log softmax(Ω_t)",
            here=lambda: s.each(LD2),
            true=true,
        ),
        Equation(
            id="tanh-rnn-LD3",
            states="= −Σ y_t ∂log softmax(Ω_t)/∂Ω_t",
            here=lambda: s.each(lambda t: -mm(jacobian(log_softmax, s.Omega[t]).T, s.y[t])),
            true=true,
        ),
        Equation(
            id="tanh-rnn-LD4",
            states="= −Σ ∂ŷ_t/∂Ω_t y_t/ŷ_t, with all of the Jacobian",
            here=lambda: s.each(lambda t: -mm(s.dy_hat_dOmega(t).T, s.y[t] / s.y_hat[t])),
            true=true,
        ),
        Equation(
            id="tanh-rnn-eq-7",
            states="∂L_t/∂Ω_t = ŷ_t − y_t",
            here=lambda: s.each(lambda t: s.y_hat[t] - s.y[t]),
            true=true,
        ),
    ]


ByClass = Callable[[np.ndarray, np.ndarray, int], float]


def _column(s: System, entry: ByClass) -> Callable[[], Value]:
    """At every step the column of entry(S_t, y_t, j)."""
    return lambda: s.each(
        lambda t: column(
            np.array([entry(s.y_hat[t][:, 0], s.y[t][:, 0], j) for j in range(len(s.c))])
        )
    )


def _delta(S: np.ndarray, j: int) -> np.ndarray:
    """δ_ij for all i."""
    return np.asarray(np.arange(len(S)) == j)


def _loss_by_class(s: System, x: Library) -> list[Equation]:
    """The lines that insert (6); a sum without index runs over the classes i, ŷ is S."""

    def line(n: int, states: str, here: ByClass, printed: ByClass) -> Equation:
        return Equation(
            id=f"tanh-rnn-LD{n}",
            states=states,
            here=_column(s, here),
            true=lambda: list(x.gradients()["Omega"]),
            printed=_column(s, printed),
        )

    return [
        line(
            5,
            "= −Σ_i S_i (δ_ij − S_j) y_i/ŷ_i",
            here=lambda S, y, j: -np.sum(S * (_delta(S, j) - S[j]) * y / S),
            printed=lambda S, y, j: -np.sum(S * (1 - S[j]) * y / S),
        ),
        line(
            6,
            "= −Σ_i (δ_ij − S_j) y_i",
            here=lambda S, y, j: -np.sum((_delta(S, j) - S[j]) * y),
            printed=lambda S, y, j: -np.sum((1 - S[j]) * y),
        ),
        line(
            7,
            "= −(y_j − S_j Σ_i y_i)",
            here=lambda S, y, j: -(y[j] - S[j] * y.sum()),
            printed=lambda S, y, j: -np.sum(y - S[j] * S),
        ),
        line(
            8,
            "= S_j Σ_i y_i − y_j",
            here=lambda S, y, j: S[j] * y.sum() - y[j],
            printed=lambda S, y, j: np.sum(S * S) - y.sum(),
        ),
        line(
            9,
            "= S_j Σ_i y_i − y_j, without a sum over y_j",
            here=lambda S, y, j: S[j] * y.sum() - y[j],
            printed=lambda S, y, j: S[j] * S.sum() - y.sum(),
        ),
        line(
            10,
            "= ŷ_j − y_j, without a sum",
            here=lambda S, y, j: S[j] - y[j],
            printed=lambda S, y, j: np.sum(S - y),
        ),
    ]


def _readout(s: System, x: Library, name: str, label: str) -> list[Equation]:
    """The three lines above (8) and (9)."""

    def true() -> Value:
        return x.gradients()[name]

    def alone(t: int) -> np.ndarray:
        return gradient(lambda w: s.run({name: w}).L[t], s.weights[name])

    def two(t: int) -> np.ndarray:
        return contracted(mm(s.dL_dy_hat(t), s.dy_hat_dOmega(t)), s.dOmega_d(name, t))

    def three(t: int) -> np.ndarray:
        return contracted(s.dL_dOmega(t).T, s.dOmega_d(name, t))

    return [
        Equation(
            id=f"{label}1",
            states=f"∂L/∂{name} = Σ_t ∂L_t/∂{name}",
            here=lambda: add(*s.each(alone)),
            true=true,
        ),
        Equation(
            id=f"{label}2",
            states=f"= Σ_t ∂L_t/∂ŷ_t ∂ŷ_t/∂Ω_t ∂Ω_t/∂{name}",
            here=lambda: add(*s.each(two)),
            true=true,
        ),
        Equation(
            id=f"{label}3",
            states=f"= Σ_t ∂L/∂Ω_t ∂Ω_t/∂{name}",
            here=lambda: add(*s.each(three)),
            true=true,
        ),
    ]


def _results(s: System, x: Library) -> list[Equation]:
    return [
        Equation(
            id="tanh-rnn-V4",
            states="the text means ∂L_t/∂Ω_t from (7); ∂ŷ_t/∂Ω_t is (6)",
            here=lambda: s.each(s.dy_hat_dOmega),
            true=lambda: s.each(x.dy_hat_dOmega),
            printed=lambda: s.each(s.dL_dOmega),
        ),
        Equation(
            id="tanh-rnn-eq-8",
            states="∂L/∂V = Σ_t (ŷ_t − y_t) h_t^⊤",
            here=lambda: add(*s.each(lambda t: mm(s.y_hat[t] - s.y[t], s.h[t].T))),
            true=lambda: x.gradients()["V"],
        ),
        Equation(
            id="tanh-rnn-eq-9",
            states="∂L/∂c = Σ_t (ŷ_t − y_t)",
            here=lambda: add(*s.each(lambda t: s.y_hat[t] - s.y[t])),
            true=lambda: x.gradients()["c"],
        ),
    ]


def readings(s: System, table: Sequence[Equation]) -> list[Equation]:
    """Printed lines read in another way, which does not save them either."""
    by_id = {equation.id: equation for equation in table}
    over_time = add(*s.each(s.dL_dOmega))

    def instead(line: str, reading: str, printed: Callable[[], Value]) -> Equation:
        return replace(by_id[line], id=f"{line}-{reading}", printed=printed)

    return [
        instead(
            "tanh-rnn-LD5", "no-sum", _column(s, lambda S, y, j: -S[j] * (1 - S[j]) * y[j] / S[j])
        ),
        instead("tanh-rnn-LD6", "no-sum", _column(s, lambda S, y, j: -(1 - S[j]) * y[j])),
        instead("tanh-rnn-LD7", "no-sum", _column(s, lambda S, y, j: -(y[j] - S[j] * S[j]))),
        instead("tanh-rnn-LD10", "over-time", lambda: s.each(lambda t: over_time)),
    ]
