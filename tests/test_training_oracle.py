"""`fit` against a training script of PyTorch: the same losses and weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import xrnn

torch: Any = pytest.importorskip("torch", reason="the oracle is PyTorch")

I, H, V, EPOCHS = 3, 5, 4, 6
RNG = np.random.default_rng(0)
#: batches (x (T, B, I), classes, lengths), the longest sequence first as PyTorch packs them
BATCHES = [
    (RNG.normal(size=(T, 6, I)), RNG.integers(0, V, 6), np.array([T, T, 3, 2, 2, 1]))
    for T in (5, 9, 4)
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """PyTorch's threads slow each other down when the tests run beside others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_same_training(cell: str, num_layers: int) -> None:
    layer = getattr(xrnn, cell.upper())(I, H, num_layers, dtype="float64", rng=0)
    out = xrnn.Linear(H, V, dtype="float64", rng=1)
    parts = {"rnn": layer, "out": out}
    theirs = {name: torch.from_numpy(w) for name, w in xrnn.convert.to_torch(parts).items()}
    model = torch.nn.ModuleDict(
        {
            "rnn": getattr(torch.nn, cell.upper())(I, H, num_layers, dtype=torch.float64),
            "out": torch.nn.Linear(H, V, dtype=torch.float64),
        }
    )
    model.load_state_dict(theirs)
    history = xrnn.fit(
        xrnn.Sequential(rnn=layer, pool=xrnn.Last(), out=out),
        BATCHES,
        xrnn.losses.softmax_cross_entropy,
        epochs=EPOCHS,
        clip=None,
        optimizer=xrnn.optim.Adam(0.01),
        progress=False,
    )
    np.testing.assert_allclose(history["loss"], trained(model, cell), rtol=1e-7)
    for name, w in xrnn.convert.to_torch(parts).items():
        found = model.state_dict()[name].numpy()
        np.testing.assert_allclose(w, found, rtol=1e-6, atol=1e-8, err_msg=name)


def trained(model: Any, cell: str) -> list[float]:
    """The mean loss of each epoch.

    PyTorch has two biases where xrnn has their sum, which therefore moves twice as far: one of them
    stays as it is here, but for the part in the GRU that is inside the product with the reset gate.
    """
    for name, bias in model["rnn"].named_parameters():
        if name.startswith("bias_hh"):
            kept = torch.zeros_like(bias)
            kept[2 * H :] = cell == "gru"
            bias.register_hook(lambda gradient, kept=kept: gradient * kept)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(EPOCHS):
        losses.append(0.0)
        for x, y, lengths in BATCHES:
            pack = torch.nn.utils.rnn.pack_padded_sequence
            _, last = model["rnn"](pack(torch.from_numpy(x), lengths))
            h = last[0] if cell == "lstm" else last
            loss = torch.nn.functional.cross_entropy(model["out"](h[-1]), torch.from_numpy(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() / len(BATCHES)
    return losses
