"""The results of `benchmarks/gpu.py` as plain tables, for a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cases import MODES, PRECISIONS, Case
from report import goals, order, read, setting

Record = dict[str, Any]

HEAD = (
    f"{'':46}{'xrnn ms':>10}{'torch ms':>10}{'ratio':>7}{'floor ms':>10}{'/ floor':>8}"
    f"{'launches a step':>17}{'peak MB':>13}  what ran"
)


def summary(out: Path, name: str) -> str:
    """How the stages ended, the grid, and the goals, from the files of a run."""
    parts = [stages_table(_load(out / f"{name}-stages.json"))]
    times = out / f"{name}.jsonl"
    records = read(times) if times.exists() else []
    launches = {Case(**r["case"]): r for r in _load(out / f"{name}-launches.json")}
    for held in [r["held"] for r in launches.values() if r.get("held")][:1]:
        words = (f"{count} of {size} blocks" for size, count in held.items())
        parts.append(f"clusters that the device holds at once: {', '.join(words)}")
    if records or launches:
        parts.append(grid_table(records, launches))
    if records:
        settings = sorted({setting(r) for r in records}, key=order)
        parts.append(goals("cuda", {s: [r for r in records if setting(r) == s] for s in settings}))
    return "\n\n".join(parts)


def _load(file: Path) -> list[Record]:
    found: list[Record] = json.loads(file.read_text("utf-8")) if file.exists() else []
    return found


def stages_table(records: list[Record]) -> str:
    """One line a stage; the last words of those that failed."""
    lines = []
    for r in records:
        note = f" ({r['note']})" if r["note"] else ""
        lines.append(f"{r['stage']:26}{r['status']:8}{r['seconds']:6.0f} s{note}")
        if r["status"] == "failed":
            lines += [f"    {line}" for line in r["output"][-6:]]
    return "\n".join(lines)


def grid_table(records: list[Record], launches: dict[Case, Record]) -> str:
    """One line a case, of what was timed or seen of it."""
    timed = {r["case"]: r for r in records}

    def place(case: Case) -> tuple[int, str, int]:
        return PRECISIONS.index(case.precision), case.cell, MODES.index(case.mode)

    cases = sorted({*timed, *launches}, key=place)
    return "\n".join([HEAD, *(row(c, timed.get(c), launches.get(c)) for c in cases)])


def row(case: Case, timed: Record | None, seen: Record | None) -> str:
    """The case, its times and floor, launches a step and peak memory of xrnn / torch."""
    text = f"{case.precision:10}{case.cell:5}{case.size!s:21}{case.mode:10}"
    if timed is None:
        text += f"{'not timed':>45}"
    else:
        floor = timed.get("floor", {})
        torch = timed["ms"].get("torch", float("nan"))
        text += f"{timed['ms']['xrnn']:10.3f}{torch:10.3f}{timed['ms']['xrnn'] / torch:7.2f}"
        text += f"{floor.get('ms', float('nan')):10.4f}{floor.get('ours', float('nan')):8.1f}"
    if seen is None or "failed" in seen:
        return f"{text}  {'' if seen is None else seen['failed']}"
    ours, theirs = seen["xrnn"], seen["torch"]
    text += f"{ours['a step']:9.2f} /{theirs['a step']:6.2f}"
    text += f"{ours['peak'] / 1e6:7.0f} /{theirs['peak'] / 1e6:5.0f}"
    return f"{text}  {seen['path']}; {most_often(theirs['kernels'])}"


def most_often(kernels: dict[str, int]) -> str:
    """The kernel that tells the algorithm: a persistent one if there is one."""
    persistent = [name for name in kernels if "persist" in name.lower()]
    return (persistent or list(kernels) or ["no kernel seen"])[0][:60]
