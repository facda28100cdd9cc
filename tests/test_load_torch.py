"""`load_torch`: the modules in a state dict are found by their names, and compute the same."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import outputs, saved, tensors_of

import xrnn
from xrnn.convert import from_torch, load_torch, to_torch
from xrnn.convert.conventions import CONVENTIONS, Convention

XS = np.random.default_rng(1).normal(size=(6, 2, 3))

#: name → the arguments of `tensors_of` after the kind
MODULES: dict[str, dict[str, Any]] = {
    "one layer": {},
    "no bias": {"bias": False},
    "three layers": {"layers": 3},
    "both ways": {"directions": 2},
    "two layers both ways": {"layers": 2, "directions": 2},
    "cell": {"cell": True},
    "cell without bias": {"cell": True, "bias": False},
}


def under(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": a for name, a in tensors.items()}


LSTM = tensors_of("lstm", 3, 5)
LINEAR = {"weight": np.ones((2, 5)), "bias": np.zeros(2)}


@pytest.mark.parametrize("how", MODULES)
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
class TestRecurrentModules:
    def test_outputs_are_those_of_the_equations(self, kind: str, how: str) -> None:
        tensors = tensors_of(kind, 3, 5, **MODULES[how])
        layer: Any = load_torch(tensors)[""]
        assert type(layer).__name__ == kind.upper()
        assert layer.dtype == "float64"
        np.testing.assert_allclose(layer(XS)[0], outputs(kind, tensors, XS), rtol=0, atol=1e-12)

    def test_a_file_is_the_mapping(self, kind: str, how: str, tmp_path: Path) -> None:
        tensors = tensors_of(kind, 3, 5, **MODULES[how])
        (tmp_path / "a").write_bytes(saved(tensors))
        there, here = load_torch(tmp_path / "a")[""], load_torch(tensors)[""]
        assert there.config() == here.config()
        for name, w in here.weights.items():
            np.testing.assert_array_equal(there.weights[name], w)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("directions", [1, 2])
# A projection as large as the state, or a fourth of it, looks like other modules by U alone.
@pytest.mark.parametrize("proj", [1, 2, 4, 8])
def test_projections(proj: int, directions: int, layers: int) -> None:
    tensors = tensors_of("lstm", 3, 8, layers, directions, proj=proj)
    layer = load_torch(tensors)[""]
    np.testing.assert_allclose(layer(XS)[0], outputs("lstm", tensors, XS), rtol=0, atol=1e-12)


WRONG: dict[str, tuple[str, Convention]] = {
    "i o f g": ("LSTM", Convention("iofg")),
    "i g f o": ("LSTM", Convention("igfo")),
    "f i g o": ("LSTM", Convention("figo")),
    "i f o g": ("LSTM", Convention("ifog")),
    "one added to f": ("LSTM", Convention("ifgo", forget_bias=1.0)),
    "z r n": ("GRU", Convention("zrn", reset="after")),
    "n z r": ("GRU", Convention("nzr", reset="after")),
    "z takes": ("GRU", Convention("rzn", z="takes", reset="after")),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_row_of_the_table_is_seen(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, convention = WRONG[how]
    tensors = tensors_of(name.lower(), 3, 5)
    want = outputs(name.lower(), tensors, XS)
    assert np.abs(load_torch(tensors)[""](XS)[0] - want).max() < 1e-12
    monkeypatch.setitem(CONVENTIONS, ("PyTorch", name), convention)  # type: ignore[arg-type]
    assert np.abs(load_torch(tensors)[""](XS)[0] - want).max() > 1e-3


def test_the_nonlinearity_is_the_callers() -> None:
    tensors = tensors_of("rnn", 3, 5)
    found: Any = load_torch(tensors, nonlinearity="relu")
    assert found[""].cell is xrnn.cells.ElmanReLU
    assert "nonlinearity='relu'" in found.notes[""][0]
    with pytest.raises(ValueError, match="nonlinearity is 'gelu'; it must be 'tanh' or 'relu'"):
        load_torch(tensors, nonlinearity="gelu")  # type: ignore[arg-type]


def test_options_of_all_parts() -> None:
    parts: Any = load_torch(
        {**under("a", LSTM), **under("b", LINEAR)}, batch_first=True, dtype="float16"
    )
    assert parts["a"].batch_first
    assert {part.dtype for part in parts.values()} == {"float16"}
    assert parts["a"](np.zeros((2, 6, 3), "float16"))[0].shape == (2, 6, 5)


def test_the_dtype_holds_all_numbers() -> None:
    mixed = {name: a.astype("float16") for name, a in LSTM.items()}
    assert load_torch(mixed)[""].dtype == "float16"
    mixed["bias_hh_l0"] = mixed["bias_hh_l0"].astype("float32")
    assert load_torch(mixed)[""].dtype == "float32"


class TestNames:
    def test_modules_lie_at_any_depth(self) -> None:
        found = load_torch({**under("a.b.lstm", LSTM), **under("out", LINEAR)})
        assert list(found) == ["a.b.lstm", "out"]
        assert isinstance(found["out"], xrnn.Linear)

    @pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module."])
    def test_wrappers_of_the_whole(self, wrapper: str) -> None:
        names = {
            f"{wrapper}{name}": a for name, a in (under("a", LSTM) | under("b", LINEAR)).items()
        }
        assert list(load_torch(names)) == ["a", "b"]

    def test_wrappers_of_a_part(self) -> None:
        """What is called "module" without wrapping everything keeps its name."""
        found = load_torch({**under("a._orig_mod", LSTM), **under("module", LINEAR)})
        assert list(found) == ["a", "module"]

    @pytest.mark.parametrize("outer", [("state_dict",), ("model",), ("a", "model_state_dict")])
    def test_checkpoints(self, outer: tuple[str, ...]) -> None:
        tree: Any = under("encoder", LSTM)
        for name in reversed(outer):
            tree = {name: tree, "epoch": 3, "loss": 0.5, "note": "text", "history": [1, (2, {})]}
        assert list(load_torch(tree)) == ["encoder"]

    def test_several_state_dicts(self) -> None:
        found = load_torch({"encoder": LSTM, "decoder": under("rnn", LSTM)})
        assert list(found) == ["encoder", "decoder.rnn"]
        found = load_torch({"nets": [under("rnn", LSTM), under("rnn", LSTM)], "ema": LSTM})
        assert sorted(found) == ["ema", "nets.0.rnn", "nets.1.rnn"]
        found = load_torch({"model": under("rnn", LSTM), "head": under("out", LINEAR)})
        assert list(found) == ["rnn", "head.out"]

    def test_one_tensor_under_two_names(self) -> None:
        """Tied weights are copied, as the parts may not share them."""
        shared = np.ones((7, 5))
        found = load_torch({"emb.weight": shared, "out.weight": shared, "out.bias": np.zeros(7)})
        found["out"].weights["W"] *= 2
        assert (found["emb"].weights["E"] == 1).all()
        assert (shared == 1).all()

    def test_a_prefix_restricts(self) -> None:
        names = under("a.lstm", LSTM) | under("a.out", LINEAR) | under("ab", LINEAR)
        names |= {"a.conv.weight": np.ones((1, 2, 3)), "conv.weight": np.ones((1, 2, 3))}
        for prefix in ("a", "a."):
            found = load_torch(names, prefix)
            assert list(found) == ["a.lstm", "a.out"]
            assert list(found.unused) == ["a.conv.weight"]
        assert list(load_torch(names, "a.lstm")) == ["a.lstm"]
        with pytest.raises(ValueError, match=r"prefix is 'lstm'; it must be .*: a\.lstm, a\.out"):
            load_torch(names, "lstm")
        with pytest.raises(TypeError, match="prefix is 3; it must be a str"):
            load_torch(names, 3)  # type: ignore[arg-type]

    def test_what_is_refused_does_not_disturb_elsewhere(self) -> None:
        names = under("good", LSTM) | under(
            "bad", {**LSTM, "weight_hh_l0_raw": LSTM["weight_hh_l0"]}
        )
        assert list(load_torch(names, "good")) == ["good"]
        with pytest.raises(ValueError, match=r"state dict: bad: .*weight dropout"):
            load_torch(names)


class TestOneMatrix:
    """A Linear without bias and an Embedding are stored alike: the name tells, or the caller."""

    @pytest.mark.parametrize(
        "name",
        [
            "embedding",
            "a.emb",
            "word_embeddings",
            "wordEmbedding",
            "embed_tokens",
            "wte",
            "char_emb2",
        ],
    )
    def test_embeddings(self, name: str) -> None:
        found = load_torch({f"{name}.weight": np.ones((7, 5))})
        assert repr(found[name]) == repr(xrnn.Embedding(7, 5, dtype="float64"))
        assert found.notes[name][1] == "taken for an Embedding because of its name"

    @pytest.mark.parametrize("name", ["fc", "fc1", "out_proj", "lm_head", "a.linear", "outLinear"])
    def test_linear_maps(self, name: str) -> None:
        found = load_torch({f"{name}.weight": np.ones((7, 5))})
        assert repr(found[name]) == repr(xrnn.Linear(5, 7, bias=False, dtype="float64"))
        assert found.notes[name][1] == "taken for a Linear because of its name"

    @pytest.mark.parametrize("name", ["0", "unembed", "embed_out", "tok", "weights", "rembed"])
    def test_others_are_left_to_the_caller(self, name: str) -> None:
        matrix = np.random.default_rng(0).normal(size=(7, 5))
        found = load_torch(under("rnn", LSTM) | {f"{name}.weight": matrix})
        assert list(found) == ["rnn"]
        said = found.skipped[name]
        assert "is a Linear or an Embedding, which the name does not tell" in said
        assert said in repr(found)
        # What the note says can be done, word by word.
        for call in ("Linear(5, 7, bias=False)", "Embedding(7, 5)"):
            assert f"from_torch(xrnn.{call}, loaded.unused, {name!r})" in said
            part = eval(f"xrnn.{call}")
            from_torch(part, found.unused, name)
            (w,) = part.weights.values()
            np.testing.assert_array_equal(w, matrix.astype("float32"))

    def test_a_bias_tells(self) -> None:
        assert isinstance(
            load_torch({"0.weight": np.ones((7, 5)), "0.bias": np.ones(7)})["0"], xrnn.Linear
        )

    def test_what_holds_more_is_something_else(self) -> None:
        layer_norm = {"weight": np.ones((7, 5)), "bias": np.ones((7, 5))}
        lora = {"weight": np.ones((7, 5)), "bias": np.ones(7), "lora_a.default": np.ones((2, 5))}
        norm = {"weight": np.ones(7), "bias": np.ones(7), "running_mean": np.ones(7)}
        odd = under("fc1", layer_norm) | under("fc2", lora) | under("fc3", norm)
        found = load_torch(under("rnn", LSTM) | odd)
        assert list(found) == ["rnn"]
        assert found.unused.keys() == odd.keys()


class TestWhatIsNotLoaded:
    def test_the_rest_is_listed(self) -> None:
        rest = {"conv.weight": np.ones((2, 3, 1)), "conv.bias": np.ones(2), "scale": np.array(3.0)}
        found = load_torch(under("rnn", LSTM) | rest)
        assert found.unused.keys() == rest.keys()
        for name, a in rest.items():
            np.testing.assert_array_equal(found.unused[name], a)
            assert not np.shares_memory(found.unused[name], a)
            assert name in repr(found)

    def test_what_is_no_tensor_may_have_any_name(self) -> None:
        words = {"." * 100: 1, "\udc80": 2, ("a", "b"): 3, 7: "x", None: [("c", "d")] * 3}
        found = load_torch({"model": under("rnn", LSTM), "vocabulary": words})
        assert list(found) == ["rnn"]
        assert not found.unused

    def test_optimizers_are_passed_over(self) -> None:
        state = {"state": {0: {"exp_avg": np.ones((2, 5))}}, "param_groups": [{"lr": 0.1}]}
        found = load_torch({"state_dict": under("rnn", LSTM), "optimizer": state})
        assert not found.unused
        assert found.skipped == {"optimizer": "the state of an optimizer"}

    @pytest.mark.parametrize(
        "name",
        [
            "weight_hh_l0_raw",
            "weight_hh_l0_g",
            "weight_ih_l0_reverse_v",
            "weight_hh_l0_orig",
            "weight_hh_mask",
            "weight_hh_l0_u",
            "parametrizations.weight_hh_l0.original0",
        ],
    )
    def test_computed_weights(self, name: str) -> None:
        words = "under weight dropout|weight-normalised|pruned|parametrised"
        with pytest.raises(ValueError, match=f"state dict: a: a.{name} shows .* ({words})"):
            load_torch({**under("a", LSTM), f"a.{name}": np.ones((20, 5))})

    @pytest.mark.parametrize("name", ["layernorm_i.weight", "h0", "weight_ch_l0", "weight_hh_l0_x"])
    def test_modules_like_those_of_torch(self, name: str) -> None:
        """A recurrent module of torch.nn holds nothing else: this one is of another class."""
        with pytest.raises(ValueError, match=f"a: it holds .*{name} too, which no"):
            load_torch({**under("a", LSTM), f"a.{name}": np.ones(5)})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"weight_ih_l0": None}, "weight_ih_l0 missing; there must be one"),
            ({"weight_hh_l0": None}, "weight_hh_l0 missing; there"),
            ({"bias_hh_l0": None}, "bias_hh_l0 missing; there"),
            ({"weight_hh_l2": np.ones((20, 5))}, "weight_hh_l1, .*missing"),
            (
                {"weight_hh_l0_reverse": np.ones((20, 5))},
                "weight_ih_l0_reverse missing; there",
            ),
            ({"weight_hh": np.ones((20, 5))}, "weight_hh unknown beside bias_hh_l0, "),
            ({"weight_hh_l0": np.ones((10, 5))}, r"shape \(10, 5\); its rows must be 4 times"),
            ({"weight_hh_l0": np.ones(20)}, r"shape \(20,\); it must have two axes"),
            ({"weight_hh_l0": np.ones((0, 0))}, r"shape \(0, 0\); it must have two axes"),
            ({"weight_ih_l0": np.ones((15, 3))}, r"weight_ih_l0 has shape .*must be \(20, 3\)"),
            ({"weight_ih_l0": np.ones(20)}, r"weight_ih_l0 has shape \(20,\); it must be"),
            ({"bias_hh_l0": np.ones(5)}, r"bias_hh_l0 has shape \(5,\); it must be \(20,\)"),
            (
                {"weight_hr_l0": np.ones((2, 5))},
                r"weight_hr_l0 has shape \(2, 5\); it must be \(5, 5",
            ),
        ],
    )
    def test_incomplete_modules(self, changes: dict[str, Any], message: str) -> None:
        names = {name: a for name, a in (LSTM | changes).items() if a is not None}
        with pytest.raises(ValueError, match=f"state dict: enc: .*{message}"):
            load_torch(under("enc", names))

    def test_nothing_at_all(self) -> None:
        for mapping in ({}, {"a": 3}, {"conv.weight": np.ones((1, 2, 3))}):
            with pytest.raises(ValueError, match="it holds no LSTM, GRU, RNN, Linear or Embedding"):
                load_torch(mapping)

    @pytest.mark.parametrize(
        "given", [None, 3, [LSTM], xrnn.LSTM(3, 5)], ids=["None", "int", "list", "layer"]
    )
    def test_no_path_and_no_mapping(self, given: Any) -> None:
        with pytest.raises(TypeError, match="it must be a path, or a mapping of names to tensors"):
            load_torch(given)

    def test_no_floating_point(self) -> None:
        with pytest.raises(TypeError, match=r"a: weight_ih_l0 is int64; it must be of fl"):
            load_torch(under("a", {name: a.astype("int64") for name, a in LSTM.items()}))

    def test_containers_that_contain_themselves(self) -> None:
        tree: dict[str, Any] = {}
        tree["again"] = tree
        with pytest.raises(ValueError, match="nested too deeply, or contain themselves"):
            load_torch(tree)


def test_names_in_the_guide_exist() -> None:
    page = Path(inspect.getfile(xrnn)).parent / "guide" / "coming-from-pytorch.md"
    found = set(re.findall(r"\bxrnn(?:\.\w+)+", page.read_text("utf-8")))
    assert len(found) > 10
    for name in found:
        eval(name, {"xrnn": xrnn})


def test_there_and_back() -> None:
    parts = {"a": {"rnn": xrnn.GRU(3, 5, 2, bidirectional=True)}, "out": xrnn.Linear(10, 2)}
    names = to_torch(parts)
    found = load_torch(names)
    assert list(found) == ["a.rnn", "out"]
    back = to_torch(found)
    assert back.keys() == names.keys()
    for name, a in names.items():
        np.testing.assert_array_equal(back[name], a)
