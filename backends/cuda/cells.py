"""One step of each cell on the device: its products and kernels, in their order.

Nothing is launched here: a step is described once, and run as often as there are steps.
"""

from __future__ import annotations

from typing import Any

from xrnn.backends.cuda.fused import Fused, Step
from xrnn.backends.cuda.plan import Address, Call, Launch, Plan
from xrnn.typing import Array


class OneProduct(Fused):
    """A cell that multiplies U by h_prev and nothing else: LSTM, GRU, Elman.

    The gradients of the product stand in the columns from `recurrent` on, in the order of
    the rows of U.
    """

    recurrent = 0

    def step(self, plan: Plan, at: Step, save: Any) -> list[Call]:
        rows = len(self.cell.gates) * plan.H
        product = plan.product(
            (plan.B, rows, plan.H),
            (at.h_prev, plan.H),
            (plan.weights["U"], plan.H),
            (at.product, rows),
            tb=True,
            acc=True,
        )
        return [product, self.activate(plan, at, save)]

    def step_backward(self, plan: Plan, at: Step) -> list[Call]:
        rows, ld = len(self.cell.gates) * plan.H, self.width * plan.H
        product = plan.product(
            (plan.B, plan.H, rows),
            (at.gates + self.recurrent * plan.H * plan.bytes, ld),
            (plan.weights["U"], plan.H),
            (at.dh, plan.H),
            beta=1.0,
            acc=True,
        )
        return [self.activate_backward(plan, at), product]

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        return {"U": self.recurrent_gradient(plan, self.recurrent, len(self.cell.gates))}

    def activate(self, plan: Plan, at: Step, save: Any) -> Launch:
        """The gate kernel, forward."""
        raise NotImplementedError

    def activate_backward(self, plan: Plan, at: Step) -> Launch:
        """The gate kernel, backward."""
        raise NotImplementedError


class FusedLSTM(OneProduct):
    source, width, carries_c = "lstm.cu", 4, True

    def activate(self, plan: Plan, at: Step, save: Any) -> Launch:
        return plan.kernel(
            self.source,
            "lstm_forward",
            *(at.gates, plan.weights["b"], at.product, at.c_prev, at.c, at.h_prev, at.h),
            *(plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step) -> Launch:
        return plan.kernel(
            self.source,
            "lstm_backward",
            *(at.gates, at.c_prev, at.c, at.dy, at.dh, at.dc, plan.lengths, at.t),
        )


class FusedPeephole(OneProduct):
    source, width, carries_c = "peephole.cu", 4, True

    def activate(self, plan: Plan, at: Step, save: Any) -> Launch:
        weights = plan.weights
        return plan.kernel(
            self.source,
            "peephole_forward",
            *(at.gates, weights["b"], weights["p"], at.product),
            *(at.c_prev, at.c, at.h_prev, at.h, plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step) -> Launch:
        return plan.kernel(
            self.source,
            "peephole_backward",
            *(at.gates, plan.weights["p"], at.c_prev, at.c, at.dy, at.dh, at.dc),
            *(plan.lengths, at.t),
        )

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        """Besides U: p_i and p_f multiplied the c before, p_o the new one."""
        run, H, ld = plan.run, plan.H, 4 * plan.H
        gates, cs = plan.at(run.gates), plan.at(run.cs)
        old = cs + run.before * plan.B * H * plan.acc_bytes
        new = cs + (1 - run.before) * plan.B * H * plan.acc_bytes
        parts = [
            plan.column_sums(gates + k * H * plan.bytes, ld, H, seen, H)
            for k, seen in ((0, old), (1, old), (3, new))
        ]
        return super().weight_gradients(plan) | {"p": plan.xp.concat(parts)}


class FusedElman(OneProduct):
    """Of the forward pass only h is kept; gradients have a buffer of their own."""

    source, width, keeps_gates = "rnn.cu", 1, False
    #: the number of the activation in the kernels: 0 for tanh, 1 for ReLU
    activation = 0

    def activate(self, plan: Plan, at: Step, save: Any) -> Launch:
        return plan.kernel(
            self.source,
            "rnn_forward",
            *(at.gates, plan.weights["b"], at.product, at.h_prev, at.h, plan.lengths, at.t),
            variant=f", {self.activation}",
        )

    def activate_backward(self, plan: Plan, at: Step) -> Launch:
        return plan.kernel(
            self.source,
            "rnn_backward",
            *(at.gates, at.h, at.dy, at.dh, plan.lengths, at.t),
            variant=f", {self.activation}",
        )


class FusedElmanReLU(FusedElman):
    activation = 1


class FusedGRU(OneProduct):
    """Columns n, r, z, m: W x has the first three, U h_prev the last three."""

    source, width, columns, recurrent = "gru.cu", 4, (1, 2, 0), 1

    def activate(self, plan: Plan, at: Step, save: Any) -> Launch:
        weights = plan.weights
        return plan.kernel(
            self.source,
            "gru_forward",
            *(at.gates, weights["b"], weights["v"], at.product, at.h_prev, at.h),
            *(plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step) -> Launch:
        return plan.kernel(
            self.source,
            "gru_backward",
            *(at.gates, at.h_prev, at.dy, at.dh, plan.lengths, at.t),
        )

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        m = plan.at(plan.run.gates) + 3 * plan.H * plan.bytes
        dv = plan.column_sums(m, 4 * plan.H, plan.H)
        return super().weight_gradients(plan) | {"v": dv}


class FusedGRUBefore(Fused):
    """Two products a step: of h_prev for r and z, of q = r ⊙ h_prev for n; q is kept."""

    source, width = "gru_before.cu", 3

    def step(self, plan: Plan, at: Step, save: Any) -> list[Call]:
        H, B, U = plan.H, plan.B, plan.weights["U"]
        bias, lengths = plan.weights["b"], plan.lengths
        q, U_n = self._q(plan, at, bool(save)), U + 2 * H * H * plan.bytes
        of_rz = ((B, 2 * H, H), (at.h_prev, H), (U, H), (at.product, 2 * H))
        of_n = ((B, H, H), (q, H), (U_n, H), (at.product, H))
        return [
            plan.product(*of_rz, tb=True, acc=True),
            plan.kernel(
                self.source,
                "gru_before_forward_gates",
                *(at.gates, bias, at.product, at.h_prev, q, lengths, at.t, save),
            ),
            plan.product(*of_n, tb=True, acc=True),
            plan.kernel(
                self.source,
                "gru_before_forward",
                *(at.gates, bias, at.product, at.h_prev, at.h, lengths, at.t, save),
            ),
        ]

    def step_backward(self, plan: Plan, at: Step) -> list[Call]:
        H, B, U, lengths = plan.H, plan.B, plan.weights["U"], plan.lengths
        U_n, da_n = U + 2 * H * H * plan.bytes, at.gates + 2 * H * plan.bytes
        of_rz = ((B, H, 2 * H), (at.gates, 3 * H), (U, H), (at.dh, H))
        return [
            plan.kernel(
                self.source,
                "gru_before_backward",
                *(at.gates, at.h_prev, at.dy, at.dh, lengths, at.t),
            ),
            plan.product((B, H, H), (da_n, 3 * H), (U_n, H), (at.product, H), acc=True),
            plan.kernel(
                self.source,
                "gru_before_backward_reset",
                *(at.gates, at.h_prev, at.product, at.dh, lengths, at.t),
            ),
            plan.product(*of_rz, beta=1.0, acc=True),
        ]

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        q = plan.at(plan.run.more["q"])
        rz, n = self.recurrent_gradient(plan, 0, 2), self.recurrent_gradient(plan, 2, 1, q)
        return {"U": plan.xp.concat([rz, n])}

    def _q(self, plan: Plan, at: Step, keep: bool) -> Address:
        """The address of q of a step; if q is not kept, every step uses the same one."""
        plan.run.more["q"] = plan.empty(plan.T if keep else 1, plan.B, plan.H)
        q = plan.at(plan.run.more["q"])
        return at.row(q, plan.B * plan.H * plan.bytes) if keep else q
