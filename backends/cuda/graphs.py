"""CUDA graphs of a few steps, which passes of one shape share.

A graph holds the work of `STEPS` steps and no address that belongs to a pass: its products use the
arrays of an `Instance`, and its kernels (``kernels/steps.cuh``) read their arguments from a block
in the memory of the device, which is written before each launch.  So it is captured once for a
shape and serves any number of steps, any inputs and any weights; the steps that are left over run
by the plain loop on the same arrays.

An instance belongs to one pass at a time.  An event at the end of a pass makes the stream of the
next one wait, so that threads and streams may share it.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import index
from threading import Condition
from types import TracebackType
from typing import Any, Protocol, cast

from array_api_compat import device as xp_device

from xrnn.backends import host
from xrnn.backends.cuda.plan import Call, Launch, Moving, Plan, Product
from xrnn.backends.cuda.workspace import Workspace
from xrnn.typing import Array

#: steps in a graph
STEPS = 32

#: instances of a runtime, and of one shape
MOST, EACH = 8, 2

#: the variable that turns graphs on or off
OPT_IN = "XRNN_CUDA_GRAPHS"

_strict: ContextVar[bool] = ContextVar("strict", default=False)


@contextmanager
def strict() -> Iterator[None]:
    """A context in which a graph that cannot be made is an error; elsewhere the plain loop runs."""
    token = _strict.set(True)
    try:
        yield
    finally:
        _strict.reset(token)


class Graph(Protocol):
    """Work that was captured."""

    def launch(self) -> None:
        """Enqueue it on the current stream."""

    def close(self) -> None:
        """Return what it holds; its work must have ended."""


class Event(Protocol):
    """A point in the work of a stream."""

    def record(self) -> None:
        """Set it behind the work of the current stream."""

    def wait(self) -> None:
        """Let the current stream wait for it."""

    def synchronize(self) -> None:
        """Let the host wait for it."""


class Device(Protocol):
    """What graphs need of a runtime."""

    def place(self) -> Hashable:
        """A value that differs between devices: that of the current one."""

    def event(self) -> Event: ...

    def capture(self, calls: Sequence[Call], steps: int) -> Graph:
        """Capture the calls of one step, as often as there are steps."""

    def passing(self, error: Exception) -> bool:
        """As `xrnn.backends.Backend.passing`."""


@dataclass(eq=False)
class Instance:
    """A graph and the arrays that it uses.

    - calls: what was captured of a step; empty before
    - refused: whether the capture failed for a reason that stays
    """

    key: Hashable
    event: Event
    arrays: dict[str, Array] = field(default_factory=dict)
    graph: Graph | None = None
    calls: list[Call] = field(default_factory=list)
    refused: bool = False
    leased: bool = True

    def close(self) -> None:
        """Return the memory, after the last pass that uses it."""
        self.event.synchronize()
        if self.graph is not None:
            self.graph.close()
        self.arrays.clear()


class Graphs:
    """The instances of a runtime; each is lent to one pass at a time.

    A pass waits while others have all instances of its shape: they are only enqueued under a
    lease, which does not take long.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.instances: list[Instance] = []  # the one used last is the last
        self._changed = Condition()

    def lease(self, plan: Plan, *shape: Hashable) -> Leased:
        """An instance for a pass; `shape` is all that its graph depends on."""
        key = (self.device.place(), STEPS, plan.kind, plan.B, plan.H, *shape)
        with self._changed:
            while (found := self._free(key)) is None:
                self._changed.wait()
            self.instances.append(found)
            found.leased = True
            idle = [i for i in self.instances if not i.leased]
            evicted = idle[: max(0, len(self.instances) - MOST)]
            self.instances = [i for i in self.instances if i not in evicted]
        for instance in evicted:
            instance.close()
        return Leased(plan, self, found)

    def _free(self, key: Hashable) -> Instance | None:
        """One that no pass has, taken from the list, or a new one; None if there may be no more."""
        same = [i for i in self.instances if i.key == key]
        for instance in same:
            if not instance.leased:
                self.instances.remove(instance)
                return instance
        return Instance(key, self.device.event()) if len(same) < EACH else None

    def give_back(self, instance: Instance) -> None:
        """The pass has been enqueued."""
        with self._changed:
            instance.leased = False
            self._changed.notify()


class Leased(Workspace):
    """The arrays of an instance, for one pass, whose steps run by the graph.

    The first pass of an instance runs by the plain loop, and so loads everything that a capture
    needs to find loaded; its steps are captured for those that follow.
    """

    def __init__(self, plan: Plan, graphs: Graphs, instance: Instance) -> None:
        super().__init__(plan)
        self._graphs, self._instance = graphs, instance
        # Even if a signal comes before the pass has begun, and nobody calls `__exit__`.
        self._end = weakref.finalize(self, graphs.give_back, instance)
        self._end.atexit = False
        #: whether all arrays of this pass are those of the instance
        self._whole = True

    def __enter__(self) -> Workspace:
        self._instance.event.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._instance.event.record()
        finally:
            self._end()

    def values(self, name: str, array: Array) -> int:
        wide = array.dtype != self.plan.dtype
        own = self._array(name, lambda: self.plan.empty(*array.shape, acc=wide))
        if own is None:
            return super().values(name, array)
        own[...] = array
        self._used[name] = own
        return self.plan.at(own)

    def scratch(self, name: str, *shape: int, acc: bool = False) -> int:
        own = self._array(name, lambda: self.plan.empty(*shape, acc=acc))
        return super().scratch(name, *shape, acc=acc) if own is None else self.plan.at(own)

    def repeat(self, calls: Sequence[Call], steps: int) -> None:
        rows = arguments(calls)
        block = self._array("arguments", lambda: self._block(len(rows)))
        if not self._whole or self._instance.refused or steps < STEPS:
            super().repeat(calls, steps)
            return
        captured = in_graph(calls, self.plan.at(block))
        if self._instance.graph is None:
            super().repeat(calls, steps)
            self._capture(captured)
            return
        if captured != self._instance.calls:
            raise RuntimeError("a graph is not that of the pass: what shapes it is not in its key")
        self._launch(block, rows, steps // STEPS)
        done = steps // STEPS * STEPS
        super().repeat([moved(call, done) for call in calls], steps - done)

    def _launch(self, block: Array, rows: Any, times: int) -> None:
        """Launch the graph, each time after its arguments, which come by value."""
        n, graph, runtime = len(rows), cast(Graph, self._instance.graph), self.plan.runtime
        values = host.xp.repeat(rows[None], times, axis=0)
        values[:, :, 0] += STEPS * host.xp.arange(times)[:, None] * rows[:, 1]
        values = values.reshape(times, -1).view(f"V{rows.nbytes}")
        name, grid, to = f"write_arguments<{n}>", (-(-n // 32),), self.plan.at(block)
        for value in values:
            runtime.launch("graph.cu", name, grid, (32,), (to, value))
            graph.launch()

    def _array(self, name: str, make: Callable[[], Array]) -> Array:
        """An array of the instance; None if there is no memory for it now."""
        arrays = self._instance.arrays
        if name not in arrays:
            try:
                arrays[name] = make()
            except Exception as error:
                if _strict.get() or not self._graphs.device.passing(error):
                    raise
                self._whole = False
                return None
        return arrays[name]

    def _block(self, rows: int) -> Array:
        xp = self.plan.xp
        return xp.empty((rows, 2), dtype=xp.int64, device=xp_device(self.plan.run.xs))

    def _capture(self, calls: list[Call]) -> None:
        """Make the graph of the instance; where that fails, the plain loop serves."""
        instance, device = self._instance, self._graphs.device
        try:
            instance.graph = device.capture(calls, STEPS)
            instance.calls = calls
        except Exception as error:
            if _strict.get():
                raise
            if not device.passing(error):
                instance.refused = True
                warnings.warn(
                    f"no CUDA graph of {self.plan.kind}, B = {self.plan.B}, H = {self.plan.H} can "
                    f"be made, the plain loop serves: {type(error).__name__}: {error}; set "
                    f"{OPT_IN}=0 to run without graphs",
                    RuntimeWarning,
                    stacklevel=2,
                )


def arguments(calls: Sequence[Call]) -> Any:
    """The arguments of all kernels of a step, int64 (N, 2): the first value, and the change."""
    given = [arg for call in calls if isinstance(call, Launch) for arg in call.args]
    pairs = [(a.first, a.change) if isinstance(a, Moving) else (a, 0) for a in given]
    return host.xp.asarray([(index(value), change) for value, change in pairs], "int64")


def in_graph(calls: Sequence[Call], block: int) -> list[Call]:
    """The same calls, whose kernels read their arguments from memory at the address `block`.

    Raises
    ------
    TypeError
        If a product has an address that moves.
    """
    found: list[Call] = []
    for call in calls:
        if isinstance(call, Product):
            if any(isinstance(a, Moving) for a in (call.A, call.B, call.C)):
                raise TypeError(f"a product has an address that moves: {call}")
            found.append(call)
        else:
            step = Moving(host.xp.int32(0), 1)
            found.append(call._replace(instance=f"in_graph<{call.instance}>", args=(block, step)))
            block += 16 * len(call.args)
    return found


def moved(call: Call, steps: int) -> Call:
    """A call of a loop that begins so many steps later."""
    if isinstance(call, Product):
        return call
    args = [Moving(a.at(steps), a.change) if isinstance(a, Moving) else a for a in call.args]
    return call._replace(args=args)
