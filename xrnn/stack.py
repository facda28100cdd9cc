"""One cell in L layers and D directions: over them and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from xrnn.backends import backend_of
from xrnn.backends.cpu import counter_bits
from xrnn.cells.base import Cell
from xrnn.door import check_state
from xrnn.typing import Array, State, Weights
from xrnn.unroll import Tape, prepare
from xrnn.unroll import backward as run_backward
from xrnn.unroll import forward as run


class StackTape(NamedTuple):
    """What `backward` needs: a tape for every cell, and the dropout masks between layers."""

    tapes: list[Tape]
    masks: list[Array]


def forward(
    cell: Cell,
    weights: Sequence[Sequence[Weights]],
    xs: Array,
    firsts: Sequence[State | None],
    lengths: Array | None,
    drop: Callable[[int, Array], Array] | None,
    *,
    keep: bool,
    precision: str = "ieee",
) -> tuple[Array, list[State], StackTape]:
    """Run the layers upwards; `weights` holds for each layer those of its directions.

    `firsts` and the last states that are returned stand in the order layer 0 forward, layer
    0 reverse, layer 1 forward …; ``drop(k, ys)`` is the mask over the outputs of layer k.
    """
    tape = StackTape([], [])
    lasts: list[State] = []
    for k, directions in enumerate(weights):
        calls = [
            prepare(cell, part, xs, firsts[len(lasts) + d], lengths, d == 1, precision)
            for d, part in enumerate(directions)
        ]
        ys, states, tapes = zip(*run(calls, keep=keep), strict=True)
        lasts.extend(states)
        if keep:
            tape.tapes.extend(tapes)
        xs = backend_of(ys[0]).xp.concat(ys, axis=-1) if len(ys) > 1 else ys[0]
        if drop is not None and k + 1 < len(weights):
            tape.masks.append(drop(k, xs))
            xs = xs * tape.masks[-1]
    return xs, lasts, tape


def backward(
    tape: StackTape, D: int, dys: Array | None, dlasts: Sequence[State | None], *, gates: bool
) -> tuple[Array, list[Any]]:
    """Carry dys (T, B, D·H) downwards: dxs, and what `unroll_backward` gave for every cell."""
    found: list[Any] = [None] * len(tape.tapes)
    for k in reversed(range(len(tape.tapes) // D)):
        H = tape.tapes[k * D].last[0].shape[1]
        requests = []
        for d in range(D):
            part = None if dys is None else dys[..., d * H : (d + 1) * H]
            requests.append((tape.tapes[k * D + d], part, dlasts[k * D + d]))
        found[k * D : (k + 1) * D] = run_backward(requests, gates=gates)
        dxs = found[k * D][0]
        if D == 2:
            dxs = dxs + found[k * D + 1][0]
        dys = dxs * tape.masks[k - 1] if k and tape.masks else dxs
    return dys, found


def dropout_mask(p: float, seed: int, k: int, ys: Array, dtype: str) -> Array:
    """0 or 1/(1 − p), in dtype, for each output of layer k, by (seed, k, position) alone."""
    T, B, n = ys.shape
    backend = backend_of(ys)
    scaled = (counter_bits(seed, k, T * B * n) >= int(p * 2**64)) / (1 - p)
    mask = backend.from_host(scaled.astype(dtype).reshape(T, B, n))
    return backend.xp.astype(mask, ys.dtype)


def split_state(
    cell: Cell, state: State | None, what: str, shape: tuple[int, int, int]
) -> list[Any]:
    """One state for each cell, from arrays of shape (L·D, B, H).

    Raises
    ------
    TypeError, ValueError
        If they are not that; `what` is what messages call them.
    """
    if state is None:
        return [None] * shape[0]
    for name, s in zip(cell.states, check_state(cell, what, state), strict=True):
        if s is None and what == "dstate":
            continue
        backend_of(s, f"{what} {name}")
        if tuple(s.shape) != shape:
            raise ValueError(
                f"{cell.name}: {what} {name} has shape {tuple(s.shape)}; "
                f"it must be (L·D, B, H) = {shape}"
            )
    return [tuple(None if s is None else s[n, ...] for s in state) for n in range(shape[0])]


def check_output_gradient(cell: Cell, dys: Array, shape: tuple[int, ...]) -> None:
    """Raise unless dys is an array of that shape."""
    backend_of(dys, "dys")
    if tuple(dys.shape) != shape:
        raise ValueError(
            f"{cell.name}: dys has shape {tuple(dys.shape)}; it must be that of ys, {shape}"
        )
