"""What goes in and out of a layer: one sequence alone, states, tapes, and who owns their memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get

LAYERS: list[Any] = [xrnn.RNN, xrnn.LSTM, xrnn.GRU, xrnn.InputGatedLSTM]
every_layer = pytest.mark.parametrize("make", LAYERS, ids=lambda c: c.__name__)


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class TestUnbatched:
    """One sequence (T, I), one input (I,): as in a batch of one, without the axis B."""

    @every_layer
    @pytest.mark.parametrize(
        "options", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}], ids=str
    )
    def test_sequences(self, make: Any, options: dict[str, Any], device: str) -> None:
        layer, backend = make(3, 4, device=device, **options), get(device)
        host, xs = backend.to_host, backend.from_host(noise(5, 3))
        batch_axis = 0 if options.get("batch_first") else 1
        state = layer(backend.xp.expand_dims(xs, axis=batch_axis))[1]
        ys, last, tape = layer.forward(backend.xp.expand_dims(xs, axis=batch_axis), state)
        alone = tuple(s[:, 0, :] for s in state)
        y1, last1, tape1 = layer.forward(xs, alone)
        np.testing.assert_array_equal(host(y1), host(ys).squeeze(batch_axis))
        grads, grads1 = layer.backward(tape, ys, last), layer.backward(tape1, y1, last1)
        np.testing.assert_array_equal(host(grads1[0]), host(grads[0]).squeeze(batch_axis))
        for a, b in ((last1, last), (grads1[1], grads[1])):
            for one, many in zip(a, b, strict=True):
                np.testing.assert_array_equal(host(one), host(many)[:, 0])
        for name, d in grads[2].items():
            np.testing.assert_array_equal(host(grads1[2][name]), host(d))
        np.testing.assert_array_equal(host(layer(xs, alone)[0]), host(y1))
        values, expected = xrnn.analysis.gates(tape1), xrnn.analysis.gates(tape)
        for name, a in values.items():
            np.testing.assert_array_equal(host(a), host(expected[name]).squeeze(batch_axis))

    @every_layer
    def test_steps(self, make: Any, device: str) -> None:
        layer, backend = make(3, 4, num_layers=2, device=device), get(device)
        host, x = backend.to_host, backend.from_host(noise(3))
        y, state = layer.step(x[None, :])
        y1, state1 = layer.step(x)
        np.testing.assert_array_equal(host(y1), host(y)[0])
        y, state = layer.step(x[None, :], state)
        y1, state1 = layer.step(x, state1)
        np.testing.assert_array_equal(host(y1), host(y)[0])
        for a, b in zip(state1, state, strict=True):
            np.testing.assert_array_equal(host(a), host(b)[:, 0])


class TestGivenStates:
    def test_a_part_that_is_none_is_zeros(self, device: str) -> None:
        layer, backend = xrnn.LSTM(3, 4, device=device), get(device)
        xs, h = backend.from_host(noise(5, 2, 3)), backend.from_host(noise(1, 2, 4))
        zero = backend.from_host(noise(1, 2, 4) * 0)
        for given, full in [((h, None), (h, zero)), ([None, h], (zero, h)), (None, (zero, zero))]:
            for a, b in (
                (layer(xs, given), layer(xs, full)),
                (layer.step(xs[0, ...], given), layer.step(xs[0, ...], full)),
            ):
                np.testing.assert_array_equal(backend.to_host(a[0]), backend.to_host(b[0]))
        assert layer.initial_state(2).c.shape == (1, 2, 4)

    def test_a_part_of_a_gradient_that_is_none_is_zeros(self, device: str) -> None:
        put, host = get(device).from_host, get(device).to_host
        layer = xrnn.LSTM(3, 4, device=device)
        weights = {name: layer.weights[f"{name}_l0"] for name in ("W", "U", "b")}
        xs, h = put(noise(5, 2, 3)), noise(1, 2, 4)
        tape, of_cell = layer.forward(xs)[2], xrnn.unroll(xrnn.cells.LSTM, weights, xs)[2]
        zero = put(h * 0)
        for given, full in [
            ((put(h), None), (put(h), zero)),
            ((None, put(h)), (zero, put(h))),
            (None, (zero, zero)),
        ]:
            found, expected = layer.backward(tape, None, given), layer.backward(tape, None, full)
            alone = None if given is None else [s if s is None else s[0, ...] for s in given]
            one = xrnn.unroll_backward(of_cell, None, alone)
            for other in (found, one):
                np.testing.assert_allclose(host(other[0]), host(expected[0]), rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("T", [0, 1, 5])
    @pytest.mark.parametrize("cell", xrnn.cells.BY_NAME.values(), ids=lambda cell: cell.name)
    def test_what_is_returned_shares_no_memory(self, cell: Any, T: int) -> None:
        """Neither outputs with states, nor either with what was given, nor with the tape."""
        layer = xrnn.Layer(cell, 3, 4)
        xs, state = noise(T, 2, 3), layer(noise(1, 2, 3))[1]
        expected = None
        for _ in range(2):
            ys, last, tape = layer.forward(xs, state)
            if expected is None:
                expected = layer.backward(tape, np.ones_like(ys), last)
                continue
            for s in (*last, *layer(xs, state)[1]):
                assert not np.shares_memory(s, ys)
                assert not any(np.shares_memory(s, given) for given in (*state, xs))
            dlast = tuple(s.copy() for s in last)
            for s in last:
                s *= 0
            found = layer.backward(tape, np.ones_like(ys), dlast)
            for a, b in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
                np.testing.assert_array_equal(a, b)
            for d in found[1]:
                assert not any(np.shares_memory(d, given) for given in dlast)
        if T:
            y, after = layer.step(xs[0], state)
            assert not any(np.shares_memory(y, s) for s in after)


class TestTapes:
    def test_outputs_are_read_only_where_backward_reads_them(self) -> None:
        layer = xrnn.GRU(3, 4)
        ys, _, tape = layer.forward(noise(5, 2, 3))
        with pytest.raises(ValueError, match="read-only"):
            ys *= 2
        with pytest.raises(ValueError, match="WRITEABLE"):
            ys.setflags(write=True)
        layer.backward(tape, ys)
        ys, _ = layer(noise(5, 2, 3))
        ys *= 2  # of inference nothing is kept

    def test_weights_that_have_changed_are_noticed(self) -> None:
        layer = xrnn.GRU(3, 4)
        ys, _, tape = layer.forward(noise(5, 2, 3))
        _, _, dweights = layer.backward(tape, ys)
        _, _, other = layer.forward(noise(5, 2, 3))
        xrnn.optim.SGD(0.1).update(layer.weights, dweights)
        for use in (lambda: layer.backward(other, ys), lambda: xrnn.analysis.gates(tape)):
            with pytest.raises(ValueError, match="gru: the weights have changed since the forward"):
                use()
        ys, _, tape = layer.forward(noise(5, 2, 3))
        layer.weights = dict(layer.weights)
        with pytest.raises(ValueError, match="the weights have changed"):
            layer.backward(tape, ys)

    def test_a_tape_goes_where_it_came_from(self) -> None:
        layer = xrnn.GRU(3, 4)
        weights = {k: layer.weights[f"{k}_l0"] for k in ("W", "U", "b", "v")}
        _, _, of_cell = xrnn.unroll(xrnn.cells.GRU, weights, noise(5, 2, 3))
        _, _, of_layer = layer.forward(noise(5, 2, 3))
        with pytest.raises(ValueError, match=r"made by xrnn.unroll; use xrnn.unroll_backward"):
            layer.backward(of_cell)
        with pytest.raises(ValueError, match="made by a layer; call backward of that layer"):
            xrnn.unroll_backward(of_layer)
        with pytest.raises(TypeError, match="tape is a NoneType; it must be the tape that"):
            xrnn.unroll_backward(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", xrnn.cells.BY_NAME.values(), ids=lambda cell: cell.name)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_state_of_a_sequence_without_a_step_reaches_no_sum(
    cell: Any, reverse: bool, device: str
) -> None:
    backend = get(device)
    layer = xrnn.Layer(cell, 3, 4, reverse=reverse, device=device, rng=0)
    xs, given = backend.from_host(noise(5, 2, 3)), noise(1, 2, 4)
    given[:, 1] = np.nan
    state = [backend.from_host(given) for _ in cell.states]
    ys, last, tape = layer.forward(xs, state, [5, 0])
    dxs, dfirst, dweights = layer.backward(tape, ys, state)
    for a in (ys, dxs, *dweights.values()):
        assert np.isfinite(backend.to_host(a)).all()
    for a in (*last, *dfirst):
        found = backend.to_host(a)
        assert np.isfinite(found[:, 0]).all()
        assert np.isnan(found[:, 1]).all()


def test_a_state_handed_on_by_a_cell_shares_no_memory() -> None:
    def step(ax: Any, state: Any, weights: Any, *, xp: Any) -> Any:
        h = xp.tanh(ax)
        return (h, state[1], h), (h,)

    def back(dstate: Any, saved: Any, weights: Any, *, xp: Any) -> Any:
        da = (dstate[0] + dstate[2]) * (1 - saved[0] ** 2)
        return da, (xp.zeros_like(da), dstate[1], xp.zeros_like(da)), {}

    states = ("h", "kept", "again")
    cell: Any = xrnn.cells.Cell("own", ("z",), step, back, states=states, recurrent=False)
    layer = xrnn.Layer(cell, 3, 4)
    state = [noise(1, 2, 4) for _ in states]
    ys, _, tape = layer.forward(noise(3, 2, 3), state)
    for found in (
        layer(noise(3, 2, 3), state)[1],
        layer(noise(1, 2, 3), state)[1],
        layer.step(noise(2, 3), state)[1],
        layer.backward(tape, ys, state)[1],
    ):
        assert not any(np.shares_memory(a, b) for a in found for b in state)
        assert not np.shares_memory(found[0], found[2])


@pytest.mark.parametrize("run", ["call", "forward", "step"])
def test_a_layer_is_freed_at_once(run: str) -> None:
    layer = xrnn.LSTM(3, 4)
    if run == "call":
        layer(noise(5, 2, 3))
    elif run == "step":
        layer.step(noise(2, 3))
    else:
        ys, _, tape = layer.forward(noise(5, 2, 3))
        layer.backward(tape, ys)
        del ys, tape
    found = weakref.ref(layer)
    gc.disable()
    try:
        del layer
        assert found() is None
    finally:
        gc.enable()
