"""Parts one after the other, as one part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from numbers import Integral
from typing import Any, Self
from zlib import crc32

from xrnn.backends import backend_of
from xrnn.engine.parameters import Parameters, assign_together
from xrnn.layers.part import Part
from xrnn.typing import Array, Size

#: what `Sequential` hands on to the parts whose `forward` takes it
HANDED_ON = ("lengths", "mask", "resets", "seed", "t")


@dataclass(frozen=True, eq=False, repr=False)
class SequentialTape:
    """What `Sequential.backward` needs.

    Attributes
    ----------
    state : dict of str to state
        The state of each recurrent part where its sequences ended.
    """

    owner: Any
    tapes: list[tuple[str, Any]]
    state: dict[str, Any]


class Sequential:
    """Parts of which each reads the outputs of the one before.

    Parameters
    ----------
    *parts : part
        Layers, `xrnn.Linear`, `xrnn.Embedding`, other parts, or objects of your own with weights,
        `forward` and `backward`.  Their names are "0", "1" …
    **named : part
        More of them, with names.

    Attributes
    ----------
    parts : dict of str to part
        All parts in their order.

    Raises
    ------
    TypeError
        If something is not a part.
    ValueError
        If there is no part, or some have the batch first and others have time first.

    Notes
    -----
    A part that is given twice is one part: its weights stand in the tree once, and its gradients
    are added up.

    Every part is given what its `forward` takes, of `lengths`, `mask`, `resets`, `seed` and `t`.
    Each gets a seed of its own, made of the one given and of its name.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> model = xrnn.Sequential(
    ...     rnn=xrnn.GRU(3, 8, rng=0), last=xrnn.Last(), out=xrnn.Linear(8, 2, rng=1)
    ... )
    >>> x = np.ones((7, 4, 3), "float32")
    >>> y, tape = model.forward(x, lengths=[7, 5, 2, 1])
    >>> dx, dweights = model.backward(tape, y)
    >>> y.shape, dx.shape, list(dweights)
    ((4, 2), (7, 4, 3), ['rnn', 'out'])
    >>> xrnn.optim.SGD(0.1).update(model.weights, dweights)
    """

    def __init__(self, *parts: Part, **named: Part) -> None:
        self.parts: dict[str, Any] = {
            **{f"{n}": part for n, part in enumerate(parts)},
            **named,
        }
        if not self.parts:
            raise ValueError(f"{self._kind}: there is no part; give at least one")
        for name, part in self.parts.items():
            if not isinstance(part, Part) or isinstance(part, type):
                what = part.__name__ if isinstance(part, type) else type(part).__name__
                raise TypeError(
                    f"{self._kind}: {name} is {what}; it must be a part: a layer, or an object "
                    "with weights, forward and backward"
                )
        self._takes = {name: takes(part) for name, part in self.parts.items()}
        found = {name: part.batch_first for name, part in self.parts.items() if _has_order(part)}
        if len(set(found.values())) > 1:
            words = ", ".join(
                f"{name} has batch_first={is_first}" for name, is_first in found.items()
            )
            raise ValueError(f"{self._kind}: {words}; all must have the same")
        #: whether sequences are (B, T, …) instead of (T, B, …)
        self.batch_first: bool = any(found.values())

    @property
    def _kind(self) -> str:
        return type(self).__name__.lower()

    @property
    def weights(self) -> dict[str, Any]:
        """The tree of all weights: name of the part → its weights; parts without any are left
        out."""
        return {name: part.weights for name, part in self._different() if part.weights}

    @weights.setter
    def weights(self, tree: Mapping[str, Any]) -> None:
        assign_together(list(_changes(self._kind, self.weights, tree)))

    def __call__(
        self,
        x: Array,
        state: Mapping[str, Any] | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
    ) -> Array:
        """Inference: the outputs alone; arguments and exceptions as for `forward`."""
        given = {"lengths": lengths, "mask": mask, "resets": resets}
        states, y = self._states(state), x
        for name, part in self.parts.items():
            known = {k: v for k, v in given.items() if k in self._takes[name]}
            if name in states:
                known["state"] = states[name]
            y = part(y, **known)
            if isinstance(y, tuple):
                y = y[0]
        return self._output(x, y)

    def forward(
        self,
        x: Array,
        state: Mapping[str, Any] | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        seed: Size | None = None,
        t: Size = 0,
    ) -> tuple[Array, SequentialTape]:
        """Run all parts and keep what `backward` needs.

        Parameters
        ----------
        x : array
            The input of the first part.
        state : dict of str to state, optional
            The states that recurrent parts start from, by name, such as ``tape.state`` of the
            chunk before.  Default: their initial states.
        lengths, mask, resets, seed, t
            As for `xrnn.Layer.forward`, for all parts that take them.

        Returns
        -------
        y : array
            The output of the last part.
        tape : SequentialTape
            For `backward`; ``tape.state`` holds the states at the end.

        Raises
        ------
        TypeError, ValueError
            As the parts; and if `state` names a part that has none.
        """
        given = {"lengths": lengths, "mask": mask, "resets": resets, "seed": seed, "t": t}
        states, tapes, last, y = self._states(state), [], {}, x
        for name, part in self.parts.items():
            known = {k: given[k] for k in HANDED_ON if k in self._takes[name]}
            if "state" in self._takes[name]:
                known["state"] = states.get(name)
            if known.get("seed") is not None:
                known["seed"] = _seed_of(name, known["seed"])
            y, *more, tape = part.forward(y, **known)
            if "state" in self._takes[name]:
                last[name] = more[0] if more else tape.state
            tapes.append((name, tape))
        return self._output(x, y), SequentialTape(self, tapes, last)

    def backward(
        self, tape: SequentialTape, dy: Array, dstate: Mapping[str, Any] | None = None
    ) -> tuple[Array | None, dict[str, Any]]:
        """The gradients of the input and of all weights.

        Parameters
        ----------
        tape : SequentialTape
            From `forward`.
        dy : array like y
            The gradient of the outputs.
        dstate : dict of str to state, optional
            The gradients of ``tape.state``, by name.  Default: zeros.

        Returns
        -------
        dx : array like x, or None
            The gradient of the input; None if the first part has none, such as an embedding.
        dweights : dict of str to dict
            Names and shapes of `weights`.

        Raises
        ------
        TypeError, ValueError
            As the parts; and if the tape is not from `forward` of this object.
        """
        if not isinstance(tape, SequentialTape):
            raise TypeError(
                f"{self._kind}: tape is a {type(tape).__name__}; it must be the tape that forward "
                "returned"
            )
        if tape.owner is not self:
            raise ValueError(
                f"{self._kind}: the tape was made by another one; give one that forward of this "
                "one returned"
            )
        dstates = self._states(dstate, "dstate")
        names = {id(part): name for name, part in reversed(self.parts.items())}
        found: dict[str, Any] = {}
        backend_of(dy, "dy")
        dx: Array | None = dy
        for n, (name, one) in reversed(list(enumerate(tape.tapes))):
            part = self.parts[name]
            more = {"dstate": dstates[name]} if name in dstates else {}
            dx, *_, dweights = part.backward(one, dx, **more)
            if dx is None and n:
                raise ValueError(
                    f"{self._kind}: {name} gives no gradient of its input, and there are parts "
                    "before it; it must be the first part"
                )
            first = names[id(part)]
            found[first] = _added(found[first], dweights) if first in found else dweights
        return self._input_gradient(dx, dy), {name: found[name] for name in self.weights}

    def step(
        self, x: Array, state: Mapping[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """One time step, for streams.

        Parameters
        ----------
        x : array (B, …)
            One input for each stream.
        state : dict of str to state, optional
            From the step before.  Default: the initial states.

        Returns
        -------
        y : array (B, …)
            The output.
        state : dict of str to state
            For the next step.

        Raises
        ------
        TypeError, ValueError
            As the parts; and if one of them needs whole sequences, such as `xrnn.Last`.
        """
        states, new, y = self._states(state), {}, x
        for name, part in self.parts.items():
            if "state" in self._takes[name]:
                y, new[name] = part.step(y, states.get(name))
            elif "lengths" in self._takes[name]:
                raise ValueError(
                    f"{self._kind}: {name} is {part!r}, which needs whole sequences and cannot step"
                )
            else:
                y = part(y)
        return self._output(x, y), new

    def path(self, shape: tuple[int, ...]) -> dict[str, dict[str, str]]:
        """For each recurrent part what `path` of it answers; `shape` is that of the input."""
        recurrent = (item for item in self.parts.items() if "state" in self._takes[item[0]])
        return {name: part.path(shape) for name, part in recurrent}

    def to(self, device: str) -> Self:
        """Move the weights of all parts to another array library; return the object itself.

        Raises
        ------
        ImportError, ValueError
            As `xrnn.Layer.to`.
        """
        for _, part in self._different():
            part.to(device)
        return self

    def freeze(self) -> Self:
        """Make the weights of all parts constant, for inference; return the object itself."""
        for _, part in self._different():
            part.freeze()
        return self

    def config(self) -> dict[str, Any]:
        """The options of all parts that change what is computed."""
        return {
            "kind": self._kind,
            "parts": {name: part.config() for name, part in self.parts.items()},
        }

    def __repr__(self) -> str:
        lines = [f"  {name}={part!r}" for name, part in self.parts.items()]
        return f"<{type(self).__name__}\n" + "\n".join(lines) + ">"

    def _output(self, x: Array, y: Array) -> Array:
        """The output, from the input and what the parts made of it."""
        return y

    def _input_gradient(self, dx: Array | None, dy: Array) -> Array | None:
        """The gradient of the input, from that of the parts' input and of the output."""
        return dx

    def _different(self) -> Iterator[tuple[str, Any]]:
        """(name, part), each part once."""
        seen: set[int] = set()
        for name, part in self.parts.items():
            if id(part) not in seen:
                seen.add(id(part))
                yield name, part

    def _states(self, given: Mapping[str, Any] | None, what: str = "state") -> dict[str, Any]:
        """The states by name, after checks."""
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise TypeError(
                f"{self._kind}: {what} is a {type(given).__name__}; it must be a dict of the names "
                "of recurrent parts to their states"
            )
        known = [name for name in self.parts if "state" in self._takes[name]]
        if odd := [name for name in given if name not in known]:
            raise ValueError(
                f"{self._kind}: {what} has {odd[0]!r:.80}; the parts with a state are "
                f"{', '.join(known) or 'none'}"
            )
        return dict(given)


def takes(part: Any) -> frozenset[str]:
    """The names of the arguments that `forward` of a part takes."""
    return frozenset(signature(part.forward).parameters)


def _has_order(part: Any) -> bool:
    return hasattr(part, "batch_first")


def _seed_of(name: str, seed: Any) -> Any:
    """The seed of the part of that name; what is no integer is left to the part to refuse."""
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        return seed
    return (int(seed) ^ crc32(name.encode()) << 32) % 2**64


def _added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two trees of the same names."""
    return {
        name: _added(value, b[name]) if isinstance(value, Mapping) else value + b[name]
        for name, value in a.items()
    }


def _changes(kind: str, mine: Any, given: Any) -> Iterator[tuple[Parameters, Mapping[str, Array]]]:
    """(parameters, new arrays) of a tree that is to be assigned."""
    if isinstance(mine, Parameters):
        yield mine, given
        return
    if not isinstance(given, Mapping) or given.keys() != mine.keys():
        names = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"{kind}: weights are {names}; they must be {', '.join(mine)}")
    for name, value in mine.items():
        yield from _changes(kind, value, given[name])
