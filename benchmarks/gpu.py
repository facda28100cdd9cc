"""Everything that needs a GPU, in one command: ``python benchmarks/gpu.py``, a quarter of an hour.

First every family of kernels runs once without clusters and once with them; if clusters do worse or
hang, all later stages run without them.  Then the checks, some side by side, in the order of
--list: what no device has yet run to its end comes first.  They are NVIDIA's compute-sanitizer over
every family, ``xrnn certify`` in each dtype, the tests marked gpu, and what each side launches for
the grid (which also compiles all of xrnn's kernels).  They have all the time but that of the grid,
which then runs alone on the device, in each precision.  A stage that fails or is cut off is
recorded as such, and the others still run.  In two commands, with the checks first:

    python benchmarks/gpu.py --budget 570 --only memcheck racecheck certify graphs tests
    python benchmarks/gpu.py --budget 570 --only families launches grid

Files in the folder of --out, named after the device; what a stage wrote stays until it runs again:

    <name>.jsonl            one line a case, as ``benchmarks/run.py`` writes them
    <name>-launches.json    kernels by name, launches a step, peak memory, of both sides
    <name>-certificate.txt  what ``xrnn certify`` said, a section for each stage
    <name>-stages.json      every stage, how it ended, and the last lines it wrote

On a machine without a package registry, bring wheels along and install them to a folder that
PYTHONPATH names: ``pip wheel --no-deps -w wheels . array-api-compat array-api-strict`` makes
them (xrnn's own for its name and version; its code is taken from this checkout).  NumPy, CuPy,
PyTorch, ml_dtypes, safetensors, pytest and hypothesis must be there.  A checkout without its
history is told its commit by --commit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from cases import PRECISIONS
from summary import summary

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
HERE = "benchmarks"

#: what the tests need besides CuPy
TEST_MODULES = ("pytest", "hypothesis", "array_api_strict")

#: seconds of the whole, and of it what is kept to write the results
BUDGET, LAST = 870.0, 5.0

#: dtype, and whether clusters may run: what no device has certified, and what one has; in float64
#: there are no clusters
UNCERTIFIED = (("float16", True), ("bfloat16", True), ("bfloat16", False))
CERTIFIED = (("float32", True), ("float32", False), ("float16", False), ("float64", False))

#: the cells with clusters
IN_CLUSTERS = ("rnn", "rnn-relu", "gru", "lstm")

#: the variable that lets clusters run
OPT_IN = "XRNN_CUDA_CLUSTERS"

#: seconds for each of the first two stages, and of the grid's four precisions
FIRST, GRID = 55.0, 85.0

#: checks that share the device at once
BESIDE = 8

#: what families.py says of each family that came to its end
DONE = " done\n"

#: lines of a stage's output that its record keeps
TAIL = 40

#: of a certificate: the name of its stage, and what was said
SECTION = re.compile(r"^# (.+)\n((?:(?!# ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Stage:
    """One command: how long it may take, when it runs, and what it needs to be there.

    `when` is "first", "beside" others of its kind, or "alone" after them; `clusters` lets
    thread-block clusters run.
    """

    name: str
    command: tuple[str, ...]
    seconds: float = inf
    when: str = "beside"
    clusters: bool = True
    modules: tuple[str, ...] = ()
    program: str | None = None

    @property
    def missing(self) -> str | None:
        """What it needs and does not find, or None."""
        absent = [name for name in self.modules if find_spec(name) is None]
        if self.program is not None and shutil.which(self.program) is None:
            absent.append(self.program)
        return " and ".join(absent) or None


@dataclass
class Outcome:
    """How a stage ended: passed, failed, cut off or skipped; `output` is all it wrote."""

    stage: str
    status: str
    seconds: float = 0.0
    note: str = ""
    output: str = field(default="", repr=False)

    def record(self) -> dict[str, Any]:
        tail = self.output.splitlines()[-TAIL:]
        return {**asdict(self), "seconds": round(self.seconds, 1), "output": tail}


def stages(out: Path, name: str, scratch: Path) -> list[Stage]:
    """The stages in their order: of the checks first what no device has yet run to its end."""
    python, cupy = sys.executable, ("cupy",)
    families = (python, f"{HERE}/families.py")
    pytest = (python, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider")
    of_graphs, test_modules = "tests/test_cuda_graphs_device.py", (*TEST_MODULES, *cupy)
    both = ("torch", *cupy)
    looks = [
        (python, f"{HERE}/look.py", "--precision", p, "--out", str(scratch / f"{p}.jsonl"))
        for p in PRECISIONS
    ]
    grid = (python, f"{HERE}/run.py", "--backend", "cuda", "--out", str(out / f"{name}.jsonl"))
    return [
        Stage("families", families, FIRST, "first", clusters=False, modules=cupy),
        Stage("families clusters", families, FIRST, "first", modules=cupy),
        sanitizer("memcheck", clusters=True),
        *(certificate(*which) for which in UNCERTIFIED),
        Stage("graphs", (*pytest, of_graphs), modules=test_modules),
        sanitizer("racecheck", clusters=True),
        Stage("tests", (*pytest, f"--ignore={of_graphs}"), modules=test_modules),
        sanitizer("memcheck", clusters=False),
        sanitizer("racecheck", clusters=False),
        *(certificate(*which) for which in CERTIFIED),
        Stage("info", (python, "-m", "xrnn", "info"), modules=cupy),
        *(
            Stage(f"launches {p}", look, modules=both)
            for p, look in zip(PRECISIONS, looks, strict=True)
        ),
        *(
            Stage(f"grid {p}", (*grid, "--precision", p), GRID, "alone", modules=both)
            for p in PRECISIONS
        ),
    ]


def certificate(dtype: str, clusters: bool) -> Stage:
    """``xrnn certify`` in one dtype."""
    command = (sys.executable, "-m", "xrnn", "certify", "--backend", "cuda", "--dtype", dtype)
    words = f"certify {dtype}{' clusters' if clusters else ''}"
    return Stage(words, command, clusters=clusters, modules=("cupy",))


def sanitizer(tool: str, clusters: bool) -> Stage:
    """A tool of compute-sanitizer over all families, or those in clusters."""
    program = "compute-sanitizer"
    # An occupancy query may answer by an error; only what kernels do is looked for.
    how = f"--tool {tool} --error-exitcode 9 --print-limit 9"
    how += " --report-api-errors no" if tool == "memcheck" else ""
    watched = (sys.executable, f"{HERE}/families.py", *(IN_CLUSTERS if clusters else ()))
    words = f"{tool}{' clusters' if clusters else ''}"
    command = (program, *how.split(), *watched)
    return Stage(words, command, clusters=clusters, modules=("cupy",), program=program)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.list:
            print(listing(stages(options.out, "<name>", scratch)))
            return 0
        try:
            name = device_name()
        except Exception as error:  # CuPy missing, no driver, no device
            print(f"no GPU to measure: {error}", file=sys.stderr)
            return 2
        options.out.mkdir(parents=True, exist_ok=True)
        chosen = [s for s in stages(options.out, name, scratch) if wanted(s, options.only)]

        def keep(outcomes: Sequence[Outcome]) -> None:
            write(options.out, name, outcomes, scratch)

        outcomes = run_all(chosen, options.budget, environment(options.commit), keep)
    print(summary(options.out, name))
    return 0 if all(o.status in ("passed", "skipped") for o in outcomes) else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="those whose names begin so")
    parser.add_argument("--commit", metavar="TEXT", help="of a checkout without its history")
    parser.add_argument("--list", action="store_true", help="the stages, without running them")
    options = parser.parse_args(argv)
    options.out = options.out.absolute()
    known = [stage.name for stage in stages(options.out, "", Path())]
    for start in options.only or ():
        if not any(name.startswith(start) for name in known):
            parser.error(f"no stage begins with {start!r}; there are {', '.join(known)}")
    return options


def wanted(stage: Stage, only: Sequence[str] | None) -> bool:
    return only is None or any(stage.name.startswith(start) for start in only)


def listing(found: Iterable[Stage]) -> str:
    """One line a stage: its time, whether it is alone, and its command."""
    lines = []
    for stage in found:
        needs = f"  [without {stage.missing}]" if stage.missing else ""
        command = " ".join(stage.command)
        clusters = "clusters" if stage.clusters else ""
        most = "" if stage.seconds == inf else f"{stage.seconds:.0f} s"
        lines.append(f"{stage.name:26}{most:>6}  {stage.when:8}{clusters:10}{command}{needs}")
    return "\n".join(lines)


def device_name() -> str:
    """What the files are called after, such as ``cuda-nvidia-h200``."""
    sys.path.insert(0, str(ROOT))
    import machine

    machine.synchronizer("cuda")
    return machine.results_file("cuda").stem


def environment(commit: str | None) -> dict[str, str]:
    """What the commands see: this checkout first, few threads, no other library's hoard."""
    before = os.environ.get("PYTHONPATH")
    told = {"BENCHMARK_COMMIT": commit} if commit else {}
    return {
        **os.environ,
        **told,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "OPENBLAS_NUM_THREADS": "2",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def run_all(
    chosen: Sequence[Stage],
    budget: float,
    env: dict[str, str],
    keep: Callable[[Sequence[Outcome]], None],
) -> list[Outcome]:
    """Run what comes first, then the stages that share the device, the others in turn.

    Outcomes are written after every stage, as this command may be cut off too.
    """
    end = monotonic() + budget - LAST
    outcomes: list[Outcome] = []

    def left() -> float:
        return end - monotonic()

    def run(stage: Stage, seconds: float, clusters: bool = True) -> Outcome:
        told = {OPT_IN: "1" if clusters and stage.clusters else "0"}
        return run_stage(stage, min(seconds, left()), env | told)

    first = _when(chosen, "first")
    outcomes += [run(stage, stage.seconds) for stage in first]
    clusters = clusters_work(first, outcomes)
    # Only a GPU can measure the grid: its time is kept for it.
    shared, alone = _when(chosen, "beside"), _when(chosen, "alone")
    kept = sum(stage.seconds for stage in alone)
    with ThreadPoolExecutor(BESIDE) as pool:  # which begins them in their order
        outcomes += pool.map(lambda s: run(s, min(s.seconds, left() - kept), clusters), shared)
    keep(outcomes)
    for n, stage in enumerate(alone):
        later = sum(s.seconds for s in alone[n + 1 :])
        outcomes.append(run(stage, max(stage.seconds, left() - later), clusters))
        keep(outcomes)
    return outcomes


def clusters_work(first: Sequence[Stage], outcomes: Sequence[Outcome]) -> bool:
    """Whether as many families were done with clusters as without, and in time."""
    done = {True: [0], False: [0]}
    for stage, outcome in zip(first, outcomes, strict=True):
        done[stage.clusters].append(outcome.output.count(DONE))
        if stage.clusters and outcome.status == "cut off":
            return False
    return max(done[True]) >= max(done[False])


def _when(chosen: Sequence[Stage], when: str) -> list[Stage]:
    return [stage for stage in chosen if stage.when == when]


def run_stage(stage: Stage, seconds: float, env: dict[str, str]) -> Outcome:
    """Run one command for so many seconds at most; it and what it started end with it."""
    if stage.missing:
        return told(Outcome(stage.name, "skipped", note=f"{stage.missing} not found"))
    if seconds <= 0:
        return told(Outcome(stage.name, "cut off", note="no time was left"))
    start = monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        try:
            process = subprocess.Popen(
                stage.command,
                cwd=ROOT,
                env=env,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return told(Outcome(stage.name, "failed", note=str(error)))
        try:
            status = process.wait(seconds)
            ended = "passed" if status == 0 else "failed"
            note = "" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended, note = "cut off", f"after {seconds:.0f} s"
        file.seek(0)
        output = file.read()
    return told(Outcome(stage.name, ended, monotonic() - start, note, output))


def told(outcome: Outcome) -> Outcome:
    """The outcome, after a line that says it."""
    note = f" ({outcome.note})" if outcome.note else ""
    print(f"{outcome.stage:26}{outcome.status}{note} in {outcome.seconds:.0f} s", flush=True)
    return outcome


def write(out: Path, name: str, outcomes: Sequence[Outcome], scratch: Path) -> None:
    """The files of a run but for the times, which were written as they came.

    A stage that did not run leaves what an earlier run wrote of it.
    """
    certified = [o for o in outcomes if o.stage.startswith("certify") and o.output]
    if certified:
        file = out / f"{name}-certificate.txt"
        text = file.read_text("utf-8") if file.exists() else ""
        sections = dict(SECTION.findall(text)) | {o.stage: said(o) for o in certified}
        text = "".join(f"# {stage}\n{section}" for stage, section in sections.items())
        file.write_text(text, "utf-8")
    seen = [
        json.loads(line)
        for precision in PRECISIONS
        if (scratch / f"{precision}.jsonl").exists()
        for line in (scratch / f"{precision}.jsonl").read_text("utf-8").splitlines()
    ]
    if seen:
        (out / f"{name}-launches.json").write_text(json.dumps(seen, indent=1) + "\n")
    file = out / f"{name}-stages.json"
    before = json.loads(file.read_text("utf-8")) if file.exists() else []
    records = {r["stage"]: r for r in (*before, *(o.record() for o in outcomes))}
    file.write_text(json.dumps(list(records.values()), indent=1) + "\n")


def said(outcome: Outcome) -> str:
    """A section of the certificate: one that was cut off does not look like a whole one."""
    cut = f"{outcome.status} {outcome.note}: this certificate is not complete\n"
    return outcome.output + (cut if outcome.status == "cut off" else "")


if __name__ == "__main__":
    sys.exit(main())
