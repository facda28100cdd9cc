"""The text to learn: read in pieces, as tokens of the smallest integers that hold them.

Nothing here holds a text as a whole string or as a list: a text of n characters takes n to 2 n
tokens of one byte each while it is read (of two bytes, with more than 256 different characters).
"""

from __future__ import annotations

import codecs
import hashlib
import io
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xrnn.backends import host
from xrnn.charlm.config import RefusedError
from xrnn.typing import Array

HELD_OUT = 0.05

#: at most so many logits of the held-out text are held at once, or those of one step (64 MB in
#: float32)
LOGITS = 1 << 24

#: bytes that are read and decoded together
BLOCK = 1 << 20


@dataclass(frozen=True)
class Text:
    """A text as tokens.

    Attributes
    ----------
    vocabulary : str
        Every character of the text, in order of code points; a token is an index into it.
    tokens : NumPy array (n,) of unsigned integers
        The characters, in the smallest dtype that holds every token.
    sha256 : str
        The hash of the text in UTF-8.
    """

    vocabulary: str
    tokens: Array
    sha256: str

    @classmethod
    def of(cls, pieces: Iterable[str]) -> Text:
        """The tokens of a text that comes in pieces.

        >>> text = Text.of(["bee", " cab"])
        >>> text.vocabulary, text.tokens.tolist(), str(text.tokens.dtype)
        (' abce', [2, 4, 4, 0, 3, 1, 2], 'uint8')
        """
        xp = host.xp
        # Characters are numbered as they appear, and in order of code points when all are known.
        number = xp.full(0x110000, -1, dtype=xp.int32)
        known, kept, digest = 0, [], hashlib.sha256()
        for piece in pieces:
            digest.update(piece.encode("utf-8", "surrogatepass"))
            points = xp.frombuffer(piece.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            new = xp.unique(points[number[points] < 0])
            number[new] = xp.arange(known, known + len(new))
            known += len(new)
            kept.append(number[points].astype(_smallest(known)))
        points = xp.flatnonzero(number >= 0)
        rank = xp.empty(known, dtype=_smallest(known))
        rank[number[points]] = xp.arange(known)
        tokens, end = xp.empty(sum(map(len, kept)), dtype=rank.dtype), 0
        kept.reverse()
        while kept:  # each piece is freed when it has been copied
            piece_tokens = kept.pop()
            start, end = end, end + len(piece_tokens)
            tokens[start:end] = rank[piece_tokens]
        return cls("".join(map(chr, points.tolist())), tokens, digest.hexdigest())


def _smallest(count: int) -> Array:
    return host.xp.min_scalar_type(max(count - 1, 0))


def read_text(path: str | None) -> Text:
    """The text of a UTF-8 file; without a path, Python's own language reference.

    The reference (`pydoc_data.topics`, about 465,000 characters of English) comes with
    CPython, so there is nothing to download.
    """
    if path is None:
        return Text.of([_reference()])
    try:
        text = Text.of(_pieces(path))
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from None
    except UnicodeEncodeError as error:  # as a checkpoint from another place may hold
        raise RefusedError(f"{path!r:.80} is no name of a file in {error.encoding}") from None
    if not len(text.tokens):
        raise RefusedError(f"{path} is empty; give a text to learn from")
    return text


def _reference() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise RefusedError(
            "this Python comes without its language reference (pydoc_data); give a text with "
            "--text FILE"
        ) from None
    return "\n\n".join(topics[name] for name in sorted(topics))


def _pieces(path: str) -> Iterator[str]:
    """A UTF-8 file in pieces, every kind of line end as ``\\n``."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    done = 0
    with open(path, "rb") as file:
        if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
            raise RefusedError(f"{path} is a device, which may have no end; give a file")
        while True:
            block = file.read(BLOCK)
            done += len(block)
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = done - len(error.object) + error.start
                raise RefusedError(f"{path} is not UTF-8 text ({error.reason} at {at})") from None
            if not block:
                return


class Windows:
    """Tokens in parallel streams, cut into windows: an iterable of batches (inputs, targets), both
    (T, B), each of which goes on where the one before ended.

    Parameters
    ----------
    streams : sequence of arrays (n,)
        The streams of B equal lengths.
    length : int
        T; the last window may have fewer steps unless `whole` is given.
    whole : bool
        Whether a last window of fewer steps is left out.
    """

    def __init__(self, streams: Sequence[Array], length: int, whole: bool) -> None:
        self.streams, self.length = streams, length
        steps = len(streams[0]) - 1
        self.steps = steps // length * length if whole else steps

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        for t in range(0, self.steps, self.length):
            stop = min(t + self.length, self.steps)
            tokens = columns([stream[t : stop + 1] for stream in self.streams])
            yield tokens[:-1], tokens[1:]


class Corpus:
    """A text to learn in `batch` parallel streams, its last 5 % held out.

    Attributes
    ----------
    text : Text
        The whole text.
    windows : Windows
        What is trained on.
    held_out : Windows
        What is held out.
    """

    def __init__(self, text: Text, batch: int, length: int) -> None:
        count = len(text.tokens)
        held_out = max(2, math.ceil(HELD_OUT * count))
        needed = batch * (length + 1)
        if count - held_out < needed:
            raise RefusedError(
                f"the text has {count} characters, {held_out} of them held out; one window "
                f"takes batch × (length + 1) = {batch} × {length + 1} = {needed}: give a longer "
                "text, or smaller --batch or --length"
            )
        n = (count - held_out) // batch
        self.text = text
        self.windows = Windows(text.tokens[: n * batch].reshape(batch, n), length, whole=True)
        self.held_out = read_at_once(text.tokens[-held_out:], len(text.vocabulary))


def read_at_once(tokens: Array, V: int, streams: int = 16, window: int = 256) -> Windows:
    """Tokens in windows for inference, so long that their logits take little memory."""
    B = min(streams, len(tokens) - 1)
    n = (len(tokens) - 1) // B
    parts = [tokens[k * n : (k + 1) * n + 1] for k in range(B)]
    return Windows(parts, min(window, max(1, LOGITS // (B * V))), whole=False)


def columns(streams: Sequence[Array]) -> Array:
    """B streams (T,) as tokens (T, B) of int64, the integers that every array library indexes with.

    >>> columns(host.xp.asarray([[1, 2, 3], [4, 5, 6]], dtype="uint8")).tolist()
    [[1, 4], [2, 5], [3, 6]]
    """
    return host.xp.stack(list(streams), axis=1).astype(host.xp.int64)
