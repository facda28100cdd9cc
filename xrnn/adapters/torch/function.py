"""Whole sequences of a recurrent module as one operation of PyTorch's autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from xrnn.adapters.torch.form import Form
from xrnn.engine import stack as stacks
from xrnn.engine.bound_cell import Pass
from xrnn.typing import Array


class Dropout:
    """The dropout between layers, an `xrnn.engine.stack.Draws`.

    It draws what PyTorch's own modules draw, so both drop the same after the same
    `torch.manual_seed`.

    Parameters
    ----------
    form : Form
        The form of the module.
    rate : float
        The fraction that is dropped.
    batch_sizes : tensor, optional
        Those of a PackedSequence: what is behind the end of a sequence draws no number.
    """

    weight_drop = 0.0

    def __init__(self, form: Form, rate: float, batch_sizes: torch.Tensor | None) -> None:
        self.form, self.dropout, self.batch_sizes = form, rate, batch_sizes

    def between(self, k: int, shape: tuple[int, int, int]) -> Array:
        """The mask (T, B, n) over the outputs of layer k: 0 or 1/(1 − rate)."""
        how: Any = {"device": self.form.device, "dtype": self.form.dtype}
        if self.batch_sizes is None:
            mask = dropout(torch.ones(shape, **how), self.dropout)
        else:
            steps = int(self.batch_sizes.sum())
            rows = dropout(torch.ones((steps, shape[-1]), **how), self.dropout)
            mask, _ = pad_packed_sequence(PackedSequence(rows, self.batch_sizes))
        return self.form.bridge.array(mask)

    def of_cell(self, noise: Any, k: int, d: int, shape: tuple[int, int, int]) -> Array:
        """The cells of PyTorch's modules draw nothing."""
        raise NotImplementedError

    def over_weights(self, k: int, d: int, shape: tuple[int, int]) -> Array:
        """The same."""
        raise NotImplementedError


class Run(NamedTuple):
    """A forward pass: what its backward pass needs."""

    form: Form
    passes: list[Pass]
    masks: list[Array]
    #: which of input, state and weights need a gradient
    needed: tuple[bool, ...]

    def gradients(self, douts: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor | None, ...]:
        """The gradients of input, state and weights, from those of the output and last state."""
        form, (_, B, _) = self.form, self.passes[0].xs.shape
        bridge, S = form.bridge, len(form.widths)
        with bridge.running():
            dys, *dlast = [None if d is None else bridge.array(d) for d in douts]
            last, omit_dxs = form.states(dlast, B), not self.needed[0]
            found = stacks.backward(self.passes, self.masks, form.D, dys, last, omit_dxs=omit_dxs)
            arrays = [found[0][0], *[None] * S]
            if any(self.needed[1 : 1 + S]):
                arrays[1:] = form.joined([dfirst for _, dfirst, _ in found])
            arrays += [d for _, _, dweights in found for d in form.gradients(dweights)]
            return tuple(
                bridge.tensor(array) if needed else None
                for array, needed in zip(arrays, self.needed, strict=True)
            )


class Recurrence(torch.autograd.Function):  # type: ignore[misc]
    """The recurrence over sequences (T, B, …).

    ``apply(form, lengths, dropout, keep, input, *state, *weights)`` gives the output and the parts
    of the last state.  Parts of `state` may be None, which stands for zeros.  With ``keep=False``
    there is no backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        lengths: torch.Tensor | None,
        dropout: Dropout | None,
        keep: bool,
        input: torch.Tensor,
        *others: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        bridge, S = form.bridge, len(form.widths)
        with bridge.running():
            xs = bridge.array(input)
            arrays = [None if t is None else bridge.array(t.contiguous()) for t in others]
            ends = None if lengths is None else bridge.placement.moved(lengths.numpy())
            ys, lasts, passes, masks = stacks.forward(
                form.stack(arrays[S:]),
                xs,
                form.states(arrays[:S], xs.shape[1]),
                ends,
                random=dropout,
                keep=keep,
            )
            outputs = tuple(map(bridge.tensor, (ys, *form.joined(lasts))))
        if keep:
            ctx.set_materialize_grads(False)
            # What backward reads again: PyTorch tells if it was changed in place.
            ctx.save_for_backward(input, *others, outputs[0])
            ctx.run = Run(form, passes, masks, ctx.needs_input_grad[4:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *douts: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        saved, run = ctx.saved_tensors, ctx.run
        if not torch.is_grad_enabled():
            return (*[None] * 4, *run.gradients(douts))
        # create_graph=True: what depends on the gradients must not be differentiated as if they
        # were constants.
        return (*[None] * 4, *Once.apply(run, len(douts), *douts, *saved))  # type: ignore[no-untyped-call]


class Once(torch.autograd.Function):  # type: ignore[misc]
    """The gradients of a run, which cannot be differentiated once more.

    ``apply(run, n, *douts, *saved)``, with n gradients of outputs, and all tensors that the
    gradients depend on.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Run, n: int, *tensors: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        return run.gradients(tensors[:n])

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor | None) -> Any:
        raise RuntimeError(
            "xrnn has no second derivatives of recurrent modules; for these, "
            "xrnn.adapters.torch.restore(model) gives PyTorch's modules back"
        )
