"""What `load_torch` says: of tied weights, of options, and of what holds no numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import GRU, Raw, archive, called, pickled, read, refused, saved, tensor, tensors_of

import xrnn
from xrnn.convert import load_torch

MATRIX = np.random.default_rng(0).normal(size=(7, 3))
BOTH = "in PyTorch; here each has a copy: after training they differ"


class TestTiedWeights:
    def test_of_one_object(self) -> None:
        gru = {f"{name}.{leaf}": a for leaf, a in tensors_of("gru", 3, 3).items() for name in "ab"}
        tied = {"embed.weight": MATRIX, "out.weight": MATRIX, "out.bias": np.zeros(7)} | gru
        found = load_torch(tied | {"x.weight": MATRIX, "y.weight": MATRIX.copy()})
        assert f"it shares weight with 'out', 'x' {BOTH}" in found.notes["embed"]
        assert f"it shares weight with 'embed', 'x' {BOTH}" in found.notes["out"]
        assert found.skipped["x"].endswith("; it shares weight with 'embed', 'out' in PyTorch")
        assert "shares" not in found.skipped["y"]
        leaves = "weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0"
        assert f"it shares {leaves} with 'b' {BOTH}" in found.notes["a"]
        assert len(found.notes["b"]) == 2

    def test_equal_numbers_are_not_tied(self) -> None:
        equal = {"embed.weight": MATRIX, "out.weight": MATRIX.copy(), "out.bias": np.zeros(7)}
        empty = np.zeros((0, 3))
        for mapping in (equal, {"a.bias": np.zeros(7), "b.bias": np.zeros(7)}):
            found = load_torch(mapping | GRU | {"empty": empty, "x.empty": empty})
            assert "shares" not in repr(found)

    @pytest.mark.parametrize("offset", [0, 6])
    def test_of_one_storage(self, offset: int, tmp_path: Path) -> None:
        tree = {
            "embed.weight": tensor("w", "FloatStorage", 12, (2, 3), (3, 1)),
            "out.weight": tensor("w", "FloatStorage", 12, (2, 3), (3, 1), offset),
            "out.bias": tensor("w", "FloatStorage", 12, (2,), (1,)),
        }
        numbers = np.arange(12, dtype="<f4").tobytes()
        found = read(archive(b"\x80\x02" + pickled(tree) + b".", {"data/w": numbers}), tmp_path)
        tied = f"it shares weight with 'out' {BOTH}" in found.notes["embed"]
        assert tied == (offset == 0)

    def test_of_a_module(self, tmp_path: Path) -> None:
        """Its state dict holds new tensors each time, which share memory."""
        torch = pytest.importorskip("torch")
        module = torch.nn.ModuleDict(
            {"embed": torch.nn.Embedding(3, 3), "out": torch.nn.Linear(3, 3)}
        )
        module["out"].weight = module["embed"].weight
        torch.save(module.state_dict(), tmp_path / "a.pt")
        for given in (module.state_dict(), tmp_path / "a.pt"):
            assert f"it shares weight with 'out' {BOTH}" in load_torch(given).notes["embed"]
        turned = module.state_dict() | {"out.weight": module["embed"].weight.T}
        assert "shares" not in repr(load_torch(turned))


class TestNumbersThatCannotBeRead:
    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("_rebuild_sparse_tensor", r"sparse; give tensor\.to_dense\(\)"),
            ("_rebuild_meta_tensor_no_storage", "on the device meta; it has no numbers there"),
        ],
    )
    def test_in_a_file(self, function: str, message: str, tmp_path: Path) -> None:
        odd = called(f"torch._utils.{function}", None, ())
        tree = {"weight_ih_l0": odd, "weight_hh_l0": tensor("w", "FloatStorage", 4, (2, 2), (2, 1))}
        records = {"data/w": bytes(16)}
        path = tmp_path / "a.pt"
        path.write_bytes(archive(b"\x80\x02" + pickled(tree) + b".", records))
        with pytest.raises(TypeError, match=rf"weight_ih_l0 is {message}"):
            load_torch(path)
        linear = archive(b"\x80\x02" + pickled({"a.weight": odd, "a.bias": odd}) + b".", {})
        refused(linear, tmp_path, f"a: its weight is {message}")

    def test_beside_parts(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        rnn = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 5)}).state_dict()
        odd = {"x": torch.ones(2, 2).to_sparse(), "y": torch.ones(2, device="meta")}
        torch.save(rnn | odd, tmp_path / "a.pt")
        for given in (tmp_path / "a.pt", rnn | odd):
            found = load_torch(given)
            assert list(found) == ["rnn"]
            assert found.skipped.keys() == odd.keys()

    def test_in_tensors(self) -> None:
        torch = pytest.importorskip("torch")
        weights = torch.nn.GRU(3, 5).state_dict()
        for odd in (torch.ones(15, 3).to_sparse(), torch.ones(15, 3, device="meta")):
            with pytest.raises(
                TypeError, match=r"weight_ih_l0: its numbers cannot be read \(.*[!.]\)"
            ):
                load_torch(weights | {"weight_ih_l0": odd})

    def test_other_floating_point_numbers(self) -> None:
        torch = pytest.importorskip("torch")
        weights = torch.nn.GRU(3, 5).state_dict()
        message = "is float8_e4m3fn; it must be of .* computes with: float16, bfloat16, float32"
        with pytest.raises(TypeError, match=message):
            load_torch({name: a.to(torch.float8_e4m3fn) for name, a in weights.items()})

    def test_lists(self) -> None:
        message = r"weight_ih_l0 is a list; give an array or a tensor, such as numpy\.asarray"
        with pytest.raises(TypeError, match=message):
            load_torch({name: a.tolist() for name, a in tensors_of("gru", 3, 5).items()})
        with pytest.raises(ValueError, match="a: its weight is a list; give an array"):
            load_torch({"a.weight": [[1.0]], "a.bias": [1.0]})


class TestOtherFiles:
    @pytest.mark.parametrize("parts", [xrnn.LSTM(3, 5), {"a": xrnn.Linear(3, 5)}])
    def test_of_xrnn(self, parts: Any, tmp_path: Path) -> None:
        xrnn.save(tmp_path / "weights.bin", parts)
        refused((tmp_path / "weights.bin").read_bytes(), tmp_path, r"xrnn\.save.* xrnn\.load reads")

    def test_a_frozen_program(self, tmp_path: Path) -> None:
        """Its weights are constants beside the code, under numbers."""
        root = b"c__torch__\nNet\n)\x81" + pickled({"training": False}) + b"b"
        records = {"constants.pkl": b"\x80\x02).", "constants/0": bytes(60)}
        refused(
            archive(b"\x80\x02" + root + b".", records),
            tmp_path,
            r"without parameters: if it is frozen, .* save it before torch\.jit\.freeze",
        )

    def test_an_averaged_module(self, tmp_path: Path) -> None:
        averaged = {"n_averaged": np.array(3)} | {f"module.{name}": a for name, a in GRU.items()}
        for found in (load_torch(averaged), read(saved(averaged), tmp_path)):
            assert list(found) == ["rnn"]
            assert found.unused["n_averaged"] == 3
        beside = {f"module.{name}": a for name, a in GRU.items()} | {"scale": np.ones(2)}
        assert list(load_torch(beside)) == ["module.rnn"]


def test_options_that_the_weights_do_not_tell() -> None:
    kinds = {kind: tensors_of(kind, 3, 5) for kind in ("lstm", "rnn")}
    notes = {kind: load_torch(a, batch_first=True).notes[""][0] for kind, a in kinds.items()}
    assert notes["lstm"].endswith("; taken with batch_first=True, which the weights do not tell")
    assert "taken with batch_first=True and nonlinearity='tanh', which the" in notes["rnn"]


CODE = """\
class {kind}(Module):
  __parameters__ = []
  dropout : Final[float] = 0.
  batch_first : Final[bool] = {batch_first}
  mode : Final[str] = "{mode}"
  def forward(self): raise SystemExit
"""


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_options_that_a_program_tells(there: bool, given: bool, tmp_path: Path) -> None:
    """They are constants of its code, which is read as a text, or attributes of its modules."""

    def made(kind: str, attributes: dict[str, Any]) -> Raw:
        return Raw(
            f"c__torch__.nn.rnn\n{kind}\n)\x81".encode("latin-1") + pickled(attributes) + b"b"
        )

    def weights(kind: str, **how: Any) -> dict[str, Any]:
        shapes = {name: a.shape for name, a in tensors_of(kind, 3, 3, **how).items()}
        return {n: tensor("w", "FloatStorage", 27, s, (*s[1:], 1)) for n, s in shapes.items()}

    cell = weights("rnn", cell=True) | {"nonlinearity": "relu"}
    inside = {"a": made("GRU", weights("gru")), "b": made("RNN", weights("rnn"))}
    root = made("Net", inside | {"c": made("RNNCell", cell)})
    code = CODE.format(kind="GRU", batch_first=there, mode="GRU") + CODE.format(
        kind="RNN", batch_first=not there, mode="RNN_RELU"
    )
    records = {
        "constants.pkl": b"\x80\x02).",
        "code/__torch__/nn/rnn.py": code.encode(),
        "data/w": np.arange(27, dtype="<f4").tobytes(),
    }
    parts = read(archive(b"\x80\x02" + root + b".", records), tmp_path, batch_first=given)
    assert [parts[name].batch_first for name in "abc"] == [there, not there, given]
    assert parts["b"].cell is parts["c"].cell is xrnn.cells.ElmanReLU
    assert parts.notes["a"][0].endswith(f"; taken with batch_first={there}, as the file tells")
    told = f"batch_first={not there} and nonlinearity='relu', as the file tells"
    assert parts.notes["b"][0].endswith(f"; taken with {told}")
    assert (
        f"; taken with nonlinearity='relu', as the file tells; taken with batch_first={given}, "
        "which the weights do not tell"
    ) in parts.notes["c"][0]


def test_options_of_scripted_modules(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    rnn = torch.nn.RNN(3, 5, nonlinearity="relu", batch_first=True)
    xs = torch.ones(2, 4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(rnn).save(str(tmp_path / "a"))
    layer = load_torch(tmp_path / "a")[""]
    np.testing.assert_allclose(layer(xs.numpy())[0], rnn(xs)[0].detach().numpy(), atol=1e-6)


def test_a_name_that_is_not_there() -> None:
    found = load_torch(GRU)
    with pytest.raises(KeyError, match="there is no part 'lsmt'; the parts are 'rnn'"):
        found["lsmt"]
    assert found.get("lsmt") is None
    assert "lsmt" not in found
