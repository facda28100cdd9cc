"""CUDA: the sizes that kernels in clusters are verified at, and what a device says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from shim.recorder import Recorder, dtypes

import xrnn
from xrnn.backends import get
from xrnn.backends.cuda import tables
from xrnn.backends.cuda.cluster import OPT_IN
from xrnn.cells import GRU, LSTM, Elman
from xrnn.engine import verify
from xrnn.engine.trial import ROUNDING
from xrnn.typing import dtype_name


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("H", [16, 64, 256, 512])
@pytest.mark.parametrize("cell", [Elman, LSTM, GRU], ids=lambda c: c.name)
def test_a_geometry_is_verified_once_for_all_batches(
    cell: Any, H: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPT_IN, "1")
    kernels: Any = [
        k
        for k in tables.kernels(Recorder(90), dtypes())[cell]
        if getattr(k.sequence, "geometry", None) and dtype in map(dtype_name, k.dtypes)
    ]
    for kernel in kernels:
        trials: dict[Any, set[Any]] = {}
        for B in range(1, 300):
            if not kernel.serves(9, B, 8, H):
                continue
            sizes = kernel.trial(9, B, 8, H)
            wanted, found = (
                [kernel.sequence.geometry(dtype, b, H, directions) for directions in (1, 2)]
                for b in (B, sizes[1])
            )
            assert wanted == found
            several = wanted[0].batch < B
            assert several == (sizes[1] > found[0].batch)
            trials.setdefault((*wanted, several), set()).add(sizes)
        assert trials
        assert all(len(sizes) == 1 for sizes in trials.values()), trials


def test_every_kind_of_arithmetic_has_its_rounding() -> None:
    precisions = {k.precision for k in tables.kernels(Recorder(90), dtypes())[LSTM]}
    assert precisions == {"ieee", "tf32", "bf16"}
    assert {*map(dtype_name, dtypes()), "tf32"} == set(ROUNDING)


@pytest.fixture
def device() -> Any:
    try:
        get("cuda")
    except ImportError as problem:
        pytest.skip(str(problem))
    from xrnn.backends.cuda import device

    verify._verdict.cache_clear()  # what other tests have found
    return device


class _Error(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.gpu
class TestDevice:
    @pytest.mark.parametrize(
        ("kind", "status", "passing"),
        [
            ("CUDARuntimeError", 2, True),
            ("CUDARuntimeError", 901, True),
            ("CUDARuntimeError", 700, False),
            ("CUDADriverError", 2, True),
            ("CUDADriverError", 1, False),
            ("CUBLASError", 3, True),
            ("CUBLASError", 2, False),
            ("NVRTCError", 6, False),
        ],
    )
    def test_which_errors_are_passing(
        self, device: Any, kind: str, status: int, passing: bool
    ) -> None:
        assert device.BACKEND.passing(type(kind, (_Error,), {})(status)) is passing

    def test_cupys_own_errors_have_these_names(self, device: Any) -> None:
        from cupy.cuda import driver, memory, runtime
        from cupy_backends.cuda.libs import cublas

        errors = [driver.CUDADriverError(2), runtime.CUDARuntimeError(2), cublas.CUBLASError(3)]
        assert all(map(device.BACKEND.passing, [*errors, memory.OutOfMemoryError(1, 1, 1)]))
        assert not any(map(device.BACKEND.passing, map(type(errors[0]), (1, 700, 719))))

    @pytest.mark.parametrize(
        ("message", "advice"),
        [
            (
                "nvrtc: error: invalid value for --gpu-architecture (-arch)\n",
                'CUDA 12 may know it: pip install "xrnn-array[cuda12]"',
            ),
            (
                'x.cu(2): catastrophic error: cannot open source file "cuda_bf16.h"\nmore',
                "CuPy needs NVRTC and CUDA's headers of its own version: pip install",
            ),
            ("CuPy failed to load libnvrtc.so.13: OSError", "CuPy needs NVRTC and CUDA's headers"),
        ],
    )
    def test_what_nvrtc_refuses_is_told(
        self, device: Any, message: str, advice: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import cupy

        def refuse(**given: Any) -> Any:
            assert "cuda_bf16.h" in given["code"]
            raise RuntimeError(message)

        monkeypatch.setattr(cupy, "RawModule", refuse)
        said = device.BACKEND.missing()
        assert message.partition("\n")[0] in said
        assert said.startswith(f"no kernel can be compiled for {device._named()}")
        assert advice in said

    def test_a_full_device_is_not_a_missing_one(
        self, device: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import cupy

        def refuse(**given: Any) -> Any:
            raise cupy.cuda.memory.OutOfMemoryError(1, 1, 1)

        monkeypatch.setattr(cupy, "RawModule", refuse)
        with pytest.raises(MemoryError):
            device.BACKEND.missing()

    def test_a_device_that_is_full_for_a_moment(self, device: Any) -> None:
        import cupy

        layer, xs = xrnn.GRU(3, 24, device="cuda", rng=0), cupy.ones((4, 2, 3), "float32")
        wanted = xrnn.GRU(3, 24, device="cuda", rng=0).path(xs.shape)
        other = xrnn.Layer(xrnn.cells.PeepholeLSTM, 3, 24, device="cuda", rng=0)
        other.weights["W_l0"]

        def scarce(size: int) -> Any:
            if size > 512:  # the state of the layer is smaller
                raise cupy.cuda.memory.OutOfMemoryError(size, 0, 0)
            return cupy.get_default_memory_pool().malloc(size)

        # A limit of the pool would not do: parts of its blocks may be free.
        cupy.cuda.set_allocator(scarce)
        try:
            with (
                pytest.warns(RuntimeWarning, match="at this moment: OutOfMemoryError"),
                pytest.raises(MemoryError),
            ):
                other(xs)
        finally:
            cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
        other(xs)
        layer(xs)
        assert other.path(xs.shape) == layer.path(xs.shape) == wanted

    def test_a_first_use_in_a_capture_is_no_verdict(self, device: Any) -> None:
        import cupy

        layer = xrnn.Layer(xrnn.cells.GRUBefore, 3, 24, device="cuda", rng=0)
        layer.weights["W_l0"]
        xs, stream = cupy.ones((4, 2, 3), "float32"), cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                with (
                    pytest.warns(RuntimeWarning, match="the current stream is being captured"),
                    pytest.raises(NotImplementedError, match="during stream capture"),
                ):
                    layer(xs)  # CuPy itself allows no matrix product there
            finally:
                stream.end_capture()
        layer(xs)
        assert "fused" in layer.path(xs.shape)["_l0"]

    def test_what_describes_a_device(self, device: Any) -> None:
        said = device.BACKEND.describe()
        assert device._named() in said
        assert f"capability {device.RUNTIME.capability()}, " in said
        assert device.BACKEND.describe() is said
