"""Whole sequences on thread-block clusters equal the cells, and no schedule changes a bit.

Inputs are rounded to the storage dtype; the reference is the cell's own loop on the same
values in float64.  The device is emulated, a fiber for each thread.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from emulation import (
    CLUSTER_KINDS,
    Emulator,
    clustered,
    emulated,
    instances,
    small,
)
from sequences import (
    AnyCell,
    Case,
    close,
    forward,
    reference,
    run,
    run_both,
    same,
)
from shim import build
from tails import Tail, each_tail, keeps_its_digits

from xrnn.backends.cuda import cluster
from xrnn.backends.cuda.cluster import geometries, geometry
from xrnn.backends.cuda.geometry import CELLS, KINDS, SHARED, Geometry
from xrnn.backends.cuda.tables import CLUSTERED

each_cell = pytest.mark.parametrize("cell", CLUSTERED, ids=lambda cell: cell.name)
each_kind = pytest.mark.parametrize("kind", CLUSTER_KINDS)

#: two slices, the second with padding; a length for each sequence, 0 and T among them
T, B = 5, 11
LENGTHS = [5, 0, 3, 1, 4, 2, 2, 5, 3, 0, 1]


def case_of(cell: AnyCell, kind: str, H: int = 64, T: int = T, B: int = B, **how: Any) -> Case:
    return Case(cell, (T, B, 6, H), CLUSTER_KINDS[kind][0], **how)


def equals_the_cell(g: Geometry, case: Case, emulator: Emulator | None = None) -> None:
    """Both directions in one launch; outputs, last state, gradients of all that goes in."""
    kernel = clustered(case.cell, g, emulator)
    before = len(kernel.runtime.launched)
    cases, results = run_both(kernel, case)
    assert kernel.runtime.launched[before] == g.forward
    for one, found in zip(cases, results, strict=True):
        close(found, reference(one), CLUSTER_KINDS[g.kind][1])
        checks.padding_is_zero(one, found)


def resident(size: int) -> int:
    """How many clusters a device of 132 multiprocessors may hold."""
    return {1: 132, 2: 66, 4: 32, 8: 15, 16: 7}[size]


@emulated
@each_cell
@each_kind
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all", "lengths"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_both_directions_equal_the_cell(
    cell: AnyCell, kind: str, lengths: list[int] | None, reverse: bool
) -> None:
    equals_the_cell(small(cell, kind), case_of(cell, kind, lengths=lengths, reverse=reverse))


@emulated
@each_cell
def test_the_second_direction_may_be_missing(cell: AnyCell) -> None:
    kernel, bound = clustered(cell, small(cell, "float16")), CLUSTER_KINDS["float16"][1]
    checks.equals_the_cell(kernel, case_of(cell, "float16"), bound)


@emulated
@each_cell
@each_kind
@pytest.mark.parametrize("H", [51, 33, 1])
def test_units_are_padded(cell: AnyCell, kind: str, H: int) -> None:
    """The same kernels serve any H up to units · cluster; whole blocks may be padding."""
    # One unit: a seed whose sums do not cancel.
    equals_the_cell(small(cell, kind, H), case_of(cell, kind, H, lengths=LENGTHS, seed=4))


@emulated
@each_cell
@pytest.mark.parametrize(
    "sizes",
    [{"T": 1}, {"B": 1}, {"B": 8}, {"T": 11}, {"B": 3, "lengths": [0, 0, 0]}],
    ids=["one step", "one sequence", "one slice", "many steps", "all empty"],
)
def test_corners(cell: AnyCell, sizes: Any) -> None:
    equals_the_cell(small(cell, "float16"), case_of(cell, "float16", **sizes))


@emulated
@each_tail(CLUSTERED)
@pytest.mark.parametrize(
    ("kind", "bound"),
    [("float32", 1.1e-5), ("tf32", 1.1e-5), ("float16", 1e-3), ("bfloat16", 8e-3)],
)
def test_small_values_of_gates_keep_their_digits(
    cell: AnyCell, tail: Tail, kind: str, bound: float
) -> None:
    kernel, dtype = clustered(cell, small(cell, kind)), CLUSTER_KINDS[kind][0]
    keeps_its_digits(kernel, cell, tail, dtype, bound, 64)


@emulated
@each_cell
def test_outputs_may_have_no_gradient(cell: AnyCell) -> None:
    kernel, bound = clustered(cell, small(cell, "float16")), CLUSTER_KINDS["float16"][1]
    checks.outputs_may_have_no_gradient(kernel, case_of(cell, "float16"), bound)


@emulated
@each_cell
@each_kind
def test_padding_is_not_read(cell: AnyCell, kind: str) -> None:
    kernel = clustered(cell, small(cell, kind))
    checks.padding_is_not_read(kernel, case_of(cell, kind, lengths=LENGTHS))
    checks.infinite_weights_leave_the_padding_zero(kernel, case_of(cell, kind, lengths=LENGTHS))


@emulated
@each_cell
def test_backward_may_run_twice(cell: AnyCell) -> None:
    checks.backward_may_run_twice(clustered(cell, small(cell, "float16")), case_of(cell, "float16"))


@emulated
@each_cell
def test_inference_gives_the_same_and_keeps_nothing(cell: AnyCell) -> None:
    kernel, case = clustered(cell, small(cell, "float16")), case_of(cell, "float16")
    checks.inference_is_the_same(kernel, case)
    _, kept = run_both(kernel, replace(case, lengths=LENGTHS))
    _, bare = run_both(kernel, replace(case, lengths=LENGTHS), keep=False)
    assert kernel.runtime.overwritten == 0
    for one, other in zip(bare, kept, strict=True):
        same(one, {name: other[name] for name in one})


@emulated
@each_cell
def test_a_slice_ends_with_its_longest_sequence(cell: AnyCell) -> None:
    """What stands beyond is neither read nor, but for the state that is kept, written."""
    lengths = [2, 0, 3, 1, 2, 2, 2, 1, 5, 4, 1]
    case = case_of(cell, "float16", lengths=lengths)
    residuals = forward(clustered(cell, small(cell, "float16")), case)[2]
    if residuals.gates is not None:
        assert np.isnan(residuals.gates[3:, :8, : len(cell.gates) * 64]).all()
        assert not np.isnan(residuals.gates[3:5, 8]).any()


@emulated
@each_cell
@each_kind
def test_nan_stays_in_its_sequence(cell: AnyCell, kind: str) -> None:
    """The ReLU of NaN is NaN, too."""
    checks.nan_stays_in_its_sequence(clustered(cell, small(cell, kind)), case_of(cell, kind), 3)


@emulated
@each_cell
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_no_schedule_changes_a_bit(cell: AnyCell, kind: str) -> None:
    """Whoever runs first, and whoever starves."""
    g, case = small(cell, kind), case_of(cell, kind, T=9, lengths=[*LENGTHS[:-1], 9])
    _, expected = run_both(clustered(cell, g), case)
    for schedule in (1, 5, 100, 101, 103):
        _, found = run_both(clustered(cell, g, schedule=schedule), case)
        for one, other in zip(found, expected, strict=True):
            same(one, other)


@cache
def split_emulator() -> Emulator:
    """float32 in small clusters, its weights split once, compiled at once."""
    return Emulator(instances(replace(small(c, "float32"), split=True) for c in CLUSTERED))


@emulated
@each_cell
def test_weights_that_are_split_once_give_the_same_bits(cell: AnyCell) -> None:
    """As those that are split in every step."""
    g, case = small(cell, "float32"), case_of(cell, "float32", lengths=LENGTHS)
    _, expected = run_both(clustered(cell, g), case)
    _, found = run_both(clustered(cell, replace(g, split=True), split_emulator()), case)
    for one, other in zip(found, expected, strict=True):
        same(one, other)


def test_weights_are_split_once_where_there_is_room() -> None:
    found = {H: choose_at(H) for H in (128, 256, 384, 512)}
    assert {H for H, g in found.items() if g.split} == {128, 256}
    whole = replace(found[256], split=False)
    assert whole.instructions(True) > 1.5 * found[256].instructions(True)
    assert whole.in_shared(2, 8, 4) * 2 == found[256].in_shared(2, 8, 4)
    assert "<IeeeSplit, " in found[256].forward
    assert "<IeeeWhole, " in found[512].backward


def choose_at(H: int) -> Geometry:
    chosen = geometry("lstm", "float32", H, 16, resident)
    assert chosen is not None
    return chosen


def test_a_device_with_less_shared_memory_has_clusters() -> None:
    """Of 99 KB, on consumer Blackwell: small layers need a quarter of it."""
    chosen = geometry("lstm", "float16", 256, 16, resident, shared=99 * 1024)
    assert chosen is not None
    assert chosen.shared < 27 * 1024
    for H in (256, 384, 512):
        assert all(g.shared <= 99 * 1024 for g in geometries("lstm", "float16", H, 99 * 1024))
    assert geometry("lstm", "tf32", 512, 16, resident, shared=99 * 1024) is None
    assert geometry("lstm", "tf32", 512, 16, resident) is not None


#: kind, H, B: what is chosen for them differs in cluster, slice and warps
SHAPES = [
    ("float16", 96, 3),
    ("float32", 128, 9),
    ("tf32", 160, 130),
    ("bfloat16", 128, 40),
    ("float32", 96, 200),
    ("float16", 256, 5),
    ("float32", 64, 33),
]
CHOSEN = list(zip(cycle(CLUSTERED), SHAPES, strict=False))


def choose(cell: AnyCell, kind: str, H: int, B: int) -> Geometry:
    chosen = geometry(cell.name, kind, H, B, resident)
    assert chosen is not None
    return chosen


@cache
def chosen_emulator() -> Emulator:
    """All of them, compiled at once."""
    return Emulator(instances(choose(cell, *shape) for cell, shape in CHOSEN))


@emulated
@pytest.mark.parametrize(("cell", "shape"), CHOSEN, ids=str)
def test_chosen_geometries_equal_the_cell(cell: AnyCell, shape: tuple[str, int, int]) -> None:
    """With the fewest sequences that fill more than one slice."""
    kind, H, most = shape
    chosen = choose(cell, *shape)
    case = case_of(cell, kind, H, T=3, B=min(most, chosen.batch + 1))
    equals_the_cell(chosen, case, chosen_emulator())


def fitting() -> list[Geometry]:
    """Every cluster and slice of the smallest cell, for H = 16 units of each block."""
    cell = min(CLUSTERED, key=lambda cell: (len(cell.gates), not cell.analytic))
    fit = [g for n in cluster.SIZES for g in geometries(cell.name, "bfloat16", 16 * n)]
    return [g for g in fit if 16 * g.cluster == g.H and 32 * g.warps * g.cluster <= 2048]


@emulated
@pytest.mark.parametrize("size", cluster.SIZES)
def test_every_cluster_and_slice_equals_the_cell(size: int) -> None:
    emulator, fit = Emulator(instances(fitting())), [g for g in fitting() if g.cluster == size]
    by_name = {cell.name: cell for cell in CLUSTERED}
    for g in fit:
        case = case_of(by_name[g.cell], g.kind, g.H, T=3, B=g.batch + 3)
        equals_the_cell(g, case, emulator)
    batches = {1: (8,), 2: (8, 16), 4: (8, 16, 32), 8: (8, 16, 32), 16: (8, 16, 32)}
    assert {g.batch for g in fit} == set(batches[size])


@emulated
def test_sixteen_blocks_of_512_units() -> None:
    """Sums of 512 and 2048 products: three of tf32 are as good as one of float32."""
    cell = max(CLUSTERED, key=lambda cell: len(cell.gates))
    chosen = choose(cell, "float32", 512, 8)
    assert chosen.cluster == 16
    case = case_of(cell, "float32", 512, T=2, B=5)
    found = run(clustered(cell, chosen, Emulator(instances([chosen]))), case)
    close(found, reference(case), 1e-6)


@emulated
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
                gates = CELLS[cell].gates
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
    for cell in CELLS:
        for kind in KINDS:
            for H in (1, 32, 96, 200, 512):
                for g in geometries(cell, kind, H):
                    assert g.width >= H
                    assert g.shared == max(g.shared_forward, g.shared_backward) <= SHARED
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
        for kind, pair in zip(KINDS, pairs, strict=False):
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
    assert B % small(next(iter(CLUSTERED)), "tf32").batch  # the padding of a slice is tested


@pytest.mark.parametrize("size", cluster.SIZES)
def test_the_probe_is_a_kernel_of_that_size(size: int) -> None:
    source, instance, threads = cluster.probe(size)
    assert source == "rnn_cluster.cu"
    assert instance == f"rnn_cluster_forward<Half, 0, 16, {size}, 1, 1, 1, 0>"
    assert threads == 32
