"""The pictures of the benchmarks: what their axes and legends say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not beside us")
sys.path.append(str(BENCHMARKS))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn from here on."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found: list[Any] = []
    monkeypatch.setattr(pyplot, "close", found.append)
    return found


def test_a_tick_stands_below_the_lowest_bar(figures: list[Any], tmp_path: Path) -> None:
    bars, cases = importlib.import_module("bars"), importlib.import_module("cases")
    cpu = [case for case in cases.GRIDS["cpu"] if case.cell == "lstm"]
    records = [{"case": case, "ratio": {"torch": 0.3 if case.B == 1 else 1.1}} for case in cpu]
    bars.draw("cpu", {"1 thread": records}, tmp_path / "bars.png")
    (figure,) = figures
    for panel in figure.axes:
        low, high = panel.get_ylim()
        shown = [t for t in panel.get_yticks() if low * 0.999 <= t <= high]
        assert shown[0] == pytest.approx(0.2)
        assert [round(t, 3) for t in shown[1:]] == [0.5, 1.0]


def test_the_legend_says_how_times_grow(figures: list[Any], tmp_path: Path) -> None:
    scale = importlib.import_module("scale")
    curves: dict[str, Any] = {}
    for axis, points in scale.AXES.items():
        k = {"T": 0, "B": 1, "H": 3}[axis]
        times = [{"xrnn": 3e-4 * one[k] ** 1.5, "torch": 2.0 * one[k]} for one in points]
        curves[axis] = [{"sizes": one, **ms} for one, ms in zip(points, times, strict=True)]
    scale.draw(curves, "a device", tmp_path / "scale.png")
    (figure,) = figures
    for panel, axis in zip(figure.axes, curves, strict=True):
        said = [text.get_text() for text in panel.get_legend().get_texts()]
        assert said == [f"xrnn, grows as {axis}^1.50", f"torch, grows as {axis}^1.00"]
