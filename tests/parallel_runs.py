"""Small runs of `fit` for the tests of several ranks: models, data, losses; what they leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import xrnn
from xrnn import losses
from xrnn.backends import backend_of
from xrnn.learn.parallel import World
from xrnn.learn.trees import leaves


def random(seed: int = 0) -> Any:
    return np.random.default_rng(seed)


def sequences(n: int = 13, width: int = 2) -> list[Any]:
    """Sequences of 1 to 8 steps."""
    rng = random(1)
    return [rng.normal(size=(length, width)) for length in rng.integers(1, 9, n)]


def pieces(B: int = 5, n: int = 6) -> list[Any]:
    """Batches of tokens that go on in the next one, and the tokens that follow."""
    tokens = random(2).integers(0, 7, (4 * n + 1, B))
    return [(tokens[t : t + 4], tokens[t + 1 : t + 5]) for t in range(0, 4 * n, 4)]


F8: Any = {"dtype": "float64", "rng": 0}


def classifier(**how: Any) -> xrnn.Sequential:
    return xrnn.Sequential(
        xrnn.GRU(2, 6, 2, dropout=0.3, **F8 | how),
        xrnn.Mean(batch_first=how.get("batch_first", False)),
        xrnn.Dropout(0.2),
        xrnn.Linear(6, 3, **F8),
    )


def language_model(tied: bool = True) -> xrnn.Sequential:
    first = xrnn.Embedding(7, 4, **F8)
    last = xrnn.TiedLinear(first) if tied else xrnn.Linear(4, 7, **F8)
    return xrnn.Sequential(first, xrnn.LSTM(4, 4, zoneout=(0.2, 0.1), weight_drop=0.2, **F8), last)


def regressor(**how: Any) -> xrnn.Sequential:
    return xrnn.Sequential(
        xrnn.Residual(xrnn.LSTM(2, 2, learn_state=True, zoneout=(0.1, 0.2), **F8 | how)),
        xrnn.Linear(2, 1, **F8),
    )


def classes(n: int = 13) -> tuple[Any, Any]:
    return sequences(n), random(3).integers(0, 3, n)


def sums(n: int = 13) -> tuple[Any, Any]:
    x = sequences(n)
    return x, [np.cumsum(one[:, 0]) for one in x]


def labelled() -> tuple[Any, Any]:
    x = [np.tile(one, (3, 1)) for one in sequences()]
    return x, [random(len(one)).integers(1, 4, len(one) // 3) for one in x]


def translations() -> tuple[Any, Any]:
    rng = random(4)
    y = [rng.integers(0, 5, length) for length in rng.integers(1, 5, 13)]
    return (sequences(), [np.roll(one, 1) for one in y]), y


def translator() -> xrnn.Seq2Seq:
    return xrnn.Seq2Seq(
        encoder=xrnn.GRU(2, 3, bidirectional=True, **F8),
        target=xrnn.Embedding(5, 3, **F8),
        decoder=xrnn.GRU(3, 6, **F8),
        attention=xrnn.Attention(6, **F8),
        readout=xrnn.Sequential(xrnn.Dropout(0.2), xrnn.Linear(6, 5, **F8)),
    )


#: name → model, data, loss, options
Case = tuple[Callable[[], Any], Any, Any, dict[str, Any]]
CASES: dict[str, Case] = {
    "one target": (classifier, classes(), losses.softmax_cross_entropy, {"validation": 0.3}),
    "batch first": (lambda: classifier(batch_first=True), classes(), losses.softmax_cross_entropy,
                    {"validation": classes(5)}),
    "each step": (regressor, sums(), losses.squared_error, {"validation": sums(7), "every": 2}),
    "few sequences": (regressor, sums(), losses.squared_error, {"batch_size": 2}),
    "windows": (regressor, sums(), losses.squared_error, {"truncate": (2, 3)}),
    "recomputed": (lambda: regressor(batch_first=True), sums(), losses.squared_error,
                   {"recompute": 2}),
    "carried state": (language_model, pieces(), losses.softmax_cross_entropy,
                      {"carry_state": True, "validation": pieces(4, 2)}),
    "carried windows": (lambda: language_model(False), pieces(), losses.softmax_cross_entropy,
                        {"carry_state": True, "truncate": 3}),
    "batches": (language_model, [(x, y, [4, 1, 3, 2, 4]) for x, y in pieces()],
                losses.softmax_cross_entropy, {}),
    "labels": (lambda: xrnn.Sequential(xrnn.RNN(2, 4, **F8), xrnn.Linear(4, 4, **F8)), labelled(),
               losses.ctc, {}),
    "from sequences": (translator, translations(), losses.softmax_cross_entropy, {}),
    "a layer": (lambda: xrnn.RNN(2, 1, num_layers=2, **F8), sums(), losses.squared_error, {}),
}  # fmt: skip


def weights(model: Any) -> dict[str, Any]:
    found = ((path, holder[name]) for path, holder, name in leaves(model.weights, "weights"))
    return {path: backend_of(w).to_host(w).copy() for path, w in found}


def trained(case: Case, world: World | None = None, **more: Any) -> tuple[Any, dict[str, Any]]:
    """The history and the weights after a run."""
    make, data, loss, how = case
    model = make()
    given: dict[str, Any] = {"epochs": 2, "batch_size": 5, "rng": 3, "progress": False}
    given["optimizer"] = xrnn.optim.Adam(0.01)
    history = xrnn.fit(model, data, loss, **given | how | more, parallel=world)
    return history, weights(model)


def assert_close(mine: dict[str, Any], theirs: dict[str, Any], bound: float = 1e-10) -> None:
    assert mine.keys() == theirs.keys()
    for path, w in mine.items():
        np.testing.assert_allclose(w, theirs[path], rtol=0, atol=bound, err_msg=path)


def rows(history: Any) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
