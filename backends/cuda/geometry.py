"""How a cell is cut into the blocks of a cluster, and what that needs and costs.

The need of shared memory is exact; the cost is a prediction, see `Geometry.cycles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

#: bytes of shared memory that a block may have, on a Hopper
SHARED = 227 * 1024

#: bytes of barriers and flags behind the data, `Slice::tail_bytes`
TAIL = 32


class Arithmetic(NamedTuple):
    """A policy of ``kernels/cluster_products.cuh``: its bytes a value, depth of a product, padding
    of rows in shared memory, and multiprocessor cycles of a 16 × 8 product of that depth."""

    policy: str
    bytes: int
    depth: int
    pad: int
    cycles: float


#: kind of arithmetic → its policy.  "float32" keeps float32's accuracy by three products of parts.
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


#: instructions of a step but for its products and pairs, forward (True) and backward; and those of
#: a (sequence, unit) pair of a thread but for the shares that it adds, by the kernels' stem
STEPS = {True: 85, False: 57}
PAIRS = {
    ("lstm", True): 88,
    ("lstm", False): 119,
    ("gru", True): 62,
    ("gru", False): 100,
    ("rnn", True): 38,
    ("rnn", False): 55,
}


class Cycles(NamedTuple):
    """What a step takes of a multiprocessor, in cycles: the last three may overlap."""

    waits: float
    issued: float
    products: float
    shared: float


@dataclass(frozen=True)
class Geometry:
    """How one cell of H units is cut into blocks, for slices of `batch` sequences.

    `units` of each of the `cluster` blocks, `row_warps` of its `warps` side by side over the
    rows of the forward product; of each warp's tiles of weights `kept` and `kept_back` columns
    stay in registers, the others in shared memory.  With `split` the weights of float32 are kept
    in their two parts, which takes twice the room; without, they are split in every step.
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
    split: bool = False

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
        a, rows = KINDS[self.kind], self.rows
        groups = self.warps // self.row_warps
        state = self.batch * (self.width + a.pad) * a.bytes
        sums = groups * self.batch * (rows + 4) * 4
        staged = self.batch * self.units * a.bytes
        exchange = state + staged + TAIL if self.exchanges else 0
        return self.in_shared(self.tiles, self.deep, self.kept) + state + sums + exchange

    @property
    def shared_backward(self) -> int:
        """As `Backward::bytes` in ``kernels/cluster_blocks.cuh``."""
        a, rows = KINDS[self.kind], self.rows
        da = self.batch * (rows + a.pad) * a.bytes
        sums = self.batch * (self.width + 4) * 4
        exchange = 2 * self.batch * self.width * 4 + TAIL if self.exchanges else 0
        resident = self.in_shared(self.tiles_back, self.deep_back, self.kept_back)
        return resident + da + sums + exchange

    @property
    def exchanges(self) -> bool:
        """Whether blocks send one another results: one block alone reads its own."""
        return self.cluster > 1

    def in_shared(self, tiles: int, deep: int, kept: int) -> int:
        """Bytes of weights in shared memory."""
        return self.warps * tiles * (deep - kept) * self.parts * 512

    @property
    def parts(self) -> int:
        """What a tile of weights consists of, 16 bytes a lane each."""
        return 2 if self.split else 1

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
        return self.rows // 16 // self.row_warps

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
        return self.rows // KINDS[self.kind].depth

    @property
    def cycles(self) -> float:
        """Predicted, of one step forward and backward, where nothing overlaps."""
        return sum(self.cost(True)) + sum(self.cost(False))

    def cost(self, forward: bool) -> Cycles:
        """Predicted, of one step: a constant for what waits (the exchange, the barriers), the
        instructions, which four warps begin at a time, the products, and the reads from shared
        memory at 128 bytes a cycle."""
        a, N = KINDS[self.kind], self.batch // 8
        ways = (self.tiles, self.deep, self.kept), (self.tiles_back, self.deep_back, self.kept_back)
        _, deep, _ = way = ways[0 if forward else 1]
        vectors = self.warps * deep * N * 8 * a.depth * a.bytes
        exchanged = self.batch * self.width * (a.bytes if forward else 4) * 2
        return Cycles(
            waits=1200 if self.exchanges else 700,
            issued=self.instructions(forward) * self.warps / 4,
            products=self.rows // 16 * (self.width // a.depth) * N * a.cycles,
            shared=(self.in_shared(*way) + vectors + exchanged * self.exchanges) / 128,
        )

    def instructions(self, forward: bool) -> int:
        """Predicted, of a thread in one step: machine code of sm_90 is within a fifth of it
        (tests/test_cuda_sass.py)."""
        a, N, ieee = KINDS[self.kind], self.batch // 8, self.kind == "float32"
        ways = (self.tiles, self.deep, self.kept), (self.tiles_back, self.deep_back, self.kept_back)
        tiles, deep, kept = ways[0 if forward else 1]
        across = self.units * (a.bytes if forward else 4) // 16
        pieces = -(-self.batch * across // (32 * self.warps // self.cluster)) * self.exchanges
        # The shares of other warps, or of other blocks, are read and added.
        gates = CELLS[self.cell].gates
        shares = gates * self.warps // self.row_warps if forward else self.cluster
        pair = PAIRS[CELLS[self.cell].stem, forward] + 2 * shares
        count = STEPS[forward] + pair * self.pairs + 5 * pieces + 4 * tiles * N
        count += deep * N * 2 * (4 if ieee else 1)  # vectors, which float32 splits
        count += tiles * deep * N * (3 if ieee else 1) + tiles * (deep - kept) * self.parts
        return count + (12 * tiles * deep if ieee and not self.split else 0)

    @property
    def rows(self) -> int:
        """Rows of U that a block holds."""
        return CELLS[self.cell].gates * self.units

    def _instance(self, way: str, last: str) -> str:
        cell, a = CELLS[self.cell], KINDS[self.kind]
        arguments = f"{self.units}, {self.cluster}, {self.batch // 8}, {self.warps}, {last}"
        policy = a.policy
        if self.kind == "float32":
            policy += "Split" if self.split else "Whole"
        return f"{cell.stem}_cluster_{way}<{policy}, {cell.variant}{arguments}>"
