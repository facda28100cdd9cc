"""Words of the fuzzer's calls: arguments that are right."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import coreml_files
import keras_models
import numpy as np
import tflite_files

import xrnn
from xrnn import cells
from xrnn.backends import host
from xrnn.typing import dtype_name

#: the number of steps and of sequences of every argument
T, B = 4, 2


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float64 numbers, the same for the same arguments."""
    return np.random.default_rng(seed).normal(size=shape)


def put(it: Any, array: np.ndarray) -> Any:
    """A NumPy array in the library and dtype of a layer's weights."""
    dtype = dtype_name(it.weights.placement.dtype)
    return it.weights.placement.backend.from_host(array.astype(host.named_dtype(dtype)))


def sequence(it: Any) -> Any:
    """The inputs of a layer."""
    axes = (B, T) if it.batch_first else (T, B)
    return put(it, floats(*axes, it.input_size, seed=1))


def outputs(it: Any) -> Any:
    """The gradient of its outputs."""
    axes = (B, T) if it.batch_first else (T, B)
    n = it.widths(it.num_layers - 1)[0]
    return put(it, floats(*axes, it.directions * n, seed=2))


def state_of(it: Any) -> tuple[Any, ...]:
    """The state of a layer."""
    widths = zip(*(it.widths(k) for k, _ in it.parts()), strict=True)
    return tuple(_state_part(it, ns, 3 + k) for k, ns in enumerate(widths))


def _state_part(it: Any, widths: tuple[int, ...], seed: int) -> Any:
    """One array, or where the layers have different sizes an array for each."""
    if len(set(widths)) == 1:
        return put(it, floats(len(widths), B, widths[0], seed=seed))
    return tuple(put(it, floats(B, n, seed=seed)) for n in widths)


def steps() -> np.ndarray:
    """Some of the steps (T, B)."""
    return np.array([[True, False], [False, True], [True, True], [True, False]])


def steps_of(it: Any) -> np.ndarray:
    """The same in the order of a layer's axes."""
    return steps().T.copy() if it.batch_first else steps()


def seed_of(it: Any) -> int | None:
    """The seed that its forward pass needs."""
    return 3 if it.dropout or it.weight_drop else cell_seed(it.cell)


def cell_seed(cell: Any) -> int | None:
    """The seed that a cell needs in training."""
    return 3 if cell.noise else None


@functools.singledispatch
def tape_of(it: Any) -> Any:
    """The tape of a layer's forward pass."""
    return it.forward(sequence(it), seed=seed_of(it))[2]


@tape_of.register
def _(it: xrnn.Linear) -> Any:
    return it.forward(put(it, floats(T, B, it.in_features)))[1]


@tape_of.register
def _(it: xrnn.Embedding) -> Any:
    return it.forward(tokens(it))[1]


def tokens(it: Any) -> Any:
    """The tokens that an embedding reads."""
    integers = np.random.default_rng(0).integers(0, it.num_embeddings, (T, B))
    return it.weights.placement.backend.from_host(integers)


def weights_of(cell: Any, seed: int = 5) -> dict[str, np.ndarray]:
    """Weights of a cell with 3 inputs and 5 hidden units."""
    return {name: floats(*shape, seed=seed) for name, shape in cell.shapes(3, 5).items()}


def cell_state(cell: Any) -> tuple[np.ndarray, ...]:
    """A state of such a cell."""
    return tuple(floats(B, n, seed=6 + k) for k, n in enumerate(cell.widths(5)))


def cell_outputs(cell: Any) -> np.ndarray:
    """The gradient of its outputs."""
    return floats(T, B, cell.widths(5)[0])


def cell_tape(cell: Any = cells.LSTM, **options: Any) -> Any:
    """The tape of such a cell."""
    options = {"seed": cell_seed(cell), **options}
    return xrnn.unroll(cell, weights_of(cell), floats(T, B, 3), **options)[2]


def dstate_of(tape: Any) -> tuple[np.ndarray, ...]:
    """The gradient of the last state of a tape, of one cell or of a layer of one."""
    parts = cell_state(tape.cell)
    return parts if tape.owner is None else tuple(part[None] for part in parts)


def gradients_of(it: Any) -> dict[str, Any]:
    """Arrays like the weights of a layer."""
    return {name: put(it, floats(*w.shape, seed=7)) for name, w in it.weights.items()}


def copied(it: Any) -> dict[str, Any]:
    """Its weights, each a copy."""
    backend = it.weights.placement.backend
    return {name: backend.from_host(host.to_host(w)) for name, w in it.weights.items()}


def learner(cell: Any = cells.GRU, **options: Any) -> Any:
    """Online learning after one step."""
    it = xrnn.online.Online(cell, weights_of(cell), B, **options)
    it.step(floats(B, 3))
    return it


def tree() -> dict[str, Any]:
    """Weights of several parts."""
    return {"a": {"W": floats(3, 2), "b": floats(3)}, "E": floats(4, 2)}


def averaging(weights: Any, decay: float = 0.5) -> Any:
    """An average after one update."""
    it = xrnn.optim.Average(decay)
    it.update(weights)
    return it


def entered(it: Any) -> Any:
    """`Average.swapped`, which does nothing before its context is entered."""

    def swapped(weights: Any) -> None:
        with it.swapped(weights):
            pass

    return swapped


def folder() -> str:
    """The folder of this process for files, made when it is needed."""
    return str(_folder().name)


@functools.cache
def _folder() -> Any:
    return tempfile.TemporaryDirectory(prefix="xrnn-fuzz-")


def saved(part: Any, name: str = "saved") -> str:
    """The path of a file that holds the part."""
    path = f"{folder()}/{name}.safetensors"
    xrnn.save(path, part)
    return path


def model_file(kind: str) -> str:
    """The path of a model of Core ML or of TensorFlow Lite: a simple network."""
    W, U, b = (floats(*shape).astype("float32") for shape in ((5, 3), (5, 5), (5,)))
    if kind == "tflite":
        options = {0: ("b", 1), 1: ("b", 4)}
        data = tflite_files.model(35, 31, options, (T, B, 3), (T, B, 5), [W, U, b, (B, 5)])
    else:
        arrays = coreml_files.arrays((30, 31, 32), (W, U, b))
        layer = [(1, 3), (2, 5), (10, [(30, [])]), (15, 1), (20, 1), *arrays]
        data = coreml_files.network([("r", 400, layer)])
    path = Path(folder()) / f"model.{kind}"
    path.write_bytes(data)
    return str(path)


def keras_file() -> str:
    """The path of the weights of an LSTM of Keras 2."""
    path = Path(folder()) / "keras.h5"
    return str(keras_models.Model("LSTM", "2.2.4").save(path, whole=False))


def onnx_file() -> str:
    """The path of a model with one LSTM."""
    path = Path(folder()) / "model.onnx"
    xrnn.convert.to_onnx(xrnn.LSTM(3, 5, rng=0), path)
    return str(path)


def holding_bytes(content: bytes) -> str:
    """The path of a file that holds these bytes."""
    path = Path(folder()) / "odd.safetensors"
    path.write_bytes(content)
    return str(path)
