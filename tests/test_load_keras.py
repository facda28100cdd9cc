"""Weights from Keras and to Keras: random layers compute the same on both sides."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xrnn.convert import load_keras, to_keras

pytest.importorskip("torch", reason="the oracle is Keras on PyTorch")
pytest.importorskip("h5py", reason="h5py reads the files of Keras")
if find_spec("keras") is None:  # `oracles.keras_layer` imports it, on PyTorch
    pytest.skip("the oracle is Keras", allow_module_level=True)

from oracles.keras_layer import FUNCTIONS

#: on PyTorch, as `oracles.keras_layer` has told it
keras: Any = import_module("keras")

#: Keras on PyTorch rounds the factors of products to float32
NEAR = 1e-5

KINDS = ("SimpleRNN", "LSTM", "GRU")
FORMATS = (".keras", ".h5", ".weights.h5")


class Drawn:
    """A random model of Keras: inputs, perhaps a mask, and one recurrent layer."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.kind = KINDS[rng.integers(3)]
        self.I, self.H, self.T, self.B = (int(n) for n in rng.integers(1, 6, 4))
        how: dict[str, Any] = {"use_bias": self.yes(0.8), "dtype": "float64"}
        how |= {"activation": self.one_of(list(FUNCTIONS)), "return_sequences": self.yes(0.7)}
        if self.kind != "SimpleRNN":
            how["recurrent_activation"] = self.one_of(["sigmoid", "hard_sigmoid"])
        if self.kind == "GRU":
            how["reset_after"] = self.yes(0.5)
        self.both, self.masked = self.yes(0.4), self.yes(0.4)
        if not self.both:
            how |= {"go_backwards": self.yes(0.3), "zero_output_for_mask": self.yes(0.5)}
        how |= {"stateful": self.yes(0.1), "unroll": self.yes(0.1) and not self.masked}
        how |= {"dropout": 0.1 * self.yes(0.2), "recurrent_dropout": 0.1 * self.yes(0.2)}
        self.how = how
        self.layer = self.made()
        self.model = self.model_of(self.layer)
        drawn = [rng.normal(0, 0.5, w.shape) for w in self.layer.get_weights()]
        self.layer.set_weights(drawn)
        self.xs = rng.normal(size=(self.B, self.T, self.I))
        self.mask = rng.random((self.B, self.T)) < 0.7
        if self.masked:
            self.xs[~self.mask] = 9.0

    def yes(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def one_of(self, names: list[str]) -> str:
        return names[self.rng.integers(len(names))]

    def made(self) -> Any:
        layer = getattr(keras.layers, self.kind)(self.H, **self.how)
        return keras.layers.Bidirectional(layer, dtype="float64") if self.both else layer

    def model_of(self, layer: Any) -> Any:
        first = keras.layers.Input((self.T, self.I), batch_size=self.B, dtype="float64")
        masks = [keras.layers.Masking(9.0, dtype="float64")] if self.masked else []
        return keras.Sequential([first, *masks, layer])

    def outputs(self, model: Any) -> np.ndarray:
        if self.how["stateful"]:
            self.layer.reset_states()
        found: np.ndarray = model(self.xs).detach().numpy()
        return found

    def saved(self, folder: Path, ending: str) -> Path:
        path = folder / f"model{ending}"
        (self.model.save_weights if "weights" in ending else self.model.save)(path)
        return path

    @property
    def said(self) -> Any:
        """What must be said to load the weights alone, if their file tells the rest."""
        usual = self.how["activation"] == "tanh" and not self.how.get("go_backwards")
        if not usual or (self.kind == "GRU" and not self.how["use_bias"]):
            return None
        return FUNCTIONS[self.how.get("recurrent_activation", "sigmoid")]

    def by_xrnn(self, layer: Any, notes: list[str]) -> np.ndarray:
        """What Keras returns, made of what the part returns as the notes of a whole model say."""
        how: dict[str, Any] = {}
        if self.masked:
            (word,) = re.findall("masked='(zero|hold)'", " ".join(notes))
            how = {"mask": self.mask, "masked": word}
        ys: np.ndarray = layer(self.xs, **how)[0]
        if self.how["return_sequences"]:
            return ys[:, ::-1] if "Keras returns them in the order" in " ".join(notes) else ys
        (last,) = re.findall("return_sequences=False: Keras returns (.*) alone", "\n".join(notes))
        parts = last.removesuffix(" side by side").replace("…", "...").split(" and ")
        return np.concatenate([eval(part, {"ys": ys}) for part in parts], axis=-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(200))
def test_there_and_back(seed: int, tmp_path: Path) -> None:
    drawn = Drawn(seed)
    want, notes = drawn.outputs(drawn.model), [""]
    for ending in FORMATS:
        alone = ending == ".weights.h5"
        if alone and drawn.said is None:
            continue
        loaded = load_keras(drawn.saved(tmp_path, ending), drawn.said if alone else None)
        ((name, part),) = loaded.items()
        assert name == drawn.layer.name
        assert loaded.unused == {}
        notes = notes if alone else loaded.notes[name]
        np.testing.assert_allclose(drawn.by_xrnn(part, notes), want, NEAR, NEAR)
    again = drawn.made()
    model = drawn.model_of(again)
    again.set_weights(to_keras(part))
    np.testing.assert_allclose(drawn.outputs(model), want, NEAR, NEAR)
