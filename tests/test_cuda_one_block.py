"""A block that is alone in its cluster: it reads its own results, and exchanges nothing.

The emulated device refuses addresses of the cluster there, as NVIDIA's memcheck does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import sequence_checks as checks
from emulation import CLUSTER_KINDS, EMULATED, Emulator, clustered, instances
from sequences import AnyCell, Case, close, reference, run_both, same

from xrnn.backends.cuda.cluster import geometries
from xrnn.backends.cuda.geometry import Geometry
from xrnn.backends.cuda.tables import CLUSTERED

pytestmark = EMULATED

each_cell = pytest.mark.parametrize("cell", CLUSTERED, ids=lambda cell: cell.name)

#: one slice and a half, with padded units; a length for each sequence, 0 and T among them
T, B, I, H = 5, 11, 6, 30
LENGTHS = [5, 0, 3, 1, 4, 2, 2, 5, 3, 0, 1]


def alone(cell: AnyCell, kind: str) -> Geometry:
    """The first geometry of one block that fits."""
    return next(g for g in geometries(cell.name, kind, H) if g.cluster == 1)


@cache
def emulator() -> Emulator:
    """All of them, compiled at once."""
    return Emulator(instances(alone(cell, kind) for cell in CLUSTERED for kind in CLUSTER_KINDS))


def both(cell: AnyCell, kind: str, schedule: int = 0, **how: Any) -> Any:
    """The cases of both directions, and their results."""
    case = Case(cell, (T, B, I, H), CLUSTER_KINDS[kind][0], **how)
    return run_both(clustered(cell, alone(cell, kind), emulator(), schedule), case)


@each_cell
@pytest.mark.parametrize("kind", CLUSTER_KINDS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all", "lengths"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_it_equals_the_cell(
    cell: AnyCell, kind: str, lengths: list[int] | None, reverse: bool
) -> None:
    cases, results = both(cell, kind, lengths=lengths, reverse=reverse)
    for case, found in zip(cases, results, strict=True):
        close(found, reference(case), CLUSTER_KINDS[kind][1])
        checks.padding_is_zero(case, found)


@each_cell
def test_no_schedule_changes_a_bit(cell: AnyCell) -> None:
    """What a step computes is read after a barrier, and lies where nobody reads any more."""
    _, expected = both(cell, "float16", lengths=LENGTHS)
    for schedule in (1, 5, 100, 101, 103):
        _, found = both(cell, "float16", schedule, lengths=LENGTHS)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
