"""The model of training on many ranks: its formulas equal what happens message by message."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not beside us")
sys.path.append(str(BENCHMARKS))


@pytest.fixture
def network() -> Any:
    return importlib.import_module("network")


@pytest.fixture
def scaling() -> Any:
    return importlib.import_module("scaling")


def connection(network: Any) -> Any:
    return network.Network(latency=3e-5, bandwidth=1e9, adding=5e9)


def arrays(n: int, ranks: int) -> list[np.ndarray]:
    """Integers of each rank, whose sums are exact."""
    rng = np.random.default_rng(ranks)
    return [rng.integers(-9, 9, n).astype("float32") for _ in range(ranks)]


def ring_by_steps(buffers: list[np.ndarray], one: Any) -> float:
    """Add up the buffers of all ranks, message by message; the time at which the last one has
    them."""
    ranks = len(buffers)
    parts = [np.split(buffer, ranks) for buffer in buffers]
    clock = [0.0] * ranks
    for turn in range(2 * (ranks - 1)):
        sent = {}
        for rank in range(ranks):
            # In the first round parts with more and more summands go on, then the sums.
            k = (rank - turn) % ranks if turn < ranks - 1 else (rank + 1 - turn + ranks - 1) % ranks
            arrival = clock[rank] + one.message(parts[rank][k].nbytes)
            sent[(rank + 1) % ranks] = k, parts[rank][k].copy(), arrival
        for rank, (k, part, arrival) in sent.items():
            clock[rank] = max(clock[rank], arrival)
            if turn < ranks - 1:
                parts[rank][k] += part
                clock[rank] += part.nbytes / one.adding
            else:
                parts[rank][k][...] = part
    return max(clock)


def tree_by_steps(buffers: list[np.ndarray], one: Any) -> float:
    """The same in a tree: to rank 0, and back."""
    ranks, n = len(buffers), buffers[0].nbytes
    clock = [0.0] * ranks
    reach = 1
    while reach < ranks:
        for rank in range(0, ranks - reach, 2 * reach):
            buffers[rank] += buffers[rank + reach]
            # A rank receives when it is done with what came before.
            start = max(clock[rank], clock[rank + reach])
            clock[rank] = start + one.message(n) + n / one.adding
        reach *= 2
    clock[1:] = [0.0] * (ranks - 1)
    while reach > 1:
        reach //= 2
        for rank in range(0, ranks - reach, 2 * reach):
            buffers[rank + reach][...] = buffers[rank]
            clock[rank] = clock[rank + reach] = clock[rank] + one.message(n)
    return max(clock)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("way", ["ring", "tree"])
def test_the_formula_is_the_time_of_all_messages(network: Any, way: str, ranks: int) -> None:
    one, buffers = connection(network), arrays(16 * ranks, ranks)
    expected = np.sum(buffers, axis=0)
    by_steps = {"ring": ring_by_steps, "tree": tree_by_steps}[way]
    seconds = by_steps(buffers, one)
    for buffer in buffers:
        np.testing.assert_array_equal(buffer, expected)
    formula = getattr(network, way)(buffers[0].nbytes, ranks, one)
    assert formula == pytest.approx(seconds, rel=1e-12, abs=0)


def test_the_better_way_is_the_tree_for_few_bytes_and_the_ring_for_many(network: Any) -> None:
    one = connection(network)
    for n, way in ((32, network.tree), (1e9, network.ring)):
        assert network.better(n, 64, one) == way(n, 64, one)
        assert network.ring(n, 64, one) != network.tree(n, 64, one)
    assert network.better(1e6, 1, one) == 0


def finished_by_ticks(ready: list[int], durations: list[int]) -> int:
    """When a network that serves one message at a time is done, tick by tick."""
    waiting, left, tick = list(zip(ready, durations, strict=True)), 0, 0
    while waiting or left:
        if not left and waiting and waiting[0][0] <= tick:
            left = waiting.pop(0)[1]
        left -= left > 0
        tick += 1
    return tick


def test_messages_go_one_after_the_other(network: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        ready = np.cumsum(rng.integers(1, 9, 5)).tolist()
        durations = rng.integers(1, 9, 5).tolist()
        assert network.finished(ready, durations) == finished_by_ticks(ready, durations)


def test_small_gradients_wait_for_the_next_ones(network: Any) -> None:
    few, many = network.FEWEST // 4, network.FEWEST
    assert network.grouped([few, many, many, few], [1, 2, 3, 4]) == (
        [few + many, many, few],
        [2, 3, 4],
    )


class TestAStep:
    SIZES = (4e6, 4e6, 8e6)

    def compute(self, network: Any) -> Any:
        return network.Compute(forward=0.1, backward=(0.05, 0.08, 0.02), rest=0.01)

    @pytest.mark.parametrize("overlap", [False, True])
    def test_one_rank_computes_alone(self, network: Any, overlap: bool) -> None:
        compute = self.compute(network)
        seconds = network.step(compute, self.SIZES, connection(network), 1, overlap=overlap)
        assert seconds == pytest.approx(compute.total) == pytest.approx(0.26)

    def test_what_is_hidden_by_the_backward_pass(self, network: Any) -> None:
        compute, told = self.compute(network), network.TOLD

        def step(one: Any, overlap: bool) -> float:
            return float(network.step(compute, self.SIZES, one, 8, overlap=overlap))

        def cost(n: float, one: Any) -> float:
            return float(network.better(n, 8, one))

        fast = network.Network(0.0, 1e9)  # 7 ms, 7 ms, and 14 ms for the last one
        assert cost(4e6, fast) == pytest.approx(7e-3)
        assert step(fast, True) == pytest.approx(0.26 + 14e-3 + cost(told, fast))
        assert step(fast, False) == pytest.approx(0.26 + 28e-3 + cost(told, fast))
        # The network is still busy with the first two when the last one is ready.
        slow = replace(fast, bandwidth=5e7)
        expected = 0.1 + 0.05 + 4 * cost(4e6, slow) + cost(told, slow) + 0.01
        assert step(slow, True) == pytest.approx(expected)

    def test_where_it_stops(self, network: Any) -> None:
        times = {1: 8.0, 2: 4.0, 4: 3.0, 8: 2.5, 16: 4.0}
        assert network.stops(times) == {"fastest": 8, "half": 4}


class TestTheScript:
    @pytest.fixture
    def compute(self, scaling: Any, network: Any) -> Any:
        """Of every share, in proportion to its sequences, with a part that does not shrink."""
        found = {}
        for b in {scaling.B // p for p in scaling.RANKS} | {scaling.SHARE}:
            found[b] = network.Compute(1e-3 + b * 1e-4, (b * 1e-5, *(b * 6e-5,) * 3), 1e-4)
        return found

    def test_the_predictions(self, scaling: Any, network: Any, compute: Any) -> None:
        networks = scaling.found_networks(5e9, [{"ranks": 1}, {"latency": 1e-6, "bandwidth": 4e9}])
        assert list(networks) == [scaling.HERE, *scaling.ASSUMED]
        lines = list(scaling.predictions(compute, networks))
        assert len(lines) == 4 * len(networks) * len(scaling.RANKS)
        for line in lines:
            if line["ranks"] == 1:
                assert line["ms"] == pytest.approx(1e3 * compute[scaling.B].total)
                assert line["ms_growing"] == pytest.approx(1e3 * compute[scaling.SHARE].total)

    def test_what_moves_the_limit(self, scaling: Any, network: Any, compute: Any) -> None:
        networks = scaling.found_networks(5e9, [])
        limits = {
            (line["network"], line["change"]): line for line in scaling.limits(compute, networks)
        }
        assert len(limits) == len(networks) * len(scaling.CHANGES)
        for name in networks:
            plain = limits[name, "as it is"]
            free = limits[name, "no cost of communication"]
            for change in ("a tenth of the latency", "ten times the bandwidth"):
                better = limits[name, change]
                assert plain["times"] < better["times"] <= free["times"] * 1.001
                assert plain["half"] <= better["half"] <= free["half"]
            assert "times as fast as one" in scaling.sentence(plain)

    def test_the_picture(self, scaling: Any, compute: Any, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        measured = {"ranks": 2, "ms": 9.0, "ms_growing": 5.0, "latency": 1e-6, "bandwidth": 4e9}
        networks = scaling.found_networks(5e9, [measured])
        about = {"kind": "about", "device": "a device", **scaling.sizes_of()}
        picture = importlib.import_module("scaling_picture")
        for others in (0.1, 1.3):
            point = {"kind": "measured", "others": others, **measured}
            lines = [about, point, *scaling.predictions(compute, networks)]
            assert picture.undisturbed(lines) == ([point] if others < 1 else [])
            picture.draw(lines, tmp_path / "picture.png")
            assert (tmp_path / "picture.png").stat().st_size > 10_000
