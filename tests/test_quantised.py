"""Weights of 8 bits: the definition, and the native loops, which have its bits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rows import MADE

import xrnn
from xrnn import cells
from xrnn.backends.cpu import extension
from xrnn.cells import Cell
from xrnn.recurrence.quantised import Quantised, quantised

native = pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
ISAS = [] if extension.ABSENT else extension._native.isas()
#: those with the instruction fma, so that their activations have the same bits
FUSED = [isa for isa in ISAS if isa != "portable"]
LOOPS = [*extension.CODES, *(cell for cell in MADE if xrnn.backends.get("cpu").kernels_of(cell))]


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture
def isa() -> Iterator[Any]:
    """Selects an instruction set, and afterwards the one before."""
    now = extension._native.isa()
    yield extension._native.isa
    extension._native.isa(now)


def pair(cell: Cell, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """A layer with weights of 8 bits, and the same of a cell that no kernel knows."""
    layer = xrnn.Layer(cell, *sizes, rng=0, **options)
    plain = xrnn.Layer(replace(cell), *sizes, **options)
    plain.weights = layer.weights
    return layer.freeze(weights="int8"), plain.freeze(weights="int8")


def equal(found: Any, expected: Any) -> None:
    """(ys, state) of two layers, bit for bit."""
    for a, b in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- The definition


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("k", [1, 3, 512, 513, 2000])
def test_the_sums_are_exact(k: int, wide: bool) -> None:
    rng = np.random.default_rng(k)
    p = rng.integers(-127, 128, (5, k)).astype("int8")
    levels = 32767 if wide else 127
    q = rng.integers(-levels, levels + 1, (3, k))
    q[:, 0] = levels  # so that the scale of each row is a power of 2
    scales = np.full(5, 0.5, "float32")
    found = (q.astype("float32") / 64) @ Quantised(p, scales, wide).T
    exact = q @ p.T.astype(int)
    high = (q // 256) @ p.T.astype(int)
    rounded = 256 * high.astype("float32") + (exact - 256 * high).astype("float32")
    expected = (rounded if wide else exact.astype("float32")) / 128
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_weights_are_rounded_to_the_nearest() -> None:
    w = noise(7, 40)
    w[2], w[3], w[4, 1:] = 0, 1e-38, 0
    integers, scales = quantised(w, xp=np)
    assert (abs(integers).max(1) == np.where(scales > 0, 127, 0)).all()
    assert (abs(integers * scales[:, None] - w) <= scales[:, None] * 0.5001 + 1e-38).all()
    assert scales[2] == scales[3] == 0
    np.testing.assert_array_equal(
        quantised(Quantised(integers, scales, True).real(), xp=np)[0], integers
    )


def test_what_is_not_finite_and_what_is_tiny() -> None:
    matrix, x = Quantised(*quantised(noise(4, 6), xp=np), wide=True), noise(5, 6, seed=1)
    usual = x @ matrix.T
    x[0, 2], x[1, 0], x[2], x[3, 5] = np.nan, -np.inf, 1e-38, 0
    found = x @ matrix.T
    assert np.isnan(found[:2]).all()
    assert (found[2] == 0).all()
    np.testing.assert_array_equal(found[4], usual[4])


# ---- The native loops


@native
@pytest.mark.parametrize(
    ("T", "B", "I", "H"),
    [(1, 1, 1, 1), (5, 1, 3, 17), (9, 3, 70, 33), (4, 13, 64, 130), (2, 40, 130, 64)],
)
@pytest.mark.parametrize("name", ISAS)
def test_a_relu_network_is_the_definition(
    name: str, T: int, B: int, I: int, H: int, isa: Any
) -> None:
    """Bit for bit: its activation is exact."""
    isa(name)
    layer, plain = pair(cells.ElmanReLU, I, H)
    xs, state = noise(T, B, I), (noise(1, B, H, seed=1),)
    assert layer.path(xs.shape)["_l0"].startswith("native loop")
    assert layer.path(xs.shape)["_l0"].endswith(", int8 weights")
    assert plain.path(xs.shape) == {"_l0": "the cell as written, int8 weights"}
    xs[0, 0, 0] = 1e3
    equal(layer(xs, state), plain(xs, state))
    xs[-1, -1, 0] = np.nan
    found = layer(xs, state)
    equal(found, plain(xs, state))
    assert np.isnan(found[0][-1, -1]).all()


#: the loops in which products take x and h alone, and not what the step has computed
DIRECT = [
    cell
    for cell in LOOPS
    if cell not in (cells.GRUBefore, cells.MGU)
    and cell.projection is None
    and getattr(cell.made, "reset", "") != "before"
]


@native
@pytest.mark.parametrize("cell", DIRECT, ids=lambda cell: cell.name)
@pytest.mark.parametrize("name", ISAS)
def test_where_rounding_changes_nothing_it_is_the_loop_of_float32(
    name: str, cell: Cell, isa: Any
) -> None:
    """One step of integers that 8 and 16 bits hold, and whose sums float32 holds."""
    isa(name)
    I, H, B = 6, 37, 3
    rng, layer = np.random.default_rng(3), xrnn.Layer(cell, I, H)
    weights = {k: rng.integers(-3, 4, w.shape) / 64 for k, w in layer.weights.items()}
    for w in weights.values():
        if w.ndim == 2:
            w[:, 0], w[:, 1] = 0, 127 / 64
    layer.weights = {k: w.astype("float32") for k, w in weights.items()}
    x = rng.integers(-3, 4, (B, I)) / 64
    x[:, 0] = 32767 / 64
    first = [rng.integers(-3, 4, (1, B, n)) / 64 for n in layer.widths(0)]
    first[0][:, :, 0] = 127 / 64
    given = x.astype("float32"), tuple(s.astype("float32") for s in first)
    equal(copy.copy(layer).freeze(weights="int8").step(*given), layer.step(*given))


@native
@pytest.mark.parametrize("cell", LOOPS, ids=lambda cell: cell.name)
def test_every_loop_is_near_to_the_definition(cell: Cell) -> None:
    layer, plain = pair(cell, 5, 40, 2, bidirectional=True)
    xs = noise(6, 4, 5)
    found, expected = layer(xs, lengths=[6, 0, 3, 5]), plain(xs, lengths=[6, 0, 3, 5])
    for a, b in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2 * max(1, abs(b).max()))


@native
@pytest.mark.parametrize("cell", [*extension.CODES, cells.lstm_with(proj_size=5)], ids=str)
def test_a_sequence_depends_on_itself_alone(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, cut, beside loud neighbours and NaN, and by any number of threads."""
    layer = xrnn.Layer(cell, 20, 150, rng=0).freeze(weights="int8")
    xs = noise(9, 14, 20)
    ys, last = layer(xs)
    for b in (0, 5, 13):
        one, state = layer(xs[:4, b : b + 1])
        two, state = layer(xs[4:, b : b + 1], state)
        equal(
            (np.concatenate([one, two]), state), (ys[:, b : b + 1], [s[:, b : b + 1] for s in last])
        )
    loud = xs.copy()
    loud[:, 1::2] *= 1e4
    loud[3, 7] = np.nan
    np.testing.assert_array_equal(layer(loud)[0][:, ::2], ys[:, ::2])
    state = None
    for t in range(9):
        y, state = layer.step(xs[t], state)
        np.testing.assert_array_equal(y, ys[t])
    monkeypatch.setattr(extension, "SMALL", 0)
    for threads in ("2", "3"):
        monkeypatch.setenv("XRNN_NUM_THREADS", threads)
        equal(layer(xs), (ys, last))


@native
@pytest.mark.parametrize("B", [1, 2, 3])
def test_units_shared_by_threads(B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, xs = xrnn.GRU(128, 256, rng=0).freeze(weights="int8"), noise(40, B, 128)
    monkeypatch.setenv("XRNN_NUM_THREADS", "1")
    expected = layer(xs)
    monkeypatch.setenv("XRNN_NUM_THREADS", "2")
    equal(layer(xs), expected)


@native
@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU, cells.GRUBefore], ids=str)
def test_instruction_sets_give_the_same_bits(cell: Cell, isa: Any) -> None:
    layer, xs = xrnn.Layer(cell, 20, 150, rng=0).freeze(weights="int8"), noise(9, 14, 20)
    expected = layer(xs)
    for name in FUSED:
        isa(name)
        equal(copy.deepcopy(layer)(xs), expected)
