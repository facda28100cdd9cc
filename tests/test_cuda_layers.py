"""Layers whose sequences the CUDA tables serve, on the emulated device, equal the cells."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from emulation import Emulator, emulated, fused_instances, instances_in_graphs
from optioned import FORMS
from sequences import AnyCell, Case
from shim.recorder import Recorder, record
from shim.runtime import LikeCupy, ShimRuntime

import xrnn
from xrnn.backends import Backend, register, unregister
from xrnn.backends.cpu import BACKEND
from xrnn.backends.cuda import graphs, tables
from xrnn.backends.cuda.cluster import OPT_IN
from xrnn.backends.cuda.linear import pieces
from xrnn.backends.host import named_dtype
from xrnn.cells import BY_NAME, LSTM, Elman, InputGatedLSTM, MinGRU
from xrnn.certify.laws import LAWS
from xrnn.certify.report import bound
from xrnn.certify.trial import OPTIONS, Trial
from xrnn.engine import select
from xrnn.engine.select import candidates
from xrnn.engine.trial import tolerance
from xrnn.engine.verify import NotNow, _compare
from xrnn.typing import Precision, dtype_name

#: dtype → the largest error, relative to the largest value
BOUNDS = {"float64": 1e-14, "float32": 2e-6, "float16": 2e-2, "bfloat16": 5e-2}

#: sizes (T, B, I, H) of layers that clusters run below
CLUSTER_SIZES = ((4, 3, 3, 4), (4, 1, 3, 4), (3, 3, 4, 12), (4, 2, 3, 8))

every_cell = pytest.mark.parametrize("cell", tables.FUSED, ids=lambda cell: cell.name)
every_stepwise = pytest.mark.parametrize(
    "cell", [c for c in tables.FUSED if c.linear is None], ids=lambda cell: cell.name
)
every_clustered = pytest.mark.parametrize("cell", tables.CLUSTERED, ids=lambda cell: cell.name)


def cluster_instances() -> set[tuple[str, str]]:
    recorder = Recorder(capability=90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OPT_IN, "1")
        record(recorder, CLUSTER_SIZES)
    return recorder.instances - fused_instances()


RUNTIME = Emulator(fused_instances(), cluster_instances(), instances_in_graphs())
RUNTIME.xp = LikeCupy()  # without guards, which the tests of the kernels have
DTYPES = frozenset(map(named_dtype, BOUNDS))
EMULATED_BACKEND = Backend(
    "emulated",
    np,
    BACKEND.to_host,
    kernels=tables.kernels(RUNTIME, DTYPES),
    variants=cache(partial(tables.kernels_of, RUNTIME, DTYPES)),
    computes=lambda dtype: dtype_name(dtype) != "bfloat16",
)


@pytest.fixture
def served() -> Iterator[None]:
    """NumPy arrays are served by the kernels; whether they are right is for the tests to say."""
    register("numpy", EMULATED_BACKEND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrnn.engine.select.verified", lambda *given: True)
        yield
    unregister("numpy")


def test_kernels_are_those_of_known_cells() -> None:
    assert set(tables.CLUSTERED) <= set(tables.FUSED) <= set(BY_NAME.values())


@pytest.mark.parametrize("sizes", [(5, 3, 4, 16), (3, 2, 3, 7), (130, 3, 2, 4)])
@pytest.mark.parametrize("cell", [c for c in tables.FUSED if c.linear is not None], ids=repr)
def test_a_verification_cuts_time_into_as_many_pieces(cell: AnyCell, sizes: Any) -> None:
    (entry,) = candidates(EMULATED_BACKEND, cell, sizes, np.dtype("float32"))
    (T, B, _, H), (t, b, _, h) = sizes, entry.trial(*sizes)
    assert pieces(t, b, h) == pieces(T, B, H)


@every_cell
def test_rounded_products_are_offered_first_to_who_allows_them(cell: AnyCell) -> None:
    given = cell, (5, 3, 4, 16), np.dtype("float32")
    found: Any = candidates(EMULATED_BACKEND, *given, "tf32")
    assert [entry.precision for entry in found] == ["tf32", "ieee"]
    found = candidates(EMULATED_BACKEND, *given, "bf16")
    assert [entry.precision for entry in found] == ["bf16"]
    found = candidates(EMULATED_BACKEND, *given)
    assert [entry.precision for entry in found] == ["ieee"]


def test_options_have_kernels_of_their_own() -> None:
    """The same objects for the same options, and others for others."""
    given = (9, 3, 4, 16), np.dtype("float32")
    for cell in FORMS:
        (entry,) = candidates(EMULATED_BACKEND, cell, *given)
        assert entry is candidates(EMULATED_BACKEND, cell, *given)[0]
        assert entry.path(*given[0]) == "one fused kernel a step, the loop in Python"
    found = [EMULATED_BACKEND.kernels_of(cell)[-1].sequence for cell in (*FORMS, LSTM)]
    assert len(set(map(id, found))) == len(found)


def equal_the_cell(cell: AnyCell, dtype: str, precision: Precision = "ieee") -> None:
    """In every option; the other laws are for devices, see `emulation`."""
    for option in OPTIONS:
        trial = Trial(cell, option, "numpy", dtype, precision)
        assert trial.backend is EMULATED_BACKEND
        error = LAWS["twin"](trial)
        assert error is not None, option.name
        assert error <= bound(cell, "twin", dtype, precision), option.name


@emulated
@pytest.mark.parametrize("cell", [*tables.FUSED, *FORMS], ids=lambda cell: cell.name)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.usefixtures("served")
def test_layers_equal_the_cell(cell: AnyCell, dtype: str) -> None:
    before = len(RUNTIME.launched)
    equal_the_cell(cell, dtype)
    assert len(RUNTIME.launched) > before


@emulated
@pytest.mark.parametrize("cell", [c for c in tables.FUSED if c.analytic], ids=lambda c: c.name)
@pytest.mark.usefixtures("served")
def test_layers_with_products_of_bfloat16_equal_the_cell(cell: AnyCell) -> None:
    before = len(RUNTIME.launched)
    equal_the_cell(cell, "float32", "bf16")
    assert any(name.startswith("rounded<") for name in RUNTIME.launched[before:])


@emulated
@every_cell
@pytest.mark.usefixtures("served")
def test_a_tape_serves_twice(cell: AnyCell) -> None:
    trial = Trial(cell, OPTIONS[7], "numpy", "float64")
    inputs = trial.inputs
    tape = trial.layer.forward(inputs.xs, inputs.state, inputs.lengths)[2]
    first = trial.layer.backward(tape, inputs.dys, inputs.dlast)
    again = trial.layer.backward(tape, inputs.dys, inputs.dlast)
    other = trial.layer.backward(tape)
    for name, d in first[2].items():
        np.testing.assert_array_equal(d, again[2][name])
        assert (d != other[2][name]).any()


@emulated
@pytest.mark.usefixtures("served")
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
        patch.setattr(Emulator, "gemm", scarce)
        with pytest.raises(MemoryError, match="third product"):
            layer.forward(xs)
    np.testing.assert_array_equal(layer(xs)[0], before)
    for name, w in weights.items():
        np.testing.assert_array_equal(layer.weights[name], w)


@emulated
@pytest.mark.usefixtures("served")
def test_bfloat16_layers() -> None:
    rng, layer = np.random.default_rng(0), xrnn.GRU(3, 8, num_layers=2, dtype="bfloat16")
    exact = xrnn.GRU(3, 8, num_layers=2)
    exact.weights = {k: w.astype("float32") for k, w in layer.weights.items()}
    xs = rng.normal(size=(6, 2, 3)).astype("bfloat16")
    ys, _, tape = layer.forward(xs, lengths=[6, 2])
    assert ys.dtype == named_dtype("bfloat16")
    expected, _, exact_tape = exact.forward(xs.astype("float32"), lengths=[6, 2])
    np.testing.assert_allclose(ys.astype("float32"), expected, atol=0.01)
    dxs, _, dweights = layer.backward(tape, ys)
    exact_dxs, _, exact_dweights = exact.backward(exact_tape, expected)
    assert abs(dxs.astype("float32") - exact_dxs).max() < 0.05 * abs(exact_dxs).max()
    assert all(d.dtype == ys.dtype for d in dweights.values())
    assert set(dweights) == set(exact_dweights)


@pytest.mark.usefixtures("served")
def test_paths_are_told() -> None:
    def said(cell: AnyCell, *sizes: int) -> str:
        T, B, I, H = sizes
        kernel = select.choose(EMULATED_BACKEND, cell, (T, B, I, H), np.dtype("float32"))
        return kernel.path(T, B, I, H)

    assert said(Elman, 100, 4, 3, 8) == "one fused kernel a step, the loop in Python"
    assert said(InputGatedLSTM, 100, 64, 3, 1024) == "one kernel for all steps"
    assert said(MinGRU, 1000, 1, 3, 64) == "15 pieces of time in parallel"
    assert xrnn.GRU(3, 8, precision="bf16").path((100, 4, 3)) == {
        "_l0": "one fused kernel a step, the loop in Python, products of bfloat16"
    }
    assert pieces(1000, 1, 64) == 15
    assert pieces(10**6, 1, 64) == 528


@pytest.mark.usefixtures("served")
class TestClusters:
    """The same with whole sequences in one launch."""

    @pytest.fixture(autouse=True)
    def _opted_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(OPT_IN, "1")

    @emulated
    @every_clustered
    def test_layers_equal_the_cell(self, cell: AnyCell) -> None:
        RUNTIME.launched.clear()
        equal_the_cell(cell, "float32")
        assert any("cluster" in name for name in RUNTIME.launched)

    @emulated
    @every_clustered
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half(self, cell: AnyCell, dtype: str) -> None:
        sizes = (3, 3, 4, 12)
        entry = candidates(EMULATED_BACKEND, cell, sizes, named_dtype(dtype))[0]
        checks.equals_the_cell(entry, Case(cell, sizes, dtype), BOUNDS[dtype])

    @emulated
    @every_clustered
    def test_rounded_products(self, cell: AnyCell) -> None:
        sizes = (3, 3, 4, 12)
        found: Any = candidates(EMULATED_BACKEND, cell, sizes, np.dtype("float32"), "tf32")
        assert [e.precision for e in found] == ["tf32", "tf32", "ieee", "ieee"]
        for entry in (found[0], found[2]):
            allowed = tolerance(cell, np.dtype("float32"), entry.precision, sizes)
            checks.equals_the_cell(entry, Case(cell, sizes, "float32"), allowed)

    @emulated
    def test_both_directions_are_one_launch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer = xrnn.LSTM(3, 8, bidirectional=True)
        xs = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
        before = len(RUNTIME.launched)
        ys, state, tape = layer.forward(xs, lengths=[4, 2])
        assert len(RUNTIME.launched) == before + 1
        dys = np.cos(ys)
        found = [ys, *state, *layer.backward(tape, dys)[2].values()]
        monkeypatch.delenv(OPT_IN)
        layer = copy.copy(layer)  # which has not chosen its kernels yet
        ys, state, tape = layer.forward(xs, lengths=[4, 2])
        expected = [ys, *state, *layer.backward(tape, dys)[2].values()]
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)

    def test_it_is_told(self) -> None:
        path = xrnn.LSTM(3, 512, init="uniform").path((100, 16, 3))["_l0"]
        assert path.startswith("one launch: clusters of")
        assert xrnn.LSTM(3, 1500, init="uniform").path((100, 16, 3)) == {
            "_l0": "one fused kernel a step, the loop in Python"
        }


@pytest.mark.usefixtures("served")
class TestGraphs:
    """The same with the steps in graphs of two."""

    @pytest.fixture(autouse=True)
    def _opted_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(graphs.OPT_IN, "1")
        monkeypatch.setattr(graphs, "STEPS", 2)

    @emulated
    @every_stepwise
    @pytest.mark.parametrize("law", LAWS)
    def test_law(self, law: str, cell: AnyCell) -> None:
        before = sum(graph.launches for graph in RUNTIME.captured)
        for option in OPTIONS:
            trial = Trial(cell, option, "numpy", "float32")
            error = LAWS[law](trial)
            assert error is None or error <= bound(cell, law, "float32"), option.name
        assert sum(graph.launches for graph in RUNTIME.captured) > before

    @emulated
    @every_stepwise
    @pytest.mark.parametrize("dtype", BOUNDS)
    def test_it_is_verified_through_a_graph(self, cell: AnyCell, dtype: str) -> None:
        """At sizes that are not those of the plain loop, so neither stands for the other."""
        given = EMULATED_BACKEND, cell, (9, 3, 4, 16), named_dtype(dtype)
        entry, plain = candidates(*given)
        sizes = entry.trial(*given[2])
        assert sizes == (5, 3, 4, 16) == (graphs.STEPS + 3, *sizes[1:])
        before = len(RUNTIME.captured)
        launched = sum(graph.launches for graph in RUNTIME.captured)
        with entry.strict():
            checks.equals_the_cell(entry, Case(cell, sizes, dtype), BOUNDS[dtype])
        assert len(RUNTIME.captured) <= before + 2
        assert sum(graph.launches for graph in RUNTIME.captured) > launched
        assert "graphs" not in plain.path(*sizes)

    @emulated
    def test_a_verification_without_a_graph_is_no_verdict(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*given: Any) -> Any:
            raise MemoryError("no memory for a graph")

        entry, _ = candidates(EMULATED_BACKEND, LSTM, (9, 3, 4, 20), np.dtype("float32"))
        monkeypatch.setattr(RUNTIME, "capture", full)
        RUNTIME.graphs.instances.clear()
        with pytest.raises(NotNow, match="no memory for a graph"):
            _compare(EMULATED_BACKEND, LSTM, np.dtype("float32"), entry, (5, 3, 4, 20))

    def test_where_they_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def said(T: int) -> list[str]:
            found = candidates(EMULATED_BACKEND, LSTM, (T, 3, 4, 16), np.dtype("float32"))
            return [entry.path(T, 3, 4, 16) for entry in found]

        plain = "one fused kernel a step, the loop in Python"
        assert said(2) == ["one fused kernel a step, in CUDA graphs of 2 steps", plain]
        assert said(1) == [plain]
        monkeypatch.setattr(RUNTIME, "no_graphs", lambda: "the loop in C is not built")
        assert said(2) == [plain]
        monkeypatch.undo()
        monkeypatch.setattr(tables, "GRAPHS_BY_DEFAULT", True)
        monkeypatch.delenv(graphs.OPT_IN, raising=False)
        assert len(said(graphs.STEPS)) == 2
        monkeypatch.setenv(graphs.OPT_IN, "0")
        assert said(graphs.STEPS) == [plain]
