"""CUDA graphs on a simulated device: what is captured is remembered, and done again at a launch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, cast

from xrnn.backends.cuda import loop
from xrnn.backends.cuda.graphs import Graphs
from xrnn.backends.cuda.plan import Call, Plan, Product


class Recorded:
    """The form of `xrnn.backends.cuda.graphs.Graph`: the calls of some steps, with their values."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.calls: list[Any] = []
        self.launches = 0
        self.closed = False

    def launch(self, *call: Any) -> None:
        """Remember the launch of a kernel; without arguments: launch the graph."""
        if call:
            self.calls.append(call)
            return
        assert not self.closed, "launched after it was closed"
        self.launches += 1
        for done in self.calls:
            if isinstance(done, Product):
                self.device.gemm(done)
            else:
                self.device.launch(*done)

    def gemm(self, product: Product) -> None:
        """Remember a product."""
        self.calls.append(product)

    def close(self) -> None:
        self.closed = True


class Mark:
    """The form of `xrnn.backends.cuda.graphs.Event`: writes what is done with it into a diary."""

    def __init__(self, diary: list[tuple[str, Mark]]) -> None:
        self.diary = diary

    def record(self) -> None:
        self.diary.append(("record", self))

    def wait(self) -> None:
        self.diary.append(("wait", self))

    def synchronize(self) -> None:
        self.diary.append(("synchronize", self))


class InGraphs:
    """Over a simulated runtime: its steps may run in graphs."""

    def __init__(self, *given: Any, **how: Any) -> None:
        super().__init__(*given, **how)
        self.graphs = Graphs(self)
        self.captured: list[Recorded] = []
        self.diary: list[tuple[str, Mark]] = []

    def no_graphs(self) -> str:
        return ""

    def workspace(self, plan: Plan, *shape: Hashable) -> Any:
        return self.graphs.lease(plan, *shape)

    def place(self) -> Hashable:
        return 0

    def event(self) -> Mark:
        return Mark(self.diary)

    def passing(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def capture(self, calls: Sequence[Call], steps: int) -> Recorded:
        """What the loop in Python calls, step by step."""
        graph = Recorded(self)
        loop.repeat(cast(Any, graph), calls, steps)
        self.captured.append(graph)
        return graph
