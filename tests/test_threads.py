"""How many threads the native loops may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from xrnn.backends.cpu import extension
from xrnn.backends.cpu.threads import threads

native = pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)


def test_threads_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XRNN_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    cores = threads()
    assert 1 <= cores <= (os.cpu_count() or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads() == 3
    monkeypatch.setenv("XRNN_NUM_THREADS", "5")
    assert threads() == 5
    monkeypatch.setenv("XRNN_NUM_THREADS", "2000000")
    assert threads() == 256
    for nothing in ("", " "):
        monkeypatch.setenv("XRNN_NUM_THREADS", nothing)
        assert threads() == 3
    for other in ("none", "0", "-2", "²", ""):  # others' variable: what says nothing is ignored
        monkeypatch.setenv("OMP_NUM_THREADS", other)
        assert threads() == cores


@pytest.mark.parametrize("wrong", ["abc", "0", "-1", "2.5", "²", "3,2", "1e3", "0x2"])
def test_a_wrong_number_of_threads_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRNN_NUM_THREADS", wrong)
    words = f"XRNN_NUM_THREADS is '{wrong}'; it must be a whole number, at least 1, or unset"
    with pytest.raises(ValueError, match=words):
        threads()


@native
def test_threadpoolctl_limits_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", minversion="3.4")
    monkeypatch.setenv("XRNN_NUM_THREADS", "6")

    def known() -> list[int]:
        found = threadpoolctl.threadpool_info()
        return [one["num_threads"] for one in found if one["user_api"] == "xrnn"]

    threads()
    assert known() == [6]
    with threadpoolctl.threadpool_limits(limits=2):
        assert threads() == 2
        with threadpoolctl.threadpool_limits(limits={"xrnn": 4}):
            assert known() == [4]
        with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
            assert threads() == 2
    assert threads() == 6
    monkeypatch.setenv("XRNN_NUM_THREADS", "3")  # no limit is left behind
    assert threads() == 3


@native
@pytest.mark.parametrize("order", ["threadpoolctl, xrnn", "xrnn, threadpoolctl; layer(xs)"])
def test_threadpoolctl_may_be_imported_before_or_after(order: str) -> None:
    pytest.importorskip("threadpoolctl", minversion="3.4")
    first, _, then = order.partition(";")
    code = (
        f"import numpy as np; import {first}; import xrnn\n"
        "layer, xs = xrnn.LSTM(64, 128), np.ones((40, 32, 64), 'float32')\n"
        f"{then.strip()}\n"
        "from threadpoolctl import threadpool_limits\n"
        "from xrnn.backends.cpu.threads import threads\n"
        "with threadpool_limits(1): print(threads())\n"
        "print(threads())\n"
    )
    assert _printed(code, XRNN_NUM_THREADS="3") == ["1", "3"]


@native
def test_a_limit_set_before_the_first_layer_holds_for_it() -> None:
    pytest.importorskip("threadpoolctl", minversion="3.4")
    code = (
        "import threadpoolctl, xrnn\n"
        "with threadpoolctl.threadpool_limits(1):\n"
        "    xrnn.LSTM(64, 128)\n"
        "    from xrnn.backends.cpu.threads import threads\n"
        "    print(threads())\n"
        "print(threads())\n"
    )
    assert _printed(code, XRNN_NUM_THREADS="3") == ["1", "3"]


def test_a_wrong_variable_is_told_by_the_first_layer_and_not_by_the_import() -> None:
    pytest.importorskip("threadpoolctl", minversion="3.4")
    code = (
        "import threadpoolctl, xrnn\n"
        "try: xrnn.LSTM(2, 3)\n"
        "except ValueError as error: print(str(error).split()[3])\n"
    )
    assert _printed(code, XRNN_NUM_THREADS="x") == ["XRNN_NUM_THREADS"]


def _printed(code: str, **variables: str) -> list[str]:
    """The words that a program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
