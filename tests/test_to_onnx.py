"""`to_onnx`: onnxruntime computes of the model what the layers compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.flat import assert_agree

import xrnn
from xrnn import cells
from xrnn.convert import load_onnx, to_onnx

pytest.importorskip("onnx", reason="the models are written with onnx")
pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

from onnx_models import session
from test_oracle_onnx import random_activation

#: both sides are float32, and activations of onnxruntime are accurate to about 1e-6
BOUND = 1e-5

#: cells that are written as another one
REWRITTEN = (cells.InputGatedLSTM, cells.MinGRU, cells.MGU, cells.JANET)


def random_layer(rng: np.random.Generator, I: int, batch_first: bool) -> Any:
    """A layer with random options, all of which ONNX has."""
    kind = ["lstm", "gru", "rnn", "other"][rng.integers(4)]
    n = {"lstm": 3, "gru": 2, "rnn": 1, "other": 0}[kind]
    options: dict[str, Any] = {"bias": bool(rng.random() < 0.8), "batch_first": batch_first}
    options["learn_state"] = bool(rng.random() < 0.4)
    options |= [{}, {"reverse": True}, {"bidirectional": True}][rng.integers(3)]
    sizes: Any = [int(H) for H in rng.integers(1, 6, rng.integers(1, 4))]
    how: Any = {"hidden_size": sizes, "rng": int(rng.integers(100)), **options}
    if len(sizes) > 1 and rng.random() < 0.5:
        how |= {"hidden_size": sizes[0], "num_layers": len(sizes), "dropout": 0.1}
    if kind == "other":
        return xrnn.Layer(REWRITTEN[rng.integers(4)], I, **how)
    if rng.random() < 0.5:
        chosen = [random_activation(rng) for _ in range(n)]
        # ONNX stores numbers in float32, which gives back the first digits of the decimal ones.
        how["activations"] = [(name, *(round(x, 3) for x in others)) for name, *others in chosen]
    if rng.random() < 0.3:
        how |= {"clip": round(float(rng.uniform(0.2, 1.5)), 3), "recurrent_dropout": 0.1}
    if kind == "lstm":
        how |= {"coupled": bool(rng.integers(2)), "peephole": bool(rng.integers(2))}
    if kind == "gru":
        how["reset"] = ["after", "before"][rng.integers(2)]
    make: Any = {"lstm": xrnn.LSTM, "gru": xrnn.GRU, "rnn": xrnn.RNN}[kind]
    return make(I, **how)


def random_parts(rng: np.random.Generator) -> dict[str, Any]:
    """A few parts, of which one or two are layers; some are inside another part."""
    batch_first, size = bool(rng.integers(2)), int(rng.integers(1, 5))
    parts: list[Any] = []
    if rng.random() < 0.3:
        parts.append(xrnn.Embedding(7, size, rng=1))
    for _ in range(rng.integers(1, 3)):
        parts.append(random_layer(rng, size, batch_first))
        size = parts[-1].directions * parts[-1].widths(parts[-1].num_layers - 1)[0]
        if parts[-1].bidirectional and rng.random() < 0.4:
            size //= 2
            parts.append(xrnn.Merge(["sum", "mean", "mul", "max"][rng.integers(4)]))  # type: ignore[arg-type]
        parts += [xrnn.Dropout(0.3)] if rng.random() < 0.2 else []
        parts += [xrnn.LayerNorm(size)] if rng.random() < 0.2 else []
        if rng.random() < 0.2:
            parts.append(xrnn.Residual(xrnn.Linear(size, size), xrnn.Linear(size, size)))
        if rng.random() < 0.4:
            activation: Any = [None, "relu", "tanh", "sigmoid", "softplus"][rng.integers(5)]
            parts.append(xrnn.Linear(size, 3, activation=activation, bias=bool(rng.integers(2))))
            size = 3
    if rng.random() < 0.4:
        both: Any = partial(xrnn.Last, both_ends=size % 2 == 0)
        pool: Any = [xrnn.Last, xrnn.Mean, xrnn.Max, both][rng.integers(4)]
        parts += [pool(batch_first=batch_first), xrnn.Linear(size, 2)][: rng.integers(1, 3)]
    for part in parts:
        redraw(rng, part)
    found = {f"part{k}": part for k, part in enumerate(parts)}
    if len(parts) > 2 and rng.random() < 0.3:
        (name, first), *others = found.items()
        found = {name: first, "rest": xrnn.Sequential(**dict(others))}
    return found


def redraw(rng: np.random.Generator, part: Any) -> None:
    """Small weights, because many of the functions are not bounded; and no zeros."""
    for one in part.parts.values() if isinstance(part, xrnn.Sequential) else [part]:
        if one.weights:
            one.weights = {
                name: rng.normal(size=w.shape, scale=0.2).astype("float32")
                for name, w in one.weights.items()
            }


def random_state(rng: np.random.Generator, layer: Any, B: int) -> tuple[Any, ...]:
    """A state for the layer."""
    state = []
    for n in range(len(layer.cell.states)):
        each = [
            rng.normal(size=(B, layer.widths(k)[n]), scale=0.5).astype("float32")
            for k, _ in layer.parts()
        ]
        state.append(tuple(each) if isinstance(layer.hidden_size, tuple) else np.stack(each))
    return tuple(state)


def named_states(layer: Any, state: Any, prefix: str, ending: str) -> dict[str, Any]:
    """The states of a layer by the names that they have in the model."""
    found = {}
    for s, given in zip(layer.cell.states, state, strict=True):
        if not isinstance(layer.hidden_size, tuple):
            found[f"{prefix}{s}{ending}"] = given
            continue
        for k in range(layer.num_layers):
            D = layer.directions
            found[f"{prefix}{s}{ending}_l{k}"] = np.stack(given[k * D : (k + 1) * D])
    return found


class Computed:
    """What parts compute, and the last states by the names of the model's outputs."""

    def __init__(self, states: dict[str, Any], lengths: Any) -> None:
        self.states, self.lengths = states, lengths
        self.last: dict[str, Any] = {}

    def all(self, parts: Mapping[str, Any], xs: Any, around: str = "") -> Any:
        for name, part in parts.items():
            xs = self.one(around + name, part, xs)
        return xs

    def one(self, name: str, part: Any, xs: Any) -> Any:
        if isinstance(part, xrnn.Sequential):
            xs, _ = part._without_padding(xs, self.lengths, None)
            ys = self.all(part.parts, xs, f"{name}.")
            return xs + ys if isinstance(part, xrnn.Residual) else ys
        if isinstance(part, xrnn.Last | xrnn.Mean | xrnn.Max):
            return part(xs, self.lengths)
        if not isinstance(part, xrnn.Layer):
            return part(xs)
        ys, last = part(xs, self.states.get(name), self.lengths)
        prefix = f"{name}." if len(self.states) > 1 else ""
        self.last |= named_states(part, last, prefix, "_last")
        return ys


def flat(parts: dict[str, Any], around: str = "") -> dict[str, Any]:
    """All parts that are not inside another one, by their names in the model."""
    found: dict[str, Any] = {}
    for name, part in parts.items():
        inner = isinstance(part, xrnn.Sequential)
        found |= flat(part.parts, f"{around}{name}.") if inner else {around + name: part}
    return found


@pytest.mark.parametrize("seed", range(300))
def test_the_model_is_the_parts(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files that need not outlast a crash.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    rng = np.random.default_rng(seed)
    parts = random_parts(rng)
    layers = {name: part for name, part in flat(parts).items() if isinstance(part, xrnn.Layer)}
    how: Any = {"states": bool(rng.integers(2)), "lengths": bool(rng.integers(2))}
    given = xrnn.Sequential(**parts) if rng.integers(2) else parts
    signature = to_onnx(given, tmp_path / "m.onnx", **how)
    T, B = (int(n) for n in rng.integers(1, 6, 2))
    first, any_layer = next(iter(parts.values())), next(iter(layers.values()))
    shape = (B, T) if any_layer.batch_first else (T, B)
    if isinstance(first, xrnn.Embedding):
        xs = rng.integers(0, 7, shape)
    else:
        xs = rng.normal(size=(*shape, first.input_size)).astype("float32")
    feeds = {"tokens" if xs.ndim == 2 else "xs": xs}
    states = dict.fromkeys(layers)
    if how["states"]:
        states = {name: random_state(rng, layer, B) for name, layer in layers.items()}
        for name, layer in layers.items():
            prefix = f"{name}." if len(layers) > 1 else ""
            feeds |= named_states(layer, states[name], prefix, "")
    lengths = rng.integers(0, T + 1, B) if how["lengths"] else None
    if lengths is not None:
        feeds["lengths"] = lengths
    run = session((tmp_path / "m.onnx").read_bytes())
    check_signature(signature, run)
    got = dict(zip(signature.outputs, run.run(list(signature.outputs), feeds), strict=True))
    computed = Computed(states, lengths)
    if isinstance(given, xrnn.Sequential):
        nested = {name: state for name, state in states.items() if "." not in name}
        if len(nested) == len(states):
            assert_agree({"ys": got["ys"]}, {"ys": given(xs, states, lengths)}, BOUND)
        xs, _ = given._without_padding(xs, lengths, None)
    assert_agree(got, {"ys": computed.all(parts, xs), **computed.last}, BOUND)
    check_round_trip(layers, load_onnx(tmp_path / "m.onnx"), how["states"])


def check_signature(signature: Any, run: Any) -> None:
    """The inputs and outputs are what was returned."""
    for named, ports in zip(signature, (run.get_inputs(), run.get_outputs()), strict=True):
        assert {port.name: tuple(port.shape) for port in ports} == named


def check_round_trip(layers: dict[str, Any], found: Any, states: bool) -> None:
    """The layers that are loaded have the same cells, and exactly the same weights."""
    for name, part in layers.items():
        if part.cell in REWRITTEN:
            continue
        cell: Any = part.cell
        if cell.made is not None:
            # Dropout matters in training alone, and is not in the model.
            cell = cell.maker(replace(cell.made, recurrent_dropout=0.0))
        for k in range(part.num_layers):
            layer = found[f"{name}_l{k}" if part.num_layers > 1 else name]
            assert layer.cell is cell
            # Initial states are in the model where they are no inputs.
            mine = {
                one.replace(f"_l{k}", "_l0"): w
                for one, w in part.weights.items()
                if f"_l{k}" in one and (not states or "0_l" not in one)
            }
            assert set(layer.weights) == set(mine)
            for one, w in mine.items():
                np.testing.assert_array_equal(layer.weights[one], w)
