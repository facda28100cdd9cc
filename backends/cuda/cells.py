"""One step of each cell on the device: its products and kernels, in their order.

Nothing is launched here: a step is described once, and run as often as there are steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xrnn.backends.cuda.fused import Fused, Step
from xrnn.backends.cuda.plan import Address, Call, Launch, Plan
from xrnn.typing import Array


class OneProduct(Fused):
    """A cell that multiplies U by h_prev and nothing else: LSTM, GRU, Elman, JANET.

    The gradients of the product stand in the columns from `recurrent` on, in the order of
    the rows of U.
    """

    recurrent = 0

    def step(self, plan: Plan, at: Step, save: Any) -> list[Call]:
        B, H, rows = plan.B, plan.H, len(self.cell.gates) * plan.H
        result = at.space.scratch("product", B, rows, acc=True)
        product = plan.product(
            (B, rows, H), (at.state, H), (at.U, H), (result, rows), tb=True, acc=True
        )
        return [product, self.activate(plan, at, result, save)]

    def step_backward(self, plan: Plan, at: Step) -> list[Call]:
        B, H, rows = plan.B, plan.H, len(self.cell.gates) * plan.H
        da = at.space.scratch("da", B, rows)
        product = plan.product((B, H, rows), (da, rows), (at.U, H), (at.dh, H), beta=1.0, acc=True)
        return [self.activate_backward(plan, at, da), product]

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        return {"U": self.recurrent_gradient(plan, self.recurrent, len(self.cell.gates))}

    def activate(self, plan: Plan, at: Step, product: int, save: Any) -> Launch:
        """The gate kernel, forward, which takes U h_prev."""
        raise NotImplementedError

    def activate_backward(self, plan: Plan, at: Step, da: int) -> Launch:
        """The gate kernel, backward, which gives the gradients of U h_prev."""
        raise NotImplementedError


class FusedLSTM(OneProduct):
    source, width, carries_c = "lstm.cu", 4, True

    def activate(self, plan: Plan, at: Step, product: int, save: Any) -> Launch:
        return self.gate_kernel(
            plan,
            "forward",
            *(at.gates, plan.weights["b"], product, at.c_prev, at.c, at.state, at.h),
            *(plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step, da: int) -> Launch:
        return self.gate_kernel(
            plan,
            "backward",
            *(at.gates, at.c_prev, at.c, at.dy, at.dh, at.dc, da, plan.lengths, at.t),
        )


class FusedPeephole(OneProduct):
    source, width, carries_c = "peephole.cu", 4, True

    def activate(self, plan: Plan, at: Step, product: int, save: Any) -> Launch:
        weights = plan.weights
        return self.gate_kernel(
            plan,
            "forward",
            *(at.gates, weights["b"], weights["p"], product),
            *(at.c_prev, at.c, at.state, at.h, plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step, da: int) -> Launch:
        return self.gate_kernel(
            plan,
            "backward",
            *(at.gates, plan.weights["p"], at.c_prev, at.c, at.dy, at.dh, at.dc),
            *(da, plan.lengths, at.t),
        )

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        dp = peephole_gradient(plan, self.cell.gates, ("i", "f", "o"))
        return super().weight_gradients(plan) | {"p": dp}


def peephole_gradient(plan: Plan, gates: Sequence[str], looking: Sequence[str]) -> Array:
    """Of p, which has a part for each gate of `looking`: that of o multiplied the new c, the others
    the c before."""
    run, H, ld = plan.run, plan.H, len(gates) * plan.H
    das, cs, size = plan.at(run.gates), plan.at(run.cs), plan.B * plan.H * plan.acc_bytes
    old, new = cs + run.before * size, cs + (1 - run.before) * size
    parts = [
        plan.column_sums(das + gates.index(k) * H * plan.bytes, ld, H, new if k == "o" else old, H)
        for k in looking
    ]
    return plan.xp.concat(parts)


class FusedElman(OneProduct):
    """Of the forward pass only h is kept; gradients have a buffer of their own."""

    # The number of the activation in the kernels: 0 for tanh, 1 for ReLU.
    source, width, keeps_gates, variant = "rnn.cu", 1, False, ", 0"

    def activate(self, plan: Plan, at: Step, product: int, save: Any) -> Launch:
        return self.gate_kernel(
            plan,
            "forward",
            *(at.gates, plan.weights["b"], product, at.state, at.h, plan.lengths, at.t),
        )

    def activate_backward(self, plan: Plan, at: Step, da: int) -> Launch:
        return self.gate_kernel(
            plan,
            "backward",
            *(at.gates, at.h, at.dy, at.dh, da, plan.lengths, at.t),
        )


class FusedElmanReLU(FusedElman):
    variant = ", 1"


class FusedJANET(OneProduct):
    source, width = "janet.cu", 2

    def activate(self, plan: Plan, at: Step, product: int, save: Any) -> Launch:
        return self.gate_kernel(
            plan,
            "forward",
            *(at.gates, plan.weights["b"], product, at.state, at.h, plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step, da: int) -> Launch:
        return self.gate_kernel(
            plan,
            "backward",
            *(at.gates, at.h_prev, at.dy, at.dh, da, plan.lengths, at.t),
        )


class FusedGRU(OneProduct):
    """Columns n, r, z, m: W x has the first three, U h_prev the last three."""

    source, width, columns, recurrent = "gru.cu", 4, (1, 2, 0), 1

    def activate(self, plan: Plan, at: Step, product: int, save: Any) -> Launch:
        weights = plan.weights
        return self.gate_kernel(
            plan,
            "forward",
            *(at.gates, weights["b"], weights["v"], product, at.state, at.h),
            *(plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step, da: int) -> Launch:
        return self.gate_kernel(
            plan,
            "backward",
            *(at.gates, at.h_prev, at.dy, at.dh, da, plan.lengths, at.t),
        )

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        m = plan.at(plan.run.gates) + 3 * plan.H * plan.bytes
        dv = plan.column_sums(m, 4 * plan.H, plan.H)
        return super().weight_gradients(plan) | {"v": dv}


class TwoProducts(Fused):
    """A cell whose last gate n multiplies U_n not by h_prev but by q, which is h_prev times another
    gate: GRU with the reset gate before, MGU.  q is kept."""

    @property
    def first(self) -> int:
        """The number of gates whose rows of U are multiplied by h_prev."""
        return len(self.cell.gates) - 1

    def step(self, plan: Plan, at: Step, save: Any) -> list[Call]:
        H, B, rows = plan.H, plan.B, self.first * plan.H
        bias, lengths, U_n = plan.weights["b"], plan.lengths, at.U + rows * H * plan.bytes
        of_h = at.space.scratch("of_h", B, rows, acc=True)
        operand, of_n = at.space.scratch("q", B, H), at.space.scratch("of_n", B, H, acc=True)
        return [
            plan.product((B, rows, H), (at.state, H), (at.U, H), (of_h, rows), tb=True, acc=True),
            self.gate_kernel(
                plan,
                "forward_gates",
                *(at.gates, bias, of_h, at.state, self._q(plan, at, bool(save)), operand),
                *(lengths, at.t),
            ),
            plan.product((B, H, H), (operand, H), (U_n, H), (of_n, H), tb=True, acc=True),
            self.gate_kernel(
                plan,
                "forward",
                *(at.gates, bias, of_n, at.state, at.h, lengths, at.t, save),
            ),
        ]

    def step_backward(self, plan: Plan, at: Step) -> list[Call]:
        H, B, rows, ld = plan.H, plan.B, self.first * plan.H, self.width * plan.H
        da, dq = at.space.scratch("da", B, ld), at.space.scratch("dq", B, H, acc=True)
        da_n, U_n = da + rows * plan.bytes, at.U + rows * H * plan.bytes
        end = (da, plan.lengths, at.t)
        return [
            self.gate_kernel(
                plan,
                "backward",
                *(at.gates, at.h_prev, at.dy, at.dh, *end),
            ),
            plan.product((B, H, H), (da_n, ld), (U_n, H), (dq, H), acc=True),
            self.gate_kernel(
                plan,
                "backward_reset",
                *(at.gates, at.h_prev, dq, at.dh, *end),
            ),
            plan.product((B, H, rows), (da, ld), (at.U, H), (at.dh, H), beta=1.0, acc=True),
        ]

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        q = plan.at(plan.run.more["q"])
        of_h = self.recurrent_gradient(plan, 0, self.first)
        return {"U": plan.xp.concat([of_h, self.recurrent_gradient(plan, self.first, 1, q)])}

    def _q(self, plan: Plan, at: Step, keep: bool) -> Address:
        """The address of q of a step, which weights' gradients need; 0 if it is not kept."""
        if not keep:
            return 0
        plan.run.more["q"] = plan.empty(plan.T, plan.B, plan.H)
        return at.row(plan.at(plan.run.more["q"]), plan.B * plan.H * plan.bytes)


class FusedGRUBefore(TwoProducts):
    source, width = "gru_before.cu", 3


class FusedMGU(TwoProducts):
    source, width = "mgu.cu", 2
