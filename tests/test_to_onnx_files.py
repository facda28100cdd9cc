"""What `to_onnx` writes and refuses: names, options of the file, dtypes, streams, errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import sections, tables

import xrnn
from xrnn import cells
from xrnn.convert import load_onnx, to_onnx

onnx = pytest.importorskip("onnx", reason="the models are written with onnx")
pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

from onnx_models import session  # noqa: E402


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def xs(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


# ---- What is written


def test_the_names_of_a_layer(path: Path) -> None:
    signature = to_onnx(xrnn.LSTM(3, 5, 2, bidirectional=True), path)
    state = (4, "B", 5)
    assert signature.inputs == {"xs": ("T", "B", 3), "lengths": ("B",), "h": state, "c": state}
    assert signature.outputs == {"ys": ("T", "B", 10), "h_last": state, "c_last": state}
    assert list(load_onnx(path)) == ["lstm_l0", "lstm_l1"]
    short = to_onnx(xrnn.GRU(3, 5, batch_first=True), path, states=False, lengths=False)
    assert short.inputs == {"xs": ("B", "T", 3)}
    assert short.outputs == {"ys": ("B", "T", 5), "h_last": (1, "B", 5)}


def test_the_names_of_several_parts(path: Path) -> None:
    parts = [
        xrnn.Embedding(7, 3),
        xrnn.GRU(3, 4),
        xrnn.Linear(4, 4, activation="relu"),
        xrnn.GRU(4, (5, 6)),
        xrnn.Linear(6, 2),
    ]
    signature = to_onnx(parts, path)
    assert list(signature.inputs) == ["tokens", "lengths", "gru.h", "gru_2.h_l0", "gru_2.h_l1"]
    assert list(signature.outputs) == ["ys", "gru.h_last", "gru_2.h_last_l0", "gru_2.h_last_l1"]
    assert list(load_onnx(path)) == ["gru", "gru_2_l0", "gru_2_l1"]
    named = to_onnx({"a": parts[1], "b": parts[2]}, path)
    assert list(named.inputs) == ["xs", "lengths", "h"]
    assert list(load_onnx(path)) == ["a"]
    assert to_onnx(tuple(parts), path) == signature


def test_the_names_of_a_sequential(path: Path) -> None:
    model = xrnn.Sequential(
        norm=xrnn.LayerNorm(3),
        block=xrnn.Residual(xrnn.LSTM(3, 3), xrnn.Dropout(0.5)),
        rnn=xrnn.GRU(3, 4, bidirectional=True),
        merge=xrnn.Merge("mean"),
        last=xrnn.Last(),
        out=xrnn.Linear(4, 2, activation="sigmoid"),
    )
    signature = to_onnx(model, path)
    assert list(signature.inputs) == ["xs", "lengths", "block.0.h", "block.0.c", "rnn.h"]
    assert signature.outputs == {
        "ys": ("B", 2),
        **{f"block.0.{s}_last": (1, "B", 3) for s in "hc"},
        "rnn.h_last": (2, "B", 4),
    }
    assert list(load_onnx(path)) == ["block.0", "rnn"]


def test_what_the_file_says_of_itself(path: Path) -> None:
    to_onnx(xrnn.RNN(3, 5), path)
    model = onnx.load(path)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert (model.ir_version, model.producer_name) == (8, "xrnn")
    assert {one.key: one.value for one in model.metadata_props} == {
        "producer": "xrnn",
        "version": xrnn.__version__,
    }
    onnx.checker.check_model(model, full_check=True)


def test_the_same_layer_gives_the_same_file(path: Path) -> None:
    layer = xrnn.LSTM(3, 5, learn_state=True)
    to_onnx(layer, path, states=False)
    before = path.read_bytes()
    to_onnx(layer, path, states=False)
    assert path.read_bytes() == before
    layer.freeze()
    to_onnx(layer, path, states=False)
    assert path.read_bytes() == before


def test_streams(path: Path) -> None:
    """A sequence in chunks, each from the last state of the one before."""
    layer = xrnn.LSTM(3, 5, 2, learn_state=True)
    layer.weights = {name: w + np.float32(0.1) for name, w in layer.weights.items()}
    to_onnx(layer, path, states=True, lengths=False)
    run, given = session(path.read_bytes()), xs(7, 2, 3)
    h, c = layer.initial_state(2)
    outputs = []
    for chunk in np.split(given, [1, 2, 5]):
        y, h, c = run.run(None, {"xs": chunk, "h": h, "c": c})
        outputs.append(y)
    ys, last = layer(given)
    np.testing.assert_allclose(np.concatenate(outputs), ys, atol=1e-6)
    np.testing.assert_allclose(c, last.c, atol=1e-6)
    to_onnx(layer, path, states=False, lengths=False)
    got, *_ = session(path.read_bytes()).run(None, {"xs": given})
    np.testing.assert_allclose(got, ys, atol=1e-6)


def test_learned_states_are_not_forgotten(path: Path) -> None:
    """The model with inputs for its states does not hold the learned ones."""
    layer = xrnn.LSTM(3, 5, learn_state=True)
    layer.weights = {name: w + np.float32(0.3) for name, w in layer.weights.items()}
    words = "lstm has learned initial states, and states is not given; say states=False, .*=True, "
    for parts in (layer, xrnn.Sequential(xrnn.GRU(3, 3), lstm=layer)):
        with pytest.raises(ValueError, match=words):
            to_onnx(parts, path)
        assert not path.exists()
    given = xs(6, 2, 3)
    want, _ = layer(given)
    to_onnx(layer, path, states=False, lengths=False)
    got, *_ = session(path.read_bytes()).run(None, {"xs": given})
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert list(to_onnx(layer, path, states=True, lengths=False).inputs) == ["xs", "h", "c"]
    begin = layer.initial_state(2)
    got, *_ = session(path.read_bytes()).run(None, {"xs": given, "h": begin.h, "c": begin.c})
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2e-3), ("float32", 1e-6)])
def test_dtypes(path: Path, dtype: Any, bound: float) -> None:
    """onnxruntime computes float16 in float32, and rounds at the end."""
    layer = xrnn.GRU(3, 5, bidirectional=True, dtype=dtype)
    signature = to_onnx([layer, xrnn.Linear(10, 2, dtype=dtype)], path, states=False)
    assert list(signature.inputs) == ["xs", "lengths"]
    feeds = {"xs": xs(6, 2, 3, dtype=dtype), "lengths": np.array([6, 2])}
    _, h = session(path.read_bytes()).run(None, feeds)
    assert h.dtype == dtype
    np.testing.assert_allclose(h, layer(feeds["xs"], None, [6, 2])[1].h, atol=bound)
    (back,) = load_onnx(path).values()
    np.testing.assert_array_equal(back.weights["W_l0"], layer.weights["W_l0"])


@pytest.mark.parametrize("batch_first", [False, True])
def test_padding_that_a_sequential_hides(path: Path, batch_first: bool) -> None:
    """A residual connection would let it through; tokens of padding need not have a row."""
    block = xrnn.Residual(xrnn.LSTM(3, 3, batch_first=batch_first))
    given, lengths = xs(5, 5, 3), np.array([5, 2, 0, 4, 1])
    for model in (xrnn.Sequential(block, xrnn.Linear(3, 2)), block):
        to_onnx(model, path, states=False)
        got, *_ = session(path.read_bytes()).run(["ys"], {"xs": given, "lengths": lengths})
        np.testing.assert_allclose(got, model(given, lengths=lengths), atol=1e-6)
    tokens = np.full((5, 5), 99)
    tokens[:2, :2] = 3
    words = xrnn.Sequential(xrnn.Embedding(9, 3), block)
    to_onnx(words, path, states=False)
    feeds = {"tokens": tokens, "lengths": np.array([2, 2, 0, 0, 0])}
    got, *_ = session(path.read_bytes()).run(["ys"], feeds)
    np.testing.assert_allclose(got, words(tokens, lengths=feeds["lengths"]), atol=1e-6)


@pytest.mark.parametrize("pool", [xrnn.Last, xrnn.Mean, xrnn.Max])
def test_float16_of_every_part(path: Path, pool: Any) -> None:
    how: Any = {"dtype": "float16"}
    parts = [
        xrnn.Embedding(9, 4, **how),
        xrnn.LayerNorm(4, **how),
        xrnn.LSTM(4, 3, bidirectional=True, **how),
        xrnn.Merge("max"),
        pool(),
        xrnn.Linear(3, 2, activation="softplus", **how),
    ]
    to_onnx(parts, path, states=False)
    feeds = {"tokens": np.arange(12).reshape(6, 2) % 9, "lengths": np.array([6, 0])}
    got, *_ = session(path.read_bytes()).run(["ys"], feeds)
    want = xrnn.Sequential(*parts)(feeds["tokens"], lengths=[6, 0])
    assert got.dtype == want.dtype == "float16"
    np.testing.assert_allclose(got, want, atol=5e-3)


def test_another_dtype(path: Path) -> None:
    layer = xrnn.LSTM(3, 5, dtype="float64")
    with pytest.raises(ValueError, match="dtype is 'float64'; it must be of float32, float16, in"):
        to_onnx(layer, path)
    to_onnx(layer, path, states=False, lengths=False, dtype="float32")
    got, *_ = session(path.read_bytes()).run(None, {"xs": xs(6, 2, 3)})
    np.testing.assert_allclose(got, layer(xs(6, 2, 3).astype("float64"))[0], atol=1e-6)
    large = xrnn.RNN(3, 5)
    large.weights["b_l0"] = np.full(5, 1e6, "float32")
    with pytest.raises(ValueError, match=r"b holds 1000000\.0|B holds 1000000\.0"):
        to_onnx(large, path, dtype="float16")


def test_another_library(path: Path) -> None:
    pytest.importorskip("array_api_strict", reason="another library than NumPy")
    layer = xrnn.GRU(3, 5, device="array_api_strict", rng=0)
    to_onnx(layer, path)
    want = xrnn.GRU(3, 5, rng=0).weights["U_l0"]
    np.testing.assert_array_equal(load_onnx(path)["gru"].weights["U_l0"], want)


# ---- The guide


GUIDE = Path(str(xrnn.__file__)).parent / "guide" / "deploying.md"
EXPRESSED, REFUSED = tables(sections(GUIDE.read_text("utf-8"))["What ONNX can express"])


@pytest.mark.parametrize("row", EXPRESSED[1], ids=lambda row: row[0])
def test_what_onnx_can_express(path: Path, row: list[str]) -> None:
    made, op = (cell.strip("`") for cell in row)
    to_onnx(eval(made), path)
    assert op in [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("row", REFUSED[1], ids=lambda row: row[0])
def test_what_the_guide_says_is_refused(path: Path, row: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(row[1])):
        to_onnx(eval(row[0].strip("`")), path)


# ---- What is refused


CELLS: dict[str, tuple[Any, str]] = {
    "cell_clip": (cells.lstm_with(cell_clip=3.0), r"cell_clip is 3\.0; the operator LSTM of ONNX"),
    "proj_size": (cells.lstm_with(proj_size=2), "proj_size is 2; the operator LSTM of ONNX has no"),
    "layer_norm": (cells.lstm_with(layer_norm=True), "layer_norm is 'products'; the operator"),
    "gru": (cells.gru_with(layer_norm=True), "layer_norm is True; the operator GRU of ONNX has no"),
    "zoneout": (
        cells.lstm_with(zoneout=(0.1, 0.1)),
        r"zoneout\(lstm, 0\.1, 0\.1\): ONNX has no op",
    ),
    "leaky": (
        cells.leaky_with(0.2),
        "ONNX has no operator for this cell; it has LSTM, GRU and RNN",
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells(path: Path, name: str) -> None:
    cell, message = CELLS[name]
    with pytest.raises(ValueError, match=message):
        to_onnx(xrnn.Layer(cell, 3, 5), path)
    assert not path.exists()


def test_every_cell_is_written_or_refused(path: Path) -> None:
    written, refused = set(), {}
    for name, cell in cells.BY_NAME.items():
        try:
            to_onnx(xrnn.Layer(cell, 3, 5), path)
            written.add(name)
        except ValueError as error:
            refused[name] = str(error)
    # Cells that are added later may be refused.
    assert all("ONNX has no operator for this cell" in why for why in refused.values())
    assert {"rnn", "lstm", "gru", "gru-before", "peephole", "mgu", "janet"} <= written


ARGUMENTS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "none": ([], {}, ValueError, "parts is empty; there must be a recurrent layer"),
    "text": ("lstm", {}, TypeError, "parts holds a str; it must be of Embedding, Linear, Layer"),
    "a class": ([xrnn.LSTM], {}, TypeError, "parts holds a type; it must be of Embedding, Lin"),
    "no layer": ([xrnn.Linear(3, 3)], {}, ValueError, "parts is linear; there must be a recurre"),
    "a name": ({1: xrnn.RNN(3, 5)}, {}, TypeError, "parts has the name 1; names must be str"),
    "sizes": (
        [xrnn.RNN(3, 5), xrnn.Linear(4, 3)],
        {},
        ValueError,
        "linear must be given 4 values, and rnn gives 5 values",
    ),
    "an embedding": (
        [xrnn.RNN(3, 5), xrnn.Embedding(4, 3)],
        {},
        ValueError,
        "embedding is an embedding; it must be the first part",
    ),
    "after pooling": (
        [xrnn.RNN(3, 5), xrnn.Last(), xrnn.RNN(5, 5)],
        {},
        ValueError,
        "rnn_2 must be given sequences, and last gives one vector for each",
    ),
    "tokens": (
        xrnn.Sequential(xrnn.Residual(xrnn.Embedding(9, 4)), xrnn.RNN(4, 5)),
        {},
        ValueError,
        "0 adds 0 values of the input to 4 values of 0.0; both must have the same shape",
    ),
    "odd": (
        [xrnn.RNN(3, 5), xrnn.Merge(), xrnn.RNN(5, 5)],
        {},
        ValueError,
        "merge must be given two directions, and rnn gives 5",
    ),
    "names": (
        {"a": xrnn.RNN(3, 3, 2), "a_l0": xrnn.RNN(3, 3)},
        {},
        ValueError,
        r"two parts make the tensor a_l0\.",
    ),
    "any width": (
        [xrnn.Merge(), xrnn.RNN(3, 5)],
        {},
        ValueError,
        "parts begins with merge, which takes any number of values; the first part must be a layer",
    ),
    "batch_first": (
        [xrnn.RNN(3, 5), xrnn.RNN(5, 5, batch_first=True)],
        {},
        ValueError,
        "parts have batch_first=True and batch_first=False; they must agree",
    ),
    "dtypes": (
        [xrnn.RNN(3, 5), xrnn.Linear(5, 5, dtype="float64")],
        {},
        ValueError,
        "parts have different dtypes: rnn float32, linear float64; they must agree",
    ),
    "a flag": (xrnn.RNN(3, 5), {"states": 1}, TypeError, "states is 1; it must be True or False"),
    "a dtype": (xrnn.RNN(3, 5), {"dtype": "int8"}, ValueError, "dtype is 'int8'; it must be of fl"),
    "complex": (
        xrnn.RNN(3, 5, dtype="complex64"),
        {"dtype": "float32"},
        TypeError,
        "float32 cannot hold complex numbers",
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(path: Path, name: str) -> None:
    parts, how, kind, message = ARGUMENTS[name]
    path.write_bytes(b"before")
    with pytest.raises(kind, match=message):
        to_onnx(parts, path, **how)
    assert path.read_bytes() == b"before"


def test_no_path() -> None:
    with pytest.raises(TypeError, match="path is 3; it must be a str or a path"):
        to_onnx(xrnn.RNN(3, 5), 3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        to_onnx(xrnn.RNN(3, 5), "/nowhere/model.onnx")


def test_weights_of_more_than_a_file_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xrnn.convert.onnx_write.MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"the weights have \d+ bytes; an ONNX file holds 100"):
        to_onnx(xrnn.RNN(3, 5, bias=False), path)
