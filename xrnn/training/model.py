"""A model as `fit` and `predict` see it: one output for a batch, whatever its parts return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

from xrnn.backends import backend_of
from xrnn.engine.checkpoint import accept_checkpoint
from xrnn.engine.checks import accept_lengths
from xrnn.engine.parameters import Parameters
from xrnn.engine.random import Rows
from xrnn.layers.layer import Layer
from xrnn.layers.part import Part
from xrnn.layers.sequential import Sequential, takes
from xrnn.learn.parallel import World
from xrnn.learn.trees import leaves
from xrnn.learn.truncated import accept_numbers, check_directions, check_model, truncated
from xrnn.training.batches import Batch, Dataset, Targets, mask_of, moved, pair_of
from xrnn.training.shares import Share, rows_of, share_of
from xrnn.typing import Array

#: is told the name of a part and its gradients, before those of the part below are computed
Ready = Callable[[str, Any], object]

#: what `forward` calls the lengths of its inputs
LENGTHS = ("lengths", "target_lengths")


class Piece(NamedTuple):
    """What an update of the weights is made of: a batch, or some steps of one.

    - batch: the batch, of these steps alone
    - y: the outputs
    - backward: makes of dy the gradients of the weights; ``backward(dy, ready)`` tells those of
      each part of a `Sequential` to `ready` before those of the part below are computed
    - state: that at the end, if it is carried
    """

    batch: Batch
    y: Array
    backward: Callable[..., Any]
    state: Any


class Model:
    """A part, and what is known of it.

    Parameters
    ----------
    part : part
        The model of the user.
    labels : bool
        Whether targets are sequences of labels, with lengths of their own.
    carry_state : bool
        Whether sequences of a batch go on in the next one.
    recompute, truncate
        As for `xrnn.fit`.

    Raises
    ------
    TypeError, ValueError
        If it is no part, has no weights, or no state to be carried from batch to batch; if
        `recompute` or `truncate` are of another form, or not for this model.
    """

    def __init__(
        self,
        part: Any,
        labels: bool = False,
        carry_state: bool = False,
        recompute: Any = None,
        truncate: Any = None,
    ) -> None:
        if not isinstance(part, Part) or isinstance(part, type):
            raise TypeError(f"model is {part!r:.80}; it must be a part, such as an xrnn.Sequential")
        self.part, self.takes = part, takes(part)
        #: the gradient of the inputs is not needed
        self.omit = {"omit_dxs": True} if "omit_dxs" in takes(part, "backward") else {}
        holders = [holder for _, holder, _ in leaves(part.weights, "weights")]
        if not holders or not all(isinstance(one, Parameters) for one in holders):
            raise ValueError("model has no weights; there is nothing to train")
        self.placement = holders[0].placement
        self.batch_first = bool(getattr(part, "batch_first", False))
        #: whether it reads sources and targets
        self.pair = "target_lengths" in self.takes
        #: what targets are; None until it is found out
        self.targets: Targets | None = "labels" if labels else None
        self.carry_state = carry_state
        if carry_state and not isinstance(part, Layer | Sequential):
            raise TypeError(
                f"model is a {type(part).__name__}; for carry_state it must be a recurrent layer "
                "or an xrnn.Sequential"
            )
        if carry_state:
            check_directions("fit: carry_state is True", part, "model")
        #: what else `forward` is given in training
        self.how: dict[str, Any] = {}
        if recompute is not None:
            self.how["checkpoint"] = accept_checkpoint("fit", recompute, "recompute")
            if "checkpoint" not in self.takes:
                raise ValueError(
                    f"fit: recompute is {recompute!r}, and forward of the model takes no "
                    "checkpoint; leave it out, or give a model with recurrent layers"
                )
        #: k1 and k2 of truncated backpropagation
        self.truncate = None if truncate is None else self._accept_truncate(truncate, labels)

    @property
    def weights(self) -> Any:
        """The tree of its weights."""
        return self.part.weights

    def accept_batch(self, given: Any) -> Batch:
        """The batch that an iterable of a user gave."""
        if not isinstance(given, Sequence) or not 2 <= len(given) <= 3 + self._two_lengths:
            raise TypeError(
                f"data gave a {type(given).__name__}; it must give batches {self.batch_words}"
            )
        x, y, *lengths = given
        named = pair_of(x) if self.pair else {"x": x}
        inputs, y = tuple(self._moved(*one) for one in named.items()), self._moved("y", y)
        sizes = [self._sizes(one) for one in inputs]
        for name, one, (_, B) in zip(named, inputs, sizes, strict=True):
            if one.ndim > 1 and B == 0:
                raise ValueError(
                    f"data gave a batch whose {name} has shape {tuple(one.shape)}; a batch must "
                    "hold at least one sequence; leave empty ones out"
                )
        if self.targets == "labels":
            sizes.append(y.shape[::-1] if y.ndim == 2 else (0, 0))
        lengths += [None] * (len(sizes) - len(lengths))
        found = [
            None if theirs is None else accept_lengths(theirs, *one)
            for one, theirs in zip(sizes, lengths, strict=True)
        ]
        known, mask, count = tuple(found[: len(inputs)]), None, prod(y.shape[:1])
        if self.targets == "labels":
            return Batch(inputs, y, known, None, count, found[-1])
        (T, B), last = sizes[-1], known[-1]
        if tuple(y.shape[:2]) == tuple(inputs[-1].shape[:2]):
            count = T * B if last is None else int(last.sum())
            mask = None if last is None else mask_of(last, T, self.batch_first, self.placement)
        return Batch(inputs, y, known, mask, count)

    @property
    def _two_lengths(self) -> bool:
        return self.pair or self.targets == "labels"

    @property
    def batch_words(self) -> str:
        """What the batches of an iterable are, in words."""
        x = "(sources, targets)" if self.pair else "x"
        more = ", target_lengths" if self._two_lengths else ""
        return f"({x}, y) or ({x}, y, lengths{more})"

    def _sizes(self, x: Array) -> tuple[int, int]:
        """T and B of an input."""
        if x.ndim < 2:
            return 0, 0
        first, second = x.shape[:2]
        return (second, first) if self.batch_first else (first, second)

    def _moved(self, name: str, array: Any) -> Array:
        backend = backend_of(array, name)
        if backend is self.placement.backend and array.dtype == self.placement.dtype:
            return array
        return moved(name, backend.to_host(array), self.placement)

    def __call__(self, batch: Batch, state: Any = None) -> tuple[Array, Any]:
        """The outputs in inference, and the state at the end if it is carried."""
        known = self._known(batch, state)
        run = self.part.run if self.carry_state and isinstance(self.part, Sequential) else self.part
        found = run(*batch.inputs, **known)
        return found if isinstance(found, tuple) else (found, None)

    def pieces(self, batch: Batch, seed: int, state: Any = None) -> Iterator[Piece]:
        """A batch in training: as a whole, or in windows of truncated backpropagation, of which
        each is computed with the weights as they are when it is asked for."""
        known = self._known(batch, state) | self.how
        known |= {"seed": seed} if "seed" in self.takes else {}
        if self.truncate is None:
            y, *last, tape = self.part.forward(*batch.inputs, **known)
            backward = partial(self._backward, tape)
            ended = (last[0] if last else tape.state) if self.carry_state else None
            yield Piece(batch, y, backward, ended)
            return
        x = batch.inputs[-1]
        if tuple(batch.y.shape[:2]) != tuple(x.shape[:2]):
            raise ValueError(
                f"fit: truncate is {self.truncate}, y has shape {tuple(batch.y.shape)} and x "
                f"{tuple(x.shape)}; there must be a target for each step of a batch"
            )
        for window in truncated(self.part, x, *self.truncate, **known):
            some = batch.between(window.steps, int(self.batch_first))
            if some.counted:
                backward = partial(self._backward_of, window)
                ended = window.state if self.carry_state else None
                yield Piece(some, window.ys, backward, ended)

    def updates(self, batch: Batch) -> int:
        """The number of updates that are made of a batch, at most."""
        T = batch.inputs[-1].shape[1 if self.batch_first else 0]
        return 1 if self.truncate is None else -(-T // self.truncate[0])

    def _backward(self, tape: Any, dy: Array, ready: Ready | None = None) -> Any:
        """The gradients of the weights."""
        if ready is not None and isinstance(self.part, Sequential):
            return self.part._gradients(tape, dy, {}, True, ready)[-1]
        return self.part.backward(tape, dy, **self.omit)[-1]

    def _backward_of(self, window: Any, dy: Array, ready: Ready | None = None) -> Any:
        """The same of a window, which tells no parts."""
        return window.backward(dy, **self.omit)[-1]

    def _accept_truncate(self, given: Any, labels: bool) -> tuple[int, int]:
        """k1 and k2, after a check that the model is one for them."""
        pair = given if isinstance(given, tuple | list) else (given, given)
        if len(pair) != 2:
            raise ValueError(
                f"fit: truncate is {given!r:.80}; it must be (k1, k2), the steps between two "
                "updates and those that a gradient goes back through, or k for both"
            )
        if labels:
            raise ValueError(
                "fit: truncate is given, and loss takes target_lengths: it is one of whole "
                "sequences; leave out truncate"
            )
        check_model("fit: truncate is given", self.part, "model")
        return accept_numbers("fit: truncate", *pair)

    def share(self, data: Dataset, places: Array, world: World) -> Share:
        """What this rank has of the batch of these sequences of a data set."""
        how = self.placement, self.batch_first
        rows = rows_of(world, len(places), self.batch_first)
        targets = self.targets or self._find_targets(data.batch(places[:1], *how, "whole"))
        if self.truncate is not None:  # all ranks have the same windows, those of the longest
            return share_of(data.batch(places, *how, targets), rows, targets == "steps")
        counted = int(data.lengths[-1][places].sum()) if targets == "steps" else len(places)
        mine = places[rows.first : rows.first + rows.count]
        return Share(data.batch(mine, *how, targets) if rows.count else None, counted, rows)

    def accept_share(self, given: Any, world: World) -> Share:
        """What this rank has of the batch that an iterable of a user gave."""
        batch = self.accept_batch(given)
        if world.size == 1:
            return Share(batch, batch.counted, Rows(0, 0, 0))
        if odd := [x for x in batch.inputs if x.ndim < 2]:
            raise ValueError(
                f"data gave a batch whose input has shape {tuple(odd[0].shape)}; for several ranks "
                f"it must be {'(B, T, …)' if self.batch_first else '(T, B, …)'}, to be shared out"
            )
        B = batch.inputs[-1].shape[0 if self.batch_first else 1]
        one = Rows(0, 1, B, self.batch_first)
        targets = self.targets or self._find_targets(share_of(batch, one, False).batch)
        return share_of(batch, rows_of(world, B, self.batch_first), targets == "steps")

    def _find_targets(self, one: Batch) -> Targets:
        """Find out what targets are, with a batch of one sequence."""
        self.targets = "steps" if self(one)[0].ndim > 2 else "whole"
        return self.targets

    def _known(self, batch: Batch, state: Any) -> dict[str, Any]:
        """The keywords of the call: lengths, and a state to start from."""
        found = {} if state is None else {"state": state}
        for name, lengths in zip(LENGTHS, batch.lengths, strict=False):
            if lengths is None:
                continue
            if name not in self.takes:
                raise ValueError(
                    "the sequences of a batch have different lengths, and forward of the model "
                    "takes none; give sequences of one length, or a model with recurrent layers"
                )
            found[name] = lengths
        return found

    def targets_like(self, y: Array, targets: Array) -> Array:
        """The targets; with an axis of 1 for a single output of real numbers."""
        single = y.ndim == targets.ndim + 1 and y.shape[-1] == 1
        if single and self.placement.backend.xp.isdtype(targets.dtype, "real floating"):
            return targets[..., None]
        return targets
