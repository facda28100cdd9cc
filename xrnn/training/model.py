"""A model as `fit` and `predict` see it: one output for a batch, whatever its parts return."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from xrnn.backends import backend_of, host
from xrnn.engine.checks import accept_lengths
from xrnn.engine.parameters import Parameters
from xrnn.layers.part import Part
from xrnn.layers.sequential import takes
from xrnn.learn.trees import leaves
from xrnn.training.batches import Batch, Dataset, moved
from xrnn.typing import Array


class Model:
    """A part, and what is known of it.

    Parameters
    ----------
    part : part
        The model of the user.

    Raises
    ------
    TypeError, ValueError
        If it is no part, or has no weights.
    """

    def __init__(self, part: Any) -> None:
        if not isinstance(part, Part) or isinstance(part, type):
            raise TypeError(f"model is {part!r:.80}; it must be a part, such as an xrnn.Sequential")
        self.part, self.takes = part, takes(part)
        holders = [holder for _, holder, _ in leaves(part.weights, "weights")]
        if not holders or not all(isinstance(one, Parameters) for one in holders):
            raise ValueError("model has no weights; there is nothing to train")
        self.placement = holders[0].placement
        self.batch_first = bool(getattr(part, "batch_first", False))
        #: whether there is an output at each step; None until the first batch
        self.per_step: bool | None = None

    @property
    def weights(self) -> Any:
        """The tree of its weights."""
        return self.part.weights

    def batch(self, data: Dataset, places: Array) -> Batch:
        """The batch of these sequences of a data set."""
        if self.per_step is None:
            one = data.batch(places[:1], self.placement, self.batch_first, per_step=False)
            self.per_step = self(one).ndim > 2
        return data.batch(places, self.placement, self.batch_first, self.per_step)

    def accept_batch(self, given: Any) -> Batch:
        """The batch that an iterable of a user gave."""
        if not isinstance(given, Sequence) or len(given) not in (2, 3):
            raise TypeError(
                f"data gave a {type(given).__name__}; it must give batches (x, y) or "
                "(x, y, lengths)"
            )
        x, y = (self._moved(name, one) for name, one in zip("xy", given, strict=False))
        T, B = (x.shape[1::-1] if self.batch_first else x.shape[:2]) if x.ndim > 1 else (0, 0)
        lengths = None if len(given) == 2 or given[2] is None else accept_lengths(given[2], T, B)
        mask, count = None, prod(y.shape[:1])
        if tuple(y.shape[:2]) == tuple(x.shape[:2]):
            count = T * B
            if lengths is not None:
                valid = host.xp.arange(T)[:, None] < lengths
                mask = self.placement.moved(valid.T.copy() if self.batch_first else valid)
                count = int(lengths.sum())
        return Batch(x, y, lengths, mask, count)

    def _moved(self, name: str, array: Any) -> Array:
        backend = backend_of(array, name)
        if backend is self.placement.backend and array.dtype == self.placement.dtype:
            return array
        return moved(name, backend.to_host(array), self.placement)

    def __call__(self, batch: Batch) -> Array:
        """The outputs in inference."""
        found = self.part(batch.x, **self._known(batch))
        return found[0] if isinstance(found, tuple) else found

    def forward(self, batch: Batch, seed: int) -> tuple[Array, Any]:
        """The outputs in training, and a tape."""
        known = self._known(batch) | ({"seed": seed} if "seed" in self.takes else {})
        y, *_, tape = self.part.forward(batch.x, **known)
        return y, tape

    def backward(self, tape: Any, dy: Array) -> Any:
        """The gradients of the weights."""
        return self.part.backward(tape, dy)[-1]

    def _known(self, batch: Batch) -> dict[str, Any]:
        if batch.lengths is None:
            return {}
        if "lengths" not in self.takes:
            raise ValueError(
                "the sequences of a batch have different lengths, and forward of the model "
                "takes none; give sequences of one length, or a model with recurrent layers"
            )
        return {"lengths": batch.lengths}

    def targets_like(self, y: Array, targets: Array) -> Array:
        """The targets; with an axis of 1 for a single output of real numbers."""
        single = y.ndim == targets.ndim + 1 and y.shape[-1] == 1
        if single and self.placement.backend.xp.isdtype(targets.dtype, "real floating"):
            return targets[..., None]
        return targets
