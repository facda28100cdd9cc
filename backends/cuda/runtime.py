"""The runtime on CuPy: it compiles and launches kernels, and multiplies matrices.

Sizes and addresses are computed by `xrnn.backends.cuda.plan`, which does not import CuPy, so that
the tests can run the same launches on the host.
"""

from __future__ import annotations

import ctypes
import re
from array import array
from collections.abc import Hashable, Sequence
from functools import cache, partial
from importlib import resources
from threading import Lock
from typing import Any

import array_api_compat.cupy
import cupy
from cupy.cuda import compiler, device, driver

from xrnn.backends import base
from xrnn.backends.cuda import capture, cluster, loop
from xrnn.backends.cuda.cluster import CAPABILITY, SIZES, Room
from xrnn.backends.cuda.graphs import Graphs
from xrnn.backends.cuda.plan import Call, Launch, Plan, Product
from xrnn.backends.cuda.workspace import Workspace

#: bytes of shared memory that a kernel may use without asking, and the attribute of a
#: kernel that lets its clusters have more than 8 blocks (cuda.h)
PLAIN_SHARED, NON_PORTABLE_CLUSTER = 48 * 1024, 14

#: class of an error → numbers that tell of this moment, not of the device or the kernel: no memory
#: is left, a stream is being captured (cuda.h), a handle finds no memory (cublas_api.h)
CUDA_PASSING = frozenset({2, *range(900, 909)})
PASSING = {
    "CUDARuntimeError": CUDA_PASSING,
    "CUDADriverError": CUDA_PASSING,
    "CUBLASError": frozenset({1, 3}),
}

#: of NVRTC
OPTIONS = ("-std=c++17",)

#: dtype → cuBLAS's numbers for storing it and for summing its products (cublas_api.h)
TYPES = {"float16": (2, 68), "bfloat16": (14, 68), "float32": (0, 68), "float64": (1, 70)}
FAST_TF32 = 77


def passing(error: Exception) -> bool:
    """Whether the same call may succeed later, see `xrnn.backends.base.passing`."""
    known = PASSING.get(type(error).__name__, frozenset())
    return base.passing(error) or getattr(error, "status", None) in known


def options(instance: str) -> tuple[str, ...]:
    """Those of NVRTC for an instance, see ``kernels/steps.cuh``."""
    return (*OPTIONS, "-DXRNN_IN_GRAPH") if instance.startswith("in_graph<") else OPTIONS


@cache
def text(source: str) -> str:
    """A kernel file with the headers it includes in their places, each once."""
    return _inlined(source, set())


def _inlined(name: str, seen: set[str]) -> str:
    def header(found: re.Match[str]) -> str:
        if found[1] in seen:
            return ""
        seen.add(found[1])
        return _inlined(found[1], seen)

    file = resources.files("xrnn.backends.cuda").joinpath("kernels", name)
    code = file.read_text("utf-8").replace("#pragma once\n", "")
    return re.sub(r'^#include "(.+)"$', header, code, flags=re.MULTILINE)


@cache
def entries() -> tuple[tuple[int, int], str]:
    """The addresses of cuLaunchKernel and cublasGemmEx in the libraries that CuPy has loaded, and
    why they are not known, if so."""
    from cupy_backends.cuda.libs import cublas  # loads the library

    try:
        launch = ctypes.CDLL("libcuda.so.1").cuLaunchKernel
        # CuPy's module does not hold the function, but it is found in what the module is linked to.
        gemm = ctypes.CDLL(cublas.__file__).cublasGemmEx
    except (OSError, AttributeError) as error:
        return (0, 0), f"CuPy's libraries do not tell their functions ({error})"
    found = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in (launch, gemm)]
    return (found[0], found[1]), ""


class CupyRuntime:
    """The device for the kernels: memory, kernels by name, matrix products."""

    def __init__(self) -> None:
        self.xp: Any = array_api_compat.cupy
        self._kernels: dict[tuple[int, str], Any] = {}
        self._rooms: dict[int, Room] = {}
        self._reports: dict[str, tuple[Any, Any]] = {}
        self._lock = Lock()
        self._graphs = Graphs(self)
        # cuBLAS reads its factors from host memory, whose address must outlive the call.
        self._factors = {
            (f, double): (ctypes.c_double if double else ctypes.c_float)(f)
            for f in (0.0, 1.0)
            for double in (False, True)
        }

    def pointer(self, array: Any) -> int:
        """The address of the first value; ValueError if it is on another device."""
        home, here = array.device.id, device.get_device_id()
        if home != here:
            raise ValueError(
                f"an array is on device {home} and the current device is {here}; "
                f"run this under: with cupy.cuda.Device({home})"
            )
        return int(array.data.ptr)

    def compiled(self) -> list[str]:
        """The instances that were compiled in this process."""
        return sorted({instance for _, instance in self._kernels})

    def capability(self) -> int:
        """Of the current device: 90 for a Hopper."""
        return int(device.Device().compute_capability)

    def room(self) -> Room:
        """What the current device has for clusters.  It is asked once, and again where the answer
        was that of a moment (no memory left, a stream that is being captured)."""
        here = device.get_device_id()
        if here not in self._rooms:
            room, final = self._measured_room()
            if not final:
                return room
            self._rooms[here] = room
        return self._rooms[here]

    def _measured_room(self) -> tuple[Room, bool]:
        """The room of the current device, and whether the answer is final."""
        if (capability := self.capability()) < CAPABILITY:
            reason = f"compute capability {capability}; clusters need {CAPABILITY} or newer"
            return Room(reasons=(reason,)), True
        shared = int(device.Device().attributes["MaxSharedMemoryPerBlockOptin"])
        held, reasons, final = [], [], True
        for size in SIZES:
            number, problem = 0, ""
            try:
                number = self._resident(size, shared)
            except (OSError, AttributeError) as error:
                problem = f"the driver cannot be asked: {error}"
            except (RuntimeError, MemoryError, compiler.CompileException) as error:
                problem = str(error).partition("\n")[0]
                final = final and not passing(error)
            held.append(number)
            if not number:
                reasons.append(f"none of {size} blocks: {problem or 'they do not fit'}")
        return Room(shared, tuple(held), tuple(reasons)), final

    def _resident(self, size: int, shared: int) -> int:
        """How many clusters of `size` blocks, each with a multiprocessor of its own, the current
        device holds at once."""
        source, instance, threads = cluster.probe(size)
        kernel = self._kernel(source, instance, shared, size)
        query = ctypes.CDLL("libcuda.so.1").cuOccupancyMaxActiveClusters
        config, attribute = _Config(), _Attribute(id=4)
        attribute.value[:3] = (size, 1, 1)
        config.grid[:], config.block[:] = (size, 1, 1), (threads, 1, 1)
        config.shared, config.count = shared, 1
        config.attributes = ctypes.pointer(attribute)
        found = ctypes.c_int()
        status = query(
            ctypes.byref(found), ctypes.c_void_p(kernel.kernel.ptr), ctypes.byref(config)
        )
        driver.check_status(status)
        return found.value

    def report(self, instance: str) -> int:
        """The address of four int32 of the host, where a kernel in clusters that gives up says so.

        Raises
        ------
        RuntimeError
            If any kernel has given up since the last call.
        """
        for name, (_, numbers) in list(self._reports.items()):
            if numbers[0]:
                said = cluster.gave_up(name, list(numbers))
                numbers[0] = 0
                raise RuntimeError(said)
        if instance not in self._reports:
            memory = cupy.cuda.alloc_pinned_memory(16)  # which kernels can write to, too
            numbers = (ctypes.c_int * 4).from_address(memory.ptr)
            numbers[:] = [0, 0, 0, 0]
            self._reports[instance] = memory, numbers
        return int(self._reports[instance][0].ptr)

    def launch(
        self,
        source: str,
        instance: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared: int = 0,
        cluster: int = 0,
    ) -> None:
        """Start a kernel on the current stream; addresses are int, numbers NumPy's.

        A block of a cluster gets all shared memory, whatever it needs: so no two of them come to
        lie on one multiprocessor, where each would be half as fast, while others idle.
        """
        if cluster:
            shared = self.room().shared
        kernel = self._kernel(source, instance, shared, cluster)
        kernel(grid, block, tuple(args), shared_mem=shared)

    def gemm(self, product: Product) -> None:
        """A matrix product."""
        from cupy_backends.cuda.libs import cublas  # loads the library

        cublas.gemmEx(device.get_cublas_handle(), *self._arguments(product))

    @property
    def language(self) -> str:
        """What the loop over time is written in: C or Python."""
        return "Python" if self.no_c() else "C"

    def no_c(self) -> str:
        """Why it is not C; empty if it is."""
        return loop.ABSENT or entries()[1]

    def repeat(self, calls: Sequence[Call], steps: int) -> None:
        """Make the calls of one step as many times as there are steps, on the current stream.

        Raises
        ------
        Exception
            That of CuPy for the first call that fails, with a note that tells the step.
        """
        if self.no_c():
            loop.repeat(self, calls, steps)
            return
        from cupy_backends.cuda.libs import cublas

        numbers = self._numbers(calls)
        handle, stream = device.get_cublas_handle(), cupy.cuda.get_current_stream().ptr
        # Besides, this makes the device's context that of the thread, and refuses to be captured.
        cublas.setStream(handle, stream)
        self._run(calls, numbers, steps, handle, stream)

    def no_graphs(self) -> str:
        """Why steps cannot run in CUDA graphs; empty if they can."""
        return self.no_c() or capture.library()[1]

    def workspace(self, plan: Plan, *shape: Hashable) -> Workspace:
        """Where the steps of a pass run in a graph; not while the stream is captured."""
        if cupy.cuda.get_current_stream().is_capturing():
            return Workspace(plan)
        return self._graphs.lease(plan, *shape)

    def place(self) -> int:
        """The number of the current device."""
        return int(device.get_device_id())

    def event(self) -> capture.Event:
        """A new event of the current device."""
        return capture.Event()

    def capture(self, calls: Sequence[Call], steps: int) -> capture.Captured:
        """Capture the calls of one step, as often as there are steps."""
        numbers = self._numbers(calls)  # which compiles the kernels
        return capture.Captured(partial(self._run, calls, numbers, steps))

    def passing(self, error: Exception) -> bool:
        """As `passing`."""
        return passing(error)

    def _numbers(self, calls: Sequence[Call]) -> array[int]:
        return loop.numbers_of(calls, self._function, self._arguments)

    def _run(
        self, calls: Sequence[Call], numbers: array[int], steps: int, handle: int, stream: int
    ) -> None:
        """The loop in C, and CuPy's exception if a call fails."""
        from cupy_backends.cuda.libs import cublas

        ended = loop.repeat_in_c(numbers, entries()[0], handle, stream, steps)
        step, number, status = ended
        if status:
            call = calls[number]
            check = cublas.check_status if isinstance(call, Product) else driver.check_status
            try:
                check(status)
            except Exception as error:
                error.add_note(loop.note(call, step, steps))
                raise

    def _function(self, launch: Launch) -> int:
        return int(self._kernel(launch.source, launch.instance, 0, 0).kernel.ptr)

    def _arguments(self, product: Product) -> tuple[Any, ...]:
        """What cublasGemmEx takes after its handle; it stores by columns, so it computes Cᵀ."""
        p = product
        stored, summed = TYPES[p.kind]
        if p.tf32 and p.kind == "float32":
            summed = FAST_TF32
        double = p.kind == "float64"
        one, factor = (ctypes.addressof(self._factors[f, double]) for f in (1.0, p.beta))
        return (
            *(int(p.tb), int(p.ta), p.n, p.m, p.k),
            *(one, p.B, stored, p.ldb, p.A, stored, p.lda),
            *(factor, p.C, TYPES[p.out][0], p.ldc, summed, -1),
        )

    def _kernel(self, source: str, instance: str, shared: int, cluster: int) -> Any:
        key = (device.get_device_id(), instance)
        kernel = self._kernels.get(key)
        if kernel is not None:
            return kernel
        with self._lock:
            kernel = self._kernels.get(key)  # another thread may have made it meanwhile
            if kernel is None:
                module = cupy.RawModule(
                    code=text(source), options=options(instance), name_expressions=(instance,)
                )
                kernel = module.get_function(instance)
                if shared > PLAIN_SHARED:
                    kernel.max_dynamic_shared_size_bytes = shared
                if cluster > 8:
                    driver.funcSetAttribute(kernel.kernel.ptr, NON_PORTABLE_CLUSTER, 1)
                self._kernels[key] = kernel
        return kernel


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute, whose id 4 is the size of a cluster."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_uint * 16))


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )
