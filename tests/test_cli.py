"""The main job: train, go on exactly, sample, certify, info; and every refusal."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xrnn import _cli as cli
from xrnn.cells import BY_NAME
from xrnn.certify import report
from xrnn.charlm import model as charlm
from xrnn.charlm import training
from xrnn.convert import files

SMALL = ["--hidden", "12", "--embedding", "6", "--batch", "4", "--length", "8"]
FILES = set(training.FILES)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A small text: words of a few letters, ünïcode among them."""
    words = random.Random(0)
    path = tmp_path / "text.txt"
    path.write_text(" ".join(words.choice(["tick", "tock", "küche"]) for _ in range(400)))
    return path


def xrnn(*words: object) -> int:
    return cli.main([str(word) for word in words])


def train(text: Path, out: Path, *more: object) -> int:
    return xrnn("train", "--text", text, "--out", out, "--backend", "cpu", *SMALL, *more)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a refusal prints."""
    assert xrnn(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("xrnn: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("xrnn: error: ").strip()


def arrays(folder: Path) -> dict[str, Any]:
    return files.read(folder / "checkpoint.safetensors")[0]


def history(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


def test_train_learns_and_writes_everything(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(text, run, "--steps", 150, "--lr", 0.02) == 0
    out, err = capsys.readouterr()
    assert {p.name for p in run.iterdir()} == FILES
    assert "150 of 150 steps" in out
    assert "a sample" in out
    for word in ("bits/char", "chars/s", "left"):
        assert word in err
    rows = history(run)
    assert [int(row["step"]) for row in rows] == list(range(6, 151, 6))
    assert int(rows[-1]["characters"]) == 150 * 32
    first, last = (float(rows[k]["held_out_bits"]) for k in (0, -1))
    assert last < 1.2 < 2.5 < first < math.log2(16)
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("cell", ["gru", "gru-before", "rnn-relu", "input-gated", "mingru"])
def test_train_any_cell(cell: str, text: Path, tmp_path: Path) -> None:
    assert train(text, tmp_path / "run", "--cell", cell, "--steps", 3, "--layers", 2) == 0


def test_resume_continues_exactly(text: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(text, whole, "--steps", 40)
    trainer = training.begin(parts, charlm.Config(**_small(steps=40)), str(text), "cpu")
    for _ in range(17):
        trainer.trainer.advance()
    trainer.save()
    assert xrnn("train", "--resume", "--out", parts) == 0
    one, other = arrays(whole), arrays(parts)
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], name)


def _small(**more: Any) -> dict[str, Any]:
    return {"hidden": 12, "embedding": 6, "batch": 4, "length": 8} | more


def test_resume_with_more_steps(text: Path, tmp_path: Path) -> None:
    train(text, tmp_path / "run", "--steps", 10)
    assert xrnn("train", "--resume", "--out", tmp_path / "run", "--steps", 14) == 0
    assert files.read(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == 14
    rows = history(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == list(range(1, 15))


def test_ctrl_c_saves_and_says_how_to_go_on(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "xrnn", "train", "--text", str(text), "--out", str(run)]
    process = subprocess.Popen(
        [*command, *SMALL, "--steps", "1000000", "--backend", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    while "bits/char" not in process.stderr.read(200):
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"stopped; go on with: xrnn train --resume --out {run}" in out
    assert {p.name for p in run.iterdir()} == FILES
    assert files.read(run / "checkpoint.safetensors")[1]["step"] > 0


def test_ctrl_c_before_the_first_step_still_saves_one(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = charlm.Trainer.advance

    def interrupted(trainer: charlm.Trainer) -> float:
        signal.raise_signal(signal.SIGINT)
        return advance(trainer)

    monkeypatch.setattr(charlm.Trainer, "advance", interrupted)
    assert train(text, tmp_path / "run", "--steps", 90) == 0
    assert files.read(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == 1
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES


def test_sample(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(text, run, "--steps", 150, "--lr", 0.02)
    capsys.readouterr()
    outs = []
    for seed in (1, 1, 2):
        assert xrnn("sample", run, "--prime", "küc", "--length", 60, "--seed", seed) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] != outs[2]
    assert outs[0].startswith("küche")
    assert len(outs[0]) == 3 + 60 + 1
    assert xrnn("sample", run, "--temperature", 0, "--length", 0, "--prime", "tick") == 0
    assert capsys.readouterr().out == "tick\n"


class TestRefusals:
    def test_texts(self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run, empty, binary = tmp_path / "run", tmp_path / "empty", tmp_path / "binary"
        empty.write_text("")
        binary.write_bytes(b"abc\xff\xfe")
        call = ("train", "--out", run, "--text")
        assert refused(capsys, *call, tmp_path / "no").endswith("no: No such file or directory")
        assert "empty is empty; give a text" in refused(capsys, *call, empty)
        assert "binary is not UTF-8 text" in refused(capsys, *call, binary)
        message = refused(capsys, *call, text, "--batch", 64)
        assert "one window takes batch × (length + 1) = 64 × 65 = 4160" in message
        assert not run.exists()

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            (
                "--cell",
                "transformer",
                f"unknown cell 'transformer'; it must be one of {', '.join(BY_NAME)}",
            ),
            ("--hidden", 0, "--hidden is 0; it must be at least 1"),
            ("--steps", -1, "--steps is -1; it must be at least 1"),
            ("--lr", "nan", "--lr is nan; it must be a number above 0"),
            ("--backend", "abacus", "backend 'abacus': abacus is not installed"),
            ("--backend", "json", "backend 'json' is unknown; it must be one of cpu, cuda"),
        ],
    )
    def test_options(
        self,
        option: str,
        value: object,
        message: str,
        text: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        words = ("train", "--text", text, "--out", tmp_path / "run", option, value)
        assert refused(capsys, *words).startswith(message)
        assert not (tmp_path / "run").exists()

    def test_folders(self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = tmp_path / "run"
        train(text, run, "--steps", 2)
        capsys.readouterr()
        before = {p.name: p.read_bytes() for p in run.iterdir()}
        call = ("train", "--text", text, "--out", run)
        assert "already holds model.safetensors; go on with" in refused(capsys, *call)
        assert "is a file; --out must be a folder" in refused(capsys, *call[:-1], text)
        message = refused(capsys, *call, "--resume", "--cell", "gru")
        assert "was trained with --cell lstm, not gru" in message
        assert "has made all of its 2 steps" in refused(capsys, *call, "--resume")
        other = tmp_path / "other.txt"
        other.write_text(text.read_text()[::-1])
        message = refused(capsys, *call[:2], other, "--resume", "--out", run, "--steps", 9)
        assert "was trained on another text" in message
        nothing = tmp_path / "nothing"
        assert "holds no checkpoint.safetensors" in refused(
            capsys, "train", "--resume", "--out", nothing
        )
        assert "holds no model.safetensors" in refused(capsys, "sample", nothing)
        assert {p.name: p.read_bytes() for p in run.iterdir()} == before

    def test_a_file_of_somebody_else(
        self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "loss.png").write_text("mine")
        message = refused(capsys, "train", "--text", text, "--out", tmp_path)
        assert "already holds loss.png" in message
        assert (tmp_path / "loss.png").read_text() == "mine"
        message = refused(capsys, "train", *SMALL, "--text", text, "--out", text / "below")
        assert "Not a directory" in message

    def test_samples(self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = tmp_path / "run"
        train(text, run, "--steps", 2)
        capsys.readouterr()
        assert "the model never saw 'xz'" in refused(capsys, "sample", run, "--prime", "zx")
        assert "--temperature is -1.0" in refused(capsys, "sample", run, "--temperature", -1)
        assert "--length is -1" in refused(capsys, "sample", run, "--length", -1)
        (run / "model.safetensors").write_bytes(b"junk")
        assert "is no safetensors file" in refused(capsys, "sample", run)

    def test_a_diverging_run(
        self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        trainer = training.begin(tmp_path / "run", charlm.Config(**_small()), str(text), "cpu")
        trainer.trainer.model.readout.weights["b"][:] = np.nan
        with pytest.raises(charlm.RefusedError, match="diverged at step 0; choose a smaller --lr"):
            trainer.trainer.advance()

    def test_bad_usage_has_the_same_status(self) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", "--steps", "many"])
        assert caught.value.code == 2


def test_certify(capsys: pytest.CaptureFixture[str]) -> None:
    assert xrnn("certify", "--backend", "cpu", "--dtype", "float64") == 0
    table = capsys.readouterr().out
    assert "0 failed" in table.splitlines()[-1]
    assert "float64" in table
    assert xrnn("certify", "--backend", "cpu", "--json") == 0
    verdicts = json.loads(capsys.readouterr().out)
    assert {v["law"] for v in verdicts} == {
        "derivative",
        "batch",
        "cut",
        "oracle",
        "contract",
        "twin",
        "look",
    }
    assert all(v["passed"] and v["error"] <= v["bound"] for v in verdicts)


def test_certify_fails_with_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(report.BOUNDS, "float32", 1e-12)
    assert xrnn("certify", "--backend", "cpu") == 1
    assert "FAIL" in capsys.readouterr().out
    assert xrnn("certify", "--backend", "cpu", "--json") == 1


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert xrnn("info") == 0
    out = capsys.readouterr().out
    assert out.startswith("xrnn ")
    assert "cpu: numpy " in out
    assert "cuda" in out
    assert "lstm" in out


def test_the_text_of_python_itself() -> None:
    text = charlm.read_text(None)
    assert len(text) > 300_000
    assert "with" in text


def test_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "flow.png"
    cells = ["rnn", "lstm", "mingru"]
    assert xrnn("flow", "--cells", ",".join(cells), "--steps", 60, "--hidden", 8, "--out", out) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == cells
    vanishing, lstm = float(lines[1].split()[1]), lines[2].split()
    assert vanishing < 1e-6
    assert float(lstm[1]) < 1e-2 < float(lstm[2]), "the gate held open lets it through"
    assert lines[1].split()[2] == "–"
    assert all(float(line.split()[-1]) < 0 for line in lines[1:4])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cells", "rnn,lstn"], f"--cells has 'lstn'; it must be of {', '.join(BY_NAME)}"),
        (["--steps", 0], "--steps is 0; it must be at least 1"),
        (["--hidden", -1], "--hidden is -1; it must be at least 1"),
    ],
)
def test_flow_refuses(
    words: list[object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "flow", "--out", tmp_path / "f.png", *words).startswith(message)
    assert not list(tmp_path.iterdir())


def test_flow_into_a_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["flow", "--cells", "rnn", "--steps", 3, "--hidden", 2]
    assert xrnn(*words, "--out", tmp_path / "no" / "f.png") == 2
    assert "No such file" in capsys.readouterr().err
