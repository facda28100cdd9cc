"""The character language model: what is computed of a held-out text."""

from __future__ import annotations

import numpy as np
import pytest

from xrnn.charlm.model import CharModel, Config


@pytest.mark.parametrize(("length", "streams", "window"), [(101, 4, 7), (101, 4, 25), (10, 16, 3)])
def test_held_out_bits_are_the_mean_over_every_character(
    length: int, streams: int, window: int
) -> None:
    """However the text is cut into windows: the state is carried, and no character is left out."""
    model = CharModel("abc", Config(hidden=8, embedding=4))
    tokens = np.random.default_rng(0).integers(3, size=length)
    found = model.bits(tokens, streams, window)
    parallel = min(streams, length - 1)
    n = (length - 1) // parallel
    bits = []
    for k in range(parallel):
        read = tokens[k * n : (k + 1) * n + 1]
        hs, _ = model.layer(model.embedding(read[:-1, None]))
        logits = model.readout(hs)[:, 0].astype("float64")
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        bits += [-np.log2(chances[t, read[t + 1]]) for t in range(n)]
    assert len(bits) == n * parallel
    np.testing.assert_allclose(found, np.mean(bits), rtol=1e-6)
