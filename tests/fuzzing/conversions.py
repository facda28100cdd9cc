"""Entries of the fuzzer's table: weights of other libraries and formats."""

import importlib.util

from fuzzing import kinds as k
from fuzzing.table import EMBEDDING, LAYERS, LINEAR, add
from xrnn.layers.part import Part

ARRAYS = {
    "xrnn.cells.LSTM": ("(20, 3)", "(20, 5)", "(20,)", "'ifgo'"),
    "xrnn.cells.GRU": ("(15, 3)", "(15, 5)", "(15,)", "'zrn'"),
    "xrnn.cells.lstm_with(peephole=True)": ("(20, 3)", "(20, 5)", "(20,)", "'iofc'"),
    "xrnn.cells.lstm_with(proj_size=2)": ("(20, 3)", "(20, 2)", "(20,)", "'ijfo'"),
}
for cell, (W, U, b, gates) in ARRAYS.items():
    peephole = k.FIXED, "floats(15)" if "peephole" in cell else "None"
    projection = k.FIXED, "floats(2, 5)" if "proj_size" in cell else "None"
    sizes = "(2, 5)" if "proj_size" in cell else "(5, 5)"
    states = f"[floats(n) for n in {sizes}]" if "LSTM" in cell or "lstm" in cell else "[floats(5)]"
    add(
        "convert.from_arrays",
        "xrnn.convert.from_arrays",
        cell=(k.CELL, cell),
        W=(k.GATES, f"floats(*{W})"),
        U=(k.GATES, f"floats(*{U})"),
        b=(k.optional(k.GATES), f"floats(*{b})"),
        recurrent_bias=(k.optional(k.GATES), f"floats(*{b}, seed=1)"),
        peephole=peephole,
        projection=projection,
        state=(k.FIXED, states),
        gates=(k.FIXED, gates),
        transposed=(k.optional(k.FLAG), "False"),
        z=(k.choice("keeps", "takes"), "'keeps'"),
        forget_bias=(k.real(-1e300, 1e300), "0.0"),
        batch_first=(k.FLAG, "False"),
        reverse=(k.FLAG, "False"),
        dtype=(k.optional(k.DTYPE), "'float32'"),
        device=(k.DEVICE, "'cpu'"),
        words="bias W_l0 U_l0 b_l0",
        share=8,
    )
for kind in ("coreml", "tflite"):
    add(
        f"convert.load_{kind}",
        f"xrnn.convert.load_{kind}",
        path=(k.MODEL, f"model_file({kind!r})"),
        dtype=(k.optional(k.DTYPE), "'float64'"),
        device=(k.DEVICE, "'cpu'"),
        words="model file layer layers operators Core TensorFlow",
        share=8,
    )
#: whether the functions for ONNX can be called
HAVE_ONNX = importlib.util.find_spec("onnx") is not None

#: one part, or several one after the other
CHAIN = k.Kind(
    lambda value: isinstance(value, Part) and not isinstance(value, type),
    k.damages_of(
        same="[{}] | ({},)",
        error="type({}) | {}.weights | [None] | {5: {}} | [] | 'lstm' | [{}, type({})]",
        any="{'a': {}} | [{}, {}]",
    ),
)

if HAVE_ONNX:
    add(
        "convert.load_onnx",
        "xrnn.convert.load_onnx",
        path=(k.MODEL, "onnx_file()"),
        dtype=(k.optional(k.DTYPE), "'float64'"),
        device=(k.DEVICE, "'cpu'"),
        weights=(k.choice("int8", None), "None"),
        words="model file node ONNX protobuf",
        share=8,
    )
    add(
        "convert.to_onnx",
        "xrnn.convert.to_onnx",
        (*LAYERS[:3], LAYERS[4], *LINEAR[:2]),
        parts=(CHAIN, "it"),
        path=(k.PATH, "folder() + '/model.onnx'"),
        states=(k.optional(k.FLAG), "True"),
        lengths=(k.FLAG, "True"),
        dtype=(k.optional(k.choice("float32", "float16")), "'float32'"),
        words="ONNX onnxruntime recurrent layer",
        share=8,
    )

#: a recurrent activation of Keras
SIGMA = k.Kind(
    lambda value: value is None or isinstance(value, str | list | tuple),
    k.damages_of(
        same="'sigmoid' | ('sigmoid',)",
        error="'Sigmoid' | () | [1] | ('hard_sigmoid', 'x') | ('hard_sigmoid', 1, 2, 3)",
        any="None | 'tanh' | 'hard_sigmoid' | ('hard_sigmoid', 0.3, 0.5)",
    ),
)
add(
    "convert.load_keras",
    "xrnn.convert.load_keras",
    path=(k.MODEL, "keras_file()"),
    recurrent_activation=(SIGMA, "'sigmoid'"),
    dtype=(k.optional(k.DTYPE), "'float32'"),
    device=(k.DEVICE, "'cpu'"),
    words="file Keras activation lstm damaged",
)
add(
    "convert.to_keras",
    "xrnn.convert.to_keras",
    (*LAYERS[:3], LAYERS[4], *LAYERS[9:12], *LINEAR[:2], EMBEDDING[0]),
    layer=(k.PARTS, "it"),
    version=(k.integer(1, 3), "3"),
    words="Keras layer",
    share=8,
)
