"""Runs that keep the states before every k steps alone; backward computes the rest again.

The steps between two such states are a stretch.  Backward goes from the last stretch to the first:
each runs forward again, from the state before it and by the same kernel, and then backward.  So
there are T/k states in memory, and what k steps keep; and every step runs forward once more.

Layers of one direction run each stretch together: of the outputs of lower layers nothing is kept.
With two directions a layer needs all outputs of the one below before it can begin, so there the
layers run one after the other, and the inputs of each are kept.

Sources: Griewank (1992), Optimization Methods and Software 1(1), 35-54; Chen, Xu, Zhang & Guestrin
(2016), arXiv:1604.06174.
"""

from __future__ import annotations

from math import isqrt
from numbers import Integral
from typing import Any, NamedTuple, Protocol, Self

import array_api_compat

from xrnn.cells.noise import Noise
from xrnn.engine import stack as stacks
from xrnn.engine.bound_cell import Pass
from xrnn.engine.stack import Draws, Stack, Whole, dropped
from xrnn.engine.sums import Adding, Sums, adding
from xrnn.recurrence.masks import apply_mask, select_state
from xrnn.recurrence.precision import accumulation_dtype, cast
from xrnn.typing import Array, Checkpoint, Gradients, State


class DrawsOfStretches(Draws, Protocol):
    """The random numbers of a pass, of which those of some steps can be had."""

    def between_steps(self, start: int, stop: int) -> Self: ...


class Run(Protocol):
    """What a run of all layers over a batch keeps for its backward pass."""

    @property
    def passes(self) -> list[Pass]: ...

    @property
    def masks(self) -> list[Array]: ...

    @property
    def few(self) -> int:
        """How many states of each cell are held, if only some are; else 0."""

    def backward(
        self,
        dys: Array | None,
        dlasts: list[State],
        omit_dxs: bool = False,
        sums: list[Adding] | None = None,
    ) -> list[Gradients]:
        """The gradients of every cell; those of the inputs of the first one at least.

        If there are `sums`, one for each cell, they add up the gradients of the weights.
        """


def accept_checkpoint(kind: str, given: Any, name: str = "checkpoint") -> Checkpoint | None:
    """The checked argument `checkpoint`, by the name that it has.

    Raises
    ------
    ValueError
        If it is neither None nor "sqrt" nor an integer ≥ 1.
    """
    if given is None or (isinstance(given, str) and given == "sqrt"):
        return given  # type: ignore[return-value]
    if isinstance(given, bool) or not isinstance(given, Integral) or given < 1:
        raise ValueError(
            f"{kind}: {name} is {given!r:.80}; it must be an integer k ≥ 1, to keep the states "
            'before every k steps, "sqrt" for √T steps, or None to keep what all steps computed'
        )
    return int(given)


def steps_of(checkpoint: Checkpoint, T: int) -> int:
    """k, the number of steps in a stretch.

    >>> steps_of("sqrt", 100), steps_of("sqrt", 101), steps_of(7, 100), steps_of("sqrt", 0)
    (10, 11, 7, 1)
    """
    return isqrt(max(T - 1, 0)) + 1 if checkpoint == "sqrt" else int(checkpoint)


def forward(
    stack: Stack,
    xs: Array,
    firsts: list[State],
    lengths: Array | None,
    *,
    random: DrawsOfStretches | None,
    keep: bool,
    checkpoint: Checkpoint | None,
) -> tuple[Array, list[State], Run | None]:
    """As `stack.forward`; what is kept is one object, or None without `keep`."""
    D = len(stack[0])
    if not keep or checkpoint is None:
        ys, lasts, passes, masks = stacks.forward(
            stack, xs, firsts, lengths, random=random, keep=keep
        )
        return ys, lasts, Whole(passes, masks, D) if keep else None
    k = steps_of(checkpoint, xs.shape[0])
    if D == 1:
        return stretched(stack, xs, firsts, lengths, random, k)
    levels, lasts = [], []
    for n, cells in enumerate(stack):
        level, halves = [], []
        for d, one in enumerate(cells):
            own = None if random is None else _OfCell(random, n, d)
            ys, last, run = stretched([(one,)], xs, [firsts[2 * n + d]], lengths, own, k)
            halves.append(ys)
            lasts += last
            level.append(run)
        xs = cells[0].xp.concat(halves, axis=-1)
        levels.append(level)
        if random is not None and random.dropout and n + 1 < len(stack):
            xs = dropped(xs, random.between(n, xs.shape))
    return xs, lasts, OneByOne(levels, random)


def stretched(
    stack: Stack,
    xs: Array,
    firsts: list[State],
    lengths: Array | None,
    random: DrawsOfStretches | None,
    k: int,
) -> tuple[Array, list[State], Stretched]:
    """Run layers of one direction in stretches of k steps."""
    T = xs.shape[0]
    parts = [slice(t, min(t + k, T)) for t in range(0, max(T, 1), k)]
    if stack[0][0].reverse:
        parts.reverse()
    dtype = _carried(stack, xs, parts)
    run, states = Stretched(stack, xs, lengths, random, []), _cast(firsts, dtype, xs)
    outputs = _Joined(T)
    for part in parts:
        run.stretches.append((part, states))
        ys, states, _, _ = run.forward(part, states, keep=False)
        outputs.put(part, ys)
    return outputs.result(), _cast(states, xs.dtype, xs), run


def _carried(stack: Stack, xs: Array, parts: list[slice]) -> Any:
    """The dtype of the states between stretches: that which is computed in, if all kernels take
    it."""
    sizes = {part.stop - part.start for part in parts}
    kernels = [one.kernel(n, xs.shape[1]) for (one,) in stack for n in sizes]
    wide = all(kernel.adds for kernel in kernels)
    return accumulation_dtype(xs.dtype, xp=stack[0][0].xp) if wide else xs.dtype


def _cast(states: list[State], dtype: Any, xs: Array) -> list[State]:
    xp = array_api_compat.array_namespace(xs)
    return [tuple([cast(part, dtype, xp=xp) for part in state]) for state in states]


class Stretched(NamedTuple):
    """A run of layers of one direction, and the states of all of them before each stretch."""

    stack: Stack
    xs: Array
    lengths: Array | None
    random: DrawsOfStretches | None
    stretches: list[tuple[slice, list[State]]]
    """The steps of each stretch, and the states before it, in the order in which they run"""

    @property
    def passes(self) -> list[Pass]:
        """None are kept.

        Raises
        ------
        ValueError
            Always.
        """
        kind = self.stack[0][0].cell.name
        raise ValueError(
            f"{kind}: the tape was made with checkpoint, and holds only some of the states; give "
            "one that forward made without it"
        )

    @property
    def masks(self) -> list[Array]:
        """The same."""
        return list(self.passes)

    @property
    def few(self) -> int:
        """How many states of each cell are held."""
        return len(self.stretches)

    def forward(
        self, part: slice, states: list[State], keep: bool
    ) -> tuple[Array, list[State], list[Pass], list[Array]]:
        """As `stack.forward`, for one stretch."""
        random, ends, given, xp = self.random, None, states, self.stack[0][0].xp
        if self.lengths is not None:
            # What a sequence without a step in this stretch has as its state must not reach a sum.
            ends = xp.clip(self.lengths - part.start, 0, part.stop - part.start)
            active = (ends > 0)[:, None]
            given = [tuple([apply_mask(active, s, xp=xp) for s in state]) for state in states]
        if random is not None:
            random = random.between_steps(part.start, part.stop)
        ys, lasts, *kept = stacks.forward(
            self.stack, self.xs[part, ...], given, ends, random=random, keep=keep
        )
        if ends is not None:
            pairs = zip(lasts, states, strict=True)
            lasts = [select_state(active, new, old, xp=xp) for new, old in pairs]
            lasts = _cast(lasts, states[0][0].dtype, self.xs)  # as in `apply_mask`
        return ys, lasts, *kept

    def backward(
        self,
        dys: Array | None,
        dlasts: list[State],
        omit_dxs: bool = False,
        sums: list[Adding] | None = None,
    ) -> list[Gradients]:
        """As `Run.backward`."""
        cells, inputs = [one for (one,) in self.stack], _Joined(self.xs.shape[0])
        if sums is None:
            sums = [Sums(one.xp) for one in cells]
        passes: list[Pass] = []
        dlasts = _cast(dlasts, self.stretches[0][1][0][0].dtype, self.xs)
        for part, states in reversed(self.stretches):
            passes.clear()  # before the next ones are made
            _, _, passes, masks = self.forward(part, states, keep=True)
            ds = None if dys is None else dys[part, ...]
            run = adding(passes, sums)
            found = stacks.backward(passes, masks, 1, ds, dlasts, run, omit_dxs=omit_dxs)
            dlasts = [dfirst for _, dfirst, _ in found]
            if not omit_dxs:
                inputs.put(part, found[0][0])
        totals = [total.total(one) for total, one in zip(sums, passes, strict=True)]
        dxs = [None if omit_dxs else inputs.result(), *[None] * (len(cells) - 1)]
        return list(zip(dxs, _cast(dlasts, self.xs.dtype, self.xs), totals, strict=True))


class OneByOne(NamedTuple):
    """A run of layers of two directions, one layer after the other."""

    levels: list[list[Stretched]]
    random: DrawsOfStretches | None

    @property
    def passes(self) -> list[Pass]:
        """As `Stretched.passes`."""
        return self.levels[0][0].passes

    @property
    def masks(self) -> list[Array]:
        """The same."""
        return list(self.passes)

    @property
    def few(self) -> int:
        """As `Stretched.few`."""
        return self.levels[0][0].few

    def backward(
        self,
        dys: Array | None,
        dlasts: list[State],
        omit_dxs: bool = False,
        sums: list[Adding] | None = None,
    ) -> list[Gradients]:
        """As `Run.backward`."""
        found: list[Gradients] = []
        for k in reversed(range(len(self.levels))):
            level, ds, random = self.levels[k], dys, self.random
            n, omitted, two = level[0].stack[0][0].widths[0], omit_dxs and k == 0, []
            for d, run in enumerate(level):
                half = None if ds is None else ds[..., d * n : (d + 1) * n]
                own = None if sums is None else [sums[2 * k + d]]
                two.append(run.backward(half, [dlasts[2 * k + d]], omitted, own))
            if not omitted:
                dys = two[0][0][0] + two[1][0][0]
                if k and random is not None and random.dropout:
                    dys = dropped(dys, random.between(k - 1, dys.shape))
            found = [one for (one,) in two] + found
        return [(None if omit_dxs else dys, *found[0][1:]), *found[1:]]


class _OfCell(NamedTuple):
    """The random numbers of the cell of layer k in direction d, which runs alone."""

    random: DrawsOfStretches
    k: int
    d: int

    @property
    def dropout(self) -> float:
        return 0.0

    @property
    def weight_drop(self) -> float:
        return self.random.weight_drop

    def between(self, k: int, shape: tuple[int, int, int]) -> Array:
        return self.random.between(self.k, shape)

    def of_cell(self, noise: Noise, k: int, d: int, shape: tuple[int, int, int]) -> Array:
        return self.random.of_cell(noise, self.k, self.d, shape)

    def over_weights(self, k: int, d: int, shape: tuple[int, int]) -> Array:
        return self.random.over_weights(self.k, self.d, shape)

    def between_steps(self, start: int, stop: int) -> _OfCell:
        return self._replace(random=self.random.between_steps(start, stop))


class _Joined:
    """An array (T, B, n) that is made of parts of it: in place, where the library can write."""

    def __init__(self, T: int) -> None:
        self._T = T
        self._whole: Array = None
        self._parts: list[tuple[slice, Array]] = []

    def put(self, part: slice, a: Array) -> None:
        if part.stop - part.start == self._T or self._parts or not self._written(part, a):
            self._parts.append((part, a))

    def _written(self, part: slice, a: Array) -> bool:
        """Write a part in place; False if the library cannot."""
        if self._whole is None:
            xp = array_api_compat.array_namespace(a)
            shape, where = (self._T, *a.shape[1:]), array_api_compat.device(a)
            self._whole = xp.empty(shape, dtype=a.dtype, device=where)
        try:
            self._whole[part, ...] = a
        except TypeError:  # that of JAX, and of dual numbers
            self._whole = None
            return False
        return True

    def result(self) -> Array:
        if self._whole is not None:
            return self._whole
        arrays = [a for _, a in sorted(self._parts, key=lambda one: one[0].start)]
        xp = array_api_compat.array_namespace(*arrays)
        return xp.concat(arrays) if len(arrays) > 1 else arrays[0]
