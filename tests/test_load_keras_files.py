"""Files of Keras in the layouts of all its versions, against its equations in NumPy."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from keras_models import Model, inputs, write_by_objects
from test_conventions import mutants

from xrnn.convert import keras_activations, load_keras
from xrnn.convert.conventions import CONVENTIONS

pytest.importorskip("h5py", reason="h5py reads the files of Keras")

#: both sides have float64
NEAR = 1e-12

KERAS_1 = [Model(kind, "1.2.2", single_gates=True) for kind in ("LSTM", "GRU")]
KERAS_1 += [Model(kind, "1.1.0") for kind in ("LSTM", "GRU", "SimpleRNN")]
KERAS_2 = [Model(kind, "2.0.8") for kind in ("LSTM", "GRU", "SimpleRNN")]
KERAS_2 += [Model("GRU", "2.2.4", reset_after=True)]
CUDNN = [Model("CuDNNLSTM", "2.1.5"), Model("CuDNNGRU", "2.1.5", reset_after=True)]
TF_KERAS = [Model(kind, "2.4.0-tf") for kind in ("LSTM", "GRU", "SimpleRNN")]
TF_KERAS += [Model("GRU", "2.4.0-tf", reset_after=True)]
KERAS_3 = [replace(model, version="3.15.1") for model in TF_KERAS]

MODELS = [
    replace(model, bidirectional=both, recurrent_activation=inner)
    for model, both, inner in product(
        [*KERAS_1, *KERAS_2, *CUDNN, *TF_KERAS, *KERAS_3],
        (False, True),
        ("sigmoid", "hard_sigmoid"),
    )
    if inner == "sigmoid" or model.kind in ("LSTM", "GRU")
]

#: the formats of files → their endings
FORMATS = {"whole": ".h5", "weights": ".hdf5", "keras": ".keras", "objects": ".weights.h5"}


def label(model: Model) -> str:
    words = [model.kind, model.version, model.recurrent_activation]
    words += ["single gates"] * model.single_gates + ["reset_after"] * model.reset_after
    return " ".join(words + ["both ways"] * model.bidirectional)


each_model = pytest.mark.parametrize("model", MODELS, ids=label)


def formats_of(model: Model) -> list[str]:
    by_objects = model.version >= "2.4" and not model.kind.startswith("CuDNN")
    return list(FORMATS) if by_objects else ["whole", "weights"]


def saved(model: Model, form: str, folder: Path) -> Path:
    path = folder / f"model{FORMATS[form]}"
    if form in ("whole", "weights"):
        return model.save(path, form == "whole")
    config = model.model() if form == "keras" else None
    write_by_objects(path, model.objects(), model.version, config)
    return path


def said(model: Model, form: str) -> Any:
    """What must be said to load such a file."""
    if form in ("whole", "keras") or model.kind not in ("LSTM", "GRU"):
        return None
    if form == "objects" and model.recurrent_activation == "hard_sigmoid":
        return ("hard_sigmoid", 1 / 6 if model.version >= "3" else 0.2, 0.5)
    return model.recurrent_activation


def difference(model: Model, form: str, folder: Path) -> float:
    """The largest difference between the outputs of the part and those of the equations."""
    loaded = load_keras(saved(model, form, folder), said(model, form))
    (layer,) = loaded.values()
    assert not loaded.unused
    xs = inputs()
    ys = layer(xs)[0]
    return float(abs(ys - model.outputs(xs)).max())


@each_model
def test_outputs_are_those_of_keras(model: Model, tmp_path: Path) -> None:
    for form in formats_of(model):
        assert difference(model, form, tmp_path) < NEAR, form


@pytest.mark.parametrize("name", [*keras_activations.FUNCTIONS, "hard_sigmoid"])
@pytest.mark.parametrize("version", ["2.2.4", "3.0.0"])
def test_activation_functions(name: str, version: str, tmp_path: Path) -> None:
    for kind in ("LSTM", "GRU", "SimpleRNN"):
        model = Model(kind, version, activation=name)
        assert difference(model, "whole", tmp_path) < NEAR
        model = Model(kind, version, recurrent_activation=name, use_bias=False)
        assert difference(model, "whole", tmp_path) < NEAR


# ---- Wrong conventions


def passes(model: Model, folder: Path) -> bool:
    try:
        return all(difference(model, form, folder) < NEAR for form in formats_of(model))
    except (ValueError, IndexError):
        return False


#: row of the table → a model whose arrays are stored so
WRITTEN = {
    ("Keras", "LSTM"): Model("LSTM", "2.0.8"),
    ("Keras", "GRU"): Model("GRU", "2.2.4", reset_after=True),
    ("Keras", "GRU(reset_after=False)"): Model("GRU", "2.0.8"),
    ("Keras", "SimpleRNN"): Model("SimpleRNN", "2.0.8"),
    ("Keras", "CuDNNLSTM"): CUDNN[0],
    ("Keras", "CuDNNGRU"): CUDNN[1],
}
WRONG = [
    (model, row, field, wrong)
    for row, model in WRITTEN.items()
    for field, wrong in mutants(CONVENTIONS[row])
    # Without a word on the reset gate a layer has it after the product: no other function.
    if {**vars(wrong), "reset": wrong.reset or "after"} != vars(CONVENTIONS[row])
    and wrong != CONVENTIONS[row]
]


def test_every_wrong_row_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(WRITTEN) == {row for row in CONVENTIONS if row[0] == "Keras"}
    assert all(passes(model, tmp_path) for model in WRITTEN.values())
    for model, row, field, wrong in WRONG:
        with monkeypatch.context() as patch:
            patch.setitem(CONVENTIONS, row, wrong)  # type: ignore[arg-type]
            assert not passes(model, tmp_path), f"{row}: {field} of {wrong} passes"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_hard_sigmoid_of_another_version_is_found(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slope = keras_activations.HARD_SIGMOID[version][1]
    other = 0.2 if version == 3 else 1 / 6
    assert slope != other
    wrong = {**keras_activations.HARD_SIGMOID, version: ("hard_sigmoid", other, 0.5)}
    monkeypatch.setattr(keras_activations, "HARD_SIGMOID", wrong)
    for model in MODELS:
        if model.version[0] == str(version):
            hard = model.recurrent_activation == "hard_sigmoid"
            assert (difference(model, "whole", tmp_path) > 1e-3) == hard


@pytest.mark.parametrize("name", keras_activations.FUNCTIONS)
def test_another_activation_function_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in keras_activations.FUNCTIONS.values():
        if other != keras_activations.FUNCTIONS[name]:
            changed = {**keras_activations.FUNCTIONS, name: other}
            monkeypatch.setattr(keras_activations, "FUNCTIONS", changed)
            model = Model("SimpleRNN", "2.2.4", activation=name)
            assert difference(model, "whole", tmp_path) > 1e-3
            monkeypatch.undo()
