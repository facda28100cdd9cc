"""The state of a training run in a file, from which it goes on to the same bits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from xrnn.backends import backend_of
from xrnn.convert import files
from xrnn.learn.optim import Optimizer
from xrnn.learn.trees import leaves
from xrnn.training.history import History
from xrnn.typing import Array, dtype_name

#: what a file of a run says of itself
KIND = "xrnn.fit"


@dataclass
class Progress:
    """What training changes besides the weights and the optimizer.

    - epoch, step: how many were made
    - waited: epochs since the best one
    - least: the smallest loss that decides so far
    - best: the weights of that epoch, on the host, by path
    """

    history: History
    epoch: int = 0
    step: int = 0
    waited: int = 0
    least: float = float("inf")
    best: dict[str, Array] | None = None


def on_host(weights: Any) -> dict[str, Array]:
    """Path → copy of the weight as a NumPy array."""
    return {
        path: backend_of(holder[name], path).to_host(holder[name]).copy()
        for path, holder, name in leaves(weights, "weights")
    }


def assign(weights: Any, arrays: Mapping[str, Array]) -> None:
    """Give the weights these values (NumPy), by path."""
    for path, holder, name in leaves(weights, "weights"):
        holder[name] = holder.placement.from_host(arrays[path])


def save(
    path: str | os.PathLike[str],
    weights: Any,
    optimizer: Optimizer,
    progress: Progress,
    options: dict[str, Any],
) -> None:
    """Write everything that training needs to go on; a file that is there is replaced."""
    tensors = {f"weights.{k}": w for k, w in on_host(weights).items()}
    tensors |= {f"best.{k}": w for k, w in (progress.best or {}).items()}
    tensors |= {f"optimizer.{k}": a for k, a in optimizer.state.items()}
    info = {
        "kind": KIND,
        "options": options,
        "optimizer": {"class": type(optimizer).__name__, "steps": optimizer.steps},
        "lr": optimizer.lr,
        "history": asdict(progress.history),
        "progress": [progress.epoch, progress.step, progress.waited],
        "least": repr(progress.least),
    }
    files.write(path, tensors, info)


def load(
    path: str | os.PathLike[str], weights: Any, optimizer: Optimizer, options: dict[str, Any]
) -> Progress:
    """Take over what `save` has written.

    Raises
    ------
    FileNotFoundError, OSError
        If the file cannot be read.
    ValueError
        If it is no file of `xrnn.fit`, or one of another model, other options or another
        optimizer.
    """
    name = os.fsdecode(path)
    tensors, info = files.read(path)
    if info.get("kind") != KIND:
        raise ValueError(f"{name} is no checkpoint of xrnn.fit")
    try:
        return _taken(name, tensors, info, weights, optimizer, options)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: what it holds has not the form of a checkpoint") from error


def _taken(
    name: str,
    tensors: dict[str, Array],
    info: dict[str, Any],
    weights: Any,
    optimizer: Optimizer,
    options: dict[str, Any],
) -> Progress:
    history = History(**info["history"])
    theirs, mine = info["options"], dict(options)
    if mine["seed"] is None:
        mine["seed"] = theirs["seed"]
    if odd := [key for key in mine if theirs.get(key) != mine[key]]:
        key = odd[0]
        raise ValueError(
            f"{name} is the checkpoint of another run: {key} was {theirs.get(key)!r:.80} and is "
            f"{mine[key]!r:.80} now"
        )
    if info["optimizer"]["class"] != type(optimizer).__name__:
        raise ValueError(
            f"{name} was trained with {info['optimizer']['class']}; give such an optimizer"
        )
    groups: dict[str, dict[str, Array]] = {"weights": {}, "best": {}, "optimizer": {}}
    for key, array in tensors.items():
        group, _, path = key.partition(".")
        groups[group][path] = array
    places = {path: (holder, k) for path, holder, k in leaves(weights, "weights")}
    for path in groups["weights"].keys() ^ places.keys():
        raise ValueError(f"{name} is the checkpoint of another model: {path} is missing or unknown")
    for path, (holder, k) in places.items():
        found, here = groups["weights"][path], holder[k]
        if found.shape != tuple(here.shape) or dtype_name(found.dtype) != dtype_name(here.dtype):
            raise ValueError(
                f"{name} is the checkpoint of another model: {path} is {found.dtype} of shape "
                f"{found.shape} there, and {here.dtype} of shape {tuple(here.shape)} here"
            )
    epoch, step, waited = info["progress"]
    assign(weights, groups["weights"])
    backend = next(iter(places.values()))[0].placement.backend
    optimizer.state = {k: backend.from_host(a) for k, a in groups["optimizer"].items()}
    optimizer.steps, optimizer.lr = int(info["optimizer"]["steps"]), info["lr"]
    return Progress(
        history, int(epoch), int(step), int(waited), float(info["least"]), groups["best"] or None
    )
