"""The fused loops of `backends/cuda`, launch by launch, on the host shim: the laws hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from rows import ROWS, Row

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")

from shim import build
from shim.runtime import ShimRuntime
from xrnn.laws import LAWS
from xrnn.trial import OPTIONS, Trial

import xrnn
from xrnn import trust
from xrnn.backends import Backend, Sequences, dtype_name, get, register, unregister
from xrnn.backends.cpu import BACKEND, named_dtype
from xrnn.backends.cuda.linear import pieces
from xrnn.backends.cuda.tables import FUSED, sequences
from xrnn.cells import GRU, LSTM, Cell, Elman, InputGatedLSTM, MinGRU
from xrnn.certify import bound

pytestmark = pytest.mark.skipif(bool(build.ABSENT), reason=build.ABSENT)

DTYPES = ("float64", "float32", "float16", "bfloat16")

#: those that clusters can run
WIDE = ("rnn", "rnn-relu", "lstm", "gru")

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cell.name)


class Counting(ShimRuntime):
    """Counts what is launched; says that it is a Hopper."""

    launched = 0
    names: ClassVar[set[str]] = set()

    def capability(self) -> int:
        return 90

    def resident(self, source: str, instance: str, block: int, shared: int, size: int) -> int:
        return {1: 132, 2: 66, 4: 33, 8: 15, 16: 7}[size]

    def launch(self, *args: Any, **options: Any) -> None:
        self.launched += 1
        self.names.add(str(args[1]).partition("<")[0])
        super().launch(*args, **options)


RUNTIME = Counting()
SHIMMED = Backend(
    "shim",
    np,
    BACKEND.to_host,
    sequences=sequences(RUNTIME, frozenset(map(named_dtype, DTYPES))),
    computes=lambda dtype: dtype_name(dtype) != "bfloat16",
)


@pytest.fixture
def shimmed() -> Iterator[None]:
    """NumPy arrays are served by the kernels; what they must prove is the tests' business."""
    register("numpy", SHIMMED)
    get.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrnn.trust.proved", lambda *given: True)
        yield
    unregister("numpy")
    get.cache_clear()


def test_every_cell_has_its_kernels() -> None:
    assert set(FUSED) == {row.cell for row in ROWS}


@every_row
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", [0, 1, 7])
def test_every_entry_proves_itself(row: Row, dtype: str, schedule: int) -> None:
    RUNTIME.schedule = schedule
    try:
        for sizes in ((5, 3, 4, 16), (3, 2, 3, 7), (130, 3, 2, 4)):
            (entry,) = SHIMMED.entries(row.cell, sizes, named_dtype(dtype))
            trial = trust.trial_of(entry, sizes)
            error = trust.difference(SHIMMED, row.cell, named_dtype(dtype), entry, trial)
            assert error <= {"float64": 1e-14, "float32": 2e-6}.get(dtype, trust.TOLERANCE[dtype])
    finally:
        RUNTIME.schedule = 0


@every_row
def test_rounded_products_are_near_and_not_the_same(row: Row) -> None:
    tf32, ieee = SHIMMED.entries(row.cell, (5, 3, 4, 16), np.dtype("float32"), "tf32")
    assert isinstance(tf32, Sequences)
    assert isinstance(ieee, Sequences)
    assert (tf32.precision, ieee.precision) == ("tf32", "ieee")
    error = trust.difference(SHIMMED, row.cell, np.dtype("float32"), tf32)
    assert 1e-5 < error <= (tf32.tolerance or 0)


@every_row
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.usefixtures("shimmed")
def test_law(law: str, row: Row, dtype: str) -> None:
    before = RUNTIME.launched
    for option in OPTIONS:
        trial = Trial(row.cell, option, "numpy", dtype)
        assert trial.backend is SHIMMED
        error = LAWS[law](trial)
        assert error is None or error <= bound(row.cell, law, dtype), option.name
    assert RUNTIME.launched > before


@every_row
@pytest.mark.usefixtures("shimmed")
def test_a_tape_serves_twice(row: Row) -> None:
    trial = Trial(row.cell, OPTIONS[7], "numpy", "float64")
    inputs = trial.inputs
    tape = trial.layer.forward(inputs.xs, inputs.state, inputs.lengths)[2]
    first = trial.layer.backward(tape, inputs.dys, inputs.dlast)
    again = trial.layer.backward(tape, inputs.dys, inputs.dlast)
    other = trial.layer.backward(tape)
    for name, d in first[2].items():
        np.testing.assert_array_equal(d, again[2][name])
        assert (d != other[2][name]).any()


def bytes_kept(cell: xrnn.cells.Cell, dtype: str) -> float:
    """What a tape holds beyond inputs and weights, for each step and unit."""
    T, B, H = 64, 4, 32
    kind = named_dtype(dtype)
    (entry,) = SHIMMED.entries(cell, (T, B, 3, H), kind)
    assert isinstance(entry, Sequences)
    weights = {k: np.zeros(s, kind) for k, s in cell.shapes(3, H).items()}
    xs, state = np.zeros((T, B, 3), kind), tuple(np.zeros((B, H), kind) for _ in cell.states)
    how = {"lengths": None, "reverse": False, "keep": True, "xp": np}
    run = entry.forward(weights, xs, state, **how)[2]
    held = [run.gates, run.hs, run.cs, *run.more.values()]
    total: int = sum(a.nbytes for a in held if a is not None)
    return total / (T * B * H)


@pytest.mark.parametrize(
    ("name", "wide", "half"),
    [("lstm", 24, 14), ("gru", 20, 10), ("rnn", 4, 2), ("input-gated", 20, 12)],
)
def test_little_is_kept(name: str, wide: int, half: int) -> None:
    cell = xrnn.cells.named(name)
    assert bytes_kept(cell, "float32") <= wide * 1.02
    assert bytes_kept(cell, "float16") <= half * 1.02


@pytest.mark.usefixtures("shimmed")
def test_inputs_may_lie_anywhere() -> None:
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=(*s, 2))[..., 0] for k, s in LSTM.shapes(3, 8).items()}
    xs = np.asfortranarray(rng.normal(size=(4, 2, 3)))
    dys = rng.normal(size=4 * 2 * 8 + 1)[1:].reshape(4, 2, 8)
    ys, _, tape = xrnn.unroll(LSTM, weights, xs)
    found = [ys, *xrnn.unroll_backward(tape, dys)[2].values()]
    dense = {k: np.ascontiguousarray(w) for k, w in weights.items()}
    ys, _, tape = xrnn.unroll(LSTM, dense, np.ascontiguousarray(xs))
    expected = [ys, *xrnn.unroll_backward(tape, dys.copy())[2].values()]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("shimmed")
@pytest.mark.parametrize("cell", [LSTM, GRU, Elman, MinGRU, InputGatedLSTM], ids=lambda c: c.name)
def test_states_may_lie_anywhere(cell: Cell) -> None:
    rng = np.random.default_rng(0)
    weights = {k: 0.3 * rng.normal(size=s) for k, s in cell.shapes(3, 8).items()}
    xs, dys = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 8))
    states = [rng.normal(size=(5, 8)) for _ in range(4)]
    results = []
    for order in (np.ascontiguousarray, np.asfortranarray):
        first, dlast = ([order(s) for s in part] for part in (states[:2], states[2:]))
        n = len(cell.states)
        ys, last, tape = xrnn.unroll(cell, weights, xs, tuple(first[:n]))
        dxs, dfirst, dweights = xrnn.unroll_backward(tape, dys, tuple(dlast[:n]))
        results.append([ys, *last, dxs, *dfirst, *dweights.values()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("shimmed")
def test_a_layer_survives_a_device_that_runs_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = xrnn.LSTM(3, 8)
    xs = np.ones((4, 2, 3), "float32")
    before, _ = layer(xs)
    weights = {k: w.copy() for k, w in layer.weights.items()}
    calls = []

    def scarce(self: Any, *given: Any, **how: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no memory for a third product")
        ShimRuntime.gemm(self, *given, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Counting, "gemm", scarce)
        with pytest.raises(MemoryError, match="third product"):
            layer.forward(xs)
    np.testing.assert_array_equal(layer(xs)[0], before)
    for name, w in weights.items():
        np.testing.assert_array_equal(layer.weights[name], w)


@pytest.mark.usefixtures("shimmed")
def test_bfloat16_layers() -> None:
    rng, layer = np.random.default_rng(0), xrnn.GRU(3, 8, num_layers=2, dtype="bfloat16")
    wide = xrnn.GRU(3, 8, num_layers=2)
    wide.weights = {k: w.astype("float32") for k, w in layer.weights.items()}
    xs = rng.normal(size=(6, 2, 3)).astype("bfloat16")
    ys, _, tape = layer.forward(xs, lengths=[6, 2])
    assert ys.dtype == named_dtype("bfloat16")
    expected, _, wide_tape = wide.forward(xs.astype("float32"), lengths=[6, 2])
    np.testing.assert_allclose(ys.astype("float32"), expected, atol=0.01)
    dxs, _, dweights = layer.backward(tape, ys)
    wide_dxs, _, wide_dweights = wide.backward(wide_tape, expected)
    assert abs(dxs.astype("float32") - wide_dxs).max() < 0.05 * abs(wide_dxs).max()
    assert all(d.dtype == ys.dtype for d in dweights.values())
    assert set(dweights) == set(wide_dweights)


@pytest.mark.usefixtures("shimmed")
def test_paths_are_told() -> None:
    def said(cell: xrnn.cells.Cell, *sizes: int) -> str:
        T, B, I, H = sizes
        return trust.path(SHIMMED, cell, (T, B, I, H), np.dtype("float32"), "ieee")

    assert said(Elman, 100, 4, 3, 8) == "one fused kernel a step"
    assert said(InputGatedLSTM, 100, 64, 3, 1024) == "one kernel for all steps"
    assert said(MinGRU, 1000, 1, 3, 64) == "15 pieces of time in parallel"
    assert pieces(1000, 1, 64) == 15
    assert pieces(10**6, 1, 64) == 528


@pytest.mark.usefixtures("shimmed")
class TestClusters:
    """The same with whole sequences in one launch."""

    @pytest.fixture(autouse=True)
    def _opted_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XRNN_CUDA_WIDE", "1")

    @pytest.mark.parametrize("name", WIDE)
    @pytest.mark.parametrize("law", LAWS)
    def test_law(self, law: str, name: str) -> None:
        cell = xrnn.cells.named(name)
        RUNTIME.names.clear()
        for option in OPTIONS:
            error = LAWS[law](Trial(cell, option, "numpy", "float32"))
            assert error is None or error <= bound(cell, law, "float32"), option.name
        assert any("cluster" in name for name in RUNTIME.names)

    @pytest.mark.parametrize("name", WIDE)
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half(self, name: str, dtype: str) -> None:
        cell, sizes = xrnn.cells.named(name), (3, 3, 4, 20)
        entry = SHIMMED.entries(cell, sizes, named_dtype(dtype))[0]
        error = trust.difference(SHIMMED, cell, named_dtype(dtype), entry, sizes)
        assert error <= trust.TOLERANCE[dtype]

    @pytest.mark.parametrize("name", WIDE)
    def test_rounded_products(self, name: str) -> None:
        cell, sizes = xrnn.cells.named(name), (3, 3, 4, 20)
        entries = SHIMMED.entries(cell, sizes, np.dtype("float32"), "tf32")
        loops = [e for e in entries if isinstance(e, Sequences)]
        assert [e.precision for e in loops] == ["tf32", "tf32", "ieee", "ieee"]
        for entry, least in ((loops[0], 1e-5), (loops[2], 0.0)):
            error = trust.difference(SHIMMED, cell, np.dtype("float32"), entry, sizes)
            assert least <= error <= (entry.tolerance or 2e-6)

    def test_both_directions_are_one_launch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer = xrnn.LSTM(3, 8, bidirectional=True)
        xs = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
        before = RUNTIME.launched
        ys, state, tape = layer.forward(xs, lengths=[4, 2])
        assert RUNTIME.launched == before + 1
        dys = np.cos(ys)
        found = [ys, *state, *layer.backward(tape, dys)[2].values()]
        monkeypatch.delenv("XRNN_CUDA_WIDE")
        ys, state, tape = layer.forward(xs, lengths=[4, 2])
        expected = [ys, *state, *layer.backward(tape, dys)[2].values()]
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)

    def test_it_is_told(self) -> None:
        path = xrnn.LSTM(3, 512).path((100, 16, 3))["_l0"]
        assert path.startswith("one launch: clusters of")
        assert xrnn.LSTM(3, 1500, init="uniform").path((100, 16, 3)) == {
            "_l0": "one fused kernel a step"
        }
