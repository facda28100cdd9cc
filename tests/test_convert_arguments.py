"""Conversion from and to PyTorch: wrong arguments are refused in words, sums are rounded once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.convert import from_torch, to_torch


def layer(dtype: Any = "float32", make: Any = xrnn.LSTM) -> Any:
    return make(3, 5, dtype=dtype, rng=0)


def given(dtype: str = "float32", **changed: Any) -> dict[str, Any]:
    weights = {name: a.astype(dtype) for name, a in to_torch(xrnn.LSTM(3, 5, rng=1)).items()}
    return {**weights, **changed}


def refused(kind: type[Exception], message: str, state_dict: Any, **how: Any) -> None:
    mine = layer()
    before = {name: w.copy() for name, w in mine.weights.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind, match=message):
            from_torch(mine, state_dict, **how)
    for name, w in before.items():
        np.testing.assert_array_equal(mine.weights[name], w)


@pytest.mark.parametrize("other", [None, xrnn.LSTM, {}, "lstm", xrnn.cells.LSTM], ids=repr)
def test_no_layer(other: Any) -> None:
    with pytest.raises(TypeError, match="it must be a Layer, an Embedding or a Linear of xrnn"):
        from_torch(other, given())
    with pytest.raises(TypeError, match="it must be a Layer, an Embedding or a Linear of xrnn"):
        to_torch(other)


@pytest.mark.parametrize("state_dict", [None, 3, [("bias_ih_l0", 1)], object()])
def test_no_mapping(state_dict: Any) -> None:
    refused(TypeError, r"must be a mapping .*: give module\.state_dict\(\)", state_dict)


def test_names() -> None:
    refused(ValueError, r"unknown PyTorch names 3; the layer has weight_ih_l0", given() | {3: 1})
    refused(ValueError, r"unknown PyTorch names \(1, 2\); the", given() | {(1, 2): 1})
    refused(ValueError, "PyTorch name weight_ih_l0 is missing", {})
    prefixed = {f"rnn.{name}": w for name, w in given().items()}
    refused(ValueError, r"these start with 'rnn\.'; say prefix='rnn'", prefixed)


VALUES: dict[str, tuple[Any, type[Exception], str]] = {
    "None": (None, TypeError, "weight_ih_l0 is None"),
    "text": ("abc", TypeError, "weight_ih_l0 is 'abc'"),
    "a ragged list": ([[1.0, 2.0], [3.0]], TypeError, "weight_ih_l0 is list, which NumPy cannot"),
    "objects": (np.zeros((20, 3), object), TypeError, "of floating-point numbers"),
    "integers": (
        np.zeros((20, 3), int),
        TypeError,
        "has dtype int64 and shape .20, 3.; it must be an array of fl",
    ),
    "bools": (np.zeros((20, 3), bool), TypeError, "of floating-point numbers"),
    "dates": (np.zeros((20, 3), "M8[s]"), TypeError, "of floating-point numbers"),
    "complex": (
        np.zeros((20, 3), complex),
        TypeError,
        r"^weight_ih_l0 has dtype complex128 and shape \(20, 3\); it must be .*, which float32",
    ),
    "masked": (np.ma.zeros((20, 3)), TypeError, "MaskedArray"),
    "a number": (3.0, ValueError, r"has shape \(\); it must be \(20, 3\)"),
    "transposed": (np.zeros((3, 20)), ValueError, r"has shape \(3, 20\); it must be \(20, 3\)"),
    "too large": (np.full((20, 3), 1e300), ValueError, "W_l0 holds 1e.300, which is too large"),
}


@pytest.mark.parametrize(("value", "kind", "message"), VALUES.values(), ids=list(VALUES))
def test_values(value: Any, kind: Any, message: str) -> None:
    for gradients in (False, True):
        refused(kind, message, given(weight_ih_l0=value), gradients=gradients)


def test_tensors_that_have_no_numbers() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.zeros(20, 3, device="meta"), torch.zeros(20, 3).to_sparse()):
        refused(TypeError, "which NumPy cannot take", given(weight_ih_l0=tensor))
    refused(TypeError, r"give module\.state_dict\(\)", torch.nn.LSTM(3, 5))
    tensor = torch.full((20, 3), 0.5, dtype=torch.bfloat16, requires_grad=True)
    mine = layer()
    from_torch(mine, given(weight_ih_l0=tensor))
    assert (mine.weights["W_l0"] == 0.5).all()


@pytest.mark.parametrize("flag", ["no", None, 2, np.zeros(2)], ids=repr)
def test_gradients_is_true_or_false(flag: Any) -> None:
    refused(
        TypeError, "from_torch: gradients is .*; it must be True or False", given(), gradients=flag
    )
    if flag is not None:
        with pytest.raises(TypeError, match=r"to_torch: gradients is .*; it must be True or False"):
            to_torch(layer(), gradients=flag)


def test_trees() -> None:
    mine = layer()
    for tree in (3, "W_l0", [1], object()):
        with pytest.raises(TypeError, match="it must be a mapping of names to arrays"):
            to_torch(mine, tree)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing or unknown: 1, U_l0, W_l0, b_l0; the layer has"):
        to_torch(mine, {1: 2})  # type: ignore[dict-item]
    for value in (None, [1.0], "a"):
        with pytest.raises(TypeError, match=r"W_l0 is a builtins.*; it must be an array"):
            to_torch(mine, dict.fromkeys(mine.weights, value))
    with pytest.raises(
        ValueError, match=r"U_l0 has shape \(2,\); it must be \(4·H, H\) = \(20, 5\)"
    ):
        to_torch(mine, {**mine.weights, "U_l0": np.zeros(2, "float32")})


def test_the_activation_of_a_linear_stays_with_the_caller() -> None:
    """A Linear of PyTorch has none: weights and gradients are the same with and without it."""
    plain, curved = (xrnn.Linear(3, 2, rng=0, activation=how) for how in (None, "tanh"))
    for tree in (None, plain.weights):
        for name, a in to_torch(plain, tree).items():
            np.testing.assert_array_equal(to_torch(curved, tree)[name], a)
    assert "activation function of an `xrnn.Linear` is not among them" in (to_torch.__doc__ or "")


def test_a_bias_that_is_infinite() -> None:
    mine = layer()
    mine.weights["b_l0"][3] = np.inf
    found = to_torch(mine)
    assert found["bias_ih_l0"][3] == np.inf
    assert (found["bias_hh_l0"] == 0).all()


class TestHalfPrecision:
    """Biases are summed in float32 at least, and rounded once."""

    @pytest.mark.parametrize(
        "make", [xrnn.RNN, xrnn.LSTM, xrnn.GRU], ids=lambda make: make.__name__
    )
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_a_sum_is_rounded_once(self, make: Any, dtype: Any) -> None:
        mine = layer(dtype, make)
        weights = {name: a.astype("float32") for name, a in to_torch(mine).items()}
        # Halfway between two numbers of 16 bits, it is rounded down if it is rounded alone.
        scale = {"float16": 2048.0, "bfloat16": 256.0}[dtype]
        weights["bias_ih_l0"][:] = scale + 1
        weights["bias_hh_l0"][:] = 1
        assert from_torch(mine, weights)["b_l0"][0] == scale + 2

    def test_a_sum_that_is_too_large_is_refused(self) -> None:
        mine = layer("float16")
        large = np.full(20, 6e4, "float32")
        with pytest.raises(
            ValueError, match=r"b_l0 holds 120000\.0, which is too large for float16"
        ):
            from_torch(mine, given(bias_ih_l0=large, bias_hh_l0=large))
        from_torch(mine, given(bias_ih_l0=large, bias_hh_l0=-large))
        assert (mine.weights["b_l0"] == 0).all()

    def test_complex_layers(self) -> None:
        mine = layer("complex64")
        before = {name: w.copy() for name, w in mine.weights.items()}
        from_torch(mine, {name: 1j * a for name, a in to_torch(mine).items()})
        for name, w in before.items():
            np.testing.assert_array_equal(mine.weights[name], 1j * w)
        from_torch(mine, given())
        assert mine.weights["W_l0"].dtype == np.complex64
