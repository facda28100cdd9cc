"""The curves of `scaling.py`: seconds of a step against ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Record = dict[str, Any]


def draw(lines: list[Record], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    about = lines[0]
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 5), dpi=110, layout="constrained")
    shared, growing = panels
    titles = (f"one batch of {about['B']:,} sequences", "32 sequences for each rank")
    measured = undisturbed(lines)
    for panel, key, title in zip(panels, ("ms", "ms_growing"), titles, strict=True):
        curves(panel, lines, key)
        x, y = ([line[name] for line in measured] for name in ("ranks", key))
        panel.plot(x, y, "ko", ms=6, mfc="none", label="measured here" if measured else None)
        scale = "log" if panel is shared else "linear"
        panel.set(xscale="log", yscale=scale, xlabel="ranks", ylabel="ms of a step", title=title)
        ticks = sorted({line["ranks"] for line in lines if line["kind"] == "predicted"})
        panel.set_xticks(ticks, labels=map(str, ticks), minor=False)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    ideal = next(line for line in lines if line["kind"] == "predicted")["ms"]
    shared.plot(ticks, [ideal / p for p in ticks], ":", color="gray", lw=1, label="ideal")
    words = shared.get_legend_handles_labels()
    figure.legend(*words, fontsize=7, loc="outside lower center", ncols=4)
    growing.set_ylim(bottom=0)
    figure.suptitle(
        f"training of {about['layers']} LSTMs, T = {about['T']}, H = {about['H']}, predicted from "
        f"one thread of {about['device']}"
    )
    figure.savefig(path)
    pyplot.close(figure)


def undisturbed(lines: list[Record]) -> list[Record]:
    """What ranks have measured while other processes took less than a quarter of a core."""
    return [line for line in lines if line["kind"] == "measured" and line["others"] < 0.25]


def curves(panel: Any, lines: list[Record], key: str) -> None:
    """A color for each network, a style for each way of adding up."""
    colors: dict[str, str] = {}
    styles = {("ring", True): "-", ("tree", True): "--", ("ring", False): ":"}
    points: dict[tuple[str, str, bool], list[tuple[int, float]]] = {}
    for line in lines:
        if line["kind"] == "predicted":
            where = line["network"], line["way"], line["overlap"]
            points.setdefault(where, []).append((line["ranks"], line[key]))
    for (name, way, overlap), found in points.items():
        if style := styles.get((way, overlap)):
            color = colors.setdefault(name, f"C{len(colors)}")
            label = f"{name}, {way}{'' if overlap else ' after the backward pass'}"
            panel.plot(*zip(*found, strict=True), style, color=color, lw=1.3, label=label)
