"""The main job: train, go on exactly, sample, certify, info; and every refusal."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training_runs import OPTIONS, SIZES, at_each_step, steps_made, train, write_text, xrnn

from xrnn import _cli as cli
from xrnn.cells import BY_NAME
from xrnn.certify import report
from xrnn.charlm.config import Config, RefusedError
from xrnn.charlm.corpus import read_text
from xrnn.charlm.run import FILES, begin


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a refusal prints."""
    assert xrnn(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("xrnn: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("xrnn: error: ").strip()


def history(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "history.csv").read_text("utf-8").splitlines()))


def test_train_learns_and_writes_everything(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(text, run, "--steps", 150, "--lr", 0.02) == 0
    out, err = capsys.readouterr()
    assert {p.name for p in run.iterdir()} == set(FILES)
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


@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_train_on_any_library(library: str, text: Path, tmp_path: Path) -> None:
    """And go on with it on another."""
    pytest.importorskip(library)
    run = tmp_path / "run"
    assert train(text, run, "--steps", 2, "--backend", library) == 0
    assert xrnn("train", "--resume", "--out", run, "--steps", 3, "--backend", "cpu") == 0
    assert xrnn("train", "--resume", "--out", run, "--steps", 4, "--backend", library) == 0
    assert xrnn("sample", run, "--length", 5, "--backend", library) == 0


def test_a_library_that_does_not_multiply_so_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("array_api_strict")
    strict, run = ("--backend", "array_api_strict"), tmp_path / "run"
    words = "--precision is bf16, and arrays of array_api_strict are multiplied by their own alone"
    bf16 = ("--precision", "bf16", "--steps", 2)
    asked = ("train", "--text", text, "--out", run, *OPTIONS, *bf16, *strict)
    assert words in refused(capsys, *asked)
    assert not run.exists()
    assert train(text, run, *bf16) == 0
    capsys.readouterr()
    assert words in refused(capsys, "train", "--resume", "--out", run, "--steps", 3, *strict)
    assert words in refused(capsys, "sample", run, *strict)


def test_ctrl_c_saves_and_says_how_to_go_on(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "xrnn", "train", "--text", str(text), "--out", str(run)]
    process = subprocess.Popen(
        [*command, *OPTIONS, "--steps", "1000000", "--backend", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    assert "bits/char" in process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"stopped; go on with: xrnn train --resume --out {run}" in out
    assert {p.name for p in run.iterdir()} == set(FILES)
    assert steps_made(run) > 0


def test_ctrl_c_before_the_first_step_still_saves_one(text: Path, tmp_path: Path) -> None:
    with at_each_step(lambda step: signal.raise_signal(signal.SIGINT)):
        assert train(text, tmp_path / "run", "--steps", 90) == 0
    assert steps_made(tmp_path / "run") == 1
    assert {p.name for p in (tmp_path / "run").iterdir()} == set(FILES)


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
    with pytest.raises(SystemExit):
        xrnn("sample", "--help")
    assert "after TEXT; 0: TEXT alone" in " ".join(capsys.readouterr().out.split())


class TestRefusals:
    def test_texts(self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run, empty, binary = tmp_path / "run", tmp_path / "empty", tmp_path / "binary"
        empty.write_text("")
        binary.write_bytes(b"abc\xff\xfe")
        call = ("train", "--out", run, "--text")
        assert refused(capsys, *call, tmp_path / "no").endswith("no: No such file or directory")
        assert "empty is empty; give a text" in refused(capsys, *call, empty)
        assert "binary is not UTF-8 text" in refused(capsys, *call, binary)
        if os.path.exists("/dev/zero"):
            assert "/dev/zero is a device" in refused(capsys, *call, "/dev/zero")
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
            ("--precision", "fp8", "--precision is 'fp8'; it must be one of ieee, tf32, bf16"),
            ("--hidden", 0, "--hidden is 0; it must be at least 1"),
            ("--steps", -1, "--steps is -1; it must be at least 1"),
            ("--lr", "nan", "--lr is nan; it must be a number above 0"),
            ("--seed", -1, "--seed is -1; it must be at least 0"),
            ("--steps", 2**63, f"--steps is {2**63}; it must be at most {2**63 - 1}"),
            ("--backend", "abacus", "backend 'abacus': abacus is not installed"),
            ("--backend", "json", "backend 'json' is unknown; it must be \"cpu\""),
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
        other.write_text(text.read_text("utf-8")[::-1], "utf-8")
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
        assert (tmp_path / "loss.png").read_text("utf-8") == "mine"
        message = refused(capsys, "train", *OPTIONS, "--text", text, "--out", text / "below")
        assert "Not a directory" in message

    def test_samples(self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = tmp_path / "run"
        train(text, run, "--steps", 2)
        capsys.readouterr()
        assert "the model never saw 'xz'" in refused(capsys, "sample", run, "--prime", "zx")
        assert "--temperature is -1.0" in refused(capsys, "sample", run, "--temperature", -1)
        assert "--length is -1" in refused(capsys, "sample", run, "--length", -1)
        assert "--temperature is nan" in refused(capsys, "sample", run, "--temperature", "nan")
        assert "--seed is -1" in refused(capsys, "sample", run, "--seed", -1)
        (run / "model.safetensors").write_bytes(b"junk")
        assert "is no safetensors file" in refused(capsys, "sample", run)

    def test_a_diverging_run(
        self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with begin(tmp_path / "run", Config(**SIZES), str(text), "cpu") as begun:
            begun.model.net.weights["readout"]["b"][:] = np.nan
            message = "diverged at step 0; choose a smaller --lr"
            with pytest.raises(RefusedError, match=message):
                begun.train()
        assert not (tmp_path / "run").exists()

    @pytest.mark.filterwarnings("error")
    def test_a_run_that_diverges_at_its_last_step(
        self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Weights that are not finite are not saved."""
        assert train(text, tmp_path / "run", "--steps", 1, "--lr", 1e39) == 2
        message = "xrnn: error: training diverged at step 1; choose a smaller --lr\n"
        assert capsys.readouterr().err == message
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["train", "--steps", "many"], "argument --steps: 'many' must be an integer"),
            (["train", "--lr", "x"], "argument --lr: 'x' must be a number"),
            (["train", "--out", ""], "argument --out: it is empty; it must be a name"),
            (["train", "--text", "a\0"], "argument --text: 'a\\x00' must not contain \\0"),
            (["sample", "\ud800"], "argument DIR: '\\ud800' must be a name in "),
            (["sing"], "argument COMMAND: invalid choice: 'sing'"),
            ([], "the following arguments are required: COMMAND"),
        ],
    )
    def test_bad_usage_has_the_same_status(
        self, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith(f"xrnn: error: {message}")

    @pytest.mark.parametrize("name", ["hidden", "layers", "embedding", "batch", "length"])
    def test_memory_that_no_machine_has(
        self, name: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("train", "--text", text, "--out", tmp_path / "run", f"--{name}", 10**11)
        assert "this takes at least" in refused(capsys, *words)
        assert not (tmp_path / "run").exists()

    def test_memory_that_is_not_there_now(
        self,
        text: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def full(step: int) -> None:
            raise MemoryError("Unable to allocate 3 GiB")

        with at_each_step(full):
            assert train(text, tmp_path / "run") == 2
        assert "out of memory (Unable to allocate 3 GiB)" in capsys.readouterr().err


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
        "checkpoint",
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
    assert out.splitlines()[-1].startswith("cells with options: path(")


def test_the_text_of_python_itself() -> None:
    text = read_text(None)
    assert len(text.tokens) > 300_000
    words = "".join(text.vocabulary[token] for token in text.tokens[:10_000])
    assert "with" in words


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
        (["--seed", -1], "--seed is -1; it must be at least 0"),
        (["--hidden", 10**11], "this takes at least"),
        (["--steps", 10**11], "this takes at least"),
        (["--out", "/"], "--out is /, a folder or a device; give the name of a file"),
    ],
)
def test_flow_refuses(
    words: list[object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "flow", "--out", tmp_path / "f.png", *words).startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_flow_into_a_pipe_or_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as /dev/null, which root could replace by a picture."""
    os.mkfifo(tmp_path / "pipe")
    message = refused(capsys, "flow", "--out", tmp_path / "pipe")
    assert "a folder or a device; give the name of a file" in message
    assert (tmp_path / "pipe").is_fifo()


def test_flow_into_a_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["flow", "--cells", "rnn", "--steps", 3, "--hidden", 2]
    assert xrnn(*words, "--out", tmp_path / "no" / "f.png") == 2
    assert "No such file" in capsys.readouterr().err
