"""The kernels of cells with options (`xrnn.cells.options`): other activation functions, limits,
coupled gates and peepholes.

There is one kernel for each kind of cell, and a step has the form of that of the cell without
options.  The options are arguments of the kernels (``kernels/options.cuh``), so equal kernels serve
all of them, and none is compiled for one set alone.
"""

from __future__ import annotations

from math import inf
from typing import Any

from xrnn.backends.cuda.cells import (
    FusedElman,
    FusedGRU,
    FusedGRUBefore,
    OneProduct,
    peephole_gradient,
)
from xrnn.backends.cuda.fused import Fused, Step
from xrnn.backends.cuda.plan import Launch, Plan, Runtime
from xrnn.cells.activations import Spec
from xrnn.cells.base import Cell
from xrnn.typing import Array

#: the activation functions in the order of Kind in ``kernels/options.cuh``
KINDS = (
    *("sigmoid", "scaled_tanh", "thresholded_relu", "hard_sigmoid", "affine"),
    *("leaky_relu", "elu", "softsign", "softplus"),
)
#: the others, which are one of these with fixed parameters
SAME: dict[str, Spec] = {
    "tanh": ("scaled_tanh", 1.0, 1.0),
    "relu": ("thresholded_relu", 0.0, 0.0),
}


class WithOptions(Fused):
    """A loop whose kernels take the options of the cell after their other arguments."""

    def __init__(self, runtime: Runtime, cell: Cell[Any], *given: Any, **how: Any) -> None:
        super().__init__(runtime, cell, *given, **how)
        options = cell.made
        functions = [SAME.get(spec[0], spec) for spec in options.activations]
        self.kinds = sum(KINDS.index(name) << 4 * k for k, (name, *_) in enumerate(functions))
        numbers = [x for _, *parameters in functions for x in parameters]
        numbers += [0.0] * (6 - len(numbers))  # of functions that the cell does not have
        self.numbers = (*numbers, options.clip, getattr(options, "cell_clip", inf))

    def gate_kernel(self, plan: Plan, what: str, *args: Any) -> Launch:
        more = (plan.int32(self.kinds), *map(plan.number, self.numbers))
        return super().gate_kernel(plan, what, *args, *more)

    def units(self, plan: Plan) -> int:
        """With more than 16 bytes of each value, those of float64 would not fit into registers."""
        return 16 // plan.acc_bytes


class FusedLSTMOptions(WithOptions, OneProduct):
    """With or without coupled gates and peepholes."""

    source, carries_c = "lstm_options.cu", True

    def __init__(self, *given: Any, **how: Any) -> None:
        super().__init__(*given, **how)
        self.width = len(self.cell.gates)

    def activate(self, plan: Plan, at: Step, product: int, save: Any) -> Launch:
        weights = plan.weights
        return self.gate_kernel(
            plan,
            "forward",
            *(plan.int32(self.width), at.gates, weights["b"], weights.get("p", 0), product),
            *(at.c_prev, at.c, at.state, at.h, plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step, da: int) -> Launch:
        return self.gate_kernel(
            plan,
            "backward",
            *(plan.int32(self.width), at.gates, plan.weights.get("p", 0), at.c_prev, at.c),
            *(at.dy, at.dh, at.dc, da, plan.lengths, at.t),
        )

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        gradients = super().weight_gradients(plan)
        if looking := self.cell.made.looking:
            gradients["p"] = peephole_gradient(plan, self.cell.gates, looking)
        return gradients


class FusedGRUOptions(WithOptions, FusedGRU):
    source = "gru_options.cu"


class FusedGRUBeforeOptions(WithOptions, FusedGRUBefore):
    source = "gru_before_options.cu"


class FusedElmanOptions(WithOptions, FusedElman):
    source, keeps_gates, variant = "rnn_options.cu", True, ""

    def activate(self, plan: Plan, at: Step, product: int, save: Any) -> Launch:
        return self.gate_kernel(
            plan,
            "forward",
            *(at.gates, plan.weights["b"], product, at.state, at.h, plan.lengths, at.t, save),
        )

    def activate_backward(self, plan: Plan, at: Step, da: int) -> Launch:
        return self.gate_kernel(plan, "backward", at.gates, at.dy, at.dh, da, plan.lengths, at.t)
