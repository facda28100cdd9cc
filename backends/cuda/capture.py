"""CUDA graphs with CuPy: products are captured too.

CuPy's own functions of cuBLAS refuse a stream that is being captured.  So a graph has a handle of
cuBLAS of its own, made by the functions of the library that CuPy has loaded, and memory for it:
the work of a graph uses the same memory at each launch, and no other work may use it meanwhile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, cast

import cupy
from cupy.cuda import device

#: what a graph needs of cuBLAS (cublas_api.h)
NAMES = ("cublasCreate_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasDestroy_v2")

#: bytes of memory for cuBLAS: what NVIDIA recommends for Hopper and newer, and for older ones
MEMORY, OLDER = 32 << 20, 4 << 20


class Library(NamedTuple):
    """Functions of cuBLAS, in the order of `NAMES`; each returns a status."""

    create: Callable[..., int]
    set_stream: Callable[..., int]
    set_workspace: Callable[..., int]
    destroy: Callable[..., int]


@cache
def library() -> tuple[Library | None, str]:
    """The functions of the library that CuPy has loaded; or None, and why."""
    from cupy_backends.cuda.libs import cublas  # loads the library

    try:
        found = ctypes.CDLL(cublas.__file__)
        return Library(*(getattr(found, name) for name in NAMES)), ""
    except (OSError, AttributeError) as error:
        return None, f"CuPy's libraries do not tell their functions ({error})"


class Captured:
    """A graph of what a function enqueues, in the form of `xrnn.backends.cuda.graphs.Graph`.

    Parameters
    ----------
    enqueue : callable
        ``enqueue(handle, stream)`` enqueues the work: a handle of cuBLAS that is set to the stream,
        and the stream, as addresses.  What it launches must be compiled and loaded.
    """

    def __init__(self, enqueue: Callable[[int, int], None]) -> None:
        self._library = _found()
        wide = int(device.Device().compute_capability) >= 90
        self._memory: Any = cupy.cuda.alloc(MEMORY if wide else OLDER)
        self._handle, self._graph = ctypes.c_void_p(), cast(Any, None)
        self._check(self._library.create(ctypes.byref(self._handle)))
        try:
            self._graph = self._capture(enqueue)
        except BaseException:
            self.close()
            raise

    def _capture(self, enqueue: Callable[[int, int], None]) -> Any:
        stream, memory = cupy.cuda.Stream(non_blocking=True), self._memory
        self._check(self._library.set_stream(self._handle, ctypes.c_void_p(stream.ptr)))
        # After the stream, as setting that takes the memory away.
        size = ctypes.c_size_t(memory.mem.size)
        self._check(self._library.set_workspace(self._handle, ctypes.c_void_p(memory.ptr), size))
        stream.begin_capture()
        try:
            enqueue(self._handle.value or 0, stream.ptr)
        except BaseException:
            with suppress(Exception):  # such as that the capture has failed
                stream.end_capture()
            raise
        return stream.end_capture()

    def launch(self) -> None:
        """Enqueue the work on the current stream."""
        self._graph.launch()

    def close(self) -> None:
        """Return what the graph holds; its work must have ended."""
        self._graph = None
        self._library.destroy(self._handle)
        self._memory = None

    @staticmethod
    def _check(status: int) -> None:
        from cupy_backends.cuda.libs import cublas

        cublas.check_status(status)


def _found() -> Library:
    found, problem = library()
    if found is None:
        raise RuntimeError(problem)
    return found


class Event:
    """A point in the work of a stream, in the form of `xrnn.backends.cuda.graphs.Event`."""

    def __init__(self) -> None:
        self._event = cupy.cuda.Event(disable_timing=True)

    def record(self) -> None:
        """Set it behind the work of the current stream."""
        self._event.record()

    def wait(self) -> None:
        """Let the current stream wait for it."""
        cupy.cuda.get_current_stream().wait_event(self._event)

    def synchronize(self) -> None:
        """Let the host wait for it."""
        self._event.synchronize()
