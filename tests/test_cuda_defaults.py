"""CUDA: what runs by default and what by a switch, and what a certificate of a device must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shim.recorder import Recorder

from xrnn.backends.cuda import cluster, graphs, tables
from xrnn.backends.cuda.cluster import OPT_IN, Room
from xrnn.cells import LSTM

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

#: the stages of ``benchmarks/gpu.py`` that say of clusters, and of graphs, that they work
CERTIFICATES = tuple(f"certify {dtype} clusters" for dtype in ("float32", "float16", "bfloat16"))
OF_CLUSTERS = (*CERTIFICATES, "memcheck clusters")
OF_GRAPHS = ("graphs",)


def certified(results: Path, wanted: tuple[str, ...]) -> list[str]:
    """The real devices on which these stages of ``benchmarks/gpu.py`` have passed."""
    found = []
    for file in results.glob("*-certificate.txt"):
        name = file.name.removesuffix("-certificate.txt")
        stages = json.loads((results / f"{name}-stages.json").read_text("utf-8"))
        # Tests that were skipped have not failed, and show nothing.
        passed = {s["stage"] for s in stages if s["status"] == "passed" and not _skips(s)}
        if "software" not in name and passed.issuperset(wanted):
            found.append(name)
    return found


def _skips(stage: Any) -> bool:
    return any("skipped" in line for line in stage.get("output", ()))


def test_a_certificate_is_one_of_clusters_on_a_real_device(tmp_path: Path) -> None:
    def ran(name: str, **status: str) -> None:
        stages = [
            {"stage": stage, "status": status.get(stage.split()[1], "passed")}
            for stage in OF_CLUSTERS
            if status.get(stage.split()[1]) != "left out"
        ]
        (tmp_path / f"{name}-certificate.txt").write_text("576 verdicts, 0 failed\n")
        (tmp_path / f"{name}-stages.json").write_text(json.dumps(stages))

    ran("cuda-ptx-machine-software")
    ran("cuda-nvidia-a", float16="cut off")
    ran("cuda-nvidia-b", float16="left out")
    ran("cuda-nvidia-d", clusters="failed")
    assert certified(tmp_path, OF_CLUSTERS) == []
    ran("cuda-nvidia-c")
    assert certified(tmp_path, OF_CLUSTERS) == ["cuda-nvidia-c"]
    assert certified(tmp_path, OF_GRAPHS) == []


@pytest.mark.parametrize(("said", "expected"), [("9 passed", True), ("9 skipped", False)])
def test_a_certificate_of_graphs_is_of_tests_that_ran(
    said: str, expected: bool, tmp_path: Path
) -> None:
    stage = {"stage": "graphs", "status": "passed", "output": [f"{said} in 3.00s"]}
    (tmp_path / "cuda-nvidia-a-certificate.txt").write_text("576 verdicts, 0 failed\n")
    (tmp_path / "cuda-nvidia-a-stages.json").write_text(json.dumps([stage]))
    assert bool(certified(tmp_path, OF_GRAPHS)) == expected


def test_clusters_are_the_default_once_a_device_has_certified_them() -> None:
    """The switch is `BY_DEFAULT`: a certificate in the results demands it, nothing else does."""
    assert bool(certified(RESULTS, OF_CLUSTERS)) == tables.BY_DEFAULT


def test_graphs_are_the_default_once_a_device_has_certified_them() -> None:
    assert bool(certified(RESULTS, OF_GRAPHS)) == tables.GRAPHS_BY_DEFAULT


@pytest.mark.parametrize(
    ("by_default", "said", "expected"),
    [
        (False, None, False),
        (False, "1", True),
        (False, "0", False),
        (True, None, True),
        (True, "0", False),
        (True, "1", True),
        (True, "", True),
    ],
)
def test_where_clusters_run(
    by_default: bool, said: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BY_DEFAULT", by_default)
    monkeypatch.delenv(OPT_IN, raising=False)
    if said is not None:
        monkeypatch.setenv(OPT_IN, said)
    for capability in (80, 90, 120):
        kernel = tables.kernels(Recorder(capability), frozenset({np.dtype("float32")}))[LSTM]
        offered = [k.path(9, 2, 3, 64) for k in kernel if k.serves(9, 2, 3, 64)]
        clusters = any("clusters" in path for path in offered)
        assert clusters == (expected and capability >= 90)


def test_what_keeps_clusters_from_running_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Recorder(90)
    reasons = ("none of 8 blocks: they do not fit", "none of 16 blocks: CUDA_ERROR_X")
    monkeypatch.setattr(runtime, "room", lambda: Room(99 * 1024, (170, 85, 40, 0, 0), reasons))
    lines = tables.notes(runtime)
    assert f"off; {OPT_IN}=1 turns them on" in lines[0]
    assert "170 of 1, 85 of 2, 40 of 4, 0 of 8, 0 of 16 blocks" in lines[0]
    assert [f"  {reason}" for reason in reasons] == lines[1:3]
    # Two blocks of 99 KB fit less than one of 227.
    told = {tuple(line.split()[:2]): line.split()[2:] for line in lines[4:]}
    assert int(told["lstm", "float16"][2]) < cluster.largest("lstm", "float16")
    monkeypatch.setenv(OPT_IN, "1")
    assert f"on; {OPT_IN}=0 turns them off" in tables.notes(runtime)[0]
    monkeypatch.setattr(runtime, "room", lambda: Room(reasons=("compute capability 80",)))
    assert tables.notes(runtime)[1:] == ["  compute capability 80"]


def test_what_keeps_graphs_from_running_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(graphs.OPT_IN, "1")
    runtime, off = Recorder(), f"{graphs.OPT_IN}=0 turns them off"
    assert tables.note_of_graphs(runtime) == f"CUDA graphs (on; {off})"
    monkeypatch.setenv(graphs.OPT_IN, "0")
    monkeypatch.setattr(runtime, "no_graphs", lambda: "the loop in C is not built")
    assert tables.note_of_graphs(runtime) == (
        f"CUDA graphs (off; {graphs.OPT_IN}=1 turns them on); the loop in C is not built"
    )
