"""Frozen weights: nothing changes them, and what is packed of them gives the same bits."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends.cpu import extension
from xrnn.cells import GRU, LSTM, MGU, Cell, GRUBefore
from xrnn.learn.optim import SGD

native = pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)


def noise(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def same(a: Any, b: Any) -> None:
    """(y, state) of two layers, bit for bit."""
    for x, y in zip((a[0], *a[1]), (b[0], *b[1]), strict=True):
        np.testing.assert_array_equal(x, y)


@native
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", extension.CODES, ids=lambda cell: cell.name)
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"bias": False}], ids=str)
def test_the_same_bits(cell: Cell, dtype: Any, options: dict[str, Any]) -> None:
    layer = xrnn.Layer(cell, 5, 33, dtype=dtype, **options)
    frozen = copy.copy(layer).freeze()
    for T, B in ((1, 1), (1, 3), (2, 1), (7, 1), (4, 40)):
        xs = noise(T, B, 5, dtype=dtype)
        same(frozen(xs), layer(xs))
        state = layer(xs)[1]
        same(frozen(xs, state), layer(xs, state))
        same(frozen.step(xs[0], state), layer.step(xs[0], state))


@native
def test_it_packs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, pack = [], extension._native.pack
    layer, xs = xrnn.GRU(5, 33, num_layers=2), noise(7, 3, 5)
    layer(xs)  # the kernel has been verified by now

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(native_module, name)

        def pack(self, *args: Any) -> Any:
            if args[4]:  # fixed
                made.append(args)
            return pack(*args)

    native_module = extension._native
    monkeypatch.setattr(extension, "_native", Watched())
    state = layer(xs)[1]
    assert not made
    layer.freeze()
    for x in xs:
        state = layer.step(x, state)[1]
        layer(xs, state)
    assert len(made) == 2
    other = copy.copy(layer)
    other.freeze()
    for _ in range(3):
        same(other(xs), layer(xs))
    assert len(made) == 4


@native
def test_units_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRNN_NUM_THREADS", "2")
    layer, xs = xrnn.LSTM(128, 256), noise(40, 1, 128)
    expected = layer(xs)
    same(layer.freeze()(xs), expected)


@native
@pytest.mark.parametrize("weights", [None, "int8", "bfloat16"])
@pytest.mark.parametrize("cell", [LSTM, GRU, GRUBefore, MGU], ids=str)
def test_threads_share_the_panels_of_a_pack(
    cell: Any, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 units are 4, 8 or 16 panels, which 2 threads and 4 share; 260 do not fill the last."""
    now = extension._native.isa()
    try:
        for H, name in product((256, 260), extension._native.isas()):
            extension._native.isa(name)
            layer, xs = xrnn.Layer(cell, 96, H, rng=0).freeze(weights=weights), noise(40, 2, 96)
            found = []
            for threads in ("1", "2", "3", "4", "9"):  # more than there are panels
                monkeypatch.setenv("XRNN_NUM_THREADS", threads)
                found.append(layer(xs, lengths=[40, 31]))
            for other in found[1:]:
                same(other, found[0])
    finally:
        extension._native.isa(now)


def test_it_trains_no_more_but_says_gradients() -> None:
    layer, xs = xrnn.GRU(3, 5), noise(6, 2, 3)
    ys, _, tape = layer.forward(xs)
    expected = layer.backward(tape, ys)
    layer.freeze()
    ys, _, tape = layer.forward(xs)
    for name, d in layer.backward(tape, ys)[2].items():
        np.testing.assert_array_equal(d, expected[2][name])


def test_weights_cannot_change_behind_its_back() -> None:
    layer, x = xrnn.LSTM(3, 20), noise(1, 3)
    state = layer.step(x)[1]
    drawn = layer.weights
    layer.freeze()
    before = layer.step(x, state)
    drawn["U_l0"] *= 2  # not its own any more
    same(layer.step(x, state), before)
    for name, w in layer.weights.items():
        with pytest.raises(ValueError, match="read-only"):
            w *= 2
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            w.setflags(write=True)
        with pytest.raises(TypeError, match="frozen"):
            layer.weights[name] = 2 * w
    same(layer.step(x, state), before)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.update(b_l0=0),
        lambda weights: weights.pop("b_l0"),
        lambda weights: weights.popitem(),
        lambda weights: weights.setdefault("c", 0),
        lambda weights: weights.clear(),
        lambda weights: weights.__delitem__("b_l0"),
    ],
)
def test_the_mapping_cannot_change(change: Any) -> None:
    layer = xrnn.LSTM(3, 4).freeze()
    with pytest.raises(TypeError, match=r"frozen; to change them, first assign|cannot be removed"):
        change(layer.weights)
    assert sorted(layer.weights) == ["U_l0", "W_l0", "b_l0"]


@pytest.mark.parametrize("again", [lambda layer: layer, lambda layer: layer.freeze()])
def test_other_weights_are_seen_at_once(again: Any) -> None:
    layer, other, x = xrnn.LSTM(3, 20).freeze(), xrnn.LSTM(3, 20, rng=1), noise(1, 3)
    state = layer.step(x)[1]
    before = layer.step(x, state)
    layer.weights = {name: w.copy() for name, w in other.weights.items()}
    after = again(layer).step(x, state)
    same(after, other.step(x, state))
    assert (after[0] != before[0]).any()


def test_copies_are_frozen_too() -> None:
    layer, x = xrnn.GRU(3, 20).freeze(), noise(1, 3)
    state = layer.step(x)[1]
    for twin in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
        same(twin.step(x, state), layer.step(x, state))
        assert twin.weights.frozen
        with pytest.raises(ValueError, match="read-only"):
            twin.weights["W_l0"] += 1


def test_moved_weights_stay_frozen_and_conversion_is_refused() -> None:
    layer = xrnn.LSTM(3, 4).freeze().to("cpu")
    assert layer.weights.frozen
    state_dict = xrnn.convert.to_torch(layer)
    with pytest.raises(TypeError, match="frozen"):
        xrnn.convert.from_torch(layer, state_dict)


def test_an_update_and_a_load_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    free, frozen = xrnn.LSTM(3, 4), xrnn.LSTM(3, 4).freeze()
    parts = {"free": free, "frozen": frozen}
    xrnn.save(tmp_path / "parts", {"free": xrnn.LSTM(3, 4, rng=1), "frozen": frozen})
    before = {name: w.copy() for name, w in free.weights.items()}
    tree = {name: part.weights for name, part in parts.items()}
    optimizer = SGD(0.1)
    with pytest.raises(TypeError, match="frozen"):
        optimizer.update(tree, tree)
    with pytest.raises(TypeError, match="frozen"):
        xrnn.load(tmp_path / "parts", parts)
    assert optimizer.steps == 0
    for name, w in before.items():
        np.testing.assert_array_equal(free.weights[name], w)


def test_other_parts_and_libraries() -> None:
    embedding = xrnn.Embedding(5, 3).freeze()
    with pytest.raises(ValueError, match="read-only"):
        embedding.weights["E"] += 1
    strict = pytest.importorskip("array_api_strict")
    layer = xrnn.LSTM(3, 4, device="array_api_strict")
    ys, _ = layer(strict.asarray(noise(4, 2, 3)))
    again, _ = layer.freeze()(strict.asarray(noise(4, 2, 3)))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(ys))


@native
class TestPack:
    I, H = 5, 16
    code = 0 if extension.ABSENT else extension.CODES[LSTM].number

    def pack(self, dtype: str = "float32", **changed: Any) -> Any:
        weights = {k: noise(*s, dtype=dtype) for k, s in LSTM.shapes(self.I, self.H).items()}
        found = [(weights | changed).get(name) for name in ("W", "U", "b")]
        return extension._native.pack(self.code, 0, self.I, self.H, True, *found)

    def step(self, pack: Any, code: int, I: int, H: int, dtype: str = "float32") -> Any:
        x, *states = (noise(1, n, dtype=dtype) for n in (I, H, H, H, H))
        extension._native.step(code, 0, 1, I, H, x, pack, *states)
        return states[2]

    def test_it_fits_what_it_was_made_for(self) -> None:
        pack = self.pack()
        assert np.isfinite(self.step(pack, self.code, self.I, self.H)).all()
        for code, I, H, dtype in (
            (self.code + 1, self.I, self.H, "float32"),
            (self.code, self.I + 1, self.H, "float32"),
            (self.code, self.I, self.H - 1, "float32"),
            (self.code, self.I, self.H, "float64"),
        ):
            with pytest.raises(ValueError, match="a pack of another cell, size, dtype"):
                self.step(pack, code, I, H, dtype)

    def test_not_for_another_instruction_set(self) -> None:
        pack, now = self.pack(), extension._native.isa()
        try:
            # What rounds nothing is the same for all of AVX-512, and for both of AVX2.
            wide = {"amxint8", "avx512bf16", "avx512vnni", "avx512"}
            same = next((s for s in (wide, {"avxvnni", "avx2"}) if now in s), {now})
            for other in set(extension._native.isas()) - same:
                extension._native.isa(other)
                with pytest.raises(ValueError, match="instruction set"):
                    self.step(pack, self.code, self.I, self.H)
        finally:
            extension._native.isa(now)

    def test_of_weights_that_may_change_every_instruction_set_takes_it(self) -> None:
        weights = {k: noise(*s) for k, s in LSTM.shapes(self.I, self.H).items()}
        given = [weights.get(name) for name in ("W", "U", "b")]
        pack = extension._native.pack(self.code, 0, self.I, self.H, False, *given)
        before, now = self.step(pack, self.code, self.I, self.H).copy(), extension._native.isa()
        try:
            for name in extension._native.isas():
                extension._native.isa(name)
                found = self.step(pack, self.code, self.I, self.H)
                np.testing.assert_allclose(found, before, rtol=1e-5)
        finally:
            extension._native.isa(now)
        weights["b"] += 1  # seen, as nothing was made of them
        assert (self.step(pack, self.code, self.I, self.H) != before).any()
        with pytest.raises(ValueError, match="a pack of another cell, size, dtype"):
            self.step(pack, self.code, self.I, self.H, "float64")

    def test_wrong_weights(self) -> None:
        with pytest.raises(ValueError, match="W holds 6 items; it must hold 320"):
            self.pack(W=noise(6))
        with pytest.raises(ValueError, match="U is needed"):
            self.pack(U=None)
        with pytest.raises((TypeError, BufferError)):
            self.pack(b=None)
        with pytest.raises(ValueError, match="format d"):
            self.pack(U=noise(64, 16, dtype="float64"))

    @pytest.mark.parametrize(("H", "shares"), [(256, "panels"), (250, "anew")])
    @pytest.mark.parametrize("fixed", [1, 2])
    def test_threads_share_the_panels_that_are_kept(self, H: int, shares: str, fixed: int) -> None:
        """Also where these are all that is kept; then no more threads than there are panels."""
        native, T, I = extension._native, 150, 96
        weights, (xs, h, c) = weights_of(I, H), (noise(T, 1, I), noise(1, H), noise(1, H))
        found = []
        for given in (weights, [native.pack(self.code, 0, I, H, fixed, *weights)]):
            ys, *last = (np.empty(shape, "float32") for shape in ((T, 1, H), (1, H), (1, H)))
            call = (self.code, 0, T, 1, I, H, xs, *given, None, 0, h, c, ys, *last)
            found.append((native.forward(*call, None, None, 0, 7), ys.tobytes()))
        (threads, expected), (shared, bits) = found
        panels = {"avx512": 4, "amxint": 4, "portab": 16}.get(native.isa()[:6], 8)
        assert threads == -7
        assert shared == (-7 if fixed == 1 or shares == "anew" else -min(7, panels))
        assert bits == expected

    def test_it_gives_back_what_it_took(self) -> None:
        """Resident memory stays, however many packs come and go."""
        statm = Path("/proc/self/statm")
        if not statm.exists():
            pytest.skip("the system does not say what memory is in use")
        sizes = []
        for _ in range(4):
            for _ in range(200):
                extension._native.pack(self.code, 0, 64, 128, True, *weights_of(64, 128))
            sizes.append(int(statm.read_text().split()[1]))
        assert min(b - a for a, b in pairwise(sizes)) < 1000  # pages; 200 packs are 20,000


def weights_of(I: int, H: int) -> list[Any]:
    weights = {k: noise(*s) for k, s in LSTM.shapes(I, H).items()}
    return [weights.get(name) for name in ("W", "U", "b")]
