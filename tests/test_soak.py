"""Every job of `soak.py`, for a moment."""

from __future__ import annotations

import multiprocessing

import pytest
import soak


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", soak.JOBS)
def test_job(name: str) -> None:
    if name in {"fork", "spawn", "forkserver"} - set(multiprocessing.get_all_start_methods()):
        pytest.skip(f"the system does not {name}")
    assert soak.JOBS[name](0.001)


def test_a_job_is_chosen_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    soak.main(["training", "--scale", "0"])
    assert capsys.readouterr().out.startswith("training: steps 20, seconds ")
    with pytest.raises(SystemExit, match="2"):
        soak.main(["nothing"])
    assert "no job nothing; the jobs are training, " in capsys.readouterr().err
