"""Derivation "ReLU RNN, LSTM and GRU", section 3: eqs 58-87, each compared with xrnn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import xrnn
from equations import gru_before_system as document
from equations.form import Equation, add, column
from equations.gru_before_system import Step, Unit, by_weight, delta_h, delta_r, delta_z
from equations.relu_lstm_gru import nearest

Values = Callable[[], list[np.ndarray]]

#: all dimensions distinct, so that a wrong shape shows
S = Unit(d=3, n=5, seed=0)

#: all equal, so that no shape hides a wrong value
SQUARE = Unit(d=5, n=5, seed=0)

DELTAS = {"h": delta_h, "r": delta_r, "z": delta_z}


def each(f: Step, s: Unit = S) -> Values:
    """The quantity at every step."""
    return lambda: [f(s, t) for t in s.steps]


def before_last(f: Step, s: Unit = S) -> Values:
    """The quantity at every step that another follows."""
    return lambda: [f(s, t) for t in s.steps[:-1]]


def at_step(name: str) -> Values:
    """∂L_t+ by the weight that step t alone uses: the left side of (66)-(70), (77)-(84)."""
    return each(lambda s, t: s.xrnn.dL_plus_at(name, t))


def as_a_whole() -> list[Equation]:
    """The values of (58)-(61), and the backward pass by (74)-(87)."""

    def values() -> list[np.ndarray]:
        gates = xrnn.analysis.gates(S.xrnn.tape)
        inner = [column(gates[name][t - 1]) for name in "zrn" for t in S.steps]
        return [*map(column, S.xrnn.hs), *inner]

    def swept() -> list[np.ndarray]:
        s = S.swept()
        sums = [add(*(by_weight(DELTAS[w[-1]], w, s, t) for t in s.steps)) for w in s.xrnn.names]
        return [*sums, document.back(s, 1), *(document.below(s, t) for t in s.steps)]

    def true() -> list[np.ndarray]:
        dxs = [S.xrnn.dL_plus_dx(t) for t in S.steps]
        return [*map(S.xrnn.dL, S.xrnn.names), S.xrnn.dL_later_dh(0), *dxs]

    here = [S.h, S.z, S.r, S.h_tilde]
    return [
        Equation(
            "relu-lstm-gru-eqs-58-61",
            "h_t, z_t, r_t, h̃_t",
            lambda: [value for over_t in here for value in over_t.values()],
            values,
        ),
        Equation(
            "relu-lstm-gru-eqs-74-87", "∂L by every weight, by h_0 and by every x_t", swept, true
        ),
    ]


def errors() -> list[Equation]:
    """(62), (74)-(76): ∂L_t+ by h_t and by the pre-activations."""
    by_z, by_h, by_r = (each(by_pre_activation(gate)) for gate in "znr")
    printed = each(document.delta_r_product_first), each(document.delta_r_product_last)
    return [
        Equation(
            "relu-lstm-gru-eq-62",
            "∂L_t+/∂h_t = ∂L_t/∂h_t + ∂L_(t+1)+/∂h_t",
            each(document.G),
            each(lambda s, t: s.xrnn.dL_plus_dh(t)),
        ),
        Equation(
            "relu-lstm-gru-eq-74",
            "δ_t^z = G_t ⊙ (h_{t-1} - h̃_t) ⊙ z_t ⊙ (1 - z_t)",
            each(delta_z),
            by_z,
        ),
        Equation(
            "relu-lstm-gru-eq-75", "δ_t^h = G_t ⊙ (1 - z_t) ⊙ (1 - h̃_t²)", each(delta_h), by_h
        ),
        Equation(
            "relu-lstm-gru-eq-76",
            "δ_t^r = (U_h^T δ_t^h) ⊙ h_{t-1} ⊙ r_t ⊙ (1 - r_t)",
            each(delta_r),
            by_r,
            nearest(by_r, *printed),
        ),
    ]


def by_pre_activation(gate: str) -> Step:
    return lambda s, t: s.xrnn.dL_plus_da(t, gate)


def candidate(number: int, name: str) -> list[Equation]:
    """(63)-(65); `printed` is the printed left side, ∂L_t instead of ∂L_t+."""
    true, dL = at_step(name), f"∂L_t+/∂{name}"
    shared = each(lambda s, t: s.xrnn.dL_t(name, t))
    alone = each(lambda s, t: s.xrnn.dL_t_at(name, t))
    last = each(lambda s, t: by_weight(delta_h, name, s, t))
    chain = each(lambda s, t: by_weight(document.chain_h, name, s, t))
    return [
        Equation(f"relu-lstm-gru-eq-{number}-braces", f"{dL} as a chain of Jacobians", chain, true),
        Equation(
            f"relu-lstm-gru-eq-{number}-last",
            f"{dL} = (G_t ⊙ (1 - z_t) ⊙ (1 - h̃_t²)) …",
            last,
            true,
            nearest(true, shared, alone),
        ),
    ]


def gate(number: int, name: str) -> list[Equation]:
    """(66)-(71): every last line is printed as the δ^r of (76), without its parentheses."""
    true, dL = at_step(name), f"∂L_t+/∂{name}"
    of, through = (delta_r, document.chain_r) if name[-1] == "r" else (delta_z, document.chain_z)
    readings = [document.delta_r_product_first, document.delta_r_product_last]
    if name[-1] == "z":
        readings.append(delta_r)

    def with_operand(of: Step, name: str = name) -> Values:
        return each(lambda s, t: by_weight(of, name, s, t))

    # (71) is that of b_z, printed as (70) once more.
    printed = with_operand(through, "U_z") if number == 71 else None
    return [
        Equation(
            f"relu-lstm-gru-eq-{number}-braces",
            f"{dL} as a chain of Jacobians",
            with_operand(through),
            true,
            printed,
        ),
        Equation(
            f"relu-lstm-gru-eq-{number}-last",
            f"{dL} = δ_t^{name[-1]} …, written out",
            with_operand(of),
            true,
            nearest(true, *map(with_operand, readings)),
        ),
    ]


def by_step(number: int, name: str) -> list[Equation]:
    """(77)-(85); (85) is that of b_z, its printed left side ∂L_t+/∂U_z."""
    of = DELTAS[name[-1]]
    return [
        Equation(
            f"relu-lstm-gru-eq-{number}",
            f"∂L_t+/∂{name} = δ_t^{name[-1]} …",
            each(lambda s, t: by_weight(of, name, s, t)),
            at_step(name),
            at_step("U_z") if number == 85 else None,
        )
    ]


def dL_plus_dh_before(s: Unit, t: int) -> np.ndarray:
    return s.xrnn.dL_later_dh(t - 1)


def dL_plus_dx(s: Unit, t: int) -> np.ndarray:
    return s.xrnn.dL_plus_dx(t)


def back() -> list[Equation]:
    """(72), (86): ∂L_t+/∂h_{t-1}."""
    true = each(dL_plus_dh_before)
    last = each(document.back_last_product_first), each(document.back_last_product_last)
    short = each(document.back_product_first), each(document.back_product_last)

    def with_z_T(line: Callable[[Unit, int, int], np.ndarray]) -> Values:
        return each(lambda s, t: line(s, t, s.steps[-1]))

    lines = (
        ("1", "by the product rule", each(document.back_1), None),
        ("2", "collected", each(document.back_2), None),
        (
            "3",
            "∂z_t, ∂h̃_t inserted; z_t, not z_T",
            each(document.back_3),
            with_z_T(document.back_3),
        ),
        ("4", "∂r_t inserted; z_t, not z_T", each(document.back_4), with_z_T(document.back_4)),
    )
    return [
        *(
            Equation(
                f"relu-lstm-gru-eq-72-line-{line}", f"∂L_t+/∂h_{{t-1}} {what}", here, true, printed
            )
            for line, what, here, printed in lines
        ),
        Equation(
            "relu-lstm-gru-eq-72-last",
            "four terms: every matrix acts on its own parenthesis",
            each(document.back_last),
            true,
            nearest(true, *last),
        ),
        Equation(
            "relu-lstm-gru-eq-86",
            "∂L_t+/∂h_{t-1} = G_t ⊙ z_t + U_z^T δ_t^z + (U_h^T δ_t^h) ⊙ r_t + U_r^T δ_t^r",
            each(document.back),
            true,
            nearest(true, *short),
        ),
    ]


def below() -> list[Equation]:
    """(73), (87): ∂L_t+/∂x_t; and the remark under (87)."""
    true = each(dL_plus_dx)
    last = each(document.below_last_product_first), each(document.below_last_product_last)
    with_h_tilde = each(lambda s, t: document.below_2(s, t, s.h_tilde[t]))
    first = (("", document.below_1), ("-collected", document.below_1_collected))
    return [
        *(
            Equation(
                f"relu-lstm-gru-eq-73-line-1{id}", "∂L_t+/∂x_t by the product rule", each(f), true
            )
            for id, f in first
        ),
        *(
            Equation(
                f"relu-lstm-gru-eq-73-line-{line}",
                "∂L_t+/∂x_t with U_h diag(h_{t-1}), not h̃_t",
                each(document.below_2),
                true,
                with_h_tilde,
            )
            for line in (2, 3)
        ),
        Equation(
            "relu-lstm-gru-eq-73-last",
            "three terms: every matrix acts on its own parenthesis",
            each(document.below_last),
            true,
            nearest(true, *last),
        ),
        Equation(
            "relu-lstm-gru-eq-87",
            "∂L_t+/∂x_t = W_z^T δ_t^z + W_h^T δ_t^h + W_r^T δ_t^r",
            each(document.below),
            true,
            each(document.below_as_printed),
        ),
        *(
            Equation(
                id,
                "(86), not (87), goes into (62), not (31), one step before",
                before_last(lambda s, t: document.back(s, t + 1), s),
                before_last(lambda s, t: s.xrnn.dL_later_dh(t), s),
                before_last(lambda s, t: document.below(s, t + 1), s),
            )
            for id, s in (("relu-lstm-gru-R87", S), ("relu-lstm-gru-R87-square", SQUARE))
        ),
    ]


WEIGHTS = tuple(f"{weight}_{gate}" for gate in "hrz" for weight in "WUb")

EQUATIONS = [
    *as_a_whole(),
    *errors(),
    *(e for k, name in enumerate(WEIGHTS[:3]) for e in candidate(63 + k, name)),
    *(e for k, name in enumerate(WEIGHTS[3:]) for e in gate(66 + k, name)),
    *back(),
    *below(),
    *(e for k, name in enumerate(WEIGHTS) for e in by_step(77 + k, name)),
]
