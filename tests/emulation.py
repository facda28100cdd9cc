"""The CUDA kernels of the tables on an emulated device, as sequence kernels.

The launches are those of the product; the device is the host (`shim`), where each thread is
a fiber.  New arrays are NaN between guards, and so is W x where a sequence has ended: what a
kernel reads there, or writes beside its arrays, is seen.

Why an emulation, where CUDA made of software runs the tests marked gpu, too (`.ci/run`): it needs
a C++ compiler alone, and shows what depends on the order of threads, what is written beside an
array, and the loss of each barrier (`test_cuda_mutations.py`), in seconds.  It knows nothing of
`CupyRuntime`, cuBLAS, and the PTX of `cluster.cuh`, of which it has versions of its own: only a
device shows faults there.  So each kernel is compared with its cell here, in every dtype, size and
schedule; the laws of whole layers are for the device, and here layers are compared with the cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")

from sequences import AnyCell
from shim import build
from shim.build import Instance
from shim.graphs import InGraphs
from shim.guards import Guarded, Guards
from shim.recorder import ROOM, Recorder, record
from shim.runtime import LikeCupy, ShimRuntime, matrix

from xrnn.backends.cuda import graphs, linear, plan
from xrnn.backends.cuda.cluster import Room
from xrnn.backends.cuda.geometry import KINDS, Geometry
from xrnn.backends.cuda.plan import Product
from xrnn.backends.cuda.tables import CLUSTERED, fused_of
from xrnn.typing import Array

#: for what runs emulated kernels; a module sets it as its pytestmark
EMULATED = [
    pytest.mark.emulated,
    pytest.mark.skipif(bool(build.ABSENT), reason=build.ABSENT),
]


def emulated(test: Any) -> Any:
    """The same for one test."""
    for mark in EMULATED:
        test = mark(test)
    return test


#: storage dtype → the largest error, relative to the largest value
BOUNDS = {"float32": 2e-6, "float64": 1e-14, "float16": 4e-3, "bfloat16": 3e-2}

#: threads in a block: small batches have several, the last with idle threads
BLOCK = 8


class Emulator(InGraphs, ShimRuntime):
    """A Hopper with 132 multiprocessors; counts and names what is launched."""

    def __init__(self, *groups: Iterable[Instance], kernels: Path = build.KERNELS) -> None:
        super().__init__(*groups, kernels=kernels)
        self.guards = Guards()
        self.xp = Guarded(LikeCupy(), self.guards)
        self.launched: list[str] = []
        self._past: Array | None = None
        self._awaited = 0
        self._projections: list[tuple[Array, Array]] = []
        #: columns of W x that launches of the latest forward pass wrote to
        self.overwritten = 0

    def capability(self) -> int:
        return 90

    def room(self) -> Room:
        return ROOM

    def launch(self, source: str, instance: str, *args: Any, **options: Any) -> None:
        self.launched.append(instance)
        super().launch(source, instance, *args, **options)
        for values, before in self._projections:
            changed = (values != before) & ~(np.isnan(values) & np.isnan(before))
            self.overwritten = max(self.overwritten, int(changed.any(axis=0).sum()))

    def begin(self, past_the_end: Array, passes: int) -> None:
        """The next product of each pass is W x: past the end it is overwritten with NaN."""
        self._past, self._awaited, self.overwritten = past_the_end, passes, 0

    def end(self) -> None:
        """The passes are over, and their memory may be gone."""
        self._projections.clear()
        self._awaited = 0

    def gemm(self, product: Product) -> None:
        super().gemm(product)
        if self._awaited and self._past is not None:
            p, self._awaited = product, self._awaited - 1
            values = matrix(p.C, p.m, p.n, p.ldc, p.out)
            values[self._past.reshape(-1)] = np.nan
            self._projections.append((values, values.copy()))


class Watched:
    """A loop of the tables on an emulator, whose arrays are watched."""

    def __init__(self, loop: Any, schedule: int = 0) -> None:
        self.loop, self.runtime, self.schedule = loop, loop.runtime, schedule

    def forward(self, weights: Any, xs: Any, state: Any, *, reverse: bool, **how: Any) -> Any:
        with self._watching(xs, how, 1):
            return self.loop.forward(weights, xs, state, reverse=reverse, **how)

    def backward(self, *given: Any, xp: Any) -> Any:
        with self._watching():
            return self.loop.backward(*given, xp=self.runtime.xp)

    def forward_both(self, passes: Any, xs: Any, **how: Any) -> Any:
        with self._watching(xs, how, len(passes)):
            return self.loop.forward_both(passes, xs, **how)

    def backward_both(self, passes: Any, *, xp: Any) -> Any:
        with self._watching():
            return self.loop.backward_both(passes, xp=self.runtime.xp)

    @contextmanager
    def _watching(self, xs: Any = None, how: Any = None, passes: int = 0) -> Iterator[None]:
        before, self.runtime.schedule = self.runtime.schedule, self.schedule
        if passes:
            how["xp"], lengths = self.runtime.xp, how["lengths"]
            ends = np.full(xs.shape[1], len(xs)) if lengths is None else lengths
            self.runtime.begin(np.arange(len(xs))[:, None] >= ends, passes)
        try:
            yield
        finally:
            self.runtime.schedule = before
            self.runtime.end()
        self.runtime.guards.check()


def use_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that work value by value get blocks of few threads."""
    monkeypatch.setattr(plan, "BLOCK", BLOCK)
    monkeypatch.setattr(linear, "BLOCK", BLOCK)


@cache
def fused_instances() -> frozenset[Instance]:
    """Every kernel that works value by value, and those of the linear cells."""
    recorder = Recorder()
    record(recorder, ((5, 3, 4, 16), (3, 2, 3, 7), (130, 3, 2, 4)))
    return frozenset(recorder.instances)


@cache
def instances_in_graphs() -> frozenset[Instance]:
    """What the same kernels of one step, in graphs, launch besides."""
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(graphs.OPT_IN, "1")
        record(recorder, ((graphs.STEPS, 3, 4, 16), (graphs.STEPS, 2, 3, 7)))
    return frozenset(recorder.instances) - fused_instances()


@cache
def emulator() -> Emulator:
    """The emulator that the kernels of `fused` share."""
    return Emulator(fused_instances())


def loop_of(cell: AnyCell, runtime: Emulator, **how: Any) -> Any:
    """The cell's loop of launches, unwatched."""
    kind = fused_of(cell)
    assert kind is not None
    return kind(runtime, cell, **how)


def fused(cell: AnyCell, schedule: int = 0) -> Watched:
    """The cell's loop of launches."""
    return Watched(loop_of(cell, emulator()), schedule)


@cache
def emulator_with_graphs() -> Emulator:
    """The emulator that what runs in graphs shares."""
    return Emulator(fused_instances(), instances_in_graphs())


def in_graphs(cell: AnyCell, runtime: Emulator | None = None) -> Watched:
    """The cell's loop in graphs."""
    return Watched(loop_of(cell, runtime or emulator_with_graphs(), in_graphs=True))


# ---- clusters ----------------------------------------------------------------------------

#: kind of arithmetic → storage dtype, largest error relative to the largest value
CLUSTER_KINDS = {
    "float16": ("float16", 5e-3),
    "bfloat16": ("bfloat16", 4e-2),
    "tf32": ("float32", 5e-3),
    "float32": ("float32", 5e-6),
}


def small(cell: AnyCell, kind: str, H: int = 64, size: int = 4) -> Geometry:
    """Blocks of 16 units and two warps; some weights in registers, others in shared memory."""
    row_warps = 2 if len(cell.gates) % 2 == 0 else 1
    g = Geometry(cell.name, kind, H, 16, size, 8, 2, row_warps, kept=0, kept_back=0)
    return replace(g, kept=min(1, g.deep), kept_back=min(1, g.deep_back))


def instances(geometries: Iterable[Geometry]) -> list[Instance]:
    """What they launch."""
    return [(g.source, instance) for g in geometries for instance in (g.forward, g.backward)]


@cache
def cluster_emulator() -> Emulator:
    """The emulator with every cell and kind in small clusters, compiled at once."""
    return Emulator(instances(small(c, k) for c in CLUSTERED for k in KINDS))


def clustered(
    cell: AnyCell, geometry: Geometry, runtime: Emulator | None = None, schedule: int = 0
) -> Watched:
    """The cell's loop in one launch, by this very geometry."""
    precision = "tf32" if geometry.kind == "tf32" else "ieee"
    loop: Any = CLUSTERED[cell](runtime or cluster_emulator(), cell, precision)
    loop.geometry = lambda *given: geometry
    return Watched(loop, schedule)
