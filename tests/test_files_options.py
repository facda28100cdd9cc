"""A file holds every option, what a cell of one's own computes, and the dtype of its numbers."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature as signature_of
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get
from xrnn.cells import BY_NAME, LSTM
from xrnn.engine.parameters import Parameters
from xrnn.engine.signature import signature


def same(a: Any, b: Any) -> bool:
    host = [{k: get("cpu").to_host(w) for k, w in part.weights.items()} for part in (a, b)]
    return all(np.array_equal(host[0][k], host[1][k]) for k in host[0])


def mine(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
    return LSTM.step(2 * ax, state, weights, xp=xp)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (xrnn.LSTM(3, 5), "hidden_size is 4 in the file, 5 here"),
        (xrnn.GRU(3, 4), "cell is 'lstm' in the file, 'gru' here"),
        (xrnn.LSTM(3, 4, dtype="float64"), "dtype is 'float32' in the file, 'float64' here"),
        (xrnn.Linear(3, 4), "kind is 'layer' in the file, 'linear' here"),
        (xrnn.LSTM(3, 4, batch_first=True), "batch_first is False in the file, True here"),
        (xrnn.LSTM(3, 4, reverse=True), "reverse is False in the file, True here"),
        (xrnn.LSTM(3, 4, bias=False), "bias is True in the file, False here"),
        (xrnn.Layer(replace(LSTM, step=mine), 3, 4), r"cell is 'lstm' in .*, 'lstm \(mine, step_b"),
    ],
    ids=["size", "cell", "dtype", "kind", "batch first", "reverse", "bias", "own cell"],
)
def test_another_configuration(tmp_path: Path, part: Any, message: str) -> None:
    xrnn.save(tmp_path / "m", xrnn.LSTM(3, 4))
    with pytest.raises(ValueError, match=message):
        xrnn.load(tmp_path / "m", part)


def test_a_cell_of_ones_own_is_not_the_one_it_was_made_from(tmp_path: Path) -> None:
    own = xrnn.Layer(replace(LSTM, step=mine), 3, 4)
    xrnn.save(tmp_path / "own", own)
    with pytest.raises(ValueError, match=r"cell is 'lstm \(mine, .*' in the file, 'lstm' here"):
        xrnn.load(tmp_path / "own", xrnn.LSTM(3, 4))
    again = xrnn.load(tmp_path / "own", xrnn.Layer(replace(LSTM, step=mine), 3, 4))
    assert same(again, own)


class TestCellsOfOnesOwn:
    """A file says what the cell computes, not only what its functions are called."""

    @pytest.mark.parametrize("part", ["step", "step_backward", "total"])
    def test_another_function_of_the_same_name(self, tmp_path: Path, part: Any) -> None:
        def make(factor: float) -> Any:
            function = getattr(LSTM, part)

            def own(first: Any, *given: Any, **how: Any) -> Any:
                scaled = [factor * a for a in first] if part != "step" else factor * first
                return function(scaled, *given, **how)

            changed: dict[str, Any] = {part: own}
            return xrnn.Layer(replace(LSTM, **changed), 3, 4)

        xrnn.save(tmp_path / "own", make(2))
        assert xrnn.load(tmp_path / "own", make(2)).cell.name == "lstm"
        with pytest.raises(ValueError, match=r"signature is '.*' in the file, '.*' here"):
            xrnn.load(tmp_path / "own", make(2.0001))

    def test_one_that_numpy_cannot_run(self, tmp_path: Path) -> None:
        def own(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
            raise NotImplementedError("only on another device")

        layer = xrnn.Layer(replace(LSTM, step=own), 3, 4)
        xrnn.save(tmp_path / "own", layer)
        assert same(layer, xrnn.load(tmp_path / "own", xrnn.Layer(layer.cell, 3, 4)))

    def test_the_signature_is_the_same_everywhere(self) -> None:
        """Six digits of sums of float64: no rounding error shows."""
        assert signature(LSTM) == "-0.15916, -3.60908"
        assert signature(replace(LSTM)) == signature(LSTM)
        assert len({signature(cell) for cell in BY_NAME.values()}) == len(BY_NAME)


OPTIONS: dict[str, Any] = {
    "input_size": 5,
    "hidden_size": 5,
    "num_layers": 3,
    "bias": False,
    "batch_first": True,
    "dropout": 0.25,
    "weight_drop": 0.25,
    "bidirectional": True,
    "reverse": True,
    "learn_state": True,
    "dtype": "float64",
    "precision": "tf32",
}


@pytest.mark.parametrize("make", [xrnn.RNN, xrnn.GRU, xrnn.LSTM], ids=lambda make: make.__name__)
@pytest.mark.parametrize("option", OPTIONS)
def test_the_file_holds_every_option(tmp_path: Path, make: Any, option: str) -> None:
    usual = {"input_size": 3, "hidden_size": 4, "num_layers": 2}
    other = {**usual, option: OPTIONS[option]}
    for here, there in ((usual, other), (other, usual)):
        xrnn.save(tmp_path / "m", make(**here))
        assert same(make(**here, rng=0), xrnn.load(tmp_path / "m", make(**here))) is False
        alone = xrnn.load(tmp_path / "m")
        assert type(alone) is make
        assert alone.config() == make(**here).config()
        layer = make(**there, rng=1)
        with pytest.raises(ValueError, match=f"{option} is .* in the file, .* here"):
            xrnn.load(tmp_path / "m", layer)
        assert same(layer, make(**there, rng=1))


def test_every_option_of_a_layer_is_among_these() -> None:
    """An option that a file does not hold is one of how the weights are made, or where."""
    where = {"self", "device", "rng", "init", "forget_bias", "cell", "S"}
    assert set(signature_of(xrnn.Layer.__init__).parameters) - where == set(OPTIONS)
    assert set(OPTIONS) < set(xrnn.LSTM(3, 4, learn_state=True, weight_drop=0.5).config())


class TestCast:
    @pytest.mark.parametrize("here", ["float16", "bfloat16", "float32", "float64", "complex64"])
    @pytest.mark.parametrize("there", ["float16", "bfloat16", "float32", "float64"])
    def test_numbers_are_rounded_when_asked_for(
        self, tmp_path: Path, here: Any, there: Any
    ) -> None:
        layer = xrnn.LSTM(3, 4, dtype=there, rng=0)
        xrnn.save(tmp_path / "m", {"a": layer})
        other = {"a": xrnn.LSTM(3, 4, dtype=here, rng=1)}
        if here != there:
            with pytest.raises(ValueError, match=r"a\.dtype is .* in .*give load cast=True"):
                xrnn.load(tmp_path / "m", other)
        xrnn.load(tmp_path / "m", other, cast=True)
        for name, w in layer.weights.items():
            expected = w.astype(other["a"].weights[name].dtype)
            np.testing.assert_array_equal(other["a"].weights[name], expected)

    def test_only_the_dtype_may_differ(self, tmp_path: Path) -> None:
        xrnn.save(tmp_path / "m", xrnn.LSTM(3, 4))
        with pytest.raises(ValueError, match=r"hidden_size is 4 in the file, 5 here$"):
            xrnn.load(tmp_path / "m", xrnn.LSTM(3, 5, dtype="float64"), cast=True)
        with pytest.raises(TypeError, match="cast is 'yes'; it must be True or False"):
            xrnn.load(tmp_path / "m", xrnn.LSTM(3, 5), cast="yes")  # type: ignore[call-overload]

    def test_numbers_that_are_too_large(self, tmp_path: Path) -> None:
        layer, other = xrnn.LSTM(3, 4), xrnn.LSTM(3, 4, dtype="float16", rng=1)
        layer.weights["U_l0"][2, 3] = -1e5
        layer.weights["b_l0"][1] = np.inf
        xrnn.save(tmp_path / "m", layer)
        with pytest.raises(ValueError, match=r"U_l0 holds -100000\.0, which is too large for fl"):
            xrnn.load(tmp_path / "m", other, cast=True)
        assert same(other, xrnn.LSTM(3, 4, dtype="float16", rng=1))
        layer.weights["U_l0"][2, 3] = -1e4
        xrnn.save(tmp_path / "m", layer)
        assert xrnn.load(tmp_path / "m", other, cast=True).weights["b_l0"][1] == np.inf

    def test_complex_numbers_are_not_made_real(self, tmp_path: Path) -> None:
        xrnn.save(tmp_path / "m", xrnn.LSTM(3, 4, dtype="complex64"))
        with pytest.raises(TypeError, match="complex64; float32 cannot hold complex numbers"):
            xrnn.load(tmp_path / "m", xrnn.LSTM(3, 4), cast=True)


def test_the_file_says_what_it_holds(tmp_path: Path) -> None:
    """The dtype in it is that of the weights, whatever the layer was made with."""
    layer = xrnn.LSTM(3, 4)
    half = {name: w.astype("float16") for name, w in layer.weights.items()}
    with pytest.raises(TypeError, match="is float16; it must be float32"):
        layer.weights = half  # type: ignore[assignment]
    layer._parameters = Parameters("lstm", layer.weights.specs, half)
    xrnn.save(tmp_path / "m", layer)
    other = xrnn.load(tmp_path / "m", xrnn.LSTM(3, 4, dtype="float16"))
    assert same(layer, other)
    with pytest.raises(ValueError, match="dtype is 'float16' in the file, 'float32' here"):
        xrnn.load(tmp_path / "m", xrnn.LSTM(3, 4))
