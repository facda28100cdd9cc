"""`load_onnx` of weights that are stored as small integers with scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xrnn.convert import load_onnx

pytest.importorskip("onnx", reason="the models are written with onnx")
pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

from onnx import helper
from onnx_models import Model

T, B, I, H = 6, 3, 4, 5


def quantized(rng: Any, shape: tuple[int, ...], dtype: str, per: str) -> tuple[Any, Any, Any]:
    """Integers (D, n, 4·H), scales and zero points, per tensor or per column."""
    low, high = (-127, 128) if dtype == "int8" else (0, 256)
    q = rng.integers(low, high, shape).astype(dtype)
    many = (shape[0],) if per == "tensor" else (shape[0], shape[2])
    scale = rng.uniform(0.002, 0.006, many).astype("float32")
    # onnxruntime has one zero point for a whole matrix.
    zero = np.full(many, 0 if dtype == "int8" else 128, dtype)
    return q, scale, zero


def real(q: Any, scale: Any, zero: Any) -> Any:
    """The numbers, element by element."""
    found = np.empty(q.shape, "float32")
    for d, i, j in np.ndindex(*q.shape):
        s, z = (a[d] if a.ndim == 1 else a[d, j] for a in (scale, zero))
        found[d, i, j] = (np.float32(q[d, i, j]) - np.float32(z)) * s
    return found


def check_integers(model: Any, layer: Any, fits: bool) -> None:
    """With its own integers the layer has the same numbers, none of them rounded again."""
    if not fits:
        with pytest.raises(ValueError, match="is not an integer in -127…127 times a scale"):
            load_onnx(model, weights="int8")
        return
    (frozen,) = load_onnx(model, weights="int8").values()
    assert frozen.weights.form == "int8"
    assert frozen.weights.frozen
    for name, w in layer.weights.items():
        np.testing.assert_array_equal(frozen.weights[name], w)
    with pytest.raises(ValueError, match="int8 is made of float32 alone; leave dtype out"):
        load_onnx(model, weights="int8", dtype="float64")
    with pytest.raises(ValueError, match="weights is 'int4'; it must be None or 'int8'"):
        load_onnx(model, weights="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("per", ["tensor", "column"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_dynamic_quantize_lstm(direction: str, dtype: str, per: str) -> None:
    rng = np.random.default_rng(0)
    D = 2 if direction == "bidirectional" else 1
    W, R = (quantized(rng, (D, n, 4 * H), dtype, per) for n in (I, H))
    m = Model(rng)
    xs = rng.uniform(-1, 1, (T, B, I)).astype("float32")
    bias = rng.normal(size=(D, 8 * H)).astype("float32")
    peephole = rng.normal(size=(D, 3 * H)).astype("float32")
    inputs = [m.feed("X", xs), m.hold(W[0]), m.hold(R[0]), m.hold(bias), "", "", ""]
    inputs += [m.hold(a) for a in (peephole, W[1], W[2], R[1], R[2])]
    outputs = ["Y", "Y_h", "Y_c"]
    how: Any = {"direction": direction, "hidden_size": H, "domain": "com.microsoft"}
    m.nodes.append(helper.make_node("DynamicQuantizeLSTM", inputs, outputs, "rec", **how))
    model = m.made(("Y", "Y_h", "Y_c"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    (layer,) = load_onnx(model.SerializeToString()).values()
    check_integers(model, layer, dtype == "int8")
    order = (0, 2, 3, 1)  # theirs i o f c, ours i f g o
    for d, suffix in enumerate(layer.suffixes(0)):
        for name, q in (("W", W), ("U", R)):
            gates = np.split(real(*q)[d].T, 4)
            want = np.concatenate([gates[k] for k in order])
            np.testing.assert_array_equal(layer.weights[f"{name}{suffix}"], want)
    from onnx_models import session

    Y, Y_h, Y_c = session(model).run(outputs, m.feeds)
    ys, last = layer(xs)
    # onnxruntime rounds x and h to 8 bits too.
    np.testing.assert_allclose(ys, Y.transpose(0, 2, 1, 3).reshape(T, B, -1), atol=0.03)
    np.testing.assert_allclose(last.h, Y_h, atol=0.03)
    np.testing.assert_allclose(last.c, Y_c, atol=0.05)


@pytest.mark.parametrize("per", ["tensor", "axis", "block"])
@pytest.mark.parametrize("zero", [False, True])
def test_dequantize_linear(per: str, zero: bool) -> None:
    """W of an RNN is (q − z) · s, with one s, one for each row, or one for each two columns."""
    rng = np.random.default_rng(1)
    q = rng.integers(-127, 128, (1, H, I)).astype("int8")
    shape = {"tensor": (), "axis": (H,), "block": (1, H, I // 2)}[per]
    scale = rng.uniform(0.01, 0.1, shape).astype("float32")
    z = rng.integers(-3, 4, shape).astype("int8")
    how: Any = {"tensor": {}, "axis": {"axis": 1}, "block": {"axis": 2, "block_size": 2}}[per]
    m = Model(rng)
    W = m.add("DequantizeLinear", [m.hold(x) for x in [q, scale, *([z] if zero else [])]], **how)
    R = m.hold(np.eye(H, dtype="float32")[None])
    x = m.feed("X", np.ones((T, B, I), "float32"))
    m.nodes.append(helper.make_node("RNN", [x, W, R], ["Y"], "rec", hidden_size=H))
    model = m.made(("Y",))
    model.opset_import[0].version = 21 if per == "block" else 13
    every = {"tensor": scale, "axis": scale[:, None] if per == "axis" else 0, "block": 0}[per]
    offset = z if per == "tensor" else z.reshape(-1, 1)
    if per == "block":
        every, offset = np.repeat(scale[0], 2, 1), np.repeat(z[0], 2, 1)
    want = (q[0] - np.float32(offset if zero else 0)) * every
    (layer,) = load_onnx(model.SerializeToString()).values()
    np.testing.assert_array_equal(layer.weights["W_l0"], want.astype("float32"))
