"""The linear cells on the emulated device, their time cut into pieces, and the column sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from emulation import BOUNDS, EMULATED, emulator, fused, use_small_blocks
from sequences import AnyCell, Case, close, forward, reference, run, same

from xrnn.backends.cuda import linear
from xrnn.backends.cuda.plan import TYPES
from xrnn.backends.cuda.tables import FUSED
from xrnn.backends.host import named_dtype
from xrnn.typing import Array

pytestmark = EMULATED

LINEAR = [cell for cell, loop in FUSED.items() if issubclass(loop, linear.FusedLinear)]

every_cell = pytest.mark.parametrize("cell", LINEAR, ids=lambda cell: cell.name)
every_dtype = pytest.mark.parametrize("dtype", BOUNDS)
every_direction = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Any:
    """How many pieces the time axis is cut into, whatever the sizes."""

    def into(pieces: int) -> None:
        monkeypatch.setattr(linear, "pieces", lambda T, B, H: pieces)

    return into


#: sizes (T, B, H), pieces, lengths
CUTS: dict[str, tuple[tuple[int, int, int], int, list[int] | None]] = {
    "plain": ((11, 3, 5), 1, None),
    "lengths": ((11, 3, 5), 1, [4, 0, 11]),
    "pieces": ((11, 3, 5), 3, None),
    "pieces and lengths": ((11, 3, 5), 3, [4, 0, 11]),
    "ends at a cut": ((11, 3, 5), 3, [8, 4, 3]),
    "an empty piece": ((9, 3, 5), 4, [9, 7, 6]),
    "a piece a step": ((4, 3, 5), 4, None),
    "one step": ((1, 3, 5), 1, None),
    "one unit": ((6, 1, 1), 1, None),
    "several blocks": ((5, 7, 11), 2, [5, 0, 1, 2, 3, 4, 5]),
}


def case_of(name: str, cell: AnyCell, dtype: str, reverse: bool) -> Case:
    (T, B, H), _, lengths = CUTS[name]
    return Case(cell, (T, B, 3, H), dtype, lengths, reverse)


@every_dtype
@every_cell
@every_direction
@pytest.mark.parametrize("name", CUTS)
def test_pieces_equal_the_cell(
    name: str, reverse: bool, cell: AnyCell, dtype: str, cut: Any
) -> None:
    cut(CUTS[name][1])
    case = case_of(name, cell, dtype, reverse)
    found = run(fused(cell), case)
    close(found, reference(case), BOUNDS[dtype])
    checks.padding_is_zero(case, found)


@every_dtype
@every_cell
def test_pieces_without_a_gradient_of_the_outputs(cell: AnyCell, dtype: str, cut: Any) -> None:
    cut(2)
    case = Case(cell, (11, 3, 3, 5), dtype)
    checks.outputs_may_have_no_gradient(fused(cell), case, BOUNDS[dtype])


@every_cell
@every_direction
def test_pieces_differ_from_the_whole_by_rounding_alone(
    cell: AnyCell, reverse: bool, cut: Any
) -> None:
    case = Case(cell, (40, 3, 3, 5), "float64", [40, 17, 0], reverse)
    cut(1)
    whole = run(fused(cell), case)
    cut(7)
    close(run(fused(cell), case), whole, 1e-13)


@every_dtype
@every_cell
@every_direction
def test_what_is_kept_for_backward(cell: AnyCell, reverse: bool, dtype: str, cut: Any) -> None:
    """The gates, and the states after each step, also those that are kept past the end."""
    cut(3)
    case = Case(cell, (11, 3, 3, 5), dtype, [4, 0, 11], reverse)
    residuals, inside = forward(fused(cell), case)[2], ~case.past_the_end()
    gates, u, f = values_of(case)
    state = case.state[-1].astype(np.float64)
    for t in range(11)[:: -1 if reverse else 1]:
        state = np.where(inside[t][:, None], f[t] * state + u[t], state)
        close({"state": residuals.cs[t]}, {"state": state}, BOUNDS[dtype])
    close({"gates": residuals.gates[inside]}, {"gates": gates[inside]}, BOUNDS[dtype])


def values_of(case: Case) -> tuple[Any, Any, Any]:
    """The gates (T, B, G·H) in float64, and u and f of s_t = f_t ⊙ s_{t-1} + u_t."""
    assert case.cell.linear is not None
    xs, W, b = (a.astype(np.float64) for a in (case.xs, case.weights["W"], case.weights["b"]))
    values = case.cell.linear.gates(xs @ W.T + b, xp=np)
    f, u = case.cell.linear.recurrence(values)
    return np.concatenate(values, axis=-1), u, f


@every_dtype
@every_cell
def test_nothing_is_kept_where_nothing_is_asked_for(cell: AnyCell, dtype: str, cut: Any) -> None:
    cut(2)
    kernel, case = fused(cell), Case(cell, (11, 3, 3, 5), dtype)
    checks.inference_is_the_same(kernel, case)
    forward(kernel, case, keep=False)
    assert kernel.runtime.overwritten == 0


@every_cell
@every_direction
@pytest.mark.parametrize("schedule", [1, 2, 7, 100, 101])
def test_the_order_of_the_threads_changes_nothing(
    cell: AnyCell, reverse: bool, schedule: int, cut: Any
) -> None:
    cut(3)
    case = Case(cell, (11, 7, 3, 11), "float16", range(7), reverse)
    same(run(fused(cell, schedule), case), run(fused(cell), case))


@every_cell
def test_a_state_may_be_replaced_where_it_lies(cell: AnyCell) -> None:
    """The kernel reads the state before it writes the last one."""
    runtime, loop, (T, B, H) = emulator(), FUSED[cell](emulator(), cell), (11, 3, 5)
    case = Case(cell, (T, B, 3, H), "float32", padding=0.0)
    expected = forward(fused(cell), case)[1]
    gates = np.ascontiguousarray(case.xs @ case.weights["W"].T)
    ys, states = np.zeros((T, B, H), np.float32), [a.copy() for a in case.state]
    state, pointer = states[-1], runtime.pointer
    arrays = [gates, case.weights["b"], state, None, ys, state, *states[:-1], None]
    runtime.launch(
        loop.source,
        f"{getattr(loop, 'name')}_forward<float>",  # noqa: B009
        (-(-B * H // 8), 1),
        (8,),
        [
            *map(np.int32, (T, B, H)),
            *(0 if a is None else pointer(a) for a in arrays),
            *map(np.int32, (False, False)),
        ],
    )
    for found, last in zip(states, expected, strict=True):
        close({"state": found}, {"state": last}, 1e-6)


# ---- column sums -------------------------------------------------------------------------


def column_sums(x: Array, y: Array | None, dtype: str, parts: int, columns: int) -> Array:
    kind, _, sums = TYPES[dtype]
    runtime, part = emulator(), np.full((parts, columns), np.nan, sums)
    runtime.launch(
        "sums.cu",
        f"column_sums<{kind}>",
        (-(-columns // 32), parts),
        (32, 8),
        [
            np.int64(x.shape[0]),
            np.int32(columns),
            runtime.pointer(x),
            np.int64(x.shape[1]),
            0 if y is None else runtime.pointer(y),
            np.int64(0 if y is None else y.shape[1]),
            runtime.pointer(part),
        ],
        shared=32 * 8 * part.itemsize,
    )
    return part


@every_dtype
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "columns", "parts"), [(1, 1, 1), (77, 45, 3), (5, 33, 8)])
def test_column_sums(rows: int, columns: int, parts: int, weighted: bool, dtype: str) -> None:
    sums, rng = TYPES[dtype][2], np.random.default_rng(rows)
    x = rng.normal(size=(rows, columns + 2)).astype(named_dtype(dtype))
    y = rng.normal(size=(rows, columns + 1)).astype(sums) if weighted else None
    part = column_sums(x, y, dtype, parts, columns)
    total = column_sums(part, None, sums, 1, columns)[0]
    values = x.astype(np.float64)[:, :columns]
    if y is not None:
        values = values * y.astype(np.float64)[:, :columns]
    size = -(-rows // parts)
    expected = np.array([values[p * size : (p + 1) * size].sum(0) for p in range(parts)])
    bound = 1e-14 if sums == "float64" else 1e-6
    close({"parts": part, "total": total}, {"parts": expected, "total": values.sum(0)}, bound)


@pytest.mark.parametrize("schedule", [1, 2, 7, 100, 101])
def test_column_sums_have_one_order(schedule: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(150, 70)).astype(np.float32)
    expected = column_sums(x, None, "float32", 2, 70)
    monkeypatch.setattr(emulator(), "schedule", schedule)
    same({"sums": column_sums(x, None, "float32", 2, 70)}, {"sums": expected})
