"""The cells with a linear recurrence: one kernel runs all steps.

Each thread computes one unit of one sequence.  Where there are too few of these to fill the
device, the time axis is cut into pieces that run in parallel (``kernels/linear.cu``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xrnn.backends.cuda.fused import Fused
from xrnn.backends.cuda.plan import BLOCK, TYPES, Plan
from xrnn.typing import Array, State

#: threads that fill a device (132 processors of 256), and the fewest steps of a piece
THREADS, SHORTEST = 33792, 64


def pieces(T: int, B: int, H: int) -> int:
    """The number of pieces that the time axis is cut into."""
    return max(1, min(-(-THREADS // (B * H)), T // SHORTEST))


class FusedLinear(Fused):
    """The base of the two linear cells, which differ in whether h is a state beside s."""

    source = "linear.cu"
    #: the kernels' names without _forward, _backward
    name = ""
    #: whether h is a state beside s, the state of the recurrence
    beside = False

    def path(self, T: int, B: int, I: int, H: int) -> str:
        P = pieces(T, B, H)
        return "one kernel for all steps" if P == 1 else f"{P} pieces of time in parallel"

    def _place_states(self, plan: Plan) -> None:
        """Nothing: the buffers are made at the launch."""

    def drive(self, plans: Sequence[Plan], keep: bool) -> None:
        for plan in plans:
            self._run(plan, keep)

    def _run(self, plan: Plan, keep: bool) -> None:
        run, shape = plan.run, (plan.T, plan.B, plan.H)
        run.hs = plan.empty(*shape)
        if self.beside:
            run.more["h"] = run.first[0].copy()
        run.more["s"], s0 = plan.upcast(run.first[-1]), plan.at(plan.upcast(run.first[-1]))
        run.cs = plan.empty(*shape, acc=True) if keep else None
        gates, bias, reverse = plan.at(run.gates), plan.weights["b"], run.reverse
        entering, _ = self._entering(plan, "forward", reverse, s0, (gates, bias))
        self._launch(
            plan,
            "forward",
            *(gates, bias, entering),
            *map(plan.at, (run.cs, run.hs, run.more["s"])),
            *((plan.at(run.more["h"]),) if self.beside else ()),
            *(plan.lengths, plan.int32(reverse), plan.int32(keep)),
        )

    def _outputs(self, plan: Plan, keep: bool) -> tuple[Array, State, Any]:
        run = plan.run
        ys, s_last = run.hs, plan.xp.astype(run.more.pop("s"), plan.dtype)
        run.hs = None
        last = (run.more.pop("h"), s_last) if self.beside else (s_last,)
        return ys, last, run if keep else None

    def drive_backward(
        self, plans: Sequence[Plan], given: Sequence[tuple[Array | None, State]]
    ) -> None:
        for plan, (dys, carried) in zip(plans, given, strict=True):
            self._run_backward(plan, dys, carried)

    def _run_backward(self, plan: Plan, dys: Array | None, carried: State) -> None:
        run, dh, ds = plan.run, carried[0], carried[-1]
        gates, cs, dy = plan.at(run.gates), plan.at(run.cs), plan.at(dys)
        dh_last = plan.at(plan.upcast(dh)) if self.beside else 0
        more = (gates, cs, dy, dh_last) if self.beside else (gates, dy)
        # In the backward pass the gradient after a piece is overwritten by that before it.
        through, rows = self._entering(plan, "backward", not run.reverse, plan.at(ds), more)
        self._launch(
            plan,
            "backward",
            *(gates, plan.at(plan.upcast(run.first[-1])), cs, dy, through),
            *((dh_last, plan.at(dh)) if self.beside else ()),
            *(plan.lengths, plan.int32(run.reverse)),
        )
        if rows is not None:
            ds[...] = rows[-1 if run.reverse else 0]

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        return {}

    def _entering(
        self, plan: Plan, direction: str, falling: bool, first: int, given: tuple[int, ...]
    ) -> tuple[int, Array | None]:
        """The state before (or gradient after) each piece; for a single piece, `first`."""
        P = pieces(plan.T, plan.B, plan.H)
        if P == 1:
            return first, None
        run, type_ = plan.run, TYPES[plan.acc][0]
        through, offset = (plan.empty(P, plan.B, plan.H, acc=True) for _ in range(2))
        maps = plan.at(through), plan.at(offset)
        self._launch(plan, f"{direction}_map", *given, *maps, plan.lengths, plan.int32(run.reverse))
        self.runtime.launch(
            self.source,
            f"linear_carry<{type_}>",
            (self._blocks(plan),),
            (BLOCK,),
            (
                *map(plan.int32, (P, plan.B, plan.H)),
                *(first, *maps),
                plan.int32(falling),
            ),
        )
        return maps[1], offset

    def _launch(self, plan: Plan, direction: str, *args: Any) -> None:
        self.runtime.launch(
            self.source,
            f"{self.name}_{direction}<{plan.type}>",
            (self._blocks(plan), pieces(plan.T, plan.B, plan.H)),
            (BLOCK,),
            (*map(plan.int32, (plan.T, plan.B, plan.H)), *args),
        )

    def _blocks(self, plan: Plan) -> int:
        blocks: int = -(-plan.B * plan.H // BLOCK)
        return blocks


class FusedInputGated(FusedLinear):
    name, width, beside = "input_gated", 4, True


class FusedMinGRU(FusedLinear):
    name, width = "mingru", 2
