"""Whole sequences by fused kernels: one matrix product and one kernel for each step.

As in `xrnn.recurrence.loop.Loop`, what does not depend on the state is computed for all steps at
once, each in one large product: W x before the loop, and every weight gradient after it.  The loop
itself repeats the launches of one step, with addresses that move (`xrnn.backends.cuda.loop`), or
launches CUDA graphs that hold several steps (`xrnn.backends.cuda.graphs`).  The equations of a step
are in ``kernels/*.cu``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xrnn.backends.cuda import graphs
from xrnn.backends.cuda.plan import Address, Call, Launch, Moving, Plan, Residuals, Runtime
from xrnn.backends.cuda.rounded import RoundedPlan
from xrnn.backends.cuda.workspace import Workspace
from xrnn.cells.base import Cell
from xrnn.recurrence.masks import apply_mask, valid_mask
from xrnn.typing import Array, Namespace, State, Weights


class Fused:
    """The whole loop of one cell on a device, in the form of a `xrnn.typing.Sequence`.

    Subclasses define, for one cell, a step (`step`, `step_backward`) and the gradients of its
    weights (`weight_gradients`).

    Parameters
    ----------
    runtime : Runtime
        The device.
    cell : Cell
        The cell that the loop runs.
    precision : {"ieee", "tf32", "bf16"}
        What products of float32 do with what they multiply: with "tf32" they may round it to 10
        bits, with "bf16", which is for float32 alone, they round it to bfloat16.
    in_graphs : bool
        Whether the loop over time runs in CUDA graphs.
    """

    #: the file of the kernels, and their template arguments besides the type and the vector
    source, variant = "", ""
    #: the number of blocks of H columns in `Residuals.gates`
    width = 0
    #: whether the cell has a state c
    carries_c = False
    #: whether the backward pass needs the gates of the forward pass
    keeps_gates = True
    #: the position of each gate of the cell among the columns; None: in the cell's order
    columns: tuple[int, ...] | None = None

    def __init__(
        self,
        runtime: Runtime,
        cell: Cell[Any],
        precision: str = "ieee",
        in_graphs: bool = False,
    ) -> None:
        self.runtime, self.cell = runtime, cell
        self.precision, self.in_graphs = precision, in_graphs

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
        """As `xrnn.typing.Sequence.forward`; no size may be 0."""
        one = [(weights, state, reverse)]
        return self.forward_both(one, xs, lengths=lengths, keep=keep, xp=xp)[0]

    def forward_both(
        self,
        passes: Sequence[tuple[Weights, State, bool]],
        xs: Array,
        *,
        lengths: Array | None,
        keep: bool,
        xp: Namespace,
    ) -> list[tuple[Array, State, Any]]:
        """As `forward`, for one direction or for both, over the same inputs."""
        plans = [
            self.open(Residuals(weights, xs, state, lengths, reverse))
            for weights, state, reverse in passes
        ]
        for plan in plans:
            self._place_states(plan)
        self.drive(plans, keep)
        return [self._outputs(plan, keep) for plan in plans]

    def backward(
        self,
        weights: Weights,
        residuals: Residuals,
        dys: Array | None,
        dstate: State,
        *,
        xp: Namespace,
    ) -> tuple[Array, State, dict[str, Array]]:
        """As `xrnn.typing.Sequence.backward`.  Gradients overwrite the gates that they
        belong to, so a second backward pass first runs forward again."""
        return self.backward_both([(weights, residuals, dys, dstate)], xp=xp)[0]

    def backward_both(
        self, passes: Sequence[tuple[Weights, Residuals, Array | None, State]], *, xp: Namespace
    ) -> list[tuple[Array, State, dict[str, Array]]]:
        """The same for one direction or for both."""
        plans, given = [], []
        for _, residuals, dys, dstate in passes:
            plan = self._plan(self.reopen(residuals))
            if not self.keeps_gates:
                plan.run.gates = plan.empty(plan.T, plan.B, self.width * plan.H)
            plans.append(plan)
            carried = tuple(plan.upcast(d) for d in dstate)
            given.append((None if dys is None else plan.dense(dys), carried))
        self.drive_backward(plans, given)
        results = []
        for plan, (_, carried) in zip(plans, given, strict=True):
            dxs, dweights = self.input_gradients(plan)
            dfirst = tuple(xp.astype(d, plan.dtype) for d in carried)
            results.append((dxs, dfirst, dweights | self.weight_gradients(plan)))
        return results

    def drive(self, plans: Sequence[Plan], keep: bool) -> None:
        """Run all steps of passes whose gates hold W x, and fill their buffers."""
        for plan in plans:
            run = plan.run
            with self._workspace(plan, "forward") as space:
                step = Step(plan, run.order, self.width, space)
                step.state = space.values("state", run.hs[run.ends[0]].copy())
                space.repeat(self.step(plan, step, plan.int32(keep)), plan.T)

    def drive_backward(
        self, plans: Sequence[Plan], given: Sequence[tuple[Array | None, State]]
    ) -> None:
        """Replace the gates by their gradients, and the gradients of the last states by those of
        the first."""
        for plan, (dys, carried) in zip(plans, given, strict=True):
            with self._workspace(plan, "backward") as space:
                step = Step(plan, plan.run.order[::-1], self.width, space, dys)
                step.dh, step.dc = space.values("dh", carried[0]), plan.at((*carried, None)[1])
                space.repeat(self.step_backward(plan, step), plan.T)
                space.give_back("dh", carried[0])

    def _plan(self, run: Residuals) -> Plan:
        """The plan of a pass in the precision of its products."""
        kind = RoundedPlan if self.precision == "bf16" else Plan
        return kind(self.runtime, run, self.precision == "tf32")

    def _workspace(self, plan: Plan, direction: str) -> Workspace:
        """Where the steps of a pass run."""
        if not self.in_graphs:
            return Workspace(plan)
        space: Workspace = self.runtime.workspace(plan, self.cell.name, direction, self.precision)
        return space

    def path(self, T: int, B: int, I: int, H: int) -> str:
        """A description of what runs for these sizes."""
        if self.in_graphs:
            return f"one fused kernel a step, in CUDA graphs of {graphs.STEPS} steps"
        return f"one fused kernel a step, the loop in {self.runtime.language}"

    def step(self, plan: Plan, at: Step, save: Any) -> list[Call]:
        """What one time step forward launches."""
        raise NotImplementedError

    def step_backward(self, plan: Plan, at: Step) -> list[Call]:
        """The same of a time step backward."""
        raise NotImplementedError

    def gate_kernel(self, plan: Plan, what: str, *args: Any) -> Launch:
        """An elementwise kernel of the file; its name is that of the file and `what`."""
        name = f"{self.source.removesuffix('.cu')}_{what}"
        return plan.kernel(self.source, name, *args, variant=self.variant, most=self.units(plan))

    def units(self, plan: Plan) -> int:
        """The most units that a thread of an elementwise kernel has."""
        return 4

    def weight_gradients(self, plan: Plan) -> dict[str, Array]:
        """The gradients of all weights but W and b, from the gradients in `Residuals.gates`."""
        raise NotImplementedError

    def open(self, run: Residuals) -> Plan:
        """Make the plan of a pass: W x is in its gates, and the padding of its inputs is zero."""
        xp = self.runtime.xp
        if run.lengths is not None:
            run.mask = valid_mask(run.xs.shape[0], run.lengths, xp=xp)
            # Values in the padding, even NaN, must not get into the sums over all steps.
            run.xs = apply_mask(run.mask, run.xs, xp=xp)
        plan = self._plan(run)
        run.xs = plan.dense(run.xs)
        T, B, I, n, ld = plan.T, plan.B, plan.I, len(self.cell.gates) * plan.H, self.width * plan.H
        run.gates = plan.empty(T, B, ld)
        xs, W = plan.at(run.xs), plan.at(self._to_columns(plan, run.weights["W"]))
        plan.times((T * B, n, I), (xs, I), (W, I), (plan.at(run.gates), ld), tb=True)
        return plan

    def _place_states(self, plan: Plan) -> None:
        """Make the buffers of the states and put the first states into their slot."""
        run = plan.run
        first, _ = run.ends
        run.hs = plan.empty(plan.T + 1, plan.B, plan.H)
        run.hs[first] = run.first[0]
        if self.carries_c:
            run.cs = plan.empty(plan.T + 1, plan.B, plan.H, acc=True)
            run.cs[first] = run.first[1]

    def _outputs(self, plan: Plan, keep: bool) -> tuple[Array, State, Any]:
        """The results of a pass, from its buffers."""
        run, xp = plan.run, plan.xp
        first, end = run.ends
        ys = run.hs[1:] if first == 0 else run.hs[:-1]
        # A copy, as outputs share the memory of hs, which the backward pass reads.
        last: tuple[Array, ...] = (run.hs[end].copy(),)
        if run.mask is not None:
            # Past the end the buffer holds the last state, but outputs must be 0 there.
            ys = apply_mask(run.mask, ys, xp=xp)
        if self.carries_c:
            last = (*last, xp.astype(run.cs[end], plan.dtype))
        if not self.keeps_gates:
            run.gates = None
        return ys, last, run if keep else None

    def reopen(self, residuals: Residuals) -> Residuals:
        """The residuals; if their gates hold gradients already, forward is run again first."""
        if residuals.spent:
            again = (residuals.weights, residuals.xs, residuals.first)
            residuals = self.forward(
                *again,
                lengths=residuals.lengths,
                reverse=residuals.reverse,
                keep=True,
                xp=self.runtime.xp,
            )[2]
        residuals.spent = self.keeps_gates
        return residuals

    def input_gradients(self, plan: Plan) -> tuple[Array, dict[str, Array]]:
        """The gradients of xs, W and b, from the gradients in `Residuals.gates`."""
        run, rows, n = plan.run, plan.T * plan.B, len(self.cell.gates) * plan.H
        ld = self.width * plan.H
        gates, xs = plan.at(run.gates), plan.at(run.xs)
        W = plan.at(self._to_columns(plan, run.weights["W"]))
        dxs, dW = plan.empty(*run.xs.shape), plan.empty(n, plan.I)
        plan.times((rows, plan.I, n), (gates, ld), (W, plan.I), (plan.at(dxs), plan.I))
        plan.times((n, plan.I, rows), (gates, ld), (xs, plan.I), (plan.at(dW), plan.I), ta=True)
        db = plan.column_sums(gates, ld, n)
        if run.mask is not None:
            # They are 0 in the padding anyway unless a weight is infinite or NaN.
            dxs = apply_mask(run.mask, dxs, xp=plan.xp)
        return dxs, {"W": self._from_columns(plan, dW), "b": self._from_columns(plan, db)}

    def recurrent_gradient(
        self, plan: Plan, column: int, blocks: int, operand: int | None = None
    ) -> Array:
        """Σ da operandᵀ, the gradient of rows of U, for `blocks` blocks of columns from `column`.

        `operand` (T, B, H) is what those rows were multiplied by; default: the h before.
        """
        run, H, rows = plan.run, plan.H, blocks * plan.H
        if operand is None:
            operand = plan.at(run.hs) + run.before * plan.B * H * plan.bytes
        dU = plan.empty(rows, H)
        da = plan.at(run.gates) + column * H * plan.bytes
        ld = self.width * H
        plan.times((rows, H, plan.T * plan.B), (da, ld), (operand, H), (plan.at(dU), H), ta=True)
        return dU

    def _to_columns(self, plan: Plan, W: Array) -> Array:
        """W with its gates in the order of the columns."""
        if self.columns is None:
            return plan.dense(W)
        H, order = plan.H, sorted(range(len(self.columns)), key=self.columns.__getitem__)
        return plan.dense(plan.xp.concat([W[k * H : (k + 1) * H] for k in order]))

    def _from_columns(self, plan: Plan, dW: Array) -> Array:
        if self.columns is None:
            return dW
        H = plan.H
        return plan.xp.concat([dW[k * H : (k + 1) * H] for k in self.columns])


class Step:
    """The addresses of the arrays of a time step; 0 for arrays that a pass does not have.

    Parameters
    ----------
    plan : Plan
        The plan of the pass.
    order : range
        The steps in the order that they are run in.
    width : int
        As `Fused.width`.
    space : Workspace
        What stays in place from step to step.
    dys : array (T, B, H), optional
        The gradient of the outputs.
    """

    #: in place: h, which the steps replace; in the backward pass the gradients of h and c
    state = dh = dc = 0

    def __init__(
        self, plan: Plan, order: range, width: int, space: Workspace, dys: Array | None = None
    ) -> None:
        run, size = plan.run, plan.B * plan.H
        self.space, self.U = space, space.values("U", run.weights["U"])
        self._first, self._change = order[0], order.step
        before, after = run.before, 1 - run.before
        gates, hs, cs, dy = map(plan.at, (run.gates, run.hs, run.cs, dys))
        row, acc = size * plan.bytes, size * plan.acc_bytes
        self.t = Moving(plan.int32(self._first), self._change)
        self.gates, self.dy = self.row(gates, width * row), self.row(dy, row)
        self.h_prev, self.h = self.row(hs, row, before), self.row(hs, row, after)
        self.c_prev, self.c = self.row(cs, acc, before), self.row(cs, acc, after)

    def row(self, array: int, size: int, ahead: int = 0) -> Address:
        """The address of row t + ahead, of `size` bytes each; 0 if there is no array."""
        if not array:
            return 0
        return Moving(array + (self._first + ahead) * size, self._change * size)
