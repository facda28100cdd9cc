"""Whole sequences in NumPy: each entry is its cell, spends no tape, keeps and writes little."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from xrnn.laws import LAWS
from xrnn.loop import Loop
from xrnn.trial import OPTIONS, Trial

from xrnn import trust
from xrnn.backends import Backend, get, register, unregister
from xrnn.backends.cpu import BACKEND, loops, passes
from xrnn.cells import GRU, LSTM, Cell, Elman, ElmanReLU
from xrnn.certify import bound

every_cell = pytest.mark.parametrize("cell", loops.LOOPS, ids=lambda cell: cell.name)
every_batch = pytest.mark.parametrize("B", [1, 3])

#: values in a block, and the rows it has at least: as it is, one step, two or three of them
BLOCKS = {"one block": (passes.BLOCK, passes.ROWS), "steps": (1, 1), "blocks": (1, 8)}
every_block = pytest.mark.parametrize("block", BLOCKS)

LOOPED = Backend(
    "looped",
    np,
    BACKEND.to_host,
    sequences={
        cell: (replace(entry, serves=lambda T, B, I, H: True),)
        for cell, entry in loops.LOOPS.items()
    },
)


def cut(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, rows = BLOCKS[block]
    monkeypatch.setattr(passes, "BLOCK", values)
    monkeypatch.setattr(passes, "ROWS", rows)


def noise(*shape: int, dtype: str = "float64", seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(dtype)


class Case:
    """What one pass there and back is given."""

    def __init__(
        self, cell: Cell, T: int = 9, B: int = 3, I: int = 4, H: int = 6, dtype: str = "float64"
    ) -> None:
        self.cell, self.T, self.B = cell, T, B
        self.weights = {
            name: noise(*shape, dtype=dtype) * np.asarray(0.8 * H**-0.5, dtype)
            for name, shape in cell.shapes(I, H).items()
        }
        self.xs, self.dys = noise(T, B, I, dtype=dtype), noise(T, B, H, dtype=dtype)
        self.state, self.dlast = (
            tuple(noise(B, H, dtype=dtype, seed=seed + k) for k in range(len(cell.states)))
            for seed in (1, 3)
        )
        self.lengths: Any = None
        self.reverse = False

    def given(self) -> list[Any]:
        return [*self.weights.values(), self.xs, self.dys, *self.state, *self.dlast]

    def forward(self, keep: bool = True, form: Any = None) -> tuple[Any, Any, Any]:
        how = {"lengths": self.lengths, "reverse": self.reverse, "keep": keep, "xp": np}
        found: tuple[Any, Any, Any] = (form or loops.LOOPS[self.cell]).forward(
            self.weights, self.xs, self.state, **how
        )
        return found

    def backward(self, saved: Any, dys: Any, form: Any = None) -> list[Any]:
        dxs, dfirst, dweights = (form or loops.LOOPS[self.cell]).backward(
            self.weights, saved, dys, self.dlast, xp=np
        )
        return [dxs, *dfirst, *(dweights[name] for name in self.weights)]

    def results(self, form: Any = None) -> list[Any]:
        ys, last, saved = self.forward(form=form)
        return [ys, *last, *self.backward(saved, self.dys, form)]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@every_cell
@every_block
@pytest.mark.parametrize(("dtype", "allowed"), [("float64", 1e-14), ("float32", 3e-6)])
@pytest.mark.parametrize(
    "sizes",
    [(5, 3, 4, 16), (6, 1, 4, 16), (1, 1, 3, 5), (1, 4, 3, 5), (7, 2, 1, 1), (20, 9, 3, 33)],
)
def test_it_is_the_cell(
    cell: Cell,
    sizes: Any,
    dtype: str,
    allowed: float,
    block: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut(block, monkeypatch)
    entry = loops.LOOPS[cell]
    assert trust.difference(BACKEND, cell, np.dtype(dtype), entry, sizes) <= allowed


@pytest.fixture
def looped() -> Iterator[None]:
    """NumPy arrays are served by the loops, however few the steps."""
    register("numpy", LOOPED)
    get.cache_clear()
    yield
    unregister("numpy")
    get.cache_clear()


@every_cell
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.usefixtures("looped")
def test_law(law: str, cell: Cell, dtype: str) -> None:
    for option in OPTIONS:
        trial = Trial(cell, option, "numpy", dtype)
        assert trial.backend is LOOPED
        error = LAWS[law](trial)
        assert error is None or error <= bound(cell, law, dtype), option.name


@every_cell
@every_batch
@pytest.mark.parametrize("reverse", [False, True])
def test_saturated_gates(cell: Cell, B: int, reverse: bool) -> None:
    case = Case(cell, B=B)
    case.reverse, case.weights["W"] = reverse, 1e3 * case.weights["W"]
    for a, b in zip(case.results(), case.results(Loop(cell)), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * abs(b).max())


@every_cell
@every_batch
@pytest.mark.parametrize("ends", [False, True])
def test_a_tape_serves_twice(cell: Cell, B: int, ends: bool) -> None:
    case = Case(cell, B=B)
    if ends:
        case.lengths = np.array([5, 9, 0][:B])
    saved = case.forward()[2]
    first = case.backward(saved, case.dys)
    assert_same(case.backward(saved, case.dys), first)
    other = case.backward(saved, None)
    assert_same(other, case.backward(case.forward()[2], None))
    assert (first[0] != other[0]).any()


@every_cell
def test_threads_share_a_tape(cell: Cell) -> None:
    case = Case(cell, T=40, H=32)
    saved, found = case.forward()[2], {}
    expected = case.backward(case.forward()[2], case.dys)

    def work(k: int) -> None:
        found[k] = case.backward(saved, case.dys)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(8):
        assert_same(found[k], expected)


def test_what_is_kept_is_handed_out_once() -> None:
    saved = Case(LSTM).forward()[2]
    assert saved.take() is not None
    assert saved.take() is None
    saved = Case(Elman).forward()[2]
    assert saved.take() == saved.take() == ()


@every_cell
@every_batch
@pytest.mark.parametrize("ends", [False, True])
def test_nothing_given_is_written_to_or_handed_back(cell: Cell, B: int, ends: bool) -> None:
    case = Case(cell, B=B)
    if ends:
        case.lengths = np.array([5, 9, 0][:B])
    for a in case.given():
        a.flags.writeable = False
    ys, last, saved = case.forward()
    back = case.backward(saved, case.dys)
    for a in (ys, *last, *back):
        assert a.flags.writeable
        assert not any(np.shares_memory(a, b) for b in case.given())
    assert not any(np.shares_memory(ys, a) for a in last)


@every_cell
@every_batch
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_not_read_and_is_zero(cell: Cell, B: int, reverse: bool) -> None:
    case = Case(cell, B=B)
    case.reverse, case.lengths = reverse, np.array([4, 9, 0][:B])
    padding = np.arange(case.T)[:, None] >= case.lengths
    case.xs[padding], case.dys[padding] = 0, 0
    expected = case.results()
    case.xs[padding], case.dys[padding] = np.nan, np.nan
    found = case.results()
    assert_same(found, expected)
    ys, dxs = found[0], found[1 + len(cell.states)]
    assert not ys[padding].any()
    assert not dxs[padding].any()


@every_cell
def test_a_gradient_that_is_not_finite_stays_with_its_sequence(cell: Cell) -> None:
    case = Case(cell)
    case.lengths = np.array([9, 4, 0])
    expected = case.results()
    # Nobody reads the last state of a sequence without steps but its first state's gradient.
    case.dlast[0][2] = np.nan
    found, first = case.results(), 2 + len(cell.states)
    assert np.isnan(found[first][2]).all()
    found[first][2] = expected[first][2]
    assert_same(found, expected)


@every_cell
def test_inputs_may_lie_anywhere(cell: Cell) -> None:
    case, spread = Case(cell), Case(cell)
    spread.weights = {name: np.repeat(w, 2, axis=-1)[..., ::2] for name, w in case.weights.items()}
    spread.xs, spread.dys = np.asfortranarray(case.xs), np.asfortranarray(case.dys)
    spread.state = tuple(map(np.asfortranarray, case.state))
    spread.dlast = tuple(map(np.asfortranarray, case.dlast))
    for a, b in zip(spread.results(), case.results(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@every_cell
@every_block
def test_inference_is_the_same_pass(
    cell: Cell, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(block, monkeypatch)
    case = Case(cell, T=20)
    ys, last, saved = case.forward(keep=False)
    assert saved is None
    kept_ys, kept_last, _ = case.forward()
    assert_same([ys, *last], [kept_ys, *kept_last])


#: bytes that a tape holds for each step and unit in float32, ys among them
KEPT = {"rnn": 4, "rnn-relu": 4, "lstm": 24, "gru": 20, "gru-before": 16, "peephole": 24}


@every_cell
def test_little_is_kept(cell: Cell) -> None:
    case = Case(cell, T=256, B=8, I=1, H=64, dtype="float32")
    units = case.T * case.B * 64
    ys, _, saved = case.forward()
    held = [saved.hs, *([] if saved.cs is None else [saved.cs]), *saved.kept[0]]
    assert sum(a.nbytes for a in held) / units <= 1.01 * KEPT[cell.name]
    assert np.shares_memory(ys, saved.hs)


@pytest.mark.parametrize(("cell", "inference", "training"), [(LSTM, 9, 25), (GRU, 5, 21)])
def test_little_is_needed(cell: Cell, inference: float, training: float) -> None:
    case = Case(cell, T=2048, B=8, I=1, H=64, dtype="float32")
    peaks = []
    tracemalloc.start()
    for keep in (False, True):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        ys, last, saved = case.forward(keep)
        if keep:
            case.backward(saved, case.dys)
        _, peak = tracemalloc.get_traced_memory()
        peaks.append((peak - before) / (case.T * case.B * 64))
        del ys, last, saved
    tracemalloc.stop()
    assert peaks[0] <= inference
    assert peaks[1] <= training


def test_few_steps_go_by_the_cell() -> None:
    backend = replace(LOOPED, sequences={cell: (loop,) for cell, loop in loops.LOOPS.items()})
    for cell, start in ((LSTM, loops.GATED_FROM), (ElmanReLU, loops.ELMAN_FROM)):
        for T in (1, start - 1, start, 1000):
            found = backend.entries(cell, (T, 1, 3, 5), np.dtype("float32"))
            assert (found == [loops.LOOPS[cell]]) is (start <= T)


def test_another_cell_has_no_loop() -> None:
    given = (20, 3, 4, 5), np.dtype("float32")
    assert loops.LOOPS[LSTM] in BACKEND.entries(LSTM, *given)
    assert BACKEND.entries(replace(LSTM), *given) == []
