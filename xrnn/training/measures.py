"""Losses and metrics of a batch: how they are called, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import signature
from typing import Any

from xrnn.training.batches import Batch
from xrnn.training.metrics import accuracy
from xrnn.training.model import Model
from xrnn.typing import Array

#: loss(y, targets) or loss(y, targets, mask) → the loss and its gradient
Loss = Callable[..., tuple[Array, Array]]

#: what a row of the history and the words of progress hold besides the metrics
RESERVED = ("epoch", "loss", "validation", "step", "lr", "seconds", "skipped", "rate")

#: the same for what is only measured
Metric = Callable[..., Any]


class Measures:
    """The loss of a run and the metrics of its validation data.

    Parameters
    ----------
    loss, metrics
        As for `xrnn.fit`.

    Raises
    ------
    TypeError
        If one is no function, or cannot be called with outputs and targets.
    ValueError
        If a metric has the name of another column of the history.
    """

    def __init__(self, loss: Loss, metrics: Mapping[str, Metric] | None) -> None:
        if not callable(loss):
            raise TypeError(f"fit: loss is {loss!r:.80}; it must be a function")
        _check_loss(loss)
        _check_metrics(metrics)
        self.loss = _Called(loss)
        #: whether targets are sequences of labels, with lengths of their own
        self.labels = "target_lengths" in self.loss.names
        self.metrics = metrics and {name: _Called(f) for name, f in metrics.items()}
        #: what is measured where no metrics are given and targets are classes
        self.usual = {} if self.labels else {"accuracy": _Called(accuracy)}

    def of_loss(self, model: Model, y: Array, batch: Batch) -> tuple[Array, Array]:
        """The loss of a batch and its gradient with respect to the outputs y."""
        found = self.loss(model, y, batch)
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

    def of_validation(self, model: Model, y: Array, batch: Batch) -> dict[str, float]:
        """The loss of a batch, as "validation", and its metrics."""
        metrics = self.metrics
        if metrics is None:
            integers = model.placement.backend.xp.isdtype(batch.y.dtype, "integral")
            metrics = self.usual if integers else {}
        row = {"validation": float(self.of_loss(model, y, batch)[0])}
        return row | {name: _number(name, f(model, y, batch)) for name, f in metrics.items()}


def _number(name: str, found: Any) -> float:
    """What a metric returned, as a float."""
    try:
        if not getattr(found, "shape", ()):
            return float(found)
    except (TypeError, ValueError):
        pass
    shape = getattr(found, "shape", None)
    what = f"a {type(found).__name__}" + (f" of shape {tuple(shape)}" if shape else "")
    raise TypeError(
        f"fit: metrics[{name!r:.80}] returns {what}; it must return one number, such as the mean "
        "over the batch"
    )


class _Called:
    """A loss or metric, which is called with what it takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        #: the names of its arguments; none for a function in C, which does not tell
        self.names: frozenset[str] = frozenset()
        with suppress(ValueError):
            self.names = frozenset(signature(function).parameters)

    def __call__(self, model: Model, y: Array, batch: Batch) -> Any:
        names, lengths = self.names, batch.lengths[-1]
        targets = model.targets_like(y, batch.y)
        how: dict[str, Any] = {"batch_first": model.batch_first} if "batch_first" in names else {}
        if "target_lengths" in names:
            how |= {"lengths": lengths, "target_lengths": batch.target_lengths}
        elif "lengths" in names and "mask" not in names:
            how |= {"lengths": lengths}
        else:
            mask = () if batch.mask is None else (batch.mask,)
            return self.function(y, targets, *mask)
        return self.function(y, targets, **how)


def _check_loss(loss: Loss) -> None:
    """Raise TypeError if the loss cannot be called with outputs and targets."""
    try:
        known = signature(loss)
        given = {"lengths", "target_lengths"} & known.parameters.keys()
        known.bind(None, None, **dict.fromkeys(given))
    except TypeError as error:
        raise TypeError(
            f"fit: loss is {loss!r:.80}; it must take (y, targets), and a mask where sequences of "
            f"different lengths have outputs at each step ({error})"
        ) from error
    except ValueError:
        pass


def _check_metrics(metrics: Any) -> None:
    """Raise TypeError or ValueError unless these are functions by names of their own."""
    if metrics is None:
        return
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"fit: metrics is {metrics!r:.80}; it must be a mapping of names to functions "
            "(y, targets) -> number"
        )
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"fit: metrics has the name {name!r:.80}; names must be str")
        if name in RESERVED:
            raise ValueError(
                f"fit: metrics has the name {name!r}, and {', '.join(RESERVED)} are other columns "
                "of the history; choose another name"
            )
        if not callable(metric):
            raise TypeError(
                f"fit: metrics[{name!r:.80}] is {metric!r:.80}; it must be a function "
                "(y, targets) -> number"
            )
