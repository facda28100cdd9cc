"""The kernels that each side launches and the memory it takes, for every case of the GPU grid.

``python benchmarks/look.py --precision fp16 --out FILE`` writes one JSON line a case: for
xrnn and for PyTorch the kernels by name with their numbers, launches a step, and the largest
amount of device memory beyond what was there before the call; and how many clusters of each
size the device holds at once.  Nothing is timed; but all kernels of the grid have been
compiled after it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from cases import GRIDS, PRECISIONS, Case

#: letters of a kernel's name that are kept
LETTERS = 96


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(argv)
    os.environ["CUPY_TF32"] = "1" if options.precision == "tf32" else "0"
    failed = 0
    for case in (c for c in GRIDS["cuda"] if c.precision == options.precision):
        record: dict[str, Any] = {"case": asdict(case)}
        try:
            record |= look(case)
        except Exception as error:  # the other cases may do better
            failed += 1
            record["failed"] = f"{type(error).__name__}: {error}"
        with options.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(in_words(record), flush=True)
    return 1 if failed else 0


def look(case: Case) -> dict[str, Any]:
    """What a record says of both sides."""
    from peers import Problem, ours, path, with_torch

    problem = Problem(case, "cuda")
    sides = {"xrnn": (ours(problem), _xrnn_peak), "torch": (with_torch(problem, 1), _torch_peak)}
    found: dict[str, Any] = {"path": path(problem), "held": held()}
    for name, (side, peak) in sides.items():
        side.call()  # compiles, verifies, and fills the pools
        kernels = launches(side.call)
        found[name] = {
            "peak": peak(side.call),
            "launches": sum(kernels.values()),
            "a step": round(sum(kernels.values()) / case.T, 2),
            "kernels": dict(kernels.most_common(12)),
        }
    return found


@cache
def held() -> dict[str, int]:
    """Size of a cluster → how many of them the device holds at once."""
    from xrnn.backends.cuda import cluster
    from xrnn.backends.cuda.device import RUNTIME

    if RUNTIME.capability() < cluster.CAPABILITY:
        return {}
    return {str(size): RUNTIME.room().of(size) for size in cluster.SIZES}


def launches(call: Callable[[], Any]) -> Counter[str]:
    """The kernels that a call runs on the device, whoever launches them."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    autograd: Any = torch.autograd
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    events: Iterable[Any] = found.events() or ()
    return Counter(short(e.name) for e in events if e.device_type == autograd.DeviceType.CUDA)


def short(name: str) -> str:
    """A kernel's name without its result and the types of its arguments.

    >>> short("void (anonymous namespace)::persist<float, (int)4>(int, Box<int>*)")
    'persist<float, (int)4>'
    """
    name = re.sub(r"\(anonymous namespace\)::|<unnamed>::|^void ", "", name.strip())
    depth = 0
    for place in range(len(name) - 1, 0, -1):
        depth += (name[place] == ")") - (name[place] == "(")
        if depth == 0:  # the arguments' parenthesis, or a name that has none
            name = name[:place] if name[place] == "(" else name
            break
    return name.strip()[:LETTERS]


def _torch_peak(call: Callable[[], Any]) -> int:
    import torch

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def _xrnn_peak(call: Callable[[], Any]) -> int:
    import cupy

    class Peak(cupy.cuda.MemoryHook):  # type: ignore[misc]
        """Counts what CuPy's pool hands out and takes back."""

        name = "Peak"
        now = most = 0

        def malloc_postprocess(self, **given: Any) -> None:
            self.now += given["mem_size"]
            self.most = max(self.most, self.now)

        def free_postprocess(self, **given: Any) -> None:
            self.now -= given["mem_size"]

    with Peak() as peak:
        call()
    return int(peak.most)


def in_words(record: dict[str, Any]) -> str:
    """One line, such as ``lstm (512, 64, 512, 512) training fp16: xrnn 1.02 launches a step``."""
    case = Case(**record["case"])
    head = f"{case.cell:5}{case.size!s:21}{case.mode:10}{case.precision:10}"
    if "failed" in record:
        return f"{head}NOT SEEN: {record['failed']}"
    words = [
        f"{name} {record[name]['a step']:.2f} launches a step, {record[name]['peak'] / 1e6:.0f} MB"
        for name in ("xrnn", "torch")
    ]
    most = next(iter(record["torch"]["kernels"]), "no kernel seen")
    return f"{head}{'; '.join(words)} ({most}); {record['path']}"


if __name__ == "__main__":
    sys.exit(main())
