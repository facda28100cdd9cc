"""One cell with its checked weights and the kernels chosen for it, and its passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, NamedTuple

from xrnn.backends import Kernel
from xrnn.cells.base import Cell
from xrnn.engine.checks import Placement
from xrnn.engine.forms import check_forms
from xrnn.engine.select import decide, own_loop
from xrnn.recurrence.bfloat16 import check_library
from xrnn.recurrence.loop import Residuals, Trace
from xrnn.recurrence.precision import cast, widen
from xrnn.recurrence.quantised import real
from xrnn.recurrence.storage import narrowed, rounding, widened
from xrnn.typing import Array, Contribution, Gradients, State, Weights

#: (x, state) → the state after one step
Stepper = Callable[[Array, State], State]

#: the number of sizes (T, B) for which the choice of a kernel is remembered
REMEMBERED = 256


class BoundCell:
    """One cell with its weights, in one direction.

    Parameters
    ----------
    cell : Cell
        The cell.
    weights : mapping of str to array
        All weights of the cell, checked and dense; or `xrnn.engine.compact.Made`, whose arrays are
        made at each access.
    placement : Placement
        Their library, device and dtype.
    given : tuple of str
        The names of the weights whose gradients are returned.  (Biases that the user left out
        are zeros in `weights` and are not among them.)
    precision : {"ieee", "tf32", "bf16", "int8"}
        As for `xrnn.unroll`; "int8" where the matrices are no arrays but of
        `xrnn.recurrence.quantised`.
    reverse : bool
        Whether sequences run from their end to their start.
    frozen : bool
        Whether the weights never change, so that a kernel can keep them in its own layout.
    """

    def __init__(
        self,
        cell: Cell[Any],
        weights: Weights,
        placement: Placement,
        *,
        given: tuple[str, ...],
        precision: str = "ieee",
        reverse: bool = False,
        frozen: bool = False,
    ) -> None:
        self.cell, self.weights, self.placement, self.given = cell, weights, placement, given
        self.precision, self.reverse, self.frozen = precision, reverse, frozen
        rows, self.I = weights["W"].shape
        self.H: int = rows // len(cell.gates)
        #: the number of values of each state; h is first
        self.widths = cell.widths(self.H)
        self._chosen: dict[tuple[int, int], Kernel] = {}
        self._prepared: dict[Kernel | None, Weights] = {}
        self.xp = placement.backend.xp

    def __reduce__(self) -> Any:
        how: Any = {"given": self.given, "precision": self.precision, "reverse": self.reverse}
        given = (self.cell, self.weights, self.placement)
        return partial(BoundCell, **how, frozen=self.frozen), given

    def fingerprint(self) -> tuple[Any, ...]:
        """A value that is another one after a weight was changed in place."""
        return tuple(map(self.placement.backend.fingerprint, self.weights.values()))

    def rebound(self, weights: Weights) -> BoundCell:
        """The same cell with new values of its weights; choices of kernels are kept."""
        # Not by `copy`, which makes it anew as a pickle does: this is done at every update.
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, weights=weights, _prepared={})
        return bound

    def kernel(self, T: int, B: int) -> Kernel:
        """The kernel that runs T steps of B sequences."""
        found = self._chosen.get((T, B))
        if found is None:
            sizes = (T, B, self.I, self.H)
            found, final = decide(
                self.placement.backend, self.cell, sizes, self.placement.dtype, self.precision
            )
            if not found.dtypes:  # the cell's own code
                weights = real(self._arrays())
                if not self.placement.backend.computes(self.placement.dtype):
                    weights = widened(weights, xp=self.xp)
                check_forms(self.cell, weights, xp=self.xp)
                if self.precision == "bf16":
                    check_library(self.cell.name, weights["W"], xp=self.xp)
            if not final:
                return found
            if len(self._chosen) >= REMEMBERED:
                self._chosen.clear()
            self._chosen[T, B] = found
        return found

    def settled(self, T: int, B: int) -> bool:
        """Whether the kernel for T steps of B sequences is chosen and stays so."""
        return (T, B) in self._chosen

    def weights_for(self, kernel: Kernel) -> Weights:
        """The weights in the form that a kernel takes; they are prepared once and kept."""
        if kernel.stepping is None:
            return self._arrays()
        found = self._prepared.get(kernel)
        if found is None:
            found = kernel.stepping.prepare(self.weights, fixed=self.frozen)
            self._prepared[kernel] = found
        return found

    def _arrays(self) -> Weights:
        """The weights as arrays that are there, for kernels that take them as they are."""
        if isinstance(self.weights, dict):
            return self.weights
        found = self._prepared.get(None)
        if found is None:
            found = self._prepared[None] = dict(self.weights)
        return found

    def run(
        self,
        xs: Array,
        first: State,
        lengths: Array | None,
        keep: bool,
        drawn: Drawn | None = None,
    ) -> tuple[Array, State, Pass | None]:
        """Run sequences (T, B, I); with ``keep=False`` nothing is kept for backward.

        Returns ys (T, B, n), the last state, and the pass or None.
        """
        T, B, _ = xs.shape
        bound: BoundCell = self
        how: dict[str, Any] = {}
        if drawn is not None and drawn.over_U is not None:
            bound = self.rebound({**self.weights, "U": self.weights["U"] * drawn.over_U})
        if drawn is not None and drawn.noise:
            how["noise"] = drawn.noise
        kernel = bound.kernel(T, B)
        weights = bound.weights_for(kernel)
        how |= {"lengths": lengths, "reverse": bound.reverse, "keep": keep, "xp": bound.xp}
        ys, last, residuals = kernel.sequence.forward(weights, xs, first, **how)
        if not keep:
            return ys, last, None
        return ys, last, Pass(bound, kernel, weights, xs, first, lengths, residuals, drawn)

    def stepper(self, B: int) -> Stepper | None:
        """The function that runs one step, see `xrnn.typing.Stepping.step`; None if the kernel
        has none."""
        kernel = self.kernel(1, B)
        if kernel.stepping is None:
            return None
        return partial(kernel.stepping.step, self.weights_for(kernel))

    def step(self, x: Array, state: State) -> State:
        """The state after one step, computed as a sequence of length 1."""
        return self.run(x[None, ...], state, None, False)[1]


class Drawn(NamedTuple):
    """The random numbers of one pass of a cell."""

    noise: Weights
    """What the cell draws (`Cell.noise`), by name"""
    over_U: Array | None
    """A mask by which U is multiplied"""


class Pass(NamedTuple):
    """One forward pass of a bound cell: its arguments and the residuals for backward."""

    bound: BoundCell
    kernel: Kernel
    weights: Weights
    xs: Array
    first: State
    lengths: Array | None
    residuals: Any
    drawn: Drawn | None = None

    def __reduce__(self) -> Any:
        """Without what the kernel made: residuals and prepared weights have forms of its own, and
        where this is copied to, another kernel may serve.  It runs forward again there."""
        return _run_again, (self.bound, self.xs, self.first, self.lengths, self.drawn)

    def named(self, dweights: Mapping[str, Array]) -> dict[str, Array]:
        """The gradients of the weights that were given."""
        found = {name: dweights[name] for name in self.bound.given}
        if self.drawn is not None and self.drawn.over_U is not None:
            found["U"] = found["U"] * self.drawn.over_U
        return found

    def computed(self) -> Pass:
        """The pass as the cell's own code computes it: in float32, if the library does not compute
        in the dtype of the arrays."""
        bound, xp = self.bound, self.bound.xp
        if bound.placement.backend.computes(self.xs.dtype):
            return self
        wide = copy(bound)
        wide.cell = rounding(bound.cell, self.xs.dtype)
        wide.weights = widened(bound.weights, xp=xp)
        first = tuple(widen(s, xp=xp) for s in self.first)
        return self._replace(bound=wide, xs=widen(self.xs, xp=xp), first=first)

    def replay(self) -> tuple[Residuals, list[State]]:
        """Run the pass again by the cell's own code: its residuals, the state after each step."""
        one, trace = self.computed(), Trace()
        bound = one.bound
        _, _, residuals = own_loop(bound.cell, bound.precision).forward(
            bound.weights,
            one.xs,
            one.first,
            lengths=self.lengths,
            reverse=bound.reverse,
            keep=True,
            xp=bound.xp,
            noise=self.drawn and widened(self.drawn.noise, xp=bound.xp),
            trace=trace,
        )
        assert residuals is not None
        return residuals, [trace.states[t] for t in range(len(residuals.steps))]

    def traced_backward(
        self, dys: Array | None, dstate: State
    ) -> tuple[Gradients, Trace, Residuals]:
        """The backward pass by the cell's own code, with the gradients at each step."""
        bound, trace, xp = self.computed().bound, Trace(), self.bound.xp
        residuals, given = self.replay()[0], self._as_computed(dys, dstate)
        loop = own_loop(bound.cell, bound.precision)
        found = loop.backward(bound.weights, residuals, *given, xp=xp, trace=trace)
        dxs, dfirst, dweights = narrowed(found, self.xs.dtype, xp=xp)
        return (dxs, dfirst, self.named(dweights)), trace, residuals

    def contributions(
        self, dys: Array | None, dstate: State
    ) -> tuple[Array, State, dict[str, Contribution]]:
        """The backward pass; instead of the gradients of the weights what every step of every
        sequence adds to them, (T, B, n), in the dtype of computations.  The cell's own code runs,
        unless the kernel tells these."""
        xp, dtype = self.bound.xp, self.xs.dtype
        if self.kernel.contributions is not None:
            return self.kernel.contributions(self.weights, self.residuals, dys, dstate, xp=xp)
        bound, (residuals, _) = self.computed().bound, self.replay()
        dxs, dfirst, parts = own_loop(bound.cell, bound.precision).contributions(
            bound.weights, residuals, *self._as_computed(dys, dstate), xp=xp
        )
        pairs = zip(dfirst, dstate, strict=True)
        return cast(dxs, dtype, xp=xp), tuple(cast(d, s.dtype, xp=xp) for d, s in pairs), parts

    def _as_computed(self, dys: Array | None, dstate: State) -> tuple[Array | None, State]:
        """Gradients in the dtype of computations."""
        xp = self.bound.xp
        if self.bound.placement.backend.computes(self.xs.dtype):
            return dys, dstate
        wide = None if dys is None else widen(dys, xp=xp)
        return wide, tuple(widen(d, xp=xp) for d in dstate)


def _run_again(
    bound: BoundCell, xs: Array, first: State, lengths: Array | None, drawn: Drawn | None
) -> Pass:
    """A pass from its copy or pickle, whose U has been multiplied by its mask already."""
    noise = None if drawn is None else drawn._replace(over_U=None)
    found = bound.run(xs, first, lengths, True, noise)[2]
    assert found is not None
    return found._replace(drawn=drawn)


def run_both(
    cells: tuple[BoundCell, ...],
    xs: Array,
    firsts: list[State],
    lengths: Array | None,
    keep: bool,
    drawn: list[Drawn | None],
) -> list[tuple[Array, State, Pass | None]]:
    """Run the two directions over the same inputs; together, if the kernel supports that."""
    T, B, _ = xs.shape
    kernels = [cell.kernel(T, B) for cell in cells]
    kernel = kernels[0]
    if kernel.both is None or kernels[1] is not kernel or drawn != [None, None]:
        given = zip(cells, firsts, drawn, strict=True)
        return [cell.run(xs, first, lengths, keep, own) for cell, first, own in given]
    weights = [cell.weights_for(kernel) for cell in cells]
    ways = [cell.reverse for cell in cells]
    passes = list(zip(weights, firsts, ways, strict=True))
    results = kernel.both.forward_both(passes, xs, lengths=lengths, keep=keep, xp=cells[0].xp)
    found: list[tuple[Array, State, Pass | None]] = []
    for cell, w, first, (ys, last, residuals) in zip(cells, weights, firsts, results, strict=True):
        one = Pass(cell, kernel, w, xs, first, lengths, residuals) if keep else None
        found.append((ys, last, one))
    return found


def backward(
    passes: list[Pass], dys: list[Array | None], dlasts: list[State], omit_dxs: bool = False
) -> list[Gradients]:
    """The gradients of one pass, or of the two directions over the same inputs.

    With `omit_dxs` that of the inputs is not needed: kernels that can leave it out give None.
    """
    xp, both = passes[0].bound.xp, passes[0].kernel.both
    how: Any = {"omit_dxs": True} if omit_dxs and passes[0].kernel.omits_dxs else {}
    if (
        both is not None
        and len(passes) == 2
        and passes[1].kernel is passes[0].kernel
        and passes[0].drawn is None
    ):
        parts = zip(passes, dys, dlasts, strict=True)
        every = [(p.weights, p.residuals, dy, dlast) for p, dy, dlast in parts]
        results = both.backward_both(every, xp=xp, **how)
    else:
        results = []
        for p, dy, dlast in zip(passes, dys, dlasts, strict=True):
            how = {"omit_dxs": True} if omit_dxs and p.kernel.omits_dxs else {}
            given = (p.weights, p.residuals, dy, dlast)
            results.append(p.kernel.sequence.backward(*given, xp=xp, **how))
    return [
        (dxs, dfirst, p.named(dweights))
        for p, (dxs, dfirst, dweights) in zip(passes, results, strict=True)
    ]
