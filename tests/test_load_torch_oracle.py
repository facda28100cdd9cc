"""Random modules of PyTorch, saved by it: what `load_torch` makes of them computes the same."""

from __future__ import annotations

import inspect
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import blocks, sections

import xrnn
from xrnn.convert import from_torch, load_torch, to_torch

torch = pytest.importorskip("torch", reason="the oracle is PyTorch")

import safetensors.torch  # noqa: E402

T, B = 5, 3

#: dtype of the module → how far outputs computed in float64 by both may differ
BOUND = 1e-12


def drawn(seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """A random recurrent module, the larger module that it is in, and what must be said of it."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kind = rng.choice(["LSTM", "GRU", "RNN"])
    I, H, bias = rng.randint(1, 6), rng.randint(1, 6), rng.random() < 0.7
    said: dict[str, Any] = {"nonlinearity": rng.choice(["tanh", "relu"])} if kind == "RNN" else {}
    own = dict(said)
    if rng.random() < 0.25:
        module = getattr(torch.nn, f"{kind}Cell")(I, H, bias=bias, **own)
    else:
        said["batch_first"] = rng.random() < 0.5
        own |= {"num_layers": rng.randint(1, 3), "bidirectional": rng.random() < 0.5}
        if kind == "LSTM" and H > 1 and rng.random() < 0.4:
            own["proj_size"] = rng.randint(1, H - 1)
        own["batch_first"] = said["batch_first"]
        module = getattr(torch.nn, kind)(I, H, bias=bias, **own)
    inside = {"rnn": module, "out_proj": torch.nn.Linear(H, 2, bias=rng.random() < 0.5)}
    whole = torch.nn.ModuleDict(
        {
            "word_embedding": torch.nn.Embedding(7, I),
            "conv": torch.nn.Conv1d(2, 3, 1),
            "decoder": torch.nn.ModuleDict({**inside, "norm": torch.nn.BatchNorm1d(3)}),
        }
    )
    return module, whole, said


def written(state_dict: Any, how: str, path: Path) -> Path:
    """The file in which PyTorch keeps it."""
    if how == "safetensors":
        safetensors.torch.save_file(state_dict, path)
    elif how == "checkpoint":
        torch.save({"epoch": 3, "state_dict": state_dict, "hyper_parameters": {"lr": 0.1}}, path)
    elif how == "parallel":
        torch.save({f"module.{name}": w for name, w in state_dict.items()}, path)
    else:
        torch.save(state_dict, path, pickle_protocol=int(how[-1]))
    return path


def theirs(module: Any, xs: np.ndarray) -> np.ndarray:
    """The outputs of a module for inputs (T, B, I) in float64."""
    module, inputs = module.double(), torch.from_numpy(xs)
    if not hasattr(module, "batch_first"):  # a cell
        state, found = None, []
        for x in inputs:
            state = module(x, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found).detach().numpy()  # type: ignore[no-any-return]
    inputs = inputs.transpose(0, 1) if module.batch_first else inputs
    return module(inputs)[0].detach().numpy()  # type: ignore[no-any-return]


FORMATS = ("protocol 2", "protocol 4", "protocol 5", "safetensors", "checkpoint", "parallel")
DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.filterwarnings("ignore:RNN module weights are not part")
@pytest.mark.parametrize("seed", range(120))
def test_random_modules(seed: int, tmp_path: Path) -> None:
    module, whole, said = drawn(seed)
    dtype, how = DTYPES[seed // len(FORMATS) % len(DTYPES)], FORMATS[seed % len(FORMATS)]
    whole.to(getattr(torch, dtype))
    path = written(whole.state_dict(), how, tmp_path / "weights")
    kept: Any = load_torch(path, **said)
    assert set(kept) == {"word_embedding", "decoder.rnn", "decoder.out_proj"}
    assert {part.dtype for part in kept.values()} == {dtype}
    assert {name.rpartition(".")[0] for name in kept.unused} == {"conv", "decoder.norm"}
    np.testing.assert_array_equal(kept.unused["conv.weight"], whole["conv"].weight.detach().float())

    # In float64 both compute with the same numbers, whatever the dtype of the file.
    parts: Any = load_torch(path, **said, dtype="float64")
    xs = np.random.default_rng(seed).normal(size=(T, B, parts["decoder.rnn"].input_size))
    want = theirs(module, xs)
    inputs = xs.swapaxes(0, 1) if said.get("batch_first") else xs
    np.testing.assert_allclose(parts["decoder.rnn"](inputs)[0], want, rtol=0, atol=BOUND)
    hs = np.ones((2, whole["decoder"]["out_proj"].in_features))
    linear = whole["decoder"]["out_proj"].double()(torch.from_numpy(hs)).detach().numpy()
    np.testing.assert_allclose(parts["decoder.out_proj"](hs), linear, rtol=0, atol=BOUND)
    tokens = np.array([0, 6, 2])
    rows = whole["word_embedding"].weight.detach().double()[tokens].numpy()
    np.testing.assert_array_equal(parts["word_embedding"](tokens), rows)


@pytest.mark.parametrize("seed", range(0, 120, 8))
def test_trees_there_and_back(seed: int) -> None:
    """What `load_torch` returns is a tree for `to_torch` and `from_torch`."""
    module, whole, said = drawn(seed)
    state_dict = whole.double().state_dict()
    parts = load_torch(state_dict, **said)
    number = "_l0" if hasattr(module, "num_layers") else ""  # cells have none in their names
    names = {name.replace("_l0", number): a for name, a in to_torch(parts).items()}
    whole.load_state_dict({k: torch.from_numpy(a) for k, a in names.items()}, strict=False)
    before = {name: dict(part.weights) for name, part in parts.items()}
    again = whole.state_dict()
    from_torch(parts, dict(zip(to_torch(parts), map(again.get, names), strict=True)))
    for name, part in parts.items():
        for weight, w in part.weights.items():
            np.testing.assert_allclose(w, before[name][weight], rtol=0, atol=1e-15)


class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A module that PyTorch can compile to a program."""

    def __init__(self) -> None:
        super().__init__()
        self.lookup = torch.nn.Embedding(7, 3)
        self.rnn = torch.nn.GRU(3, 5, bidirectional=True)
        self.top = torch.nn.LSTMCell(10, 4)
        self.last = torch.nn.Linear(4, 7, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        hs, _ = self.rnn(self.lookup(tokens))
        return self.last(self.top(hs[-1])[0])


class TestFiles:
    def test_views_of_one_storage(self, tmp_path: Path) -> None:
        """One storage with many offsets and strides, as flatten_parameters() makes on a GPU."""
        storage = torch.arange(400.0, dtype=torch.float64)
        tree: dict[str, Any] = {"x.second": storage[::2], "x.row": storage[3:4].expand(4)}
        for n, (name, p) in enumerate(torch.nn.LSTM(3, 5).named_parameters()):
            flat = storage[10 * n + 1 :][: p.numel()]
            tree[f"a.{name}"] = flat.view(p.shape[::-1]).T if p.ndim == 2 else flat
        torch.save(tree, tmp_path / "a")
        with zipfile.ZipFile(tmp_path / "a") as archive:
            assert sum("/data/" in name for name in archive.namelist()) == 1
        found, want = load_torch(tmp_path / "a"), load_torch(tree)
        for name, w in want["a"].weights.items():
            np.testing.assert_array_equal(found["a"].weights[name], w)
        for name, a in want.unused.items():
            np.testing.assert_array_equal(found.unused[name], a)
            np.testing.assert_array_equal(tree[name], a)

    @pytest.mark.parametrize(
        "dtype",
        [
            "bool",
            "uint8",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint16",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
        ],
    )
    def test_other_dtypes(self, dtype: str, tmp_path: Path) -> None:
        tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(getattr(torch, dtype))
        torch.save({"out": torch.nn.Linear(2, 3).state_dict(), "x": tensor}, tmp_path / "a")
        found = load_torch(tmp_path / "a").unused["x"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, tensor.numpy())

    def test_dtypes_that_numpy_lacks(self, tmp_path: Path) -> None:
        tree = {"x": torch.ones(3).to(torch.float8_e5m2), **torch.nn.Linear(2, 3).state_dict()}
        torch.save({f"out.{name}": a for name, a in tree.items()}, tmp_path / "a")
        with pytest.raises(ValueError, match=r"out\.x"):
            load_torch(tmp_path / "a")

    def test_parameters(self, tmp_path: Path) -> None:
        """Parameters, and those with attributes of their own."""
        module = torch.nn.Linear(2, 3)
        module.weight.note = "of the user"
        torch.save({"a": dict(module.named_parameters())}, tmp_path / "a")
        linear = load_torch(tmp_path / "a")[""]
        np.testing.assert_array_equal(linear.weights["W"], module.weight.detach())

    def test_programs(self, tmp_path: Path) -> None:
        """TorchScript files, scripted and traced: the classes tell what has no bias."""
        net = Net()
        tokens = torch.tensor([[1, 2], [3, 4]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            programs = {"script": torch.jit.script(net), "trace": torch.jit.trace(net, tokens)}
            for name, program in programs.items():
                program.save(str(tmp_path / name))
        for name in programs:
            parts: Any = load_torch(tmp_path / name)
            assert set(parts) == {"lookup", "rnn", "top", "last"}
            hs, _ = parts["rnn"](parts["lookup"](tokens.numpy()))
            h, _ = parts["top"](hs[-1:])
            want = net(tokens).detach().numpy()
            np.testing.assert_allclose(parts["last"](h)[0], want, rtol=1e-5, atol=1e-6)


def quantised() -> Any:
    net = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 5), "out": torch.nn.Linear(5, 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net, dtype=torch.qint8)


def normalised() -> Any:
    return torch.nn.utils.parametrizations.weight_norm(torch.nn.LSTM(3, 5), "weight_hh_l0")


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a module": (lambda: torch.nn.LSTM(3, 5), {}, "holds code, not weights; .*state_dict"),
    "a module in a checkpoint": (
        lambda: {"model": Net(), "epoch": 3},
        {},
        "model: a pickled module",
    ),
    "the old format": (
        lambda: torch.nn.LSTM(3, 5).state_dict(),
        {"_use_new_zipfile_serialization": False},
        r"before 1\.6",
    ),
    "quantised": (lambda: quantised().state_dict(), {}, "rnn: .*the module is quantised"),
    "normalised": (
        lambda: normalised().state_dict(),
        {},
        "the module is parametrised; .*remove",
    ),
    "a tensor": (lambda: torch.ones(3), {}, "it holds no LSTM"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_refused(how: str, tmp_path: Path) -> None:
    make, options, message = REFUSED[how]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(make(), tmp_path / "a.pt", **options)
    with pytest.raises(ValueError, match=rf"a\.pt: .*{message}"):
        load_torch(tmp_path / "a.pt")


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks for PyTorch run too, with what they speak of."""
    monkeypatch.chdir(tmp_path)
    text = (Path(inspect.getfile(xrnn)).parent / "guide" / "coming-from-pytorch.md").read_text(
        "utf-8"
    )
    lstm, out = torch.nn.LSTM(8, 16, 2), torch.nn.Linear(16, 5)
    model = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"lstm": lstm})})
    torch.save(model.state_dict(), "model.pt")
    words = {
        **vars(torch.nn.functional),
        **vars(torch.nn.utils),
        **vars(torch.nn.utils.rnn),
        "torch": torch,
        "xrnn": xrnn,
        "lstm": lstm,
        "out": out,
        "parameters": [*lstm.parameters()],
        "optimizer": torch.optim.Adam(lstm.parameters()),
        "module": torch.nn.ModuleDict({"encoder": torch.nn.LSTM(8, 16), "out": out}),
        "lengths": torch.tensor([20, 7, 1, 13]),
        "targets": torch.full((20, 4), -100),
    }
    ran = 0
    for heading, section in sections(text).items():
        xs = np.ones((20, 4, 8), "float32")
        names = {**words, "xs": torch.from_numpy(xs) if heading == "Train" else xs}
        # Those for PyTorch come first, but for the way back, which needs what the other made.
        both = [(kind, block) for kind in ("py", "python") for block in blocks(section, kind)]
        for kind, block in both if heading != "Go back to PyTorch" else reversed(both):
            exec(compile(block, heading, "exec"), names)
            ran += kind == "py"
    assert ran == 3
