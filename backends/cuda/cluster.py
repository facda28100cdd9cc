"""The geometry of the thread-block clusters that run whole sequences.

A cluster of C blocks, each on a multiprocessor of its own, runs a slice of the batch through
all steps; each block holds the recurrent weights of its hidden units in registers and shared
memory (``kernels/cluster_blocks.cuh``).  Hidden units are padded to C · units, units a
multiple of 16, so any H can be served whose weights fit.

Nothing here is measured.  The need of shared memory is exact; that of registers is an upper bound
(`Fit`: compiled by nvcc 13.0 for Hopper, no geometry that `geometries` yields spills).  Among the
geometries that fit, the one with the fewest predicted cycles is chosen, see `Geometry.cycles`.

Every H up to these is served, by clusters of at most 8 / of 16 blocks:

            float16      bfloat16     tf32         float32
  lstm      512 / 768    512 / 768    384 / 512    384 / 512
  gru       512 / 768    512 / 768    384 / 512    384 / 512
  rnn       896 / 1024   896 / 1024   640 / 1024   640 / 768
  rnn-relu  896 / 1024   896 / 1024   640 / 1024   640 / 768
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

#: bytes of shared memory of a block; registers of a multiprocessor, and most of a thread
SHARED, REGISTERS, MOST_REGISTERS = 227 * 1024, 65536, 255

#: blocks of a cluster (16 must be allowed by an attribute of the kernel), sequences of a slice,
#: and warps of a block at most and at least
SIZES, BATCHES, MOST_WARPS, LEAST_WARPS = (1, 2, 4, 8, 16), (8, 16, 32), 16, 4

#: (sequence, unit) pairs whose state one thread keeps, at most
MOST_PAIRS = 4

#: slices that run one after another, at most: beyond, products of the whole batch are quicker
MOST_WAVES = 4

#: the first compute capability that has clusters
CAPABILITY = 90


class Arithmetic(NamedTuple):
    """A policy of ``kernels/cluster.cuh``: its bytes a value, depth of a product, padding of
    rows in shared memory, and multiprocessor cycles of a 16 × 8 product of that depth."""

    policy: str
    bytes: int
    depth: int
    pad: int
    cycles: float


#: kind of arithmetic → its policy.  "float32" keeps float32's accuracy by three products.
KINDS = {
    "float16": Arithmetic("Half", 2, 16, 8, 2),
    "bfloat16": Arithmetic("Bfloat16", 2, 16, 8, 2),
    "tf32": Arithmetic("Tf32", 4, 8, 4, 2),
    "float32": Arithmetic("Ieee", 4, 8, 4, 6),
}


class Kernels(NamedTuple):
    """One cell's kernels: the stem of their names, gates, template argument after the policy."""

    stem: str
    gates: int
    variant: str = ""


CELLS = {
    "lstm": Kernels("lstm", 4),
    "gru": Kernels("gru", 3),
    "rnn": Kernels("rnn", 1, "0, "),
    "rnn-relu": Kernels("rnn", 1, "1, "),
}


class Fit(NamedTuple):
    """Bounds of a thread's registers, besides sums and the weights it keeps: `base`, what each
    (sequence, unit) pair adds, each tile of weights on its way, each vector, each piece sent."""

    base: int
    pair: int
    tile: int
    vector: int = 3
    piece: int = 0


#: (stem, forward?) → bounds, found by compiling every geometry
FITS = {
    ("lstm", True): Fit(52, 16, 5),
    ("lstm", False): Fit(54, 12, 1),
    ("gru", True): Fit(52, 14, 3),
    ("gru", False): Fit(56, 14, 2),
    ("rnn", True): Fit(52, 10, 2),
    ("rnn", False): Fit(54, 10, 2),
}

#: what is added where float32 is split on its way, and for more than two pairs
SPLIT, MANY_PAIRS = Fit(12, 0, 2, 4, 1), 20


@dataclass(frozen=True)
class Geometry:
    """How one cell of H units is cut into blocks, for slices of `batch` sequences.

    `units` of each of the `cluster` blocks, `row_warps` of its `warps` side by side over the
    rows of the forward product; of each warp's tiles of weights `kept` and `kept_back` columns
    stay in registers, the others in shared memory.
    """

    cell: str
    kind: str
    H: int
    units: int
    cluster: int
    batch: int
    warps: int
    row_warps: int
    kept: int
    kept_back: int

    @property
    def source(self) -> str:
        """The kernels' file."""
        return f"{CELLS[self.cell].stem}_cluster.cu"

    @property
    def forward(self) -> str:
        """The instance of the forward kernel."""
        return self._instance("forward", f"{self.row_warps}, {self.kept}")

    @property
    def backward(self) -> str:
        """The instance of the backward kernel."""
        return self._instance("backward", str(self.kept_back))

    @property
    def block(self) -> tuple[int]:
        """Threads of a block."""
        return (32 * self.warps,)

    @property
    def shared(self) -> int:
        """Bytes of shared memory: the larger need of both kernels."""
        return max(self.shared_forward, self.shared_backward)

    def grid(self, B: int, directions: int = 1) -> tuple[int, int]:
        """Blocks for B sequences in each direction."""
        return (self.cluster * -(-B // self.batch), directions)

    @property
    def shared_forward(self) -> int:
        """As `Forward::bytes` in ``kernels/cluster_blocks.cuh``."""
        a, rows = KINDS[self.kind], self._rows
        groups = self.warps // self.row_warps
        states = 2 * self.batch * (self.width + a.pad) * a.bytes
        sums = groups * self.batch * (rows + 4) * 4
        staged = self.batch * self.units * a.bytes
        return self.in_shared(self.tiles, self.deep, self.kept) + states + sums + staged + 16

    @property
    def shared_backward(self) -> int:
        """As `Backward::bytes` in ``kernels/cluster_blocks.cuh``."""
        a, rows = KINDS[self.kind], self._rows
        da = self.batch * (rows + a.pad) * a.bytes
        sums = self.batch * (self.width + 4) * 4
        shares = 2 * self.batch * self.width * 4
        resident = self.in_shared(self.tiles_back, self.deep_back, self.kept_back)
        return resident + da + sums + shares + 16

    def in_shared(self, tiles: int, deep: int, kept: int) -> int:
        """Bytes of weights in shared memory."""
        return self.warps * tiles * (deep - kept) * 512

    @property
    def width(self) -> int:
        """Hidden units with the padding."""
        return self.units * self.cluster

    @property
    def pairs(self) -> int:
        """(sequence, unit) pairs of a thread."""
        return -(-self.batch * self.units // (32 * self.warps))

    @property
    def tiles(self) -> int:
        """Forward: tiles of 16 rows of a warp."""
        return self._rows // 16 // self.row_warps

    @property
    def deep(self) -> int:
        """Forward: tiles of a warp, one behind the other."""
        return self.width // KINDS[self.kind].depth // (self.warps // self.row_warps)

    @property
    def tiles_back(self) -> int:
        """Backward: tiles of 16 rows of a warp."""
        return self.width // 16 // self.warps

    @property
    def deep_back(self) -> int:
        """Backward: tiles of a warp, one behind the other."""
        return self._rows // KINDS[self.kind].depth

    @property
    def cycles(self) -> float:
        """Predicted, of one step forward and backward: a constant for the exchange, the
        activations of each pair, the products, and the reads from shared memory at 128 bytes
        a cycle."""
        a, N = KINDS[self.kind], self.batch // 8
        latency = 2 * (500 if self.cluster == 1 else 1000) + 200 * self.pairs
        products = 2 * (self._rows // 16) * (self.width // a.depth) * N * a.cycles
        weights = self.in_shared(self.tiles, self.deep, self.kept)
        weights += self.in_shared(self.tiles_back, self.deep_back, self.kept_back)
        vectors = self.warps * (self.deep + self.deep_back) * N * 8 * a.depth * a.bytes
        exchanged = self.batch * self.width * (a.bytes + 4) * 2
        return latency + products + (weights + vectors + exchanged) / 128

    @property
    def _rows(self) -> int:
        return CELLS[self.cell].gates * self.units

    def _instance(self, way: str, last: str) -> str:
        cell, a = CELLS[self.cell], KINDS[self.kind]
        arguments = f"{self.units}, {self.cluster}, {self.batch // 8}, {self.warps}, {last}"
        return f"{cell.stem}_cluster_{way}<{a.policy}, {cell.variant}{arguments}>"


def geometry(
    cell: str,
    kind: str,
    H: int,
    B: int,
    resident: Callable[[int], int],
    directions: int = 1,
) -> Geometry | None:
    """The geometry that serves a shape, or None if the weights fit nowhere.

    Of all that fit (`geometries`) the one with the fewest predicted cycles: those of a step
    (`Geometry.cycles`) times the waves, that is how often the device must be filled for all
    slices of all directions.  More than `MOST_WAVES` are none.

    Parameters
    ----------
    cell : str
        The cell's name: "lstm", "gru" (reset after), "rnn" or "rnn-relu".
    kind : str
        "float16", "bfloat16", "float32" or "tf32".
    H, B : int
        Hidden units and sequences.
    resident : callable
        Size of a cluster → how many of them the device holds at once (0: cannot); see `probe`.
    directions : int
        1, or 2 for both in one launch.
    """
    best: tuple[float, Geometry] | None = None
    for each in geometries(cell, kind, H):
        room = resident(each.cluster)
        waves = -(-each.grid(B)[0] // each.cluster * directions // room) if room else 0
        if not 0 < waves <= MOST_WAVES:
            continue
        cost = waves * each.cycles
        if best is None or cost < best[0]:
            best = cost, each
    return None if best is None else best[1]


@cache
def geometries(cell: str, kind: str, H: int) -> tuple[Geometry, ...]:
    """All that fit, small clusters and slices first; none for other cells and kinds."""
    if cell not in CELLS or kind not in KINDS:
        return ()
    return tuple(_fitting(cell, kind, H))


def _fitting(cell: str, kind: str, H: int) -> Iterator[Geometry]:
    for cluster in SIZES:
        units = 16 * -(-H // (16 * cluster))
        if cluster > 1 and units * (cluster // 2) >= H:
            continue  # half of its blocks would have padding alone
        for batch in BATCHES:
            fit = [
                each
                for warps in _warps(units * cluster)
                for row_warps in _divisors(warps)
                if (each := _cut(cell, kind, H, units, cluster, batch, warps, row_warps))
                and each.shared <= SHARED
            ]
            if fit:
                yield min(fit, key=lambda each: each.cycles)


def _warps(width: int) -> list[int]:
    """Numbers of warps that give each the same number of backward's tiles."""
    numbers = [n for n in _divisors(width // 16) if n <= MOST_WARPS]
    return [n for n in numbers if n >= LEAST_WARPS] or numbers[-1:]


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def _cut(
    cell: str, kind: str, H: int, units: int, cluster: int, batch: int, warps: int, row_warps: int
) -> Geometry | None:
    """With as many weights in registers as there is room for; None if warps cannot share,
    or have no registers for the sums alone."""
    given = (cell, kind, H, units, cluster, batch, warps, row_warps)
    g = Geometry(*given, kept=0, kept_back=0)
    groups, across = warps // row_warps, g.width // KINDS[kind].depth
    if g._rows // 16 % row_warps or across % groups or g.pairs > MOST_PAIRS:
        return None
    kept = _room(g, True, g.tiles, g.deep)
    kept_back = _room(g, False, g.tiles_back, g.deep_back)
    return Geometry(*given, kept, kept_back) if min(kept, kept_back) >= 0 else None


def _room(g: Geometry, forward: bool, tiles: int, deep: int) -> int:
    fit, N = FITS[CELLS[g.cell].stem, forward], g.batch // 8
    # Registers are dealt out to four warps at a time, and to threads by eights.
    have = min(MOST_REGISTERS, REGISTERS // (-(-g.warps // 4) * 128) // 8 * 8)
    across = g.units * KINDS[g.kind].bytes // 16 if forward else g.units // 4
    pieces = -(-g.batch * g.cluster * across // (32 * g.warps))
    used = 4 * tiles * N + (MANY_PAIRS if g.pairs > 2 else 0)  # sums, and addresses
    for part in (fit, SPLIT) if g.kind == "float32" else (fit,):
        used += part.base + part.pair * g.pairs + part.tile * tiles
        used += part.vector * N + part.piece * pieces
    return min(deep, (have - used) // (4 * tiles))


def probe(cluster: int) -> tuple[str, str, int, int, int]:
    """A kernel, its threads and shared memory, to ask the device how many clusters it holds:
    one block on a multiprocessor, as always with weights in its registers."""
    instance = f"rnn_cluster_forward<Half, 0, 16, {cluster}, 1, 1, 1, 0>"
    return "rnn_cluster.cu", instance, 32, SHARED, cluster


def largest(cell: str, kind: str, size: int = SIZES[-1]) -> int:
    """The most hidden units, a multiple of 32, that clusters of up to `size` blocks serve."""
    H = 0
    while any(g.cluster <= size for g in geometries(cell, kind, H + 32)):
        H += 32
    return H


def table() -> dict[tuple[str, str], tuple[int, int]]:
    """(cell, kind) → the most hidden units of clusters of at most 8 and of 16 blocks."""
    return {
        (cell, kind): (largest(cell, kind, 8), largest(cell, kind))
        for cell in CELLS
        for kind in KINDS
    }
