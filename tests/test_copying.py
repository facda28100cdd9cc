"""Copies and pickles of all that users hold; and tapes that are given to what did not make them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import cells
from xrnn.backends import get

FORMS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
every_cell = pytest.mark.parametrize("cell", cells.BY_NAME.values(), ids=lambda cell: cell.name)


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def arrays(value: Any) -> list[Any]:
    """All arrays in a nested result, in order."""
    if isinstance(value, dict):
        value = tuple(value.values())
    return [a for part in value for a in arrays(part)] if isinstance(value, tuple) else [value]


def assert_equal(found: Any, expected: Any, device: str = "cpu") -> None:
    host = get(device).to_host
    for a, b in zip(arrays(found), arrays(expected), strict=True):
        np.testing.assert_array_equal(host(a), host(b))


def overwrite(array: Any, value: Any) -> None:
    """Change an array in place, where its library has arrays that can be changed."""
    with suppress(TypeError, ValueError, RuntimeError):
        array[...] = value


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "dropout": 0.5},
    {"reverse": True, "batch_first": True, "bias": False},
]


class TestTapes:
    @every_form
    @every_cell
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    @pytest.mark.parametrize("lengths", [None, [4, 0]], ids=["full", "lengths"])
    def test_of_layers(self, form: Any, cell: Any, options: Any, lengths: Any) -> None:
        layer = xrnn.Layer(cell, 3, 4, **options)
        shape = (2, 4, 3) if layer.batch_first else (4, 2, 3)
        ys, state, tape = layer.forward(noise(*shape), lengths=lengths, seed=0)
        expected = layer.backward(tape, np.ones_like(ys), state)
        again, other = form((layer, tape))
        alone = form(tape)
        for owner, one in ((again, other), (alone.owner, alone)):
            for _ in range(2):
                assert_equal(owner.backward(one, np.ones_like(ys), state), expected)
            assert_equal(xrnn.analysis.gates(one), xrnn.analysis.gates(tape))
            with pytest.raises(ValueError, match="the tape was made by another layer"):
                layer.backward(one, np.ones_like(ys), state)
            name = next(iter(owner.weights))
            owner.weights[name] = owner.weights[name] + 1
            with pytest.raises(ValueError, match="the weights have changed since the forward"):
                owner.backward(one, np.ones_like(ys), state)
        assert_equal(layer.backward(tape, np.ones_like(ys), state), expected)

    @every_form
    @every_cell
    def test_of_other_libraries(self, form: Any, cell: Any, device: str) -> None:
        backend = get(device)
        layer = xrnn.Layer(cell, 3, 4, num_layers=2, bidirectional=True, device=device)
        xs = backend.from_host(noise(4, 2, 3))
        ys, state, tape = layer.forward(xs, lengths=[4, 2])
        expected = layer.backward(tape, ys, state)
        again, other = form((layer, tape))
        assert_equal(again.backward(other, ys, state), expected, device)
        assert_equal(again(xs, lengths=[4, 2]), (ys, state), device)

    @every_form
    @every_cell
    @pytest.mark.parametrize("reverse", [False, True])
    def test_of_one_cell(self, form: Any, cell: Any, reverse: bool) -> None:
        weights = {k: np.ones(s) / 7 for k, s in cell.shapes(3, 4).items() if k != "b"}
        xs = noise(5, 2, 3).astype("float64")
        ys, state, tape = xrnn.unroll(cell, weights, xs, None, [5, 3], reverse)
        expected = xrnn.unroll_backward(tape, np.ones_like(ys), state)
        twin = form(tape)
        assert_equal(xrnn.unroll_backward(twin, np.ones_like(ys), state), expected)
        assert repr(twin) == repr(tape)
        assert_equal(xrnn.unroll_backward(copy.copy(tape), np.ones_like(ys), state), expected)

    @every_form
    @pytest.mark.parametrize("form_of_tape", ["stale", "of a new version"])
    def test_what_was_stale_stays_so(self, form: Any, form_of_tape: str) -> None:
        layer = xrnn.LSTM(3, 4)
        if form_of_tape == "of a new version":
            layer.weights["b_l0"] = noise(16)
        ys, _, tape = layer.forward(noise(4, 2, 3))
        expected = layer.backward(tape, ys)
        if form_of_tape == "stale":
            layer.weights["b_l0"] = noise(16)
        again, other = form((layer, tape))
        if form_of_tape == "stale":
            with pytest.raises(ValueError, match="the weights have changed since the forward"):
                again.backward(other, ys)
        else:
            assert_equal(again.backward(other, ys), expected)

    @every_form
    @pytest.mark.parametrize("activation", [None, "relu"])
    def test_of_linear_maps_and_embeddings(self, form: Any, activation: Any, device: str) -> None:
        put, xp = get(device).from_host, get(device).xp
        readout = xrnn.Linear(3, 4, activation=activation, device=device)
        readout.weights["b"] = put(noise(4))
        embedding = xrnn.Embedding(7, 3, device=device)
        xs, tokens = embedding.forward(put(np.array([[1, 6], [0, 1]])))
        ys, tape = readout.forward(xs)
        expected = readout.backward(tape, xp.ones_like(ys))
        again, other = form((readout, tape))
        alone = form(tape)
        for owner, one in ((again, other), (alone.owner, alone)):
            assert_equal(owner.backward(one, xp.ones_like(ys)), expected, device)
            with pytest.raises(ValueError, match="linear: the tape was made by another linear map"):
                readout.backward(one, ys)
            owner.weights["b"] = owner.weights["b"] + 1
            with pytest.raises(ValueError, match="linear: the weights have changed since"):
                owner.backward(one, ys)
        assert_equal(
            form(embedding).backward(form(tokens), xs), embedding.backward(tokens, xs), device
        )

    def test_in_another_process(self, tmp_path: Path) -> None:
        layer, readout, embedding = xrnn.LSTM(3, 4, 2), xrnn.Linear(4, 2), xrnn.Embedding(7, 3)
        xs, tokens = embedding.forward(np.array([[1, 6], [0, 1]]))
        ys, _, tape = layer.forward(xs)
        zs, out = readout.forward(ys)
        cell = {k: noise(*s) for k, s in cells.GRU.shapes(3, 4).items()}
        hs, _, of_cell = xrnn.unroll(cells.GRU, cell, xs)
        given = (layer, readout, embedding, tape, out, tokens, of_cell, xs, ys, zs, hs)
        (tmp_path / "given").write_bytes(pickle.dumps(given))
        program = """
import pickle, sys, xrnn
from pathlib import Path
folder = Path(sys.argv[1])
given = pickle.loads((folder / "given").read_bytes())
layer, readout, embedding, tape, out, tokens, of_cell, xs, ys, zs, hs = given
found = (
    layer.backward(tape, ys), readout.backward(out, zs), embedding.backward(tokens, xs),
    xrnn.unroll_backward(of_cell, hs), layer(xs)
)
(folder / "found").write_bytes(pickle.dumps(found))
"""
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
        expected = (
            layer.backward(tape, ys),
            readout.backward(out, zs),
            embedding.backward(tokens, xs),
            xrnn.unroll_backward(of_cell, hs),
            layer(xs),
        )
        assert_equal(pickle.loads((tmp_path / "found").read_bytes()), expected)


class TestOtherValues:
    @every_form
    @every_cell
    def test_cells_and_states(self, form: Any, cell: Any) -> None:
        assert form(cell) is cell
        state = cell.state([noise(2, 4, seed=k) for k, _ in enumerate(cell.states)])
        assert type(form(state)) is type(state)
        assert_equal(form(state), state)

    @every_form
    @pytest.mark.parametrize(
        "make", [xrnn.LSTM, xrnn.GRU, xrnn.RNN, xrnn.InputGatedLSTM, xrnn.Linear, xrnn.Embedding]
    )
    def test_parts(self, form: Any, make: Any) -> None:
        part = make(3, 4)
        twin = form(part)
        assert twin.config() == part.config()
        assert_equal(dict(twin.weights), dict(part.weights))
        frozen = form(part.freeze())
        with pytest.raises(TypeError, match="frozen"):
            frozen.weights["b"] = noise(4)

    @every_form
    @pytest.mark.parametrize("make", [xrnn.optim.Adam, lambda lr: xrnn.optim.SGD(lr, 0.9)])
    def test_optimizers(self, form: Any, make: Any) -> None:
        weights, optimizer = {"W": noise(3)}, make(0.1)
        optimizer.update(weights, {"W": noise(3, seed=1)})
        mine, twin = copy.deepcopy(weights), form(optimizer)
        optimizer.update(weights, {"W": noise(3, seed=2)})
        twin.update(mine, {"W": noise(3, seed=2)})
        assert_equal(mine, weights)
        assert twin.steps == optimizer.steps == 2


class TestWhatIsGivenIsNotKept:
    def test_tokens(self, device: str) -> None:
        backend, embedding = get(device), xrnn.Embedding(7, 3, device=device)
        tokens = backend.from_host(np.array([1, 2]))
        xs, tape = embedding.forward(tokens)
        expected = embedding.backward(tape, xs)
        overwrite(tokens, 6)
        assert_equal(embedding.backward(tape, xs), expected, device)

    @every_cell
    def test_lengths(self, cell: Any, device: str) -> None:
        backend = get(device)
        put, xp = backend.from_host, backend.xp
        weights = {k: put(noise(*s)) for k, s in cell.shapes(3, 4).items()}
        lengths = np.array([4, 2])
        for given in (lengths, put(lengths)):
            ys, _, tape = xrnn.unroll(cell, weights, put(noise(4, 2, 3)), None, given)
            expected = xrnn.unroll_backward(tape, xp.ones_like(ys))
            values = xrnn.analysis.gates(tape)
            overwrite(given, 4)
            assert_equal(xrnn.unroll_backward(tape, xp.ones_like(ys)), expected, device)
            assert_equal(xrnn.analysis.gates(tape), values, device)
            lengths[...] = [4, 2]

    @every_cell
    @pytest.mark.parametrize("H", [4, 40], ids=["small", "large"])
    @pytest.mark.parametrize("device", ["cpu", "torch"])
    def test_weights_of_one_cell(self, cell: Any, H: int, device: str) -> None:
        """An update between forward and backward is noticed; new arrays are another matter."""
        pytest.importorskip(device.replace("cpu", "numpy"))
        put, xp = get(device).from_host, get(device).xp
        weights = {k: put(noise(*s)) for k, s in cell.shapes(3, H).items()}
        ys, _, tape = xrnn.unroll(cell, weights, put(noise(4, 2, 3)))
        dys = xp.ones_like(ys)
        expected = xrnn.unroll_backward(tape, dys)
        again = {name: xp.asarray(w, copy=True) for name, w in weights.items()}
        for name in weights:
            ys, _, tape = xrnn.unroll(cell, weights, put(noise(4, 2, 3)))
            weights[name][-1] += 1
            for use in (
                lambda tape=tape: xrnn.unroll_backward(tape, dys),
                lambda tape=tape: xrnn.analysis.gates(tape),
                lambda tape=tape: xrnn.analysis.gate_gradients(tape, dys),
            ):
                with pytest.raises(ValueError, match="the weights have changed since the forward"):
                    use()
            weights[name] = again[name]
        ys, _, tape = xrnn.unroll(cell, weights, put(noise(4, 2, 3)))
        weights.clear()
        assert_equal(xrnn.unroll_backward(tape, dys), expected)

    @every_cell
    @pytest.mark.parametrize("T", [1, 2, 12])
    @pytest.mark.parametrize("lengths", [False, True])
    def test_outputs_changed_before_backward(
        self, cell: Any, T: int, lengths: bool, device: str
    ) -> None:
        """An error of the library, or the gradients that belong to the forward pass."""
        backend = get(device)
        layer = xrnn.Layer(cell, 3, 4, device=device)
        xs, given = backend.from_host(noise(T, 2, 3)), [T, 1] if lengths else None
        ys, _, tape = layer.forward(xs, lengths=given)
        dys = backend.xp.ones_like(ys)
        expected = layer.backward(tape, dys)
        overwrite(ys, 0)
        assert_equal(layer.backward(tape, dys), expected, device)

    @every_cell
    @pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
    @pytest.mark.parametrize("lengths", [False, True])
    def test_results_share_nothing(
        self, cell: Any, options: Any, lengths: bool, device: str
    ) -> None:
        """A change of one array in place reaches no other, of what is given and returned."""
        backend = get(device)
        host, layer = backend.to_host, xrnn.Layer(cell, 3, 4, device=device, **options)
        # For many steps only NumPy has kernels of their own.
        for T in (0, 1, 12, 130) if device == "cpu" else (0, 1, 3):
            xs = backend.from_host(noise(*((2, T, 3) if layer.batch_first else (T, 2, 3))))
            ends = [T, T // 2] if lengths else None
            for run in (layer, lambda *given: layer.forward(*given, seed=0)[:2]):
                shape = (len(layer.parts()), 2, 4)
                given = [backend.from_host(noise(*shape)) for _ in cell.states]
                ys, state = run(xs, given, ends)
                all_arrays = [ys, *state, *given]
                for n, array in enumerate(all_arrays):
                    before = [host(a).copy() for a in all_arrays]
                    overwrite(array, 7)
                    for m, a in enumerate(all_arrays):
                        if m != n:
                            np.testing.assert_array_equal(host(a), before[m])

    @every_cell
    def test_states_keep_no_outputs_alive(self, cell: Any) -> None:
        layer = xrnn.Layer(cell, 3, 4, num_layers=2, bidirectional=True)
        xs = noise(3000, 2, 3)
        ys, state, tape = layer.forward(xs)
        for part in (*state, *layer(xs)[1], *layer.backward(tape, ys)[1]):
            owner = part if part.base is None else part.base
            assert owner.nbytes <= 4 * part.nbytes

    def test_outputs_of_a_linear_map(self, device: str) -> None:
        backend = get(device)
        readout = xrnn.Linear(3, 4, activation="relu", device=device)
        ys, tape = readout.forward(backend.from_host(noise(5, 3)))
        dys = backend.xp.ones_like(ys)
        expected = readout.backward(tape, dys)
        overwrite(ys, 0)
        assert_equal(readout.backward(tape, dys), expected, device)


def uses() -> dict[str, tuple[Callable[[Any], Any], Any]]:
    """All functions that take a tape, and a tape that each takes."""
    layer, readout, embedding = xrnn.LSTM(3, 4), xrnn.Linear(3, 4), xrnn.Embedding(7, 3)
    weights = {k: noise(*s) for k, s in cells.LSTM.shapes(3, 4).items()}
    xs, tokens = embedding.forward(np.array([[1, 2], [3, 4]]))
    ys, _, of_layer = layer.forward(xs)
    return {
        "Layer": (lambda tape: layer.backward(tape, ys), of_layer),
        "unroll": (
            lambda tape: xrnn.unroll_backward(tape, ys),
            xrnn.unroll(cells.LSTM, weights, xs)[2],
        ),
        "Linear": (lambda tape: readout.backward(tape, ys), readout.forward(xs)[1]),
        "Embedding": (lambda tape: embedding.backward(tape, xs), tokens),
    }


#: what each is given: tapes of the other kinds, of another part of its own kind, and no tape
WRONG = ("Layer", "unroll", "Linear", "Embedding", "another cell", "ys", "None", "list", "state")


class TestWrongTapes:
    @pytest.mark.parametrize("wrong", WRONG)
    @pytest.mark.parametrize("user", uses())
    def test_everywhere(self, user: str, wrong: str) -> None:
        given: dict[str, Any] = {
            "another cell": xrnn.GRU(3, 4).forward(noise(2, 2, 3))[2],
            "ys": noise(2, 2, 4),
            "None": None,
            "list": [1, 2],
            "state": xrnn.LSTM(3, 4).initial_state(2),
            **{name: tape for name, (_, tape) in uses().items()},
        }
        use, _ = uses()[user]
        if user == wrong and user in ("unroll", "Embedding"):
            use(given[wrong])  # these hold no weights: a tape of their kind that fits is served
            return
        with pytest.raises((TypeError, ValueError), match=r"tape (is|was)"):
            use(given[wrong])

    def test_of_a_larger_embedding(self, device: str) -> None:
        put = get(device).from_host
        xs, tape = xrnn.Embedding(7, 3, device=device).forward(put(np.array([1, 6])))
        with pytest.raises(ValueError, match=r"the tokens of the tape go from 1 to 6; .* 0…4"):
            xrnn.Embedding(5, 3, device=device).backward(tape, xs)
