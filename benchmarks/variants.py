"""Layers of few sequences as they are used: ``python benchmarks/variants.py --threads 2``.

Frozen weights, both directions, sequences of unequal length, and training of small batches, beside
PyTorch (packed sequences for unequal lengths) and ONNX Runtime (inference; the model that
``xrnn.convert.to_onnx`` writes).  All sides have the same weights and inputs, are compared first
and take turns, as in ``run.py``.  One line for each case goes to
``results/variants-<machine>.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import geometric_mean, median
from tempfile import TemporaryDirectory
from typing import Any

from cases import CELLS
from run import Effort, set_environment, undisturbed
from tables import table

#: sizes (T, B, I, H)
SIZES = (
    (10, 16, 32, 64),
    (20, 8, 32, 32),
    (100, 1, 64, 128),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (100, 2, 256, 256),
    (50, 4, 512, 512),
    (100, 8, 128, 128),
)

#: what is timed: words that decide how
FORMS = (
    "inference, frozen",
    "inference, frozen, both directions",
    "inference, lengths",
    "training",
    "training, lengths",
    "training, both directions",
)

#: how far the outputs, and the gradients relative to the largest, may lie apart
TOLERANCE = 1e-4

EFFORT = Effort(seconds=0.6, turns=7, tries=3)


@dataclass(frozen=True)
class Variant:
    """One thing to time."""

    cell: str
    T: int
    B: int
    I: int
    H: int
    form: str


@dataclass(frozen=True)
class Side:
    """One contestant: `call` is what is timed, `read` gives the arrays of its results by names."""

    name: str
    call: Callable[[], Any]
    read: Callable[[Any], dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="of every side")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    options = parser.parse_args(argv)
    set_environment(options.threads, "fp32-ieee")
    # Only now, as the array libraries read the environment when they are loaded.
    import machine

    about = machine.describe("cpu", options.threads)
    out = machine.results_file("cpu")
    out = out.with_name(f"variants-{out.name}")
    failed = 0
    for cell, size, form in product(options.cells, SIZES, FORMS):
        variant = Variant(cell, *size, form)
        if "lengths" in form and variant.B == 1:
            continue
        try:
            found = measured(variant, options.threads)
        except ValueError as error:
            failed += 1
            print(variant, "NOT TIMED:", error, flush=True)
            continue
        print(*asdict(variant).values(), found["ms"], found["ratio"], flush=True)
        machine.store(out, {"case": asdict(variant), **found, **about})
    print(f"written to {out}")
    return 1 if failed else 0


def measured(variant: Variant, threads: int) -> dict[str, Any]:
    """The milliseconds of all sides, after they were compared."""
    with TemporaryDirectory() as folder:
        sides = contestants(variant, threads, Path(folder))
    mine, *others = sides
    expected = mine.read(mine.call())
    for side in others:
        found = side.read(side.call())
        if found.keys() != expected.keys():
            raise ValueError(f"{side.name} computes {', '.join(found)}")
        for name, a in expected.items():
            if not abs(a - found[name]).max() <= TOLERANCE * max(1.0, abs(a).max()):
                raise ValueError(f"{side.name} computes another {name}")
    times, lost = undisturbed(sides, lambda: None, EFFORT, threads)  # type: ignore[arg-type]
    ms = {name: median(series) for name, series in times.items()}
    return {
        "ms": {name: round(value, 5) for name, value in ms.items()},
        "ratio": {side.name: round(ms[mine.name] / ms[side.name], 4) for side in others},
        "lost": round(lost, 2),
    }


def contestants(variant: Variant, threads: int, folder: Path) -> list[Side]:
    """xrnn, and its peers."""
    import numpy as np

    import xrnn

    T, B, I, H = variant.T, variant.B, variant.I, variant.H
    D = 2 if "both directions" in variant.form else 1
    rng = np.random.default_rng(0)
    xs, dys = (rng.standard_normal((T, B, n), dtype="float32") for n in (I, D * H))
    lengths = None
    if "lengths" in variant.form:
        lengths = np.sort(rng.integers(T // 4, T + 1, B))[::-1].copy()
        lengths[0] = T
    layer = getattr(xrnn, variant.cell.upper())(I, H, bidirectional=D == 2, rng=0)
    given = layer, xs, dys, lengths
    if "training" in variant.form:
        return [ours_in_training(*given), torch_in_training(variant.cell, *given, threads)]
    sides = [
        torch_side(variant.cell, *given, threads),
        onnx_side(layer, xs, lengths, threads, folder),
    ]
    if "frozen" in variant.form:
        layer.freeze()
    return [Side("xrnn", lambda: layer(xs, lengths=lengths)[0], lambda ys: {"ys": ys}), *sides]


def ours_in_training(layer: Any, xs: Any, dys: Any, lengths: Any) -> Side:
    import xrnn

    def call() -> Any:
        ys, _, tape = layer.forward(xs, lengths=lengths)
        return ys, layer.backward(tape, dys)

    def read(found: Any) -> dict[str, Any]:
        ys, (dxs, _, dweights) = found
        return {"ys": ys, "dxs": dxs, **xrnn.convert.to_torch(layer, dweights)}

    return Side("xrnn", call, read)


def torch_module(cell: str, layer: Any, threads: int) -> Any:
    import torch

    import xrnn

    torch.set_num_threads(threads)
    how = {"bidirectional": layer.bidirectional}
    module = getattr(torch.nn, cell.upper())(layer.input_size, layer.hidden_size, **how)
    weights = xrnn.convert.to_torch(layer)
    module.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
    return module


def outputs(module: Any, xs: Any, lengths: Any) -> Any:
    """Those of PyTorch's module, by way of packed sequences if there are lengths."""
    from torch.nn.utils import rnn

    if lengths is None:
        return module(xs)[0]
    packed = module(rnn.pack_padded_sequence(xs, lengths))[0]
    return rnn.pad_packed_sequence(packed, total_length=xs.shape[0])[0]


def torch_side(cell: str, layer: Any, xs: Any, dys: Any, lengths: Any, threads: int) -> Side:
    import torch

    module, given = torch_module(cell, layer, threads), torch.from_numpy(xs)
    many = None if lengths is None else torch.from_numpy(lengths)

    def call() -> Any:
        with torch.inference_mode():
            return outputs(module, given, many)

    return Side("torch", call, lambda ys: {"ys": ys.numpy()})


def torch_in_training(cell: str, layer: Any, xs: Any, dys: Any, lengths: Any, threads: int) -> Side:
    import torch

    module = torch_module(cell, layer, threads)
    given, dgiven = torch.from_numpy(xs).requires_grad_(), torch.from_numpy(dys)
    many = None if lengths is None else torch.from_numpy(lengths)
    wanted = {"dxs": given, **dict(module.named_parameters())}

    def call() -> Any:
        ys = outputs(module, given, many)
        return ys, torch.autograd.grad(ys, list(wanted.values()), dgiven)

    def read(found: Any) -> dict[str, Any]:
        ys, gradients = found
        named = zip(wanted, gradients, strict=True)
        return {"ys": ys.detach().numpy(), **{name: d.numpy() for name, d in named}}

    return Side("torch", call, read)


def onnx_side(layer: Any, xs: Any, lengths: Any, threads: int, folder: Path) -> Side:
    import numpy as np
    import onnxruntime

    import xrnn

    file = folder / "model.onnx"
    xrnn.convert.to_onnx(layer, file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (T, B), D = xs.shape[:2], 2 if layer.bidirectional else 1
    feeds = {}
    for wanted in session.get_inputs():
        if "float" not in wanted.type:
            kind = "int32" if "int32" in wanted.type else "int64"
            feeds[wanted.name] = np.full(B, T, kind) if lengths is None else lengths.astype(kind)
        elif wanted.name == session.get_inputs()[0].name:
            feeds[wanted.name] = xs
        else:
            feeds[wanted.name] = np.zeros((D, B, layer.hidden_size), "float32")
    return Side("onnxruntime", lambda: session.run(None, feeds), lambda found: {"ys": found[0]})


# ---- What the page of results shows


def section(file: Path) -> str:
    """For each number of threads a table, from a file of results."""
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    parts = []
    for threads in sorted({record["threads"] for record in records}):
        mine = [record for record in records if record["threads"] == threads]
        last = mine[-1]
        versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
        rows = [[str(size), *(place(mine, size, form) for form in FORMS)] for size in SIZES]
        worst = max(mine, key=ratio)
        case = worst["case"]
        size = tuple(case[name] for name in "TBIH")
        parts += [
            f"**{last['device']}**, {threads} thread{'s' * (threads > 1)}; {versions}; commit "
            f"{all_of(mine, 'commit')}, {all_of(mine, 'date')}. Geometric mean "
            f"{geometric_mean(map(ratio, mine)):.2f}; worst {ratio(worst):.2f}: {case['cell']} "
            f"{size}, {case['form']}. Faster than every peer in "
            f"{sum(ratio(record) < 1 for record in mine)} of {len(mine)}.",
            table(["(T, B, I, H)", *FORMS], rows),
        ]
    return "\n\n".join(parts)


def all_of(records: list[dict[str, Any]], name: str) -> str:
    """The different values of an entry."""
    return " and ".join(sorted({record[name] for record in records}))


def ratio(record: dict[str, Any]) -> float:
    """xrnn's time / that of the fastest peer."""
    return float(max(record["ratio"].values()))


def place(records: list[dict[str, Any]], size: tuple[int, ...], form: str) -> str:
    """The ratios of the cells at a size; nothing where there is none."""
    found = {
        record["case"]["cell"]: f"{ratio(record):.2f}"
        for record in records
        if record["case"]["form"] == form and tuple(record["case"][k] for k in "TBIH") == size
    }
    return " / ".join(found[cell] for cell in CELLS if cell in found)


if __name__ == "__main__":
    sys.exit(main())
