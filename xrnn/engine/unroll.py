"""One cell over sequences, forward and backward: `unroll` and `unroll_backward`."""

from __future__ import annotations

from typing import Any

from xrnn.backends import backend_of
from xrnn.cells.base import Cell, check_cell, check_flags
from xrnn.engine.axes import Axes
from xrnn.engine.bound import Bound
from xrnn.engine.bound_cell import BoundCell
from xrnn.engine.checks import (
    cell_weights,
    check_numbers,
    check_precision,
)
from xrnn.engine.random import random_numbers
from xrnn.engine.states import state_parts
from xrnn.engine.tape import Tape
from xrnn.typing import Array, Checkpoint, GivenState, Masked, Precision, S, Size, Weights


def unroll(
    cell: Cell[S],
    weights: Weights,
    xs: Array,
    state: GivenState | None = None,
    lengths: Any = None,
    reverse: bool = False,
    *,
    mask: Any = None,
    masked: Masked = "zero",
    resets: Any = None,
    precision: Precision = "ieee",
    seed: Size | None = None,
    t: Size = 0,
    checkpoint: Checkpoint | None = None,
) -> tuple[Array, S, Tape[S]]:
    """Run one cell over sequences.

    Parameters
    ----------
    cell : Cell
        Such as `xrnn.cells.LSTM` (the cell, not the layer `xrnn.LSTM`).
    weights : mapping of str to array
        Names and shapes of ``cell.shapes(I, H)``; biases may be left out.
    xs : array (T, B, I), or (T, I) for one sequence
        The inputs, of any library that follows the Array API standard; float16, float32 or
        float64, or complex where the cell is analytic (`Cell.analytic`).
    state : tuple of array (B, H) or None, optional
        The state to start from, in the order of ``cell.states``.  Default: zeros, for the
        tuple or any of its parts.
    lengths : integers (B,), optional
        The number of valid steps of each sequence, 0…T, in any order.  Default: T.
    reverse : bool
        Run each sequence from its end to its start; ``ys[t]`` still belongs to ``xs[t]``.
    mask : booleans (T, B), or (T,) for one sequence, optional
        Which steps are valid (before the end of their sequence).  A masked step keeps the state,
        and values of xs and of gradients there are not read.  Default: all.
    masked : {"zero", "hold"}
        The output of a masked step: 0, or that of the valid step before it in the direction of
        the run, since the last reset (0 if there is none).
    resets : booleans like mask, optional
        Where a sequence is cut: before such a step the state is the initial one (zeros), and no
        gradient passes.  In reverse the cut is at the same place, between t and t − 1; the state
        that is returned is still that of the first valid step.  Default: nowhere.
    precision : {"ieee", "tf32", "bf16"}
        "tf32" allows products of float32 to round what they multiply to 10 bits (NVIDIA's
        TF32), where a device is faster with it; elsewhere it has no effect.  With "bf16" they
        round it to bfloat16 on every device, forward and backward; sums, states, gates and
        gradients stay float32, which the dtype must be (`xrnn.recurrence.bfloat16`).  The last
        bits of sums are those of the library that multiplies, such as cuBLAS.
    seed : int, optional
        The seed of what the cell draws (`Cell.noise`): give a new one at every training step.
        Required with such a cell.
    t : int
        How many steps of the same sequences came before, in earlier calls with the same seed.
    checkpoint : int or "sqrt", optional
        k: keep the states before every k steps only, and compute what lies between again in
        backward, by the same kernels; "sqrt" stands for √T steps.  The tape so holds T/k states
        instead of all that T steps computed, and every step runs forward once more.  Outputs and
        gradients are the same: to the bit by the native loops, to rounding elsewhere (where states
        of 16 bits other than h are rounded every k steps).  With a mask or resets k counts the
        steps of each run of valid steps.  Default: keep all.

    Returns
    -------
    ys : array (T, B, H)
        h at every step; exactly 0 past a sequence's end and, unless they are held, at masked
        steps.  Read-only, where the library has such arrays, because backward reads it again.
    state : named tuple of array (B, H)
        The state where each sequence ends (in reverse: where it starts); the given state
        for a sequence of length 0.
    tape : Tape
        For `unroll_backward`.

    For one sequence (T, I) there is no axis B in outputs, states and gradients.  With a
    `Cell.projection` h, and so ys, has P values instead of H.

    Raises
    ------
    TypeError
        If arrays are of different libraries or dtypes, or of a library or dtype that is not
        supported.
    ValueError
        If a shape or a length does not fit, or a seed is needed and not given; the message says
        what would fit.

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
    check_cell(cell)
    check_flags(cell.name, reverse=reverse)
    backend = backend_of(xs, "xs")
    if xs.ndim not in (2, 3):
        raise ValueError(
            f"{cell.name}: xs has shape {tuple(xs.shape)}; it must be (T, B, I), or (T, I)"
        )
    check_numbers(cell, xs, backend)
    parts: tuple[Any, ...] = state_parts(cell, "state", state)
    shapes: list[tuple[int, ...]] = [getattr(part, "shape", ()) for part in parts]
    letters = zip(shapes, cell.width_letters, strict=True)
    units = [shape[-1] for shape, letter in letters if letter == "H" and shape]
    complete, placement = cell_weights(cell, weights, I=xs.shape[-1], H=units[0] if units else None)
    check_precision(cell.name, precision, placement.dtype)
    one = BoundCell(
        cell, complete, placement, given=tuple(weights), precision=precision, reverse=bool(reverse)
    )
    axes = Axes(cell, placement, one.I, [one.widths], [""], stacked=False)
    bound = Bound(axes, [(one,)], version=one.fingerprint())
    needed = "a cell that draws random numbers" if cell.noise else ""
    random = random_numbers(placement, seed, t, needed)
    how: Any = {"random": random, "checkpoint": checkpoint}
    ys, last, tape = bound.forward(
        xs, parts, lengths, mask=mask, masked=masked, resets=resets, keep=True, **how
    )
    assert tape is not None
    return ys, last, tape


def unroll_backward(
    tape: Tape[S], dys: Array | None = None, dstate: GivenState | None = None
) -> tuple[Array, S, dict[str, Array]]:
    """The gradients of all that `unroll` was given (backpropagation through time).

    Parameters
    ----------
    tape : Tape
        From `unroll`.
    dys : array (T, B, H), optional
        The gradient of the outputs.  Default: zeros.  What it holds past a sequence's end
        is not read.
    dstate : tuple of array (B, H) or None, optional
        The gradient of the last state.  Default: zeros, for the tuple or any of its parts.

    Returns
    -------
    dxs : array (T, B, I)
        Exactly 0 past a sequence's end.
    dstate : named tuple of array (B, H)
        The gradient of the state that was given (or of the zeros, if none was).
    dweights : dict of str to array
        Names and shapes of the weights that were given.

    `xrnn.analysis.gate_gradients` gives the gradients of gates and states at every step.

    Raises
    ------
    TypeError
        If `tape` is not a tape, a gradient has another library or dtype than the outputs, or
        the outputs are complex.
    ValueError
        If a layer made the tape, weights have been changed in place since, or the shape of a
        gradient is not that of its array.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> from xrnn.cells import Elman
    >>> weights = {"W": np.ones((1, 1)), "U": np.zeros((1, 1))}
    >>> ys, state, tape = xrnn.unroll(Elman, weights, np.zeros((3, 1, 1)))
    >>> dxs, dstate, dweights = xrnn.unroll_backward(tape, np.ones_like(ys))
    >>> dxs[:, 0, 0].tolist()
    [1.0, 1.0, 1.0]
    """
    if not isinstance(tape, Tape):
        raise TypeError(
            f"tape is a {type(tape).__name__}; it must be the tape that xrnn.unroll returned"
        )
    if tape.owner is not None:
        raise ValueError(
            f"{tape.cell.name}: the tape was made by a layer; call backward of that layer"
        )
    tape.check_unchanged()
    return tape.backward(dys, dstate)
