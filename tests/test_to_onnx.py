"""`to_onnx`: onnxruntime computes of the model what the layers compute."""

from __future__ import annotations

from dataclasses import replace
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


def random_parts(rng: np.random.Generator) -> list[Any]:
    """One to four parts, of which one or two are layers."""
    batch_first, size = bool(rng.integers(2)), int(rng.integers(1, 5))
    parts: list[Any] = []
    if rng.random() < 0.3:
        parts.append(xrnn.Embedding(7, size, rng=1))
    for _ in range(rng.integers(1, 3)):
        parts.append(random_layer(rng, size, batch_first))
        size = parts[-1].directions * parts[-1].widths(parts[-1].num_layers - 1)[0]
        if rng.random() < 0.4:
            activation: Any = [None, "relu"][rng.integers(2)]
            parts.append(xrnn.Linear(size, 3, activation=activation, bias=bool(rng.integers(2))))
            size = 3
    for part in parts:
        # Small ones, because many of the functions are not bounded; and no zeros.
        part.weights = {
            name: rng.normal(size=w.shape, scale=0.2).astype("float32")
            for name, w in part.weights.items()
        }
    return parts


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


def compute(
    parts: Any, xs: Any, states: list[Any], lengths: Any, names: list[str]
) -> dict[str, Any]:
    """What the parts compute, by the names of the model's outputs."""
    found: dict[str, Any] = {}
    k = 0
    for name, part in zip(names, parts, strict=True):
        if isinstance(part, xrnn.Layer):
            xs, last = part(xs, states[k], lengths)
            prefix = f"{name}." if len(states) > 1 else ""
            found |= named_states(part, last, prefix, "_last")
            k += 1
        else:
            xs = part(xs)
    return {"ys": xs, **found}


@pytest.mark.parametrize("seed", range(300))
def test_the_model_is_the_parts(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files that need not outlast a crash.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    rng = np.random.default_rng(seed)
    parts = random_parts(rng)
    layers = [part for part in parts if isinstance(part, xrnn.Layer)]
    names = [f"part{k}" for k in range(len(parts))]
    with_states, with_lengths = bool(rng.integers(2)), bool(rng.integers(2))
    signature = to_onnx(
        dict(zip(names, parts, strict=True)),
        tmp_path / "m.onnx",
        states=with_states,
        lengths=with_lengths,
    )
    T, B = (int(n) for n in rng.integers(1, 6, 2))
    shape = (B, T) if layers[0].batch_first else (T, B)
    if isinstance(parts[0], xrnn.Embedding):
        xs = rng.integers(0, 7, shape)
    else:
        width = parts[0].input_size
        xs = rng.normal(size=(*shape, width)).astype("float32")
    feeds = {"tokens" if xs.ndim == 2 else "xs": xs}
    states: list[Any] = [None] * len(layers)
    if with_states:
        states = [random_state(rng, layer, B) for layer in layers]
        for name, part in zip(names, parts, strict=True):
            if isinstance(part, xrnn.Layer):
                prefix = f"{name}." if len(layers) > 1 else ""
                feeds |= named_states(part, states[layers.index(part)], prefix, "")
    lengths = rng.integers(0, T + 1, B) if with_lengths else None
    if lengths is not None:
        feeds["lengths"] = lengths
    run = session((tmp_path / "m.onnx").read_bytes())
    check_signature(signature, run)
    got = dict(zip(signature.outputs, run.run(list(signature.outputs), feeds), strict=True))
    assert_agree(got, compute(parts, xs, states, lengths, names), BOUND)
    check_round_trip(dict(zip(names, parts, strict=True)), load_onnx(tmp_path / "m.onnx"), states)


def check_signature(signature: Any, run: Any) -> None:
    """The inputs and outputs are what was returned."""
    for named, ports in zip(signature, (run.get_inputs(), run.get_outputs()), strict=True):
        assert {port.name: tuple(port.shape) for port in ports} == named


def check_round_trip(parts: dict[str, Any], found: Any, states: list[Any]) -> None:
    """The layers that are loaded have the same cells, and exactly the same weights."""
    for name, part in parts.items():
        if not isinstance(part, xrnn.Layer) or part.cell in REWRITTEN:
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
                if f"_l{k}" in one and (states[0] is None or "0_l" not in one)
            }
            assert set(layer.weights) == set(mine)
            for one, w in mine.items():
                np.testing.assert_array_equal(layer.weights[one], w)
