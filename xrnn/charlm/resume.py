"""Resume a run, or load its model, from the folder that it was written to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from xrnn.backends import host
from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.corpus import Corpus, Text, read_text
from xrnn.charlm.model import CharModel
from xrnn.charlm.run import CHECKPOINT, FILES, MODEL, SEED, Run, absolute, held
from xrnn.convert import files
from xrnn.convert.parts import known_config
from xrnn.learn.optim import Adam
from xrnn.learn.parallel import ALONE, World
from xrnn.training import checkpoint as checkpoints
from xrnn.training.contents import OBJECT, STRING, ContentsError, Kind, check_values, refusal
from xrnn.training.history import History

#: what the model's file says besides the weights
ABOUT: dict[str, Kind] = {
    "vocabulary": (
        "a string of different characters in order",
        lambda v: isinstance(v, str) and v != "" and sorted(set(v)) == list(v),
    ),
    "charlm": OBJECT,
}
#: and what the checkpoint says besides the training
IN_METADATA = ABOUT | {
    "text": (
        "the path of a file or null",
        lambda v: v is None or (isinstance(v, str) and v != "" and "\0" not in v),
    ),
    "sha256": STRING,
}


@contextmanager
def resume(
    folder: Path, given: dict[str, Any], text: str | None, device: str, world: World = ALONE
) -> Iterator[Run]:
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
    world.from_root(lambda: _check_folder(folder))
    with held(folder, world):
        config, about = world.from_root(lambda: _begun(folder, given))
        corpus = Corpus(_same_text(read, about, folder), config.batch, config.length)
        config.check_memory(len(about["vocabulary"]))
        place = about["text"] if text is None else absolute(text)
        model = CharModel(about["vocabulary"], config, device)
        world.from_root(lambda: _check_begun(folder, model))
        yield Run(folder, model, corpus, place, world, begun=True)


def _check_folder(folder: Path) -> None:
    """Raise RefusedError unless it is a folder."""
    if not folder.is_dir():
        raise RefusedError(f"{folder} holds no {CHECKPOINT}; it is not a folder of a run")


def _begun(folder: Path, given: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The options of the run in a folder, with those that are asked for now, and what else its
    checkpoint says."""
    with _reading(folder, CHECKPOINT) as path:
        info = _checkpoint(path)
        about: dict[str, Any] = info["metadata"]
        config = Config.read(str(path), "metadata.charlm.", about["charlm"])
    return _asked(folder, config, given, info), about


def _checkpoint(path: Path) -> dict[str, Any]:
    """The JSON values of a checkpoint, after all checks."""
    _, info = files.read(path)
    if "charlm" in info:
        raise RefusedError(
            f"{path} is of xrnn 0.3 or before, whose training cannot be gone on with; xrnn sample "
            "writes with its model, and another --out begins anew"
        )
    _, info = checkpoints.read(path)
    check_values(str(path), "metadata.", info["metadata"], IN_METADATA)
    return info


def _check_begun(folder: Path, model: CharModel) -> None:
    """Raise RefusedError unless training can go on from the checkpoint in a folder."""
    with _reading(folder, CHECKPOINT) as path:
        _check_training(path, model)


def _check_training(path: Path, model: CharModel) -> None:
    """Raise ValueError unless training can go on from a checkpoint, by doing so in the model."""
    training = checkpoints.Training(
        model.net.weights, Adam(model.config.lr), History(0), checkpoints.Progress()
    )
    config, layer = model.config, model.net.parts["layer"]
    identity = {
        "seed": SEED,
        "batch_size": config.batch,
        "sequences": None,
        "validation": True,
        "lr": None,  # that of a schedule
        "model": known_config(model.net),
    }
    checkpoints.load(path, training, identity)
    wanted = (config.layers, config.batch, config.hidden)
    state = training.state
    if training.progress.batch and not (
        isinstance(state, dict)
        and [*state] == ["layer"]
        and isinstance(state["layer"], tuple)
        and [getattr(s, "shape", None) for s in state["layer"]] == [wanted] * len(layer.cell.states)
    ):
        raise refusal(
            str(path), f"the state of the layer must be of {', '.join(layer.cell.states)} {wanted}"
        )


def load_model(folder: Path, device: str) -> CharModel:
    """The model that a run left in its folder."""
    with _reading(folder, MODEL) as path:
        tensors, info = files.read(path)
        about = info.get("metadata")
        if "config" not in info or not isinstance(about, dict) or not set(ABOUT) & set(about):
            raise RefusedError(
                f"{path} holds no character model; give the folder of a training run"
            )
        check_values(str(path), "", about, ABOUT)
        config = Config.read(str(path), "charlm.", about["charlm"])
        config.check_memory(len(about["vocabulary"]))
        model = CharModel(about["vocabulary"], config, device)
        files.load(path, model.parts)
        for name, array in tensors.items():
            if not host.xp.isfinite(array).all():
                raise refusal(str(path), f"{name} holds NaN or infinity")
    return model


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[Path]:
    """The path of a file of a run; errors of what it holds are refusals."""
    try:
        yield folder / name
    except FileNotFoundError:
        raise RefusedError(f"{folder} holds no {name}; it is not a folder of a run") from None
    except RefusedError:
        raise
    except ContentsError as error:
        raise RefusedError(str(error).replace("use another file", "use another folder")) from None
    except (ValueError, TypeError) as error:
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
    step, steps = info["progress"]["step"], given.get("steps", config.steps)
    whole = all((folder / name).exists() for name in FILES)
    if step > steps or (step == steps and whole):
        raise RefusedError(f"{folder} has made all of its {step} steps; ask for more with --steps")
    return replace(config, steps=steps)


def _same_text(given: Text | None, about: Mapping[str, Any], folder: Path) -> Text:
    """The text of the run: that given, or the one that it was begun with."""
    path = about["text"]
    try:
        text = read_text(path) if given is None else given
    except RefusedError as error:
        raise RefusedError(
            f"{error} (from there {folder} was trained); give the text's new place with --text"
        ) from None
    if text.sha256 != about["sha256"] or text.vocabulary != about["vocabulary"]:
        if given is None and path is None:
            raise RefusedError(
                f"{folder} was trained on the language reference of another Python; resume it "
                "with that one"
            )
        raise RefusedError(f"{folder} was trained on another text; give that one with --text")
    return text
