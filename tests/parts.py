"""All kinds of parts with weights, for tests of what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import xrnn
from xrnn import cells

#: those with random weights
MAKERS: dict[str, Callable[..., Any]] = {
    "RNN": lambda **how: xrnn.RNN(3, 5, **how),
    "LSTM": lambda **how: xrnn.LSTM(3, 5, num_layers=2, bidirectional=True, **how),
    "GRU": lambda **how: xrnn.GRU(3, 5, **how),
    "InputGatedLSTM": lambda **how: xrnn.InputGatedLSTM(3, 5, **how),
    "Layer": lambda **how: xrnn.Layer(cells.PeepholeLSTM, 3, 5, **how),
    "Embedding": lambda **how: xrnn.Embedding(7, 3, **how),
    "Linear": lambda **how: xrnn.Linear(5, 2, **how),
    "AttentionPooling": lambda **how: xrnn.AttentionPooling(5, 2, **how),
    "Attention": lambda **how: xrnn.Attention(5, 3, 2, **how),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


def _norm(rng: Any = None, **how: Any) -> Any:
    return xrnn.LayerNorm(5, **how)


#: and the one whose weights are not drawn at random
ALL = MAKERS | {"LayerNorm": _norm}
every_part = pytest.mark.parametrize("make", ALL.values(), ids=list(ALL))
