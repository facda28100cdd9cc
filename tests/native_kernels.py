"""The native loops as sequence kernels whose memory is watched and whose threads are chosen."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
from sequences import AnyCell, Case, forward, outputs, same
from shim.guards import Guarded, Guards

from xrnn.backends.cpu import extension


class Recorded:
    """The extension; remembers what `forward` and `backward` answer: how threads shared the work.

    Over sequences the number is positive, over units negative.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self.answers: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def forward(self, *args: Any) -> Any:
        self.answers.append(self._module.forward(*args))

    def backward(self, *args: Any) -> Any:
        self.answers.append(self._module.backward(*args))


class BesideTheGates(Recorded):
    """Gets an array of its own for what the product writes over the gates, which stay."""

    def backward(self, *args: Any) -> Any:
        given = list(args)
        for k, a in enumerate(args):
            twin = next((j for j in range(k) if args[j] is a), None)
            if isinstance(a, np.ndarray) and twin is not None:
                given[k], before = np.full_like(a, np.nan), a.copy()
                super().backward(*given)
                np.testing.assert_array_equal(a, before)
                return
        super().backward(*given)


class NativeKernel:
    """A cell's native loop, or the given one, by so many threads."""

    def __init__(
        self,
        given: AnyCell | extension.Native,
        threads: int = 1,
        module: type[Recorded] = Recorded,
    ) -> None:
        if not isinstance(given, extension.Native):
            given = extension.Native(extension.CODES[given])
        self.loop = given
        self.threads, self.guards = threads, Guards()
        self.native = module(extension._native)

    @property
    def shared(self) -> tuple[int, ...]:
        """How the latest forward and backward were shared among threads."""
        return tuple(self.native.answers[-2:])

    def forward(self, *given: Any, **how: Any) -> Any:
        with self._patched():
            found = self.loop.forward(*given, **how)
        self.guards.check()
        return found

    def backward(self, *given: Any, **how: Any) -> Any:
        with self._patched():
            found = self.loop.backward(*given, **how)
        self.guards.check()
        return found

    def _patched(self) -> AbstractContextManager[Any]:
        return mock.patch.multiple(
            extension,
            np=Guarded(np, self.guards),
            threads=lambda: self.threads,
            _native=self.native,
        )


def steps_are_the_whole(kernel: NativeKernel, case: Case, fixed: bool) -> None:
    """Fail unless single steps give the bits of the whole sequence."""
    ys, last, _ = forward(kernel, case)
    weights, state = kernel.loop.prepare(case.weights, fixed=fixed), case.state
    for t, x in enumerate(case.xs):
        state = kernel.loop.step(weights, x, state)
        assert state[0].tobytes() == ys[t].tobytes()
    same(outputs(case, ys, state), outputs(case, ys, last))
