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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from xrnn.backends.cuda.geometry import CELLS, KINDS, SHARED, Geometry

#: registers of a multiprocessor, and most of a thread
REGISTERS, MOST_REGISTERS = 65536, 255

#: blocks of a cluster (16 must be allowed by an attribute of the kernel), sequences of a slice,
#: and warps of a block at most and at least
SIZES, BATCHES, MOST_WARPS, LEAST_WARPS = (1, 2, 4, 8, 16), (8, 16, 32), 16, 4

#: (sequence, unit) pairs whose state one thread keeps, at most
MOST_PAIRS = 4

#: slices that run one after another, at most: beyond, products of the whole batch are quicker
MOST_WAVES = 4

#: the variable that lets clusters run (1) or not (0)
OPT_IN = "XRNN_CUDA_CLUSTERS"

#: the first compute capability that has clusters
CAPABILITY = 90


class Room(NamedTuple):
    """What a device has for clusters: bytes of shared memory of a block, how many clusters of each
    of the `SIZES` it holds at once, and what keeps it from holding others."""

    shared: int = 0
    held: tuple[int, ...] = (0,) * len(SIZES)
    reasons: tuple[str, ...] = ()

    def of(self, size: int) -> int:
        """How many clusters of `size` blocks."""
        return self.held[SIZES.index(size)]


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


def geometry(
    cell: str,
    kind: str,
    H: int,
    B: int,
    resident: Callable[[int], int],
    directions: int = 1,
    shared: int = SHARED,
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
        Size of a cluster → how many of them the device holds at once (0: cannot), `Room.of`.
    directions : int
        1, or 2 for both in one launch.
    shared : int
        Bytes of shared memory that a block of the device may have.
    """
    best: tuple[float, Geometry] | None = None
    for each in geometries(cell, kind, H, shared):
        room = resident(each.cluster)
        waves = -(-each.grid(B)[0] // each.cluster * directions // room) if room else 0
        if not 0 < waves <= MOST_WAVES:
            continue
        cost = waves * each.cycles
        if best is None or cost < best[0]:
            best = cost, each
    return None if best is None else best[1]


@cache
def geometries(cell: str, kind: str, H: int, shared: int = SHARED) -> tuple[Geometry, ...]:
    """All that fit, small clusters and slices first; none for other cells and kinds."""
    if cell not in CELLS or kind not in KINDS:
        return ()
    return tuple(_fitting(cell, kind, H, shared))


def _fitting(cell: str, kind: str, H: int, shared: int) -> Iterator[Geometry]:
    for cluster in SIZES:
        units = 16 * -(-H // (16 * cluster))
        if cluster > 1 and units * (cluster // 2) >= H:
            continue  # half of its blocks would have padding alone
        for batch in BATCHES:
            fit = [
                each
                for warps in _warps(units * cluster)
                for row_warps in _divisors(warps)
                for split in ((True, False) if kind == "float32" else (False,))
                if (
                    each := _cut(
                        Geometry(
                            cell,
                            kind,
                            H,
                            units,
                            cluster,
                            batch,
                            warps,
                            row_warps,
                            kept=0,
                            kept_back=0,
                            split=split,
                        )
                    )
                )
                and each.shared <= shared
            ]
            if fit:
                yield min(fit, key=lambda each: each.cycles)


def _warps(width: int) -> list[int]:
    """Numbers of warps that give each the same number of backward's tiles."""
    numbers = [n for n in _divisors(width // 16) if n <= MOST_WARPS]
    return [n for n in numbers if n >= LEAST_WARPS] or numbers[-1:]


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def _cut(g: Geometry) -> Geometry | None:
    """With as many weights in registers as there is room for; None if warps cannot share,
    or have no registers for the sums alone."""
    groups, across = g.warps // g.row_warps, g.width // KINDS[g.kind].depth
    if g.rows // 16 % g.row_warps or across % groups or g.pairs > MOST_PAIRS:
        return None
    kept = _room(g, True, g.tiles, g.deep)
    kept_back = _room(g, False, g.tiles_back, g.deep_back)
    return replace(g, kept=kept, kept_back=kept_back) if min(kept, kept_back) >= 0 else None


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
    return min(deep, (have - used) // (4 * tiles * g.parts))


def probe(cluster: int) -> tuple[str, str, int]:
    """A kernel and its threads, to ask the device how many clusters it holds."""
    g = Geometry("rnn", "float16", 16 * cluster, 16, cluster, 8, 1, 1, kept=0, kept_back=0)
    return g.source, g.forward, *g.block


def gave_up(instance: str, report: Sequence[int]) -> str:
    """What is said of a kernel that wrote a report (``kernels/lstm_cluster.cu``)."""
    step, T, B, H = report
    return (
        f"{instance} made no progress: it gave up near step {step} of T = {T}, with B = {B} and "
        f"H = {H}, and its results are NaN; set {OPT_IN}=0 to run without clusters"
    )


def largest(cell: str, kind: str, size: int = SIZES[-1], shared: int = SHARED) -> int:
    """The most hidden units, a multiple of 32, that clusters of up to `size` blocks serve."""
    H = 0
    while any(g.cluster <= size for g in geometries(cell, kind, H + 32, shared)):
        H += 32
    return H


def table(shared: int = SHARED) -> dict[tuple[str, str], tuple[int, int]]:
    """(cell, kind) → the most hidden units of clusters of at most 8 and of 16 blocks."""
    return {
        (cell, kind): (largest(cell, kind, 8, shared), largest(cell, kind, shared=shared))
        for cell in CELLS
        for kind in KINDS
    }
