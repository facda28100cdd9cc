"""The GPU benchmark without a GPU: what can go wrong before and after the device's own work."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shim import build, nvrtc

import xrnn
from xrnn.backends.cuda.geometry import CELLS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not beside us")
sys.path.append(str(BENCHMARKS))


def module(name: str) -> Any:
    return importlib.import_module(name)


Case: Any = module("cases").Case if BENCHMARKS.is_dir() else None
WHEN = ("first", "beside", "alone")
TRAINING = ("lstm", 512, 64, 512, 512, "training", "fp16")


@pytest.fixture
def gpu() -> Any:
    return module("gpu")


def python(name: str, code: str, seconds: float = 60, **more: Any) -> Any:
    return module("gpu").Stage(name, (sys.executable, "-c", code), seconds, **more)


def run(gpu: Any, *stages: Any, budget: float = 60) -> tuple[dict[str, Any], int]:
    """Outcomes by name, and how often they were kept."""
    kept: list[int] = []
    found = gpu.run_all(stages, budget, gpu.environment("abc"), lambda o: kept.append(len(o)))
    return {outcome.stage: outcome for outcome in found}, len(kept)


def test_the_list_names_every_stage(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line[:26].strip() for line in lines]
    for name in ("tests", "certify float16", "memcheck", "racecheck", "launches bf16"):
        assert name in names
    alone = [line[:26].strip() for line in lines if " s  alone " in line]
    assert alone == [f"grid {p}" for p in module("cases").PRECISIONS]
    assert all(Path(w).exists() for line in lines for w in line.split() if w.endswith("gpu.py"))


def test_what_no_device_has_run_is_begun_first(gpu: Any, tmp_path: Path) -> None:
    shared = [s for s in gpu.stages(tmp_path, "name", tmp_path) if s.when == "beside"]
    assert {s.name for s in shared[: gpu.BESIDE]} >= {
        *("memcheck clusters", "racecheck clusters", "graphs", "tests"),
        *("certify float16 clusters", "certify bfloat16"),
    }
    assert set(gpu.IN_CLUSTERS) == set(CELLS)


def test_all_stages_fit_the_budget_and_their_programs_exist(gpu: Any, tmp_path: Path) -> None:
    """The longest check took 275 s on an H200, all tests marked gpu."""
    stages = gpu.stages(tmp_path, "name", tmp_path)
    seconds = {when: [s.seconds for s in stages if s.when == when] for when in WHEN}
    assert 400 + sum(seconds["first"] + seconds["alone"]) <= gpu.BUDGET - gpu.LAST < 900
    for stage in stages:
        for word in stage.command:
            if word.startswith("benchmarks/"):
                assert (gpu.ROOT / word).is_file()


def test_a_stage_that_fails_hangs_or_cannot_run_stops_no_other(gpu: Any) -> None:
    outcomes, kept = run(
        gpu,
        python("fails", "print('why'); raise SystemExit(3)"),
        python("hangs", "print('begun', flush=True); import time; time.sleep(60)", 1.0),
        python("lacks", "", modules=("no_such_module",)),
        python("lacks program", "", program="no-such-program"),
        replace(python("is not there", ""), command=("/no/such/python",)),
        python("passes", "import os; print(os.environ['BENCHMARK_COMMIT'])"),
        python("alone", "print('last')", 5.0, when="alone"),
    )
    assert {name: o.status for name, o in outcomes.items()} == {
        "fails": "failed",
        "hangs": "cut off",
        "lacks": "skipped",
        "lacks program": "skipped",
        "is not there": "failed",
        "passes": "passed",
        "alone": "passed",
    }
    assert (outcomes["fails"].note, outcomes["fails"].output) == ("exit status 3", "why\n")
    assert outcomes["hangs"].output == "begun\n"
    assert outcomes["hangs"].seconds < 20
    assert outcomes["lacks"].note == "no_such_module not found"
    assert outcomes["passes"].output == "abc\n"
    assert kept == 2


def test_what_a_cut_off_stage_started_ends_with_it(gpu: Any, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(1.5); open({str(alive)!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    waits = python("waits", "import time; time.sleep(2.5)")
    outcomes, _ = run(gpu, python("hangs", code, 0.7), waits)
    assert outcomes["hangs"].status == "cut off"
    assert not alive.exists()


@pytest.mark.parametrize(
    ("clustered", "expected"),
    [
        ("print('lstm done'); print('gru done')", "1"),
        ("print('lstm done'); print('gru done'); raise SystemExit(1)", "1"),
        ("print('lstm done'); print('gru NOT FINITE')", "0"),
        ("print('lstm done\\ngru done\\n', flush=True); import time; time.sleep(9)", "0"),
    ],
)
def test_clusters_run_only_where_they_work(gpu: Any, clustered: str, expected: str) -> None:
    from xrnn.backends.cuda.cluster import OPT_IN

    assert gpu.OPT_IN == OPT_IN
    tell = f"import os; print(os.environ[{OPT_IN!r}])"
    plain = "print('lstm done'); print('gru done'); raise SystemExit(1)"
    outcomes, _ = run(
        gpu,
        python("beside", tell),
        python("without", tell, clusters=False),
        python("alone", tell, 5.0, when="alone"),
        python("plain", f"{tell}; {plain}", when="first", clusters=False),
        python("clustered", f"{tell}; {clustered}", 0.8, when="first"),
    )
    said = {name: outcome.output.split()[0] for name, outcome in outcomes.items()}
    assert (said["plain"], said["clustered"], said["without"]) == ("0", "1", "0")
    assert said["beside"] == said["alone"] == expected


def test_the_grid_keeps_its_time(gpu: Any) -> None:
    long = "import time; time.sleep(30)"
    outcomes, _ = run(
        gpu, python("check", long), python("grid", "", 5.0, when="alone"), budget=gpu.LAST + 7.0
    )
    assert outcomes["check"].status == "cut off"
    assert outcomes["check"].seconds < 5
    assert outcomes["grid"].status == "passed"


def test_without_a_device_it_says_so(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if not nvrtc.has_device():
        assert gpu.main(["--out", "/nowhere"]) == 2
        assert capsys.readouterr().err.startswith("no GPU to measure: ")
    with pytest.raises(SystemExit):
        gpu.main(["--only", "no such stage"])
    assert "there are families, families clusters, memcheck clusters" in capsys.readouterr().err


def test_floors_by_hand() -> None:
    floors = module("floors")
    rates = floors.Rates(product=700e12, copy=4e12, exchange=0.5e-6)
    case = Case(*TRAINING)
    floor = floors.floor(case, rates)
    # Forward 2·T·B·4H·2H operations, backward twice as many.
    assert floor.product == pytest.approx(1e3 * 3 * 2 * 512 * 64 * 2048 * 1024 / 700e12)
    # x, y, dx, dy of 33.5 MB each; W, U, dW, dU of 2.1 MB each.
    assert floor.copy == pytest.approx(1e3 * (4 * 512 * 64 * 512 * 2 + 4 * 2048 * 512 * 2) / 4e12)
    assert floor.exchange == pytest.approx(1e3 * 2 * 512 * 0.5e-6)
    assert (floor.ms, floor.bound) == (floor.product, "product")
    inference = floors.floor(replace(case, mode="inference", precision="fp32-ieee"), rates)
    assert inference.product == pytest.approx(floor.product / 3)
    assert inference.copy == pytest.approx(floor.copy)
    assert inference.exchange == pytest.approx(floor.exchange / 2)
    few = floors.floor(Case("rnn", 1024, 16, 256, 256, "inference", "tf32"), rates)
    assert few.bound == "exchange"


def test_a_result_stands_beside_its_floor() -> None:
    rates = module("floors").Rates(product=1e15, copy=4e12, exchange=1e-6)
    beside = module("run").beside_floor(Case(*TRAINING), rates, 2.048)
    assert beside["bound"] == "exchange"
    assert (beside["ms"], beside["ours"]) == (1.024, 2.0)
    assert beside["rates"] == asdict(rates)


def line(case: Any, ours: float, torch: float) -> dict[str, Any]:
    """What `run.py` writes of one case."""
    rates = module("floors").Rates(product=700e12, copy=4e12, exchange=0.5e-6)
    return {
        "case": asdict(case),
        "code": "table",
        "path": "clusters of 16",
        "ms": {"xrnn": ours, "torch": torch},
        "ratio": {"torch": round(ours / torch, 4)},
        "gap": 1e-4,
        "noise": 1.01,
        "lost": 0.0,
        "repeats": 7,
        "floor": module("run").beside_floor(case, rates, ours),
        "backend": "cuda",
        "threads": 1,
        "device": "NVIDIA Test",
        "versions": {"python": "3.12.3"},
        "commit": "abc",
        "date": "2026-01-01",
    }


def seen(case: Any) -> dict[str, Any]:
    """What `look.py` writes of one case."""
    side = {"peak": 123e6, "launches": 10, "a step": 0.02, "kernels": {"gemm": 3, "persistRNN": 1}}
    told = {"path": "clusters of 16", "held": {"8": 15, "16": 7}}
    return {"case": asdict(case), **told, "xrnn": side, "torch": side}


def test_results_are_read_by_the_report_and_the_summary(gpu: Any, tmp_path: Path) -> None:
    first = Case(*TRAINING)
    slow, unseen = replace(first, cell="gru", precision="tf32"), replace(first, mode="inference")
    store = module("machine").store
    for record in (line(first, 9, 9), line(first, 1.5, 3.0), line(slow, 4.0, 2.0)):
        store(tmp_path / "cuda-test.jsonl", record)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    failed = {"case": asdict(unseen), "failed": "OutOfMemoryError: of 1 byte"}
    text = "\n".join(map(json.dumps, [seen(first), failed]))
    (scratch / "fp16.jsonl").write_text(text + "\n")
    outcomes = [
        gpu.Outcome("certify float32", "passed", 3.0, "", "laws\n8 verdicts, 0 failed\n"),
        gpu.Outcome("memcheck", "failed", 2.0, "exit status 9", "invalid read of size 4\n"),
    ]
    gpu.write(tmp_path, "cuda-test", outcomes, scratch)
    assert (tmp_path / "cuda-test-certificate.txt").read_text("utf-8").endswith("0 failed\n")
    written = sorted(p.name for p in tmp_path.iterdir() if p.is_file())
    ends = ["-certificate.txt", "-launches.json", "-stages.json", ".jsonl"]
    assert written == [f"cuda-test{end}" for end in ends]

    report = module("report")
    told = report.section(tmp_path / "cuda-test.jsonl")
    assert (tmp_path / "cuda-test.png").read_bytes().startswith(b"\x89PNG")
    assert "**0.50** (1.5 ms, 2.5 × its floor)" in told
    assert "tf32" in told

    summary = module("summary").summary(tmp_path, "cuda-test")
    rows = summary.splitlines()
    assert "    invalid read of size 4" in rows
    (row,) = (r for r in rows if r.startswith("fp16      lstm (512, 64, 512, 512)  training"))
    for word in ("1.500", "3.000", "0.50", "0.02", "123", "clusters of 16; persistRNN"):
        assert word in row
    assert any("not timed" in r and "OutOfMemoryError" in r for r in rows)
    assert "holds at once: 15 of 8 blocks, 7 of 16 blocks" in summary
    assert "training, worst point" in summary
    assert "2.000 (missed, 1 of 15 points)" in summary


def test_a_later_run_keeps_what_it_does_not_run_again(gpu: Any, tmp_path: Path) -> None:
    """And who was cut off does not look as if it had come to its end."""
    half = gpu.Outcome("certify float32", "cut off", 9.0, "after 9 s", "laws\nlstm  0.1\n")
    runs = [
        [gpu.Outcome("certify float64", "passed", 3.0, "", "laws\n8 verdicts, 0 failed\n"), half],
        [gpu.Outcome("tests", "passed", 2.0)],
        [replace(half, status="passed", note="", output="laws\n9 verdicts, 0 failed\n")],
    ]
    told = []
    for outcomes in runs:
        gpu.write(tmp_path, "cuda-test", outcomes, tmp_path)
        told.append((tmp_path / "cuda-test-certificate.txt").read_text("utf-8"))
    first = "# certify float64\nlaws\n8 verdicts, 0 failed\n# certify float32\nlaws\n"
    assert told[0] == f"{first}lstm  0.1\ncut off after 9 s: this certificate is not complete\n"
    assert told[1:] == [told[0], f"{first}9 verdicts, 0 failed\n"]
    stages = json.loads((tmp_path / "cuda-test-stages.json").read_text("utf-8"))
    names = {"certify float64": "passed", "certify float32": "passed", "tests": "passed"}
    assert {s["stage"]: s["status"] for s in stages} == names


def test_every_line_of_run_has_what_the_summary_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above holds only while run.py writes such lines."""
    runner = module("run")
    monkeypatch.setattr(runner, "WAIT", 0.0)  # nothing is measured here
    options = runner.parse(["--quick", "--cells", "rnn"])
    case = Case("rnn", 3, 2, 4, 5, "inference")
    measured = runner.measure(case, options, [], lambda: None)
    made = line(Case(*TRAINING), 1.0, 1.0)
    assert set(measured) == set(made) - {"case", "floor"} - set(
        module("machine").describe("cpu", 1)
    )
    assert measured["path"] == xrnn.RNN(case.I, case.H).path((case.T, case.B, case.I))["_l0"]
    assert math.isfinite(measured["ms"]["xrnn"])


def test_every_family_runs() -> None:
    families = module("families")
    lines = list(families.run("cpu"))
    assert len(lines) > 40
    assert all(f"{text}\n".endswith(module("gpu").DONE) for text, _ in lines)
    assert [text for text, fine in lines if not fine] == []
    some = list(families.run("cpu", ["gru", "lstm"]))
    assert {text.split()[0] for text, _ in some} == {"gru", "lstm"}


def test_the_notes_hold_what_is_predicted_and_measured() -> None:
    predicted = module("predicted")
    notes = (BENCHMARKS / "gpu-notes.md").read_text("utf-8")
    assert "\n".join(predicted.lines()) in notes
    records = module("report").read(BENCHMARKS / "results" / "cuda-nvidia-h200.jsonl")
    for mode in module("cases").MODES:
        assert "\n".join(predicted.compared(records, mode)) in notes
    for cell, (_, B, I, H) in product(module("cases").CELLS, module("cases").CUDA_SIZES):
        half, bfloat16 = (
            (
                str(predicted.clusters(cell, kind, B, H)),
                predicted.device(cell, kind, B, H),
                predicted.outside(cell, kind, B, I, H),
            )
            for kind in ("float16", "bfloat16")
        )
        assert half == bfloat16


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("void persist<float, (int)4>(int, Box<int>*)", "persist<float, (int)4>"),
        ("void (anonymous namespace)::f<(bool)1>(T, void (*)(int))", "f<(bool)1>"),
        ("lstm_forward(int, float*)", "lstm_forward"),
        ("sm90_xmma_gemm_f16", "sm90_xmma_gemm_f16"),
        ("Memcpy DtoD (Device -> Device)", "Memcpy DtoD"),
    ],
)
def test_short_names(name: str, expected: str) -> None:
    assert module("look").short(name) == expected


@pytest.mark.skipif(bool(build.ABSENT), reason=build.ABSENT)
@pytest.mark.emulated
def test_the_exchange_exchanges(tmp_path: Path) -> None:
    runtime_module = pytest.importorskip("shim.runtime", reason="ml_dtypes is not installed")
    for name in ("common.cuh", "cluster.cuh"):
        shutil.copy(build.KERNELS / name, tmp_path)
    text = '#include "cluster.cuh"\n' + (BENCHMARKS / "exchange.cu").read_text("utf-8")
    (tmp_path / "exchange.cu").write_text(text, "utf-8")
    value = np.repeat(np.arange(8, dtype=np.uint32)[:, None], 32, axis=1)  # [rank, lane]
    lanes = np.arange(32)
    for _ in range(7):
        received = value[:, :8].T  # [rank, from]: block `from` sends from its lane `rank`
        value = (received[:, lanes % 8] + 1)[:, lanes ^ 1]
    for schedule in (0, 1, 5, 100, 101):
        out = np.zeros(8, np.uint32)
        device = runtime_module.ShimRuntime(kernels=tmp_path, schedule=schedule)
        arguments = (np.int32(7), device.pointer(out))
        device.launch("exchange.cu", "exchange", (8,), (32,), arguments, shared=272, cluster=8)
        np.testing.assert_array_equal(out, value[:, 0])


@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
@pytest.mark.parametrize("generation", [90, 100])
def test_the_exchange_compiles(generation: int) -> None:
    cubin, _ = nvrtc.compiled(module("floors").exchange_source(), (), generation)
    assert b"exchange" in cubin
