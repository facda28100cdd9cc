"""The cells that PyTorch has as modules, run there, with a mapping of weights of its own.

`xs` may be (T, B, I), (B, T, I) or (T, I).  A weight P makes the LSTM one with `proj_size`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from oracles.flat import Arrays, over, under
from oracles.torch_cells import Tensor, Tensors, gradients, leaves_of

Modules: TypeAlias = dict[str, tuple[Any, dict[str, Any]]]

MODULES: Modules = {
    "rnn": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn-relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "input-gated": (torch.nn.LSTM, {}),  # an LSTM whose recurrent weights are zero
}


def verdict(
    cell: str,
    given: Arrays,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> Arrays:
    """What torch.nn makes of a case; see `oracles`.

    Of a state that is not given there is no gradient.
    """
    if "lengths" not in given or all(given["lengths"]):
        return _verdict(cell, given, num_layers, bidirectional, batch_first)
    # torch.nn packs no sequence of length zero; what holds for one is clear without it.
    assert not batch_first
    rows = np.flatnonzero(given["lengths"])
    some = {
        name: a if name.startswith("weights.") else a[rows] if name == "lengths" else a[:, rows]
        for name, a in given.items()
    }
    full = _verdict(cell, some, num_layers, bidirectional, batch_first)
    untouched = {"ys": 0 * given["dys"], "dxs": 0 * given["xs"]}
    untouched |= over("last", under(given, "state")) | over("dfirst", under(given, "dstate"))
    for name, a in untouched.items():
        full[name] = _with_rows(a, rows, full[name])
    return full


def _with_rows(a: Any, rows: Any, values: Any) -> Any:
    a = a.copy()
    a[:, rows] = values
    return a


def _verdict(
    cell: str, given: Arrays, num_layers: int, bidirectional: bool, batch_first: bool
) -> Arrays:
    leaves = leaves_of(given)
    weights = under(leaves, "weights")
    T, I = given["xs"].shape[batch_first], given["xs"].shape[-1]
    Module, options = MODULES[cell]
    H = len(weights["W_l0"]) // {torch.nn.RNN: 1, torch.nn.GRU: 3, torch.nn.LSTM: 4}[Module]
    if "P_l0" in weights:
        options = {**options, "proj_size": len(weights["P_l0"])}
    options = {**options, "bidirectional": bidirectional, "batch_first": batch_first}
    module = Module(I, H, num_layers, bias="b_l0" in weights, **options).double()
    xs: Any = leaves["xs"]
    if "lengths" in given:
        lengths = torch.tensor(given["lengths"])
        xs = pack_padded_sequence(xs, lengths, batch_first, enforce_sorted=False)
    first = tuple(leaves[f"state.{s}"] for s in "hc" if f"state.{s}" in leaves)
    arguments = (xs, first if len(first) > 1 else first[0]) if first else (xs,)
    ys, last = torch.func.functional_call(module, _parameters(weights), arguments)
    if "lengths" in given:
        ys, _ = pad_packed_sequence(ys, batch_first, total_length=T)
    last = last if isinstance(last, tuple) else (last,)
    outputs: dict[str, Tensor] = {"ys": ys, **over("last", dict(zip("hc", last, strict=False)))}
    return {k: a.detach().numpy() for k, a in outputs.items()} | gradients(outputs, leaves, given)


def _parameters(weights: Tensors) -> dict[str, Tensor]:
    """PyTorch's parameters, made so that autograd leads back to ours.

    W, U, P and b are weight_ih, weight_hh, weight_hr and bias_ih; a weight_hh that we lack is
    zero, and so is bias_hh, but for v of a GRU in its last rows.
    """
    theirs = {"W": "weight_ih", "U": "weight_hh", "P": "weight_hr", "b": "bias_ih"}
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
