"""Gradients carried forward with noise, against SnAp-1: ``python benchmarks/online_recall.py``.

The task is that of `online.py`: a bit is shown with a mark, noise follows, and then the bit is
asked for.  Cells whose units act on each other learn it from

- the exact gradient, `xrnn.online.Online`: B·N·P numbers, for N values of the state;
- its diagonal, SnAp-1, ``Online(…, method="snap1")``: biased, without noise;
- UORO, one product s̃ ⊗ θ̃ whose mean is ∂s/∂θ, and KF-RTRL, one Kronecker product whose mean is
  ∂s/∂θ, both written out here: without bias, with noise;
- backpropagation in windows of 10 steps, in which the mark is never seen with the question.

All of them get the same streams and initial weights, an update every 10 steps, and the best of the
learning rates.  Two numbers are compared: the answers that are wrong after the same number of
steps, and after the same time as SnAp-1 takes for them.

Sources: Tallec & Ollivier (2017), arXiv:1702.05043; Mujika, Meier & Steger (2018),
arXiv:1805.10842; Menick et al. (2021), arXiv:2006.07232.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import Any, NamedTuple, Protocol

import machine
import numpy as np
from online import WINDOW, I, added, stream
from tables import table

import xrnn
from xrnn.cells import BY_NAME
from xrnn.cells.base import Cell
from xrnn.learn.dual_functions import dual
from xrnn.recurrence.sensitivity import rows_backward, units

Array = np.ndarray[Any, Any]
#: random signs, as an array of a shape
Signs = Callable[[tuple[int, ...]], Array]

#: streams
B = 8
RATES = (3e-3, 1e-2)
METHODS = ("exact", "snap1", "uoro", "kf-rtrl", "window")


class Task(NamedTuple):
    """A cell of H units, and the range of steps between the mark and the question."""

    cell: str
    H: int
    delay: tuple[int, int]
    methods: tuple[str, ...] = METHODS


TASKS = (
    Task("lstm", 16, (20, 41)),
    Task("lstm", 16, (5, 11)),
    Task("rnn", 16, (5, 11)),
    Task("rnn", 32, (5, 11)),
    # The exact gradient would take forty times as long as SnAp-1.
    Task("rnn", 64, (5, 11), METHODS[1:]),
)


class Learner(Protocol):
    """What `xrnn.online.Online` does, and the two below."""

    def step(self, x: Array) -> Array: ...

    def gradient(self, dh: Array) -> dict[str, Array]: ...


class Estimate:
    """∂s/∂θ of a cell by random products; the mean over the signs is exact.

    The cell is one whose gradients are all products of that of W x + U h + b, which is `da` of
    `Cell.step_backward`: with a = (x, h of the step before, 1) the gradient of (W, U, b) is da ⊗ a.
    """

    def __init__(
        self, cell: Cell[Any], weights: dict[str, Array], batch: int, signs: Signs
    ) -> None:
        self.cell, self.weights, self.signs = cell, weights, signs
        (rows, inputs), units = weights["W"].shape, weights["U"].shape[1]
        self.cuts = [inputs, inputs + units]
        dtype = weights["W"].dtype
        self.state = tuple(np.zeros((batch, n), dtype) for n in cell.widths(units))
        self.sizes = rows, inputs + units + 1, sum(s.shape[1] for s in self.state)
        self.start(batch, dtype)

    def start(self, batch: int, dtype: Any) -> None:
        """The estimate of zeros."""
        raise NotImplementedError

    def step(self, x: Array) -> Array:
        before, weights = self.state, self.weights
        a = np.concatenate([x, before[0], np.ones_like(x[:, :1])], axis=1)
        projected = x @ weights["W"].T + weights["b"]
        self.advance(projected, a)
        return self.state[0]

    def advance(self, projected: Array, a: Array) -> None:
        """One step of the cell and of the estimate."""
        raise NotImplementedError

    def gradient(self, dh: Array) -> dict[str, Array]:
        """As that of `xrnn.online.Online`."""
        raise NotImplementedError

    def named(self, d: Array) -> dict[str, Array]:
        """Gradients (G·H, I + H + 1) by the names of the weights."""
        W, U, b = np.split(d, self.cuts, axis=1)
        return {"W": W, "U": U, "b": b[:, 0]}


class Uoro(Estimate):
    """Tallec & Ollivier (2017): ∂s/∂θ ≈ s̃ ⊗ θ̃, with random signs ν for each value of the state.

    s̃ ← ρ₀ J s̃ + ρ₁ ν,  θ̃ ← θ̃/ρ₀ + νᵀD/ρ₁                                              (1)
    """

    def start(self, batch: int, dtype: Any) -> None:
        rows, columns, N = self.sizes
        self.s = np.zeros((batch, N), dtype)
        self.theta = np.zeros((batch, rows, columns), dtype)

    def advance(self, projected: Array, a: Array) -> None:
        cuts = np.cumsum([part.shape[1] for part in self.state])[:-1]
        tangents = np.split(self.s, cuts, axis=1)
        moving = [dual(s, t, xp=np) for s, t in zip(self.state, tangents, strict=True)]
        # Dual numbers: J s̃ without J.
        ends, _ = self.cell.step(
            dual(projected, None, xp=np), moving, self.weights, xp=moving[0].functions
        )
        self.state, saved = self.cell.step(projected, self.state, self.weights, xp=np)
        Js = np.concatenate([end.tangent for end in ends], axis=1)
        nu = self.signs(Js.shape).astype(Js.dtype)
        da, *_ = self.cell.step_backward(
            tuple(np.split(nu, cuts, axis=1)), saved, self.weights, xp=np
        )
        first = balance(norm(self.theta), norm(Js))
        # |da ⊗ a| = |da| |a|
        second = balance(norm(da) * norm(a), norm(nu))
        self.s = first[:, None] * Js + second[:, None] * nu  # (1)
        self.theta /= first[:, None, None]
        self.theta += (da / second[:, None])[:, :, None] * a[:, None, :]

    def gradient(self, dh: Array) -> dict[str, Array]:
        scale = np.sum(dh * self.s[:, : dh.shape[1]], axis=1)
        return self.named(np.tensordot(scale, self.theta, 1))


class KfRtrl(Estimate):
    """Mujika, Meier & Steger (2018): ∂s/∂θ ≈ u ⊗ A, with A (N, G·H) and two random signs c.

    u ← c₁ p₁ u + c₂ p₂ a,  A ← c₁/p₁ J A + c₂/p₂ F,  F = ∂s/∂(W x + U h + b)            (2)
    """

    def start(self, batch: int, dtype: Any) -> None:
        rows, columns, N = self.sizes
        self.u = np.zeros((batch, columns), dtype)
        self.A = np.zeros((batch, N, rows), dtype)
        self.unit = units(self.state, xp=np)

    def advance(self, projected: Array, a: Array) -> None:
        self.state, saved = self.cell.step(projected, self.state, self.weights, xp=np)
        found = rows_backward(self.cell, self.unit, saved, self.weights, xp=np)
        F = found.da.transpose(1, 0, 2)
        JA = np.concatenate(found.dprev, axis=-1).transpose(1, 0, 2) @ self.A
        first, second = balance(norm(JA), norm(self.u)), balance(norm(F), norm(a))
        c = self.signs((2, len(a))).astype(a.dtype)
        self.u = (c[0] * first)[:, None] * self.u + (c[1] * second)[:, None] * a  # (2)
        self.A = (c[0] / first)[:, None, None] * JA + (c[1] / second)[:, None, None] * F

    def gradient(self, dh: Array) -> dict[str, Array]:
        da = (dh[:, None, :] @ self.A[:, : dh.shape[1]])[:, 0]
        return self.named(da.T @ self.u)


def norm(a: Array) -> Array:
    """Of each stream."""
    flat = a.reshape(len(a), -1)
    return np.asarray(np.sqrt(np.einsum("bn,bn->b", flat, flat)))


def balance(a: Array, b: Array) -> Array:
    """The factor that makes both factors of a product equally long; any one leaves the mean."""
    return np.sqrt((a + 1e-7) / (b + 1e-7))


def learner(method: str, cell: Cell[Any], weights: dict[str, Array], seed: int) -> Learner:
    if method in ("exact", "snap1"):
        return xrnn.online.Online(cell, weights, B, method=method)  # type: ignore[arg-type]
    rng = np.random.default_rng([seed, 1])

    def signs(shape: tuple[int, ...]) -> Array:
        return rng.integers(0, 2, shape) * 2 - 1

    return {"uoro": Uoro, "kf-rtrl": KfRtrl}[method](cell, weights, B, signs)


class Model:
    """A cell and a readout in training, and which of their answers were wrong."""

    def __init__(self, task: Task, rate: float, seed: int) -> None:
        make: Any = {"lstm": xrnn.LSTM, "rnn": xrnn.RNN}[task.cell]
        # As in `online.py`: something of the past must be left to learn from.
        how = {"forget_bias": 4.0} if task.cell == "lstm" else {}
        self.cell: Cell[Any] = BY_NAME[task.cell]
        layer = make(I, task.H, rng=[seed, 2], **how)
        self.weights = {k.removesuffix("_l0"): w for k, w in layer.weights.items()}
        self.readout = xrnn.Linear(task.H, 1, rng=[seed, 3])
        self.optimizer = xrnn.optim.Adam(rate)
        self.asked: list[int] = []
        self.wrong: list[int] = []

    def loss(self, hs: Array, answers: Array, asked: Array) -> tuple[Array, dict[str, Array]]:
        """The gradients of hs (B, H) and of the readout."""
        ys, tape = self.readout.forward(hs)
        self.asked.append(int(asked.sum()))
        self.wrong.append(int((~(ys * answers > 0))[asked].sum()))  # what is no number too
        dys = np.where(asked, 2 * (ys - answers), 0).astype("float32") / B
        dhs, dreadout = self.readout.backward(tape, dys)
        return np.asarray(dhs), dreadout

    def update(self, dcell: dict[str, Array], dreadout: dict[str, Array]) -> None:
        gradients = dcell | {f"out {k}": d for k, d in dreadout.items()}
        clipped, norm = xrnn.optim.clip_by_global_norm(gradients, 1.0)
        if not np.isfinite(norm):
            return
        self.optimizer.update(
            self.weights | {f"out {k}": w for k, w in self.readout.weights.items()}, clipped
        )

    def errors(self, each: int) -> list[float]:
        """The fraction of wrong answers in every `each` steps."""
        sums = [np.add.reduceat(one, range(0, len(one), each)) for one in (self.wrong, self.asked)]
        return [float(w / max(a, 1)) for w, a in zip(*sums, strict=True)]


def run(task: Task, method: str, rate: float, seed: int, steps: int) -> Model:
    """Learn from a stream for so many steps."""
    model, source = Model(task, rate, seed), stream(seed, B, task.delay)
    if method == "window":
        windows(model, source, steps)
        return model
    one = learner(method, model.cell, model.weights, seed)
    dcell: dict[str, Array] = {}
    dreadout: dict[str, Array] = {}
    for t in range(steps):
        x, answers, asked = next(source)
        dh, now = model.loss(one.step(x), answers, asked)
        dreadout = added(dreadout, now)
        if asked.any():  # else the gradient is 0
            dcell = added(dcell, one.gradient(dh))
        if (t + 1) % WINDOW == 0 and dcell:
            model.update(dcell, dreadout)
            dcell, dreadout = {}, {}
    return model


def windows(model: Model, source: Any, steps: int) -> None:
    """Learn by backpropagation within windows; the state is handed on from one to the next."""
    state = None
    for _ in range(0, steps, WINDOW):
        batch = [next(source) for _ in range(WINDOW)]
        xs = np.stack([x for x, _, _ in batch])
        ys, state, tape = xrnn.unroll(model.cell, model.weights, xs, state)
        dys = np.zeros_like(ys)
        dreadout: dict[str, Array] = {}
        for k, (_, answers, asked) in enumerate(batch):
            dys[k], now = model.loss(ys[k], answers, asked)
            dreadout = added(dreadout, now)
        if any(asked.any() for _, _, asked in batch):
            model.update(xrnn.unroll_backward(tape, dys)[2], dreadout)


def multiplications(method: str, task: Task) -> int:
    """Of one stream in one step, besides those of the step itself."""
    cell, H = BY_NAME[task.cell], task.H
    S, G = len(cell.states), len(cell.gates)
    N, U, P = S * H, G * H * H, G * H * (I + H + 1)
    return {
        "exact": N * U + N * N * P,  # J, and J P
        "snap1": S * S * P,
        "uoro": 2 * U + 2 * P,  # J s̃, νᵀD, and θ̃ twice
        "kf-rtrl": N * U + N * N * G * H + 2 * N * G * H,
        "window": 2 * U + P,
    }[method]


def microseconds(task: Task, steps: int = 600, rounds: int = 5) -> dict[str, float]:
    """The least time of a step of each method, which take turns; the readout is included."""
    found: dict[str, list[float]] = {method: [] for method in task.methods}
    for _ in range(rounds):
        for method, times in found.items():
            start = process_time()
            run(task, method, 1e-3, 0, steps)
            times.append(1e6 * (process_time() - start) / steps)
    return {method: min(times) for method, times in found.items()}


def compare(task: Task, steps: int, seeds: int) -> dict[str, Any]:
    """All methods on one task."""
    times, each, points = microseconds(task), max(1, steps // 100), []
    for method in task.methods:
        longest = round(steps * max(1.0, times["snap1"] / times[method]))
        curves = {
            rate: [run(task, method, rate, seed, longest).errors(each) for seed in range(seeds)]
            for rate in RATES
        }
        at = {"steps": 100, "time": round(100 * times["snap1"] / times[method])}
        if method == "window":
            at["time"] = 100  # a reference, which no time makes better
        point = {
            "method": method,
            "us": times[method],
            "multiplications": multiplications(method, task),
            **{f"equal {what}": best(curves, n) for what, n in at.items()},
            "curves": {f"{rate:g}": mean_curve(many) for rate, many in curves.items()},
        }
        points.append(point)
        print(line(task, point), flush=True)
    delay = [task.delay[0], task.delay[1] - 1]
    return {"cell": task.cell, "H": task.H, "B": B, "delay": delay, "points": points}


def best(curves: dict[float, list[list[float]]], n: int) -> dict[str, Any]:
    """Wrong answers in the last tenth of the first n hundredths, with the best learning rate."""
    ends = {
        rate: [mean(one[max(0, n - max(1, n // 10)) : max(1, n)]) for one in many]
        for rate, many in curves.items()
    }
    rate = min(ends, key=lambda rate: mean(ends[rate]))
    each = ends[rate]
    spread = stdev(each) if len(each) > 1 else 0.0
    return {"wrong": mean(each), "spread": spread, "rate": rate, "each": each}


def mean_curve(many: list[list[float]]) -> list[float]:
    return [round(mean(point), 4) for point in zip(*many, strict=True)]


def line(task: Task, point: dict[str, Any]) -> str:
    ends = "".join(
        f"{point[what]['wrong']:9.1%} ± {point[what]['spread']:5.1%} ({point[what]['rate']:g})"
        for what in ("equal steps", "equal time")
    )
    name = f"{task.cell}, H = {task.H}, {task.delay[0]}-{task.delay[1] - 1}, {point['method']}"
    return f"{name:32}{point['us']:7.0f} µs{point['multiplications']:10,} mult.{ends}"


# ---- What the page of results shows


def section(file: Path) -> str:
    """One row for each method and task, from a file of results."""
    found, rows = json.loads(file.read_text("utf-8")), []
    for task in found["tasks"]:
        name = "{cell}, H = {H}, {delay[0]} to {delay[1]} steps".format(**task)
        for point in task["points"]:
            ends = (point["equal steps"], point["equal time"])
            wrong = [f"{100 * one['wrong']:.0f} % ± {100 * one['spread']:.0f}" for one in ends]
            cost = f"{point['us']:.0f}", f"{point['multiplications']:,}"
            rows.append([name, point["method"], *cost, *wrong])
    head = ["task", "gradient", "µs a step", "multiplications", "wrong, equal steps", "equal time"]
    return (
        f"{found['device']}, one thread, commit {found['commit']}, {found['date']}; "
        f"{found['steps']:,} steps, {found['seeds']} seeds.\n\n{table(head, rows)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=16_000, help="of each stream")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--tasks", type=int, nargs="+", default=range(len(TASKS)), help="0 …")
    options = parser.parse_args(argv)
    load, out = machine.Load(), machine.results_file("cpu")
    about = {**machine.describe("cpu", 1), "steps": options.steps, "seeds": options.seeds}
    found = [compare(TASKS[n], options.steps, options.seeds) for n in options.tasks]
    out = out.with_name(f"online-recall-{out.stem}.json")
    out.write_text(json.dumps({**about, "others": load.others(), "tasks": found}) + "\n")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
