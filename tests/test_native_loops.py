"""The native loops: equal to the cells, and the same bits however they are run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import cells

native: Any = pytest.importorskip(
    "xrnn.backends.cpu._native", reason="the native loops are not built", exc_type=ImportError
)

#: by their numbers in the extension: the cells, and the blocks of H that they keep of a step
CELLS = tuple((cells.BY_NAME[name], saved) for name, _, saved in native.cells())
CODES = {cell: code for code, (cell, _) in enumerate(CELLS)}
ROOT = Path(__file__).parent.parent
BOUND = {"float32": 1e-4, "float64": 1e-12}
PARTS = ("W", "U", "b", "v")
Arrays = dict[str, Any]

every_cell = pytest.mark.parametrize(
    "code", range(len(CELLS)), ids=[cell.name for cell, _ in CELLS]
)
every_dtype = pytest.mark.parametrize("dtype", BOUND)
every_direction = pytest.mark.parametrize("reverse", [False, True])


@dataclass
class Case:
    """One pass: what goes in, for sizes (T, B, I, H)."""

    code: int
    sizes: tuple[int, int, int, int]
    dtype: str = "float32"
    lengths: Any = None
    reverse: bool = False
    w: Arrays = field(default_factory=dict)
    given: Arrays = field(default_factory=dict)
    #: forward and backward: how many threads divided the sequences, or, negative, the units
    divided: Any = None

    def __post_init__(self) -> None:
        T, B, I, H = self.sizes
        rng = np.random.default_rng([self.code, *self.sizes])

        def draw(*shape: int) -> Any:
            return (0.4 * rng.normal(size=shape)).astype(self.dtype)

        if not self.w:
            self.w = {name: draw(*shape) for name, shape in self.cell.shapes(I, H).items()}
        if not self.given:
            self.given = {"xs": draw(T, B, I), "dys": draw(T, B, H)}
            for name in self.cell.states:
                self.given |= {f"{name}0": draw(B, H), f"d{name}": draw(B, H)}

    @property
    def cell(self) -> cells.Cell:
        return CELLS[self.code][0]

    def empty(self, *shape: int) -> Any:
        """What was never written is to be seen."""
        return np.full(shape, np.nan, self.dtype)

    def forward(self, threads: int = 1, keep: bool = True) -> Arrays:
        """ys, h, c and what backward needs."""
        (T, B, _, H), kept, two = self.sizes, CELLS[self.code][1], len(self.cell.states) == 2
        out = {"ys": self.empty(T, B, H), "h": self.empty(B, H)}
        out["c"] = self.empty(B, H) if two else None
        out["gates"] = self.empty(T, B, kept * H) if kept and keep else None
        out["cs"] = self.empty(T, B, H) if two and keep else None
        self.divided = native.forward(
            *(self.code, *self.sizes, self.given["xs"], *map(self.w.get, PARTS)),
            *(self.lengths, self.reverse, self.given["h0"], self.given.get("c0")),
            *(out["ys"], out["h"], out["c"], out["gates"], out["cs"], threads),
        )
        return out

    def backward(self, out: Arrays, threads: int = 1, das: Any = None) -> Arrays:
        """dxs, dh, dc and dW …, from what `forward` gave.  Default das: the gates themselves."""
        T, B, I, H = self.sizes
        if das is None:
            das = self.empty(T, B, H) if out["gates"] is None else out["gates"]
        d: Arrays = {"dxs": self.empty(T, B, I), "dh": self.given["dh"].copy(), "dc": None}
        if "dc" in self.given:
            d["dc"] = self.given["dc"].copy()
        d |= {f"d{k}": self.empty(*self.w[k].shape) if k in self.w else None for k in PARTS}
        divided = native.backward(
            *(self.code, *self.sizes, self.w["W"], self.w.get("U")),
            *(out["gates"], out["cs"], out["ys"], self.given["h0"], self.given.get("c0")),
            *(self.given["dys"], self.lengths, self.reverse, d["dh"], d["dc"], das, d["dxs"]),
            *(d[f"d{k}"] for k in PARTS),
            *(self.given["xs"], threads),
        )
        self.divided = (self.divided, divided)
        return d

    def results(self, threads: int = 1) -> Arrays:
        """Everything that comes out, by name."""
        out = self.forward(threads)
        gradients = self.backward(out, threads)
        named = {k: out[k] for k in ("ys", "h", "c")} | gradients
        return {k: a for k, a in named.items() if a is not None}

    def right(self) -> Arrays:
        """The same by the cell itself, in float64."""
        cell = replace(self.cell)  # no table knows this one

        def wide(arrays: Arrays) -> Arrays:
            return {k: np.nan_to_num(a).astype("float64") for k, a in arrays.items()}

        given, w = wide(self.given), wide(self.w)
        first = tuple(given[f"{name}0"] for name in cell.states)
        ys, last, tape = xrnn.unroll(
            cell, w, given["xs"], first, lengths=self.lengths, reverse=self.reverse
        )
        dlast = tuple(given[f"d{name}"] for name in cell.states)
        dxs, dfirst, dw = xrnn.unroll_backward(tape, given["dys"], dlast)
        named = {"ys": ys, "dxs": dxs} | {f"d{k}": dw[k] for k in w}
        for name, a, d in zip(cell.states, last, dfirst, strict=True):
            named |= {name: a, f"d{name}": d}
        return named

    def only(self, b: int) -> Case:
        """Sequence b, alone."""
        T, _, I, H = self.sizes
        given = {
            k: np.ascontiguousarray(a[:, b : b + 1] if a.ndim == 3 else a[b : b + 1])
            for k, a in self.given.items()
        }
        n = None if self.lengths is None else self.lengths[b : b + 1].copy()
        return replace(self, sizes=(T, 1, I, H), lengths=n, given=given)


def some_lengths(T: int, B: int, start: int = 0) -> Any:
    return np.array([(T, 0, T // 2, T - 1)[(b + start) % 4] for b in range(B)], np.int64)


def same(a: Arrays, b: Arrays) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def close(got: Arrays, right: Arrays, bound: float) -> None:
    assert got.keys() == right.keys()
    for name, a in right.items():
        gap, scale = abs(got[name] - a).max(), abs(a).max()
        assert gap <= bound * max(scale, 1e-30), (name, gap / scale)


def past_the_end(case: Case) -> Iterator[tuple[slice, int]]:
    for b in range(case.sizes[1]):
        yield slice(int(case.lengths[b]), None), b


@every_cell
@every_dtype
@every_direction
@pytest.mark.parametrize("start", [None, 0, 1, 2])
def test_equal_to_the_cell(code: int, dtype: str, reverse: bool, start: int | None) -> None:
    for H, B, T in product((1, 5, 16, 17, 33, 70), (1, 2, 7), (1, 6)):
        n = None if start is None else some_lengths(T, B, start)
        case = Case(code, (T, B, H % 7 + H // 2 + 1, H), dtype, n, reverse)
        if n is not None:
            for steps, b in past_the_end(case):
                case.given["xs"][steps, b] = case.given["dys"][steps, b] = np.nan
        got = case.results()
        close(got, case.right(), BOUND[dtype])
        if n is not None:
            for steps, b in past_the_end(case):
                assert not got["ys"][steps, b].any()
                assert not got["dxs"][steps, b].any()


def by_threads(case: Case, divided: dict[int, int]) -> None:
    """Each number of threads divides the work like this, and gives the bits of one thread."""
    for w in case.w.values():
        w *= 0.2  # or gradients grow out of all bounds
    one = case.results(threads=1)
    assert case.divided == (1, 1)
    for threads, how in divided.items():
        same(one, case.results(threads))
        assert case.divided == (how, how), threads


@every_cell
@every_dtype
@every_direction
@pytest.mark.parametrize("cut", [False, True])
def test_threads_that_divide_sequences_change_no_bit(
    code: int, dtype: str, reverse: bool, cut: bool
) -> None:
    lengths = some_lengths(70, 30) if cut else None
    by_threads(Case(code, (70, 30, 99, 130), dtype, lengths, reverse), {2: 2, 3: 3})


@every_cell
def test_threads_that_pack_and_sum_change_no_bit(code: int) -> None:
    """So large that several threads pack the weights and sum the gradients of the biases."""
    by_threads(Case(code, (20, 40, 20, 430)), {2: 2, 3: 3})


@every_cell
@every_dtype
@every_direction
@pytest.mark.parametrize("B", [1, 2, 5])
def test_threads_that_divide_units_change_no_bit(
    code: int, dtype: str, reverse: bool, B: int
) -> None:
    lengths = some_lengths(70, B) if B > 1 else None
    by_threads(Case(code, (70, B, 100, 397), dtype, lengths, reverse), {2: -2, 3: -3})


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
@pytest.mark.parametrize("B", [1, 40])
def test_without_threads_the_caller_does_it_all(B: int) -> None:
    """The system refuses threads: there is no room for their stacks."""
    code = (
        "import resource, sys; sys.path.insert(0, 'tests')\n"
        "from test_native_loops import CODES, Case, cells, same\n"
        f"case = Case(CODES[cells.LSTM], (70, {B}, 30, 250)); one = case.results(1)\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (40 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "same(one, case.results(2)); assert case.divided == (1, 1), case.divided\n"
    )
    command = f'ulimit -s 65536 && exec {sys.executable} -c "$0"'
    subprocess.run(["bash", "-c", command, code], cwd=ROOT, check=True, timeout=120)


@every_cell
@every_direction
def test_a_sequence_alone_is_the_same_as_in_a_batch(code: int, reverse: bool) -> None:
    for B in (2, 7, 13):
        case = Case(code, (6, B, 9, 33), lengths=some_lengths(6, B), reverse=reverse)
        whole = case.results()
        for b in range(B):
            alone = case.only(b).results()
            for name in alone:
                if name[1:] in case.w:
                    continue  # the gradients of weights are sums over the batch
                part = whole[name][..., b : b + 1, :]
                assert np.array_equal(part, alone[name]), (B, b, name)


@every_cell
@every_dtype
@pytest.mark.parametrize("B", [1, 2, 7])
def test_steps_are_the_whole(code: int, dtype: str, B: int) -> None:
    for I, H in ((5, 33), (40, 16), (1, 1), (17, 70)):
        case = Case(code, (5, B, I, H), dtype)
        whole = case.forward()
        h, c = case.given["h0"], case.given.get("c0")
        for t, x in enumerate(case.given["xs"]):
            new_h, new_c = case.empty(B, H), None if c is None else case.empty(B, H)
            native.step(code, B, I, H, x, *map(case.w.get, PARTS), h, c, new_h, new_c)
            h, c = new_h, new_c
            assert np.array_equal(h, whole["ys"][t])
        assert c is None or np.array_equal(c, whole["c"])


@every_cell
@every_direction
def test_nothing_kept_is_the_same(code: int, reverse: bool) -> None:
    for sizes in ((1, 1, 4, 17), (9, 1, 4, 17), (40, 5, 64, 200)):
        T, B, _, _ = sizes
        for n in (None, some_lengths(T, B)):
            case = Case(code, sizes, lengths=n, reverse=reverse)
            kept, bare = case.forward(), case.forward(keep=False)
            for name in ("ys", "h", "c"):
                assert np.array_equal(kept[name], bare[name]), name


@every_cell
@every_dtype
def test_instruction_sets_agree(code: int, dtype: str) -> None:
    case = Case(code, (6, 7, 9, 33), dtype, some_lengths(6, 7))
    was, found = native.isa(), {}
    try:
        for name in native.isas():
            native.isa(name)
            found[name] = case.results()
            same(found[name], case.results(threads=3))
    finally:
        native.isa(was)
    for one in found.values():
        close(one, case.right(), BOUND[dtype])


@every_cell
@every_direction
def test_a_nan_stays_in_its_sequence(code: int, reverse: bool) -> None:
    for bad, where in product((0, 3), Case(code, (1, 1, 1, 1)).given):
        case = Case(code, (6, 7, 9, 33), reverse=reverse)
        clean = case.results()
        case.given[where][..., bad, 1] = np.nan
        dirty = case.results()
        rest = [b for b in range(7) if b != bad]
        for name in clean:
            if name[1:] not in case.w:
                a, b = (r[name][..., rest, :] for r in (clean, dirty))
                assert np.array_equal(a, b), name
        if not (where == "h0" and case.cell is cells.InputGatedLSTM):  # it does not read h
            seen = dirty["dxs" if where in ("dys", "dh", "dc") else "ys"][:, bad]
            assert np.isnan(seen).any()


@every_cell
def test_weights_changed_in_place_are_seen(code: int) -> None:
    for sizes in ((1, 1, 5, 20), (6, 3, 5, 20)):
        case = Case(code, sizes)
        case.results()
        for name in case.w:
            before = case.results()
            case.w[name] += 0.25
            after = case.results()
            assert not np.array_equal(before["ys"], after["ys"]), name
            close(after, case.right(), BOUND["float32"])


@every_cell
@every_direction
def test_nothing_given_is_written_to(code: int, reverse: bool) -> None:
    case = Case(code, (6, 7, 9, 33), lengths=some_lengths(6, 7), reverse=reverse)
    given = {**case.w, **case.given, "lengths": case.lengths}
    before = {k: a.copy() for k, a in given.items()}
    for a in given.values():
        a.flags.writeable = False
    case.results(threads=2)
    same(before, given)


@every_cell
@every_direction
def test_gradients_beside_the_gates_are_the_same(code: int, reverse: bool) -> None:
    """The gates are kept for another backward pass if das is an array of its own."""
    case = Case(code, (6, 7, 9, 33), lengths=some_lengths(6, 7), reverse=reverse)
    expected, out = case.results(), case.forward()
    for _ in range(2):
        kept = None if out["gates"] is None else out["gates"].copy()
        d = case.backward(out, das=case.empty(6, 7, max(1, CELLS[code][1]) * 33))
        for name, a in d.items():
            assert a is None or np.array_equal(a, expected[name]), name
        assert kept is None or np.array_equal(kept, out["gates"], equal_nan=True)


@every_cell
@every_direction
def test_no_gradient_of_the_outputs(code: int, reverse: bool) -> None:
    case = Case(code, (6, 7, 9, 33), reverse=reverse)
    case.given["dys"][...] = 0
    zeros = case.results()
    case.given["dys"] = None
    same(zeros, case.results())


@every_cell
def test_infinite_weights_leave_the_padding_zero(code: int) -> None:
    case = Case(code, (6, 7, 9, 33), lengths=some_lengths(6, 7))
    case.w["W"][0, 0] = np.inf
    got = case.results()
    for steps, b in past_the_end(case):
        assert not got["ys"][steps, b].any()
        assert not got["dxs"][steps, b].any()


@every_cell
def test_no_steps_and_no_sequences(code: int) -> None:
    for T, B in ((0, 3), (4, 0)):
        got = Case(code, (T, B, 5, 9)).results()
        close({k: a for k, a in got.items() if a.size}, _empty(Case(code, (T, B, 5, 9))), 0)


def _empty(case: Case) -> Arrays:
    """Of no steps: the state as it was given, no gradient but its own."""
    right: Arrays = {f"d{k}": np.zeros_like(w) for k, w in case.w.items()}
    for name in case.cell.states:
        right |= {name: case.given[f"{name}0"], f"d{name}": case.given[f"d{name}"]}
    return {k: a for k, a in right.items() if a.size}
