"""Trained weights of published packages, against the programs that came with them.

The packages are read as files and never imported.  The folder that holds them is named by
XRNN_REAL_FILES, as `.ci/run` fills it: ``pip install --no-deps --target FOLDER PACKAGE…``.

==============  =======  ===================  ====================================================
package         version  licence              what it holds
==============  =======  ===================  ====================================================
g2p-en          2.1.0    Apache 2.0           npz with names of its own: an encoder and a decoder,
                                              GRUs in PyTorch's convention
silero-vad      6.2.3    MIT                  ONNX and safetensors: an LSTM
textgenrnn      2.0.0    MIT                  HDF5 of Keras 2 without a configuration: CuDNNLSTM
ddddocr         1.6.1    MIT                  ONNX: bidirectional LSTMs, in float32 and in int8
kraken          7.1.1    Apache 2.0           Core ML: bidirectional LSTMs
jieba           0.42.1   MIT                  a file for each array of Paddle 1: GRUs
Resemblyzer     0.1.4    Apache 2.0           PyTorch's format from before 1.6
==============  =======  ===================  ====================================================
"""

from __future__ import annotations

import ast
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import library_steps as steps
import numpy as np
import pytest
from pages import sections, tables
from safetensors.numpy import load_file

import xrnn
from xrnn.convert.conventions import CONVENTIONS, Stored
from xrnn.convert.loaded import make_layer
from xrnn.typing import Array

FOLDER = os.environ.get("XRNN_REAL_FILES")


def real(name: str) -> Path:
    """The path of a file of a package."""
    if not FOLDER:
        pytest.skip("XRNN_REAL_FILES names no folder with the packages")
    path = Path(FOLDER, name)
    if not path.exists():
        pytest.skip(f"{name} is not in the folder of XRNN_REAL_FILES; the registry did not answer")
    return path


def near(found: Array, expected: Array, limit: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < limit


# ---- g2p-en


def methods(path: Path, *names: str) -> Any:
    """Methods of the first class of a module, without the rest of the module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in its texts
        tree = ast.parse(path.read_text("utf-8"))
    (kind, *_) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    kind.body = [n for n in kind.body if isinstance(n, ast.FunctionDef) and n.name in names]
    kind.bases = []
    found: dict[str, Any] = {"np": np}
    exec(compile(ast.Module([kind], []), str(path), "exec"), found)
    return found[kind.name]()


@pytest.mark.parametrize("part", ["enc", "dec"])
def test_g2p_en(part: str) -> None:
    """Its names are its own, and its program is NumPy."""
    arrays = np.load(real("g2p_en/checkpoint20.npz"))
    weights = [arrays[f"{part}_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    W, U, b, recurrent_bias = weights
    layer = xrnn.convert.from_arrays(
        xrnn.cells.GRU, W, U, b, recurrent_bias=recurrent_bias, batch_first=True
    )
    program = methods(real("g2p_en/g2p.py"), "sigmoid", "grucell", "gru")
    letters = np.random.default_rng(0).integers(len(arrays[f"{part}_emb"]), size=(3, 20))
    xs = arrays[f"{part}_emb"][letters]
    near(layer(xs)[0], program.gru(xs, 20, *weights), 1e-5)


def test_g2p_en_spells() -> None:
    """Both layers together give the sounds of a word that is in no dictionary."""
    arrays = np.load(real("g2p_en/checkpoint20.npz"))
    encoder, decoder = (
        xrnn.convert.from_arrays(
            xrnn.cells.GRU,
            arrays[f"{part}_w_ih"],
            arrays[f"{part}_w_hh"],
            arrays[f"{part}_b_ih"],
            recurrent_bias=arrays[f"{part}_b_hh"],
        )
        for part in ("enc", "dec")
    )
    graphemes = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    word = [graphemes.index(letter) for letter in "activationist"] + [2]
    _, state = encoder(arrays["enc_emb"][word][:, None])
    sound, sounds = 2, list[int]()
    while sound != 3 and len(sounds) < 20:
        y, state = decoder.step(arrays["dec_emb"][[sound]], state)
        sound = int((y @ arrays["fc_w"].T + arrays["fc_b"]).argmax())
        sounds.append(sound)
    program = methods(real("g2p_en/g2p.py"), "sigmoid", "grucell", "gru", "encode", "predict")
    vars(program).update({name: arrays[name] for name in arrays.files})
    program.g2idx = {letter: k for k, letter in enumerate(graphemes)}
    program.idx2p = {k: k for k in range(len(arrays["fc_b"]))}
    assert sounds[:-1] == program.predict("activationist")


# ---- silero-vad


def inner(path: Path, operator: str, feeds: dict[str, Array]) -> tuple[Array, Array]:
    """What goes into the only node of an operator, and what comes out, in onnxruntime."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.op_type == operator)
    names = [node.input[0], node.output[0]]
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x, y = session.run(names, feeds)
    # Y is (T, D, B, H) in ONNX.
    return x, y.transpose(0, 2, 1, 3).reshape(len(y), y.shape[2], -1)


def test_silero_vad_in_onnxruntime() -> None:
    path = real("silero_vad/data/silero_vad_16k_sequence.onnx")
    rng = np.random.default_rng(0)
    sound = rng.normal(size=(12, 576)).astype("float32")
    h, c = rng.normal(size=(2, 1, 1, 128)).astype("float32")
    x, y = inner(path, "LSTM", {"input": sound, "h": h, "c": c})
    (layer,) = xrnn.convert.load_onnx(path).values()
    near(layer(x, (h, c))[0], y, 1e-5)


def test_silero_vad_in_other_formats() -> None:
    """An archive of TorchScript, and ONNX with the nodes in the branches of an If, hold the same
    layer; the steps of one file are written out."""
    pytest.importorskip("onnx")
    data = real("silero_vad/data")
    layer = xrnn.convert.load_torch(data / "silero_vad.jit")["_model.decoder.rnn"]
    both_rates = xrnn.convert.load_onnx(data / "silero_vad.onnx")
    others = [part for name, part in both_rates.items() if "then_branch" in name]
    for name in ("16k_op15", "16k_sequence", "openvino_16k"):
        others += xrnn.convert.load_onnx(data / f"silero_vad_{name}.onnx").values()
    assert len(others) == 6
    for other in others:
        for name, w in layer.weights.items():
            near(other.weights[name], w, 1e-6)
    with pytest.raises(ValueError, match=r"written out .*: model\.decoder\.rnn\.weight_ih"):
        xrnn.convert.load_onnx(data / "silero_vad_op18_ifless.onnx")


def test_silero_vad_in_safetensors() -> None:
    """The weights of another version of the model."""
    path = real("silero_vad/data/silero_vad_16k.safetensors")
    layer: Any = xrnn.convert.load_torch(path)["lstm_cell"]
    held = load_file(path)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    stored = Stored(*(held[f"lstm_cell.{name}"] for name in names))
    xs = np.random.default_rng(0).normal(size=(20, 2, 128)).astype("float32")
    ys, _ = layer(xs)
    state: Any = (np.zeros((2, 128)),) * 2
    for x, y in zip(xs, ys, strict=True):
        state = steps.torch_lstm(stored, x, state)
        near(y, state[0], 1e-5)


# ---- textgenrnn


def test_textgenrnn() -> None:
    """A file of weights alone; its layers, with the rest of the network in NumPy, foresee the
    letters of a sentence.  In another convention they do so for few of them."""
    h5py = pytest.importorskip("h5py")
    path = real("textgenrnn/textgenrnn_weights.hdf5")
    found = xrnn.convert.load_keras(path)
    xs = np.random.default_rng(0).normal(size=(9, 2, 100)).astype("float32")
    with h5py.File(path) as file:
        held = file["rnn_1/rnn_1"]
        stored = Stored(*(held[f"{n}:0"][()] for n in ("kernel", "recurrent_kernel", "bias")))
        attention = file["attention/attention/attention_W:0"][()]
    ys, _ = found["rnn_1"](xs.transpose(1, 0, 2))
    state: Any = (np.zeros((2, 128)),) * 2
    for x, y in zip(xs, ys.transpose(1, 0, 2), strict=True):
        state = steps.keras_cudnn_lstm(stored, x, state)
        near(y, state[0], 1e-5)

    text = "What is the best thing that has happened to you?"
    vocabulary = ast.literal_eval(real("textgenrnn/textgenrnn_vocab.json").read_text("utf-8"))
    codes = [vocabulary[letter] for letter in text]
    # The network sees the 40 letters before the one that it foresees.
    windows = np.array([([0] * 40 + codes[:k])[-40:] for k in range(10, len(codes))])
    embedded = found["embedding"](windows)
    first, _ = found["rnn_1"](embedded)
    second, _ = found["rnn_2"](first)
    seen = np.concatenate([embedded, first, second], -1)
    logits = (seen @ attention)[..., 0]
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    foreseen = found["output"]((seen * weights[..., None]).sum(1)).argmax(-1)
    assert (foreseen == codes[10:]).mean() > 0.6


# ---- What a wrong convention costs


def largest(kind: Any, row: tuple[str, str], stored: Stored, xs: Array) -> Any:
    """A function that gives the largest difference of h if what is stored is read another way."""

    def outputs(stored: Stored, options: Any, **wrong: Any) -> Array:
        convention = replace(CONVENTIONS[row], **wrong)
        ys: Array = make_layer(kind, convention, [stored], options=options)(xs)[0]
        return ys

    def difference(
        other: Stored = stored, options: Any = None, usual: Any = None, **how: Any
    ) -> Any:
        return np.abs(outputs(stored, usual) - outputs(other, options, **how)).max()

    return difference


def sigmoids(*parameters: float) -> Any:
    return {"activations": (("hard_sigmoid", *parameters), "tanh", "tanh")}


def test_what_a_wrong_convention_costs() -> None:
    """The table of the guide."""
    arrays = np.load(real("g2p_en/checkpoint20.npz"))
    rng = np.random.default_rng(0)
    W, U, b, other = (arrays[f"enc_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh"))
    xs = arrays["enc_emb"][rng.integers(29, size=(20, 8))]
    gru = largest("gru", ("PyTorch", "GRU"), Stored(W, U, b, other), xs)
    found = {
        "z takes": gru(z="takes"),
        "the gates r and z exchanged": gru(gates="zrn"),
        "reset before the product": gru(reset="before"),
        "the second bias left out": gru(Stored(W, U, b)),
        "both biases added up for n too": gru(Stored(W, U, b + other)),
        "hard sigmoid for sigmoid": gru(options={"activations": ("hard_sigmoid", "tanh")}),
    }
    held = load_file(real("silero_vad/data/silero_vad_16k.safetensors"))
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    stored = Stored(*(held[f"lstm_cell.{name}"] for name in names))
    # Its inputs are outputs of relu.
    xs = np.abs(rng.normal(size=(20, 8, 128))).astype("float32")
    lstm = largest("lstm", ("PyTorch", "LSTM"), stored, xs)
    found |= {
        "the order i o f g": lstm(gates="iofg"),
        "the order i f o g": lstm(gates="ifog"),
        "1 added to f": lstm(forget_bias=1.0),
        "hard sigmoid with the slope of Keras 3 for that of Keras 2": lstm(
            options=sigmoids(1 / 6, 0.5), usual=sigmoids(0.2, 0.5)
        ),
    }
    h5py = pytest.importorskip("h5py")
    with h5py.File(real("textgenrnn/textgenrnn_weights.hdf5")) as file:
        group = file["rnn_1/rnn_1"]
        stored = Stored(*(group[f"{n}:0"][()] for n in ("kernel", "recurrent_kernel", "bias")))
        embeddings = file["embedding/embedding/embeddings:0"][()]
    xs = embeddings[rng.integers(len(embeddings), size=(20, 8))]
    blocks = largest("lstm", ("Keras", "CuDNNLSTM"), stored, xs)
    found["columns for blocks"] = blocks(layout="columns")
    page = (Path(xrnn.__file__).parent / "guide" / "conventions.md").read_text("utf-8")
    ((_, lines),) = tables(sections(page)["What a wrong convention costs"])
    assert {mistake: float(cost) for _, mistake, cost in lines} == {
        mistake: pytest.approx(cost, abs=0.06) for mistake, cost in found.items()
    }


# ---- ddddocr


@pytest.mark.parametrize(
    ("name", "operator", "limit"),
    [("common", "LSTM", 1e-5), ("common_old", "DynamicQuantizeLSTM", 0.1)],
)
def test_ddddocr(name: str, operator: str, limit: float) -> None:
    """Of the second onnxruntime also rounds the inputs and states to 8 bits."""
    path = real(f"ddddocr/{name}.onnx")
    image = np.random.default_rng(0).uniform(size=(1, 1, 64, 120)).astype("float32")
    x, y = inner(path, operator, {"input1": image})
    (layer,) = xrnn.convert.load_onnx(path).values()
    near(layer(x)[0], y, limit)


# ---- kraken

#: what `tests/make_real_outputs.py` prints
KRAKEN = {
    "L_10": [-0.02132, -0.10195, 0.02065, 0.14734],
    "L_11_transposed": [-0.11362, 0.04081, 0.11153, -0.20037],
    "L_14_transposed": [-0.03597, 0.08667, -0.06493, 0.04379],
    "L_15": [-0.15164, 0.05157, 0.20549, -0.18957],
}


def test_kraken() -> None:
    found = xrnn.convert.load_coreml(real("kraken/blla.mlmodel"))
    assert list(found) == list(KRAKEN)
    for name, part in found.items():
        layer: Any = part
        I = layer.input_size
        xs = np.sin(0.7 * np.arange(6 * I, dtype="float32")).reshape(6, 1, I)
        near(layer(xs)[0][2, 0, :: layer.hidden_size // 2], np.array(KRAKEN[name]), 1e-5)


# ---- jieba


def paddle(path: Path, columns: int) -> Array:
    """A parameter of Paddle 1: 16 bytes, the length of a description, this, and the numbers."""
    data = path.read_bytes()
    behind = 20 + int.from_bytes(data[16:20], "little")
    return np.frombuffer(data[behind:], "<f4").reshape(-1, columns)


@pytest.mark.parametrize("two_matrices", [True, False])
def test_jieba(two_matrices: bool) -> None:
    """Two bidirectional GRUs find the words of a sentence, but not if U is read as one matrix."""
    folder = real("jieba/lac_small")

    def stored(name: str, columns: int = 384) -> Array:
        return paddle(folder / "model_baseline" / name, columns)

    def gru(n: int) -> Any:
        U = stored(f"gru_{n}.w_0")
        H = len(U)
        if two_matrices:
            gates, candidate = np.split(U.ravel(), [2 * H * H])
            U = np.concatenate([gates.reshape(H, 2 * H), candidate.reshape(H, H)], axis=1)
        return xrnn.convert.from_arrays(
            xrnn.cells.GRUBefore,
            stored(f"fc_{n}.w_0"),
            U,
            stored(f"fc_{n}.b_0")[0],
            recurrent_bias=stored(f"gru_{n}.b_0")[0],
            gates="urc",
            transposed=True,
            z="takes",
            reverse=n % 2 == 1,
        )

    def names(file: str) -> dict[int, str]:
        lines = (folder / file).read_text("utf-8").split("\n")
        return {int(n): name for n, name in (line.split("\t") for line in lines if line)}

    text, letters, tags = "中国科学技术大学在合肥", names("word.dic"), names("tag.dic")
    codes = {letter: n for n, letter in letters.items()}
    xs = stored("word_emb", 128)[[codes[letter] for letter in text]][:, None]
    for n in (0, 2):
        xs = np.concatenate([gru(n)(xs)[0], gru(n + 1)(xs)[0]], -1)
    chosen = (xs[:, 0] @ stored("fc_4.w_0", 57) + stored("fc_4.b_0", 57)).argmax(1)
    begins = ["/" if tags[int(n)].endswith("-B") else "" for n in chosen]
    words = "".join(mark + letter for mark, letter in zip(begins, text, strict=True))
    assert (words == "/中国科学技术大学/在/合肥") == two_matrices


# ---- Resemblyzer


def test_resemblyzer() -> None:
    path = real("resemblyzer/pretrained.pt")
    with pytest.raises(
        ValueError, match=r"pretrained\.pt: it has the format of PyTorch before 1\.6"
    ):
        xrnn.convert.load_torch(path)
