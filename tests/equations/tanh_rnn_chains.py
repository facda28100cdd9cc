"""Derivation "Tanh RNN", sections 2.5 to 2.8: the gradients of W, U, b and E through time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from equations.calculus import derivative, gradient
from equations.form import Equation, Value, add, had, mm
from equations.tanh_rnn import Factors, Library, System, chain, over_pairs

#: of each weight: its label, its sum over all steps, its final formula
SECTIONS = {
    "W": ("W8", "tanh-rnn-eq-10", "tanh-rnn-eq-11"),
    "U": ("U8", "tanh-rnn-eq-12", "tanh-rnn-eq-13"),
    "b": ("B8", "tanh-rnn-eq-14", "tanh-rnn-eq-15"),
    "E": ("E8", "tanh-rnn-eq-16", "tanh-rnn-eq-17"),
}


def equations(s: System, x: Library) -> list[Equation]:
    """Every equation of these sections, for the system `s` and the same by xrnn, `x`."""
    found = _step_by_step(s, x)
    for name, (pieces, total, final) in SECTIONS.items():
        found += [_over_all_steps(s, x, name, total), _final(s, x, name, final)]
        found += _pieces(s, x, f"tanh-rnn-{pieces}")
    found += [*_relabelled(s, x), *_local(s, x), *_embedded(s, x)]
    return [*found, _whole_pass(s, x)]


def _step_by_step(s: System, x: Library) -> list[Equation]:
    def line(
        label: str,
        name: str,
        states: str,
        factors: Factors,
        printed: Factors | None = None,
        steps: Sequence[int] = s.steps,
    ) -> Equation:
        def right(factors: Factors) -> list[np.ndarray]:
            return [chain(s, t, factors, partial(s.dh_d, name)) for t in steps]

        return Equation(
            id=f"tanh-rnn-{label}",
            states=states,
            here=lambda: right(factors),
            true=lambda: [x.gradients(t)[name] for t in steps],
            printed=None if printed is None else lambda: right(printed),
        )

    def text(label: str) -> Equation:
        return Equation(
            id=f"tanh-rnn-{label}",
            states="the text means ∂h_t/∂h_k",
            here=lambda: [mm(*s.descending(t, 1)) for t in s.steps[1:]],
            true=lambda: [x.dh_dh(t, 1) for t in s.steps[1:]],
            printed=lambda: [s.h[t] / s.h[1] for t in s.steps[1:]],
        )

    return [
        line("W4", "W", "∂L_t/∂W, with the factor ∂h_t/∂h_t", s.total),
        line("W5", "W", "∂L_t/∂W, without it", s.dropped),
        line("W6", "W", "∂L_t/∂W, ∂h_t/∂h_k expanded", s.descending),
        text("W6t"),
        line("W7", "W", "∂L_t/∂W = Σ_k … ∏, j descending", s.descending, s.ascending),
        line("E4-lines-1-3", "E", "∂L_1/∂E to ∂L_3/∂E", s.total, steps=s.steps[:3]),
        line("E4-line-4", "E", "∂L_4/∂E, which is printed ∂L_4/∂W", s.total, steps=s.steps[3:]),
        line("E5", "E", "∂L_t/∂E", s.dropped),
        line("E6", "E", "∂L_t/∂E, ∂h_t/∂h_k expanded", s.descending),
        text("E6t"),
        line("E7", "E", "∂L_t/∂E = Σ_k … ∏, j descending", s.descending, s.ascending),
    ]


def _over_all_steps(s: System, x: Library, name: str, id: str) -> Equation:
    """(10), (12), (14), (16)."""

    def right(factors: Factors) -> np.ndarray:
        return add(*s.each(lambda t: chain(s, t, factors, partial(s.dh_d, name))))

    return Equation(
        id=id,
        states=f"∂L/∂{name} = Σ_t Σ_k … ∏, j descending, ∂h_k/∂{name} with h_{{k-1}} held",
        here=lambda: right(s.descending),
        true=lambda: x.gradients()[name],
        printed=lambda: right(s.ascending),
    )


def _beside(s: System, name: str, k: int) -> np.ndarray:
    """What ∂h_k/∂θ multiplies from the right, as a row."""
    return {"W": s.h[k - 1].T, "U": s.x[k].T, "b": np.ones((1, 1))}[name]


def _with(s: System, name: str, k: int, v: np.ndarray) -> np.ndarray:
    """The gradient v of the pre-activation of step k to that of the weight."""
    if name == "E":
        return mm(s.x_o[k], mm(s.U.T, v).T)
    return mm(v, _beside(s, name, k))


#: (13) and (15) are copies of (11) and (14): the first ends on h_{k-1}
PRINTED_END = {"W": "W", "U": "W", "b": "b", "E": "E"}


def _reordered(s: System, error: np.ndarray, t: int, k: int) -> np.ndarray:
    """D(1 − h_k²) [∏ W^⊤ D(1 − h_{j+1}²)] V^⊤ (error of step t)."""
    return mm(s.D(k), *s.inserted(t, k), s.V.T, error)


def _literal(s: System, t: int, k: int) -> np.ndarray:
    """(y_t − ŷ_t) V^⊤ ∏ (W^⊤ (1 − h_{j+1}²)) (1 − h_k²): as it stands, so the error is a row."""
    return mm((s.y[t] - s.y_hat[t]).T, s.V.T, *s.inserted(t, k), s.D(k))


def _final(s: System, x: Library, name: str, id: str) -> Equation:
    """(11), (13), (15), (17)."""

    def printed(t: int, k: int) -> np.ndarray:
        v = _literal(s, t, k)
        if name == "E":
            return mm(s.x_o[k], mm(v, s.U))
        return mm(v.T, _beside(s, PRINTED_END[name], k))

    return Equation(
        id=id,
        states=f"∂L/∂{name} = Σ_t Σ_k (D(1 − h_k²) [∏ W^⊤ D(1 − h_{{j+1}}²)] V^⊤ (ŷ_t − y_t)) …",
        here=lambda: over_pairs(
            s, lambda t, k: _with(s, name, k, _reordered(s, s.y_hat[t] - s.y[t], t, k))
        ),
        true=lambda: x.gradients()[name],
        printed=lambda: over_pairs(s, printed),
    )


def _pieces(s: System, x: Library, label: str) -> list[Equation]:
    """The first three partial derivatives that each section inserts."""

    def descent(f: Callable[[int], np.ndarray]) -> list[np.ndarray]:
        return [f(j + 1) for j in range(s.T)]

    return [
        Equation(
            id=f"{label}a",
            states="∂L_t/∂Ω_t = ŷ_t − y_t: neither its label nor its sign stand",
            here=lambda: s.each(lambda t: s.y_hat[t] - s.y[t]),
            true=lambda: list(x.gradients()["Omega"]),
            printed=lambda: s.each(lambda t: s.y[t] - s.y_hat[t]),
        ),
        Equation(
            id=f"{label}b",
            states="∂ŷ_t/∂h_t = (D(ŷ_t) − ŷ_t ŷ_t^⊤) V",
            here=lambda: s.each(lambda t: mm(s.dy_hat_dOmega(t), s.V)),
            true=lambda: s.each(lambda t: mm(x.dy_hat_dOmega(t), x.dOmega(t)["h"])),
            printed=lambda: s.each(lambda t: s.V.T),
        ),
        Equation(
            id=f"{label}c",
            states="(∂h_{j+1}/∂h_j)^⊤ = W^⊤ D(1 − h_{j+1}²)",
            here=lambda: descent(lambda t: mm(s.W.T, s.D(t))),
            true=lambda: descent(lambda t: x.dh_dh(t, t - 1).T),
            printed=lambda: descent(lambda t: mm(s.W.T, s.slope(t))),
        ),
    ]


def _relabelled(s: System, x: Library) -> list[Equation]:
    """The same pieces under the labels, and in the layouts, that they might have been meant in."""

    def dL_dy_hat(t: int) -> np.ndarray:
        return gradient(lambda y_hat: -mm(s.y[t].T, np.log(y_hat)), s.y_hat[t])

    return [
        Equation(
            id="tanh-rnn-W8a-label",
            states="∂L_t/∂ŷ_t = −y_t ⊘ ŷ_t",
            here=lambda: s.each(lambda t: s.dL_dy_hat(t).T),
            true=lambda: s.each(dL_dy_hat),
            printed=lambda: s.each(lambda t: s.y[t] - s.y_hat[t]),
        ),
        Equation(
            id="tanh-rnn-W8b-label",
            states="∂Ω_t/∂h_t = V",
            here=lambda: s.each(lambda t: s.V),
            true=lambda: s.each(lambda t: x.dOmega(t)["h"]),
            printed=lambda: s.each(lambda t: s.V.T),
        ),
        Equation(
            id="tanh-rnn-W8c-layout",
            states="∂h_{j+1}/∂h_j = D(1 − h_{j+1}²) W, as E8d is written",
            here=lambda: s.each(lambda t: mm(s.D(t), s.W)),
            true=lambda: s.each(lambda t: x.dh_dh(t, t - 1)),
            printed=lambda: s.each(lambda t: mm(s.W.T, s.D(t))),
        ),
        Equation(
            id="tanh-rnn-E8d-layout",
            states="(∂h_k/∂x_k)^⊤ = U^⊤ D(1 − h_k²), as E8c is written",
            here=lambda: s.each(lambda k: mm(s.U.T, s.D(k))),
            true=lambda: s.each(lambda k: x.immediate(k)["x"].T),
            printed=lambda: s.each(lambda k: mm(s.D(k), s.U)),
        ),
    ]


def _local(s: System, x: Library) -> list[Equation]:
    """∂h_k/∂θ, the last piece of the sections of W, U and b."""

    def local(id: str, name: str, states: str, printed: Callable[[int], np.ndarray]) -> Equation:
        return Equation(
            id=id,
            states=states,
            here=lambda: s.each(partial(s.dh_d, name)),
            true=lambda: s.each(lambda k: x.immediate(k)[name]),
            printed=lambda: s.each(printed),
        )

    return [
        local(
            "tanh-rnn-W8d",
            "W",
            "∂h_{k,a}/∂W_bc = δ_ab (1 − h_{k,a}²) h_{k-1,c}",
            lambda k: had(s.slope(k), s.h[k - 1]),
        ),
        local(
            "tanh-rnn-U8d",
            "U",
            "∂h_{k,a}/∂U_bc = δ_ab (1 − h_{k,a}²) x_{k,c}",
            lambda k: had(s.slope(k), s.x[k]),
        ),
        Equation(
            id="tanh-rnn-B8d",
            states="∂h_k/∂b = D(1 − h_k²)",
            here=lambda: s.each(s.D),
            true=lambda: s.each(lambda k: x.immediate(k)["b"][:, :, 0]),
            printed=lambda: s.each(s.slope),
        ),
    ]


def _embedded(s: System, x: Library) -> list[Equation]:
    """The last two pieces of the section of E."""
    return [
        Equation(
            id="tanh-rnn-E8d",
            states="∂h_k/∂x_k = D(1 − h_k²) U",
            here=lambda: s.each(s.dh_dx),
            true=lambda: s.each(lambda k: x.immediate(k)["x"]),
            printed=lambda: s.each(lambda k: mm(s.slope(k), s.U)),
        ),
        Equation(
            id="tanh-rnn-E8e",
            states="∂x_{k,a}/∂E_bc = δ_ac x_{k,b}^o",
            here=lambda: s.each(s.dx_dE),
            true=lambda: s.each(x.dx_dE),
            printed=lambda: s.each(lambda k: s.x_o[k]),
        ),
    ]


def _whole_pass(s: System, x: Library) -> Equation:
    """What the double sums come to, in O(T): the gradients of all weights, x_t and h_0."""
    names = ("V", "c", "W", "U", "b", "E", "h_0")

    def here() -> list[np.ndarray]:
        d = {name: np.zeros_like(weight) for name, weight in s.weights.items()}
        later, dxs = np.zeros_like(s.h_0), []
        for t in reversed(s.steps):
            dOmega = s.y_hat[t] - s.y[t]
            a = had(add(mm(s.V.T, dOmega), later), s.slope(t))
            terms = {"V": mm(dOmega, s.h[t].T), "c": dOmega}
            terms |= {"W": mm(a, s.h[t - 1].T), "U": mm(a, s.x[t].T), "b": a}
            dxs.append(mm(s.U.T, a))
            terms["E"] = mm(s.x_o[t], dxs[-1].T)
            d = {name: add(d[name], terms[name]) for name in d}
            later = mm(s.W.T, a)
        return [*({**d, "h_0": later}[name] for name in names), *dxs[::-1]]

    def true() -> list[np.ndarray]:
        d = x.gradients()
        return [*(d[name] for name in names), *d["x"]]

    return Equation("tanh-rnn-backward", "the corrected equations as one pass", here, true)


def readings(s: System, table: Sequence[Equation]) -> list[Equation]:
    """Printed lines read in another way, which does not save them either."""
    by_id = {equation.id: equation for equation in table}

    def instead(id: str, reading: str, printed: Callable[[], Value]) -> Equation:
        return replace(by_id[id], id=f"{id}-{reading}", printed=printed)

    def total(name: str) -> Callable[[], Value]:
        """∂h_k/∂θ with the weight varied at every step counts paths twice."""

        def dh_d(k: int) -> np.ndarray:
            return derivative(lambda w: s.run({name: w}).h[k], s.weights[name])[:, 0]

        return lambda: add(*s.each(lambda t: chain(s, t, s.descending, dh_d)))

    def sign(name: str, end: str) -> Callable[[], Value]:
        """The factors in an order that fits, the sign as printed."""
        return lambda: over_pairs(
            s, lambda t, k: _with(s, end, k, _reordered(s, s.y[t] - s.y_hat[t], t, k))
        )

    def U_as_printed(t: int, k: int) -> np.ndarray:
        """Order and sign that fit, but U, not U^⊤."""
        return mm(s.x_o[k], mm(s.U, _reordered(s, s.y_hat[t] - s.y[t], t, k)).T)

    found = [instead(SECTIONS[name][1], "total", total(name)) for name in "WUb"]
    found += [
        instead(SECTIONS[name][2], "reordered", sign(name, PRINTED_END[name])) for name in "WUbE"
    ]
    found.append(instead("tanh-rnn-eq-17", "U", lambda: over_pairs(s, U_as_printed)))
    # The left side that is printed: what is stated is true of another gradient.
    W4, E4 = by_id["tanh-rnn-W4"], by_id["tanh-rnn-E4-line-4"]
    return [
        *found,
        replace(by_id["tanh-rnn-eq-11"], id="tanh-rnn-eq-13-of-W", printed=sign("W", "W")),
        replace(
            W4,
            id="tanh-rnn-E4-line-4",
            here=lambda: W4.here()[-1:],
            true=lambda: W4.true()[-1:],
            printed=E4.here,
        ),
    ]
