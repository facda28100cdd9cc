"""Models of Keras without Keras: what its layers compute, and files in the layouts of its versions.

The equations are written from its sources: `LSTM.step` and `GRU.step` of ``keras/layers/
recurrent.py`` in Keras 1.2, `LSTMCell.call`, `GRUCell.call` and `SimpleRNNCell.call` in Keras 2 and
3; those of CuDNN layers stand in `library_steps`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import library_steps
import numpy as np

from xrnn.convert.conventions import Stored

Array = np.ndarray
Named = dict[str, Array]

I, H = 3, 4

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "relu": lambda a: np.maximum(a, 0),
    "linear": lambda a: a,
    "softsign": lambda a: a / (1 + abs(a)),
    "softplus": lambda a: np.log(1 + np.exp(a)),
    "elu": lambda a: np.where(a > 0, a, np.exp(a) - 1),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.2 * a),
}


def function(name: str, version: str) -> Callable[[Array], Array]:
    if name != "hard_sigmoid":
        return FUNCTIONS[name]
    return lambda a: np.clip(a / 6 + 0.5 if version >= "3" else 0.2 * a + 0.5, 0, 1)


# ---- Arrays and equations of single layers


@dataclass
class Model:
    """One recurrent layer of Keras, in one direction or both.

    - kind: the class of the layer
    - version: that of Keras
    - activation, recurrent_activation, use_bias, reset_after: its arguments
    - config: further ones
    """

    kind: str
    version: str
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    use_bias: bool = True
    reset_after: bool = False
    bidirectional: bool = False
    #: Keras 1 has arrays of single gates, or with consume_less="gpu" of all
    single_gates: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def gates(self) -> str:
        return {"LSTM": "ifco", "GRU": "zrh", "SimpleRNN": "h"}[self.kind.removeprefix("CuDNN")]

    def arrays(self, seed: int) -> Named:
        """The weights of one direction by the names of Keras, in its order."""
        rng = np.random.default_rng(seed)
        G = len(self.gates)
        if self.single_gates:
            order = {"LSTM": "icfo", "GRU": "zrh"}[self.kind]
            shapes: dict[str, tuple[int, ...]] = {}
            for k in order:
                shapes |= {f"W_{k}": (I, H), f"U_{k}": (H, H), f"b_{k}": (H,)}
            return {name: rng.normal(size=shape) for name, shape in shapes.items()}
        bias: tuple[int, ...] = (2, G * H) if self.reset_after else (G * H,)
        bias = (2 * G * H,) if self.kind.startswith("CuDNN") else bias
        names = ("W", "U", "b") if self.version < "2" else ("kernel", "recurrent_kernel", "bias")
        shapes = dict(zip(names, ((I, G * H), (H, G * H), bias), strict=True))
        if not self.use_bias:
            del shapes[names[2]]
        return {name: rng.normal(size=shape) for name, shape in shapes.items()}

    def directions(self) -> list[Named]:
        return [self.arrays(seed) for seed in range(1 + self.bidirectional)]

    def outputs(self, xs: Array) -> Array:
        """(B, T, H) of inputs (B, T, I), or (B, T, 2·H)."""
        ways = [self._run(self.arrays(0), xs)]
        if self.bidirectional:
            ways.append(self._run(self.arrays(1), xs[:, ::-1])[:, ::-1])
        return np.concatenate(ways, axis=-1)

    def _run(self, arrays: Named, xs: Array) -> Array:
        state = [np.zeros((len(xs), H))] * (1 + self.kind.endswith("LSTM"))
        ys = []
        for t in range(xs.shape[1]):
            state = self._step(arrays, xs[:, t], state)
            ys.append(state[0])
        return np.stack(ys, axis=1)

    def _step(self, arrays: Named, x: Array, state: list[Array]) -> list[Array]:
        if self.kind.startswith("CuDNN"):
            step = getattr(library_steps, f"keras_cudnn_{self.kind[5:].lower()}")
            return list(step(Stored(*arrays.values()), x, tuple(state)))
        act = function(self.activation, self.version)
        inner = function(self.recurrent_activation, self.version)
        h = state[0]
        W, U, b, v = self._by_gates(arrays)
        if self.kind == "LSTM":
            i, f, o = (inner(x @ W[k] + b[k] + h @ U[k]) for k in "ifo")
            c = f * state[1] + i * act(x @ W["c"] + b["c"] + h @ U["c"])
            return [o * act(c), c]
        if self.kind == "SimpleRNN":
            return [act(x @ W["h"] + b["h"] + h @ U["h"])]
        z, r = (inner(x @ W[k] + b[k] + h @ U[k] + v[k]) for k in "zr")
        product = r * (h @ U["h"] + v["h"]) if self.reset_after else (r * h) @ U["h"]
        return [z * h + (1 - z) * act(x @ W["h"] + b["h"] + product)]

    def _by_gates(self, arrays: Named) -> list[dict[str, Array]]:
        """Kernels, recurrent kernels, biases and recurrent biases of the gates."""
        zero = np.zeros(H)
        if self.single_gates:
            found = [{k: arrays[f"{w}_{k}"] for k in self.gates} for w in "WUb"]
            return [*found, dict.fromkeys(self.gates, zero)]
        W, U, *biases = arrays.values()
        given: Array = biases[0] if biases else np.zeros(len(self.gates) * H)
        b, v = given if given.ndim == 2 else np.stack([given, 0 * given])
        return [
            dict(zip(self.gates, np.split(w, len(self.gates), -1), strict=True))
            for w in (W, U, b, v)
        ]

    # ---- Its configuration

    def layer(self) -> dict[str, Any]:
        """The layer in a configuration."""
        name, config = self.kind.lower(), dict(self.config)
        if self.version < "2":
            config |= {"output_dim": H, "inner_activation": self.recurrent_activation}
            config |= {"activation": self.activation, "consume_less": "cpu"}
        elif self.kind.startswith("CuDNN"):
            config |= {"units": H, "unit_forget_bias": True}
        else:
            config |= {"units": H, "activation": self.activation, "use_bias": self.use_bias}
            if self.kind != "SimpleRNN":
                config["recurrent_activation"] = self.recurrent_activation
            if self.kind == "GRU" and self.version >= "2.1.3":
                config["reset_after"] = self.reset_after
        config = {"name": name, "return_sequences": True, "go_backwards": False} | config
        layer: dict[str, Any] = {"class_name": self.kind, "config": config}
        if self.bidirectional:
            wrapper = {"name": "bidirectional", "merge_mode": "concat", "layer": layer}
            layer = {"class_name": "Bidirectional", "config": wrapper}
        return layer

    def model(self) -> dict[str, Any]:
        """The configuration of a Sequential of this layer."""
        if self.version < "2":
            return {"class_name": "Sequential", "config": [self.layer()]}
        return {"class_name": "Sequential", "config": {"name": "model", "layers": [self.layer()]}}

    # ---- Its files

    def weight_names(self) -> list[tuple[str, Array]]:
        """The arrays by the names that they have in an HDF5 file of this version, in order."""
        found, lower = [], self.kind.lower()
        for way, arrays in zip(("forward_", "backward_"), self.directions(), strict=False):
            layer = f"{way}{lower}" if self.bidirectional else lower
            outer = "bidirectional/" if self.bidirectional else ""
            for name, array in arrays.items():
                if self.version < "2":
                    path = f"{layer}_{name}:0"
                elif self.version.endswith("-tf"):
                    path = f"{outer}{layer}/{lower}_cell_7/{name}:0"
                elif self.version < "3":
                    path = f"{outer}{layer}/{name}:0"
                else:
                    path = f"model/{outer}{layer}/{lower}_cell/{name}"
                found.append((path, array))
        return found

    def save(self, path: Path, whole: bool = True) -> Path:
        """Write it by layers, as a whole or its weights alone."""
        name = "bidirectional" if self.bidirectional else self.kind.lower()
        write_by_layers(
            path, {name: self.weight_names()}, self.version, self.model() if whole else None
        )
        return path

    def objects(self) -> Named:
        """The arrays by the paths that they have by objects."""
        snake = {"SimpleRNN": "simple_rnn"}.get(self.kind, self.kind.lower())
        groups = [f"layers/{snake}/cell"]
        if self.bidirectional:
            groups = [f"layers/bidirectional/{way}_layer/cell" for way in ("forward", "backward")]
        return {
            f"{group}/vars/{n}": array
            for group, arrays in zip(groups, self.directions(), strict=True)
            for n, array in enumerate(arrays.values())
        }


def write_by_layers(
    path: Path,
    layers: dict[str, list[tuple[str, Array]]],
    version: str | None,
    config: Any = None,
) -> None:
    """A file of Keras 1 or 2, of tf.keras, or of Keras 3 in their format."""
    import h5py

    with h5py.File(path, "w") as file:
        root = file if config is None else file.create_group("model_weights")
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        if version is not None:
            root.attrs["keras_version"] = version.encode()
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for name, weights in layers.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight, _ in weights]
            for weight, array in weights:
                group[weight] = array


def write_by_objects(path: Path, arrays: Named, version: str = "", config: Any = None) -> None:
    """A ``.keras`` file, or without a configuration a ``.weights.h5`` file."""
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    if config is None:
        path.write_bytes(stream.getvalue())
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", stream.getvalue())


def inputs(seed: int = 0, B: int = 2, T: int = 5) -> Array:
    return np.random.default_rng(seed).normal(size=(B, T, I))
