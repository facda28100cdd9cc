"""Arguments of a wrong kind: the message says which, and what it must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.cells import LSTM

XS = np.ones((4, 2, 3))
WEIGHTS = {name: np.zeros(shape) for name, shape in LSTM.shapes(3, 5).items()}
TAPE: Any = xrnn.unroll(LSTM, WEIGHTS, XS)[2]
ANY: Any = xrnn

CALLS: list[tuple[Callable[[Any], Any], list[Any], str]] = [
    (lambda v: xrnn.Layer(v, 3, 5), ["lstm", None, xrnn.LSTM], "cell is .* must be a cell"),
    (lambda v: xrnn.unroll(v, WEIGHTS, XS), ["lstm", None], "cell is .* must be a cell"),
    (lambda v: ANY.online.Online(v, WEIGHTS, 2), ["lstm"], "cell is .* must be a cell"),
    (
        lambda v: xrnn.LSTM(3, 5, dropout=v),
        ["a", None, [0.5]],
        r"dropout is .* must be in \[0, 1\)",
    ),
    (lambda v: xrnn.LSTM(3, 5, dtype=v), ["int32", np.ones(3)], "dtype is .* it must be 'float16'"),
    (lambda v: xrnn.Linear(3, 5, dtype=v), ["int32", None, "x"], "linear: dtype is .* it must be"),
    (lambda v: xrnn.Embedding(3, 5, dtype=v), ["int8", None], "embedding: dtype is .* it must be"),
    (lambda v: xrnn.LSTM(3, 5, device=v), [None, 0], "device is .* it must be a name"),
    (lambda v: xrnn.LSTM(3, 5, device=v), ["", ".x", "a b"], "backend .* is unknown"),
    (lambda v: xrnn.LSTM(3, 5, rng=v), [-1, "a", 1.5], "rng is .* it must be None, an integer"),
    (lambda v: xrnn.LSTM(3, 5, precision=v), [np.ones(3), None], "precision is .* must be 'ieee'"),
    (
        lambda v: xrnn.LSTM(3, 5).path(v),
        [3, (3,), (1, 2, 3, 4), "abc"],
        "lstm: shape is .* that of xs",
    ),
    (
        lambda v: xrnn.LSTM(3, 5).path(v),
        [(1.5, 2, 3), (None, 3)],
        "a size in shape is .* an integer",
    ),
    (lambda v: xrnn.LSTM(3, 5).weights.update(v), [5, [1]], "lstm: weights must be a mapping"),
    (lambda v: xrnn.unroll(LSTM, WEIGHTS, XS, lengths=v), [[[1], [1, 2]]], "lengths are no array"),
    (
        lambda v: xrnn.analysis.jacobian(TAPE, v),
        [None, 1.5, np.ones(3)],
        "lstm: t is .* integer",
    ),
    (lambda v: xrnn.analysis.jacobian(TAPE, 0, v), [None, 1.5], "lstm: span is .* an integer"),
    (lambda v: xrnn.analysis.jacobian(TAPE, 0, of=v), [np.ones(3), 3], "state .* is unknown"),
    (lambda v: xrnn.analysis.lyapunov(TAPE, v), [None, 1.5, "a"], "lstm: k is .* an integer"),
    (lambda v: ANY.losses.squared_error(v, v), [np.ones((2, 2), int)], "ys is int64"),
    (lambda v: ANY.losses.squared_error(v, v), [np.array(1.0)], r"ys has shape \(\); it must be"),
    (lambda v: ANY.losses.squared_error(XS, XS, v), [[True], 1], "mask is a builtins"),
    (lambda v: ANY.losses.softmax_cross_entropy(v, XS), [np.array(1.0)], r"logits has shape \(\)"),
    (lambda v: ANY.optim.clip_by_global_norm(v, 1.0), [{}], "dweights hold no gradient"),
    (lambda v: ANY.optim.clip_by_global_norm(v, 1.0), [5, None], "must be a mapping"),
    (lambda v: ANY.optim.SGD(0.1).update(v, {}), [5, XS], "must be a mapping"),
    (
        lambda v: ANY.save("/nowhere/file", v),
        [5, None, {"a": 1}, xrnn.LSTM],
        "part is a .* must be",
    ),
    (lambda v: xrnn.Embedding(3, 5).backward(v, XS), [None, XS], "tape is"),
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
