"""`fit`: train a model on sequences of unequal length, with early stopping."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

import array_api_compat

from xrnn.backends import host
from xrnn.cells.base import check_flags, check_positive
from xrnn.cells.numbers import accept_number
from xrnn.convert import encoding
from xrnn.learn import optim
from xrnn.learn.parallel import ALONE, World
from xrnn.training import checkpoint as checkpoints
from xrnn.training.batches import Dataset
from xrnn.training.history import History
from xrnn.training.loop import Data, Loop, Options
from xrnn.training.measures import Loss, Measures, Metric
from xrnn.training.model import Model
from xrnn.training.show import Words, shown
from xrnn.typing import Checkpoint

#: how often all data are gone through, if nothing else is said
EPOCHS = 20


def fit(
    model: Any,
    data: Any,
    loss: Loss,
    *,
    validation: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    every: int | None = None,
    patience: int | None = None,
    keep_best: bool = True,
    batch_size: int = 32,
    carry_state: bool = False,
    truncate: int | tuple[int, int] | None = None,
    recompute: Checkpoint | None = None,
    optimizer: optim.Optimizer | None = None,
    clip: float | None = 1.0,
    schedule: Callable[[int], float] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    rng: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    metadata: Any = None,
    resume: bool = False,
    callback: Callable[[History], object] | None = None,
    progress: bool | Words = True,
    parallel: World | None = None,
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
        For an `xrnn.Seq2Seq`, or another model whose `forward` takes two inputs and their
        ``lengths`` and ``target_lengths``, x is a pair (sources, targets of the step before), and
        y are the targets of each step; batches may end with both lengths.
    loss : callable
        ``loss(y, targets) -> loss, dy``, such as `xrnn.losses.softmax_cross_entropy`.  Where
        sequences of different lengths have outputs at each step it is given which steps count: as
        ``lengths=`` if it takes these and no ``mask``, else as a third argument, the mask.
        One that takes ``lengths`` and ``target_lengths``, such as `xrnn.losses.ctc`, is given
        both: y are then labels, for each sequence integers (S_n,) in any number; batches are
        (x, y, lengths, target_lengths).
    validation : (x, y), iterable of batches, or float, optional
        Data that are only measured after each epoch; a float in (0, 1): that fraction of the
        sequences, which is not trained on.
    epochs : int, optional
        How often all data are gone through, at most.  Default: 20, or with `steps` any number.
    steps : int, optional
        The number of batches to train on, at most.
    every : int, optional
        Measure, write the checkpoint and add a row to the history after every so many steps.
        Default: after each epoch.
    patience : int, optional
        Stop after so many epochs (with `every`: rows) without a smaller validation loss (without
        validation data: training loss).  Default: never.
    keep_best : bool
        Whether the model gets the weights of the best row at the end, where there are validation
        data or `patience`.
    batch_size : int
        B, the number of sequences in a batch; the last ones may have fewer.
    carry_state : bool
        Whether the sequences of each batch go on in the next one: for an iterable of batches that
        are pieces of long sequences.  Recurrent layers start from their states at the end of the
        batch before, at the start of an epoch from their initial states; none of them may run in
        reverse.  Gradients do not cross
        from one batch to another (truncated backpropagation through time).
    truncate : (int, int) or int, optional
        k1 and k2 of `xrnn.truncated`, or one number for both: the weights are updated after every
        k1 steps of a batch, with a gradient that goes back through k2 steps.  For a layer or an
        `xrnn.Sequential` with outputs and targets at each step.  Default: one update for a batch,
        whose gradient goes back to the start.
    recompute : int or "sqrt", optional
        `checkpoint` of `xrnn.Layer.forward`, for sequences that need too much memory: the states
        before every so many steps are kept ("sqrt": √T), and backward computes the rest again.
    optimizer : Optimizer, optional
        Default: ``xrnn.optim.Adam()``.
    clip : float, optional
        The largest norm of all gradients together, see `xrnn.optim.clip_by_global_norm`; None
        for no limit.
    schedule : callable, optional
        ``schedule(step) -> learning rate``, called before each update; the first step is 0.
    metrics : mapping of str to callable, optional
        ``metric(y, targets)``, or with ``mask`` as a third argument: numbers that are averaged over
        the validation data, by names that no other column of the history has.
        Default: ``{"accuracy": …}`` where the targets are integers.
    rng : int or numpy.random.Generator, optional
        For the order of the batches, dropout, and the choice of validation data.
    checkpoint : path, optional
        A file that is written after each epoch, and at an interruption.
    metadata : JSON value, optional
        What else the checkpoint is to hold, as for `xrnn.save`.
    resume : bool
        Whether to go on from `checkpoint` if that file is there, to the same bits as without the
        interruption.  An iterable of batches must give the same ones again.  The model, the kind
        of optimizer and its learning rate (without a schedule), `batch_size`, the number of
        sequences, and whether there are validation data must be those of before.  What else is
        given, such as the loss, `clip`, and further options of the optimizer, need not be, and
        holds from there on.
    callback : callable, optional
        ``callback(history)``, called after each row, when the checkpoint is written.
    progress : bool or callable
        Whether to show how far training is, on standard error: a bar on a terminal (with tqdm
        installed), a line for each row of the history elsewhere.  A function makes of a row, and
        of its ``rate`` (targets in a second), the words that are shown.
    parallel : World, optional
        Train together with the other processes of `xrnn.learn.parallel.world`: all of them call
        `fit` with the same data and options, and end with the same weights.  `batch_size` is that
        of all together, each has its share of every batch.  Default: this process trains alone.

    Returns
    -------
    History
        The losses of each epoch: means over the batches whose loss is finite.  With validation
        data or `patience` the model has the weights of the best epoch, else those of the last
        one.  ``history.skipped`` is the number of updates that were left out because a gradient
        was not finite.

    Raises
    ------
    TypeError, ValueError
        If an argument or the data have the wrong form.
    FloatingPointError
        If ten updates one after the other, or all, had gradients that are not finite; these were
        left out.
    KeyboardInterrupt
        After a second Ctrl-C.

    Warns
    -----
    RuntimeWarning
        If some updates were left out, or a validation loss is not finite, which is never the best.

    Notes
    -----
    A step, in `steps`, `every`, `schedule` and the history, is a batch.  With `truncate` all
    updates of a batch have the same learning rate, each loss is the mean over the steps of its
    window, and after a gradient that is not finite the rest of the batch is left out.

    Ctrl-C ends training when the running step is complete: the checkpoint is written, the steps
    since the last row are measured, and what was learnt is kept.  With a checkpoint the same is
    done when the process is asked to end (SIGTERM, SIGHUP), before the signal is passed on.

    With `parallel`, batches, their order and random numbers (each sequence has those of its place
    in the whole batch) are those of one process, and the gradients are the mean over all targets
    that count; the result equals that of one process within rounding, and bit for bit that of
    another run on as many ranks.  For that the loss must be a mean over the targets that count
    by lengths and mask: one that leaves out others, or weighs classes, is averaged over the ranks
    by the number of targets.  Metrics are averaged over the shares in the same way.  All ranks
    begin with the weights and the optimizer of rank 0; it alone reads and writes the checkpoint,
    shows progress, and calls `callback`, whose only effect on training may be on the learning rate
    of the optimizer.  A signal to one rank ends all after the same step.  An exception in one rank
    is printed with its number and ends all processes; the checkpoint of the last row remains, and
    a run on any number of ranks goes on from it.

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
    if not (parallel is None or isinstance(parallel, World)):
        raise TypeError(
            f"fit: parallel is {parallel!r:.80}; it must be xrnn.learn.parallel.world(), or None"
        )
    world = ALONE if parallel is None else parallel
    with world.guard():
        check_flags("fit", keep_best=keep_best, carry_state=carry_state, resume=resume)
        for name, value in (("schedule", schedule), ("callback", callback)):
            if not (value is None or callable(value)):
                raise TypeError(f"fit: {name} is {value!r:.80}; it must be a function")
        if not callable(progress):
            check_flags("fit", progress=progress)
        if resume and checkpoint is None:
            raise ValueError("fit: resume is True and checkpoint is not given; give its path")
        encoding.check_json("metadata", metadata)
        measures = Measures(loss, metrics)
        if metrics and validation is None:
            raise ValueError(
                f"fit: metrics are {', '.join(metrics)[:80]} and validation is not given, on which "
                "they are measured; give validation data, or a fraction such as 0.2"
            )
        options = Options(
            **_numbers(epochs, steps, every, patience, batch_size, clip),
            schedule=schedule,
            keep_best=keep_best and (validation is not None or patience is not None),
            checkpoint=checkpoint,
            metadata=metadata,
            callback=callback,
            world=world,
        )
        if optimizer is not None and not isinstance(optimizer, optim.Optimizer):
            raise TypeError(
                f"fit: optimizer is {optimizer!r:.80}; it must be one, such as xrnn.optim.Adam()"
            )
        bound = Model(model, measures.labels, carry_state, recompute, truncate)
        mine = rng if _is_seed(rng) else int(host.generator(rng).integers(2**62))
        seed = world.from_root(lambda: mine)
        trained = _accept("data", data, bound)
        trained, measured = _accept_validation(trained, validation, bound, seed)
        _check_iterators(trained, measured, options)
        optimizer = optim.Adam() if optimizer is None else optimizer
        loop = Loop(bound, trained, measured, measures, optimizer, options, seed)
        # A part of the sequences for validation was chosen with the seed.
        any_seed = rng is None and not isinstance(validation, float | int)
        loop.begin((lambda: _load(loop, any_seed)) if resume else lambda: None)
        unit, total, done = loop.extent()
        with shown(progress if world.rank == 0 else False, unit, total, done) as show:
            return loop.train(show)


def _load(loop: Loop, any_seed: bool) -> None:
    """Go on from the checkpoint, if there is one."""
    path = loop.options.checkpoint
    assert path is not None
    if os.path.exists(path):
        identity = loop.identity() | ({"seed": None} if any_seed else {})
        # A schedule sets the learning rate before each update.
        identity |= {"lr": None} if loop.options.schedule is not None else {}
        checkpoints.load(path, loop.training, identity)


def _numbers(
    epochs: int | None,
    steps: int | None,
    every: int | None,
    patience: int | None,
    batch_size: int,
    clip: float | None,
) -> dict[str, Any]:
    """The options that are numbers, checked."""
    given = {"epochs": epochs, "steps": steps, "every": every, "patience": patience}
    for name, value in given.items():
        if value is not None:
            check_positive("fit", **{name: value})
    check_positive("fit", batch_size=batch_size)
    if epochs is None and steps is None:
        given["epochs"] = EPOCHS
    must = "a number > 0, or None"
    limit = inf if clip is None else accept_number("fit: clip", clip, must, lambda x: x > 0)
    return given | {"batch_size": int(batch_size), "clip": limit}


def _accept_validation(data: Data, given: Any, model: Model, seed: int) -> tuple[Data, Data | None]:
    """The data to train on, and those to measure."""
    if given is None:
        return data, None
    if not isinstance(given, float | int) or isinstance(given, bool):
        return data, _accept("validation", given, model)
    fraction = accept_number(
        "fit: validation", given, "a fraction in (0, 1), or data", lambda x: 0 < x < 1
    )
    if not isinstance(data, Dataset):
        raise ValueError(
            f"fit: validation is {given} and data are an iterable, which cannot be split; "
            "give validation data"
        )
    return data.split(fraction, [seed, 2**32])


def _check_iterators(data: Data, validation: Data | None, options: Options) -> None:
    """Raise ValueError for an iterator, which ends after the first time, if there may be a second
    one.  With `steps` it may give batches without an end."""
    again = {"data": data} if options.epochs != 1 and options.steps is None else {}
    if validation is not None and (options.epochs != 1 or options.every is not None):
        again["validation"] = validation
    for what, one in again.items():
        if not isinstance(one, Dataset) and iter(one) is one:
            raise ValueError(
                f"fit: {what} is a {type(one).__name__}, an iterator, which can be gone through "
                "only once; give an iterable that can be gone through anew, such as a list, or "
                "epochs=1"
            )


def _is_seed(rng: Any) -> bool:
    return isinstance(rng, int) and not isinstance(rng, bool) and 0 <= rng < 2**62


def _accept(what: str, data: Any, model: Model) -> Data:
    """The data set of a pair; an iterable of batches as it is."""
    if isinstance(data, tuple) and len(data) == 2:
        if model.carry_state:
            raise ValueError(
                f"fit: carry_state is True and {what} are sequences; it must be an iterable of "
                "batches, each of which goes on where the one before ended"
            )
        if data[1] is None:
            raise TypeError(
                f"fit: y of {what} is None; it must hold the targets of each sequence, as the "
                "loss takes them"
            )
        return Dataset(*data, model.pair)
    single = isinstance(data, Mapping | str | bytes) or array_api_compat.is_array_api_obj(data)
    if single or not isinstance(data, Iterable):
        raise TypeError(
            f"fit: {what} is a {type(data).__name__}; it must be a pair (x, y), or an iterable of "
            f"batches {model.batch_words}"
        )
    return data
