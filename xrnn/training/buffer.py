"""The gradients of all weights side by side in one buffer, added up over the ranks.

They stand in the order in which a backward pass computes them, so that those of the last parts of
a `Sequential` are added up while the pass goes on with the parts below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.layers.sequential import Sequential
from xrnn.learn.parallel import World
from xrnn.learn.trees import leaves, pairs
from xrnn.training.model import Model, Ready
from xrnn.typing import Array, dtype_name

#: parts are added up together until they are so many numbers: each message has a cost of its own
FEWEST = 2**14

#: the place of what is not in the buffer
NOWHERE = slice(-1, -1)


class Group(NamedTuple):
    """What is added up together: parts of the model, or all that are in no other group (none), and
    where their gradients are in the buffer."""

    parts: tuple[str, ...]
    place: slice


class Buffer:
    """Where the gradients of a model are added up.

    Parameters
    ----------
    model : Model
        The model.
    world : World
        The ranks.
    """

    def __init__(self, model: Model, world: World) -> None:
        self.model, backend = model, model.placement.backend
        add = world.adder(backend)
        #: what starts to add up a part of the buffer
        self.add, xp = (world.add, host.xp) if add is None else (add, backend.xp)
        #: how a gradient comes to where the buffer is; whether that is the library of the model
        self.brought = backend.to_host if add is None else lambda a: a
        self.here = backend.xp is xp
        self.weights = {
            path: (holder, tuple(holder[name].shape))
            for path, holder, name in leaves(model.weights, "weights")
        }
        self.places: dict[str, slice] = {}
        self.groups = [Group(names, self._placed(paths)) for names, paths in self._grouped()]
        wide = any(dtype_name(one.placement.dtype) == "float64" for one, _ in self.weights.values())
        self.array = xp.zeros(
            self.groups[-1].place.stop,
            dtype=xp.float64 if wide else xp.float32,
            device=None if add is None else model.placement.standard_device,
        )

    def _grouped(self) -> Iterator[tuple[tuple[str, ...], list[str]]]:
        """(parts, paths of their weights) of the groups, in the order of a backward pass."""
        part, left = self.model.part, list(self.weights)
        names: list[str] = []
        paths: list[str] = []
        for name in reversed(part._unshared() if isinstance(part, Sequential) else []):
            names.append(name)
            paths += [path for path, _, _ in leaves({name: self.model.weights[name]}, "weights")]
            if sum(prod(self.weights[path][1]) for path in paths) >= FEWEST:
                yield tuple(names), paths
                left = [path for path in left if path not in paths]
                names, paths = [], []
        if left:
            yield (), left

    def _placed(self, paths: list[str]) -> slice:
        """A place for these weights after those that have one, which is also that of a group."""
        begin = stop = max((place.stop for place in self.places.values()), default=0)
        for path in paths:
            start, stop = stop, stop + prod(self.weights[path][1])
            self.places[path] = slice(start, stop)
        return slice(begin, stop)

    def mean(
        self, backward: Callable[[Ready], Any] | None, weight: float
    ) -> Callable[[float], Any]:
        """Start to add up the gradients of all ranks; what is returned waits for the sum, and
        multiplies it by its argument.

        Parameters
        ----------
        backward : callable, optional
            ``backward(ready)`` gives the gradients of this rank, and tells `ready` of those of a
            part before it goes on.  None if this rank has no sequences.
        weight : float
            What they are multiplied by.
        """
        waits: list[Callable[[], object]] = []

        def put(gradients: Any, group: Group, last: bool) -> None:
            for path, holder, name in leaves(gradients, "dweights"):
                place = self.places.get(path, NOWHERE)
                if group.place.start <= place.start < group.place.stop:
                    part = self.array[place]
                    part[...] = self.brought(holder[name]).reshape(-1)
                    part *= weight
            if last:
                waits.append(self.add(self.array[group.place]))

        def ready(name: str, gradients: Any) -> None:
            # The parts of a group follow each other in the backward pass.
            for group in self.groups[len(waits) : len(waits) + 1]:
                if name in group.parts:
                    put({name: gradients}, group, name == group.parts[-1])

        def result(factor: float) -> Any:
            for wait in waits:
                wait()
            if factor != 1.0:
                self.array *= factor
            return _filled(self.model.weights, map(self._gradient, self.weights))

        found: Any = {}
        if backward is None:
            self.array[...] = 0
        else:
            found = backward(ready)
            pairs(self.model.weights, found)  # checks names and shapes
        for group in self.groups[len(waits) :]:
            put(found, group, True)
        return result

    def _gradient(self, path: str) -> Array:
        holder, shape = self.weights[path]
        mean = self.array[self.places[path]].reshape(shape)
        return mean if self.here else holder.placement.from_host(mean)


def _filled(tree: Mapping[str, Any], arrays: Iterator[Array]) -> dict[str, Any]:
    """A tree like another one, with these arrays in the order of its leaves."""
    return {
        name: _filled(value, arrays) if isinstance(value, Mapping) else next(arrays)
        for name, value in tree.items()
    }
