"""`xrnn train`: begin or resume a run, train, and say what came of it, in one process or more."""

from __future__ import annotations

import shlex
from pathlib import Path
from signal import SIGINT
from typing import Any

from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.resume import resume
from xrnn.charlm.run import FILES, Run, begin
from xrnn.learn import parallel
from xrnn.learn.parallel import ALONE, World
from xrnn.training.history import History


def ranks() -> World:
    """The processes that a launcher of MPI has started to train together; this one alone without
    a launcher.

    Raises
    ------
    ImportError
        If there is a launcher and mpi4py is not installed.
    RefusedError
        If mpi4py does not find the other processes.
    """
    if not parallel.launched():
        return ALONE
    try:
        return parallel.world()
    except RuntimeError as error:
        raise RefusedError(str(error)) from None


def train(
    folder: Path, given: dict[str, Any], text: str | None, device: str, go_on: bool, world: World
) -> int:
    """Run the command; return its exit status.

    Parameters
    ----------
    folder, text, device
        As for `begin`.
    given : dict
        The options of `Config` that were given.
    go_on : bool
        Whether to resume the run in the folder.
    world : World
        The processes that train together, each of which calls this function.
    """
    Config(**given).check()
    if device == "cuda" and world.size > 1:
        device = f"cuda:{world.local_rank}"
    if go_on:
        started = resume(folder, given, text, device, world)
    else:
        started = begin(folder, Config(**given), text, device, world)
    with started as run:
        history, stopped_by = run.train()
        if world.rank == 0:
            _report(run, history, stopped_by)
    if stopped_by is None:
        return 0
    return 0 if stopped_by == SIGINT else 128 + stopped_by


def _report(run: Run, history: History, stopped_by: int | None) -> None:
    """Print what came of a run, and a sample if it is complete."""
    row, steps, folder = history.rows[-1], run.model.config.steps, run.folder
    print(
        f"{row['step']} of {steps} steps in {sum(history['seconds']):.0f} s: "
        f"{row['loss']:.3f} bits per character in training, {row['validation']:.3f} held out"
    )
    print(f"written to {folder}: {', '.join(FILES)}")
    if stopped_by is not None:
        print(f"stopped; go on with: xrnn train --resume --out {shlex.quote(str(folder))}")
        return
    print(f"a sample (more: xrnn sample {folder}):\n")
    print("".join(run.model.sample("", 300, temperature=0.7)))
