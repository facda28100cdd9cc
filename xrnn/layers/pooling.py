"""Pooling over time: one vector for each sequence, of its valid steps.

Last:  y = x_T'                              (1)   T' is the last valid step
       y = [a_T', b_t'] for x = [a, b]       (1')  with both ends; t' is the first valid step
Mean:  y = 1/n Σ_t x_t                       (2)   over the n valid steps
Max:   y = max_t x_t                         (3)   for each value; the first step that has it

A sequence without a valid step gives 0, and its gradient is 0.  So is that of steps that are not
valid, whatever stands there.
"""

from __future__ import annotations

from math import inf
from typing import Any

from xrnn.backends import host
from xrnn.cells.base import check_flags
from xrnn.engine.checks import Placement
from xrnn.layers.part import (
    PartTape,
    Weightless,
    accept_sequences,
    accept_tape,
    as_given,
)
from xrnn.recurrence.masks import apply_mask
from xrnn.recurrence.precision import cast, rounded_sum, wide_sum
from xrnn.typing import Array, Namespace


class Pooling(Weightless):
    """The base class of `Last`, `Mean` and `Max`.

    Parameters
    ----------
    batch_first : bool
        Whether inputs are (B, T, n) instead of (T, B, n).

    Raises
    ------
    TypeError
        If `batch_first` is not a bool.
    """

    def __init__(self, *, batch_first: bool = False) -> None:
        check_flags(self.kind, batch_first=batch_first)
        self.batch_first = bool(batch_first)

    def __call__(self, x: Array, lengths: Any = None, *, mask: Any = None) -> Array:
        """The vectors alone, without a tape; arguments and exceptions are those of `forward`."""
        return self.forward(x, lengths, mask=mask)[0]

    @host.ignore_underflow
    def forward(self, x: Array, lengths: Any = None, *, mask: Any = None) -> tuple[Array, PartTape]:
        """Pool each sequence.

        Parameters
        ----------
        x : array (T, B, n), or (B, T, n) with ``batch_first``, or (T, n) for one sequence
            The sequences.
        lengths : integers (B,), optional
            The number of valid steps of each sequence, 0…T.  Default: T.
        mask : bools (T, B), or (B, T) with ``batch_first``, optional
            Which of these steps are valid.  Default: all.

        Returns
        -------
        y : array (B, n), or (n,) for one sequence
            One vector for each sequence.
        tape : PartTape
            For `backward`.

        Raises
        ------
        TypeError, ValueError
            If x holds no real floating-point numbers, or a shape does not fit.
        """
        placement, xs, valid = accept_sequences(self.kind, x, lengths, mask, self.batch_first)
        y, kept = self._pool(xs, valid, placement)
        unbatched = x.ndim == 2
        y = y[0, :] if unbatched else y
        return y, PartTape(self, placement, tuple(y.shape), (tuple(x.shape), xs.shape, *kept))

    @host.ignore_underflow
    def backward(self, tape: PartTape, dy: Array) -> tuple[Array, dict[str, Array]]:
        """The gradient of the sequences.

        Parameters
        ----------
        tape : PartTape
            From `forward`.
        dy : array like y
            The gradient of the vectors.

        Returns
        -------
        dx : array like x
            The gradient of the sequences; 0 at steps that are not valid.
        dweights : dict
            Empty.

        Raises
        ------
        TypeError, ValueError
            If the tape is not from `forward` of this part, or dy is not like y.
        """
        tape, dy = accept_tape(self.kind, self, tape, dy)
        given, shape, *kept = tape.kept
        xp = tape.placement.backend.xp
        dx = self._unpool(dy[None, :] if len(given) == 2 else dy, shape, kept, xp=xp)
        return as_given(dx, given, self.batch_first, xp=xp), {}

    def config(self) -> dict[str, Any]:
        """The options that change what is computed."""
        return {"kind": self.kind, "batch_first": self.batch_first}

    def _pool(
        self, xs: Array, valid: Array, placement: Placement
    ) -> tuple[Array, tuple[Array, ...]]:
        """y (B, n) of xs (T, B, n), and what backward needs; valid is (T, B), NumPy."""
        raise NotImplementedError

    def _unpool(
        self, dy: Array, shape: tuple[int, ...], kept: list[Array], *, xp: Namespace
    ) -> Array:
        """dx (T, B, n)."""
        raise NotImplementedError


class Last(Pooling):
    """The outputs of the last valid step of each sequence.

    After a bidirectional layer give ``both_ends=True``.  Without it the second half of the outputs
    has seen the last step alone, because the reverse direction begins there: whatever came before
    is lost in that half.

    Parameters
    ----------
    batch_first : bool
        Whether inputs are (B, T, n) instead of (T, B, n).
    both_ends : bool
        Whether the second half of the n values is that of the first valid step, where the reverse
        direction has read the whole sequence.  So ``Bidirectional(…, return_sequences=False)`` of
        Keras returns both.

    Raises
    ------
    TypeError
        If an option is not a bool.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> x = np.arange(6.0).reshape(3, 2, 1)  # T, B, n = 3, 2, 1
    >>> xrnn.Last()(x, lengths=[3, 1]).tolist()
    [[4.0], [1.0]]

    The forward direction at the end, the reverse direction at the start:

    >>> layer = xrnn.GRU(1, 4, bidirectional=True, rng=0)
    >>> ys, state = layer(x.astype("float32"))
    >>> y = xrnn.Last(both_ends=True)(ys)
    >>> bool((y[:, :4] == state.h[0]).all() and (y[:, 4:] == state.h[1]).all())
    True
    """

    kind = "last"

    def __init__(self, *, batch_first: bool = False, both_ends: bool = False) -> None:
        super().__init__(batch_first=batch_first)
        check_flags(self.kind, both_ends=both_ends)
        self.both_ends = bool(both_ends)

    def config(self) -> dict[str, Any]:
        """The options that change what is computed; `both_ends` only if it is True."""
        return super().config() | ({"both_ends": True} if self.both_ends else {})

    def _pool(
        self, xs: Array, valid: Array, placement: Placement
    ) -> tuple[Array, tuple[Array, ...]]:
        T, n = valid.shape[0], xs.shape[-1]
        if self.both_ends and n % 2:
            raise ValueError(
                f"last: x has {n} values at each step; with both_ends it must be (T, B, 2·n), the "
                "outputs of both directions side by side"
            )
        t = host.xp.arange(T)[:, None]
        ends = [((t + 1) * valid).max(axis=0, initial=0) - 1]
        if self.both_ends:
            ends.append(T - 1 - (((T - t) * valid).max(axis=0, initial=0) - 1))
        chosen = [placement.moved((t == end)[:, :, None]) for end in ends]
        xp, size = placement.backend.xp, n // len(ends)
        found = [
            rounded_sum(apply_mask(one, xs[..., k * size : (k + 1) * size], xp=xp), axis=0, xp=xp)
            for k, one in enumerate(chosen)
        ]
        return found[0] if len(found) == 1 else xp.concat(found, axis=-1), tuple(chosen)  # (1)

    def _unpool(
        self, dy: Array, shape: tuple[int, ...], kept: list[Array], *, xp: Namespace
    ) -> Array:
        T, B, n = shape
        size = n // len(kept)
        found = [
            apply_mask(one, xp.broadcast_to(dy[:, k * size : (k + 1) * size], (T, B, size)), xp=xp)
            for k, one in enumerate(kept)
        ]
        return found[0] if len(found) == 1 else xp.concat(found, axis=-1)  # (1)


class Mean(Pooling):
    """The mean of the valid steps of each sequence.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> x = np.arange(6.0).reshape(3, 2, 1)  # T, B, n = 3, 2, 1
    >>> xrnn.Mean()(x, lengths=[3, 1]).tolist()
    [[2.0], [1.0]]
    """

    kind = "mean"

    def _pool(
        self, xs: Array, valid: Array, placement: Placement
    ) -> tuple[Array, tuple[Array, ...]]:
        xp = placement.backend.xp
        steps = placement.moved(valid[:, :, None])
        total = wide_sum(apply_mask(steps, xs, xp=xp), axis=0, xp=xp)
        each = xp.astype(
            placement.moved(1 / host.xp.maximum(valid.sum(axis=0), 1)[:, None]), total.dtype
        )
        return cast(total * each, xs.dtype, xp=xp), (steps, cast(each, xs.dtype, xp=xp))  # (2)

    def _unpool(
        self, dy: Array, shape: tuple[int, ...], kept: list[Array], *, xp: Namespace
    ) -> Array:
        steps, each = kept
        return apply_mask(steps, xp.broadcast_to(dy * each, shape), xp=xp)  # (2)


class Max(Pooling):
    """The largest value of the valid steps of each sequence; NaN if one of them is NaN.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> x = -np.arange(6.0).reshape(3, 2, 1)  # T, B, n = 3, 2, 1
    >>> xrnn.Max()(x, lengths=[3, 1]).tolist()
    [[-0.0], [-1.0]]
    """

    kind = "max"

    def _pool(
        self, xs: Array, valid: Array, placement: Placement
    ) -> tuple[Array, tuple[Array, ...]]:
        xp, (T, B, n) = placement.backend.xp, xs.shape
        if T == 0:
            return placement.zeros((B, n)), ()
        steps = placement.moved(valid[:, :, None])
        some = placement.moved(valid.any(axis=0)[:, None])
        lowest = xp.where(steps, xs, xp.full_like(xs, -inf))
        first = xp.argmax(lowest, axis=0)
        y = apply_mask(some, xp.max(lowest, axis=0), xp=xp)  # (3)
        t = xp.arange(T, dtype=first.dtype, device=placement.standard_device)
        return y, ((t[:, None, None] == first) & some,)

    def _unpool(
        self, dy: Array, shape: tuple[int, ...], kept: list[Array], *, xp: Namespace
    ) -> Array:
        if shape[0] == 0:
            return xp.broadcast_to(dy, shape)
        (chosen,) = kept
        return apply_mask(chosen, xp.broadcast_to(dy, shape), xp=xp)  # (3)
