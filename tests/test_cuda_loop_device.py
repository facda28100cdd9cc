"""The loop in C on a device: the bits of the loop in Python, its stream, and CuPy's errors."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from optioned import SMOOTH
from sequences import AnyCell
from shim.c_loop import GEMM, LAUNCH

import xrnn
from xrnn.backends import get
from xrnn.backends.cuda import loop
from xrnn.backends.cuda.tables import FUSED
from xrnn.typing import DType

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(loop.ABSENT), reason=loop.ABSENT)]

#: one launch a step, or two
CELLS = [cell for cell in FUSED if cell.linear is None]


@pytest.fixture(autouse=True)
def _unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run without a verification; whether they are right is seen elsewhere."""
    try:
        get("cuda")
    except ImportError as problem:
        pytest.skip(str(problem))
    monkeypatch.setattr("xrnn.engine.select.verified", lambda *given: True)
    monkeypatch.setenv("XRNN_CUDA_CLUSTERS", "0")


def everything(cell: AnyCell, dtype: DType, language: str = "C") -> list[Any]:
    """The results of both passes of a layer with both directions, of few sequences with lengths."""
    backend, rng = get("cuda"), np.random.default_rng(3)
    layer = xrnn.Layer(cell, 3, 8, bidirectional=True, device="cuda", dtype=dtype, rng=5)
    assert set(layer.path((6, 2, 3)).values()) == {
        f"one fused kernel a step, the loop in {language}"
    }
    xs = backend.from_host(rng.normal(size=(6, 2, 3)).astype(dtype))
    ys, state, tape = layer.forward(xs, lengths=[6, 4])
    again, _ = layer(xs)
    dxs, dstate, dweights = layer.backward(tape, ys)
    return [backend.to_host(a) for a in (ys, *state, again, dxs, *dstate, *dweights.values())]


class Broken:
    """The driver and cuBLAS with a call that they refuse: a launch and a product."""

    def __init__(self, launch: int = -1, gemm: int = -1) -> None:
        from xrnn.backends.cuda import runtime

        real = runtime.entries()[0]
        self.streams: set[int] = set()
        self.calls = 0
        functions = LAUNCH(real[0]), GEMM(real[1])

        def launched(*given: Any) -> int:
            self.calls += 1
            self.streams.add(given[8] or 0)
            return 702 if self.calls == launch else functions[0](*given)

        def multiplied(*given: Any) -> int:
            self.calls += 1
            return 13 if self.calls == gemm else functions[1](*given)

        self.functions = LAUNCH(launched), GEMM(multiplied)

    def entries(self) -> tuple[tuple[int, int], str]:
        found = [ctypes.cast(f, ctypes.c_void_p).value or 0 for f in self.functions]
        return (found[0], found[1]), ""


@pytest.mark.parametrize("cell", [*CELLS, *SMOOTH], ids=lambda cell: cell.name)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_both_loops_give_the_same_bits(
    cell: AnyCell, dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_c = everything(cell, dtype)
    monkeypatch.setattr(loop, "ABSENT", "not for this test")
    in_python = everything(cell, dtype, "Python")
    for a, b in zip(in_c, in_python, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a.astype("float64")).sum() > 0


@pytest.mark.parametrize(
    ("broken", "kind", "number", "words"),
    [
        ({"launch": 6}, "CUDADriverError", 702, "in step 3 of 6, at lstm_forward<float, 4>"),
        ({"gemm": 9}, "CUBLASError", 13, "in step 5 of 6, at a product, (2, 32, 8)"),
    ],
    ids=["launch", "product"],
)
def test_errors_are_those_of_cupy(
    broken: Any, kind: str, number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(xrnn.cells.LSTM, "float32")
    driver = Broken(**broken)
    with monkeypatch.context() as patch:
        patch.setattr("xrnn.backends.cuda.runtime.entries", driver.entries)
        with pytest.raises(RuntimeError) as told:
            everything(xrnn.cells.LSTM, "float32")
    assert type(told.value).__name__ == kind
    assert told.value.status == number  # type: ignore[attr-defined]
    assert told.value.__notes__ == [f"This was told {words}."]
    assert driver.calls == next(iter(broken.values()))
    for a, b in zip(expected, everything(xrnn.cells.LSTM, "float32"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_is_done_on_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy
    from cupy.cuda import device
    from cupy_backends.cuda.libs import cublas

    driver, stream = Broken(), cupy.cuda.Stream()
    monkeypatch.setattr("xrnn.backends.cuda.runtime.entries", driver.entries)
    with stream:
        everything(xrnn.cells.GRU, "float32")
        assert cublas.getStream(device.get_cublas_handle()) == stream.ptr
    assert driver.streams == {stream.ptr}
    driver.streams.clear()
    everything(xrnn.cells.GRU, "float32")
    assert driver.streams == {cupy.cuda.get_current_stream().ptr}


def test_where_cupy_does_not_tell_its_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the loop runs in Python, and it is told why."""
    from xrnn.backends.cuda import runtime

    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open")

    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", missing)
        nothing = runtime.entries.__wrapped__()
    assert nothing[0] == (0, 0)
    monkeypatch.setattr(runtime, "entries", lambda: nothing)
    everything(xrnn.cells.GRU, "float32", "Python")
    (line,) = [line for line in get("cuda").notes() if line.startswith("loop over time")]
    assert line == (
        "loop over time: Python; CuPy's libraries do not tell their functions "
        "(libcuda.so.1: cannot open)"
    )


def test_what_runs_is_told() -> None:
    assert "loop over time: C" in get("cuda").notes()
