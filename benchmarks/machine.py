"""Where a benchmark ran, and the file that keeps its results."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import xrnn
from xrnn.backends import get

HERE = Path(__file__).parent
RESULTS = HERE / "results"
#: what is timed; a change of anything else does not make a result one of another commit
TIMED = ("xrnn", "backends")
PACKAGES = ("numpy", "torch", "onnxruntime", "cupy-cuda12x", "cupy-cuda13x")


def synchronizer(backend: str) -> Callable[[], None]:
    """What waits until the device has done its work; an ImportError if there is no device."""
    get(backend)
    if backend == "cpu":
        return lambda: None
    import cupy

    return cupy.cuda.runtime.deviceSynchronize  # type: ignore[no-any-return]


def describe(backend: str, threads: int) -> dict[str, Any]:
    """What every line of a run says about where and when it was measured."""
    return {
        "backend": backend,
        "threads": threads,
        "device": device(backend),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


class Load:
    """How many cores other processes use, from when it is made or last asked.

    Where the system has no /proc/stat it always says 0.
    """

    def __init__(self) -> None:
        self.since = self._now()

    def others(self) -> float:
        """The cores used since the last call (or since the start), without our own."""
        before, self.since = self.since, self._now()
        wall, busy, own = (b - a for a, b in zip(before, self.since, strict=True))
        return max(0.0, (busy - own) / wall)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of the clock, of all processes (stolen ones too), and of this one."""
        wall, own = time.perf_counter(), time.process_time()
        try:
            line = Path("/proc/stat").read_text("utf-8").partition("\n")[0]
        except OSError:
            return wall, own, own
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, line.split()[1:])
        ticks = user + nice + system + irq + softirq + steal
        return wall, ticks / os.sysconf("SC_CLK_TCK"), own


def device(backend: str) -> str:
    """The processor and its cores, or the GPU; never the name of the host."""
    if backend == "cuda":
        import cupy

        runtime = cupy.cuda.runtime
        return str(runtime.getDeviceProperties(runtime.getDevice())["name"].decode())
    return f"{processor()}, {os.cpu_count()} cores"


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine()
    name = re.sub(r"\((R|TM)\)|@.*|\d+-Core|\bCPU\b|\bProcessor\b", "", name)
    return " ".join(name.split())


def versions() -> dict[str, str]:
    """Of Python, xrnn, and the libraries that computed."""
    found = {"python": platform.python_version(), "xrnn": xrnn.__version__}
    return {**found, **versions_of(PACKAGES), "blas": blas()}


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Of those of these packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def blas() -> str:
    """NumPy's BLAS, and the processor that it took this one for."""
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    name = f"{built['name']} {built['version']}"
    # The wheels' OpenBLAS picks its kernels by processor, and not always the fastest ones.
    for file in (Path(np.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas64*"):
        corename = ctypes.CDLL(str(file)).scipy_openblas_get_corename64_
        corename.restype = ctypes.c_char_p
        name += f" ({corename().decode()} kernels)"
    return name


def commit() -> str:
    """The short hash, with + if what is timed is not what was committed.

    A copy without its history is told by the variable BENCHMARK_COMMIT.
    """
    if told := os.environ.get("BENCHMARK_COMMIT"):
        return told
    changed = git("status", "--porcelain", "--", *TIMED)
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=HERE.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def results_file(backend: str) -> Path:
    """Such as ``results/cpu-amd-epyc-2-cores.jsonl``."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{backend} {device(backend)}".lower()).strip("-")
    return RESULTS / f"{slug}.jsonl"


def store(path: str | Path, record: dict[str, Any]) -> None:
    """Add one line; it takes the place of an older one of the same case and setting."""
    path = Path(path)
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if setting(json.loads(line)) != setting(record)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*kept, json.dumps(record)]) + "\n")


def setting(record: dict[str, Any]) -> tuple[Any, ...]:
    """What a result is a result of: the case, the backend, the threads, NumPy alone or not."""
    alone = record.get("code") == "numpy"
    return *record["case"].values(), record["backend"], record["threads"], alone
