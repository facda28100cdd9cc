"""States of different widths: cells with a projection, and layers of different hidden sizes."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from projected import PROJECTED

import xrnn
from xrnn import cells
from xrnn.backends import Kernel, get
from xrnn.certify.laws import LAWS
from xrnn.certify.report import bound
from xrnn.certify.trial import OPTIONS, Trial
from xrnn.engine.verify import difference
from xrnn.recurrence.loop import Loop

RNG = np.random.default_rng(0)


def noise(*shape: int) -> Any:
    return RNG.normal(size=shape)


@pytest.mark.parametrize("law", LAWS)
def test_a_projected_cell_obeys_the_laws(law: str) -> None:
    for option in OPTIONS:
        error = LAWS[law](Trial(PROJECTED, option, "cpu", "float64"))
        assert error is None or error <= bound(PROJECTED, law, "float64"), option.name


@pytest.mark.parametrize("name", ["3 layers, both", "uneven", "T=0", "B=0"])
def test_a_projected_cell_runs_in_every_library(name: str, device: str) -> None:
    (option,) = (one for one in OPTIONS if one.name == name)
    for law in ("contract", "twin", "look"):
        error = LAWS[law](Trial(PROJECTED, option, device, "float64"))
        assert error is not None
        assert error <= bound(PROJECTED, law, "float64"), law


class TestProjection:
    def test_shapes_and_letters(self) -> None:
        shapes = {"W": (20, 2), "U": (20, 3), "b": (20,), "P": (3, 5)}
        assert PROJECTED.shapes(2, 5) == shapes
        assert PROJECTED.widths(5) == (3, 5)
        assert [PROJECTED.letters(name) for name in "UP"] == ["(4·H, P)", "(P, H)"]

    def test_a_layer_reads_the_projected_outputs_of_the_one_below(self) -> None:
        layer = xrnn.Layer(PROJECTED, 2, 5, num_layers=2, bidirectional=True)
        assert layer.shapes()["W_l1"] == (20, 6)
        ys, state, tape = layer.forward(np.ones((7, 4, 2), "float32"))
        assert (ys.shape, state.h.shape, state.c.shape) == ((7, 4, 6), (4, 4, 3), (4, 4, 5))
        dxs, dstate, _ = layer.backward(tape, np.ones_like(ys), state)
        assert (dxs.shape, dstate.h.shape, dstate.c.shape) == ((7, 4, 2), (4, 4, 3), (4, 4, 5))

    def test_steps_are_the_sequence(self) -> None:
        layer = xrnn.Layer(PROJECTED, 2, 5, num_layers=3, dtype="float64")
        xs = noise(6, 4, 2)
        ys, last = layer(xs)
        state = layer.initial_state(4)
        for x, y in zip(xs, ys, strict=True):
            found, state = layer.step(x, state)
            np.testing.assert_allclose(found, y, rtol=1e-12)
        np.testing.assert_allclose(state.c, last.c, rtol=1e-12)

    def test_initial_weights(self) -> None:
        for P in (3, 9):
            weights = xrnn.Layer(replace(PROJECTED, projection=P), 2, 5, rng=0).weights
            block = weights["U_l0"][5:10]
            gram = block.T @ block if P < 5 else block @ block.T
            np.testing.assert_allclose(gram, np.eye(min(P, 5)), atol=1e-6)
            limit = (6 / (5 + P)) ** 0.5
            assert 0.5 * limit < abs(weights["P_l0"]).max() <= limit

    @pytest.mark.parametrize("T", [0, 4])
    def test_analysis_knows_the_widths(self, T: int) -> None:
        layer = xrnn.Layer(PROJECTED, 2, 5)
        _, _, tape = layer.forward(np.ones((T, 4, 2), "float32"))
        values = xrnn.analysis.gates(tape)
        assert {a.shape for a in values.values()} == {(T, 4, 5)}
        dgates, dstates = xrnn.analysis.gate_gradients(tape, np.ones((T, 4, 3), "float32"))
        assert dgates["i_l0"].shape == dstates["c_l0"].shape == (T, 4, 5)
        assert dstates["h_l0"].shape == (T, 4, 3)

    def test_the_jacobian_is_the_derivative_of_every_value(self) -> None:
        weights = {k: noise(*s) for k, s in PROJECTED.shapes(2, 5).items()}
        xs, state = noise(4, 1, 2), (noise(1, 3), noise(1, 5))
        tape = xrnn.unroll(PROJECTED, weights, xs, state)[2]
        J = xrnn.analysis.jacobian(tape, -1, span=4, of=None, by=None)[0]
        assert J.shape == (8, 8)
        _, dstate, _ = xrnn.unroll_backward(tape, None, (None, np.eye(5)[None, 2]))
        np.testing.assert_allclose(J[3 + 2], np.concatenate(dstate, axis=-1)[0], rtol=1e-12)
        hc = xrnn.analysis.jacobian(tape, -1, span=4, of="h", by="c")[0]
        np.testing.assert_allclose(hc, J[:3, 3:], rtol=1e-12)
        assert xrnn.analysis.lyapunov(tape, k=8).shape == (1, 8)
        with pytest.raises(ValueError, match=r"k must lie in 1…P\+\(S−1\)·H = 1…8"):
            xrnn.analysis.lyapunov(tape, k=9)

    def test_online_learning_is_exact(self) -> None:
        weights = {k: noise(*s) for k, s in PROJECTED.shapes(2, 5).items()}
        xs, dys = noise(6, 2, 2), noise(6, 2, 3)
        state = (noise(2, 3), noise(2, 5))
        online = xrnn.online.Online(PROJECTED, weights, batch=2, state=state)
        total = dict.fromkeys(weights, 0.0)
        for x, dh in zip(xs, dys, strict=True):
            online.step(x)
            total = {k: total[k] + g for k, g in online.gradient(dh).items()}
        _, _, tape = xrnn.unroll(PROJECTED, weights, xs, state)
        for name, g in xrnn.unroll_backward(tape, dys)[2].items():
            np.testing.assert_allclose(total[name], g, rtol=1e-9, err_msg=name)
        online.reset(0, (None, noise(2, 5)))
        assert not online.state.h[0].any()
        assert online.state.c[0].any()

    def test_online_learning_refuses_the_diagonal(self) -> None:
        weights = {k: noise(*s) for k, s in PROJECTED.shapes(2, 5).items()}
        with pytest.raises(ValueError, match=r"projected: method is 'snap1', and the cell has a p"):
            xrnn.online.Online(PROJECTED, weights, batch=2, method="snap1")

    def test_a_kernel_is_compared_with_its_cell(self) -> None:
        kernel = Kernel(Loop(PROJECTED), frozenset([np.dtype("float64")]))
        assert difference(get("cpu"), PROJECTED, np.dtype("float64"), kernel, (3, 2, 2, 4)) == 0
        rough = replace(PROJECTED, analytic=False)
        assert difference(get("cpu"), rough, np.dtype("float64"), kernel, (3, 2, 2, 4)) == 0

    def test_files_and_copies(self, tmp_path: Path) -> None:
        layer, xs = xrnn.Layer(PROJECTED, 2, 5, num_layers=2), np.ones((3, 1, 2), "float32")
        xrnn.save(tmp_path / "a", layer)
        other = xrnn.load(tmp_path / "a", xrnn.Layer(PROJECTED, 2, 5, num_layers=2))
        for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)).freeze()):
            np.testing.assert_array_equal(twin(xs)[0], layer(xs)[0])

    @pytest.mark.parametrize(
        ("name", "shape", "words"),
        [
            ("state", ((4, 5), (4, 5)), r"state h has shape \(4, 5\); it must be \(B, P\) = \(4,"),
            ("state", ((4, 3), (4, 4)), r"W has shape \(20, 2\); it must be \(4·H, I\) = \(16, 2"),
            ("U", (20, 5), r"U has shape \(20, 5\); it must be \(4·H, P\) = \(20, 3\)"),
            ("P", (5, 3), r"P has shape \(5, 3\); it must be \(P, H\) = \(3, 5\).*give P\.T"),
        ],
    )
    def test_errors(self, name: str, shape: Any, words: str) -> None:
        weights = {k: noise(*s) for k, s in PROJECTED.shapes(2, 5).items()}
        state = None
        if name == "state":
            state = tuple(noise(*one) for one in shape)
        else:
            weights[name] = noise(*shape)
        with pytest.raises(ValueError, match=words):
            xrnn.unroll(PROJECTED, weights, noise(7, 4, 2), state)

    def test_gradients_are_as_wide_as_their_arrays(self) -> None:
        layer = xrnn.Layer(PROJECTED, 2, 5, dtype="float64")
        _, _, tape = layer.forward(noise(7, 4, 2))
        with pytest.raises(ValueError, match=r"dys has .*; it must be \(T, B, D·P\) = \(7, 4, 3\)"):
            layer.backward(tape, noise(7, 4, 5))
        with pytest.raises(ValueError, match=r"dh has .*; it must be \(L·D, B, P\) = \(1, 4, 3\)"):
            layer.backward(tape, None, (noise(1, 4, 5), None))

    def test_wrong_projections(self) -> None:
        for wrong in (0, 2.0, True):
            with pytest.raises(ValueError, match=r"projected: projection is .* an integer ≥ 1"):
                replace(PROJECTED, projection=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="mingru: projection is 3 and linear is given"):
            replace(cells.MinGRU, projection=3)


SIZES = (4, 2, 5)


class TestLayersOfDifferentSizes:
    def test_states_are_tuples_in_the_order_of_the_layers(self) -> None:
        layer = xrnn.LSTM(3, SIZES, bidirectional=True)
        assert (layer.num_layers, layer.hidden_size) == (3, SIZES)
        xs = np.ones((7, 2, 3), "float32")
        ys, state, tape = layer.forward(xs)
        assert ys.shape == (7, 2, 10)
        shapes = [(2, n) for n in (4, 4, 2, 2, 5, 5)]
        for part in (*layer.initial_state(2), *state, *layer.backward(tape, ys, state)[1]):
            assert [a.shape for a in part] == shapes
        again, _ = layer(xs, (list(state.h), None))
        assert again.shape == ys.shape

    def test_it_is_layers_of_one_size_one_after_the_other(self, device: str) -> None:
        layer = xrnn.GRU(3, SIZES, dtype="float64", device=device, rng=0)
        put, to_host = layer.weights.placement.from_host, get(device).to_host
        xs, state = noise(7, 2, 3), tuple(noise(2, n) for n in SIZES)
        ys, last = layer(put(xs), (tuple(map(put, state)),), [7, 4])
        y = put(xs)
        for k, (H, first) in enumerate(zip(SIZES, state, strict=True)):
            one = xrnn.GRU(layer.inputs(k), H, dtype="float64", device=device)
            one.weights = {f"{n}_l0": layer.weights[f"{n}_l{k}"] for n in ("W", "U", "b", "v")}
            y, found = one(y, (put(first)[None, ...],), [7, 4])
            np.testing.assert_allclose(to_host(last.h[k]), to_host(found.h)[0], rtol=1e-12)
        np.testing.assert_allclose(to_host(ys), to_host(y), rtol=1e-12)

    def test_steps_are_the_sequence(self) -> None:
        layer, xs = xrnn.LSTM(3, SIZES, dtype="float64"), noise(5, 3)
        ys, last = layer(xs)
        state: Any = None
        for x, y in zip(xs, ys, strict=True):
            found, state = layer.step(x, state)
            np.testing.assert_allclose(found, y, rtol=1e-12)
        assert [a.shape for a in last.c] == [(n,) for n in SIZES]
        np.testing.assert_allclose(state.c[2], last.c[2], rtol=1e-12)

    def test_one_part_may_have_one_width(self) -> None:
        layer = xrnn.Layer(PROJECTED, 2, (4, 5))
        _, state = layer(np.ones((7, 3, 2), "float32"))
        assert state.h.shape == (2, 3, 3)
        assert [a.shape for a in state.c] == [(3, 4), (3, 5)]

    def test_equal_sizes_are_one_size(self) -> None:
        layer = xrnn.LSTM(3, [5, 5])
        assert (layer.hidden_size, layer.num_layers) == (5, 2)
        assert layer.config() == xrnn.LSTM(3, 5, num_layers=2).config()
        assert layer(np.ones((7, 2, 3), "float32"))[1].h.shape == (2, 2, 5)

    def test_files_copies_and_names(self, tmp_path: Path) -> None:
        layer, xs = xrnn.LSTM(3, SIZES, rng=0), np.ones((3, 1, 3), "float32")
        assert repr(layer) == "<LSTM(3, (4, 2, 5), num_layers=3): lstm>"
        xrnn.save(tmp_path / "a", layer)
        other = xrnn.load(tmp_path / "a", xrnn.LSTM(3, SIZES, rng=1))
        for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)).freeze()):
            np.testing.assert_array_equal(twin(xs)[0], layer(xs)[0])
        with pytest.raises(ValueError, match=r"hidden_size is \[4, 2, 5\] in the file, 5 here"):
            xrnn.load(tmp_path / "a", xrnn.LSTM(3, 5, num_layers=3))

    def test_dropout_between_them(self) -> None:
        layer = xrnn.LSTM(3, SIZES, dropout=0.5)
        _, _, tape = layer.forward(np.ones((7, 2, 3), "float32"), seed=1)
        assert [mask.shape for mask in tape.masks] == [(7, 2, 4), (7, 2, 2)]

    @pytest.mark.parametrize(
        ("size", "L", "words"),
        [
            ((), 1, "lstm: hidden_size is empty; it must hold one integer for each layer"),
            ((4, 0), 1, r"lstm: hidden_size\[1\] is 0; it must be an integer ≥ 1"),
            ((4, 2), 3, "holds 2 sizes and num_layers is 3; .* leave num_layers out"),
        ],
    )
    def test_wrong_sizes(self, size: Any, L: int, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            xrnn.LSTM(3, size, L)

    def test_wrong_states(self) -> None:
        layer, xs = xrnn.LSTM(3, SIZES), np.ones((7, 2, 3), "float32")
        with pytest.raises(TypeError, match=r"lstm: state h is ndarray; the widths of the layers"):
            layer(xs, (np.ones((3, 2, 4), "float32"), None))
        with pytest.raises(TypeError, match=r"c is 1 arrays; .* tuple of L·D = 3 arrays \(B, H\)"):
            layer(xs, (None, (np.ones((2, 4), "float32"),)))
        wrong = tuple(np.ones((2, 4), "float32") for _ in SIZES)
        with pytest.raises(ValueError, match=r"state h\[1\] has shape \(2, 4\); .* = \(2, 2\)"):
            layer(xs, (wrong, None))
        with pytest.raises(ValueError, match=r"W_l1 has shape .* \(4·H, H_l0\) = \(8, 4\)"):
            layer.weights["W_l1"] = np.ones((8, 3), "float32")

    def test_torch_has_no_such_module(self) -> None:
        with pytest.raises(ValueError, match=r"lstm: hidden_size is \(4, 2, 5\); PyTorch's modul"):
            xrnn.convert.to_torch(xrnn.LSTM(3, SIZES))
