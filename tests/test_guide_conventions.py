"""The guide's page of conventions: its table is the one that the loaders read, and its recipes
compute what the libraries do."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import library_steps as steps
import numpy as np
from library_steps import sigmoid
from pages import blocks, sections, tables

import xrnn
from xrnn.convert.conventions import CONVENTIONS, Stored
from xrnn.typing import Array

PAGE = (Path(inspect.getfile(xrnn)).parent / "guide" / "conventions.md").read_text("utf-8")
XS = np.random.default_rng(5).normal(size=(4, 2, 3))


def run(section: str, count: int | None = None) -> dict[str, Any]:
    """The names that the blocks of a section leave, or the first of them."""
    names: dict[str, Any] = {}
    for block in blocks(sections(PAGE)[section])[:count]:
        exec(block, names)
    return names


def follow(layer: Any, step: Any, *state: Array) -> None:
    """The outputs of a layer are those of the steps."""
    current: Any = state or (np.zeros((2, 5)),) * len(layer.cell.states)
    for x, y in zip(XS, layer(XS.astype(layer.dtype))[0], strict=True):
        current = step(x, current)
        np.testing.assert_allclose(y, current[0], 0, 1e-6 if layer.dtype == "float32" else 1e-12)


def test_the_table_is_that_of_the_loaders() -> None:
    ((_, found),) = tables(sections(PAGE)["The table"])
    expected = []
    for (library, layer), row in CONVENTIONS.items():
        z = row.z if "z" in row.gates else "—"
        added = f"{row.forget_bias:g}" if row.forget_bias else "—"
        reset = row.reset or ("by the file" if "r" in row.gates else "—")
        names = [library, f"`{layer}`", " ".join(row.gates), row.layout, row.biases]
        expected.append([*names, z, added, " ".join(row.peepholes) or "—", reset])
    assert found == expected


def test_the_functions_are_there() -> None:
    ((_, found),) = tables(sections(PAGE)["Which function to call"])
    for _, name in found:
        assert callable(getattr(xrnn.convert, name.strip("`")))


def test_the_first_example() -> None:
    n = run("Which function to call")

    def step(x: Array, state: Any) -> Any:
        h, c = state
        i, o, f, g = np.split(x @ n["W"] + h @ n["U"] + n["b"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    follow(n["layer"], step)


def test_two_biases_in_one_array() -> None:
    n = run("Two biases in one array")
    for layer in (n["layer"], n["same"]):
        follow(layer, lambda x, s: steps.torch_gru(Stored(n["W"], n["U"], *n["stacked"]), x, s))


def test_core_ml_and_flax() -> None:
    section = "One array for each gate: Core ML, Flax"
    n = run(section, 1)
    W, U, b = (
        np.concatenate([n["coreml"][f"{gate}{kind}"] for gate in n["names"]])
        for kind in ("WeightMatrix", "RecursionMatrix", "BiasVector")
    )
    follow(n["layer"], lambda x, s: steps.coreml_lstm(Stored(W, U, b), x, s))
    n = run(section)

    def dense(name: str, x: Array) -> Array:
        return x @ n["params"][name]["kernel"] + n["params"][name].get("bias", 0)

    def step(x: Array, state: Any) -> Any:
        (h,) = state
        r, z = (sigmoid(dense(f"i{k}", x) + dense(f"h{k}", h)) for k in "rz")
        return ((1 - z) * np.tanh(dense("in", x) + r * dense("hn", h)) + z * h,)

    follow(n["layer"], step)


def test_tensorflow_1() -> None:
    n = run("TensorFlow 1", 1)
    peephole = np.concatenate([n["w_f_diag"], n["w_i_diag"], n["w_o_diag"]])
    stored = Stored(n["kernel"][:3], n["kernel"][3:], n["bias"], peephole=peephole)
    follow(n["layer"], lambda x, s: steps.tensorflow_lstm(stored, x, s))
    n = run("TensorFlow 1")

    def step(x: Array, state: Any) -> Any:
        """rnn_cell_impl.py, ``GRUCell.call``."""
        (h,) = state
        value = sigmoid(np.concatenate([x, h], 1) @ n["gates"] + n["gates_bias"])
        r, u = np.split(value, 2, axis=1)
        candidate = np.concatenate([x, r * h], 1) @ n["candidate"] + n["candidate_bias"]
        return (u * h + (1 - u) * np.tanh(candidate),)

    follow(n["layer"], step)


def test_dynet() -> None:
    n = run("DyNet")
    follow(n["layer"], lambda x, s: steps.dynet_lstm(Stored(n["Wx"], n["Wh"], n["b"]), x, s))


def test_chainer() -> None:
    n = run("Chainer")

    def step(x: Array, state: Any) -> Any:
        """functions/rnn/lstm.py: ``_extract_gates`` and ``LSTM.forward``."""
        h, c = state
        inputs = x @ n["upward"].T + n["bias"] + h @ n["lateral"].T
        r = inputs.reshape(len(inputs), inputs.shape[1] // 4, 4)
        a, i, f, o = (r[:, :, k] for k in range(4))
        c = np.tanh(a) * sigmoid(i) + sigmoid(f) * c
        return sigmoid(o) * np.tanh(c), c

    follow(n["layer"], step)


def test_paddle_1() -> None:
    n = run("Paddle 1")
    H = 5

    def step(x: Array, state: Any) -> Any:
        """operators/gru_op.h: gate_weight and state_weight are two matrices in one memory, and
        gru_kernel.h: ``forward_resetOutput``, ``forward_finalOutput``."""
        (h,) = state
        memory = n["gru_w"].ravel()
        inputs = x @ n["fc_w"] + n["fc_b"] + n["gru_b"]
        gate_weight, state_weight = memory[: 2 * H * H], memory[2 * H * H :]
        gate = inputs[:, : 2 * H] + h @ gate_weight.reshape(H, 2 * H)
        update, reset = sigmoid(gate[:, :H]), sigmoid(gate[:, H:])
        frame = np.tanh(inputs[:, 2 * H :] + (reset * h) @ state_weight.reshape(H, H))
        return (h - update * h + update * frame,)

    follow(n["layer"], step)


def test_the_other_polarity() -> None:
    n = run("A gate of the other polarity")
    W, U, b = (np.concatenate([n[name][k] for k in "fgo"]) for name in "WUb")
    follow(n["layer"], lambda x, s: steps.lite_lstm_coupled(Stored(W, U, b), x, s))


def test_tesseract() -> None:
    n = run("Integers with a scale: Tesseract")

    def step(x: Array, state: Any) -> Any:
        """lstm/lstm.cpp: the input of a step is x and the last output, and 1 for the bias."""
        output, memory = state
        curr_input = np.concatenate([x, output, np.ones((len(x), 1))], 1)
        rows = n["matrices"] * n["scales"][..., None]
        ci, gi, gf1, go = (curr_input @ matrix.T for matrix in rows)
        memory = np.clip(memory * sigmoid(gf1) + np.tanh(ci) * sigmoid(gi), -100, 100)
        return np.tanh(memory) * sigmoid(go), memory

    follow(n["layer"], step)


def test_trained_initial_states() -> None:
    n = run("Trained initial states")
    stored = Stored(n["W"], n["U"], n["b"], np.zeros(20))
    state = (np.tile(n["h"], (2, 1)), np.tile(n["c"], (2, 1)))
    follow(n["layer"], lambda x, s: steps.torch_lstm(stored, x, s), *state)


def test_several_layers() -> None:
    n = run("Several layers, two directions")
    ys = XS
    for forward, backward in zip(n["several"][::2], n["several"][1::2], strict=True):
        back = backward(ys[::-1].copy())[0][::-1]
        ys = np.concatenate([forward(ys)[0], back], -1)
    np.testing.assert_allclose(n["layer"](XS)[0], ys, 0, 1e-12)


def test_one_step_is_not_enough() -> None:
    rng = np.random.default_rng(0)
    W, U, b = rng.normal(size=(20, 3)), rng.normal(size=(20, 5)), np.zeros(20)
    ys, _ = xrnn.convert.from_arrays(xrnn.cells.LSTM, W, U, b)(XS)
    for other in (
        xrnn.convert.from_arrays(xrnn.cells.LSTM, W, -U, b),
        xrnn.convert.from_arrays(xrnn.cells.LSTM, W, U, b, forget_bias=1.0),
    ):
        others, _ = other(XS)
        np.testing.assert_array_equal(ys[0], others[0])
        assert np.abs(ys[1] - others[1]).max() > 0.01
