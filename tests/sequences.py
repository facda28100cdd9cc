"""The one comparison of sequence kernels with their cells: cases, results, comparators.

A `Case` holds what one pass is given.  `run` gives the results of a kernel by name, and
`reference` those of the cell's own loop in float64 on the same values.  `close` compares two
sets of results relative to their largest values, `same` bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from xrnn.backends import Backend
from xrnn.backends.host import named_dtype
from xrnn.cells import Cell
from xrnn.cells.noise import Noise
from xrnn.recurrence.loop import Loop
from xrnn.typing import Array, dtype_name

AnyCell: TypeAlias = Cell

#: name → array: "ys", "last h", "dxs", "dfirst h", "dW" and so on
Results = dict[str, Array]


@dataclass
class Case:
    """One pass: a cell, sizes (T, B, I, H), how it is run, and random arrays for it.

    Weights are so small that a recurrence forgets what is rounded.  The pre-activations of a
    cell with a kink at 0 stay away from it, because there rounding would decide which side is
    taken.  What stands past the end of a sequence is `padding`.  With `draws`, what the cell draws
    in training is in `drawn`.
    """

    cell: AnyCell
    sizes: tuple[int, int, int, int] = (5, 3, 4, 16)
    dtype: str = "float64"
    lengths: Sequence[int] | None = None
    reverse: bool = False
    seed: int = 2
    gain: float = 1.0
    padding: float = float("nan")
    draws: bool = False
    drawn: dict[str, Array] = field(init=False)
    weights: dict[str, Array] = field(init=False)
    xs: Array = field(init=False)
    dys: Array | None = field(init=False)
    state: tuple[Array, ...] = field(init=False)
    dstate: tuple[Array, ...] = field(init=False)

    def __post_init__(self) -> None:
        (T, B, I, H), kind = self.sizes, named_dtype(self.dtype)
        rng = np.random.default_rng([self.seed, *self.sizes])
        weights = {
            name: rng.uniform(-1, 1, shape) * self.gain * (shape[-1] ** -0.5 if shape[1:] else 0.4)
            for name, shape in self.cell.shapes(I, H).items()
        }
        widths = self.cell.widths(H)
        xs, dys = rng.normal(size=(T, B, I)), rng.normal(size=(T, B, widths[0]))
        if not self.cell.analytic and self.cell.made is None:
            self._stay_away_from_the_kink(weights, xs)
        self.weights = {name: w.astype(kind) for name, w in weights.items()}
        self.xs, self.dys = xs.astype(kind), dys.astype(kind)
        self.state, self.dstate = (
            tuple(rng.normal(size=(B, n)).astype(kind) for n in widths) for _ in range(2)
        )
        self.drawn = {
            noise.name: drawn(noise, rng, (T, B, widths[noise.state])).astype(kind)
            for noise in (self.cell.noise if self.draws else ())
        }
        if self.lengths is not None:
            past = self.past_the_end()
            for a in (self.xs, self.dys, *(a for a in self.drawn.values() if a.ndim == 3)):
                a[past] = self.padding

    def _stay_away_from_the_kink(self, weights: dict[str, Array], xs: Array) -> None:
        """The first input is ±1 and decides the sign of all sums."""
        for name, w in weights.items():
            w *= 0.5 if name == "U" else 0.3
        xs[..., 0] = np.sign(xs[..., 0])
        weights["W"][:, 0] = 4 * self.gain * np.sign(weights["W"][:, 0])

    def past_the_end(self) -> Array:
        """(T, B): where a sequence has ended."""
        T, B, _, _ = self.sizes
        lengths = [T] * B if self.lengths is None else self.lengths
        return np.arange(T)[:, None] >= np.asarray(lengths)

    def with_lengths(self, backend: Backend | None = None) -> Any:
        """The lengths as kernels take them."""
        if self.lengths is None:
            return None
        xp: Any = np if backend is None else backend.xp
        return xp.asarray(list(map(int, self.lengths)), dtype=xp.int64)

    def given(self) -> dict[str, Array]:
        """Every array that goes in, by name."""
        named = {"xs": self.xs} | ({} if self.dys is None else {"dys": self.dys})
        for name, a, d in zip(self.cell.states, self.state, self.dstate, strict=True):
            named |= {f"first {name}": a, f"dlast {name}": d}
        return named | {f"drawn {name}": a for name, a in self.drawn.items()} | self.weights

    def mapped(self, change: Any) -> Case:
        """The same case with each array a as change(a)."""
        other = copy.copy(self)
        other.weights = {name: change(w) for name, w in self.weights.items()}
        other.drawn = {name: change(a) for name, a in self.drawn.items()}
        other.xs, other.dys = change(self.xs), None if self.dys is None else change(self.dys)
        other.state, other.dstate = (tuple(map(change, s)) for s in (self.state, self.dstate))
        return other

    def copied(self) -> Case:
        """The same case with arrays of its own."""
        return self.mapped(np.copy)

    def sequence(self, b: int) -> Case:
        """The b-th sequence alone."""
        T, _, I, H = self.sizes
        weights, one = self.weights, slice(b, b + 1)
        alone = self.mapped(lambda a: np.ascontiguousarray(a[..., one, :]) if a.ndim > 1 else a)
        alone.sizes, alone.weights = (T, 1, I, H), weights
        alone.lengths = None if self.lengths is None else list(self.lengths)[one]
        return alone

    def opposite(self) -> Case:
        """The other direction of a layer: the same inputs, everything else drawn anew."""
        other = replace(self, reverse=not self.reverse, seed=self.seed + 1)
        other.xs = self.xs
        return other


def drawn(noise: Noise, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """What a cell draws under one name, for T steps of B sequences of n units."""
    dropped = rng.random(shape if noise.each_step else shape[1:]) < noise.rate
    return dropped.astype(float) if noise.kind == "keep" else ~dropped / (1 - noise.rate)


def some_lengths(T: int, B: int, start: int = 0) -> list[int]:
    """A length for each sequence: whole, empty, half and one less than whole, in turn."""
    return [(T, 0, T // 2, max(T - 1, 0))[(b + start) % 4] for b in range(B)]


def variants(case: Case, start: int = 0) -> Iterator[Case]:
    """The case in both directions, with and without lengths."""
    T, B, _, _ = case.sizes
    for reverse in (False, True):
        for lengths in (None, some_lengths(T, B, start)):
            yield replace(case, reverse=reverse, lengths=lengths)


# ---- running -----------------------------------------------------------------------------


def forward(kernel: Any, case: Case, *, keep: bool = True, backend: Backend | None = None) -> Any:
    """What the kernel's forward gives: ys, the last state, residuals.

    `kernel` is an entry of a table (`xrnn.backends.Kernel`), or what it runs itself.
    """
    put: Any = (lambda a: a) if backend is None else backend.from_host
    noise = {"noise": {k: put(a) for k, a in case.drawn.items()}} if case.drawn else {}
    return getattr(kernel, "sequence", kernel).forward(
        {name: put(w) for name, w in case.weights.items()},
        put(case.xs),
        tuple(map(put, case.state)),
        **noise,
        lengths=case.with_lengths(backend),
        reverse=case.reverse,
        keep=keep,
        xp=np if backend is None else backend.xp,
    )


def backward(kernel: Any, case: Case, residuals: Any, *, backend: Backend | None = None) -> Results:
    """The named gradients by the kernel's backward."""
    put: Any = (lambda a: a) if backend is None else backend.from_host
    dxs, dfirst, dweights = getattr(kernel, "sequence", kernel).backward(
        {name: put(w) for name, w in case.weights.items()},
        residuals,
        None if case.dys is None else put(case.dys),
        tuple(map(put, case.dstate)),
        xp=np if backend is None else backend.xp,
    )
    return gradients(case, dxs, dfirst, dweights, backend)


def outputs(case: Case, ys: Array, last: Any, backend: Backend | None = None) -> Results:
    """The results of forward by name."""
    named = {"ys": ys} | {f"last {s}": a for s, a in zip(case.cell.states, last, strict=True)}
    return _on_host(named, backend)


def gradients(
    case: Case, dxs: Array, dfirst: Any, dweights: Any, backend: Backend | None = None
) -> Results:
    """The results of backward by name."""
    assert dweights.keys() == case.weights.keys()
    named = {"dxs": dxs} | {f"dfirst {s}": d for s, d in zip(case.cell.states, dfirst, strict=True)}
    return _on_host(named | {f"d{name}": d for name, d in dweights.items()}, backend)


def _on_host(named: Results, backend: Backend | None) -> Results:
    return named if backend is None else {k: backend.to_host(a) for k, a in named.items()}


def run(kernel: Any, case: Case, backend: Backend | None = None) -> Results:
    """Forward and backward by the kernel: everything that comes out, in the case's dtype."""
    ys, last, residuals = forward(kernel, case, backend=backend)
    found = outputs(case, ys, last, backend) | backward(kernel, case, residuals, backend=backend)
    for name, a in found.items():
        assert dtype_name(a.dtype) == case.dtype, f"{name} is {a.dtype}, not {case.dtype}"
    return found


def run_both(kernel: Any, case: Case, keep: bool = True) -> tuple[list[Case], list[Results]]:
    """The same by a kernel that runs both directions at once; keep=False: forward alone."""
    cases = [case, case.opposite()]
    passes = [(c.weights, c.state, c.reverse) for c in cases]
    found = kernel.forward_both(passes, case.xs, lengths=case.with_lengths(), keep=keep, xp=np)
    results = [outputs(c, ys, last) for c, (ys, last, _) in zip(cases, found, strict=True)]
    if keep:
        given = [(c.weights, r, c.dys, c.dstate) for c, (_, _, r) in zip(cases, found, strict=True)]
        back = kernel.backward_both(given, xp=np)
        for c, result, d in zip(cases, results, back, strict=True):
            result |= gradients(c, *d)
    return cases, results


def reference(case: Case) -> Results:
    """The results of the cell's own loop, in float64."""
    return run(Loop(case.cell), replaced_dtype(case, "float64"))


def replaced_dtype(case: Case, dtype: str) -> Case:
    """The same values in another dtype."""
    other = case.mapped(lambda a: a.astype(named_dtype(dtype)))
    other.dtype = dtype
    return other


# ---- comparing ---------------------------------------------------------------------------


def gap(found: Results, expected: Results) -> tuple[float, str]:
    """The largest max|a-b| / max|a| over all results, and the name of that result.

    It is infinite where names or shapes differ, or a value is not a number.
    """
    if found.keys() != expected.keys():
        return float("inf"), f"{sorted(found)} instead of {sorted(expected)}"
    gaps = [(_relative(found[name], a), name) for name, a in expected.items()]
    return max(gaps)


def _relative(found: Array, expected: Array) -> float:
    if found.shape != expected.shape:
        return float("inf")
    a, b = (np.asarray(array).astype(np.float64) for array in (expected, found))
    difference, scale = abs(a - b).max(initial=0), abs(a).max(initial=0)
    return float(difference / max(scale, 1e-30)) if np.isfinite(difference) else float("inf")


def close(found: Results, expected: Results, bound: float) -> None:
    """Fail unless every result lies within the relative bound."""
    worst, name = gap(found, expected)
    assert worst <= bound, f"{name} differs by {worst:.1e}, allowed {bound:.0e}"


def same(found: Results, expected: Results) -> None:
    """Fail unless every result has the same bits."""
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        b = found[name]
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{name} is another array"
        assert a.tobytes() == b.tobytes(), f"{name} has other bits, gap {_relative(b, a):.1e}"


def of_sequences(results: Results, chosen: Any) -> Results:
    """The results of some sequences; sums over the batch have none."""
    per_sequence = ("ys", "dxs", "last ", "dfirst ")
    return {k: a[..., chosen, :] for k, a in results.items() if k.startswith(per_sequence)}
