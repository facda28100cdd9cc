"""Gradients of the weights that are added up over the stretches of a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from xrnn.backends import Kernel
from xrnn.engine.bound_cell import Pass
from xrnn.recurrence.precision import cast, widen
from xrnn.typing import Array, Gradients, Namespace, State


class Adding(Protocol):
    """What adds up the gradients of the weights of one cell."""

    def backward(
        self, one: Pass, dys: Array | None, dlast: State, omit_dxs: bool
    ) -> tuple[Array, State]:
        """Run a stretch backward and add the gradients of its weights: those of its inputs, and of
        the state before it."""

    def total(self, one: Pass) -> dict[str, Array]:
        """The sums for the weights that were given; `one` is any of the passes."""


def adding(
    passes: list[Pass], sums: list[Adding]
) -> Callable[[list[Pass], list[Array | None], list[State], bool], list[Gradients]]:
    """How `xrnn.engine.stack.backward` runs a layer whose gradients of weights are added to `sums`,
    one for each pass, and are not among the results."""
    of_pass = {id(one): total for one, total in zip(passes, sums, strict=True)}

    def run(
        part: list[Pass], dys: list[Array | None], dlasts: list[State], omit_dxs: bool
    ) -> list[Gradients]:
        return [
            (*of_pass[id(one)].backward(one, dy, dlast, omit_dxs), {})
            for one, dy, dlast in zip(part, dys, dlasts, strict=True)
        ]

    return run


class Sums:
    """The sums so far, from the last stretch to the first.

    A kernel that can (`Kernel.adds`) continues the sums of the stretch behind, so that the result
    has the bits of one pass.  The sums of other kernels are computed for each stretch, and added
    up in the dtype that the library adds up in.
    """

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp
        self._kernel: Kernel | None = None
        self._open: Mapping[str, Array] = {}
        self._closed: dict[str, Array] = {}

    def backward(
        self, one: Pass, dys: Array | None, dlast: State, omit_dxs: bool
    ) -> tuple[Array, State]:
        """As `Adding.backward`."""
        kernel = one.kernel
        how: Any = {"omit_dxs": True} if omit_dxs and kernel.omits_dxs else {}
        if kernel.adds and kernel is self._kernel:
            how["onto"] = self._open
        else:
            self._close()
        dxs, dfirst, self._open = kernel.sequence.backward(
            one.weights, one.residuals, dys, dlast, xp=self.xp, **how
        )
        self._kernel = kernel
        return dxs, dfirst

    def total(self, one: Pass) -> dict[str, Array]:
        """As `Adding.total`."""
        self._close()
        return one.named({k: cast(d, one.xs.dtype, xp=self.xp) for k, d in self._closed.items()})

    def _close(self) -> None:
        """Add what the latest kernel has to what those before it had."""
        for name, d in self._open.items():
            wide = widen(d, xp=self.xp)
            self._closed[name] = self._closed[name] + wide if name in self._closed else wide
        self._open, self._kernel = {}, None
