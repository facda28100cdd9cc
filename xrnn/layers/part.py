"""What the parts of a model have in common.

A part maps arrays to arrays and knows its gradients:

    y = part(x)                                 inference
    y, tape = part.forward(x)                   the same, and what backward needs
    dx, dweights = part.backward(tape, dy)

A recurrent layer returns its state too: ``y, state, tape`` and ``dx, dstate, dweights``.  Parts
that need them take ``lengths`` and ``mask`` (which steps belong to a sequence) as keywords of the
call and of `forward`, and ``seed`` and ``t`` (random numbers) of `forward`; `xrnn.Sequential` gives
each part those that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from xrnn.backends import host, locate
from xrnn.engine.checks import Placement, accept_lengths
from xrnn.engine.timeline import accept_steps
from xrnn.typing import Array, Namespace, is_floating, is_integer


@runtime_checkable
class Part(Protocol):
    """A part of a model: anything with weights, a forward and a backward pass.

    `weights` is a mapping of names to arrays, or to such mappings; it may be empty.
    """

    @property
    def weights(self) -> Mapping[str, Any]: ...

    def __call__(self, x: Array, /) -> Any: ...

    def forward(self, x: Array, /) -> tuple[Any, ...]: ...

    def backward(self, tape: Any, dy: Array, /) -> tuple[Any, ...]: ...


class PartTape(NamedTuple):
    """What `backward` of a part without a tape of its own needs.

    - owner: the part
    - placement, shape: of the outputs
    - kept: what its forward pass kept
    """

    owner: Any
    placement: Placement
    shape: tuple[int, ...]
    kept: tuple[Any, ...]


class Weightless:
    """The base class of parts without weights."""

    #: the name in messages
    kind: str = "part"

    @property
    def weights(self) -> Mapping[str, Any]:
        """An empty mapping."""
        return MappingProxyType({})

    def to(self, device: str) -> Self:
        """The part itself, which has nothing to move, after a check of the device.

        Raises
        ------
        ImportError, ValueError
            As `xrnn.Layer.to`.
        """
        locate(device)
        return self

    def freeze(self) -> Self:
        """The part itself: it has nothing that could change."""
        return self

    def config(self) -> dict[str, Any]:
        """The options that change what is computed."""
        raise NotImplementedError

    def __repr__(self) -> str:
        options = {k: v for k, v in self.config().items() if k != "kind"}
        words = ", ".join(f"{k}={v!r}" for k, v in options.items())
        return f"<{type(self).__name__}({words})>"


def accept_input(kind: str, x: Array, fewest: int, letters: str) -> tuple[Placement, Array]:
    """The placement of an input of floating-point numbers with at least so many axes, and the
    input in native byte order.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    placement = Placement.of(kind, "x", x)
    if not is_floating(x.dtype, xp=placement.backend.xp):
        raise TypeError(f"{kind}: x is {x.dtype}; it must be real floating point")
    if x.ndim < fewest:
        raise ValueError(f"{kind}: x has shape {tuple(x.shape)}; it must be {letters}")
    return placement, placement.accept("x", x)


def check_tape(kind: str, owner: Any, tape: Any, of: type, words: str) -> None:
    """Raise unless `owner` made the tape, which is an `of`; `words` say what another owner is."""
    if not isinstance(tape, of):
        raise TypeError(
            f"{kind}: tape is a {type(tape).__name__}; it must be the tape that forward returned"
        )
    if tape.owner is not owner:  # type: ignore[attr-defined]
        raise ValueError(
            f"{kind}: the tape was made by another {words}; give one that forward of this {words} "
            "returned"
        )


def accept_tape(kind: str, owner: Any, tape: PartTape, dy: Array) -> tuple[PartTape, Array]:
    """The tape and the gradient of the outputs, after all checks.

    Raises
    ------
    TypeError, ValueError
        If the tape is not from `forward` of this part, or dy is not like its outputs.
    """
    check_tape(kind, owner, tape, PartTape, "part")
    return tape, tape.placement.accept_shaped("dy", dy, tape.shape, "that of y")


def accept_sequences(
    kind: str, x: Array, lengths: Any, mask: Any, batch_first: bool
) -> tuple[Placement, Array, Array]:
    """The placement of sequences x, x as (T, B, n), and which steps are valid: NumPy (T, B).

    Parameters
    ----------
    x : array (T, B, n), or (B, T, n) with `batch_first`, or (T, n) for one sequence
        The sequences.
    lengths, mask, batch_first
        As for `valid_steps`.

    Raises
    ------
    TypeError, ValueError
        If x holds no real floating-point numbers, or a shape does not fit.
    """
    letters = "(B, T, n), or (T, n)" if batch_first else "(T, B, n), or (T, n)"
    placement, x = accept_input(kind, x, 2, letters)
    if x.ndim > 3:
        raise ValueError(f"{kind}: x has shape {tuple(x.shape)}; it must be {letters}")
    unbatched = x.ndim == 2
    x = time_first(x, batch_first, xp=placement.backend.xp)
    T, B, _ = x.shape
    return placement, x, valid_steps(kind, (T, B), lengths, mask, batch_first, unbatched)


def valid_steps(
    kind: str,
    sizes: tuple[int, int],
    lengths: Any,
    mask: Any,
    batch_first: bool,
    unbatched: bool = False,
) -> Array:
    """Which steps are valid: NumPy (T, B).

    Parameters
    ----------
    sizes : tuple of int
        T and B.
    lengths : integers (B,), optional
        The number of valid steps of each sequence.
    mask : bools (T, B), or (B, T) with `batch_first`, or (T,) if `unbatched`, optional
        Which steps are valid, of those before the end.

    Raises
    ------
    ValueError
        If a shape does not fit, or there are lengths for one sequence without an axis B.
    """
    T, B = sizes
    if lengths is not None and unbatched:
        raise ValueError(f"{kind}: lengths are of a batch; cut the one sequence instead")
    valid = host.xp.ones((T, B), dtype=bool)
    if lengths is not None:
        valid = host.xp.arange(T)[:, None] < accept_lengths(lengths, T, B)
    if mask is not None:
        valid = valid & accept_steps(
            kind, "mask", mask, T, B, batch_first=batch_first, unbatched=unbatched
        )
    return valid


def mask_over(kind: str, x: Array, lengths: Any, mask: Any, batch_first: bool) -> Array:
    """Which steps of sequences x of tokens or of vectors are valid, for `apply_mask`.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    placement = Placement.of(kind, "x", x)
    features = 0 if is_integer(x.dtype) else 1
    axes = x.ndim - features
    if axes < 1:
        raise ValueError(f"{kind}: x has shape {tuple(x.shape)}; it must have an axis of T steps")
    unbatched = axes == 1
    ends = (1, 0) if batch_first and not unbatched else (0, 1)
    T, B = x.shape[ends[0]], 1 if unbatched else x.shape[ends[1]]
    valid = valid_steps(kind, (T, B), lengths, mask, batch_first, unbatched)
    valid = valid[:, 0] if unbatched else host.xp.transpose(valid, ends)
    valid = valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim))
    return placement.moved(valid)


def time_first(x: Array, batch_first: bool, *, xp: Namespace) -> Array:
    """Sequences as (T, B, n), with an axis B for one sequence."""
    if x.ndim == 2:
        return x[:, None, :]
    return xp.permute_dims(x, (1, 0, 2)) if batch_first else x


def as_given(dx: Array, like: tuple[int, ...], batch_first: bool, *, xp: Namespace) -> Array:
    """The gradient (T, B, n) of sequences in the shape in which they were given."""
    if len(like) == 2:
        return dx[:, 0, :]
    return xp.permute_dims(dx, (1, 0, 2)) if batch_first else dx
