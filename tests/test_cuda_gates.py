"""The kernels of one time step, driven through time as their contracts say, equal the cells.

Inputs are rounded to the storage dtype; the judge is the cell itself on the same values in
float64.  No GPU is needed: the kernels run on the host shim.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cuda_steps import EVERY, KINDS, LENGTHS, UNITS, B, Case, GRUBeforeSteps, Steps, T
from shim import build

from xrnn.typing import Array

pytestmark = pytest.mark.skipif(bool(build.ABSENT), reason=build.ABSENT)

each_cell = pytest.mark.parametrize("steps", EVERY, ids=lambda s: str(s.cell.name))
each_kind = pytest.mark.parametrize("kind", KINDS)
each_vector = pytest.mark.parametrize("vector", UNITS)


def judge(case: Case) -> None:
    """Run the kernels forward and back; every result is the cell's."""
    run = case.steps(case)
    run.run()
    compare(case, run.states() | run.back(), case.wanted())


def compare(case: Case, found: dict[str, Array], wanted: dict[str, Array]) -> None:
    """Relative to the largest value of each array."""
    allowed = KINDS[case.kind][3]
    for name, want in wanted.items():
        error = np.abs(found[name].astype(np.float64) - want).max() / np.abs(want).max()
        assert error < allowed, f"{name} is wrong by {error:.1e}"


@each_cell
@each_kind
@each_vector
@pytest.mark.parametrize(
    ("lengths", "reverse"),
    [(None, False), (LENGTHS, False), (LENGTHS, True)],
    ids=["all", "lengths", "reverse"],
)
def test_kernels_equal_the_cell(
    steps: type[Steps], kind: str, vector: int, lengths: Array | None, reverse: bool
) -> None:
    """Outputs, last state, and the gradient of all that goes in; past the end all is NaN."""
    judge(Case(steps, kind, vector, lengths, reverse))


@each_cell
@each_kind
@each_vector
def test_outputs_may_have_no_gradient(steps: type[Steps], kind: str, vector: int) -> None:
    """dy is null then."""
    case = Case(steps, kind, vector, LENGTHS)
    case.dys = None
    judge(case)


@each_kind
@pytest.mark.parametrize("steps", EVERY[:-1], ids=lambda s: str(s.cell.name))
def test_large_values_saturate(steps: type[Steps], kind: str) -> None:
    """e^-a overflows in float, and what comes of it does not (ReLU has no end to reach)."""
    case = Case(steps, kind, 4, scale=1e4)
    run = steps(case)
    run.run()
    wanted = case.wanted()
    compare(case, run.states(), {k: wanted[k] for k in wanted if not k.startswith("d")})
    assert all(np.isfinite(d).all() for d in run.back().values() if d is not None)


@each_cell
@each_kind
@each_vector
def test_past_the_end_nothing_moves(steps: type[Steps], kind: str, vector: int) -> None:
    """Bit by bit: the state is kept, the gradients that are carried stay, da is 0."""
    case = Case(steps, kind, vector, LENGTHS)
    run = steps(case)
    run.run()
    for b, length in enumerate(LENGTHS):
        for states in (run.hs, run.cs)[: case.states]:
            assert np.isfinite(states[length, b].astype(np.float64)).all()
            assert (states[length:, b] == states[length, b]).all()
    run.back()
    past = np.arange(T)[:, None] >= LENGTHS
    assert (run.gates[past] == 0).all()
    if isinstance(run, GRUBeforeSteps):
        assert (run.q[past] == 0).all()
    for d, given in zip((run.dh, run.dc), case.dlast, strict=False):
        assert (d[LENGTHS == 0] == given[LENGTHS == 0]).all()


@each_cell
@each_kind
@each_vector
def test_without_saving_the_states_are_the_same(steps: type[Steps], kind: str, vector: int) -> None:
    """And nothing is written to the gates, but for z, which goes from kernel to kernel there."""
    case = Case(steps, kind, vector, LENGTHS)
    kept, light = steps(case), steps(case)
    given = light.gates.copy()
    kept.run()
    light.run(save=False)
    light.new.check()
    if isinstance(light, GRUBeforeSteps):
        given[..., light.H : 2 * light.H] = light.gates[..., light.H : 2 * light.H]
    assert given.tobytes() == light.gates.tobytes()
    assert kept.hs.tobytes() == light.hs.tobytes()
    assert kept.cs.tobytes() == light.cs.tobytes()


@each_cell
@each_kind
@pytest.mark.parametrize("schedule", [1, 7, 100])
def test_no_schedule_changes_a_bit(steps: type[Steps], kind: str, schedule: int) -> None:
    """Threads in order, in reverse, at random, some starving."""

    def results(schedule: int) -> dict[str, bytes]:
        run = steps(Case(steps, kind, 4, LENGTHS, schedule=schedule))
        run.run()
        found = run.states() | run.back()
        return {name: a.tobytes() for name, a in found.items() if a is not None}

    assert results(0) == results(schedule)


@each_cell
@each_kind
@each_vector
def test_nan_stays_in_its_sequence(steps: type[Steps], kind: str, vector: int) -> None:
    """One NaN at step 1 of sequence 2 is seen there, from then on, and nowhere else."""

    def results(spoil: Callable[[Case], None]) -> tuple[Array, ...]:
        case = Case(steps, kind, vector)
        spoil(case)
        run = steps(case)
        run.run()
        run.back()
        found = (run.hs, run.gates, run.dh[None])
        return found if run.dc is None else (*found, run.cs, run.dc[None])

    def spoil(case: Case) -> None:
        case.xs[1, 2, :] = np.nan

    others = np.arange(B) != 2
    for clean, spoiled in zip(results(lambda case: None), results(spoil), strict=True):
        assert clean[:, others].tobytes() == spoiled[:, others].tobytes()
        assert np.isfinite(clean.astype(np.float64)).all()
    hs = results(spoil)[0].astype(np.float64)
    assert np.isfinite(hs[:2, 2]).all()
    assert np.isnan(hs[2:, 2]).all()  # of ReLU too


#: cell → bytes that forward keeps for each step, sequence and unit, by dtype
BYTES = {
    "lstm": {"float32": 24, "float64": 48, "float16": 14, "bfloat16": 14},
    "peephole": {"float32": 24, "float64": 48, "float16": 14, "bfloat16": 14},
    "gru": {"float32": 20, "float64": 40, "float16": 10, "bfloat16": 10},
    "gru-before": {"float32": 20, "float64": 40, "float16": 10, "bfloat16": 10},
    "rnn": {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2},
    "rnn-relu": {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2},
}


@each_cell
@each_kind
def test_bytes_kept(steps: type[Steps], kind: str) -> None:
    """Backward needs these buffers and the inputs, and nothing else of forward."""
    case = Case(steps, kind, 4, LENGTHS)
    run, other = steps(case), steps(case)
    run.run()
    other.gates[...] = np.nan
    for new, kept in zip(other.kept(), run.kept(), strict=True):
        new[...] = kept
    assert sum(kept.nbytes for kept in run.kept()) == BYTES[steps.cell.name][kind] * T * B * run.H
    wanted, found = run.back(), other.back()
    for name, want in wanted.items():
        assert want is None or found[name].tobytes() == want.tobytes(), name
