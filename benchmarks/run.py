"""Time xrnn against its peers: ``python benchmarks/run.py --threads 2``.

For every case of the grid all sides get the same weights and inputs.  They are compared
first, and a case on which they disagree is not timed.  Then they take turns in this one
process.  What counts is the ratio of the medians, beside the machine's noise: the ratio of
xrnn to itself.  One JSON line a case goes to ``results/<machine>.jsonl``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

from cases import CELLS, GRIDS, PRECISIONS, Case
from turns import PAUSE, Call, for_a_while, take_turns, waited_for

if TYPE_CHECKING:
    from floors import Rates
    from peers import Peer, Problem, Side

#: how much of the cores it needs a case may lose to other processes, and for how many
#: seconds it waits for better: threads that wait for each other slow down a hundredfold
#: when another process holds one of their cores
BUSY, WAIT = 0.1, 20.0


@dataclass(frozen=True)
class Effort:
    """Seconds for one case, the fewest turns of each side, and tries to be undisturbed."""

    seconds: float
    turns: int
    tries: int


FULL, QUICK = Effort(seconds=4.0, turns=7, tries=4), Effort(seconds=0.3, turns=2, tries=1)
#: on a GPU, which nobody shares: all four precisions in a few minutes
ON_GPU = Effort(seconds=0.8, turns=7, tries=2)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    set_environment(options.threads, options.precision, options.numpy_alone)
    # Only now, as the array libraries read the environment when they are loaded.
    import machine

    try:
        sync = machine.synchronizer(options.backend)
    except ImportError as error:
        print(f"nothing to time on: {error}", file=sys.stderr)
        return 2
    peers = usable_peers(options.backend)
    if not peers:
        print("nothing to compare with: no peer is installed", file=sys.stderr)
        return 2
    about = machine.describe(options.backend, options.threads)
    print(", ".join([about["device"], f"{about['threads']} thread(s)", about["versions"]["blas"]]))
    out = options.out or (None if options.quick else machine.results_file(options.backend))
    rates = measured_rates(options) if options.backend == "cuda" else None
    failed = 0
    for case in options.cases:
        try:
            measured = measure(case, options, peers, sync)
        except Exception as error:  # whatever one case fails with, the others can be timed
            failed += 1
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            print(f"{title(case)} NOT TIMED: {kind}{error}", flush=True)
            continue
        if rates is not None:
            measured["floor"] = beside_floor(case, rates, measured["ms"]["xrnn"])
        print(title(case), summary(measured), flush=True)
        if out:
            machine.store(out, {"case": asdict(case), **measured, **about})
    return 1 if failed else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, and as `cases` what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=GRIDS, default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of every side, on the CPU")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--numpy-alone", action="store_true", help="without the native loops")
    parser.add_argument("--quick", action="store_true", help="rough; kept only with --out")
    parser.add_argument("--out", metavar="FILE", help="instead of results/<machine>.jsonl")
    options = parser.parse_args(argv)
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    options.cases = [
        case
        for case in GRIDS[options.backend]
        if case.cell in options.cells and case.precision == options.precision
    ]
    if not options.cases:
        parser.error(f"the {options.backend} grid has no case in {options.precision}")
    return options


def set_environment(threads: int, precision: str, numpy_alone: bool = False) -> None:
    """Set what the array libraries read when they are loaded."""
    if numpy_alone:
        os.environ["XRNN_NATIVE"] = "0"
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "XRNN_NUM_THREADS")
    for variable in names:
        os.environ[variable] = str(threads)
    os.environ["CUPY_TF32"] = "1" if precision == "tf32" else "0"


def usable_peers(backend: str) -> list[Peer]:
    """The peers that compete on this backend; a line for each that is not installed."""
    from peers import PEERS

    competing = [peer for peer in PEERS if backend in peer.backends]
    for peer in competing:
        if peer.missing:
            print(f"without {peer.name}: {' and '.join(peer.missing)} not installed")
    return [peer for peer in competing if not peer.missing]


def measure(
    case: Case, options: argparse.Namespace, peers: Iterable[Peer], sync: Call
) -> dict[str, Any]:
    """Compare all sides on one case, then time them.

    Raises
    ------
    ValueError
        If two sides did not compute the same thing, or xrnn has no such layer.
    """
    from peers import Problem, code, ours, path

    problem = Problem(case, options.backend)
    mine = ours(problem)
    others = [peer.side(problem, options.threads) for peer in peers if case.mode in peer.modes]
    gap = agree(problem, mine, others)
    effort = QUICK if options.quick else ON_GPU if options.backend == "cuda" else FULL
    times, lost = undisturbed([mine, *others], sync, effort, options.threads)
    ms = {name: median(series) for name, series in times.items()}
    own = times[mine.name]
    return {
        "code": code(problem),
        "path": path(problem),
        "ms": {name: round(value, 5) for name, value in ms.items()},
        "ratio": {side.name: round(ms[mine.name] / ms[side.name], 4) for side in others},
        "gap": float(f"{gap:.1e}"),
        "noise": round(median(own[0::2]) / median(own[1::2]), 4),
        "lost": round(lost, 2),
        "repeats": len(own),
    }


def measured_rates(options: argparse.Namespace) -> Rates | None:
    """The rates of the GPU; None, and a line that says why, where they cannot be measured."""
    import floors

    try:
        rates = floors.measure(options.precision)
    except Exception as error:  # floors are beside the point; times are not
        print(f"without floors: {type(error).__name__}: {error}", flush=True)
        return None
    print(
        f"{options.precision}: products {rates.product / 1e12:.0f} TFLOP/s, "
        f"copies {rates.copy / 1e12:.2f} TB/s, an exchange {rates.exchange * 1e6:.2f} µs"
    )
    return rates


def beside_floor(case: Case, rates: Rates, ms: float) -> dict[str, Any]:
    """What a result says of its floor: the rates, the floor, what sets it, and ours / floor."""
    import floors

    least = floors.floor(case, rates)
    return {
        "rates": {name: float(f"{value:.3g}") for name, value in asdict(rates).items()},
        "ms": float(f"{least.ms:.4g}"),
        "bound": least.bound,
        "ours": round(ms / least.ms, 2),
    }


def agree(problem: Problem, mine: Side, others: Iterable[Side]) -> float:
    """The largest difference of the sides' results; a ValueError if it is too large."""
    from peers import TOLERANCES, difference

    tolerance = TOLERANCES[problem.case.precision]
    results, worst = mine.read(mine.call()), 0.0
    for side in others:
        gap, name = difference(results, side.read(side.call()))
        if not gap <= tolerance:
            raise ValueError(f"{name} of {side.name} differs by {gap:.1e}, allowed {tolerance}")
        worst = max(worst, gap)
    return worst


def undisturbed(
    sides: Sequence[Side], sync: Call, effort: Effort, threads: int
) -> tuple[dict[str, list[float]], float]:
    """The least disturbed of some tries, and how many of its cores other processes took."""
    from machine import Load

    spare = max(0, (os.cpu_count() or 1) - threads)
    tries = []
    for _ in range(effort.tries):
        load, end = Load(), perf_counter() + WAIT
        sleep(0.2)
        while load.others() > spare + BUSY and perf_counter() < end:
            sleep(0.5)
        times = take_turns(
            [partial(waited_for, side.call, sync) for side in sides],
            effort.seconds,
            effort.turns,
            for_a_while,
            pause=PAUSE if threads > 1 else 0.0,
        )
        named = {side.name: own for side, own in zip(sides, times, strict=True)}
        tries.append((max(0.0, load.others() - spare), named))
        if tries[-1][0] <= BUSY:
            break
    lost, least = min(tries, key=lambda pair: pair[0])
    return least, lost


def title(case: Case) -> str:
    return f"{case.cell:5}{case.size!s:21}{case.mode:10}"


def summary(measured: dict[str, Any]) -> str:
    """Milliseconds of every side, and for the peers the ratio."""
    words = [f"xrnn {measured['ms']['xrnn']:8.3f} ms"]
    for name, ratio in measured["ratio"].items():
        words.append(f"{name} {measured['ms'][name]:8.3f} ms, ratio {ratio:5.2f}")
    if "floor" in measured:
        words.append(f"{measured['floor']['ours']:.1f} × its floor ({measured['floor']['bound']})")
    words.append(f"noise {measured['noise']:.2f} in {measured['repeats']} turns")
    if measured["lost"] > BUSY:
        words.append(f"DISTURBED: others took {measured['lost']:.2f} cores")
    return "   ".join(words)


if __name__ == "__main__":
    sys.exit(main())
