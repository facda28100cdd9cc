"""What parts that are made of other parts have in common: one tree of weights, none of them twice.

A part, or the weights of one, may stand in several places of a model: these weights are one leaf,
in the first place that they stand in, and its gradient is the sum of those of all places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from types import MappingProxyType
from typing import Any, Self

from xrnn.engine.compact import compact
from xrnn.engine.parameters import Parameters, assign_together
from xrnn.layers.architecture import Architecture
from xrnn.typing import Array, Form

#: the names that lead to a leaf of a tree
Path = tuple[str, ...]


class Composite:
    """The base class of parts that are made of other parts, `parts`."""

    #: the name in messages and in `config`
    kind: str = "composite"
    _parts: dict[str, Any]

    @property
    def parts(self) -> Mapping[str, Any]:
        """The parts by name, in their order."""
        return MappingProxyType(self._parts)

    @property
    def weights(self) -> dict[str, Any]:
        """The tree of all weights, name of the part → its weights.

        Parts without weights are left out; weights that stand in several places are in the first.
        Assign a whole tree: all of it is taken over or, if something does not fit, nothing.
        """
        flat = {}
        for path, leaf, first in self._places():
            if path == first:
                flat[path] = leaf
        return _nested(flat)

    @weights.setter
    def weights(self, tree: Mapping[str, Any]) -> None:
        assign_together(list(_changes(self.kind, self.weights, tree)))

    def to(self, device: str) -> Self:
        """Move the weights of all parts to another array library; return the object itself.

        Raises
        ------
        ImportError, ValueError
            As `xrnn.Layer.to`.
        """
        # A part of a user that cannot be moved is an error before any is.
        for move in [part.to for part in self._parts.values()]:
            move(device)
        return self

    def freeze(self, weights: Form | None = None) -> Self:
        """Make the weights of all parts constant, for inference; return the object itself.

        Parameters
        ----------
        weights : {"int8", "bfloat16"}, optional
            How the recurrent layers keep theirs, as for `xrnn.Layer.freeze`; those of other parts
            stay as they are.
        """
        # A part that cannot be frozen is an error before any is.
        freezes = [part.freeze for part in self._parts.values()]
        if weights is not None:
            layers = list(self._layers())
            made = [compact(layer.weights, weights) for layer in layers]
            for layer, parameters in zip(layers, made, strict=True):
                layer._parameters = parameters
        for freeze in freezes:
            freeze()
        return self

    def _layers(self) -> Iterator[Architecture[Any]]:
        """The recurrent layers, also those of parts within parts."""
        for part in self._parts.values():
            if isinstance(part, Architecture):
                yield part
            elif isinstance(part, Composite):
                yield from part._layers()

    def config(self) -> dict[str, Any]:
        """The options that change what is computed, and under "parts" those of all parts.

        A part that stands in several places is described in the first; in the others there is
        ``{"kind": "shared", "path": …}`` with the names that lead to it.
        """
        return self._described((), {})

    def _options(self) -> dict[str, Any]:
        """The options of the object itself."""
        return {"kind": self.kind}

    @classmethod
    def _made_of(cls, parts: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """An object of these `parts`, and of the `_options` of another but for its kind."""
        return cls(**parts, **options)

    def _described(self, path: Path, known: dict[int, Path]) -> dict[str, Any]:
        """`config`, where this object stands at a path of a larger one, and parts are known."""
        found: dict[str, Any] = {}
        for name, part in self._parts.items():
            mine = (*path, name)
            first = known.setdefault(id(part), mine)
            if first != mine:
                found[name] = {"kind": "shared", "path": list(first)}
            elif isinstance(part, Composite):
                found[name] = part._described(mine, known)
            else:
                found[name] = part.config()
        return {**self._options(), "parts": found}

    def _added_up(self, gradients: Mapping[str, Any]) -> dict[str, Any]:
        """The gradients of all parts by name, as a tree of the names of `weights`."""
        sums: dict[Path, Any] = {}
        for path, _, first in self._places():
            one = reduce(getitem, path, gradients)
            sums[first] = _added(sums[first], one) if first in sums else one
        return _nested(sums)

    def _unshared(self) -> list[str]:
        """The names of the parts whose weights stand in no other place, in their order."""
        places = ((path, first) for path, _, first in self._places() if path != first)
        shared = {one[0] for pair in places for one in pair}
        return [name for name in self.weights if name not in shared]

    def _places(self) -> Iterator[tuple[Path, Any, Path]]:
        """(path, weights, the first path of these weights) of all leaves of all parts."""
        # A mapping that a part makes anew at every call must live as long as its id is used.
        trees = {id(part): part.weights for part in self._parts.values()}
        first: dict[int, Path] = {}
        for path, leaf in _leaves({name: trees[id(part)] for name, part in self._parts.items()}):
            yield path, leaf, first.setdefault(id(leaf), path)

    def __repr__(self) -> str:
        lines = [f"  {name}={part!r}".replace("\n", "\n  ") for name, part in self._parts.items()]
        return f"<{type(self).__name__}\n" + "\n".join(lines) + ">"


def _leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, leaf) of a tree; a mapping of names to arrays is one leaf."""
    for name, value in tree.items():
        mapping = isinstance(value, Mapping) and not isinstance(value, Parameters)
        if mapping and any(isinstance(one, Mapping) for one in value.values()):
            yield from _leaves(value, (*path, name))
        elif not mapping or value:
            yield (*path, name), value


def _nested(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """The tree with these leaves."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


def _added(a: Any, b: Any) -> Any:
    """The sum of two gradients: of arrays, or of mappings of the same names."""
    if isinstance(a, Mapping):
        return {name: _added(value, b[name]) for name, value in a.items()}
    return a + b


def _changes(kind: str, mine: Any, given: Any) -> Iterator[tuple[Parameters, Mapping[str, Array]]]:
    """(parameters, new arrays) of a tree that is to be assigned."""
    if isinstance(mine, Parameters):
        yield mine, given
        return
    if not isinstance(mine, Mapping):
        raise TypeError(
            f"{kind}: the weights of a part are not `Parameters`; assign its weights alone"
        )
    if not isinstance(given, Mapping) or given.keys() != mine.keys():
        names = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"{kind}: weights are {names}; they must be {', '.join(mine)}")
    for name, value in mine.items():
        yield from _changes(kind, value, given[name])
