"""What `xrnn.fit` shows of a run by steps, and its picture."""

from __future__ import annotations

import pytest
from test_fit_runs import LOSS, QUIET, Pieces, model

import xrnn


def test_steps(capsys: pytest.CaptureFixture[str]) -> None:
    xrnn.fit(model(), Pieces(4), LOSS, steps=15, every=10, validation=Pieces(4))
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1 of 15: loss ")
    assert [line.partition(":")[0] for line in lines] == ["step 10 of 15", "step 15 of 15"]
    assert lines[-1].endswith(", 0 s left")
    assert ", validation " in lines[0]


def test_one_step(capsys: pytest.CaptureFixture[str]) -> None:
    xrnn.fit(model(), Pieces(4), LOSS, steps=1)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    def words(row: dict[str, float]) -> str:
        return f"{row['loss']:.2f} at {row['rate'] > 0}"

    xrnn.fit(model(), Pieces(4), LOSS, epochs=1, progress=words)
    assert " at True, " in capsys.readouterr().err


def test_a_picture_over_steps() -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    history = xrnn.fit(model(), Pieces(4), LOSS, steps=15, every=2, validation=Pieces(4), **QUIET)
    (axes,) = history.plot().axes
    assert axes.get_xlabel() == "step"
    assert history.best is not None
    assert axes.lines[-1].get_xdata()[0] == history["step"][history.best - 1]
    assert str(history).count("best") == 1
