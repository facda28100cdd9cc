"""The layers: what the laws and the oracles do not say of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get
from xrnn.engine.parameters import count
from xrnn.layers.initialisation import draw

LAYERS: list[Any] = [xrnn.RNN, xrnn.LSTM, xrnn.GRU, xrnn.InputGatedLSTM]
every_layer = pytest.mark.parametrize("make", LAYERS, ids=lambda c: c.__name__)


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@every_layer
def test_steps_are_the_sequence(make: Any, device: str) -> None:
    layer = make(3, 4, num_layers=2, device=device)
    backend = get(device)
    xs = backend.from_host(noise(5, 2, 3))
    ys, last = layer(xs)
    state = None
    for t in range(5):
        y, state = layer.step(xs[t, ...], state)
        np.testing.assert_allclose(backend.to_host(y), backend.to_host(ys)[t], rtol=1e-5, atol=1e-6)
    for a, b in zip(state or (), last, strict=True):
        np.testing.assert_allclose(backend.to_host(a), backend.to_host(b), rtol=1e-5, atol=1e-6)


@every_layer
def test_batch_first_moves_the_axis_and_nothing_else(make: Any) -> None:
    xs = noise(5, 2, 3)
    time_first, batch_first = make(3, 4, rng=0), make(3, 4, batch_first=True, rng=0)
    ys, last, tape = time_first.forward(xs, lengths=[5, 3])
    zs, end, other = batch_first.forward(xs.transpose(1, 0, 2), lengths=[5, 3])
    np.testing.assert_array_equal(ys, zs.transpose(1, 0, 2))
    np.testing.assert_array_equal(last[0], end[0])
    dxs, _, _ = time_first.backward(tape, ys)
    dzs, _, _ = batch_first.backward(other, zs)
    np.testing.assert_array_equal(dxs, dzs.transpose(1, 0, 2))


def test_state_is_named_by_the_cell() -> None:
    _, state = xrnn.LSTM(3, 4, num_layers=2, bidirectional=True)(noise(5, 2, 3))
    assert state._fields == ("h", "c")
    assert state.c.shape == (4, 2, 4)  # type: ignore[attr-defined]


def test_one_layer_serves_many_threads() -> None:
    layer = xrnn.GRU(3, 4)
    inputs = [noise(20, 2, 3, seed=k) for k in range(16)]
    expected = [layer(xs)[0] for xs in inputs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda xs: layer(xs)[0], inputs))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


class TestDropout:
    def test_masks_are_the_same_on_every_backend(self, device: str) -> None:
        xs, outs = noise(6, 3, 3), []
        for where in ("cpu", device):
            layer = xrnn.LSTM(3, 8, num_layers=3, dropout=0.5, device=where)
            _, _, tape = layer.forward(get(where).from_host(xs), seed=11)
            outs.append([get(where).to_host(mask) for mask in tape.masks])
        assert len(outs[0]) == 2
        for a, b in zip(*outs, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_masks_depend_on_seed_and_layer(self) -> None:
        layer = xrnn.LSTM(3, 8, num_layers=3, dropout=0.5)
        masks = [layer.forward(noise(6, 3, 3), seed=s)[2].masks for s in (1, 1, 2)]
        np.testing.assert_array_equal(masks[0], masks[1])
        assert (masks[0][0] != masks[2][0]).any()
        assert (masks[0][0] != masks[0][1]).any()

    @pytest.mark.parametrize("seed", [None, True, 1.0, "1"])
    def test_a_seed_must_be_given(self, seed: Any) -> None:
        layer = xrnn.LSTM(3, 8, num_layers=3, dropout=0.5)
        with pytest.raises(ValueError, match=r"needs an integer, another one at every .*seed=step"):
            layer.forward(noise(6, 3, 3), seed=seed)

    def test_any_integer_is_a_seed(self) -> None:
        layer = xrnn.LSTM(3, 8, num_layers=2, dropout=0.5)
        for seed in (4, -1, 2**70):
            (mask,) = layer.forward(noise(6, 3, 3), seed=seed)[2].masks
            assert 0 < (mask > 0).mean() < 1
        found = [layer.forward(noise(6, 3, 3), seed=s)[2].masks for s in (4, np.int64(4))]  # type: ignore[arg-type]
        np.testing.assert_array_equal(found[0], found[1])

    def test_sizes_may_be_of_any_integer_kind(self) -> None:
        assert xrnn.RNN(3, 4).config() == xrnn.RNN(np.int64(3), np.int64(4)).config()  # type: ignore[arg-type]

    def test_masks_keep_the_mean(self) -> None:
        layer = xrnn.RNN(3, 64, num_layers=2, dropout=0.3)
        (mask,) = layer.forward(noise(50, 20, 3), seed=0)[2].masks
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}
        assert abs(float(mask.mean()) - 1) < 0.01

    def test_the_bits_stay_what_they_are(self) -> None:
        from xrnn.backends.host import counter_bits

        bits = counter_bits(7, 1, 3).tolist()
        assert bits == [16278639771243212573, 6807555713146629974, 9538252321840362231]

    def test_inference_drops_nothing(self) -> None:
        plain, dropping = xrnn.LSTM(3, 4, 2, rng=0), xrnn.LSTM(3, 4, 2, dropout=0.9, rng=0)
        np.testing.assert_array_equal(plain(noise(5, 2, 3))[0], dropping(noise(5, 2, 3))[0])


class TestInitialisation:
    def test_u_is_orthogonal_w_glorot_and_the_forget_bias_one(self) -> None:
        w = draw(xrnn.cells.LSTM, 10, 6, rng=3)
        for k in range(4):
            block = w["U"][6 * k : 6 * k + 6]
            np.testing.assert_allclose(block @ block.T, np.eye(6), atol=1e-12)
        limit = (6 / 16) ** 0.5
        assert 0.9 * limit < abs(w["W"]).max() <= limit
        np.testing.assert_array_equal(w["b"], np.repeat([0, 1, 0, 0], 6))

    def test_uniform_is_pytorchs(self) -> None:
        w = draw(xrnn.cells.GRU, 3, 16, init="uniform", rng=0)
        for array in w.values():
            assert 0.15 < abs(array).max() <= 0.25

    def test_a_seed_gives_the_same_weights_everywhere(self, device: str) -> None:
        here, there = xrnn.GRU(3, 4, rng=5), xrnn.GRU(3, 4, rng=5, device=device)
        for name, w in here.weights.items():
            np.testing.assert_array_equal(w, get(device).to_host(there.weights[name]))
        assert count(here.weights) == 3 * 4 * (3 + 4 + 1) + 4

    def test_a_generator_goes_on(self) -> None:
        rng = np.random.default_rng(0)
        first, second = xrnn.RNN(3, 4, rng=rng), xrnn.RNN(3, 4, rng=rng)
        assert (first.weights["W_l0"] != second.weights["W_l0"]).any()

    def test_without_a_seed_no_two_layers_are_equal(self) -> None:
        first, second = xrnn.RNN(3, 4), xrnn.RNN(3, 4)
        assert (first.weights["W_l0"] != second.weights["W_l0"]).any()


def test_layers_move_between_libraries(device: str) -> None:
    layer = xrnn.LSTM(3, 4)
    xs = noise(5, 2, 3)
    before = layer(xs)[0]
    assert layer.to(device) is layer
    there = layer(get(device).from_host(xs))[0]
    np.testing.assert_allclose(before, get(device).to_host(there), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(before, layer.to("cpu")(xs)[0])


L = xrnn.LSTM(3, 4, num_layers=2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: xrnn.LSTM(0, 4), ValueError, "lstm: input_size is 0; it must be an integer ≥ 1"),
        (
            lambda: xrnn.Layer(xrnn.cells.LSTM, 3, True),
            ValueError,
            "lstm: hidden_size is True; it must be an integer ≥ 1",
        ),
        (lambda: xrnn.LSTM(3, 4, dropout=1.0), ValueError, "lstm: dropout is 1.0; it must be in"),
        (
            lambda: xrnn.LSTM(3, 4, dropout=0.5),
            ValueError,
            "lstm: dropout is 0.5 and num_layers is 1; it acts between layers",
        ),
        (
            lambda: xrnn.LSTM(3, 4, batch_first="False"),  # type: ignore[arg-type]
            TypeError,
            "lstm: batch_first is 'False'; it must be True or False",
        ),
        (
            lambda: xrnn.LSTM(3, 4, bidirectional=True, reverse=True),
            ValueError,
            "lstm: bidirectional and reverse exclude each other",
        ),
        (
            lambda: xrnn.LSTM(3, 4, reverse=True).step(noise(2, 3)),
            ValueError,
            "lstm: a reverse layer cannot step; make one with reverse=False",
        ),
        (lambda: xrnn.RNN(3, 5, 1, "relu"), TypeError, "RNN.__init__() takes from 3 to 4"),  # type: ignore[misc]
        (lambda: xrnn.LSTM(3, 4, dtype="int8"), ValueError, "lstm: dtype is 'int8'; it must be"),  # type: ignore[arg-type]
        (
            lambda: xrnn.LSTM(3, 4, init="zeros"),  # type: ignore[arg-type]
            ValueError,
            "lstm: init is 'zeros'; it must be 'orthogonal' or",
        ),
        (
            lambda: xrnn.GRU(3, 4, reset="never"),  # type: ignore[arg-type]
            ValueError,
            "gru: reset is 'never'; it must be 'after' or 'before'",
        ),
        (
            lambda: xrnn.RNN(3, 4, nonlinearity="sin"),  # type: ignore[arg-type]
            ValueError,
            "rnn: nonlinearity is 'sin'; it must be 'tanh' or 'relu'",
        ),
        (
            lambda: xrnn.LSTM(3, 4, device="no_such_library"),
            ImportError,
            "backend 'no_such_library': no_such_library is not installed",
        ),
        (lambda: xrnn.LSTM(3, 4, device="json"), ValueError, "backend 'json' is unknown; it must"),
        (
            lambda: L(noise(5, 2, 4)),
            ValueError,
            "lstm: xs has shape (5, 2, 4); it must be (T, B, I), or (T, I), with I = 3",
        ),
        (lambda: L(noise(3)), ValueError, "lstm: xs has shape (3,); it must be (T, B, I), or (T,"),
        (
            lambda: L(noise(5, 2, 3), (noise(1, 2, 4), noise(2, 2, 4))),
            ValueError,
            "lstm: state h has shape (1, 2, 4); it must be (L·D, B, H) = (2, 2, 4)",
        ),
        (
            lambda: L(noise(5, 2, 3), (0.0, noise(2, 2, 4))),
            TypeError,
            "state h is a builtins.float; it must be an array",
        ),
        (
            lambda: L.step(noise(2, 4)),
            ValueError,
            "lstm: x has shape (2, 4); it must be (B, I), or (I,), with I = 3",
        ),
        (
            lambda: xrnn.LSTM(3, 4, bidirectional=True).step(noise(2, 3)),
            ValueError,
            "lstm: a bidirectional layer cannot step; make one with bidirectional=False",
        ),
        (
            lambda: xrnn.GRU(3, 4).backward(L.forward(noise(5, 2, 3))[2]),  # type: ignore[arg-type]
            ValueError,
            "gru: the tape was made by another layer",
        ),
        (
            lambda: xrnn.LSTM(3, 4, num_layers=2).backward(L.forward(noise(5, 2, 3))[2]),
            ValueError,
            "lstm: the tape was made by another layer",
        ),
        (
            lambda: L.backward(noise(5, 2, 4), L.forward(noise(5, 2, 3))[2]),
            TypeError,
            "lstm: tape is a ndarray; it must be the tape that forward returned",
        ),
        (
            lambda: L.forward(noise(5, 3), lengths=[5]),
            ValueError,
            "lstm: lengths are of a batch; cut the one sequence instead",
        ),
        (
            lambda: L.backward(L.forward(noise(5, 2, 3))[2], noise(5, 2, 5)),
            ValueError,
            "lstm: dys has shape (5, 2, 5); it must be (T, B, D·H) = (5, 2, 4)",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_reverse_is_the_reverse_direction_alone() -> None:
    xs, lengths = noise(5, 3, 3), [5, 0, 2]
    both, one = xrnn.LSTM(3, 4, bidirectional=True), xrnn.LSTM(3, 4, reverse=True)
    one.weights = {name: both.weights[f"{name}_reverse"] for name in one.weights}
    ys, last = both(xs, lengths=lengths)
    zs, end = one(xs, lengths=lengths)
    np.testing.assert_array_equal(zs, ys[..., 4:])
    np.testing.assert_array_equal(end.c[0], last.c[1])


def test_repr_says_what_was_chosen() -> None:
    assert repr(xrnn.LSTM(3, 4)) == "<LSTM(3, 4): lstm>"
    layer = xrnn.RNN(3, 4, 2, nonlinearity="relu", bidirectional=True, dtype="float64").freeze()
    words = "num_layers=2, bidirectional=True, dtype='float64'"
    assert repr(layer) == f"<RNN(3, 4, {words}): rnn-relu, frozen>"


def test_options_are_fixed_when_the_layer_is_made() -> None:
    layer = xrnn.LSTM(3, 4)
    for name, value in (("batch_first", True), ("hidden_size", 8), ("dtype", "float64")):
        with pytest.raises(AttributeError, match=f"LSTM: {name} is .* and cannot be changed"):
            setattr(layer, name, value)
    layer.precision = "tf32"
    with pytest.raises(AttributeError, match="Linear: activation is None and cannot be changed"):
        xrnn.Linear(3, 4).activation = "relu"
