"""Pooling over time by attention: a mean of the valid steps, weighted by learned scores.

u_t = tanh(W x_t + b)               (1)
α = softmax_t(vᵀ u_t)               (2)   over the valid steps
y = Σ_t α_t x_t                     (3)

Source: Yang et al. (2016), NAACL, 1480-1489, eqs 5-7.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

from xrnn.backends import host
from xrnn.cells.base import check_flags, check_sizes
from xrnn.engine.checks import REAL_DTYPES, Spec, accept_dtype
from xrnn.engine.module import Module, drawn
from xrnn.layers.linear import linear
from xrnn.layers.part import PartTape, accept_sequences, accept_tape, as_given
from xrnn.recurrence.masks import apply_mask
from xrnn.recurrence.precision import cast, widen
from xrnn.recurrence.softmax import masked_softmax, softmax_backward
from xrnn.typing import Array, GivenDType, Size

KIND = "attention_pooling"


class AttentionPooling(Module):
    """A weighted mean of the valid steps of each sequence; the part learns which steps matter.

    Parameters
    ----------
    size : int
        n, the number of values of a step.
    attention_size : int, optional
        A, the number of hidden units that score a step.  Default: n.
    batch_first : bool
        Whether inputs are (B, T, n) instead of (T, B, n).
    dtype, device, rng
        As for `xrnn.Layer`.

    Attributes
    ----------
    weights : Parameters
        ``W`` (A, n) and ``v`` (A,), initially Glorot uniform, and ``b`` (A,), initially zero.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer of at least 1, or `batch_first` not a bool.
    ImportError
        If the library of the device is not installed, or finds no device.

    Notes
    -----
    A sequence without a valid step gives 0, and its gradient is 0; so is that of steps that are
    not valid, whatever stands there.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> pool = xrnn.AttentionPooling(4, rng=0)
    >>> x = np.ones((7, 3, 4), "float32")
    >>> y, tape = pool.forward(x, lengths=[7, 2, 0])
    >>> y.shape, pool.attention(x, lengths=[7, 2, 0])[:3, 1].tolist()
    ((3, 4), [0.5, 0.5, 0.0])
    """

    _fixed = frozenset({"size", "attention_size", "batch_first", "dtype"})

    def __init__(
        self,
        size: Size,
        attention_size: Size | None = None,
        *,
        batch_first: bool = False,
        dtype: GivenDType = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        attention_size = size if attention_size is None else attention_size
        check_sizes(KIND, size=size, attention_size=attention_size)
        check_flags(KIND, batch_first=batch_first)
        n, A = self.size, self.attention_size = int(size), int(attention_size)
        self.batch_first = bool(batch_first)
        self.dtype = accept_dtype(KIND, dtype, REAL_DTYPES)
        specs = {"W": Spec((A, n), "(A, n)"), "b": Spec((A,), "(A,)"), "v": Spec((A,), "(A,)")}
        options: Any = {"rng": rng, "dtype": self.dtype, "device": device}
        self._parameters = drawn(KIND, specs, partial(_draw, n, A), **options)

    def __call__(self, x: Array, lengths: Any = None, *, mask: Any = None) -> Array:
        """The vectors alone, without a tape; arguments and exceptions are those of `forward`."""
        return self.forward(x, lengths, mask=mask)[0]

    def attention(self, x: Array, lengths: Any = None, *, mask: Any = None) -> Array:
        """The weights α of the steps, whose sum is 1 for each sequence; see `forward`.

        Returns
        -------
        array (T, B), or (B, T) with ``batch_first``, or (T,) for one sequence
            0 at steps that are not valid.
        """
        *_, alpha = self._scored(x, lengths, mask)
        xp = self.weights.placement.backend.xp
        alpha = cast(alpha, self.weights.placement.dtype, xp=xp)
        return as_given(alpha, tuple(x.shape), self.batch_first, xp=xp)[..., 0]

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
            If x is of another library or dtype than the weights, or a shape does not fit.
        """
        parameters = self._parameters
        xs, u, alpha = self._scored(x, lengths, mask)
        placement = parameters.placement
        xp = placement.backend.xp
        y = cast(xp.sum(alpha * xs, axis=0), placement.dtype, xp=xp)  # (3)
        y = y[0, :] if x.ndim == 2 else y
        kept = (tuple(x.shape), xs, u, alpha, parameters, parameters.version)
        return y, PartTape(self, placement, tuple(y.shape), kept)

    @host.ignore_underflow
    def backward(self, tape: PartTape, dy: Array) -> tuple[Array, dict[str, Array]]:
        """The gradients of the sequences and of the weights.

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
        dweights : dict of str to array
            Names and shapes of `weights`.

        Raises
        ------
        TypeError, ValueError
            If the tape is not from `forward` of this part, dy is not like y, or the weights have
            changed since.
        """
        tape, dy = accept_tape(KIND, self, tape, dy)
        given, xs, u, alpha, parameters, version = tape.kept
        self.check_unchanged(parameters, version)
        xp = tape.placement.backend.xp
        wide = widen(dy, xp=xp)
        wide = wide[None, :] if len(given) == 2 else wide
        W, v = (widen(parameters[name], xp=xp) for name in ("W", "v"))
        dalpha = xp.sum(xs * wide, axis=2, keepdims=True)  # (3)
        dscores = softmax_backward(dalpha, alpha, axis=0, xp=xp)  # (2)
        da = dscores * v * (1 - u * u)  # (1)
        dxs = alpha * wide + linear(da, W.T, None, None, xp=xp)
        rows = xp.reshape(da, (prod(da.shape[:2]), self.attention_size))
        dweights = {
            "W": rows.T @ xp.reshape(xs, (rows.shape[0], self.size)),
            "b": xp.sum(rows, axis=0),
            "v": xp.sum(dscores * u, axis=(0, 1)),
        }
        dx = as_given(cast(dxs, dy.dtype, xp=xp), given, self.batch_first, xp=xp)
        return dx, {name: cast(d, dy.dtype, xp=xp) for name, d in dweights.items()}

    def config(self) -> dict[str, Any]:
        """The options that a file must have too to be loaded into this part."""
        names = ("size", "attention_size", "batch_first", "dtype")
        return {"kind": KIND, **{name: getattr(self, name) for name in names}}

    def __repr__(self) -> str:
        return f"<AttentionPooling({self.size}, {self.attention_size}): {self.weights!r}>"

    def _scored(self, x: Array, lengths: Any, mask: Any) -> tuple[Array, Array, Array]:
        """The valid steps of x (T, B, n), u (T, B, A) and α (T, B, 1), in the dtype of sums."""
        placement = self.weights.placement
        x = placement.accept("x", x)
        _, xs, valid = accept_sequences(KIND, x, lengths, mask, self.batch_first)
        if xs.shape[2] != self.size:
            raise ValueError(
                f"{KIND}: x has shape {tuple(x.shape)}; its last axis must be n = {self.size}"
            )
        xp = placement.backend.xp
        W, b, v = (widen(self.weights[name], xp=xp) for name in ("W", "b", "v"))
        steps = placement.moved(valid[:, :, None])
        xs = widen(apply_mask(steps, xs, xp=xp), xp=xp)
        u = xp.tanh(linear(xs, W, b, None, xp=xp))  # (1)
        scores = xp.sum(u * v, axis=2, keepdims=True)
        return xs, u, masked_softmax(scores, steps, axis=0, xp=xp)  # (2)


def _draw(n: int, A: int, random: Any) -> dict[str, Array]:
    """W and v, Glorot uniform (Glorot & Bengio, 2010), and b."""
    W = random.uniform(-1, 1, (A, n)) * (6 / (A + n)) ** 0.5
    v = random.uniform(-1, 1, A) * (6 / (A + 1)) ** 0.5
    return {"W": W, "b": host.xp.zeros(A), "v": v}
