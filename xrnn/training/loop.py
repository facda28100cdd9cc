"""The loop of `fit`: steps, rows of the history, and what ends it."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite, nan
from typing import Any

from xrnn.convert.parts import known_config
from xrnn.learn import optim
from xrnn.learn.average import Average
from xrnn.learn.parallel import World
from xrnn.training import checkpoint as checkpoints
from xrnn.training.batches import Dataset
from xrnn.training.checkpoint import Progress, Training
from xrnn.training.history import History
from xrnn.training.measures import Measures
from xrnn.training.model import Model
from xrnn.training.shares import Share, check_alike, check_equal, spread, whole_state
from xrnn.training.show import Silent
from xrnn.training.signals import TERMINATIONS, noted
from xrnn.training.step import SharedStep, Step

#: so many updates may be left out one after the other before training is given up
MOST_SKIPPED = 10

#: what to do where numbers are not finite
ADVICE = "Choose a smaller learning rate, or look for numbers in the data that are not finite"

#: what a run trains on or measures: sequences, or batches
Data = Dataset | Iterable[Any]


@dataclass(frozen=True)
class Options:
    """The options of `xrnn.fit` that its loop reads, checked."""

    epochs: int | None
    steps: int | None
    every: int | None
    patience: int | None
    batch_size: int
    clip: float
    schedule: Callable[[int], float] | None
    keep_best: bool
    checkpoint: str | os.PathLike[str] | None
    metadata: Any
    callback: Callable[[History], object] | None
    world: World


class Loop:
    """A run of `fit`, after its arguments have been checked.

    Parameters
    ----------
    model, data, validation, measures, optimizer, options
        As for `xrnn.fit`.
    seed : int
        What all random numbers are made of.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        validation: Data | None,
        measures: Measures,
        optimizer: optim.Optimizer,
        options: Options,
        seed: int,
    ) -> None:
        self.model, self.data, self.validation, self.measures = model, data, validation, measures
        self.options, self.world = options, options.world
        self.training = Training(model.weights, optimizer, History(seed), Progress())
        #: what else must be the same when a run goes on
        self.unchanged = {
            "batch_size": options.batch_size,
            "sequences": len(data) if isinstance(data, Dataset) else None,
            "validation": validation is not None,
            "lr": optimizer.lr,
            "model": known_config(model.part),
        }
        alone = options.world.size == 1
        self.step = Step(model, measures) if alone else SharedStep(model, measures, options.world)
        self.show = Silent()
        #: the signals that have come to this process
        self.seen: list[int] = []
        self.saving = False
        #: updates that were left out one after the other; targets since the start; the part of the
        #: epoch that is done
        self.skipped, self.targets, self.part = 0, 0, 0.0
        self.start = self.last = time.monotonic()

    @property
    def history(self) -> History:
        """What happened so far."""
        return self.training.history

    @property
    def progress(self) -> Progress:
        """How far training is."""
        return self.training.progress

    def identity(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        return {"seed": self.history.seed, **self.unchanged}

    def begin(self, load: Callable[[], object]) -> None:
        """Have all ranks begin with what rank 0 has after it has loaded a checkpoint.

        Raises
        ------
        ValueError
            If the ranks have different data or options.
        """
        optimizer, options = self.training.optimizer, self.options
        numbers = ("epochs", "steps", "every", "patience", "clip", "keep_best")
        mine = self.identity() | {name: getattr(options, name) for name in numbers}
        mine |= {"optimizer": optimizer.config(), "backend": self.model.placement.backend.name}
        mine["checkpoint"] = options.checkpoint is not None
        check_alike(self.world, mine)
        self.world.from_root(load)
        spread(self.world, self.training)

    def extent(self) -> tuple[str, int | None, int]:
        """What training is counted in, "epoch" or "step"; how many there are, and are done."""
        options, progress = self.options, self.progress
        if options.steps is not None or options.every is not None:
            return "step", options.steps, progress.step
        return "epoch", options.epochs, progress.epoch

    def train(self, show: Silent) -> History:
        """Train to the end, or until a signal asks for it."""
        self.show = show
        handled = [signal.SIGINT]
        if self.options.checkpoint is not None:
            handled += TERMINATIONS
        with noted(*handled) as self.seen:
            self.step.heed(self.seen)
            try:
                self._run()
            except KeyboardInterrupt:
                if self.seen or self.saving:  # the second one, or no checkpoint to go on from
                    raise
                self.history.stopped = "interrupted"
        if self.training.best is not None:
            self.training.best.copy_to(self.training.weights)
        else:
            self.history.best = None
        for number in [*self.seen, *set(self.step.asked).difference(self.seen)]:
            if number != signal.SIGINT:
                signal.raise_signal(number)  # as it would have come without this run
        self._tell_skipped()
        return self.history

    def _tell_skipped(self) -> None:
        """Warn of the updates that were left out; raise FloatingPointError if none was made."""
        skipped, step = self.history.skipped, self.progress.step
        if not skipped:
            return
        if skipped == step and self.history.stopped != "interrupted":
            raise FloatingPointError(
                f"fit: the gradients of all {step} batches are not finite; no update was made "
                f"with them.  {ADVICE}"
            )
        self._warn(
            f"{skipped} of {step} updates were left out, because a gradient was not finite", 5
        )

    def _warn(self, words: str, level: int) -> None:
        """Warn of numbers that are not finite, once for all ranks."""
        if self.world.rank == 0:
            warnings.warn(f"fit: {words}.  {ADVICE}", RuntimeWarning, stacklevel=level)

    def _run(self) -> None:
        progress, history = self.progress, self.history
        self.start = self.last = time.monotonic()
        while (ending := self._ending()) is None:
            if self._epoch():
                progress.epoch, progress.batch, self.training.state = progress.epoch + 1, 0, None
                self.part = 1.0
                if self.options.every is None:
                    self._report()
            if self.step.asked:
                ending = self._ending()
                break
        if ending is None:
            self._save()  # at once: the validation data may take longer than there is time
        if progress.batches:
            self._report(save=ending is not None)
        history.stopped = ending or "interrupted"

    def _ending(self) -> Any:
        """What ends training now, if no signal does; None if nothing does."""
        options, progress = self.options, self.progress
        if options.steps is not None and progress.step >= options.steps:
            return "steps"
        if options.epochs is not None and progress.epoch >= options.epochs:
            return "epochs"
        if options.patience is not None and progress.waited >= options.patience:
            return "patience"
        return None

    def _epoch(self) -> bool:
        """One pass over the data, from the batch where it was interrupted; whether it is whole."""
        progress, every = self.progress, self.options.every
        for share, of in self._batches(self.data, progress.epoch, progress.batch):
            self._advance(share)
            self.part = progress.batch / of if of else 0.0
            if every is not None and progress.step % every == 0 and not self.step.asked:
                self._report()
            else:
                self.show.batch(self._row(), self.part)
            if self.step.asked or self._ending() is not None:
                return False
        if not progress.batch:
            raise ValueError(
                "fit: data gave no batch in this epoch, as an iterator does that was gone "
                "through before; give an iterable that can be gone through anew"
            )
        return True

    def _advance(self, share: Share) -> None:
        """Train on a batch."""
        progress, training = self.progress, self.training
        updated = self._update(share)
        self.skipped = 0 if updated else self.skipped + 1
        if self.skipped == MOST_SKIPPED:
            raise FloatingPointError(
                f"fit: the gradients of {self.skipped} batches one after the other are not finite; "
                "no update was made with them.  "
                f"{ADVICE}"
            )
        if not updated:
            training.state = None
            training.history.skipped += 1
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        progress.batches += 1
        self.targets += share.counted
        self._clock()

    def _update(self, share: Share) -> bool:
        """Update the weights once, or once for each window of a batch; False after gradients that
        are not finite, from which on the batch is left out."""
        training, options, step = self.training, self.options, self.progress.step
        seed = (self.history.seed * 1_000_003 + step) % 2**63
        for found in self.step(share, seed, training.state):
            clipped, norm = optim.clip_by_global_norm(found.gradients, options.clip)
            if options.schedule is not None:
                training.optimizer.lr = options.schedule(step)
            self._count(float(found.loss), found.counted)
            if not isfinite(float(norm)):
                return False
            training.optimizer.update(training.weights, clipped)
            training.state = found.state
        return True

    def _count(self, value: float, counted: int) -> None:
        """Add the mean loss of so many targets to that of the row."""
        if isfinite(value):
            self.progress.total += value * counted
            self.progress.count += counted

    def _clock(self) -> None:
        """Add the time that has gone by to that of the row."""
        now = time.monotonic()
        self.progress.seconds, self.last = self.progress.seconds + now - self.last, now

    def _row(self) -> dict[str, float]:
        """The row of the history if it ended now, and the targets in a second; what is measured on
        validation data is that of the row before."""
        progress = self.progress
        before = self.history.rows[-1] if self.history.rows else {}
        found = {
            "epoch": progress.epoch + (progress.batch > 0),
            "loss": progress.total / progress.count if progress.count else nan,
            "step": progress.step,
            "lr": self.training.optimizer.lr,
            "seconds": progress.seconds,
        }
        rate = self.targets / max(self.last - self.start, 1e-9)
        return {**before, **found, "rate": rate}

    def _report(self, save: bool = True) -> None:
        """Measure the validation data, add a row to the history, and keep the best weights."""
        training, progress, history = self.training, self.progress, self.history
        found = self._row()
        row = {"epoch": found["epoch"], "loss": found["loss"]}
        decides = row["loss"]
        if self.validation is not None:
            row |= self._measured()
            decides = row["validation"]
        self._clock()
        row |= {"step": found["step"], "lr": found["lr"], "seconds": progress.seconds}
        history.rows.append(row)
        progress.total, progress.count, progress.batches, progress.seconds = 0.0, 0, 0, 0.0
        progress.waited += 1
        if decides < progress.least:
            progress.least, progress.waited, history.best = decides, 0, len(history)
            if self.options.keep_best:
                training.best = Average(0.0)
                training.best.update(training.weights)
        self.show.row(row | {"rate": found["rate"]}, self.part)
        check_equal(self.world, training.weights, progress.step)
        if save:
            self._save()
        if self.options.callback is not None:
            training.optimizer.lr = self.world.from_root(self._call_back)
        if self.validation is not None and not isfinite(decides):
            self._warn(
                f"the validation loss of row {len(history)} is {decides}; this row cannot be the "
                "best one",
                3,
            )

    def _call_back(self) -> float:
        """Call the function of the user; the learning rate, which it may change."""
        assert self.options.callback is not None
        self.options.callback(self.history)
        return self.training.optimizer.lr

    def _save(self) -> None:
        path = self.options.checkpoint
        if path is not None:
            self.saving = True
            whole = replace(self.training, state=whole_state(self.world, self.training.state))
            given = (path, whole, self.identity(), self.options.metadata)
            self.world.from_root(lambda: checkpoints.save(*given))
            self.saving = False

    def _measured(self) -> dict[str, float]:
        """The loss and the metrics over the validation data."""
        totals: dict[str, float] = {}
        count, state = 0, None
        for share, _ in self._batches(self.validation, None):
            if (batch := share.batch) is None:
                continue
            y, state = self.model(batch, state)
            if not self.model.carry_state:
                state = None
            for name, value in self.measures.of_validation(self.model, y, batch).items():
                totals[name] = totals.get(name, 0.0) + value * batch.counted
            count += batch.counted
        ranks = self.world.gather((totals, count))
        count = sum(n for _, n in ranks)
        if not count:
            raise ValueError("fit: validation holds no batch")
        names = dict.fromkeys(name for one, _ in ranks for name in one)
        return {name: sum(one.get(name, 0.0) for one, _ in ranks) / count for name in names}

    def _batches(
        self, data: Any, epoch: int | None, done: int = 0
    ) -> Iterator[tuple[Share, int | None]]:
        """(share of a batch, how many batches there are) but for those that are done; in random
        order for an epoch of training."""
        if not isinstance(data, Dataset):
            for given in islice(data, done, None):
                yield self.model.accept_share(given, self.world), None
            return
        if epoch is None:
            order = data.in_order(self.options.batch_size)
        else:
            order = data.order(self.options.batch_size, [self.history.seed, epoch])
        for places in order[done:]:
            yield self.model.share(data, places, self.world), len(order)
