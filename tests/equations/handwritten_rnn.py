"""Derivation "Handwritten tanh RNN": its equations in their order, each compared with xrnn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

import xrnn
from equations.calculus import derivative, gradient, jacobian
from equations.form import Equation, Value, add, diag, had, mm
from equations.handwritten_rnn_system import System, softmax
from equations.tanh_rnn_by_xrnn import ByXrnn
from xrnn.cells import Elman


def equations(s: System, x: ByXrnn) -> list[Equation]:
    """Every equation of the page, for the system `s` and the same by xrnn, `x`."""
    return [
        *_forward(s, x),
        *_conventions(s, x),
        *_bias_c(s, x),
        *_state(s, x),
        *_slope(s, x),
        *_bias_b(s, x),
        *_weight_V(s, x),
        *_weight(s, x, "W", lambda t: s.h[t - 1].T),
        *_weight(s, x, "U", lambda t: s.x[t].T),
        _whole_pass(s, x),
    ]


def readings(s: System, table: Sequence[Equation]) -> list[Equation]:
    """The page does not say that h^(t-1) is held; with the weight varied throughout it is wrong."""
    by_id = {equation.id: equation for equation in table}

    def total(label: str, name: str) -> Equation:
        return replace(
            by_id[label],
            id=f"{label}-total",
            printed=lambda: s.over_time(lambda t: by_unit(s.grad_h[t], s.dh_total(t, name))),
        )

    return [
        total("handwritten-rnn-B4", "b"),
        total("handwritten-rnn-W1", "W"),
        total("handwritten-rnn-U1", "U"),
    ]


def contracted(row: np.ndarray, tensor: np.ndarray) -> np.ndarray:
    """A row of gradients times the derivative by a matrix."""
    return np.asarray(np.tensordot(row[0], tensor, 1))


def by_unit(d: np.ndarray, tensor: np.ndarray) -> np.ndarray:
    """Σ_i d_i (∇ of unit i)."""
    return add(*(d[i, 0] * tensor[i] for i in range(len(d))))


def _forward(s: System, x: ByXrnn) -> list[Equation]:
    return [
        Equation(
            id="handwritten-rnn-F2",
            states="h^(t) = tanh(a^(t)): the b printed is the bias",
            here=lambda: s.each(lambda t: np.tanh(s.a[t])),
            true=lambda: [row.T for row in x.hs],
            printed=lambda: s.each(lambda t: s.b),
        ),
        Equation(
            id="handwritten-rnn-F3",
            states="O^(t) = c + V h^(t): the b printed is the bias",
            here=lambda: s.each(lambda t: add(s.c, mm(s.V, s.h[t]))),
            true=lambda: [row.T for row in x.logits],
            printed=lambda: s.each(lambda t: add(s.c, mm(s.V, s.b))),
        ),
        Equation(
            id="handwritten-rnn-G1",
            states="∇_{O^(t)} L = ŷ^(t) − y^(t)",
            here=lambda: s.each(lambda t: s.y_hat[t] - s.y[t]),
            true=lambda: list(x.gradients()["Omega"]),
        ),
    ]


def _conventions(s: System, x: ByXrnn) -> list[Equation]:
    """f = A x with V for A: J_ij, and what takes gradients back."""
    A = s.V

    def f(v: np.ndarray) -> np.ndarray:
        return mm(A, v)

    def J(i: int, j: int) -> float:
        return float(derivative(lambda v: f(v)[i : i + 1], s.h[1])[0, 0, j, 0])

    def back() -> Value:
        _, tape = x.readout.forward(x.hs[0])
        return np.asarray(x.readout.backward(tape, s.grad_O(1).T)[0]).T

    return [
        Equation(
            id="handwritten-rnn-N1",
            states="J_ij = ∂f_i/∂x_j",
            here=lambda: np.array([[J(i, j) for j in range(A.shape[1])] for i in range(len(A))]),
            true=lambda: x.dOmega(1)["h"],
        ),
        Equation(
            id="handwritten-rnn-N2",
            states="f = A x, ∂f/∂x = A by the line above",
            here=lambda: A,
            true=lambda: x.dOmega(1)["h"],
            printed=lambda: A.T,
        ),
        Equation(
            id="handwritten-rnn-N2-map",
            states="A^⊤ takes gradients back: ∇_x = A^⊤ ∇_f",
            here=lambda: mm(A.T, s.grad_O(1)),
            true=back,
        ),
    ]


def _bias_c(s: System, x: ByXrnn) -> list[Equation]:
    def true() -> Value:
        return x.gradients()["c"]

    def grad_O_of_its_step(t: int) -> np.ndarray:
        def L_t(O: np.ndarray) -> np.ndarray:
            return -mm(s.y[t].T, np.log(softmax(O)))

        return gradient(L_t, s.O[t])

    return [
        Equation(
            id="handwritten-rnn-C1",
            states="∇_c L = Σ_t (∂O^(t)/∂c)^⊤ ∇_{O^(t)} L",
            here=lambda: s.over_time(lambda t: mm(s.dO(t, "c")[:, :, 0].T, s.grad_O(t))),
            true=true,
        ),
        Equation(
            id="handwritten-rnn-C2",
            states="= Σ_t ∇_c O^(t) · ∇_{O^(t)} L^(t)",
            here=lambda: s.over_time(lambda t: mm(np.eye(len(s.c)), grad_O_of_its_step(t))),
            true=true,
        ),
        Equation(
            id="handwritten-rnn-C3",
            states="= Σ_t ∇_{O^(t)} L",
            here=lambda: s.over_time(s.grad_O),
            true=true,
        ),
    ]


def _state(s: System, x: ByXrnn) -> list[Equation]:
    """The gradient of h^(t); at the last step there is no term of the next."""

    def true() -> Value:
        return list(x.gradients()["h"])

    def right(next_step: Callable[[int], np.ndarray], own: Callable[[int], np.ndarray]) -> Value:
        return s.each(lambda t: add(next_step(t), own(t)) if t < s.T else own(t))

    def H1(t: int) -> np.ndarray:
        return mm(s.dh(t + 1, "h")[:, :, 0].T, s.grad_h[t + 1])

    def H2(t: int) -> np.ndarray:
        return mm(s.W.T, s.H(t + 1), s.grad_h[t + 1])

    def of_O(t: int) -> np.ndarray:
        return s.dO(t, "h")[:, :, 0]

    return [
        Equation(
            id="handwritten-rnn-H1",
            states="∇_h^(t) L = (∂h^(t+1)/∂h^(t))^⊤ ∇_h^(t+1) L + (∂O^(t)/∂h^(t))^⊤ ∇_O^(t) L",
            here=lambda: right(H1, lambda t: mm(of_O(t).T, s.grad_O(t))),
            true=true,
        ),
        Equation(
            id="handwritten-rnn-H2",
            states="= W^⊤ H^(t+1) ∇_h^(t+1) L + V^⊤ ∇_O^(t) L",
            here=lambda: right(H2, lambda t: mm(s.V.T, s.grad_O(t))),
            true=true,
        ),
        Equation(
            id="handwritten-rnn-H3",
            states="h^(t+1) and O^(t) depend on h^(t), so L is reached through both",
            here=lambda: [add(H1(t), mm(of_O(t).T, s.grad_O(t))) for t in s.steps[:-1]],
            true=lambda: list(x.gradients()["h"][:-1]),
            # Were h^(t+1) what depends on h^(t) and O^(t), L would be reached through it alone.
            printed=lambda: [H1(t) for t in s.steps[:-1]],
        ),
    ]


def _slope(s: System, x: ByXrnn) -> list[Equation]:
    u = np.array([[0.4, -1.3, 0.0]])

    def tanh_slope() -> Value:
        one = {"W": np.ones((1, 1)), "U": np.zeros((1, 1))}
        _, _, tape = xrnn.unroll(Elman, one, u[:, :, None])
        return np.asarray(xrnn.unroll_backward(tape, np.ones((1, 3, 1)))[0])[:, :, 0]

    return [
        Equation(
            id="handwritten-rnn-H4",
            states="H^(t) = (∂h^(t)/∂a^(t))^⊤ = diag(1 − (h^(t))²)",
            here=lambda: s.each(s.H),
            true=lambda: s.each(lambda t: x.immediate(t)["a"].T),
        ),
        Equation(
            id="handwritten-rnn-H5",
            states="d tanh(x)/dx = 1 − tanh²(x)",
            here=lambda: 1 - np.tanh(u) ** 2,
            true=tanh_slope,
        ),
    ]


def _through_units(s: System, x: ByXrnn, name: str) -> Equation:
    """Σ_t Σ_i (∂L/∂h_i)(∇ h_i) of W, U or b: its first line, or the last of b."""
    return Equation(
        id="handwritten-rnn-B4" if name == "b" else f"handwritten-rnn-{name}1",
        states=f"∇_{name} L = Σ_t Σ_i (∂L/∂h_i)(∇_{name} h_i), with h^(t-1) held",
        here=lambda: s.over_time(lambda t: by_unit(s.grad_h[t], s.dh(t, name))),
        true=lambda: x.gradients()[name],
    )


def _bias_b(s: System, x: ByXrnn) -> list[Equation]:
    def true() -> Value:
        return x.gradients()["b"]

    return [
        Equation(
            id="handwritten-rnn-B1",
            states="∇_b L = Σ_t (∂h^(t)/∂b)^⊤ ∇_h^(t) L, with h^(t-1) held",
            here=lambda: s.over_time(lambda t: mm(s.dh(t, "b")[:, :, 0].T, s.grad_h[t])),
            true=true,
        ),
        Equation(
            id="handwritten-rnn-B2",
            states="= Σ_t diag(1 − (h^(t))²) ∇_h^(t) L",
            here=lambda: s.over_time(lambda t: mm(diag(1 - s.h[t] ** 2), s.grad_h[t])),
            true=true,
        ),
        Equation(
            id="handwritten-rnn-B3",
            states="= Σ_t H^(t) · ∇_h^(t) L",
            here=lambda: s.over_time(lambda t: mm(s.H(t), s.grad_h[t])),
            true=true,
        ),
        _through_units(s, x, "b"),
    ]


def _weight_V(s: System, x: ByXrnn) -> list[Equation]:
    def true() -> Value:
        return x.gradients()["V"]

    def through_y_hat(t: int) -> np.ndarray:
        """σ^(t) read as the softmax."""
        dsigma_dO = jacobian(softmax, s.O[t])
        return contracted(mm(s.grad_O(t).T, dsigma_dO), s.dO(t, "V"))

    return [
        Equation(
            id="handwritten-rnn-V1",
            states="∇_V L = Σ_t Σ_i (∂L/∂O_i)(∇_V O_i): no h depends on V",
            here=lambda: s.over_time(lambda t: by_unit(s.grad_O(t), s.dO(t, "V"))),
            true=true,
            printed=lambda: s.over_time(lambda t: by_unit(s.grad_h[t], s.dh(t, "V"))),
        ),
        Equation(
            id="handwritten-rnn-V2",
            states="= Σ_t (∂O^(t)/∂V)(∇_O^(t) L): σ and 0 are O",
            here=lambda: s.over_time(lambda t: contracted(s.grad_O(t).T, s.dO(t, "V"))),
            true=true,
            printed=lambda: s.over_time(through_y_hat),
        ),
        Equation(
            id="handwritten-rnn-V3",
            states="= Σ_t (∇_O^(t) L)(h^(t))^⊤",
            here=lambda: s.over_time(lambda t: mm(s.grad_O(t), s.h[t].T)),
            true=true,
        ),
    ]


def _weight(s: System, x: ByXrnn, name: str, beside: Callable[[int], np.ndarray]) -> list[Equation]:
    """W and U: the two columns of lines differ in what stands beside them."""

    def line(n: int, states: str, term: Callable[[int], np.ndarray]) -> Equation:
        return Equation(
            f"handwritten-rnn-{name}{n}",
            states,
            lambda: s.over_time(term),
            lambda: x.gradients()[name],
        )

    return [
        _through_units(s, x, name),
        line(
            2,
            f"= Σ_t (∂L/∂h^(t))(∂h^(t)/∂{name})",
            lambda t: contracted(s.grad_h[t].T, s.dh(t, name)),
        ),
        line(
            3,
            "= Σ_t diag(1 − (h^(t))²)(∇_h^(t) L)(…)^⊤",
            lambda t: mm(diag(1 - s.h[t] ** 2), s.grad_h[t], beside(t)),
        ),
        line(
            4,
            "= Σ_t H^(t)(∇_h^(t) L)(…)^⊤",
            lambda t: mm(s.H(t), s.grad_h[t], beside(t)),
        ),
    ]


def _whole_pass(s: System, x: ByXrnn) -> Equation:
    """The page from foot to top: the gradients of all weights, x^(t) and h^(0)."""
    names = ("V", "c", "W", "U", "b", "h_0")

    def here() -> list[np.ndarray]:
        d = {name: np.zeros_like(weight) for name, weight in s.weights.items()}
        later, dxs = np.zeros_like(s.b), []
        for t in reversed(s.steps):
            grad_O = s.y_hat[t] - s.y[t]
            grad_a = had(add(later, mm(s.V.T, grad_O)), 1 - s.h[t] ** 2)
            terms = {"V": mm(grad_O, s.h[t].T), "c": grad_O, "b": grad_a}
            terms |= {"W": mm(grad_a, s.h[t - 1].T), "U": mm(grad_a, s.x[t].T)}
            d = {name: add(d[name], terms[name]) for name in d}
            dxs.append(mm(s.U.T, grad_a))
            later = mm(s.W.T, grad_a)
        return [*({**d, "h_0": later}[name] for name in names), *dxs[::-1]]

    def true() -> list[np.ndarray]:
        d = x.gradients()
        return [*(d[name] for name in names), *d["x"]]

    return Equation("handwritten-rnn-backward", "the page as one pass", here, true)
