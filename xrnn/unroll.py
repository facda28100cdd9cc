"""The door to one layer in one direction: check what is given, choose who computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import array_api_compat

from xrnn import trust
from xrnn.backends import Backend, backend_of, check_same, dtype_name, get, is_floating
from xrnn.cells.base import Cell, blocks
from xrnn.loop import Loop, Saved, Seen
from xrnn.typing import Array, Namespace, State, Weights
from xrnn.weights import check

PRECISIONS = ("ieee", "tf32")


@dataclass(frozen=True)
class Tape:
    """What `unroll_backward` needs.  Made by `unroll`; its contents are not an interface.

    It holds what the forward pass was given and what it gave, not copies: change no weights,
    inputs, outputs or states in place before backward.
    """

    cell: Cell
    weights: Weights
    given: tuple[str, ...]
    xs: Array
    first: State
    lengths: Array | None
    reverse: bool
    sequence: Any
    saved: Any
    last: State
    xp: Namespace

    def own(self) -> Saved:
        """What the cell's own code saves on this pass, whichever code ran it."""
        loop = self.sequence
        mine = isinstance(loop, Loop) and loop.pair is self.cell
        return self.saved if mine else self.replay()[0]

    def replay(self) -> tuple[Saved, list[State]]:
        """The same pass once more by the cell's own code: what it saves, the state after t."""
        seen = Seen()
        _, _, saved = Loop(self.cell).forward(
            self.weights,
            self.xs,
            self.first,
            lengths=self.lengths,
            reverse=self.reverse,
            keep=True,
            xp=self.xp,
            seen=seen,
        )
        assert saved is not None
        return saved, [seen.states[t] for t in range(len(saved.steps))]


def unroll(
    cell: Cell,
    weights: Weights,
    xs: Array,
    state: State | None = None,
    lengths: Array | None = None,
    reverse: bool = False,
    *,
    precision: str = "ieee",
) -> tuple[Array, State, Tape]:
    """Run one cell over sequences.

    Parameters
    ----------
    cell : Cell
        Such as `xrnn.cells.LSTM`.
    weights : mapping of str to array
        Names and shapes of ``cell.shapes(I, H)``; biases may be left out.
    xs : array (T, B, I)
        The inputs, of any library that follows the Array API standard; float16, float32 or
        float64, or complex where the cell is analytic (`Cell.analytic`).
    state : tuple of array (B, H), optional
        The state to start from, in the order of ``cell.states``.  Default: zeros.
    lengths : integers (B,), optional
        Steps that each sequence really has, 0…T, in any order.  Default: T.
    reverse : bool
        Run each sequence from its end to its start; ``ys[t]`` still belongs to ``xs[t]``.
    precision : {"ieee", "tf32"}
        "tf32" allows products of float32 to round what they multiply to 10 bits, where a
        device is faster so; elsewhere it changes nothing.

    Returns
    -------
    ys : array (T, B, H)
        h at every step; exactly 0 past a sequence's end.
    state : named tuple of array (B, H)
        The state where each sequence ends (in reverse: where it starts); the given state
        for a sequence of length 0.
    tape : Tape
        For `unroll_backward`.

    Raises
    ------
    TypeError
        If arrays are of different libraries or dtypes, or of no library or dtype served.
    ValueError
        If a shape or a length does not fit; the message names it and says what fits.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> from xrnn.cells import LSTM
    >>> rng = np.random.default_rng(0)
    >>> weights = {k: rng.normal(size=s) for k, s in LSTM.shapes(3, 5).items()}
    >>> xs = rng.normal(size=(7, 2, 3))
    >>> ys, state, tape = xrnn.unroll(LSTM, weights, xs)
    >>> ys.shape, state.c.shape
    ((7, 2, 5), (2, 5))
    >>> dxs, dstate, dweights = xrnn.unroll_backward(tape, np.ones_like(ys))
    >>> dweights["U"].shape
    (20, 5)
    """
    ys, last, tape = run(cell, weights, xs, state, lengths, reverse, keep=True, precision=precision)
    assert tape is not None
    return ys, last, tape


def run(
    cell: Cell,
    weights: Weights,
    xs: Array,
    state: State | None,
    lengths: Array | None,
    reverse: bool,
    *,
    keep: bool,
    precision: str = "ieee",
) -> tuple[Array, State, Tape | None]:
    """`unroll`, which with ``keep=False`` keeps nothing and returns None for the tape."""
    check_precision(cell.name, precision)
    backend = backend_of(xs, "xs")
    xp = backend.xp
    _check_inputs(cell, weights, xs, state, backend)
    T, B, I = xs.shape
    H = check(cell, weights, I, None if state is None else state[0].shape[-1])
    full = with_zero_biases(cell, weights, I, H, xs, xp=xp)
    if state is None:
        state = (xp.zeros((B, H), dtype=xs.dtype, device=array_api_compat.device(xs)),) * len(
            cell.states
        )
    if lengths is not None:
        lengths = _check_lengths(lengths, T, B, xs, backend)
    state = tuple(state)
    sequence = trust.sequence_of(backend, cell, xs.shape, xs.dtype, precision)
    ys, last, saved = sequence.forward(
        full, xs, state, lengths=lengths, reverse=reverse, keep=keep, xp=xp
    )
    last = cell.state(last)
    if not keep:
        return ys, last, None
    given = tuple(weights)
    tape = Tape(cell, full, given, xs, state, lengths, reverse, sequence, saved, last, xp)
    return ys, last, tape


Gradients = tuple[Array, State, dict[str, Array]]
Look = tuple[Array, State, dict[str, Array], dict[str, Array], dict[str, Array]]


@overload
def unroll_backward(
    tape: Tape,
    dys: Array | None = ...,
    dstate: State | None = ...,
    *,
    gates: Literal[False] = ...,
) -> Gradients: ...
@overload
def unroll_backward(
    tape: Tape, dys: Array | None = ..., dstate: State | None = ..., *, gates: Literal[True]
) -> Look: ...
@overload
def unroll_backward(
    tape: Tape, dys: Array | None = ..., dstate: State | None = ..., *, gates: bool
) -> Any: ...
def unroll_backward(
    tape: Tape, dys: Array | None = None, dstate: State | None = None, *, gates: bool = False
) -> Any:
    """Carry gradients back through time.

    Parameters
    ----------
    tape : Tape
        From `unroll`.
    dys : array (T, B, H), optional
        The gradient of the outputs.  Default: zeros.  What it holds past a sequence's end
        is not read.
    dstate : tuple of array (B, H) or None, optional
        The gradient of the last state.  Default: zeros, for the tuple or any of its parts.
    gates : bool
        Whether to return what stands in the middle too.  The cell's own code carries the
        gradients then, whichever faster one ran forward.

    Returns
    -------
    dxs : array (T, B, I)
        Exactly 0 past a sequence's end.
    dstate : named tuple of array (B, H)
        The gradient of the state that was given (or of the zeros, if none was).
    dweights : dict of str to array
        Names and shapes of the weights that were given.
    dgates : dict of str to array (T, B, H)
        Only with ``gates``: for each of ``cell.gates`` the gradient of its pre-activation,
        the δ of seed 003 (eqs 38-40, 42, 74-76, with all later losses in it).
    dstates : dict of str to array (T, B, H)
        Only with ``gates``: for each of ``cell.states`` the gradient ∂L/∂h_t, ∂L/∂c_t of the
        state after step t, through everything that follows from it.

    Raises
    ------
    TypeError
        If a gradient is of another library or dtype than the outputs, or those are complex.
    ValueError
        If a gradient has another shape than what it is the gradient of.
    """
    cell, xp = tape.cell, tape.xp
    if dtype_name(tape.last[0].dtype).startswith("complex"):
        raise TypeError(
            f"{cell.name}: the forward pass was complex ({tape.last[0].dtype}); "
            "backward is for real numbers: run forward in float64"
        )
    if dys is not None:
        _check_gradient(
            cell, "dys", dys, (tape.xs.shape[0], *tape.last[0].shape), "(T, B, H)", tape.last[0]
        )
    none = (None,) * len(cell.states)
    parts = none if dstate is None else check_state(cell, "dstate", dstate)
    full = []
    for name, d, value in zip(cell.states, parts, tape.last, strict=True):
        if d is not None:
            _check_gradient(cell, f"d{name}", d, tuple(value.shape), "(B, H)", value)
        full.append(xp.zeros_like(value) if d is None else d)
    if gates:
        return _look_back(tape, dys, tuple(full))
    dxs, dfirst, dweights = tape.sequence.backward(
        tape.weights, tape.saved, dys, tuple(full), xp=xp
    )
    return dxs, cell.state(dfirst), {name: dweights[name] for name in tape.given}


def _look_back(tape: Tape, dys: Array | None, dstate: State) -> Look:
    """`unroll_backward` by the cell's own code, with what it meets on its way."""
    cell, xp = tape.cell, tape.xp
    saved, seen = tape.own(), Seen()
    dxs, dfirst, dweights = Loop(cell).backward(tape.weights, saved, dys, dstate, xp=xp, seen=seen)
    steps, n = range(len(saved.steps)), len(cell.gates)
    totals = [cell.total(seen.states[t], saved.steps[t], tape.weights, xp=xp) for t in steps]
    dgates = {
        name: over_time([blocks(seen.das[t], n)[k] for t in steps], dstate[0], xp=xp)
        for k, name in enumerate(cell.gates)
    }
    dstates = {
        name: over_time([total[k] for total in totals], dstate[0], xp=xp)
        for k, name in enumerate(cell.states)
    }
    named = {name: dweights[name] for name in tape.given}
    return dxs, cell.state(dfirst), named, dgates, dstates


def check_precision(kind: str, precision: str) -> None:
    """Raise ValueError unless it is one that there is."""
    if precision not in PRECISIONS:
        raise ValueError(f"{kind}: precision is {precision!r}; it must be 'ieee' or 'tf32'")


def over_time(arrays: Sequence[Array], like: Array, *, xp: Namespace) -> Array:
    """T arrays (B, H) as one (T, B, H), where T may be 0; `like` is of their kind."""
    return xp.stack(arrays) if arrays else xp.stack([like])[:0, ...]


def _check_inputs(
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


def _check_gradient(
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


def _check_lengths(lengths: Any, T: int, B: int, xs: Array, backend: Backend) -> Array:
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
