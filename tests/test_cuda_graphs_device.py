"""Steps in CUDA graphs on a device: the bits of the plain loop, streams, threads and refusals.

Graphs hold four steps here.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from optioned import SMOOTH
from sequences import AnyCell

import xrnn
from xrnn.backends import get
from xrnn.backends.cuda import graphs, loop
from xrnn.backends.cuda.tables import FUSED
from xrnn.certify.laws import LAWS
from xrnn.certify.report import bound
from xrnn.certify.trial import OPTIONS, Trial
from xrnn.typing import Array, DType

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(loop.ABSENT), reason=loop.ABSENT)]

CELLS = [cell for cell in FUSED if cell.linear is None]
IN_GRAPHS = "one fused kernel a step, in CUDA graphs of 4 steps"

every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend's, with no graph yet; kernels run without a verification."""
    try:
        get("cuda")
    except ImportError as problem:
        pytest.skip(str(problem))
    from xrnn.backends.cuda import capture, device

    _lend_what_a_software_device_lacks(monkeypatch)
    if reason := capture.library()[1]:
        pytest.skip(reason)
    monkeypatch.setattr("xrnn.engine.select.verified", lambda *given: True)
    monkeypatch.setattr(graphs, "STEPS", 4)
    monkeypatch.setenv("XRNN_CUDA_CLUSTERS", "0")
    monkeypatch.setenv(graphs.OPT_IN, "1")
    device.RUNTIME._graphs = graphs.Graphs(device.RUNTIME)
    return device.RUNTIME


def of_software() -> bool:
    """Whether the device is emulated by software, function by function."""
    return hasattr(ctypes.CDLL("libcuda.so.1"), "ptx_report")


def _lend_what_a_software_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cuBLAS needs no memory, and may have no function that gives it any."""
    from cupy_backends.cuda.libs import cublas

    from xrnn.backends.cuda import capture

    known: Any = ctypes.CDLL(cublas.__file__)
    if not of_software() or hasattr(known, capture.NAMES[2]):
        return
    create, set_stream, _, destroy = capture.NAMES
    library = capture.Library(known[create], known[set_stream], lambda *given: 0, known[destroy])
    monkeypatch.setattr(capture, "library", lambda: (library, ""))


def a_layer(cell: AnyCell, dtype: DType = "float32") -> Any:
    return xrnn.Layer(cell, 3, 8, bidirectional=True, device="cuda", dtype=dtype, rng=5)


def everything(layer: Any, T: int = 11, seed: int = 3, lengths: Sequence[int] | None = None) -> Any:
    """The results of both passes, for inputs that differ by the seed."""
    backend, rng = get("cuda"), np.random.default_rng(seed)
    xs = backend.from_host(rng.normal(size=(T, 2, 3)).astype(layer.dtype))
    ys, state, tape = layer.forward(xs, lengths=lengths)
    again, _ = layer(xs)
    dxs, dstate, dweights = layer.backward(tape, ys)
    return [backend.to_host(a) for a in (ys, *state, again, dxs, *dstate, *dweights.values())]


def plain(layer: Any, *given: Any, **how: Any) -> list[Array]:
    """The same by the plain loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(graphs.OPT_IN, "0")
        other = xrnn.Layer(layer.cell, 3, 8, bidirectional=True, device="cuda", dtype=layer.dtype)
        other.weights = layer.weights
        assert "graphs" not in str(other.path((11, 2, 3)))
        found: list[Array] = everything(other, *given, **how)
        return found


def equal(found: list[Array], expected: list[Array]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", [*CELLS, *SMOOTH[2::3]], ids=lambda cell: cell.name)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_graphs_give_the_bits_of_the_plain_loop(cell: AnyCell, dtype: DType, runtime: Any) -> None:
    """For other inputs, weights and numbers of steps by the same two graphs."""
    layer = a_layer(cell, dtype)
    assert set(layer.path((11, 2, 3)).values()) == {IN_GRAPHS}
    for seed, T in enumerate([11, 8, 14]):
        for lengths in (None, [T, T - 3]):
            equal(everything(layer, T, seed, lengths), plain(layer, T, seed, lengths=lengths))
        for w in layer.weights.values():
            w *= 0.9
    assert len(runtime._graphs.instances) == 2
    assert all(instance.graph is not None for instance in runtime._graphs.instances)


@every_cell
@pytest.mark.parametrize("law", LAWS)
def test_law(law: str, cell: AnyCell, runtime: Any) -> None:
    for option in OPTIONS:
        error = LAWS[law](Trial(cell, option, "cuda", "float32"))
        assert error is None or error <= bound(cell, law, "float32"), option.name
    assert any(instance.graph is not None for instance in runtime._graphs.instances)


def test_verified_through_a_graph(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has no memory for a graph at this moment verifies nothing."""
    import cupy

    from xrnn.backends.cuda.capture import Captured
    from xrnn.engine.verify import NotNow, _compare

    backend, dtype = get("cuda"), np.dtype("float32")
    (entry, _), sizes = select_candidates(backend, dtype), (7, 3, 4, 16)
    assert entry.trial(20, 3, 4, 16) == sizes
    assert _compare(backend, xrnn.cells.LSTM, dtype, entry, sizes) is None
    assert all(instance.graph is not None for instance in runtime._graphs.instances)

    def full(*given: Any) -> None:
        raise cupy.cuda.memory.OutOfMemoryError(1, 1, 1)

    runtime._graphs = graphs.Graphs(runtime)
    monkeypatch.setattr(Captured, "_capture", full)
    with pytest.raises(NotNow):
        _compare(backend, xrnn.cells.LSTM, dtype, entry, sizes)


def select_candidates(backend: Any, dtype: Any) -> Any:
    from xrnn.engine.select import candidates

    return candidates(backend, xrnn.cells.LSTM, (20, 3, 4, 16), dtype)


@pytest.mark.parametrize("each", [1, 2])
def test_streams_and_threads_share_graphs(
    each: int, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    if each > 1 and of_software():
        pytest.skip("in this software all handles of cuBLAS have one stream")
    monkeypatch.setattr(graphs, "EACH", each)
    layers = [a_layer(xrnn.cells.GRU) for _ in range(3)]
    everything(layers[0])
    expected = [plain(layer, seed=n) for n, layer in enumerate(layers)]
    problems: list[BaseException] = []

    def work(n: int) -> None:
        try:
            with cupy.cuda.Stream(non_blocking=True) as stream:
                for _ in range(5):
                    equal(everything(layers[n], seed=n), expected[n])
                stream.synchronize()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert problems == []
    assert 2 <= len(runtime._graphs.instances) <= 2 * each


def test_a_pass_on_another_stream_comes_after_the_one_before(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream waits for an event that the stream before has recorded."""
    import cupy

    from xrnn.backends.cuda.capture import Event

    diary: list[tuple[str, int, int]] = []
    for what in ("record", "wait"):
        real = getattr(Event, what)

        def told(self: Any, what: str = what, real: Any = real) -> None:
            diary.append((what, id(self), cupy.cuda.get_current_stream().ptr))
            real(self)

        monkeypatch.setattr(Event, what, told)
    layer = a_layer(xrnn.cells.LSTM)
    xs = cupy.ones((11, 2, 3), "float32")
    one, two = cupy.cuda.Stream(), cupy.cuda.Stream()
    for stream in (one, two):
        with stream:
            layer(xs)
    streams = [ptr for _, _, ptr in diary]
    assert [what for what, _, _ in diary] == ["wait", "record"] * 4
    assert streams == [one.ptr] * 4 + [two.ptr] * 4
    assert len({event for _, event, _ in diary}) == 1


def test_while_the_stream_is_captured_no_graph_is_used(runtime: Any) -> None:
    import cupy

    layer, stream = a_layer(xrnn.cells.LSTM), cupy.cuda.Stream(non_blocking=True)
    xs = cupy.ones((11, 2, 3), "float32")
    layer(xs)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(NotImplementedError, match="during stream capture"):
                layer(xs)  # CuPy itself allows no matrix product there
        finally:
            stream.end_capture()
    assert not any(instance.leased for instance in runtime._graphs.instances)
    layer(xs)


@pytest.mark.parametrize("name", ["create", "set_stream", "set_workspace"])
def test_what_cublas_refuses(name: str, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no memory (3) nothing is told and the next pass tries again; other failures are told."""
    from xrnn.backends.cuda import capture

    library = capture.library()[0]
    layer = a_layer(xrnn.cells.GRU)
    expected = plain(layer)

    def refuse(status: int) -> None:
        broken = library._replace(**{name: lambda *given: status})  # type: ignore[union-attr]
        monkeypatch.setattr(capture, "library", lambda: (broken, ""))

    refuse(3)
    equal(everything(layer), expected)
    refuse(15)
    with pytest.warns(RuntimeWarning, match="the plain loop serves: CUBLASError"):
        equal(everything(layer), expected)
    equal(everything(layer), expected)
    assert not any(instance.graph for instance in runtime._graphs.instances)


def test_a_call_that_fails_in_a_capture_ends_it(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = a_layer(xrnn.cells.GRU)
    expected, real = plain(layer), type(runtime)._run
    asked: list[int] = []

    def run(self: Any, calls: Any, numbers: Any, steps: int, handle: int, stream: int) -> None:
        real(self, calls, numbers, steps, handle, stream)
        if any("in_graph" in str(call) for call in calls):
            asked.append(stream)
            raise RuntimeError("status 1")

    with monkeypatch.context() as patch:
        patch.setattr(type(runtime), "_run", run)
        with pytest.warns(RuntimeWarning, match="the plain loop serves: RuntimeError: status 1"):
            equal(everything(layer), expected)
    assert len(asked) == 2
    equal(everything(layer), expected)


def test_where_cupy_does_not_tell_its_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    from xrnn.backends.cuda import capture

    reason = "CuPy's libraries do not tell their functions (no such symbol)"
    monkeypatch.setattr(capture, "library", lambda: (None, reason))
    layer = a_layer(xrnn.cells.GRU)
    assert "in CUDA graphs" not in str(layer.path((11, 2, 3)))
    (line,) = [line for line in get("cuda").notes() if line.startswith("CUDA graphs")]
    assert line == f"CUDA graphs (on; {graphs.OPT_IN}=0 turns them off); {reason}"
