"""Every kernel that can be launched compiles for the GPUs it serves, and fits their registers.

No GPU is needed: the tables are run against a device that only remembers what it is asked to
launch, NVRTC is a library, and its machine code says what each kernel needs.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import product
from math import prod
from pathlib import Path

import pytest
from shim import nvrtc
from shim.nvrtc import Usage
from shim.recorder import HELD, Recorder, record

from xrnn.backends.cuda import cluster, graphs
from xrnn.backends.cuda.geometry import CELLS, KINDS, Geometry

CHECKOUT = pytest.mark.skipif(not nvrtc.KERNELS.is_dir(), reason="the sources are not beside us")
pytestmark = CHECKOUT
MISSING = nvrtc.missing()
COMPILES = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
NO_CUOBJDUMP = "cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)"

#: Ampere, Hopper, Blackwell; kernels of thread-block clusters exist from Hopper on
GENERATIONS, CLUSTERS = (80, 90, 100), (90, 100)
CLUSTER = [name for name in nvrtc.sources() if name.endswith("_cluster.cu")]

#: sizes (T, B, I, H) that the tables are run on: units in vectors, one by one, many steps of
#: few sequences, what clusters serve, and graphs of units one by one
SIZES = (
    *((5, 3, 4, 16), (3, 2, 3, 7), (130, 3, 2, 4), (1000, 1, 2, 64), (64, 16, 8, 256)),
    (64, 2, 3, 7),
)

#: sequences and units of clusters; 0 units are the most that fit.  Blackwell sees fewer: the
#: sources are the same, and each instance takes half a second.  With the variable
#: XRNN_EVERY_GEOMETRY set, whatever `cluster.geometries` yields is compiled (ten minutes)
CLUSTER_SIZES = {90: ((16, 256), (8, 0)), 100: ((64, 512),)}

#: registers of a multiprocessor, and of a thread where nothing else is said: with 64 of them
#: half of the threads it can hold are resident, enough to hide the way to memory
ALL_REGISTERS, REGISTERS = 65536, 64

#: two registers hold a double; the linear kernels keep several steps in flight on purpose
MORE_REGISTERS = {"double": 128, "linear.cu": 128}


@cache
def launched() -> dict[str, dict[str, int]]:
    """Source → instance → threads in its block, of all that can be launched."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for capability in GENERATIONS:
        recorder = Recorder(capability)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(cluster.OPT_IN, "1")
            patch.setenv(graphs.OPT_IN, "1")
            record(recorder, SIZES)
        for source, instance, _, block, _, _ in recorder.launches:
            found[source][instance] = prod(block)
    return found


@cache
def in_clusters(source: str, generation: int) -> dict[str, int]:
    """Instance → threads in its block, of what clusters of this generation can launch."""
    found: dict[str, int] = {}
    for cell, kind in product(CELLS, KINDS):
        for geometry in geometries(cell, kind, generation):
            if geometry.source == source:
                found |= dict.fromkeys([geometry.forward, geometry.backward], *geometry.block)
    return found


def geometries(cell: str, kind: str, generation: int) -> Iterator[Geometry]:
    """Those that are compiled."""
    most = cluster.largest(cell, kind)
    if os.environ.get("XRNN_EVERY_GEOMETRY"):
        for H in range(16, most + 1, 16):
            yield from cluster.geometries(cell, kind, H)
        return
    for B, H in CLUSTER_SIZES[generation]:
        geometry = cluster.geometry(cell, kind, H or most, B, HELD.__getitem__)
        if geometry is not None:
            yield geometry


def instances(source: str, generation: int) -> dict[str, int]:
    """What is compiled of a source for a generation, and the threads of its blocks."""
    if source not in CLUSTER:
        return launched().get(source, {})
    asked = launched().get(source, {}) if generation == CLUSTERS[0] else {}
    return {**asked, **in_clusters(source, generation)}


def generations(source: str) -> tuple[int, ...]:
    return CLUSTERS if source in CLUSTER else GENERATIONS


def kernel_of(instance: str) -> str:
    return instance.removeprefix("in_graph<").partition("<")[0]


def most_registers(source: str, instance: str, threads: int) -> int:
    """How many a thread of this instance may use."""
    if source in CLUSTER:  # one block has the multiprocessor, each quarter of it some warps
        warps_of_a_quarter = -(-threads // 128)
        return min(255, ALL_REGISTERS // (128 * warps_of_a_quarter) // 8 * 8)
    words = {source, *re.findall(r"\w+", instance)}
    return max((cap for word, cap in MORE_REGISTERS.items() if word in words), default=REGISTERS)


def greedy(source: str, used: dict[str, Usage], threads: dict[str, int]) -> list[str]:
    """The instances that keep registers in memory, or take more than they may."""
    wrong = []
    for name, usage in used.items():
        allowed = most_registers(source, name, threads[name])
        if usage.stack or usage.local or usage.registers > allowed:
            wrong.append(f"{name}: {usage}, allowed {allowed} registers and no stack")
    return wrong


def test_every_kernel_is_launched_and_every_launch_has_its_kernel() -> None:
    written = {
        name: nvrtc.kernels((nvrtc.KERNELS / name).read_text("utf-8")) for name in nvrtc.sources()
    }
    asked = {
        source: {kernel_of(name) for g in generations(source) for name in instances(source, g)}
        for source in nvrtc.sources()
    }
    assert asked == {name: set(kernels) for name, kernels in written.items()}
    assert all(len(set(kernels)) == len(kernels) for kernels in written.values())


@COMPILES
@pytest.mark.parametrize(
    ("source", "generation"), [(s, g) for s in nvrtc.sources() for g in generations(s)]
)
def test_compiles_without_spilling(source: str, generation: int, tmp_path: Path) -> None:
    from xrnn.backends.cuda import runtime

    threads = instances(source, generation)
    forms: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in threads:
        forms[runtime.options(name)].append(name)
    used: dict[str, Usage] = {}
    for options, names in forms.items():
        cubin, mangled = nvrtc.compiled(runtime.text(source), names, generation, options)
        assert set(mangled) == set(names)
        if nvrtc.cuobjdump() is not None:
            found = nvrtc.usage(cubin, tmp_path)
            assert set(found) == set(mangled.values())
            used |= {name: found[mangled[name]] for name in names}
    if nvrtc.cuobjdump() is None:
        pytest.skip(f"compiled; what they use is not known: {NO_CUOBJDUMP}")
    assert greedy(source, used, threads) == []


def test_every_kernel_of_a_step_is_compiled_in_both_forms() -> None:
    """By itself, and as a part of a graph."""
    found = {kernel: set[str]() for kernel in ("alone", "in a graph")}
    for source in nvrtc.sources():
        if "STEP_KERNEL" in (nvrtc.KERNELS / source).read_text("utf-8"):
            for name in instances(source, GENERATIONS[0]):
                inner = name.removeprefix("in_graph<")
                found["alone" if inner == name else "in a graph"].add(
                    name if inner == name else inner.removesuffix(">")
                )
    assert found["alone"] == found["in a graph"] != set()


#: what PTX calls the shared memory, the barriers and the number of a block of a cluster
OF_A_CLUSTER = re.compile(r"mapa|shared::cluster|barrier\.cluster|cluster_ctarank|mbarrier")


@COMPILES
@pytest.mark.parametrize("source", CLUSTER)
def test_one_block_uses_no_address_of_a_cluster(source: str) -> None:
    """compute-sanitizer calls that an invalid write; what is looked for is there in two blocks."""
    from xrnn.backends.cuda import runtime

    fit = [g for cell, kind in product(CELLS, KINDS) for g in cluster.geometries(cell, kind, 32)]
    for size in (1, 2):
        found = [g for g in fit if (g.source, g.cluster, g.batch) == (source, size, 8)]
        names = {name for g in found for name in (g.forward, g.backward)}
        ptx, mangled = nvrtc.compiled(runtime.text(source), names, 90, method="ptx")
        kernels = ptx.decode("latin-1").split(".entry ")[1:]
        assert len(kernels) == len(mangled) > 7
        assert {bool(OF_A_CLUSTER.search(kernel)) for kernel in kernels} == {size > 1}


@COMPILES
def test_a_fault_is_told_with_its_place() -> None:
    from cupy.cuda.compiler import CompileException

    text = "template <class T> __global__ void f(T* x) { *x = unheard; }"
    with pytest.raises(CompileException, match='"unheard" is undefined'):
        nvrtc.compiled(text, ["f<int>"], 90)


@COMPILES
@pytest.mark.skipif(nvrtc.cuobjdump() is None, reason=NO_CUOBJDUMP)
def test_spills_and_greed_are_seen(tmp_path: Path) -> None:
    text = """
    template <int N> __global__ void keeps(const int* from, int* to) {
      int all[N];
      for (int k = 0; k < N; k++) all[k] = from[k];
      for (int k = 0; k < N; k++) to[k] = all[from[k] % N];
    }
    template <int N> __global__ void takes(const volatile float* from, float* to) {
      float all[N];
    #pragma unroll
      for (int k = 0; k < N; k++) all[k] = from[k];
      __syncthreads();
    #pragma unroll
      for (int k = 0; k < N; k++) to[k] = all[k] * all[(k + 1) % N];
    }"""
    names = ["keeps<64>", "takes<4>", "takes<100>"]
    cubin, mangled = nvrtc.compiled(text, names, 90)
    found = nvrtc.usage(cubin, tmp_path)
    used = {name: found[mangled[name]] for name in names}
    assert used["keeps<64>"].stack >= 256
    assert used["takes<100>"].registers > 64 > used["takes<4>"].registers
    wrong = greedy("lstm.cu", used, dict.fromkeys(names, 128))
    assert [kernel.partition(":")[0] for kernel in wrong] == ["keeps<64>", "takes<100>"]


def test_kernels_are_found_however_they_are_written() -> None:
    text = """
    // __global__ void not_this(int x) {}
    template <class T>
    __global__ void plain(int B, T* x) {}
    extern "C" __global__ void __cluster_dims__(8) clustered(int n) { g(n); }
    template <int N> __global__ void
        __launch_bounds__(32 * (N + 1), 1) __cluster_dims__(C(N), 1, 1)
        bounded(const float* x, int n) { other(n); }
    """
    assert nvrtc.kernels(text) == ["plain", "clustered", "bounded"]


@pytest.mark.parametrize(
    ("source", "instance", "threads", "allowed"),
    [
        ("lstm.cu", "lstm_forward<__half, 4>", 128, 64),
        ("lstm.cu", "lstm_forward<double, 4>", 128, 128),
        ("linear.cu", "mingru_forward<float>", 256, 128),
        ("lstm_cluster.cu", "lstm_cluster_forward<Half, 512, 16>", 512, 128),
        ("lstm_cluster.cu", "lstm_cluster_forward<Half, 64, 4>", 128, 255),
        ("lstm_cluster.cu", "lstm_cluster_forward<Half, 80, 16>", 320, 168),
    ],
)
def test_allowed_registers(source: str, instance: str, threads: int, allowed: int) -> None:
    assert most_registers(source, instance, threads) == allowed
