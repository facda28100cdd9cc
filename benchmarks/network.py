"""A model of data-parallel training: what adding up gradients over a network costs.

A message of n bytes takes latency + n / bandwidth seconds, each rank sends and receives one at a
time, in both directions at once, and a rank adds up what it receives at a rate of its own.  The
network is the same between any two ranks, and moves data while the processors compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

#: bytes of the last message of a step: the loss, and which signals ranks have got
TOLD = 32

#: bytes that are added up together at least: layers with fewer wait for those below
FEWEST = 2**16


@dataclass(frozen=True)
class Network:
    """Seconds of a message without contents, bytes a second, bytes added up a second."""

    latency: float
    bandwidth: float
    adding: float = float("inf")

    def message(self, n: float) -> float:
        return self.latency + n / self.bandwidth


@dataclass(frozen=True)
class Compute:
    """Seconds that one rank computes in a step.

    Attributes
    ----------
    forward : float
        Forward pass and loss.
    backward : tuple of float
        The backward passes of the layers, in the order in which they run.
    rest : float
        All else: the batch, the update.
    """

    forward: float
    backward: tuple[float, ...]
    rest: float

    @property
    def total(self) -> float:
        return self.forward + sum(self.backward) + self.rest


def ring(n: float, ranks: int, network: Network) -> float:
    """Seconds to add up n bytes in a ring: each rank passes on parts of n / ranks bytes.

    After ranks − 1 messages each rank has the sum of one part, after as many more of all parts.
    """
    part, turns = n / ranks, ranks - 1
    return turns * (2 * network.message(part) + part / network.adding)


def tree(n: float, ranks: int, network: Network) -> float:
    """Seconds to add up n bytes in a tree: pair by pair to rank 0, and back in the same way."""
    rounds = (ranks - 1).bit_length()  # log2, rounded up
    return rounds * (2 * network.message(n) + n / network.adding)


def better(n: float, ranks: int, network: Network) -> float:
    """The smaller of the two; libraries choose by n and the number of ranks, too."""
    return min(ring(n, ranks, network), tree(n, ranks, network))


AllReduce = Callable[[float, int, Network], float]


def finished(ready: Iterable[float], durations: Iterable[float]) -> float:
    """When messages are through that are ready at these times, one after the other."""
    end = 0.0
    for time, duration in zip(ready, durations, strict=True):
        end = max(end, time) + duration
    return end


def grouped(sizes: Iterable[float], ready: Iterable[float]) -> tuple[list[float], list[float]]:
    """Messages of at least `FEWEST` bytes of the gradients of layers, and when each is ready."""
    groups: list[float] = []
    times: list[float] = []
    open_group = False
    for n, time in zip(sizes, ready, strict=True):
        if open_group:
            groups[-1], times[-1] = groups[-1] + n, time
        else:
            groups.append(n)
            times.append(time)
        open_group = groups[-1] < FEWEST
    return groups, times


def step(
    compute: Compute,
    sizes: Sequence[float],
    network: Network,
    ranks: int,
    *,
    overlap: bool = True,
    allreduce: AllReduce = better,
) -> float:
    """Seconds of a training step.

    Parameters
    ----------
    compute : Compute
        That of one rank, with its share of the batch.
    sizes : sequence of float
        The bytes of the gradients of each layer, in the order of ``compute.backward``.
    overlap : bool
        Whether the gradients of a layer are added up while the layers below are computed;
        otherwise those of all layers at once, after the backward pass.
    """
    passes = compute.forward + sum(compute.backward)
    groups, ready = [sum(sizes)], [passes]
    if overlap:
        groups, ready = grouped(sizes, [compute.forward + t for t in accumulate(compute.backward)])
    end = finished(ready, [allreduce(n, ranks, network) for n in groups])
    return max(passes, end) + better(TOLD, ranks, network) + compute.rest


def stops(times: dict[int, float]) -> dict[str, int]:
    """Where training on more ranks stops to help, of seconds of a step by ranks, from 1 on.

    - fastest: the ranks of the shortest step
    - half: the largest number of ranks that are used to at least a half
    """
    alone = times[1]
    used = [ranks for ranks, time in times.items() if alone / time >= ranks / 2]
    return {"fastest": min(times, key=lambda ranks: times[ranks]), "half": max(used)}
