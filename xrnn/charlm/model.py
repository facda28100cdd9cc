"""A character language model, built from the public parts of this library only.

x_t = E[token_t],  h_t = layer(x_t, h_{t-1}),  y_t = W h_t + b

The loss is the softmax cross-entropy of the next character.  Training uses truncated
backpropagation through time: the text is read in windows of T steps, each of which starts from the
last state of the window before, and gradients do not cross from one window to another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from xrnn.backends import host
from xrnn.cells import BY_NAME
from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.corpus import Corpus, columns
from xrnn.layers.embedding import Embedding
from xrnn.layers.layer import Layer
from xrnn.layers.linear import Linear
from xrnn.learn import losses, optim
from xrnn.typing import Array, State

CLIP = 1.0

#: at most so many logits are held at once, or those of one step (64 MB in float32)
LOGITS = 1 << 24


class CharModel:
    """Embedding → layer → linear map, on one backend.

    Parameters
    ----------
    vocabulary : str
        The characters of the training text.
    config : Config
        Sizes and seed.
    device : str
        "cpu", "cuda", "cuda:1" or the import name of an array library.
    """

    def __init__(self, vocabulary: str, config: Config, device: str = "cpu") -> None:
        self.vocabulary, self.config = vocabulary, config
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
        self.placement = self.readout.weights.placement

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
        put = self.placement.from_host
        xs, embedding_tape = self.embedding.forward(put(tokens))
        hs, state, layer_tape = self.layer.forward(xs, state)
        nats, dhs, dreadout = self._read_out(hs, put(targets))
        dxs, _, dlayer = self.layer.backward(layer_tape, dhs)
        _, dembedding = self.embedding.backward(embedding_tape, dxs)
        gradients = {"embedding": dembedding, "layer": dlayer, "readout": dreadout}
        return nats / math.log(2), state, gradients

    def _read_out(self, hs: Array, targets: Array) -> tuple[Array, Array, dict[str, Array]]:
        """Loss (nats), its gradient for hs (T, B, H), and the gradients of the readout.

        The steps are read out in groups, so that a large vocabulary does not take T times the
        memory of one step.
        """
        T, B = targets.shape
        steps = self._steps_at_once(T, B)
        nats, dhs = 0.0, []
        dreadout: dict[str, Array] = {}
        for t in range(0, T, steps):
            group = slice(t, min(t + steps, T))
            share = (group.stop - t) / T
            logits, tape = self.readout.forward(hs[group, ...])
            loss, dlogits = losses.softmax_cross_entropy(logits, targets[group, ...])
            dh, dweights = self.readout.backward(tape, dlogits * share)
            nats = loss * share + nats
            dreadout = {k: dw + dreadout[k] if t else dw for k, dw in dweights.items()}
            dhs.append(dh)
        return nats, self.placement.backend.xp.concat(dhs), dreadout

    def _steps_at_once(self, T: int, B: int) -> int:
        """How many of T steps of B sequences are read out together."""
        return min(T, max(1, LOGITS // (B * len(self.vocabulary))))

    def bits(self, tokens: Array, streams: int = 16, window: int = 256) -> float:
        """Bits per character of a held-out text, read in parallel streams."""
        streams = min(streams, len(tokens) - 1)
        n = (len(tokens) - 1) // streams
        starts = [k * n for k in range(streams)]
        total, state = 0.0, None
        window = self._steps_at_once(window, streams)
        for t in range(0, n, window):
            stop = min(t + window, n)
            piece = columns(host.xp.stack([tokens[s + t : s + stop + 1] for s in starts]))
            put = self.placement.from_host
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

    def _read(self, character: str, state: State | None) -> tuple[Array, State]:
        """Logits (float64, on the host) of what follows the character, and the new state."""
        token = self.placement.from_host(host.xp.asarray([self.vocabulary.index(character)]))
        h, state = self.layer.step(self.embedding(token), state)
        return self.placement.backend.to_host(self.readout(h))[0].astype("float64"), state


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

    def tensors(self) -> dict[str, Array]:
        """Everything that training changes, by its name in a checkpoint."""
        tensors = {f"optimizer.{k}": a for k, a in self.optimizer.state.items()}
        for name, part in self.model.parts.items():
            tensors |= {f"weights.{name}.{k}": w for k, w in part.weights.items()}
        return tensors | {f"state.{k}": s for k, s in enumerate(self.state or ())}

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shape of each of `tensors` after so many steps."""
        config, layer = self.model.config, self.model.layer
        weights = {
            f"{name}.{k}": tuple(w.shape)
            for name, part in self.model.parts.items()
            for k, w in part.weights.items()
        }
        shapes = {f"weights.{k}": shape for k, shape in weights.items()}
        if step:
            for slot in self.optimizer.slots:
                shapes |= {f"optimizer.{slot}.{k}": shape for k, shape in weights.items()}
            for k in range(len(layer.cell.states)):
                shapes[f"state.{k}"] = (config.layers, config.batch, config.hidden)
        return shapes

    def restore(self, tensors: Mapping[str, Array], step: int) -> None:
        """Take over the tensors (NumPy) of a checkpoint after so many steps."""
        put, states = self.model.placement.from_host, []
        for key, value in tensors.items():
            kind, _, path = key.partition(".")
            if kind == "optimizer":
                self.optimizer.state[path] = put(value)
            elif kind == "weights":
                part, _, name = path.partition(".")
                self.model.parts[part].weights[name] = put(value)
            else:
                states.append(key)
        if states:
            self.state = self.model.layer.cell.state(put(tensors[k]) for k in sorted(states))
        self.step = self.optimizer.steps = step
