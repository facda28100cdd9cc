"""Values equal onnxruntime's, which has the GRU of both kinds and the peephole LSTM."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from oracles.flat import Arrays, assert_agree, case_shapes, draw, over, under

import xrnn
from xrnn.cells.activations import ACTIVATIONS

pytest.importorskip("onnx", reason="the oracle is an ONNX model")
pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

from oracles import onnx_node

#: both sides are float32, and activations of onnxruntime are accurate to about 1e-6
BOUND = 1e-5

DIRECTIONS = ("forward", "reverse", "bidirectional")
LENGTHS = ("whole", "cut", "some-empty", "all-empty")

#: the initial states that are given, of those that the cell has
STATES = {"state": ("state.h", "state.c"), "stateless": (), "h": ("state.h",), "c": ("state.c",)}

CONFIGURATIONS = [
    (seed, *words)
    for seed, words in enumerate(
        product(onnx_node.OPS, DIRECTIONS, LENGTHS, ("bias", "biasless"), STATES)
    )
    if words[-1] not in ("h", "c") or onnx_node.OPS[words[0]].name == "LSTM"
]


def sizes_and_lengths(seed: int, kind: str) -> tuple[tuple[int, int, int, int], Any]:
    """Random T, B, I, H, and lengths of the kind asked for, unsorted."""
    rng = np.random.default_rng(seed)
    T, B, I, H = (int(n) for n in rng.integers((1, 1, 1, 1), (10, 6, 7, 9)))
    lengths = rng.integers(1, T + 1, B)
    if kind == "some-empty":
        lengths[rng.integers(B)] = 0
    return (T, B, I, H), {"whole": None, "all-empty": 0 * lengths}.get(kind, lengths)


def by_xrnn(value: Any, given: Arrays, direction: str, bias: bool) -> Arrays:
    """Both ways through a layer, one way through `unroll`; states come as (D, B, H)."""
    weights, state = under(given, "weights"), state_of(value, given)
    if direction == "bidirectional":
        _, _, I = given["xs"].shape
        H = weights["U_l0"].shape[1]
        layer = xrnn.Layer(value, I, H, bidirectional=True, bias=bias)
        layer.weights = weights
        ys, last = layer(given["xs"], state, given["lengths"])
    else:
        one = {name.removesuffix("_l0"): w for name, w in weights.items()}
        first = tuple(None if s is None else s[0] for s in state)
        reverse = direction == "reverse"
        ys, last, _ = xrnn.unroll(value, one, given["xs"], first, given["lengths"], reverse)
        last = tuple(s[None] for s in last)
    return {"ys": ys, **over("last", dict(zip(value.states, last, strict=True)))}


def state_of(value: Any, given: Arrays) -> tuple[Any, ...]:
    """One array for each state of the cell, None for one that is not given."""
    return tuple(given.get(f"state.{name}") for name in value.states)


@pytest.mark.parametrize(("seed", "cell", "direction", "kind", "biased", "stated"), CONFIGURATIONS)
def test_cell_is_the_operator(
    seed: int, cell: str, direction: str, kind: str, biased: str, stated: str
) -> None:
    compare(xrnn.cells.BY_NAME[cell], cell, seed, direction, kind, biased, stated)


def compare(
    value: Any,
    oracle: Any,
    seed: int,
    direction: str,
    kind: str,
    biased: str,
    stated: str,
    scale: float = 0.5,
) -> None:
    """Fail unless the cell and the operator agree in a random case of the kind asked for."""
    suffixes = ("_l0", "_l0_reverse") if direction == "bidirectional" else ("_l0",)
    D, bias = len(suffixes), biased == "bias"
    (T, B, I, H), lengths = sizes_and_lengths(seed, kind)
    shapes = {f"{n}{s}": shape for s in suffixes for n, shape in value.shapes(I, H, bias).items()}
    drawn = draw(f"onnx {seed}", case_shapes(shapes, value.states, (T, B, I, H), 1, D), scale=scale)
    given: Arrays = {name: a.astype("float32") for name, a in drawn.items()}
    kept = STATES[stated]
    given = {k: a for k, a in given.items() if not k.startswith("state.") or k in kept}
    given["lengths"] = lengths
    parts = [
        {n.removesuffix(s): w for n, w in under(given, "weights").items() if n.endswith(s)}
        for s in suffixes
    ]
    want = onnx_node.run(oracle, parts, given["xs"], state_of(value, given), lengths, direction)
    got = by_xrnn(value, given, direction, bias)
    assert {str(a.dtype) for a in got.values()} == {"float32"}
    assert_agree(got, want, BOUND)


def random_cell(rng: np.random.Generator) -> Any:
    """A cell with random options, all of which the operators have too."""
    maker: Any = [xrnn.cells.lstm_with, xrnn.cells.gru_with, xrnn.cells.rnn_with][rng.integers(3)]
    options: dict[str, Any] = {}
    n = {xrnn.cells.lstm_with: 3, xrnn.cells.gru_with: 2, xrnn.cells.rnn_with: 1}[maker]
    if rng.random() < 0.8:
        options["activations"] = [random_activation(rng) for _ in range(n)]
    if rng.random() < 0.5:
        options["clip"] = float(rng.uniform(0.2, 1.5))
    if n == 3:
        options |= {"coupled": bool(rng.integers(2)), "peephole": bool(rng.integers(2))}
    if n == 2:
        options["reset"] = ["after", "before"][rng.integers(2)]
    cell = maker(**options)
    return cell if cell.made is not None else random_cell(rng)


def random_activation(rng: np.random.Generator) -> Any:
    name = list(ACTIVATIONS)[rng.integers(len(ACTIVATIONS))]
    kind = ACTIVATIONS[name]
    usual = [x for x in (kind.alpha, kind.beta) if x is not None]
    return (name, *(float(rng.uniform(0.1, 0.9)) for _ in usual))


@pytest.mark.parametrize("seed", range(300))
def test_cell_with_options_is_the_operator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = random_cell(rng)
    direction, kind = DIRECTIONS[rng.integers(3)], LENGTHS[rng.integers(4)]
    biased, stated = ("bias", "biasless")[rng.integers(2)], list(STATES)[rng.integers(4)]
    # Small weights, because many of the functions are not bounded, and the Softplus of onnxruntime
    # is infinite from 89 on.
    compare(cell, cell, seed, direction, kind, biased, stated, scale=0.2)
