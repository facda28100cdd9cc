"""Jacobians, exponents and the flow of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rows import ROWS, Row

import xrnn
from xrnn.analysis import gate_gradients, gradient_flow, jacobian, lyapunov
from xrnn.backends import get
from xrnn.cells import LSTM, Cell, Elman, ElmanReLU

T, B, I, H = 5, 3, 2, 4
LENGTHS = [5, 0, 3]


def tape_of(cell: Cell, lengths: Any = None, reverse: bool = False, device: str = "cpu") -> Any:
    rng, put = np.random.default_rng(0), get(device).from_host
    weights = {k: put(rng.normal(size=s)) for k, s in cell.shapes(I, H).items()}
    state = tuple(put(rng.normal(size=(B, H))) for _ in cell.states)
    return xrnn.unroll(cell, weights, put(rng.normal(size=(T, B, I))), state, lengths, reverse)[2]


def moved(tape: Any, t: int, span: int, k: int) -> Any:
    """∂(state after t + span)/∂(unit k of the state after t): by a complex step, or differences."""
    (one,) = tape.passes
    cell, before, weights, reverse = tape.cell, one.first, one.weights, one.bound.reverse
    order = range(T)[::-1] if reverse else range(T)
    at = list(order).index(t) + 1 if t in order else 0

    def run(state: Any, steps: Any, w: Any) -> Any:
        if not len(steps):
            return state
        lengths = None
        if one.lengths is not None:
            lengths = np.clip(one.lengths - min(steps), 0, len(steps))
        xs = one.xs[min(steps) : max(steps) + 1].astype(w["W"].dtype)
        return xrnn.unroll(cell, w, xs, state, lengths, reverse)[1]

    reached = run(before, order[:at], weights)
    e = 1e-30j if cell.analytic else 1e-6
    wide = {n: w.astype(type(e)) for n, w in weights.items()}
    units = [s.astype(type(e)) for s in reached]
    units[k // H][:, k % H] += e
    ahead = run(tuple(units), order[at : at + span], wide)
    if cell.analytic:
        return np.concatenate(ahead, axis=-1).imag / 1e-30
    units[k // H][:, k % H] -= 2 * e
    behind = run(tuple(units), order[at : at + span], wide)
    return (np.concatenate(ahead, axis=-1) - np.concatenate(behind, axis=-1)) / (2 * e)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize(("reverse", "t", "span"), [(False, -1, 5), (False, 1, 2), (True, 3, 2)])
def test_jacobian(row: Row, lengths: Any, reverse: bool, t: int, span: int) -> None:
    tape = tape_of(row.cell, lengths, reverse)
    n = len(row.cell.states) * H
    expected = np.stack([moved(tape, t, span, k) for k in range(n)], axis=-1)
    found = jacobian(tape, t, span, of=None, by=None)
    bound = 1e-12 if row.cell.analytic else 1e-7
    np.testing.assert_allclose(found, expected, rtol=bound, atol=bound)
    np.testing.assert_array_equal(jacobian(tape, t, span), found[:, :H, :H])
    if n > H:
        np.testing.assert_array_equal(jacobian(tape, t, span, "c", "h"), found[:, H:, :H])


def test_a_product_over_a_span_is_the_product_of_the_steps(device: str) -> None:
    tape, host = tape_of(Elman, device=device), get(device).to_host
    steps = [host(jacobian(tape, t)) for t in range(1, 4)]
    np.testing.assert_allclose(
        host(jacobian(tape, 1, span=3)), steps[2] @ steps[1] @ steps[0], rtol=1e-12, atol=1e-14
    )
    np.testing.assert_array_equal(host(jacobian(tape, 2, span=0)), np.stack([np.eye(H)] * B))


@pytest.mark.parametrize(
    ("reverse", "t", "span"), [(False, 0, T - 1), (False, -1, T), (True, T, T), (True, 3, 2)]
)
def test_jacobian_of_steps_behind_the_longest_sequence(reverse: bool, t: int, span: int) -> None:
    short = tape_of(LSTM, [2, 0, 1], reverse)
    whole = jacobian(tape_of(LSTM, [2, 0, T], reverse), t, span, None, None)
    np.testing.assert_array_equal(jacobian(short, t, span, None, None)[:2], whole[:2])
    for before in (T, T - 1) if reverse else (2, T - 2):
        np.testing.assert_array_equal(jacobian(short, before), np.stack([np.eye(H)] * B))


@pytest.mark.parametrize(("t", "span"), [(5, 1), (-2, 1), (3, 2), (0, -1), (0, 5)])
def test_jacobian_refuses_steps_that_are_not_there(t: int, span: int) -> None:
    with pytest.raises(ValueError, match=f"rnn: t is {t} and span {span}; h_t and h_t.span must"):
        jacobian(tape_of(Elman), t, span)


def test_jacobian_refuses_an_unknown_state() -> None:
    with pytest.raises(ValueError, match="rnn: state 'c' is unknown; it has h"):
        jacobian(tape_of(Elman), 0, of="c")


def test_lyapunov_of_a_linear_system(device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    U = np.array([[1.1, 0.3, 0.5], [0.0, 0.7, 0.4], [0.0, 0.0, 0.2]])
    weights = {"W": put(np.zeros((3, 1))), "U": put(U), "b": put(np.ones(3))}
    # All is positive, so every ReLU is open and the state moves by U alone.
    tape = xrnn.unroll(ElmanReLU, weights, put(np.zeros((400, 2, 1))))[2]
    found = host(lyapunov(tape, 3))
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, [np.log([1.1, 0.7, 0.2])] * 2, atol=0.02)
    np.testing.assert_allclose(host(lyapunov(tape)), found[:, :1], rtol=0.01)


def test_lyapunov_of_what_is_lost(device: str) -> None:
    put, host = get(device).from_host, get(device).to_host
    weights = {"W": put(np.zeros((2, 1))), "U": put(np.diag([0.5, 0.0])), "b": put(np.ones(2))}
    tape = xrnn.unroll(ElmanReLU, weights, put(np.zeros((50, 1, 1))))[2]
    np.testing.assert_allclose(host(lyapunov(tape, 2)), [[np.log(0.5), -np.inf]], atol=0.1)


def test_lyapunov_sums_to_the_volume() -> None:
    tape = tape_of(LSTM)
    steps = [jacobian(tape, t, of=None, by=None) for t in range(-1, T - 1)]
    expected = sum(np.linalg.slogdet(J)[1] for J in steps) / T
    np.testing.assert_allclose(lyapunov(tape, 2 * H).sum(axis=1), expected, rtol=1e-9)


@pytest.mark.parametrize("cell", [Elman, LSTM], ids=lambda cell: cell.name)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_lyapunov_exponents_come_in_order(cell: Cell[Any], dtype: str) -> None:
    """After few steps the directions have not yet turned to those of largest growth."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        w = {k: rng.normal(size=s).astype(dtype) for k, s in cell.shapes(I, H).items()}
        tape = xrnn.unroll(cell, w, rng.normal(size=(3, B, I)).astype(dtype))[2]
        found = lyapunov(tape, H)
        assert found.dtype == ("float32" if dtype == "float16" else dtype)
        assert (np.diff(found, axis=1) <= 0).all()


@pytest.mark.parametrize("k", [0, 9])
def test_lyapunov_refuses(k: int) -> None:
    with pytest.raises(ValueError, match=f"lstm: k is {k} and the tape has 5 steps; k must lie in"):
        lyapunov(tape_of(LSTM), k)
    with pytest.raises(ValueError, match="5 steps and lengths"):
        lyapunov(tape_of(LSTM, LENGTHS))


def test_lyapunov_of_a_stack_is_that_of_its_whole_state(device: str) -> None:
    """The volume that the Jacobian of the whole state keeps, by differences."""
    backend = get(device)
    layer = xrnn.LSTM(I, (H, 2), 2, dtype="float64", rng=0, init="uniform", device=device)
    plain = xrnn.LSTM(I, (H, 2), 2, dtype="float64", rng=0, init="uniform")
    xs = np.random.default_rng(1).normal(size=(T, 1, I))
    found = backend.to_host(lyapunov(layer.forward(backend.from_host(xs))[2], 2 * (H + 2)))
    assert (np.diff(found) <= 0).all()

    def vector(state: Any) -> Any:
        return np.concatenate([part for two in state for part in two], axis=-1)[0]

    total, state, sizes = 0.0, plain.initial_state(1), [H, 2, H, 2]
    for t in range(T):
        columns = []
        for k, size in enumerate(sizes):
            for n in range(size):
                ends = []
                for e in (1e-6, -1e-6):
                    parts = [part.copy() for two in state for part in two]
                    parts[k][0, n] += e
                    ends.append(vector(plain(xs[t : t + 1], (parts[:2], parts[2:]))[1]))
                columns.append((ends[0] - ends[1]) / 2e-6)
        total += np.linalg.slogdet(np.stack(columns))[1]
        state = plain(xs[t : t + 1], state)[1]
    np.testing.assert_allclose(found.sum(), total / T, rtol=1e-7)


def test_lyapunov_of_a_stack_in_training_and_in_reverse() -> None:
    """The mask of dropout between layers is that of the pass; reverse time has its own order."""
    layer = xrnn.RNN(I, H, 2, dropout=0.5, dtype="float64", rng=0)
    xs = np.random.default_rng(1).normal(size=(T, B, I))
    whole = [lyapunov(layer.forward(xs, seed=seed)[2], 2 * H) for seed in (0, 1)]
    assert not np.allclose(*whole)
    ways = []
    for reverse in (False, True):
        other = xrnn.RNN(I, H, 2, reverse=reverse, dtype="float64")
        other.weights = layer.weights
        ways.append(lyapunov(other.forward(xs[::-1] if reverse else xs)[2], 2 * H, skip=2))
    np.testing.assert_array_equal(*ways)


def test_lyapunov_skips_the_transient() -> None:
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=s) for k, s in LSTM.shapes(I, H).items()}
    xs = rng.normal(size=(7, B, I))
    last = xrnn.unroll(LSTM, weights, xs[:4])[1]
    whole = lyapunov(xrnn.unroll(LSTM, weights, xs)[2], 2 * H) * 7
    first = lyapunov(xrnn.unroll(LSTM, weights, xs[:4])[2], 2 * H) * 4
    rest = lyapunov(xrnn.unroll(LSTM, weights, xs)[2], 2 * H, skip=4) * 3
    # All exponents together are the volume, which does not depend on the directions.
    np.testing.assert_allclose(whole.sum(1), (first + rest).sum(1), rtol=1e-9)
    alone = lyapunov(xrnn.unroll(LSTM, weights, xs[4:], last)[2], 2 * H) * 3
    np.testing.assert_allclose(rest.sum(1), alone.sum(1), rtol=1e-9)
    assert not np.allclose(rest[:, 0], alone[:, 0])  # its directions have turned already
    for skip in (-1, 7):
        with pytest.raises(ValueError, match=f"lstm: skip is {skip}; it must lie in 0…T−1 = 0…6"):
            lyapunov(xrnn.unroll(LSTM, weights, xs)[2], skip=skip)


def test_lyapunov_needs_one_direction() -> None:
    tape = xrnn.GRU(I, H, bidirectional=True).forward(np.ones((T, B, I), "float32"))[2]
    with pytest.raises(ValueError, match="gru: the tape is of both directions, which have no"):
        lyapunov(tape)
    with pytest.raises(ValueError, match="gru: the tape holds 2 cells; it must be of one"):
        jacobian(tape, 0)


@pytest.mark.parametrize("batch_first", [False, True])
def test_gradient_flow(batch_first: bool, device: str) -> None:
    backend = get(device)
    layer = xrnn.LSTM(I, H, 2, batch_first=batch_first, dtype="float64", device=device)
    shape = (B, T, I) if batch_first else (T, B, I)
    xs = backend.from_host(np.random.default_rng(0).normal(size=shape))
    ys, _, tape = layer.forward(xs)
    _, dstates = gate_gradients(tape, ys)
    flow = gradient_flow(tape, ys)
    assert set(flow) == {"h_l0", "c_l0", "h_l1", "c_l1"}
    axes = (0, 2) if batch_first else (1, 2)
    for name, norms in flow.items():
        d = backend.to_host(dstates[name])
        np.testing.assert_allclose(backend.to_host(norms), np.sqrt((d**2).sum(axes)), rtol=1e-12)


def test_gradient_flow_of_one_cell_and_a_last_state_alone() -> None:
    tape = tape_of(Elman)
    d = np.ones((B, H))
    flow = gradient_flow(tape, dstate=(d,))
    assert set(flow) == {"h"}
    for t in range(T):
        through = np.einsum("bi,bij->bj", d, jacobian(tape, t, span=T - 1 - t))
        np.testing.assert_allclose(flow["h"][t], np.linalg.norm(through), rtol=1e-12)


#: (dtype, the size of a gradient)
SIZES = {
    "float64": (1e-200, 1e200, 0.0, np.inf),
    "float32": (1e-30, 1e25, 8e37),
    "float16": (2e-4, 3e4),
}


@pytest.mark.parametrize(("dtype", "size"), [(k, n) for k, sizes in SIZES.items() for n in sizes])
def test_gradient_flow_of_any_size(dtype: str, size: float) -> None:
    """Neither the squares nor their sum overflow or are rounded to 0."""
    weights = {k: np.zeros(s, dtype) for k, s in Elman.shapes(I, H).items()}
    ys, _, tape = xrnn.unroll(Elman, weights, np.zeros((T, B, I), dtype))
    dys = np.full_like(ys, size)
    # The gradient of the bias overflows in float16, and in float32 at the largest size.
    with np.errstate(all="raise"):
        flow = gradient_flow(tape, dys)["h"]
    assert flow.dtype == ("float32" if dtype == "float16" else dtype)
    np.testing.assert_allclose(flow[-1], float(dys[0, 0, 0]) * np.sqrt(B * H), rtol=1e-6)


def test_gradient_flow_of_nothing() -> None:
    layer = xrnn.GRU(I, H)
    for shape in ((0, B, I), (T, 0, I)):
        tape = layer.forward(np.zeros(shape, "float32"))[2]
        np.testing.assert_array_equal(gradient_flow(tape)["h_l0"], np.zeros(shape[0], "float32"))
