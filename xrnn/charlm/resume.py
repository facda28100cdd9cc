"""Resume a run, or load its model, from the folder that it was written to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.contents import (
    ABOUT,
    IN_CHECKPOINT,
    check_finite,
    check_history,
    check_tensors,
    check_values,
    read_config,
)
from xrnn.charlm.corpus import Corpus, Text, read_text
from xrnn.charlm.model import CharModel, Trainer
from xrnn.charlm.run import CHECKPOINT, FILES, MODEL, Row, Run, absolute, locked
from xrnn.convert import files
from xrnn.typing import Array


@contextmanager
def resume(folder: Path, given: dict[str, Any], text: str | None, device: str) -> Iterator[Run]:
    """The run in a folder, which it has for itself until the end of the block.

    `given` are the options that were given again; all but the number of steps must be unchanged.
    A run that has made all of its steps is resumed only if one of its files is missing, to write
    that.

    Raises
    ------
    RefusedError
        If an option or the text is not that of the run, the folder holds no run that can be
        resumed, or another process uses it.
    """
    Config(**given).check()
    read = None if text is None else read_text(text)
    if not folder.is_dir():
        raise RefusedError(f"{folder} holds no {CHECKPOINT}; it is not a folder of a run")
    with locked(folder):
        path = folder / CHECKPOINT
        tensors, info = _read(path)
        check_values(path, "", info, IN_CHECKPOINT)
        check_history(path, info["history"], info["step"])
        config = _asked(folder, read_config(path, info["charlm"]), given, info)
        corpus = Corpus(_same_text(read, info, folder), config.batch, config.length)
        config.check_memory(len(info["vocabulary"]))
        trainer = Trainer(CharModel(info["vocabulary"], config, device), corpus)
        check_tensors(path, tensors, trainer.shapes(info["step"]))
        trainer.restore(tensors, info["step"])
        run = Run(folder, trainer, info["text"] if text is None else absolute(text))
        run.history = [Row(**row) for row in info["history"]]
        run.seconds = info["seconds"]
        yield run


def load_model(folder: Path, device: str) -> CharModel:
    """The model that a run left in its folder."""
    path = folder / MODEL
    tensors, info = _read(path)
    about = info.get("metadata")
    if not isinstance(about, dict) or not set(ABOUT) & set(about):
        raise RefusedError(f"{path} holds no character model; give the folder of a training run")
    check_values(path, "", about, ABOUT)
    config = read_config(path, about["charlm"])
    config.check_memory(len(about["vocabulary"]))
    model = CharModel(about["vocabulary"], config, device)
    try:
        files.load(path, model.parts)
    except (ValueError, TypeError) as error:
        raise RefusedError(str(error)) from None
    check_finite(path, tensors)
    return model


def _read(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    try:
        return files.read(path)
    except FileNotFoundError:
        raise RefusedError(
            f"{path.parent} holds no {path.name}; it is not a folder of a run"
        ) from None
    except ValueError as error:
        raise RefusedError(str(error)) from None


def _asked(
    folder: Path, config: Config, given: Mapping[str, Any], info: Mapping[str, Any]
) -> Config:
    """The options of the run, with the number of steps that is asked for now."""
    for k, v in given.items():
        if k != "steps" and v != getattr(config, k):
            raise RefusedError(
                f"{folder} was trained with --{k} {getattr(config, k)}, not {v}; "
                "leave the option out, or start another run with another --out"
            )
    step, steps = info["step"], given.get("steps", config.steps)
    whole = not info["history"] or all((folder / name).exists() for name in FILES)
    if step > steps or (step == steps and whole):
        raise RefusedError(f"{folder} has made all of its {step} steps; ask for more with --steps")
    return replace(config, steps=steps)


def _same_text(given: Text | None, info: Mapping[str, Any], folder: Path) -> Text:
    """The text of the run: that given, or the one that it was begun with."""
    path = info["text"]
    try:
        text = read_text(path) if given is None else given
    except RefusedError as error:
        raise RefusedError(
            f"{error} (from there {folder} was trained); give the text's new place with --text"
        ) from None
    if text.sha256 != info["sha256"] or text.vocabulary != info["vocabulary"]:
        if given is None and path is None:
            raise RefusedError(
                f"{folder} was trained on the language reference of another Python; resume it "
                "with that one"
            )
        raise RefusedError(f"{folder} was trained on another text; give that one with --text")
    return text
