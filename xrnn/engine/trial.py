"""What a kernel is compared with its cell on: random arguments, and how far results may differ.

The arguments are such that a right kernel passes and a wrong one does not, whatever the sizes:

- A recurrence must forget what is rounded.  So the entries of a matrix with n columns have the
  standard deviation 0.3 · min(1, 4 / √n).  A sum of n products then has at most 1.2 times the size
  of its inputs, and activations, whose slopes are on average below 0.65 there, make that less than
  0.8 in a step.  With 0.3 for every n the recurrence of a wide layer is chaotic.  The activation
  functions of cells with options may be unbounded and steeper: for these it is half of that,
  divided by the largest slope.
- Rounding must not decide on which side of a kink a pre-activation lies, see `_away_from_kinks`.
  The options of a cell may put its kinks anywhere: then arguments are drawn up to `DRAWS` times.  A
  wrong kernel is far from its cell at each draw, a right one only where rounding decides.
- Where products are of bfloat16 or of integers, a kernel and its cell differ in the last bits of
  float32 alone, unless these decide to which of two neighbours a number is rounded, one of which is
  2^-7 of it away (of integers: of the largest of its row).  In about half of all draws, or more,
  that happens nowhere: so arguments are drawn up to `ROUNDED_DRAWS` times, and the tolerance is
  that of float32.  A kernel that rounds otherwise, or not at all, is far from its cell each time.

`tolerance` is derived from that.
"""

from __future__ import annotations

from copy import copy
from math import sqrt
from typing import Any

from xrnn.backends import Backend, Kernel, Sizes, host
from xrnn.cells.activations import steepness
from xrnn.cells.base import Cell
from xrnn.cells.zoneout import Zoneout
from xrnn.recurrence import per_sample
from xrnn.recurrence.precision import cast, widen
from xrnn.recurrence.quantised import Quantised, quantised
from xrnn.typing import (
    Array,
    BothDirections,
    Gradients,
    Sequence,
    State,
    Weights,
    dtype_name,
)

#: kind of arithmetic → the largest relative error of one rounding of what is stored or multiplied;
#: the names are those of dtypes, and "tf32" for float32 that products round to 10 bits
ROUNDING = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "tf32": 2.0**-11,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}

#: roundings that add up in one result, see `tolerance`
ROUNDINGS = 8

#: how often arguments are drawn at most
DRAWS = 8

#: the same for products of bfloat16 and of integers
ROUNDED_DRAWS = 24

#: the size of the pre-activations of a cell with a kink
AWAY = 8.0


def tolerance(cell: Cell[Any], dtype: Any, precision: str, sizes: Sizes) -> float:
    """The accepted difference of a kernel from its cell, relative to the largest value.

    A step rounds what a product multiplies, or what it stores, each time by up to u
    (`ROUNDING`) of the value.  Two such errors reach a result from each step: those of the state
    and of the gates, or those of both factors.  A step passes on less than 0.8 of an error (see
    above), so all steps together count as 1 / (1 - 0.8) = 5 of them: at most 10 u.  Errors have
    either sign, and few have their full size: `ROUNDINGS` = 8 are allowed, twice to five times
    what was found for right kernels.

    Sums of n products are computed in float32, or in float64 for float64, by the kernel and by the
    cell; their errors, too, have either sign, and grow as √n.  The longest are over units and gates
    (backward), inputs (forward) or steps and sequences (gradients of weights).

    As errors are relative to the largest value, digits of the small values of an activation are
    not looked at: they may cancel in a right kernel's sums.  Tests of each kernel look at σ alone.
    """
    name = precision if precision == "tf32" else dtype_name(dtype)
    sums = ROUNDING["float64" if name == "float64" else "float32"]
    T, B, I, H = sizes
    longest = max(len(cell.gates) * H, I, T * B)
    return ROUNDINGS * (ROUNDING[name] + 2 * sqrt(longest) * sums)


def draws(cell: Cell[Any], precision: str = "ieee") -> int:
    """How often arguments may be drawn for a cell until a kernel is near to it."""
    if precision in ("bf16", "int8"):
        return ROUNDED_DRAWS
    return 1 if cell.made is None else DRAWS


def _size(cell: Cell[Any]) -> float:
    """The standard deviation of the entries of small matrices, see above."""
    options = cell.made
    if options is None:
        return 0.3
    if isinstance(options, Zoneout):
        return _size(options.cell)
    return 0.15 / max(map(steepness, options.activations))


class Trial:
    """Random arguments for one cell, and the results of a sequence kernel on them.

    `draw` is the number of these arguments, from 0 on.
    """

    def __init__(
        self, backend: Backend, cell: Cell[Any], dtype: Any, sizes: Sizes, draw: int = 0
    ) -> None:
        self.backend, self.xp, self.dtype = backend, backend.xp, dtype
        T, B, I, H = sizes
        rng = host.generator(draw)
        #: lengths of the sequences, 0 among them
        self.lengths = [(T, 0, min(2, T))[b % 3] for b in range(B)]
        size = _size(cell)
        weights = {
            name: rng.normal(size=shape)
            * (size * min(1.0, 4 / sqrt(shape[-1] if shape[1:] else 1)))
            for name, shape in cell.shapes(I, H).items()
        }
        widths = cell.widths(H)
        xs, dys = rng.normal(size=(T, B, I)), rng.normal(size=(T, B, widths[0]))
        # The kinks of options may be anywhere, and few values come near to them: see `draws`.
        if not cell.analytic and cell.made is None:
            _away_from_kinks(weights, xs, rng)
        self.weights = {name: self._array(w) for name, w in weights.items()}
        self.xs, self.dys = self._array(xs), self._array(dys)
        self.state, self.dstate = (
            tuple(self._array(rng.normal(size=(B, width))) for width in widths) for _ in range(2)
        )

    def _array(self, values: Array) -> Array:
        """An array of the library in the dtype (not all libraries have float64)."""
        kind = "float64" if dtype_name(self.dtype) == "float64" else "float32"
        return self.xp.astype(self.backend.from_host(values.astype(kind)), self.dtype)

    def results(
        self, sequence: Sequence, lengths: list[int] | None, reverse: bool, wide: bool = False
    ) -> list[Array]:
        """All results of forward and backward passes, as NumPy arrays.

        With `wide` those of 16 bits are computed in float32, so that the kernel's errors alone
        count.
        """
        kind = self.dtype
        if wide and dtype_name(kind) in ("float16", "bfloat16"):
            kind = self.xp.float32
        weights, xs, dys, first, dlast = self._as(kind)
        how: Any = {"lengths": self._lengths(lengths), "reverse": reverse, "xp": self.xp}
        ys, last, residuals = sequence.forward(weights, xs, first, keep=True, **how)
        gradients = [
            sequence.backward(weights, residuals, d, dlast, xp=self.xp) for d in (dys, None)
        ]
        inference = sequence.forward(weights, xs, first, keep=False, **how)
        return self._on_host((ys, last), inference, gradients)

    def with_integers(self) -> Trial:
        """The same arguments with weights of 8 bits, for `inference`."""
        other = copy(self)
        other.weights = {
            name: Quantised(*quantised(w, xp=self.xp), wide=name == "W") if name in "WUP" else w
            for name, w in self.weights.items()
        }
        return other

    def inference(
        self, sequence: Sequence, lengths: list[int] | None, reverse: bool
    ) -> list[Array]:
        """The results of a pass that keeps nothing, as NumPy arrays."""
        how: Any = {"lengths": self._lengths(lengths), "reverse": reverse, "xp": self.xp}
        ys, last, _ = sequence.forward(self.weights, self.xs, self.state, keep=False, **how)
        return [self.backend.to_host(a) for a in (ys, *last)]

    def inference_of_both(
        self, both: BothDirections, lengths: list[int] | None
    ) -> list[list[Array]]:
        """The same for each direction, by a kernel that runs the two at once."""
        passes: list[tuple[Weights, State, bool]] = [
            (self.weights, self.state, reverse) for reverse in (False, True)
        ]
        how: Any = {"lengths": self._lengths(lengths), "xp": self.xp}
        found = both.forward_both(passes, self.xs, keep=False, **how)
        return [[self.backend.to_host(a) for a in (ys, *last)] for ys, last, _ in found]

    def results_of_both(self, both: BothDirections, lengths: list[int] | None) -> list[list[Array]]:
        """The same for each direction, by a kernel that runs the two at once."""
        weights, xs, dys, first, dlast = self._as(self.dtype)
        passes = [(weights, first, reverse) for reverse in (False, True)]
        how: Any = {"lengths": self._lengths(lengths), "xp": self.xp}
        kept = both.forward_both(passes, xs, keep=True, **how)
        gradients = [
            both.backward_both([(weights, r, d, dlast) for _, _, r in kept], xp=self.xp)
            for d in (dys, None)
        ]
        inference = both.forward_both(passes, xs, keep=False, **how)
        return [
            self._on_host(kept[n][:2], inference[n], [found[n] for found in gradients])
            for n in range(2)
        ]

    def of_each(self, kernel: Kernel, lengths: list[int] | None, reverse: bool) -> list[Array]:
        """The gradients of the weights for each sequence, by a kernel's contributions."""
        assert kernel.contributions is not None
        weights, xs, dys, first, dlast = self._as(self.dtype)
        how: Any = {"lengths": self._lengths(lengths), "reverse": reverse, "xp": self.xp}
        residuals = kernel.sequence.forward(weights, xs, first, keep=True, **how)[2]
        dxs, dfirst, parts = kernel.contributions(weights, residuals, dys, dlast, xp=self.xp)
        gradients = [
            per_sample.gradients(parts[name], tuple(weights[name].shape), xp=self.xp)
            for name in sorted(weights)
        ]
        return [self.backend.to_host(a) for a in (dxs, *dfirst, *gradients)]

    def results_in_stretches(
        self, sequence: Sequence, lengths: list[int] | None, reverse: bool
    ) -> list[Array]:
        """The same by a kernel that adds up the gradients of stretches (`Kernel.adds`), of two."""
        xp, T = self.xp, self.xs.shape[0]
        weights, xs, dys, first, dlast = self._as(self.dtype)
        state, dlast = (tuple(widen(s, xp=xp) for s in one) for one in (first, dlast))
        halves = [slice(0, T // 2), slice(T // 2, T)]
        outputs, residuals = [], []
        for part in halves[::-1] if reverse else halves:
            n = part.stop - part.start
            own = lengths and [min(max(length - part.start, 0), n) for length in lengths]
            how: Any = {"lengths": self._lengths(own), "reverse": reverse, "xp": xp}
            ys, state, kept = sequence.forward(weights, xs[part, ...], state, keep=True, **how)
            outputs.append(ys)
            residuals.append((part, kept))
        ys = xp.concat(outputs[::-1] if reverse else outputs)
        last, gradients = tuple(cast(s, self.dtype, xp=xp) for s in state), []
        for given in (dys, None):
            dxs, d = [], dlast
            onto: Any = {"onto": None}
            for part, kept in reversed(residuals):
                dy = None if given is None else given[part, ...]
                dx, d, onto["onto"] = sequence.backward(weights, kept, dy, d, xp=xp, **onto)
                dxs.append(dx)
            named = {name: cast(a, self.dtype, xp=xp) for name, a in onto["onto"].items()}
            dfirst = tuple(cast(s, self.dtype, xp=xp) for s in d)
            gradients.append((xp.concat(dxs if reverse else dxs[::-1]), dfirst, named))
        return self._on_host((ys, last), (ys, last), gradients)

    def _as(self, kind: Any) -> tuple[Any, ...]:
        """Weights, inputs, their gradient, states and their gradient in a dtype."""
        cast = self.xp.astype
        weights = {name: cast(a, kind) for name, a in self.weights.items()}
        first, dlast = (tuple(cast(a, kind) for a in s) for s in (self.state, self.dstate))
        return weights, cast(self.xs, kind), cast(self.dys, kind), first, dlast

    def _lengths(self, lengths: list[int] | None) -> Array | None:
        return None if lengths is None else self.xp.asarray(lengths, dtype=self.xp.int64)

    def _on_host(self, kept: Any, inference: Any, gradients: list[Gradients]) -> list[Array]:
        found = [kept[0], *kept[1], inference[0], *inference[1]]
        for dxs, dfirst, dweights in gradients:
            found += [dxs, *dfirst, *(dweights[k] for k in sorted(self.weights))]
        return [self.backend.to_host(a) for a in found]

    def one_step(self, kernel: Kernel, weights: Any = None) -> list[Array]:
        """The state after a sequence of one step."""
        _, last, _ = kernel.sequence.forward(
            self.weights if weights is None else weights,
            self.xs[:1, ...],
            self.state,
            lengths=None,
            reverse=False,
            keep=False,
            xp=self.xp,
        )
        return [self.backend.to_host(a) for a in last]

    def stepped(self, kernel: Kernel) -> list[list[Array]]:
        """The state after one step, by `Stepping.step` and by sequences with prepared weights."""
        assert kernel.stepping is not None
        both = [kernel.stepping.prepare(self.weights, fixed=fixed) for fixed in (False, True)]
        states = [kernel.stepping.step(w, self.xs[0, ...], self.state) for w in both]
        steps = [[self.backend.to_host(a) for a in state] for state in states]
        return [*steps, *(self.one_step(kernel, w) for w in both)]


def _away_from_kinks(weights: dict[str, Array], xs: Array, rng: Any) -> None:
    """Change the arguments in place so that all pre-activations lie near ±`AWAY`.

    The first input is 1 and -1 in turn and decides the sign: units of one half are positive at the
    one, those of the other half at the other, so every unit is on both sides.  The rows of U sum up
    to 0 over each half, so that states near `AWAY` cancel: else U h could be larger than W x.  What
    is left of a pre-activation has a standard deviation of 1.4 with few inputs, at most 1.8.
    (In a cell with a projection P it is P that takes the units.)
    """
    after = weights.get("P", weights.get("U"))
    H = weights["W"].shape[0] if after is None else after.shape[1]
    half = rng.permutation(H) % 2 == 0
    signs = host.xp.where(half, 1.0, -1.0)
    weights["W"][:, 0] = AWAY * host.xp.resize(signs, weights["W"].shape[0])
    turn = host.xp.indices(xs.shape[:2]).sum(0) % 2
    xs[..., 0] = 1.0 - 2.0 * turn
    for part in (half, ~half):
        if after is not None and part.any():
            after[:, part] -= after[:, part].mean(1, keepdims=True)
