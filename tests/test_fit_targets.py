"""`xrnn.fit` and `xrnn.predict` with labels of no steps (CTC), and with sources and targets."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import xrnn
from xrnn import losses

QUIET: Any = {"progress": False}
V = 4  # classes, 0 of which is the blank, or the start and the end of what is written


def spelled(n: int, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Sequences in which each of some labels, of no two equal ones in a row, lasts 2 to 4 steps."""
    rng, x, y = np.random.default_rng(seed), [], []
    for _ in range(n):
        labels = [int(rng.integers(1, V))]
        while len(labels) < rng.integers(1, 5):
            labels.append(int(rng.choice([k for k in range(1, V) if k != labels[-1]])))
        steps = np.repeat(labels, rng.integers(2, 5, len(labels)))
        x.append(np.eye(V)[steps] + 0.1 * rng.normal(size=(len(steps), V)))
        y.append(labels)
    return x, y


def reader(**how: Any) -> xrnn.Sequential:
    first = how.get("batch_first", False)
    rnn = xrnn.GRU(V, 8, rng=0, batch_first=first)
    return xrnn.Sequential(rnn, xrnn.Linear(8, V, rng=1))


def decoded(logits: Any) -> list[int]:
    """The best class of each step without repetitions, and then without blanks."""
    best = logits.argmax(axis=-1)
    return [int(k) for n, k in enumerate(best) if k and (n == 0 or best[n - 1] != k)]


class TestLabels:
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_ctc_learns(self, batch_first: bool) -> None:
        model = reader(batch_first=batch_first)
        x, y = spelled(60)
        history = xrnn.fit(
            *(model, (x, y), losses.ctc),
            validation=spelled(20, 1),
            epochs=25,
            batch_size=8,
            optimizer=xrnn.optim.Adam(0.03),
            rng=0,
            **QUIET,
        )
        assert list(history.rows[0]) == ["epoch", "loss", "validation", "step", "lr", "seconds"]
        found = [decoded(one) for one in xrnn.predict(model, x)]
        assert np.mean([a == b for a, b in zip(found, y, strict=True)]) > 0.9

    def test_the_loss_is_that_of_each_sequence(self) -> None:
        """Whatever the batches, with what is left of labels that are none."""
        x, y = spelled(13)
        y[3], model = [], reader()
        each = [
            float(losses.ctc(model(a[:, None].astype("float32")), np.asarray([b], int))[0])
            for a, b in zip(x, y, strict=True)
        ]
        for size in (1, 5, 100):
            history = xrnn.fit(
                *(reader(), (x, y), losses.ctc),
                epochs=1,
                batch_size=size,
                optimizer=xrnn.optim.SGD(1e-30),
                **QUIET,
            )
            assert history["loss"][0] == pytest.approx(np.mean(each), rel=1e-4)

    def test_options_metrics_and_batches(self) -> None:
        """A partial function, one's own, and batches (x, y, lengths, target_lengths)."""
        x, y = spelled(8)
        seen: list[Any] = []

        def own(logits: Any, targets: Any, lengths: Any, target_lengths: Any) -> Any:
            seen.append((targets.shape, lengths, target_lengths))
            return losses.ctc(logits, targets, lengths, target_lengths)

        def longest(logits: Any, targets: Any, lengths: Any, target_lengths: Any) -> float:
            return float(max(target_lengths))

        last = partial(losses.ctc, blank=V - 1)
        shifted = [[k - 1 for k in labels] for labels in y]
        for loss, labels in ((own, y), (last, shifted)):
            history = xrnn.fit(
                *(reader(), (x, labels), loss),
                validation=(x, labels),
                metrics={"longest": longest},
                epochs=1,
                **QUIET,
            )
            assert history["longest"] == [max(map(len, y))]
        lengths, sizes = [len(one) for one in x], [len(one) for one in y]
        order = np.argsort(lengths, kind="stable")
        shape, theirs, target_lengths = seen[-1]
        assert shape == (8, max(sizes))
        assert list(theirs) == sorted(lengths)
        assert list(target_lengths) == [sizes[n] for n in order]
        batch = np.zeros((max(lengths), 8, V)), np.zeros((8, max(sizes)), int)
        for n in range(8):
            batch[0][: lengths[n], n], batch[1][n, : sizes[n]] = x[n], y[n]
        given = [(*batch, lengths, sizes)]
        of_batches = xrnn.fit(reader(), given, losses.ctc, epochs=1, **QUIET)
        of_data = xrnn.fit(reader(), (x, y), losses.ctc, epochs=1, **QUIET)
        assert of_batches["loss"][0] == pytest.approx(of_data["loss"][0], rel=1e-5)

    def test_what_is_refused(self) -> None:
        x, y = spelled(4)
        with pytest.raises(
            ValueError, match=r"y has an entry of shape \(2, 1\); it must be \(S,\)"
        ):
            xrnn.fit(reader(), (x, [np.ones((2, 1), int)] * 4), losses.ctc, **QUIET)
        with pytest.raises(
            TypeError, match=r"batches \(x, y\) or \(x, y, lengths, target_lengths\)"
        ):
            xrnn.fit(reader(), [3], losses.ctc, **QUIET)
        with pytest.raises(ValueError, match="lengths has shape"):
            xrnn.fit(reader(), [(x[0][:, None], np.array([y[0]]), [1, 2])], losses.ctc, **QUIET)


def test_a_loss_with_lengths_instead_of_a_mask() -> None:
    """It counts the same steps."""
    x = [np.ones((n, V)) for n in (5, 2, 3)]
    y = [np.ones(n, int) for n in (5, 2, 3)]

    def own(logits: Any, targets: Any, lengths: Any = None, batch_first: bool = False) -> Any:
        assert lengths is not None
        return losses.softmax_cross_entropy(
            logits, targets, lengths=lengths, batch_first=batch_first
        )

    for first in (False, True):
        found = [
            xrnn.fit(reader(batch_first=first), (x, y), loss, epochs=2, rng=0, **QUIET)["loss"]
            for loss in (own, losses.softmax_cross_entropy)
        ]
        assert found[0] == pytest.approx(found[1], rel=1e-6)


def backwards(n: int, seed: int = 0, batch_first: bool = False) -> Any:
    """Tokens, what the decoder reads, and what it is to write: the tokens backwards, and an end."""
    rng = np.random.default_rng(seed)
    sources = [rng.integers(1, V, length) for length in rng.integers(1, 5, n)]
    answers = [np.append(one[::-1], 0) for one in sources]
    return (sources, [np.append(0, one[:-1]) for one in answers]), answers


def translator(**how: Any) -> xrnn.Seq2Seq:
    words = xrnn.Embedding(V, 8, rng=0)
    return xrnn.Seq2Seq(
        source=words,
        encoder=xrnn.GRU(8, 8, bidirectional=True, rng=1, **how),
        target=words,
        decoder=xrnn.GRU(8, 16, rng=2, **how),
        attention=xrnn.Attention(16, 16, 8, rng=3, **how),
        readout=xrnn.TiedLinear(words),
    )


class TestPairs:
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_a_model_of_sequences_from_sequences_learns(self, batch_first: bool) -> None:
        model, (x, y) = translator(batch_first=batch_first), backwards(120)
        history = xrnn.fit(
            *(model, (x, y), losses.softmax_cross_entropy),
            validation=0.2,
            epochs=30,
            batch_size=16,
            optimizer=xrnn.optim.Adam(0.02),
            rng=0,
            **QUIET,
        )
        assert max(history["accuracy"]) > 0.9
        found = xrnn.predict(model, x, batch_size=7)
        right = [(a.argmax(axis=-1) == b).mean() for a, b in zip(found, y, strict=True)]
        assert [len(one) for one in found] == [len(one) for one in y]
        assert np.mean(right) > 0.9
        source = np.array([[1, 2, 3]]) if batch_first else np.array([[1], [2], [3]])
        tokens, ends = model.generate(source, start=0, stop=0, longest=6)
        assert ends.tolist() == [3]
        assert tokens.ravel()[:3].tolist() == [3, 2, 1]

    def test_losses_are_means_over_what_counts(self) -> None:
        (sources, read), answers = backwards(17)
        model = translator()
        total = 0.0
        for one, other, y in zip(sources, read, answers, strict=True):
            logits = model(one[:, None], other[:, None])
            total += float(losses.softmax_cross_entropy(logits[:, 0], y)[0]) * len(y)
        expected = total / sum(map(len, answers))
        for size in (1, 4, 100):
            history = xrnn.fit(
                *(translator(), ((sources, read), answers), losses.softmax_cross_entropy),
                validation=((sources, read), answers),
                epochs=1,
                batch_size=size,
                optimizer=xrnn.optim.SGD(1e-30),
                **QUIET,
            )
            assert history["loss"][0] == pytest.approx(expected, rel=1e-4)
            assert history["validation"][0] == pytest.approx(expected, rel=1e-4)

    def test_batches_of_a_user(self) -> None:
        sources, read, answers = (np.ones((n, 2), int) for n in (3, 4, 4))
        batches = [((sources, read), answers, [3, 1], [4, 2]), ((sources, read), answers)]
        history = xrnn.fit(
            translator(), batches, losses.softmax_cross_entropy, epochs=2, rng=0, **QUIET
        )
        assert history["step"] == [2, 4]
        with pytest.raises(TypeError, match=r"batches \(\(sources, targets\), y\) or"):
            xrnn.fit(translator(), [3], losses.softmax_cross_entropy, **QUIET)

    def test_what_is_refused(self) -> None:
        (sources, read), answers = backwards(5)

        def fit(data: Any) -> None:
            xrnn.fit(translator(), data, losses.softmax_cross_entropy, **QUIET)

        with pytest.raises(TypeError, match=r"x is a ndarray; it must be a pair \(sources, targe"):
            fit((np.ones((5, 3), int), answers))
        with pytest.raises(ValueError, match=r"x\[1\] holds 4 sequences and y 5 targets"):
            fit(((sources, read[:-1]), answers))
        with pytest.raises(ValueError, match=r"y has an entry of shape \(\d,\); it must be"):
            fit(((sources, read), sources))
        with pytest.raises(TypeError, match=r"x is a list; it must be a pair"):
            xrnn.predict(translator(), sources)
