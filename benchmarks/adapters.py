"""Time PyTorch's modules computed by xrnn: ``python benchmarks/adapters.py --threads 1``.

A whole training step (forward, loss, backward, optimizer) of a recurrent module of PyTorch, and of
its copy after `xrnn.adapters.torch.accelerate`; they take turns in this one process.  Both start
from the same weights, and must have the same losses first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from statistics import median
from typing import Any

from cases import CELLS, CPU_SIZES
from run import BUSY, FULL, QUICK, set_environment, undisturbed

#: what is timed, and the options of the module
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "dropout": {"num_layers": 2, "dropout": 0.2},
    "packed": {},
}


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    set_environment(options.threads, "fp32-ieee")
    import torch
    from peers import Side

    torch.set_num_threads(options.threads)
    for cell in options.cells:
        for size in CPU_SIZES:
            if size[1] < options.min_B:
                continue
            theirs, mine = sides(cell, size, options.variant, options.mode)
            both = [Side(name, call, lambda result: {}) for name, call in (mine, theirs)]
            times, lost = undisturbed(
                both, lambda: None, QUICK if options.quick else FULL, options.threads
            )
            ms = {name: median(series) for name, series in times.items()}
            least = {name: min(series) for name, series in times.items()}
            disturbed = f"   DISTURBED: others took {lost:.2f} cores" if lost > BUSY else ""
            print(
                f"{cell:5}{size!s:20} xrnn {ms['xrnn']:8.3f} ms   torch {ms['torch']:8.3f} ms   "
                f"ratio {ms['xrnn'] / ms['torch']:.2f}, of the least times "
                f"{least['xrnn'] / least['torch']:.2f}{disturbed}",
                flush=True,
            )
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--variant", choices=VARIANTS, default="plain")
    parser.add_argument("--mode", choices=("training", "inference"), default="training")
    parser.add_argument("--min-B", type=int, default=1, help="leave smaller batches out")
    parser.add_argument("--quick", action="store_true", help="rough")
    return parser.parse_args(argv)


def sides(
    cell: str, size: tuple[int, int, int, int], variant: str, mode: str
) -> list[tuple[str, Callable[[], Any]]]:
    """A step of each side, after a comparison of their first losses.

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
    shape = (B, T, I) if module.batch_first else (T, B, I)
    xs: Any = torch.randn(shape)
    if variant == "packed":
        lengths = torch.linspace(T, max(1, T // 2), B).long()
        xs = torch.nn.utils.rnn.pack_padded_sequence(xs, lengths)
    make = step if mode == "training" else inference
    both = [("torch", make(module, xs)), ("xrnn", make(accelerate(deepcopy(module)), xs))]
    for _ in range(3):
        losses = []
        for _, call in both:
            torch.manual_seed(1)
            losses.append(call())
        if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
            raise ValueError(f"{cell} {size}: the losses are {losses[0]} and {losses[1]}")
    return both


def step(module: Any, xs: Any) -> Callable[[], float]:
    """A training step of a module, which gives the loss."""
    import torch

    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)

    def call() -> float:
        optimizer.zero_grad()
        output, _ = module(xs)
        loss = (getattr(output, "data", output) if _is_packed(xs) else output).square().mean()
        loss.backward()
        optimizer.step()
        return float(loss)

    return call


def inference(module: Any, xs: Any) -> Callable[[], float]:
    import torch

    def call() -> float:
        with torch.inference_mode():
            output, _ = module(xs)
            return float((output.data if _is_packed(xs) else output).flatten()[-1])

    return call


def _is_packed(xs: Any) -> bool:
    return hasattr(xs, "batch_sizes")


if __name__ == "__main__":
    sys.exit(main())
