"""Which backend serves an array, who runs a cell, and the proof that comes before trust."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import trust
from xrnn.backends import Backend, Sequences, Steps, backend_of, get, register, unregister
from xrnn.backends.cpu import BACKEND, to_host
from xrnn.cells import GRU, LSTM, Cell, lstm
from xrnn.recurrence.loop import Loop

FLOAT32 = frozenset({np.dtype("float32")})


class Counting:
    """LSTM's step, counting its calls; `factor` makes it wrong."""

    def __init__(self, factor: float = 1.0) -> None:
        self.calls, self.factor = 0, factor

    def step(self, ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        self.calls += 1
        return lstm.step(self.factor * ax, state, weights, xp=xp)

    def entry(self, source: str = "") -> Steps:
        return Steps(self.step, lstm.step_backward, FLOAT32, source)


@pytest.fixture
def numpy_with() -> Iterator[Any]:
    """Serve NumPy by a backend with the given tables."""

    def serve(**tables: Any) -> Backend:
        backend = Backend("test", np, to_host, describe=lambda: "a test", **tables)
        register("numpy", backend)
        return backend

    yield serve
    unregister("numpy")


def run(cell: Cell, dtype: str = "float32", T: int = 4, **options: Any) -> Any:
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=s).astype(dtype) for k, s in cell.shapes(2, 5).items()}
    ys, _, tape = xrnn.unroll(cell, weights, rng.normal(size=(T, 3, 2)).astype(dtype), **options)
    return ys, xrnn.unroll_backward(tape, ys)


def test_arrays_decide() -> None:
    assert backend_of(np.zeros(1)) is BACKEND
    assert backend_of(np.zeros(1).view(np.memmap)) is BACKEND
    strict = pytest.importorskip("array_api_strict")
    assert backend_of(strict.zeros(1)).xp is strict
    with pytest.raises(TypeError, match=r"weights is a builtins\.float; it must be an array"):
        backend_of(1.0, "weights")


def test_a_parameter_of_torch_is_a_torch_array() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weight = torch.nn.Parameter(torch.ones(3))
    assert backend_of(weight) is backend_of(torch.ones(3))
    np.testing.assert_array_equal(to_host(weight), np.ones(3))


def test_host_and_back(device: str) -> None:
    backend, array = get(device), np.arange(6.0).reshape(2, 3)[:, ::-1]
    there = backend.from_host(array)
    assert backend_of(there) is backend
    np.testing.assert_array_equal(backend.to_host(there), array)
    array[0, 0] = 99
    assert float(backend.to_host(there)[0, 0]) == 2, "a copy"


class TestSteps:
    def test_an_entry_serves_its_own_cell_and_dtype_only(self, numpy_with: Any) -> None:
        fast = Counting()
        numpy_with(steps={LSTM: fast.entry()})
        run(LSTM)
        assert fast.calls > 4, "the proof, and four steps"
        for cell, dtype, calls in [
            (LSTM, "float32", 4),
            (LSTM, "float64", 0),
            (replace(LSTM), "float32", 0),
            (GRU, "float32", 0),
        ]:
            fast.calls = 0
            run(cell, dtype)
            assert fast.calls == calls, (cell, dtype)

    def test_the_tape_remembers_who_wrote_it(self, numpy_with: Any) -> None:
        numpy_with(steps={LSTM: Counting().entry()})
        weights = {k: np.ones(s, "float32") for k, s in LSTM.shapes(2, 5).items()}
        ys, _, tape = xrnn.unroll(LSTM, weights, np.ones((4, 3, 2), "float32"))
        expected = xrnn.unroll_backward(tape, ys)[0]
        numpy_with()
        np.testing.assert_array_equal(xrnn.unroll_backward(tape, ys)[0], expected)

    def test_an_empty_input_asks_nobody(self, numpy_with: Any) -> None:
        fast = Counting()
        numpy_with(steps={LSTM: fast.entry()})
        run(LSTM, T=0)
        assert fast.calls == 0


class TestProof:
    def test_a_wrong_entry_is_named_once_and_not_used(self, numpy_with: Any) -> None:
        numpy_with(steps={LSTM: Counting(1.01).entry()})
        with pytest.warns(RuntimeWarning) as caught:
            found = run(LSTM)
        assert len(caught) == 1
        assert str(caught[0].message).startswith(
            "test: the fast lstm for float32 is not used here, the cell's own code serves: "
            "it differs by "
        )
        np.testing.assert_array_equal(found[0], run(LSTM)[0], "and no second warning")
        numpy_with()
        np.testing.assert_array_equal(found[0], run(LSTM)[0])

    def test_an_entry_that_fails_is_named_and_not_used(self, numpy_with: Any) -> None:
        def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
            raise OSError("no compiler")

        numpy_with(steps={LSTM: Steps(step, lstm.step_backward, FLOAT32)})
        with pytest.warns(RuntimeWarning, match="it failed with OSError: no compiler"):
            run(LSTM)

    def test_a_wrong_backward_is_found(self, numpy_with: Any) -> None:
        def step_backward(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
            dax, dprev, dweights = lstm.step_backward(dstate, saved, weights, xp=xp)
            return dax, (dprev[0], 1.001 * dprev[1]), dweights

        backend = numpy_with(steps={LSTM: Steps(lstm.step, step_backward, FLOAT32)})
        entry = backend.steps[LSTM]
        assert 1e-4 < trust.difference(backend, LSTM, np.dtype("float32"), entry) < 1

    def test_a_proof_is_remembered_for_its_source_only(
        self, numpy_with: Any, tmp_path: Path
    ) -> None:
        numpy_with(steps={LSTM: Counting().entry("first")})
        run(LSTM)
        (proof,) = json.loads((tmp_path / "cache" / "xrnn" / "proofs.json").read_text())
        assert "test | a test" in proof
        assert "steps | lstm | float32" in proof
        again = Counting()
        numpy_with(steps={LSTM: again.entry("first")})
        run(LSTM)
        assert again.calls == 4, "no second proof"
        changed = Counting(1.01)
        numpy_with(steps={LSTM: changed.entry("second")})
        with pytest.warns(RuntimeWarning, match="it differs"):
            run(LSTM)

    def test_a_cache_that_cannot_be_read_or_written_is_no_harm(
        self, numpy_with: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "cache").write_text("a file where the folder should be")
        fast = Counting()
        numpy_with(steps={LSTM: fast.entry()})
        run(LSTM)
        assert fast.calls > 4

    def test_a_nan_is_no_proof(self) -> None:
        ones = np.ones(3)
        assert trust._relative(ones, ones * np.nan) == float("inf")
        assert trust._relative(ones, np.ones(2)) == float("inf")


class TestSequences:
    def test_the_wide_door_is_asked_first(self, numpy_with: Any) -> None:
        calls: list[str] = []
        loop = Loop(LSTM)

        def forward(*given: Any, **options: Any) -> Any:
            calls.append("forward")
            return loop.forward(*given, **options)

        def backward(*given: Any, **options: Any) -> Any:
            calls.append("backward")
            return loop.backward(*given, **options)

        fast = Counting()
        numpy_with(
            sequences={LSTM: (Sequences(forward, backward, FLOAT32),)}, steps={LSTM: fast.entry()}
        )
        expected = run(replace(LSTM), lengths=[4, 0, 2], reverse=True)
        found = run(LSTM, lengths=[4, 0, 2], reverse=True)
        assert calls[-2:] == ["forward", "backward"]
        assert fast.calls == 0
        np.testing.assert_array_equal(expected[0], found[0])

    def test_a_wrong_sequence_leaves_the_narrow_door(self, numpy_with: Any) -> None:
        def forward(*given: Any, **options: Any) -> Any:
            raise RuntimeError("not built")

        fast = Counting()
        numpy_with(
            sequences={LSTM: (Sequences(forward, forward, FLOAT32),)}, steps={LSTM: fast.entry()}
        )
        with pytest.warns(RuntimeWarning, match="not built"):
            run(LSTM)
        assert fast.calls > 4


def test_cuda_without_a_gpu_says_so() -> None:
    try:
        get("cuda")
    except ImportError as error:
        assert "backend 'cuda': " in str(error)  # noqa: PT017
    else:
        pytest.skip("there is a GPU")
