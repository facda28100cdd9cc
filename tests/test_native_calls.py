"""Long calls of the native loops: other threads run meanwhile, and a signal ends them."""

from __future__ import annotations

import collections
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_native_arguments import CELLS, loop_arguments
from test_native_base import native

import xrnn
from xrnn import optim

if not hasattr(signal, "setitimer"):
    pytest.skip("the system has no timer that sends a signal", allow_module_level=True)


class StoppedError(Exception):
    """Raised by a handler, as KeyboardInterrupt is."""


@contextmanager
def alarm(
    handler: Callable[[], object], seconds: float = 0.01, again: float = 0.0
) -> Iterator[None]:
    """Let a signal arrive after some time, and again and again if so wanted; this handles it."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, seconds, again)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def stop() -> None:
    raise StoppedError


def is_stopped(call: Callable[[], object], out: Any) -> None:
    """The call raises what the handler raised, before `out`, full of NaN, is full of results.

    Sums begin with 0.
    """
    with pytest.raises(StoppedError), alarm(stop):
        call()
    ends = np.array([out.flat[0], out.flat[-1]])
    assert (np.isnan(ends) | (ends == 0)).any()


@pytest.fixture(autouse=True, scope="module")
def _the_thread_of_a_sanitizer() -> None:
    """A sanitizer starts a thread of its own, which stays, beside the first of the program."""
    first = threading.Thread(target=lambda: None)
    first.start()
    first.join()


def threads() -> set[str]:
    """Return the numbers of this process's threads; none where the system does not tell them."""
    tasks = Path("/proc/self/task")
    return {task.name for task in tasks.iterdir()} if tasks.is_dir() else set()


def no_thread_is_left(before: set[str]) -> bool:
    """Whether every thread that was not there before ends.

    The system lists a thread for a moment after it has been joined. For the same reason a thread
    of an earlier test may be among those of before, and counts of threads could not be compared.
    """
    until = time.monotonic() + 10
    while not threads() <= before and time.monotonic() < until:
        time.sleep(0.001)
    return threads() <= before


#: (T for a cell of four gates, B, I, H) and the threads of calls that take long, by what they share
SIZES = {
    "sequences": (100, 64, 400, 700, 2),
    "units": (4000, 1, 400, 800, 2),
    "nothing": (5_000_000, 1, 1, 1, 1),
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_signal_ends_a_pass(cell: str, sizes: str, direction: str) -> None:
    before = threads()
    T, *shape, n = SIZES[sizes]
    T = T if n == 1 else T * 4 // CELLS[cell][1]
    given = loop_arguments(cell, T, *shape)[direction == "backward"]
    # Without U, the steps of the backward pass take no time; the gradients of the weights do.
    out = "ys" if direction == "forward" else "das" if given["U"] is not None else "dW"
    given |= {"lengths": None, "threads": n, out: np.full_like(given[out], np.nan)}
    first_gate = given[out][..., : shape[-1]]  # all cells write its gradients
    is_stopped(lambda: getattr(native, direction)(*given.values()), first_gate)
    assert no_thread_is_left(before)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_signal_ends_two_passes_at_once(sizes: str, direction: str, n: int) -> None:
    before, (T, *shape, _) = threads(), SIZES[sizes]
    given = [loop_arguments("lstm", T, *shape)[direction == "backward"] for _ in range(2)]
    out = "ys" if direction == "forward" else "das"
    for one in given:
        one |= {"lengths": None, "threads": n, out: np.full_like(one[out], np.nan)}
    first, second = (one.values() for one in given)
    last = given[1][out][..., : shape[-1]]
    is_stopped(lambda: getattr(native, f"{direction}_both")(len(first), *first, *second), last)
    assert no_thread_is_left(before)


def test_the_second_of_two_passes_does_not_begin_after_a_signal() -> None:
    """One thread runs both; further signals, whose handlers raise nothing, find no call."""
    seen: list[float] = []

    def stop_once() -> None:
        seen.append(0.0)
        if len(seen) == 1:
            raise StoppedError

    given = [loop_arguments("lstm", 100, 64, 400, 700)[0] for _ in range(2)]
    for one in given:
        one |= {"lengths": None, "threads": 1, "ys": np.full_like(one["ys"], np.nan)}
    first, second = (one.values() for one in given)
    with pytest.raises(StoppedError), alarm(stop_once, again=0.002):
        native.forward_both(len(first), *first, *second)
    assert seen
    assert np.isnan(given[1]["ys"]).all()


@pytest.mark.parametrize("n", [1, 2])
def test_a_signal_ends_a_product(n: int) -> None:
    A, C = np.ones((5000, 5000), "float32"), np.full((5000, 5000), np.nan, "float32")
    is_stopped(lambda: native.gemm(5000, 5000, 5000, A, 0, A, 1, C, None, 0, n, 0), C)


def test_a_signal_ends_the_gradients_of_weights() -> None:
    _, given = loop_arguments("lstm", 1, 20_000, 1500, 100)
    given |= {"lengths": None, "threads": 2, "dW": np.full((400, 1500), np.nan, "float32")}
    is_stopped(lambda: native.backward(*given.values()), given["dW"])


#: the shapes of W, U and b of an LSTM with 1500 inputs and units
PACKED = [(6000, 1500), (6000, 1500), (6000,)]


def long_step() -> dict[str, Any]:
    """The arguments of a step of some tenths of a second."""
    forward, _ = loop_arguments("lstm", 1, 4096, 600, 600)
    names = ["cell", "rounding", "B", "I", "H", "xs", "W", "U", "b", "h0", "c0", "ys", "c_last"]
    given = {name: forward[name] for name in names}
    return given | {"ys": np.full((4096, 600), np.nan, "float32")}


def test_a_signal_ends_a_step() -> None:
    given = long_step()
    is_stopped(lambda: native.step(*given.values()), given["ys"])


@pytest.mark.parametrize("what", ["step", "pack"])
def test_other_threads_run_during_a_long_call(what: str) -> None:
    ticks, done, interval = [0], threading.Event(), sys.getswitchinterval()

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.001)

    ticking, step = threading.Thread(target=tick), long_step()
    pack = [CELLS["lstm"][0], 0, 1500, 1500, 1, *(np.ones(s, "float32") for s in PACKED)]
    ticking.start()
    try:
        sys.setswitchinterval(1000)  # so that no thread gives the lock away unless it waits
        before = ticks[0]
        getattr(native, what)(*(step.values() if what == "step" else pack))
        after = ticks[0]
    finally:
        sys.setswitchinterval(interval)
        done.set()
        ticking.join()
    assert after > before


def test_a_handler_that_raises_nothing_changes_nothing() -> None:
    A, C, seen = (
        np.full((3000, 3000), 1e-3, "float32"),
        np.full((3000, 3000), np.nan, "float32"),
        [],
    )

    def look() -> None:
        """The call is not complete; here denormal numbers are numbers, and layers run."""
        tiny = np.array([1e-40], "float32") / 2
        seen.append((np.isnan(C[-1, -1]), tiny[0] > 0, xrnn.GRU(2, 3)(np.ones((4, 1, 2), "f4"))))

    with alarm(look):
        native.gemm(3000, 3000, 3000, A, 0, A, 1, C, None, 0, 2, 0)
    expected = np.empty_like(C)
    native.gemm(3000, 3000, 3000, A, 0, A, 1, expected, None, 0, 1, 0)
    np.testing.assert_array_equal(C, expected)
    assert seen[0][:2] == (True, True)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_after_an_interruption_all_is_as_before(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer, the tape and the optimizer; Ctrl-C is such a signal."""
    monkeypatch.setenv("XRNN_NUM_THREADS", "2")
    layer, xs = xrnn.LSTM(128, 128, rng=0), np.ones((300, 64, 128), "float32")
    adam = optim.Adam(1e-3)
    ys, _, tape = layer.forward(xs)
    before = {name: w.copy() for name, w in layer.weights.items()}
    call: dict[str, Callable[[], object]] = {
        "forward": lambda: layer.forward(xs),
        "backward": lambda: layer.backward(tape, ys),
    }
    # The handler of Ctrl-C; a process that a shell has put into the background has none.
    with pytest.raises(KeyboardInterrupt), alarm(lambda: signal.default_int_handler(2, None)):
        collections.deque((call[direction]() for _ in range(100)), maxlen=0)
    for name, w in layer.weights.items():
        np.testing.assert_array_equal(w, before[name])
    again, _, other = layer.forward(xs)
    np.testing.assert_array_equal(again, ys)
    first, second = layer.backward(tape, ys)[2], layer.backward(other, ys)[2]
    for name, d in first.items():
        np.testing.assert_array_equal(d, second[name])
    adam.update(layer.weights, first)
    assert adam.steps == 1
