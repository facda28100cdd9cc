"""Mutation tests of the cluster kernels: every barrier is needed, and its loss is detected.

A mutant is the product's source with one edit.  It must be detected by a wrong result, by a
result that depends on the schedule, or by a failure (a deadlock, memory of a block that has
ended).  So the tests of these kernels can fail, and the emulated device shows races.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import pytest
from emulation import CLUSTER_KINDS, Emulator, clustered, emulated, instances, small
from sequences import AnyCell, Case, Results, gap, reference, run, same
from shim import build
from shim.build import Instance

from xrnn.backends.cuda.geometry import Geometry
from xrnn.backends.cuda.tables import CLUSTERED

BLOCKS, COMMON = "cluster_blocks.cuh", "cluster_products.cuh"
#: name → cell, one for each source of kernels
CELLS = {small(c, "float16").source.partition("_")[0]: c for c in reversed(list(CLUSTERED))}
SOURCES = {name: f"{name}_cluster.cu" for name in CELLS}
SCHEDULES = (0, 1, 5, 100, 101, 102, 103, 105)


class Mutant(NamedTuple):
    """One edit: the `which`-th of all places where `old` stands in `file`, of `many`."""

    name: str
    cell: str
    backward: bool
    file: str
    old: str
    new: str
    which: int = 0
    many: int = 1


def _of_each_cell() -> list[Mutant]:
    """What stands in the kernels themselves; forward first, then backward."""
    sync, cluster = "__syncthreads();", "block.sync();"
    announced = ("block.expect(s + 1);", "block.expect(s);")
    awaited = ("if (s > 0) block.wait(s);", "block.wait(s);\n    UNROLL")
    mutants: list[Mutant] = []
    for cell, file in SOURCES.items():
        for back in (False, True):
            which_pass = f"{cell} {'backward' if back else 'forward'}"
            # forward stands first in the file
            edits: tuple[tuple[str, str, str, int, int], ...] = (
                ("no barrier before the sums are read", sync, "", 2 * back, 4),
                ("no barrier before the results are sent", sync, "", 2 * back + 1, 4),
                ("no barrier of the cluster at the start", cluster, "", int(back), 2),
                ("bytes are not announced", announced[back], ";", 0, 1),
                ("no wait", awaited[back], "UNROLL" if back else "", 0, 1),
                ("no end", "if (t < end[j]) ", "if (true) ", int(back), 2),
            )
            for what, old, new, which, many in edits:
                name = f"{which_pass}: {what}"
                mutants.append(Mutant(name, cell, back, file, old, new, which, many))
    return mutants


#: what stands in the parts that all cells share, tried on the smallest
SHARED = [
    Mutant(*mutant)
    for mutant in (
        (
            *("forward: the wrong phase is awaited", "rnn", False, BLOCKS),
            *("((s - 1) >> 1) & 1", "(s >> 1) & 1"),
        ),
        (
            *("forward: one buffer for the state", "rnn", False, BLOCKS),
            *("(s & 1) * ", "0 * ", -1, 4),
        ),
        (
            *("forward: one barrier for both buffers", "rnn", False, BLOCKS),
            *(
                "send(staged, Units * size, state, ld * size, s & 1)",
                "send(staged, Units * size, state, ld * size, 0)",
            ),
        ),
        (
            *("forward: fewer bytes announced", "rnn", False, BLOCKS),
            *("C * staged_bytes", "(C - 1) * staged_bytes"),
        ),
        (
            *("forward: the second barrier is not set up", "rnn", False, BLOCKS),
            *("      mbarrier_init(barriers + 1);", ""),
        ),
        (
            *("forward: every thread announces", "rnn", False, BLOCKS),
            *("if (exchanges && thread == 0) mbarrier_expect", "mbarrier_expect"),
        ),
        (
            *("forward: one piece too few is sent", "rnn", False, BLOCKS),
            *(
                "lanes = Threads / C, pieces = Batch * Across;",
                "lanes = Threads / C, pieces = Batch * Across - 1;",
            ),
        ),
        (
            *("backward: the wrong phase is awaited", "rnn", True, BLOCKS),
            *("await(s & 1, (s >> 1) & 1);", "await(s & 1, ((s + 1) >> 1) & 1);"),
        ),
        (
            *("backward: one buffer for the shares", "rnn", True, BLOCKS),
            *("(s & 1) * ", "0 * ", -1, 4),
        ),
        (
            *("backward: one barrier for both buffers", "rnn", True, BLOCKS),
            *("share, Units * 4, s & 1);", "share, Units * 4, 0);"),
        ),
        (
            *("backward: fewer bytes announced", "rnn", True, BLOCKS),
            *("announce(s & 1, share_bytes", "announce(s & 1, share_bytes - 16"),
        ),
        (
            *("backward: one share left out", "rnn", True, BLOCKS),
            *("block = 1; block < C", "block = 2; block < C"),
        ),
        (
            *("weights in registers from the wrong place", "rnn", True, COMMON),
            *("k == to ?", "k == to + 1 ?"),
        ),
        (
            *("weights in shared memory from the wrong place", "lstm", False, COMMON),
            *(
                "if (k >= Kept) rest[place(m, k, part)]",
                "if (k >= Kept) rest[place(m, k, part) + 1]",
            ),
        ),
    )
]

MUTANTS = [*_of_each_cell(), *SHARED]


def geometry_of(cell: AnyCell) -> Geometry:
    """Two blocks, whose barriers go through several phases."""
    return small(cell, "float16", H=32, size=2)


def case_of(cell: AnyCell) -> Case:
    """Some sequences end early."""
    return Case(cell, (9, 5, 6, 32), "float16", [9, 7, 9, 0, 8])


@cache
def expected_of(cell: AnyCell) -> Results:
    return reference(case_of(cell))


def instance_of(mutant: Mutant) -> Instance:
    """The kernel that a mutant is a version of."""
    g = geometry_of(CELLS[mutant.cell])
    return g.source, g.backward if mutant.backward else g.forward


@cache
def compiled(cell: str) -> tuple[dict[Instance, Any], dict[Mutant, Any]]:
    """The kernels as they are, and the mutants, all of a cell compiled at once."""
    mutants = [mutant for mutant in MUTANTS if mutant.cell == cell]
    product = instances([geometry_of(CELLS[cell])])
    versions: list[tuple[dict[str, str], Instance]] = [({}, instance) for instance in product]
    versions += [({m.file: edited(m)}, instance_of(m)) for m in mutants]
    entries = build.versions(versions)
    right, wrong = entries[: len(product)], entries[len(product) :]
    return dict(zip(product, right, strict=True)), dict(zip(mutants, wrong, strict=True))


def emulator_of(cell: str, mutant: Mutant | None = None) -> Emulator:
    """An emulator with the kernels as they are, but for a mutant."""
    right, wrong = compiled(cell)
    emulator = Emulator()
    for instance, entry in right.items():
        emulator.use(instance, entry)
    if mutant is not None:
        emulator.use(instance_of(mutant), wrong[mutant])
    return emulator


def detected(cell: AnyCell, emulator: Emulator) -> str:
    """How these kernels are found to be wrong; empty if they are not."""
    case, first = case_of(cell), None
    for schedule in SCHEDULES:
        try:
            found = run(clustered(cell, geometry_of(cell), emulator, schedule), case)
        except RuntimeError as failure:
            return str(failure)
        if first is None:
            first, (error, name) = found, gap(found, expected_of(cell))
            if error > CLUSTER_KINDS["float16"][1]:
                return f"{name} is wrong by {error:.1e}"
        try:
            same(found, first)
        except AssertionError as difference:
            return f"schedule {schedule}: {difference}"
    return ""


def edited(mutant: Mutant) -> str:
    """The source with the edit, which must be there to be made."""
    parts = (build.KERNELS / mutant.file).read_text(encoding="utf-8").split(mutant.old)
    assert len(parts) == mutant.many + 1, f"{len(parts) - 1} places to edit"
    if mutant.which < 0:
        return mutant.new.join(parts)
    before, after = parts[: mutant.which + 1], parts[mutant.which + 1 :]
    return mutant.old.join(before) + mutant.new + mutant.old.join(after)


@emulated
@pytest.mark.parametrize("name", CELLS)
def test_the_product_is_right(name: str) -> None:
    assert detected(CELLS[name], emulator_of(name)) == ""


@emulated
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_detected(mutant: Mutant) -> None:
    how = detected(CELLS[mutant.cell], emulator_of(mutant.cell, mutant))
    print(how)
    assert how


@emulated
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_block_that_waits_in_vain_gives_up(cell: str, schedule: int) -> None:
    """It ends, says where and at which sizes, and leaves NaN: there is no deadlock."""
    for mutant in (m for m in MUTANTS if m.cell == cell and "bytes are not announced" in m.name):
        runtime, case = emulator_of(cell, mutant), case_of(CELLS[cell])
        with pytest.raises(RuntimeError) as failure:
            run(clustered(CELLS[cell], geometry_of(CELLS[cell]), runtime, schedule), case)
        assert "made no progress: it gave up near step" in str(failure.value)
        assert "T = 9, with B = 5 and H = 32, and its results are NaN" in str(failure.value)


@emulated
def test_how_they_are_compiled_changes_no_bit() -> None:
    """Mutants are detected by their edits alone."""
    name, cell = next(iter(CELLS.items()))
    g, case = geometry_of(cell), case_of(cell)
    expected = run(clustered(cell, g, Emulator(instances([g]))), case)
    same(run(clustered(cell, g, emulator_of(name)), case), expected)


def test_mutants_are_many_and_differ() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 50
