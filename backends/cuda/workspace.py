"""The arrays that stay in place while the steps of a pass run.

The products of a step read and write nothing else: the state, U, and results that a kernel of the
step takes.  All other arrays move from step to step, and only kernels use them.  So the same
description of a step serves the plain loop and a CUDA graph (`xrnn.backends.cuda.graphs`), which
holds the addresses of its products for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from xrnn.backends.cuda.plan import Call, Plan
from xrnn.typing import Array


class Workspace:
    """Arrays of one pass, which runs its steps by the plain loop.

    Parameters
    ----------
    plan : Plan
        The plan of the pass.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._used: dict[str, Array] = {}  # what holds the values of arrays that were given

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The pass has been enqueued."""

    def values(self, name: str, array: Array) -> int:
        """The address of the values of an array, dense; steps that change them may change the
        array."""
        self._used[name] = self.plan.dense(array)
        return self.plan.at(self._used[name])

    def scratch(self, name: str, *shape: int, acc: bool = False) -> int:
        """The address of new values, of the dtype of `Plan.empty`."""
        return self.plan.at(self.plan.empty(*shape, acc=acc))

    def give_back(self, name: str, array: Array) -> None:
        """After the steps: put values that they have changed into the array that was given."""
        if self._used[name] is not array:
            array[...] = self._used[name]

    def repeat(self, calls: Sequence[Call], steps: int) -> None:
        """Make the calls of one step as many times as there are steps."""
        self.plan.repeat(calls, steps)
