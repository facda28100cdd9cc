"""How parts are made: sizes, seeds, dtypes and devices in every usual form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from parts import ALL, every_part

import xrnn
from xrnn import backends, cells
from xrnn.backends import Backend, get, host


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


class TestSeeds:
    @pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int16, np.uint64], ids=str)
    def test_of_numpy(self, kind: Any) -> None:
        layer = xrnn.LSTM(3, 5, num_layers=2, dropout=0.5, rng=kind(3))
        other = xrnn.LSTM(3, 5, num_layers=2, dropout=0.5, rng=3)
        xs = np.ones((4, 2, 3), "float32")
        ys = layer.forward(xs, seed=kind(3))[0]
        np.testing.assert_array_equal(ys, other.forward(xs, seed=3)[0])
        assert (ys != layer.forward(xs, seed=kind(4))[0]).any()

    @pytest.mark.parametrize("seed", [-1, np.int64(-3), 2**70, np.uint64(2**64 - 1)], ids=repr)
    def test_of_any_size(self, seed: Any) -> None:
        layer, xs = xrnn.LSTM(3, 5, num_layers=2, dropout=0.5), np.ones((4, 2, 3), "float32")
        first, again = (layer.forward(xs, seed=seed)[0] for _ in range(2))
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(first, layer.forward(xs, seed=int(seed))[0])


class TestDtypes:
    @every_part
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

    @pytest.mark.parametrize("name", ["float16", "bfloat16"])
    def test_that_the_library_does_not_have(self, name: Any) -> None:
        pytest.importorskip("ml_dtypes")
        strict = pytest.importorskip("array_api_strict")
        if hasattr(strict, name):
            pytest.skip(f"this array_api_strict has {name}")
        with pytest.raises(TypeError, match=f"'array_api_strict' has no arrays of {name}; choose"):
            xrnn.LSTM(3, 5, dtype=name, device="array_api_strict")

    @every_part
    @pytest.mark.parametrize(
        "dtype", ["float23", "int8", np.int8, np.dtype("int64"), float, None, 32, ["float32"]]
    )
    def test_what_is_no_dtype_of_weights(self, make: Any, dtype: Any) -> None:
        with pytest.raises(ValueError, match=r"dtype is .*; it must be 'float16' or .* 'float32'"):
            make(dtype=dtype)


class TestDevices:
    @every_part
    @pytest.mark.parametrize(
        "device",
        ["cpu", "numpy", "numpy:cpu", "torch", "torch:cpu", "jax", "jax:0", "jax:cpu", "jax:cpu:0"],
    )
    def test_by_library_and_its_device(self, make: Any, device: str) -> None:
        library = device.partition(":")[0].replace("cpu", "numpy")
        pytest.importorskip(library)
        part = make(device=device, rng=1)
        for name, w in make(rng=1).to(device).weights.items():
            assert type(w).__module__.startswith(library)
            np.testing.assert_array_equal(w, part.weights[name])

    @pytest.mark.parametrize(
        "wrong", [0, None, "", "json", "no_such_library", "strict", "jax.numpy", "numpy.linalg"]
    )
    def test_an_error_names_those_that_are_accepted(self, wrong: Any) -> None:
        with pytest.raises((ImportError, TypeError, ValueError)) as raised:
            xrnn.LSTM(3, 5, device=wrong)
        named = re.findall(r'"(\w+)"', str(raised.value))
        assert {"cpu"} <= set(named) <= {"cpu", "cuda", "jax", "torch", "array_api_strict"}
        for device in set(named) - {"cuda"}:
            assert xrnn.LSTM(3, 5, device=device).weights["U_l0"].shape == (20, 5)

    @pytest.mark.parametrize("wrong", ["jax:99", "jax:tpu7", "jax:cpu:x", "numpy:0", "cpu:"])
    def test_a_device_that_the_library_has_not(self, wrong: str) -> None:
        library = wrong.partition(":")[0]
        if library == "jax":
            pytest.importorskip(library, reason="its devices are asked for")
        with pytest.raises(ValueError, match="here; leave it out, or give"):
            xrnn.LSTM(3, 5, device=wrong)
        assert xrnn.LSTM(3, 5, device=library).weights["U_l0"].shape == (20, 5)

    def test_a_gpu_by_its_number(self) -> None:
        """As "cuda" itself: its error where it is not installed, and the same numbers."""
        if absent := problem(lambda: get("cuda")):
            for make in ALL.values():
                assert problem(partial(make, device="cuda:0")) == absent
            return
        backend = get("cuda")
        for make in ALL.values():
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

    @pytest.fixture
    def narrow(self) -> Iterator[str]:
        """A library that makes float32 of float64, as JAX does unless it is told otherwise."""
        library = pytest.importorskip("array_api_strict")

        class Narrow:
            def __getattr__(self, name: str) -> Any:
                return getattr(library, name)

            def asarray(self, a: Any, **how: Any) -> Any:
                a = library.asarray(a, **how)
                return library.astype(a, library.float32) if a.dtype == library.float64 else a

        backends.register("array_api_strict", Backend("narrow", Narrow(), host.to_host))
        yield "array_api_strict"
        backends.unregister("array_api_strict")

    @every_part
    def test_where_the_library_has_not_the_dtype(self, make: Any, narrow: str) -> None:
        """An error instead of other weights than were asked for."""
        assert make(device=narrow).weights.placement.backend.name == "narrow"
        calls: list[Any] = [
            lambda: make(dtype="float64", device=narrow),
            lambda: make(dtype="float64", device=narrow, rng=np.random.default_rng(0)),
            lambda: make(dtype="float64").to(narrow),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="narrow stores float64 as float32 here; choose"):
                call()

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
    @every_part
    def test_what_is_no_device(self, make: Any, device: Any) -> None:
        part = make()
        calls: list[Any] = [lambda: make(device=device), lambda: part.to(device)]
        for call in calls:
            with pytest.raises((TypeError, ValueError, ImportError), match=r"device|backend") as no:
                call()
            assert "cpu" in str(no.value)
        assert part.weights.placement.backend is get("cpu")
