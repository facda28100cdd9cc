"""Optimizers and learners in files: training goes on as if it had not been interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import cells
from xrnn.backends import backend_of, host
from xrnn.convert import files
from xrnn.learn.online import Online
from xrnn.learn.optim import SGD, Adam, Average, Optimizer, Plateau
from xrnn.typing import dtype_name

B, I, H = 2, 3, 4

MAKERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: SGD(0.1),
    "momentum": lambda: SGD(0.1, 0.9),
    "adam": Adam,
    "adamw": lambda: Adam(0.01, 0.8, 0.9, eps=1e-6, weight_decay=0.1),
}


def parts(make: Callable[[], Optimizer], **how: Any) -> dict[str, Any]:
    return {"net": xrnn.GRU(I, H, **how), "out": xrnn.Linear(H, 2, **how), "optimizer": make()}


def train(parts: dict[str, Any], first: int, last: int) -> None:
    """Updates with gradients that depend on the step alone, and a falling learning rate."""
    for step in range(first, last):
        rng, weights, dweights = np.random.default_rng(step), {}, {}
        for name in ("net", "out"):
            weights[name] = parts[name].weights
            placement = weights[name].placement
            dtype = host.named_dtype(dtype_name(placement.dtype))
            dweights[name] = {
                k: placement.from_host(rng.normal(size=w.shape).astype(dtype))
                for k, w in weights[name].items()
            }
        parts["optimizer"].lr = 0.1 / (1 + step)
        parts["optimizer"].update(weights, dweights)


def bits(parts: dict[str, Any]) -> dict[str, bytes]:
    """Those of the weights, and of the state of the optimizer."""

    def to_host(a: Any) -> Any:
        return backend_of(a).to_host(a)

    found = {k: to_host(a).tobytes() for k, a in parts["optimizer"].state.items()}
    for name in ("net", "out"):
        found |= {f"{name}.{k}": to_host(w).tobytes() for k, w in parts[name].weights.items()}
    return found


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
class TestOptimizers:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
    def test_training_goes_on_bit_by_bit(self, tmp_path: Path, make: Any, dtype: Any) -> None:
        here = parts(make, dtype=dtype)
        train(here, 0, 3)
        xrnn.save(tmp_path / "m", here)
        alone = xrnn.load(tmp_path / "m")
        filled = xrnn.load(tmp_path / "m", parts(make, dtype=dtype))
        for other in (alone, filled):
            assert type(other["optimizer"]) is type(here["optimizer"])
            assert other["optimizer"].config() == here["optimizer"].config()
            assert (other["optimizer"].lr, other["optimizer"].steps) == (0.1 / 3, 3)
            assert bits(other) == bits(here)
        for other in (here, alone, filled):
            train(other, 3, 6)
        assert bits(alone) == bits(filled) == bits(here)

    def test_on_another_device(self, tmp_path: Path, make: Any, device: str) -> None:
        if device == "readonly":
            pytest.skip("its arrays cannot be written to")
        here = parts(make, device=device)
        train(here, 0, 2)
        xrnn.save(tmp_path / "m", here)
        other = xrnn.load(tmp_path / "m", device=device)
        for one in (here, other):
            train(one, 2, 4)
        assert bits(other) == bits(here)

    def test_alone_and_before_the_first_step(self, tmp_path: Path, make: Any) -> None:
        optimizer = make()
        optimizer.lr = 0
        xrnn.save(tmp_path / "m", optimizer)
        assert vars(xrnn.load(tmp_path / "m")) == vars(optimizer)
        assert vars(xrnn.load(tmp_path / "m", make())) == vars(optimizer)


def test_other_options_of_an_optimizer_are_refused(tmp_path: Path) -> None:
    xrnn.save(tmp_path / "m", {"a": Adam(0.1)})
    for other, message in (
        (Adam(0.1, beta1=0.8), r"a\.beta1 is 0\.9 in the file, 0\.8 here"),
        (Adam(0.1, weight_decay=0.1), r"a\.weight_decay is 0\.0 in the file, 0\.1 here"),
        (SGD(0.1), r"a\.class is 'Adam' in the file, 'SGD' here"),
        (xrnn.Linear(2, 3), r"a\.kind is 'optimizer' in the file, 'linear' here"),
    ):
        with pytest.raises(ValueError, match=message):
            xrnn.load(tmp_path / "m", {"a": other})
    assert xrnn.load(tmp_path / "m", {"a": Adam(0.5)})["a"].lr == 0.1, "lr changes in training"


CELLS: dict[str, Any] = {
    "lstm": cells.LSTM,
    "gru": cells.GRU,
    "input-gated": cells.InputGatedLSTM,
    "options": cells.lstm_with(layer_norm=True, proj_size=2, zoneout=(0.1, 0.2)),
    "leaky": cells.leaky_with(0.5, potential=True),
}


def learner(cell: Any, dtype: str = "float64", **how: Any) -> Online[Any]:
    rng = np.random.default_rng(0)
    weights = {
        k: rng.normal(size=shape).astype(host.named_dtype(dtype))
        for k, shape in cell.shapes(I, H).items()
    }
    return Online(cell, weights, B, **how)


def run(one: Online[Any], first: int, last: int) -> list[bytes]:
    """Steps with their gradients, and a change of the weights after each; all bits of it."""
    found = []
    for t in range(first, last):
        rng = np.random.default_rng(t)
        dtype = one.weights["W"].dtype
        h = one.step(rng.normal(size=(B, I)).astype(dtype))
        gradient = one.gradient(rng.normal(size=h.shape).astype(dtype))
        found += [h.tobytes(), *(part.tobytes() for part in one.state)]
        found += [g.tobytes() for _, g in sorted(gradient.items())]
        for name, w in one.weights.items():
            w -= gradient[name] / 8
    return found


class TestLearners:
    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
    @pytest.mark.parametrize("cell", CELLS.values(), ids=list(CELLS))
    def test_a_stream_goes_on_bit_by_bit(self, tmp_path: Path, cell: Any, dtype: str) -> None:
        here = learner(cell, dtype)
        run(here, 0, 3)
        xrnn.save(tmp_path / "m", here)
        alone = xrnn.load(tmp_path / "m")
        filled = xrnn.load(tmp_path / "m", learner(cell, dtype))
        for other in (alone, filled):
            assert other.config() == here.config()
            assert (other.method, other.limit, other.nbytes) == ("exact", 2**30, here.nbytes)
        assert run(alone, 3, 6) == run(filled, 3, 6) == run(here, 3, 6)

    @pytest.mark.parametrize("limit", [float("inf"), 10**6])
    def test_options(self, tmp_path: Path, limit: Any) -> None:
        here = learner(cells.LSTM, method="snap1", limit=limit)
        run(here, 0, 2)
        xrnn.save(tmp_path / "m", {"a": here})
        found = xrnn.load(tmp_path / "m")["a"]
        assert (found.cell, found.B, found.method, found.limit) == (cells.LSTM, B, "snap1", limit)
        assert run(found, 2, 4) == run(here, 2, 4)
        with pytest.raises(ValueError, match="method is 'snap1' in the file, 'exact' here"):
            xrnn.load(tmp_path / "m", {"a": learner(cells.LSTM)})

    def test_without_biases_and_in_another_dtype(self, tmp_path: Path) -> None:
        whole = learner(cells.GRU)
        weights = {k: w for k, w in whole.weights.items() if k != "b"}
        here = Online(cells.GRU, weights, B, whole.state)
        run(here, 0, 2)
        xrnn.save(tmp_path / "m", here)
        found = xrnn.load(tmp_path / "m", dtype="float32")
        assert {str(a.dtype) for a in found.memory().values()} == {"float32"}
        np.testing.assert_array_equal(found.state.h, here.state.h.astype("float32"))
        assert run(xrnn.load(tmp_path / "m"), 2, 4) == run(here, 2, 4)
        with pytest.raises(ValueError, match=r"weights is \['U', 'W', 'v'\] in the file, "):
            xrnn.load(tmp_path / "m", whole)

    def test_a_cell_of_ones_own_is_filled(self, tmp_path: Path) -> None:
        cell = replace(cells.GRU, total=lambda dstate, *given, **how: dstate)
        here, other = learner(cell), learner(cell)
        run(here, 0, 2)
        xrnn.save(tmp_path / "m", here)
        with pytest.raises(ValueError, match=r"cell 'gru \(.* give it: load\(path, part\)"):
            xrnn.load(tmp_path / "m")
        assert run(xrnn.load(tmp_path / "m", other), 2, 4) == run(here, 2, 4)

    def test_in_another_library(self, tmp_path: Path, device: str) -> None:
        here = learner(cells.MinGRU, "float32")
        run(here, 0, 2)
        xrnn.save(tmp_path / "m", here)
        found = xrnn.load(tmp_path / "m", device=device)
        xrnn.save(tmp_path / "n", found)
        assert (tmp_path / "n").stat().st_size == (tmp_path / "m").stat().st_size
        assert run(xrnn.load(tmp_path / "n"), 2, 4) == run(here, 2, 4)
        assert type(found.weights["W"]) is type(xrnn.Linear(2, 2, device=device).weights["W"])

    def test_weights_that_cannot_be_replaced(self, tmp_path: Path) -> None:
        here = learner(cells.MinGRU)
        xrnn.save(tmp_path / "m", here)
        fixed = Online(cells.MinGRU, MappingProxyType(dict(here.weights)), B)
        with pytest.raises(TypeError, match=r"weights of an Online are a mappingproxy; .* a dict"):
            xrnn.load(tmp_path / "m", fixed)


class TestTied:
    """A learner whose weights are those of a layer, or of another learner."""

    def parts(self) -> dict[str, Any]:
        net = xrnn.GRU(I, H, dtype="float64")
        weights = {k: net.weights[f"{k}_l0"] for k in ("W", "U", "b")}
        weights["v"] = np.ones(H)
        first = Online(cells.GRU, weights, B)
        return {"first": first, "net": net, "second": Online(cells.GRU, dict(weights), B)}

    def check_tied(self, parts: dict[str, Any]) -> None:
        first, net, second = (parts[name] for name in ("first", "net", "second"))
        for k in ("W", "U", "b"):
            assert first.weights[k] is second.weights[k] is net.weights[f"{k}_l0"]
        assert first.weights["v"] is second.weights["v"]
        assert first.weights["v"] is not net.weights["v_l0"]

    def test_they_share_them_again(self, tmp_path: Path) -> None:
        here = self.parts()
        run(here["first"], 0, 2)
        xrnn.save(tmp_path / "m", here)
        tensors, _ = files.read(tmp_path / "m")
        assert sum(name.endswith(".W") and "sensi" not in name for name in tensors) == 0
        alone, filled = xrnn.load(tmp_path / "m"), xrnn.load(tmp_path / "m", self.parts())
        assert list(alone) == list(here)
        expected = run(here["first"], 2, 4), run(here["second"], 0, 2)
        for other in (alone, filled):
            self.check_tied(other)
            assert (run(other["first"], 2, 4), run(other["second"], 0, 2)) == expected
            for name, w in here["net"].weights.items():
                np.testing.assert_array_equal(other["net"].weights[name], w)

    def test_parts_that_are_not_tied_here_stay_so(self, tmp_path: Path) -> None:
        here, other = self.parts(), self.parts()
        xrnn.save(tmp_path / "m", here)
        other["second"] = learner(cells.GRU)
        xrnn.load(tmp_path / "m", other)
        assert other["first"].weights["W"] is other["net"].weights["W_l0"]
        assert other["second"].weights["W"] is not other["net"].weights["W_l0"]
        np.testing.assert_array_equal(other["second"].weights["W"], here["net"].weights["W_l0"])

    def test_parts_that_are_tied_here_must_be_equal_in_the_file(self, tmp_path: Path) -> None:
        here = self.parts() | {"second": learner(cells.GRU)}
        xrnn.save(tmp_path / "m", here)
        with pytest.raises(ValueError, match=r"net\.W_l0 and second\.W are one weight here, and h"):
            xrnn.load(tmp_path / "m", self.parts())


def test_ctrl_c_at_every_line(tmp_path: Path) -> None:
    """All parts are as they were or, if they had been replaced by then, as the file says."""

    def state(parts: dict[str, Any]) -> list[Any]:
        one = parts["learner"]
        arrays = {**parts["net"].weights, **one.weights, **one.memory(), **parts["adam"].state}
        return [(k, a.tobytes()) for k, a in arrays.items()] + [vars(parts["adam"])["steps"]]

    def made(steps: int) -> dict[str, Any]:
        net = xrnn.RNN(I, H, rng=steps)
        one = learner(cells.MinGRU)
        run(one, 0, steps)
        adam = Adam()
        for _ in range(steps):
            adam.update(net.weights, {k: np.ones_like(w) for k, w in net.weights.items()})
        return {"net": net, "learner": one, "adam": adam}

    xrnn.save(tmp_path / "m", made(3))
    old, new, outcomes, n = state(made(1)), state(made(3)), set(), 0
    here = made(1)
    while True:
        n += 1
        left = n

        def trace(frame: Any, event: str, given: Any) -> Any:
            nonlocal left
            if event == "line" and "/xrnn/convert/" in frame.f_code.co_filename:
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            xrnn.load(tmp_path / "m", here)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        found = state(here)
        assert found in (old, new), f"line {n}"
        outcomes.add(found == new)
        if left > 0:
            break
        if found == new:
            here = made(1)
    assert outcomes == {True, False}


class TestAveragesAndPlateaus:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
    def test_averaging_goes_on_bit_by_bit(self, tmp_path: Path, dtype: Any) -> None:
        def run(parts: dict[str, Any], first: int, last: int) -> None:
            for step in range(first, last):
                train(parts, step, step + 1)
                parts["average"].update({name: parts[name].weights for name in ("net", "out")})

        here = parts(Adam, dtype=dtype, rng=0) | {"average": Average(0.75)}
        run(here, 0, 3)
        xrnn.save(tmp_path / "m", here)
        alone = xrnn.load(tmp_path / "m")
        empty = parts(Adam, dtype=dtype) | {"average": Average(0.75)}
        filled = xrnn.load(tmp_path / "m", empty)
        for other in (here, alone, filled):
            assert other["average"].steps == 3
            assert other["average"].config() == here["average"].config()
            run(other, 3, 6)
        for other in (alone, filled):
            assert other["average"].state.keys() == here["average"].state.keys()
            for path, array in here["average"].state.items():
                np.testing.assert_array_equal(other["average"].state[path], array)

    def test_an_average_before_the_first_update(self, tmp_path: Path) -> None:
        xrnn.save(tmp_path / "m", Average(0.9))
        assert vars(xrnn.load(tmp_path / "m")) == vars(Average(0.9))
        with pytest.raises(ValueError, match=r"decay is 0\.9 in the file, 0\.8 here"):
            xrnn.load(tmp_path / "m", Average(0.8))
        with pytest.raises(ValueError, match="kind is 'average' in the file, 'plateau' here"):
            xrnn.load(tmp_path / "m", Plateau())

    def test_a_plateau_goes_on(self, tmp_path: Path) -> None:
        measures = [3.0, 2.0, 2.5, 2.5, 2.5, 1.0, 1.5, 1.5, 1.5, 1.5]
        whole = Plateau(shrink=0.5, patience=2, least=0.1)
        factors = [whole.update(one) for one in measures]
        for n in range(len(measures)):
            here = Plateau(shrink=0.5, patience=2, least=0.1)
            for one in measures[:n]:
                here.update(one)
            xrnn.save(tmp_path / "m", {"plateau": here})
            alone = xrnn.load(tmp_path / "m")["plateau"]
            filled = Plateau(shrink=0.5, patience=2, least=0.1)
            xrnn.load(tmp_path / "m", {"plateau": filled})
            for other in (alone, filled):
                assert other.state == here.state
                assert [other.update(one) for one in measures[n:]] == factors[n:]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"factor": 2.0}, r"plateau: factor is 2\.0; it must be in \[0, 1\]"),
            ({"best": "a"}, "plateau: best is 'a'; it must be a number or None"),
            ({"best": float("nan")}, "plateau: best is nan; it must be a number or None"),
            ({"waited": -1}, r"plateau: waited is -1; it must lie in 0…"),
            ({"waited": True}, "plateau: waited is True"),
            ({"more": 1}, "plateau: state has factor, best, waited, more; it must have factor"),
        ],
    )
    def test_a_plateau_that_cannot_be(self, tmp_path: Path, change: Any, message: str) -> None:
        wrong, before = Plateau(), Plateau()
        wrong.state = wrong.state | change
        xrnn.save(tmp_path / "m", wrong)
        with pytest.raises((ValueError, TypeError), match=message):
            xrnn.load(tmp_path / "m", before)
        assert before.state == Plateau().state

    def test_an_average_that_cannot_be(self, tmp_path: Path) -> None:
        wrong = Average(0.5)
        wrong.update({"w": np.ones(2)})
        for change, message in (
            ({"steps": -1}, "average: steps is -1; it must lie in 0…"),
            ({"state": {"w": np.ones(2, int)}}, "average: w is int64; it must be of float32"),
        ):
            other = Average(0.5)
            vars(other).update(vars(wrong) | change)
            xrnn.save(tmp_path / "m", other)
            with pytest.raises((ValueError, TypeError), match=message):
                xrnn.load(tmp_path / "m", Average(0.5))
