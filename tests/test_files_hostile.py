"""Configurations that no program of ours writes: refused by name, before anything is allocated."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as serialize

import xrnn
from xrnn import cells
from xrnn.convert import encoding, files
from xrnn.learn.online import Online
from xrnn.learn.optim import SGD, Adam

#: more than any of these files needs, and less than any wrong size would take
MOST = 4 << 20


def translator() -> xrnn.Seq2Seq:
    """Attention, and one table for all."""
    words = xrnn.Embedding(3, 2)
    return xrnn.Seq2Seq(
        source=words,
        encoder=xrnn.GRU(2, 2),
        target=words,
        decoder=xrnn.GRU(2, 2),
        attention=xrnn.Attention(2),
        readout=xrnn.Sequential(
            pool=xrnn.Residual(xrnn.AttentionPooling(2)), tied=xrnn.TiedLinear(words)
        ),
    )


def everything() -> dict[str, Any]:
    """Parts of all kinds, small."""
    net = xrnn.LSTM(2, (2, 3), clip=3.0, proj_size=2, zoneout=(0.1, 0.0), learn_state=True)
    plain = xrnn.GRU(2, 2, num_layers=2, dropout=0.5, batch_first=True)
    learner = Online(cells.GRU, {k: plain.weights[f"{k}_l0"] for k in "WUbv"}, 2)
    weights = {k: np.ones(shape) for k, shape in cells.MinGRU.shapes(2, 3).items()}
    other = Online(cells.with_zoneout(cells.MinGRU, 0.1), weights, 1, method="snap1")
    optimizer = Adam()
    optimizer.update(plain.weights, {k: np.ones_like(w) for k, w in plain.weights.items()})
    return {
        "net": net,
        "model": xrnn.Residual(
            xrnn.LayerNorm(2), xrnn.Sequential(drop=xrnn.Dropout(0.5), out=xrnn.Linear(2, 2))
        ),
        "translator": translator(),
        "plain": plain,
        "again": plain,
        "leaky": xrnn.Layer(cells.leaky_with(0.5, activations=[("elu", 0.5)], noise=0.1), 2, 2),
        "embedding": xrnn.Embedding(3, 2),
        "readout": xrnn.Linear(2, 3, activation="relu"),
        "learner": learner,
        "other": other,
        "sgd": SGD(0.1, 0.5),
        "optimizer": optimizer,
    }


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays and JSON values of a file of all kinds of parts."""
    path = tmp_path_factory.mktemp("right") / "m"
    xrnn.save(path, everything())
    return files.read(path)


def loaded(path: Path, tensors: Any, info: Any) -> Any:
    """What is loaded from a file of these values, whose checksum is right; the message, where it
    is refused, as it must be."""
    path.write_bytes(encoding.encode(tensors, info))
    tracemalloc.start()
    try:
        found = xrnn.load(path)
    except ValueError as error:
        found = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST, peak
    assert not isinstance(found, str) or found.startswith(str(path))
    return found


def at(info: Any, *path: Any, to: Any) -> Any:
    """A copy of JSON values with another one in that place; `REMOVED` for none."""
    key, *rest = path
    if isinstance(info, list):
        changed: Any = list(info)
    else:
        changed = dict(info)
    if rest:
        changed[key] = at(changed[key], *rest, to=to)
    elif to is REMOVED:
        del changed[key]
    else:
        changed[key] = to
    return changed


REMOVED = object()

LAST = {"kind": "last", "batch_first": False}
SHARED = {"kind": "shared", "path": ["source"]}
TIED = ("readout", "parts", "tied")
POOL = ("readout", "parts", "pool", "parts", "0")

#: (where, what stands there, a part of the message) of the parts of a translator
TRANSLATOR: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "no encoder": (("encoder",), REMOVED, "seq2seq: its parts are source.*; they must be encoder"),
    "a part too many": (("head",), LAST, "readout, head; they must be encoder, dec"),
    "a shared part": (("target",), SHARED, "kind is 'shared' in the file, 'embedding' here"),
    "a shared layer": (("encoder",), SHARED, "its kind is 'shared', which is unknown"),
    "H of the decoder": (("decoder", "hidden_size"), 2**12, "decoder.W_l0 is of the shape"),
    "order": (("encoder", "batch_first"), True, "encoder has batch_first=True, decoder has"),
    "direction": (("decoder", "reverse"), True, "decoder runs in reverse or in both directions"),
    "H of attention": (("attention", "query_size"), 2**29, "attention.W is of the shape"),
    "O of attention": (("attention", "output_size"), 2**29, "attention.W is of the shape"),
    "no O of attention": (("attention", "output_size"), None, "output_size is None in the file, 2"),
    "score": (("attention", "score"), "cosine", "attention: score is 'cosine'; it must be"),
    "another score": (("attention", "score"), "dot", "weights missing or unknown: .*attention.U"),
    "no score": (("attention", "score"), REMOVED, "attention: score is missing"),
    "dtype of attention": (("attention", "dtype"), "int8", "attention: dtype is 'int8'; it must"),
    "size of pooling": ((*POOL, "size"), 2**29, "pool.0.W is of the shape"),
    "A of pooling": ((*POOL, "attention_size"), 2**29, "pool.0.W is of the shape"),
    "order of pooling": ((*POOL, "batch_first"), 1.5, "attention_pooling: batch_first is 1.5"),
    "size of bias": ((*TIED, "parts", "bias", "size"), 2**29, "tied.bias.b is of the shape"),
    "size of bias of str": ((*TIED, "parts", "bias", "size"), "3", "bias: size is '3'; it must"),
    "dtype of bias": (
        (*TIED, "parts", "bias", "dtype"),
        "float64",
        r"bias has the size and dtype \(3, 'float64'\); they must be \(3, 'float32'\)",
    ),
    "no dtype of bias": ((*TIED, "parts", "bias", "dtype"), "int8", "bias: dtype is 'int8'; it"),
    "no bias": ((*TIED, "parts", "bias"), REMOVED, "parts.bias is missing in the file"),
    "bias is False": ((*TIED, "bias"), False, "parts.bias is .* in the file, unknown here"),
    "bias is 3": ((*TIED, "bias"), 3, "tied_linear: bias is 3; it must be True or False"),
    "activation": ((*TIED, "activation"), "gelu", "tied_linear: activation is 'gelu'; it must"),
    "no table": ((*TIED, "parts", "embedding"), REMOVED, "as 'tied'; it must say which"),
    "a part too many in it": (
        (*TIED, "parts", "more"),
        LAST,
        "bias, more; they must be embedding,",
    ),
}

#: (where, what stands there, a part of the message)
WRONG: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "H": (("config", "net", "hidden_size"), 2**29, r"lstm.*W_l0 is of the shape .*, 2\)"),
    "H of a layer": (("config", "net", "hidden_size", 1), 2**29, r"W_l1 is of .*\(2147483648, 2\)"),
    "H beyond all": (("config", "plain", "hidden_size"), 2**31, "must be at most"),
    "H of float": (("config", "plain", "hidden_size"), 2.0, "hidden_size is 2.0; it must be an in"),
    "I": (("config", "plain", "input_size"), 2**29, "W_l0 is of the shape"),
    "no I": (("config", "plain", "input_size"), REMOVED, "input_size is missing"),
    "L": (("config", "plain", "num_layers"), 2**29, "num_layers is 536870912, and the file hol"),
    "L of str": (("config", "plain", "num_layers"), "2", "num_layers is '2'"),
    "fewer L": (("config", "plain", "num_layers"), 1, "dropout is 0.5 and num_layers is 1"),
    "V": (("config", "embedding", "num_embeddings"), 2**30, "embedding.E is of the shape"),
    "O": (("config", "readout", "out_features"), 2**30, "readout.W is of the shape"),
    "P": (("parts", "net", "cell", "cell", "proj_size"), 2**29, "U_l0 is of the shape"),
    "B": (("config", "learner", "batch"), 2**29, "the states are not of that size"),
    "B of bool": (("config", "learner", "batch"), True, "batch is True"),
    "method": (("config", "other", "method"), "exactly", "method is 'exactly'"),
    "other method": (("config", "learner", "method"), "snap1", "learner.sensitivity.W has shape"),
    "no rates": (("parts", "other", "cell", "rates"), [], "zoneout is .*; it must be a number"),
    "limit": (("parts", "learner", "limit"), -1, "limit is -1; it must be a number of bytes"),
    "a learner's weights": (("parts", "learner", "weights"), 3, "holds 3 as 'weights'"),
    "a weight of none": (("parts", "learner", "weights", "W"), "x", "weight 'W' is missing"),
    "another weight": (("parts", "learner", "weights", "W"), "readout.W", r"W has shape \(3, 2\)"),
    "parts of a part": (("config", "model", "parts"), 3, "its parts are 3; they must be a mapping"),
    "no part": (("config", "model", "parts"), {}, "residual: there is no part"),
    "a learner in it": (("config", "model", "parts", "0"), {"kind": "optimizer"}, "class None is"),
    "rate": (
        ("config", "model", "parts", "1", "parts", "drop", "rate"),
        1,
        "rate is 1; it must",
    ),
    "eps": (("config", "model", "parts", "0", "eps"), 2, "eps is 2; it must be"),
    "another group": (
        ("parts", "model", "class"),
        "Sequential",
        "class Sequential is not that of",
    ),
    "a part in itself": (("tied", "model.1"), "model", "'model.1', .*: it is a part of itself"),
    "two parts of one name": (("config", "model.0"), {"kind": "max"}, "two parts of the name 'mod"),
    **{
        name: (("config", "translator", "parts", *where), what, message)
        for name, (where, what, message) in TRANSLATOR.items()
    },
    **{
        f"{name} of others": (("tied", f"translator.{name}"), "readout", message)
        for name, message in (
            ("readout.tied.bias", "bias is a Linear; it must be that of a TiedLinear"),
            ("readout.tied.embedding", r"is a Linear; it must be an xrnn\.Embedding"),
            ("encoder", "encoder is a Linear; it must be a recurrent layer"),
            ("attention", r"attention is a Linear; it must be an xrnn\.Attention"),
        )
    },
    "a translator in it": (("tied", "translator.readout"), "translator", "is a part of itself"),
    "kind": (("config", "plain", "kind"), "layers", "kind is 'layers', which is unknown"),
    "kind of list": (
        ("config", "plain", "kind"),
        ["layer"],
        r"\['layer'\], which is unknown",
    ),
    "a part of str": (("config", "plain"), "layer", "its kind is None, which is unknown"),
    "class": (("parts", "plain", "class"), "Transformer", "class 'Transformer' is not one of xrnn"),
    "class of list": (("parts", "plain", "class"), ["GRU"], r"class \['GRU'\] is not one of xrnn"),
    "another class": (("parts", "plain", "class"), "LSTM", "LSTM: the cell .* cannot be 'gru'"),
    "a class of others": (
        ("parts", "plain", "class"),
        "Linear",
        "class Linear is not that of such",
    ),
    "an Embedding": (("parts", "readout", "class"), "Embedding", "class Embedding is not that of"),
    "cell": (("parts", "plain", "cell"), "lstn", "cell is 'lstn'; it must be a name of"),
    "another cell": (("parts", "plain", "cell"), "gru-before", "cell is 'gru' in the file, 'gru-b"),
    "cell of list": (("parts", "plain", "cell"), ["gru"], "cell is .*; it must be a name of"),
    "maker": (("parts", "leaky", "cell", "maker"), "eval", "cell is .*; it must be a name of"),
    "an unknown argument": (
        ("parts", "leaky", "cell", "speed"),
        3,
        "leaky_with has no argument 'speed'; it has alpha, activations, noise, potential",
    ),
    "no alpha": (("parts", "leaky", "cell", "alpha"), REMOVED, "leaky_with needs the argument alp"),
    "alpha of str": (("parts", "leaky", "cell", "alpha"), "0.5", "alpha is '0.5'; it must be"),
    "other alpha": (("parts", "leaky", "cell", "alpha"), 0.25, r"leaky\(0.5, .*in the file, 'lea"),
    "activation": (("parts", "leaky", "cell", "activations"), [["exec"]], "must be of sigmoid"),
    "alpha of infinity": (
        ("parts", "leaky", "cell", "activations"),
        [["elu", float("inf")]],
        "alpha is inf; it must be a finite number",
    ),
    "zoneout twice": (
        ("parts", "net", "cell", "cell"),
        {"maker": "with_zoneout", "cell": "lstm", "rates": [0.1, 0.1]},
        "cell is .*; it must be a name of",
    ),
    "dropout": (("config", "plain", "dropout"), 1.0, "dropout is 1.0; it must be in"),
    "huge dropout": (("config", "plain", "dropout"), 10**400, "it must be in"),
    "bias": (("config", "plain", "bias"), "yes", "bias is 'yes'; it must be True or False"),
    "no bias": (("config", "plain", "bias"), REMOVED, "plain.bias is missing in the file"),
    "other bias": (
        ("config", "plain", "bias"),
        False,
        "again.bias is True in the file, False",
    ),
    "precision": (("config", "plain", "precision"), "fast", "precision is 'fast'; it must be"),
    "dtype": (("config", "plain", "dtype"), "float128", "dtype is 'float128'; it must be"),
    "another dtype": (
        ("config", "plain", "dtype"),
        "float64",
        "learner.dtype is .*, 'float64' here$",
    ),
    "an Embedding's": (("config", "embedding", "dtype"), "float16", "embedding.E is float32; its"),
    "dtype of list": (("config", "learner", "dtype"), ["float32"], r"dtype is \['float32'\]"),
    "an unknown option": (("config", "plain", "speed"), 3, "plain.speed is 3 in the file, unknown"),
    "an optimizer": (("config", "sgd", "class"), "GRU", "'GRU' is not an optimizer of xrnn"),
    "an option of one": (("config", "sgd", "nesterov"), True, "SGD: the option 'nesterov' is unkn"),
    "momentum": (("config", "sgd", "momentum"), 1, "momentum is 1; it must be in"),
    "no eps": (("config", "optimizer", "eps"), REMOVED, "optimizer.eps is missing in the file"),
    "lr": (("parts", "sgd", "lr"), -1.0, "optimizer: lr is -1.0; it must be"),
    "lr of str": (("parts", "sgd", "lr"), "0.1", "holds '0.1' as 'lr' of the part 'sgd'"),
    "no lr": (("parts", "sgd", "lr"), REMOVED, "holds None as 'lr' of the part 'sgd'"),
    "steps": (("parts", "sgd", "steps"), -1, "optimizer: steps is -1; it must lie in"),
    "many steps": (("parts", "sgd", "steps"), 10**400, "optimizer: steps is 1000"),
    "state": (("parts", "optimizer", "state"), ["m.W"], "weights missing or unknown: optimizer.m"),
    "state of int": (("parts", "optimizer", "state"), 3, "holds 3 as 'state' of the part 'opt"),
    "tied": (("tied", "again"), "nothing", "as 'tied'; it must say which part each name means"),
    "tied of list": (("tied",), ["again"], "as 'tied'; it must say"),
    "tied in a circle": (("tied", "plain"), "again", "as 'tied'; it must say"),
    "parts": (("parts",), [], "as 'parts'; it must be a mapping of mappings"),
    "a part": (("parts", "plain"), "GRU", "as 'parts'; it must be a mapping of mappings"),
    "no parts": (("parts",), REMOVED, r"cell 'zoneout\(lstm.* cannot be made from the file"),
    "config": (("config",), REMOVED, "holds no layer or other part that xrnn.save has written"),
}


@pytest.mark.parametrize(("where", "what", "message"), WRONG.values(), ids=list(WRONG))
def test_it_is_refused_by_name(
    tmp_path: Path, right: Any, where: Any, what: Any, message: str
) -> None:
    tensors, info = right
    changed = at(info, *where, to=what)
    assert re.search(message, loaded(tmp_path / "m", tensors, changed))


def test_a_tensor_too_many_or_of_another_dtype(tmp_path: Path, right: Any) -> None:
    tensors, info = right
    assert set(loaded(tmp_path / "m", tensors, info)) == set(everything())
    for change, message in (
        ({"x": np.ones(3)}, "weights missing or unknown: x"),
        ({"plain.W_l0": tensors["plain.W_l0"].astype("float64")}, "W_l0 is float64; its config"),
        ({"optimizer.m.W_l0": np.ones(3, int)}, "optimizer.m.W_l0 is int64; it must be of"),
        ({"other.state.h": np.ones((1, 3), int)}, "other.state.h is int64; its config"),
        ({"other.sensitivity.W": np.ones((9, 9))}, "sensitivity.W has shape"),
        ({"learner.state.h": np.ones((2**16, 2), "float32")}, "the states are not of that size"),
    ):
        assert re.search(message, loaded(tmp_path / "m", {**tensors, **change}, info))


def test_values_of_every_depth(tmp_path: Path, right: Any) -> None:
    """Where the reader of JSON still works, but what prints values may not."""
    tensors, info = right
    for depth in range(850, 1000, 4):
        for open_, close in (("[", "]"), ('{"kind":', "}")):
            deep = open_ * depth + "1" + close * depth
            text = json.dumps(at(info, "config", "plain", "bias", to="DEEP")["config"])
            about = {"format": "xrnn 2", "config": text.replace('"DEEP"', deep)}
            about |= {key: json.dumps(info[key]) for key in ("parts", "tied")}
            (tmp_path / "m").write_bytes(serialize(tensors, metadata=about))
            for part in (None, everything()):
                with pytest.raises(ValueError, match="/m "):
                    xrnn.load(tmp_path / "m", part)


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 2**29, 2**63, 10**400, 0.5, 1e308),
    *(float("nan"), float("inf"), "", "x", "lstm", "gru", "float64", "LSTM", "layer", "net", "\0"),
    *([], {}, [1], ["tanh"], {"maker": "with_zoneout"}, {"": 0}, [[]] * 9),
    *([2] * 1000, json.loads("[" * 900 + "]" * 900), json.loads('{"a":' * 500 + "1" + "}" * 500)),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in JSON values."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if path else ():
        inner = value[key]
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))
        else:
            yield (*path, key)


@pytest.mark.parametrize("seed", range(3, 6))
def test_whatever_stands_there(tmp_path: Path, right: Any, seed: int) -> None:
    """One or two values are replaced: the file is refused, or holds the same numbers."""
    rng = random.Random(seed)
    tensors, info = right
    # The order of the keys in the metadata of a file is not always the same.
    everywhere, refused = sorted(places(info), key=str), 0
    here = everything()
    for _ in range(60):
        changed = info
        for _ in range(rng.choice((1, 1, 2))):
            try:
                changed = at(changed, *rng.choice(everywhere), to=rng.choice((REMOVED, *ODD)))
            except (
                KeyError,
                TypeError,
                ValueError,
                IndexError,
            ):  # the first change took that place away
                continue
        found = loaded(tmp_path / "m", tensors, changed)
        refused += isinstance(found, str)
        with suppress(ValueError):
            xrnn.load(tmp_path / "m", here)
        if isinstance(found, dict) and "plain" in found:
            for name, w in found["plain"].weights.items():
                np.testing.assert_array_equal(w, tensors[f"plain.{name}"])
    assert 20 < refused < 60
