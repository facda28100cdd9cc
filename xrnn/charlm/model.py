"""A character language model, built from the public parts of this library only.

x_t = E[token_t],  h_t = layer(x_t, h_{t-1}),  y_t = W h_t + b

The loss is the softmax cross-entropy of the next character.  Training uses truncated
backpropagation through time: the text is read in windows of T steps, each of which starts from the
last state of the window before, and gradients do not cross from one window to another.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrnn.backends import Backend, get, host
from xrnn.cells import BY_NAME
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.linear import Linear
from xrnn.learn import losses, optim
from xrnn.typing import Array, State

HELD_OUT = 0.05
CLIP = 1.0


class RefusedError(ValueError):
    """A request that cannot be fulfilled; the message says what to do instead."""


@dataclass(frozen=True)
class Config:
    """All options of a training run."""

    cell: str = "lstm"
    hidden: int = 256
    layers: int = 1
    embedding: int = 64
    batch: int = 32
    length: int = 64
    steps: int = 1000
    lr: float = 8e-3
    seed: int = 0

    def check(self) -> None:
        """Raise RefusedError for values that cannot be trained with."""
        if self.cell not in BY_NAME:
            raise RefusedError(
                f"unknown cell {self.cell!r}; it must be one of {', '.join(BY_NAME)}"
            )
        for name in ("hidden", "layers", "embedding", "batch", "length", "steps"):
            if getattr(self, name) < 1:
                raise RefusedError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.lr < math.inf:
            raise RefusedError(f"--lr is {self.lr}; it must be a number above 0")


def read_text(path: str | None) -> str:
    """The text of a UTF-8 file; without a path, Python's own language reference.

    The reference (`pydoc_data.topics`, about 465,000 characters of English) comes with
    every CPython, so there is nothing to download.
    """
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(f"{path} is not UTF-8 text ({error.reason} at {error.start})") from None
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from None
    if not text:
        raise RefusedError(f"{path} is empty; give a text to learn from")
    return text


class Corpus:
    """A text as tokens: most of it in `batch` parallel streams, its end held out.

    Attributes
    ----------
    vocabulary : str
        Every character of the text, in order of code points; a token is an index into it.
    streams : NumPy array (n, batch) of int64
        The training text, cut into parallel streams.
    held_out : NumPy array (m,) of int64
        The last 5 % of the text.
    """

    def __init__(self, text: str, batch: int, length: int) -> None:
        xp = host.xp
        self.vocabulary = "".join(sorted(set(text)))
        index = {character: n for n, character in enumerate(self.vocabulary)}
        tokens = xp.asarray([index[character] for character in text], dtype=xp.int64)
        held_out = max(2, math.ceil(HELD_OUT * len(text)))
        needed = batch * (length + 1)
        if len(text) - held_out < needed:
            raise RefusedError(
                f"the text has {len(text)} characters, {held_out} of them held out; one window "
                f"takes batch × (length + 1) = {batch} × {length + 1} = {needed}: give a longer "
                "text, or smaller --batch or --length"
            )
        train = tokens[:-held_out]
        n = len(train) // batch
        self.streams = xp.ascontiguousarray(train[: n * batch].reshape(batch, n).T)
        self.held_out = tokens[-held_out:]
        self.length = length
        self.sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def windows(self) -> int:
        """The number of windows in one pass over the streams."""
        return int(self.streams.shape[0] - 1) // self.length

    def window(self, step: int) -> tuple[Array, Array, bool]:
        """Inputs and targets (T, B) of a step, and whether it starts a pass over the streams."""
        k = step % self.windows
        cut = slice(k * self.length, (k + 1) * self.length + 1)
        tokens = self.streams[cut]
        return tokens[:-1], tokens[1:], k == 0


class CharModel:
    """Embedding → layer → linear map, on one backend.

    Parameters
    ----------
    vocabulary : str
        The characters of the training text.
    config : Config
        Sizes and seed.
    device : str
        "cpu", "cuda" or the import name of an array library.
    """

    def __init__(self, vocabulary: str, config: Config, device: str = "cpu") -> None:
        self.vocabulary, self.config = vocabulary, config
        self.backend: Backend = get(device)
        V, I, H, seed = len(vocabulary), config.embedding, config.hidden, config.seed
        self.embedding = Embedding(V, I, device=device, rng=host.generator([seed, 0]))
        self.layer = Layer(
            BY_NAME[config.cell],
            I,
            H,
            num_layers=config.layers,
            device=device,
            rng=host.generator([seed, 1]),
        )
        self.readout = Linear(H, V, device=device, rng=host.generator([seed, 2]))

    @property
    def parts(self) -> dict[str, Any]:
        """The parts by their names in files and in the optimizer."""
        return {"embedding": self.embedding, "layer": self.layer, "readout": self.readout}

    @property
    def weights(self) -> dict[str, dict[str, Array]]:
        """All weights, as a tree for the optimizer."""
        return {name: part.weights for name, part in self.parts.items()}

    def loss(
        self, tokens: Array, targets: Array, state: State | None
    ) -> tuple[Array, State, dict[str, Any]]:
        """Bits per character of a window (T, B), the state at its end, all gradients."""
        put = self.backend.from_host
        xs, embedding_tape = self.embedding.forward(put(tokens))
        hs, state, layer_tape = self.layer.forward(xs, state)
        logits, readout_tape = self.readout.forward(hs)
        nats, dlogits = losses.softmax_cross_entropy(logits, put(targets))
        dhs, dreadout = self.readout.backward(readout_tape, dlogits)
        dxs, _, dlayer = self.layer.backward(layer_tape, dhs)
        dembedding = self.embedding.backward(embedding_tape, dxs)
        gradients = {"embedding": dembedding, "layer": dlayer, "readout": dreadout}
        return nats / math.log(2), state, gradients

    def bits(self, tokens: Array, streams: int = 16, window: int = 256) -> float:
        """Bits per character of a held-out text, read in parallel streams."""
        streams = min(streams, len(tokens) - 1)
        n = (len(tokens) - 1) // streams
        starts = [k * n for k in range(streams)]
        total, state = 0.0, None
        for t in range(0, n, window):
            stop = min(t + window, n)
            columns = [tokens[s + t : s + stop + 1] for s in starts]
            piece = host.xp.stack(columns, axis=1)
            put = self.backend.from_host
            hs, state = self.layer(self.embedding(put(piece[:-1])), state)
            nats, _ = losses.softmax_cross_entropy(self.readout(hs), put(piece[1:]))
            total += float(nats) * (stop - t) / n
        return total / math.log(2)

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
        if not 0 <= temperature < math.inf:
            raise RefusedError(f"--temperature is {temperature}; it must be at least 0")
        random, xp = host.generator(seed), host.xp
        logits, state = xp.zeros(len(self.vocabulary)), None
        for character in prime or ("\n" if "\n" in self.vocabulary else ""):
            logits, state = self._read(character, state)
        for _ in range(length):
            if temperature:
                scaled = (logits - logits.max()) / temperature
                chances = xp.exp(scaled)
                token = random.choice(len(self.vocabulary), p=chances / chances.sum())
            else:
                token = logits.argmax()
            character = self.vocabulary[int(token)]
            yield character
            logits, state = self._read(character, state)

    def _read(self, character: str, state: State | None) -> tuple[Array, State]:
        """Logits (float64, on the host) of what follows the character, and the new state."""
        token = self.backend.from_host(host.xp.asarray([self.vocabulary.index(character)]))
        h, state = self.layer.step(self.embedding(token), state)
        return self.backend.to_host(self.readout(h))[0].astype("float64"), state


def learning_rate(config: Config, step: int) -> float:
    """Half a cosine period, from lr at the first step to lr / 20 at the last one."""
    fall = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * (0.05 + 0.95 * fall)


class Trainer:
    """A model, its optimizer and its position in the text.

    Attributes
    ----------
    step : int
        The number of steps done.
    state : State or None
        The last state of the window before.
    """

    def __init__(self, model: CharModel, corpus: Corpus) -> None:
        self.model, self.corpus = model, corpus
        self.optimizer = optim.Adam(model.config.lr)
        self.step = 0
        self.state: State | None = None

    def advance(self) -> float:
        """Train on the next window; return its bits per character.

        Raises
        ------
        RefusedError
            If the loss or a gradient is not finite; the weights are then as they were.
        """
        tokens, targets, start = self.corpus.window(self.step)
        state = None if start else self.state
        bits, state, gradients = self.model.loss(tokens, targets, state)
        gradients, norm = optim.clip_by_global_norm(gradients, CLIP)
        if not math.isfinite(float(norm)) or not math.isfinite(float(bits)):
            raise RefusedError(f"training diverged at step {self.step}; choose a smaller --lr")
        self.optimizer.lr = learning_rate(self.model.config, self.step)
        self.optimizer.update(self.model.weights, gradients)
        self.state = state
        self.step += 1
        return float(bits)
