"""What the documentation promises about results, on every path that may compute them.

A promise is a function of one `Outcome`; `PROMISES` lists them, `PATHS` the ways to compute, and
`CASES` the shapes and options.  CUDA kernels keep the same promises in `sequence_checks.py`, which
runs them emulated.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import DEVICES
from rows import ROWS

import xrnn
from xrnn import cells
from xrnn.backends import Kernel, get, register, unregister
from xrnn.backends.cpu import BACKEND, NUMPY, extension, options

I, H = 3, 4

CELLS = [row.cell for row in ROWS] + [
    cells.lstm_with(coupled=True, peephole=True, clip=0.6, cell_clip=0.5),
    cells.lstm_with(proj_size=2, layer_norm="gates"),
    cells.gru_with(layer_norm=True),
]


class Path(NamedTuple):
    """A way to compute: a library, a dtype, and on the CPU which kernels there are."""

    device: str
    dtype: Any = "float64"
    kernels: Callable[[Any], tuple[Kernel, ...]] | None = None


def numpy_alone(cell: Any) -> tuple[Kernel, ...]:
    """The kernel in NumPy, also for few steps, which the cell's own code runs otherwise."""
    found = filter(None, [NUMPY.get(cell)])
    return tuple(replace(kernel, serves=lambda T, B, I, H: True) for kernel in found)


def native_alone(cell: Any) -> tuple[Kernel, ...]:
    """The native loop, also of a cell with options."""
    return (*extension.kernels(cell), *options.kernels(cell))


no_native = pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT or "built")
PATHS = [
    pytest.param(Path("cpu", "float32", native_alone), id="native", marks=no_native),
    pytest.param(Path("cpu", "float64", numpy_alone), id="NumPy alone"),
    pytest.param(Path("cpu", "float64", lambda cell: ()), id="the cell's own code"),
    pytest.param(Path("cpu", "float16"), id="float16"),
    *(
        pytest.param(Path(str(device.values[0])), id=str(device.values[0]), marks=device.marks)
        for device in DEVICES
        if device.values[0] not in ("cpu", "readonly")
    ),
]


class Case(NamedTuple):
    """Steps, the lengths of the sequences, and the options of a layer."""

    T: int
    lengths: tuple[int, ...]
    options: dict[str, Any]
    scan: bool = False
    """So many steps that NumPy runs cells with a linear recurrence by a scan: for these alone"""

    def concerns(self, cell: Any, path: Path) -> bool:
        """Whether the case takes another way than the others."""
        if path.device not in ("cpu", "cuda"):
            return self.T <= 2  # the same code runs any number of steps
        return not self.scan or (cell.linear is not None and path.kernels is numpy_alone)


CASES = [
    Case(0, (0, 0), {}),
    Case(1, (1, 0), {"reverse": True}),
    Case(2, (0, 0), {}),
    Case(2, (2, 0, 1), {"bidirectional": True, "num_layers": 2}),
    Case(5, (3, 5, 0, 1), {"reverse": True, "num_layers": 2}),
    Case(130, (130, 0, 7), {}, scan=True),
]


#: the first word of the names of results (T, B, n)
OVER_TIME = ("ys", "inference", "dxs", "gate", "dgate", "dstate")


@dataclass
class Outcome:
    """All that a layer gave for what it was given, as NumPy arrays by name."""

    cell: Any
    past: Any
    given: dict[str, Any]
    before: dict[str, Any]
    """What was given, copied before"""
    found: dict[str, Any]
    again: dict[str, Any]
    """The results of a second backward pass"""

    def over_time(self) -> dict[str, Any]:
        """The results (T, B, n)."""
        return {name: a for name, a in self.found.items() if name.split()[0] in OVER_TIME}


def outcome(
    path: Path, cell: Any, case: Case, xs: float = 1.0, dys: float = 1.0, **fill: float
) -> Outcome:
    """Run a layer on random numbers of that size; `fill` says what stands where nothing counts."""
    backend, B, T = get(path.device), len(case.lengths), case.T
    rng, dtype = np.random.default_rng(3), path.dtype
    layer: Any = xrnn.Layer(cell, I, H, dtype=dtype, device=path.device, rng=0, **case.options)
    parts, widths = len(layer.parts()), cell.widths(H)
    out = widths[0] * layer.directions
    past = np.arange(T)[:, None] >= np.array(case.lengths)
    given = {"xs": xs * rng.normal(size=(T, B, I)), "dys": dys * rng.normal(size=(T, B, out))}
    for a in given.values():
        a[past] = fill.get("padding", 0)
    for what, scale in (("first", 1.0), ("dlast", dys)):
        for s, n in zip(cell.states, widths, strict=True):
            a = given[f"{what} {s}"] = scale * rng.normal(size=(parts, B, n))
            a[:, past.all(axis=0)] = fill.get("idle", 0)
    with np.errstate(under="ignore"):
        there = {name: backend.from_host(a.astype(dtype)) for name, a in given.items()}
    host = {name: backend.to_host(a) for name, a in there.items()}
    weights = {name: backend.to_host(w).copy() for name, w in layer.weights.items()}
    if "weight" in fill:
        for name in (name for name in weights if name.startswith("W")):
            weights[name][..., 0] = fill["weight"]
            layer.weights[name] = backend.from_host(weights[name])
    host |= {name: backend.to_host(w) for name, w in layer.weights.items()}
    before = {name: a.copy() for name, a in host.items()}
    first, dlast = ([there[f"{what} {s}"] for s in cell.states] for what in ("first", "dlast"))
    ys, last, tape = layer.forward(there["xs"], first, case.lengths)
    again, back = (layer.backward(tape, there["dys"], dlast) for _ in range(2))
    inference, end = layer(there["xs"], first, case.lengths)
    found = {"ys": ys, "inference": inference, **_backward(cell, back)}
    found |= _named(cell, "last", last) | _named(cell, "end", end)
    dgates, dstates = xrnn.analysis.gate_gradients(tape, there["dys"], dlast)
    looks = {"gate": xrnn.analysis.gates(tape), "dgate": dgates, "dstate": dstates}
    looks["flow"] = xrnn.analysis.gradient_flow(tape, there["dys"], dlast)
    found |= {f"{k} {name}": a for k, look in looks.items() for name, a in look.items()}
    pair = found, _backward(cell, again)
    on_host = ({name: backend.to_host(a) for name, a in part.items()} for part in pair)
    return Outcome(cell, past, host, before, *on_host)


def _backward(cell: Any, results: Any) -> dict[str, Any]:
    dxs, dfirst, dweights = results
    named = {f"d{name}": d for name, d in dweights.items()}
    return {"dxs": dxs, **_named(cell, "dfirst", dfirst), **named}


def _named(cell: Any, what: str, state: Any) -> dict[str, Any]:
    return {f"{what} {name}": a for name, a in zip(cell.states, state, strict=True)}


#: what stands where nothing counts (in the padding, in the states of sequences without a step),
#: and the sizes of the rest
GIVEN: dict[str, dict[str, float]] = {
    "clean": {},
    "not finite": {"padding": np.inf, "idle": np.nan},
    "infinite input weights": {"padding": np.nan, "idle": np.inf, "weight": np.inf},
    "saturated, and gradients that vanish": {"xs": 1e3, "dys": 1e-7},
}


@contextmanager
def running(path: Path) -> Iterator[None]:
    """NumPy's arrays have the kernels of the path."""
    if path.kernels is None:
        yield
        return
    table = {cell: path.kernels(cell) for cell in CELLS}
    register("numpy", replace(BACKEND, kernels=table))
    try:
        yield
    finally:
        unregister("numpy")


@cache
def outcomes(path: Path, given: str, errors: Any = "ignore") -> list[Outcome]:
    """The outcomes of every cell and case on a path; NumPy does that at floating-point errors."""
    with running(path), np.errstate(all=errors):
        return [
            outcome(path, cell, case, **GIVEN[given])
            for cell in CELLS
            for case in CASES
            if case.concerns(cell, path)
        ]


def past_the_end_all_is_zero(path: Path) -> None:
    """Outputs, their gradients and those of the inputs, gates and states: exactly 0."""
    for given in GIVEN:
        for one in outcomes(path, given):
            for name, a in one.over_time().items():
                assert not a[one.past].any(), (one.cell, given, name)


def what_does_not_count_is_not_read(path: Path) -> None:
    """What stands in the padding and in states of sequences without a step changes no bit."""
    for one, clean in zip(outcomes(path, "not finite"), outcomes(path, "clean"), strict=True):
        steps = ~one.past.all(axis=0)
        for name, a in one.found.items():
            b = clean.found[name]
            if name.split()[0] in ("last", "end", "dfirst"):
                a, b = a[:, steps], b[:, steps]
            np.testing.assert_array_equal(a, b, f"{one.cell} {name}")


def without_a_step_a_state_is_handed_on(path: Path) -> None:
    """The last state is the one given, and the gradient of the one given that of the last."""
    for given in ("clean", "not finite", "infinite input weights"):
        for one in outcomes(path, given):
            idle = one.past.all(axis=0)
            for name in one.cell.states:
                for what, given_as in (("last", "first"), ("end", "first"), ("dfirst", "dlast")):
                    a, b = one.found[f"{what} {name}"], one.given[f"{given_as} {name}"]
                    np.testing.assert_array_equal(a[:, idle], b[:, idle], f"{one.cell} {what}")


def nothing_given_is_written_to(path: Path) -> None:
    """Neither inputs, states and gradients nor weights."""
    for one in outcomes(path, "not finite"):
        for name, a in one.given.items():
            assert a.tobytes() == one.before[name].tobytes(), (one.cell, name)


def results_share_no_memory(path: Path) -> None:
    """Neither with what was given nor with one another."""
    for one in outcomes(path, "clean"):
        for (name, a), (other, b) in combinations([*one.found.items(), *one.given.items()], 2):
            if name in one.found:
                assert not np.may_share_memory(a, b), (one.cell, name, other)


def outputs_that_backward_reads_are_read_only(path: Path) -> None:
    """Where the library has such arrays; nothing else is read-only."""
    if get(path.device).xp is not np:
        pytest.skip("the library has no read-only arrays")
    for one in outcomes(path, "clean"):
        for name, a in one.found.items():
            assert a.flags.writeable == (name != "ys"), (one.cell, name)


def backward_gives_the_same_twice(path: Path) -> None:
    """With one tape: the same bits."""
    for one in outcomes(path, "clean"):
        for name, a in one.again.items():
            np.testing.assert_array_equal(a, one.found[name], f"{one.cell} {name}")


def inference_is_the_same_pass(path: Path) -> None:
    """The same bits as with a tape."""
    for one in outcomes(path, "clean"):
        np.testing.assert_array_equal(one.found["inference"], one.found["ys"])
        for name in one.cell.states:
            np.testing.assert_array_equal(one.found[f"end {name}"], one.found[f"last {name}"])


def finite_numbers_cause_no_floating_point_error(path: Path) -> None:
    """Saturated gates and gradients rounded to 0 are none; and all that comes out is finite."""
    for one in outcomes(path, "saturated, and gradients that vanish", "raise"):
        for name, a in one.found.items():
            assert np.isfinite(a).all(), (one.cell, name)


PROMISES = [
    past_the_end_all_is_zero,
    what_does_not_count_is_not_read,
    without_a_step_a_state_is_handed_on,
    nothing_given_is_written_to,
    results_share_no_memory,
    outputs_that_backward_reads_are_read_only,
    backward_gives_the_same_twice,
    inference_is_the_same_pass,
    finite_numbers_cause_no_floating_point_error,
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda f: f.__name__)
def test_promise(promise: Callable[[Path], None], path: Path) -> None:
    promise(path)


@pytest.mark.parametrize("path", PATHS)
def test_the_first_h_of_an_input_gated_lstm_is_not_read(path: Path) -> None:
    """NaN there changes nothing, and its gradient is 0."""
    backend = get(path.device)
    with running(path):
        layer = xrnn.InputGatedLSTM(I, H, dtype=path.dtype, device=path.device, rng=0)
        xs = backend.from_host(np.ones((5, 2, I), path.dtype))
        zeros = np.zeros((1, 2, H), path.dtype)
        results = []
        for first in (zeros, np.full_like(zeros, np.nan)):
            state = [backend.from_host(first), backend.from_host(zeros)]
            ys, last, tape = layer.forward(xs, state)
            dxs, dfirst, dweights = layer.backward(tape, ys, last)
            assert not backend.to_host(dfirst.h).any()
            found = [ys, *last, *layer(xs, state)[1], dxs, dfirst.c, *dweights.values()]
            results.append([backend.to_host(a) for a in found])
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_cannot_be_moved_or_taken_over_leaves_a_layer_as_it_was() -> None:
    layer, linear = xrnn.LSTM(I, H, 2), xrnn.Linear(H, 2)
    values = {name: w.copy() for name, w in layer.weights.items()}
    faulty = xrnn.convert.to_torch(xrnn.LSTM(I, H, 2))
    faulty["bias_hh_l1"] = faulty["bias_hh_l1"][:-1]
    for attempt in (
        lambda: layer.to("no_such_library"),
        lambda: linear.to("json"),
        lambda: xrnn.convert.from_torch(layer, faulty),
        lambda: layer.weights.update({"W_l0": layer.weights["W_l0"] + 1, "b_l9": values["b_l0"]}),
    ):
        before = dict(layer.weights), dict(linear.weights)
        with pytest.raises((ValueError, ImportError)):
            attempt()
        for now, then in zip((layer.weights, linear.weights), before, strict=True):
            assert all(w is then[name] for name, w in now.items())
    for name, w in layer.weights.items():
        np.testing.assert_array_equal(w, values[name])


def test_outputs_of_a_linear_map_are_read_only() -> None:
    linear = xrnn.Linear(H, 2)
    hs = np.ones((5, H), "float32")
    assert not linear.forward(hs)[0].flags.writeable
    assert linear(hs).flags.writeable


#: words of a promise
WORDS = re.compile(
    r"exactly 0|as it was\b|not written to|not write to|shares? no memory|read-only|"
    r"nothing is changed|nothing is moved|(is|are) not read\b",
    re.IGNORECASE,
)

#: module whose documentation makes such promises → the module of tests that holds them
KEPT_BY = {
    "adapters/jax/pure": "adapter_jax",
    "adapters/jax/recurrence": "adapter_jax",
    "analysis/gates": "promises",
    "cells/input_gated": "promises",
    "certify/laws": "laws",
    "convert/files": "files",
    "convert/filling": "files_training",
    "convert/torch": "promises",
    "convert/torch_files": "load_torch_files",
    "engine/module": "construction",
    "engine/parameters": "promises",
    "engine/segments": "timeline",
    "engine/unroll": "promises",
    "layers/architecture": "freeze",
    "layers/layer": "promises",
    "layers/linear": "promises",
    "layers/states": "states",
    "learn/average": "average",
    "learn/losses/__init__": "losses",
    "learn/losses/ctc": "losses_ctc",
    "learn/losses/elementwise": "losses_elementwise",
    "learn/losses/softmax": "losses",
    "learn/schedules": "schedules",
    "learn/online": "online_streams",
    "learn/optim": "optim",
    "learn/trees": "optim_edges",
    "recurrence/sensitivity": "online_streams",
    "training/checkpoint": "resume",
    "typing": "promises",
}


def test_every_module_that_promises_is_tested() -> None:
    """A promise in a module that is not in the table above is one that nothing tests."""
    package = pathlib.Path(xrnn.__file__).parent
    found = {
        path.relative_to(package).with_suffix("").as_posix()
        for path in package.glob("**/*.py")
        if "backends" not in path.parts and WORDS.search(path.read_text("utf-8"))
    }
    assert found == set(KEPT_BY)
    for name in KEPT_BY.values():
        assert pathlib.Path(__file__).with_name(f"test_{name}.py").is_file()
