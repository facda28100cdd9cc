"""The runtime on CuPy: what it says of a device, and how it launches clusters.  Needs a device."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get
from xrnn.backends.cuda.cluster import CAPABILITY, OPT_IN, SIZES, Room

pytestmark = pytest.mark.gpu


@pytest.fixture
def runtime() -> Any:
    try:
        get("cuda")
    except ImportError as problem:
        pytest.skip(str(problem))
    from xrnn.backends.cuda.runtime import CupyRuntime

    return CupyRuntime()


def refused(status: int) -> Exception:
    """The error of the driver with this number (cuda.h)."""
    from cupy.cuda import driver

    error: Exception = driver.CUDADriverError(status)
    return error


def test_room_is_that_of_the_device(runtime: Any) -> None:
    room = runtime.room()
    assert runtime.room() is room
    if runtime.capability() < CAPABILITY:
        assert not any(room.held)
        assert "clusters need 90 or newer" in room.reasons[0]
        return
    assert room.shared == runtime_attribute("MaxSharedMemoryPerBlockOptin")
    assert room.of(1) == runtime_attribute("MultiProcessorCount")
    assert len(room.reasons) == sum(room.of(size) == 0 for size in SIZES)


def runtime_attribute(name: str) -> int:
    from cupy.cuda import device

    return int(device.Device().attributes[name])


@pytest.mark.parametrize(
    ("problem", "remembered"),
    [
        (912, True),
        (2, False),
        (900, False),
        (OSError("libcuda.so.1: cannot open"), True),
        (MemoryError("out of memory"), False),
    ],
    ids=["a refusal", "memory", "a capture", "no library", "memory of the pool"],
)
def test_why_there_are_no_clusters(
    problem: Any, remembered: bool, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told; what is true of this moment alone is not remembered."""
    error = refused(problem) if isinstance(problem, int) else problem
    monkeypatch.setattr(runtime, "capability", lambda: 90)
    monkeypatch.setattr(runtime, "_resident", lambda size, shared: _raise(error))
    room = runtime.room()
    assert room.held == (0,) * 5
    assert all(str(error) in reason for reason in room.reasons), room.reasons
    assert [reason.split(":")[0] for reason in room.reasons] == [
        f"none of {n} blocks" for n in SIZES
    ]
    monkeypatch.setattr(runtime, "_resident", lambda size, shared: 7)
    assert runtime.room().held == ((0,) * 5 if remembered else (7,) * 5)


def _raise(error: Exception) -> Any:
    raise error


def test_each_device_has_its_own_room(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cupy.cuda import device

    monkeypatch.setattr(runtime, "capability", lambda: 90)
    monkeypatch.setattr(runtime, "_resident", lambda size, shared: 3)
    assert set(runtime.room().held) == {3}
    monkeypatch.setattr(runtime, "_resident", lambda size, shared: 5)
    assert set(runtime.room().held) == {3}
    here = device.get_device_id()
    monkeypatch.setattr(device, "get_device_id", lambda: here + 1)
    assert set(runtime.room().held) == {5}


def test_a_block_of_a_cluster_asks_for_all_shared_memory(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no second one fits beside it."""
    asked: list[tuple[int, int]] = []

    def kernel(source: str, instance: str, shared: int, size: int) -> Any:
        return lambda grid, block, args, shared_mem: asked.append((shared, shared_mem))

    monkeypatch.setattr(runtime, "room", lambda: Room(shared=99 * 1024))
    monkeypatch.setattr(runtime, "_kernel", kernel)
    runtime.launch("lstm_cluster.cu", "a", (8, 1), (128,), (), shared=20000, cluster=1)
    runtime.launch("lstm_cluster.cu", "a", (8, 1), (128,), (), shared=20000, cluster=8)
    runtime.launch("lstm.cu", "b", (8,), (128,), (), shared=64)
    assert asked == [(99 * 1024, 99 * 1024)] * 2 + [(64, 64)]


def test_a_kernel_that_gave_up_is_told_once(runtime: Any) -> None:
    instance = "lstm_cluster_forward<Half, 32, 16, 1, 8, 2, 8>"
    address = runtime.report(instance)
    assert runtime.report(instance) == address
    assert runtime.report("another") != address
    (ctypes.c_int * 4).from_address(address)[:] = [18, 512, 64, 500]
    with pytest.raises(RuntimeError) as told:
        runtime.report("another")
    assert f"{instance} made no progress: it gave up near step 18 of T = 512" in str(told.value)
    assert "B = 64 and H = 500" in str(told.value)
    assert "XRNN_CUDA_CLUSTERS=0" in str(told.value)
    assert runtime.report(instance) == address


def test_a_layer_whose_kernel_gave_up_fails(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from xrnn.backends.cuda.device import RUNTIME

    if RUNTIME.capability() < CAPABILITY:
        pytest.skip("this device has no clusters")
    monkeypatch.setenv(OPT_IN, "1")
    monkeypatch.setattr("xrnn.engine.select.verified", lambda *given: True)
    layer = xrnn.LSTM(4, 32, device="cuda")
    xs = get("cuda").from_host(np.zeros((2, 3, 4), np.float32))
    layer(xs)
    instance = next(n for n in RUNTIME.compiled() if n.startswith("lstm_cluster_forward"))
    (ctypes.c_int * 4).from_address(RUNTIME.report(instance))[:] = [1, 2, 3, 32]
    with pytest.raises(RuntimeError, match="made no progress"):
        layer(xs)
    layer(xs)  # the next one runs
