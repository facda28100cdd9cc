"""The loop over time: the calls of one step, repeated for all steps.

A step is described once, by launches and products some of whose arguments move
(`xrnn.backends.cuda.plan.Moving`).  Two loops run such a description, in the same order and with
the same arguments: that of the extension (``native/loop.c``), where the host needs a fraction of
a microsecond for each call, and `repeat`, which serves where there is none (`ABSENT` says why).
"""

from __future__ import annotations

import hashlib
import importlib
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from operator import index
from pathlib import Path
from typing import Any

from xrnn.backends import environment
from xrnn.backends.cuda.plan import Call, Launch, Launcher, Moving, Product

_loop: Any = None
if not environment.switch("XRNN_NATIVE", True):
    ABSENT = "the native loops are off (XRNN_NATIVE)"
else:
    try:
        # As a module: where it is not there, the message then is no riddle about circular imports.
        _loop = importlib.import_module("xrnn.backends.cuda._loop")
        ABSENT = ""
    except ImportError as error:
        ABSENT = f"the loop in C is not built ({error})"


@cache
def source() -> str:
    """The identity of the compiled loop; empty if there is none."""
    if _loop is None:
        return ""
    return hashlib.sha256(Path(_loop.__file__).read_bytes()).hexdigest()


def repeat(device: Launcher, calls: Sequence[Call], steps: int) -> None:
    """Make the calls of one step as many times as there are steps.

    Raises
    ------
    Exception
        What the first call that fails raises, with a note that tells the step.
    """
    for step in range(steps):
        for call in calls:
            try:
                if isinstance(call, Launch):
                    args = tuple([a.at(step) if type(a) is Moving else a for a in call.args])
                    device.launch(call.source, call.instance, call.grid, call.block, args)
                else:
                    A, B, C = (
                        a.at(step) if type(a) is Moving else a for a in (call.A, call.B, call.C)
                    )
                    device.gemm(call._replace(A=A, B=B, C=C))
            except Exception as error:
                error.add_note(note(call, step, steps))
                raise


def repeat_in_c(
    numbers: array[int], entries: tuple[int, int], handle: int, stream: int, steps: int
) -> tuple[int, int, int]:
    """The same by the extension, without the lock of the interpreter.

    Parameters
    ----------
    numbers : array of int64
        The calls; see `numbers_of`.  They are used up.
    entries : (int, int)
        The addresses of cuLaunchKernel and cublasGemmEx.
    handle, stream : int
        Of cuBLAS, which is set to the stream; and the stream of the launches.
    steps : int
        How often the calls are made.

    Returns
    -------
    step, call, status : int
        The first call that failed, and what it returned; status 0 if none did.
    """
    found: tuple[int, int, int] = _loop.run(*entries, handle, stream, steps, numbers)
    return found


def numbers_of(
    calls: Sequence[Call],
    function: Callable[[Launch], int],
    arguments: Callable[[Product], Sequence[Any]],
) -> array[int]:
    """The calls as the extension takes them: see Call in ``native/loop.c``.

    Parameters
    ----------
    calls : sequence of Launch or Product
        The calls of one step.
    function : callable
        Returns the driver's handle of the kernel of a launch, which is not 0.
    arguments : callable
        Returns what cublasGemmEx takes after its own handle.
    """
    numbers = array("q")
    for call in calls:
        if isinstance(call, Launch):
            args = call.args
            head = (function(call), *_three(call.grid), *_three(call.block))
        else:
            args, head = arguments(call), (0,) * 7
        numbers.extend((len(args), *head))
        for arg in args:
            moves = isinstance(arg, Moving)
            numbers.extend((index(arg.first), arg.change) if moves else (index(arg), 0))
    return numbers


def note(call: Call, step: int, steps: int) -> str:
    """The words that tell which call failed."""
    what = call.instance if isinstance(call, Launch) else f"a product, {call.m, call.n, call.k}"
    return f"This was told in step {step + 1} of {steps}, at {what}."


def _three(size: tuple[int, ...]) -> tuple[int, ...]:
    return (*size, 1, 1)[:3]
