"""Time PyTorch's modules computed by xrnn: ``python benchmarks/adapters.py --threads 1``.

A step of a recurrent module of PyTorch, and of its copy after `xrnn.adapters.torch.accelerate`,
take turns in this one process.  A step of training is forward, loss, backward and optimizer, and
inputs need no gradient; one of inference is forward.  Both sides begin with the same weights, and
their first losses must be the same.  With one thread the time is that of the processor, so that
other processes count little.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from statistics import median
from typing import Any

from cases import CELLS, CPU_SIZES, MODES
from run import BUSY, FULL, QUICK, Effort, set_environment
from turns import clock_of, for_a_while, take_turns

Size = tuple[int, int, int, int]
#: a step of one side, which gives the loss
Step = Callable[[], float]

#: what is timed: the options of the module
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "deep": {"num_layers": 2, "bidirectional": True},
    "dropout": {"num_layers": 2, "dropout": 0.2},
    "packed": {},
}


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    set_environment(options.threads, "fp32-ieee")
    # Only now, as the array libraries read the environment when they are loaded.
    import torch

    torch.set_num_threads(options.threads)
    for cell in options.cells:
        for size in CPU_SIZES:
            if size[1] >= options.min_B:
                print(f"{cell:5}{size!s:21}", line(cell, size, options), flush=True)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--variant", choices=VARIANTS, default="plain")
    parser.add_argument("--mode", choices=MODES, default="training")
    parser.add_argument("--min-B", type=int, default=1, help="leave smaller batches out")
    parser.add_argument("--quick", action="store_true", help="rough")
    return parser.parse_args(argv)


def line(cell: str, size: Size, options: argparse.Namespace) -> str:
    """The times of both sides, and their ratio: of the medians, and of the least ones."""
    from machine import Load

    pair, load = tuple(steps(cell, size, options.variant, options.mode)), Load()
    theirs, mine = in_turns(pair, QUICK if options.quick else FULL, options.threads)
    others = load.others()
    return (
        f"xrnn {median(mine):8.3f} ms   torch {median(theirs):8.3f} ms   "
        f"ratio {median(mine) / median(theirs):.2f}, of the least {min(mine) / min(theirs):.2f}"
        + (f"   (other processes took {others:.1f} cores)" if others > BUSY else "")
    )


def in_turns(steps: Sequence[Step], effort: Effort, threads: int) -> list[list[float]]:
    """Milliseconds a step: for each side those of its turns."""
    return take_turns(steps, effort.seconds, effort.turns, for_a_while, **clock_of(threads))


def steps(cell: str, size: Size, variant: str, mode: str) -> Iterator[Step]:
    """The step of PyTorch, and that of xrnn, after a comparison of their first losses.

    Raises
    ------
    ValueError
        If the losses differ.
    """
    import torch

    from xrnn.adapters.torch import accelerate

    T, B, I, H = size
    torch.manual_seed(0)
    module = getattr(torch.nn, cell.upper())(I, H, **VARIANTS[variant])
    xs: Any = torch.randn((B, T, I) if module.batch_first else (T, B, I))
    if variant == "packed":
        lengths = torch.linspace(T, max(1, T // 2), B).long()
        xs = torch.nn.utils.rnn.pack_padded_sequence(xs, lengths)
    make = training if mode == "training" else inference
    pair = make(module, xs), make(accelerate(deepcopy(module)), xs)
    for n in range(3):
        losses = []
        for step in pair:
            torch.manual_seed(n)
            losses.append(step())
        if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
            raise ValueError(f"{cell} {size}: the losses are {losses[0]} and {losses[1]}")
    yield from pair


def training(module: Any, xs: Any) -> Step:
    import torch

    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = values(module(xs)[0]).square().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def inference(module: Any, xs: Any) -> Step:
    import torch

    def step() -> float:
        with torch.inference_mode():
            return float(values(module(xs)[0]).flatten()[-1])

    return step


def values(output: Any) -> Any:
    """The tensor of an output, also of one that is packed."""
    return output.data if hasattr(output, "batch_sizes") else output


if __name__ == "__main__":
    sys.exit(main())
