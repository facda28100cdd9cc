"""The subject of the comparison with the oracles: xrnn itself, run on a case."""

from __future__ import annotations

from typing import Any

import xrnn
from oracles.flat import Arrays, over, under


def results_of(layer: xrnn.Layer, given: Arrays, **how: Any) -> Arrays:
    """What xrnn makes of a case: in the form of a verdict.  Takes over its weights, if any.

    `how` are further arguments of `forward`.
    """
    if weights := under(given, "weights"):
        assert {k: w.shape for k, w in weights.items()} == layer.shapes()
        layer.weights = weights
    states = layer.cell.states
    state = _state(layer, given, "state")
    ys, last, tape = layer.forward(given["xs"], state, given.get("lengths"), **how)
    dstate = _state(layer, given, "dstate")
    dxs, dfirst, dweights = layer.backward(tape, given.get("dys"), dstate)
    return {
        "ys": ys,
        "dxs": dxs,
        **over("last", dict(zip(states, last, strict=True))),
        **over("dfirst", dict(zip(states, dfirst, strict=True))),
        **over("dweights", dweights),
    }


def _state(layer: xrnn.Layer, given: Arrays, what: str) -> tuple[Any, ...] | None:
    parts = under(given, what)
    return tuple(parts.get(s) for s in layer.cell.states) if parts else None
