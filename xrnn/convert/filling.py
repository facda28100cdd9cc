"""Filling parts from a file: everything is checked, then all arrays are replaced together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, NamedTuple

from xrnn.cells.numbers import accept_number
from xrnn.convert.casting import rounded
from xrnn.convert.held import Held
from xrnn.convert.parts import Part, is_module
from xrnn.engine.checks import DTYPES, Placement
from xrnn.engine.parameters import Parameters, assign_together
from xrnn.learn.average import Average
from xrnn.learn.online import Online
from xrnn.learn.optim import Optimizer
from xrnn.learn.schedules import PART, Plateau
from xrnn.recurrence.precision import HALF
from xrnn.typing import Array, dtype_name

#: the dtypes of the state of an optimizer or an average
STATE = ("float32", "float64")

#: the largest number of steps, which a float holds exactly
MOST_STEPS = 2**53


class Target(NamedTuple):
    """An array to be replaced.

    - part, name: the name of its part, and its own there
    - key: its key in the file
    - place: the same one for arrays that are one array
    - what: how messages call it
    - shape: that it must have
    - said: the dtypes that it may have in the file; the first one is that of the configuration
    - placement: the library, device and dtype that it gets
    """

    part: str
    name: str
    key: str
    place: tuple[int, str]
    what: str
    shape: tuple[int, ...]
    said: tuple[Any, ...]
    placement: Placement


#: a change, and what takes it back
Change = tuple[Callable[[], Any], Callable[[], Any]]


def check_fillable(parts: Mapping[str, Part]) -> None:
    """Raise TypeError if the weights of a part cannot be replaced."""
    for one in parts.values():
        weights = one.weights if isinstance(one, Online) else {}
        if not isinstance(weights, MutableMapping):
            raise TypeError(
                f"the weights of an Online are a {type(weights).__name__}; to be loaded into, they "
                "must be a dict"
            )
        if is_module(one):
            one.weights.check_changeable()


def fill(held: Held, parts: Mapping[str, Part]) -> None:
    """Take over arrays, and what else changes in training, from a file.

    The configurations have been compared before.

    Raises
    ------
    TypeError, ValueError
        If an array or a number in the file does not fit; nothing is changed then, nor after
        Ctrl-C.  The text goes on a sentence that begins with the name of the file.
    """
    targets = list(_targets(held, parts))
    keys = {target.key for target in targets}
    for name, one in parts.items():
        if isinstance(one, Optimizer | Average):
            keys |= set(_slots(held, name).values())
        elif is_module(one) and one.weights.form:  # made of these arrays
            keys |= {held.key(name, k) for k in one.weights.held()}
    if odd := sorted(keys ^ held.tensors.keys()):
        raise ValueError(f"weights missing or unknown: {', '.join(odd)}")
    _check_shared(held, targets)
    taken = {target.place: _accepted(target, held.tensors[target.key]) for target in targets}
    new: dict[str, dict[str, Array]] = {name: {} for name in parts}
    for target in targets:
        new[target.part][target.name] = taken[target.place]
    assignments: dict[int, tuple[Parameters, dict[str, Array]]] = {}
    changes: list[Change] = []
    for name, one in parts.items():
        if isinstance(one, Optimizer | Average):
            changes += [_of_steps(held, name, one)]
        elif isinstance(one, Plateau):
            changes += [_of_plateau(held, name, one)]
        elif isinstance(one, Online):
            changes += _of_learner(one, new[name])
        elif is_module(one) and not one.weights.form:
            assignments[id(one.weights)] = one.weights, new[name]
    _apply(changes, list(assignments.values()))


def _apply(changes: list[Change], assignments: list[tuple[Parameters, dict[str, Array]]]) -> None:
    """Make all changes or, after Ctrl-C, none."""
    try:
        for make, _ in changes:
            make()
        assign_together(assignments)
    except BaseException:
        for _, take_back in changes:
            take_back()
        raise


def _targets(held: Held, parts: Mapping[str, Part]) -> Iterator[Target]:
    """All arrays of modules and learners."""
    shared: dict[int, tuple[int, str]] = {}
    if any(isinstance(one, Online) for one in parts.values()):
        for one in parts.values():
            if is_module(one):
                shared |= {id(w): (id(one.weights), k) for k, w in dict(one.weights).items()}
    for name, one in parts.items():
        said = held.flat[name].get("dtype")
        if isinstance(one, Online):
            yield from _targets_of_learner(held, name, one, said, shared)
        elif is_module(one) and not one.weights.form:
            own = one.weights
            for k, spec in own.specs.items():
                key, place = held.key(name, k), (id(own), k)
                what = f"{own.kind}: {key}"
                yield Target(name, k, key, place, what, spec.shape, (said,), own.placement)


def _targets_of_learner(
    held: Held, name: str, one: Online[Any], said: Any, shared: Mapping[int, tuple[int, str]]
) -> Iterator[Target]:
    """The weights of a learner, which may be those of a module, and what it knows of the past."""
    keys, memory = held.detail(name, "weights", dict), one.memory()
    wide = ("float32",) if said in HALF else ()
    for k, array in {**one.weights, **memory}.items():
        key = held.key(name, k) if k in memory else str(keys.get(k))
        place = (id(one), k) if k in memory else shared.get(id(array), (id(array), ""))
        what = f"{one.cell.name}: {held.key(name, k)}"
        shape, placement = tuple(array.shape), Placement.of(what, key, array)
        yield Target(name, k, key, place, what, shape, (said, *wide), placement)


def _slots(held: Held, name: str) -> dict[str, str]:
    """The names in the state of an optimizer or an average → their keys in the file."""
    return {str(slot): held.key(name, str(slot)) for slot in held.detail(name, "state", list)}


def _check_shared(held: Held, targets: list[Target]) -> None:
    """ValueError if arrays that are one array here have different values in the file."""
    first: dict[tuple[int, str], str] = {}
    for target in targets:
        key, other = target.key, first.setdefault(target.place, target.key)
        if other != key and held.tensors[key].tobytes() != held.tensors[other].tobytes():
            raise ValueError(
                f"{other} and {key} are one weight here, and have different values in the file"
            )


def _accepted(target: Target, found: Array) -> Array:
    """An array of a file as it is needed, after all checks."""
    what, said = target.what, target.said
    if found.shape != target.shape:
        raise ValueError(f"{what} has shape {found.shape}; it must be {target.shape}")
    if dtype_name(found.dtype) not in said or said[0] not in DTYPES:
        raise TypeError(f"{what} is {found.dtype}; its configuration says {said[0]!r:.80}")
    placement = target.placement
    found = rounded(what, found, dtype_name(placement.dtype))
    return placement.accept(what, placement.from_host(found))


def _of_steps(held: Held, name: str, one: Optimizer | Average) -> Change:
    """The change of an optimizer or an average, after all checks.  Its state consists of arrays of
    NumPy, until it follows the weights at the next update."""
    kind, steps = one.config()["kind"], held.detail(name, "steps", int)
    if isinstance(steps, bool) or not 0 <= steps <= MOST_STEPS:
        raise ValueError(f"{kind}: steps is {steps!r:.80}; it must lie in 0…{MOST_STEPS:,}")
    state = {slot: held.tensors[key] for slot, key in _slots(held, name).items()}
    for slot, array in state.items():
        if dtype_name(array.dtype) not in STATE:
            raise TypeError(
                f"{kind}: {held.key(name, slot)} is {array.dtype}; it must be of {', '.join(STATE)}"
            )
    new: dict[str, Any] = {"steps": steps, "state": state}
    if isinstance(one, Optimizer):
        lr = held.detail(name, "lr", float)
        new["lr"] = accept_number("optimizer: lr", lr, *one.bounds["lr"])
    return _of_attributes(one, new)


def _of_plateau(held: Held, name: str, one: Plateau) -> Change:
    """The change of a plateau, after all checks."""
    state = held.detail(name, "state", dict)
    if state.keys() != one.state.keys():
        raise ValueError(
            f"plateau: state has {', '.join(state):.80}; it must have {', '.join(one.state)}"
        )
    best, waited = state["best"], state["waited"]
    accept_number("plateau: factor", state["factor"], *PART)
    if best is not None:
        accept_number("plateau: best", best, "a number or None", lambda x: x == x)
    if type(waited) is not int or not 0 <= waited <= MOST_STEPS:
        raise ValueError(f"plateau: waited is {waited!r:.80}; it must lie in 0…{MOST_STEPS:,}")
    return _of_attributes(one, {"state": state})


def _of_attributes(one: Any, new: dict[str, Any]) -> Change:
    before = {key: vars(one)[key] for key in new}
    return partial(vars(one).update, new), partial(vars(one).update, before)


def _of_learner(one: Online[Any], new: Mapping[str, Array]) -> list[Change]:
    """The changes of a learner: of its mapping of weights, and of what it knows of the past."""
    weights: Any = one.weights
    before, memory = dict(weights), one.memory()
    return [
        (partial(weights.update, {k: new[k] for k in before}), partial(weights.update, before)),
        (partial(one.remember, {k: new[k] for k in memory}), partial(one.remember, memory)),
    ]
