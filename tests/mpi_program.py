"""What the tests of MPI run on each rank: ``mpiexec -n 2 python mpi_program.py WHAT FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from parallel_runs import CASES, rows, trained

import xrnn
from xrnn import losses

NAMES = ("one target", "each step", "carried state", "windows")


def trains(folder: Path) -> None:
    """Runs of the table, whose weights and histories rank 0 writes."""
    world = xrnn.learn.parallel.world()
    for name in NAMES:
        history, weights = trained(CASES[name], world)
        if world.rank == 0:
            np.savez(folder / f"{name}.npz", **weights)
            (folder / f"{name}.txt").write_text(repr(rows(history)), "utf-8")
    # An error that all ranks have is one that each can go on after.
    try:
        trained(CASES["one target"], world, clip=1.0 + world.rank)
    except ValueError as error:
        (folder / f"refused{world.rank}.txt").write_text(str(error), "utf-8")


def at_step(n: int, rank: int, do: Any) -> Any:
    """A loss that does something in one rank at the step of that number."""
    world, count = xrnn.learn.parallel.world(), [0]

    def loss(*given: Any) -> Any:
        count[0] += 1
        if count[0] == n and world.rank == rank:
            do()
        return losses.softmax_cross_entropy(*given)

    return loss


def disturbed(folder: Path, do: Any) -> None:
    """A run with a row and a checkpoint after every 2 steps, in whose sixth step something happens
    to rank 1 (it has gone through data of validation of which there are none)."""
    make, data, _, how = CASES["carried state"]
    case = make, data, at_step(6, 1, do), {"carry_state": how["carry_state"]}
    given: dict[str, Any] = {"checkpoint": folder / "run", "every": 2, "epochs": None, "steps": 9}
    history, _ = trained(case, xrnn.learn.parallel.world(), **given)
    print(history.stopped, history["step"])


def killed(folder: Path) -> None:
    disturbed(folder, lambda: os.kill(os.getpid(), signal.SIGKILL))


def fails(folder: Path) -> None:
    def fail() -> None:
        raise ArithmeticError("no more")

    disturbed(folder, fail)


def asked(folder: Path) -> None:
    """To end, with Ctrl-C at one rank."""
    disturbed(folder, lambda: os.kill(os.getpid(), signal.SIGINT))


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
