"""`fit`: train a model on sequences of unequal length, with early stopping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from inspect import signature
from math import inf, isfinite, nan
from typing import Any

import array_api_compat

from xrnn.backends import host
from xrnn.cells.base import check_flags, check_positive
from xrnn.cells.numbers import accept_number
from xrnn.learn import optim
from xrnn.training import checkpoint as checkpoints
from xrnn.training.batches import Batch, Dataset
from xrnn.training.checkpoint import Progress
from xrnn.training.history import History
from xrnn.training.metrics import accuracy
from xrnn.training.model import Model
from xrnn.training.show import shown
from xrnn.typing import Array

#: loss(y, targets) or loss(y, targets, mask) → the loss and its gradient
Loss = Callable[..., tuple[Array, Array]]

#: the same for what is only measured
Metric = Callable[..., Any]

#: so many updates may be left out one after the other before training is given up
MOST_SKIPPED = 10


def fit(
    model: Any,
    data: Any,
    loss: Loss,
    *,
    validation: Any = None,
    epochs: int = 20,
    patience: int | None = None,
    batch_size: int = 32,
    optimizer: optim.Optimizer | None = None,
    clip: float | None = 1.0,
    schedule: Callable[[int], float] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    rng: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train a model in place.

    Parameters
    ----------
    model : Sequential, Layer, or another part
        What is trained.  It makes of a batch of sequences either one output for each sequence,
        (B, O), or one for each step, (T, B, O).
    data : (x, y), or iterable of batches
        x: one entry for each sequence: an array (N, T, …), or a list of N arrays (T_n, …) of any
        lengths, floating-point numbers or integer tokens.  y: the targets as `loss` takes them:
        one value or array for each sequence, or for outputs at each step one array (T_n, …) for
        each sequence.  Numbers are converted to the library and dtype of the model.
        Or an iterable that gives batches (x, y) or (x, y, lengths) anew for each epoch, in the
        order of axes that the model takes.
    loss : callable
        ``loss(y, targets) -> loss, dy``, or with a third argument ``mask`` (which steps count)
        where sequences of different lengths have outputs at each step: such as
        `xrnn.losses.softmax_cross_entropy`.
    validation : (x, y), iterable of batches, or float, optional
        Data that are only measured after each epoch; a float in (0, 1): that fraction of the
        sequences, which is not trained on.
    epochs : int
        How often all data are gone through, at most.
    patience : int, optional
        Stop after so many epochs without a smaller validation loss (without validation data:
        training loss).  Default: never.
    batch_size : int
        B, the number of sequences in a batch; the last ones may have fewer.
    optimizer : Optimizer, optional
        Default: ``xrnn.optim.Adam()``.
    clip : float, optional
        The largest norm of all gradients together, see `xrnn.optim.clip_by_global_norm`; None
        for no limit.
    schedule : callable, optional
        ``schedule(step) -> learning rate``, called before each update; the first step is 0.
    metrics : mapping of str to callable, optional
        ``metric(y, targets)``, or with ``mask`` as a third argument: numbers that are averaged over
        the validation data.  Default: ``{"accuracy": …}`` where the targets are integers.
    rng : int or numpy.random.Generator, optional
        For the order of the batches, dropout, and the choice of validation data.
    checkpoint : path, optional
        A file that is written after each epoch.
    resume : bool
        Whether to go on from `checkpoint` if that file is there, to the same bits as without the
        interruption.
    progress : bool
        Whether to show how far training is, on standard error: a bar on a terminal (with tqdm
        installed), a line for each epoch elsewhere.

    Returns
    -------
    History
        The losses of each epoch: means over the batches whose loss is finite.  With validation
        data or `patience` the model has the weights of the best epoch, else those of the last
        one.  After Ctrl-C too: what was learnt is kept.

    Raises
    ------
    TypeError, ValueError
        If an argument or the data have the wrong form.
    FloatingPointError
        If ten updates one after the other had gradients that are not finite; these were left out.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> rng = np.random.default_rng(0)
    >>> x = [rng.normal(size=(n, 2)) for n in rng.integers(3, 12, 200)]
    >>> y = np.array([one[:, 0].sum() > 0 for one in x]).astype(int)
    >>> model = xrnn.Sequential(xrnn.GRU(2, 16, rng=0), xrnn.Last(), xrnn.Linear(16, 2, rng=1))
    >>> history = xrnn.fit(
    ...     model, (x, y), xrnn.losses.softmax_cross_entropy, validation=0.2, epochs=15,
    ...     optimizer=xrnn.optim.Adam(0.01), rng=0, progress=False,
    ... )
    >>> max(history["accuracy"]) > 0.9
    True
    """
    run = _Run(
        Model(model),
        data,
        loss,
        validation=validation,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        optimizer=optimizer,
        clip=clip,
        schedule=schedule,
        metrics=metrics,
        rng=rng,
    )
    check_flags("fit", resume=resume, progress=progress)
    if resume and checkpoint is None:
        raise ValueError("fit: resume is True and checkpoint is not given; give its path")
    if resume and checkpoint is not None and os.path.exists(checkpoint):
        run.resume(checkpoint)
    return run.train(checkpoint, progress)


class _Run:
    """One call of `fit`, after its arguments have been checked."""

    def __init__(
        self,
        model: Model,
        data: Any,
        loss: Loss,
        *,
        validation: Any,
        epochs: int,
        patience: int | None,
        batch_size: int,
        optimizer: optim.Optimizer | None,
        clip: float | None,
        schedule: Callable[[int], float] | None,
        metrics: Mapping[str, Metric] | None,
        rng: Any,
    ) -> None:
        check_positive("fit", epochs=epochs, batch_size=batch_size)
        if patience is not None:
            check_positive("fit", patience=patience)
        for name, value in (("loss", loss), ("schedule", schedule)):
            if not callable(value) and not (name == "schedule" and value is None):
                raise TypeError(f"fit: {name} is {value!r:.80}; it must be a function")
        _check_loss(loss)
        if optimizer is not None and not isinstance(optimizer, optim.Optimizer):
            raise TypeError(
                f"fit: optimizer is {optimizer!r:.80}; it must be one, such as xrnn.optim.Adam()"
            )
        must = "a number > 0, or None"
        self.clip = (
            None if clip is None else accept_number("fit: clip", clip, must, lambda x: x > 0)
        )
        self.model, self.loss, self.metrics = model, loss, metrics
        self.epochs, self.patience, self.batch_size = epochs, patience, batch_size
        self.optimizer = optim.Adam() if optimizer is None else optimizer
        self.schedule = schedule
        self.fresh = rng is None
        seed = int(host.generator(rng).integers(2**62)) if self.fresh or not _is_seed(rng) else rng
        self.state = Progress(History(int(seed)))
        self.data = _accept("data", data)
        self.validation = self._accept_validation(validation)

    def _accept_validation(self, given: Any) -> Dataset | Iterable[Any] | None:
        if given is None:
            return None
        if isinstance(given, float | int) and not isinstance(given, bool):
            fraction = accept_number(
                "fit: validation", given, "a fraction in (0, 1), or data", lambda x: 0 < x < 1
            )
            if not isinstance(self.data, Dataset):
                raise ValueError(
                    f"fit: validation is {given} and data are an iterable, which cannot be split; "
                    "give validation data"
                )
            self.data, kept = self.data.split(fraction, [self.seed, 2**32])
            return kept
        return _accept("validation", given)

    @property
    def seed(self) -> int:
        """What all random numbers are made of."""
        return self.state.history.seed

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint."""
        options = self._options() | ({"seed": None} if self.fresh else {})
        before = self.seed
        self.state = checkpoints.load(path, self.model.weights, self.optimizer, options)
        if self.seed != before and isinstance(self.validation, Dataset):
            raise ValueError(
                "fit: rng is None and validation a fraction; to resume such a run, give "
                f"rng={self.seed}, the seed of its history"
            )

    def _options(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        n = len(self.data) if isinstance(self.data, Dataset) else None
        return {"seed": self.seed, "batch_size": int(self.batch_size), "sequences": n}

    def train(self, path: str | os.PathLike[str] | None, progress: bool) -> History:
        """All epochs; the history."""
        state, history = self.state, self.state.history
        try:
            with shown(self.epochs) if progress else nullcontext(None) as show:
                while state.epoch < self.epochs and not self._is_over():
                    self._epoch(show)
                    if path is not None:
                        checkpoints.save(
                            path, self.model.weights, self.optimizer, state, self._options()
                        )
            history.stopped = "patience" if self._is_over() else "epochs"
        except KeyboardInterrupt:
            history.stopped = "interrupted"
        if state.best is not None:
            checkpoints.assign(self.model.weights, state.best)
        else:
            history.best = None
        return history

    def _is_over(self) -> bool:
        return self.patience is not None and self.state.waited >= self.patience

    def _epoch(self, show: Any) -> None:
        """One pass over the data, its line in the history, and the best weights."""
        start, state, history = time.monotonic(), self.state, self.state.history
        total, count, skipped, batches = 0.0, 0, 0, 0
        for n, (batch, of) in enumerate(self._batches(self.data, state.epoch)):
            value, updated = self._update(batch)
            batches, skipped = batches + 1, 0 if updated else skipped + 1
            if skipped == MOST_SKIPPED:
                raise FloatingPointError(
                    f"fit: the gradients of {skipped} batches one after the other are not finite; "
                    "the weights are those of before.  Choose a smaller learning rate, or look for "
                    "numbers in the data that are not finite"
                )
            if isfinite(value):
                total, count = total + value * batch.targets, count + batch.targets
            if show is not None:
                show.batch(state.epoch, n, of, total / max(count, 1))
        if not batches:
            raise ValueError("fit: data gave no batch in this epoch; an iterator can be used once")
        row = {"epoch": state.epoch + 1, "loss": total / count if count else nan}
        decides = row["loss"]
        if self.validation is not None:
            row |= self._measured()
            decides = row["validation"]
        row |= {"lr": self.optimizer.lr, "seconds": time.monotonic() - start}
        history.rows.append(row)
        state.epoch += 1
        state.waited += 1
        if decides < state.least:
            state.least, state.waited, history.best = decides, 0, state.epoch
            if self.validation is not None or self.patience is not None:
                state.best = checkpoints.on_host(self.model.weights)
        if show is not None:
            show.epoch(row)

    def _update(self, batch: Batch) -> tuple[float, bool]:
        """The loss of a batch, and whether its gradients were finite, so that the weights
        changed."""
        state = self.state
        seed = (self.seed * 1_000_003 + state.step) % 2**63
        y, tape = self.model.forward(batch, seed)
        value, dy = self._loss(y, batch)
        dweights = self.model.backward(tape, dy)
        clipped, norm = optim.clip_by_global_norm(dweights, inf if self.clip is None else self.clip)
        if self.schedule is not None:
            self.optimizer.lr = self.schedule(state.step)
        state.step += 1
        if not isfinite(float(norm)):
            state.history.skipped += 1
            return float(value), False
        self.optimizer.update(self.model.weights, clipped)
        return float(value), True

    def _loss(self, y: Array, batch: Batch) -> tuple[Array, Array]:
        targets = self.model.targets_like(y, batch.y)
        mask = () if batch.mask is None else (batch.mask,)
        found = self.loss(y, targets, *mask)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                f"fit: loss returns a {type(found).__name__}; it must return the loss and its "
                "gradient"
            )
        if tuple(getattr(found[1], "shape", (None,))) != tuple(y.shape):
            raise TypeError(
                f"fit: loss returns the gradient {found[1]!r:.80}; it must be an array like the "
                f"outputs, {tuple(y.shape)}"
            )
        return found

    def _measured(self) -> dict[str, float]:
        """The loss and the metrics over the validation data."""
        assert self.validation is not None
        totals: dict[str, float] = {}
        count = 0
        for batch, _ in self._batches(self.validation, None):
            y = self.model(batch)
            targets = self.model.targets_like(y, batch.y)
            metrics = self.metrics
            if metrics is None:
                xp = self.model.placement.backend.xp
                metrics = {"accuracy": accuracy} if xp.isdtype(targets.dtype, "integral") else {}
            mask = () if batch.mask is None else (batch.mask,)
            row = {"validation": float(self._loss(y, batch)[0])}
            row |= {name: float(f(y, targets, *mask)) for name, f in metrics.items()}
            for name, value in row.items():
                totals[name] = totals.get(name, 0.0) + value * batch.targets
            count += batch.targets
        if not count:
            raise ValueError("fit: validation holds no batch")
        return {name: value / count for name, value in totals.items()}

    def _batches(self, data: Any, epoch: int | None) -> Iterable[tuple[Batch, int | None]]:
        """(batch, how many there are); in random order for an epoch of training."""
        if not isinstance(data, Dataset):
            for given in data:
                yield self.model.accept_batch(given), None
            return
        if epoch is None:
            order = data.in_order(self.batch_size)
        else:
            order = data.order(self.batch_size, [self.seed, epoch])
        for places in order:
            yield self.model.batch(data, places), len(order)


def _check_loss(loss: Loss) -> None:
    """Raise TypeError if the loss cannot be called with outputs and targets."""
    try:
        signature(loss).bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"fit: loss is {loss!r:.80}; it must take (y, targets), and a mask where sequences of "
            f"different lengths have outputs at each step ({error})"
        ) from error
    except ValueError:
        pass  # a function in C does not tell


def _is_seed(rng: Any) -> bool:
    return isinstance(rng, int) and not isinstance(rng, bool) and 0 <= rng < 2**62


def _accept(what: str, data: Any) -> Dataset | Iterable[Any]:
    """The data set of a pair; an iterable of batches as it is."""
    if isinstance(data, tuple) and len(data) == 2:
        return Dataset(*data)
    single = isinstance(data, Mapping | str | bytes) or array_api_compat.is_array_api_obj(data)
    if single or not isinstance(data, Iterable):
        raise TypeError(
            f"fit: {what} is a {type(data).__name__}; it must be a pair (x, y), or an iterable of "
            "batches (x, y) or (x, y, lengths)"
        )
    return data
