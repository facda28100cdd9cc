"""What a batch gives, its loss and the gradients of the weights: in one process, or in several."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.engine.random import drawn_for
from xrnn.learn.parallel import World
from xrnn.training.buffer import Buffer
from xrnn.training.measures import Measures
from xrnn.training.model import Model, Piece
from xrnn.training.shares import Share
from xrnn.training.signals import TERMINATIONS

#: the signals of which ranks tell each other
SIGNALS = (signal.SIGINT, *TERMINATIONS)


class Found(NamedTuple):
    """What an update is made of.

    - loss: the mean over so many targets that count
    - gradients: of the weights
    - state: that at the end, if it is carried
    """

    loss: Any
    counted: int
    gradients: Any
    state: Any


class Step:
    """The losses of a batch and their gradients, in one process.

    Parameters
    ----------
    model, measures
        What is trained, and its loss.
    """

    def __init__(self, model: Model, measures: Measures) -> None:
        self.model, self.measures = model, measures
        #: the signals of which all ranks know
        self.asked: list[int] = []

    def heed(self, seen: list[int]) -> None:
        """Be told of signals by this list, which grows."""
        self.asked = seen

    def __call__(self, share: Share, seed: int, state: Any) -> Iterator[Found]:
        """What each update for the batch is made of, with the weights as they are when it is asked
        for; from a state that is carried, or None."""
        for piece in self.model.pieces(share.batch, seed, state):
            loss, dy = self.measures.of_loss(self.model, piece.y, piece.batch)
            yield Found(loss, piece.batch.counted, piece.backward(dy), piece.state)


class SharedStep(Step):
    """The same of several ranks, each of which has a share of the batch.

    Loss and gradients are the means over all targets that count: those of the shares, weighted by
    their numbers of such targets.
    """

    def __init__(self, model: Model, measures: Measures, world: World) -> None:
        super().__init__(model, measures)
        self.world, self.buffer, self.seen = world, Buffer(model, world), self.asked

    def heed(self, seen: list[int]) -> None:
        self.seen = seen

    def __call__(self, share: Share, seed: int, state: Any) -> Iterator[Found]:
        pieces: Iterator[Piece] = iter(())
        left, more = 0, True
        if share.batch is not None:
            pieces = self.model.pieces(share.batch, seed, state)
            left = self.model.updates(share.batch)
        while more:
            left -= 1
            with drawn_for(share.rows):
                piece = next(pieces, None)
            loss, counted, backward = 0.0, 0, None
            if piece is not None:
                loss, dy = self.measures.of_loss(self.model, piece.y, piece.batch)
                counted, state = piece.batch.counted, piece.state
                backward = partial(piece.backward, dy)
            mean = self.buffer.mean(backward, counted / max(share.counted, 1))
            total, all_counted, more = self._told(float(loss) * counted, counted, left > 0)
            # In a window of truncated backpropagation fewer targets count than in the batch.
            gradients = mean(share.counted / all_counted if all_counted else 1.0)
            if all_counted or self.model.truncate is None:
                yield Found(total / max(all_counted, 1), all_counted, gradients, state)

    def _told(self, loss: float, counted: int, more: bool) -> tuple[float, int, bool]:
        """The sums over all ranks of loss and targets, and whether any has more; they also tell
        each other of signals."""
        told = host.xp.asarray([loss, counted, more, *map(self.seen.count, SIGNALS)], "float64")
        self.world.add(told)()
        total, all_counted, any_more, *signals = told.tolist()
        self.asked[:] = [n for n, count in zip(SIGNALS, signals, strict=True) if count]
        return total, int(all_counted), any_more > 0
