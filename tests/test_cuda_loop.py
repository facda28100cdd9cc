"""The loop over time on a device: in C and in Python it makes the same calls."""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import sys
from array import array
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from shim.c_loop import LoopInC
from shim.recorder import Recorder, record

from xrnn.backends.cuda import loop
from xrnn.backends.cuda.plan import Call, Launch, Moving, Product

in_c = pytest.mark.skipif(bool(loop.ABSENT), reason=loop.ABSENT)


class Diary(Recorder):
    """Remembers every argument and its type, and fails at one call of all, counted from 0."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.calls: list[Any] = []

    def launch(self, *call: Any, **options: Any) -> None:
        *where, args = call
        self._write(*where, [(type(arg), arg) for arg in args])

    def gemm(self, product: Product) -> None:
        self._write(product)

    def _write(self, *call: Any) -> None:
        self.calls.append(call)
        if len(self.calls) == self.fails_at + 1:
            raise MemoryError("the device is full")


class DiaryInC(LoopInC, Diary):
    """The same of what the extension calls."""


class Both(Recorder):
    """Runs every loop in both ways and compares what they call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def repeat(self, calls: Sequence[Call], steps: int) -> None:
        python, c = Diary(), DiaryInC()
        loop.repeat(python, calls, steps)
        c.repeat(calls, steps)
        assert len(c.calls) == len(calls) * steps
        assert python.calls == c.calls
        self.seen |= {call.source for call in calls if isinstance(call, Launch)}


def step() -> list[Call]:
    """One product and one kernel, whose arguments rise, fall and stay."""
    t, h = Moving(np.int32(4), -1), Moving(2**40, -256)
    return [
        Product(
            *(False, True, 3, 8, 2, h, 2, 4096, 2, 1.0, Moving(10**6, 64), 8),
            *("float16", "float32", False),
        ),
        Launch("a.cu", "a<float, 4>", (7, 2), (128,), (np.int32(-5), 4096, h + 8, 0, t)),
    ]


KINDS = [pytest.param(Diary, id="Python"), pytest.param(DiaryInC, id="C", marks=in_c)]


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_move_from_step_to_step(kind: type[Diary]) -> None:
    diary = kind()
    diary.repeat(step(), 5)
    products = [call[0] for call in diary.calls[::2]]
    assert [p.A for p in products] == [2**40 - 256 * n for n in range(5)]
    assert [p.C for p in products] == [10**6 + 64 * n for n in range(5)]
    assert {p._replace(A=0, C=0) for p in products} == {
        Product(False, True, 3, 8, 2, 0, 2, 4096, 2, 1.0, 0, 8, "float16", "float32", False)
    }
    for n, call in enumerate(diary.calls[1::2]):
        assert call[:4] == ("a.cu", "a<float, 4>", (7, 2), (128,))
        moved = (int, 2**40 + 8 - 256 * n), (int, 0), (np.int32, 4 - n)
        assert call[4] == [(np.int32, -5), (int, 4096), *moved]


@in_c
def test_both_loops_make_the_same_calls() -> None:
    """For every cell, dtype, direction, with lengths and without, forward and backward."""
    both = Both()
    record(both, ((5, 3, 4, 16), (3, 2, 3, 7)))
    plain = {"rnn.cu", "lstm.cu", "gru.cu", "gru_before.cu", "peephole.cu", "janet.cu", "mgu.cu"}
    optional = {"rnn_options.cu", "lstm_options.cu", "gru_options.cu", "gru_before_options.cu"}
    assert both.seen == plain | optional | {"rounded.cu"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fails_at", "what"), [(6, "a product, (3, 8, 2)"), (7, "a<float, 4>")])
def test_the_first_call_that_fails_is_the_last(kind: type[Diary], fails_at: int, what: str) -> None:
    diary = kind(fails_at)
    with pytest.raises(MemoryError, match="the device is full") as told:
        diary.repeat(step(), 5)
    assert told.value.__notes__ == [f"This was told in step 4 of 5, at {what}."]
    assert len(diary.calls) == fails_at + 1


@in_c
@pytest.mark.parametrize(
    "numbers",
    [
        [1],
        [1, 9, 1, 1, 1, 1, 1, 1, 5],
        [2, 9, 1, 1, 1, 1, 1, 1, 5, 0],
        [-1, 9, 1, 1, 1, 1, 1, 1],
        [33, 9, 1, 1, 1, 1, 1, 1, *[0] * 66],
        [17, 0, 0, 0, 0, 0, 0, 0, *[0] * 34],
    ],
    ids=["a part", "half an argument", "an argument less", "negative", "too many", "no product"],
)
def test_numbers_that_are_no_calls_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 bytes on are no call"):
        loop.repeat_in_c(array("q", numbers), (0, 0), 0, 0, 3)


def test_a_number_that_is_none_of_integers_is_refused() -> None:
    with pytest.raises(TypeError, match="integer"):
        loop.numbers_of([Launch("a.cu", "a", (1,), (1,), (0.5,))], lambda call: 1, lambda p: ())


@in_c
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_a_signal_ends_the_loop() -> None:
    """isalpha(32), which returns 0, stands for the driver."""

    class Rang(Exception):
        pass

    def ring(*ignored: Any) -> None:
        raise Rang

    isalpha = ctypes.cast(ctypes.CDLL(None).isalpha, ctypes.c_void_p).value or 0
    numbers = loop.numbers_of([Launch("a.cu", "a", (1,), (1,), ())], lambda c: 32, lambda p: ())
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Rang):
            loop.repeat_in_c(numbers, (isalpha, 0), 0, 0, 10**15)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def another_loop() -> ModuleType:
    """The module, imported once more."""
    spec = importlib.util.spec_from_file_location("another_loop", loop.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XRNN_NATIVE", raising=False)
    monkeypatch.setitem(sys.modules, "xrnn.backends.cuda._loop", None)
    monkeypatch.delattr("xrnn.backends.cuda._loop", raising=False)
    module = another_loop()
    assert module.ABSENT.startswith("the loop in C is not built (")
    assert module.source() == ""
    diary = Diary()
    module.repeat(diary, step(), 2)
    assert len(diary.calls) == 4


def test_the_extension_may_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRNN_NATIVE", "off")
    assert another_loop().ABSENT == "the native loops are off (XRNN_NATIVE)"


@in_c
def test_a_verification_is_of_one_compiled_loop() -> None:
    """What is verified with one loop is not known to be right with another."""
    from xrnn.backends.cuda import tables

    assert len(loop.source()) == 64
    assert tables.source().endswith(loop.source())
