"""The command line where standard output and standard error are something else than a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_runs import OPTIONS, half_a_run, train, write_text

from xrnn.charlm.run import FILES

POSIX = pytest.mark.skipif(os.name != "posix", reason="the shell and devices of POSIX")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    half_a_run(write_text(folder / "text.txt"), folder / "run")
    return folder / "run"


def shell(line: str, env: dict[str, str] | None = None, **values: object) -> Any:
    """Run a line of bash in which $xrnn is the command line, and $name each of the values."""
    command = f"{sys.executable} -m xrnn"
    names = {"xrnn": command, **{name: str(value) for name, value in values.items()}}
    # Without buffers nothing would be left to write at the end of the process.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**inherited, "OPENBLAS_NUM_THREADS": "1", **(env or {}), **names},
        capture_output=True,
        timeout=60,
    )


@POSIX
@pytest.mark.parametrize(
    "command",
    ["sample $run --length 20000 | head -c 5", "--help | true", "info | (exec <&-; sleep 3)"],
)
def test_a_reader_that_closes_the_pipe_ends_it_quietly(command: str, run: Path) -> None:
    done = shell(f"$xrnn {command}", run=run)
    assert done.returncode == 0
    assert done.stderr == b""


@POSIX
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sample $run >&-", "standard output is closed; give it a file, such as /dev/null"),
        ("sample $run > /dev/full", "No space left on device"),
        ("flow --steps 3 --hidden 2 --out $run/../f.png > /dev/full", "No space left on device"),
        ("--version > /dev/full", "No space left on device"),
    ],
)
def test_output_that_cannot_be_written_is_an_error(command: str, message: str, run: Path) -> None:
    if "/dev/full" in command and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = shell(f"$xrnn {command}", run=run)
    assert done.returncode == 2
    err = done.stderr.decode()
    assert message in err
    assert err.startswith("xrnn: error: ")
    assert err.count("\n") == 1


@POSIX
@pytest.mark.parametrize("target", ["2>&-", "2>/dev/full", "2>&1 >/dev/null | true"])
def test_training_goes_on_where_no_progress_can_be_shown(target: str, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt")
    options = f"{' '.join(OPTIONS)} --steps 30 --backend cpu"
    line = f"$xrnn train --text $text --out $run {options} >/dev/null {target}"
    if "/dev/full" in target and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    assert shell(line, text=text, run=tmp_path / "run").returncode == 0
    assert {p.name for p in (tmp_path / "run").iterdir()} == set(FILES)


@POSIX
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "gbk"])
def test_encodings_without_all_letters(encoding: str, run: Path) -> None:
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = shell("$xrnn sample $run --prime 'kü' --length 5", run=run, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kü".encode(encoding, "replace"))
    done = shell("$xrnn sample $run --prime 'küß'", run=run, env=env)
    assert done.returncode == 2
    assert "the model never saw 'ß'".encode(encoding, "replace") in done.stderr


def test_a_line_per_report_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(write_text(tmp_path / "text.txt"), tmp_path / "run", "--steps", 200)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 26  # the first step, and every eighth
    number = r"\d+\.\d{3}"
    form = rf"step 200 of 200: {number} bits/char, held out {number}, \d+k chars/s, 0 s left"
    assert re.fullmatch(form, lines[-1])
    assert lines[0].startswith("step 1 of 200: ")


@POSIX
def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    text = write_text(tmp_path / "text.txt")
    words = ["train", "--text", str(text), "--out", str(tmp_path / "run"), *OPTIONS]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    process = subprocess.Popen(
        [sys.executable, "-m", "xrnn", *words, "--steps", "30", "--backend", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while some := os.read(ours, 1 << 16):
            shown += some
    except OSError:  # the terminal has no other end any more
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    assert b"30/30 steps" in shown
    assert b"bits/char, held out" in shown
