"""Ratios as bars, for each size and cell; drawn by ``report.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cases import CELLS, GRIDS, MODES

Record = dict[str, Any]


def draw(backend: str, columns: Mapping[str, Sequence[Record]], path: Path) -> None:
    """One panel for each mode and setting; a bar is xrnn's time / the fastest peer's.

    Bars begin at 1, where both are equally fast: down is faster, up is slower.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    sizes = list(dict.fromkeys(case.size for case in GRIDS[backend]))
    shape = (len(columns), len(MODES))
    figure, panels = pyplot.subplots(
        *shape, figsize=(12, 2.9 * len(columns)), dpi=100, layout="constrained", squeeze=False
    )
    for row, (setting, records) in zip(panels, columns.items(), strict=True):
        for panel, mode in zip(row, MODES, strict=True):
            for n, cell in enumerate(CELLS):
                heights = [ratio(records, cell, size, mode) for size in sizes]
                places = [k + 0.27 * (n - 1) for k in range(len(sizes))]
                panel.bar(places, [r - 1 for r in heights], bottom=1, width=0.25, label=cell)
            panel.axhline(1, color="black", lw=0.8)
            panel.set_yscale("log")
            locator = ticker.LogLocator(subs=(1, 2, 5))
            panel.yaxis.set_major_locator(locator)
            low, high = panel.get_ylim()
            # Down to the next tick, so that the lowest bar ends between two.
            panel.set_ylim(max(t for t in locator.tick_values(low, high) if t <= low), high)
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_locator(ticker.NullLocator())
            panel.set_title(f"{mode}, {setting}", fontsize=10)
            panel.set_xticks(range(len(sizes)), ["{}, {}\n{}, {}".format(*s) for s in sizes])
            panel.tick_params(labelsize=8)
            panel.grid(axis="y", alpha=0.3)
        row[0].set_ylabel("ours / the fastest peer's")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    figure.suptitle("time, ours / the fastest peer's: down is faster;  T, B over I, H", x=0.4)
    figure.savefig(path)
    pyplot.close(figure)


def ratio(records: Sequence[Record], cell: str, size: tuple[int, ...], mode: str) -> float:
    """Against the fastest peer; NaN, so no bar, where nothing was measured."""
    for record in records:
        case = record["case"]
        if (case.cell, case.size, case.mode) == (cell, size, mode) and record["ratio"]:
            return float(max(record["ratio"].values()))
    return float("nan")
