"""A linear recurrence step by step and by the scan: ``python benchmarks/scan.py``.

Time against T = 64 … 65,536, for the recurrence alone and for a `MinGRU` forward and backward: its
own loop over steps, and the backend's whole sequences.  Both forms of a pair are compared first,
then take turns.  Numbers go to ``results/scan-<machine>.json``, the curves to the PNG beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from turns import take_turns, waited_for

LENGTHS = tuple(64 * 4**k for k in range(6))
SHAPES = ((1, 16), (1, 128), (32, 128))

#: values beyond which a curve ends, and seconds that each point gets
LARGEST, SECONDS = 3e7, 1.0

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(argv)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XRNN_NUM_THREADS"):
        os.environ[variable] = "1"
    import machine

    try:
        sync = machine.synchronizer(options.backend)
    except ImportError as error:
        print(f"nothing to time on: {error}", file=sys.stderr)
        return 2
    points = []
    for what, make in (("recurrence", recurrence), ("layer", layer)):
        for B, H in SHAPES:
            for T in (T for T in LENGTHS if T * B * H <= LARGEST):
                stepwise, whole = race(make(options.backend, T, B, H), sync)
                points.append(
                    {"what": what, "B": B, "H": H, "T": T, "loop": stepwise, "fast": whole}
                )
                print(
                    f"{what:11}B={B:<4}H={H:<5}T={T:<7}{stepwise:10.3f} ms {whole:10.3f} ms",
                    flush=True,
                )
    out = machine.results_file(options.backend)
    out = out.with_name(f"scan-{out.stem}.json")
    about = machine.describe(options.backend, 1)
    out.write_text(json.dumps({**about, "points": points}, indent=1) + "\n")
    draw(points, about, out.with_suffix(".png"))
    print(f"written to {out} and {out.with_suffix('.png').name}")
    return 0


def recurrence(backend: str, T: int, B: int, H: int) -> Pair:
    """s_t = f_t ⊙ s_{t-1} + u_t alone."""
    from xrnn.backends import get
    from xrnn.backends.cpu.scan import step_by_step
    from xrnn.backends.host import generator
    from xrnn.recurrence.scan import scan

    there, random = get(backend), generator(0)
    xp = there.xp
    f, u, first = (
        xp.astype(there.from_host(random.uniform(size=shape)), xp.float32)
        for shape in ((T, B, H), (T, B, H), (B, H))
    )

    def loop() -> Any:
        if backend == "cpu":
            return step_by_step(f, u, first)
        state, states = first, []
        for t in range(T):
            state = f[t, ...] * state + u[t, ...]
            states.append(state)
        return xp.stack(states)

    return loop, lambda: scan(f, u, first, xp=xp)


def layer(backend: str, T: int, B: int, H: int) -> Pair:
    """A layer forward and back: its own loop, and what the backend's table holds."""
    from dataclasses import replace

    import xrnn
    from xrnn.backends import get
    from xrnn.backends.host import generator
    from xrnn.cells import MinGRU

    there, random = get(backend), generator(0)
    xp = there.xp
    xs = xp.astype(there.from_host(random.normal(size=(T, B, H))), xp.float32)
    drawn = {k: 0.1 * random.normal(size=s) for k, s in MinGRU.shapes(H, H).items()}
    weights = {k: xp.astype(there.from_host(w), xp.float32) for k, w in drawn.items()}

    def run(cell: xrnn.cells.Cell) -> Any:
        ys, _, tape = xrnn.unroll(cell, weights, xs)
        return xrnn.unroll_backward(tape, ys)[0]

    own = replace(MinGRU)  # a copy has no entry in the tables
    return lambda: run(own), lambda: run(MinGRU)


def race(pair: Pair, sync: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds of both, once they agree; the first call of each is not counted."""
    slow, fast = (call() for call in pair)
    gap = float(abs(slow - fast).max() / abs(slow).max())
    if not gap < 1e-4:
        raise ValueError(f"the two forms differ by {gap:.1e}")
    first, second = take_turns([partial(waited_for, call, sync) for call in pair], SECONDS, 3)
    return median(first), median(second)


def draw(points: Sequence[dict[str, Any]], about: dict[str, Any], path: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 5.5), dpi=110, layout="constrained")
    titles = {"recurrence": "the recurrence alone", "layer": "MinGRU, forward and back"}
    names = {
        "recurrence": ("step by step", "scan"),
        "layer": ("the cell's loop", "whole sequence"),
    }
    for panel, (what, title) in zip(panels, titles.items(), strict=True):
        for n, (B, H) in enumerate(SHAPES):
            curve = [p for p in points if (p["what"], p["B"], p["H"]) == (what, B, H)]
            Ts = [p["T"] for p in curve]
            for form, style, name in zip(("loop", "fast"), ("o--", "o-"), names[what], strict=True):
                label = f"B={B}, H={H}: {name}"
                panel.plot(Ts, [p[form] for p in curve], style, color=f"C{n}", ms=3, label=label)
        panel.set(xscale="log", yscale="log", xlabel="steps T", ylabel="ms", title=title)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    figure.suptitle(f"{about['device']}, float32, one thread")
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
