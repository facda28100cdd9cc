"""The test vectors that the package onnx holds for its operators RNN, LSTM and GRU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from oracles.flat import Arrays, assert_agree

import xrnn

onnx = pytest.importorskip("onnx", reason="the vectors are a part of onnx")
pytest.importorskip("onnxruntime", reason="its conventions are those of the oracle onnxruntime")

from onnx.backend.test.case.node import gru, lstm, rnn  # noqa: E402
from oracles import onnx_node  # noqa: E402

#: both sides are float32, and their own bound is 1e-3
BOUND = 1e-6

CASES = [
    (module, case)
    for module in (rnn.RNN, lstm.LSTM, gru.GRU)
    for case in sorted(vars(module))
    if case.startswith("export_")
]


class Node(NamedTuple):
    """One node with its arguments, and what must come out of it."""

    op: str
    attributes: dict[str, Any]
    inputs: Arrays
    outputs: Arrays


def node_of(module: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> Node:
    """What a case of onnx says to its function `expect`."""
    found = []

    def expect(node: Any, inputs: Any, outputs: Any, name: str) -> None:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        sides = [
            dict(zip(filter(None, names), arrays, strict=True))
            for names, arrays in ((node.input, inputs), (node.output, outputs))
        ]
        found.append(Node(node.op_type, attributes, *sides))

    monkeypatch.setitem(getattr(module, case).__globals__, "expect", expect)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(np.random, "randn", lambda *shape: rng.normal(size=shape))
    getattr(module, case)()
    return found[0]


def layer_of(node: Node) -> xrnn.Layer[Any]:
    """The layer that is the node."""
    given, how = node.inputs, node.attributes
    direction = how.get("direction", b"forward").decode()
    options: dict[str, Any] = {
        "bias": "B" in given,
        "batch_first": bool(how.get("layout", 0)),
        "bidirectional": direction == "bidirectional",
        "reverse": direction == "reverse",
    }
    sizes = given["X"].shape[2], how["hidden_size"]
    layer: xrnn.Layer[Any]
    if node.op == "RNN":
        layer = xrnn.RNN(*sizes, **options)
    elif node.op == "GRU":
        reset: Any = "after" if how.get("linear_before_reset", 0) else "before"
        layer = xrnn.GRU(*sizes, reset=reset, **options)
    else:
        layer = xrnn.LSTM(*sizes, peephole="P" in given, **options)
    order = onnx_node.OPS[layer.cell.name].order
    layer.weights = {
        f"{name}{suffix}": w
        for d, suffix in enumerate(("_l0", "_l0_reverse")[: layer.directions])
        for name, w in weights_of(given, order, d).items()
    }
    return layer


def weights_of(given: Arrays, order: tuple[int, ...], d: int) -> Arrays:
    """W, U, b and p of one direction; `order` says where each of their gates stands in ours."""
    found = {"W": own_order(given["W"][d], order), "U": own_order(given["R"][d], order)}
    if "B" in given:
        # All cells here take the sum of the two biases (a GRU with reset before).
        found["b"] = own_order(sum(np.split(given["B"][d], 2)), order)
    if "P" in given:
        found["p"] = own_order(given["P"][d], (0, 2, 1))  # ours i f o, theirs i o f
    return found


def own_order(a: Any, order: tuple[int, ...]) -> Any:
    """The gates of ONNX in our order."""
    gates = np.split(a, len(order))
    return np.concatenate([gates[order.index(k)] for k in range(len(order))])


@pytest.mark.parametrize(
    ("module", "case"), CASES, ids=[f"{m.__name__}-{c.removeprefix('export_')}" for m, c in CASES]
)
def test_layer_is_the_node(module: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_of(module, case, monkeypatch)
    layer, given = layer_of(node), node.inputs
    state = [given.get(f"initial_{s}") for s in layer.cell.states]
    ys, last = layer(given["X"], tuple(state), given.get("sequence_lens"))
    assert_agree(in_their_axes(layer, ys, last, node.outputs), node.outputs, BOUND)


def in_their_axes(layer: xrnn.Layer[Any], ys: Any, last: Any, asked: Arrays) -> Arrays:
    """Our results as ONNX has them: directions are an axis, the first of states, without layout."""
    D, H = layer.directions, layer.hidden_size
    split = ys.reshape(*ys.shape[:2], D, H)
    found = {"Y": split if layer.batch_first else split.transpose(0, 2, 1, 3)}
    for name, s in zip(layer.cell.states, last, strict=True):
        found[f"Y_{name}"] = s.transpose(1, 0, 2) if layer.batch_first else s
    return {name: found[name] for name in asked}


def test_there_are_18_nodes() -> None:
    assert len(CASES) == 18
