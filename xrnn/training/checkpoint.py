"""The state of a training run in a file, from which it goes on to the same bits.

The file holds weights, the state of the optimizer, the best weights, and the state of the sequences
that are being read; and as JSON values all else that training changes.  Nothing is taken from it
before all of it has been checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any

from xrnn.backends import host
from xrnn.convert import files
from xrnn.convert.parts import differences
from xrnn.engine.checks import Placement
from xrnn.learn.average import Average
from xrnn.learn.optim import Optimizer
from xrnn.learn.trees import leaves
from xrnn.training.contents import (
    ANYTHING,
    COUNT,
    NUMBER,
    OBJECT,
    STRING,
    Kind,
    check_values,
    or_null,
    refusal,
)
from xrnn.training.history import History
from xrnn.typing import Array, dtype_name

#: what a file of a run says of itself
KIND = "xrnn.fit"

#: the dtypes of the state of an optimizer
WIDE = ("float32", "float64")

LR: Kind = ("a finite number ≥ 0", lambda v: NUMBER[1](v) and v >= 0)

IN_OPTIONS: dict[str, Kind] = {
    "seed": COUNT,
    "batch_size": COUNT,
    "sequences": or_null(COUNT),
    "validation": ("true or false", lambda v: isinstance(v, bool)),
    "lr": LR,
    "model": OBJECT,
}
IN_OPTIMIZER: dict[str, Kind] = {
    "class": STRING,
    "steps": COUNT,
    "lr": LR,
}
IN_HISTORY: dict[str, Kind] = {
    "seed": COUNT,
    "rows": ("a list", lambda v: isinstance(v, list)),
    "best": or_null(COUNT),
    "stopped": STRING,
    "skipped": COUNT,
}


@dataclass
class Progress:
    """What training changes besides the weights and the optimizer.

    - epoch: how many are complete
    - batch: how many batches of the next epoch were trained on
    - step: how many batches were trained on in all
    - waited: rows of the history since the best one
    - least: the smallest loss that decides so far; inf before the first
    - total, count, batches, seconds: since the last row the sum of the losses, targets, batches and
      time
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    waited: int = 0
    least: float = inf
    total: float = 0.0
    count: int = 0
    batches: int = 0
    seconds: float = 0.0


IN_PROGRESS = {f.name: COUNT if f.type == "int" else NUMBER for f in fields(Progress)}
IN_PARTS = {
    "options": IN_OPTIONS,
    "optimizer": IN_OPTIMIZER,
    "progress": IN_PROGRESS | {"least": or_null(NUMBER)},
    "history": IN_HISTORY,
}
IN_CHECKPOINT = dict.fromkeys(IN_PARTS, OBJECT) | {"kind": STRING}
IN_CHECKPOINT |= dict.fromkeys(("state", "metadata"), ANYTHING)


@dataclass
class Training:
    """All that training changes.

    - weights: the tree of the weights
    - best: a copy of the best ones, as an average over one update
    - state: that of the sequences which go on in the next batch, if it is carried
    """

    weights: Any
    optimizer: Optimizer
    history: History
    progress: Progress
    best: Average | None = None
    state: Any = None


def save(
    path: str | os.PathLike[str], training: Training, options: dict[str, Any], metadata: Any
) -> None:
    """Write everything that training needs to go on; a file that is there is replaced."""
    optimizer, progress = training.optimizer, asdict(training.progress)
    tensors = {f"weights.{k}": holder[name] for k, holder, name in _leaves(training)}
    tensors |= {f"optimizer.{k}": a for k, a in optimizer.state.items()}
    tensors |= {f"best.{k}": a for k, a in (training.best.state if training.best else {}).items()}
    form = _form(training.state, tensors)
    known = {"class": type(optimizer).__name__, "steps": optimizer.steps, "lr": optimizer.lr}
    info = {
        "kind": KIND,
        "options": options,
        "optimizer": known,
        "progress": progress | {"least": None if progress["least"] == inf else progress["least"]},
        "history": asdict(training.history),
        "state": form,
        "metadata": metadata,
    }
    files.write(path, tensors, info)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors of a checkpoint, and its JSON values after all checks.

    Raises
    ------
    FileNotFoundError, OSError
        If the file cannot be read.
    ValueError
        If it is no file of `xrnn.fit`, or one whose values are not those that `save` writes.
    """
    name = os.fsdecode(path)
    tensors, info = files.read(path)
    if info.get("kind") != KIND:
        raise ValueError(f"{name} is no checkpoint of xrnn.fit")
    check_values(name, "", info, IN_CHECKPOINT)
    for key, kinds in IN_PARTS.items():
        check_values(name, f"{key}.", info[key], kinds)
    _check_rows(name, info["history"]["rows"], info["progress"]["step"])
    return tensors, info


def load(path: str | os.PathLike[str], training: Training, options: dict[str, Any]) -> None:
    """Take over what `save` has written.

    Raises
    ------
    FileNotFoundError, OSError
        If the file cannot be read.
    ValueError
        If it is no file of `xrnn.fit`, one of another model, other options or another optimizer,
        or does not hold what it must; nothing is changed then.
    """
    name = os.fsdecode(path)
    tensors, info = read(path)
    _check_options(name, info, options, training.optimizer)
    _check_tensors(name, tensors, info, training)
    if odd := dict(differences(info["options"]["model"], options["model"])):
        raise ValueError(f"{name} is the checkpoint of another model: {'; '.join(odd.values())}")
    (_, holder, _), *_ = _leaves(training)
    try:
        state = _formed(info["state"], tensors, holder.placement)
    except (KeyError, TypeError, RecursionError):
        raise refusal(name, f"state is {info['state']!r:.80}, which names no tensors") from None
    groups: dict[str, dict[str, Array]] = {"weights": {}, "best": {}, "optimizer": {}, "state": {}}
    for key, array in tensors.items():
        group, _, rest = key.partition(".")
        groups[group][rest] = array
    for key, holder, k in _leaves(training):
        holder[k] = holder.placement.from_host(groups["weights"][key])
    training.state = state
    optimizer, known = training.optimizer, info["optimizer"]
    # Arrays of NumPy follow their weights to the library of these when they are needed.
    optimizer.state, optimizer.steps = groups["optimizer"], known["steps"]
    optimizer.lr = known["lr"]
    if groups["best"]:
        training.best = Average(0.0)
        training.best.state, training.best.steps = groups["best"], 1
    training.history = History(**info["history"])
    least = info["progress"]["least"]
    training.progress = Progress(**info["progress"] | {"least": inf if least is None else least})


def _leaves(training: Training) -> Iterator[tuple[str, Any, str]]:
    return leaves(training.weights, "weights")


def _form(state: Any, tensors: dict[str, Array]) -> Any:
    """A state of mappings, tuples and arrays as JSON, its arrays put into the tensors."""
    if isinstance(state, Mapping):
        return {name: _form(part, tensors) for name, part in state.items()}
    if isinstance(state, tuple):
        return [_form(part, tensors) for part in state]
    if state is None:
        return None
    key = f"state.{sum(k.startswith('state.') for k in tensors)}"
    tensors[key] = state
    return key


def _formed(form: Any, tensors: Mapping[str, Array], placement: Placement) -> Any:
    """The inverse of `_form`, in the library of the weights."""
    if isinstance(form, dict):
        return {name: _formed(part, tensors, placement) for name, part in form.items()}
    if isinstance(form, list):
        return tuple(_formed(part, tensors, placement) for part in form)
    return None if form is None else placement.from_host(tensors[form])


def _check_rows(name: str, rows: list[Any], step: int) -> None:
    """Raise ValueError unless these are the rows of a history up to a step."""
    before = 0
    for n, row in enumerate(rows):
        where = f"history.rows[{n}]"
        numbers = isinstance(row, dict) and all(type(v) in (int, float) for v in row.values())
        if not numbers or not {"epoch", "step", "loss", "lr", "seconds"} <= row.keys():
            raise refusal(name, f"{where} is {row!r:.80}; it must be a row of numbers")
        if not before < row["step"] <= step:
            raise refusal(
                name,
                f"{where}.step is {row['step']}; it must be above {before}, that of the row "
                f"before, and at most {step}",
            )
        before = row["step"]


def _check_options(
    name: str, info: dict[str, Any], options: dict[str, Any], optimizer: Optimizer
) -> None:
    """Raise ValueError unless the run is the same; None for the seed or the learning rate is any,
    and the latter may be that which the optimizer had at the end."""
    if info["optimizer"]["class"] != type(optimizer).__name__:
        raise ValueError(
            f"{name} was trained with {info['optimizer']['class']:.80}; give such an optimizer"
        )
    theirs = info["options"]
    if theirs["validation"] != options["validation"]:
        was, now = ("with" if one["validation"] else "without" for one in (theirs, options))
        raise ValueError(
            f"{name} is the checkpoint of another run: it was {was} validation data and is {now} "
            f"them now; go on {was} them"
        )
    for key, mine in options.items():
        known = {"lr": (theirs["lr"], info["optimizer"]["lr"], None), "seed": (theirs[key], None)}
        if key != "model" and mine not in known.get(key, (theirs[key],)):
            raise ValueError(
                f"{name} is the checkpoint of another run: {key} was {theirs[key]!r:.80} and is "
                f"{mine!r:.80} now{f'; give rng={theirs[key]}' if key == 'seed' else ''}"
            )


def _check_tensors(
    name: str, tensors: Mapping[str, Array], info: dict[str, Any], training: Training
) -> None:
    """Raise ValueError unless the tensors are those of this training, and finite."""
    needed: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
    slots = training.optimizer.slots if info["optimizer"]["steps"] else ()
    best = any(key.startswith("best.") for key in tensors)
    for path, holder, k in _leaves(training):
        shape, dtype = tuple(holder[k].shape), dtype_name(holder[k].dtype)
        needed[f"weights.{path}"] = shape, (dtype,)
        needed |= {f"optimizer.{slot}.{path}": (shape, WIDE) for slot in slots}
        needed |= {f"best.{path}": (shape, WIDE)} if best else {}
    states = [key for key in tensors if key.startswith("state.")]
    needed |= {key: (tensors[key].shape, (dtype,)) for key in states}
    if odd := sorted(needed.keys() ^ tensors.keys()):
        word = "missing" if odd[0] in needed else "unknown"
        raise ValueError(f"{name} is the checkpoint of another model: {odd[0]} is {word}")
    for key, (shape, dtypes) in needed.items():
        found = tensors[key]
        if found.shape != shape or dtype_name(found.dtype) not in dtypes:
            raise ValueError(
                f"{name} is the checkpoint of another model: {key} is {dtype_name(found.dtype)} of "
                f"shape {found.shape} there, and must be {' or '.join(dtypes)} of shape {shape}"
            )
        if not host.xp.isfinite(found).all():
            raise refusal(name, f"{key} holds NaN or infinity")
