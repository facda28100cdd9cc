"""A linear recurrence by the associative scan, and the whole sequences built on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from xrnn.scan import Scan, scan
from xrnn.trust import difference, sequence_of

import xrnn
from xrnn.backends import Sequences, get
from xrnn.backends.cpu import SCAN_FROM, solve, step_by_step
from xrnn.cells import Cell, InputGatedLSTM, MinGRU

LINEAR = pytest.mark.parametrize("cell", [InputGatedLSTM, MinGRU], ids=lambda c: c.name)


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


@LINEAR
@pytest.mark.parametrize("block", [None, 1, 96])
def test_whole_sequences_equal_the_loop(cell: Cell, block: int | None, device: str) -> None:
    backend = get(device)
    form = Scan(cell, scan, block)
    for dtype, bound in ((backend.xp.float64, 1e-12), (backend.xp.float32, 1e-5)):
        entry = Sequences(form.forward, form.backward, frozenset({dtype}))
        assert difference(backend, cell, dtype, entry) <= bound


@LINEAR
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("B", "H"), [(3, 2), (9, 40)])
def test_both_ways_on_the_cpu(cell: Cell, B: int, H: int, reverse: bool) -> None:
    T, rng = SCAN_FROM + 72, np.random.default_rng(0)
    weights = {k: rng.normal(size=s) for k, s in cell.shapes(2, H).items()}
    xs, dys = rng.normal(size=(T, B, 2)), rng.normal(size=(T, B, H))
    state, dlast = (tuple(rng.normal(size=(B, H)) for _ in cell.states) for _ in range(2))
    lengths = rng.integers(0, T + 1, B)
    lengths[0] = 0
    assert isinstance(sequence_of(get("cpu"), cell, (*xs.shape, H), xs.dtype), Sequences)
    results = []
    for each in (cell, replace(cell)):
        ys, last, tape = xrnn.unroll(each, weights, xs, state, lengths, reverse)
        dxs, dfirst, dweights = xrnn.unroll_backward(tape, dys, dlast)
        results.append([ys, *last, dxs, *dfirst, *dweights.values()])
    for fast, own in zip(*results, strict=True):
        np.testing.assert_allclose(fast, own, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("T", "n", "by_scan"), [(1000, 16, True), (1000, 200, False)])
def test_the_cpu_chooses_by_size(
    T: int, n: int, by_scan: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        return scan(*given, **more)

    monkeypatch.setattr("xrnn.backends.cpu.scan", counted)
    solve(np.ones((T, n)), np.ones((T, n)), np.ones(n), xp=np)
    assert bool(calls) is by_scan


def test_large_steps_go_by_the_cell_itself() -> None:
    layer = xrnn.Layer(MinGRU, 4, 128)
    assert layer.path((200, 32, 4))["_l0"] == "all gates at once"
    assert layer.path((200, 1, 4))["_l0"] == "all gates at once, then a scan"
    assert layer.path((200, 33, 4))["_l0"] == "the cell as written"


def test_a_cell_made_from_a_linear_one_gets_no_scan() -> None:
    mine = replace(MinGRU, name="mine")
    xs = np.zeros((4, 1, 2))
    assert not isinstance(sequence_of(get("cpu"), mine, (*xs.shape, 3), xs.dtype), Sequences)
