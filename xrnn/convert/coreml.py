"""Recurrent layers of Core ML models (``.mlmodel``), without coremltools.

The numbers of the fields are those of ``NeuralNetwork.proto`` and ``Model.proto`` in coremltools.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.convert.conventions import CONVENTIONS, Stored
from xrnn.convert.loaded import Kind, Loaded, make_layer, within
from xrnn.convert.paths import accept_path, reading
from xrnn.convert.protobuf import Message
from xrnn.typing import Array, GivenDType

# Model
PIPELINE_CLASSIFIER, PIPELINE_REGRESSOR, PIPELINE, ML_PROGRAM = 200, 201, 202, 502
NETWORKS = (303, 403, 500)

#: the fields of NeuralNetworkLayer → the layer here, and the row of the table of conventions
LAYERS: dict[int, tuple[Kind, str]] = {
    400: ("rnn", "RNN"),
    410: ("gru", "GRU"),
    420: ("lstm", "LSTM"),
    430: ("lstm", "LSTM"),
}
BIDIRECTIONAL_LSTM = 430

#: the fields of ActivationParams → the name here, and how many parameters there are
ACTIVATIONS: dict[int, tuple[str, int]] = {
    5: ("affine", 2),
    10: ("relu", 0),
    15: ("leaky_relu", 1),
    20: ("thresholded_relu", 1),
    30: ("tanh", 0),
    31: ("scaled_tanh", 2),
    40: ("sigmoid", 0),
    41: ("hard_sigmoid", 2),
    50: ("elu", 1),
    60: ("softsign", 0),
    70: ("softplus", 0),
}

#: Core ML limits pre-activations to ± this, where these functions do not change any more
CLIP, CONSTANT_THERE = 50.0, ("sigmoid", "tanh")

#: what coremltools writes as the limit of the cell state if none was asked for
NO_CELL_CLIP = 50000.0

#: functions that coremltools writes without their parameters, which then are those of Keras
USUAL: dict[str, tuple[float, float]] = {"affine": (1.0, 0.0), "hard_sigmoid": (0.2, 0.5)}


class Fields(NamedTuple):
    """The fields of the arrays of one cell, one for each gate in the order of the convention."""

    W: tuple[int, ...]
    U: tuple[int, ...]
    b: tuple[int, ...]
    peephole: tuple[int, ...] = ()


FIELDS: dict[Kind, Fields] = {
    "rnn": Fields((30,), (31,), (32,)),
    "gru": Fields((30, 31, 32), (50, 51, 52), (70, 71, 72)),
    "lstm": Fields((1, 2, 3, 4), (20, 21, 22, 23), (40, 41, 42, 43), (60, 61, 62)),
}


def load_coreml(
    path: str | os.PathLike[str], *, dtype: GivenDType | None = None, device: str = "cpu"
) -> Loaded:
    """The recurrent layers of a Core ML neural network.

    No framework is needed.  The layers of a pipeline are found too.  Weights in float16 are taken
    over as float32.

    Parameters
    ----------
    path : str or path
        A ``.mlmodel`` file.
    dtype, device : str, optional
        As for `xrnn.Layer`.  Default: float32 on the CPU.

    Returns
    -------
    Loaded
        Name of the layer in the model → `xrnn.LSTM`, `xrnn.GRU` or `xrnn.RNN`; time first.

    Raises
    ------
    FileNotFoundError, OSError
        If the file cannot be read.
    ValueError
        If it is damaged, is an ML program, has no recurrent layer, or has one that xrnn has not:
        quantised weights, an activation function that is not one of `xrnn.cells`, or directions
        with different ones.

    Notes
    -----
    The specification, ``NeuralNetwork.proto``, does not say in which order a layer with
    ``reverseInput`` gives its outputs; here they are in the order of the inputs.

    Examples
    --------
    See the page ``conventions.md`` of the guide.
    """
    name = accept_path(path, "model.mlmodel")
    with reading(name):
        data = memoryview(Path(name).read_bytes())
    found = Loaded()
    where = {"dtype": "float32" if dtype is None else dtype, "device": device}
    with within(name):
        try:
            layers = list(_layers(Message(data)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it must be a Core ML model (.mlmodel): {error}") from error
        for layer in layers:
            for number in LAYERS:
                if number in layer:
                    inner = layer.text(1)
                    with within(f"layer {inner!r}"):
                        found.add(inner, *_loaded(number, layer.message(number), where))
        if not found:
            raise ValueError(
                f"none of its {len(layers)} layers is an LSTM, a GRU or a simple recurrent layer; "
                "there must be one"
            )
    return found


def _layers(model: Message) -> Iterator[Message]:
    """The layers of all neural networks of a model."""
    if ML_PROGRAM in model:
        raise ValueError(
            "it holds an ML program, whose weights lie in a file beside it; give a model of the "
            "kind neural network (coremltools: convert_to='neuralnetwork')"
        )
    for number in NETWORKS:
        for network in model.messages(number):
            yield from network.messages(1)
    for number in (PIPELINE_CLASSIFIER, PIPELINE_REGRESSOR):
        for pipeline in model.messages(number):
            for inner in pipeline.message(1).messages(1):
                yield from _layers(inner)
    for inner in model.message(PIPELINE).messages(1):
        yield from _layers(inner)


def _loaded(number: int, layer: Message, where: dict[str, Any]) -> tuple[Any, ...]:
    """A layer, with the dtype and on the device of `where`, and the notes on it."""
    kind, row = LAYERS[number]
    convention = CONVENTIONS["Core ML", row]
    # An LSTM has its weights, one set for each direction, and its flags in messages of their own.
    params, cells = (layer.message(15), layer.messages(20)) if kind == "lstm" else (layer, [layer])
    directions = 1 + (number == BIDIRECTIONAL_LSTM)
    if len(cells) != directions:
        raise ValueError(f"it has {len(cells)} sets of weights; it must have {directions}")
    options = _activations(layer, directions)
    notes = [f"Core ML {row}, gates {' '.join(convention.gates)}"]
    if kind == "lstm":
        options |= {"coupled": bool(params.integer(50)), "peephole": bool(params.integer(40))}
        if 0 < (limit := params.real(60)) < NO_CELL_CLIP:
            options["cell_clip"] = limit
            notes.append(f"cell_clip={limit}, as in the file")
        if params.integer(30):
            convention = replace(convention, forget_bias=1.0)
            notes.append("1 is added to the bias of f, as in the file (forgetBias)")
    if layer.integer(100):
        notes.append(
            "it runs from the end to the start; the outputs here have the order of the inputs"
        )
    if not params.integer(10 if kind == "lstm" else 15):
        notes.append("in the model it gives its last output alone (sequenceOutput)")
    sizes = layer.integer(1), layer.integer(2)
    stored = [_stored(kind, one, sizes, bool(params.integer(20)), options) for one in cells]
    made = make_layer(
        kind,
        convention,
        stored,
        bidirectional=directions == 2,
        reverse=bool(layer.integer(100)),
        options=options,
        **where,
    )
    return made, *notes


def _activations(layer: Message, directions: int) -> dict[str, Any]:
    """The options of the layer that its activation functions ask for."""
    forward, backward = ([_activation(one) for one in layer.messages(n)] for n in (10, 11))
    if directions == 2 and forward != backward:
        raise ValueError(
            f"its directions have the activation functions {forward} and {backward}; they must "
            "have the same ones"
        )
    options: dict[str, Any] = {"activations": forward}
    # The last of three is that of the cell state, which this limit does not concern.
    if any(name not in CONSTANT_THERE for name, *_ in forward[:2]):
        options["clip"] = CLIP
    return options


def _activation(params: Message) -> tuple[Any, ...]:
    """An activation function as an entry of `activations`."""
    for number, (name, n) in ACTIVATIONS.items():
        if number in params:
            function = params.message(number)
            if name in USUAL and 1 not in function and 2 not in function:
                return (name, *USUAL[name])
            return (name, *(function.real(k) for k in range(1, 1 + n)))
    raise ValueError(
        "an activation function is none of " + ", ".join(name for name, _ in ACTIVATIONS.values())
    )


def _stored(
    kind: Kind, weights: Message, sizes: tuple[int, int], bias: bool, options: dict[str, Any]
) -> Stored:
    """The arrays of one cell, with all gates side by side."""
    I, H = sizes
    fields = FIELDS[kind]

    def joined(numbers: tuple[int, ...], *shape: int) -> Array:
        return host.xp.concat([_numbers(n, weights.message(n), shape) for n in numbers])

    return Stored(
        joined(fields.W, H, I),
        joined(fields.U, H, H),
        joined(fields.b, H) if bias else None,
        peephole=joined(fields.peephole, H) if options.get("peephole") else None,
    )


def _numbers(field: int, params: Message, shape: tuple[int, ...]) -> Array:
    """The numbers of a message WeightParams."""
    if 40 in params or 30 in params or 31 in params:
        raise ValueError(
            "its weights are quantised, which is not supported; load the model before it was "
            "quantised"
        )
    halves = b"".join(params.data(2))
    if len(halves) % 2:
        raise ValueError(f"field {field} does not hold numbers of 2 bytes")
    found = host.xp.frombuffer(halves, "<f2") if halves else params.floats(1)
    if found.size != prod(shape):
        raise ValueError(
            f"field {field} holds {found.size} numbers; it must hold {' · '.join(map(str, shape))}"
        )
    return found.reshape(shape)
