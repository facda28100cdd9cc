"""A training run and its folder: crashes, two processes, and signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import crashes
import numpy as np
import pytest
from training_runs import (
    OPTIONS,
    SIZES,
    at_each_step,
    contents,
    half_a_run,
    steps_made,
    tensors,
    train,
    write_text,
    xrnn,
)

from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.resume import resume
from xrnn.charlm.run import FILES, begin, locked
from xrnn.engine import atomic
from xrnn.training.signals import TERMINATIONS

STEPS = 20


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


def first_save(folder: Path, text: Path) -> None:
    with begin(folder, Config(**SIZES, steps=STEPS), str(text), "cpu") as run:
        run.train()


def later_save(folder: Path, text: Path) -> None:
    with resume(folder, {}, None, "cpu") as run:
        run.train()


@pytest.mark.parametrize("write", [first_save, later_save])
def test_a_crash_at_any_call_leaves_what_can_be_gone_on_with(
    write: Callable[[Path, Path], None],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors, Ctrl-C and SIGKILL at each system call of a save: begun or resumed, the end is that
    of a run without them, and nothing is left behind."""
    monkeypatch.setattr("xrnn.charlm.run.Run.chart", lambda *given: b"a chart")
    monkeypatch.setattr("xrnn.charlm.run.REPORTS", 1)
    half, whole, run = tmp_path / "half", tmp_path / "whole", tmp_path / "run"
    half_a_run(text, half, STEPS)
    first_save(whole, text)
    expected = tensors(whole)

    def prepare() -> None:
        shutil.rmtree(run, ignore_errors=True)
        if write is later_save:
            shutil.copytree(half, run)

    count = 0
    for fault in crashes.faults(prepare, lambda: write(run, text)):
        if fault.call == "lstat":  # on the folder's own file system it fails in no such way
            continue
        fault()
        count += 1
        if write is first_save and not any((run / name).exists() for name in FILES):
            first_save(run, text)
        elif not all((run / name).exists() for name in FILES):
            assert steps_made(run) in (17, STEPS), fault
            later_save(run, text)
        assert set(contents(run)) == set(FILES), fault
        found = tensors(run)
        assert set(found) == set(expected), fault
        for key, array in expected.items():
            np.testing.assert_array_equal(array, found[key], f"{key} after {fault}")
    assert count > 100


class TestLock:
    def test_a_second_process_is_refused(
        self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        for again in ([], ["--resume"]):
            with locked(run):
                before = contents(run)
                words = ["train", "--text", text, "--out", run, *OPTIONS, "--steps", 5, *again]
                assert xrnn(*words) == 2
                assert "another process trains in" in capsys.readouterr().err
                assert contents(run) == before
            half_a_run(text, run) if not again else None
        assert xrnn("train", "--resume", "--out", run, "--steps", 18) == 0

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_the_lock_ends_with_its_process(self, text: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        code = (
            "import sys; from pathlib import Path; from xrnn.charlm.run import locked\n"
            "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(RefusedError, match="another process trains in"), locked(run):
                pass
            process.kill()
        assert train(text, run, "--steps", 2) == 0
        assert set(contents(run)) == set(FILES)

    def test_a_folder_that_stays_empty_is_removed(self, tmp_path: Path) -> None:
        with pytest.raises(RefusedError), locked(tmp_path / "run"):
            raise RefusedError
        assert not (tmp_path / "run").exists()
        with pytest.raises(RefusedError), locked(tmp_path / "several" / "folders" / "run"):
            raise RefusedError
        assert not (tmp_path / "several").exists()
        (tmp_path / "mine").mkdir()
        with pytest.raises(RefusedError), locked(tmp_path / "mine"):
            raise RefusedError
        assert (tmp_path / "mine").exists()

    @pytest.mark.skipif(os.name == "nt", reason="there the lock is a file, which keeps the folder")
    def test_two_that_begin_at_the_same_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No process trains in a folder that another one removes."""
        run, lock = tmp_path / "run", atomic.lock

        def late(descriptor: int) -> bool:
            run.rmdir()
            return lock(descriptor)

        with monkeypatch.context() as other:
            other.setattr(atomic, "lock", late)
            with pytest.raises(RefusedError, match="another process trains in"), locked(run):
                pytest.fail("it has the lock of a folder that is no longer there")

        def busy(descriptor: int) -> bool:
            raise BlockingIOError

        monkeypatch.setattr(atomic, "lock", busy)
        with pytest.raises(RefusedError, match="another process trains in"), locked(run):
            pass
        assert run.exists(), "the other process trains there"


@pytest.fixture
def interrupted() -> Iterator[Callable[..., None]]:
    """Raise signals while each step is made."""
    numbers: list[int] = []
    handled = (signal.SIGINT, *TERMINATIONS)
    before = [signal.getsignal(number) for number in handled]

    def disturb(step: int) -> None:
        for number in numbers:
            signal.raise_signal(number)

    with at_each_step(disturb):
        yield lambda *given: numbers.extend(given)
    assert [signal.getsignal(number) for number in handled] == before


@pytest.mark.usefixtures("heard")
class TestSignals:
    @pytest.mark.parametrize("number", TERMINATIONS)
    def test_the_run_is_saved(
        self,
        number: int,
        text: Path,
        tmp_path: Path,
        interrupted: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        run = tmp_path / "run"
        interrupted(number, *TERMINATIONS)
        assert train(text, run, "--steps", 90) == 128 + number
        assert f"stopped; go on with: xrnn train --resume --out {run}" in capsys.readouterr().out
        assert steps_made(run) == 1
        assert set(contents(run)) == set(FILES)

    @pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
    def test_what_nohup_ignores_stays_ignored(
        self, text: Path, tmp_path: Path, interrupted: Callable[..., None]
    ) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            interrupted(signal.SIGHUP)
            assert train(text, tmp_path / "run", "--steps", 3) == 0
            assert steps_made(tmp_path / "run") == 3
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_saved_before_the_held_out_text_is_read(
        self,
        text: Path,
        tmp_path: Path,
        interrupted: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It may take longer than the time that is given before the process is killed."""
        run, saved = tmp_path / "run", []

        def measured(loop: Any) -> dict[str, float]:
            saved.append(steps_made(run))
            return {"validation": 1.0}

        monkeypatch.setattr("xrnn.training.loop.Loop._measured", measured)
        interrupted(signal.SIGTERM)
        train(text, run, "--steps", 90)
        assert saved == [1]

    def test_a_second_ctrl_c_while_saving_tears_nothing(
        self,
        text: Path,
        tmp_path: Path,
        interrupted: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run = tmp_path / "run"
        half_a_run(text, run)
        interrupted(signal.SIGINT)
        original = os.fsync

        def disturbed(descriptor: int) -> None:
            signal.raise_signal(signal.SIGINT)
            original(descriptor)

        monkeypatch.setattr(os, "fsync", disturbed)
        assert xrnn("train", "--resume", "--out", run) == 130
        monkeypatch.undo()
        assert steps_made(run) == 17
        assert xrnn("train", "--resume", "--out", run, "--steps", 19) == 0
        assert set(contents(run)) == set(FILES)
