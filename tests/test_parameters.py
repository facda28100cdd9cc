"""Weights check themselves: where they are assigned, and of what kind they are taken over."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.backends import get
from xrnn.engine.bound import Bound


def noise(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("W_10", noise(20, 3), ValueError, "lstm: unknown weight 'W_10'; did you mean 'W_l0'?"),
        (
            "U_l0",
            noise(5, 20),
            ValueError,
            "lstm: U_l0 has shape (5, 20); it must be (4·H, H) = (20, 5); it looks transposed: "
            "give U_l0.T",
        ),
        (
            "W_l0",
            noise(3, 3),
            ValueError,
            "lstm: W_l0 has shape (3, 3); it must be (4·H, I) = (20, 3)",
        ),
        ("W_l1", noise(20, 3), ValueError, "lstm: W_l1 has shape (20, 3); it must be (4·H, H) ="),
        (
            "b_l0",
            noise(20, dtype="float64"),
            TypeError,
            "lstm: b_l0 is float64 and W_l0 is float32; cast one of them",
        ),
        ("b_l0", [0.0] * 20, TypeError, "b_l0 is a builtins.list; it must be an array of NumPy"),
        ("b_l0", np.ma.zeros(20, "f4"), TypeError, "b_l0 is a numpy.ma"),
        ("b_l0", None, TypeError, "b_l0 is a builtins.NoneType; it must be an array"),
    ],
)
def test_what_does_not_fit_is_an_error_where_it_is_assigned(
    name: str, value: Any, error: type[Exception], message: str
) -> None:
    layer = xrnn.LSTM(3, 5, num_layers=2)
    before, version = {k: w.copy() for k, w in layer.weights.items()}, layer.weights.version
    good = {"W_l0": before["W_l0"] + 1}

    def whole() -> None:
        layer.weights = {**before, **good, name: value}

    assignments: list[Callable[[], None]] = [
        lambda: layer.weights.__setitem__(name, value),
        lambda: layer.weights.update({**good, name: value}),
        whole,
    ]
    for assign in assignments:
        with pytest.raises(error) as caught:
            assign()
        assert str(caught.value).startswith(message)
    assert layer.weights.version == version
    for k, w in before.items():
        np.testing.assert_array_equal(layer.weights[k], w, "nothing was changed")


def test_another_library_is_refused() -> None:
    strict = pytest.importorskip("array_api_strict")
    layer = xrnn.LSTM(3, 5)
    with pytest.raises(TypeError) as caught:
        layer.weights["b_l0"] = strict.zeros(20, dtype=strict.float32)
    assert str(caught.value) == (
        "lstm: b_l0 is an array of array_api_strict and W_l0 is one of cpu; move one of them: "
        'layer.to("array_api_strict")'
    )
    layer.to("array_api_strict").weights["b_l0"] = strict.zeros(20, dtype=strict.float32)


def test_a_whole_mapping_needs_every_name() -> None:
    layer = xrnn.GRU(3, 5)
    arrays = dict(layer.weights)
    del arrays["v_l0"]
    with pytest.raises(
        ValueError, match=r"gru: weight v_l0 is missing; it must have shape \(H,\) ="
    ):
        layer.weights = arrays
    with pytest.raises(TypeError, match="gru: weights must be a mapping of name to array"):
        layer.weights = 3  # type: ignore[assignment]
    with pytest.raises(TypeError, match="weight v_l0 cannot be removed"):
        del layer.weights["v_l0"]
    with pytest.raises(KeyError):
        layer.weights["W"]


def swapped(a: Any) -> Any:
    return a.astype(a.dtype.newbyteorder())


def misaligned(a: Any) -> Any:
    """The same array one byte off its alignment."""
    memory = np.zeros(a.nbytes + 1, "uint8")
    found = memory[1:].view(a.dtype).reshape(a.shape)
    found[...] = a
    assert not found.flags.aligned
    return found


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.view(a.dtype.newbyteorder("<")),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        misaligned,
        lambda a: a.view(np.memmap),
    ],
    ids=["Fortran order", "strides", "negative stride", "<f4", ">f4", "misaligned", "memmap"],
)
def test_any_layout_is_taken_over(form: Any) -> None:
    layer, other, xs = xrnn.LSTM(3, 5), xrnn.LSTM(3, 5), noise(6, 2, 3)
    other.weights = {name: form(w) for name, w in layer.weights.items()}
    for name, w in other.weights.items():
        np.testing.assert_array_equal(w, layer.weights[name])
        assert type(w) is np.ndarray
        assert w.flags.c_contiguous
        assert w.flags.aligned
        assert w.dtype.byteorder == "="
    np.testing.assert_array_equal(other(xs)[0], layer(xs)[0])


@pytest.mark.parametrize("form", [np.asfortranarray, misaligned, lambda a: a.astype(">f4")])
def test_inputs_may_have_any_layout(form: Any) -> None:
    layer, xs = xrnn.LSTM(3, 5), noise(6, 2, 3)
    state = layer(xs)[1]
    others = tuple(form(s) for s in state)
    for a, b in (
        (layer(xs, state), layer(form(xs), others)),
        (layer.step(xs[0], state), layer.step(form(xs[0]), others)),
    ):
        for one, two in zip((a[0], *a[1]), (b[0], *b[1]), strict=True):
            np.testing.assert_array_equal(one, two)
    ys, _, tape = layer.forward(xs, state)
    zs, _, other = layer.forward(form(xs), others)
    expected, found = layer.backward(tape, ys, state), layer.backward(other, form(zs), others)
    np.testing.assert_array_equal(found[0], expected[0])
    for name, d in expected[2].items():
        np.testing.assert_array_equal(found[2][name], d)


def test_what_fits_is_kept_itself_and_seen_when_it_changes_in_place() -> None:
    layer, xs, U = xrnn.RNN(3, 5), noise(4, 1, 3), noise(5, 5)
    layer.weights["U_l0"] = U
    assert layer.weights["U_l0"] is U
    before = layer(xs)[0]
    U *= 0
    assert (layer(xs)[0] != before).any()


def test_changes_are_counted() -> None:
    layer = xrnn.RNN(3, 5)
    assert layer.weights.version == 0
    layer.weights["b_l0"] += 1
    layer.weights.update(b_l0=noise(5), W_l0=noise(5, 3))
    assert layer.weights.version == 2
    xrnn.optim.SGD(0.1).update(layer.weights, dict(layer.weights))
    assert layer.weights.version > 2


def test_new_values_are_seen_by_the_next_pass(device: str) -> None:
    backend = get(device)
    layer = xrnn.GRU(3, 5, num_layers=2, bias=False, device=device)
    other = xrnn.GRU(3, 5, num_layers=2, bias=False, device=device)
    xs = backend.from_host(noise(4, 1, 3))
    layer(xs)
    for name, w in other.weights.items():
        layer.weights[name] = w
    np.testing.assert_array_equal(backend.to_host(layer(xs)[0]), backend.to_host(other(xs)[0]))


def test_copies_are_independent(device: str) -> None:
    layer = xrnn.LSTM(3, 5, device=device)
    for twin in (
        (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)))
        if device == "cpu"
        else (copy.deepcopy(layer),)
    ):
        twin.weights["b_l0"] = twin.weights["b_l0"] + 1
        assert float(layer.weights["b_l0"][0]) == 0
        assert float(twin.weights["b_l0"][0]) == 1
        assert twin.weights.placement.backend is layer.weights.placement.backend


def test_the_mapping_says_what_it_holds() -> None:
    weights = xrnn.RNN(3, 5).weights
    assert repr(weights) == (
        "<weights of rnn, float32 on cpu: W_l0 (5, 3), U_l0 (5, 5), b_l0 (5,)>"
    )
    assert list(weights) == ["W_l0", "U_l0", "b_l0"]
    assert "W_l0" in weights
    assert len(weights) == 3


@pytest.mark.parametrize("module", [xrnn.Embedding(5, 3), xrnn.Linear(5, 3)], ids=["E", "W"])
def test_other_modules_check_theirs(module: Any) -> None:
    name = next(iter(module.weights))
    with pytest.raises(
        ValueError, match=f"{name} has shape .*; it looks transposed: give {name}.T"
    ):
        module.weights[name] = module.weights[name].T
    with pytest.raises(ValueError, match="unknown weight 'V'"):
        module.weights["V"] = noise(3)


def test_a_linear_map_notices_changed_weights() -> None:
    module = xrnn.Linear(5, 3, activation="relu")
    ys, tape = module.forward(noise(4, 5))
    with pytest.raises(ValueError, match="read-only"):
        ys *= 0
    module.backward(tape, ys)
    module.weights["b"] = noise(3)
    with pytest.raises(ValueError, match="linear: the weights have changed since the forward pass"):
        module.backward(tape, ys)
    with pytest.raises(TypeError, match="linear: tape is a ndarray"):
        module.backward(ys, ys)


def test_what_another_thread_assigns_meanwhile_is_seen_by_the_next_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, xs = xrnn.LSTM(3, 5, rng=0), noise(4, 1, 3)
    layer(xs)
    layer.weights["b_l0"] = noise(20)
    init, last = Bound.__init__, [2 + noise(20)]

    def interrupted(self: Any, *given: Any) -> None:
        if last:
            layer.weights["b_l0"] = last.pop()
        init(self, *given)

    monkeypatch.setattr(Bound, "__init__", interrupted)
    layer(xs)
    np.testing.assert_array_equal(layer(xs)[0], copy.deepcopy(layer)(xs)[0])


def test_several_are_assigned_in_place_by_or() -> None:
    layer = xrnn.RNN(3, 5)
    weights = layer.weights
    weights |= {"b_l0": np.ones(5, "float32")}
    layer.weights |= {"U_l0": np.ones((5, 5), "float32")}
    assert layer.weights is weights
    assert weights.version == 2
    assert float(weights["b_l0"][0]) == float(weights["U_l0"][0, 0]) == 1
    layer.freeze()
    with pytest.raises(TypeError, match="rnn: the weights are frozen"):
        layer.weights |= {"b_l0": np.ones(5, "float32")}
    layer.weights = layer.weights
    assert layer.weights.frozen


def test_no_array_is_held_by_two_weights(device: str) -> None:
    backend = get(device)
    embedding, linear = xrnn.Embedding(4, 4, device=device), xrnn.Linear(4, 4, device=device)
    message = "linear: W is the array E of embedding, and a change of one .* give a copy of it"
    E, version = embedding.weights["E"], linear.weights.version
    with pytest.raises(ValueError, match=message):
        linear.weights["W"] = E
    with pytest.raises(ValueError, match=message):
        linear.weights = {**linear.weights, "W": E}
    assert linear.weights.version == version
    linear.weights["W"] = backend.xp.asarray(E, copy=True)
    layer = xrnn.RNN(4, 4, num_layers=2, device=device)
    with pytest.raises(ValueError, match="rnn: U_l1 is the array U_l0 of rnn"):
        layer.weights["U_l1"] = layer.weights["U_l0"]
    with pytest.raises(ValueError, match="rnn: U_l1 is the array U_l0 of rnn"):
        layer.weights = {**layer.weights, "U_l1": layer.weights["U_l0"]}
    one, two = layer.weights["U_l0"], layer.weights["U_l1"]
    layer.weights |= {"U_l0": two, "U_l1": one}
    assert layer.weights["U_l0"] is two
    layer.weights = dict(layer.weights)
    assert layer.weights["U_l0"] is two
    del embedding
    E = backend.xp.asarray(E, copy=True)
    linear.weights["W"] = E
    assert linear.weights["W"] is E


def test_values_of_other_layers_are_copied(device: str) -> None:
    layer, other = (xrnn.RNN(3, 5, device=device) for _ in range(2))
    U = other.weights["U_l0"]
    layer.weights["U_l0"] = U
    assert layer.weights["U_l0"] is not U
    layer.weights = other.weights
    for weights in (layer.weights, copy.copy(layer.weights)):
        for name, w in weights.items():
            assert w is not other.weights[name]
            host = get(device).to_host
            np.testing.assert_array_equal(host(w), host(other.weights[name]))
