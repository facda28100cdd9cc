"""A linear recurrence by the associative scan, and the whole sequences built on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from sequences import AnyCell, Case, close, reference, run, variants

import xrnn
from xrnn.backends import get
from xrnn.backends.cpu import BACKEND, NUMPY
from xrnn.backends.cpu.scan import SCAN_FROM, SCAN_UP_TO, solve, step_by_step
from xrnn.engine.select import candidates
from xrnn.recurrence.scan import Scan, scan

LINEAR = {cell: entry for cell, entry in NUMPY.items() if cell.linear is not None}
every_cell = pytest.mark.parametrize("cell", LINEAR, ids=lambda cell: cell.name)


def recurrence(T: int, kind: str) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(T)
    f, u = rng.uniform(size=(T, 2, 3)), rng.normal(size=(T, 2, 3))
    if kind == "forgetting":
        f[rng.uniform(size=f.shape) < 0.3] = 0
    elif kind == "keeping":
        f[:] = 1
    elif kind == "vanishing":  # products of these underflow within a few steps
        f **= 100
    return f, u, rng.normal(size=(2, 3))


@pytest.mark.parametrize("kind", ["plain", "forgetting", "keeping", "vanishing"])
@pytest.mark.parametrize("T", [1, 2, 3, 7, 64, 1000])
def test_scan_is_the_loop(T: int, kind: str, device: str) -> None:
    backend = get(device)
    f, u, first = recurrence(T, kind)
    s = first.astype(np.longdouble)
    expected = np.stack([s := f_t * s + u_t for f_t, u_t in zip(f, u, strict=True)])
    put = backend.from_host
    found = backend.to_host(scan(put(f), put(u), put(first), xp=backend.xp))
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(step_by_step(f, u, first), found, rtol=1e-12, atol=1e-12)


@every_cell
@pytest.mark.parametrize("block", [None, 1, 96])
def test_whole_sequences_equal_the_loop(cell: AnyCell, block: int | None, device: str) -> None:
    backend, kernel = get(device), Scan(cell, scan, block)
    for dtype, bound in (("float64", 1e-12), ("float32", 1e-5)):
        for case in variants(Case(cell, dtype=dtype)):
            found = run(kernel, case, backend)
            close(found, reference(case), bound)
            checks.padding_is_zero(case, found)


@every_cell
@pytest.mark.parametrize(("B", "H"), [(3, 2), (9, 40)])
def test_what_the_cpu_runs_equals_the_loop(cell: AnyCell, B: int, H: int) -> None:
    """By a scan, and step by step."""
    sizes = (SCAN_FROM + 72, B, 2, H)
    entry = LINEAR[cell]
    assert entry in candidates(BACKEND, cell, sizes, np.dtype("float64"))
    assert ("scan" in entry.path(*sizes)) is (B * H <= SCAN_UP_TO)
    checks.equals_the_cell(entry, Case(cell, sizes), 1e-11)


@every_cell
def test_properties(cell: AnyCell) -> None:
    kernel, case = LINEAR[cell], Case(cell, (9, 3, 4, 6))
    checks.padding_is_not_read(kernel, replace(case, lengths=[4, 9, 0]))
    checks.nan_stays_in_its_sequence(kernel, case, 1)
    checks.inference_is_the_same(kernel, case)
    checks.backward_may_run_twice(kernel, case)
    checks.outputs_may_have_no_gradient(kernel, case, 1e-13)
    checks.arrays_may_lie_anywhere(kernel, case, 1e-13)
    checks.saturated_gates_stay_finite(kernel, case, 1e-10)


@pytest.mark.parametrize(("T", "n", "by_scan"), [(1000, 16, True), (1000, 200, False)])
def test_the_cpu_chooses_by_size(
    T: int, n: int, by_scan: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        return scan(*given, **more)

    monkeypatch.setattr("xrnn.backends.cpu.scan.scan", counted)
    solve(np.ones((T, n)), np.ones((T, n)), np.ones(n), xp=np)
    assert bool(calls) is by_scan


@every_cell
def test_large_steps_go_by_another_loop(cell: AnyCell) -> None:
    """The others are the native one, if there is one, or the cell's own."""
    float32 = np.dtype("float32")
    for sizes, words in (
        ((200, 32, 4, 128), "all gates at once"),
        ((200, 1, 4, 128), "all gates at once, then a scan"),
    ):
        assert candidates(BACKEND, cell, sizes, float32)[-1] is LINEAR[cell]
        assert LINEAR[cell].path(*sizes) == words
    assert LINEAR[cell] not in candidates(BACKEND, cell, (200, 33, 4, 128), float32)
    if len(BACKEND.kernels[cell]) == 1:
        layer = xrnn.Layer(cell, 4, 128)
        assert layer.path((200, 33, 4))["_l0"] == "the cell as written"


@every_cell
def test_a_cell_made_from_a_linear_one_gets_no_scan(cell: AnyCell) -> None:
    mine = replace(cell, name="mine")
    assert candidates(BACKEND, mine, (4, 1, 2, 3), np.dtype("float64")) == []
