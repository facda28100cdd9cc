"""Core ML models that the tests write: the equations of the specification, what is refused, and
damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import library_steps as steps
import numpy as np
import pytest
from coreml_files import arrays, message, network, weights

import xrnn
from xrnn.convert import load_coreml
from xrnn.convert.conventions import Stored
from xrnn.typing import Array

I, H = 3, 4
XS = np.random.default_rng(0).normal(size=(5, 2, I)).astype("float32")
SIGMOID: list[Any] = [(40, [])]
TANH: list[Any] = [(30, [])]
FLAGS = {"sequence": 10, "bias": 20, "forget_bias": 30, "peephole": 40, "coupled": 50}


def drawn(G: int, peephole: bool = False, seed: int = 0) -> Stored:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return rng.normal(size=shape).astype("float32")

    looking = normal(3 * H) if peephole else None
    return Stored(normal(G * H, I), normal(G * H, H), normal(G * H), peephole=looking)


def lstm_weights(s: Any) -> list[Any]:
    found = arrays((1, 2, 3, 4), np.split(s.W, 4)) + arrays((20, 21, 22, 23), np.split(s.U, 4))
    if s.b is not None:
        found += arrays((40, 41, 42, 43), np.split(s.b, 4))
    return found + ([] if s.peephole is None else arrays((60, 61, 62), np.split(s.peephole, 3)))


def lstm(stored: list[Stored], limit: float = 50000.0, **flags: bool) -> list[Any]:
    params: list[Any] = [(FLAGS[k], int(v)) for k, v in ({"bias": True} | flags).items()]
    acts = [(10, SIGMOID), (10, TANH), (10, TANH)]
    if len(stored) == 2:
        acts += [(11, one) for _, one in acts]
    sizes = [(1, I), (2, H)]
    return [*sizes, *acts, (15, [*params, (60, limit)]), *((20, lstm_weights(s)) for s in stored)]


def gru(s: Any, *more: Any) -> list[Any]:
    found = arrays((30, 31, 32), np.split(s.W, 3)) + arrays((50, 51, 52), np.split(s.U, 3))
    found += arrays((70, 71, 72), np.split(s.b, 3))
    return [(1, I), (2, H), (10, SIGMOID), (10, TANH), (15, 1), (20, 1), *found, *more]


def rnn(s: Stored, activation: list[Any], *more: Any) -> list[Any]:
    found = [(30, weights(s.W)), (31, weights(s.U)), (32, weights(s.b))]
    return [(1, I), (2, H), (10, activation), (15, 1), (20, 1), *found, *more]


def loaded(tmp_path: Path, data: bytes) -> Any:
    (tmp_path / "model.mlmodel").write_bytes(data)
    return load_coreml(tmp_path / "model.mlmodel")


def check(layer: Any, step: Any, stored: Stored, states: int, near: float = 1e-6) -> None:
    """The outputs of a layer are those of the steps."""
    xs = XS[::-1] if layer.reverse else XS
    ys, _ = layer(XS)
    ys = ys[::-1] if layer.reverse else ys
    state: Any = (np.zeros((2, H)),) * states
    for x, y in zip(xs, ys, strict=True):
        state = step(stored, x, state)
        np.testing.assert_allclose(y, state[0], 0, near)


def test_lstm(tmp_path: Path) -> None:
    for peephole in (False, True):
        s = drawn(4, peephole)
        found = loaded(tmp_path, network([("l", 420, lstm([s], peephole=peephole, sequence=True))]))
        assert found.notes == {"l": ["Core ML LSTM, gates i f g o"]}
        assert found["l"].cell is (xrnn.cells.PeepholeLSTM if peephole else xrnn.cells.LSTM)
        check(found["l"], steps.coreml_lstm, s, 2)


def test_what_the_flags_of_an_lstm_say(tmp_path: Path) -> None:
    s = drawn(4)
    found = loaded(tmp_path, network([("l", 420, lstm([s], 0.5, forget_bias=True))]))
    assert found["l"].cell is xrnn.cells.lstm_with(cell_clip=0.5)
    assert found.notes["l"][1:] == [
        "cell_clip=0.5, as in the file",
        "1 is added to the bias of f, as in the file (forgetBias)",
        "in the model it gives its last output alone (sequenceOutput)",
    ]
    assert s.b is not None
    np.testing.assert_array_equal(found["l"].weights["b_l0"][H : 2 * H], s.b[H : 2 * H] + 1)
    found = loaded(tmp_path, network([("l", 420, lstm([s._replace(b=None)], bias=False))]))
    assert not found["l"].bias

    def coupled(s: Any, x: Array, state: Any) -> Any:
        y, c = state
        (i, _, z, o) = np.split(x @ s.W.T + y @ s.U.T + s.b, 4, axis=1)
        c = c * (1 - steps.sigmoid(i)) + steps.sigmoid(i) * np.tanh(z)
        return np.tanh(c) * steps.sigmoid(o), c

    found = loaded(tmp_path, network([("l", 420, lstm([s], coupled=True))]))
    check(found["l"], coupled, s, 2)


def test_directions(tmp_path: Path) -> None:
    both = [drawn(4, seed=k) for k in (0, 1)]
    found = loaded(tmp_path, network([("l", 430, lstm(both))]))
    ys, _ = found["l"](XS)
    forward = loaded(tmp_path, network([("l", 420, lstm(both[:1]))]))["l"]
    backward = loaded(tmp_path, network([("l", 420, [*lstm(both[1:]), (100, 1)])]))["l"]
    assert backward.reverse
    np.testing.assert_allclose(ys, np.concatenate([forward(XS)[0], backward(XS)[0]], -1), 0, 1e-6)
    check(backward, steps.coreml_lstm, both[1], 2)


def test_gru_and_rnn(tmp_path: Path) -> None:
    s = drawn(3)
    found = loaded(tmp_path, network([("g", 410, gru(s)), ("back", 410, gru(s, (100, 1)))]))
    assert list(found) == ["g", "back"]
    for layer in found.values():
        assert layer.cell is xrnn.cells.GRUBefore
        check(layer, steps.coreml_gru, s, 1)
    assert "the outputs here have the order of the inputs" in found.notes["back"][1]
    s = drawn(1)
    check(loaded(tmp_path, network([("r", 400, rnn(s, TANH))]))["r"], steps.coreml_rnn, s, 1)


def test_activation_functions(tmp_path: Path) -> None:
    """Beyond ±50 only those that do not change there are left without the limit."""
    s = drawn(1)
    cases: Any = (
        ([(10, [])], "relu"),
        ([(41, [(1, 0.25), (2, 0.5)])], ("hard_sigmoid", 0.25, 0.5)),
        ([(41, [])], ("hard_sigmoid", 0.2, 0.5)),
        ([(5, [])], ("affine", 1.0, 0.0)),
        ([(5, [(1, 0.5), (2, 0.25)])], ("affine", 0.5, 0.25)),
        ([(31, [(1, 0.5), (2, 2.0)])], ("scaled_tanh", 0.5, 2.0)),
        ([(50, [(1, 0.5)])], ("elu", 0.5)),
        ([(60, [])], "softsign"),
    )
    for written, name in cases:
        found = loaded(tmp_path, network([("r", 400, rnn(s, written))]))
        assert found["r"].cell is xrnn.cells.rnn_with(activations=[name], clip=50.0)
    with pytest.raises(ValueError, match="layer 'r': an activation function is none of affine"):
        loaded(tmp_path, network([("r", 400, rnn(s, [(25, [])]))]))


def test_float16(tmp_path: Path) -> None:
    s = drawn(3)
    half: Any = Stored(*(None if a is None else a.astype("float16") for a in s))
    found = loaded(tmp_path, network([("g", 410, gru(half))]))
    assert found["g"].dtype == "float32"
    assert load_coreml(tmp_path / "model.mlmodel", dtype="float64")["g"].dtype == "float64"
    np.testing.assert_array_equal(found["g"].weights["W_l0"][H : 2 * H], half.W[:H])


def test_where_networks_lie(tmp_path: Path) -> None:
    layers = [("g", 410, gru(drawn(3)))]
    for kind in (303, 403):
        assert list(loaded(tmp_path, network(layers, kind))) == ["g"]
    pipeline = [(1, network(layers)), (1, network(layers, 403))]
    for data in (message([(202, pipeline)]), message([(200, [(1, pipeline)])])):
        assert list(loaded(tmp_path, data)) == ["g", "g_2"]


REFUSED: dict[str, tuple[bytes, str]] = {
    "an ML program": (message([(1, 7), (502, [])]), "an ML program, whose weights lie in a file"),
    "no recurrent layer": (network([("c", 100, [])]), "none of its 1 layers is an LSTM"),
    "quantised": (
        network([("r", 400, [*rnn(drawn(1), TANH)[:-3], (30, [(30, b"abc"), (40, [])])])]),
        "layer 'r': its weights are quantised",
    ),
    "two activations": (
        network([("l", 430, [*lstm([drawn(4)] * 2), (11, SIGMOID)])]),
        "its directions have the activation functions",
    ),
    "one set of weights": (network([("l", 430, lstm([drawn(4)] * 2)[:-1])]), "it has 1 sets of"),
    "too few numbers": (
        network([("r", 400, [*rnn(drawn(1), TANH), (30, weights(np.zeros(5)))])]),
        "field 30 holds 5 numbers; it must hold 4 · 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    data, text = REFUSED[case]
    with pytest.raises(ValueError, match=rf"model\.mlmodel: .*{text}"):
        loaded(tmp_path, data)


def check_refusal(tmp_path: Path, data: bytes) -> None:
    """A file that is refused is named; some damage leaves a file that is none."""
    refused = ""
    try:
        loaded(tmp_path, data)
    except ValueError as error:
        refused = str(error)
    assert refused.startswith(str(tmp_path)) or not refused


def test_damaged_files(tmp_path: Path) -> None:
    whole = network([("l", 430, lstm([drawn(4, True), drawn(4, True, 1)], peephole=True))])
    rng = np.random.default_rng(0)
    for n in [*range(0, 60), *rng.integers(60, len(whole), 60)]:
        with pytest.raises(ValueError, match=r"model\.mlmodel: "):
            loaded(tmp_path, whole[: int(n)])
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data) if rng.random() < 0.3 else 120)] = rng.integers(256)
        check_refusal(tmp_path, bytes(data))
    with pytest.raises(FileNotFoundError, match=": no such file"):
        load_coreml(tmp_path / "nothing")
