"""The chart of a training run."""

from __future__ import annotations

import io
from collections.abc import Sequence


def draw(
    read: Sequence[float], training: Sequence[float], held_out: Sequence[float], title: str
) -> bytes:
    """A PNG of both losses, in bits per character over the millions of characters read."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 11}):
        figure = Figure(figsize=(7.5, 4.5), dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.plot(read, training, color="C0", label="training")
        label = f"held out, {held_out[-1]:.2f} at the end"
        axes.plot(read, held_out, color="C1", marker=".", label=label)
        axes.set_xlabel("characters read, millions")
        axes.set_ylabel("bits per character")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        return picture.getvalue()
