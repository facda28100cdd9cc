"""The loop of a training run: steps, reports, and signals that stop it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xrnn.backends import host
from xrnn.charlm.config import RefusedError
from xrnn.charlm.model import learning_rate
from xrnn.charlm.progress import progress
from xrnn.charlm.run import Row, Run

REPORTS = 25

#: what asks a program to end: Ctrl-C; kill, a batch system or a container; a closed terminal
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def train(run: Run) -> int | None:
    """Train to the last step, or until a signal; return its number, or None at the last step.

    The folder is written at every report, so that little is lost in a crash; the chart at the end.
    """
    trainer, config = run.trainer, run.config
    every = max(1, config.steps // REPORTS)
    since: list[float] = []
    if trainer.step < config.steps:
        run.remove_chart()
    else:  # a file was lost
        run.save()
    window = config.batch * config.length
    # A loss that is not finite is an error here, of which no warning need tell.
    quiet = host.xp.errstate(over="ignore", invalid="ignore", divide="ignore")
    with quiet, stopping() as seen, progress(trainer.step, config.steps, window) as show:
        last, stop = time.monotonic(), None
        while trainer.step < config.steps and stop is None:
            since.append(trainer.advance())
            now = time.monotonic()
            run.seconds, last = run.seconds + now - last, now
            stop = seen[0] if seen else None  # read once a step, so that stopping always saves
            due = trainer.step % every == 0 or trainer.step == config.steps or stop is not None
            if due:
                if stop is not None:
                    run.save()  # at once: the held-out text may take longer than there is time
                report(run, sum(since) / len(since))
                last = time.monotonic()
            held_out = run.history[-1].held_out_bits if run.history else float("nan")
            show(trainer.step, since[-1], held_out, due)
            if due:
                since.clear()
        run.draw()
    return stop if trainer.step < config.steps else None


def report(run: Run, train_bits: float) -> None:
    """Evaluate the model on the held-out text, add a line to the history, and save."""
    trainer, config = run.trainer, run.config
    step, held_out = trainer.step, trainer.model.bits(trainer.corpus.held_out)
    if not math.isfinite(held_out):
        raise RefusedError(f"training diverged at step {step}; choose a smaller --lr")
    characters = step * config.batch * config.length
    lr = learning_rate(config, step - 1)
    run.history.append(Row(step, characters, train_bits, held_out, lr, run.seconds))
    run.save()


@contextmanager
def stopping() -> Iterator[list[int]]:
    """A list of the signals that ask for the end, so that the running step is completed.

    A second Ctrl-C interrupts at once.  Other signals may well come twice (a batch system sends
    one to the shell and one to the program); they do not disturb what the first one began.
    """
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    before = {}
    for number in SIGNALS:
        # What the caller has set to be ignored (nohup) stays ignored.
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, note)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
