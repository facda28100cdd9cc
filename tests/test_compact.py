"""Frozen weights of 8 and 16 bits: what a layer with them says, does, refuses and saves."""

from __future__ import annotations

import copy
import gc
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends.cpu import extension
from xrnn.convert import files
from xrnn.engine.compact import SCALES
from xrnn.recurrence.quantised import MOST_COLUMNS

FORMS = ("int8", "bfloat16")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Any:
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    return request.param


def noise(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


def deep(**options: Any) -> Any:
    return xrnn.LSTM(3, 40, 2, bidirectional=True, rng=0, **options)


def equal(a: Any, b: Any) -> None:
    """(ys, state) of two layers, bit for bit."""
    for x, y in zip((a[0], *a[1]), (b[0], *b[1]), strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_it_says(form: Any) -> None:
    layer = deep()
    before = layer.weights.nbytes
    assert layer.freeze(weights=form) is layer
    assert repr(layer).endswith(f": lstm, frozen as {form}>")
    assert {"int8": 3.5, "bfloat16": 1.9}[form] < before / layer.weights.nbytes < 4
    assert layer.config()["weights"] == form
    assert "weights" not in deep().freeze().config()
    word = {"int8": "int8 weights", "bfloat16": "products of bfloat16"}[form]
    assert all(path.endswith(f", {word}") for path in layer.path((5, 2, 3)).values())


def test_it_is_near_to_float32(form: Any) -> None:
    layer = deep()
    small, xs = copy.copy(layer).freeze(weights=form), noise(9, 4, 3)
    for how in ({}, {"lengths": [9, 0, 4, 1]}, {"mask": xs[..., 0] > 0, "resets": xs[..., 1] > 1}):
        assert 1e-5 < abs(small(xs, **how)[0] - layer(xs, **how)[0]).max() < 2e-2
    ys, state, _ = layer.forward(xs[:0])
    equal(small(xs[:0]), (ys, state))


def test_its_weights_are_the_numbers_it_stands_for(form: Any) -> None:
    layer = deep()
    small = copy.copy(layer).freeze(weights=form)
    assert small.weights.frozen
    for name, w in layer.weights.items():
        found = small.weights[name]
        assert found.dtype == np.float32
        assert not found.flags.writeable
        limit = abs(w).max(axis=-1, keepdims=True) * 2.0**-7 if w.ndim == 2 else 0
        assert (abs(found - w) <= limit).all()
    with pytest.raises(TypeError, match="frozen; to change them, first assign"):
        small.weights["W_l0"] = layer.weights["W_l0"]
    small.weights = {name: w.copy() for name, w in small.weights.items()}
    assert not small.weights.frozen
    assert small.weights.form == ""
    assert xrnn.convert.to_torch(small)["weight_ih_l0"].dtype == np.float32


def test_training_is_refused(form: Any) -> None:
    layer = deep().freeze(weights=form)
    with pytest.raises(TypeError, match=f"lstm: the weights are {form}, for inference: call the"):
        layer.forward(noise(3, 2, 3))
    layer.weights = dict(deep().weights)
    layer.forward(noise(3, 2, 3))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_refused(form: Any, dtype: Any) -> None:
    layer = xrnn.GRU(3, 4, dtype=dtype)
    words = f"gru: the weights are {dtype}, and {form} is made of .*; make the layer with dtype="
    with pytest.raises(ValueError, match=words):
        layer.freeze(weights=form)
    assert not layer.weights.frozen


def test_what_cannot_be_frozen_so_is_left_as_it_was() -> None:
    layer, unknown = xrnn.GRU(3, 4), "int4"
    with pytest.raises(ValueError, match="weights is 'int4'; it must be None or 'int8' or"):
        layer.freeze(weights=unknown)  # type: ignore[arg-type]
    layer.weights["U_l0"][2, 1] = np.nan
    with pytest.raises(ValueError, match="gru: U_l0 holds NaN or infinity"):
        layer.freeze(weights="int8")
    wide = xrnn.RNN(MOST_COLUMNS + 1, 1)
    with pytest.raises(ValueError, match="W_l0 has 66,001 columns; with weights of int8"):
        wide.freeze(weights="int8")
    for one in (layer, wide):
        assert not one.weights.frozen
    other = xrnn.GRU(3, 4).freeze(weights="int8")
    before = other.weights
    assert other.freeze().weights is other.freeze(weights="int8").weights is before
    with pytest.raises(ValueError, match="the weights are int8 already, and bfloat16 is made of"):
        other.freeze(weights="bfloat16")


def test_weights_that_bfloat16_would_make_infinite_are_refused() -> None:
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    layer = xrnn.GRU(3, 4)
    layer.weights["W_l0"][1, 2] = np.finfo("float32").max
    with pytest.raises(ValueError, match="gru: W_l0 holds NaN or infinity, as bfloat16"):
        layer.freeze(weights="bfloat16")
    assert not layer.weights.frozen


def test_a_library_whose_arrays_refuse_such_products() -> None:
    pytest.importorskip("array_api_strict")
    layer = xrnn.LSTM(3, 4, device="array_api_strict")
    with pytest.raises(TypeError, match="multiplied by weights of int8; move the layer first: la"):
        layer.freeze(weights="int8")
    assert not layer.weights.frozen


def test_copies_and_pickles(form: Any) -> None:
    layer, xs = deep().freeze(weights=form), noise(5, 2, 3)
    for twin in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
        equal(twin(xs), layer(xs))
        assert twin.weights.form == form
        assert twin.weights.frozen


def test_another_library() -> None:
    torch = pytest.importorskip("torch")
    layer, xs = deep().freeze(weights="int8"), noise(5, 2, 3)
    expected = layer(xs)[0]
    found = layer.to("torch")(torch.asarray(xs))[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-2)
    assert layer.weights.form == "int8"
    equal(layer.to("cpu")(xs), deep().freeze(weights="int8")(xs))


def model() -> Any:
    return xrnn.Sequential(
        words=xrnn.Embedding(5, 3, rng=0),
        block=xrnn.Sequential(rnn=deep(bias=False), other=xrnn.GRU(80, 6, rng=1)),
        out=xrnn.Linear(6, 2, rng=2),
    )


def test_models(form: Any, tmp_path: Path) -> None:
    """The recurrent layers have the form; all parts are frozen; files keep what they are."""
    net, tokens = model().freeze(weights=form), np.arange(10).reshape(5, 2) % 5
    assert [one.weights.form for one in net.parts["block"].parts.values()] == [form, form]
    for name in ("words", "out"):
        assert net.parts[name].weights.frozen
        assert net.parts[name].weights.form == ""
    xrnn.save(tmp_path / "net", net)
    tensors, _ = files.read(tmp_path / "net")
    assert tensors["block.rnn.W_l0"].dtype == form
    assert ("block.rnn.U_l1_reverse" + SCALES in tensors) == (form == "int8")
    again = xrnn.load(tmp_path / "net")
    np.testing.assert_array_equal(again(tokens), net(tokens))
    assert again.parts["block"].parts["rnn"].weights.form == form
    xrnn.save(tmp_path / "again", again)
    for name, array in files.read(tmp_path / "again")[0].items():
        np.testing.assert_array_equal(array, tensors[name])


def test_a_model_that_cannot_be_frozen_so_is_left_as_it_was() -> None:
    net = xrnn.Sequential(a=xrnn.GRU(3, 3), b=xrnn.GRU(3, 3, dtype="float64"))
    with pytest.raises(ValueError, match="the weights are float64"):
        net.freeze(weights="int8")
    assert not any(part.weights.frozen for part in net.parts.values())


def test_files_that_do_not_fit(form: Any, tmp_path: Path) -> None:
    layer, path = deep(), tmp_path / "layer"
    xrnn.save(path, copy.copy(layer).freeze(weights=form))
    with pytest.raises(ValueError, match=f"weights is '{form}' in the file, unknown here"):
        xrnn.load(path, layer)
    with pytest.raises(ValueError, match=f"its weights are {form}; to load them leave dtype out"):
        xrnn.load(path, dtype="float64")
    tensors, info = files.read(path)
    for name, array, words in (
        ("W_l0", tensors["W_l0"][:-1], "W_l0 is .* it must be"),
        ("U_l1", None, "U_l1 is missing"),
        ("U_l1", layer.weights["U_l1"], "U_l1 is float32"),
        ("b_l0", layer.weights["b_l0"].astype("float64"), "b_l0 is float64"),
    ):
        damaged = {**tensors, name: array}
        files.write(path, {k: a for k, a in damaged.items() if a is not None}, info)
        with pytest.raises(ValueError, match=words):
            xrnn.load(path)
    if form == "int8":
        scales = tensors["W_l0" + SCALES].copy()
        scales[3] = np.nan
        files.write(path, {**tensors, "W_l0" + SCALES: scales}, info)
        with pytest.raises(ValueError, match="W_l0_scales must hold finite numbers ≥ 0"):
            xrnn.load(path)
        lowest = tensors["U_l1"].copy()
        lowest[0, 0] = -128
        files.write(path, {**tensors, "U_l1": lowest}, info)
        with pytest.raises(ValueError, match="U_l1 holds -128; it must hold integers in -127…127"):
            xrnn.load(path)
    files.write(path, {**tensors, "more": tensors["b_l0"]}, info)
    with pytest.raises(ValueError, match="missing or unknown: more"):
        xrnn.load(path)
    info["config"]["weights"] = "int4"
    files.write(path, tensors, info)
    with pytest.raises(ValueError, match="weights is 'int4'"):
        xrnn.load(path)


def test_weights_of_bfloat16_are_rounded_once() -> None:
    """So products are those of `precision="bf16"`, bit for bit."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    layer, rounded, xs = deep(), deep(precision="bf16"), noise(9, 4, 3)
    equal(layer.freeze(weights="bfloat16")(xs), rounded(xs))


def test_a_learned_state_and_a_projection(form: Any, tmp_path: Path) -> None:
    layer = xrnn.LSTM(3, 20, 2, proj_size=4, learn_state=True, rng=0)
    layer.weights["h0_l0"] += noise(4)
    small, xs = copy.copy(layer).freeze(weights=form), noise(5, 2, 3)
    assert abs(small(xs)[0] - layer(xs)[0]).max() < 2e-2
    xrnn.save(tmp_path / "layer", small)
    equal(xrnn.load(tmp_path / "layer")(xs), small(xs))


@pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
@pytest.mark.parametrize("options", [{}, {"proj_size": 192}], ids=str)
def test_calls_keep_no_weights_of_float32(form: Any, options: dict[str, Any]) -> None:
    """Besides the arrays of the layer: what the extension packs has as many bytes again."""
    xs = noise(5, 2, 256)
    deep(**options and {"proj_size": 20}).freeze(weights=form)(noise(5, 2, 3))  # verified once
    tracemalloc.start()
    try:
        layer = xrnn.LSTM(256, 256, rng=0, **options)
        whole = layer.weights.nbytes
        layer.freeze(weights=form)
        layer(xs)
        layer.step(xs[0])
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.9 < held / layer.weights.nbytes < 1.2
    assert held < 0.6 * whole


def test_the_own_code_keeps_them_once() -> None:
    """However many sizes it is called with."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    layer = xrnn.Layer(replace(xrnn.cells.LSTM), 128, 128, rng=0)  # a cell that no kernel knows
    layer.freeze(weights="bfloat16")
    layer(noise(1, 1, 128))
    tracemalloc.start()
    try:
        for T in range(2, 12):
            layer(noise(T, 1, 128))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 128 * 1024  # the weights are 4 times as many bytes
