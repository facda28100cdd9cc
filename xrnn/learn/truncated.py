"""Truncated backpropagation through time, with both of its numbers.

At t = k1, 2·k1, 3·k1, …, and at the end of the sequences:

L_t = Σ loss(y_τ)  over t − k1 < τ ≤ t                                              (1)
∂L_t/∂θ, with the state at t − k2 taken as a constant                               (2)

So each loss counts once, and its gradient goes back through at least k2 − k1 + 1 and at most k2
steps.  The state at t − k2 is the one that an earlier window computed there, with the weights that
were in force then.

Source: Williams & Peng (1990), "An efficient gradient-based algorithm for on-line training of
recurrent network trajectories", Neural Computation 2(4), 490-501: BPTT(h; h') with h = k2, h' = k1.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

from xrnn.backends import backend_of
from xrnn.cells.base import check_flags, check_positive
from xrnn.engine.checks import Placement, accept_lengths
from xrnn.engine.timeline import accept_steps
from xrnn.layers.composite import Composite
from xrnn.layers.part import Part
from xrnn.layers.sequential import takes
from xrnn.typing import Array, Checkpoint, Size, is_integer

KIND = "truncated"


class Window:
    """The steps that a gradient of `truncated` goes back through.

    Attributes
    ----------
    steps : slice
        The steps whose losses count: the last k1, or fewer at the end.
    first : int
        The first step that the gradient goes back through.
    ys : array
        The outputs at `steps`.
    state
        The state after them, as the model returns it.
    """

    def __init__(self, model: Any, first: int, steps: slice, axis: int, given: Any) -> None:
        self.first, self.steps = first, steps
        self._model, self._axis = model, axis
        x, state, how = given
        y, self.state, self._tape = _forward(model, x, state, how)
        n = steps.stop - first
        if y.ndim <= axis or y.shape[axis] != n:
            raise ValueError(
                f"{KIND}: the model gives outputs of shape {tuple(y.shape)} for {n} steps; it must "
                "give one for each step"
            )
        self._before: Array = _part(y, axis, 0, steps.start - first)
        self.ys: Array = _part(y, axis, steps.start - first, n)

    def backward(self, dys: Array, *, omit_dxs: bool = False) -> tuple[Any, ...]:
        """The gradients of the losses of this window; before the next window is asked for.

        Parameters
        ----------
        dys : array like ys
            The gradients of the outputs at `steps`.
        omit_dxs : bool
            Whether dxs are not needed, as in training: the model leaves them out.

        Returns
        -------
        tuple
            What `backward` of the model returns: for a layer ``dxs, dstate, dweights``, for a
            `xrnn.Sequential` ``dx, dweights``; dxs are those of the steps from `first` on.

        Raises
        ------
        TypeError, ValueError
            If dys is not like `ys`, there is a later window already, or the weights have changed
            since.
        """
        check_flags(KIND, omit_dxs=omit_dxs)
        if self._tape is None:
            raise ValueError(
                f"{KIND}: a later window has been asked for, and this one holds nothing any more; "
                "call backward of a window before"
            )
        placement = Placement.of(KIND, "ys", self.ys)
        dys = placement.accept_shaped("dys", dys, tuple(self.ys.shape), "that of ys")
        xp = placement.backend.xp
        if self.steps.start > self.first:
            dys = xp.concat([xp.zeros_like(self._before), dys], axis=self._axis)
        omit = {"omit_dxs": True} if omit_dxs else {}
        found: tuple[Any, ...] = self._model.backward(self._tape, dys, **omit)
        return found

    def close(self) -> None:
        """Let go of what backward needs."""
        self._tape = None

    def __repr__(self) -> str:
        start, stop = self.steps.start, self.steps.stop
        return f"<window: losses of steps {start}…{stop - 1}, back to step {self.first}>"


def truncated(
    model: Any,
    xs: Array,
    k1: Size,
    k2: Size | None = None,
    state: Any = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    resets: Any = None,
    seed: Size | None = None,
    t: Size = 0,
    checkpoint: Checkpoint | None = None,
) -> Iterator[Window]:
    """Windows of long sequences, one for each update: truncated backpropagation through time.

    After every k1 steps there is a window, whose losses are those of these steps, and whose
    gradient goes back through k2 steps; between two of them the weights may be changed.  At most k2
    steps are in memory besides the sequences.

    Parameters
    ----------
    model : Layer, or Sequential
        Runs from the start to the end, and gives one output for each step.
    xs : array
        The sequences, as the model takes them.
    k1 : int
        The number of steps between two updates.
    k2 : int, optional
        The number of steps that a gradient goes back through, at least k1.  Default: k1, windows
        that meet.  With more, the steps before are run again: every step k2/k1 times, and forward
        once more.
    state : optional
        The state to start from, as the model takes it.
    lengths, mask, resets, seed, t
        As for `xrnn.Layer.forward`, of the whole sequences.  A step of a layer has the same random
        numbers in all windows.
    checkpoint : int or "sqrt", optional
        As for `xrnn.Layer.forward`, within each window.

    Yields
    ------
    Window
        With ``steps``, ``ys``, ``state``, and ``backward(dys)``.

    Raises
    ------
    TypeError
        If the model is none, or has no state.
    ValueError
        If k1 or k2 is no integer ≥ 1, or k2 < k1; if a part of the model runs in reverse or needs
        whole sequences.  What is wrong in the other arguments is found by the first window.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> layer = xrnn.LSTM(3, 5, rng=0)
    >>> xs, targets = np.ones((100, 2, 3), "float32"), np.zeros((100, 2, 5), "float32")
    >>> optimizer = xrnn.optim.SGD(0.1)
    >>> for window in xrnn.truncated(layer, xs, k1=10, k2=30):
    ...     loss, dys = xrnn.losses.squared_error(window.ys, targets[window.steps])
    ...     _, _, dweights = window.backward(dys)
    ...     optimizer.update(layer.weights, dweights)
    >>> window
    <window: losses of steps 90…99, back to step 70>
    """
    every, back = accept_numbers(KIND, k1, k2)
    check_model(KIND, model, "the model")
    backend_of(xs, "xs")
    cuts = _Cuts(model, xs, lengths, mask, resets)
    how = {"seed": seed, "t": t, "checkpoint": checkpoint}
    return _windows(model, cuts, state, every, back, how)


def accept_numbers(kind: str, k1: Any, k2: Any) -> tuple[int, int]:
    """The checked numbers of `truncated`.

    Raises
    ------
    ValueError
        If one is no integer ≥ 1, or k2 < k1.
    """
    check_positive(kind, k1=k1)
    check_positive(kind, k2=k1 if k2 is None else k2)
    every, back = int(k1), int(k1 if k2 is None else k2)
    if back < every:
        raise ValueError(f"{kind}: k1 is {k1} and k2 is {k2}; k2 must be at least k1")
    return every, back


def _windows(
    model: Any, cuts: _Cuts, state: Any, k1: int, k2: int, how: dict[str, Any]
) -> Iterator[Window]:
    """The windows; `state` is always that before step `first`."""
    first = 0
    for start in range(0, cuts.T, k1):
        stop = min(start + k1, cuts.T)
        # The next window may begin in this one: its state there is computed by the same weights.
        following = max(first, min(stop + k1, cuts.T) - k2)
        x, own = cuts.part(first, stop, how)
        window = Window(model, first, slice(start, stop), cuts.axis, (x, state, own))
        if following == stop:
            state = window.state
        elif following > first:
            x, own = cuts.part(first, following, how)
            _, state, _ = _forward(model, x, state, own)
        first = following
        yield window
        if stop < cuts.T:
            window.close()  # before the next one is made


class _Cuts:
    """The arguments of a model that belong to steps, of which some steps can be had."""

    def __init__(self, model: Any, xs: Array, lengths: Any, mask: Any, resets: Any) -> None:
        self._takes = takes(model)
        features = 0 if is_integer(xs.dtype) else 1
        self._unbatched = xs.ndim - features == 1
        self._batch_first = bool(getattr(model, "batch_first", False)) and not self._unbatched
        #: the axis of time
        self.axis = int(self._batch_first)
        if xs.ndim - features not in (1, 2):
            raise ValueError(
                f"{KIND}: xs has shape {tuple(xs.shape)}; it must have an axis of T steps, and one "
                "of B sequences unless there is only one"
            )
        self._xs, self.T = xs, int(xs.shape[self.axis])
        B = 1 if self._unbatched else int(xs.shape[1 - self.axis])
        self._lengths = None
        if lengths is not None:
            if self._unbatched:
                raise ValueError(f"{KIND}: lengths are of a batch; cut the one sequence instead")
            self._lengths = accept_lengths(lengths, self.T, B)
        self._steps = {
            name: accept_steps(
                *(KIND, name, given, self.T, B),
                batch_first=self._batch_first,
                unbatched=self._unbatched,
            )
            for name, given in (("mask", mask), ("resets", resets))
            if given is not None
        }

    def part(self, start: int, stop: int, how: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
        """xs of some steps, and what else belongs to them, with `how` for all steps."""
        found = {name: value for name, value in how.items() if name in self._takes}
        t = found.get("t")
        if isinstance(t, Integral) and not isinstance(t, bool):  # else the model says what is wrong
            found["t"] = int(t) + start
        if self._lengths is not None:
            found["lengths"] = (self._lengths - start).clip(0, stop - start)
        for name, steps in self._steps.items():
            cut = steps[start:stop]
            found[name] = cut[:, 0] if self._unbatched else cut.T if self._batch_first else cut
        return _part(self._xs, self.axis, start, stop), found


def _forward(model: Any, x: Array, state: Any, how: dict[str, Any]) -> tuple[Array, Any, Any]:
    """y, the state after it, and the tape of a model."""
    y, *more, tape = model.forward(x, state=state, **how)
    return y, (more[0] if more else tape.state), tape


def _part(a: Array, axis: int, start: int, stop: int) -> Array:
    """Some steps of an array whose axis of time is the first or the second one."""
    return a[:, start:stop, ...] if axis else a[start:stop, ...]


def check_model(kind: str, model: Any, name: str) -> None:
    """Raise TypeError or ValueError unless a model has a state and runs step after step."""
    if not isinstance(model, Part) or isinstance(model, type) or "state" not in takes(model):
        raise TypeError(
            f"{kind}: {name} is {type(model).__name__}; it must be a layer, or a Sequential"
        )
    check_directions(kind, model, name)
    _check_steps(kind, model, name)


def check_directions(kind: str, part: Any, name: str) -> None:
    """Raise ValueError if a part, or one of its parts, runs in reverse."""
    for word in ("bidirectional", "reverse"):
        if getattr(part, word, False):
            raise ValueError(
                f"{kind}: {name} is {word}, and starts at the end of the sequences; make it with "
                f"{word}=False"
            )
    if isinstance(part, Composite):
        for own, one in part.parts.items():
            check_directions(kind, one, own)


def _check_steps(kind: str, part: Any, name: str) -> None:
    known = takes(part)
    if "lengths" in known and "state" not in known:
        raise ValueError(f"{kind}: {name} needs whole sequences; leave it out")
    if isinstance(part, Composite):
        for own, one in part.parts.items():
            if isinstance(one, Part):  # else it holds weights alone
                _check_steps(kind, one, own)
