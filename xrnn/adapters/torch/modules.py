"""The recurrent modules of PyTorch, computed by xrnn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from xrnn.adapters.torch.form import Form, Sizes, form_of
from xrnn.adapters.torch.function import Dropout, Recurrence

#: h; of the LSTM (h, c)
Hidden: TypeAlias = Tensor | tuple[Tensor, ...]
#: the parts of a state; None stands for zeros
Parts: TypeAlias = Sequence[Tensor | None]


class Recurrent(torch.nn.RNNBase):  # type: ignore[misc]
    """The forward pass of `LSTM`, `GRU` and `RNN`; all else is that of PyTorch's classes."""

    #: the number of steps from which xrnn takes no longer than PyTorch's own code; fewer are left
    #: to that
    _fewest = 1

    def forward(
        self, input: Tensor | PackedSequence, hx: Hidden | None = None
    ) -> tuple[Tensor | PackedSequence, Hidden]:
        """Run sequences, as ``forward`` of PyTorch's module does.

        Exporters, and arguments that do not fit, get PyTorch's own forward pass: its operations
        and its errors.  So do one step of a GRU, and one or two of an RNN, where it is faster.
        Under autocast everything is computed in the dtype of the weights.

        Parameters
        ----------
        input : tensor (T, B, I), or (B, T, I) with ``batch_first``, or (T, I); or PackedSequence
            The inputs.
        hx : tensor (L·D, B, H), or of the LSTM a tuple (h, c), optional
            The state to start from.  Default: zeros.

        Returns
        -------
        output : like input
            The outputs of the last layer, D·H values at each step.
        hx : like hx
            The state where each sequence ends.

        Raises
        ------
        ValueError, RuntimeError
            As PyTorch's module does.
        TypeError
            If xrnn has no kernels for the device or the dtype of the weights.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return super().forward(input, hx)  # type: ignore[no-any-return]
        if self._is_short(input):
            return super().forward(input, hx)  # type: ignore[no-any-return]
        # Compilers would follow the calls into xrnn and NumPy.
        run = _uncompiled() if "torch._dynamo" in sys.modules else Recurrent._computed
        return run(self, input, hx)  # type: ignore[no-any-return]

    def _computed(self, input: Any, hx: Any) -> tuple[Tensor | PackedSequence, Hidden]:
        """What `forward` returns, where nothing is recorded."""
        weights = self._tensors()
        device, dtype = weights[0].device, weights[0].dtype
        form = form_of(self._form_sizes(), device, dtype)
        if torch.is_autocast_enabled(device.type):
            input, hx = _in_dtype(input, dtype), _in_dtype(hx, dtype)
        parts = self._parts(hx)
        if not form.takes(input, parts if hx is not None else (), weights):
            return super().forward(input, hx)  # type: ignore[no-any-return]
        run = self._packed if isinstance(input, PackedSequence) else self._padded
        output, last = run(form, input, parts, weights)
        return output, last if self.mode == "LSTM" else last[0]

    def _padded(
        self, form: Form, input: Any, parts: Parts, weights: list[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output and the last state of a tensor."""
        if input.dim() == 2:
            alone = [None if part is None else part.unsqueeze(1) for part in parts]
            output, *last = self._run(form, input.unsqueeze(1), alone, weights)
            return output.squeeze(1), tuple([part.squeeze(1) for part in last])
        if self.batch_first:
            input = input.transpose(0, 1)
        output, *last = self._run(form, input, parts, weights)
        return output.transpose(0, 1) if self.batch_first else output, tuple(last)

    def _packed(
        self, form: Form, input: Any, parts: Parts, weights: list[Tensor]
    ) -> tuple[PackedSequence, tuple[Tensor, ...]]:
        """The same of a PackedSequence, whose sequences are in descending order of length."""
        data, batch_sizes, order, back = input
        if order is not None:
            parts = [None if part is None else part.index_select(1, order) for part in parts]
        padded, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        output, *last = self._run(form, padded, parts, weights, lengths, batch_sizes)
        if back is not None:
            last = [part.index_select(1, back) for part in last]
        packed = pack_padded_sequence(output, lengths).data
        return PackedSequence(packed, batch_sizes, order, back), tuple(last)

    def _run(
        self,
        form: Form,
        input: Tensor,
        parts: Parts,
        weights: list[Tensor],
        lengths: Tensor | None = None,
        batch_sizes: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The output (T, B, D·H) and the parts of the last state of inputs (T, B, I)."""
        tensors = (input, *parts, *weights)
        keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        dropout = None
        if self.dropout and self.training and self.num_layers > 1:
            dropout = Dropout(form, self.dropout, batch_sizes)
        return Recurrence.apply(form, lengths, dropout, keep, *tensors)  # type: ignore[no-any-return, no-untyped-call]

    def _is_short(self, input: Any) -> bool:
        """Whether a batch of sequences has fewer steps than are worth it."""
        if self._fewest == 1 or not isinstance(input, Tensor) or input.dim() != 3:
            return False
        if input.shape[1 if self.batch_first else 0] >= self._fewest:
            return False
        # Under autocast PyTorch would compute in another dtype than that of the weights.
        return not torch.is_autocast_enabled(input.device.type)

    def _tensors(self) -> list[Tensor]:
        """The weights as they are now: parameters, or what has taken their places."""
        held: Any = self._parameters
        return [held[n] if n in held else getattr(self, n) for n in self._flat_weights_names]

    def _parts(self, hx: Any) -> Parts:
        if self.mode != "LSTM":
            return (hx,)
        return (None, None) if hx is None else tuple(hx)

    def _form_sizes(self) -> Sizes:
        return Sizes(
            self.mode,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.batch_first,
            self.bidirectional,
            self.proj_size,
        )

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(
            f"{type(self).__name__}: torch.jit.script cannot compile a module of xrnn; script the "
            "model with PyTorch's modules: xrnn.adapters.torch.restore(model)"
        )


class LSTM(Recurrent, torch.nn.LSTM):  # type: ignore[misc]
    """`torch.nn.LSTM`, computed by xrnn.

    Constructor, parameters, initial weights, ``state_dict`` and results are those of PyTorch's
    class, of which it is a subclass; see ``xrnn/guide/inside-pytorch.md``.

    Examples
    --------
    >>> import torch
    >>> from xrnn.adapters.torch import LSTM
    >>> lstm = LSTM(3, 5, num_layers=2, bidirectional=True)
    >>> output, (h, c) = lstm(torch.zeros(7, 2, 3))
    >>> output.shape, c.shape
    (torch.Size([7, 2, 10]), torch.Size([4, 2, 5]))
    """


class GRU(Recurrent, torch.nn.GRU):  # type: ignore[misc]
    """`torch.nn.GRU`, computed by xrnn; as `LSTM`.

    Examples
    --------
    >>> import torch
    >>> from xrnn.adapters.torch import GRU
    >>> output, h = GRU(3, 5, batch_first=True)(torch.zeros(2, 7, 3))
    >>> output.shape, h.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))
    """

    _fewest = 2


class RNN(Recurrent, torch.nn.RNN):  # type: ignore[misc]
    """`torch.nn.RNN`, computed by xrnn; as `LSTM`.

    Examples
    --------
    >>> import torch
    >>> from xrnn.adapters.torch import RNN
    >>> output, h = RNN(3, 5, nonlinearity="relu")(torch.zeros(7, 3))
    >>> output.shape, h.shape
    (torch.Size([7, 5]), torch.Size([1, 5]))
    """

    _fewest = 3


def _in_dtype(given: Any, dtype: torch.dtype) -> Any:
    """A tensor, a PackedSequence, a tuple of tensors or None, in that dtype."""
    if isinstance(given, PackedSequence) or not isinstance(given, tuple):
        return given if given is None else given.to(dtype)
    return tuple([_in_dtype(one, dtype) for one in given])


@cache
def _uncompiled() -> Callable[..., Any]:
    """`Recurrent._computed`, at which torch.compile breaks its graph."""
    return torch.compiler.disable(Recurrent._computed)  # type: ignore[no-any-return, no-untyped-call]
