"""How `xrnn.adapters.jax.apply` is used: shapes, keys, training, other libraries, refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the adapter is for JAX")

import jax.numpy as jnp  # noqa: E402

import xrnn  # noqa: E402
from xrnn import cells  # noqa: E402
from xrnn.adapters.jax import apply  # noqa: E402
from xrnn.adapters.jax.draws import Draws, drawn  # noqa: E402
from xrnn.cells.noise import Noise  # noqa: E402

T, B, I, H = 6, 4, 3, 5
RNG = np.random.default_rng(7)
XS = RNG.normal(size=(T, B, I))
LENGTHS = np.array([3, 6, 0, 1])
KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def _one_operation_after_the_other(request: pytest.FixtureRequest) -> Any:
    """Without compilation, but for the tests that are marked: it takes most of the time."""
    with jax.disable_jit("compiled" not in request.fixturenames):
        yield


@pytest.fixture
def compiled() -> None:
    """The test compiles."""


def lstm(**options: Any) -> Any:
    return xrnn.LSTM(I, H, **{"dtype": "float64", "rng": 3, **options})


def assert_same(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


class TestShapes:
    def test_batch_first(self) -> None:
        layer, xs = lstm(batch_first=True, bidirectional=True), np.swapaxes(XS, 0, 1)
        mask = RNG.random((B, T)) < 0.7
        found = apply(layer, dict(layer.weights), xs, lengths=LENGTHS, mask=mask)
        assert_same(found, layer(xs, lengths=LENGTHS, mask=mask))

    def test_one_sequence(self) -> None:
        layer, mask = lstm(num_layers=2), [True, False, True, True, True, True]
        found = apply(layer, layer.weights, XS[:, 0], mask=mask)
        assert_same(found, layer(XS[:, 0], mask=mask))
        found = apply(layer, layer.weights, XS[:, 0], lengths=4)
        assert_same((found[0][:4], found[1]), layer(XS[:4, 0]))
        assert not np.asarray(found[0][4:]).any()

    @pytest.mark.parametrize("shape", [(0, B), (T, 0), (0, 0), (1, 1)])
    def test_hardly_anything(self, shape: tuple[int, int], compiled: None) -> None:
        layer, xs = lstm(bidirectional=True), np.ones((*shape, I))
        lengths = np.full(shape[1], shape[0])
        found, back = jax.vjp(lambda w: apply(layer, w, xs, lengths=lengths), dict(layer.weights))
        assert_same(found, layer(xs, lengths=lengths))
        ys, state, tape = layer.forward(xs, lengths=lengths)
        ones = jax.tree.map(np.ones_like, (ys, state))
        assert_same(back(ones)[0], layer.backward(tape, *ones)[2])

    def test_states(self) -> None:
        """A part that is None is the initial one, learned or zeros; other widths are tuples."""
        layer = lstm(learn_state=True, num_layers=2)
        layer.weights |= {name: w + 1 for name, w in layer.weights.items() if "0_l" in name}
        h = RNG.normal(size=(2, B, H))
        states: list[Any] = [None, (None, None), (h, None), (None, h)]
        for state in states:
            assert_same(apply(layer, layer.weights, XS, state), layer(XS, state))
        layer = xrnn.Layer(cells.lstm_with(proj_size=2), I, (4, H), dtype="float64")
        uneven = (np.ones((2, B, 2)), (np.ones((B, 4)), np.zeros((B, H))))
        assert_same(apply(layer, layer.weights, XS, uneven), layer(XS, uneven))  # type: ignore[arg-type]

    def test_a_sequence_in_two_parts(self) -> None:
        layer = lstm(num_layers=2)
        first, state = apply(layer, layer.weights, XS[:2])
        rest, last = apply(layer, layer.weights, XS[2:], state)
        assert_same((jnp.concatenate([first, rest]), last), layer(XS))


class TestKeys:
    def test_dropout_between_layers(self) -> None:
        layer = lstm(num_layers=2, dropout=0.4)
        weights = dict(layer.weights)
        below, above = lstm(), xrnn.LSTM(H, H, dtype="float64")
        below.weights = {name: w for name, w in weights.items() if name.endswith("_l0")}
        above.weights = {name.replace("l1", "l0"): w for name, w in weights.items() if "l1" in name}
        between = below(XS)[0]
        mask = Draws(layer, KEY, between.dtype).between(jnp.ones(between.shape), 0)
        assert set(np.unique(mask).round(9)) == {0, round(1 / 0.6, 9)}
        found = apply(layer, weights, XS, key=KEY)
        assert_same(found[0], above(between * np.asarray(mask))[0])
        assert_same(apply(layer, weights, XS), layer(XS))

    def test_dropped_weights(self) -> None:
        layer, other = lstm(weight_drop=0.5), lstm()
        U, _ = Draws(layer, KEY, jnp.float64).of_cell({"U": jnp.ones((4 * H, H))}, 0, 0, XS.shape)
        other.weights["U_l0"] = other.weights["U_l0"] * np.asarray(U["U"])
        assert_same(apply(layer, layer.weights, XS, key=KEY), other(XS))

    def test_each_place_has_its_own_numbers(self) -> None:
        layer = xrnn.Layer(cells.gru_with(zoneout=0.3, recurrent_dropout=0.4), I, H, 2)
        draws = [Draws(layer, jax.random.key(seed), jnp.float32) for seed in (0, 0, 1)]
        places = [(n, k) for n in range(3) for k in range(2)]
        found = [draws[n].of_cell({}, k, 0, (T, B, I))[1] for n, k in places]
        same = [
            (a, b)
            for a in range(6)
            for b in range(a)
            if all(np.array_equal(found[a][name], found[b][name]) for name in found[a])
        ]
        assert same == [(2, 0), (3, 1)], "those of one seed and one layer"

    @pytest.mark.parametrize(("kind", "rate"), [("keep", 0.3), ("drop", 0.3), ("normal", 0.5)])
    def test_distributions(self, kind: Any, rate: float) -> None:
        found = np.asarray(drawn(KEY, Noise("x", kind, rate), (40000,), jnp.float64))
        mean, deviation = {
            "keep": (rate, (rate * (1 - rate)) ** 0.5),
            "drop": (1.0, (rate / (1 - rate)) ** 0.5),
            "normal": (0.0, rate),
        }[kind]
        assert found.mean() == pytest.approx(mean, abs=0.02)
        assert found.std() == pytest.approx(deviation, abs=0.02)

    def test_a_key_that_changes_nothing(self) -> None:
        layer = lstm()
        assert_same(apply(layer, layer.weights, XS, key=KEY), layer(XS))

    def test_a_key_of_the_old_kind(self) -> None:
        layer = lstm(num_layers=2, dropout=0.5)
        old = apply(layer, layer.weights, XS, key=jax.random.key_data(KEY))
        assert_same(old, apply(layer, layer.weights, XS, key=KEY))


W = {name: jnp.asarray(w) for name, w in lstm().weights.items()}
#: what is given → the message
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another part": ({"layer": xrnn.Linear(I, 2)}, "layer is a Linear; it must be a recurrent"),
    "a model": (
        {"layer": xrnn.Sequential(xrnn.GRU(I, H))},
        "layer is a Sequential; it must be a recurrent layer, such as xrnn.LSTM; write the other",
    ),
    "no weights": ({"weights": None}, "lstm: weights is a NoneType; it must be a mapping"),
    "a missing weight": (
        {"weights": {"W_l0": W["W_l0"]}},
        "lstm: weight U_l0 is missing; it must have shape (4·H, H) = (20, 5)",
    ),
    "another name": ({"weights": {**W, "V_l0": XS}}, "lstm: unknown weight 'V_l0'"),
    "another shape": (
        {"weights": {**W, "U_l0": W["U_l0"].T}},
        "lstm: U_l0 has shape (5, 20); it must be (4·H, H) = (20, 5)",
    ),
    "two dtypes": (
        {"weights": {**W, "b_l0": W["b_l0"].astype("float32")}},
        "lstm: b_l0 is float32 and W_l0 is float64; cast one of them",
    ),
    "complex weights": (
        {"weights": {name: w + 0j for name, w in W.items()}},
        "lstm: W_l0: dtype is dtype('complex128'); it must be 'float16' or 'bfloat16' or 'float32'",
    ),
    "lists": ({"weights": {**W, "W_l0": [1.0]}}, "W_l0 is a builtins.list; it must be an array"),
    "inputs of another dtype": (
        {"xs": XS.astype("float32")},
        "lstm: xs is float32 and W_l0 is float64; cast one of them",
    ),
    "inputs of another size": ({"xs": XS[..., :2]}, "lstm: xs has shape (6, 4, 2); it must be (T,"),
    "a list of inputs": ({"xs": XS.tolist()}, "xs is a builtins.list; it must be an array"),
    "another state": ({"state": (XS,)}, "lstm: state is 1 parts; it must be a tuple (h, c)"),
    "lengths that are too long": ({"lengths": [7, 1, 1, 1]}, "lengths go from 1 to 7; they must"),
    "too few lengths": (
        {"lengths": [1]},
        "lengths has shape (1,) and dtype int64; it must be (B,)",
    ),
    "a mask of numbers": ({"mask": XS[..., 0]}, "lstm: mask has shape (6, 4) and dtype float64"),
    "resets transposed": ({"resets": XS[..., 0].T > 0}, "it looks transposed: give resets.T"),
    "another output": ({"masked": "skip"}, "lstm: masked is 'skip'; it must be 'zero' or 'hold'"),
    "a seed": ({"key": 3}, "lstm: key is 3; it must be a key of jax.random, another one at every"),
    "several keys": ({"key": jax.random.split(KEY)}, "it must be a key of jax.random"),
}
#: the same for values that are unknown while JAX traces
TRACED: dict[str, tuple[dict[str, Any], str]] = {
    "too few lengths": ({"lengths": np.array([1])}, "it must be (B,) = (4,) integers"),
    "real lengths": ({"lengths": np.ones(B)}, "lengths has shape (4,) and dtype float64; it must"),
    "a mask of numbers": ({"mask": XS[..., 0]}, "it must be (T, B) = (6, 4) booleans"),
    "resets transposed": ({"resets": XS[..., 0].T > 0}, "it looks transposed: give resets.T"),
    "a state": ({"state": (XS, XS)}, "lstm: state h has shape (6, 4, 3); it must be (L·D, B, H)"),
    "lengths of one sequence": (
        {"lengths": np.array([1]), "xs": XS[:, 0]},
        "lengths has shape (1,) and dtype int64; it must be () integers",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str) -> None:
    change, message = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        apply(**{"layer": lstm(), "weights": W, "xs": XS, **change})


@pytest.mark.parametrize("what", TRACED)
def test_what_is_refused_while_jax_traces(what: str, compiled: None) -> None:
    change, message = TRACED[what]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        jax.jit(partial(apply, lstm()))(W, **{"xs": XS, **change})


def test_a_cell_of_a_user_without_a_gradient() -> None:
    def step_backward(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
        return *cells.Elman.step_backward(dstate, saved, weights, xp=xp)[:2], {}

    layer = xrnn.Layer(replace(cells.Elman, step_backward=step_backward), I, H, dtype="float64")
    with pytest.raises(ValueError, match=r"rnn: step_backward gives gradients of the weights \(\)"):
        jax.grad(lambda w: jnp.sum(apply(layer, w, XS)[0]))(dict(layer.weights))


def test_training_and_back_to_the_layer(compiled: None) -> None:
    """The weights go from the layer through JAX to the layer, and to NumPy."""
    layer = xrnn.GRU(1, 8, device="jax", rng=0)
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(12, 32, 1)).astype("float32")
    lengths = rng.integers(1, 13, 32)
    valid = np.arange(12)[:, None] < lengths
    targets = jnp.asarray((xs[..., 0] * valid).sum(0) > 0, "float32")

    def loss(weights: Any) -> Any:
        _, state = apply(layer, weights, xs, lengths=lengths)
        logits = jnp.sum(state.h[0], axis=1)
        return jnp.mean(jnp.logaddexp(0, logits) - targets * logits)

    def update(weights: Any) -> Any:
        value, dweights = jax.value_and_grad(loss)(weights)
        return jax.tree.map(lambda w, d: w - 0.3 * d, weights, dweights), value

    update = jax.jit(update)
    weights, values = dict(layer.weights), []
    for _ in range(60):
        weights, value = update(weights)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
    layer.weights = weights
    expected = apply(layer, weights, xs, lengths=lengths)[0]
    np.testing.assert_allclose(layer.to("cpu")(xs, lengths=lengths)[0], expected, atol=1e-5)


def test_a_layer_itself_while_jax_traces(compiled: None) -> None:
    """Its weights are constants then, and the loop over time is unrolled."""
    layer, xs = lstm(device="jax"), jnp.asarray(XS)
    expected = layer(xs, lengths=LENGTHS)[0]
    found = jax.jit(lambda xs: layer(xs, lengths=LENGTHS)[0])(xs)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    each = jax.vmap(lambda x: layer(x)[0], in_axes=1, out_axes=1)(xs)
    np.testing.assert_allclose(each, layer(xs)[0], atol=1e-12)
    ys, _, tape = layer.forward(xs)
    by_jax = jax.grad(lambda xs: jnp.sum(layer(xs)[0] ** 2))(xs)
    np.testing.assert_allclose(by_jax, layer.backward(tape, 2 * ys)[0], atol=1e-12)


class TestOtherLibraries:
    """The recipes of the guide, in models that learn."""

    def test_equinox(self, compiled: None) -> None:
        eqx = pytest.importorskip("equinox", reason="equinox is not installed")
        Base: Any = eqx.Module

        class Model(Base):  # type: ignore[misc]
            layer: Any = eqx.field(static=True)
            weights: dict[str, Any]

            def __call__(self, xs: Any) -> Any:
                return apply(self.layer, self.weights, xs)[0]

        layer = lstm(device="jax")
        model = Model(layer, dict(layer.weights))
        found = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m(XS) ** 2)))(model)
        self.assert_gradients(layer, found.weights)

    def test_flax_nnx(self, compiled: None) -> None:
        nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
        Base: Any = nnx.Module

        class Model(Base):  # type: ignore[misc]
            def __init__(self, layer: Any) -> None:
                self.layer, self.weights = layer, nnx.Param(dict(layer.weights))

            def __call__(self, xs: Any) -> Any:
                return apply(self.layer, self.weights.get_value(), xs)[0]

        layer = lstm(device="jax")
        found = nnx.jit(nnx.grad(lambda m: jnp.sum(m(XS) ** 2)))(Model(layer))
        self.assert_gradients(layer, found["weights"].get_value())

    def test_flax_linen(self, compiled: None) -> None:
        nn = pytest.importorskip("flax.linen", reason="flax is not installed")
        Base: Any = nn.Module

        class Model(Base):  # type: ignore[misc]
            layer: Any

            @nn.compact  # type: ignore[untyped-decorator]
            def __call__(self, xs: Any) -> Any:
                weights = self.param("rnn", lambda key: dict(self.layer.weights))
                return apply(self.layer, weights, xs)[0]

        layer = lstm(device="jax")
        model = Model(layer)
        params = model.init(KEY, XS)
        found = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, XS) ** 2)))(params)
        self.assert_gradients(layer, found["params"]["rnn"])

    def assert_gradients(self, layer: Any, found: Any) -> None:
        ys, _, tape = layer.forward(jnp.asarray(XS))
        assert_same(dict(found), layer.backward(tape, 2 * ys)[2])
