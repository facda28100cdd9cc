"""`from_arrays`: wrong arguments are refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from libraries import PROJECTED

import xrnn
from xrnn import cells
from xrnn.cells import GRU, LSTM, Elman, PeepholeLSTM, lstm_with
from xrnn.convert import from_arrays


def lstm(**changed: Any) -> dict[str, Any]:
    arrays = {"W": np.zeros((20, 3)), "U": np.zeros((20, 5)), "b": np.zeros(20)}
    return {"cell": LSTM, **arrays, **changed}


def gru(**changed: Any) -> dict[str, Any]:
    arrays = {"W": np.zeros((15, 3)), "U": np.zeros((15, 5)), "b": np.zeros(15)}
    return {"cell": GRU, **arrays, **changed}


def rnn(**changed: Any) -> dict[str, Any]:
    return {"cell": Elman, "W": np.zeros((5, 3)), "U": np.zeros((5, 5)), **changed}


def mingru(**changed: Any) -> dict[str, Any]:
    return {"cell": cells.MinGRU, "W": np.zeros((10, 3)), "U": None, **changed}


SQUARE = "which does not tell whether it is"
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    (lstm(cell="lstm"), TypeError, "cell is 'lstm'; it must be a cell, such as xrnn.cells.LSTM"),
    (lstm(cell=xrnn.LSTM), TypeError, "it must be a cell, such as xrnn.cells.LSTM"),
    # gates
    (lstm(gates="ifg"), ValueError, "lstm: gates is 'ifg'; it must hold each of the letters ifgo"),
    (lstm(gates="ifgg"), ValueError, "gates is 'ifgg'"),
    (lstm(gates="ifcg"), ValueError, "gates is 'ifcg'"),
    (lstm(gates=3), ValueError, "gates is 3; it must hold each of the letters ifgo once"),
    (gru(gates="ifgo"), ValueError, "gru: gates is 'ifgo'; it must hold each of the letters rzn"),
    # arrays
    (lstm(W=None), TypeError, "lstm: W is a NoneType; it must be an array"),
    (lstm(W="abc"), ValueError, "lstm: W is a str of 3; it must be an array, or one array of 2"),
    (lstm(W=[[1.0, 2.0]]), ValueError, "W is a list of 1; it must be an array, or one array of 2"),
    (lstm(b=[np.zeros(5)] * 3), ValueError, "b is a list of 3; it must be an array, or one array"),
    (lstm(b=[np.zeros(5)] * 3 + [np.zeros(4)]), ValueError, "for each of i, f, g, o, all of one"),
    (lstm(b=[np.zeros(5, int)] * 4), TypeError, r"b\['i'\] is int64; it must be of floating-point"),
    (lstm(W=np.zeros((20, 3), "int8")), TypeError, "W is int8; .* by the scale of their format"),
    (lstm(W=np.zeros(60)), ValueError, r"W has shape \(60,\); it must have 2 axes"),
    (lstm(b=np.zeros((20, 1))), ValueError, r"b has shape \(20, 1\); it must have 1 axis"),
    (lstm(W=np.zeros((21, 3))), ValueError, r"W has shape \(21, 3\); it must be \(4·H, I\), for 4"),
    (lstm(W=np.zeros((16, 3))), ValueError, r"U has shape \(20, 5\); it must be \(4·H, H\) = \(16"),
    (
        lstm(b=np.zeros(40)),
        ValueError,
        r"b has shape \(40,\); it must be \(4·H,\) = \(20,\); .* its second half as recurrent_bias",
    ),
    (lstm(b=np.zeros(40), recurrent_bias=np.zeros(20)), ValueError, r"\(4·H,\) = \(20,\)$"),
    (gru(b=np.zeros((2, 15))), ValueError, r"1 axis; .* give b\[0\] and recurrent_bias=b\[1\]"),
    (gru(b=np.zeros((1, 15))), ValueError, r"b has .*it must have 1 axis; give b\[0\]"),
    (gru(recurrent_bias=np.zeros((1, 15))), ValueError, r"1 axis; give recurrent_bias\[0\]"),
    (gru(b=np.zeros((3, 5))), ValueError, r"b has shape \(3, 5\); it must have 1 axis$"),
    (lstm(recurrent_bias=np.zeros(5)), ValueError, r"recurrent_bias has shape \(5,\); it must be"),
    # the layout
    (
        lstm(U=np.zeros((5, 20))),
        ValueError,
        r"U has shape \(5, 20\); it must be \(4·H, H\); it loo",
    ),
    (lstm(U=np.zeros((5, 20))), ValueError, "it looks transposed: say transposed=True"),
    (lstm(U=np.zeros((5, 7))), ValueError, rf"U has shape \(5, 7\), {SQUARE} \(4·H, H\)"),
    (rnn(), ValueError, rf"elman: U has shape \(5, 5\), {SQUARE} \(1·H, H\)|\(H, H\) or its trans"),
    (lstm(U=[np.zeros((5, 5))] * 4), ValueError, f"lstm: U has shape of single gates, {SQUARE}"),
    (lstm(U=None), ValueError, "lstm: U is missing; this cell needs it"),
    (lstm(transposed="no"), TypeError, "lstm: transposed is 'no'; it must be True or False"),
    (
        lstm(transposed=True),
        ValueError,
        r"W has shape \(20, 3\); it must be \(I, 4·H\), for 4 gates; it looks not transposed: say",
    ),
    (
        lstm(W=np.zeros((3, 20)), U=np.zeros((5, 20)), transposed=False),
        ValueError,
        r"W has shape \(3, 20\); .* for 4 gates; it looks transposed: say transposed=True",
    ),
    (
        lstm(W=np.zeros((4, 20)), U=np.zeros((5, 20)), transposed=False),
        ValueError,
        r"U has shape \(5, 20\); .* = \(4, 1\); it looks transposed: say transposed=True",
    ),
    (
        lstm(W=np.zeros((24, 3)), transposed=False),
        ValueError,
        r"U has shape \(20, 5\); it must be \(4·H, H\) = \(24, 6\)$",
    ),
    (mingru(), ValueError, rf"mingru: W has shape \(10, 3\), {SQUARE} \(2·H, I\)"),
    (mingru(W=np.zeros((3, 10)), b=np.zeros(10)), ValueError, "W has .* it looks transposed: say"),
    (mingru(U=np.zeros((10, 5))), ValueError, "mingru: U is given; this cell has no such weight"),
    # options
    (lstm(peephole=np.zeros(15)), ValueError, "lstm: peephole is given; this cell has no such we"),
    (lstm(cell=PeepholeLSTM), ValueError, "peephole is missing; this cell needs it"),
    (
        lstm(cell=PeepholeLSTM, peephole=np.zeros(20)),
        ValueError,
        r"peephole has shape \(20,\); it m",
    ),
    (lstm(projection=np.zeros((2, 5))), ValueError, "projection is given; this cell has no such"),
    (lstm(cell=PROJECTED, U=np.zeros((20, 2))), ValueError, "projection is missing; this cell ne"),
    (
        lstm(cell=PROJECTED, U=np.zeros((20, 2)), projection=np.zeros((5, 2))),
        ValueError,
        r"projection has shape \(5, 2\); it must be \(P, H\) = \(2, 5\)",
    ),
    (
        lstm(cell=PROJECTED, U=np.zeros((20, 2)), projection=[[1.0]]),
        TypeError,
        "projection is a list; it must be an array",
    ),
    (lstm(z="takes"), ValueError, "lstm: z is 'takes'; that can be said of a GRU alone"),
    (mingru(z="takes", transposed=False), ValueError, "that can be said of a GRU alone"),
    (gru(z="other"), ValueError, "gru: z is 'other'; it must be 'keeps' or 'takes'"),
    (gru(forget_bias=1.0), ValueError, "gru: forget_bias is 1.0; this cell has no gate f"),
    (lstm(forget_bias="1"), TypeError, "lstm: forget_bias is '1'; it must be a finite number"),
    (lstm(forget_bias=np.inf), ValueError, "forget_bias is inf; it must be a finite number"),
    (lstm(state=[np.zeros(5)]), ValueError, "lstm: state holds 1 arrays; .* each of h, c"),
    (lstm(state=[0.0, 0.0]), TypeError, r"lstm: state\['h'\] is a float; it must be an array"),
    (lstm(state=3), TypeError, r"lstm: state is 3; it must be a sequence of arrays, one for each"),
    (
        lstm(state=[np.zeros(5), np.zeros(4)]),
        ValueError,
        r"state\['c'\] has shape \(4,\); it must be",
    ),
    (
        lstm(cell=lstm_with(layer_norm=True)),
        ValueError,
        "the cell has the weights gain_x, .* make xrnn.Layer",
    ),
    # the layer
    (lstm(dtype="int8"), ValueError, "int8"),
    (lstm(device="nowhere"), ImportError, "nowhere is not installed"),
    (lstm(batch_first=1), TypeError, "batch_first is 1; it must be True or False"),
    (lstm(W=np.full((20, 3), 1e300), dtype="float32"), ValueError, "W_l0 holds 1e.300, which is"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG, ids=[m for _, _, m in WRONG])
def test_wrong_arguments(arguments: dict[str, Any], kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        from_arrays(**arguments)
