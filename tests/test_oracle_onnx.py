"""Values equal onnxruntime's, which has the GRU of both kinds and the peephole LSTM."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from oracles.flat import Arrays, assert_agree, case_shapes, draw, over, under

import xrnn

pytest.importorskip("onnx", reason="the oracle is an ONNX model")
pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

from oracles import onnx_node

#: both sides are float32, and activations of onnxruntime are accurate to about 1e-6
BOUND = 1e-5

DIRECTIONS = ("forward", "reverse", "bidirectional")
LENGTHS = ("whole", "cut", "some-empty", "all-empty")

CONFIGURATIONS = [
    (seed, *words)
    for seed, words in enumerate(
        product(onnx_node.OPS, DIRECTIONS, LENGTHS, ("bias", "biasless"), ("state", "stateless"))
    )
]


def sizes_and_lengths(seed: int, kind: str) -> tuple[tuple[int, int, int, int], Any]:
    """Random T, B, I, H, and lengths of the kind asked for, unsorted."""
    rng = np.random.default_rng(seed)
    T, B, I, H = (int(n) for n in rng.integers((1, 1, 1, 1), (10, 6, 7, 9)))
    lengths = rng.integers(1, T + 1, B)
    if kind == "some-empty":
        lengths[rng.integers(B)] = 0
    return (T, B, I, H), {"whole": None, "all-empty": 0 * lengths}.get(kind, lengths)


def by_xrnn(cell: str, given: Arrays, direction: str, bias: bool) -> Arrays:
    """Both ways through a layer, one way through `unroll`; states come as (D, B, H)."""
    value = xrnn.cells.BY_NAME[cell]
    weights, state = under(given, "weights"), tuple(under(given, "state").values()) or None
    if direction == "bidirectional":
        _, _, I = given["xs"].shape
        H = weights["U_l0"].shape[1]
        layer = xrnn.Layer(value, I, H, bidirectional=True, bias=bias)
        layer.weights = weights
        ys, last = layer(given["xs"], state, given["lengths"])
    else:
        one = {name.removesuffix("_l0"): w for name, w in weights.items()}
        first = None if state is None else tuple(s[0] for s in state)
        reverse = direction == "reverse"
        ys, last, _ = xrnn.unroll(value, one, given["xs"], first, given["lengths"], reverse)
        last = tuple(s[None] for s in last)
    return {"ys": ys, **over("last", dict(zip(value.states, last, strict=True)))}


@pytest.mark.parametrize(("seed", "cell", "direction", "kind", "biased", "stated"), CONFIGURATIONS)
def test_cell_is_the_operator(
    seed: int, cell: str, direction: str, kind: str, biased: str, stated: str
) -> None:
    suffixes = ("_l0", "_l0_reverse") if direction == "bidirectional" else ("_l0",)
    D, bias = len(suffixes), biased == "bias"
    (T, B, I, H), lengths = sizes_and_lengths(seed, kind)
    value = xrnn.cells.BY_NAME[cell]
    shapes = {f"{n}{s}": shape for s in suffixes for n, shape in value.shapes(I, H, bias).items()}
    drawn = draw(f"onnx {seed}", case_shapes(shapes, value.states, (T, B, I, H), 1, D), scale=0.5)
    given: Arrays = {name: a.astype("float32") for name, a in drawn.items()}
    if stated == "stateless":
        given = {name: a for name, a in given.items() if not name.startswith("state.")}
    given["lengths"] = lengths
    parts = [
        {n.removesuffix(s): w for n, w in under(given, "weights").items() if n.endswith(s)}
        for s in suffixes
    ]
    state = list(under(given, "state").values()) or None
    want = onnx_node.run(cell, parts, given["xs"], state, lengths, direction)
    got = by_xrnn(cell, given, direction, bias)
    assert {str(a.dtype) for a in got.values()} == {"float32"}
    assert_agree(got, want, BOUND)
