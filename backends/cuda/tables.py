"""The table of kernels: for every cell its kernels, the fastest first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from importlib import resources
from typing import Any

from xrnn import cells
from xrnn.backends import environment
from xrnn.backends.base import Kernel, Sizes
from xrnn.backends.cuda import cluster, graphs, loop
from xrnn.backends.cuda.cells import (
    FusedElman,
    FusedElmanReLU,
    FusedGRU,
    FusedGRUBefore,
    FusedJANET,
    FusedLSTM,
    FusedMGU,
    FusedPeephole,
)
from xrnn.backends.cuda.cluster import OPT_IN
from xrnn.backends.cuda.clustered import (
    Clustered,
    ClusteredElman,
    ClusteredElmanReLU,
    ClusteredGRU,
    ClusteredLSTM,
)
from xrnn.backends.cuda.fused import Fused
from xrnn.backends.cuda.geometry import Geometry
from xrnn.backends.cuda.linear import FusedInputGated, FusedLinear, FusedMinGRU, pieces
from xrnn.backends.cuda.options import (
    FusedElmanOptions,
    FusedGRUBeforeOptions,
    FusedGRUOptions,
    FusedLSTMOptions,
    WithOptions,
)
from xrnn.backends.cuda.plan import Runtime
from xrnn.cells.base import Cell
from xrnn.cells.options import Options
from xrnn.typing import dtype_name

#: cell → its kernel of one launch a step, and its kernel of one launch for all steps
FUSED: Mapping[Cell[Any], type[Fused]] = {
    cells.Elman: FusedElman,
    cells.ElmanReLU: FusedElmanReLU,
    cells.LSTM: FusedLSTM,
    cells.GRU: FusedGRU,
    cells.GRUBefore: FusedGRUBefore,
    cells.PeepholeLSTM: FusedPeephole,
    cells.JANET: FusedJANET,
    cells.MGU: FusedMGU,
    cells.InputGatedLSTM: FusedInputGated,
    cells.MinGRU: FusedMinGRU,
}
#: family of cells with options (`Options.family`) → their kernel of one launch a step
WITH_OPTIONS: Mapping[str, type[Fused]] = {
    "rnn": FusedElmanOptions,
    "lstm": FusedLSTMOptions,
    "gru": FusedGRUOptions,
    "gru-before": FusedGRUBeforeOptions,
}
CLUSTERED: Mapping[Cell[Any], type[Clustered]] = {
    cells.Elman: ClusteredElman,
    cells.ElmanReLU: ClusteredElmanReLU,
    cells.LSTM: ClusteredLSTM,
    cells.GRU: ClusteredGRU,
}

#: whether clusters, and CUDA graphs, run where the variables `cluster.OPT_IN` and `graphs.OPT_IN`
#: say nothing.  Each is to be switched in the commit that brings the certificate of a real device
#: (benchmarks/results), and not before: a test compares.
BY_DEFAULT = False
GRAPHS_BY_DEFAULT = False


def fused_of(cell: Cell[Any]) -> type[Fused] | None:
    """The kernel of one launch a step that runs a cell; None if there is none."""
    options = cell.made
    if isinstance(options, Options) and options.elementwise:
        return WITH_OPTIONS.get(options.family)
    return FUSED.get(cell)


def kernels(runtime: Runtime, dtypes: frozenset[Any]) -> dict[Cell[Any], tuple[Kernel, ...]]:
    """Cell → its kernels on a device, the best first."""
    return {cell: kernels_of(runtime, dtypes, cell) for cell in FUSED}


def kernels_of(runtime: Runtime, dtypes: frozenset[Any], cell: Cell[Any]) -> tuple[Kernel, ...]:
    """The kernels of one cell, which may have options; new objects at each call."""
    if (kind := fused_of(cell)) is None:
        return ()
    single = frozenset(d for d in dtypes if dtype_name(d) == "float32")
    loops = [_fused(kind(runtime, cell, "bf16"), single)]
    for precision, served in (("tf32", single), ("ieee", dtypes)):
        if cell in CLUSTERED:
            loops += _clustered(CLUSTERED[cell](runtime, cell, precision), served)
        if not issubclass(kind, FusedLinear):
            loops.append(_in_graphs(kind(runtime, cell, precision, in_graphs=True), served))
        loops.append(_fused(kind(runtime, cell, precision), served))
    return tuple(loops)


def _in_graphs(loop: Fused, dtypes: frozenset[Any]) -> Kernel:
    """Verified with steps that are left over, after one graph."""

    def serves(T: int, B: int, I: int, H: int) -> bool:
        return graphs_may_run() and T >= graphs.STEPS and not loop.runtime.no_graphs()

    def trial(T: int, B: int, I: int, H: int) -> Sizes:
        return (graphs.STEPS + 3, *_trial(loop, T, B, I, H)[1:])

    how: dict[str, Any] = {"path": loop.path, "serves": serves, "trial": trial}
    return _entry(loop, dtypes, **how, strict=graphs.strict)


def _fused(loop: Fused, dtypes: frozenset[Any]) -> Kernel:
    words = ", products of bfloat16" if loop.precision == "bf16" else ""

    def path(T: int, B: int, I: int, H: int) -> str:
        return loop.path(T, B, I, H) + words

    return _entry(loop, dtypes, path=path, trial=partial(_trial, loop))


def _trial(loop: Fused, T: int, B: int, I: int, H: int) -> Sizes:
    """If H is a multiple of 4, kernels load vectors of values, else single values.  Few units of a
    cell with options, so that rounding seldom decides at a kink (`xrnn.engine.trial.draws`)."""
    if isinstance(loop, WithOptions):
        return (5, 3, 4, 4) if H % 4 == 0 else (3, 2, 3, 3)
    if isinstance(loop, FusedLinear):
        return (130, 3, 2, 4) if pieces(T, B, H) > 1 else (5, 3, 4, 16)
    return (5, 3, 4, 16) if H % 4 == 0 else (3, 2, 3, 7)


def _clustered(loop: Clustered, dtypes: frozenset[Any]) -> list[Kernel]:
    """One entry for each dtype, as the weights' size decides."""

    def entry(dtype: Any) -> Kernel:
        kind = dtype_name(dtype)

        def serves(T: int, B: int, I: int, H: int) -> bool:
            return clusters_may_run() and loop.geometry(kind, B, H) is not None

        def path(T: int, B: int, I: int, H: int) -> str:
            g = loop.geometry(kind, B, H)
            assert g is not None
            return f"one launch: clusters of {g.cluster} blocks, {g.batch} sequences each"

        def trial(T: int, B: int, I: int, H: int) -> Sizes:
            return (5, _fewest(loop, kind, B, H), 4, H)

        return _entry(loop, frozenset({dtype}), path=path, serves=serves, trial=trial)

    return [entry(dtype) for dtype in dtypes if dtype_name(dtype) != "float64"]


def _fewest(loop: Clustered, kind: str, B: int, H: int) -> int:
    """The fewest sequences that take the same path as B: the geometry is the same, for one
    direction and for two; one slice stays one, and the last of several is not full.  So all B of a
    geometry share one verification."""

    def geometries(b: int) -> list[Geometry | None]:
        return [loop.geometry(kind, b, H, directions) for directions in (1, 2)]

    wanted = geometries(B)
    assert wanted[0] is not None
    step, batch = cluster.BATCHES[0], wanted[0].batch  # no geometry changes within a step
    fewer = range(3 + (batch if batch < B else 0), B + step, step)
    return next((b for b in fewer if geometries(b) == wanted), B)


def _entry(loop: Fused, dtypes: frozenset[Any], **how: Any) -> Kernel:
    return Kernel(
        loop,
        dtypes,
        source,
        precision=loop.precision,
        both=loop,
        **how,
    )


def clusters_may_run() -> bool:
    """Whether clusters run where they can: as the variable says, else by default."""
    return environment.switch(OPT_IN, BY_DEFAULT)


def graphs_may_run() -> bool:
    """Whether graphs run where they can: as the variable says, else by default."""
    return environment.switch(graphs.OPT_IN, GRAPHS_BY_DEFAULT)


def notes(runtime: Runtime) -> list[str]:
    """For `xrnn info`: how far clusters reach, and what keeps them from running."""
    word, room = _switched(OPT_IN, clusters_may_run()), runtime.room()
    held = ", ".join(f"{n} of {size}" for n, size in zip(room.held, cluster.SIZES, strict=True))
    lines = [f"clusters ({word}); the device holds at once: {held} blocks"]
    lines += [f"  {reason}" for reason in room.reasons]
    if not any(room.held):
        return lines
    lines.append("the most hidden units with clusters of 8 / 16 blocks:")
    for (cell, kind), (eight, sixteen) in cluster.table(room.shared).items():
        lines.append(f"  {cell:<12} {kind:<9} {eight} / {sixteen}")
    return lines


def note_of_graphs(runtime: Runtime) -> str:
    """For `xrnn info`: whether steps run in CUDA graphs, and what keeps them from it."""
    words = f"CUDA graphs ({_switched(graphs.OPT_IN, graphs_may_run())})"
    return f"{words}; {reason}" if (reason := runtime.no_graphs()) else words


def _switched(variable: str, on: bool) -> str:
    return f"on; {variable}=0 turns them off" if on else f"off; {variable}=1 turns them on"


@cache
def source() -> str:
    """The code that a verification is valid for: all of this folder, and the compiled loop."""
    here = resources.files("xrnn.backends.cuda")
    files = [file for folder in (here, here / "kernels") for file in folder.iterdir()]
    code = [f for f in files if f.name.endswith((".py", ".cu", ".cuh"))]
    texts = [f.read_text("utf-8") for f in sorted(code, key=lambda f: f.name)]
    return "".join([*texts, loop.source()])
