"""Whole sequences on thread-block clusters, launched exactly as the kernels' contracts say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cuda_steps import Arena, rounded
from shim.runtime import ShimRuntime

from xrnn import cells, unroll, unroll_backward
from xrnn.backends.cuda.cluster import Geometry
from xrnn.typing import Array

#: kind of arithmetic → storage dtype, largest error allowed relative to the largest value
KINDS = {
    "float16": ("float16", 5e-3),
    "bfloat16": ("bfloat16", 4e-2),
    "tf32": ("float32", 5e-3),
    "float32": ("float32", 5e-6),
}

#: cell's name → the cell, blocks of H columns in `gates`, where each gate stands among them,
#: and where the gradients of U h_prev stand, in the order of the rows of U
FORMS: dict[str, tuple[cells.Cell, int, tuple[int, ...], tuple[int, ...]]] = {
    "lstm": (cells.LSTM, 4, (0, 1, 2, 3), (0, 1, 2, 3)),
    "gru": (cells.GRU, 4, (1, 2, 0), (1, 2, 3)),
    "rnn": (cells.Elman, 1, (0,), (0,)),
    "rnn-relu": (cells.ElmanReLU, 1, (0,), (0,)),
}

#: two slices, the second with padding; a length for each sequence, 0 and T among them
T, B = 5, 11
LENGTHS = np.asarray([5, 0, 3, 1, 4, 2, 2, 5, 3, 0, 1], np.int32)


def small(cell: str, kind: str, H: int = 64, size: int = 4) -> Geometry:
    """Blocks of 16 units and two warps; some weights in registers, others in shared memory."""
    g = Geometry(cell, kind, H, 16, size, 8, 2, 2 if cell == "lstm" else 1, kept=0, kept_back=0)
    return replace(g, kept=min(1, g.deep), kept_back=min(1, g.deep_back))


@dataclass
class Case:
    """Inputs of one launch, rounded to what is stored, as float64: one set a direction."""

    geometry: Geometry
    B: int = B
    T: int = T
    lengths: Array | None = None
    reverse: bool = False
    directions: int = 1
    save: bool = True
    above: bool = True
    schedule: int = 0
    seed: int = 7

    def __post_init__(self) -> None:
        g, (cell, *_) = self.geometry, FORMS[self.geometry.cell]
        self.storage, self.tolerance = KINDS[g.kind]
        self.cell, self.H, n = cell, g.H, len(cell.gates)
        self.kinds = (self.storage, "float32")[: len(cell.states)]
        rng = np.random.default_rng(self.seed)
        self.sets = [self._draw(rng, n) for _ in range(self.directions)]

    def _draw(self, rng: np.random.Generator, n: int) -> dict[str, Any]:
        H, T, B = self.H, self.T, self.B
        relu = self.geometry.cell == "rnn-relu"

        def new(*shape: int, scale: float = 1.0, kind: str = self.storage) -> Array:
            return rounded(rng.normal(size=shape) * scale, kind)

        drawn: dict[str, Any] = {
            name: new(*shape, scale=(0.2 if relu else 1.0) / H**0.5 if name == "U" else 0.5)
            for name, shape in self.cell.shapes(n * H, H).items()
        }
        drawn["W"] = np.eye(n * H)  # so that xs is W x, and dxs the gradient of it
        xs = new(T, B, n * H)
        # Far from the kink of ReLU, where rounding would decide which side is taken.
        drawn["xs"] = rounded(xs + 4 * np.sign(xs), self.storage) if relu else xs
        drawn["first"] = [new(B, H, kind=k) for k in self.kinds]
        drawn["dys"] = new(T, B, H) if self.above else None
        drawn["dlast"] = [new(B, H, kind="float32") for _ in self.kinds]
        if self.lengths is not None:
            # What stands past the end is nobody's: it may be NaN.
            past = np.arange(T)[:, None] >= self.lengths
            drawn["xs"][past] = np.nan
            if self.above:
                drawn["dys"][past] = np.nan
        return drawn

    def reversed(self, direction: int) -> bool:
        """Whether this direction runs from the last step to the first."""
        return self.reverse != bool(direction)

    def wanted(self) -> dict[str, Array]:
        """By the cell itself, in float64."""
        found: dict[str, Array] = {}
        for k, given in enumerate(self.sets):
            weights = {name: given[name] for name in self.cell.shapes(1, 1)}
            ys, last, tape = unroll(
                self.cell,
                weights,
                given["xs"],
                tuple(given["first"]),
                self.lengths,
                self.reversed(k),
            )
            dxs, dfirst, dweights = unroll_backward(tape, given["dys"], tuple(given["dlast"]))
            del dweights["W"], dweights["b"]
            named = {"ys": ys, "dxs": dxs}
            named |= {f"last {s}": v for s, v in zip(self.cell.states, last, strict=True)}
            named |= {f"d {s}": v for s, v in zip(self.cell.states, dfirst, strict=True)}
            named |= {f"d {name}": v for name, v in dweights.items()}
            found |= {f"{name} {k}": v for name, v in named.items()}
        return found


class Launches:
    """The buffers of one case, and its two launches."""

    def __init__(self, case: Case, runtime: ShimRuntime) -> None:
        self.case, self.runtime, self.new = case, runtime, Arena()
        runtime.schedule = case.schedule
        self.cell, self.columns, self.order, self.recurrent = FORMS[case.geometry.cell]
        self.buffers = [self._buffers(k) for k in range(case.directions)]

    def _buffers(self, k: int) -> dict[str, Array | None]:
        case, new, given = self.case, self.new, self.case.sets[k]
        T, B, H, storage = case.T, case.B, case.H, case.storage
        b: dict[str, Array | None] = {
            name: new(given[name], storage) for name in self.cell.shapes(1, 1) if name != "W"
        }
        gates = new((T, B, self.columns * H), storage)
        for gate, column in enumerate(self.order):
            gates[..., column * H : (column + 1) * H] = given["xs"][..., gate * H : (gate + 1) * H]
        start = T if case.reversed(k) else 0
        hs = new((T + 1, B, H), storage)
        hs[start] = given["first"][0]
        b |= {"gates": gates, "hs": hs}
        if len(case.kinds) == 2:
            cs = new((T + 1, B, H), "float32")
            cs[start] = given["first"][1]
            b["cs"] = cs if case.save else new(given["first"][1], "float32")
        b["dys"] = None if given["dys"] is None else new(given["dys"], storage)
        b |= {f"d{s}": new(d, "float32") for s, d in zip("hc", given["dlast"], strict=False)}
        b["das"] = new(gates.shape, storage) if self.columns == 1 else gates
        return b

    def _launch(self, instance: str, shared: int, names: Iterable[str], *extra: int) -> None:
        case, g = self.case, self.case.geometry
        sets = [[self._at(buffers[name]) for name in names] for buffers in self.buffers]
        if case.directions == 1:
            sets.append([0] * len(sets[0]))
        numbers = [np.int32(n) for n in (case.T, case.B, case.H)]
        flags = [np.int32(n) for n in (case.reverse, *extra)]
        args = (*numbers, self._at(case.lengths), *flags, *sets[0], *sets[1])
        grid = g.grid(case.B, case.directions)
        self.runtime.launch(g.source, instance, grid, g.block, args, shared, g.cluster)
        self.new.check()

    def _at(self, array: Array | None) -> int:
        return 0 if array is None else self.runtime.pointer(array)

    def forward(self) -> None:
        """All steps."""
        g, cell = self.case.geometry, self.case.geometry.cell
        names = {
            "lstm": ("U", "gates", "b", "hs", "cs"),
            "gru": ("U", "gates", "b", "v", "hs"),
        }.get(cell, ("U", "gates", "b", "hs"))
        save = () if self.columns == 1 else (int(self.case.save),)
        self._launch(g.forward, g.shared_forward, names, *save)

    def backward(self) -> None:
        """All steps back: `das` hold the gradients."""
        g, cell = self.case.geometry, self.case.geometry.cell
        names = {"lstm": ("U", "das", "cs", "dys", "dh", "dc")}.get(
            cell, ("U", "das", "hs", "dys", "dh")
        )
        self._launch(g.backward, g.shared_backward, names)

    def states(self) -> dict[str, Array]:
        """What forward gave: outputs and last states."""
        found: dict[str, Array] = {}
        case = self.case
        for k, b in enumerate(self.buffers):
            hs, back = b["hs"], case.reversed(k)
            assert hs is not None
            ys = (hs[:-1] if back else hs[1:]).copy()
            if case.lengths is not None:
                ys[np.arange(case.T)[:, None] >= case.lengths] = 0
            end = 0 if back else case.T
            found |= {f"ys {k}": ys, f"last h {k}": hs[end].copy()}
            cs = b.get("cs")
            if cs is not None:
                found[f"last c {k}"] = (cs[end] if case.save else cs).copy()
        return found

    def gradients(self) -> dict[str, Array]:
        """What backward gave, and the gradients of weights that follow."""
        found: dict[str, Array] = {}
        H, T = self.case.H, self.case.T
        for k, b in enumerate(self.buffers):
            hs, das = (np.asarray(b[name]).astype(np.float64) for name in ("hs", "das"))

            def block(c: int, das: Array = das) -> Array:
                return das[..., c * H : (c + 1) * H]

            found[f"dxs {k}"] = np.concatenate([block(c) for c in self.order], -1)
            du = np.concatenate([block(c) for c in self.recurrent], -1)
            prev = hs[1:] if self.case.reversed(k) else hs[:-1]
            found[f"d U {k}"] = np.einsum("tbg,tbh->gh", du, prev[:T])
            if "v" in b:
                found[f"d v {k}"] = block(3).sum((0, 1))
            found |= {f"d {s} {k}": np.array(b[f"d{s}"]) for s in self.cell.states}
        return found


def run(case: Case, runtime: ShimRuntime, back: ShimRuntime | None = None) -> dict[str, Array]:
    """Forward and back (on `back`, if given); everything that comes out."""
    launches = Launches(case, runtime)
    launches.forward()
    found = launches.states()
    if case.save:
        launches.runtime = back or runtime
        launches.runtime.schedule = case.schedule
        launches.backward()
        found |= launches.gradients()
    return found


def errors(case: Case, found: dict[str, Array]) -> dict[str, float]:
    """Result → largest error, relative to the largest value of the array."""
    wanted = case.wanted()
    return {
        name: float(np.abs(values.astype(np.float64) - wanted[name]).max())
        / float(max(np.abs(wanted[name]).max(), 1e-30))
        for name, values in found.items()
    }


def same(a: dict[str, Array], b: dict[str, Array]) -> bool:
    """Bit by bit."""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def instances(geometries: Iterable[Geometry]) -> list[tuple[str, str]]:
    """What they launch."""
    return [(g.source, i) for g in geometries for i in (g.forward, g.backward)]
