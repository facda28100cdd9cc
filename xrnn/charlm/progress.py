"""How far a training run is: a bar on a terminal, a line per report anywhere else.

What is shown here is lost without harm, so that a closed terminal or a full disk under the log
ends no training.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: show(step, training bits, held-out bits, whether the step ends with a report)
Show = Callable[[int, float, float, bool], None]


@contextmanager
def progress(done: int, steps: int, window: int) -> Iterator[Show]:
    """Show bits per character, characters per second and the time left on standard error.

    `done` of the steps were made before; each reads `window` characters.
    """
    start = time.monotonic()

    def rate(step: int) -> float:
        """Steps per second, at least one a day."""
        return max((step - done) / max(time.monotonic() - start, 1e-9), 1 / 86400)

    def words(step: int, bits: float, held_out: float) -> str:
        ahead = f", held out {held_out:.3f}" if held_out == held_out else ""
        return f"{bits:.3f} bits/char{ahead}, {rate(step) * window / 1000:.0f}k chars/s"

    if sys.stderr.isatty():
        with _bar(done, steps) as bar:

            def show(step: int, bits: float, held_out: float, report: bool) -> None:
                with suppress(OSError):
                    bar.set_postfix_str(words(step, bits, held_out), refresh=False)
                    bar.update(step - bar.n)

            yield show
    else:

        def show(step: int, bits: float, held_out: float, report: bool) -> None:
            # The first step tells that it has begun, and how long it will take.
            if report or step == done + 1:
                left = f"{(steps - step) / rate(step):.0f} s left"
                line = f"step {step} of {steps}: {words(step, bits, held_out)}, {left}"
                with suppress(OSError):
                    print(line, file=sys.stderr, flush=True)

        yield show


@contextmanager
def _bar(done: int, steps: int) -> Iterator[Any]:
    from tqdm import tqdm

    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
    bar = tqdm(total=steps, initial=done, bar_format=form, dynamic_ncols=True)
    try:
        yield bar
    finally:
        with suppress(OSError):
            bar.close()
