"""What `load_onnx` takes and gives: files, dtypes, names, states, the vectors of onnx itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.flat import assert_agree

import xrnn
from xrnn.convert import load_onnx

onnx = pytest.importorskip("onnx", reason="the models are written with onnx")
pytest.importorskip("onnxruntime", reason="the models are written by a module that runs them too")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import Model, info  # noqa: E402
from test_oracle_onnx_nodes import CASES, in_their_axes, node_of  # noqa: E402


def simple(op: str = "LSTM", dtype: Any = "float32", **how: Any) -> Model:
    """A model of one node with I = 3 and H = 5, which is not in it yet."""
    m, G = Model(np.random.default_rng(0)), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    m.rng = np.random.default_rng(2)
    W, R = (m.rng.normal(size=(1, G * 5, n)).astype(dtype) for n in (3, 5))
    m.constants = [numpy_helper.from_array(a, name) for name, a in (("W", W), ("R", R))]
    m.feed("X", np.zeros((4, 2, 3), dtype))
    return m


def node(m: Model, op: str = "LSTM", inputs: str = "X W R", name: str = "rec", **how: Any) -> Any:
    """The model with its node; `_` is an input that it does not have."""
    names = ["" if k == "_" else k for k in inputs.split()]
    m.nodes.append(helper.make_node(op, names, ["Y"], name, hidden_size=5, **how))
    return m.made(("Y",))


# ---- The package's own vectors, with layout=1 among them


@pytest.mark.parametrize(
    ("module", "case"), CASES, ids=[f"{m.__name__}-{c.removeprefix('export_')}" for m, c in CASES]
)
def test_vectors_of_onnx(module: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = node_of(module, case, monkeypatch)
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    inputs = [name if name in given.inputs else "" for name in names]
    m = Model(np.random.default_rng(0))
    m.feeds = {k: a for k, a in given.inputs.items() if k in ("X", "sequence_lens")}
    m.constants = [
        numpy_helper.from_array(a, k) for k, a in given.inputs.items() if k not in m.feeds
    ]
    m.nodes = [helper.make_node(given.op, inputs, list(given.outputs), **given.attributes)]
    found = load_onnx(m.made(tuple(given.outputs)))
    (layer,) = found.values()
    ys, last = layer(given.inputs["X"], None, given.inputs.get("sequence_lens"))
    assert_agree(in_their_axes(layer, ys, last, given.outputs), given.outputs, 1e-6)
    assert layer.learn_state == any(np.any(given.inputs.get(f"initial_{s}", 0)) for s in "hc")
    assert layer.batch_first == bool(given.attributes.get("layout", 0))


# ---- Where the model is, and in which dtype


def test_a_path_bytes_or_a_model(tmp_path: Path) -> None:
    model = node(simple())
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString())
    want = load_onnx(model)["rec"].weights["W_l0"]
    for path in (file, str(file), file.read_bytes(), bytearray(file.read_bytes())):
        np.testing.assert_array_equal(load_onnx(path)["rec"].weights["W_l0"], want)


def test_tensors_beside_the_model(tmp_path: Path) -> None:
    model = node(simple())
    want = load_onnx(model)["rec"].weights["W_l0"]
    file = tmp_path / "model.onnx"
    onnx.save(model, file, save_as_external_data=True, location="tensors", size_threshold=0)
    np.testing.assert_array_equal(load_onnx(file)["rec"].weights["W_l0"], want)
    with pytest.raises(ValueError, match=r"W lie in another file; give the model's path"):
        load_onnx(file.read_bytes())
    (tmp_path / "tensors").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"model\.onnx: LSTM 'rec': the tensor W cannot be read"):
        load_onnx(file)
    (tmp_path / "tensors").unlink()
    with pytest.raises(ValueError, match="the tensor W cannot be read"):
        load_onnx(file)


def test_tensors_elsewhere_are_not_read(tmp_path: Path) -> None:
    """A file must not make the loader read what does not lie beside it."""
    (tmp_path / "secret").write_bytes(bytes(4 * 60))
    (tmp_path / "inside").mkdir()
    for location in ("../secret", str(tmp_path / "secret")):
        model = node(simple())
        (W,) = [one for one in model.graph.initializer if one.name == "W"]
        W.ClearField("raw_data")
        W.data_location = TensorProto.EXTERNAL
        W.external_data.add(key="location", value=location)
        (tmp_path / "inside" / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match="the tensor W cannot be read"):
            load_onnx(tmp_path / "inside" / "model.onnx")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes(dtype: str) -> None:
    model = node(simple(dtype=dtype))
    layer = load_onnx(model)["rec"]
    assert str(layer.dtype) == dtype
    W = numpy_helper.to_array(model.graph.initializer[0])[0]
    np.testing.assert_array_equal(layer.weights["W_l0"][:5], W[:5])
    other = load_onnx(model, dtype="float64")["rec"]
    assert other.dtype == "float64"
    np.testing.assert_array_equal(other.weights["W_l0"][:5], W[:5].astype("float64"))


def test_the_device() -> None:
    pytest.importorskip("array_api_strict", reason="another library than NumPy")
    layer = load_onnx(node(simple()), device="array_api_strict")["rec"]
    assert type(layer.weights["W_l0"]).__module__.startswith("array_api_strict")


# ---- Names, notes and states


def test_names_and_order() -> None:
    m = simple()
    names = ["b", "", "a", "b"]
    for k, name in enumerate(names):
        m.nodes.append(helper.make_node("LSTM", ["X", "W", "R"], ["", f"h{k}"], name))
    assert list(load_onnx(m.made(("h0",)))) == ["b", "h1", "a", "b_2"]


def test_the_size_may_be_left_out() -> None:
    m = simple("GRU")
    m.nodes.append(helper.make_node("GRU", ["X", "W", "R"], ["Y"]))
    assert load_onnx(m.made(("Y",)))["Y"].hidden_size == 5


def test_a_state_that_only_h_has() -> None:
    """c starts from zeros then, in the layer too."""
    m = simple()
    h = m.rng.normal(size=(1, 1, 5)).astype("float32")
    m.constants.append(numpy_helper.from_array(np.repeat(h, 2, 1), "h"))
    found = load_onnx(node(m, inputs="X W R _ _ h"))
    np.testing.assert_array_equal(found["rec"].weights["h0_l0"], h[0, 0])
    np.testing.assert_array_equal(found["rec"].weights["c0_l0"], np.zeros(5))
    assert "the initial h of the model: weights of the layer" in found.notes["rec"]


def test_states_of_each_sequence_are_refused() -> None:
    m = simple()
    m.constants.append(numpy_helper.from_array(np.eye(2, 5, dtype="float32")[None], "h"))
    with pytest.raises(ValueError, match="initial_h is a constant with other values for each"):
        load_onnx(node(m, inputs="X W R _ _ h"))


def test_overridable_constants_are_constants() -> None:
    """An initializer may be an input too; its value holds where none is given."""
    model = node(simple())
    model.graph.input.append(info("W", "float32", [1, 20, 3]))
    assert list(load_onnx(model)) == ["rec"]


def test_it_prints_its_notes() -> None:
    m = simple()
    m.feed("h", np.zeros((1, 2, 5), "float32"))
    m.feed("n", np.zeros(2, "int32"))
    text = repr(load_onnx(node(m, inputs="X W R _ n h")))
    assert text.splitlines() == [
        "'rec': <LSTM(3, 5, bias=False): lstm>",
        "    ONNX LSTM, gates i o f c",
        "    takes (T, B, I), as the node does",
        "    initial_h: h is an input of the model; give state=",
        "    the node has sequence_lens; give lengths=",
    ]


def order(model: Any, name: str = "rec") -> str:
    """The note on the order of axes."""
    (found,) = [note for note in load_onnx(model).notes[name] if note.startswith("takes ")]
    return found


TRANSPOSED: dict[str, tuple[dict[str, Any], str]] = {
    "batch first": ({"perm": [1, 0, 2]}, "(B, T, I)"),
    "values before steps": ({"perm": [2, 0, 1]}, "(B, I, T)"),
    "reversed": ({}, "(I, B, T)"),
}


@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("between", ["", "Identity", "Cast"])
def test_a_transpose_before_the_node_is_noted(name: str, between: str) -> None:
    """An exporter of a layer that takes (B, T, I) puts one there, which is not in ours."""
    m, (how, axes) = simple(), TRANSPOSED[name]
    x = m.add("Transpose", ["X"], **how)
    if between:
        x = m.add(between, [x], **({"to": TensorProto.FLOAT} if between == "Cast" else {}))
    m.feeds["X"] = np.zeros([{"T": 4, "B": 2, "I": 3}[axis] for axis in axes[1:-1].split(", ")])
    m.feeds["X"] = m.feeds["X"].astype("float32")
    model = node(m, inputs=f"{x} W R")
    assert order(model) == f"takes (T, B, I): the model transposes {axes} before the node"
    seen = m.session((x,)).run([x], m.feeds)[0]
    assert seen.shape == (4, 2, 3)


def test_other_transposes_are_not_noted() -> None:
    for perm in ([0, 1, 2], [0, 1], [0, 0, 1]):
        m = simple()
        x = m.add("Transpose", ["X"], perm=perm)
        assert order(node(m, inputs=f"{x} W R")) == "takes (T, B, I), as the node does"


def test_layout_is_noted() -> None:
    assert order(node(simple(), layout=1)) == "takes (B, T, I): batch_first=True, layout 1"


def test_an_input_that_is_made_of_itself() -> None:
    m = simple()
    m.nodes.append(helper.make_node("Identity", ["x"], ["x"]))
    with pytest.raises(ValueError, match="tensors that are computed from themselves"):
        load_onnx(node(m, inputs="x W R"))


def test_a_batch_first_layer_comes_back_time_first(tmp_path: Path) -> None:
    layer = xrnn.LSTM(3, 5, 2, batch_first=True)
    xrnn.convert.to_onnx(layer, tmp_path / "m.onnx")
    first, second = load_onnx(tmp_path / "m.onnx").items()
    assert order(tmp_path / "m.onnx", first[0]).endswith(
        ": the model transposes (B, T, I) before the node"
    )
    assert order(tmp_path / "m.onnx", second[0]) == "takes (T, B, I), as the node does"
    xs = np.ones((2, 4, 3), "float32")
    ys = second[1](first[1](xs.transpose(1, 0, 2))[0])[0]
    np.testing.assert_array_equal(ys.transpose(1, 0, 2), layer(xs)[0])


@pytest.mark.filterwarnings("ignore")  # the exporter warns of itself
def test_a_batch_first_layer_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the exporter is PyTorch's")
    layer = torch.nn.GRU(3, 5, batch_first=True)
    xs = torch.ones(2, 4, 3)
    torch.onnx.export(layer, (xs,), tmp_path / "m.onnx", dynamo=False)
    found = load_onnx(tmp_path / "m.onnx")
    ((name, part),) = found.items()
    assert "takes (T, B, I): the model transposes (B, T, I) before the node" in found.notes[name]
    ys = part(xs.numpy().transpose(1, 0, 2))[0].transpose(1, 0, 2)
    np.testing.assert_allclose(ys, layer(xs)[0].detach(), atol=1e-6)


# ---- What else the model holds


def test_other_weights_are_unused(tmp_path: Path) -> None:
    """The weights of other parts, and nothing of the layers, shapes or single numbers."""
    linear, embedding = xrnn.Linear(4, 2), xrnn.Embedding(7, 3)
    layers = [xrnn.LSTM(3, 4, peephole=True), xrnn.GRU(4, 4, learn_state=True)]
    parts = [embedding, *layers, xrnn.Mean(), linear]
    xrnn.convert.to_onnx(parts, tmp_path / "m.onnx", states=False)
    found = load_onnx(tmp_path / "m.onnx")
    assert list(found.unused) == ["embedding.E", "linear.W", "linear.b"]
    np.testing.assert_array_equal(found.unused["linear.W"].T, linear.weights["W"])
    np.testing.assert_array_equal(found.unused["embedding.E"], embedding.weights["E"])
    last = repr(found).splitlines()[-1]
    assert last == "unused: embedding.E (7, 3), linear.W (4, 2), linear.b (2,)"


def test_weights_that_a_layer_is_computed_from_are_used() -> None:
    m = simple()
    (W, *_), a = m.constants, m.rng.normal(size=(1, 20, 3)).astype("float32")
    m.constants += [numpy_helper.from_array(a, "more"), numpy_helper.from_array(a[0, 0], "other")]
    m.constants += [numpy_helper.from_array(np.zeros((1, 1, 5), "float32"), "zeros")]
    m.constants += [numpy_helper.from_array(np.array([1, 2, 5]), "shape")]
    total = m.add("Add", [W.name, "more"])
    state = m.add("Expand", ["zeros", "shape"])
    assert list(load_onnx(node(m, inputs=f"X {total} R _ _ {state}")).unused) == ["other"]


def test_weights_of_a_part_that_makes_the_initial_state_are_unused() -> None:
    """They belong to a network before the layer, and not to it."""
    m = simple()
    m.feed("features", np.zeros((1, 2, 7), "float32"))
    for name, shape in (("A", (7, 5)), ("b", (5,))):
        m.constants.append(numpy_helper.from_array(np.ones(shape, "float32"), name))
    h = m.add("Add", ["b", m.add("MatMul", ["features", "A"])])
    found = load_onnx(node(m, inputs=f"X W R _ _ {h}"))
    assert list(found.unused) == ["A", "b"]
    assert any("give state=" in note for note in found.notes["rec"])


def test_unused_constants_in_other_places() -> None:
    """Nodes hold weights too, and graphs inside, where two may have one name."""
    m, other = simple(), numpy_helper.from_array(np.ones((2, 3), "float32"), "C")
    m.nodes.append(helper.make_node("Constant", [], ["C"], value=other))
    m.nodes.append(helper.make_node("Constant", [], ["one"], value_float=1.0))
    out = [helper.make_empty_tensor_value_info("y")]
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Identity", ["D"], ["y"])],
            name,
            [],
            out,
            [numpy_helper.from_array(np.full(n, n, "float64"), "D")],
        )
        for n, name in ((2, "else"), (3, "then"))
    }
    m.feed("flag", np.array(True))
    m.nodes.append(helper.make_node("If", ["flag"], ["z"], "choice", **branches))
    unused = load_onnx(node(m)).unused
    assert {name: a.shape for name, a in unused.items()} == {"C": (2, 3), "D": (2,), "D_2": (3,)}


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_numbers_that_are_no_weights(shape: tuple[int, ...]) -> None:
    m = simple()
    m.constants.append(numpy_helper.from_array(np.ones(shape, "float32"), "other"))
    m.constants.append(numpy_helper.from_array(np.ones((2, 3), "int64"), "shape"))
    assert not load_onnx(node(m)).unused


def test_other_weights_that_cannot_be_read(tmp_path: Path) -> None:
    """A layer that can be read is loaded without them."""
    m = simple()
    m.constants.append(numpy_helper.from_array(np.ones((2, 3), "float32"), "other"))
    model = node(m)
    (other,) = [one for one in model.graph.initializer if one.name == "other"]
    other.ClearField("raw_data")
    other.data_location = TensorProto.EXTERNAL
    other.external_data.add(key="location", value="tensors")
    found = load_onnx(model)
    assert list(found) == ["rec"]
    assert not found.unused
    assert found.skipped == {
        "other": "the numbers of other lie in another file; give the model's path"
    }
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "the tensor other cannot be read" in load_onnx(tmp_path / "m.onnx").skipped["other"]
    (tmp_path / "tensors").write_bytes(np.ones(6, "float32").tobytes())
    np.testing.assert_array_equal(load_onnx(tmp_path / "m.onnx").unused["other"], np.ones((2, 3)))


def test_without_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: load_onnx(b""), lambda: xrnn.convert.to_onnx(xrnn.RNN(3, 5), tmp_path)):
        with pytest.raises(ImportError, match=r"_onnx needs .* pip install 'xrnn-array\[onnx\]'"):
            call()
