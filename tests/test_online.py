"""Gradients carried forward in time equal those carried back."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest
from rows import MADE, ROWS, Row

import xrnn
from xrnn import cells
from xrnn.backends import get
from xrnn.cells import GRU, LSTM, Cell, Elman, InputGatedLSTM, MinGRU
from xrnn.learn.online import Online

T, B, I, H = 12, 2, 3, 4

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)


def given(cell: Cell, scale: float = 0.7) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "weights": {k: scale * rng.normal(size=s) for k, s in cell.shapes(I, H).items()},
        "xs": rng.normal(size=(T, B, I)),
        "state": tuple(rng.normal(size=(B, H)) for _ in cell.states),
        "dys": rng.normal(size=(T, B, H)),
    }


def back(cell: Cell, weights: Any, xs: Any, state: Any, dys: Any) -> tuple[Any, dict[str, Any]]:
    ys, _, tape = xrnn.unroll(cell, weights, xs, state)
    return ys, xrnn.unroll_backward(tape, dys)[2]


@every_row
def test_every_step_and_the_sum_equal_backpropagation(row: Row, device: str) -> None:
    backend, g = get(device), given(row.cell)
    put, host = backend.from_host, backend.to_host
    weights = {k: put(w) for k, w in g["weights"].items()}
    online = Online(row.cell, weights, B, tuple(map(put, g["state"])))
    total = {k: 0 * w for k, w in g["weights"].items()}
    for t in range(T):
        h = host(online.step(put(g["xs"][t])))
        now = {k: host(d) for k, d in online.gradient(put(g["dys"][t])).items()}
        total = {k: total[k] + now[k] for k in total}
        alone = np.zeros((t + 1, B, H))
        alone[t] = g["dys"][t]
        ys, expected = back(row.cell, g["weights"], g["xs"][: t + 1], g["state"], alone)
        np.testing.assert_allclose(h, ys[t], rtol=1e-13, atol=1e-15)
        for k, d in now.items():
            np.testing.assert_allclose(d, expected[k], rtol=1e-10, atol=1e-12, err_msg=k)
    _, expected = back(row.cell, g["weights"], g["xs"], g["state"], g["dys"])
    for k, d in total.items():
        np.testing.assert_allclose(d, expected[k], rtol=1e-10, atol=1e-12, err_msg=k)


#: the cosine between SnAp-1 and the exact gradient on the random weights of `given`, where
#: it is known
COSINES = {
    "rnn": 0.66,
    "rnn-relu": 0.82,
    "lstm": 0.91,
    "gru": 0.98,
    "gru-before": 0.91,
    "input-gated": 1.00,
    "peephole": 0.97,
    "mingru": 1.00,
}


@every_row
def test_snap1_points_the_same_way(row: Row) -> None:
    g = given(row.cell)
    online = Online(row.cell, g["weights"], B, g["state"], method="snap1")
    exact = Online(row.cell, g["weights"], B, g["state"])
    found = expected = np.zeros(1)
    for x, dh in zip(g["xs"], g["dys"], strict=True):
        online.step(x)
        exact.step(x)
        found = found + flat(online.gradient(dh))
        expected = expected + flat(exact.gradient(dh))
    cosine = (found @ expected) / np.linalg.norm(found) / np.linalg.norm(expected)
    assert cosine > 0.5
    assert cosine == pytest.approx(COSINES.get(row.cell.name, cosine), abs=0.01)
    assert online.nbytes * (1 if row.cell.linear else H) == exact.nbytes


def flat(gradients: dict[str, Any]) -> Any:
    return np.concatenate([d.ravel() for d in gradients.values()])


@every_row
def test_snap1_is_exact_where_units_do_not_touch(row: Row) -> None:
    g = given(row.cell)
    if "U" in g["weights"]:
        apart = np.tile(np.eye(H), (len(row.cell.gates), 1))
        g["weights"]["U"] = g["weights"]["U"] * apart
    online = Online(row.cell, g["weights"], B, g["state"], method="snap1")
    exact = Online(row.cell, g["weights"], B, g["state"])
    for x, dh in zip(g["xs"], g["dys"], strict=True):
        online.step(x)
        exact.step(x)
        near, right = online.gradient(dh), exact.gradient(dh)
        for k in set(near) - {"U"}:
            np.testing.assert_allclose(near[k], right[k], rtol=1e-11, atol=1e-13)
        if "U" in near:
            np.testing.assert_allclose(near["U"] * apart, right["U"] * apart, atol=1e-13)


def test_biases_may_be_left_out() -> None:
    g = given(GRU)
    del g["weights"]["b"], g["weights"]["v"]
    online, total = Online(GRU, g["weights"], B, g["state"]), 0.0
    for x, dh in zip(g["xs"], g["dys"], strict=True):
        online.step(x)
        gradient = online.gradient(dh)
        assert list(gradient) == ["W", "U"]
        total = total + gradient["U"]
    np.testing.assert_allclose(total, back(GRU, **g)[1]["U"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", [InputGatedLSTM, MinGRU, LSTM], ids=lambda c: c.name)
def test_memory_does_not_grow(cell: Cell) -> None:
    g = given(cell)
    online = Online(cell, g["weights"], B)

    def run(steps: int) -> int:
        for t in range(steps):
            online.step(g["xs"][t % T])
            online.gradient(g["dys"][t % T])
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = run(50)
        assert run(500) - before < 2000
    finally:
        tracemalloc.stop()


def test_parameters_are_all_that_a_linear_cell_needs() -> None:
    cell, n = InputGatedLSTM, 100
    weights = {k: np.zeros(s) for k, s in cell.shapes(n, n).items()}
    online = Online(cell, weights, 1)
    assert online.nbytes == 2 * 8 * sum(w.size for w in weights.values())  # for h and for c


def test_it_learns_while_the_weights_change_in_place() -> None:
    rng = np.random.default_rng(0)
    weights = {k: 0.5 * rng.normal(size=s) for k, s in InputGatedLSTM.shapes(2, 4).items()}
    online, optimizer = Online(InputGatedLSTM, weights, 16), xrnn.optim.Adam(0.01)
    last, errors = np.zeros((16, 1)), []
    for _ in range(3000):
        mark = (rng.uniform(size=(16, 1)) < 0.1).astype(float)
        value = rng.uniform(-0.5, 0.5, size=(16, 1))
        last = np.where(mark > 0, value, last)  # to be told, until the next mark
        gap = online.step(np.concatenate((value, mark), axis=1)) - last
        errors.append(float((gap**2).mean()))
        optimizer.update(weights, online.gradient(2 * gap / gap.size))
    assert np.mean(errors[-50:]) < 0.1 * np.mean(errors[:50])


class TestErrors:
    def test_too_large(self) -> None:
        weights = {k: np.zeros(s) for k, s in LSTM.shapes(64, 256).items()}
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r"would take 1,346,371,584 bytes .* limit = 1,07"):
                Online(LSTM, weights, 1)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()
        assert Online(LSTM, weights, 1, method="snap1").nbytes < 2**23

    def test_method(self) -> None:
        with pytest.raises(ValueError, match="method is 'rtrl'; it must be 'exact' or 'snap"):
            Online(Elman, given(Elman)["weights"], B, method="rtrl")  # type: ignore[arg-type]

    @pytest.mark.parametrize("limit", [None, "1e9", [1], True])
    def test_limit(self, limit: Any) -> None:
        with pytest.raises(TypeError, match=r"rnn: limit is .*; it must be a number of bytes"):
            Online(Elman, given(Elman)["weights"], B, limit=limit)

    def test_batch(self) -> None:
        with pytest.raises(ValueError, match="batch is 0; it must be an integer ≥ 1"):
            Online(Elman, given(Elman)["weights"], 0)

    @pytest.mark.parametrize("weights", [{}, {"W": np.zeros(3)}])
    def test_weights(self, weights: Any) -> None:
        with pytest.raises(ValueError, match=r"rnn: weight . is missing; it must have shape"):
            Online(Elman, weights, B)

    def test_shapes_and_dtypes(self) -> None:
        g = given(Elman)
        with pytest.raises(ValueError, match=r"state h has shape \(3, 4\); .* \(B, H\) = \(2, 4\)"):
            Online(Elman, g["weights"], B, (np.zeros((3, H)),))
        online = Online(Elman, g["weights"], B)
        with pytest.raises(ValueError, match=r"x has shape \(2, 4\); it must be \(B, I\) = \(2, 3"):
            online.step(np.zeros((B, 4)))
        with pytest.raises(TypeError, match="x is float32 and W is float64"):
            online.step(np.zeros((B, I), "float32"))
        with pytest.raises(ValueError, match=r"dh has shape \(4,\); it must be \(B, H\)"):
            online.gradient(np.zeros(H))


class TestWeightsThatChange:
    """After an error the next step tells it again, and computes nothing with the old ones."""

    def weights(self) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        return {k: rng.normal(size=s) for k, s in xrnn.cells.LSTM.shapes(3, 5).items()}

    @pytest.mark.parametrize(
        ("name", "wrong", "error", "match"),
        [
            ("U", np.zeros((5, 20)), ValueError, r"U has shape \(5, 20\); it must be"),
            ("b", np.zeros(20, "float32"), TypeError, "b is float32"),
            ("b", None, ValueError, "taken away since the start: b"),
        ],
        ids=["shape", "dtype", "name"],
    )
    def test_what_does_not_fit(self, name: str, wrong: Any, error: Any, match: str) -> None:
        weights = self.weights()
        online = xrnn.online.Online(xrnn.cells.LSTM, weights, 2)
        good = weights.pop(name)
        if wrong is not None:
            weights[name] = wrong
        for _ in range(2):
            with pytest.raises(error, match=match):
                online.step(np.ones((2, 3)))
        weights[name] = good
        online.step(np.ones((2, 3)))

    def test_of_other_sizes_or_dtype_as_a_whole(self) -> None:
        weights = self.weights()
        online = xrnn.online.Online(xrnn.cells.LSTM, weights, 2)
        weights.update({k: np.zeros(s) for k, s in xrnn.cells.LSTM.shapes(3, 6).items()})
        with pytest.raises(ValueError, match=r"W has shape \(24, 3\); it must be"):
            online.step(np.ones((2, 3)))
        weights.update({k: w.astype("float32") for k, w in self.weights().items()})
        with pytest.raises(TypeError, match="W is float32"):
            online.step(np.ones((2, 3)))

    def test_a_bias_given_later(self) -> None:
        weights = self.weights()
        b = weights.pop("b")
        online = xrnn.online.Online(xrnn.cells.LSTM, weights, 2)
        weights["b"] = b
        with pytest.raises(ValueError, match="lstm: weights added or taken away since"):
            online.step(np.ones((2, 3)))

    def test_integers(self) -> None:
        weights = {k: np.zeros(s, int) for k, s in xrnn.cells.LSTM.shapes(3, 5).items()}
        with pytest.raises(TypeError, match="lstm: W is int64; it must be real"):
            xrnn.online.Online(xrnn.cells.LSTM, weights, 2)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (cells.lstm_with(proj_size=2), "has a projection"),
        (cells.lstm_with(layer_norm=True), "normalises whole rows"),
        (cells.gru_with(layer_norm=True), "normalises whole rows"),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_no_diagonal_where_units_act_on_each_other(cell: Any, words: str) -> None:
    weights = {name: np.zeros(shape) for name, shape in cell.shapes(3, 4).items()}
    Online(cell, weights, batch=2)
    with pytest.raises(ValueError, match=f'{words}, .* give method="exact"'):
        Online(cell, weights, batch=2, method="snap1")


@pytest.mark.parametrize("cell", [cell for cell in MADE if cell.analytic], ids=lambda c: c.name)
def test_exact_gradients_of_cells_with_options(cell: Any) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) / 2 for name, shape in cell.shapes(3, 4).items()}
    xs, dhs = rng.normal(size=(6, 2, 3)), rng.normal(size=(6, 2, cell.widths(4)[0]))
    online, total = Online(cell, weights, batch=2), dict.fromkeys(weights, 0.0)
    for x, dh in zip(xs, dhs, strict=True):
        online.step(x)
        total = {name: total[name] + d for name, d in online.gradient(dh).items()}
    _, _, tape = xrnn.unroll(cell, weights, xs)
    for name, expected in xrnn.unroll_backward(tape, dhs)[2].items():
        np.testing.assert_allclose(total[name], expected, rtol=1e-9, atol=1e-11)
