"""σ of large negative numbers, seen through a sequence kernel: small values keep their digits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
from sequences import AnyCell, Case, forward, outputs

from xrnn.backends.host import named_dtype
from xrnn.typing import Array


class Tail(NamedTuple):
    """How one gate becomes a result: `biases` of other gates, v and the first states, all else 0.

    The result is σ of the gate's pre-activation, or its tanh.
    """

    gate: str
    result: str
    biases: dict[str, float]
    first: dict[str, float]
    tanh: bool = False


#: a bias that makes a gate, of σ or tanh, 1
ONE = 80.0

LSTM = (
    Tail("i", "last c", {"g": ONE}, {}),
    Tail("f", "last c", {}, {"c": 1.0}),
    Tail("o", "last h", {"f": ONE}, {"c": ONE}),
)
UPDATE = Tail("z", "last h", {}, {"h": 1.0})
#: cell → its gates
TAILS: dict[str, tuple[Tail, ...]] = {
    "lstm": LSTM,
    "peephole": LSTM,
    "input-gated": LSTM,
    "gru": (UPDATE, Tail("r", "last h", {"z": -10 * ONE, "v": 1.0}, {}, tanh=True)),
    "gru-before": (UPDATE, Tail("r", "last h", {"z": -10 * ONE}, {"h": 1.0}, tanh=True)),
    "janet": (Tail("f", "last h", {}, {"h": 1.0}),),
    "mgu": (Tail("u", "last h", {"n": ONE}, {}),),
    "mingru": (Tail("z", "last h", {"n": 1.0}, {}),),
}

#: dtype → the least pre-activation, half the distance of the smallest numbers
LEAST = {
    "float16": (-16.0, 2.0**-25),
    "bfloat16": (-80.0, 0.0),
    "float32": (-80.0, 0.0),
    "float64": (-700.0, 0.0),
}


def each_tail(cells: Iterable[AnyCell]) -> pytest.MarkDecorator:
    """A test for each gate of these cells."""
    rows = [(cell, tail) for cell in cells for tail in TAILS.get(cell.name, ())]
    names = [f"{cell.name}-{tail.gate}" for cell, tail in rows]
    return pytest.mark.parametrize(("cell", "tail"), rows, ids=names)


def case_of(cell: AnyCell, tail: Tail, dtype: str, H: int) -> tuple[Case, Array]:
    """One step of many sequences, and their pre-activations."""
    a = np.linspace(LEAST[dtype][0], 0, 161)
    if dtype != "float64":
        a = np.round(2 * a) / 2  # exact in each dtype
    case = Case(cell, (1, len(a), 1, H), dtype).mapped(np.zeros_like)
    case.xs[0, :, 0] = a
    rows = {gate: slice(k * H, (k + 1) * H) for k, gate in enumerate(cell.gates)}
    case.weights["W"][rows[tail.gate]] = 1
    for gate, bias in tail.biases.items():
        where = case.weights["v"] if gate == "v" else case.weights["b"][rows[gate]]
        where[:] = bias
    for name, value in tail.first.items():
        case.state[cell.states.index(name)][:] = value
    if cell.name == "gru-before" and tail.gate == "r":
        case.weights["U"][rows["n"]] = np.eye(H)
    return case, case.xs[0, :, 0].astype(np.float64)


def keeps_its_digits(
    kernel: Any, cell: AnyCell, tail: Tail, dtype: str, bound: float, H: int = 7
) -> None:
    """The largest error relative to each value of σ is at most `bound`."""
    case, a = case_of(cell, tail, dtype, H)
    for keep in (True, False):
        ys, last, _ = forward(kernel, case, keep=keep)
        found = outputs(case, ys, last)[tail.result].astype(np.float64)
        expected = np.exp(a) / (1 + np.exp(a))
        expected = np.tanh(expected) if tail.tanh else expected
        allowed = bound * expected + LEAST[named_dtype(dtype).name][1]
        wrong = abs(found - expected[:, None]) > allowed[:, None]
        assert not wrong.any(), (a[wrong.any(1)], found[wrong], expected[wrong.any(1)])
