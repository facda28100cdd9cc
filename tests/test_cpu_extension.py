"""What Python asks of the native loops, and the layers that run by them."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sequence_checks as checks
from sequences import AnyCell, Case

import xrnn
from xrnn.backends import get
from xrnn.backends.cpu import extension
from xrnn.cells import LSTM
from xrnn.certify.laws import LAWS
from xrnn.certify.report import bound
from xrnn.certify.trial import OPTIONS, Trial
from xrnn.engine import select, verify

pytestmark = pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)

every_cell = pytest.mark.parametrize("cell", extension.CODES, ids=lambda cell: cell.name)
every_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])

every_layer = pytest.mark.parametrize(
    "options", [{}, {"num_layers": 3}, {"dtype": "float64"}, {"bias": False}], ids=str
)


def noise(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


@every_cell
@every_dtype
@pytest.mark.parametrize("sizes", [(5, 3, 4, 16), (3, 2, 3, 7), (4, 1, 5, 33), (1, 9, 1, 1)])
def test_it_is_the_cell(cell: AnyCell, dtype: str, sizes: Any) -> None:
    entry, _ = extension.kernels(cell)
    bound = 1e-13 if dtype == "float64" else 5e-6
    checks.equals_the_cell(entry, Case(cell, sizes, dtype), bound)


@every_cell
def test_arrays_may_lie_anywhere(cell: AnyCell) -> None:
    entry, _ = extension.kernels(cell)
    checks.arrays_may_lie_anywhere(entry, Case(cell, (9, 3, 4, 6), "float32"))


@every_cell
def test_it_is_what_runs(cell: AnyCell) -> None:
    layer = xrnn.Layer(cell, 3, 5)
    assert layer.path((7, 2, 3))["_l0"].startswith("native loop")
    chosen = select.choose(get("cpu"), cell, (7, 2, 3, 5), np.dtype("float32"))
    assert isinstance(chosen.sequence, extension.Native)


@every_cell
def test_a_tape_serves_twice(cell: AnyCell) -> None:
    trial = Trial(cell, OPTIONS[7])
    inputs = trial.inputs
    tape = trial.layer.forward(inputs.xs, inputs.state, inputs.lengths)[2]
    first = trial.layer.backward(tape, inputs.dys, inputs.dlast)[2]
    again = trial.layer.backward(tape, inputs.dys, inputs.dlast)[2]
    other = trial.layer.backward(tape)[2]
    for name, d in first.items():
        np.testing.assert_array_equal(d, again[name])
        assert (d != other[name]).any()


@every_layer
@every_cell
def test_steps_are_the_sequence_bit_for_bit(cell: AnyCell, options: dict[str, Any]) -> None:
    layer = xrnn.Layer(cell, 3, 20, **options)
    xs = noise(9, 2, 3, dtype=layer.dtype)
    ys, last = layer(xs)
    state = None
    for t in range(len(xs)):
        y, state = layer.step(xs[t], state)
        np.testing.assert_array_equal(y, ys[t])
    for found, expected in zip(state or (), last, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_step_sees_weights_that_changed_in_place() -> None:
    layer, x = xrnn.LSTM(3, 20), noise(1, 3)
    _, state = layer.step(x)
    before, _ = layer.step(x, state)
    layer.weights["U_l0"] *= 2
    changed, _ = layer.step(x, state)
    assert (before != changed).any()
    layer.weights["U_l0"] = layer.weights["U_l0"] / 2
    np.testing.assert_array_equal(layer.step(x, state)[0], before)


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_inference_is_the_same_with_lengths_that_change_nothing(cell: AnyCell, bias: bool) -> None:
    layer, xs = xrnn.Layer(cell, 3, 20, num_layers=2, bias=bias), noise(4, 2, 3)
    state = layer(xs)[1]
    expected = layer(xs, state, lengths=np.full(2, 4))
    np.testing.assert_array_equal(layer(xs, state)[0], expected[0])


def test_what_a_step_cannot_take_is_refused() -> None:
    layer, x = xrnn.LSTM(3, 4), noise(2, 3)
    _, state = layer.step(x)
    for wrong, message in (
        (noise(2, 4), r"x has shape \(2, 4\); it must be \(B, I\), or \(I,\), with I = 3"),
        (noise(3, 3), "state h has shape"),
        (noise(2, 3, 1), "x has shape"),
        (noise(2, 3, dtype="float64"), "float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            layer.step(wrong, state)
    with pytest.raises(TypeError, match="it must be a tuple"):
        layer.step(x, state[:1])
    np.testing.assert_array_equal(
        layer.step(np.asfortranarray(x), state)[0], layer.step(x, state)[0]
    )


@pytest.mark.parametrize("B", [1, 3])
def test_the_batch_may_come_first(B: int) -> None:
    layer, first = (xrnn.GRU(3, 20, num_layers=2, batch_first=b, rng=0) for b in (False, True))
    xs = noise(7, B, 3)
    ys, last = layer(xs)
    for found in (first(xs.swapaxes(0, 1)), first(xs.swapaxes(0, 1), lengths=np.full(B, 7))):
        np.testing.assert_array_equal(found[0].swapaxes(0, 1), ys)
        np.testing.assert_array_equal(found[1][0], last[0])
    with pytest.raises(ValueError, match=r"it must be \(B, T, I\), or \(T, I\), with I = 3"):
        first(xs[..., :2])


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_mask_is_not_dropped(num_layers: int) -> None:
    layer, xs = xrnn.LSTM(3, 4, num_layers=num_layers), noise(5, 1, 3)
    h, c = layer(xs)[1]
    masked: Any = np.ma.array
    for wrong in (xs, xs[0]):
        with pytest.raises(TypeError, match="it must be an array of"):
            (layer if wrong.ndim == 3 else layer.step)(masked(wrong), (h, c))
    with pytest.raises(TypeError, match="it must be an array of"):
        layer.step(xs[0], (h, masked(c)))
    with pytest.raises(TypeError, match="it must be an array of"):
        layer.weights["U_l0"] = masked(layer.weights["U_l0"])


@pytest.mark.parametrize("wrong", ["c", "array", "generator"])
def test_states_that_do_not_fit_are_refused_by_every_call(wrong: str) -> None:
    layer, xs = xrnn.LSTM(3, 5), noise(4, 2, 3)
    h, c = layer(xs)[1]
    other = {"c": (h, c.swapaxes(0, 1)), "array": np.stack([h, c]), "generator": iter((h, c))}
    state: Any = other[wrong]
    for call, given in ((layer, xs), (layer.step, xs[0]), (layer.forward, xs)):
        with pytest.raises((TypeError, ValueError), match="it must be"):
            call(given, state)  # type: ignore[operator]


def test_memory_maps_and_unaligned_arrays(tmp_path: Path) -> None:
    layer, xs = xrnn.LSTM(3, 5), noise(4, 2, 3)
    ys, _, tape = layer.forward(xs)
    expected = layer.backward(tape, ys)
    for name, w in layer.weights.items():
        np.save(tmp_path / f"{name}.npy", w)
        layer.weights[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    odd = np.frombuffer(b"." + xs.tobytes(), "float32", offset=1).reshape(xs.shape)
    assert not odd.flags.aligned
    np.testing.assert_array_equal(layer(odd)[0], ys)
    found = layer.backward(layer.forward(odd)[2], ys)
    np.testing.assert_array_equal(found[0], expected[0])
    for name, d in expected[2].items():
        np.testing.assert_array_equal(found[2][name], d)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_what_a_step_gives_is_not_its_state(num_layers: int) -> None:
    layer, x = xrnn.GRU(3, 5, num_layers=num_layers), noise(2, 3)
    y, state = layer.step(x, layer.step(x)[1])
    assert not np.shares_memory(y, state[0])


def test_a_step_that_differs_from_the_loop_is_not_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (kernel, _), kind = extension.kernels(LSTM), np.dtype("float32")
    backend, sizes = get("cpu"), kernel.trial(1, 1, 3, 5)
    assert verify.difference(backend, LSTM, kind, kernel, sizes) < 1e-5
    step = extension.Native.step

    def wrong(self: Any, *given: Any) -> Any:
        return tuple(1.01 * part for part in step(self, *given))

    with monkeypatch.context() as patch:
        patch.setattr(extension.Native, "step", wrong)
        assert verify.difference(backend, LSTM, kind, kernel, sizes) > 1e-3
    prepare = extension.Native.prepare

    def packed_wrongly(self: Any, weights: Any, *, fixed: bool) -> Any:
        return prepare(
            self, {k: 1.01 * w for k, w in weights.items()} if fixed else weights, fixed=fixed
        )

    monkeypatch.setattr(extension.Native, "prepare", packed_wrongly)
    assert verify.difference(backend, LSTM, kind, kernel, sizes) > 1e-3


def test_large_calls_alone_take_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = extension._native.forward

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(module, name)

        def forward(self, *args: Any) -> Any:
            seen.append(args[-1])
            return forward(*args)

    module = extension._native
    monkeypatch.setenv("XRNN_NUM_THREADS", "2")
    layer = xrnn.LSTM(64, 128)
    layer(noise(2, 1, 64))
    monkeypatch.setattr(extension, "_native", Watched())
    layer(noise(2, 1, 64))
    layer(noise(50, 32, 64))
    assert seen == [1, 2]


def test_a_tape_gives_its_gates_away() -> None:
    layer, xs = xrnn.LSTM(3, 5), noise(4, 2, 3)
    ys, _, tape = layer.forward(xs)
    layer.backward(tape, ys)
    assert tape.passes[0].residuals.gates is None


def test_a_layer_moved_here_runs_by_the_loop() -> None:
    strict = pytest.importorskip("array_api_strict")
    layer = xrnn.LSTM(3, 5, device="array_api_strict")
    layer(strict.asarray(noise(4, 2, 3)))
    assert layer.path((4, 2, 3)) == {"_l0": "the cell as written"}
    assert layer.to("cpu").path((4, 2, 3))["_l0"].startswith("native loop")


def test_layers_that_have_stepped_can_be_copied_and_pickled() -> None:
    layer, x = xrnn.GRU(3, 4), noise(1, 3)
    _, state = layer.step(x)
    expected, _ = layer.step(x, state)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin.step(x, state)[0], expected)
    assert pickle.loads(pickle.dumps(state)).h.shape == (1, 1, 4)


def test_two_layers_in_two_threads_at_once() -> None:
    layers = [xrnn.LSTM(8, 64, rng=k) for k in range(2)]
    xs = noise(60, 16, 8)
    alone = [layer(xs)[0] for layer in layers]
    found: list[list[Any]] = [[], []]

    def work(k: int) -> None:
        found[k] += [layers[k](xs)[0] for _ in range(20)]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for k in range(2):
        assert len(found[k]) == 20
        for ys in found[k]:
            np.testing.assert_array_equal(ys, alone[k])


def test_results_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, xs = xrnn.LSTM(64, 128, bidirectional=True), noise(30, 32, 64)
    results = []
    for n in ("1", "2", "5"):
        monkeypatch.setenv("XRNN_NUM_THREADS", n)
        ys, _, tape = layer.forward(xs, lengths=np.arange(32) % 31)
        dxs, _, dweights = layer.backward(tape, ys)
        results.append([ys, dxs, *dweights.values()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_process_computes_the_same() -> None:
    code = (
        "import os, numpy as np, xrnn\n"
        "layer, xs = xrnn.LSTM(64, 128), np.ones((40, 32, 64), 'float32')\n"
        "ys = layer(xs)[0]\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(int((layer(xs)[0] != ys).any()))\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120)
    assert done.returncode == 0


@every_cell
@every_dtype
def test_law_at_sizes_that_fill_vectors(cell: AnyCell, dtype: str) -> None:
    """The laws' own H is smaller than a vector."""
    rng = np.random.default_rng(0)
    weights = {k: (0.2 * rng.normal(size=s)).astype(dtype) for k, s in cell.shapes(19, 37).items()}
    xs = rng.normal(size=(8, 13, 19)).astype(dtype)
    lengths = rng.integers(0, 9, 13)
    ys = xrnn.unroll(cell, weights, xs, lengths=lengths)[0]
    alone = [xrnn.unroll(cell, weights, xs[:n, b : b + 1])[0] for b, n in enumerate(lengths)]
    for b, n in enumerate(lengths):
        np.testing.assert_array_equal(ys[:n, b], alone[b][:, 0])
        assert not ys[n:, b].any()


def test_the_laws_run_on_it() -> None:
    trial = Trial(LSTM, OPTIONS[0], dtype="float32")
    assert trial.layer.path((4, 3, 3))["_l0"].startswith("native")
    for name, law in LAWS.items():
        error = law(trial)
        assert error is not None
        assert error <= bound(LSTM, name, "float32")


@every_layer
@every_cell
def test_inference_without_delay_is_the_same(cell: AnyCell, options: dict[str, Any]) -> None:
    layer = xrnn.Layer(cell, 3, 20, **options)
    for T, B in ((1, 1), (7, 2), (40, 33)):
        xs = noise(T, B, 3, dtype=layer.dtype)
        state = tuple(noise(layer.num_layers, B, 20, dtype=layer.dtype) for _ in layer.cell.states)
        for given in (None, state):
            fast, last = layer(xs, given)
            ys, expected, _ = layer.forward(xs, given)
            np.testing.assert_array_equal(fast, ys)
            for a, b in zip(last, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_what_inference_cannot_take_is_refused() -> None:
    layer = xrnn.GRU(3, 4)
    for wrong, message in (
        (noise(5, 2, 4), r"xs has shape \(5, 2, 4\); it must be \(T, B, I\), or \(T, I\), with"),
        (noise(5, 2, 3, 1), "xs has shape"),
        (noise(5, 2, 3, dtype="float64"), "float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            layer(wrong)
    with pytest.raises(ValueError, match="state h has shape"):
        layer(noise(5, 2, 3), (noise(1, 3, 4),))
    strided = noise(5, 2, 6)[..., ::2]
    np.testing.assert_array_equal(layer(strided)[0], layer(strided.copy())[0])
    assert layer(noise(0, 2, 3))[0].shape == (0, 2, 4)
