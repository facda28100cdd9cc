"""Derivation "ReLU RNN, LSTM and GRU", section 1: eqs 1-24, each compared with xrnn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from equations.form import Equation, add, column
from equations.relu_lstm_gru import nearest
from equations.relu_rnn_system import (
    HIDDEN,
    READOUT,
    Network,
    Reading,
    Step,
    back,
    below,
    braces,
    braces_h,
    braces_readout,
    braces_x,
    by_weight,
    delta,
    delta_h,
    dL_plus_dh,
    entry_by_entry,
    last_line,
    last_line_h,
    last_line_x,
    local,
    local_as_printed,
    power_acts,
    row_from_the_left,
    sensitivity,
    substituted,
    unrolled,
    unrolled_as_printed,
)

Values = Callable[[], list[np.ndarray]]

#: all dimensions distinct, so that a wrong shape shows
S = Network(d=3, n=6, o=4, seed=10)

#: all equal, so that no shape hides a wrong value
SQUARE = Network(d=5, n=5, o=5, seed=8)


def each(f: Step, s: Network = S) -> Values:
    """The quantity at every step."""
    return lambda: [f(s, t) for t in s.steps]


def before_last(f: Step, s: Network = S) -> Values:
    """The quantity at every step that another follows."""
    return lambda: [f(s, t) for t in s.steps[:-1]]


def as_a_whole() -> list[Equation]:
    """The values of (1) and (2), and the backward pass by (13)-(21)."""

    def here() -> list[np.ndarray]:
        deltas = {"W_y": delta, "b_y": delta, "W_x": delta_h, "W_h": delta_h, "b_h": delta_h}
        s = S.swept()
        sums = [add(*(by_weight(of, w, s, t) for t in s.steps)) for w, of in deltas.items()]
        return [*sums, back(s, 1), *(below(s, t) for t in s.steps)]

    def true() -> list[np.ndarray]:
        of_readout = [add(*(S.dL_t_readout(w, t) for t in S.steps)) for w in READOUT]
        of_hidden = [S.xrnn.dL(w) for w in HIDDEN]
        dxs = [S.xrnn.dL_plus_dx(t) for t in S.steps]
        return [*of_readout, *of_hidden, S.xrnn.dL_later_dh(0), *dxs]

    return [
        Equation(
            "relu-lstm-gru-eqs-1-2",
            "h_t and y_t",
            lambda: [*S.h.values(), *S.y.values()],
            lambda: [*map(column, S.xrnn.hs), *map(column, S.ys)],
        ),
        Equation(
            "relu-lstm-gru-eqs-13-21", "∂L by every weight, by h_0 and by every x_t", here, true
        ),
    ]


def readout(number: int, name: str) -> list[Equation]:
    """(4), (5), (17): ∂L_t by a weight of the readout."""
    chain = each(lambda s, t: braces_readout(name, s, t))
    here = each(lambda s, t: by_weight(delta, name, s, t))
    true = each(lambda s, t: s.dL_t_readout(name, t))
    dL = f"∂L_t/∂{name}"
    return [
        Equation(f"relu-lstm-gru-eq-{number}-braces", f"{dL} as a chain of Jacobians", chain, true),
        Equation(
            f"relu-lstm-gru-eq-{number}-last", f"{dL} = (∂L_t/∂y_t ⊙ ReLU'(z_t)) …", here, true
        ),
        Equation(f"relu-lstm-gru-eq-17-{name}", f"{dL} = δ_t …", here, true),
    ]


def last_lines(number: int, what: str, line: Callable[[Step], Step], true: Step) -> list[Equation]:
    """The last line with v_t = ∂L_t/∂z_t^0; as printed, v_t has a mask of h where y is."""
    return [
        Equation(id, what, each(line(local), s), each(true, s), each(line(local_as_printed), s))
        for id, s in (
            (f"relu-lstm-gru-eq-{number}-last", S),
            (f"relu-lstm-gru-eq-{number}-last-square", SQUARE),
        )
    ]


def by_recurrence(number: int, name: str) -> list[Equation]:
    """(6)-(8): ∂L_t by a weight, with ∂h_{t-1} by the same weight."""
    dL, dh = f"∂L_t/∂{name}", f"∂h_{{t-1}}/∂{name}"
    chain = each(lambda s, t: braces(name, s, t))

    def line(v: Step) -> Step:
        return lambda s, t: last_line(v, name, s, t)

    def true(s: Network, t: int) -> np.ndarray:
        return s.xrnn.dL_t(name, t)

    return [
        Equation(
            f"relu-lstm-gru-eq-{number}-sensitivity",
            f"∂h_t/∂{name} = diag(ReLU'(z_t^0)) (… + W_h {dh})",
            each(lambda s, t: sensitivity(name, s, t)),
            each(lambda s, t: s.xrnn.dh(name, t)),
        ),
        Equation(
            f"relu-lstm-gru-eq-{number}-braces", f"{dL} as a chain of Jacobians", chain, each(true)
        ),
        *last_lines(number, f"{dL} = v_t … + (W_h^T v_t) {dh}", line, true),
    ]


def one_step_earlier() -> list[Equation]:
    """(9), (12): ∂L_t by x_t and by h_{t-1}."""

    def dx(s: Network, t: int) -> np.ndarray:
        return s.xrnn.dL_t_dx(t)

    def dh(s: Network, t: int) -> np.ndarray:
        return s.xrnn.dL_t_dh_before(t)

    def line_x(v: Step) -> Step:
        return lambda s, t: last_line_x(v, s, t)

    def line_h(v: Step) -> Step:
        return lambda s, t: last_line_h(v, s, t)

    return [
        Equation(
            "relu-lstm-gru-eq-9-braces", "∂L_t/∂x_t, a chain of Jacobians", each(braces_x), each(dx)
        ),
        *last_lines(9, "∂L_t/∂x_t = W_x^T v_t", line_x, dx),
        Equation("relu-lstm-gru-eq-12-braces", "∂L_t/∂h_{t-1}, a chain", each(braces_h), each(dh)),
        *last_lines(12, "∂L_t/∂h_{t-1} = W_h^T v_t", line_h, dh),
    ]


def through_time() -> list[Equation]:
    """(13)-(16), (20), (21)."""
    return [
        Equation(
            "relu-lstm-gru-eq-13",
            "∂L_t+/∂h_t = W_y^T (∂L_t/∂y_t ⊙ ReLU'(z_t)) + ∂L_(t+1)+/∂h_t",
            each(dL_plus_dh),
            each(lambda s, t: s.xrnn.dL_plus_dh(t)),
        ),
        Equation(
            "relu-lstm-gru-eq-14",
            "∂L by a weight: ∂L_t+/∂h_t in (6)-(8), no recursive terms, summed over t",
            lambda: [substituted(name, S) for name in HIDDEN],
            lambda: [S.xrnn.dL(name) for name in HIDDEN],
        ),
        Equation(
            "relu-lstm-gru-eq-15",
            "δ_t = ∂L_t/∂z_t",
            each(delta),
            each(lambda s, t: s.dL_t_readout("b_y", t)),
        ),
        Equation(
            "relu-lstm-gru-eq-16",
            "δ_t^h = ∂L_t+/∂z_t^0",
            each(delta_h),
            each(lambda s, t: s.xrnn.dL_plus_da(t, "h")),
        ),
        Equation(
            "relu-lstm-gru-eq-20",
            "∂L_t+/∂h_{t-1} = W_h^T δ_t^h",
            each(back),
            each(lambda s, t: s.xrnn.dL_later_dh(t - 1)),
        ),
        # `printed` is the printed left side, ∂L_t/∂x_t.
        Equation(
            "relu-lstm-gru-eq-21",
            "∂L_t+/∂x_t = W_x^T δ_t^h",
            each(below),
            each(lambda s, t: s.xrnn.dL_plus_dx(t)),
            each(lambda s, t: s.xrnn.dL_t_dx(t)),
        ),
    ]


def remark() -> list[Equation]:
    """The sentence under (21)."""
    return [
        Equation(
            id,
            "(20), not (21), is the second term of (13), not (11), one step before",
            before_last(lambda s, t: back(s, t + 1), s),
            before_last(lambda s, t: s.xrnn.dL_later_dh(t), s),
            before_last(lambda s, t: below(s, t + 1), s),
        )
        for id, s in (("relu-lstm-gru-R21", S), ("relu-lstm-gru-R21-square", SQUARE))
    ]


def by_step(number: int, name: str) -> list[Equation]:
    """(18), (19): by the weight of step t alone; `printed` is the printed left side, ∂L_t."""
    here = each(lambda s, t: by_weight(delta_h, name, s, t))
    true = each(lambda s, t: s.xrnn.dL_plus_at(name, t))
    shared = each(lambda s, t: s.xrnn.dL_t(name, t))
    alone = each(lambda s, t: s.xrnn.dL_t_at(name, t))
    what = f"∂L_t+/∂{name} = δ_t^h …"
    id = f"relu-lstm-gru-eq-18-{name}" if number == 18 else f"relu-lstm-gru-eq-{number}"
    return [Equation(id, what, here, true, nearest(true, shared, alone))]


def as_a_sum(number: int, name: str) -> list[Equation]:
    """(22)-(24): no recursion is left."""
    true = each(lambda s, t: s.xrnn.dL_t(name, t))

    def read(reading: Reading) -> Values:
        return each(lambda s, t: unrolled_as_printed(reading, name, s, t))

    return [
        Equation(
            f"relu-lstm-gru-eq-{number}",
            f"∂L_t/∂{name}, unrolled: W_h^T and the masks take turns, i - 1 and i of them",
            each(lambda s, t: unrolled(name, s, t)),
            true,
            nearest(true, *map(read, (power_acts, row_from_the_left, entry_by_entry))),
        )
    ]


EQUATIONS = [
    *as_a_whole(),
    *readout(4, "W_y"),
    *readout(5, "b_y"),
    *by_recurrence(6, "W_x"),
    *by_recurrence(7, "W_h"),
    *by_recurrence(8, "b_h"),
    *one_step_earlier(),
    *through_time(),
    *remark(),
    *by_step(18, "W_x"),
    *by_step(18, "b_h"),
    *by_step(19, "W_h"),
    *as_a_sum(22, "W_x"),
    *as_a_sum(23, "W_h"),
    *as_a_sum(24, "b_h"),
]
