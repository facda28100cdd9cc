"""The checks of the arguments that losses share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import array_api_compat

from xrnn.backends import backend_of, host
from xrnn.cells.base import check_flags
from xrnn.cells.numbers import accept_number
from xrnn.engine.checks import accept_lengths, check_choice, check_library
from xrnn.recurrence.precision import accumulation_dtype, wide_sum
from xrnn.typing import Array, Namespace, dtype_name, is_floating, is_integer

Reduction: TypeAlias = Literal["mean", "sum", "none"]

#: numbers of a batch, or of classes or outputs, as a user may give them
Numbers: TypeAlias = Sequence[float] | Array


def check_reduction(reduction: Any) -> None:
    """Raise ValueError unless the reduction is one of the three."""
    check_choice("loss", "reduction", reduction, ("mean", "sum", "none"))


def check_values(name: str, a: Array, letters: str, *, xp: Namespace) -> None:
    """Raise unless `a` is real floating point and has a last axis."""
    if a.ndim < 1:
        raise ValueError(f"{name} has shape {tuple(a.shape)}; it must be {letters}")
    if not is_floating(a.dtype, xp=xp):
        raise TypeError(f"{name} is {a.dtype}; it must be real floating point")


def check_targets(targets: Array, other: str, like: Array, *, xp: Namespace) -> None:
    """Raise TypeError unless targets are real numbers of the library of `like`."""
    check_library("targets", targets, other, like)
    dtype = targets.dtype
    if not (is_integer(dtype) or dtype_name(dtype) == "bool" or is_floating(dtype, xp=xp)):
        raise TypeError(f"targets are {dtype}; they must be real numbers, as {other} are")


def counted_positions(
    mask: Array | None,
    lengths: Any,
    batch_first: bool,
    shape: tuple[int, ...],
    like: Array,
) -> Array | None:
    """The positions (…) = `shape` that count, as booleans; None if all do."""
    check_flags("loss", batch_first=batch_first)
    if mask is not None:
        check_library("mask", mask, "the rest", like)
        if tuple(mask.shape) != shape or dtype_name(mask.dtype) != "bool":
            raise ValueError(
                f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; "
                f"it must be booleans (…) = {shape}"
            )
    if lengths is None:
        return mask
    if len(shape) < 2:
        axes = "(B, T, …)" if batch_first else "(T, B, …)"
        raise ValueError(
            f"lengths are of a batch, and the positions are (…) = {shape}, which must be {axes}; "
            "cut the one sequence instead"
        )
    T, B = (shape[1], shape[0]) if batch_first else shape[:2]
    inside = host.xp.arange(T)[:, None] < accept_lengths(lengths, T, B)[None, :]
    inside = (inside.T if batch_first else inside).reshape(*shape[:2], *[1] * (len(shape) - 2))
    inside = host.xp.broadcast_to(inside, shape)
    there = backend_of(like).from_host(inside, array_api_compat.device(like))
    return there if mask is None else mask & there


def accept_numbers(
    name: str,
    values: Any,
    letters: str,
    size: int,
    must: str,
    fits: Callable[[float], bool],
    like: Array,
    *,
    xp: Namespace,
) -> Array:
    """Numbers (n,) = `letters`, one for each class or output, in the library of `like`.

    They are given as an array of any library or a sequence, and returned in the dtype in which
    the loss is computed.
    """
    wanted = f"{letters} = ({size},) numbers"
    # Checked on the host, as lengths are.
    if array_api_compat.is_array_api_obj(values):
        values = backend_of(values, name).to_host(values)
    try:
        values = host.xp.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no array; it must be {wanted}") from error
    is_real = dtype_name(values.dtype).startswith(("float", "bfloat", "int", "uint"))
    if values.shape != (size,) or not is_real:
        raise ValueError(
            f"{name} has shape {values.shape} and dtype {values.dtype}; it must be {wanted}"
        )
    # What fits is an interval, and NaN counts as least and as largest.
    for n in {int(values.argmin()), int(values.argmax())} if size else ():
        accept_number(f"{name}[{n}]", values[n], must, fits)
    return xp.asarray(
        values.astype("float64"),
        dtype=accumulation_dtype(like.dtype, xp=xp),
        device=array_api_compat.device(like),
    )


def nothing(
    like: Array, shape: tuple[int, ...], reduction: str, *, xp: Namespace
) -> tuple[Array, Array]:
    """The loss where there is no value, of which "none" gives (…) = `shape`, and its gradient."""
    loss = wide_sum(like, xp=xp)
    if reduction == "none":
        loss = xp.zeros(shape, dtype=loss.dtype, device=array_api_compat.device(like))
    return loss, xp.zeros_like(like)
