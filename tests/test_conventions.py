"""The table of conventions against the equations of the libraries, and against wrong rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any, get_args

import numpy as np
import pytest
from libraries import LIBRARIES, H, I, Library

import xrnn
from xrnn.cells import GRU, GRUBefore, gru_with, lstm_with
from xrnn.convert import conventions
from xrnn.convert.conventions import CONVENTIONS, Convention, Stored, decode, encode
from xrnn.typing import Array

Row = tuple[str, str]

#: a step of a library and the one here may differ by the rounding of sums in another order
NEAR = 1e-12

each_row = pytest.mark.parametrize("row", CONVENTIONS, ids=": ".join)


def drawn(shapes: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: None if shape is None else rng.normal(size=shape) for name, shape in shapes.items()
    }


def distance(library: Library, stored: Stored, weights: dict[str, Array]) -> float:
    """The largest difference of states after three steps; that of shapes is infinite."""
    rng = np.random.default_rng(1)
    xs = rng.normal(size=(3, 2, I))
    state = tuple(rng.normal(size=(2, n)) for n in library.cell.widths(H))
    if {k: w.shape for k, w in weights.items()} != library.cell.shapes(I, H):
        return np.inf
    _, mine, _ = xrnn.unroll(library.cell, weights, xs, state)
    for x in xs:
        state = library.step(stored, x, state)
    return max(float(np.abs(a - b).max()) for a, b in zip(mine, state, strict=True))


def fault(convention: Convention, libraries: list[Library]) -> str | None:
    """What shows that this is not the convention of a row; None if nothing does."""
    for library in libraries:
        try:
            if found := _fault_of_one(convention, library):
                return found
        except (ValueError, IndexError, TypeError) as error:
            return f"arrays that the library or `decode` cannot read: {error}"
    mine = [library.cell for library in libraries]
    for cell in {GRU, GRUBefore} - set(mine) if mine[0] in (GRU, GRUBefore) else ():
        try:
            conventions.check_expressible(convention, cell)
        except ValueError:
            continue
        return f"the weights are given to {cell.name}, which computes another function"
    return None


def _fault_of_one(convention: Convention, library: Library) -> str | None:
    cell = library.cell
    stored = Stored(**drawn(library.shapes()))
    if distance(library, stored, decode(convention, cell, stored)) > NEAR:
        return "another function of the library's weights"
    weights = drawn(cell.shapes(I, H))
    written = encode(convention, cell, weights)
    shapes = {
        name: None if a is None else a.shape
        for name, a in zip(Stored._fields, written, strict=True)
    }
    if shapes != library.shapes():
        return f"arrays that the library does not read: {shapes}"
    if distance(library, written, weights) > NEAR:
        return "another function of our weights"
    again = decode(convention, cell, written)
    if any(np.abs(again[k] - w).max() > NEAR for k, w in weights.items()):
        return "weights that do not come back"
    return None


@each_row
def test_the_library_computes_the_same(row: Row) -> None:
    assert row in LIBRARIES, "a row needs a step of its library, written in tests/libraries.py"
    assert fault(CONVENTIONS[row], LIBRARIES[row]) is None


@each_row
def test_round_trips_are_exact(row: Row) -> None:
    """With weights in float32, and without biases; a +1 at run time costs a rounding."""
    convention = CONVENTIONS[row]
    for library in LIBRARIES[row]:
        for bias in (True, False):
            drawn_ = drawn(library.cell.shapes(I, H, bias))
            weights = {k: w.astype("float32") for k, w in drawn_.items()}
            again = decode(convention, library.cell, encode(convention, library.cell, weights))
            if convention.forget_bias and not bias:  # it needs a bias of its own
                weights["b"] = np.zeros(len(weights["W"]), "float32")
            assert again.keys() == weights.keys()
            for name, w in weights.items():
                assert again[name].dtype == np.float32
                np.testing.assert_allclose(again[name], w, 0, 2e-7 * bool(convention.forget_bias))


@each_row
def test_gradients_are_those_of_the_stored_arrays(row: Row) -> None:
    """The change of a loss along random arrays is the product of these with the gradients."""
    convention = CONVENTIONS[row]
    for library in LIBRARIES[row]:
        cell = library.cell
        stored, along = (Stored(**drawn(library.shapes(), seed)) for seed in (0, 1))
        rng = np.random.default_rng(2)
        xs = rng.normal(size=(2, 2, I))
        state = tuple(rng.normal(size=(2, n)) for n in cell.widths(H))
        ys, _, tape = xrnn.unroll(cell, decode(convention, cell, stored), xs, state)
        _, _, dweights = xrnn.unroll_backward(tape, np.ones_like(ys))
        given = encode(convention, cell, dweights, gradients=True)
        pairs = [(a, b) for a, b in zip(given, along, strict=True) if a is not None]
        found = sum(float((a * b).sum()) for a, b in pairs)
        ahead, behind = (_loss(library, stored, along, t, xs, state) for t in (1e-6, -1e-6))
        assert found == pytest.approx((ahead - behind) / 2e-6, rel=1e-6)


def _loss(library: Library, stored: Stored, along: Stored, t: float, xs: Array, state: Any) -> Any:
    """The sum of the outputs of arrays that are moved by t."""
    moved = [None if a is None else a + t * b for a, b in zip(stored, along, strict=True)]
    total = 0.0
    for x in xs:
        state = library.step(Stored(*moved), x, state)
        total += state[0].sum()
    return total


# ---- Wrong rows


def mutants(convention: Convention) -> Iterator[tuple[str, Convention]]:
    """The convention with one field changed to each other legal value, but for changes that no
    array can show, for the reasons given here."""
    gates = convention.gates
    for order in permutations(gates):
        yield "gates", replace(convention, gates="".join(order))
    for layout in get_args(conventions.Layout):
        yield "layout", replace(convention, layout=layout)
    for biases in get_args(conventions.Biases):
        yield "biases", replace(convention, biases=biases)
    if "z" in gates:  # no other gate has a polarity
        for z in get_args(conventions.Polarity):
            yield "z", replace(convention, z=z)
    if "f" in gates:  # it is added to the bias of f alone
        for forget_bias in (0.0, 1.0):
            yield "forget_bias", replace(convention, forget_bias=forget_bias)
    for order in permutations(convention.peepholes):
        yield "peepholes", replace(convention, peepholes="".join(order))
    if convention.peepholes:
        yield "peepholes", replace(convention, peepholes="")
    if "r" in gates:  # no other gate resets
        for reset in ("", "after", "before"):
            yield "reset", replace(convention, reset=reset)


MUTANTS = [
    (row, field, wrong)
    for row, convention in CONVENTIONS.items()
    for field, wrong in mutants(convention)
    if wrong != convention
]


def test_there_are_wrong_rows_of_every_field() -> None:
    assert {field for _, field, _ in MUTANTS} == set(Convention.__dataclass_fields__)


@each_row
def test_every_wrong_row_is_found(row: Row) -> None:
    for where, field, wrong in MUTANTS:
        if where == row:
            assert fault(wrong, LIBRARIES[row]), f"{field}: {wrong} passes"


# ---- What cannot be expressed


def test_gates_that_the_library_has_not() -> None:
    with pytest.raises(ValueError, match=r"lstm: gates is 'zrn'; .* i, f, g, o, and i is missing"):
        conventions.check_expressible(CONVENTIONS["ONNX", "GRU"], xrnn.cells.LSTM)
    with pytest.raises(ValueError, match=r"peepholes is ''; .* each of i, f, o, and i is missing"):
        conventions.check_expressible(CONVENTIONS["PyTorch", "LSTM"], xrnn.cells.PeepholeLSTM)


@pytest.mark.parametrize(
    ("activation", "symmetric"),
    [
        ("sigmoid", True),
        ("hard_sigmoid", True),
        (("hard_sigmoid", 1 / 6, 0.5), True),
        (("affine", 0.3, 0.5), True),
        (("hard_sigmoid", 0.2, 0.4), False),
        ("affine", False),
        ("tanh", False),
        ("relu", False),
        ("softplus", False),
    ],
    ids=str,
)
def test_a_gate_that_is_one_minus_the_other(activation: Any, symmetric: bool) -> None:
    """1 − σ(a) is σ(−a) for functions that are symmetric about 1/2, and for no others."""
    gru: Any = gru_with(reset="before", activations=(activation, "tanh"))
    lstm: Any = lstm_with(coupled=True, activations=(activation, "tanh", "tanh"))
    for row, cell in (
        (("Paddle 1", "dynamic_gru"), gru),
        (("TensorFlow Lite", "LSTM (coupled)"), lstm),
    ):
        convention = CONVENTIONS[row]
        if not symmetric:
            with pytest.raises(ValueError, match=r"for which 1 − σ\(a\) is not σ\(−a\)"):
                conventions.check_expressible(convention, cell)
            continue
        weights = drawn(cell.shapes(I, H))
        again = decode(convention, cell, encode(convention, cell, weights))
        for name, w in weights.items():
            np.testing.assert_array_equal(again[name], w)


def test_a_bias_of_the_candidate_that_the_library_has_not() -> None:
    """In one bias there is no place for v, which the reset gate multiplies."""
    convention = Convention("rzn", biases="one")
    weights = drawn(GRU.shapes(I, H))
    with pytest.raises(ValueError, match="v is not zero, and there is one bias alone"):
        encode(convention, GRU, weights)
    assert encode(convention, GRU, weights | {"v": np.zeros(H)}).recurrent_bias is None
