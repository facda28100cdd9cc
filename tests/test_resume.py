"""`xrnn train --resume`: exactly as if it had never stopped, or refused and nothing changed."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import contents, half_a_run, tensors, train, write_text, xrnn

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
    assert files.read(run / CHECKPOINT)[1]["step"] == 14
    rows = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, 15))


Change = Callable[[dict[str, Any], dict[str, Any]], object]

#: what is done to the tensors and the values of a checkpoint, and what the sentence says
MALFORMED: dict[str, tuple[Change, str]] = {
    "no weights": (
        lambda t, i: [t.pop(k) for k in list(t) if k.startswith("weights.")],
        "the tensor weights.embedding.E is missing",
    ),
    "no tensors": (lambda t, i: t.clear(), "is missing"),
    "a weight missing": (
        lambda t, i: t.pop("weights.layer.U_l0"),
        "the tensor weights.layer.U_l0 is missing",
    ),
    "no state": (lambda t, i: t.pop("state.1"), "the tensor state.1 is missing"),
    "a moment missing": (
        lambda t, i: t.pop("optimizer.v.readout.b"),
        "the tensor optimizer.v.readout.b is missing",
    ),
    "a weight of more layers": (
        lambda t, i: t.update({"weights.layer.U_l1": t["weights.layer.U_l0"]}),
        "the tensor weights.layer.U_l1 is unknown",
    ),
    "a tensor of a newer version": (
        lambda t, i: t.update({"noise": np.zeros(2, "float32")}),
        "the tensor noise is unknown",
    ),
    "a moment of another shape": (
        lambda t, i: t.update({"optimizer.m.layer.b_l0": np.zeros(12, "float32")}),
        "optimizer.m.layer.b_l0 is float32 of shape (12,); it must be float32 of shape (48,)",
    ),
    "a moment of a shape that broadcasts": (
        lambda t, i: t.update({"optimizer.m.layer.b_l0": np.zeros((1, 48), "float32")}),
        "it must be float32 of shape (48,)",
    ),
    "a state of another batch": (
        lambda t, i: t.update({"state.0": np.zeros((1, 5, 12), "float32")}),
        "state.0 is float32 of shape (1, 5, 12); it must be float32 of shape (1, 4, 12)",
    ),
    "a state of float64": (
        lambda t, i: t.update({"state.0": t["state.0"].astype("float64")}),
        "state.0 is float64",
    ),
    "weights of integers": (
        lambda t, i: t.update({"weights.readout.b": t["weights.readout.b"].astype("int32")}),
        "weights.readout.b is int32",
    ),
    "NaN": (
        lambda t, i: t["weights.readout.W"].fill(np.nan),
        "weights.readout.W holds NaN or infinity",
    ),
    "infinity": (lambda t, i: t["state.1"].fill(np.inf), "state.1 holds NaN or infinity"),
    "a key of a newer version": (
        lambda t, i: i.update(momentum=0.9),
        "momentum is unknown to this version; it may be that of a newer xrnn",
    ),
    "an option of a newer version": (
        lambda t, i: i["charlm"].update(momentum=0.9),
        "charlm.momentum is unknown to this version",
    ),
    "an option missing": (lambda t, i: i["charlm"].pop("cell"), "charlm.cell is missing"),
    "an unknown cell": (lambda t, i: i["charlm"].update(cell="foo"), "unknown cell 'foo'"),
    "another cell": (lambda t, i: i["charlm"].update(cell="gru"), "the tensor "),
    "more units": (lambda t, i: i["charlm"].update(hidden=13), "it must be float32 of shape"),
    "a size as a string": (
        lambda t, i: i["charlm"].update(hidden="12"),
        "charlm.hidden is '12'; it must be an integer",
    ),
    "a size that no machine has": (
        lambda t, i: i["charlm"].update(hidden=10**11),
        "this takes at least",
    ),
    "options that are a list": (lambda t, i: i.update(charlm=[]), "charlm is []"),
    "no step": (lambda t, i: i.pop("step"), "step is missing"),
    "a negative step": (lambda t, i: i.update(step=-1), "step is -1; it must be an integer ≥ 0"),
    "a step as a string": (lambda t, i: i.update(step="17"), "step is '17'; it must be an integer"),
    "a step that is a truth value": (lambda t, i: i.update(step=True), "step is True"),
    "no step yet, but moments": (lambda t, i: i.update(step=0), "is unknown"),
    "seconds as a string": (lambda t, i: i.update(seconds="1"), "seconds is '1'"),
    "a history that is an object": (lambda t, i: i.update(history={}), "history is {}"),
    "a history of numbers": (lambda t, i: i.update(history=[1]), "history[0] is 1"),
    "a line of the history cut short": (
        lambda t, i: i.update(history=[{"step": 3}]),
        "history[0].characters is missing",
    ),
    "a history of the future": (
        lambda t, i: i.update(history=[_row(3), _row(18)]),
        "history[1].step is 18; it must be above 3, the line before, and at most step = 17",
    ),
    "another vocabulary": (
        lambda t, i: i.update(vocabulary=i["vocabulary"][1:]),
        "was trained on another text",
    ),
    "a vocabulary out of order": (
        lambda t, i: i.update(vocabulary=i["vocabulary"][::-1]),
        "it must be a string of different characters in order",
    ),
    "a vocabulary of nothing": (lambda t, i: i.update(vocabulary=""), "vocabulary is ''"),
    "another text": (lambda t, i: i.update(sha256="0" * 64), "was trained on another text"),
    "a text that is a number": (lambda t, i: i.update(text=3), "text is 3; it must be the path"),
    "a text that no file can be": (
        lambda t, i: i.update(text="a\0b"),
        "text is 'a\\x00b'; it must be the path of a file",
    ),
    "a text of a name that cannot be encoded": (
        lambda t, i: i.update(text="\ud800"),
        "'\\ud800' is no name of a file in",
    ),
    "a negative mean of squares": (
        lambda t, i: t["optimizer.v.layer.b_l0"].fill(-1),
        "optimizer.v.layer.b_l0 holds negative numbers",
    ),
    "seconds that are no number": (
        lambda t, i: i.update(seconds=float("nan")),
        "seconds is nan; it must be a finite number",
    ),
    "a learning rate that no float holds": (
        lambda t, i: i["charlm"].update(lr=10**400),
        "charlm.lr is 1000",
    ),
    "a loss that is infinite": (
        lambda t, i: i.update(history=[{**_row(3), "train_bits": float("inf")}]),
        "history[0].train_bits is inf; it must be a finite number",
    ),
}


def _row(step: int) -> dict[str, Any]:
    numbers = {"train_bits": 1.0, "held_out_bits": 1.0, "learning_rate": 0.1, "seconds": 1.0}
    return {"step": step, "characters": 32 * step, **numbers}


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
    assert "checkpoint.safetensors is not as xrnn wrote it" in refused(capsys, run)
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
        assert files.read(tmp_path / "run" / CHECKPOINT)[1]["step"] == 4

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
        assert files.read(tmp_path / "run" / CHECKPOINT)[1]["text"] == str(moved)

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
        files.write(run / CHECKPOINT, arrays, info | {"text": None})
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
    monkeypatch.setattr("xrnn.charlm.run.Run.draw", lambda run: None)
    assert xrnn("train", "--resume", "--out", run) == 0
    assert not (run / CHART).exists()


def test_the_checkpoint_holds_the_absolute_path(halves: Path) -> None:
    assert os.path.isabs(files.read(halves / "run" / CHECKPOINT)[1]["text"])
