"""A character language model, built from the public parts of this library only.

x_t = E[token_t],  h_t = layer(x_t, h_{t-1}),  y_t = W h_t + b

The loss is the softmax cross-entropy of the next character.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from xrnn.backends import backend_of, host
from xrnn.cells import BY_NAME
from xrnn.charlm.config import Config, RefusedError
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.linear import Linear
from xrnn.layers.sequential import Sequential
from xrnn.learn import losses
from xrnn.recurrence.bfloat16 import check_library
from xrnn.typing import Array


class CharModel:
    """Embedding → layer → linear map, on one backend.

    Parameters
    ----------
    vocabulary : str
        The characters of the training text.
    config : Config
        Sizes, seed, and the precision of products.
    device : str
        "cpu", "cuda", "cuda:1" or the import name of an array library.

    Raises
    ------
    RefusedError
        If arrays of that library cannot be multiplied with that precision.
    """

    def __init__(self, vocabulary: str, config: Config, device: str = "cpu") -> None:
        self.vocabulary, self.config = vocabulary, config
        V, I, H, seed = len(vocabulary), config.embedding, config.hidden, config.seed
        self.net = Sequential(
            embedding=Embedding(V, I, device=device, rng=host.generator([seed, 0])),
            layer=Layer(
                BY_NAME[config.cell],
                I,
                H,
                num_layers=config.layers,
                precision=config.precision,
                device=device,
                rng=host.generator([seed, 1]),
            ),
            readout=Linear(H, V, device=device, rng=host.generator([seed, 2])),
        )

        W = self.net.parts["layer"].weights["W_l0"]
        if config.precision == "bf16":
            try:
                check_library(config.cell, W, xp=backend_of(W).xp)
            except TypeError:
                raise RefusedError(
                    f"--precision is bf16, and arrays of {device} are multiplied by their own "
                    "alone; choose another --backend, or train with --precision ieee"
                ) from None

    @property
    def parts(self) -> dict[str, Any]:
        """The parts by their names in files."""
        return dict(self.net.parts)

    def sample(
        self, prime: str, length: int, temperature: float = 1.0, seed: int = 0
    ) -> Iterator[str]:
        """Generate the characters that follow `prime`, one by one.

        Parameters
        ----------
        prime : str
            The text to continue; characters of the vocabulary.  If empty, the model starts on
            a new line.
        length : int
            The number of characters.
        temperature : float
            0 takes the most probable character; 1 draws from the probabilities of the model; larger
            values make improbable characters more frequent.
        seed : int
            The seed of the draws.
        """
        if unknown := sorted(set(prime) - set(self.vocabulary)):
            raise RefusedError(f"the model never saw {''.join(unknown)!r}; prime it with others")
        random, xp = host.generator(seed), host.xp
        logits, state = xp.zeros(len(self.vocabulary)), None
        for character in prime or ("\n" if "\n" in self.vocabulary else ""):
            logits, state = self._read(character, state)
        for _ in range(length):
            if temperature:
                with xp.errstate(over="ignore", under="ignore"):  # 0 is then the right chance
                    chances = xp.exp((logits - logits.max()) / temperature)
                token = random.choice(len(self.vocabulary), p=chances / chances.sum())
            else:
                token = logits.argmax()
            character = self.vocabulary[int(token)]
            yield character
            logits, state = self._read(character, state)

    def _read(self, character: str, state: Any) -> tuple[Array, Any]:
        """Logits (float64, on the host) of what follows the character, and the new state."""
        placement = self.net.parts["readout"].weights.placement
        token = placement.from_host(host.xp.asarray([self.vocabulary.index(character)]))
        y, state = self.net.step(token, state)
        return placement.backend.to_host(y)[0].astype("float64"), state


def bits(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Bits per character, and the gradient of the loss in nats."""
    nats, dlogits = losses.softmax_cross_entropy(logits, targets)
    return nats / math.log(2), dlogits
