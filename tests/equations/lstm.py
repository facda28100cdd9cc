"""Derivation "LSTM": an LSTM with softmax cross-entropy at every step, in its own notation.

Vectors are columns; weights are inputs × outputs and are used transposed.  In numerator layout
∂J/∂v is a row, ∂J/∂W has the shape of Wᵀ, and the gradient is the transpose (section 4).
Names are the document's, ``a_prev`` for a⁽ᵗ⁻¹⁾; J = Σ_t J⁽ᵗ⁾, a sum that it never writes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from equations.form import CannotEvaluate, add, diag, had, mm, sigma

Named = dict[str, np.ndarray]

n_x, n_a, n_y, T = 2, 5, 3, 4

#: forget, update, output, candidate
GATES = "fuoc"

#: the gate that each component of section 3.10 comes through
COMPONENTS = {1: "o", 2: "c", 3: "u", 4: "f"}


def shapes() -> dict[str, tuple[int, int]]:
    """Section 2, the list of dimensions, and the state given."""
    of: dict[str, tuple[int, int]] = {}
    for gate in GATES:
        of |= {f"W_{gate}a": (n_a, n_a), f"W_{gate}x": (n_x, n_a), f"b_{gate}": (n_a, 1)}
    return of | {"W_ya": (n_a, n_y), "b_y": (n_y, 1), "a_0": (n_a, 1), "c_0": (n_a, 1)}


def softmax(z: np.ndarray) -> np.ndarray:
    """Of one column."""
    y_hat: np.ndarray = np.exp(z) / np.exp(z).sum()
    return y_hat


def cross_entropy(y_hat: np.ndarray, y: np.ndarray) -> np.ndarray:
    """J, of any number of positions."""
    return np.array([-(y * np.log(y_hat)).sum()])


def tr(A: np.ndarray) -> np.ndarray:
    """The trace of a square matrix."""
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise CannotEvaluate(f"tr of {A.shape}")
    return np.array([np.trace(A)])


def forward(w: Named, xs: list[np.ndarray], ys: list[np.ndarray]) -> list[Named]:
    """Equations 1-12: every symbol at t = 0 … T."""
    steps = [{"a": w["a_0"], "c": w["c_0"]}]
    for x, y in zip(xs, ys, strict=True):
        prev, v = steps[-1], {"x": x, "y": y}
        for gate in GATES:
            from_a, from_x = mm(w[f"W_{gate}a"].T, prev["a"]), mm(w[f"W_{gate}x"].T, x)
            v[f"z_{gate}"] = add(from_a, from_x, w[f"b_{gate}"])  # eqs 1, 3, 5, 7
        for gate in "fuo":
            v[f"Gamma_{gate}"] = sigma(v[f"z_{gate}"])  # eqs 2, 4, 6
        v["c_tilde"] = np.tanh(v["z_c"])  # eq. 8
        v["c"] = add(had(v["Gamma_u"], v["c_tilde"]), had(v["Gamma_f"], prev["c"]))  # eq. 9
        v["a"] = had(np.tanh(v["c"]), v["Gamma_o"])  # eq. 10
        v["z_y"] = add(mm(w["W_ya"].T, v["a"]), w["b_y"])  # eq. 11
        v["y_hat"] = softmax(v["z_y"])  # eq. 12
        steps.append(v)
    return steps


def dJ_dy_hat(v: Named) -> np.ndarray:
    """Section 3.1, with the fraction bars and the minus sign that print lost."""
    return -(v["y"] / v["y_hat"]).T


def dJ_dy_hat_with_bars(v: Named) -> np.ndarray:
    """Section 3.1 as printed, once its fractions have their bars."""
    return (v["y"] / v["y_hat"]).T


def backward(
    w: Named, steps: list[Named], of_y_hat: Callable[[Named], np.ndarray] = dJ_dy_hat
) -> list[Named]:
    """Sections 3.1-3.10, from step T back: ∂J of every symbol at t = 1 … T (0 is empty).

    That of a weight is the contribution of step t alone.
    """
    later = {"a_prev": np.zeros((1, n_a)), "c_prev": np.zeros((1, n_a))}
    found: list[Named] = []
    for v, prev in zip(steps[:0:-1], steps[-2::-1], strict=True):
        d = {"y_hat": of_y_hat(v)}
        softmax_slope = add(diag(v["y_hat"]), -mm(v["y_hat"], v["y_hat"].T))
        d["z_y"] = mm(d["y_hat"], softmax_slope)  # 3.2
        d["a Comp-1"], d["c Comp-1"] = later["a_prev"], later["c_prev"]
        d["a Comp-2"] = mm(d["z_y"], w["W_ya"].T)  # 3.3
        d["a"] = add(d["a Comp-1"], d["a Comp-2"])
        d["Gamma_o"] = had(d["a"], np.tanh(v["c"]).T)  # 3.4
        d["c Comp-2"] = had(d["a"], had(v["Gamma_o"], 1 - np.tanh(v["c"]) ** 2).T)
        d["c"] = add(d["c Comp-1"], d["c Comp-2"])
        d["Gamma_u"] = had(d["c"], v["c_tilde"].T)  # 3.6
        d["c_tilde"] = had(d["c"], v["Gamma_u"].T)
        d["Gamma_f"] = had(d["c"], prev["c"].T)
        d["c_prev"] = had(d["c"], v["Gamma_f"].T)
        for gate in "ouf":  # 3.5, 3.7, 3.8
            Gamma = v[f"Gamma_{gate}"]
            d[f"z_{gate}"] = had(d[f"Gamma_{gate}"], had(Gamma, 1 - Gamma).T)
        d["z_c"] = had(d["c_tilde"], (1 - np.tanh(v["z_c"]) ** 2).T)  # 3.9
        later = d | of_inputs(w, d) | of_weights(v, prev, d)
        found.append(later)
    return [{}, *reversed(found)]


def of_inputs(w: Named, d: Named) -> Named:
    """Section 3.10: ∂J/∂a⁽ᵗ⁻¹⁾ (Comp-1 of 3.3 for step t−1) and ∂J/∂x⁽ᵗ⁾."""
    parts = {}
    for n, gate in COMPONENTS.items():
        parts[f"a_prev Comp-{n}"] = mm(d[f"z_{gate}"], w[f"W_{gate}a"].T)
        parts[f"x Comp-{n}"] = mm(d[f"z_{gate}"], w[f"W_{gate}x"].T)
    sums = {of: add(*(parts[f"{of} Comp-{n}"] for n in COMPONENTS)) for of in ("a_prev", "x")}
    return parts | sums


def of_weights(v: Named, prev: Named, d: Named) -> Named:
    """The ends of sections 3.2, 3.5, 3.7, 3.8 and 3.9."""
    of = {"W_ya": mm(d["z_y"].T, v["a"].T), "b_y": d["z_y"]}
    for gate in GATES:
        dz = d[f"z_{gate}"]
        of[f"W_{gate}a"] = mm(dz.T, prev["a"].T)
        of[f"W_{gate}x"] = mm(dz.T, v["x"].T)
        of[f"b_{gate}"] = dz
    return of


def gradients(found: list[Named]) -> Named:
    """Σ_t, which the document does not write, and the transpose of section 4."""
    weights = [name for name in shapes() if not name.endswith("_0")]
    total = {name: add(*(d[name] for d in found[1:])).T for name in weights}
    return total | {"a_0": found[1]["a_prev"].T, "c_0": found[1]["c_prev"].T}
