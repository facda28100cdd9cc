"""Forward mode, Hessian- and Gauss-Newton-vector products: of every cell, layer, part and loss."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from rows import MADE, NOISY, ROWS

import xrnn
from xrnn.backends import get
from xrnn.certify.derivative import runs_in_complex
from xrnn.certify.trial import OPTIONS, Option, Trial, each, leaves
from xrnn.engine import tape as tapes

CELLS = [row.cell for row in ROWS] + [*MADE, *NOISY]
PLAIN = [row.cell for row in ROWS]

E = 1e-30


def by_name(cell: Any) -> str:
    return str(cell.name)


def vector_like(weights: Any, seed: int = 0) -> Any:
    """A random tree of the names and shapes of weights."""
    rng = np.random.default_rng(seed)

    def like(tree: Any) -> Any:
        if hasattr(tree, "items"):
            return {name: like(part) for name, part in tree.items()}
        return rng.normal(size=tree.shape).astype(tree.dtype)

    return like(weights)


def dot(a: Any, b: Any) -> float:
    """The scalar product of two trees."""
    if hasattr(a, "items"):
        return sum(dot(part, b[name]) for name, part in a.items())
    return float((np.asarray(a, float) * np.asarray(b, float)).sum())


def distance(a: Any, b: Any) -> float:
    """The largest relative difference of the arrays of two trees of the same names."""
    if hasattr(a, "items"):
        assert set(a) == set(b)
        return max((distance(part, b[name]) for name, part in a.items()), default=0.0)
    assert a.shape == b.shape
    return 0.0 if not a.size else float(abs(a - b).max() / max(float(abs(b).max()), 1e-9))


def quadratic(trial: Trial) -> Any:
    """Half the squared distance of the outputs that mean something from random ones."""
    target, silent = np.nan_to_num(np.asarray(trial.inputs.dys)), trial.silent()[..., None]

    def loss(ys: Any) -> Any:
        gap = np.where(silent, 0.0, ys - target)
        return (gap * gap).sum() / 2, gap

    return loss


def complex_steps(trial: Trial, vector: Any, loss: Any, monkeypatch: Any) -> Any:
    """The derivatives of outputs, last state and gradient along a direction of the weights."""
    monkeypatch.setattr(tapes, "check_real", lambda *given: None)
    moved = replace(trial, cell=replace(trial.cell, analytic=True))
    layer = moved.make_layer({k: w + 1j * E * vector[k] for k, w in trial.layer.weights.items()})
    given = trial.inputs
    state = each(lambda a: a.astype(complex), given.state)
    how: Any = {"seed": trial.seed, **given.steps}
    ys, last, tape = layer.forward(given.xs.astype(complex), state, given.lengths, **how)
    dweights = layer.backward(tape, loss(ys)[1])[2]
    return (
        ys.imag / E,
        [a.imag / E for a in leaves(tuple(last))],
        {name: d.imag / E for name, d in dweights.items()},
    )


BRIEF = tuple(o for o in OPTIONS if o.name in ("plain", "lengths", "3 layers, both"))


def options_of(cell: Any) -> Any:
    return OPTIONS if cell in PLAIN else BRIEF


@pytest.mark.parametrize("cell", [c for c in CELLS if runs_in_complex(c)], ids=by_name)
def test_products_are_exact(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complex steps through the cell's own code are exact to rounding too."""
    for option in options_of(cell):
        trial = Trial(cell, option)
        vector, loss, given = vector_like(trial.layer.weights), quadratic(trial), trial.inputs
        how: Any = {"seed": trial.seed, "lengths": given.lengths, "state": given.state}
        how |= given.steps
        _, (dys, dlast) = xrnn.jvp(trial.layer, given.xs, vector, **how)
        product = xrnn.hvp(trial.layer, given.xs, loss, vector, **how)
        ys_step, last_step, product_step = complex_steps(trial, vector, loss, monkeypatch)
        assert distance(dys, ys_step) < 1e-12, option.name
        for found, expected in zip(leaves(tuple(dlast)), last_step, strict=True):
            assert distance(found, expected) < 1e-12, option.name
        assert distance(product, product_step) < 1e-11, option.name


@pytest.mark.parametrize("cell", PLAIN, ids=by_name)
def test_directions_of_inputs_and_states(cell: Any) -> None:
    """(xs, state) → (ys, last state) have the transposed derivative of the backward pass."""
    for option in OPTIONS:
        if not option.state:
            continue
        trial = Trial(cell, option)
        layer, given = trial.layer, trial.inputs
        how: Any = {"lengths": given.lengths, **given.steps, "seed": trial.seed}
        xs_vector = np.nan_to_num(vector_like({"xs": given.xs})["xs"])
        state_vector = each(lambda a: vector_like({"s": a}, seed=a.size)["s"], given.state)
        _, (dys, dlast) = xrnn.jvp(
            layer,
            given.xs,
            xs_vector=xs_vector,
            state=given.state,
            state_vector=state_vector,
            **how,
        )
        *_, tape = layer.forward(given.xs, given.state, **how)
        dxs, dfirst, _ = layer.backward(tape, given.dys, given.dlast)
        dys_given = np.nan_to_num(np.asarray(given.dys))
        lasts, given_lasts = leaves(tuple(dlast)), leaves(given.dlast)
        ahead = dot(dys_given, dys) + sum(map(dot, given_lasts, lasts))
        firsts, given_firsts = leaves(tuple(dfirst)), leaves(state_vector)
        back = dot(xs_vector, dxs) + sum(map(dot, given_firsts, firsts))
        np.testing.assert_allclose(ahead, back, rtol=1e-10, atol=1e-12, err_msg=option.name)


@pytest.mark.parametrize("cell", CELLS, ids=by_name)
def test_both_matrices_are_symmetric(cell: Any) -> None:
    trial = Trial(cell, Option("both", lengths=(4, 1, 3), bidirectional=True, num_layers=2))
    loss, given, how = quadratic(trial), trial.inputs, {"seed": trial.seed, "lengths": [4, 1, 3]}
    v, w = (vector_like(trial.layer.weights, seed=n) for n in range(2))
    for product in (xrnn.hvp, xrnn.gnvp):
        Av, Aw = (product(trial.layer, given.xs, loss, one, **how) for one in (v, w))
        np.testing.assert_allclose(dot(w, Av), dot(v, Aw), rtol=1e-9, atol=1e-11)
        if product is xrnn.gnvp:
            assert dot(v, Av) > 0
            assert dot(w, Aw) > 0


@pytest.mark.parametrize("cell", PLAIN, ids=by_name)
def test_both_matrices_are_equal_where_the_outputs_are_on_target(cell: Any) -> None:
    """The Hessian is the Gauss-Newton matrix and what the residuals add."""
    layer = Trial(cell, Option("plain")).layer
    xs = np.random.default_rng(0).normal(size=(4, 3, layer.input_size))
    targets, vector = layer(xs)[0], vector_like(layer.weights)

    def loss(ys: Any) -> Any:
        return ((ys - targets) ** 2).sum() / 2, ys - targets

    both = [product(layer, xs, loss, vector) for product in (xrnn.hvp, xrnn.gnvp)]
    assert distance(*both) < 1e-10
    rest = xrnn.hvp(layer, xs, lambda ys: loss(ys + 1), vector)
    assert distance(rest, both[1]) > 1e-3


def test_a_linear_part_has_no_curvature_of_its_own() -> None:
    part, xs = (
        xrnn.Linear(3, 2, dtype="float64", rng=0),
        np.random.default_rng(0).normal(size=(7, 3)),
    )
    vector = vector_like(part.weights)

    def loss(ys: Any) -> Any:
        return xrnn.losses.softmax_cross_entropy(ys, np.zeros(7, int))

    both = [product(part, xs, loss, vector) for product in (xrnn.hvp, xrnn.gnvp)]
    assert distance(*both) < 1e-13


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float16", 2e-2)])
def test_in_other_dtypes(dtype: Any, bound: float) -> None:
    """float32 is computed in float32, 16 bits too; results have the dtype of the weights."""
    given = np.random.default_rng(0).normal(size=(6, 3, 3)).astype(dtype)
    weights = xrnn.LSTM(3, 4, dtype=dtype, rng=0).weights
    vector = vector_like(weights, seed=3)
    found = []
    for kind in (dtype, "float64"):
        layer = xrnn.LSTM(3, 4, dtype=kind)
        layer.weights = {k: w.astype(kind) for k, w in weights.items()}
        xs, targets = given.astype(kind), np.zeros((6, 3, 4), kind)
        along = {k: v.astype(kind) for k, v in vector.items()}

        def loss(ys: Any, targets: Any = targets) -> Any:
            return xrnn.losses.squared_error(ys, targets, reduction="sum")

        (ys, _), (dys, _) = xrnn.jvp(layer, xs, along)
        products = [product(layer, xs, loss, along) for product in (xrnn.hvp, xrnn.gnvp)]
        arrays = [ys, dys, *products[0].values(), *products[1].values()]
        assert all(a.dtype == kind for a in arrays)
        found.append([a.astype("float64") for a in arrays])
    for a, b in zip(*found, strict=True):
        assert distance(a, b) < bound


def test_in_every_library(device: str) -> None:
    backend = get(device)
    host, put = backend.to_host, backend.from_host
    layer = xrnn.GRU(3, 4, 2, dtype="float64", rng=0)
    xs = np.random.default_rng(0).normal(size=(5, 2, 3))
    vector, targets = vector_like(layer.weights), np.zeros((5, 2, 4))

    def near(targets: Any) -> Any:
        return lambda ys: xrnn.losses.huber(ys, targets, delta=0.1)

    expected = xrnn.hvp(layer, xs, near(targets), vector, lengths=[5, 2])
    _, (tangent, _) = xrnn.jvp(layer, xs, vector)
    there = xrnn.GRU(3, 4, 2, dtype="float64", rng=0, device=device)
    moved = {k: put(v) for k, v in vector.items()}
    found = xrnn.hvp(there, put(xs), near(put(targets)), moved, lengths=[5, 2])
    assert distance({k: host(a) for k, a in found.items()}, expected) < 1e-12
    assert distance(host(xrnn.jvp(there, put(xs), moved)[1][0]), tangent) < 1e-12


def test_layers_whose_products_round_have_no_such_derivatives() -> None:
    layer, xs = xrnn.LSTM(2, 3, precision="bf16"), np.ones((4, 1, 2), "float32")
    vector = {name: np.ones_like(w) for name, w in layer.weights.items()}
    for run in (
        lambda: xrnn.jvp(layer, xs, vector),
        lambda: xrnn.hvp(layer, xs, lambda y: (0.0, y), vector),
        lambda: xrnn.analysis.fixed_points(layer, layer.initial_state(2)),
    ):
        with pytest.raises(TypeError, match=r"lstm: precision is 'bf16' .* must be 'ieee' here"):
            run()
    layer.precision = "ieee"
    xrnn.jvp(layer, xs, vector)


@pytest.mark.parametrize("product", [xrnn.hvp, xrnn.gnvp])
def test_a_product_needs_a_vector(product: Any) -> None:
    def loss(ys: Any) -> Any:
        return (ys**2).sum(), 2 * ys

    with pytest.raises(TypeError, match="vector is None; it must be a tree of arrays"):
        product(xrnn.RNN(2, 3, dtype="float64"), np.ones((2, 1, 2)), loss, None)


def test_the_gradient_of_a_loss_can_be_checked() -> None:
    """`hvp` trusts it; `check_gradients` compares it with the value, as the documentation says."""
    rng = np.random.default_rng(0)
    layer, ys = xrnn.GRU(2, 3, dtype="float64", rng=0), rng.normal(size=(4, 2, 3))
    vector = vector_like(layer.weights)

    def loss(ys: Any, factor: float = 2.0) -> Any:
        return (ys**2).sum(), factor * ys

    def ok(factor: float) -> bool:
        def of(weights: Any) -> Any:
            value, dys = loss(weights["ys"], factor)
            return value, {"ys": dys}

        return xrnn.check_gradients(of, {"ys": ys}).ok

    assert ok(2.0)
    assert not ok(3.0)
    xs = rng.normal(size=(4, 2, 2))
    right, wrong = (xrnn.hvp(layer, xs, partial(loss, factor=f), vector) for f in (2.0, 3.0))
    assert distance(right, wrong) > 0.1
