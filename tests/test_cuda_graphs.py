"""Steps in CUDA graphs on the emulated device: the bits of the plain loop, and whose memory it is.

Graphs hold three steps here.  The emulated device records the calls of a capture and makes exactly
these at a launch, so an address that belongs to an earlier pass shows in the results.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from emulation import (
    BOUNDS,
    EMULATED,
    Emulator,
    Watched,
    fused,
    fused_instances,
    in_graphs,
    instances_in_graphs,
    use_small_blocks,
)
from optioned import SMOOTH
from sequences import AnyCell, Case, forward, run, run_both, same, some_lengths, variants

from xrnn import cells
from xrnn.backends.cuda import graphs
from xrnn.backends.cuda.graphs import Instance, Leased
from xrnn.backends.cuda.plan import Moving, Plan, Product, Residuals
from xrnn.backends.cuda.tables import FUSED

pytestmark = EMULATED

STEPS = 3
CELLS = [cell for cell in FUSED if cell.linear is None]

every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)
    monkeypatch.setattr(graphs, "STEPS", STEPS)


def emulator() -> Emulator:
    """A new one: nothing is captured yet."""
    return Emulator(fused_instances(), instances_in_graphs())


def launches(runtime: Emulator) -> list[int]:
    """How often each graph was launched."""
    return [graph.launches for graph in runtime.captured]


def case_of(cell: AnyCell, T: int = 8, dtype: str = "float32", H: int = 12, **how: Any) -> Case:
    return Case(cell, (T, 5, 3, H), dtype, **how)


@pytest.mark.parametrize("cell", [*CELLS, *SMOOTH], ids=lambda cell: cell.name)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("H", [12, 5], ids=["vectors", "single"])
def test_graphs_give_the_bits_of_the_plain_loop(cell: AnyCell, dtype: str, H: int) -> None:
    """For other inputs, weights and numbers of steps by the same two graphs, captured once."""
    kernel, kept = in_graphs(cell, emulator()), []
    for seed, T in enumerate([8, 8, 3, 9, 10]):
        for case in variants(case_of(cell, T, dtype, H, seed=seed)):
            kept.append(case)  # so no address is used again
            same(run(kernel, case), run(fused(cell), case))
            same(
                dict(enumerate(forward(kernel, case, keep=False)[1])),  # type: ignore[arg-type]
                dict(enumerate(forward(fused(cell), case, keep=False)[1])),  # type: ignore[arg-type]
            )
    assert len(kernel.runtime.captured) == 2
    # The first pass of each runs by the plain loop.
    steps = [8, 8, 3, 9, 10]
    whole = 4 * sum(T // STEPS for T in steps)
    assert launches(kernel.runtime) == [2 * whole - 2, whole - 2]


@every_cell
def test_both_directions(cell: AnyCell) -> None:
    kernel, case = in_graphs(cell, emulator()), case_of(cell, lengths=some_lengths(8, 5))
    for _ in range(2):
        for a, b in zip(run_both(kernel, case)[1], run_both(fused(cell), case)[1], strict=True):
            same(a, b)
    assert len(kernel.runtime.captured) == 2


@every_cell
def test_weights_may_change_in_place(cell: AnyCell) -> None:
    kernel, case = in_graphs(cell, emulator()), case_of(cell)
    before = run(kernel, case)
    for w in case.weights.values():
        w *= 0.5
    after = run(kernel, case)
    same(after, run(fused(cell), case))
    assert (after["ys"] != before["ys"]).any()


@every_cell
def test_results_of_a_pass_stay(cell: AnyCell) -> None:
    """And what it was given; later passes have their own memory."""
    kernel = in_graphs(cell, emulator())
    run(kernel, case_of(cell))
    case, other = case_of(cell, seed=3), case_of(cell, seed=4)
    given = case.copied()
    first, residuals = run(kernel, case), forward(kernel, case)[2]
    copies = {name: a.copy() for name, a in first.items()}
    run(kernel, other)
    same(first, copies)
    same(case.given(), given.given())
    # A tape of before is not touched either.
    back = kernel.backward(case.weights, residuals, case.dys, case.dstate, xp=np)
    np.testing.assert_array_equal(back[0], first["dxs"])


@every_cell
def test_few_steps_run_by_the_plain_loop(cell: AnyCell) -> None:
    kernel, case = in_graphs(cell, emulator()), case_of(cell, STEPS - 1)
    for _ in range(2):
        same(run(kernel, case), run(fused(cell), case))
    assert kernel.runtime.captured == []


# ---- whose turn it is --------------------------------------------------------------------


def a_plan(runtime: Any, B: int = 2, H: int = 4) -> Plan:
    """The plan of a pass that nobody runs."""
    xs, h = np.zeros((6, B, 3), np.float32), np.zeros((B, H), np.float32)
    return Plan(
        runtime, Residuals({"U": np.zeros((H, H), np.float32)}, xs, (h,), None, False), False
    )


def instance_of(leased: Any) -> Instance:
    found: Instance = leased._instance
    return found


def test_a_pass_waits_for_the_work_of_the_one_before() -> None:
    """On its own stream, before it touches any array; the last thing is to record its end."""
    runtime = emulator()
    leased = runtime.graphs.lease(a_plan(runtime), "a")
    event = instance_of(leased).event
    assert runtime.diary == []
    with leased as space:
        assert runtime.diary == [("wait", event)]
        space.scratch("x", 3)
    assert runtime.diary == [("wait", event), ("record", event)]
    with runtime.graphs.lease(a_plan(runtime), "a") as space:
        assert instance_of(space) is instance_of(leased)
        assert runtime.diary[2:] == [("wait", event)]


def test_a_pass_that_fails_gives_its_instance_back() -> None:
    runtime = emulator()
    for _ in range(3):
        with pytest.raises(KeyError), runtime.graphs.lease(a_plan(runtime), "a"):
            raise KeyError
    (instance,) = runtime.graphs.instances
    assert not instance.leased
    assert [what for what, _ in runtime.diary] == ["wait", "record"] * 3


def test_a_lease_that_nobody_uses_ends() -> None:
    runtime = emulator()
    leased = runtime.graphs.lease(a_plan(runtime), "a")
    assert instance_of(leased).leased
    del leased
    assert not runtime.graphs.instances[0].leased


def test_passes_at_the_same_time_have_different_instances() -> None:
    runtime = emulator()
    with runtime.graphs.lease(a_plan(runtime), "a") as one:
        with runtime.graphs.lease(a_plan(runtime), "a") as two:
            assert instance_of(one) is not instance_of(two)
            assert one.scratch("x", 3) != two.scratch("x", 3)
            got: list[Any] = []

            def third() -> None:
                with runtime.graphs.lease(a_plan(runtime), "a") as space:
                    got.append(instance_of(space))

            thread = threading.Thread(target=third)
            thread.start()
            thread.join(0.05)
            assert got == []  # it waits
        thread.join(30)
        assert got == [instance_of(two)]
    assert len(runtime.graphs.instances) == 2


def test_threads_share_graphs() -> None:
    """Each of four gets the bits of its own pass."""
    cell, runtime = cells.LSTM, emulator()
    cases = [case_of(cell, T, seed=T) for T in (8, 9, 10, 11)]
    expected = [run(fused(cell), case) for case in cases]
    problems: list[BaseException] = []
    turn = threading.Lock()  # fibers of the emulated device know one thread at a time
    real = runtime.launch

    def launch(*given: Any, **how: Any) -> None:
        with turn:
            real(*given, **how)

    runtime.launch = launch  # type: ignore[method-assign]

    def work(n: int) -> None:
        try:
            loop = FUSED[cell](runtime, cell, in_graphs=True)
            for _ in range(4):
                same(run(loop, cases[n]), expected[n])
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert 2 <= len(runtime.graphs.instances) <= 4
    assert not any(i.leased for i in runtime.graphs.instances)


def test_few_instances_are_kept() -> None:
    """The one not used for longest goes, after the host has waited for its work."""
    cell, runtime = cells.Elman, emulator()
    kernel = in_graphs(cell, runtime)
    half = graphs.MOST // 2
    for B in range(1, half + 2):
        run(kernel, Case(cell, (6, B, 3, 4), "float32"))
    assert len(runtime.graphs.instances) == graphs.MOST
    assert [graph.closed for graph in runtime.captured] == [True] * 2 + [False] * graphs.MOST
    waited = [event for what, event in runtime.diary if what == "synchronize"]
    assert len(waited) == 2
    assert not {id(i.event) for i in runtime.graphs.instances} & set(map(id, waited))
    # Closed only after its last pass has been recorded.
    for event in waited:
        assert [what for what, e in runtime.diary if e is event][-2:] == ["record", "synchronize"]


def test_no_instance_in_use_is_evicted() -> None:
    runtime = emulator()
    held = [runtime.graphs.lease(a_plan(runtime, B), "a") for B in range(1, graphs.MOST + 4)]
    assert len(runtime.graphs.instances) == graphs.MOST + 3
    for leased in held:
        with leased:
            pass
    with runtime.graphs.lease(a_plan(runtime, 99), "a"):
        assert len(runtime.graphs.instances) == graphs.MOST


# ---- what fails --------------------------------------------------------------------------


@pytest.fixture
def refusing() -> Any:
    """A kernel, and the list of errors that its next captures raise."""
    runtime: Any = emulator()
    errors: list[Exception] = []
    real = runtime.capture

    def capture(*given: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return real(*given)

    runtime.capture = capture
    return in_graphs(cells.GRU, runtime), errors


def test_a_capture_that_fails_for_a_moment_is_tried_again(refusing: Any) -> None:
    kernel, errors = refusing
    case = case_of(cells.GRU)
    errors += [MemoryError("full"), MemoryError("full")]
    for _ in range(2):
        same(run(kernel, case), run(fused(cells.GRU), case))
    assert launches(kernel.runtime) == [0, 0]
    same(run(kernel, case), run(fused(cells.GRU), case))
    assert launches(kernel.runtime) == [2, 2]


def test_a_capture_that_is_refused_is_told_once(refusing: Any) -> None:
    kernel, errors = refusing
    case = case_of(cells.GRU)
    errors += [RuntimeError("status 15")] * 2
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            same(run(kernel, case), run(fused(cells.GRU), case))
    said = [str(warning.message) for warning in told]
    assert len(said) == 2  # forward and backward
    assert all("B = 5, H = 12" in words for words in said)
    assert all("the plain loop serves: RuntimeError: status 15" in words for words in said)
    assert kernel.runtime.captured == []


def test_where_it_is_strict_a_failure_is_one(refusing: Any) -> None:
    """As in a verification: a verdict without a graph would be none of graphs."""
    kernel, errors = refusing
    errors += [MemoryError("full")]
    with graphs.strict(), pytest.raises(MemoryError, match="full"):
        run(kernel, case_of(cells.GRU))
    run(kernel, case_of(cells.GRU))


@pytest.mark.parametrize("name", ["U", "state", "product", "arguments", "dh", "da"])
def test_arrays_for_which_there_is_no_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass then has its own, where that is no more memory than the plain loop needs."""
    kernel, case = in_graphs(cells.GRU, emulator()), case_of(cells.GRU)
    real, failed = Leased._array, []

    def scarce(self: Any, wanted: str, make: Any) -> Any:
        def full() -> Any:
            if wanted == name:
                failed.append(1)
                raise MemoryError("full")
            return make()

        return real(self, wanted, full)

    with monkeypatch.context() as patch:
        patch.setattr(Leased, "_array", scarce)
        for _ in range(2):
            same(run(kernel, case), run(fused(cells.GRU), case))
        with graphs.strict(), pytest.raises(MemoryError):
            run(kernel, case)
    assert failed
    for _ in range(2):
        same(run(kernel, case), run(fused(cells.GRU), case))
    assert len(kernel.runtime.captured) == 2


def test_a_graph_of_other_calls_is_not_launched() -> None:
    """Such as one that holds an address of a pass."""
    kernel, case = in_graphs(cells.GRU, emulator()), case_of(cells.GRU)
    run(kernel, case)
    for instance in kernel.runtime.graphs.instances:
        instance.calls = [
            c._replace(B=c.B + 64) if isinstance(c, Product) else c for c in instance.calls
        ]
    with pytest.raises(RuntimeError, match="a graph is not that of the pass"):
        run(kernel, case)


def test_no_product_in_a_graph_moves() -> None:
    product = Product(False, False, 1, 1, 1, 64, 1, Moving(64, 4), 1, 0.0, 64, 1, "a", "a", False)
    with pytest.raises(TypeError, match="a product has an address that moves"):
        graphs.in_graph([product], 64)


def test_the_emulated_device_shows_addresses_of_earlier_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a graph holds one: here the arguments are written only once."""
    kernel = in_graphs(cells.LSTM, emulator())
    cases = [case_of(cells.LSTM, seed=n) for n in range(3)]
    kept = [forward(kernel, case) for case in cases[:2]]  # whose memory is written to below

    def stale(self: Any, block: Any, rows: Any, times: int) -> None:
        for _ in range(times):
            self._instance.graph.launch()

    monkeypatch.setattr(Leased, "_launch", stale)
    found, expected = forward(kernel, cases[2]), forward(fused(cells.LSTM), cases[2])
    assert (found[0] != expected[0]).any()
    assert len(kept) == 2


def test_tf32_has_graphs_of_its_own() -> None:
    runtime = emulator()
    case = case_of(cells.GRU)
    for precision in ("ieee", "tf32", "ieee", "tf32"):
        kernel = Watched(FUSED[cells.GRU](runtime, cells.GRU, precision, in_graphs=True))
        plain = Watched(FUSED[cells.GRU](runtime, cells.GRU, precision))
        same(run(kernel, case), run(plain, replace(case)))
    assert len(runtime.captured) == 4
