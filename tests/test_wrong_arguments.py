"""What the messages say of arguments of a wrong kind, one of each check.

That every argument of every function is checked is for the fuzzer, `test_fuzz`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import backends
from xrnn.cells import LSTM

XS = np.ones((4, 2, 3))
XS32, MASK = XS.astype("float32"), np.ones((4, 2), bool)
WEIGHTS = {name: np.zeros(shape) for name, shape in LSTM.shapes(3, 5).items()}
TAPE: Any = xrnn.unroll(LSTM, WEIGHTS, XS)[2]
ANY: Any = xrnn

CALLS: list[tuple[Callable[[Any], Any], list[Any], str]] = [
    (lambda v: xrnn.unroll(v, WEIGHTS, XS), ["lstm", None], "cell is .* must be a cell"),
    (lambda v: xrnn.LSTM(3, 5, dropout=v), ["a", None], r"dropout is .* must be in \[0, 1\)"),
    (lambda v: xrnn.LSTM(3, 5, dtype=v), ["int32", [1]], "dtype is .* it must be 'float16'"),
    (lambda v: xrnn.LSTM(3, 5, device=v), [None, 0], "device is .* it must be a name"),
    (lambda v: xrnn.LSTM(3, 5, device=v), ["", ".x", "a b"], "backend .* is unknown"),
    (lambda v: xrnn.LSTM(3, 5, rng=v), [-1, "a", 1.5], "rng is .* it must be None, an integer"),
    (lambda v: xrnn.LSTM(3, 5, precision=v), [5, None], "precision is .* must be 'ieee'"),
    (lambda v: xrnn.LSTM(3, v), [0, 2.0, True, "5"], "hidden_size is .* an integer ≥ 1"),
    (lambda v: xrnn.LSTM(v, 5), [2**31], "input_size is 2147483648; it must be at most 1,073"),
    (lambda v: xrnn.Linear(v, 2**20), [2**30], "linear: the weights are .* choose smaller sizes"),
    (lambda v: xrnn.LSTM(3, (5, v)), [0, "a", 2.0], r"lstm: hidden_size\[1\] is .* an integer ≥ 1"),
    (lambda v: xrnn.LSTM(3, v, 3), [(5, 5), []], "hidden_size .* must hold one"),
    (
        lambda v: xrnn.LSTM(3, 5, zoneout=v),
        [0.1, "0.1", (0.1,), (0.1, 0.1, 0.1), None],
        r"lstm: zoneout is .* must hold 2 numbers in \[0, 1\), one for each",
    ),
    (lambda v: xrnn.LSTM(3, 5, zoneout=(0, v)), [1, "a"], r"zoneout\[1\] is .* number in \[0, 1\)"),
    (
        lambda v: xrnn.GRU(3, 5, zoneout=v),
        [1.0, "a", (0, 0)],
        r"zoneout is .* a number in \[0, 1\)",
    ),
    (
        lambda v: xrnn.GRU(3, 5, recurrent_dropout=v),
        [1, "a"],
        "recurrent_dropout is .* a number in",
    ),
    (lambda v: xrnn.GRU(3, 5, weight_drop=v), [1, "a"], r"gru: weight_drop is .* in \[0, 1\)"),
    (
        lambda v: xrnn.cells.with_zoneout(v, 0.1),
        ["lstm", None],
        "cell is .* it must be a cell, such",
    ),
    (
        lambda v: xrnn.LSTM(3, 5)(XS32, mask=v),
        [5, MASK.T, MASK[0]],
        r"mask .* \(T, B\) = \(4, 2\) bool",
    ),
    (lambda v: xrnn.LSTM(3, 5)(XS32, resets=v), [MASK * 1.0], r"resets has shape .* dtype float64"),
    (lambda v: xrnn.LSTM(3, 5)(XS32, masked=v), ["keep", None], "masked is .* 'zero' or 'hold'"),
    (
        lambda v: xrnn.LSTM(3, 5).forward(XS32, t=v),
        [-1, 1.5, "a", 0.0, False, MASK[0]],
        "lstm: t is .* an integer in 0…",
    ),
    (lambda v: xrnn.LSTM(3, 5, learn_state=v), ["yes"], "learn_state is .* True or False"),
    (lambda v: xrnn.LSTM(3, 5).initial_state(v), [-1, "a", 1.5], "lstm: B is .* an integer"),
    (lambda v: xrnn.LSTM(3, 5, forget_bias=v), ["1", np.inf], "forget_bias is .* a finite number"),
    (lambda v: xrnn.LSTM(3, 5).forward(XS, seed=v), [1.5, "a"], "seed is .* an integer"),
    (lambda v: xrnn.LSTM(3, 5).path(v), [3, (3,), "abc"], "lstm: shape is .* that of xs"),
    (lambda v: xrnn.LSTM(3, 5).path((v, 2, 3)), [1.5, None], "a size in shape is .* an integer"),
    (lambda v: xrnn.LSTM(3, 5).path((v, 2, 3)), [-1], "a size in shape is -1; it must be ≥ 0"),
    (lambda v: xrnn.LSTM(3, 5).inputs(v), [1, -1], "k is .* an integer in 0…0"),
    (lambda v: xrnn.LSTM(3, 5).weights.update(v), [5, [1]], "lstm: weights must be a mapping"),
    (lambda v: xrnn.unroll(LSTM, WEIGHTS, XS, lengths=v), [[[1], [1, 2]]], "lengths are no array"),
    (lambda v: xrnn.analysis.jacobian(TAPE, 0, of=v), ["g", 3], "state .* is unknown"),
    (lambda v: ANY.losses.squared_error(v, v), [np.ones((2, 2), int)], "ys is int64"),
    (lambda v: ANY.optim.SGD(v), ["a", None, np.array("0"), True], "lr is .* it must be > 0"),
    (lambda v: ANY.optim.SGD(0.1).update(v, {}), [5, XS], "must be a mapping"),
    (lambda v: ANY.save("/nowhere/file", v), [5, {"a": 1}, xrnn.LSTM], "part.* is a .* must be"),
    (lambda v: LSTM.shapes(3, v), [0, 5.0, [5]], "lstm: H is .* an integer ≥ 1"),
    (lambda v: LSTM.shapes(3, 5, v), ["yes", 1], "lstm: bias is .* True or False"),
    (lambda v: LSTM.letters(v), ["V", [1]], "lstm: name is .* must be of W, U, b"),
    (lambda v: LSTM.state(v), [5, (XS,)], "lstm: arrays is a .* one array for each of h, c"),
    (lambda v: replace(LSTM, name=v), [None, ""], "name is .* the name of a cell"),
    (
        lambda v: replace(LSTM, gates=v),
        ["i", ("a", "a"), ("_a",), ()],
        "gates is .* a tuple of",
    ),
    (lambda v: replace(LSTM, step=v), [None, 5], "lstm: step is .* must be a function"),
    (lambda v: replace(LSTM, extras=v), [None, {"p": 3}, {1: (3,)}], "lstm: extras is .* mapping"),
    (lambda v: replace(LSTM, linear=v), [True], "lstm: linear is True; it must be a LinearRec"),
    (lambda v: replace(LSTM, bias_in_step=v), [None, 1], "lstm: bias_in_step is .* True or False"),
    (
        lambda v: replace(LSTM, ones=v),
        [None, ("p",), ["p"]],
        "lstm: ones is .* names in extras",
    ),
    (lambda v: replace(LSTM, noise=v), [None, ("h",)], "lstm: noise is .* a tuple of Noise"),
    (lambda v: replace(LSTM, maker=v), [5, "made"], "lstm: maker is .* a function, or None"),
    (lambda v: replace(LSTM, analytic=v), [None, "no"], "lstm: analytic is .* True or False"),
    (lambda v: backends.register(v, backends.get("cpu")), [None, 5], "library is .* a name"),
    (lambda v: backends.register("mine", v), [None, "cpu"], "backend is .* must be an xrnn"),
    (lambda v: backends.unregister(v), ["nothing", None], "library is .* one that was registered"),
    (lambda v: xrnn.certify("cpu", "float32", v), [None, 5], "cells is .* must be a list of cells"),
]


@pytest.mark.parametrize(
    ("call", "value", "match"),
    [(call, value, match) for call, values, match in CALLS for value in values],
)
def test_the_message_says_what_it_must_be(
    call: Callable[[Any], Any], value: Any, match: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        call(value)


def test_an_unknown_weight_is_a_key_error_of_the_house() -> None:
    weights = xrnn.LSTM(3, 5).weights
    names: list[Any] = ["W_l1", [1], None]
    for name in names:
        with pytest.raises(KeyError, match=r"lstm: unknown weight .* it has W_l0, U_l0, b_l0"):
            weights[name]
        assert name not in weights
