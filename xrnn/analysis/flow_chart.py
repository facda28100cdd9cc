"""``xrnn flow``: a chart of the size of gradients over time, one panel for each cell.

The loss depends on the last step alone.  The chart shows, on a logarithmic scale, the norm of the
gradient of the state at every earlier step.  In a cell without a gate that keeps the state, the
norm shrinks or grows by a factor at every step.  Where there is such a gate, a second line shows
the same with the gate held open, so that the factor is close to 1.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrnn.analysis.dynamics import lyapunov
from xrnn.analysis.gradient_flow import gradient_flow
from xrnn.backends import host
from xrnn.cells import GRU, LSTM, Cell, GRUBefore, InputGatedLSTM, MinGRU, PeepholeLSTM
from xrnn.engine import atomic
from xrnn.engine.unroll import unroll
from xrnn.layers.initialisation import draw
from xrnn.typing import Array, Weights

#: cell → the gate that keeps the old state, and 1 if it keeps it at 1, −1 if it keeps it at 0
KEEPERS: dict[Cell[Any], tuple[str, int]] = {
    LSTM: ("f", 1),
    PeepholeLSTM: ("f", 1),
    InputGatedLSTM: ("f", 1),
    GRU: ("z", 1),
    GRUBefore: ("z", 1),
    MinGRU: ("z", -1),
}

#: the bias that holds such a gate open: σ(6) = 0.9975
OPEN = 6.0


@dataclass(frozen=True)
class Flow:
    """The measurements of one cell."""

    cell: Cell[Any]
    norms: dict[str, Array]
    """State → (T,) norms of its gradient, with initial weights"""
    held_open: dict[str, Array] | None
    """The same with the gate that keeps the state held open; None for a cell without one"""
    exponent: float
    """The largest Lyapunov exponent, mean over the sequences"""


#: sequences of noise
BATCH = 8


def memory(steps: int, hidden: int) -> int:
    """The bytes that `measure` takes at least: inputs and states, and the Jacobian of a step."""
    return 8 * BATCH * hidden * (2 * steps + hidden)


def measure(cell: Cell[Any], steps: int, hidden: int, seed: int = 0, batch: int = BATCH) -> Flow:
    """Run one cell on noise, and the backward pass from a loss at the last step.

    >>> from xrnn.cells import LSTM
    >>> flow = measure(LSTM, steps=50, hidden=16)
    >>> bool(flow.norms["c"][0] < 1e-3 * flow.held_open["c"][0])
    True
    """
    xp, random = host.xp, host.generator(seed)
    weights = draw(cell, hidden, hidden, rng=random)
    xs = random.normal(size=(steps, batch, hidden))
    dys = xp.zeros((steps, batch, hidden))
    dys[-1] = random.normal(size=(batch, hidden)) / (batch * hidden) ** 0.5
    tape = unroll(cell, weights, xs)[2]
    held_open = None
    if cell in KEEPERS:
        held_open = gradient_flow(unroll(cell, _held_open(cell, weights), xs)[2], dys)
    exponent = float(xp.mean(lyapunov(tape)))
    return Flow(cell, gradient_flow(tape, dys), held_open, exponent)


def _held_open(cell: Cell[Any], weights: Weights) -> Weights:
    gate, sign = KEEPERS[cell]
    b = weights["b"].copy()
    H = b.shape[0] // len(cell.gates)
    k = cell.gates.index(gate)
    b[k * H : (k + 1) * H] = sign * OPEN
    return {**weights, "b": b}


def table(flows: Sequence[Flow]) -> list[str]:
    """The measurements as text, one line for each cell."""
    lines = [f"{'cell':<12}{'gradient at step 1':>24}{'gate held open':>18}{'exponent':>12}"]
    for flow in flows:
        # The last state is the one that the gate keeps: c where there is one.
        carried = flow.cell.states[-1]
        first = f"{flow.norms[carried][0] / flow.norms['h'][-1]:.1e}"
        open_ = "–"
        if flow.held_open is not None:
            open_ = f"{flow.held_open[carried][0] / flow.held_open['h'][-1]:.1e}"
        lines.append(f"{flow.cell.name:<12}{first:>24}{open_:>18}{flow.exponent:>12.3f}")
    return lines


def picture(flows: Sequence[Flow], path: Path) -> None:
    """Draw the cells side by side and write the chart to a PNG file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(1 + 2.9 * len(flows), 4.2), dpi=120, layout="constrained")
        axes = figure.subplots(1, len(flows), sharey=True, squeeze=False)[0]
        for ax, flow in zip(axes, flows, strict=True):
            _panel(ax, flow)
        axes[0].set_ylabel("norm of the gradient of the state")
        figure.suptitle("Gradients of the state for a loss at the last step")
        # Every label once: panels of cells without a c or a gate lack some lines.
        lines = {line.get_label(): line for ax in axes for line in ax.lines}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4)
        out = io.BytesIO()
        figure.savefig(out, format="png")
    atomic.replace(path, out.getvalue())


def _panel(ax: Any, flow: Flow) -> None:
    for norms, style, words in (
        (flow.norms, "-", "initial weights"),
        (flow.held_open or {}, "--", "gate held open"),
    ):
        for color, (state, norm) in zip(("C0", "C1"), norms.items(), strict=False):
            steps = range(1, len(norm) + 1)
            ax.plot(steps, norm, style, color=color, label=f"∂L/∂{state}, {words}")
    ax.set_yscale("log")
    ax.set_ylim(1e-12, 1e2)
    ax.set_title(flow.cell.name)
    ax.set_xlabel("step t")
    ax.grid(alpha=0.3)
