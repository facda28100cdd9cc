"""`xrnn train --resume`: exactly as if it had never stopped, or refused and nothing changed."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from malformed_runs import MALFORMED, Change
from training_runs import contents, half_a_run, steps_made, tensors, train, write_text, xrnn

from xrnn.charlm.resume import load_model
from xrnn.charlm.run import CHART, CHECKPOINT, FILES, MODEL
from xrnn.convert import files


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text.txt and half a run in run/, which no test changes."""
    folder = tmp_path_factory.mktemp("halves")
    half_a_run(write_text(folder / "text.txt"), folder / "run")
    return folder


@pytest.fixture
def run(halves: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(halves / "run", tmp_path / "run"))


def refused(capsys: pytest.CaptureFixture[str], run: Path, *words: object) -> str:
    """The sentence with which a folder is refused; it is left as it was."""
    before = contents(run)
    assert xrnn("train", "--resume", "--out", run, "--backend", "cpu", *words) == 2
    out, err = capsys.readouterr()
    assert contents(run) == before
    assert out == ""
    assert err.startswith("xrnn: error: ")
    assert err.count("\n") == 1
    return err


def test_resume_continues_exactly(halves: Path, run: Path, tmp_path: Path) -> None:
    assert train(halves / "text.txt", tmp_path / "whole", "--steps", 40) == 0
    assert xrnn("train", "--resume", "--out", run) == 0
    one, other = tensors(tmp_path / "whole"), tensors(run)
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], name)


def test_resume_with_more_steps(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(write_text(tmp_path / "text.txt"), run, "--steps", 10)
    assert xrnn("train", "--resume", "--out", run, "--steps", 14) == 0
    assert steps_made(run) == 14
    rows = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, 15))


def test_a_run_begun_before_there_were_precisions(run: Path) -> None:
    arrays, info = files.read(run / CHECKPOINT)
    assert info["metadata"]["charlm"].pop("precision") == "ieee"
    files.write(run / CHECKPOINT, arrays, info)
    assert xrnn("train", "--resume", "--out", run) == 0


def test_the_precision_is_that_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    text = write_text(tmp_path / "text.txt")
    assert train(text, run, "--steps", 2, "--precision", "bf16") == 0
    capsys.readouterr()
    words = refused(capsys, run, "--precision", "ieee", "--steps", 4)
    assert "was trained with --precision bf16, not ieee" in words
    assert xrnn("train", "--resume", "--out", run, "--steps", 4) == 0
    assert load_model(run, "cpu").net.parts["layer"].precision == "bf16"


def about(folder: Path) -> dict[str, Any]:
    """What the checkpoint says besides the training."""
    found: dict[str, Any] = files.read(folder / CHECKPOINT)[1]["metadata"]
    return found


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_checkpoint_is_refused(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = MALFORMED[name]
    arrays, info = files.read(run / CHECKPOINT)
    arrays = {key: array.copy() for key, array in arrays.items()}
    change(arrays, info)
    files.write(run / CHECKPOINT, arrays, info)
    assert words in refused(capsys, run)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no safetensors file"),
        (b"\0" * 100, "is no safetensors file"),
        (b"\x10" + b"\0" * 7 + b"[" * 16, "is no safetensors file"),
    ],
    ids=["empty", "zeros", "a header that is no JSON"],
)
def test_a_file_that_is_none_is_refused(
    content: bytes, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (CHECKPOINT, MODEL):
        (run / name).write_bytes(content)
    assert words in refused(capsys, run)
    assert xrnn("sample", run) == 2
    assert words in capsys.readouterr().err


def test_a_file_cut_short_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (run / CHECKPOINT).read_bytes()
    (run / CHECKPOINT).write_bytes(whole[:-1])
    assert "cut short" in refused(capsys, run)


def test_model_and_checkpoint_swapped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / MODEL).rename(run / "other")
    (run / CHECKPOINT).rename(run / MODEL)
    (run / "other").rename(run / CHECKPOINT)
    assert "checkpoint.safetensors is no checkpoint of xrnn.fit" in refused(capsys, run)
    assert xrnn("sample", run) == 2
    assert "model.safetensors holds no character model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, m: t["readout.b"].fill(np.nan), "readout.b holds NaN or infinity"),
        (lambda t, m: t.pop("readout.b"), "readout.b"),
        (lambda t, m: m["charlm"].update(hidden=13), "holds another configuration"),
        (lambda t, m: m["charlm"].update(hidden=None), "charlm.hidden is None"),
        (lambda t, m: m.update(vocabulary=3), "vocabulary is 3"),
        (lambda t, m: m.update(vocabulary=m["vocabulary"][1:]), "holds another configuration"),
        (lambda t, m: m.update(of_a_newer_version=1), "of_a_newer_version is unknown"),
        (lambda t, m: m.pop("charlm"), "charlm is missing"),
        (lambda t, m: m.clear(), "holds no character model"),
    ],
)
def test_a_malformed_model_is_refused(
    change: Change, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, info = files.read(run / MODEL)
    arrays = {key: array.copy() for key, array in arrays.items()}
    change(arrays, info["metadata"])
    files.write(run / MODEL, arrays, info)
    assert xrnn("sample", run) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


class TestTexts:
    def test_a_relative_path_is_found_from_another_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_text(tmp_path / "text.txt")
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path)
        assert train(Path("text.txt"), Path("run"), "--steps", 2) == 0
        monkeypatch.chdir(tmp_path / "below")
        assert xrnn("train", "--resume", "--out", "../run", "--steps", 4) == 0
        assert steps_made(tmp_path / "run") == 4

    def test_a_text_that_has_gone_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text, moved = write_text(tmp_path / "text.txt"), tmp_path / "moved.txt"
        half_a_run(text, tmp_path / "run")
        text.rename(moved)
        message = refused(capsys, tmp_path / "run")
        assert f"{text}: No such file or directory" in message
        assert "give the text's new place with --text" in message
        assert xrnn("train", "--resume", "--out", tmp_path / "run", "--text", moved) == 0
        assert about(tmp_path / "run")["text"] == str(moved)

    def test_a_text_that_has_changed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = write_text(tmp_path / "text.txt")
        half_a_run(text, tmp_path / "run")
        text.write_text("short")
        assert "was trained on another text" in refused(capsys, tmp_path / "run")

    def test_a_python_without_its_reference(
        self,
        run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Only the default text is missing."""
        monkeypatch.setitem(sys.modules, "pydoc_data", None)
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
        assert xrnn("train", "--out", tmp_path / "other") == 2
        message = capsys.readouterr().err
        assert "this Python comes without its language reference (pydoc_data)" in message
        assert not (tmp_path / "other").exists()
        assert xrnn("info") == xrnn("sample", run, "--length", 3) == 0
        assert train(write_text(tmp_path / "text.txt"), tmp_path / "other", "--steps", 1) == 0

    def test_the_reference_of_another_python(
        self, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arrays, info = files.read(run / CHECKPOINT)
        info["metadata"]["text"] = None
        files.write(run / CHECKPOINT, arrays, info)
        assert "on the language reference of another Python" in refused(capsys, run)


class TestOptions:
    """Options are checked before the text, and that before the folder."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--cell", "foo"], "unknown cell 'foo'"),
            (["--hidden", 0], "--hidden is 0; it must be at least 1"),
            (["--text", "/nowhere"], "/nowhere: No such file or directory"),
        ],
    )
    def test_before_the_folder(
        self,
        words: list[object],
        message: str,
        run: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert message in refused(capsys, run, *words)
        before = contents(run)
        assert xrnn("train", "--out", run, *words) == 2
        assert message in capsys.readouterr().err
        assert contents(run) == before

    def test_fewer_steps_than_were_made(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "has made all of its 17 steps" in refused(capsys, run, "--steps", 5)


@pytest.mark.parametrize("name", [CHART, MODEL])
def test_a_lost_file_of_a_finished_run_is_written_again(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(write_text(tmp_path / "text.txt"), run, "--steps", 3)
    before = files.read(run / CHECKPOINT)
    (run / name).unlink()
    assert xrnn("train", "--resume", "--out", run) == 0
    assert set(contents(run)) == set(FILES)
    after = files.read(run / CHECKPOINT)
    assert after[1] == before[1]
    assert all((after[0][key] == array).all() for key, array in before[0].items())
    capsys.readouterr()
    assert "has made all of its 3 steps" in refused(capsys, run)


def test_the_chart_of_fewer_steps_is_removed(
    run: Path, halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a chart which is there shows all steps, also after a crash."""
    (run / CHART).write_bytes(b"old")

    def crash(run: Any, history: Any) -> bytes:
        raise MemoryError("no memory for a picture")

    monkeypatch.setattr("xrnn.charlm.run.Run.chart", crash)
    assert xrnn("train", "--resume", "--out", run) == 2
    assert not (run / CHART).exists()


def test_the_checkpoint_holds_the_absolute_path(halves: Path) -> None:
    assert os.path.isabs(about(halves / "run")["text"])
