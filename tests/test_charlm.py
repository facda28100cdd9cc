"""The character language model: its texts, what it holds at once, and the held-out loss."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn.charlm import corpus
from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.corpus import Text
from xrnn.charlm.model import CharModel, bits


def measured(model: CharModel, held_out: Any) -> float:
    """Bits per character of a text as training measures it."""
    window = [(np.zeros((1, 1), int), np.zeros((1, 1), int))]
    history = xrnn.fit(
        model.net,
        window,
        bits,
        validation=held_out,
        steps=1,
        optimizer=xrnn.optim.SGD(1e-30),
        carry_state=True,
        progress=False,
    )
    return history["validation"][0]


@pytest.mark.parametrize(("length", "streams", "window"), [(101, 4, 7), (101, 4, 25), (10, 16, 3)])
def test_held_out_bits_are_the_mean_over_every_character(
    length: int, streams: int, window: int
) -> None:
    """However the text is cut into windows: the state is carried, and no character is left out."""
    model = CharModel("abc", Config(hidden=8, embedding=4))
    tokens = np.random.default_rng(0).integers(3, size=length)
    held_out = corpus.read_at_once(tokens, 3, streams, window)
    found = measured(model, held_out)
    parallel = min(streams, length - 1)
    n = (length - 1) // parallel
    each = []
    for k in range(parallel):
        read = tokens[k * n : (k + 1) * n + 1]
        logits = model.net(read[:-1, None])[:, 0].astype("float64")
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        each += [-np.log2(chances[t, read[t + 1]]) for t in range(n)]
    assert len(each) == n * parallel
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-6)


class TestTexts:
    @pytest.mark.parametrize("count", [1, 256, 257, 65536, 70000])
    def test_tokens_are_the_smallest_integers_that_hold_them(self, count: int) -> None:
        """In order of code points, whatever the order in which the characters come."""
        points = [n for n in range(1, 80_000) if not 0xD800 <= n < 0xE000][:count]
        order = np.random.default_rng(0).permutation(count)
        content = "".join(chr(points[k]) for k in order)
        text = Text.of([content[: count // 3], content[count // 3 :]])
        assert text.vocabulary == "".join(map(chr, points))
        np.testing.assert_array_equal(text.tokens, order)
        assert text.tokens.itemsize == (1 if count <= 256 else 2 if count <= 65536 else 4)

    def test_a_file_is_read_as_text(self, tmp_path: Path) -> None:
        """In blocks, which may end within a character or a line end; the hash is that of UTF-8."""
        content = "a\u00fc\U0001f600\r\nb\rc\n" * 3
        for block in range(1, 12):
            (tmp_path / "text").write_bytes(content.encode())
            corpus.BLOCK, before = block, corpus.BLOCK
            try:
                text = corpus.read_text(str(tmp_path / "text"))
            finally:
                corpus.BLOCK = before
            found = "".join(text.vocabulary[token] for token in text.tokens)
            assert found == "a\u00fc\U0001f600\nb\nc\n" * 3
            assert text.sha256 == hashlib.sha256(found.encode()).hexdigest()

    @pytest.mark.parametrize("before", [0, 3, corpus.BLOCK - 1, corpus.BLOCK + 5])
    def test_a_file_that_is_no_text(self, before: int, tmp_path: Path) -> None:
        (tmp_path / "text").write_bytes(b"x" * before + b"\xc3\x28")
        with pytest.raises(RefusedError, match=rf"text is not UTF-8 text \(.* at {before}\)"):
            corpus.read_text(str(tmp_path / "text"))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
    def test_a_pipe_is_read_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"tick tock"))
        writer.start()
        assert corpus.read_text(str(tmp_path / "pipe")).vocabulary == " cikot"
        writer.join()

    @pytest.mark.parametrize(("letters", "limit"), [("abc\n", 2.5), ("é\U0001f600abc", 2.5)])
    def test_memory_of_a_large_text(self, letters: str, limit: float) -> None:
        """The list of integers that was made of it took 18 bytes a character."""
        piece = "".join(np.random.default_rng(0).choice(list(letters), size=1 << 16).tolist())
        tracemalloc.start()
        text = Text.of(piece for _ in range(200))
        corpus.Corpus(text, 32, 64)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < limit * len(text.tokens) + 8e6

    def test_windows_are_those_of_parallel_streams(self) -> None:
        text = Text.of(["".join(map(chr, range(100, 200)))])
        windows = list(corpus.Corpus(text, 3, 4).windows)
        assert len(windows) == 7  # 95 characters to learn from, 31 in each stream
        tokens, targets = windows[1]
        assert tokens.dtype == targets.dtype == "int64"
        np.testing.assert_array_equal(tokens, np.arange(4, 8)[:, None] + [0, 31, 62])
        np.testing.assert_array_equal(targets, tokens + 1)


def test_the_held_out_text_of_a_large_vocabulary_is_read_in_short_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many logits may be held at once: the same loss."""
    tokens = np.random.default_rng(0).integers(5, size=44)
    model, found = CharModel("abcde", Config(hidden=8, embedding=4)), []
    for logits, longest in ((1 << 24, 9), (30, 3), (1, 1)):
        monkeypatch.setattr(corpus, "LOGITS", logits)
        held_out = corpus.read_at_once(tokens, 5, 2, 9)
        assert max(len(targets) for _, targets in held_out) == longest
        found.append(measured(model, held_out))
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


def test_training_a_large_vocabulary_must_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a window and their gradient are counted."""
    config = Config(hidden=1, embedding=1, batch=100, length=100)
    monkeypatch.setattr("xrnn.charlm.config._memory", lambda: 8e8)
    config.check_memory(9_000)
    with pytest.raises(RefusedError, match=r"at least 0\.8\d* GB .* choose smaller --hidden"):
        config.check_memory(10_000)
