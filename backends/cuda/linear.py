"""The cells with a linear recurrence: the whole loop inside one kernel.

Every unit of every sequence goes through time by itself.  Where these are too few to fill
the device, the time axis is cut into pieces that run in parallel (``kernels/linear.cu``).
"""

from __future__ import annotations

from typing import Any

from xrnn.backends.cuda.fused import Fused
from xrnn.backends.cuda.plan import BLOCK, TYPES, Plan, Run
from xrnn.typing import Array, Namespace, State, Weights

#: threads that fill a device (132 processors of 256), and the fewest steps of a piece
THREADS, SHORTEST = 33792, 64


def pieces(T: int, B: int, H: int) -> int:
    """Into how many pieces the time axis is cut."""
    return max(1, min(-(-THREADS // (B * H)), T // SHORTEST))


class FusedLinear(Fused):
    """What the two linear cells share; they differ in whether h is a state beside s."""

    source = "linear.cu"
    #: the kernels' names without _forward, _backward
    name = ""
    #: whether h is a state of its own, beside the one that recurs
    beside = False

    def path(self, T: int, B: int, I: int, H: int) -> str:
        P = pieces(T, B, H)
        return "one kernel for all steps" if P == 1 else f"{P} pieces of time in parallel"

    def forward(
        self,
        weights: Weights,
        xs: Array,
        state: State,
        *,
        lengths: Array | None,
        reverse: bool,
        keep: bool,
        xp: Namespace,
    ) -> tuple[Array, State, Any]:
        """As `xrnn.loop.Loop.forward`, for at least one value."""
        plan = self.open(Run(weights, xs, state, lengths, reverse))
        run, shape = plan.run, (plan.T, plan.B, plan.H)
        ys, s_last, h_last = plan.empty(*shape), plan.wide(state[-1]), state[0].copy()
        run.cs = plan.empty(*shape, acc=True) if keep else None
        s0 = plan.at(plan.wide(state[-1]))
        gates, bias = plan.at(run.gates), plan.weights["b"]
        entering, _ = self._entering(plan, "forward", reverse, s0, (gates, bias))
        self._launch(
            plan,
            "forward",
            *(gates, bias, entering, plan.at(run.cs), plan.at(ys), plan.at(s_last)),
            *((plan.at(h_last),) if self.beside else ()),
            *(plan.lengths, plan.int32(reverse), plan.int32(keep)),
        )
        s_last = xp.astype(s_last, plan.dtype)
        last = (h_last, s_last) if self.beside else (s_last,)
        return ys, last, run if keep else None

    def backward(
        self,
        weights: Weights,
        saved: Run,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> tuple[Array, State, dict[str, Array]]:
        """As `xrnn.loop.Loop.backward`."""
        run = self.reopen(saved)
        plan = Plan(self.runtime, run, self.tf32)
        gates, cs, lengths = plan.at(run.gates), plan.at(run.cs), plan.lengths
        dy = plan.at(None if dys is None else plan.dense(dys))
        dh_last, dh_first = plan.wide(dstate[0]), plan.wide(dstate[0])
        ds = plan.wide(dstate[-1])
        given = (gates, cs, dy, plan.at(dh_last)) if self.beside else (gates, dy)
        # What enters a piece going back is overwritten by what leaves it.
        through, rows = self._entering(plan, "backward", not run.reverse, plan.at(ds), given)
        self._launch(
            plan,
            "backward",
            *(gates, plan.at(plan.wide(run.first[-1])), cs, dy, through),
            *((plan.at(dh_last), plan.at(dh_first)) if self.beside else ()),
            *(lengths, plan.int32(run.reverse)),
        )
        if rows is not None:
            ds = rows[-1 if run.reverse else 0]
        dxs, dweights = self.input_gradients(plan)
        arrived = (dh_first, ds) if self.beside else (ds,)
        return dxs, tuple(xp.astype(d, plan.dtype) for d in arrived), dweights

    def _entering(
        self, plan: Plan, way: str, falling: bool, first: int, given: tuple[int, ...]
    ) -> tuple[int, Array | None]:
        """The state (or gradient) that enters each piece; where there is one piece, `first`."""
        P = pieces(plan.T, plan.B, plan.H)
        if P == 1:
            return first, None
        run, type_ = plan.run, TYPES[plan.acc][0]
        through, offset = (plan.empty(P, plan.B, plan.H, acc=True) for _ in range(2))
        maps = plan.at(through), plan.at(offset)
        self._launch(plan, f"{way}_map", *given, *maps, plan.lengths, plan.int32(run.reverse))
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

    def _launch(self, plan: Plan, way: str, *args: Any) -> None:
        self.runtime.launch(
            self.source,
            f"{self.name}_{way}<{plan.type}>",
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
