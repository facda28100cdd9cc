"""Whole sequences on thread-block clusters equal the cells, and no schedule changes a bit.

Inputs are rounded to the storage dtype; the judge is the cell itself on the same values in
float64.  No GPU is needed: the kernels run on the host shim, a fiber for each thread.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuda_clusters import (
    FORMS,
    KINDS,
    LENGTHS,
    B,
    Case,
    Launches,
    T,
    errors,
    instances,
    run,
    same,
    small,
)
from shim import build
from shim.runtime import ShimRuntime

from xrnn.backends.cuda import cluster
from xrnn.backends.cuda.cluster import Geometry, geometries, geometry

SHIM = pytest.mark.skipif(bool(build.ABSENT), reason=build.ABSENT)

each_cell = pytest.mark.parametrize("cell", FORMS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def judge(case: Case) -> None:
    """Every result of the kernels is the cell's."""
    wrong = errors(case, run(case, runtime_of(case.geometry)))
    assert all(error < case.tolerance for error in wrong.values()), wrong


def runtime_of(g: Geometry) -> ShimRuntime:
    """A runtime that compiles together what one source launches for one kind."""
    every = {g, *(small(cell, g.kind) for cell in FORMS if cell[:3] == g.cell[:3])}
    return ShimRuntime(instances(sorted(every, key=str) if g in map(_at_64, every) else [g]))


def _at_64(g: Geometry) -> Geometry:
    return replace(g, H=64)


def resident(size: int) -> int:
    """How many clusters a device of 132 multiprocessors may hold."""
    return {1: 132, 2: 66, 4: 32, 8: 15, 16: 7}[size]


@SHIM
@each_cell
@each_kind
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all", "lengths"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_both_directions_equal_the_cell(
    cell: str, kind: str, lengths: np.ndarray | None, reverse: bool
) -> None:
    """In one launch; outputs, last state, and the gradient of all that goes in."""
    judge(Case(small(cell, kind), lengths=lengths, reverse=reverse, directions=2))


@SHIM
@each_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_the_second_direction_may_be_missing(cell: str, reverse: bool) -> None:
    judge(Case(small(cell, "float16"), lengths=LENGTHS, reverse=reverse))


@SHIM
@each_cell
@each_kind
@pytest.mark.parametrize("H", [51, 33, 1])
def test_units_are_padded(cell: str, kind: str, H: int) -> None:
    """The same kernels serve any H up to units · cluster; whole blocks may be padding."""
    judge(Case(small(cell, kind, H), lengths=LENGTHS, directions=2))


@SHIM
@each_cell
@pytest.mark.parametrize(
    "sizes",
    [{"T": 1}, {"B": 1}, {"B": 8}, {"T": 11}, {"B": 3, "lengths": np.zeros(3, np.int32)}],
    ids=["one step", "one sequence", "one slice", "many steps", "all empty"],
)
def test_corners(cell: str, sizes: dict[str, object]) -> None:
    case = Case(small(cell, "float16"), directions=2, **sizes)  # type: ignore[arg-type]
    found = run(case, runtime_of(case.geometry))
    wrong = errors(case, found)
    assert all(error < case.tolerance for error in wrong.values()), wrong
    if case.lengths is not None:  # nothing happens
        for k in range(2):
            assert np.array_equal(found[f"last h {k}"], case.sets[k]["first"][0])
            assert np.array_equal(found[f"d h {k}"], case.sets[k]["dlast"][0])
            assert not found[f"dxs {k}"].any()


@SHIM
@each_cell
def test_outputs_may_have_no_gradient(cell: str) -> None:
    """dys is null then."""
    judge(Case(small(cell, "float16"), lengths=LENGTHS, directions=2, above=False))


@SHIM
@each_cell
def test_inference_gives_the_same_and_keeps_nothing(cell: str) -> None:
    kept, bare = (
        Launches(
            Case(small(cell, "float16"), lengths=LENGTHS, directions=2, save=save),
            runtime_of(small(cell, "float16")),
        )
        for save in (True, False)
    )
    before = [np.copy(b["gates"]) for b in bare.buffers]  # type: ignore[arg-type]
    kept.forward()
    bare.forward()
    assert same(kept.states(), bare.states())
    for gates, b in zip(before, bare.buffers, strict=True):
        assert gates.tobytes() == b["gates"].tobytes()  # type: ignore[union-attr]


@SHIM
@each_cell
def test_a_slice_ends_with_its_longest_sequence(cell: str) -> None:
    """What stands beyond is neither read nor, but for the state that is kept, written."""
    lengths = np.asarray([2, 0, 3, 1, 2, 2, 2, 1, 5, 4, 1], np.int32)
    g = small(cell, "float16")
    launches = Launches(Case(g, lengths=lengths), runtime_of(g))
    launches.forward()
    gates = launches.buffers[0]["gates"]
    assert gates is not None
    assert np.isnan(gates[3:, :8]).all()
    assert FORMS[cell][1] == 1 or not np.isnan(gates[3:5, 8]).any()


@SHIM
@each_cell
@each_kind
def test_nan_stays_in_its_sequence(cell: str, kind: str) -> None:
    """The ReLU of NaN is NaN, too."""
    case = Case(small(cell, kind))
    clean = run(case, runtime_of(case.geometry))
    case.sets[0]["xs"][2, 3] = np.nan
    found = run(case, runtime_of(case.geometry))
    others = np.arange(B) != 3
    for name in ("ys 0", "dxs 0"):
        assert found[name][:, others].tobytes() == clean[name][:, others].tobytes()
    assert np.isnan(found["ys 0"][2:, 3]).all()
    if cell != "rnn-relu":  # whose slope is 0 there, as the cell has it
        assert np.isnan(found["d h 0"][3]).all()


@SHIM
@each_cell
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_no_schedule_changes_a_bit(cell: str, kind: str) -> None:
    """Whoever runs first, and whoever starves."""
    g = small(cell, kind)
    case = Case(g, T=9, lengths=np.append(LENGTHS[:-1], np.int32(9)), directions=2)
    first = run(case, runtime_of(g))
    for schedule in (1, 5, 100, 101, 103):
        assert same(first, run(replace(case, schedule=schedule), runtime_of(g))), schedule


#: cell, kind, H, B: what is chosen for them differs in cluster, slice and warps
SHAPES = [
    ("lstm", "float16", 96, 3),
    ("lstm", "float32", 128, 9),
    ("lstm", "tf32", 160, 130),
    ("gru", "bfloat16", 128, 40),
    ("gru", "float32", 96, 200),
    ("rnn", "float16", 256, 5),
    ("rnn-relu", "float32", 64, 33),
]


@SHIM
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chosen_geometries_equal_the_cell(shape: tuple[str, str, int, int]) -> None:
    """With the fewest sequences that fill more than one slice."""
    chosen = geometry(*shape, resident)
    assert chosen is not None
    judge(Case(chosen, T=3, B=min(shape[3], chosen.batch + 1)))


@SHIM
@pytest.mark.parametrize("size", cluster.SIZES)
def test_every_cluster_and_slice_equals_the_cell(size: int) -> None:
    """H = 16 units for each block."""
    fit = [g for n in cluster.SIZES for g in geometries("rnn", "bfloat16", 16 * n)]
    fit = [g for g in fit if 16 * g.cluster == g.H and 32 * g.warps * g.cluster <= 2048]
    runtime = ShimRuntime(instances(fit))
    for g in (g for g in fit if g.cluster == size):
        case = Case(g, T=3, B=g.batch + 3, directions=2)
        wrong = errors(case, run(case, runtime))
        assert all(error < case.tolerance for error in wrong.values()), (g, wrong)
    batches = {1: (8,), 2: (8, 16), 4: (8, 16, 32), 8: (8, 16, 32), 16: (8,)}
    assert {g.batch for g in fit if g.cluster == size} == set(batches[size])


@SHIM
def test_sixteen_blocks_of_512_units() -> None:
    """Sums of 512 and 2048 products: three of tf32 are as good as one of float32."""
    chosen = geometry("lstm", "float32", 512, 8, resident)
    assert chosen is not None
    assert chosen.cluster == 16
    case = Case(chosen, T=2, B=5)
    wrong = errors(case, run(case, ShimRuntime(instances([chosen]))))
    assert all(error < 1e-6 for error in wrong.values()), wrong


@SHIM
def test_shared_memory_is_what_the_kernels_use(tmp_path: Path) -> None:
    """The compiler compares every geometry of some shapes."""
    lines = ['#include "shim.h"', '#include "cluster_blocks.cuh"']
    for cell, kind, H in (("lstm", "float16", 512), ("gru", "float32", 256), ("rnn", "tf32", 96)):
        for g in geometries(cell, kind, H):
            for name, gates_first, bytes_ in (
                ("Forward", g.forward, g.shared_forward),
                ("Backward", g.backward, g.shared_backward),
            ):
                policy, *rest = gates_first.partition("<")[2].rstrip(">").split(", ")
                rest = rest[1:] if cell == "rnn" else rest
                gates = cluster.CELLS[cell].gates
                shape = f"{name}<{policy}, {gates}, {', '.join(rest)}>"
                lines.append(f"static_assert({shape}::bytes == {bytes_});")
    assert len(lines) > 40
    program = tmp_path / "bytes.cpp"
    program.write_text("\n".join(lines))
    include = [f"-I{build.HERE}", f"-I{build.KERNELS}"]
    command = [build.COMPILER, *build.FLAGS, "-fsyntax-only", *include, str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]


def test_what_fits_fits() -> None:
    for cell in cluster.CELLS:
        for kind in cluster.KINDS:
            for H in (1, 32, 96, 200, 512):
                for g in geometries(cell, kind, H):
                    assert g.width >= H
                    assert g.shared == max(g.shared_forward, g.shared_backward) <= cluster.SHARED
                    assert 0 <= g.kept <= g.deep
                    assert 0 <= g.kept_back <= g.deep_back
                    kept = 4 * max(g.tiles * g.kept, g.tiles_back * g.kept_back)
                    assert kept * g.block[0] <= cluster.REGISTERS
                    assert g.pairs <= cluster.MOST_PAIRS


def test_the_table_of_the_docstring_is_computed() -> None:
    """The largest H, by cell and kind, for clusters of 8 and of 16 blocks."""
    told = {}
    for line in str(cluster.__doc__).splitlines():
        pairs = re.findall(r"(\d+) / (\d+)", line)
        for kind, pair in zip(cluster.KINDS, pairs, strict=False):
            told[line.split()[0], kind] = tuple(map(int, pair))
    assert told == cluster.table()


def test_nothing_is_chosen_that_cannot_run() -> None:
    assert geometry("peephole", "float16", 64, 8, resident) is None
    assert geometry("lstm", "float64", 64, 8, resident) is None
    assert geometry("lstm", "float16", 2048, 8, resident) is None
    assert geometry("lstm", "float16", 64, 8, lambda size: 0) is None
    # H = 512 needs sixteen blocks, or eight at the cost of more weights in shared memory
    chosen = geometry("lstm", "float16", 512, 8, lambda size: 4 if size <= 8 else 0)
    assert chosen is not None
    assert chosen.cluster == 8
    assert geometry("lstm", "float16", 512, 8, lambda size: 4 if size <= 4 else 0) is None


def test_slices_grow_when_the_device_is_full() -> None:
    chosen = [geometry("lstm", "float16", 512, n, lambda size: 112 // size) for n in (8, 56, 224)]
    batches = [0 if g is None else g.batch for g in chosen]
    assert batches == sorted(batches)
    assert batches[0] == 8
    assert batches[-1] > 8
    # beyond some waves of the largest slices it is left to products of the whole batch
    assert geometry("lstm", "float16", 512, 10_000, lambda size: 112 // size) is None
    assert geometry("lstm", "float16", 512, 440, lambda size: 112 // size) is not None
    assert geometry("lstm", "float16", 512, 440, lambda size: 112 // size, directions=2) is None


def test_a_geometry_names_its_launches() -> None:
    g = Geometry("rnn-relu", "tf32", 50, 16, 4, 16, 4, 1, 2, 3)
    assert g.source == "rnn_cluster.cu"
    assert g.forward == "rnn_cluster_forward<Tf32, 1, 16, 4, 2, 4, 1, 2>"
    assert g.backward == "rnn_cluster_backward<Tf32, 1, 16, 4, 2, 4, 3>"
    assert g.block == (128,)
    assert g.grid(33, 2) == (12, 2)
    assert T < B  # the padding of a slice is tested


@pytest.mark.parametrize("size", cluster.SIZES)
def test_the_probe_is_a_kernel_of_a_geometry(size: int) -> None:
    """It asks for all shared memory, so that one block is on a multiprocessor."""
    g = Geometry("rnn", "float16", 16 * size, 16, size, 8, 1, 1, kept=0, kept_back=0)
    assert cluster.probe(size) == (g.source, g.forward, *g.block, cluster.SHARED, g.cluster)
