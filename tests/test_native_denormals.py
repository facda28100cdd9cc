"""Denormal numbers count as 0 in the native loops, and nowhere else."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from native_kernels import NativeKernel
from sequences import AnyCell, Case, run, same, some_lengths
from test_native_arguments import loop_arguments
from test_native_base import isa, native

from xrnn.backends.cpu import extension
from xrnn.cells import LSTM

__all__ = ["isa"]  # the fixture

if platform.machine().lower() not in {"x86_64", "amd64", "aarch64", "arm64"}:
    pytest.skip("this processor has no such mode that is known", allow_module_level=True)

#: a denormal number of each dtype
TINY = {"float32": 1e-41, "float64": 1e-310}

every_cell = pytest.mark.parametrize("cell", extension.CODES, ids=lambda cell: cell.name)
every_dtype = pytest.mark.parametrize("dtype", TINY)


@every_cell
@every_dtype
@pytest.mark.usefixtures("isa")
def test_a_denormal_input_is_0(cell: AnyCell, dtype: str) -> None:
    """In xs, dys, the states and their gradients; with threads that share sequences or units."""
    for sizes, threads in (((6, 7, 9, 33), 1), ((28, 30, 99, 130), 2), ((70, 2, 100, 397), 2)):
        # A sequence without steps gives the state that it was given.
        lengths = [max(n, 1) for n in some_lengths(*sizes[:2])]
        zeros, tiny = (Case(cell, sizes, dtype, lengths) for _ in range(2))
        for case, value in ((zeros, 0), (tiny, TINY[dtype])):
            assert case.dys is not None
            case.xs[...] = value
            case.dys[::2] = value
            for part in (*case.state, *case.dstate):
                part[...] = value
            for name in {"b", "v"} & case.weights.keys():
                case.weights[name][...] = 0
        found, expected = (run(NativeKernel(cell, threads), case) for case in (tiny, zeros))
        same(found, expected)


@every_dtype
def test_a_state_decays_to_0(isa: str, dtype: str) -> None:
    """Rounded to the nearest number, the least denormal times 0.9 is itself."""
    layer: dict[str, Any] = {"W": np.zeros((12, 2), dtype), "U": np.zeros((12, 3), dtype)}
    layer["b"] = np.full(12, 2, dtype)
    layer["b"][6:9] = 0  # g = 0: nothing is added to c
    h, c = np.zeros((1, 3), dtype), np.ones((1, 3), dtype)
    xs, loop = np.zeros((8000, 1, 2), dtype), extension.Native(extension.CODES[LSTM])
    how: dict[str, Any] = {"lengths": None, "reverse": False, "xp": np}
    _, last, residuals = loop.forward(layer, xs, (h, c), keep=True, **how)
    assert residuals is not None
    assert residuals.cs is not None
    assert not any(part.any() for part in last)
    reached = abs(residuals.cs[residuals.cs != 0]).min()
    assert reached >= np.finfo(dtype).smallest_normal
    dys = np.zeros((8000, 1, 3), dtype)
    _, dfirst, _ = loop.backward(layer, residuals, dys, (h, c), xp=np)
    assert not dfirst[1].any()


@every_cell
@every_dtype
def test_two_instruction_sets_give_the_same_bits(cell: AnyCell, dtype: str) -> None:
    """Values around the smallest normal number."""
    if not {"avx512", "avx2"} <= set(native.isas()):
        pytest.skip("this processor has not both")
    case, before = Case(cell, (6, 7, 9, 33), dtype), native.isa()
    case.xs *= np.finfo(dtype).smallest_normal
    case.weights["b"][...] = 0
    for part in case.state:
        part *= 4 * np.finfo(dtype).smallest_normal
    found = []
    for name in ("avx512", "avx2"):
        native.isa(name)
        found.append(run(NativeKernel(cell), case))
    native.isa(before)
    same(*found)


# --- the mode of the caller

linux_x86 = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() != "x86_64",
    reason="the mode is read where glibc keeps it on x86-64",
)


def mode() -> int:
    """The register MXCSR of this thread, without the flag that almost any operation raises."""
    environment = (ctypes.c_uint32 * 8)()
    assert ctypes.CDLL("libm.so.6").fegetenv(environment) == 0
    return environment[7] & ~0x20


def set_mode(value: int) -> None:
    environment = (ctypes.c_uint32 * 8)()
    library = ctypes.CDLL("libm.so.6")
    library.fegetenv(environment)
    environment[7] = value
    library.fesetenv(environment)


@pytest.fixture(params=[0x1F80, 0x9FC0, 0x1F9F, 0x9F80])
def given(request: pytest.FixtureRequest) -> Iterator[int]:
    """As ever; flushing already; with every flag of an exception raised; flushing results only."""
    before = mode()
    set_mode(request.param)
    yield request.param
    set_mode(before)


def calls() -> dict[str, Callable[[], object]]:
    """Calls of the extension: good, wrong, short, and one that is long and takes threads."""
    forward, backward = (list(given.values()) for given in loop_arguments("lstm"))
    A, C, few = (np.full(n, 1e-30, "float32") for n in (90000, 90000, 3))
    return {
        "forward": lambda: native.forward(*forward),
        "backward": lambda: native.backward(*backward),
        "long": lambda: native.gemm(300, 300, 300, A, 0, A, 0, C, None, 0, 2, 0),
        "activation": lambda: native.activation(1, A, C),
        "wrong": lambda: refused(native.activation, 1, A, few),
    }


def refused(call: Callable[..., object], *given: object) -> None:
    with contextlib.suppress(ValueError):
        call(*given)
        raise AssertionError("not refused")


@linux_x86
@pytest.mark.parametrize("name", calls())
def test_the_mode_of_the_caller_stays(name: str, given: int) -> None:
    call = calls()[name]
    set_mode(given)
    call()
    assert mode() == given


def test_numpy_computes_with_denormals_afterwards() -> None:
    for call in calls().values():
        call()
        assert np.array([1e-40], "float32") * np.float32(0.5) != 0
