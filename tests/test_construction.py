"""How parts are made: sizes, dtypes and devices in every usual form, and weights drawn late."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import backends, cells
from xrnn.backends import Backend, get, host
from xrnn.engine.parameters import count

MAKERS: dict[str, Callable[..., Any]] = {
    "RNN": lambda **how: xrnn.RNN(3, 5, **how),
    "LSTM": lambda **how: xrnn.LSTM(3, 5, num_layers=2, bidirectional=True, **how),
    "GRU": lambda **how: xrnn.GRU(3, 5, **how),
    "InputGatedLSTM": lambda **how: xrnn.InputGatedLSTM(3, 5, **how),
    "Layer": lambda **how: xrnn.Layer(cells.PeepholeLSTM, 3, 5, **how),
    "Embedding": lambda **how: xrnn.Embedding(7, 3, **how),
    "Linear": lambda **how: xrnn.Linear(5, 2, **how),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


def problem(call: Callable[[], Any]) -> str:
    """Why the library of a device cannot be used here; "" if it can be."""
    try:
        call()
    except ImportError as error:
        return str(error)
    return ""


class TestSizes:
    @pytest.mark.parametrize("size", [11.0, 0, -1, True, "11", None, np.float64(11)], ids=repr)
    @pytest.mark.parametrize("name", ["I", "H"])
    def test_what_is_no_size(self, name: str, size: Any) -> None:
        with pytest.raises(ValueError, match=f"gru: {name} is .*; it must be an integer ≥ 1"):
            cells.GRU.shapes(**{"I": 11, "H": 13, name: size})

    def test_a_wrong_size_spoils_no_later_one(self) -> None:
        with pytest.raises(ValueError, match=r"gru: I is 11\.0"):
            cells.GRU.shapes(11.0, 13)  # type: ignore[arg-type]
        assert xrnn.GRU(11, 13).weights["W_l0"].shape == (39, 11)

    def test_integers_of_numpy(self) -> None:
        shapes = cells.GRU.shapes(np.int64(11), np.uint8(100))
        assert shapes == cells.GRU.shapes(11, 100)
        assert {type(n) for shape in shapes.values() for n in shape} == {int}
        layer = xrnn.GRU(np.uint8(11), np.int16(100), np.int64(2))
        assert layer.weights["U_l0"].shape == (300, 100)
        assert layer.initial_state(np.int64(2)).h.shape == (2, 2, 100)

    @pytest.mark.parametrize("B", [2.0, -1, None, True])
    def test_a_state_of_no_batch(self, B: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=r"gru: B is .*; it must be an integer"):
            xrnn.GRU(3, 5).initial_state(B)

    def test_no_inputs_are_refused_by_all(self) -> None:
        weights = {k: np.zeros((s[0], *s[1:])) for k, s in cells.GRU.shapes(1, 5).items()}
        weights["W"] = weights["W"][:, :0]
        for call in (
            lambda: xrnn.GRU(0, 5),
            lambda: xrnn.unroll(cells.GRU, weights, np.zeros((4, 2, 0))),
            lambda: xrnn.online.Online(cells.GRU, weights, 2),
        ):
            with pytest.raises(ValueError, match=r"gru: .* is 0; it must be an integer ≥ 1"):
                call()


class TestWrongWeights:
    """One answer of all entry points, for every cell and weight."""

    @pytest.mark.parametrize("cell", cells.BY_NAME.values(), ids=lambda cell: cell.name)
    @pytest.mark.parametrize("form", [lambda a: a[None], lambda a: a[..., None], lambda a: a.sum()])
    def test_of_too_many_or_no_axes(self, cell: Any, form: Any) -> None:
        right = {k: np.ones(s) for k, s in cell.shapes(3, 4).items()}
        layer = xrnn.Layer(cell, 3, 4, dtype="float64")
        for name, w in right.items():
            wrong = np.asarray(form(w))
            calls: list[Any] = [
                lambda given: xrnn.unroll(cell, given, np.zeros((2, 2, 3))),
                lambda given: xrnn.online.Online(cell, given, 2),
                lambda given: setattr(layer, "weights", {f"{k}_l0": v for k, v in given.items()}),
            ]
            for call in calls:
                with pytest.raises(ValueError, match=rf": {name}(_l0)? has shape .* must be \("):
                    call({**right, name: wrong})

    def test_the_sizes_that_are_known_are_said(self) -> None:
        weights = {k: np.zeros(s) for k, s in cells.LSTM.shapes(8, 16).items()}
        wanted = r"has shape \(3, 3\); it must be \(4·H, I\) = \(64, 8\)"
        weights["W"] = np.zeros((3, 3))
        with pytest.raises(ValueError, match="W " + wanted):
            xrnn.unroll(cells.LSTM, weights, np.zeros((2, 2, 8)))
        with pytest.raises(ValueError, match="W_l0 " + wanted):
            xrnn.LSTM(8, 16).weights["W_l0"] = np.zeros((3, 3), "float32")


class TestDtypes:
    @every_maker
    @pytest.mark.parametrize("name", ["float16", "float32", "float64"])
    def test_in_every_usual_form(self, make: Any, name: str) -> None:
        strict, torch = pytest.importorskip("array_api_strict"), pytest.importorskip("torch")
        forms = [name, getattr(np, name), np.dtype(name), np.dtype(name).newbyteorder(">")]
        forms += [getattr(torch, name)]
        forms += [getattr(strict, name)] if hasattr(strict, name) else []
        for form in forms:
            part = make(dtype=form)
            assert part.dtype == name
            assert {str(w.dtype) for w in part.weights.values()} == {name}
            assert part.config() == make(dtype=name).config()

    def test_bfloat16(self) -> None:
        ml_dtypes, torch = pytest.importorskip("ml_dtypes"), pytest.importorskip("torch")
        for form in ("bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16), torch.bfloat16):
            layer = xrnn.LSTM(3, 5, dtype=form, device="torch")
            assert layer.dtype == "bfloat16"
            assert layer.weights["W_l0"].dtype == torch.bfloat16

    @every_maker
    @pytest.mark.parametrize(
        "dtype", ["float23", "int8", np.int8, np.dtype("int64"), float, None, 32, ["float32"]]
    )
    def test_what_is_no_dtype_of_weights(self, make: Any, dtype: Any) -> None:
        with pytest.raises(ValueError, match=r"dtype is .*; it must be 'float16' or .* 'float32'"):
            make(dtype=dtype)


class TestDevices:
    @every_maker
    @pytest.mark.parametrize("device", ["cpu", "numpy", "numpy:cpu", "torch", "torch:cpu"])
    def test_by_library_and_its_device(self, make: Any, device: str) -> None:
        library = "torch" if device.startswith("torch") else "numpy"
        pytest.importorskip(library)
        part = make(device=device, rng=1)
        for name, w in make(rng=1).to(device).weights.items():
            assert type(w).__module__ == library
            np.testing.assert_array_equal(w, part.weights[name])

    def test_jax(self) -> None:
        pytest.importorskip("jax")
        assert "jax" in type(xrnn.LSTM(3, 5, device="jax").weights["W_l0"]).__module__

    def test_a_gpu_by_its_number(self) -> None:
        """As "cuda" itself: its error where it is not installed, and the same numbers."""
        if absent := problem(lambda: get("cuda")):
            for make in MAKERS.values():
                assert problem(partial(make, device="cuda:0")) == absent
            return
        backend = get("cuda")
        for make in MAKERS.values():
            part = make(device="cuda:0", rng=1)
            for name, w in make(rng=1).weights.items():
                assert part.weights[name].device.id == 0
                np.testing.assert_array_equal(w, backend.to_host(part.weights[name]))
        for wrong in ("cuda:99", "cuda:x", "cuda:"):
            with pytest.raises(ValueError, match=rf"device is '{wrong}'; cuda has no device"):
                xrnn.LSTM(3, 5, device=wrong)

    def test_where_the_library_has_several(self, strict: Any) -> None:
        """Weights, states, dropout masks and gradients are on the device that was named."""
        where = "array_api_strict:device1"
        layer = xrnn.LSTM(3, 5, num_layers=2, dropout=0.5, device=where)
        xs = strict.ones((4, 2, 3), dtype=strict.float32, device=strict.Device("device1"))
        ys, state, tape = layer.forward(xs, lengths=[4, 0], seed=0)
        dxs, dstate, dweights = layer.backward(tape, ys, state)
        readout = xrnn.Linear(5, 2, device=where)
        given = [ys, *state, dxs, *dstate, *dweights.values(), *readout.weights.values()]
        given += [*layer.step(xs[0, ...])[1], *xrnn.GRU(3, 5).to(where).weights.values()]
        assert {str(a.device) for a in given} == {str(strict.Device("device1"))}

    @pytest.fixture
    def strict(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A library that has several devices here."""
        xp = pytest.importorskip("array_api_strict")
        named = {"device": xp.Device, "device_of": lambda array: array.device}
        backends.register("array_api_strict", Backend("strict", xp, host.to_host, **named))
        yield xp
        backends.unregister("array_api_strict")

    @pytest.mark.parametrize(
        "device",
        [
            "cpu:0",
            "cpu:",
            "torch:nowhere",
            "torch:cuda:99",
            "nowhere",
            "CPU",
            "",
            ":0",
            "os",
            0,
            None,
        ],
    )
    @every_maker
    def test_what_is_no_device(self, make: Any, device: Any) -> None:
        part = make()
        calls: list[Any] = [lambda: make(device=device), lambda: part.to(device)]
        for call in calls:
            with pytest.raises((TypeError, ValueError, ImportError), match=r"device|backend") as no:
                call()
            assert "cpu" in str(no.value)
            assert "torch" in str(no.value)
        assert part.weights.placement.backend is get("cpu")


class TestDrawnLate:
    """Weights are drawn when one is first read, with the numbers that they always had."""

    @pytest.fixture
    def draws(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """A list that gets an entry whenever a part that is already made draws its weights."""
        found: list[Any] = []
        generator = host.generator

        def listening(rng: Any = None) -> Any:
            if isinstance(rng, np.random.SeedSequence):
                found.append(rng)
            return generator(rng)

        monkeypatch.setattr(host, "generator", listening)
        return found

    @every_maker
    def test_nothing_is_drawn_until_a_weight_is_read(self, make: Any, draws: list[Any]) -> None:
        part = make()
        weights = part.weights
        name = next(iter(weights))
        assert name in weights
        assert "foo" not in weights
        assert list(weights) == list(weights.keys()) == list(weights.specs)
        assert len(weights) == len(weights.specs)
        assert "float32 on cpu" in repr(weights) + repr(part)
        assert count(weights) > 0
        part.config()
        assert draws == []
        assert weights[name] is weights[name]
        assert next(iter(weights.values())) is weights[name]
        assert len(draws) == 1

    @every_maker
    def test_what_is_replaced_is_never_drawn(
        self, make: Any, draws: list[Any], tmp_path: Path
    ) -> None:
        source = make(rng=1)
        given = {name: w.copy() for name, w in source.weights.items()}
        xrnn.save(tmp_path / "file.safetensors", source)
        draws.clear()
        filled = [make() for _ in range(5)]
        filled[0].weights = given
        filled[1].weights.update(given)
        filled[2].weights |= given
        for name, w in given.items():
            filled[3].weights[name] = w
        xrnn.load(tmp_path / "file.safetensors", filled[4])
        for part in filled:
            for name, w in given.items():
                np.testing.assert_array_equal(part.weights[name], w)
        assert draws == []

    @pytest.mark.parametrize("make", [xrnn.LSTM, xrnn.GRU, xrnn.RNN, xrnn.Linear, xrnn.Embedding])
    def test_weights_of_pytorch_draw_nothing(self, make: Any, draws: list[Any]) -> None:
        state_dict = xrnn.convert.to_torch(make(3, 5, rng=1))
        draws.clear()
        xrnn.convert.from_torch(make(3, 5), state_dict)
        assert draws == []

    @every_maker
    def test_one_that_was_assigned_stays(self, make: Any, draws: list[Any]) -> None:
        part, whole = make(rng=1), make(rng=1)
        *others, name = part.weights
        part.weights[name] = ones = np.ones(part.weights.specs[name].shape, "float32")
        assert part.weights[name] is ones
        assert draws == []
        for other in others:
            np.testing.assert_array_equal(part.weights[other], whole.weights[other])
        assert part.weights[name] is ones

    def test_the_numbers_of_a_seed(self) -> None:
        """Those that the generator of the seed gives in the order of the weights."""
        layer = xrnn.LSTM(3, 5, num_layers=2, rng=7)
        random = np.random.default_rng(7)
        for k, I in enumerate((3, 5)):
            limit = (6 / (I + 5)) ** 0.5
            W = random.uniform(-limit, limit, (20, I))
            np.testing.assert_array_equal(layer.weights[f"W_l{k}"], W.astype("float32"))
            Q, R = zip(*[np.linalg.qr(random.normal(size=(5, 5))) for _ in range(4)], strict=True)
            U = np.concatenate([q * np.sign(np.diag(r)) for q, r in zip(Q, R, strict=True)])
            np.testing.assert_array_equal(layer.weights[f"U_l{k}"], U.astype("float32"))

    @every_maker
    def test_seeds_and_generators(self, make: Any) -> None:
        """The same numbers; what a user's own generator gives next does not depend on when."""
        generator, other = np.random.default_rng(5), np.random.default_rng(5)
        seed = np.random.SeedSequence(5)
        parts = [make(rng=5), make(rng=np.int64(5)), make(rng=seed), make(rng=generator)]
        after = generator.random()
        first = {name: w.copy() for name, w in parts[0].weights.items()}
        for part in parts:
            for name, w in part.weights.items():
                np.testing.assert_array_equal(w, first[name])
        for w in make(rng=other).weights.values():
            assert w.size
        assert other.random() == after
        assert seed.spawn(1)[0].spawn_key == (0,)

    @every_maker
    def test_without_a_seed_all_differ(self, make: Any) -> None:
        name = next(iter(make().weights))
        assert (make().weights[name] != make().weights[name]).any()

    @every_maker
    def test_copies_and_moves_draw_first(self, make: Any) -> None:
        forms: list[Any] = [
            copy.copy,
            copy.deepcopy,
            lambda part: pickle.loads(pickle.dumps(part)),
            lambda part: copy.deepcopy(part).freeze(),
            lambda part: copy.deepcopy(part).to("array_api_strict").to("cpu"),
        ]
        for form in forms:
            part = make()
            twin = form(part)
            for name, w in part.weights.items():
                np.testing.assert_array_equal(twin.weights[name], w)

    def test_threads_get_the_same_arrays(self) -> None:
        for _ in range(10):
            layer = xrnn.LSTM(16, 16)
            found: list[Any] = []
            ready = threading.Barrier(8)

            def read(layer: Any, found: list[Any], ready: threading.Barrier) -> None:
                ready.wait()
                found.append([id(w) for w in layer.weights.values()])

            threads = [threading.Thread(target=read, args=(layer, found, ready)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == [found[0]] * 8

    def test_an_attempt_that_fails_leaves_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer, qr = xrnn.LSTM(3, 5, rng=0), np.linalg.qr

        def interrupted(*given: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(np.linalg, "qr", interrupted)
        with pytest.raises(KeyboardInterrupt):
            layer(np.zeros((2, 2, 3), "float32"))
        monkeypatch.setattr(np.linalg, "qr", qr)
        for name, w in xrnn.LSTM(3, 5, rng=0).weights.items():
            np.testing.assert_array_equal(layer.weights[name], w)

    @pytest.mark.parametrize("wrong", ["1", None, [1.0], 1j])
    def test_what_cannot_be_drawn_is_an_error_at_once(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match=r"lstm: forget_bias is .*; it must be a number"):
            xrnn.LSTM(3, 5, forget_bias=wrong)
        with pytest.raises(ValueError, match=r"lstm: init is .*; it must be 'orthogonal' or"):
            xrnn.LSTM(3, 5, init=wrong)
        for make in MAKERS.values():
            with pytest.raises(
                (TypeError, ValueError), match=r"rng is .*; it must be None, an int"
            ):
                make(rng=-1 if wrong is None else wrong)
