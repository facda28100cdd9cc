"""The cells that PyTorch has as modules, run there, with a mapping of weights of its own."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from oracles.flat import Arrays, over, under
from oracles.torch_cells import Tensor, Tensors, gradients, leaves_of

Modules: TypeAlias = dict[str, tuple[Any, dict[str, str]]]

MODULES: Modules = {
    "rnn": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn-relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "input-gated": (torch.nn.LSTM, {}),  # an LSTM whose recurrent weights are zero
}


def verdict(cell: str, given: Arrays, num_layers: int = 1, bidirectional: bool = False) -> Arrays:
    """What torch.nn makes of a whole case (state, biases and both gradients); see `oracles`."""
    if "lengths" not in given:
        return _verdict(cell, given, num_layers, bidirectional)
    # torch.nn packs no sequence of length zero; what holds for one is clear without it.
    rows = np.flatnonzero(given["lengths"])
    some = {
        name: a if name.startswith("weights.") else a[rows] if name == "lengths" else a[:, rows]
        for name, a in given.items()
    }
    full = _verdict(cell, some, num_layers, bidirectional)
    untouched = {"ys": 0 * given["dys"], "dxs": 0 * given["xs"]}
    untouched |= over("last", under(given, "state")) | over("dfirst", under(given, "dstate"))
    for name, a in untouched.items():
        full[name] = _with_rows(a, rows, full[name])
    return full


def _with_rows(a: Any, rows: Any, values: Any) -> Any:
    a = a.copy()
    a[:, rows] = values
    return a


def _verdict(cell: str, given: Arrays, num_layers: int, bidirectional: bool) -> Arrays:
    leaves = leaves_of(given)
    states = [s for s in "hc" if f"state.{s}" in leaves]
    T, _, I = given["xs"].shape
    H = given["state.h"].shape[2]
    Module, options = MODULES[cell]
    module = Module(I, H, num_layers, bidirectional=bidirectional, **options).double()
    xs: Any = leaves["xs"]
    if "lengths" in given:
        lengths = torch.tensor(given["lengths"])
        xs = pack_padded_sequence(xs, lengths, enforce_sorted=False)
    first = tuple(leaves[f"state.{s}"] for s in states)
    arguments = (xs, first if len(first) > 1 else first[0])
    parameters = _parameters(under(leaves, "weights"))
    ys, last = torch.func.functional_call(module, parameters, arguments)
    if "lengths" in given:
        ys, _ = pad_packed_sequence(ys, total_length=T)
    last = last if len(first) > 1 else (last,)
    outputs: dict[str, Tensor] = {"ys": ys}
    outputs |= over("last", dict(zip(states, last, strict=True)))
    return {k: a.detach().numpy() for k, a in outputs.items()} | gradients(outputs, leaves, given)


def _parameters(weights: Tensors) -> dict[str, Tensor]:
    """PyTorch's parameters, made so that autograd leads back to ours.

    W, U and b are weight_ih, weight_hh and bias_ih; a weight_hh that we lack is zero, and so
    is bias_hh, but for v of a GRU in its last rows.
    """
    theirs = {"W": "weight_ih", "U": "weight_hh", "b": "bias_ih"}
    named = {}
    for name, w in weights.items():
        kind, place = name.split("_", 1)
        if kind in theirs:
            named[f"{theirs[kind]}_{place}"] = w
        if kind == "W" and f"U_{place}" not in weights:
            named[f"weight_hh_{place}"] = torch.zeros(len(w), len(w) // 4, dtype=w.dtype)
        if kind == "b":
            v = weights.get(f"v_{place}", w[:0])
            zeros = torch.zeros(len(w) - len(v), dtype=w.dtype)
            named[f"bias_hh_{place}"] = torch.cat([zeros, v])
    return named
