"""Streams learned from online: they start anew, do not touch each other, and can be copied."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xrnn import cells
from xrnn.backends import get, host
from xrnn.learn.online import Online

B, I, H = 3, 3, 4

every_cell = pytest.mark.parametrize("cell", cells.BY_NAME.values(), ids=lambda cell: cell.name)
every_method = pytest.mark.parametrize("method", ["exact", "snap1"])


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def drawn(cell: Any) -> dict[str, Any]:
    shapes = cell.shapes(I, H).items()
    return {name: 0.7 * noise(*shape, seed=k) for k, (name, shape) in enumerate(shapes)}


def gradients(online: Any, streams: list[int], put: Any = lambda a: a) -> Any:
    """The gradients of a loss that only these streams take part in, as one array."""
    dh = np.zeros((online.B, H))
    dh[streams] = noise(B, H, seed=9)[streams] if online.B == B else noise(B, H, seed=9)[:1]
    return online.gradient(put(dh))


class TestStartingAnew:
    @every_cell
    @every_method
    def test_as_streams_of_their_own(self, cell: Any, method: Any, device: str) -> None:
        """Each stream is one of a learner alone, made anew where the stream was reset."""
        backend, weights = get(device), drawn(cell)
        put, to_host = backend.from_host, backend.to_host
        online = Online(cell, {k: put(w) for k, w in weights.items()}, B, method=method)
        start = tuple(noise(B, H, seed=20 + k) for k, _ in enumerate(cell.states))
        xs = noise(9, B, I, seed=8)
        for t, x in enumerate(xs):
            if t == 5:
                online.reset(1, tuple(map(put, start)))
            h = online.step(put(x))
        for b in range(B):
            first = tuple(s[b : b + 1] for s in start) if b == 1 else None
            alone = Online(cell, weights, 1, first, method=method)
            for x in xs[5:] if b == 1 else xs:
                expected = alone.step(x[b : b + 1])
            np.testing.assert_allclose(to_host(h)[b], expected[0], rtol=1e-12)
            dh = np.zeros((B, H))
            dh[b] = noise(H, seed=9)
            for name, d in online.gradient(put(dh)).items():
                right = alone.gradient(dh[b : b + 1])[name]
                np.testing.assert_allclose(to_host(d), right, rtol=1e-9, atol=1e-12)

    @every_cell
    @every_method
    def test_all_at_once(self, cell: Any, method: Any) -> None:
        weights = drawn(cell)
        online = Online(cell, weights, B, method=method)
        fresh = Online(cell, weights, B, method=method)
        online.step(noise(B, I, seed=1))
        online.reset()
        assert not any(part.any() for part in online.state)
        assert not any(d.any() for d in online.gradient(np.ones((B, H))).values())
        for x in noise(4, B, I, seed=2):
            np.testing.assert_array_equal(online.step(x), fresh.step(x))
        for name, d in online.gradient(np.ones((B, H))).items():
            np.testing.assert_array_equal(d, fresh.gradient(np.ones((B, H)))[name])

    @pytest.mark.parametrize(
        ("rows", "streams"),
        [
            (None, {0, 1, 2}),
            (0, {0}),
            (np.int8(2), {2}),
            (np.array(1), {1}),
            ([0, 2], {0, 2}),
            ((1, 1), {1}),
            (range(1, 3), {1, 2}),
            (np.array([2, 0], "uint8"), {0, 2}),
            ([], set()),
            ([True, False, True], {0, 2}),
            (np.array([False, False, False]), set()),
        ],
        ids=str,
    )
    def test_which(self, rows: Any, streams: set[int]) -> None:
        online = Online(cells.GRU, drawn(cells.GRU), B)
        before = online.step(noise(B, I))
        online.reset(rows)
        assert {b for b in range(B) if not online.state.h[b].any()} == streams
        for b in set(range(B)) - streams:
            np.testing.assert_array_equal(online.state.h[b], before[b])

    def test_rows_of_the_library_of_the_weights(self, device: str) -> None:
        put = get(device).from_host
        online = Online(cells.GRU, {k: put(w) for k, w in drawn(cells.GRU).items()}, B)
        for rows in (put(np.array([0, 2])), put(np.array([True, False, True]))):
            online.step(put(noise(B, I)))
            online.reset(rows)
            h = get(device).to_host(online.state.h)
            assert [bool(row.any()) for row in h] == [False, True, False]

    @pytest.mark.parametrize(
        "rows",
        [
            3,
            -1,
            [0, 3],
            1.0,
            [0.5],
            "1",
            [[0, 1]],
            [[0], [1, 2]],
            [True, False],
            np.zeros((3, 1), bool),
            {0},
        ],
        ids=repr,
    )
    def test_what_are_no_streams(self, rows: Any) -> None:
        online = Online(cells.GRU, drawn(cells.GRU), B)
        before = online.step(noise(B, I))
        with pytest.raises(ValueError, match=r"(?s)gru: rows are .*; they must be numbers of st"):
            online.reset(rows)
        np.testing.assert_array_equal(online.state.h, before)

    def test_a_state_that_does_not_fit(self) -> None:
        online = Online(cells.LSTM, drawn(cells.LSTM), B)
        before = online.step(noise(B, I))
        with pytest.raises(
            ValueError, match=r"lstm: state c has shape \(1, 4\); it must be \(B, H"
        ):
            online.reset(0, (None, np.zeros((1, H))))
        with pytest.raises(TypeError, match="lstm: state h is float32"):
            online.reset(0, (np.zeros((B, H), "float32"), None))
        np.testing.assert_array_equal(online.state.h, before)


class TestWhoseStateItIs:
    def test_it_cannot_be_assigned(self) -> None:
        """The sensitivities would be those of another state: the gradients would be wrong."""
        online = Online(cells.GRU, drawn(cells.GRU), B)
        before = online.step(noise(B, I))
        with pytest.raises(
            AttributeError, match=r"gru: state cannot be assigned.*reset\(rows, sta"
        ):
            online.state = cells.GRU.state([np.zeros((B, H))])
        np.testing.assert_array_equal(online.state.h, before)

    @every_cell
    def test_nothing_is_shared(self, cell: Any) -> None:
        given = tuple(noise(B, H, seed=k) for k, _ in enumerate(cell.states))
        weights, xs = drawn(cell), noise(3, B, I, seed=5)
        online = Online(cell, weights, B, tuple(s.copy() for s in given))
        other = Online(cell, weights, B, given)
        for x in xs:
            for part in (*given, *other.state):
                part *= 0  # what was given, and what is returned
            other.reset([], given)
            h, mine = other.step(x.copy()), online.step(x)
            np.testing.assert_array_equal(h, mine)
            gradient = other.gradient(np.ones((B, H)))
            for name, d in online.gradient(np.ones((B, H))).items():
                np.testing.assert_array_equal(gradient[name], d)
                gradient[name] *= 0
            h *= 0


class TestNotANumber:
    @every_cell
    @every_method
    def test_it_stays_in_its_stream(self, cell: Any, method: Any, device: str) -> None:
        backend, weights = get(device), drawn(cell)
        put, to_host = backend.from_host, backend.to_host
        online = Online(cell, {k: put(w) for k, w in weights.items()}, B, method=method)
        clean = Online(cell, weights, B, method=method)
        bad = noise(B, I)
        bad[1] = np.nan
        dh = noise(B, H, seed=9)
        dh[1] = 0
        for x in (bad, noise(B, I, seed=3)):
            h = to_host(online.step(put(x)))
            expected = clean.step(np.where(np.isnan(x), 0.0, x))
            np.testing.assert_allclose(h[[0, 2]], expected[[0, 2]], rtol=1e-12)
            for name, d in online.gradient(put(dh)).items():
                right = clean.gradient(dh)[name]
                np.testing.assert_allclose(to_host(d), right, rtol=1e-9, atol=1e-12)
        assert np.isnan(to_host(online.gradient(put(np.ones((B, H))))["W"])).any()
        online.reset(1)
        clean.reset(1)
        for x in noise(2, B, I, seed=4):
            online.step(put(x))
            clean.step(x)
        for name, d in online.gradient(put(np.ones((B, H)))).items():
            right = clean.gradient(np.ones((B, H)))[name]
            np.testing.assert_allclose(to_host(d), right, rtol=1e-9, atol=1e-12)


class TestHalfPrecision:
    """Steps, sensitivities and sums are those of float32."""

    KINDS = (("float16", "cpu"), ("bfloat16", "cpu"), ("float16", "torch"), ("bfloat16", "torch"))

    def weights(self, cell: Any, kind: Any, values: Any) -> tuple[dict[str, Any], Any]:
        """Weights of a dtype and library, and a function that makes arrays like them."""
        dtype, device = kind
        pytest.importorskip(device.replace("cpu", "ml_dtypes"))

        def put(a: Any) -> Any:
            return get(device).from_host(np.asarray(a).astype(host.named_dtype(dtype)))

        return {k: put(np.full(s, values(k))) for k, s in cell.shapes(1, 1).items()}, put

    @every_method
    @pytest.mark.parametrize("kind", KINDS, ids=str)
    def test_over_many_streams(self, kind: Any, method: Any) -> None:
        weights, put = self.weights(cells.Elman, kind, lambda name: 0)
        n = 20000
        online = Online(cells.Elman, weights, n, method=method)
        h = online.step(put(np.zeros((n, 1))))
        gradient = online.gradient(put(np.full((n, 1), 0.1)))["b"]
        assert h.dtype == gradient.dtype == weights["b"].dtype
        assert float(gradient[0]) == pytest.approx(2000, rel=4e-3)

    @every_method
    @pytest.mark.parametrize("kind", KINDS, ids=str)
    def test_over_many_steps(self, kind: Any, method: Any) -> None:
        """h_t = ReLU(h_{t-1} + b) with b = 0 and h_0 = 1: ∂h_t/∂b = t."""
        weights, put = self.weights(cells.ElmanReLU, kind, lambda name: float(name == "U"))
        online = Online(cells.ElmanReLU, weights, 1, (put(np.ones((1, 1))),), method=method)
        for _ in range(3000):
            online.step(put(np.zeros((1, 1))))
        assert float(online.gradient(put(np.ones((1, 1))))["b"][0]) == pytest.approx(3000, rel=4e-3)

    @every_cell
    @every_method
    def test_near_float32(self, cell: Any, method: Any) -> None:
        weights = {k: w.astype("float16") for k, w in drawn(cell).items()}
        half = Online(cell, weights, B, method=method)
        wide = {k: w.astype("float32") for k, w in weights.items()}
        single = Online(cell, wide, B, method=method)
        assert half.nbytes == single.nbytes
        for x in noise(5, B, I, seed=3).astype("float16"):
            h = half.step(x)
            assert h.dtype == half.state[0].dtype == np.float16
            np.testing.assert_allclose(h, single.step(x.astype("float32")), atol=3e-3)
        found = half.gradient(np.ones((B, H), "float16"))
        for name, d in single.gradient(np.ones((B, H), "float32")).items():
            assert found[name].dtype == np.float16
            np.testing.assert_allclose(found[name], d, rtol=2e-2, atol=2e-2)


@every_cell
@every_method
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_that_vanish_are_no_floating_point_error(
    cell: Any, method: Any, dtype: str
) -> None:
    weights = {k: (4 * w).astype(dtype) for k, w in drawn(cell).items()}
    dh = np.full((B, H), 1e-4, dtype)
    if "U" in weights:
        weights["U"] = weights["U"] / 1000
    online = Online(cell, weights, B, method=method)
    xs = (30 * noise(60, B, I, seed=3)).astype(dtype)
    with np.errstate(all="raise"):
        for x in xs:
            online.step(x)
            found = online.gradient(dh)
        online.reset(0)
    assert all(np.isfinite(d).all() for d in found.values())


FORMS: dict[str, Any] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda online: pickle.loads(pickle.dumps(online)),
}


def learn(weights: dict[str, Any], gradient: dict[str, Any]) -> None:
    for name, d in gradient.items():
        weights[name] = weights[name] - 0.01 * d


class TestCopies:
    @every_cell
    @every_method
    @pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
    def test_go_on_bit_by_bit(self, form: Any, cell: Any, method: Any, device: str) -> None:
        put, to_host = get(device).from_host, get(device).to_host
        weights = {k: put(w) for k, w in drawn(cell).items()}
        online = Online(cell, weights, B, method=method)
        dh = put(noise(B, H, seed=9))
        for x in noise(3, B, I, seed=3):
            online.step(put(x))
            learn(weights, online.gradient(dh))
        twin = form(online)
        assert twin.weights is not weights
        for x in noise(3, B, I, seed=4):
            np.testing.assert_array_equal(to_host(twin.step(put(x))), to_host(online.step(put(x))))
            found, expected = twin.gradient(dh), online.gradient(dh)
            for name, d in expected.items():
                np.testing.assert_array_equal(to_host(found[name]), to_host(d))
            learn(weights, expected)
            learn(twin.weights, found)

    def test_of_the_learner_alone(self) -> None:
        """Another learner on the same weights, as if made by the same steps."""
        weights = drawn(cells.LSTM)
        online = Online(cells.LSTM, weights, B)
        online.step(noise(B, I))
        twin, expected = copy.copy(online), copy.deepcopy(online)
        for x in noise(3, B, I, seed=4):
            online.step(x)
        assert twin.weights is weights
        for x in noise(3, B, I, seed=5):
            np.testing.assert_array_equal(twin.step(x), expected.step(x))
        for name, d in expected.gradient(np.ones((B, H))).items():
            np.testing.assert_array_equal(twin.gradient(np.ones((B, H)))[name], d)

    def test_in_another_process(self, tmp_path: Path) -> None:
        online = Online(cells.GRU, drawn(cells.GRU), B)
        for x in noise(3, B, I, seed=3):
            online.step(x)
        (tmp_path / "online").write_bytes(pickle.dumps(online))
        program = f"""
import pickle, sys
from pathlib import Path
import numpy as np
online = pickle.loads((Path(sys.argv[1]) / "online").read_bytes())
h = online.step(np.ones(({B}, {I})))
found = h, online.gradient(np.ones(({B}, {H})))
(Path(sys.argv[1]) / "found").write_bytes(pickle.dumps(found))
"""
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
        h, found = pickle.loads((tmp_path / "found").read_bytes())
        np.testing.assert_array_equal(h, online.step(np.ones((B, I))))
        for name, d in online.gradient(np.ones((B, H))).items():
            np.testing.assert_array_equal(found[name], d)


@pytest.mark.parametrize("form", [np.asfortranarray, lambda a: a.astype(">f8"), np.array])
def test_changes_in_place_are_seen_in_every_layout(form: Any) -> None:
    weights = {k: form(w) for k, w in drawn(cells.GRU).items()}
    online = Online(cells.GRU, weights, B)
    online.step(noise(B, I))
    for w in weights.values():
        w *= 0.5
    online.reset()
    expected = Online(cells.GRU, {k: np.array(w, float) for k, w in weights.items()}, B)
    np.testing.assert_array_equal(online.step(noise(B, I)), expected.step(noise(B, I)))
