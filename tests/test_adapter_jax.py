"""Layers as pure functions of JAX: values and gradients of `apply` under jit, grad and vmap.

They are compared with the same layer in NumPy, and with JAX's own gradients of the forward pass.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the adapter is for JAX")

import jax.numpy as jnp  # noqa: E402
from rows import MADE, NOISY, ROWS  # noqa: E402

import xrnn  # noqa: E402
from xrnn import cells  # noqa: E402
from xrnn.adapters.jax import apply, recurrence  # noqa: E402
from xrnn.cells import lstm  # noqa: E402

T, B, I, H = 5, 4, 3, 5
RNG = np.random.default_rng(7)
XS = RNG.normal(size=(T, B, I))
LENGTHS = np.array([3, 5, 0, 1])
MASK, RESETS = RNG.random((T, B)) < 0.7, RNG.random((T, B)) < 0.3

every_row = pytest.mark.parametrize("cell", [row.cell for row in ROWS], ids=lambda cell: cell.name)

#: directions, and whether there are lengths
WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    "forward": ({}, False),
    "reverse, lengths": ({"reverse": True}, True),
    "both, lengths": ({"bidirectional": True}, True),
}


def made(cell: Any, **options: Any) -> Any:
    return xrnn.Layer(cell, I, H, **{"dtype": "float64", "rng": 3, **options})


def random_like(arrays: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.normal(size=a.shape), arrays)


def gradients(layer: Any, given: Any, dresults: Any, **how: Any) -> tuple[Any, Any]:
    """What `apply` gives for (weights, xs, state), and the gradients of these by ours."""

    def loss(given: Any, how: Any) -> Any:
        weights, xs, state = given
        results = apply(layer, weights, xs, state, **how)
        parts = zip(jax.tree.leaves(results), jax.tree.leaves(dresults), strict=True)
        return sum(jnp.sum(jnp.where(d == 0, 0, a * d)) for a, d in parts), results

    found, results = jax.jit(jax.grad(loss, has_aux=True))(given, how)
    return results, found


def expected(layer: Any, given: Any, dresults: Any, **how: Any) -> tuple[Any, Any]:
    """The same by NumPy."""
    _, xs, state = given
    ys, last, tape = layer.forward(xs, state, **how)
    dxs, dstate, dweights = layer.backward(tape, *dresults)
    return (ys, last), (dweights, dxs, dstate)


def assert_same(found: Any, wanted: Any, bound: float = 1e-11) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=bound)


def arguments(layer: Any) -> tuple[Any, Any]:
    """Weights, inputs and state of a layer, and the gradients of its results."""
    state = random_like(layer.initial_state(B), 1)
    ys = np.zeros((T, B, layer.directions * layer.widths(layer.num_layers - 1)[0]))
    return (dict(layer.weights), XS, state), random_like((ys, state), 2)


@every_row
@pytest.mark.parametrize("way", WAYS)
def test_values_and_gradients(cell: Any, way: str) -> None:
    options, some = WAYS[way]
    layer = made(cell, **options)
    given, dresults = arguments(layer)
    how = {"lengths": LENGTHS} if some else {}
    assert_same(gradients(layer, given, dresults, **how), expected(layer, given, dresults, **how))


def without_jit(layer: Any, given: Any, dresults: Any, *, lengths: Any = None, **how: Any) -> Any:
    """As `gradients`; JAX runs each operation by itself, which saves the time to compile."""
    with jax.disable_jit():
        function = partial(apply, layer, lengths=lengths, **how)
        results, back = jax.vjp(function, *given)
        return results, back((dresults[0], type(results[1])(*dresults[1])))


@pytest.mark.parametrize("cell", MADE, ids=lambda cell: cell.name)
def test_cells_with_options(cell: Any) -> None:
    layer = made(cell, reverse=True)
    given, dresults = arguments(layer)
    found = without_jit(layer, given, dresults, lengths=LENGTHS)
    assert_same(found, expected(layer, given, dresults, lengths=LENGTHS), 1e-9)


def test_many_layers() -> None:
    layer = xrnn.LSTM(I, (4, 2), bidirectional=True, dtype="float64", bias=False, rng=3)
    given, dresults = arguments(layer)
    how = {"lengths": LENGTHS, "mask": MASK, "resets": RESETS}
    assert_same(gradients(layer, given, dresults, **how), expected(layer, given, dresults, **how))


#: lengths, masks and resets together
STEPS: dict[str, dict[str, Any]] = {
    "lengths": {"lengths": LENGTHS},
    "mask": {"mask": MASK},
    "resets": {"resets": RESETS},
    "mask, resets": {"mask": MASK, "resets": RESETS},
    "all": {"lengths": LENGTHS, "mask": MASK, "resets": RESETS},
    "nothing is left": {"mask": np.zeros((T, B), bool), "resets": RESETS},
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("masked", ["zero", "hold"])
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"num_layers": 2}])
def test_masks_and_resets(steps: str, masked: str, options: Any) -> None:
    layer = made(cells.LSTM, **options, learn_state=True)
    given, dresults = arguments(layer)
    how = {**STEPS[steps], "masked": masked}
    wanted = expected(layer, given, dresults, **how)
    assert_same(without_jit(layer, given, dresults, **how), wanted)


def test_values_that_are_unknown_while_jax_traces() -> None:
    """One compilation serves other lengths, masks and resets of the same shapes."""
    layer = made(cells.GRU, bidirectional=True)
    given, dresults = arguments(layer)
    function = jax.jit(lambda given, how: apply(layer, *given, **how))
    for lengths, mask, resets in (
        (LENGTHS, MASK, RESETS),
        (LENGTHS[::-1].copy(), ~MASK, ~RESETS),
        (np.full(B, T), MASK | True, RESETS & False),
    ):
        how = {"lengths": lengths, "mask": mask, "resets": resets}
        (ys, last), _ = expected(layer, given, dresults, **how)
        assert_same(function(given, how), (ys, last))
    assert function._cache_size() == 1
    far = {"lengths": np.array([-3, T + 9, 2, T])}
    near = {"lengths": np.array([0, T, 2, T])}
    assert_same(function(given, far), function(given, near), 0)


@every_row
def test_vmap_over_sequences_and_their_lengths(cell: Any) -> None:
    """One sequence (T, I) with its own length, mapped over the batch."""
    layer = made(cell)
    (weights, _, _), (dys, _) = arguments(layer)

    def loss(weights: Any, x: Any, n: Any, dy: Any) -> Any:
        return jnp.sum(apply(layer, weights, x, lengths=n)[0] * dy)

    grads = jax.vmap(jax.value_and_grad(loss, argnums=(0, 1)), in_axes=(None, 1, 0, 1))
    values, (dweights, dxs) = jax.jit(grads)(weights, XS, LENGTHS, dys)
    ys, _, tape = layer.forward(XS, lengths=LENGTHS)
    wanted, _, total = layer.backward(tape, dys)
    np.testing.assert_allclose(values, (ys * dys).sum((0, 2)), atol=1e-11)
    np.testing.assert_allclose(np.moveaxis(dxs, 0, 1), wanted, atol=1e-11)
    for name, d in dweights.items():
        np.testing.assert_allclose(d.sum(0), total[name], atol=1e-11)


def test_vmap_over_weights_and_batches() -> None:
    """An ensemble: several weights over the same padded batch, or over one batch each."""
    layers = [made(cells.LSTM, rng=seed) for seed in range(3)]
    weights = jax.tree.map(lambda *w: jnp.stack(w), *[dict(layer.weights) for layer in layers])
    function = partial(apply, layers[0])
    lengths = np.stack([LENGTHS, LENGTHS[::-1], LENGTHS])
    same = jax.jit(jax.vmap(function, (0, None, None, None)))(weights, XS, None, LENGTHS)
    own = jax.jit(jax.vmap(function))(weights, np.stack([XS, 2 * XS, -XS]), None, lengths)
    for k, layer in enumerate(layers):
        pick = partial(jax.tree.map, lambda a, k=k: a[k])
        assert_same(pick(same), layer(XS, lengths=LENGTHS))
        assert_same(pick(own), layer((1, 2, -1)[k] * XS, lengths=lengths[k]))


@every_row
def test_our_gradients_are_those_of_the_plain_forward_pass(
    cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By JAX's automatic differentiation, without the backward pass of the cell."""
    mine, by_jax = _both(made(cell), monkeypatch)
    assert_same(mine, by_jax)


@pytest.mark.parametrize("wrong", ["dax", "dh", "dc", "U"])
def test_a_wrong_backward_pass_is_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def step_backward(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
        dax, (dh, dc), parts = lstm.step_backward(dstate, saved, weights, xp=xp)
        ((rows, operand),) = parts["U"]
        factor = {name: 1.01 if name == wrong else 1.0 for name in ("dax", "dh", "dc", "U")}
        dax, dh, dc = factor["dax"] * dax, factor["dh"] * dh, factor["dc"] * dc
        return dax, (dh, dc), {"U": ((factor["U"] * rows, operand),)}

    layer = made(replace(cells.LSTM, step_backward=step_backward))
    mine, by_jax = _both(layer, monkeypatch)
    with pytest.raises(AssertionError):
        assert_same(mine, by_jax, 1e-6)


def _both(layer: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The gradients by the backward pass of the cell, and by JAX."""
    given, dresults = arguments(layer)
    how, found = {"lengths": LENGTHS, "resets": RESETS}, []
    for run in (recurrence.run, recurrence.run.fun):
        monkeypatch.setattr("xrnn.adapters.jax.pure.run", run)
        found.append(without_jit(layer, given, dresults, **how)[1])
    return found[0], found[1]


@pytest.mark.parametrize("cell", NOISY, ids=lambda cell: cell.name)
def test_cells_that_draw_random_numbers(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key our gradients are those of the forward pass with the same numbers; without one
    the results are those of inference."""
    layer = made(cell)
    given, dresults = arguments(layer)
    found: list[Any] = []
    how = {"lengths": LENGTHS}
    assert_same(without_jit(layer, given, dresults, **how)[0], layer(*given[1:], **how))
    for run in (recurrence.run, recurrence.run.fun):
        monkeypatch.setattr("xrnn.adapters.jax.pure.run", run)
        found.append(without_jit(layer, given, dresults, **how, key=jax.random.key(5)))
    assert_same(found[0], found[1])
    with pytest.raises(AssertionError):
        assert_same(found[0][0], layer(*given[1:], **how))


@every_row
@pytest.mark.parametrize("where", ["all", "of no step"])
def test_nothing_comes_from_the_padding(cell: Any, where: str) -> None:
    """Whatever stands there, also in states of sequences without a step; gradients are 0."""
    layer = made(cell, reverse=True)
    (weights, xs, state), dresults = arguments(layer)
    wanted = expected(layer, (weights, xs, state), dresults, lengths=LENGTHS)
    outside = np.arange(T)[:, None] >= LENGTHS
    xs = np.where(outside[..., None], np.nan, xs)
    dresults = (np.where(outside[..., None], np.inf, dresults[0]), dresults[1])
    if where == "of no step":
        state = type(state)(*(np.where(LENGTHS[:, None] == 0, np.nan, part) for part in state))
    results, found = without_jit(layer, (weights, xs, state), dresults, lengths=LENGTHS)
    assert_same((results[0], found), (wanted[0][0], wanted[1]))
    assert not np.asarray(results[0])[outside].any()
    assert not np.asarray(found[1])[outside].any()


def test_an_infinite_weight_does_not_reach_the_padding() -> None:
    layer = made(cells.GRU)
    (weights, xs, state), dresults = arguments(layer)
    weights = {**weights, "W_l0": np.full_like(weights["W_l0"], np.inf)}
    results, (_, dxs, dstate) = without_jit(layer, (weights, xs, state), dresults, lengths=LENGTHS)
    outside = np.arange(T)[:, None] >= LENGTHS
    assert not np.asarray(results[0])[outside].any()
    assert not np.asarray(dxs)[outside].any()
    assert np.isnan(np.asarray(dxs)[~outside]).all(), "as where there is no padding"
    idle = LENGTHS == 0
    assert_same(dstate.h[0, idle], dresults[1].h[0, idle])


@pytest.mark.parametrize(
    ("dtype", "cell"),
    [
        *(("bfloat16", row.cell) for row in ROWS),
        *(("float32", cell) for cell in (cells.LSTM, cells.MinGRU)),
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_smaller_dtypes(dtype: str, cell: Any) -> None:
    """Within rounding of float64; all results have the dtype."""
    layer = made(cell)
    given, dresults = arguments(layer)
    kind = jnp.dtype(dtype)
    given, dresults = jax.tree.map(lambda a: jnp.asarray(a, kind), (given, dresults))
    found = without_jit(layer, given, dresults, lengths=LENGTHS)
    assert {a.dtype for a in jax.tree.leaves(found)} == {kind}
    given, dresults = jax.tree.map(lambda a: np.asarray(a, "float64"), (given, dresults))
    wide = made(cell)
    wide.weights = given[0]
    found = jax.tree.map(lambda a: np.asarray(a, "float64"), found)
    assert_same(
        found, expected(wide, given, dresults, lengths=LENGTHS), 8 * float(jnp.finfo(kind).eps)
    )


def test_what_is_compiled_does_not_grow_with_time() -> None:
    layer, texts = made(cells.LSTM, num_layers=2, bidirectional=True), []
    for steps in (5, 500):
        xs = np.zeros((steps, B, I))
        loss = jax.grad(lambda w, xs=xs: jnp.sum(apply(layer, w, xs, lengths=[5, 2, 0, 3])[0]))
        texts.append(str(jax.make_jaxpr(loss)(dict(layer.weights))))
    operations = [text.count(" = ") for text in texts]
    assert operations[0] == operations[1] > 100, "those inside loops are counted"


def test_one_compilation_for_each_shape() -> None:
    layer = made(cells.MinGRU)
    step = jax.jit(jax.grad(lambda w, xs: jnp.sum(apply(layer, w, xs)[0])))
    for k in range(3):
        for steps in (4, 5):
            step({name: w + k for name, w in layer.weights.items()}, XS[:steps])
    assert step._cache_size() == 2


def test_second_derivatives() -> None:
    """Those of the backward pass; forward mode is refused by JAX."""
    layer = made(cells.GRU)
    weights, plain = dict(layer.weights), recurrence.run.fun

    def norm(function: Any, xs: Any) -> Any:
        return jnp.sum(jax.grad(lambda xs: jnp.sum(function(xs) ** 2))(xs) ** 2)

    def mine(xs: Any) -> Any:
        return apply(layer, weights, xs)[0]

    def by_jax(xs: Any) -> Any:
        own = {name.removesuffix("_l0"): w for name, w in weights.items()}
        zeros = (jnp.zeros((B, H)),)
        return plain(cells.GRU, False, own, xs, zeros, None, recurrence.Steps(None), {})[0]

    found = [jax.jit(jax.grad(partial(norm, f)))(XS) for f in (by_jax, mine)]
    np.testing.assert_allclose(found[1], found[0], atol=1e-10)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(mine, (XS,), (XS,))
