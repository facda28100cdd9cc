"""A file alone gives back what was saved: classes, options, numbers and outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import make_golden
import numpy as np
import pytest
from optioned import MAKERS, PROJECTED

import xrnn
from xrnn import cells
from xrnn.backends import backend_of
from xrnn.cells.descriptions import MAKERS as BY_OPTIONS
from xrnn.cells.descriptions import cell_of, described
from xrnn.cells.options import Options
from xrnn.convert import files

T, B, I, H = 5, 2, 3, 4


def values(part: Any) -> dict[str, bytes]:
    """The bits of all weights."""

    def host(a: Any) -> Any:
        return backend_of(a).to_host(a)

    return {name: host(w).tobytes() for name, w in part.weights.items()}


def again(path: Path, part: Any, **how: Any) -> Any:
    """The part, saved and loaded alone."""
    xrnn.save(path / "m", part)
    return xrnn.load(path / "m", **how)


def check_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    assert a.config() == b.config()
    assert values(a) == values(b)
    assert repr(a) == repr(b)


OPTIONED: dict[str, cells.Cell[Any]] = {
    **{f"{name} clipped": make(clip=3.0) for name, make in MAKERS.items()},
    **{name: make(cell_clip=0.1, recurrent_dropout=0.25) for name, make in PROJECTED.items()},
    "activations": cells.lstm_with(
        activations=[("hard_sigmoid", 1 / 6, 0.5), ("leaky_relu", 0.1), "softplus"]
    ),
    "one parameter left out": cells.rnn_with(activations=[("scaled_tanh", 1.7)]),
    "products": cells.lstm_with(layer_norm=True),
    "gates": cells.lstm_with(layer_norm="gates", peephole=True, coupled=True),
    "gru norm": cells.gru_with(layer_norm=True, zoneout=0.1),
    "zoneout": cells.lstm_with(zoneout=(0.1, 0.0)),
    "zoneout of a plain cell": cells.with_zoneout(cells.JANET, 1 / 3),
    "leaky": cells.leaky_with(0.1),
    "leaky with all": cells.leaky_with(1, activations=[("elu", 0.3)], noise=0.1, potential=True),
    "leaky zoneout": cells.with_zoneout(cells.leaky_with(0.3, noise=1e-300), 0.5),
}


@pytest.mark.parametrize("cell", [*cells.BY_NAME.values(), *OPTIONED.values()], ids=str)
class TestCells:
    def test_a_layer_of_it(self, tmp_path: Path, cell: Any) -> None:
        layer = xrnn.Layer(cell, I, (H, 5), bidirectional=True, batch_first=True)
        found = again(tmp_path, layer)
        assert found.cell is cell
        check_same(layer, found)
        xs = np.random.default_rng(0).normal(size=(B, T, I)).astype("float32")
        np.testing.assert_array_equal(layer(xs)[0], found(xs)[0])

    def test_its_description(self, cell: Any) -> None:
        assert cell_of(described(cell)) is cell


def test_every_kind_of_options_has_a_description() -> None:
    """Those that no cell is described by are those of zoneout, which takes a cell."""
    assert set(Options.__subclasses__()) < set(BY_OPTIONS)
    assert len(BY_OPTIONS) == 1 + len(Options.__subclasses__())


LAYERS: dict[str, Any] = {
    "RNN": xrnn.RNN(I, H, nonlinearity="relu", reverse=True, bias=False),
    "GRU": xrnn.GRU(I, H, 3, dropout=0.5, weight_drop=0.25, learn_state=True),
    "GRU before": xrnn.GRU(I, H, reset="before", batch_first=True, precision="tf32"),
    "LSTM": xrnn.LSTM(I, (H, 5, 6), bidirectional=True, learn_state=True),
    "LSTM with options": make_golden.parts("options", rng=1),
    "LSTM with peepholes": xrnn.LSTM(I, H, peephole=True),
    "Layer": xrnn.Layer(cells.PeepholeLSTM, I, H),
    "InputGatedLSTM": xrnn.InputGatedLSTM(I, H, 2, init="uniform"),
    "Embedding": xrnn.Embedding(7, I),
    "padded Embedding": xrnn.Embedding(7, I, padding_idx=2),
    "Linear": xrnn.Linear(H, 7, activation="relu", bias=False),
    "Linear with sigmoid": xrnn.Linear(H, 7, activation="sigmoid"),
    "LayerNorm": xrnn.LayerNorm(H, eps=1e-3),
}


@pytest.mark.parametrize("part", LAYERS.values(), ids=list(LAYERS))
def test_every_class_comes_back(tmp_path: Path, part: Any) -> None:
    check_same(part, again(tmp_path, part))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_every_dtype_comes_back(tmp_path: Path, dtype: Any) -> None:
    layer = xrnn.LSTM(I, H, dtype=dtype)
    check_same(layer, again(tmp_path, layer))
    for other in ("float16", "float32", "float64", "bfloat16"):
        if dtype == "complex64":
            with pytest.raises(ValueError, match=f"W_l0 is complex64; {other} cannot hold complex"):
                again(tmp_path, layer, dtype=other)
            continue
        found = again(tmp_path, layer, dtype=other)
        expected = xrnn.load(tmp_path / "m", xrnn.LSTM(I, H, dtype=other), cast=True)
        check_same(expected, found)


def test_numbers_that_are_too_large(tmp_path: Path) -> None:
    layer = xrnn.LSTM(I, H)
    layer.weights["U_l0"][2, 3] = 1e5
    with pytest.raises(ValueError, match=r"U_l0 holds 100000\.0, which is too large for float16"):
        again(tmp_path, {"a": layer}, dtype="float16")
    with pytest.raises(ValueError, match="embedding: dtype is 'complex64'; it must be"):
        again(tmp_path, {"a": xrnn.Embedding(3, 2)}, dtype="complex64")


def test_several_parts_in_their_order(tmp_path: Path) -> None:
    parts = {"z": xrnn.LSTM(I, H), "": xrnn.Embedding(3, I), "a.b": xrnn.Linear(H, 3)}
    found = again(tmp_path, parts)
    assert list(found) == list(parts)
    for name, one in parts.items():
        check_same(one, found[name])
    assert again(tmp_path, {}) == {}
    assert list(again(tmp_path, {"": parts["z"]})) == [""]


def model(**how: Any) -> xrnn.Sequential:
    """Parts of all kinds, within each other."""
    block = xrnn.Residual(
        xrnn.LayerNorm(8, **how), xrnn.Dropout(0.25), rnn=xrnn.GRU(8, 8, batch_first=True, **how)
    )
    return xrnn.Sequential(
        xrnn.Embedding(5, I, padding_idx=0, **how),
        xrnn.LSTM(I, H, bidirectional=True, batch_first=True, **how),
        first=block,
        again=block,
        merge=xrnn.Merge("mean"),
        pool=xrnn.Max(batch_first=True),
        out=xrnn.Linear(H, 2, activation="tanh", **how),
    )


def leaves(tree: Any) -> list[np.ndarray]:
    """The arrays of a tree of weights, in its order."""
    arrays: list[np.ndarray] = []
    for value in tree.values():
        arrays += [np.asarray(value)] if hasattr(value, "shape") else leaves(value)
    return arrays


TOKENS = np.arange(B * T).reshape(B, T) % 5


class TestPartsOfParts:
    def check(self, here: Any, there: Any) -> None:
        assert type(here) is type(there)
        assert here.config() == there.config()
        for a, b in zip(leaves(here.weights), leaves(there.weights), strict=True):
            np.testing.assert_array_equal(a, b)
        lengths = [T, 2]
        np.testing.assert_array_equal(here(TOKENS, None, lengths), there(TOKENS, None, lengths))
        y, tape = here.forward(TOKENS, lengths=lengths, seed=3)
        z, other = there.forward(TOKENS, lengths=lengths, seed=3)
        np.testing.assert_array_equal(y, z)
        for a, b in zip(
            leaves(here.backward(tape, y)[1]), leaves(there.backward(other, z)[1]), strict=True
        ):
            np.testing.assert_array_equal(a, b)

    def test_they_come_back(self, tmp_path: Path) -> None:
        here = model()
        found = again(tmp_path, here)
        self.check(here, found)
        assert found.parts["first"] is found.parts["again"]
        tensors, _ = files.read(tmp_path / "m")
        assert len(tensors) == len(leaves(here.weights)), "each is stored once"
        self.check(here, xrnn.load(tmp_path / "m", model()))
        wide = xrnn.load(tmp_path / "m", dtype="float64")
        self.check(xrnn.load(tmp_path / "m", model(dtype="float64"), cast=True), wide)

    def test_beside_others_that_share_them(self, tmp_path: Path) -> None:
        whole = model()
        parts = {"rnn": whole.parts["1"], "model": whole, "block": whole.parts["first"]}
        found = again(tmp_path, {**parts, "adam": xrnn.optim.Adam()})
        assert list(found) == ["rnn", "model", "block", "adam"]
        assert found["model"].parts["1"] is found["rnn"]
        assert found["model"].parts["first"] is found["model"].parts["again"] is found["block"]
        self.check(whole, found["model"])

    def test_their_order_counts(self, tmp_path: Path) -> None:
        a, b = xrnn.Linear(2, 2), xrnn.Linear(2, 2)
        xrnn.save(tmp_path / "m", xrnn.Sequential(a=a, b=b))
        with pytest.raises(ValueError, match="parts are a, b in the file, b, a here"):
            xrnn.load(tmp_path / "m", xrnn.Sequential(b=b, a=a))
        with pytest.raises(ValueError, match=r"kind is 'sequential' in the file, 'residual' here"):
            xrnn.load(tmp_path / "m", xrnn.Residual(a=a, b=b))
        with pytest.raises(ValueError, match=r"parts\.c is missing in the file"):
            xrnn.load(tmp_path / "m", xrnn.Sequential(a=a, b=b, c=xrnn.Dropout(0.1)))

    def test_names_that_collide(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"two parts have the name 'a\.b'; rename one of them"):
            xrnn.save(tmp_path / "m", {"a.b": model(), "a": xrnn.Sequential(b=xrnn.Dropout(0.5))})

    @pytest.mark.parametrize(
        "part",
        [xrnn.Dropout(0.5), xrnn.Last(), xrnn.Mean(batch_first=True), xrnn.Merge("mul")],
        ids=repr,
    )
    def test_parts_without_weights(self, tmp_path: Path, part: Any) -> None:
        found = again(tmp_path, part)
        assert (type(found), found.config()) == (type(part), part.config())
        assert xrnn.load(tmp_path / "m", part) is part
        assert again(tmp_path, {"a": part})["a"].config() == part.config()

    def test_parts_of_ones_own(self, tmp_path: Path) -> None:
        class Scale:
            """A part that no file can hold."""

            weights: ClassVar[dict[str, Any]] = {}

            def __call__(self, x: Any) -> Any:
                return x

            def forward(self, x: Any) -> Any:
                return x, None

            def backward(self, tape: Any, dy: Any) -> Any:
                return dy, {}

        class Block(xrnn.Sequential):
            """Another class."""

        with pytest.raises(TypeError, match="whose '1' is a Scale; it must be a layer"):
            xrnn.save(tmp_path / "m", xrnn.Sequential(xrnn.Linear(2, 2), Scale()))
        block = Block(xrnn.Linear(2, 2))
        xrnn.save(tmp_path / "m", {"a": block})
        with pytest.raises(ValueError, match=f"the part 'a', which.* {TestOnesOwn.HELP}"):
            xrnn.load(tmp_path / "m")
        assert xrnn.load(tmp_path / "m", {"a": block})["a"] is block


class TestTied:
    """One part under two names is one part in the file and after loading."""

    def test_it_comes_back_as_one(self, tmp_path: Path) -> None:
        one, other = xrnn.GRU(I, H), xrnn.Linear(H, H)
        found = again(tmp_path, {"b": one, "a": other, "c": one, "d": one, "e": other})
        assert list(found) == list("bacde")
        assert found["b"] is found["c"] is found["d"]
        assert found["a"] is found["e"]
        check_same(one, found["b"])
        check_same(other, found["a"])
        tensors, _ = files.read(tmp_path / "m")
        assert len(tensors) == len(one.weights) + len(other.weights), "each is stored once"

    def test_it_fills_one_part_or_two(self, tmp_path: Path) -> None:
        one = xrnn.GRU(I, H)
        xrnn.save(tmp_path / "m", {"a": one, "b": one})
        same, two = xrnn.GRU(I, H), xrnn.GRU(I, H)
        xrnn.load(tmp_path / "m", {"a": same, "b": same})
        check_same(one, same)
        same = xrnn.GRU(I, H)
        xrnn.load(tmp_path / "m", {"a": same, "b": two})
        check_same(one, same)
        check_same(one, two)
        same.weights["W_l0"][:] = 0
        assert two.weights["W_l0"].any(), "they are two"
        with pytest.raises(ValueError, match=r"holds the parts a, b, and part has a, b, c; give"):
            xrnn.load(tmp_path / "m", {"a": same, "b": two, "c": two})

    def test_names_that_collide(self, tmp_path: Path) -> None:
        optimizer, layer = xrnn.optim.SGD(0.1, 0.5), xrnn.GRU(I, H)
        optimizer.update(layer.weights, {k: 0 * w for k, w in layer.weights.items()})
        assert set(again(tmp_path, {"a": optimizer, "a.b": layer})) == {"a", "a.b"}
        with pytest.raises(ValueError, match=r"two arrays the name 'a\.v\.W_l0' in the file; ren"):
            xrnn.save(tmp_path / "m", {"a": optimizer, "a.v": layer})


class TestWhereItIsMade:
    def test_the_device(self, tmp_path: Path, device: str) -> None:
        layer = xrnn.LSTM(I, H, device=device)
        found = again(tmp_path, {"a": layer}, device=device)["a"]
        assert type(found.weights["W_l0"]) is type(layer.weights["W_l0"])
        assert values(found) == values(layer)
        assert isinstance(xrnn.load(tmp_path / "m")["a"].weights["W_l0"], np.ndarray)

    def test_arguments_that_do_not_go_together(self, tmp_path: Path) -> None:
        layer = xrnn.LSTM(I, H)
        xrnn.save(tmp_path / "m", layer)
        load: Any = xrnn.load
        for how in ({"dtype": "float64"}, {"device": "cpu"}):
            with pytest.raises(TypeError, match=r"dtype and device are those of .*cast=True"):
                load(tmp_path / "m", layer, **how)
        with pytest.raises(TypeError, match=r"cast is True and there is no part; .*dtype='float32"):
            load(tmp_path / "m", cast=True)
        for how, kind in (({"dtype": "int8"}, ValueError), ({"device": "tpu"}, ImportError)):
            with pytest.raises(kind):
                load(tmp_path / "nothing", **how)
        with pytest.raises(FileNotFoundError, match="nothing: no such file"):
            load(tmp_path / "nothing")


class TestOnesOwn:
    """What a file cannot make is filled by ``load(path, part)``; the message says so."""

    HELP = r"make the part yourself and give it: load\(path, part\)"

    @pytest.mark.parametrize("zoned", [False, True])
    def test_a_cell(self, tmp_path: Path, zoned: bool) -> None:
        cell: Any = replace(cells.GRU, step=lambda *given, **how: cells.GRU.step(*given, **how))
        cell = cells.with_zoneout(cell, 0.1) if zoned else cell
        layer = xrnn.Layer(cell, I, H)
        xrnn.save(tmp_path / "m", layer)
        with pytest.raises(ValueError, match=f"m holds .* the cell '.*gru .*'.* {self.HELP}"):
            xrnn.load(tmp_path / "m")
        check_same(layer, xrnn.load(tmp_path / "m", xrnn.Layer(cell, I, H)))

    def test_the_innermost_part_is_named(self, tmp_path: Path) -> None:
        mine = replace(cells.Elman, name="mine")
        model = xrnn.Sequential(
            block=xrnn.Residual(rnn=xrnn.Layer(mine, I, I)), out=xrnn.Linear(I, 1)
        )
        xrnn.save(tmp_path / "m", model)
        words = rf"m holds the part 'block\.rnn', which cannot be made: the cell .* {self.HELP}"
        with pytest.raises(ValueError, match=words):
            xrnn.load(tmp_path / "m")

    def test_a_class(self, tmp_path: Path) -> None:
        class LSTM(xrnn.LSTM):
            """Another one of the same name."""

        class Linear(xrnn.Linear): ...

        class Momentum(xrnn.optim.SGD): ...

        parts: Any = (LSTM(I, H), Linear(I, H), Momentum(0.1))
        for one in parts:
            xrnn.save(tmp_path / "m", {"a": one})
            with pytest.raises(ValueError, match=f"class '.*' is not .* {self.HELP}"):
                xrnn.load(tmp_path / "m")
            assert xrnn.load(tmp_path / "m", {"a": one})["a"] is one

    def test_no_code_is_run(self, tmp_path: Path) -> None:
        xrnn.save(tmp_path / "m", xrnn.LSTM(I, H))
        tensors, info = files.read(tmp_path / "m")
        for name in ("os.system", "xrnn.certify", "Layer.__init__", "__import__"):
            info["parts"][""]["class"] = name
            files.write(tmp_path / "m", tensors, info)
            with pytest.raises(ValueError, match=f"class '{name}' is not one of xrnn"):
                xrnn.load(tmp_path / "m")


def test_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = xrnn.LSTM(I, H, 2)
    xrnn.save(tmp_path / "m", {"a": layer})

    def draw(*given: Any, **how: Any) -> Any:
        raise AssertionError("random weights were drawn")

    monkeypatch.setattr("xrnn.layers.layer.draw_all", draw)
    with pytest.raises(AssertionError, match="drawn"):
        values(xrnn.LSTM(I, H))
    assert values(xrnn.load(tmp_path / "m")["a"]) == values(layer)
