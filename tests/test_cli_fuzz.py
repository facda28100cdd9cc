"""Random command lines: each is served, or refused with status 2 and one sentence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from training_runs import OPTIONS, half_a_run, write_text, xrnn

INTEGERS = ["0", "-1", "1", "3", "10000000000", "1" * 50, "1e3", "x", "", "nan", "٣", "1_0", "0x10"]
NUMBERS = ["0", "-1", "nan", "inf", "-inf", "1e-320", "1e39", "1e400", "0.7", "", "x"]
PATHS = ["text.txt", "empty", "bin", "dir", "half", "loop", "dangling", "/", "", "a\0b"]
PATHS += ["x" * 300, "new", "new/deep", "text.txt/below", "\udcff", "half/model.safetensors", " "]
BACKENDS = ["cpu", "auto", "numpy", "", "json", "os.path", "a b", "x.y", "array_api_strict", "\0"]

SMALL = ["--text", "text.txt", "--steps", "2", "--backend", "cpu", *OPTIONS]

#: command → words that come first, and values of its options
COMMANDS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "train": (
        SMALL,
        {
            "--text": PATHS,
            "--cell": ["gru", "", "LSTM", "x"],
            **dict.fromkeys(["--hidden", "--layers", "--embedding", "--batch"], INTEGERS),
            **dict.fromkeys(["--length", "--seed"], INTEGERS),
            "--steps": ["1", "0", "-1", "x", "9" * 30],
            "--lr": NUMBERS,
            "--backend": BACKENDS,
            "--out": PATHS,
            "--resume": [],
        },
    ),
    "sample": (
        ["half"],
        {
            "--prime": ["", "tick", "zz", "\udcff", "\0", "é"],
            "--length": ["0", "1", "5", "-1", "x"],
            "--temperature": NUMBERS,
            "--seed": INTEGERS,
            "--backend": BACKENDS,
        },
    ),
    "flow": (
        ["--steps", "4", "--hidden", "3", "--cells", "rnn"],
        {
            "--cells": ["lstm,gru", "", "rnn,", "x", ",", "rnn,rnn"],
            "--steps": ["1", "2", "0", "-1", "x", "99999999999"],
            "--hidden": ["1", "2", "0", "x", "99999999999"],
            "--seed": INTEGERS,
            "--out": PATHS,
        },
    ),
    "nothing": ([], {}),
}


def command(draw: random.Random, n: int) -> list[str]:
    """A command with up to three options that may be wrong, each after the right one."""
    name = draw.choice(list(COMMANDS))
    first, options = COMMANDS[name]
    words = [name, *first, *(["--out", f"run-{n}"] if name in ("train", "flow") else [])]
    for option in draw.sample(list(options), min(len(options), draw.randrange(2))):
        words += [option, draw.choice(options[option])] if options[option] else [option]
    return words


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(2))
def test_random_commands(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    half_a_run(write_text(Path("text.txt")), Path("half"))
    Path("empty").touch()
    Path("bin").write_bytes(b"\xff\xfe")
    Path("dir").mkdir()
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere/file")
    draw, found = random.Random(seed), []
    for n in range(30):
        words = command(draw, n)
        try:
            status = xrnn(*words)
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        assert status in (0, 2), words
        if status == 2:
            # The table of flow is not lost where the picture cannot be written.
            assert out == "" or words[0] == "flow", words
            assert err.splitlines()[-1].startswith("xrnn: error: "), (words, err)
            assert err.count("xrnn: error: ") == 1, (words, err)
        found.append(status)
    assert {0, 2} <= set(found)
