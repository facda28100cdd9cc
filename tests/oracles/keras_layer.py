"""The recurrent layers of Keras 3 (SimpleRNN, LSTM, GRU), run on PyTorch, one way or both ways.

Keras has (B, T, …), kernels (I, G·H), its own order of gates in the GRU (z r n), and the outputs of
a layer with `go_backwards` in the order in which they were computed; `verdict` turns them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

# It must be said before Keras is imported, and Keras then has no other backend.
os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch

from oracles.flat import Arrays, under
from oracles.torch_cells import Tensor, Tensors, gradients, leaves_of
from xrnn.cells.options import GivenActivation

#: Keras's names of activation functions → ours
FUNCTIONS: dict[str, GivenActivation] = {
    "sigmoid": "sigmoid",
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
    "tanh": "tanh",
    "relu": "relu",
    "linear": ("affine", 1.0, 0.0),
    "leaky_relu": ("leaky_relu", 0.2),
    "elu": ("elu", 1.0),
    "softsign": "softsign",
    "softplus": "softplus",
}

#: the kinds of layers, with their own options, and where each of their gates stands in ours
KINDS: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "rnn": (keras.layers.SimpleRNN, {}, (0,)),
    "lstm": (keras.layers.LSTM, {}, (0, 1, 2, 3)),
    "gru": (keras.layers.GRU, {"reset_after": True}, (1, 0, 2)),
    "gru-before": (keras.layers.GRU, {"reset_after": False}, (1, 0, 2)),
}


@dataclass(frozen=True)
class Options:
    """The options of a Keras layer, by Keras's names."""

    kind: str
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    bidirectional: bool = False
    go_backwards: bool = False
    zero_output_for_mask: bool = False

    @property
    def activations(self) -> list[GivenActivation]:
        """The same functions as options of our cells."""
        phi, sigma = FUNCTIONS[self.activation], FUNCTIONS[self.recurrent_activation]
        return {"rnn": [phi], "lstm": [sigma, phi, phi]}.get(self.kind, [sigma, phi])


def verdict(options: Options, given: Arrays) -> Arrays:
    """What Keras makes of a case (B, T, …), which may have a mask (B, T); see `oracles`.

    Of a state that is not given there is no gradient.
    """
    leaves = leaves_of(given)
    weights = under(leaves, "weights")
    layer = _layer(options, weights, given["xs"].shape)
    how: Arrays = {}
    if "mask" in given:
        how["mask"] = torch.tensor(given["mask"])
    names = ("h", "c") if options.kind == "lstm" else ("h",)
    D = 2 if options.bidirectional else 1
    if "state.h" in leaves:
        how["initial_state"] = [leaves[f"state.{s}"][d] for d in range(D) for s in names]
    variables = [
        w for suffix in ("_l0", "_l0_reverse")[:D] for w in _variables(options, weights, suffix)
    ]
    found, _ = layer.stateless_call(variables, layer.non_trainable_variables, leaves["xs"], **how)
    ys, *last = found
    outputs: dict[str, Tensor] = {"ys": ys.flip(1) if options.go_backwards else ys}
    for n, name in enumerate(names):
        outputs[f"last.{name}"] = torch.stack(last[n :: len(names)])
    return {k: a.detach().numpy() for k, a in outputs.items()} | gradients(outputs, leaves, given)


def _layer(options: Options, weights: Tensors, shape: tuple[int, ...]) -> Any:
    Layer, own, order = KINDS[options.kind]
    if options.kind != "rnn":
        own = {**own, "recurrent_activation": options.recurrent_activation}
    layer = Layer(
        len(weights["W_l0"]) // len(order),
        activation=options.activation,
        use_bias="b_l0" in weights,
        return_sequences=True,
        return_state=True,
        go_backwards=options.go_backwards,
        zero_output_for_mask=options.zero_output_for_mask,
        dtype="float64",
        **own,
    )
    if options.bidirectional:
        layer = keras.layers.Bidirectional(layer, dtype="float64")
    layer.build(shape)
    return layer


def _variables(options: Options, weights: Tensors, suffix: str) -> list[Tensor]:
    """Kernel, recurrent kernel and bias of one direction, made so that autograd leads to ours."""
    order = KINDS[options.kind][2]

    def gates(w: Tensor) -> Tensor:
        blocks = w.chunk(len(order))
        return torch.cat([blocks[k] for k in order])

    found = [gates(weights[f"{name}{suffix}"]).T for name in ("W", "U")]
    if f"b{suffix}" in weights:
        b = gates(weights[f"b{suffix}"])
        if options.kind == "gru":
            v = weights[f"v{suffix}"]
            b = torch.stack([b, torch.cat([torch.zeros_like(v), torch.zeros_like(v), v])])
        found.append(b)
    return found
