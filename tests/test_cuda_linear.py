"""The whole-sequence kernels of the linear cells, and the column sums, against float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")

import ml_dtypes
from shim import build
from shim.runtime import ShimRuntime

import xrnn
from xrnn.cells import Cell, InputGatedLSTM, MinGRU

pytestmark = pytest.mark.skipif(bool(build.ABSENT), reason=build.ABSENT)


@dataclass(frozen=True)
class Kind:
    """A type to store in: its name in C++, of arrays, of sums; the error to expect."""

    name: str
    store: Any
    sums: Any
    tolerance: float

    @property
    def acc(self) -> str:
        return "double" if self.name == "double" else "float"


FLOAT = Kind("float", np.float32, np.float32, 3e-6)
DOUBLE = Kind("double", np.float64, np.float64, 1e-13)
HALF = Kind("__half", np.float16, np.float32, 4e-3)
BFLOAT16 = Kind("__nv_bfloat16", ml_dtypes.bfloat16, np.float32, 3e-2)
KINDS = [FLOAT, DOUBLE, HALF, BFLOAT16]

KERNELS = {InputGatedLSTM: "input_gated", MinGRU: "mingru"}
PASSES = ("forward", "forward_map", "backward", "backward_map")
RUNTIME = ShimRuntime(
    [("linear.cu", f"linear_carry<{kind}>") for kind in ("float", "double")]
    + [
        ("linear.cu", f"{cell}_{which}<{kind.name}>")
        for kind in KINDS
        for cell in KERNELS.values()
        for which in PASSES
    ]
    + [("sums.cu", f"column_sums<{kind.name}>") for kind in KINDS]
)

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
cells = pytest.mark.parametrize("cell", list(KERNELS), ids=lambda c: c.name)
directions = pytest.mark.parametrize("reverse", [False, True], ids=["onward", "reverse"])


@dataclass
class Run:
    """One sequence of arrays through the kernels, as a caller would launch them."""

    cell: Cell
    kind: Kind
    T: int = 11
    B: int = 3
    H: int = 5
    lengths: Any = None
    reverse: bool = False
    pieces: int = 1
    save: bool = True
    dys: bool = True
    block: int = 32
    given: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        T, B, H, wide = self.T, self.B, self.H, len(self.cell.gates) * self.H
        rng = np.random.default_rng(T + 10 * B + 100 * H)
        if self.lengths is not None:
            self.lengths = np.array(self.lengths, np.int32)
        # Stored values first, then everybody reads these.
        self.given = {
            "xs": rng.normal(size=(T, B, wide)).astype(self.kind.store),
            "bias": rng.normal(size=wide).astype(self.kind.store),
            "dys": rng.normal(size=(T, B, H)).astype(self.kind.store),
            "h": rng.normal(size=(B, H)).astype(self.kind.store),
            "s": rng.normal(size=(B, H)).astype(self.kind.sums),
            "dh": rng.normal(size=(B, H)).astype(self.kind.sums),
            "ds": rng.normal(size=(B, H)).astype(self.kind.sums),
        }
        if self.lengths is not None:
            padding = np.arange(T)[:, None] >= self.lengths
            self.given["xs"][padding] = self.given["dys"][padding] = np.nan

    def through_time(self, which: str, *args: Any, pieces: int) -> None:
        """A kernel of this cell; T stands before B and H."""
        values = [RUNTIME.pointer(a) if isinstance(a, np.ndarray) else a for a in args]
        end = [0 if self.lengths is None else RUNTIME.pointer(self.lengths)]
        more = [np.int32(self.save)] if which == "forward" else []
        RUNTIME.launch(
            "linear.cu",
            f"{KERNELS[self.cell]}_{which}<{self.kind.name}>",
            (-(-self.B * self.H // self.block), pieces),
            (self.block,),
            [
                *map(np.int32, (self.T, self.B, self.H)),
                *values,
                *end,
                np.int32(self.reverse),
                *more,
            ],
        )

    def entering(self, which: str, first: Any, *args: Any) -> Any:
        """What enters each piece, (P, B, H)."""
        if self.pieces == 1:
            return first[None].copy()
        through, offset = (self.unwritten(self.pieces, self.B, self.H) for _ in range(2))
        self.through_time(f"{which}_map", *args, through, offset, pieces=self.pieces)
        falling = np.int32(self.reverse == (which == "forward"))
        grid = (-(-self.B * self.H // self.block),)
        sizes = map(np.int32, (self.pieces, self.B, self.H))
        arrays = map(RUNTIME.pointer, (first, through, offset))
        name = f"linear_carry<{self.kind.acc}>"
        RUNTIME.launch("linear.cu", name, grid, (self.block,), [*sizes, *arrays, falling])
        return offset

    def unwritten(self, *shape: int) -> Any:
        return np.full(shape, np.nan, self.kind.sums)

    def results(self) -> dict[str, Any]:
        """Forward, then backward if saved: every array the kernels wrote."""
        given, lstm = self.given, self.cell is InputGatedLSTM
        gates, bias = given["xs"].copy(), given["bias"]
        first = given["s"]
        ys = np.full((self.T, self.B, self.H), np.nan, self.kind.store)
        ss = self.unwritten(self.T, self.B, self.H) if self.save else 0
        last = self.unwritten(self.B, self.H)
        h = [given["h"].copy()] if lstm else []
        entering = self.entering("forward", first, gates, bias)
        self.through_time("forward", gates, bias, entering, ss, ys, last, *h, pieces=self.pieces)
        found = {"ys": ys, "last": last, "gates": gates.copy()} | ({"h": h[0]} if lstm else {})
        if not self.save:
            return found
        dys = given["dys"] if self.dys else 0
        dh = [given["dh"]] if lstm else []
        leaving = self.entering("backward", given["ds"], gates, *([ss] if lstm else []), dys, *dh)
        dh_first = [self.unwritten(self.B, self.H)] if lstm else []
        self.through_time(
            "backward", gates, first, ss, dys, leaving, *dh, *dh_first, pieces=self.pieces
        )
        found |= {"ss": ss, "das": gates, "ds": leaving[-1 if self.reverse else 0]}
        return found | ({"dh": dh_first[0]} if lstm else {})

    def expected(self) -> dict[str, Any]:
        """The same by the cell itself in float64: W = 1, so dxs are the das."""
        wide = {name: a.astype(np.float64) for name, a in self.given.items()}
        lstm = self.cell is InputGatedLSTM
        weights = {"W": np.eye(wide["xs"].shape[-1]), "b": wide["bias"]}
        state = (wide["h"], wide["s"]) if lstm else (wide["s"],)
        ys, last, tape = xrnn.unroll(
            self.cell, weights, wide["xs"], state, self.lengths, self.reverse
        )
        dlast = (wide["dh"], wide["ds"]) if lstm else (wide["ds"],)
        dys = wide["dys"] if self.dys else None
        das, dfirst, _ = xrnn.unroll_backward(tape, dys, dlast)
        found = {"ys": ys, "last": last[-1], "das": das, "ds": dfirst[-1]}
        return found | ({"h": last[0], "dh": dfirst[0]} if lstm else {})


def error(found: Any, expected: Any) -> float:
    """The largest difference, as a part of the largest value; a NaN counts as infinite."""
    difference = np.abs(found.astype(np.float64) - expected).max(initial=0)
    return float(np.nan_to_num(difference / max(np.abs(expected).max(initial=0), 1e-3), nan=np.inf))


def check(run: Run) -> None:
    found, expected = run.results(), run.expected()
    errors = {name: error(found[name], value) for name, value in expected.items()}
    assert max(errors.values()) < run.kind.tolerance, errors


CASES: dict[str, Any] = {
    "plain": {},
    "lengths": {"lengths": [4, 0, 11]},
    "pieces": {"pieces": 3},
    "pieces and lengths": {"pieces": 3, "lengths": [4, 0, 11]},
    "ends at a cut": {"pieces": 3, "lengths": [8, 4, 3]},
    "an empty piece": {"T": 9, "pieces": 4, "lengths": [9, 7, 6]},
    "a piece a step": {"T": 4, "pieces": 4},
    "one step": {"T": 1},
    "one unit": {"B": 1, "H": 1, "T": 6},
    "several blocks": {"B": 7, "H": 11, "T": 5, "pieces": 2, "lengths": [5, 0, 1, 2, 3, 4, 5]},
    "no gradient of the outputs": {"dys": False, "lengths": [4, 0, 11], "pieces": 2},
}


@kinds
@cells
@directions
@pytest.mark.parametrize("case", CASES)
def test_whole_sequences_are_the_cell(case: str, reverse: bool, cell: Cell, kind: Kind) -> None:
    check(Run(cell, kind, reverse=reverse, **CASES[case]))


@cells
@directions
def test_pieces_differ_from_the_whole_by_rounding_alone(cell: Cell, reverse: bool) -> None:
    whole, cut = (
        Run(cell, DOUBLE, T=40, lengths=[40, 17, 0], reverse=reverse, pieces=pieces).results()
        for pieces in (1, 7)
    )
    for name, value in whole.items():
        inside = ~np.isnan(value)
        assert error(cut[name][inside], value[inside]) < 1e-13, name


@kinds
@cells
@directions
def test_what_is_kept_for_backward(cell: Cell, reverse: bool, kind: Kind) -> None:
    """The states after each step, also those that a sequence keeps in its padding."""
    run = Run(cell, kind, lengths=[4, 0, 11], reverse=reverse, pieces=3)
    found = run.results()
    state = run.given["s"].astype(np.float64)
    *_, f = gates = values_of(run)
    for t in range(run.T)[:: -1 if reverse else 1]:
        inside = (t < run.lengths)[:, None]
        state = np.where(inside, f[t] * state + gates[1][t], state)
        assert error(found["ss"][t], state) < kind.tolerance
    padding = np.arange(run.T)[:, None] >= run.lengths
    assert not found["ys"][padding].any()
    assert not found["das"][padding].any()
    saved = found["gates"][~padding].astype(np.float64)
    assert error(saved, gates[0][~padding]) < kind.tolerance


def values_of(run: Run) -> tuple[Any, Any, Any]:
    """The gates (T, B, G·H) in float64, and u and f of s_t = f_t ⊙ s_{t-1} + u_t."""
    assert run.cell.linear is not None
    a = run.given["xs"].astype(np.float64) + run.given["bias"].astype(np.float64)
    values = run.cell.linear.gates(a, xp=np)
    f, u = run.cell.linear.recurrence(values)
    return np.concatenate(values, axis=-1), u, f


@kinds
@cells
@directions
def test_nothing_is_kept_where_nothing_is_asked_for(cell: Cell, reverse: bool, kind: Kind) -> None:
    case: Any = {"lengths": [4, 0, 11], "reverse": reverse, "pieces": 2}
    kept, run = Run(cell, kind, **case).results(), Run(cell, kind, save=False, **case)
    found = run.results()
    assert found["gates"].tobytes() == run.given["xs"].tobytes()
    for name in found.keys() - {"gates"}:
        np.testing.assert_array_equal(found[name], kept[name])


@cells
@directions
def test_the_order_of_the_threads_changes_nothing(
    cell: Cell, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for schedule in (0, 1, 2, 7, 100, 101):
        monkeypatch.setattr(RUNTIME, "schedule", schedule)
        run = Run(cell, HALF, B=7, H=11, lengths=range(7), reverse=reverse, pieces=3)
        found.append({name: a.tobytes() for name, a in run.results().items()})
    assert all(one == found[0] for one in found)


@cells
def test_a_state_may_be_replaced_where_it_lies(cell: Cell) -> None:
    run = Run(cell, FLOAT, lengths=[4, 0, 11])
    expected = run.results()["last"]
    state, h = run.given["s"].copy(), run.given["h"].copy()
    ys = np.zeros((run.T, run.B, run.H), np.float32)
    run.save = False
    more = [h] if cell is InputGatedLSTM else []
    gates, bias = run.given["xs"], run.given["bias"]
    run.through_time("forward", gates, bias, state, 0, ys, state, *more, pieces=1)
    np.testing.assert_array_equal(state, expected)


def column_sums(x: Any, y: Any, kind: Kind, parts: int, columns: int) -> Any:
    part = np.full((parts, columns), np.nan, kind.sums)
    RUNTIME.launch(
        "sums.cu",
        f"column_sums<{kind.name}>",
        (-(-columns // 32), parts),
        (32, 8),
        [
            np.int64(x.shape[0]),
            np.int32(columns),
            RUNTIME.pointer(x),
            np.int64(x.shape[1]),
            0 if y is None else RUNTIME.pointer(y),
            np.int64(0 if y is None else y.shape[1]),
            RUNTIME.pointer(part),
        ],
        shared=32 * 8 * part.itemsize,
    )
    return part


@kinds
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "columns", "parts"), [(1, 1, 1), (77, 45, 3), (5, 33, 8)])
def test_column_sums(rows: int, columns: int, parts: int, weighted: bool, kind: Kind) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, columns + 2)).astype(kind.store)
    y = rng.normal(size=(rows, columns + 1)).astype(kind.sums) if weighted else None
    part = column_sums(x, y, kind, parts, columns)
    total = column_sums(part, None, DOUBLE if kind is DOUBLE else FLOAT, 1, columns)[0]
    wide = x.astype(np.float64)[:, :columns]
    if y is not None:
        wide = wide * y.astype(np.float64)[:, :columns]
    size = -(-rows // parts)
    expected = [wide[p * size : (p + 1) * size].sum(0) for p in range(parts)]
    tolerance = 1e-14 if kind is DOUBLE else 1e-6
    assert error(part, np.array(expected)) < tolerance
    assert error(total, wide.sum(0)) < tolerance


def test_column_sums_have_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(150, 70)).astype(np.float32)
    found = set()
    for schedule in (0, 1, 2, 7, 100, 101):
        monkeypatch.setattr(RUNTIME, "schedule", schedule)
        found.add(column_sums(x, None, FLOAT, 2, 70).tobytes())
    assert len(found) == 1
