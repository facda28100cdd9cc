"""Whole sequences in one launch: clusters of thread blocks that hold U on the chip.

Buffers and large products are those of `xrnn.backends.cuda.fused`.  In place of its loop over time
one kernel (``kernels/*_cluster.cu``) runs all steps, of both directions of a layer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from xrnn.backends.cuda import cluster
from xrnn.backends.cuda.cells import FusedElman, FusedElmanReLU, FusedGRU, FusedLSTM
from xrnn.backends.cuda.cluster import Room
from xrnn.backends.cuda.fused import Fused
from xrnn.backends.cuda.geometry import Geometry
from xrnn.backends.cuda.plan import Plan
from xrnn.typing import Array, State


@cache
def _geometry(room: Room, cell: str, kind: str, B: int, H: int, directions: int) -> Geometry | None:
    return cluster.geometry(cell, kind, H, B, room.of, directions, room.shared)


class Clustered(Fused):
    """The base of the cells; each defines the buffers that its kernels take."""

    def geometry(self, kind: str, B: int, H: int, directions: int = 1) -> Geometry | None:
        """The geometry of the clusters for these sizes, or None if there is none."""
        tf32 = self.precision == "tf32" and kind == "float32"
        kind = "tf32" if tf32 else kind
        return _geometry(self.runtime.room(), self.cell.name, kind, B, H, directions)

    def drive(self, plans: Sequence[Plan], keep: bool) -> None:
        g = self._geometry_of(plans)
        handed_over = self.carries_c and not keep
        if handed_over:  # c is then handed over in one row
            for plan in plans:
                plan.run.cs[0] = plan.run.first[1]
        sets = [self.buffers(plan) for plan in plans]
        save = (plans[0].int32(keep),) if self.keeps_gates else ()
        self._launch(g, g.forward, plans, save, sets)
        if handed_over:
            for plan in plans:
                plan.run.cs[plan.run.ends[1]] = plan.run.cs[0]

    def drive_backward(
        self, plans: Sequence[Plan], given: Sequence[tuple[Array | None, State]]
    ) -> None:
        g = self._geometry_of(plans)
        sets = [
            (*self.buffers_backward(plan), plan.at(dys), *map(plan.at, carried))
            for plan, (dys, carried) in zip(plans, given, strict=True)
        ]
        self._launch(g, g.backward, plans, (), sets)

    def buffers(self, plan: Plan) -> tuple[int, ...]:
        """Of one direction, forward."""
        raise NotImplementedError

    def buffers_backward(self, plan: Plan) -> tuple[int, ...]:
        """Of one direction, backward, up to those of the gradients that come in."""
        raise NotImplementedError

    def _geometry_of(self, plans: Sequence[Plan]) -> Geometry:
        one = plans[0]
        found = self.geometry(one.kind, one.B, one.H, len(plans))
        # Two directions may be too many for the device where one is not.
        found = found or self.geometry(one.kind, one.B, one.H)
        assert found is not None, "the table offers clusters only where they fit"
        return found

    def _launch(
        self,
        g: Geometry,
        instance: str,
        plans: Sequence[Plan],
        save: tuple[Any, ...],
        sets: Sequence[tuple[int, ...]],
    ) -> None:
        one = plans[0]
        pointers = [*sets[0], *(sets[1] if len(sets) == 2 else (0,) * len(sets[0]))]
        self.runtime.launch(
            g.source,
            instance,
            g.grid(one.B, len(plans)),
            g.block,
            (
                *map(one.int32, (one.T, one.B, one.H)),
                one.lengths,
                self.runtime.report(instance),
                one.int32(one.run.reverse),
                *save,
                *pointers,
            ),
            shared=g.shared,
            cluster=g.cluster,
        )


class ClusteredLSTM(Clustered, FusedLSTM):
    def buffers(self, plan: Plan) -> tuple[int, ...]:
        U, b = plan.weights["U"], plan.weights["b"]
        return (U, plan.at(plan.run.gates), b, plan.at(plan.run.hs), plan.at(plan.run.cs))

    def buffers_backward(self, plan: Plan) -> tuple[int, ...]:
        return (plan.weights["U"], plan.at(plan.run.gates), plan.at(plan.run.cs))


class ClusteredGRU(Clustered, FusedGRU):
    def buffers(self, plan: Plan) -> tuple[int, ...]:
        U, b, v = (plan.weights[name] for name in ("U", "b", "v"))
        return (U, plan.at(plan.run.gates), b, v, plan.at(plan.run.hs))

    def buffers_backward(self, plan: Plan) -> tuple[int, ...]:
        return (plan.weights["U"], plan.at(plan.run.gates), plan.at(plan.run.hs))


class ClusteredElman(Clustered, FusedElman):
    def buffers(self, plan: Plan) -> tuple[int, ...]:
        U, b = plan.weights["U"], plan.weights["b"]
        return (U, plan.at(plan.run.gates), b, plan.at(plan.run.hs))

    def buffers_backward(self, plan: Plan) -> tuple[int, ...]:
        return (plan.weights["U"], plan.at(plan.run.gates), plan.at(plan.run.hs))


class ClusteredElmanReLU(ClusteredElman, FusedElmanReLU):
    pass
