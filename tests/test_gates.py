"""What stands in the middle of a pass: the values of the gates, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rows import ROWS

import xrnn
from xrnn.analysis import gate_gradients
from xrnn.backends import get
from xrnn.cells import GRU, LSTM, Cell, InputGatedLSTM, MinGRU, PeepholeLSTM
from xrnn.engine.bound_cell import Pass

T, B, I, H = 6, 3, 2, 4


def given(
    cell: Cell[Any], seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[Any, ...]]:
    rng = np.random.default_rng(seed)
    weights = {k: rng.normal(size=s) for k, s in cell.shapes(I, H).items()}
    state = tuple(rng.normal(size=(B, H)) for _ in cell.states)
    return weights, rng.normal(size=(T, B, I)), state


def sigma(a: np.ndarray) -> Any:
    return 1 / (1 + np.exp(-a))


def by_hand_gru(w: Any, x: Any, h: Any) -> dict[str, Any]:
    a, u = x @ w["W"].T + w["b"], h @ w["U"].T
    r, z = sigma(a[:, :H] + u[:, :H]), sigma(a[:, H : 2 * H] + u[:, H : 2 * H])
    return {"r": r, "z": z, "n": np.tanh(a[:, 2 * H :] + r * (u[:, 2 * H :] + w["v"]))}


def by_hand_peephole(w: Any, x: Any, h: Any, c: Any) -> dict[str, Any]:
    a = x @ w["W"].T + w["b"] + h @ w["U"].T
    p = w["p"].reshape(3, H)
    i, f = sigma(a[:, :H] + p[0] * c), sigma(a[:, H : 2 * H] + p[1] * c)
    g = np.tanh(a[:, 2 * H : 3 * H])
    new = f * c + i * g
    return {"i": i, "f": f, "g": g, "o": sigma(a[:, 3 * H :] + p[2] * new), "c": new}


def by_hand_mingru(w: Any, x: Any, h: Any) -> dict[str, Any]:
    a = x @ w["W"].T + w["b"]
    return {"z": sigma(a[:, :H]), "n": a[:, H:]}


# The other cells' gates are compared, letter by letter, with the derivations they come from.
@pytest.mark.parametrize(
    ("cell", "by_hand"),
    [(GRU, by_hand_gru), (PeepholeLSTM, by_hand_peephole), (MinGRU, by_hand_mingru)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_values(cell: Cell[Any], by_hand: Callable[..., dict[str, Any]]) -> None:
    weights, xs, state = given(cell)
    *_, tape = xrnn.unroll(cell, weights, xs, state)
    values = xrnn.analysis.gates(tape)
    assert list(values) == [*cell.gates, *cell.states[1:]]
    for t in range(T):
        expected = by_hand(weights, xs[t], *state)
        for name, a in expected.items():
            np.testing.assert_allclose(values[name][t], a, rtol=1e-12, err_msg=name)
        _, state, _ = xrnn.unroll(cell, weights, xs[t : t + 1], state)


def with_c_moved(cell: Cell[Any], w: Any, values: Any, t: int, e: Any) -> tuple[Any, Any]:
    """h_t and c_t where c_t is e more and all that follows from it in step t moves along."""
    o, c = values["o"][t], values["c"][t]
    if cell is PeepholeLSTM:
        p_o = w["p"][2 * H :]
        o = sigma(np.log(o / (1 - o)) + p_o * e)
    return o * np.tanh(c + e), c + e


@pytest.mark.parametrize("cell", [LSTM, InputGatedLSTM, PeepholeLSTM], ids=lambda c: c.name)
def test_gradient_of_c_is_the_derivative_with_h_moving_along(cell: Cell[Any]) -> None:
    weights, xs, state = given(cell)
    rng = np.random.default_rng(1)
    ys, last, tape = xrnn.unroll(cell, weights, xs, state)
    dys, dlast = rng.normal(size=ys.shape), tuple(rng.normal(size=s.shape) for s in last)
    _, dstates = gate_gradients(tape, dys, dlast)
    values = xrnn.analysis.gates(tape)
    wide = {k: w.astype(complex) for k, w in weights.items()}
    for t in range(T):
        direction = rng.normal(size=(B, H))
        h, c = with_c_moved(cell, weights, values, t, 1e-30j * direction)
        loss = (dys[t] * h).sum()
        if t + 1 < T:
            later, end, _ = xrnn.unroll(cell, wide, xs[t + 1 :].astype(complex), (h, c))
            loss = loss + (dys[t + 1 :] * later).sum()
            h, c = end
        loss = loss + (dlast[0] * h).sum() + (dlast[1] * c).sum()
        expected = (dstates["c"][t] * direction).sum()
        np.testing.assert_allclose(loss.imag / 1e-30, expected, rtol=1e-11)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)
def test_gradient_of_h_is_what_the_rest_of_the_sequence_sends(row: Any) -> None:
    weights, xs, state = given(row.cell)
    ys, _, tape = xrnn.unroll(row.cell, weights, xs, state)
    dys = np.random.default_rng(1).normal(size=ys.shape)
    _, dstates = gate_gradients(tape, dys)
    for t in range(T - 1):
        _, reached, _ = xrnn.unroll(row.cell, weights, xs[: t + 1], state)
        *_, rest = xrnn.unroll(row.cell, weights, xs[t + 1 :], reached)
        dh = xrnn.unroll_backward(rest, dys[t + 1 :])[1].h  # type: ignore[attr-defined]
        np.testing.assert_allclose(dstates["h"][t], dh + dys[t], rtol=1e-11, atol=1e-14)


def test_who_does_not_ask_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Pass) -> Any:
        raise AssertionError("a pass that nobody asked for")

    monkeypatch.setattr(Pass, "replay", forbidden)
    for cell in (LSTM, InputGatedLSTM):
        weights, xs, state = given(cell)
        ys, _, tape = xrnn.unroll(cell, weights, xs, state)
        assert len(xrnn.unroll_backward(tape, ys)) == 3


@pytest.mark.parametrize("lengths", [None, (2, 6, 0)])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_fast_path_that_ran_makes_no_difference(reverse: bool, lengths: Any) -> None:
    weights, xs, state = given(InputGatedLSTM)
    looks = []
    for cell in (InputGatedLSTM, replace(InputGatedLSTM)):  # the copy has no fast path
        ys, _, tape = xrnn.unroll(cell, weights, xs, state, lengths, reverse)
        dgates, dstates = gate_gradients(tape, np.cos(xs[..., :1]) + 0 * ys)
        looks.append((xrnn.analysis.gates(tape), dgates, dstates))
    for fast, own in zip(*looks, strict=True):
        assert fast.keys() == own.keys()
        for name in fast:
            np.testing.assert_array_equal(fast[name], own[name])


def test_a_layer_names_them_as_its_weights(device: str) -> None:
    backend = get(device)
    layer = xrnn.GRU(I, H, num_layers=2, bidirectional=True, batch_first=True, device=device)
    xs = backend.from_host(np.ones((B, T, I), "float32"))
    ys, _, tape = layer.forward(xs, lengths=[2, 6, 0])
    suffixes = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    dgates, dstates = gate_gradients(tape, ys)
    for found in (xrnn.analysis.gates(tape), dgates):
        assert set(found) == {f"{g}{s}" for g in "rzn" for s in suffixes}
        for a in found.values():
            a = backend.to_host(a)
            assert a.shape == (B, T, H)
            assert a[0, :2].any()
            assert not a[0, 2:].any()
            assert not a[2].any()
    assert set(dstates) == {f"h{s}" for s in suffixes}


def test_no_steps() -> None:
    weights, xs, state = given(LSTM)
    *_, tape = xrnn.unroll(LSTM, weights, xs[:0], state)
    dgates, dstates = gate_gradients(tape)
    for found in (xrnn.analysis.gates(tape), dgates, dstates):
        assert {a.shape for a in found.values()} == {(0, B, H)}
