"""What `load_onnx` refuses, in which words; damaged files are refused too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xrnn.convert import load_onnx

onnx = pytest.importorskip("onnx", reason="the models are written with onnx")
pytest.importorskip("onnxruntime", reason="the models are written by a module that runs them too")

from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import Model, inside_function, random_case  # noqa: E402
from test_load_onnx_files import node, simple  # noqa: E402


def refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_onnx(model)


def with_tensors(**arrays: Any) -> Model:
    m = simple()
    m.constants = [one for one in m.constants if one.name not in arrays]
    m.constants += [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    return m


def zeros(*shape: int) -> Any:
    return np.zeros(shape, "float32")


# ---- Nodes


ATTRIBUTES: dict[str, tuple[dict[str, Any], str]] = {
    "direction": ({"direction": "Reverse"}, r"direction is 'Reverse'; it must be of forward, rev"),
    "name": ({"activations": ["Sigmoid", "Tanh", "Gelu"]}, r"'Gelu'\]; it must hold 3 names"),
    "number": ({"activations": ["Sigmoid", "Tanh"]}, r"hold 3 names for each direction, 3 here"),
    "directions": (
        {"activations": ["Sigmoid", "Tanh", "Tanh"], "direction": "bidirectional"},
        "it must hold 3 names for each direction, 6 here",
    ),
    "no alpha": (
        {"activations": ["Affine", "Tanh", "Tanh"]},
        "activation_alpha has no number for Affine; it must be given, because ONNX and onnxru",
    ),
    "no beta": (
        {"activations": ["Tanh", "ScaledTanh", "Tanh"], "activation_alpha": [1.0]},
        "activation_beta has no number for ScaledTanh",
    ),
    "alphas": (
        {"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_alpha": [0.2, 0.0, 0.0]},
        "activation_alpha holds 2 numbers more than HardSigmoid, Tanh, Tanh take",
    ),
    "unknown": ({"cliq": 3.0}, r"the attribute 'cliq' is 3\.0; this operator has direction \(str"),
    "kind": (
        {"direction": 1},
        r"the attribute 'direction' is 1; this operator has direction \(str",
    ),
    "kind of many": ({"activations": "Tanh"}, r"the attribute 'activations' is 'Tanh'; this"),
    "clip": ({"clip": 0.0}, r"clip is 0\.0; it must be a number > 0"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes(name: str) -> None:
    how, message = ATTRIBUTES[name]
    m = simple()
    if how.get("direction") == "bidirectional":
        m = with_tensors(W=zeros(2, 20, 3), R=zeros(2, 20, 5))
    refused(node(m, **how), f"the model: LSTM 'rec': {'lstm: ' * (name == 'clip')}.*{message}")


SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "W": (
        {"W": zeros(1, 21, 3)},
        r"W has shape \(1, 21, 3\); it must be \(D, 4·H, I\) = \(1, 20, 3",
    ),
    "flat W": ({"W": zeros(20, 3)}, r"W has shape \(20, 3\); it must be \(D, 4·H, I\)"),
    "R": ({"R": zeros(1, 3, 5)}, r"W has shape .*|R has shape \(1, 3, 5\)"),
    "no direction": ({"W": zeros(2, 20, 3)}, r"W has shape \(2, 20, 3\); it must be \(D, 4·H, I\)"),
    "B": ({"B": zeros(1, 20)}, r"B has shape \(1, 20\); it must be \(D, 8·H\) = \(1, 40\)"),
    "P": ({"P": zeros(1, 20)}, r"P has shape \(1, 20\); it must be \(D, 3·H\) = \(1, 15\)"),
    "h": (
        {"h": np.ones((1, 2, 3), "float32")},
        r"initial_h has shape \(1, 2, 3\); it must be \(D, B, H\) with D = 1 and H = 5",
    ),
    "integers": ({"W": np.ones((1, 20, 3), "int64")}, "W is int64; it must be of float"),
    "hidden_size": ({"R": zeros(1, 24, 6), "W": zeros(1, 24, 3)}, "hidden_size is 5, and R has"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    arrays, message = SHAPES[name]
    m = with_tensors(**arrays)
    present = {"X", *(one.name for one in m.constants)}
    inputs = [k if k in present else "_" for k in ("X", "W", "R", "B", "_", "h", "_", "P")]
    refused(node(m, inputs=" ".join(inputs)), f"LSTM 'rec': ({message})")


def test_weights_from_elsewhere() -> None:
    m = simple()
    m.feed("given", zeros(1, 20, 5))
    refused(node(m, inputs="X W given"), "R is no constant: given is an input of the model; only")
    m = simple()
    m.nodes.append(helper.make_node("Relu", ["R"], ["S"], "act"))
    refused(node(m, inputs="X W S"), "R is no constant: S is computed by Relu 'act'")
    m = simple()
    m.feed("given", zeros(1, 20, 5))
    m.nodes.append(helper.make_node("Identity", ["given"], ["S"]))
    refused(node(m, inputs="X W S"), "R is no constant: given is an input of the model")
    refused(node(simple(), inputs="X W"), "R is missing")
    refused(node(simple(), inputs="X W lost"), "there is no tensor lost: the model is damaged")


def test_one_that_cannot_be_loaded_refuses_all() -> None:
    m = simple()
    node(m, name="fine")
    m.nodes.append(helper.make_node("LSTM", ["X", "W", "Y"], ["Z"], "other"))
    refused(m.made(("Z",)), "LSTM 'other': R is no constant: Y is computed by LSTM 'fine'")


def test_sparse_tensors() -> None:
    m = simple()
    model = node(m, inputs="X W S")
    values = numpy_helper.from_array(np.ones(1, "float32"), "S")
    indices = numpy_helper.from_array(np.zeros(1, "int64"), "S_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1, 20, 5]))
    refused(model, "S is a sparse tensor; write it as a dense one")


# ---- Models


def test_steps_that_are_written_out() -> None:
    m = simple()
    m.constants.append(numpy_helper.from_array(zeros(5, 20), "cell.weight_hh"))
    a = m.add("MatMul", ["X", "cell.weight_hh"])
    ends = (m.add("Sigmoid", [a]), m.add("Tanh", [a]))
    refused(
        m.made(ends),
        r"the steps of a network are written out .* look recurrent: cell\.weight_hh \(5, 20\); "
        "give them to xrnn.convert.from_arrays",
    )


def test_nothing_recurrent() -> None:
    m = simple()
    refused(m.made((m.add("Relu", ["X"]),)), "the model: it has no LSTM, GRU or RNN node$")
    # A node of that name of somebody else.
    refused(node(simple(), domain="mine"), "it has no LSTM, GRU or RNN node$")


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"PK\x03\x04 weights", b"onnx" * 100])
def test_no_model(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx: is no ONNX model"):
        load_onnx(file)


def test_no_path(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"path is a int; it must be a path, bytes or an onnx"):
        load_onnx(3)
    with pytest.raises(FileNotFoundError, match=": no such file"):
        load_onnx(tmp_path / "absent.onnx")
    with pytest.raises(ValueError, match="is a folder"):
        load_onnx(tmp_path)


# ---- Models that are made to do harm


def test_tensors_that_are_computed_from_themselves() -> None:
    m = simple()
    m.nodes.append(helper.make_node("Identity", ["a"], ["b"]))
    m.nodes.append(helper.make_node("Identity", ["b"], ["a"]))
    refused(node(m, inputs="X W a"), "the model: tensors that are computed from themselves, or too")


BOMBS: dict[str, Any] = {
    "Expand": lambda m: m.add("Expand", ["R", m.hold(np.array([10**7, 20, 5]))]),
    "Tile": lambda m: m.add("Tile", ["R", m.hold(np.array([10**7, 20, 5]))]),
    "ConstantOfShape": lambda m: m.add("ConstantOfShape", [m.hold(np.array([10**6, 10**6]))]),
    "Gather": lambda m: m.add(
        "Gather",
        [
            m.add("Reshape", ["R", m.hold(np.array([1, 100]))]),
            m.hold(np.zeros(3 * 10**6, "int8").astype("int32")),
        ],
    ),
    "Mul": lambda m: m.add("Mul", [m.hold(zeros(10**5, 1)), m.hold(zeros(1, 10**5))]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_ask_for_much(name: str) -> None:
    m = simple()
    made = BOMBS[name](m)
    refused(node(m, inputs=f"X W {made}"), "numbers; at most 268,435,456 are read")


def test_doubling() -> None:
    m, name = simple(), "R"
    for _ in range(40):
        name = m.add("Concat", [name, name], axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrnn.convert.onnx_graph.MOST", 10**6)
        refused(node(m, inputs=f"X W {name}"), "Concat .* cannot be computed: it would have")


def test_functions_that_call_functions() -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    last = [helper.make_node("Identity", ["x"], ["y"])]
    functions = [helper.make_function("own", "f0", ["x"], ["y"], last, opsets)]
    for k in range(1, 40):
        calls = [helper.make_node(f"f{k - 1}", ["x"], [y], domain="own") for y in ("z", "y")]
        functions.append(helper.make_function("own", f"f{k}", ["x"], ["y"], calls, opsets))
    m = simple()
    m.nodes.append(helper.make_node("f39", ["R"], ["S"], domain="own"))
    model = node(m, inputs="X W S")
    model.functions.extend(functions)
    model.opset_import.append(opsets[1])
    refused(model, "its functions written out have more than 1,000,000 nodes")
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f5", "own"
    refused(model, "computed from themselves|cannot be written out")


def test_functions_of_another_opset() -> None:
    """They cannot be written out, and no node is left out silently."""
    model = inside_function(random_case(3))
    for function in model.functions:
        function.opset_import[0].version = 13
    refused(model, "its function Inner has an opset of its own, and holds recurrent nodes")


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files(tmp_path: Path, seed: int) -> None:
    """Cut short, or with a few bytes changed: a sentence with the file's name, or a layer."""
    case = random_case(seed)
    whole = case.model.made(case.outputs).SerializeToString()
    rng = np.random.default_rng(seed)
    file = tmp_path / "model.onnx"
    for k in range(20):
        data = bytearray(whole)
        if k % 2:
            data = data[: rng.integers(len(data))]
        else:
            for at in rng.integers(0, len(data), 3):
                data[at] = rng.integers(256)
        file.write_bytes(data)
        message = ""
        try:
            load_onnx(file)
        except ValueError as error:
            message = str(error)
        assert not message or message.startswith(f"{file}: ")
