"""Sequences from sequences: an encoder, a decoder that starts where it ended, and attention.

    memory, state = encoder(source(sources))
    ys = decoder(target(targets), state)
    logits = readout(attention(ys, memory))

The targets are those of the step before: the decoder learns to write the next one.  Sources:
Sutskever, Vinyals & Le (2014), NeurIPS; with attention Luong, Pham & Manning (2015), EMNLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xrnn.backends import backend_of, host
from xrnn.cells.base import check_flags, check_sizes
from xrnn.engine.values import check_index
from xrnn.layers.attention import Attention
from xrnn.layers.bridge import Bridge
from xrnn.layers.composite import Composite
from xrnn.layers.layer import Layer
from xrnn.layers.part import Part, PartTape, check_tape
from xrnn.layers.sequential import Sequential, SequentialTape
from xrnn.typing import Array, Checkpoint, Size


@dataclass(frozen=True, eq=False, repr=False)
class Seq2SeqTape:
    """What `Seq2Seq.backward` needs."""

    owner: Any
    read: SequentialTape
    write: SequentialTape
    attention: PartTape | None
    out: SequentialTape


class Seq2Seq(Composite):
    """An encoder reads the sources, and a decoder writes the targets, one after the other.

    Parameters
    ----------
    encoder : Layer
        Reads the sources.
    decoder : Layer
        Starts from the last state of the encoder: of as many layers, with the same states and
        hidden sizes, or twice those of a bidirectional encoder.
    readout : part
        Makes the logits of the next target, such as `xrnn.Linear` or `xrnn.TiedLinear`.
    attention : Attention, optional
        Lets every output of the decoder read from the outputs of the encoder.
    source, target : part, optional
        Make vectors of the sources and of the targets, such as `xrnn.Embedding`.  Default: they
        are vectors.

    Attributes
    ----------
    parts : mapping of str to part
        Those that were given, by these names.
    weights : dict of str to Parameters
        The tree of all weights.
    batch_first : bool
        Whether sequences are (B, T, …), as the encoder says.

    Raises
    ------
    TypeError, ValueError
        If something is not such a part, sizes or orders of axes do not fit, or the decoder does not
        run forward alone.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> words = xrnn.Embedding(10, 6, rng=0)
    >>> model = xrnn.Seq2Seq(
    ...     source=words,
    ...     encoder=xrnn.GRU(6, 4, bidirectional=True, rng=1),
    ...     target=words,
    ...     decoder=xrnn.GRU(6, 8, rng=2),
    ...     attention=xrnn.Attention(8, 8, 6, rng=3),
    ...     readout=xrnn.TiedLinear(words),
    ... )
    >>> sources = np.array([[1, 2], [3, 4], [5, 0]])  # (T1, B)
    >>> targets = np.array([[0, 0], [5, 4], [3, 2]])  # (T2, B), after a token 0 for the start
    >>> logits, tape = model.forward(sources, targets, lengths=[3, 2])
    >>> _, dweights = model.backward(tape, logits)
    >>> logits.shape, list(dweights)
    ((3, 2, 10), ['source', 'encoder', 'decoder', 'attention', 'readout'])
    >>> tokens, ends = model.generate(sources, start=0, stop=9, longest=4, lengths=[3, 2])
    >>> tokens.shape, ends.shape
    ((4, 2), (2,))
    """

    kind = "seq2seq"

    def __init__(
        self,
        *,
        encoder: Layer[Any],
        decoder: Layer[Any],
        readout: Part,
        attention: Attention | None = None,
        source: Part | None = None,
        target: Part | None = None,
    ) -> None:
        given = {
            "source": source,
            "encoder": encoder,
            "target": target,
            "decoder": decoder,
            "attention": attention,
            "readout": readout,
        }
        self._parts = {name: part for name, part in given.items() if part is not None}
        needed = {"encoder": (Layer, "a recurrent layer"), "decoder": (Layer, "a recurrent layer")}
        for name, (kind, words) in {**needed, "readout": (Part, "a part")}.items():
            if not isinstance(given[name], kind):
                what = type(given[name]).__name__
                raise TypeError(f"seq2seq: {name} is a {what}; it must be {words}")
        if decoder.bidirectional or decoder.reverse:
            raise ValueError(
                "seq2seq: decoder runs in reverse or in both directions; it must run forward, "
                "because it reads what it has written before"
            )
        if decoder.batch_first != encoder.batch_first:
            raise ValueError(
                f"seq2seq: encoder has batch_first={encoder.batch_first}, decoder has "
                f"batch_first={decoder.batch_first}; both must have the same"
            )
        self.batch_first = encoder.batch_first
        self._bridge = Bridge("seq2seq", encoder, decoder)
        if attention is not None:
            self._check_attention(attention, encoder, decoder)
        self._read = _chain(source=source, encoder=encoder)
        self._write = _chain(target=target, decoder=decoder)
        self._out = _chain(readout=readout)

    def __call__(
        self, sources: Array, targets: Array, lengths: Any = None, target_lengths: Any = None
    ) -> Array:
        """The logits alone, without a tape and without random numbers; arguments and exceptions
        are those of `forward`."""
        memory, state = self._encoded(sources, lengths)
        ys = self._write(targets, {"decoder": state}, target_lengths)
        return self._out(self._attended(ys, memory, lengths), None, target_lengths)

    def forward(
        self,
        sources: Array,
        targets: Array,
        lengths: Any = None,
        target_lengths: Any = None,
        *,
        seed: Size | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> tuple[Array, Seq2SeqTape]:
        """Run all parts and keep what `backward` needs.

        Parameters
        ----------
        sources : integers (T1, B), or array (T1, B, I); with ``batch_first`` (B, T1, …)
            What is read.
        targets : integers (T2, B), or array (T2, B, I); with ``batch_first`` (B, T2, …)
            What the decoder has written at the step before: a token for the start, and all
            targets but the last.
        lengths, target_lengths : integers (B,), optional
            The number of valid steps of both.  Default: T1 and T2.
        seed : int, optional
            The seed of dropout, another one at every training step.
        checkpoint : int or "sqrt", optional
            As for `xrnn.Layer.forward`, for encoder and decoder.

        Returns
        -------
        logits : array (T2, B, V), or (B, T2, V)
            Of the next target at every step; without meaning past the end of the targets.
        tape : Seq2SeqTape
            For `backward`.

        Raises
        ------
        TypeError, ValueError
            As the parts.
        """
        how: Any = {"seed": seed, "checkpoint": checkpoint}
        memory, read = self._read.forward(sources, None, lengths, **how)
        state = self._bridge.forward(read.state["encoder"], xp=backend_of(memory).xp)
        ys, write = self._write.forward(targets, {"decoder": state}, target_lengths, **how)
        attention, attended = self._parts.get("attention"), None
        if attention is not None:
            ys, attended = attention.forward(ys, memory, lengths)
        logits, out = self._out.forward(ys, None, target_lengths, seed=seed)
        return logits, Seq2SeqTape(self, read, write, attended, out)

    def backward(
        self, tape: Seq2SeqTape, dlogits: Array, *, omit_dxs: bool = False
    ) -> tuple[Array | None, dict[str, Any]]:
        """The gradients of the sources and of all weights.

        Parameters
        ----------
        tape : Seq2SeqTape
            From `forward`.
        dlogits : array like logits
            The gradient of the logits.
        omit_dxs : bool
            Whether dsources is not needed, as in training; the encoder leaves it out if it can.

        Returns
        -------
        dsources : array like sources, or None
            The gradient of the sources; None if they are tokens.
        dweights : dict of str to dict
            Names and shapes of `weights`.

        Raises
        ------
        TypeError, ValueError
            As the parts; and if the tape is not from `forward` of this object.
        """
        check_tape("seq2seq", self, tape, Seq2SeqTape, "model")
        check_flags("seq2seq", omit_dxs=omit_dxs)
        dys, found = self._out.backward(tape.out, dlogits)
        dmemory: Array | None = None
        if tape.attention is not None:
            attention = self._parts["attention"]
            dys, dmemory, found["attention"] = attention.backward(tape.attention, dys)
        _, dfirst, of_decoder = self._write._gradients(tape.write, dys, {}, True)
        dstate = self._bridge.backward(dfirst["decoder"], xp=backend_of(dlogits).xp)
        dsources, _, of_encoder = self._read._gradients(
            tape.read, dmemory, {"encoder": dstate}, omit_dxs
        )
        return dsources, self._added_up({**of_encoder, **of_decoder, **found})

    def generate(
        self, sources: Array, *, start: Size, stop: Size, longest: Size, lengths: Any = None
    ) -> tuple[Array, Array]:
        """Write the targets of sources: at every step the token with the largest logit.

        Parameters
        ----------
        sources : integers (T1, B), or array (T1, B, I); with ``batch_first`` (B, T1, …)
            What is read.
        start, stop : int
            The token that the decoder reads first, and the one that ends a sequence.
        longest : int
            The largest number of tokens of a sequence.
        lengths : integers (B,), optional
            The number of valid steps of the sources.  Default: T1.

        Returns
        -------
        tokens : integers (T, B), or (B, T)
            The tokens, T ≤ `longest`; `stop` past the end of a sequence.
        ends : integers (B,)
            The number of tokens of each before `stop`; NumPy.

        Raises
        ------
        TypeError, ValueError
            As the parts; and if a number is not an integer ≥ 0, or targets are vectors.
        """
        check_sizes("seq2seq", longest=longest)
        for name, token in (("start", start), ("stop", stop)):
            check_index("seq2seq", name, token, 2**31)
        if "target" not in self._parts:
            raise ValueError("seq2seq: generate writes tokens, and there is no target; give one")
        memory, state = self._encoded(sources, lengths)
        if memory.ndim != 3:
            axes = "(B, T1, …)" if self.batch_first else "(T1, B, …)"
            raise ValueError(
                f"seq2seq: sources has shape {tuple(sources.shape)}; it must be {axes} to generate"
            )
        placement = self._parts["decoder"].weights.placement
        xp, B = placement.backend.xp, memory.shape[0 if self.batch_first else 1]
        last = placement.moved(host.xp.full(B, int(start)))
        tokens = host.xp.full((int(longest), B), int(stop))
        going, ends = host.xp.ones(B, dtype=bool), host.xp.zeros(B, dtype="int64")
        for t in range(int(longest)):
            y, state = self._parts["decoder"].step(self._parts["target"](last), state)
            y = y[:, None, :] if self.batch_first else y[None, ...]
            logits = self._out(self._attended(y, memory, lengths))
            last = xp.reshape(xp.argmax(logits, axis=-1), (B,))
            found = placement.backend.to_host(last)
            going &= found != int(stop)
            if not going.any():
                tokens = tokens[:t]
                break
            tokens[t, going] = found[going]
            ends += going
        return placement.moved(tokens.T.copy() if self.batch_first else tokens), ends

    def _encoded(self, sources: Array, lengths: Any) -> tuple[Array, tuple[Any, ...]]:
        """The memory, and the decoder's first state."""
        memory, states = self._read.run(sources, None, lengths)
        return memory, self._bridge.forward(states["encoder"], xp=backend_of(memory).xp)

    def _attended(self, ys: Array, memory: Array, lengths: Any) -> Array:
        """The decoder's outputs, after they have read from the memory if there is attention."""
        attention = self._parts.get("attention")
        return ys if attention is None else attention(ys, memory, lengths)

    @staticmethod
    def _check_attention(attention: Any, encoder: Layer[Any], decoder: Layer[Any]) -> None:
        """Raise unless attention fits the outputs of both layers."""
        if not isinstance(attention, Attention):
            what = type(attention).__name__
            raise TypeError(f"seq2seq: attention is a {what}; it must be an xrnn.Attention")
        last = encoder.num_layers - 1
        M, H = encoder.directions * encoder.widths(last)[0], decoder.widths(last)[0]
        if (attention.query_size, attention.memory_size) != (H, M):
            raise ValueError(
                f"seq2seq: attention has query_size {attention.query_size} and memory_size "
                f"{attention.memory_size}; they must be {H} and {M}, the sizes of the outputs of "
                "decoder and encoder"
            )
        if attention.batch_first != encoder.batch_first:
            raise ValueError(
                f"seq2seq: encoder has batch_first={encoder.batch_first}, attention has "
                f"batch_first={attention.batch_first}; both must have the same"
            )


def _chain(**parts: Any) -> Sequential:
    """The parts that are there, one after the other; an error if one is no part."""
    try:
        return Sequential(**{name: part for name, part in parts.items() if part is not None})
    except (TypeError, ValueError) as error:
        raise type(error)(f"seq2seq: {str(error).partition(': ')[2]}") from error
