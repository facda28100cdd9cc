"""Parts one after the other, as one part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from numbers import Integral
from typing import Any, TypeGuard

from array_api_compat import is_array_api_obj

from xrnn.backends import backend_of
from xrnn.cells.base import LARGEST, check_flags
from xrnn.engine.random import seed_of_part
from xrnn.engine.values import check_index
from xrnn.layers.composite import Composite
from xrnn.layers.part import Part, check_tape, mask_over
from xrnn.recurrence.masks import apply_mask
from xrnn.typing import Array, Checkpoint, Size

#: what `Sequential` hands on to the parts whose `forward` takes it
HANDED_ON = ("lengths", "mask", "resets", "seed", "t", "checkpoint")


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
    #: which steps of the input were read; None: all, or it is the first part that knows
    valid: Array | None = None


class Sequential(Composite):
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
    parts : mapping of str to part
        All parts in their order; it cannot be changed.
    batch_first : bool or None
        Whether sequences are (B, T, …), as the parts say.  None: no part says it.

    Raises
    ------
    TypeError
        If something is not a part.
    ValueError
        If there is no part, two have one name, or some have the batch first and others have time
        first.

    Notes
    -----
    A part that is given twice is one part: its weights stand in the tree once, and its gradients
    are added up.

    Every part is given what its `forward` takes, of `lengths`, `mask`, `resets`, `seed`, `t` and
    `checkpoint`.  Each gets a seed of its own, made of the one given and of its name.  What stands
    in the input at steps that are not valid is never read, and the outputs there have no meaning.

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

    kind = "sequential"

    def __init__(self, *parts: Part, **named: Part) -> None:
        self._parts = {f"{n}": part for n, part in enumerate(parts)} | named
        if not self._parts:
            raise ValueError(f"{self.kind}: there is no part; give at least one")
        if len(self._parts) < len(parts) + len(named):
            (odd, *_) = (name for name in named if name.isdecimal() and int(name) < len(parts))
            raise ValueError(f"{self.kind}: two parts have the name {odd!r}; give one another name")
        for name, part in self._parts.items():
            if not isinstance(part, Part) or isinstance(part, type):
                what = part.__name__ if isinstance(part, type) else type(part).__name__
                raise TypeError(
                    f"{self.kind}: {name} is {what}; it must be a part: a layer, or an object "
                    "with weights, forward and backward"
                )
        self._takes = {name: takes(part) for name, part in self._parts.items()}
        self._can_omit = "omit_dxs" in takes(next(iter(self._parts.values())), "backward")
        found = {name: _order(part) for name, part in self._parts.items()}
        orders = {name: order for name, order in found.items() if order is not None}
        if len(set(orders.values())) > 1:
            words = ", ".join(f"{name} has batch_first={order}" for name, order in orders.items())
            raise ValueError(f"{self.kind}: {words}; all must have the same")
        self.batch_first: bool | None = next(iter(orders.values()), None)

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
        return self.run(x, state, lengths, mask=mask, resets=resets)[0]

    def run(
        self,
        x: Array,
        state: Mapping[str, Any] | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Inference of a piece of long sequences: the outputs, and the states at its end, by name.

        The next piece starts from these states; arguments and exceptions as for `forward`.
        """
        given = {"lengths": lengths, "mask": mask, "resets": resets}
        states, last = self._states(state), {}
        x, _ = self._without_padding(x, lengths, mask)
        y = x
        for name, part in self._parts.items():
            known = {k: v for k, v in given.items() if k in self._takes[name]}
            if name in states:
                known["state"] = states[name]
            y = part.run(y, **known) if isinstance(part, Sequential) else part(y, **known)
            if isinstance(y, tuple):
                y, last[name] = y
        return self._output(x, y), last

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
        checkpoint: Checkpoint | None = None,
    ) -> tuple[Array, SequentialTape]:
        """Run all parts and keep what `backward` needs.

        Parameters
        ----------
        x : array
            The input of the first part.
        state : dict of str to state, optional
            The states that recurrent parts start from, by name, such as ``tape.state`` of the
            chunk before.  Default: their initial states.
        lengths, mask, resets, seed, t, checkpoint
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
        given["checkpoint"] = checkpoint
        states, tapes, last = self._states(state), [], {}
        x, valid = self._without_padding(x, lengths, mask)
        y = x
        for name, part in self._parts.items():
            known = self._known(name, given)
            if "state" in self._takes[name]:
                known["state"] = states.get(name)
            y, *more, tape = part.forward(y, **known)
            if "state" in self._takes[name]:
                last[name] = more[0] if more else tape.state
            tapes.append((name, tape))
        return self._output(x, y), SequentialTape(self, tapes, last, valid)

    def backward(
        self,
        tape: SequentialTape,
        dy: Array,
        dstate: Mapping[str, Any] | None = None,
        *,
        omit_dxs: bool = False,
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
        omit_dxs : bool
            Whether dx is not needed, as in training; the first part leaves it out if it can.

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
        check_tape(self.kind, self, tape, SequentialTape, "one")
        if not is_array_api_obj(dy):
            raise TypeError(f"{self.kind}: dy is a {type(dy).__name__}; it must be an array like y")
        check_flags(self.kind, omit_dxs=omit_dxs)
        dx, _, dweights = self._gradients(tape, dy, self._states(dstate, "dstate"), omit_dxs)
        return dx, dweights

    def _gradients(
        self,
        tape: SequentialTape,
        dy: Array | None,
        dstates: Mapping[str, Any],
        omit_dxs: bool = False,
        ready: Callable[[str, Any], object] = lambda name, gradients: None,
    ) -> tuple[Array | None, dict[str, Any], dict[str, Any]]:
        """As `backward`, and between both results the gradients of the states that recurrent
        parts started from, by name; the last part says whether dy may be None.  `ready` is told
        of the gradients of each part before those of the part below are computed."""
        found: dict[str, Any] = {}
        dfirst: dict[str, Any] = {}
        dx = dy
        for n, (name, one) in reversed(list(enumerate(tape.tapes))):
            more = {"dstate": dstates[name]} if name in dstates else {}
            if omit_dxs and n == 0 and self._can_omit:
                more["omit_dxs"] = True
            dx, *states, found[name] = self._parts[name].backward(one, dx, **more)
            ready(name, found[name])
            dfirst |= zip([name], states, strict=False)
            if dx is None and n:
                raise ValueError(
                    f"{self.kind}: {name} gives no gradient of its input, and there are parts "
                    "before it; it must be the first part"
                )
        dx = None if omit_dxs else self._input_gradient(dx, dy)
        if dx is not None and tape.valid is not None:
            dx = apply_mask(tape.valid, dx, xp=backend_of(dx).xp)
        return dx, dfirst, self._added_up(found)

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
        for name, part in self._parts.items():
            if "state" in self._takes[name]:
                y, new[name] = part.step(y, states.get(name))
            elif "lengths" in self._takes[name]:
                raise ValueError(
                    f"{self.kind}: {name} is {part!r}, which needs whole sequences and cannot step"
                )
            else:
                y = part(y)
        return self._output(x, y), new

    def initial_state(self, B: Size) -> dict[str, Any]:
        """The initial states of the recurrent parts by name, for B sequences; an error if B is no
        integer ≥ 0, or one of these parts has no such method."""
        check_index(self.kind, "B", B, LARGEST)
        recurrent = {k: part for k, part in self._parts.items() if "state" in self._takes[k]}
        for name, part in recurrent.items():
            if not hasattr(part, "initial_state"):
                raise TypeError(
                    f"{self.kind}: {name} is {part!r:.80}, which has a state and no method "
                    "initial_state(B); give it one"
                )
        return {name: part.initial_state(B) for name, part in recurrent.items()}

    def path(self, shape: tuple[int, ...]) -> dict[str, dict[str, str]]:
        """For each recurrent part what `path` of it answers; `shape` is that of the input."""
        recurrent = (item for item in self._parts.items() if "state" in self._takes[item[0]])
        return {name: part.path(shape) for name, part in recurrent}

    @property
    def hides_padding(self) -> bool:
        """Whether what stands in the input past the ends of sequences is taken as 0."""
        return self.batch_first is not None and self._reads_padding

    @property
    def _reads_padding(self) -> bool:
        """Whether the first part reads all steps, those that are not valid too."""
        return _order(next(iter(self._parts.values()))) is None

    def _without_padding(self, x: Array, lengths: Any, mask: Any) -> tuple[Array, Array | None]:
        """The input with 0 where the first part would read steps that are not valid, and which
        steps are valid then."""
        order, whole = self.batch_first, lengths is None and mask is None
        if whole or order is None or not self.hides_padding:
            return x, None
        valid = mask_over(self.kind, x, lengths, mask, order)
        return apply_mask(valid, x, xp=backend_of(x).xp), valid

    def _known(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What is handed on to the part of that name."""
        known = {key: given[key] for key in HANDED_ON if key in self._takes[name]}
        seed, t, own_order = known.get("seed"), known.get("t"), _order(self._parts[name])
        if not _is_integer(seed):
            return known  # the part says what is wrong, if it needs one
        known["seed"] = seed_of_part(name, seed)
        if self.batch_first and own_order is None and _is_integer(t) and t > 0:
            # It counts positions as if time came first: it gets other numbers for every t instead.
            known |= {"seed": seed_of_part(f"{name}/{t}", seed), "t": 0}
        return known

    def _output(self, x: Array, y: Array) -> Array:
        """The output, from the input and what the parts made of it."""
        return y

    def _input_gradient(self, dx: Array | None, dy: Array | None) -> Array | None:
        """The gradient of the input, from that of the parts' input and of the output."""
        return dx

    def _states(self, given: Mapping[str, Any] | None, what: str = "state") -> dict[str, Any]:
        """The states by name, after checks."""
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise TypeError(
                f"{self.kind}: {what} is a {type(given).__name__}; it must be a dict of the names "
                "of recurrent parts to their states"
            )
        known = [name for name in self._parts if "state" in self._takes[name]]
        if odd := [name for name in given if name not in known]:
            raise ValueError(
                f"{self.kind}: {what} has {odd[0]!r:.80}; the parts with a state are "
                f"{', '.join(known) or 'none'}"
            )
        return dict(given)


def takes(part: Any, method: str = "forward") -> frozenset[str]:
    """The names of the arguments that `forward`, or another method of a part, takes."""
    return frozenset(signature(getattr(part, method)).parameters)


def _order(part: Any) -> bool | None:
    """Whether sequences that the part reads are (B, T, …); None: it reads each step alone."""
    found = getattr(part, "batch_first", None)
    return None if found is None else bool(found)


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)
