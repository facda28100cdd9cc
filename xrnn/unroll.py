"""The door to one layer in one direction: check what is given, choose who computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import array_api_compat

from xrnn import trust
from xrnn.backends import backend_of
from xrnn.cells.base import Cell, blocks
from xrnn.door import (
    check_back,
    check_inputs,
    check_lengths,
    check_precision,
    with_zero_biases,
)
from xrnn.loop import Loop, Saved, Seen
from xrnn.typing import Array, Namespace, State, Weights
from xrnn.weights import check


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
    call = prepare(cell, weights, xs, state, lengths, reverse, precision)
    ys, last, tape = forward([call], keep=True)[0]
    assert tape is not None
    return ys, last, tape


class Call(NamedTuple):
    """A pass that has been checked and knows who will run it."""

    cell: Cell
    weights: Weights
    given: tuple[str, ...]
    xs: Array
    state: State
    lengths: Array | None
    reverse: bool
    sequence: Any
    xp: Namespace


def prepare(
    cell: Cell,
    weights: Weights,
    xs: Array,
    state: State | None,
    lengths: Array | None,
    reverse: bool,
    precision: str = "ieee",
) -> Call:
    """Check what `unroll` was given, complete it, choose who runs it."""
    check_precision(cell.name, precision)
    backend = backend_of(xs, "xs")
    xp = backend.xp
    check_inputs(cell, weights, xs, state, backend)
    T, B, I = xs.shape
    H = check(cell, weights, I, None if state is None else state[0].shape[-1])
    full = with_zero_biases(cell, weights, I, H, xs, xp=xp)
    if state is None:
        zero = xp.zeros((B, H), dtype=xs.dtype, device=array_api_compat.device(xs))
        state = (zero,) * len(cell.states)
    if lengths is not None:
        lengths = check_lengths(lengths, T, B, xs, backend)
    sequence = trust.sequence_of(backend, cell, (T, B, I, H), xs.dtype, precision)
    return Call(cell, full, tuple(weights), xs, tuple(state), lengths, reverse, sequence, xp)


def forward(calls: Sequence[Call], *, keep: bool) -> list[tuple[Array, State, Tape | None]]:
    """Run one call, or the two directions over the same inputs: at once, where that is faster.

    With ``keep=False`` nothing is kept, and None stands for the tape.
    """
    one = calls[0]
    both = getattr(one.sequence, "forward_both", None)
    if len(calls) == 2 and both is not None and calls[1].sequence is one.sequence:
        passes = [(call.weights, call.state, call.reverse) for call in calls]
        results = both(passes, one.xs, lengths=one.lengths, keep=keep, xp=one.xp)
    else:
        results = [
            call.sequence.forward(
                call.weights,
                call.xs,
                call.state,
                lengths=call.lengths,
                reverse=call.reverse,
                keep=keep,
                xp=call.xp,
            )
            for call in calls
        ]
    found = []
    for call, (ys, last, saved) in zip(calls, results, strict=True):
        last = call.cell.state(last)
        found.append((ys, last, Tape(*call[:8], saved, last, call.xp) if keep else None))
    return found


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
    full = check_back(tape.cell, tape.last, tape.xs.shape[0], dys, dstate, xp=tape.xp)
    if gates:
        return _look_back(tape, dys, full)
    return _back([(tape, dys, full)])[0]


def backward(
    requests: Sequence[tuple[Tape, Array | None, State | None]], *, gates: bool
) -> list[Any]:
    """`unroll_backward` of one tape, or of the two directions at once."""
    if gates:
        return [unroll_backward(*request, gates=True) for request in requests]
    full = [
        (tape, dys, check_back(tape.cell, tape.last, tape.xs.shape[0], dys, dstate, xp=tape.xp))
        for tape, dys, dstate in requests
    ]
    return _back(full)


def _back(requests: Sequence[tuple[Tape, Array | None, State]]) -> list[Gradients]:
    one = requests[0][0]
    both = getattr(one.sequence, "backward_both", None)
    if len(requests) == 2 and both is not None and requests[1][0].sequence is one.sequence:
        passes = [(tape.weights, tape.saved, dys, dstate) for tape, dys, dstate in requests]
        results = both(passes, xp=one.xp)
    else:
        results = [
            tape.sequence.backward(tape.weights, tape.saved, dys, dstate, xp=tape.xp)
            for tape, dys, dstate in requests
        ]
    return [
        (dxs, tape.cell.state(dfirst), {name: dweights[name] for name in tape.given})
        for (tape, _, _), (dxs, dfirst, dweights) in zip(requests, results, strict=True)
    ]


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


def over_time(arrays: Sequence[Array], like: Array, *, xp: Namespace) -> Array:
    """T arrays (B, H) as one (T, B, H), where T may be 0; `like` is of their kind."""
    return xp.stack(arrays) if arrays else xp.stack([like])[:0, ...]
