"""Files of every released version load, and compute what they did (`make_golden.py` made them)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import make_golden
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import xrnn
from xrnn.charlm.config import RefusedError
from xrnn.charlm.corpus import Corpus, Text
from xrnn.charlm.model import bits
from xrnn.charlm.resume import load_model, resume
from xrnn.charlm.run import CHECKPOINT
from xrnn.convert import encoding, files

VERSIONS = sorted({p.name.partition("-")[0] for p in make_golden.FOLDER.iterdir()})

#: the text that the runs were trained on
TEXT = "to be or not to be. " * 20


def golden(version: str, name: str) -> Path:
    return make_golden.FOLDER / f"{version}-{name}.safetensors"


def test_there_are_some() -> None:
    assert {"0.1.0", "0.2.0"} <= set(VERSIONS)
    formats = {header(golden(version, "lstm"))["format"] for version in VERSIONS}
    assert formats == set(encoding.UNSAID), "every format has its files"


def header(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    found: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])[
        "__metadata__"
    ]
    return found


def test_the_latest_version_has_all() -> None:
    assert all(golden(VERSIONS[-1], name).is_file() for name in make_golden.NAMES)


EVERY = pytest.mark.parametrize(
    ("version", "name"),
    [(v, name) for v in VERSIONS for name in make_golden.NAMES if golden(v, name).is_file()],
)


def check_results(version: str, name: str, part: Any) -> None:
    """What the part computes is what the file says."""
    expected = files.read(golden(version, name))[1]["metadata"]["results"]
    tolerance = {"float16": 2e-3, "gru": 1e-14, "training": 1e-13, "bfloat16": 0}.get(name, 1e-6)
    np.testing.assert_allclose(make_golden.results(name, part), expected, rtol=0, atol=tolerance)


@EVERY
def test_it_computes_what_it_did(version: str, name: str) -> None:
    part = make_golden.parts(name, rng=1)
    assert xrnn.load(golden(version, name), part) is part
    check_results(version, name, part)


@EVERY
def test_it_loads_alone(version: str, name: str) -> None:
    """If it says all that changes what is computed; files of 0.1.0 did not."""
    if version == "0.1.0":
        with pytest.raises(ValueError, match=r"do not say batch_first .*load\(path, part\)"):
            xrnn.load(golden(version, name))
        return
    part, expected = xrnn.load(golden(version, name)), make_golden.parts(name, rng=1)
    assert type(part) is type(expected) or name == "peephole"
    if name == "training":
        assert part["net"] is part["same"]
        assert part["learner"].weights["U"] is part["net"].weights["U_l0"]
    elif name == "model":
        assert part.parts["first"] is part.parts["second"]
        assert part.config() == expected.config()
    elif name == "parts":
        assert {k: one.config() for k, one in part.items()} == {
            k: one.config() for k, one in expected.items()
        }
    else:
        assert part.config() == expected.config()
    check_results(version, name, part)


def test_parts_of_the_first_format_that_load_alone(tmp_path: Path) -> None:
    """An embedding and a linear map had all of their options in it."""
    whole = golden("0.1.0", "parts")
    tensors, found = load_file(whole), header(whole)
    config = json.loads(found["config"])
    for name, kind in (("embedding", xrnn.Embedding), ("readout", xrnn.Linear)):
        mine = {key: a for key, a in tensors.items() if key.startswith(f"{name}.")}
        about = found | {"config": json.dumps({name: config[name]})}
        save_file(mine, tmp_path / "f", metadata=about)
        part = xrnn.load(tmp_path / "f")[name]
        assert type(part) is kind
        expected = make_golden.parts("parts", rng=1)[name]
        assert part.config() == expected.config()
        xrnn.load(tmp_path / "f", {name: expected})
        for key, w in expected.weights.items():
            np.testing.assert_array_equal(part.weights[key], w)


@pytest.mark.parametrize("version", VERSIONS)
def test_it_loads_into_no_other_part(version: str) -> None:
    wrong: list[tuple[str, Any, str]] = [
        ("gru", xrnn.GRU(3, 5, bias=False, dtype="float64"), "hidden_size is 4 in the file"),
        ("gru", xrnn.GRU(3, 4, dtype="float64"), "bias is False in the file"),
        ("gru", xrnn.GRU(3, 4, bias=False, dtype="float64", reverse=True), "reverse is False"),
        ("gru", xrnn.GRU(3, 4, bias=False), "dtype is 'float64' in the file"),
        (
            "parts",
            {"layer": xrnn.LSTM(3, 4)},
            "holds the parts embedding, layer, readout, and part has layer; give these",
        ),
        ("parts", xrnn.LSTM(3, 4), "holds the parts .*, and part is a single one"),
        ("lstm", {"layer": xrnn.LSTM(3, 4)}, "holds a single part, and part is a mapping"),
        ("options", xrnn.LSTM(3, (4, 5)), r"'zoneout\(lstm\(activations=.*, 'lstm' here"),
    ]
    for name, part, message in wrong:
        if not golden(version, name).is_file():
            continue
        with pytest.raises(ValueError, match=message):
            xrnn.load(golden(version, name), part)


def test_what_a_format_does_not_hold_may_be_anything() -> None:
    """As it was in the version that wrote it; what it holds must be equal."""
    for options in ({"batch_first": False}, {"precision": "tf32"}, {}):
        part = xrnn.Layer(xrnn.cells.PeepholeLSTM, 3, 4, **{"batch_first": True, **options})  # type: ignore[arg-type]
        xrnn.load(golden("0.1.0", "peephole"), part)
    tf32 = xrnn.Layer(xrnn.cells.PeepholeLSTM, 3, 4, batch_first=True, precision="tf32")
    xrnn.load(golden("0.2.0", "peephole"), tf32)
    with pytest.raises(ValueError, match="batch_first is True in the file, False here"):
        xrnn.load(golden("0.2.0", "peephole"), xrnn.Layer(xrnn.cells.PeepholeLSTM, 3, 4))


def test_a_cell_of_ones_own_in_the_first_format(tmp_path: Path) -> None:
    """It stood there by its name alone."""
    tensors, found = load_file(golden("0.1.0", "peephole")), header(golden("0.1.0", "peephole"))
    config = json.loads(found["config"]) | {"cell": "mine"}
    save_file(tensors, tmp_path / "f", metadata=found | {"config": json.dumps(config)})
    peephole = xrnn.cells.PeepholeLSTM
    options = {name: getattr(peephole, name) for name in ("gates", "step", "step_backward")}
    options |= {name: getattr(peephole, name) for name in ("total", "states", "extras")}
    xrnn.load(tmp_path / "f", xrnn.Layer(xrnn.cells.Cell("mine", **options), 3, 4))
    for other in (xrnn.cells.Cell("yours", **options), peephole):
        with pytest.raises(ValueError, match="cell is 'mine' in the file"):
            xrnn.load(tmp_path / "f", xrnn.Layer(other, 3, 4))
    own = xrnn.Layer(xrnn.cells.Cell("peephole", **options), 3, 4)
    with pytest.raises(ValueError, match=r"cell is 'peephole' in the file, 'peephole \("):
        xrnn.load(golden("0.1.0", "peephole"), own)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_the_model_of_a_run(version: str) -> None:
    """It reads the held-out text as it did; its training is refused."""
    folder = make_golden.FOLDER / f"{version}-run"
    last = files.read(folder / CHECKPOINT)[1]["history"][-1]
    model = load_model(folder, "cpu")
    held_out = Corpus(Text.of([TEXT]), model.config.batch, model.config.length).held_out
    total, count, state = 0.0, 0, None
    for tokens, targets in held_out:
        logits, state = model.net.run(tokens, state)
        total += float(bits(logits, targets)[0]) * targets.size
        count += targets.size
    assert total / count == pytest.approx(last["held_out_bits"], rel=1e-6)
    assert len("".join(model.sample("to", 20))) == 20
    message = (
        r"is of xrnn 0\.3 or before, whose training cannot be gone on with; xrnn sample writes"
    )
    with pytest.raises(RefusedError, match=message), resume(folder, {"steps": 6}, None, "cpu"):
        pass
