"""What is checked before anything is computed: every error that a user can make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat

from xrnn.backends import Backend, backend_of, check_same, dtype_name, get, is_floating
from xrnn.cells.base import Cell
from xrnn.typing import Array, Namespace, State, Weights

PRECISIONS = ("ieee", "tf32")


def check_precision(kind: str, precision: str) -> None:
    """Raise ValueError unless it is one that there is."""
    if precision not in PRECISIONS:
        raise ValueError(f"{kind}: precision is {precision!r}; it must be 'ieee' or 'tf32'")


def check_inputs(
    cell: Cell, weights: Weights, xs: Array, state: State | None, backend: Backend
) -> None:
    if xs.ndim != 3:
        raise ValueError(f"{cell.name}: xs has shape {tuple(xs.shape)}; it must be (T, B, I)")
    xp = backend.xp
    complex_too = cell.analytic and dtype_name(xs.dtype).startswith("complex")
    if not (complex_too or is_floating(xs.dtype, xp=xp)):
        words = "real or complex" if cell.analytic else "real"
        raise TypeError(f"{cell.name}: xs is {xs.dtype}; it must be {words} floating point")
    if not isinstance(weights, Mapping):
        raise TypeError(f"{cell.name}: weights must be a mapping of name to array")
    for name, w in weights.items():
        check_same(cell.name, name, w, "xs", xs)
    if state is None:
        return
    H = 0
    for name, s in zip(cell.states, check_state(cell, "state", state), strict=True):
        check_same(cell.name, f"state {name}", s, "xs", xs)
        if s.ndim == 2:
            H = H or s.shape[1]
        if tuple(s.shape) != (xs.shape[1], H):
            raise ValueError(
                f"{cell.name}: state {name} has shape {tuple(s.shape)}; "
                f"it must be (B, H) = ({xs.shape[1]}, {H or 'H'})"
            )


def check_state(cell: Cell, what: str, state: Any) -> State:
    """The state as a tuple; an error that names `what` if its parts do not fit the cell."""
    if not isinstance(state, tuple | list) or len(state) != len(cell.states):
        given = f"{len(state)} parts" if isinstance(state, tuple | list) else type(state).__name__
        comma = "," if len(cell.states) == 1 else ""
        raise TypeError(
            f"{cell.name}: {what} is {given}; it must be a tuple ({', '.join(cell.states)}{comma})"
        )
    return tuple(state)


def check_back(
    cell: Cell, last: State, T: int, dys: Array | None, dstate: State | None, *, xp: Namespace
) -> State:
    """Check the gradients that a pass back is given; those of all last states."""
    if dtype_name(last[0].dtype).startswith("complex"):
        raise TypeError(
            f"{cell.name}: the forward pass was complex ({last[0].dtype}); "
            "backward is for real numbers: run forward in float64"
        )
    if dys is not None:
        check_gradient(cell, "dys", dys, (T, *last[0].shape), "(T, B, H)", last[0])
    none = (None,) * len(cell.states)
    parts = none if dstate is None else check_state(cell, "dstate", dstate)
    full = []
    for name, d, value in zip(cell.states, parts, last, strict=True):
        if d is not None:
            check_gradient(cell, f"d{name}", d, tuple(value.shape), "(B, H)", value)
        full.append(xp.zeros_like(value) if d is None else d)
    return tuple(full)


def check_gradient(
    cell: Cell, name: str, d: Array, shape: tuple[int, ...], letters: str, like: Array
) -> None:
    check_same(cell.name, name, d, "the output", like)
    if tuple(d.shape) != shape:
        raise ValueError(
            f"{cell.name}: {name} has shape {tuple(d.shape)}; it must be {letters} = {shape}"
        )


def with_zero_biases(
    cell: Cell, weights: Weights, I: int, H: int, xs: Array, *, xp: Namespace
) -> dict[str, Array]:
    """The weights, with zeros for the biases that were left out."""
    absent = [name for name in cell.biases if name not in weights]
    if not absent:
        return dict(weights)
    shapes, device = cell.shapes(I, H), array_api_compat.device(xs)
    zeros = {n: xp.zeros(shapes[n], dtype=xs.dtype, device=device) for n in absent}
    return {**weights, **zeros}


def check_lengths(lengths: Any, T: int, B: int, xs: Array, backend: Backend) -> Array:
    """Lengths as an int64 array of the library and device of xs."""
    host = get("cpu").xp
    # Looked at on the host: most lengths come from there, and one copy is one wait for a GPU.
    if array_api_compat.is_array_api_obj(lengths):
        lengths = backend_of(lengths, "lengths").to_host(lengths)
    lengths = host.asarray(lengths)
    if lengths.shape != (B,) or not (B == 0 or host.isdtype(lengths.dtype, "integral")):
        raise ValueError(
            f"lengths has shape {lengths.shape} and dtype {lengths.dtype}; "
            f"it must be (B,) = ({B},) integers"
        )
    if B and (lengths.min() < 0 or lengths.max() > T):
        raise ValueError(
            f"lengths go from {lengths.min()} to {lengths.max()}; they must lie in 0…T = 0…{T}"
        )
    device = array_api_compat.device(xs)
    return backend.xp.asarray(lengths.astype("int64"), device=device)
