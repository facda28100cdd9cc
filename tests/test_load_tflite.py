"""TensorFlow Lite models that the tests write: the equations of its kernels, what is refused, and
damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import library_steps as steps
import numpy as np
import pytest
from tflite_files import model, quantized

from xrnn.cells import LSTM, PeepholeLSTM, lstm_with
from xrnn.convert import load_tflite
from xrnn.convert.conventions import Stored
from xrnn.typing import Array

I, H, P, T, B = 3, 4, 2, 5, 2
XS = np.random.default_rng(0).normal(size=(T, B, I)).astype("float32")
UNIDIRECTIONAL, BIDIRECTIONAL = 44, 52


def drawn(
    coupled: bool = False, peephole: bool = False, proj: int = 0, norm: bool = False, seed: int = 0
) -> Stored:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return rng.normal(size=shape).astype("float32")

    G = 4 - coupled
    looking = normal((G - 1) * H) if peephole else None
    projection = normal(proj, H) if proj else None
    W, U, b = normal(G * H, I), normal(G * H, proj or H), normal(G * H)
    return Stored(W, U, b, None, looking, projection, normal(G * H) if norm else None)


def tensors(s: Any, to: Any = lambda a: a) -> list[Any]:
    """The inputs 1 to 17 of an LSTM, for one direction."""
    G = len(s.W) // H
    gap = [None] * (4 - G)

    def each(array: Array | None, n: int) -> list[Any]:
        return [None] * n if array is None else np.split(array, n)

    matrices = [*gap, *map(to, each(s.W, G)), *gap, *map(to, each(s.U, G))]
    vectors = [*gap, *each(s.peephole, G - 1), *gap, *each(s.b, G)]
    return [*matrices, *vectors, None if s.projection is None else to(s.projection), None]


def options(clip: float = 0.0, activation: int = 4, proj_clip: float = 0.0) -> dict[int, Any]:
    return {0: ("b", activation), 1: ("f", clip), 2: ("f", proj_clip), 3: ("b", 1)}


def lstm(s: Stored, chosen: dict[int, Any] | None = None, **how: Any) -> bytes:
    h = H if s.projection is None else len(s.projection)
    gains: list[Any] = [None] * 4
    if s.gain is not None:
        gains = [*gains, *np.split(s.gain, len(s.gain) // H)][-4:]
    inputs = [*tensors(s, **how), (B, h), (B, H), *gains]
    return model(UNIDIRECTIONAL, 71, chosen or options(), XS.shape, (T, B, h), inputs)


def both(first: Stored, second: Stored, merge: int = 1, **changed: Any) -> bytes:
    chosen = {0: ("b", 4), 1: ("f", 0.0), 2: ("f", 0.0), 3: ("b", merge), 4: ("b", 1)}
    inputs = tensors(first) + tensors(second) + [(B, H)] * 4 + [None] * 9
    for k, given in changed.items():
        inputs[int(k[1:]) - 1] = given
    return model(BIDIRECTIONAL, 69, chosen, XS.shape, (T, B, 2 * H), inputs, 1 - merge)


def loaded(tmp_path: Path, data: bytes) -> Any:
    (tmp_path / "model.tflite").write_bytes(data)
    return load_tflite(tmp_path / "model.tflite")


def check(ys: Array, step: Any, stored: Stored, xs: Array = XS, near: float = 1e-6) -> None:
    h = H if stored.projection is None else len(stored.projection)
    state: Any = (np.zeros((B, h)), np.zeros((B, H)))
    for x, y in zip(xs, ys, strict=True):
        state = step(stored, x, state)
        np.testing.assert_allclose(y, state[0], 0, near)


@pytest.mark.parametrize(
    ("s", "cell"),
    [
        (drawn(), LSTM),
        (drawn(peephole=True), PeepholeLSTM),
        (drawn(proj=P), lstm_with(proj_size=P)),
        (drawn(coupled=True), lstm_with(coupled=True)),
        (drawn(coupled=True, peephole=True), lstm_with(coupled=True, peephole=True)),
        (drawn(norm=True), lstm_with(layer_norm="gates")),
        (drawn(True, True, norm=True), lstm_with(coupled=True, peephole=True, layer_norm="gates")),
    ],
    ids=["plain", "peepholes", "projection", "coupled", "coupled, peepholes", "norm", "all"],
)
def test_lstm(s: Stored, cell: Any, tmp_path: Path) -> None:
    found = loaded(tmp_path, lstm(s))
    coupled = len(s.W) == 3 * H
    assert found.notes == {
        "y": [f"TensorFlow Lite LSTM{' (coupled), gates f g o' if coupled else ', gates i f g o'}"]
    }
    assert found["y"].cell is cell
    assert not found["y"].batch_first
    check(found["y"](XS)[0], steps.lite_lstm_coupled if coupled else steps.lite_lstm, s)


def test_the_options_of_an_lstm(tmp_path: Path) -> None:
    s = drawn()
    chosen = options(0.5, activation=1) | {3: ("b", 0)}
    found = loaded(tmp_path, lstm(s, chosen))
    assert found["y"].cell is lstm_with(activations=("sigmoid", "relu", "relu"), cell_clip=0.5)
    assert found["y"].batch_first
    assert found.notes["y"][1] == "cell_clip=0.5, as in the file"
    del chosen[3]
    assert loaded(tmp_path, lstm(s, chosen))["y"].batch_first  # the default of the field


def test_directions(tmp_path: Path) -> None:
    first, second = drawn(), drawn(seed=1)
    found = loaded(tmp_path, both(first, second))
    ys, _ = found["y"](XS)
    check(ys[..., :H], steps.lite_lstm, first)
    check(ys[::-1, :, H:], steps.lite_lstm, second, XS[::-1])
    apart = loaded(tmp_path, both(first, second, 0))
    assert apart.notes["y"][1] == "in the model the outputs of its directions are two tensors"


def test_steps_and_simple_networks(tmp_path: Path) -> None:
    s = drawn()
    inputs = [*tensors(s), (B, H), (B, H), *[None] * 4]
    found = loaded(tmp_path, model(16, 14, options() | {3: ("b", 0)}, (B, I), (B, H), inputs))
    check(found["y"](XS)[0], steps.lite_lstm, s)
    one, two = ([a[:H] for a in (d.W, d.U, d.b)] for d in (s, drawn(seed=1)))  # type: ignore[index]
    for code, kind, chosen, arrays in (
        (24, 7, {0: ("b", 4)}, [*one, (B, H)]),
        (35, 31, {0: ("b", 1), 1: ("b", 4)}, [*one, (B, H)]),
        (
            46,
            70,
            {0: ("b", 1), 1: ("b", 4), 2: ("b", 1)},
            [*one, (B, H), *two, (B, H), *[None] * 3],
        ),
    ):
        found = loaded(tmp_path, model(code, kind, chosen, XS.shape, (T, B, H), arrays))
        ys, _ = found["y"](XS)
        h = np.zeros((B, H))
        for x, y in zip(XS, ys, strict=True):
            (h,) = steps.lite_rnn(Stored(*one), x, (h,))
            np.testing.assert_allclose(y[:, :H], h, 0, 1e-6)
        assert found["y"].bidirectional == (code == 46)


@pytest.mark.parametrize("kind", ["float16", "int8", "int8 for each row"])
def test_weights_of_fewer_bits(kind: str, tmp_path: Path) -> None:
    s: Any = drawn()
    how: Any = {
        "float16": lambda a: a.astype("float16"),
        "int8": quantized,
        "int8 for each row": lambda a: quantized(a, 0),
    }[kind]
    layer = loaded(tmp_path, lstm(s, to=how))["y"]
    assert layer.dtype == "float32"
    assert load_tflite(tmp_path / "model.tflite", dtype="float16")["y"].dtype == "float16"
    for block, w in zip(np.split(layer.weights["U_l0"], 4), np.split(s.U, 4), strict=True):
        given = how(w)
        if kind != "float16":
            q, (scale, _, _) = given
            given = q * np.asarray(scale, "float32").reshape(-1, 1)
        np.testing.assert_allclose(block, given, 1e-6)


def test_a_zero_point(tmp_path: Path) -> None:
    s: Any = drawn()
    to = lambda a: ((a * 10 + 100).astype("uint8"), (0.1, 100, 0))  # noqa: E731
    layer = loaded(tmp_path, lstm(s, to=to))["y"]
    expected = ((s.W * 10 + 100).astype("uint8").astype("float32") - 100) * np.float32(0.1)
    np.testing.assert_allclose(layer.weights["W_l0"], expected, 1e-6)


def changed(s: Stored, **inputs: Any) -> bytes:
    """An LSTM with other inputs, by their numbers."""
    found = [*tensors(s), (B, H), (B, H), *[None] * 4]
    for k, given in inputs.items():
        found[int(k[1:]) - 1] = given
    return model(UNIDIRECTIONAL, 71, options(), XS.shape, (T, B, H), found)


VECTOR = np.ones(H, "float32")
REFUSED: dict[str, tuple[bytes, str]] = {
    "another file": (b"\x08\x00\x00\x00abcd", "it must be a TensorFlow Lite model"),
    "no operator": (model(9, 8, {}, (B, I), (B, H), []), "none of its 1 operators is an LSTM"),
    "a loop": (model(119, 92, {}, (B, I), (B, H), []), r"a loop \(WHILE\) writes the steps out"),
    "proj_clip": (lstm(drawn(proj=P), options(proj_clip=1.0)), "'y': proj_clip is 1.0; xrnn does"),
    "a projection bias": (changed(drawn(), _17=VECTOR), r"it has a projection bias \(input 17\)"),
    "auxiliary": (both(drawn(), drawn(), _39=VECTOR), r"it has an auxiliary input \(input 39\)"),
    "relu6": (lstm(drawn(), options(activation=3)), "function has the number 3; it must be one of"),
    "computed": (changed(drawn(), _2=(H, I)), "input 2 is computed while the model runs; it must"),
    "no weights": (changed(drawn(), _1=None, _2=None, _3=None, _4=None), "it has no weights"),
    "no scale": (changed(drawn(), _1=(np.ones((H, I), "int8"), ([], [], 0))), "int8 without a sc"),
    "one gate less": (changed(drawn(), _7=None), r"U_l0 has shape \(12, 4\); it must be"),
    "the old kernel": (
        model(16, 14, options(), (B, I), (B, H), [*tensors(drawn()), (B, H), (B, H), *[None] * 4]),
        "its kernel is BASIC",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    data, text = REFUSED[case]
    with pytest.raises(ValueError, match=rf"model\.tflite: .*{text}"):
        loaded(tmp_path, data)


def test_a_model_of_integers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"its inputs are not of float32: .* with integers"):
        loaded(tmp_path, model(UNIDIRECTIONAL, 71, options(), XS.shape, (T, B, H), [], kind=9))


def check_refusal(tmp_path: Path, data: bytes) -> None:
    """A file that is refused is named; some damage leaves a file that is none."""
    refused = ""
    try:
        loaded(tmp_path, data)
    except ValueError as error:
        refused = str(error)
    assert refused.startswith(str(tmp_path)) or not refused


def test_damaged_files(tmp_path: Path) -> None:
    whole = both(drawn(), drawn(seed=1))
    rng = np.random.default_rng(0)
    for n in [*range(0, 60), *rng.integers(60, len(whole) - 1000, 60)]:
        with pytest.raises(ValueError, match=r"model\.tflite: "):
            loaded(tmp_path, whole[: int(n)])
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(3):
            data[rng.integers(len(data))] = rng.integers(256)
        check_refusal(tmp_path, bytes(data))
    with pytest.raises(FileNotFoundError, match=": no such file"):
        load_tflite(tmp_path / "nothing")
