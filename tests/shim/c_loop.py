"""The loop of the extension on a simulated device: the driver is written in Python."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from xrnn.backends.cuda import loop
from xrnn.backends.cuda.plan import Call, Launch, Moving, Product

#: cuLaunchKernel and cublasGemmEx
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    *[ctypes.c_uint] * 7,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)
GEMM = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    *[ctypes.c_int] * 5,
    *[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int],
    *[ctypes.c_void_p, ctypes.c_int, ctypes.c_int],
    *[ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 4],
)

HANDLE, STREAM = 2**40 + 7, 2**41 + 9
NUMBERS: dict[str, int] = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}
NAMES = {number: name for name, number in NUMBERS.items()}


class LoopInC:
    """Over a simulated runtime: its `launch` and `gemm` get what the extension calls."""

    language = "C"

    def repeat(self: Any, calls: Sequence[Call], steps: int) -> None:
        """Make the calls of one step as many times as there are steps."""
        failed: list[Exception] = []

        def told(work: Any) -> Any:
            """The same as a function that returns a status, as C knows no exceptions."""

            def entry(*given: Any) -> int:
                try:
                    work(*given)
                except Exception as error:
                    failed.append(error)
                return len(failed)

            return entry

        def launch(function: int, *given: Any) -> None:
            call = calls[function - 1]
            assert isinstance(call, Launch)
            grid, block, (shared, stream, values, extra) = given[:3], given[3:6], given[6:]
            assert (shared, stream, extra) == (0, STREAM, None)
            args = [_value(arg, address) for arg, address in zip(call.args, values, strict=False)]
            sizes = grid[: len(call.grid)], block[: len(call.block)]
            assert {*grid[len(call.grid) :], *block[len(call.block) :]} <= {1}
            self.launch(call.source, call.instance, *sizes, tuple(args))

        def gemm(handle: int, *given: Any) -> None:
            assert handle == HANDLE
            self.gemm(_product(given))

        number_of = {id(call): number for number, call in enumerate(calls, 1)}
        numbers = loop.numbers_of(calls, lambda call: number_of[id(call)], _arguments)
        functions = LAUNCH(told(launch)), GEMM(told(gemm))
        entries = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]
        found = loop.repeat_in_c(numbers, (entries[0], entries[1]), HANDLE, STREAM, steps)
        step, call, status = found
        assert (step < steps) == bool(status) == bool(failed)
        if failed:
            failed[0].add_note(loop.note(calls[call], step, steps))
            raise failed[0]


def _value(arg: Any, address: int) -> Any:
    """What a kernel finds at the address in the place of an argument."""
    first = arg.first if isinstance(arg, Moving) else arg
    if isinstance(first, int):
        return ctypes.c_int64.from_address(address).value
    return np.frombuffer(ctypes.string_at(address, first.nbytes), first.dtype)[0]


def _arguments(p: Product) -> tuple[Any, ...]:
    """A product as numbers in the order of cublasGemmEx; the factors stand for themselves."""
    kind = NUMBERS[p.kind]
    return (
        *(int(p.tb), int(p.ta), p.n, p.m, p.k),
        *(1, p.B, kind, p.ldb, p.A, kind, p.lda),
        *(int(p.beta), p.C, NUMBERS[p.out], p.ldc, int(p.tf32), -1),
    )


def _product(given: Sequence[Any]) -> Product:
    """The product of such numbers."""
    tb, ta, n, m, k, one, B, kind, ldb, A, same, lda, beta, C, out, ldc, tf32, algorithm = given
    assert (one, same, algorithm) == (1, kind, -1)
    shape = bool(ta), bool(tb), m, n, k
    factors = A, lda, B, ldb, float(beta or 0)
    return Product(*shape, *factors, C, ldc, NAMES[kind], NAMES[out], bool(tf32))
